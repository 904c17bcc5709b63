"""The protocol's messages over HTTP: from the bytes of a request to values, and from answers to the bytes of a reply. Pure.

A message is JSON, and behind it the raw bytes of those tensors that are in the binary extension, in their order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from service.front.open_inference.choices import Parameters, choices_of
from service.front.open_inference.json_numbers import LONG, TAKEN_OUT, Numbers, take_out
from service.front.open_inference.outputs import (
    ALL_OUTPUTS,
    OUTPUTS,
    WantedOutput,
    output_tensor,
    wanted_outputs,
)
from service.front.open_inference.tensors import (
    MAX_IMAGES,
    MAX_INPUTS,
    Image,
    InvalidInference,
    SentTensor,
    images_of,
)

JSON_SIZE = b"inference-header-content-length"
INFER_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")


def is_infer(path: str) -> bool:
    """Return whether requests to a path are to be answered with an image's class."""
    return INFER_PATH.fullmatch(path) is not None


def model_of(path: str) -> tuple[str, str]:
    """Return the model and the version, empty if there is none, of an ``is_infer`` path."""
    found = INFER_PATH.fullmatch(path)
    assert found is not None
    return found["model"], found["version"] or ""


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


def takes_long(body: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request is to be read in a thread: in it are many numbers as JSON.

    Raises:
        InvalidInference: it cannot be read.
    """
    return _json_size(headers.get(JSON_SIZE), len(body)) >= LONG


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
    json_size = _json_size(headers.get(JSON_SIZE), len(body))
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
    document, numbers = take_out(document)
    try:
        request = _Request.model_validate_json(document)
    except ValidationError as error:
        raise _unreadable(error) from error
    parameters = request.parameters or {}
    images = images_of(list(_tensors(request.inputs, raw, numbers)), side)
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


class _Index(_Part):
    ready: bool = False


def wants_ready_only(body: bytes) -> bool:
    """Return whether a request for the index leaves out what is not ready.

    Raises:
        InvalidInference: it cannot be read.
    """
    try:
        return _Index.model_validate_json(body).ready
    except ValidationError as error:
        raise _unreadable(error) from error


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


def _tensors(
    inputs: Sequence[_Input], raw: memoryview, numbers: Numbers | None
) -> Iterator[SentTensor]:
    """Yield the inputs, each with its part of the bytes behind the JSON, and the one that they were taken out of with numbers."""
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
            if values == TAKEN_OUT and numbers is not None:
                values = numbers
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
