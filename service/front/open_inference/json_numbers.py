"""Long arrays of numbers in JSON, read a part at a time. Pure.

Read at once, a megabyte of them keeps every other thread from the interpreter for tens of milliseconds.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

LONG = 64 << 10  # bytes of JSON: shorter arrays are read with the rest of it
PART = 16 << 10  # bytes that are read at once, in a fraction of a millisecond
BEGIN = re.compile(rb'"data"\s*:\s*(?=\[)')
TAKEN_OUT = "numbers"  # what stands in their place
BLANKS = b" \t\r\n"
NUMBERS = b"0123456789+-.eE"
AS_ZEROS = bytes.maketrans(NUMBERS, b"0" * len(NUMBERS))
AS_BLANKS = bytes.maketrans(b"[]", b"  ")


@dataclass(frozen=True, slots=True, repr=False)
class Numbers:
    """An array that was taken out of a message, to be read.

    Args:
        text: its JSON, which may be wrong.
    """

    text: bytes

    def __repr__(self) -> str:
        """Return how its JSON begins, for who has to be told that it is out of place."""
        return self.text[:PART].decode("latin-1")

    def read(self, shape: Sequence[int], types: set[type]) -> NDArray[np.float64]:
        """Return the numbers in a shape, which they are nested by or flat.

        Raises:
            ValueError, OverflowError: they are not, or not all of these types, or too large, or no numbers.
        """
        # What stands between numbers says how they are nested, once it is seen that only numbers are there.
        outline = b",".join(part.translate(None, BLANKS + NUMBERS) for part in self._parts())
        if outline == b"[%b]" % (b"," * (prod(shape) - 1)):
            is_json = self.text.startswith(b"[") and self.text.endswith(b"]")
        else:
            bare = b",".join(part.translate(AS_ZEROS, BLANKS) for part in self._parts())
            is_json = outline == _outline(shape) and b"0[" not in bare and b"]0" not in bare
        if not is_json:
            raise ValueError("not flat or nested as the shape says, or not all numbers")
        numbers, count = np.empty(prod(shape)), 0
        for part in self._parts():
            if b"[" in part or b"]" in part:
                part = part.translate(AS_BLANKS)
            values: list[Any] = from_json(b"[%b]" % part)
            if not {*map(type, values)} <= types:
                raise ValueError("not all of the type")
            numbers[count : count + len(values)] = values
            count += len(values)
        return numbers.reshape(shape)

    def _parts(self) -> Iterator[bytes]:
        """Yield the text, cut at commas, without these."""
        at = 0
        while at <= len(self.text):
            end = self.text.find(b",", at + PART)
            end = len(self.text) if end < 0 else end
            yield self.text[at:end]
            at = end + 1


def _outline(shape: Sequence[int]) -> bytes:
    """Return an array of a shape as JSON without its numbers."""
    outline = b""
    for size in reversed(shape):
        outline = b"[%b]" % b",".join([outline] * size)
    return outline


def take_out(document: bytes) -> tuple[bytes, Numbers | None]:
    """Return a message with its first long array of ``data`` replaced by ``TAKEN_OUT``, and that array, if there is one."""
    for found in BEGIN.finditer(document) if len(document) >= LONG else ():
        begin = found.end()
        # No number holds a quote: up to the next one, the object ends, or another of its names begins.
        quote = document.find(b'"', begin)
        end = document.find(b"}", begin, quote if quote >= 0 else len(document))
        if end < 0 <= quote:
            end = document.rfind(b",", begin, quote)
        text = document[begin : max(end, begin)].rstrip(BLANKS)
        if len(text) >= LONG and text.endswith(b"]"):
            left = b'%b"%b"%b' % (
                document[:begin],
                TAKEN_OUT.encode(),
                document[begin + len(text) :],
            )
            return left, Numbers(text)
    return document, None
