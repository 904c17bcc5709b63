"""The Open Inference Protocol over gRPC, on the real server."""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.front import open_inference
from service.front.access.keys import KeyEntry, write_entry
from service.front.open_inference.grpc_messages import SERVICE, message_class, methods
from tests.server import ServerProcess, started
from tests.service.conftest import free_port

# Of HTTP/2: the begin of a connection, a ping, and the reply to one.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
ACKNOWLEDGED = bytes([0, 0, 8, 6, 1])
HERE = Path(open_inference.__file__).parent
PIXELS = np.random.default_rng(7).integers(0, 256, (1, 32, 32, 3), np.uint8)


class Stub:
    """The service, as generated code would offer it."""

    def __init__(self, channel: grpc.Channel) -> None:
        for method in methods():
            make = channel.stream_stream if method.client_streaming else channel.unary_unary
            call = make(
                f"/{SERVICE}/{method.name}",
                request_serializer=message_class(method.input_type.name).SerializeToString,
                response_deserializer=message_class(method.output_type.name).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any: ...


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[Stub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.settings['grpc_port']}") as channel:
        yield Stub(channel)


def message(name: str, /, **fields: Any) -> Any:
    return message_class(name)(**fields)


def request(**parameters: object) -> Any:
    """Return a request for one image's class."""
    made = message("ModelInferRequest", model_name="cifar10", id="mine")
    made.inputs.add(name="images", datatype="UINT8", shape=PIXELS.shape)
    made.raw_input_contents.append(PIXELS.tobytes())
    for name, value in parameters.items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(made.parameters[name], kind, value)
    return made


def parameters_of(reply: Any) -> dict[str, Any]:
    return {
        name: getattr(each, each.WhichOneof("parameter_choice"))
        for name, each in reply.parameters.items()
    }


def refused(call: Any, sent: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(sent, **options)
    error: Any = caught.value
    return error.code(), error.details()


def test_the_compiled_protocol_is_that_of_its_source(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    command = ["-m", "grpc_tools.protoc", f"-I{HERE}", f"--descriptor_set_out={compiled}"]

    subprocess.run([sys.executable, *command, "open_inference.proto"], check=True)

    assert compiled.read_bytes() == (HERE / "open_inference.binpb").read_bytes()


def test_an_image_is_answered_as_over_http(stub: Stub, server: ServerProcess) -> None:
    path = "/v2/models/cifar10/infer"
    tensor = {"name": "images", "datatype": "UINT8", "shape": PIXELS.shape}
    inputs = [{**tensor, "data": PIXELS.ravel().tolist()}]
    sure = {"subnetwork": "wide-full", "deadline_ms": 60_000}
    over_http = server.client.post(path, json={"inputs": inputs, "parameters": sure}).json()

    reply = stub.ModelInfer(request(**sure))

    names = [each.name for each in reply.outputs]
    assert (reply.id, names) == ("mine", ["probabilities", "label", "class_id"])
    probabilities = np.frombuffer(reply.raw_output_contents[0], "<f4")
    assert probabilities.tolist() == pytest.approx(over_http["outputs"][0]["data"], abs=1e-6)
    assert reply.raw_output_contents[1][4:].decode() == over_http["outputs"][1]["data"][0]
    assert parameters_of(reply).keys() == over_http["parameters"].keys()


def test_contents_may_be_in_fields_of_their_type(stub: Stub) -> None:
    sent = request(subnetwork="wide-full", deadline_ms=60_000)
    raw = stub.ModelInfer(sent)
    del sent.raw_input_contents[:]
    sent.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())

    assert stub.ModelInfer(sent).raw_output_contents == raw.raw_output_contents


def test_the_deadline_of_a_call_is_that_of_the_request(stub: Stub) -> None:
    by_call = stub.ModelInfer(request(), timeout=50)
    by_parameter = stub.ModelInfer(request(deadline_ms=40_000), timeout=50)
    of_a_week = stub.ModelInfer(request(), timeout=7 * 86_400)

    assert 40_000 < parameters_of(by_call)["deadline_ms"] < 51_000  # gRPC rounds up by 1 %
    assert parameters_of(by_parameter)["deadline_ms"] == 40_000
    assert parameters_of(of_a_week)["deadline_ms"] == 86_400_000  # the longest there is


def test_what_cannot_be_in_time_is_refused_with_the_code_of_a_deadline(stub: Stub) -> None:
    code, details = refused(stub.ModelInfer, request(deadline_ms=0.01, on_miss="refuse"))

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.01 ms" in details


def test_what_is_wrong_is_told_with_a_code(stub: Stub) -> None:
    short = request()
    short.raw_input_contents[0] = b"short"
    too_many = request()
    too_many.raw_input_contents.append(b"")
    elsewhere = request()
    elsewhere.model_name = "other"
    infer, argument = stub.ModelInfer, grpc.StatusCode.INVALID_ARGUMENT

    assert refused(infer, short)[0] is argument
    assert refused(infer, too_many)[0] is argument
    assert refused(infer, request(deadlin_ms=1))[0] is argument
    assert refused(infer, elsewhere)[0] is grpc.StatusCode.NOT_FOUND
    load = message("RepositoryModelLoadRequest", model_name="cifar10")
    assert refused(stub.RepositoryModelLoad, load)[0] is grpc.StatusCode.NOT_FOUND  # no key is set


def test_bytes_that_are_no_message_are_refused_in_words(server: ServerProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.settings['grpc_port']}") as channel:
        for method in methods():
            path = f"/{SERVICE}/{method.name}"
            if (
                not method.client_streaming and "Load" not in path and "Unload" not in path
            ):  # no key
                code, details = refused(channel.unary_unary(path), b"\xff\xff no message")
                assert code is grpc.StatusCode.INVALID_ARGUMENT, method.name
                assert method.input_type.name in details
        sent = request(subnetwork="narrow-column-1").SerializeToString()
        replies = list(
            channel.stream_stream(
                f"/{SERVICE}/ModelStreamInfer",
                response_deserializer=message_class("ModelStreamInferResponse").FromString,
            )(iter([b"\xff\xff no message", sent]))
        )
    assert [each.error_message for each in replies if each.error_message] == [
        "what was sent is no ModelInferRequest"
    ]
    assert any(each.infer_response.id == "mine" for each in replies)


def test_a_stream_gives_better_and_better_answers(stub: Stub) -> None:
    requests = iter([request(deadline_ms=2000)])

    steps = [each.infer_response for each in stub.ModelStreamInfer(requests)]

    parameters = [parameters_of(each) for each in steps]
    accuracies = [each["expected_accuracy"] for each in parameters]
    assert accuracies == sorted(accuracies)
    assert [each["triton_final_response"] for each in parameters] == [
        *[False] * (len(steps) - 1),
        True,
    ]
    assert {each.id for each in steps} == {"mine"}


def test_an_error_in_a_stream_leaves_the_others_their_answers(stub: Stub) -> None:
    wrong = request(subnetwork="none such")
    wrong.id = "wrong"

    replies = list(stub.ModelStreamInfer(iter([wrong, request(subnetwork="narrow-column-1")])))

    errors = {each.infer_response.id: each.error_message for each in replies if each.error_message}
    assert list(errors) == ["wrong"]
    assert "none such" in errors["wrong"]
    assert any(each.infer_response.id == "mine" and not each.error_message for each in replies)


def test_what_is_said_of_the_bundle_is_said_here_too(stub: Stub, server: ServerProcess) -> None:
    over_http = server.client.get("/v2/models/cifar10").json()
    named = {"name": "cifar10"}

    metadata = stub.ModelMetadata(message("ModelMetadataRequest", **named))

    assert list(metadata.versions) == over_http["versions"]
    assert [list(each.shape) for each in metadata.inputs] == [
        each["shape"] for each in over_http["inputs"]
    ]
    config = stub.ModelConfig(message("ModelConfigRequest", **named)).config
    assert (config.name, config.input[0].data_type) == ("cifar10", 2)  # TYPE_UINT8
    assert stub.ServerLive(message("ServerLiveRequest")).live
    assert stub.ServerReady(message("ServerReadyRequest")).ready
    assert stub.ModelReady(message("ModelReadyRequest", **named)).ready
    assert stub.ServerMetadata(message("ServerMetadataRequest")).name == "anytime"
    (listed,) = stub.RepositoryIndex(message("RepositoryIndexRequest")).models
    assert listed.state == "READY"
    (counted,) = stub.ModelStatistics(message("ModelStatisticsRequest", **named)).model_stats
    assert counted.inference_count > 0


@pytest.fixture(scope="module")
def guarded_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port for gRPC of a server that demands keys, and takes three connections from an address."""
    path, port = tmp_path_factory.mktemp("keys") / "keys.toml", free_port()
    tables: dict[str, dict[str, Any]] = {
        "web": {"scopes": ["classify"]},
        "counted": {"scopes": ["classify"], "requests_per_s": 0.001, "burst": 2},
        "watcher": {"scopes": ["metrics"]},
    }
    path.write_text(
        "".join(
            write_entry(
                name,
                KeyEntry.model_validate({"sha256": sha256(name.encode()).hexdigest(), **fields}),
            )
            for name, fields in tables.items()
        )
    )
    settings = {"keys_file": path, "grpc_port": port, "max_connections_per_address": 3}
    with started({**settings, "max_batch": 1, "fronts": 1}) as server:
        server.wait_for("ready")
        yield port


@pytest.fixture(scope="module")
def guarded(guarded_port: int) -> Iterator[Stub]:
    with grpc.insecure_channel(f"127.0.0.1:{guarded_port}") as channel:
        yield Stub(channel)


def test_an_address_has_its_share_of_connections_over_grpc_too(guarded_port: int) -> None:
    here, there = ("127.0.0.1", guarded_port), ("127.0.0.2", 0)
    connections = [socket.create_connection(here, timeout=60) for _ in range(5)]
    connections.append(socket.create_connection(here, timeout=60, source_address=there))
    for each in connections:
        each.sendall(PREFACE)

    ended = set[socket.socket]()
    while len(ended) < 2:
        readable, _, _ = select.select([*set(connections) - ended], [], [], 60)
        assert readable
        ended |= {each for each in readable if is_at_end(each)}

    for each in set(connections) - ended:
        each.sendall(PING)
        while ACKNOWLEDGED not in (data := each.recv(4096)):
            assert data
    assert connections[-1] not in ended
    for each in connections:
        each.close()


def is_at_end(connection: socket.socket) -> bool:
    try:
        return not connection.recv(4096)
    except ConnectionResetError:
        return True


def test_a_stranger_gets_nothing_of_any_method(guarded: Stub) -> None:
    for method in methods():
        sent = message(method.input_type.name)
        call = getattr(guarded, method.name)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("x-api-key", "wrong"),)):
            if method.client_streaming:
                code, _ = refused(lambda *a, call=call, **o: list(call(*a, **o)), iter([sent]), metadata=metadata)  # fmt: skip
            else:
                code, _ = refused(call, sent, metadata=metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED, (method.name, metadata)


def test_a_key_is_for_what_its_scopes_say_over_grpc_too(guarded: Stub) -> None:
    def bearing(name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {name}"),)

    sent = request(deadline_ms=60_000)
    load = message("RepositoryModelLoadRequest", model_name="cifar10")
    denied = grpc.StatusCode.PERMISSION_DENIED

    assert guarded.ModelInfer(sent, metadata=bearing("web")).id == "mine"
    assert guarded.ModelInfer(sent, metadata=(("x-api-key", "web"),)).id == "mine"
    assert refused(guarded.ModelInfer, sent, metadata=bearing("watcher"))[0] is denied
    assert refused(guarded.RepositoryModelLoad, load, metadata=bearing("web"))[0] is denied


def test_the_rate_of_a_key_holds_over_grpc_for_each_request_of_a_stream(guarded: Stub) -> None:
    metadata = (("x-api-key", "counted"),)
    sent = request(subnetwork="narrow-column-1", deadline_ms=60_000)

    _, call = guarded.ModelInfer.with_call(sent, metadata=metadata)
    left = dict(call.trailing_metadata())
    replies = list(guarded.ModelStreamInfer(iter([sent, sent]), metadata=metadata))
    with pytest.raises(grpc.RpcError) as caught:
        guarded.ModelInfer(sent, metadata=metadata)
    error: Any = caught.value

    assert left["ratelimit"].startswith('"key";r=1;')
    assert sum("may ask 0.001 times" in each.error_message for each in replies) == 1
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) > 0
