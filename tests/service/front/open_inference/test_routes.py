"""The Open Inference Protocol over HTTP, on the real server."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.bundle import Bundle
from service.client.images import to_bytes
from tests.server import ServerProcess
from tests.service.front.open_inference.test_messages import binary, framed, message, tensor

SURE = {"deadline_ms": 60_000, "subnetwork": "wide-full"}


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """Three images."""
    return np.random.default_rng(7).integers(0, 256, (3, 32, 32, 3), np.uint8)


def infer(
    server: ServerProcess, body: bytes, headers: dict[bytes, bytes], path: str = "cifar10/infer"
) -> httpx.Response:
    return server.client.post(f"/v2/models/{path}", content=body, headers=list(headers.items()))


def send(server: ServerProcess, pixels: NDArray[np.uint8], **fields: Any) -> httpx.Response:
    """Send pixels as binary data."""
    raw = pixels.tobytes()
    inputs = [binary("images", "UINT8", list(pixels.shape), len(raw))]
    return infer(server, *message(inputs, raw, **{"parameters": SURE, **fields}))


def outputs_of(reply: httpx.Response) -> dict[str, Any]:
    return {each["name"]: each["data"] for each in reply.json()["outputs"]}


def test_long_messages_are_answered_as_others_are(server: ServerProcess) -> None:
    many = np.random.default_rng(8).integers(0, 256, (8, 32, 32, 3), np.uint8)
    inputs = [tensor("images", "UINT8", many.shape, data=many.tolist())]
    body, headers = message(inputs, parameters=SURE)

    with ThreadPoolExecutor(3) as clients:
        replies = [
            clients.submit(infer, server, body[:-cut] if cut else body, headers)
            for cut in (0, 0, 2)
        ]
    whole, again, cut_off = (reply.result() for reply in replies)

    assert outputs_of(whole) == outputs_of(again) == outputs_of(send(server, many))
    assert cut_off.status_code == 400
    elsewhere = infer(server, body, headers, "other/infer")
    assert (elsewhere.status_code, list(elsewhere.json())) == (404, ["error"])


def test_the_calls_of_a_load_tool_are_answered_in_its_order(
    server: ServerProcess, bundle: Bundle, pixels: NDArray[np.uint8]
) -> None:
    """What perf_analyzer 2.60.0 was seen to ask for, first to last."""
    metadata, config, about = (
        server.client.get(f"/v2{path}").json()
        for path in ("/models/cifar10", "/models/cifar10/config", "")
    )
    # It sends each input that is listed, made up, and strips the first dimension: there must be one.
    raw = framed(b"made up") + pixels[:1].tobytes()
    inputs = [
        binary("image", "BYTES", [1, 1], 4 + len(b"made up")),
        binary("images", "UINT8", [1, *config["input"][0]["dims"]], 3072),
    ]
    outputs = [
        {"name": each["name"], "parameters": {"binary_data": True}} for each in metadata["outputs"]
    ]
    body, headers = message(inputs, raw, id="", outputs=outputs)
    reply = infer(server, body, headers | {b"X-Deadline-Ms": b"60000"})

    assert metadata["versions"] == [bundle.digest]
    assert [len(each["shape"]) > 1 for each in metadata["inputs"]] == [True, True]
    assert config["max_batch_size"] > 0
    assert "binary_tensor_data" in about["extensions"]
    assert reply.status_code == 200


def test_pixels_are_answered_as_a_file_of_them(
    server: ServerProcess, bundle: Bundle, pixels: NDArray[np.uint8]
) -> None:
    files = [to_bytes(Image.fromarray(each)) for each in pixels]
    alone = [server.classify(each, **SURE).json() for each in files]

    reply = send(server, pixels, id="mine")

    document, outputs = reply.json(), outputs_of(reply)
    assert document["id"] == "mine"
    assert (document["model_name"], document["model_version"]) == ("cifar10", bundle.digest)
    assert outputs["label"] == [each["label"] for each in alone]
    assert outputs["class_id"] == [each["class_id"] for each in alone]
    confidences = np.reshape(outputs["probabilities"], (3, -1)).max(axis=1)
    assert confidences == pytest.approx([each["confidence"] for each in alone], abs=1e-5)
    parameters = document["parameters"]
    assert parameters.pop("latency_ms") > 0
    assert parameters == {
        "subnetwork": "wide-full",
        "expected_accuracy": alone[0]["expected_accuracy"],
        "deadline_ms": 60_000.0,
        "in_time": True,
    }


def test_files_and_pixels_are_answered_alike(
    server: ServerProcess, pixels: NDArray[np.uint8]
) -> None:
    raw = framed(*(to_bytes(Image.fromarray(each)) for each in pixels))
    body, headers = message([binary("image", "BYTES", [3], len(raw))], raw, parameters=SURE)

    assert outputs_of(infer(server, body, headers)) == outputs_of(send(server, pixels))


def test_each_image_counts_as_a_request(server: ServerProcess, pixels: NDArray[np.uint8]) -> None:
    before = server.requests_by_outcome()

    send(server, pixels)

    assert server.requests_by_outcome()["in_time"] == before.get("in_time", 0) + 3


def test_an_answer_comes_as_bytes_if_it_is_asked_for_so(
    server: ServerProcess, pixels: NDArray[np.uint8]
) -> None:
    plain = outputs_of(send(server, pixels))

    reply = send(server, pixels, parameters={**SURE, "binary_data_output": True})

    size = int(reply.headers["Inference-Header-Content-Length"])
    document, rest = json.loads(reply.content[:size]), reply.content[size:]
    sizes = [each["parameters"]["binary_data_size"] for each in document["outputs"]]
    assert sum(sizes) == len(rest)
    assert np.frombuffer(rest[: sizes[0]], "<f4").tolist() == plain["probabilities"]
    assert np.frombuffer(rest[-sizes[2] :], "<i8").tolist() == plain["class_id"]


def test_a_deadline_may_be_in_a_header(server: ServerProcess, pixels: NDArray[np.uint8]) -> None:
    body, headers = message(
        [tensor("images", "UINT8", [1, 32, 32, 3], data=pixels[0].ravel().tolist())],
        parameters={"on_miss": "refuse"},
    )

    generous = infer(server, body, headers | {b"grpc-timeout": b"60S"})
    impossible = infer(server, body, headers | {b"X-Deadline-Ms": b"0.01"})

    assert generous.json()["parameters"]["deadline_ms"] == 60_000
    assert impossible.status_code == 422
    assert "0.01 ms" in impossible.json()["error"]


def test_one_image_without_an_answer_is_the_reply(
    server: ServerProcess, pixels: NDArray[np.uint8]
) -> None:
    raw = framed(to_bytes(Image.fromarray(pixels[0])), b"no image")

    reply = infer(server, *message([binary("image", "BYTES", [2], len(raw))], raw))

    assert reply.status_code == 415
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json() == {"error": reply.json()["error"]}
    assert "8 bytes" in reply.json()["error"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("other/infer", "there is 'cifar10'"),
        ("cifar10/versions/1/infer", "there is no version '1'"),
    ],
)
def test_another_model_is_not_there(
    server: ServerProcess, pixels: NDArray[np.uint8], path: str, says: str
) -> None:
    body, headers = message([tensor("images", "UINT8", [1, 32, 32, 3], data=[0] * 3072)])

    reply = infer(server, body, headers, path)

    assert reply.status_code == 404
    assert says in reply.json()["error"]


def test_the_digest_is_the_version(
    server: ServerProcess, bundle: Bundle, pixels: NDArray[np.uint8]
) -> None:
    path = f"cifar10/versions/{bundle.digest}"
    body, headers = message([tensor("images", "UINT8", [1, 32, 32, 3], data=[0] * 3072)])

    assert infer(server, body, headers, f"{path}/infer").status_code == 200
    for part in ("", "/ready", "/config", "/stats"):
        assert server.client.get(f"/v2/models/{path}{part}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/cifar10/versions/1/ready", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/cifar10/infer", 405),
        ("POST", "/v2/models/cifar10/infer", 400),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/repository/models/cifar10/load", 404),  # no key is set
    ],
)
def test_errors_have_the_form_of_the_protocol(
    server: ServerProcess, method: str, path: str, status: int
) -> None:
    reply = server.client.request(method, path)

    assert reply.status_code == status
    assert list(reply.json()) == ["error"]
    assert reply.headers["Content-Type"] == "application/json"


def test_a_packed_body_is_refused(server: ServerProcess) -> None:
    reply = infer(server, b"packed", {b"Content-Encoding": b"gzip"})

    assert reply.status_code == 415
    assert "gzip" in reply.json()["error"]


def test_the_index_lists_the_bundle(server: ServerProcess, bundle: Bundle) -> None:
    (listed,) = server.client.post("/v2/repository/index").json()

    assert listed == {"name": "cifar10", "version": bundle.digest, "state": "READY", "reason": ""}
    assert server.client.post("/v2/repository/index", json={"ready": True}).json() == [listed]
    assert server.client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}
    ready = server.client.get("/v2/models/cifar10/ready").json()
    assert ready == {"name": "cifar10", "ready": True}


def test_statistics_count_the_answers(server: ServerProcess, pixels: NDArray[np.uint8]) -> None:
    def stats() -> Any:
        (model,) = server.client.get("/v2/models/stats").json()["model_stats"]
        return model

    before = stats()
    send(server, pixels)
    after = stats()

    times = after["inference_stats"]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] > before["execution_count"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(times[part]["ns"] for part in parts) == pytest.approx(
        times["success"]["ns"], rel=0.01
    )


def test_a_bundle_is_loaded_with_the_key(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server(admin_key="key", warm_up_s=0.01, max_batch=1)
    server.wait_for("ready")

    def load(key: str, do: str = "load", sent: object = None) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        path = f"/v2/repository/models/cifar10/{do}"
        return server.client.post(path, headers=headers, json=sent).status_code

    assert (load("other"), load("key")) == (401, 200)
    assert server.wait_for("reload")["outcome"] == "unchanged"
    unload = {"parameters": {"unload_dependents": False}}  # as tritonclient sends it
    assert load("key", "unload", unload) == 200
    assert load("key", "load", {"parameters": {"config": "{}"}}) == 400  # would be ignored
    assert load("key", "load", {"parameters": {"file:1/model.onnx": "AAAA"}}) == 400
