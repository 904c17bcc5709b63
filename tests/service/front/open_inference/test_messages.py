"""The Open Inference Protocol: what clients send is read to the byte, and what cannot be is refused in words."""

import json
import struct
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.front.open_inference.messages import InferRequest, read_request
from service.front.open_inference.tensors import MAX_IMAGES, InvalidInference

SIDE = 4
Case = dict[str, Any]
CASES: list[Case] = json.loads((Path(__file__).parent / "cases/open_inference.json").read_text())
GRADIENT = np.arange(48, dtype=np.uint8).reshape(1, SIDE, SIDE, 3)


def message(
    inputs: list[dict[str, Any]], raw: bytes = b"", **fields: object
) -> tuple[bytes, dict[bytes, bytes]]:
    """Return body and headers."""
    text = json.dumps({"inputs": inputs, **fields}).encode()
    headers = {b"inference-header-content-length": str(len(text)).encode()} if raw else {}
    return text + raw, headers


def tensor(name: str, datatype: str, shape: object, **fields: object) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **fields}


def binary(name: str, datatype: str, shape: object, size: object) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size})


def framed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def read(body: bytes, headers: Mapping[bytes, bytes]) -> InferRequest:
    return read_request(body, headers, SIDE)


def sent(case: Case) -> tuple[bytes, dict[bytes, bytes]]:
    """Return body and headers of what a client sent."""
    body = case["text"].encode() if "text" in case else b64decode(case["base64"])
    return body, {name.encode(): value.encode() for name, value in case["headers"].items()}


def refusal_of(body: bytes, headers: Mapping[bytes, bytes], query: bytes = b"") -> str:
    with pytest.raises(InvalidInference) as caught:
        read_request(body, headers, SIDE, query)
    return caught.value.detail


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["client"])
def test_what_real_clients_sent_is_read(case: Case) -> None:
    request = read(*sent(case))

    for image in request.images:
        if isinstance(image, bytes):
            assert image.startswith(b"\x89PNG")
        elif "made up" not in case["client"]:
            assert np.array_equal(image, GRADIENT[0])


def test_a_deadline_is_read_wherever_clients_put_it() -> None:
    (case,) = (case for case in CASES if case["client"] == "tritonclient[http] 2.73.0: UINT8")

    request = read(*sent(case))

    assert request.id == "7"
    assert request.choices == (("on_miss", "refuse"), ("deadline_ms", "25"))


@pytest.mark.parametrize(
    ("parameters", "headers", "deadline_ms"),
    [
        ({"deadline_ms": 25}, {}, "25"),
        ({"deadline_ms": "2.5"}, {}, "2.5"),
        ({"timeout": 1500}, {}, "1.5"),
        ({"timeout": 0, "deadline_ms": 7}, {}, "7"),
        ({"deadline_ms": 25, "timeout": 10_000}, {}, "10"),
        ({}, {b"x-deadline-ms": b"12.5"}, "12.5"),
        ({}, {b"grpc-timeout": b"25m"}, "25"),
        ({}, {b"grpc-timeout": b"2S"}, "2000"),
        ({}, {b"grpc-timeout": b"1H"}, "3600000"),
        ({}, {b"grpc-timeout": b"500000n"}, "0.5"),
        ({}, {b"grpc-timeout": b"99H"}, "86400000"),
        ({"deadline_ms": 50}, {b"x-deadline-ms": b"20", b"grpc-timeout": b"30m"}, "20"),
        ({"deadline_ms": 50, "query": "deadline_ms=30"}, {}, "30"),
        ({"query": "timeout=7000&deadline_ms=30&priority=1"}, {}, "7"),
    ],
)
def test_of_several_deadlines_the_earliest_counts(
    parameters: dict[str, Any], headers: dict[bytes, bytes], deadline_ms: str
) -> None:
    query = parameters.pop("query", "").encode()
    body, _ = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], parameters=parameters
    )

    request = read_request(body, headers, SIDE, query)

    assert dict(request.choices) == {"deadline_ms": deadline_ms}


