"""What a request wants of the outputs is what its reply has of them."""

import json
from typing import Any

import numpy as np
import pytest

from service.front.open_inference.messages import write_reply
from service.front.open_inference.outputs import WantedOutput, output_tensor
from tests.service.front.open_inference.test_messages import (
    binary,
    framed,
    message,
    read,
    refusal_of,
    tensor,
)

LABELS = ["cat", "dog", "größer"]
PROBABILITIES = np.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]], np.float32)


def replied(outputs: object = None, **parameters: object) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a reply, and what is behind it."""
    fields: dict[str, Any] = {"outputs": outputs} if outputs is not None else {}
    body, _ = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], parameters=parameters, **fields
    )
    request = read(body, {})
    reply, size = write_reply(
        request, PROBABILITIES, LABELS, model="m", version="v", parameters={"in_time": True}
    )
    return json.loads(reply[:size]), reply[size:] if size is not None else b""


def test_a_reply_names_its_answers() -> None:
    document, rest = replied()

    assert not rest
    assert document == {
        "model_name": "m",
        "model_version": "v",
        "parameters": {"in_time": True},
        "outputs": [
            tensor("probabilities", "FP32", [2, 3], data=PROBABILITIES.ravel().tolist()),
            tensor("label", "BYTES", [2], data=["dog", "größer"]),
            tensor("class_id", "INT64", [2], data=[1, 2]),
        ],
    }


def test_an_output_comes_as_bytes_if_it_is_asked_for_so() -> None:
    document, rest = replied(
        [{"name": "label"}, {"name": "class_id", "parameters": {"binary_data": False}}],
        binary_data_output=True,
    )

    assert rest == framed(b"dog", "größer".encode())
    assert document["outputs"] == [
        binary("label", "BYTES", [2], len(rest)),
        tensor("class_id", "INT64", [2], data=[1, 2]),
    ]


def test_a_classification_names_the_most_probable_classes() -> None:
    document, _ = replied([{"name": "probabilities", "parameters": {"classification": 2}}])

    (output,) = document["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [
        "0.500000:1:dog",
        "0.250000:0:cat",
        "0.750000:2:größer",
        "0.125000:0:cat",
    ]


def test_a_classification_has_no_more_classes_than_there_are() -> None:
    tensor = output_tensor(WantedOutput("probabilities", classes=99), PROBABILITIES, LABELS)

    assert tensor.shape == (2, 3)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({"name": "logits"}, "there are probabilities, label, class_id"),
        ({"name": "label", "parameters": {"classification": 1}}, "cannot be classified"),
        ({"name": "probabilities", "parameters": {"classification": -1}}, "-1"),
        ({"name": "probabilities", "parameters": {"classification": "2"}}, "'2'"),
        ({"name": "label", "parameters": {"binary_data": 1}}, "true or false"),
        ({"name": "label", "parameters": {"shared_memory_region": "a"}}, "shared memory"),
    ],
)
def test_an_output_that_cannot_be_is_refused(output: object, says: str) -> None:
    body, headers = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], outputs=[output]
    )

    assert says in refusal_of(body, headers)


def test_an_output_comes_once() -> None:
    body, headers = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], outputs=[{"name": "label"}] * 2
    )

    assert refusal_of(body, headers) == "the output 'label' is wanted twice"


def test_the_id_of_a_request_is_repeated() -> None:
    body, headers = message(
        [tensor("images", "UINT8", [1, 4, 4, 3], data=[0] * 48)], id="mine", outputs=[]
    )

    reply, _ = write_reply(
        read(body, headers), PROBABILITIES, LABELS, model="m", version="v", parameters={}
    )

    assert json.loads(reply)["id"] == "mine"
