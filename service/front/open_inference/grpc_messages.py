"""The protocol's messages over gRPC: from a message to values, and from answers to a message.

Their classes are made from the compiled ``open_inference.proto``, in a pool of their own: generated code would suit some
versions of protobuf only, and would clash with a Triton client in the same process.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from service.front.open_inference.choices import choices_of
from service.front.open_inference.inference import Inferred
from service.front.open_inference.messages import InferRequest
from service.front.open_inference.outputs import output_tensor, wanted_outputs
from service.front.open_inference.tensors import (
    MAX_IMAGES,
    MAX_INPUTS,
    InvalidInference,
    SentTensor,
    images_of,
)

SERVICE = "inference.GRPCInferenceService"
CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}

MAX_PARAMETERS = 64  # are looked at; a quarter of these are known

Message = Any  # of a class that is made at run time


@cache
def _pool() -> DescriptorPool:
    compiled = Path(__file__).with_name("open_inference.binpb").read_bytes()
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


@cache
def message_class(name: str) -> Message:
    """Return the class of a message by its name."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def parse(message: Message, content: bytes) -> Message:
    """Return a message that is still empty with what bytes say.

    Raises:
        InvalidInference: they are none.
    """
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise InvalidInference(f"what was sent is no {message.DESCRIPTOR.name}") from error
    return message


def methods() -> Sequence[MethodDescriptor]:
    """Return the methods of the service."""
    return _pool().FindServiceByName(SERVICE).methods


def read_message(
    message: Message, headers: Mapping[bytes, bytes], remaining_ms: float | None, side: int
) -> InferRequest:
    """Return what a ModelInferRequest says.

    Args:
        headers: the metadata of its call.
        remaining_ms: what is left of the call's deadline, if it has one. Behind it nobody could take an answer, so
            that none is asked for then, unless the request says something else.
        side: height and width that the network takes.

    Raises:
        InvalidInference: it cannot be read.
    """
    parameters = _read_parameters(message.parameters)
    if remaining_ms is not None:
        parameters.setdefault("on_miss", "refuse")
    outputs = ((each.name, _read_parameters(each.parameters)) for each in message.outputs)
    return InferRequest(
        message.id,
        images_of(list(_tensors(message, side)), side),
        choices_of(parameters, headers, remaining_ms),
        wanted_outputs(outputs),
    )


def _tensors(message: Message, side: int) -> Iterator[SentTensor]:
    """Yield the inputs, whose contents are all raw or all in their own messages."""
    if len(message.inputs) > MAX_INPUTS:
        raise InvalidInference(f"there are {len(message.inputs)} inputs; send one")
    raw = message.raw_input_contents
    most = 3 * side * side * MAX_IMAGES
    if raw and len(raw) != len(message.inputs):
        raise InvalidInference(
            f"there are {len(message.inputs)} inputs and {len(raw)} raw_input_contents"
        )
    for n, each in enumerate(message.inputs):
        parameters = _read_parameters(each.parameters)
        if "shared_memory_region" in parameters:
            raise InvalidInference(
                f"the input {each.name!r} is in shared memory; there is none here, send its contents"
            )
        field = CONTENTS.get(each.datatype)
        contents = None if raw or field is None else getattr(each.contents, field)
        if contents is not None and len(contents) > most:
            raise InvalidInference(
                f"the input {each.name!r} has {len(contents)} elements, the limit is {most}"
            )
        yield SentTensor(
            each.name,
            each.datatype,
            tuple(each.shape),
            raw[n] if raw else None,
            None if contents is None else list(contents),
            str(parameters.get("content_type", "")),
        )


def _read_parameters(parameters: Mapping[str, Message]) -> dict[str, Any]:
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidInference(
            f"there are {len(parameters)} parameters, the limit is {MAX_PARAMETERS}"
        )
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameter, choice)
    return values


def reply_message(inferred: Inferred, **parameters: bool) -> Message:
    """Return the ModelInferResponse of the answers to a request, its contents raw.

    Args:
        parameters: of the reply, besides those of the answers.
    """
    bundle = inferred.served.bundle_name
    message = message_class("ModelInferResponse")(
        model_name=bundle["name"], model_version=bundle["digest"], id=inferred.request.id
    )
    for name, value in {**inferred.parameters, **parameters}.items():
        parameter = message.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        else:
            parameter.double_param = value
    for wanted in inferred.request.outputs:
        tensor = output_tensor(wanted, inferred.probabilities, inferred.served.manifest.labels)
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.raw)
    return message