@pytest.mark.parametrize(
    ("parameters", "headers", "names"),
    [
        ({"deadlin_ms": 25}, {}, "deadlin_ms"),
        ({"deadline_ms": True}, {}, "deadline_ms"),
        ({"deadline_ms": [25]}, {}, "deadline_ms"),
        ({"deadline_ms": "soon"}, {}, "soon"),
        ({"timeout": "soon"}, {}, "timeout"),
        ({"timeout": -1}, {}, "is -1; it must be microseconds"),
        ({"on_miss": "refuse", "query": "on_miss=answer"}, {}, "'on_miss' is given twice"),
        ({"query": "top_k=2"}, {}, "top_k"),
        ({"subnetwork": "x" * 10**6}, {}, "too long"),
        ({"binary_data_output": "true"}, {}, "binary_data_output"),
        ({}, {b"x-deadline-ms": b"soon"}, "X-Deadline-Ms"),
        ({}, {b"grpc-timeout": b"25"}, "grpc-timeout"),
        ({}, {b"grpc-timeout": b"123456789m"}, "grpc-timeout"),
    ],
)
def test_a_parameter_that_cannot_be_is_named(
    parameters: dict[str, Any], headers: dict[bytes, bytes], names: str
) -> None:
    query = parameters.pop("query", "").encode()
    body, _ = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], parameters=parameters
    )

    assert names in refusal_of(body, headers, query)


@st.composite
def batches(draw: st.DrawFn) -> NDArray[np.uint8]:
    count = draw(st.integers(1, 3))
    content = draw(st.binary(min_size=48 * count, max_size=48 * count))
    return np.frombuffer(content, np.uint8).reshape(count, SIDE, SIDE, 3)


@given(
    batch=batches(),
    is_float=st.booleans(),
    is_first=st.booleans(),
    how=st.sampled_from(["flat", "nested", "binary"]),
)
def test_pixels_are_the_same_in_every_way_to_send_them(
    batch: NDArray[np.uint8], is_float: bool, is_first: bool, how: str
) -> None:
    sent: NDArray[Any] = (batch / 255).astype(np.float32) if is_float else batch
    sent = sent.transpose(0, 3, 1, 2) if is_first else sent
    datatype, shape = ("FP32" if is_float else "UINT8"), list(sent.shape)
    raw = sent.tobytes() if how == "binary" else b""
    if how == "binary":
        body, headers = message([binary("images", datatype, shape, len(raw))], raw)
    else:
        data = sent.ravel().tolist() if how == "flat" else sent.tolist()
        body, headers = message([tensor("images", datatype, shape, data=data)])

    images = read(body, headers).images

    assert len(images) == len(batch)
    for image, expected in zip(images, batch, strict=True):
        assert isinstance(image, np.ndarray)
        assert image.flags.c_contiguous
        assert np.array_equal(image, expected)


@given(files=st.lists(st.binary(max_size=40), min_size=1, max_size=4), is_column=st.booleans())
def test_files_are_the_same_in_their_frames(files: list[bytes], is_column: bool) -> None:
    raw = framed(*files)
    shape = [len(files), 1] if is_column else [len(files)]

    body, headers = message([binary("image", "BYTES", shape, len(raw))], raw)

    assert read(body, headers).images == tuple(files)


def test_a_body_without_json_is_a_file() -> None:
    request = read(b"\x89PNG", {b"inference-header-content-length": b"0"})

    assert request.images == (b"\x89PNG",)
    assert [each.name for each in request.outputs] == ["probabilities", "label", "class_id"]


