"""From a checkpoint to a bundle: choose subnetworks, write one ONNX file each, check and measure every file."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

from model import cost
from model.bundle import (
    REPORT_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleError,
    check_name,
    check_target,
    file_record,
    read_bundle,
    staged_folder,
    write_manifest,
)
from model.cores import cores
from model.fractal import FractalNet
from model.manifest import (
    FORMAT_VERSION,
    Accuracy,
    Calibration,
    Manifest,
    Precision,
    Provenance,
    Quantised,
    Subnetwork,
)
from model.path import subnetwork_name
from model.presets import Architecture
from model.provenance import made_now
from model.sessions import open_session
from training import TrainingError
from training.augment import Normalisation, channel_statistics
from training.data.data_set import DataSet
from training.data.splits import Split
from training.evaluate import extract_for_serving, in_order, predict
from training.export.choice import Front, Right, with_expected
from training.export.report import seen_by, write_report
from training.graphs.graph import ServedNetwork, graph_of, weights_of
from training.graphs.quantise import CALIBRATION_IMAGES, quantise
from training.graphs.scores import (
    Logits,
    calibration,
    fit_temperature,
    latencies_ms,
    logits_of,
    share,
)
from training.graphs.weights_file import WeightsFile, is_filter
from training.runs.checkpoint import Checkpoint, restore_network

CPU = torch.device("cpu")
PARITY_IMAGES = 256
# Of logits between torch and ONNX Runtime; of the largest where that is more than 1. Rounding in a column of 40 layers trained
# for six steps made 4.5e-4; a graph that is wrong differs by tenths.
PARITY_TOLERANCE: dict[Precision, float] = {
    "float32": 1e-3,
    "float16-filters": 1e-3,
    "float16": 5e-2,
    "int8": 1e-3,  # of the graphs beside those in integers
}

Chosen = Mapping[frozenset[int], tuple[FractalNet, Tensor]]
"""The subnetworks to export by their columns, cheapest first, with their logits on the validation images."""


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

    Useful are each column alone, the full network, and every other set of columns that is more accurate on the
    validation images than all cheaper ones, and hardly by luck. Unless ``precision`` is float32, the filters are rounded
    to half precision before anything is measured, and stored so. The accuracies are those of the files in ONNX Runtime on the CPU, which computes
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
    normalise = channel_statistics(data.train)
    chosen = _useful_subnetworks(network, data, normalise, device)
    origin = Provenance(
        recipe=checkpoint.recipe.name,
        seed=checkpoint.seed,
        epochs=checkpoint.epoch,
        began_with=checkpoint.origin,
        taught_by=checkpoint.taught_by,
        dataset=checkpoint.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        **made_now("torch", "onnx"),
    )
    return _write_bundle(
        chosen, network.architecture, data, target, name=name, precision=precision, origin=origin
    )


def export_again(
    bundle: Bundle, data: DataSet, target: Path, *, name: str, precision: Precision
) -> Manifest:
    """Export the subnetworks of a bundle in another precision; nothing is chosen or estimated anew.

    Those that look at an image twice are left out: ``import`` writes them.

    Args:
        bundle: whose subnetworks are taken.
        data: what they were trained on.
        target: the new bundle's folder.
        name: the new bundle's.
        precision: the new one.

    Raises:
        BundleError: the name cannot be a bundle's, something else than a bundle is at ``target``, or subnetworks were
            imported.
        TrainingError: a file differs from torch.
    """
    check_name(name)
    check_target(target)
    architecture, origin = bundle.trained
    chosen = {
        frozenset(each.columns): _ready(_restored(bundle, each), data, precision)
        for each in bundle.seen_once
    }
    origin = origin.model_copy(update=made_now("torch", "onnx"))
    return _write_bundle(
        chosen, architecture, data, target, name=name, precision=precision, origin=origin
    )


def export_specialists(
    bundle: Bundle,
    specialists: Mapping[frozenset[int], Checkpoint],
    data: DataSet,
    target: Path,
    *,
    provenance: Mapping[str, Any],
) -> Manifest:
    """Export a bundle with networks that were trained for their columns alone in their places.

    One takes its place unless it answers fewer validation images rightly than what was there. Of all that the bundle has
    then, those on the front of validation accuracy against multiply-adds are kept, and the full one. ``provenance`` says how
    they were trained.

    Raises:
        BundleError: something else than a bundle is at ``target``, or subnetworks were imported.
        TrainingError: a file differs from torch.
    """
    check_target(target)
    manifest, normalise = bundle.manifest, channel_statistics(data.train)
    architecture, origin = bundle.trained
    chosen: dict[frozenset[int], tuple[FractalNet, Tensor]] = {}
    front = Front()
    for subnetwork in bundle.seen_once:
        columns = frozenset(subnetwork.columns)
        rivals = [_restored(bundle, subnetwork)]
        if columns in specialists:
            trained = restore_network(specialists[columns], data)
            rivals.append(extract_for_serving(trained, columns, data.train, normalise))
        ready = [_ready(each, data, manifest.precision) for each in rivals]
        kept = max(reversed(ready), key=lambda each: _right(each[1], data.validation).sum())
        if front.takes(_right(kept[1], data.validation)) or columns == architecture.all_columns:
            chosen[columns] = kept
    return _write_bundle(
        chosen,
        architecture,
        data,
        target,
        name=manifest.name,
        precision=manifest.precision,
        origin=origin.model_copy(update={**provenance, **made_now("torch", "onnx")}),
    )


def _restored(bundle: Bundle, subnetwork: Subnetwork) -> FractalNet:
    """Return a subnetwork of a bundle with the weights of its graph.

    Raises:
        BundleError: it was imported.
    """
    if subnetwork.source:
        raise BundleError(f"{bundle.folder}: {subnetwork.name} was imported; import it again")
    architecture, _ = bundle.trained
    network = FractalNet(architecture).extract(subnetwork.columns).eval()
    network.load_state_dict(_counters(network) | weights_of(bundle.graph_path(subnetwork)))
    return network


def _ready(network: FractalNet, data: DataSet, precision: Precision) -> tuple[FractalNet, Tensor]:
    """Return a network, its filters rounded as they are stored, and its logits on the validation images."""
    if precision != "float32":
        _round_filters(network)
    return network, predict(network, data.validation, channel_statistics(data.train))


def _write_bundle(
    chosen: Chosen,
    architecture: Architecture,
    data: DataSet,
    target: Path,
    *,
    name: str,
    precision: Precision,
    origin: Provenance,
) -> Manifest:
    """Write the subnetworks, each checked and measured, and the manifest."""
    normalise = channel_statistics(data.train)
    parity_images = _first(data.validation, PARITY_IMAGES)
    calibration_images = _first(data.train, CALIBRATION_IMAGES)
    dtype = torch.float16 if precision == "float16" else torch.float32

    with staged_folder(target) as folder:
        weights = WeightsFile(folder / WEIGHTS_FILE, half=precision in ("float16-filters", "int8"))
        subnetworks = []
        rights: dict[str, Right] = {}  # on the validation images, by graph
        sessions: list[onnxruntime.InferenceSession] = []
        answers: list[Logits] = []  # to the test images
        validation_labels = data.validation.labels.numpy()
        for active, (network, logits) in tqdm(chosen.items(), desc="exporting", disable=None):
            temperature = fit_temperature(logits.numpy(), validation_labels)
            served = ServedNetwork(network, normalise, temperature, dtype).eval()
            own_name = subnetwork_name(active, architecture.columns)
            path = folder / f"{own_name}.onnx"
            graph = graph_of(served, architecture.image_size)
            integers = quantise(graph, calibration_images.numpy()) if precision == "int8" else None
            weights.write(graph, path)
            session = open_session(path, threads=cores())
            _check_parity(session, served, parity_images, path, PARITY_TOLERANCE[precision])
            on_validation = _logits_on(data.validation, session)
            rights[path.name] = on_validation.argmax(1) == validation_labels
            on_test = _logits_on(data.test, session)
            accuracy, calibrated = _measured(on_validation, on_test, data, temperature)
            sessions.append(session)
            answers.append(on_test / temperature)
            int8 = None
            if integers:
                int8_path = folder / f"{own_name}.int8.onnx"
                weights.write(integers, int8_path)
                int8, in_int8 = _quantised(int8_path, on_validation, data, temperature)
                rights[int8_path.name] = in_int8.argmax(1) == validation_labels
            subnetworks.append(
                Subnetwork(
                    name=own_name,
                    columns=tuple(sorted(active)),
                    depth=cost.depth(architecture, active),
                    parameters=cost.parameters(architecture, active),
                    macs=cost.macs(architecture, active),
                    accuracy=accuracy,
                    calibration=calibrated,
                    graph=file_record(path),
                    int8=int8,
                )
            )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            architecture=architecture,
            preprocessing=data.preprocessing,
            labels=data.classes,
            precision=precision,
            weights=file_record(folder / WEIGHTS_FILE),
            subnetworks=with_expected(subnetworks, rights),
            provenance=origin,
        )
        write_manifest(folder, manifest)
        took_ms = latencies_ms(sessions, parity_images[:1].numpy())
        seen = {
            each.name: seen_by(logits, own_ms)
            for each, logits, own_ms in zip(subnetworks, answers, took_ms, strict=True)
        }
        write_report(folder / REPORT_FILE, manifest, data, seen)
        read_bundle(folder)  # as a server will, which refuses what it does not know
    return manifest


def _counters(network: FractalNet) -> dict[str, Tensor]:
    """Return what a checkpoint has beside the weights of a graph: how many batches each batch norm has seen."""
    values = network.state_dict().items()
    return {name: value for name, value in values if name.endswith("num_batches_tracked")}


def _round_filters(network: FractalNet) -> None:
    """Round filters to what half precision holds."""
    with torch.no_grad():
        for parameter in network.parameters():
            if is_filter(parameter.detach().numpy()):
                parameter.copy_(parameter.half())


def _useful_subnetworks(
    network: FractalNet, data: DataSet, normalise: Normalisation, device: torch.device
) -> Chosen:
    """Choose the subnetworks to export; all are given back on the CPU."""
    architecture = network.architecture
    network, normalise = network.to(device), normalise.to(device)
    training, validation = data.train.to(device), data.validation.to(device)
    columns = sorted(architecture.all_columns)
    sets = [frozenset(c) for n in range(len(columns)) for c in combinations(columns, n + 1)]
    sets.sort(key=lambda active: cost.macs(architecture, active))

    useful = {}
    front = Front()
    for active in tqdm(sets, desc="choosing subnetworks", disable=None):
        subnetwork = extract_for_serving(network, active, training, normalise)
        logits = predict(subnetwork, validation, normalise).cpu()
        if not logits.isfinite().all():
            raise TrainingError(
                f"{subnetwork_name(active, architecture.columns)}: its answers are not finite numbers; "
                "train it for more epochs, or with a lower learning rate"
            )
        is_always = len(active) == 1 or active == architecture.all_columns
        if front.takes(_right(logits, data.validation)) or is_always:
            useful[active] = (subnetwork.cpu(), logits)
    return useful


def _right(logits: Tensor, split: Split) -> Right:
    """Say of each image of a split whether its class has the largest logit."""
    right: Right = (logits.argmax(1) == split.labels).numpy()
    return right


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
    difference = float(np.abs(logits_of(session, [images.numpy()]) - expected).max())
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise TrainingError(
            f"{path.name}: logits differ from torch by {difference:.1e}; at most {allowed:.0e} is allowed"
        )


def _quantised(
    path: Path, float_logits: Logits, data: DataSet, temperature: float
) -> tuple[Quantised, Logits]:
    """Measure a graph in integers, beside the logits of the float graph on the validation images; return its own too."""
    session = open_session(path, threads=cores())
    on_validation, on_test = (_logits_on(split, session) for split in (data.validation, data.test))
    accuracy, calibrated = _measured(on_validation, on_test, data, temperature)
    quantised = Quantised(
        accuracy=accuracy,
        calibration=calibrated,
        agreement=share(on_validation, float_logits.argmax(1)),
        graph=file_record(path),
    )
    return quantised, on_validation


def _measured(
    on_validation: Logits, on_test: Logits, data: DataSet, temperature: float
) -> tuple[Accuracy, Calibration]:
    """Return how often a graph is right, and how well its confidence says so, on all test images once."""
    labels = data.test.labels.numpy()
    accuracy = Accuracy(
        validation=share(on_validation, data.validation.labels.numpy()),
        test=share(on_test, labels),
    )
    return accuracy, calibration(on_test, labels, temperature)


def _first(split: Split, n: int) -> Tensor:
    """Return the first images of a split, uint8 (N, H, W, 3)."""
    images, _ = next(split.batches([torch.arange(min(n, len(split)))]))
    return images


def _logits_on(split: Split, session: onnxruntime.InferenceSession) -> Logits:
    """Return the logits of a split's images."""
    batches = split.batches(in_order(split))
    return logits_of(session, (images.numpy() for images, _ in batches))
