"""From a checkpoint to a bundle: choose subnetworks, write one ONNX file each, check and measure every file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn
from tqdm import tqdm

from model import cost, provenance
from model.bundle import (
    FORMAT_VERSION,
    WEIGHTS_FILE,
    Accuracy,
    Calibration,
    Manifest,
    Measured,
    Precision,
    Provenance,
    Subnetwork,
    check_name,
    check_target,
    file_record,
    staged_folder,
    write_manifest,
)
from model.fractal import FractalNet
from model.path import subnetwork_name
from model.sessions import cores, open_session
from training import TrainingError
from training.augment import Normalisation, channel_statistics
from training.checkpoint import Checkpoint, restore_network
from training.data import DataSet, Split
from training.evaluate import (
    expected_calibration_error,
    extract_for_serving,
    fit_temperature,
    in_order,
    predict,
    score,
)

NETWORK_PREFIX = "network."  # of the names that a graph's tensors have beside those of a checkpoint
HALF_SUFFIX = ".half"  # of a filter's name where it is stored in half precision
SHARED_BYTES = 256  # smaller tensors stay in the graph: a reference would be as large
ALIGNMENT = 64  # of tensors in the weights file, a cache line
CPU = torch.device("cpu")
PARITY_IMAGES = 256
PARITY_TOLERANCE: dict[Precision, float] = {  # of a logit between torch and ONNX Runtime
    "float32": 1e-4,
    "float16-filters": 1e-4,
    "float16": 5e-2,
}


class ServedNetwork(nn.Module):
    """A subnetwork as clients call it: scaling and normalisation before it, calibrated probabilities behind it.

    Both are float32, whatever the network between them computes in.
    """

    def __init__(
        self,
        network: FractalNet,
        normalisation: Normalisation,
        temperature: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.dtype = dtype
        self.shift = nn.Buffer(normalisation.mean * 255)
        self.scale = nn.Buffer(1 / (normalisation.std * 255))
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (N, H, W, 3) to logits and probabilities (N, classes)."""
        x = (images.float() - self.shift) * self.scale
        logits = self.network(x.permute(0, 3, 1, 2).to(self.dtype)).float()
        return logits, torch.softmax(logits / self.temperature, 1)


def export_bundle(
    checkpoint: Checkpoint,
    data: DataSet,
    target: Path,
    *,
    name: str,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> Manifest:
    """Export every useful subnetwork of a trained network to a bundle at ``target``.

    Useful are each column alone, the full network, and every other set of columns on the front of validation
    accuracy against multiply-adds. Unless ``precision`` is float32, the filters are rounded to half precision before
    anything is measured, and stored so. The accuracies are those of the files in ONNX Runtime on the CPU, which computes
    a float16 graph with its weights rounded and float32 between them. ``device`` is where subnetworks are chosen.

    Raises:
        BundleError: the name cannot be a bundle's, or something else than a bundle is at ``target``.
        TrainingError: the data is not what the network was trained on, a subnetwork gives no finite answers, or a file
            differs from torch.
    """
    check_name(name)
    check_target(target)
    network = restore_network(checkpoint, data)
    if precision != "float32":
        _round_filters(network)
    architecture = network.architecture
    normalise = channel_statistics(data.train)
    chosen = _useful_subnetworks(network, data, normalise, device)
    (parity_images, _) = next(
        data.validation.batches([torch.arange(len(data.validation))[:PARITY_IMAGES]])
    )

    with staged_folder(target) as folder:
        weights = WeightsFile(folder / WEIGHTS_FILE, half=precision == "float16-filters")
        subnetworks = []
        for active, (subnetwork, logits) in tqdm(chosen.items(), desc="exporting", disable=None):
            temperature = fit_temperature(logits, data.validation.labels)
            dtype = torch.float16 if precision == "float16" else torch.float32
            served = ServedNetwork(subnetwork, normalise, temperature, dtype).eval()
            graph_name = subnetwork_name(active, architecture.columns)
            path = folder / f"{graph_name}.onnx"
            _write_graph(served, architecture.image_size, path, weights)
            session = open_session(path, threads=cores())
            _check_parity(session, served, parity_images, path, PARITY_TOLERANCE[precision])
            on_validation, on_test = _logits(session, data.validation), _logits(session, data.test)
            subnetworks.append(
                Subnetwork(
                    name=graph_name,
                    columns=tuple(sorted(active)),
                    depth=cost.depth(architecture, active),
                    parameters=cost.parameters(architecture, active),
                    macs=cost.macs(architecture, active),
                    accuracy=Accuracy(
                        validation=_measured(on_validation, data.validation),
                        test=_measured(on_test, data.test),
                    ),
                    calibration=Calibration(
                        temperature=temperature,
                        ece_before=expected_calibration_error(on_test, data.test.labels),
                        ece_after=expected_calibration_error(
                            on_test / temperature, data.test.labels
                        ),
                        n=len(data.test),
                    ),
                    graph=file_record(path),
                )
            )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            architecture=architecture,
            labels=data.classes,
            precision=precision,
            weights=file_record(folder / WEIGHTS_FILE),
            subnetworks=tuple(sorted(subnetworks, key=lambda s: s.macs)),
            provenance=_provenance(checkpoint),
        )
        write_manifest(folder, manifest)
    return manifest


