"""The protocol's messages over HTTP: from the bytes of a request to values, and from answers to the bytes of a reply. Pure.

A message is JSON, and behind it the raw bytes of those tensors that are in the binary extension, in their order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from service.front.open_inference.tensors import (
    MAX_IMAGES,
    MAX_INPUTS,
    Image,
    InvalidInference,
    OutputTensor,
    SentTensor,
    images_of,
)
from service.settings import NUMBER

# Parameters that choose the answer, as those of /classify.
CHOICES = ("deadline_ms", "on_miss", "subnetwork", "stop_at_confidence")
TIMEOUT = "timeout"  # Triton's, in microseconds; 0 is none
# What clients send along, and what has no meaning here: requests are answered in the order of their deadlines.
WITHOUT_EFFECT = {
    "binary_data_output", "content_type", "headers", "priority", "sequence_id", "sequence_start", "sequence_end",
    "triton_enable_empty_final_response",
}  # fmt: skip

LONGEST_VALUE = 200  # characters of a parameter

PROBABILITIES, LABEL, CLASS_ID = "probabilities", "label", "class_id"
OUTPUTS = (PROBABILITIES, LABEL, CLASS_ID)

INFER_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
UNIT_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}

Parameters = Mapping[str, Any]


def is_infer(path: str) -> bool:
    """Return whether requests to a path are to be answered with an image's class."""
    return INFER_PATH.fullmatch(path) is not None


def model_of(path: str) -> tuple[str, str]:
    """Return the model and the version, empty if there is none, of an ``is_infer`` path."""
    found = INFER_PATH.fullmatch(path)
    assert found is not None
    return found["model"], found["version"] or ""


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        is_binary: whether it is to come as raw bytes.
        classes: how many classes to name in the place of the probabilities; 0 for these themselves.
    """

    name: str
    is_binary: bool = False
    classes: int = 0


ALL_OUTPUTS = {
    is_binary: tuple(WantedOutput(name, is_binary) for name in OUTPUTS)
    for is_binary in (False, True)
}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request, read.

    Attributes:
        id: the client's own, to be repeated; empty if there is none.
        images: 1 to ``MAX_IMAGES``.
        choices: names and values of the parameters that choose the answer, still to be checked.
        outputs: in the order of the reply.
    """

    id: str
    images: tuple[Image, ...]
    choices: tuple[tuple[str, str], ...]
    outputs: tuple[WantedOutput, ...]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class _Input(_Part):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


class _Output(_Part):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(_Part):
    model_name: str | None = None  # KServe's client repeats what the path says
    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[_Input], Field(max_length=MAX_INPUTS)]
    outputs: Annotated[list[_Output], Field(max_length=len(OUTPUTS))] | None = None


def read_request(
    body: bytes, headers: Mapping[bytes, bytes], side: int, query: bytes = b""
) -> InferRequest:
    """Return what a request says.

    Args:
        body: whole.
        headers: names in lower case.
        side: height and width that the network takes.
        query: of its URL; may hold parameters too.

    Raises:
        InvalidInference: it cannot be read.
    """
    json_size = _json_size(headers.get(b"inference-header-content-length"), len(body))
    if (
        json_size == 0 < len(body)
    ):  # Triton's raw binary request: the body is the one element of the one input
        return InferRequest("", (body,), choices_of({}, headers, query=query), ALL_OUTPUTS[False])
    document, raw = body[:json_size], memoryview(body)[json_size:]
    # Lists of numbers take a hundred times as long to read as the bytes of a file.
    commas, most = document.count(b","), 4096 + 3 * side * side * MAX_IMAGES
    if commas > most:
        raise InvalidInference(
            f"the JSON holds {commas} values, the limit is {most}; send tensors as binary data"
        )
    try:
        request = _Request.model_validate_json(document)
    except ValidationError as error:
        raise _unreadable(error) from error
    parameters = request.parameters or {}
    images = images_of(list(_tensors(request.inputs, raw)), side)
    is_binary = parameters.get("binary_data_output", False)
    if not isinstance(is_binary, bool):
        raise InvalidInference(
            f"the parameter 'binary_data_output' is {is_binary!r:.40}; it must be true or false"
        )
    outputs = [(each.name, each.parameters or {}) for each in request.outputs or ()]
    return InferRequest(
        request.id or "",
        images,
        choices_of(parameters, headers, query=query),
        wanted_outputs(outputs, is_binary),
    )


class _Load(_Part):
    parameters: dict[str, Any] | None = None


