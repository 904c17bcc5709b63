"""The outputs of a reply: what a request wants of them, and what is in them. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.front.open_inference.choices import Parameters
from service.front.open_inference.tensors import InvalidInference, OutputTensor

PROBABILITIES, LABEL, CLASS_ID = "probabilities", "label", "class_id"
OUTPUTS = (PROBABILITIES, LABEL, CLASS_ID)


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
