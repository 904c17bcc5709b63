"""A wrapped network tried on a few images: what it gives, and whether it takes any number of them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoOperator

from model.bundle import WEIGHTS_FILE
from model.cores import cores
from model.graph_file import GraphRefused, check_graph
from model.sessions import open_session
from training import TrainingError, first_line
from training.graphs.weights_file import WeightsFile
from training.importing.expanding import without_expand
from training.importing.files import Network
from training.importing.wrapping import Answers, Normalisation, wrap

SUM_TOLERANCE = 1e-2  # of probabilities in half precision, over a thousand classes
# Of the largest answer, between an image alone and in a batch; half precision keeps three digits.
BATCH_TOLERANCE = 1e-2
OPEN_BATCH = "export it with a dynamic batch axis, and in evaluation mode"
FATAL = 4  # ONNX Runtime's errors are told as ours, in one line


def write_wrapped(
    network: Network,
    folder: Path,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    classes: int,
) -> tuple[Path, Answers]:
    """Write a network wrapped, with the weights in a file of their own; return where, and what it gives.

    Args:
        network: as it was read.
        folder: a new one, for it alone.
        images: at least two, of one size, (n, H, W, 3).
        normalisation: of networks that take floats.
        classes: how many numbers it is to give an image.

    Raises:
        TrainingError: it does not run, or gives something else; one line says why.
    """
    size = images.shape[1]
    folder.mkdir()
    network = without_expand(network, size, folder)
    bare = _written(wrap(network, size, normalisation), folder / "bare", network.source.file)
    answers = _answers(_run(bare, images, network), images, network, classes)
    path = _written(
        wrap(network, size, normalisation, answers), folder / "wrapped", network.source.file
    )
    alone = np.concatenate([_run(path, image[np.newaxis], network) for image in images])
    together = _run(path, images, network)
    if np.abs(alone - together).max() > BATCH_TOLERANCE * max(1.0, float(np.abs(alone).max())):
        raise TrainingError(
            f"{network.source.file}: answers images otherwise together than alone; {OPEN_BATCH}"
        )
    return path, answers


def _written(model: onnx.ModelProto, folder: Path, file: str) -> Path:
    folder.mkdir()
    path = folder / "graph.onnx"
    try:
        WeightsFile(folder / WEIGHTS_FILE, half=False).write(model, path)
        weights_bytes = (folder / WEIGHTS_FILE).stat().st_size
        check_graph(path.read_bytes(), weights_file=WEIGHTS_FILE, weights_bytes=weights_bytes)
    except onnx.checker.ValidationError as error:
        raise TrainingError(f"{file}: is not in order: {first_line(error)}") from error
    except GraphRefused as error:
        raise TrainingError(f"{file}: {error}") from error
    return path


def _run(path: Path, images: NDArray[np.uint8], network: Network) -> NDArray[np.float32]:
    """Return what a wrapped graph gives for some images."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    try:
        session = open_session(path, threads=cores())
        given: NDArray[np.float32] = session.run(["logits"], {"images": images}, options)[0]
    except Exception as error:  # ONNX Runtime has no common base of its errors
        reason = f"ONNX Runtime cannot run it on {len(images)} images: {first_line(error)}"
        if network.batch and not isinstance(error, NoOperator):
            reason = f"its batch is fixed at {network.batch} and cannot be opened; {OPEN_BATCH}"
        raise TrainingError(f"{network.source.file}: {reason}") from error
    return given


def _answers(
    given: NDArray[np.float32], images: NDArray[np.uint8], network: Network, classes: int
) -> Answers:
    """Tell what a network gave: numbers for the classes, and whether they are probabilities."""
    n = len(images)
    if given.ndim < 2 or len(given) != n or given.size != n * given.shape[1]:
        raise TrainingError(
            f"{network.source.file}: gives {given.shape} for {n} images; a classifier gives a number for each class"
        )
    if given.shape[1] != classes:
        raise TrainingError(
            f"{network.source.file}: gives {given.shape[1]} numbers an image; there are {classes} labels; give "
            "a file with the names of its classes, in order, by --labels"
        )
    rows = given.reshape(n, classes)
    if not np.isfinite(rows).all():
        raise TrainingError(
            f"{network.source.file}: its answers are not finite numbers; are --mean and --std those of its training?"
        )
    sums_to_one = bool((np.abs(rows.sum(1) - 1) < SUM_TOLERANCE).all())
    return Answers(classes, are_probabilities=sums_to_one and bool((rows >= 0).all()))