class WeightsFile:
    """The one file with the tensors of all graphs; equal tensors are stored once.

    Args:
        path: of the file.
        half: store filters in half precision; a graph casts them to float32, once, when it is loaded.
    """

    def __init__(self, path: Path, *, half: bool) -> None:
        self.path = path
        self.half = half
        self.offsets: dict[bytes, int] = {}
        self.size = 0

    def store(self, graph: onnx.GraphProto) -> None:
        """Move the large initialisers of a graph into the file."""
        casts = []
        with self.path.open("ab") as file:
            for tensor in graph.initializer:
                values = onnx.numpy_helper.to_array(tensor)
                if values.nbytes < SHARED_BYTES:
                    continue
                if self.half and _is_filter(values):
                    name, stored_name = tensor.name, f"{tensor.name}{HALF_SUFFIX}"
                    casts.append(
                        onnx.helper.make_node(
                            "Cast", [stored_name], [name], to=onnx.TensorProto.FLOAT
                        )
                    )
                    values = values.astype(np.float16)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, stored_name))
                content = values.tobytes()
                if content not in self.offsets:
                    padding = -self.size % ALIGNMENT
                    self.offsets[content] = self.size + padding
                    file.write(bytes(padding) + content)
                    self.size += padding + len(content)
                tensor.raw_data = content  # set_external_data takes only raw tensors
                set_external_data(tensor, self.path.name, self.offsets[content], len(content))
                tensor.ClearField("raw_data")
        nodes = [*casts, *graph.node]
        graph.ClearField("node")
        graph.node.extend(nodes)


def _is_filter(values: Tensor | NDArray[Any]) -> bool:
    """Tell filters and classifier weights, which bear rounding, from scales and statistics, which may not."""
    return values.ndim > 1 and values.dtype in (torch.float32, np.float32)


def _round_filters(network: FractalNet) -> None:
    """Round filters to what half precision holds."""
    with torch.no_grad():
        for parameter in network.parameters():
            if _is_filter(parameter):
                parameter.copy_(parameter.half())


def _useful_subnetworks(
    network: FractalNet, data: DataSet, normalise: Normalisation, device: torch.device
) -> dict[frozenset[int], tuple[FractalNet, Tensor]]:
    """Return the subnetworks to export, cheapest first, with their logits on the validation images; all on the CPU."""
    architecture = network.architecture
    network, normalise = network.to(device), normalise.to(device)
    training, validation = data.train.to(device), data.validation.to(device)
    columns = sorted(architecture.all_columns)
    sets = [frozenset(c) for n in range(len(columns)) for c in combinations(columns, n + 1)]
    sets.sort(key=lambda active: cost.macs(architecture, active))

    useful = {}
    best_accuracy = 0.0
    for active in tqdm(sets, desc="choosing subnetworks", disable=None):
        subnetwork = extract_for_serving(network, active, training, normalise)
        logits = predict(subnetwork, validation, normalise).cpu()
        if not logits.isfinite().all():
            raise TrainingError(
                f"{subnetwork_name(active, architecture.columns)}: its answers are not finite numbers; "
                "train it for more epochs, or with a lower learning rate"
            )
        accuracy = score(logits, data.validation.labels).accuracy
        if len(active) == 1 or active == architecture.all_columns or accuracy > best_accuracy:
            useful[active] = (subnetwork.cpu(), logits)
        best_accuracy = max(best_accuracy, accuracy)
    return useful


def _write_graph(served: ServedNetwork, image_size: int, path: Path, weights: WeightsFile) -> None:
    """Write and check one ONNX file whose large tensors are in the weights file.

    Batch norm stays apart from the convolutions, whose filters all subnetworks share; ONNX Runtime fuses them when
    it loads the graph.
    """
    from onnxscript import optimizer  # half a second that only an export costs

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            optimize=False,  # would fuse batch norm into the filters
            verbose=False,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    _strip_notes(proto.graph)
    weights.store(proto.graph)
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(path)


def _strip_notes(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes about the Python code behind each node: most of a file's size."""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep to itself what torch's exporter says about torch: no torchvision, its own deprecated names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _check_parity(
    session: onnxruntime.InferenceSession,
    served: ServedNetwork,
    images: Tensor,
    path: Path,
    tolerance: float,
) -> None:
    """Compare the file with torch on real images."""
    with torch.no_grad():
        expected = served(images)[0].numpy()
    difference = float(np.abs(_run(session, images.numpy()) - expected).max())
    if not difference <= tolerance:
        raise TrainingError(
            f"{path.name}: logits differ from torch by {difference:.1e}; at most {tolerance:.0e} is allowed"
        )


def _logits(session: onnxruntime.InferenceSession, split: Split) -> Tensor:
    """Return the logits (N, classes) of a split's images, through ONNX Runtime."""
    batches = split.batches(in_order(split))
    return torch.from_numpy(
        np.concatenate([_run(session, images.numpy()) for images, _ in batches])
    )


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits of one batch."""
    logits: NDArray[np.float32] = session.run(["logits"], {"images": images})[0]
    return logits


def _measured(logits: Tensor, split: Split) -> Measured:
    """Return the accuracy of logits on a split."""
    correct = int((logits.argmax(1) == split.labels).sum())
    return Measured(value=correct / len(split), n=len(split))


def _provenance(checkpoint: Checkpoint) -> Provenance:
    """Say where the bundle comes from."""
    return Provenance(
        recipe=checkpoint.recipe.name,
        seed=checkpoint.seed,
        epochs=checkpoint.epoch,
        began_with=checkpoint.origin,
        dataset=checkpoint.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        commit=provenance.commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=provenance.versions("torch", "onnx"),
    )