def check_load(body: bytes) -> None:
    """See to it that a request to load or unload a model is for the bundle as it lies in its folder.

    Raises:
        InvalidInference: it brings a configuration or files of its own, or cannot be read.
    """
    try:
        parameters = _Load.model_validate_json(body).parameters
    except ValidationError as error:
        raise _unreadable(error) from error
    check_load_parameters(parameters or {})


def check_load_parameters(names: Iterable[str]) -> None:
    """See to it that the parameters of a request to load or unload a model are none that would change it.

    Raises:
        InvalidInference: one is.
    """
    for name in names:
        if name != "unload_dependents":  # there are none
            raise InvalidInference(
                f"a model is loaded as it lies in its folder, without the parameter {name!r}"
            )


def _unreadable(error: ValidationError) -> InvalidInference:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the JSON"
    return InvalidInference(f"{where}: {first['msg']}")


def _json_size(header: bytes | None, body_size: int) -> int:
    """Return how much of a body is JSON."""
    if header is None:
        return body_size
    if not (header.isdigit() and len(header) < 20 and int(header) <= body_size):
        raise InvalidInference(
            f"Inference-Header-Content-Length is {header.decode('latin-1')!r:.40}; "
            f"it must be a number of bytes, and the body is {body_size}"
        )
    return int(header)


def _tensors(inputs: Sequence[_Input], raw: memoryview) -> Iterator[SentTensor]:
    """Yield the inputs, each with its part of the bytes behind the JSON."""
    at = 0
    for each in inputs:
        parameters = each.parameters or {}
        if "shared_memory_region" in parameters:
            raise InvalidInference(
                f"the input {each.name!r} is in shared memory; there is none here, send it as binary data"
            )
        content_type = parameters.get("content_type") or ""
        size = parameters.get("binary_data_size")
        if size is None:
            content, values = None, each.data
        elif type(size) is not int or not 0 <= size <= len(raw) - at:
            raise InvalidInference(
                f"binary_data_size of the input {each.name!r} is {size!r:.40}; "
                f"{len(raw) - at} bytes are left behind the JSON"
            )
        elif each.data is not None:
            raise InvalidInference(
                f"the input {each.name!r} has data in the JSON and as binary data"
            )
        else:
            content, values = raw[at : at + size], None
            at += size
        yield SentTensor(
            each.name, each.datatype, tuple(each.shape), content, values, str(content_type)
        )
    if at < len(raw):
        raise InvalidInference(
            f"{len(raw) - at} bytes are left behind the JSON and the binary data of its inputs"
        )


def choices_of(
    parameters: Parameters,
    headers: Mapping[bytes, bytes],
    remaining_ms: float | None = None,
    query: bytes = b"",
) -> tuple[tuple[str, str], ...]:
    """Return what chooses the answer, by the names that ``/classify`` has for it.

    A deadline may be given in several ways: the earliest counts.

    Args:
        parameters: of the request.
        headers: X-Deadline-Ms, in milliseconds, and grpc-timeout, as gRPC writes it, are looked at.
        remaining_ms: what gRPC says is left, if it says.
        query: of the URL, with more parameters.

    Raises:
        InvalidInference: a parameter is unknown, or given twice otherwise than as a deadline, or a deadline is no number.
    """
    choices: dict[str, str] = {}
    deadlines_ms = [] if remaining_ms is None else [remaining_ms]
    in_query = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else ()
    for name, value in (*parameters.items(), *in_query):
        if name in WITHOUT_EFFECT or value is None:
            continue
        if name not in (*CHOICES, TIMEOUT):
            known = ", ".join((*CHOICES, TIMEOUT))
            raise InvalidInference(f"there is no parameter {name!r}; there are {known}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidInference(
                f"the parameter {name!r} is {value!r:.40}; it must be a number or a text"
            )
        if len(str(value)) > LONGEST_VALUE:
            raise InvalidInference(f"the parameter {name!r} is {value!r:.40}…, which is too long")
        if name == TIMEOUT:
            timeout_us = _number("the parameter 'timeout'", str(value))
            if timeout_us:
                deadlines_ms.append(timeout_us / 1e3)
        elif name == "deadline_ms":
            deadlines_ms.append(_number("the parameter 'deadline_ms'", str(value)))
        elif name in choices:
            raise InvalidInference(f"the parameter {name!r} is given twice, again as {value!r:.40}")
        else:
            choices[name] = str(value)
    if header := headers.get(b"x-deadline-ms"):
        deadlines_ms.append(_number("the header X-Deadline-Ms", header.decode("latin-1")))
    if header := headers.get(b"grpc-timeout"):
        deadlines_ms.append(_grpc_timeout_ms(header.decode("latin-1")))
    if deadlines_ms:
        choices["deadline_ms"] = f"{min(deadlines_ms):.15g}"
    return tuple(choices.items())