RAW = GRADIENT.tobytes()
WHOLE, SIZES = message([binary("images", "UINT8", [1, 4, 4, 3], 48)], RAW)


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"", {}, "the JSON"),
        (b"[]", {}, "the JSON"),
        (b"{", {}, "the JSON"),
        (b"[" * 100_000, {}, "the JSON"),
        (b"[" + b"0," * 100_000 + b"0]", {}, "100000 values"),
        (WHOLE, {}, "the JSON"),
        (WHOLE[:-1], SIZES, "48; 47 bytes are left"),
        (WHOLE + b"\0", SIZES, "1 bytes are left"),
        (WHOLE, {b"inference-header-content-length": b"99999"}, "99999"),
        (WHOLE, {b"inference-header-content-length": b"-1"}, "-1"),
        (WHOLE, {b"inference-header-content-length": b"1e2"}, "1e2"),
        (WHOLE, {b"inference-header-content-length": b"9" * 30}, "must be a number of bytes"),
        (WHOLE, {b"inference-header-content-length": b"\xb2"}, "must be a number of bytes"),
        (*message([binary("images", "UINT8", [1, 4, 4, 3], 47)], RAW[:47]), "its shape"),
        (*message([binary("images", "UINT8", [1, 4, 4, 3], -1)], RAW), "-1"),
        (*message([binary("images", "UINT8", [1, 4, 4, 3], "48")], RAW), "'48'"),
        (*message([binary("images", "UINT8", [1, 4, 4, 3], True)], RAW), "True"),
        (*message([binary("images", "FP32", [1, 4, 4, 3], 48)], RAW), "say 192"),
        (*message([binary("images", "UINT8", [2**40, 4, 4, 3], 48)], RAW), "1 to 64"),
        (*message([binary("images", "UINT8", [0, 4, 4, 3], 0)]), "1 to 64"),
        (*message([binary("images", "UINT8", [-1, 4, 4, 3], 48)], RAW), "1 to 64"),
        (*message([binary("images", "UINT8", [1, 32, 32, 3], 48)], RAW), "[N, 4, 4, 3]"),
        (*message([binary("images", "UINT8", [], 48)], RAW), "[N, 4, 4, 3]"),
        (*message([binary("images", "UINT8", [1] * 100_000, 48)], RAW), "values"),
        (*message([binary("images", "INT64", [1, 4, 4, 3], 48)], RAW), "INT64"),
        (*message([binary("image", "BYTES", [MAX_IMAGES + 1], 48)], RAW), "1 to 64"),
        (*message([binary("image", "BYTES", [10**18, 10**18], 48)], RAW), "1 to 64"),
        (*message([binary("image", "BYTES", [-1, -1], 48)], RAW), "1 to 64"),
        (*message([binary("image", "UINT8", [1], 48)], RAW), "BYTES"),
        (*message([binary("image", "BYTES", [1], 3)], b"\0\0\0"), "before element 0"),
        (*message([binary("image", "BYTES", [1], 5)], b"\2\0\0\0a"), "2 bytes by its length; 1"),
        (*message([binary("image", "BYTES", [1], 8)], b"\xff" * 8), "4294967295"),
        (*message([binary("image", "BYTES", [1], 10)], framed(b"a", b"b")), "5 bytes left"),
        (*message([tensor("image", "BYTES", [1], data=["no-base64"])]), "base64"),
        (*message([tensor("image", "BYTES", [1], data=["ü"])]), "base64"),
        (*message([tensor("image", "BYTES", [1], data=[7])]), "base64"),
        (*message([tensor("image", "BYTES", [2], data=["YQ=="])]), "1 elements"),
        (*message([tensor("image", "BYTES", [1])]), "base64"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3])]), "whole numbers"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 47)]), "47 elements"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[[0] * 48])]), "not nested as"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[[[[0] * 3] * 4] * 3])]), "not nested as"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[[[[0] * 3] * 4] * 4] * 2)]), "96 elements"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[[0], [0, 1]])]), "not nested as"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[0.5] * 48)]), "whole numbers"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[True] * 48)]), "whole numbers"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=["0"] * 48)]), "whole numbers"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[256] * 48)]), "from 0 to 255"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[2**70] * 48)]), "from 0 to 255"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[10**400] * 48)]), "too large"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=[True] + [1] * 47)]), "whole numbers"),
        (*message([tensor("images", "FP32", [1, 4, 4, 3], data=[True] + [0.5] * 47)]), "numbers"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], data=["x" * 10**6] + ["y"] * 6000)]), "whole numbers"),
        (*message([tensor("image", "BYTES", [2**40] * 10**5, parameters={"binary_data_size": 1})], b"x"), "values"),
        (*message([tensor("image", "BYTES", [2**40] * 4000, parameters={"binary_data_size": 1})], b"x"), "1 to 64"),
        (*message([tensor("n" * 10**6, "UINT8", [1], data=[0])]), "'nnn"),
        (*message([tensor("image", "d" * 10**6, [1], data=[0])]), "'ddd"),
        (*message([tensor("image", "BYTES", [1], data=["YQ=="])] * 1000), "at most 8"),
        (*message([tensor("images", "FP32", [1, 4, 4, 3], data=[1e300] * 48)]), "from 0 to 1"),
        (*message([tensor("images", "FP32", [1, 4, 4, 3], data=[float("nan")] * 48)]), "nan"),
        (*message([tensor("images", "FP32", [1, 4, 4, 3], data=[-0.01] * 48)]), "-0.01"),
        (*message([]), "the inputs are none"),
        (*message([tensor("pixels", "UINT8", [1], data=[0])]), "'pixels'"),
        (*message([tensor("image", "BYTES", [1], data=["YQ=="])] * 2), "send one"),
        (*message([binary("images", "UINT8", [1, 4, 4, 3], 48) | {"data": [0]}], RAW), "and as"),
        (*message([tensor("images", "UINT8", [1, 4, 4, "3"], data=[0])]), "inputs.0.shape.3"),
        (*message([{"name": "images"}]), "inputs.0.shape"),
        (*message([tensor("images", "UINT8", [1, 4, 4, 3], dat=[0])]), "inputs.0.dat"),
        (
            *message([tensor("images", "UINT8", [1], parameters={"shared_memory_region": "a"})]),
            "shared memory",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_words(
    body: bytes, headers: Mapping[bytes, bytes], says: str
) -> None:
    detail = refusal_of(body, headers)

    assert says in detail
    assert len(detail) < 500  # whatever is repeated of what came


@given(data=st.data())
def test_no_bytes_are_a_surprise(data: st.DataObject) -> None:
    """Whatever is cut, changed or lied about: a request, or one refusal."""
    text = json.dumps(
        {
            "inputs": [
                tensor(
                    data.draw(st.sampled_from(["image", "images"])),
                    data.draw(st.sampled_from(["UINT8", "FP32", "BYTES", ""])),
                    data.draw(st.lists(st.integers(-2, 5) | st.integers(), max_size=4)),
                    parameters={"binary_data_size": data.draw(st.integers(-1, 60))},
                )
            ],
            "outputs": [{"name": data.draw(st.sampled_from(["label", "probabilities", "x"]))}],
        }
    ).encode()
    raw = data.draw(
        st.binary(max_size=60) | st.lists(st.binary(max_size=9)).map(lambda x: framed(*x))
    )
    body = bytearray(text + raw)
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=2)):
        body[at] = data.draw(st.integers(0, 255))
    size = data.draw(st.just(len(text)) | st.integers(0, 2 * len(body)))

    detail = ""
    images: tuple[Any, ...] = (b"",)
    try:
        images = read(bytes(body), {b"inference-header-content-length": str(size).encode()}).images
    except InvalidInference as error:
        detail = error.detail

    assert "\n" not in detail
    assert len(detail) < 500
    assert 1 <= len(images) <= MAX_IMAGES
