"""Many numbers in JSON: the same as those that are read at once, and what is no JSON is refused."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.front.open_inference.json_numbers import LONG, Numbers
from service.front.open_inference.messages import read_request, takes_long
from service.front.open_inference.tensors import InvalidInference

SIDE = 32
BATCH = np.random.default_rng(5).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
INT: set[type] = {int}
FLOAT: set[type] = {int, float}


def body_of(
    batch: NDArray[Any], *, is_flat: bool, indent: int | None = None, is_last: bool = True
) -> bytes:
    datatype = "UINT8" if batch.dtype == np.uint8 else "FP32"
    tensor = {"name": "images", "shape": batch.shape, "datatype": datatype}
    data = {"data": batch.ravel().tolist() if is_flat else batch.tolist()}
    tensor = {**tensor, **data} if is_last else {**data, **tensor}
    return json.dumps({"inputs": [tensor], "id": "data"}, indent=indent).encode()


@pytest.mark.parametrize("is_flat", [True, False], ids=["flat", "nested"])
@pytest.mark.parametrize("is_last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_float", [True, False], ids=["float", "whole"])
def test_many_numbers_are_those_that_were_sent(
    is_flat: bool, is_last: bool, indent: int | None, is_float: bool
) -> None:
    sent = (BATCH / np.float32(255)).astype(np.float32) if is_float else BATCH

    body = body_of(sent, is_flat=is_flat, indent=indent, is_last=is_last)
    request = read_request(body, {}, SIDE)

    assert takes_long(body, {})
    assert request.id == "data"
    assert np.array_equal(np.array(request.images), BATCH)


@pytest.mark.parametrize(
    "data",
    [
        "[true" + ",1" * 49151 + "]",
        '["x"' + ",1" * 49151 + "]",
        "[256" + ",1" * 49151 + "]",
        "[NaN" + ",1" * 49151 + "]",
        "[0.5" + ",1" * 49151 + "]",
        "[" + "9" * 400 + ",1" * 49151 + "]",
        "[" + "9" * 5000 + ",1" * 49151 + "]",
        "[1" + ",1" * 49150 + "]",
        "[1" + ",1" * 49152 + "]",
        "[[1" + ",1" * 49151 + "]]",
        "[1 1" + ",1" * 49151 + "]",
        "[" + "," * 100_000 + "]",
        "[" * 100_000 + "]" * 100_000,
        "[" + " " * 100_000 + "]",
        "[1" + ",1" * 49151,
        "[1" + ",1" * 49151 + "]]",
        "[1" + ",1" * 49151 + '] "x":',
    ],
    ids=lambda data: data[:9],
)
def test_what_are_not_the_numbers_of_a_shape_is_refused(data: str) -> None:
    tensor = f'"name": "images", "datatype": "UINT8", "shape": [16, 32, 32, 3], "data": {data}'

    with pytest.raises(InvalidInference):
        read_request(b'{"inputs": [{%b}]}' % tensor.encode(), {}, SIDE)


def test_many_numbers_are_no_files_and_no_parameter() -> None:
    numbers = "[1" + ",1" * 49151 + "]"
    tensor = f'"name": "image", "datatype": "BYTES", "shape": [1], "data": {numbers}'
    beside = '"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["YQ=="]}]'

    for text in (f'"inputs": [{{{tensor}}}]', f'"parameters": {{"data": {numbers}}}, {beside}'):
        with pytest.raises(InvalidInference) as refused:
            read_request(b"{%b}" % text.encode(), {}, SIDE)
        assert "Numbers" not in str(refused.value)


def test_other_data_are_read_as_they_are() -> None:
    other = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["numbers="]}
    pixels = {"name": "images", "datatype": "UINT8", "shape": BATCH.shape, "data": BATCH.tolist()}

    request = read_request(json.dumps({"inputs": [other, pixels]}).encode(), {}, SIDE)

    assert np.array_equal(np.array(request.images), BATCH)


SHAPE = (2, 3, 2)
ARRAYS = [b"[[[1,2],[3,4],[5,6]],[[7,8],[9,0.5],[1e1,-2]]]", b"[1, 2,3,4,5,6,7,8,9,10,11,12]"]


@given(
    text=st.sampled_from(ARRAYS),
    changes=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(b'[],0123456789.eE+- \t\n"xt}{:')), max_size=3
    ),
)
def test_what_is_no_json_is_never_taken_for_numbers(
    text: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(text)
    for at, byte in changes:
        assume(at < len(changed))
        changed[at] = byte
    numbers = None
    with suppress(ValueError, OverflowError):
        numbers = Numbers(bytes(changed)).read(SHAPE, FLOAT)

    expected = None
    with suppress(ValueError, TypeError, OverflowError):
        values = np.array(json.loads(changed), np.float64)
        if values.shape in (SHAPE, (12,)):
            expected = values.reshape(SHAPE)

    assert (numbers is None) == (expected is None)
    assert numbers is None or expected is None or np.array_equal(numbers, expected)


def test_whole_numbers_are_told_from_others() -> None:
    with pytest.raises(ValueError, match="type"):
        Numbers(b"[1.0]").read([1], INT)


def test_what_is_short_is_not_long() -> None:
    assert not takes_long(b"x" * (LONG - 1), {})
    assert not takes_long(b"x" * LONG, {b"inference-header-content-length": b"7"})
