"""Tensors on the wire, as values of JSON or as raw bytes, and the images in them: pure, and of one mind for HTTP and gRPC.

Two tensors bring images, one at a time: ``image``, BYTES, each element the file of one; and ``images``, their pixels, UINT8
or FP32, (N, H, W, 3) or (N, 3, H, W).
"""

import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.images import Pixels
from service.front.open_inference.json_numbers import Numbers
from service.problems import Problem

FILES, PIXELS = "image", "images"
MAX_IMAGES = 64  # of one request, as of a form
MAX_INPUTS = 8  # are looked at to say which are wrong; two are known
LONGEST_DETAIL = 400  # characters
PIXEL_TYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
BRIGHTEST = {"UINT8": 255, "FP32": 1}

Image = bytes | Pixels
"""A file, or pixels of the network's size."""


class InvalidInference(Problem):
    """What came cannot be read; told in the protocol's own form, so that it is in no catalogue.

    Args:
        detail: what is wrong; names and values in it are the client's, and may be of any length, so that it is cut.
    """

    status, title = 400, "Invalid inference"

    def __init__(self, detail: str) -> None:
        super().__init__(detail if len(detail) <= LONGEST_DETAIL else f"{detail[:LONGEST_DETAIL]}…")


@dataclass(frozen=True, slots=True)
class SentTensor:
    """A tensor as it came.

    Attributes:
        raw: its elements in row-major order, little-endian, those of BYTES each behind its length; None if it came as values.
        values: its elements, nested as its shape says or flat, if it is not raw; many numbers are ``Numbers``.
        content_type: how its elements are written, in MLServer's words.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    values: Any = None
    content_type: str = ""

    def __str__(self) -> str:
        """Name it in a message."""
        return f"the input {self.name!r}"


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of a reply.

    Attributes:
        values: of ``shape``; of BYTES a flat list.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]

    @property
    def raw(self) -> bytes:
        """Its elements in row-major order, little-endian, those of BYTES each behind its length."""
        if isinstance(self.values, list):
            return b"".join(struct.pack("<I", len(each)) + each for each in self.values)
        return self.values.tobytes()


def images_of(tensors: Sequence[SentTensor], side: int) -> tuple[Image, ...]:
    """Return the images that a request brings.

    Args:
        tensors: all of the request.
        side: height and width that the network takes.

    Raises:
        InvalidInference: there are none, or what came is not as it says.
    """
    by_name = {each.name: each for each in tensors}
    names = ", ".join(f"{each.name!r:.40}" for each in tensors) or "none"
    if not by_name or len(by_name) < len(tensors) or not by_name.keys() <= {FILES, PIXELS}:
        raise InvalidInference(
            f"the inputs are {names}; send one, {FILES!r} (files) or {PIXELS!r} (pixels)"
        )
    if (
        PIXELS in by_name
    ):  # NVIDIA's load tool makes up data for optional inputs too: its pixels count
        return tuple(_pixels(by_name[PIXELS], side))
    return tuple(_files(by_name[FILES]))


def _files(tensor: SentTensor) -> Iterator[bytes]:
    """Yield the files in a tensor of BYTES, whatever its shape."""
    if tensor.datatype != "BYTES":
        raise InvalidInference(
            f"{tensor} has the datatype {tensor.datatype!r:.40}; it must be BYTES"
        )
    count = _count(tensor, tensor.shape)
    if tensor.raw is None:
        elements = list(_flat(tensor.values))
        _check_count(tensor, len(elements), count)
    else:
        elements = list(_split(tensor, tensor.raw, count))
    for n, element in enumerate(elements):
        if isinstance(element, bytes) and tensor.content_type != "base64":
            yield element
        elif isinstance(element, bytes | str):
            yield _from_base64(tensor, n, element)
        else:
            raise InvalidInference(
                f"element {n} of {tensor} is {element!r:.40}; it must be a file as base64"
            )


def _flat(values: Any) -> Iterator[Any]:
    """Yield what is in nested lists; JSON of the depth that this recursion could not take is refused when it is read."""
    if isinstance(values, list):
        for each in values:
            yield from _flat(each)
    else:
        yield values


def _split(tensor: SentTensor, raw: bytes | memoryview, count: int) -> Iterator[bytes]:
    """Yield the elements of raw BYTES."""
    at = 0
    for n in range(count):
        if at + 4 > len(raw):
            raise InvalidInference(
                f"{tensor} ends before element {n} of the {count} that its shape says"
            )
        (size,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + size > len(raw):
            raise InvalidInference(
                f"element {n} of {tensor} is {size} bytes by its length; {len(raw) - at} are left"
            )
        yield bytes(raw[at : at + size])
        at += size
    if at < len(raw):
        raise InvalidInference(
            f"{tensor} has {len(raw) - at} bytes left behind the {count} elements that its shape says"
        )


def _from_base64(tensor: SentTensor, n: int, element: str | bytes) -> bytes:
    text = element.encode() if isinstance(element, str) else element
    try:
        return b64decode(b"".join(text.split()), validate=True)
    except (Base64Error, ValueError) as error:
        raise InvalidInference(
            f"element {n} of {tensor} is no base64: {error}; raw bytes go as binary data"
        ) from error


def _pixels(tensor: SentTensor, side: int) -> Iterator[Pixels]:
    """Yield the images in a tensor of pixels."""
    dtype = PIXEL_TYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidInference(
            f"{tensor} has the datatype {tensor.datatype!r:.40}; it must be {' or '.join(PIXEL_TYPES)}"
        )
    if tensor.shape[1:] not in ((side, side, 3), (3, side, side)):
        raise InvalidInference(
            f"{tensor} has the shape {shown(tensor.shape)}; it must be [N, {side}, {side}, 3] or [N, 3, {side}, {side}]; "
            f"images of other sizes go as files, in {FILES!r}"
        )
    _count(tensor, tensor.shape[:1])
    if tensor.raw is None:
        array: NDArray[Any] = _from_values(tensor, {int, float} if dtype.kind == "f" else {int})
    else:
        expected = prod(tensor.shape) * dtype.itemsize
        if len(tensor.raw) != expected:
            raise InvalidInference(
                f"{tensor} is {len(tensor.raw)} bytes; its shape and datatype say {expected}"
            )
        array = np.frombuffer(tensor.raw, dtype).reshape(tensor.shape)
    array = _to_bytes(tensor, array, BRIGHTEST[tensor.datatype])
    if tensor.shape[-1] != 3:
        array = array.transpose(0, 2, 3, 1)
    yield from np.ascontiguousarray(array)


def _from_values(tensor: SentTensor, types: set[type]) -> NDArray[np.float64]:
    """Return the values of a tensor, nested or flat, in its shape.

    Each is looked at before numpy is: it would take true for 1, and copy a hundred thousand texts into as many places of
    the longest one's size.
    """
    what = "numbers" if float in types else "whole numbers"
    if isinstance(tensor.values, Numbers):
        try:
            return tensor.values.read(tensor.shape, types)
        except (ValueError, OverflowError) as error:
            raise InvalidInference(
                f"the data of {tensor} are not all {what}, flat or nested as its shape says, {shown(tensor.shape)}"
            ) from error
    values = tensor.values if isinstance(tensor.values, list) else [tensor.values]
    if values and isinstance(values[0], list):
        for size in tensor.shape[1:]:
            if any(type(each) is not list or len(each) != size for each in values):
                raise InvalidInference(
                    f"the data of {tensor} are not nested as its shape says, {shown(tensor.shape)}"
                )
            values = [*chain.from_iterable(values)]
    if not {*map(type, values)} <= types:
        raise InvalidInference(f"the data of {tensor} are not all {what}")
    _check_count(tensor, len(values), prod(tensor.shape))
    try:
        return np.array(values, np.float64).reshape(tensor.shape)
    except OverflowError as error:
        raise InvalidInference(f"the data of {tensor} have numbers that are too large") from error


def _to_bytes(tensor: SentTensor, array: NDArray[Any], brightest: int) -> NDArray[np.uint8]:
    """Return numbers from 0 to ``brightest`` as what the network takes, from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    with np.errstate(invalid="ignore"):  # NaN, which is in no range
        least, most = array.min(), array.max()
    if not (least >= 0 and most <= brightest):
        raise InvalidInference(
            f"{tensor} has values from {least} to {most}; {tensor.datatype} is from 0 to {brightest}"
        )
    return np.rint(array * (255 / brightest)).astype(np.uint8)


def _count(tensor: SentTensor, dimensions: Sequence[int]) -> int:
    """Return the number of images along some dimensions of a tensor, if a request may have so many.

    A product that is too large is not carried on: that of 100,000 dimensions takes minutes.
    """
    count = 1
    for each in dimensions:
        count *= each
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidInference(
                f"{tensor} has the shape {shown(tensor.shape)}; a request brings 1 to {MAX_IMAGES} images"
            )
    return count


def _check_count(tensor: SentTensor, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidInference(f"{tensor} has {found} elements; its shape says {expected}")


def shown(shape: Sequence[int]) -> str:
    """Return a shape for a message, of a long one the begin."""
    return f"{list(shape[:80])!s:.80}"