def _number(what: str, text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InvalidInference(f"{what} is {text!r:.40}; it must be a number")
    return float(text)


def _grpc_timeout_ms(text: str) -> float:
    found = GRPC_TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidInference(
            f"the header grpc-timeout is {text!r:.40}; it must be up to 8 digits and a unit of H, M, S, m, u, n"
        )
    return int(found[1]) * UNIT_MS[found[2]]


def wanted_outputs(
    outputs: Iterable[tuple[str, Parameters]], is_binary: bool = False
) -> tuple[WantedOutput, ...]:
    """Return what a request wants, all outputs if it does not say.

    Args:
        outputs: names and their own parameters.
        is_binary: unless these say something else.

    Raises:
        InvalidInference: one is unknown or has a parameter that cannot be, or it is wanted twice: a request of a
            megabyte could have a reply of gigabytes otherwise.
    """
    wanted: dict[str, WantedOutput] = {}
    for name, parameters in outputs:
        if name in wanted:
            raise InvalidInference(f"the output {name!r} is wanted twice")
        wanted[name] = _wanted_output(name, parameters, is_binary)
    return tuple(wanted.values()) or ALL_OUTPUTS[is_binary]


def _wanted_output(name: str, parameters: Parameters, is_binary: bool) -> WantedOutput:
    if name not in OUTPUTS:
        raise InvalidInference(f"there is no output {name!r}; there are {', '.join(OUTPUTS)}")
    if "shared_memory_region" in parameters:
        raise InvalidInference(
            f"the output {name!r} is wanted in shared memory; there is none here"
        )
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidInference(
            f"classification of the output {name!r} is {classes!r:.40}; it must be a number of classes"
        )
    if classes and name != PROBABILITIES:
        raise InvalidInference(f"the output {name!r} cannot be classified; {PROBABILITIES!r} can")
    is_binary = parameters.get("binary_data", is_binary)
    if not isinstance(is_binary, bool):
        raise InvalidInference(
            f"binary_data of the output {name!r} is {is_binary!r:.40}; it must be true or false"
        )
    return WantedOutput(name, is_binary, classes)


def output_tensor(
    wanted: WantedOutput, probabilities: NDArray[np.float32], labels: Sequence[str]
) -> OutputTensor:
    """Return an output for the answers to a request, (N, classes)."""
    if wanted.name != PROBABILITIES:
        best = probabilities.argmax(axis=1)
        if wanted.name == CLASS_ID:
            return OutputTensor(wanted.name, "INT64", best.shape, best.astype("<i8", copy=False))
        names = [labels[k].encode() for k in best.tolist()]
        return OutputTensor(wanted.name, "BYTES", best.shape, names)
    if not wanted.classes:
        return OutputTensor(
            wanted.name, "FP32", probabilities.shape, probabilities.astype("<f4", copy=False)
        )
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : wanted.classes]
    named = [
        f"{row[k]:f}:{k}:{labels[k]}".encode()
        for row, ks in zip(probabilities, order.tolist(), strict=True)
        for k in ks
    ]
    return OutputTensor(wanted.name, "BYTES", order.shape, named)


def write_reply(
    request: InferRequest,
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
    *,
    model: str,
    version: str,
    parameters: Parameters,
) -> tuple[bytes, int | None]:
    """Return the body of a reply, and how much of it is JSON if that is not all.

    Args:
        request: what is answered.
        probabilities: (N, classes).
        labels: of the classes.
        model, version: what answered.
        parameters: of the reply.
    """
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for wanted in request.outputs:
        tensor = output_tensor(wanted, probabilities, labels)
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if wanted.is_binary:
            binary.append(tensor.raw)
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        elif isinstance(tensor.values, list):
            output["data"] = [each.decode() for each in tensor.values]
        else:
            output["data"] = tensor.values.ravel().tolist()
        outputs.append(output)
    document = {"model_name": model, "model_version": version, "parameters": parameters}
    if request.id:
        document["id"] = request.id
    body = to_json({**document, "outputs": outputs})
    return (b"".join((body, *binary)), len(body)) if binary else (body, None)
