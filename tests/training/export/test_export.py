"""A bundle answers as torch does, says what it holds, and appears whole or not at all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model import cost
from model.bundle import Bundle, read_bundle
from model.manifest import Precision
from model.sessions import open_session
from tests.training.conftest import TrainedRun
from training import TrainingError
from training.augment import channel_statistics
from training.data.splits import TensorSplit
from training.evaluate import extract_for_serving
from training.export import export
from training.runs.checkpoint import Checkpoint, restore_network

NAMES = {"column-1", "column-2", "full"}


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


def answers(path: Path, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    session = open_session(path, threads=1)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images.numpy()})
    return logits, probabilities


def test_every_column_and_the_full_network_are_exported(bundle: Bundle) -> None:
    assert {s.name for s in bundle.manifest.subnetworks} == NAMES
    macs = [s.macs for s in bundle.manifest.subnetworks]
    assert macs == sorted(macs)


def test_graphs_answer_real_images_as_torch_does(bundle: Bundle, trained: TrainedRun) -> None:
    assert isinstance(trained.data.test, TensorSplit)
    images = trained.data.test.images[:50]
    network = restore_network(trained.checkpoint, trained.data)
    normalise = channel_statistics(trained.data.train)

    for subnetwork in bundle.manifest.subnetworks:
        extracted = extract_for_serving(network, subnetwork.columns, trained.data.train, normalise)
        with torch.no_grad():
            expected = extracted(normalise(images)).numpy()
        logits, probabilities = answers(bundle.graph_path(subnetwork), images)

        np.testing.assert_allclose(logits, expected, atol=1e-4)  # float32; 5e-6 seen
        scaled = torch.from_numpy(logits) / subnetwork.calibration.temperature
        np.testing.assert_allclose(probabilities, scaled.softmax(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_graphs_take_batches_of_any_size(bundle: Bundle, trained: TrainedRun, n: int) -> None:
    assert isinstance(trained.data.test, TensorSplit)

    logits, _ = answers(
        bundle.graph_path(bundle.manifest.subnetworks[0]), trained.data.test.images[:n]
    )

    assert logits.shape == (n, 10)


def test_graphs_pass_the_checker_and_share_one_weights_file(bundle: Bundle) -> None:
    used = set()
    for subnetwork in bundle.manifest.subnetworks:
        path = bundle.graph_path(subnetwork)
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
        used |= {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
    assert used == {bundle.manifest.weights.name}
    assert {p.name for p in bundle.folder.iterdir()} == {
        "manifest.json",
        "manifest.json.sha256",
        "report.html",
        "weights.bin",
        *(f"{name}.onnx" for name in NAMES),
    }


def test_filters_shared_by_subnetworks_are_stored_once(bundle: Bundle, trained: TrainedRun) -> None:
    filters = sum(
        value.numel() * 4
        for name, value in trained.checkpoint.model.items()
        if name.endswith("conv.weight")
    )

    # Every filter once and not once a subnetwork: the rest are norms and the classifier, small here.
    assert bundle.manifest.weights.size_bytes < 1.25 * filters


def test_half_precision_halves_the_weights_and_keeps_the_answers(
    bundle: Bundle, bundle_in: Callable[[Precision], Path]
) -> None:
    folder = bundle_in("float16-filters")

    manifest = read_bundle(folder).manifest
    assert manifest.weights.size_bytes < 0.6 * bundle.manifest.weights.size_bytes
    for half, single in zip(manifest.subnetworks, bundle.manifest.subnetworks, strict=True):
        assert half.accuracy.test_value == pytest.approx(single.accuracy.test_value, abs=0.01)
        assert half.graph.size_bytes < 40_000
    graph = onnx.load(folder / "full.onnx")  # with its external tensors
    stored = [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer]
    assert {t.dtype for t in stored if t.ndim in (2, 4)} == {np.dtype(np.float16)}


def test_a_network_in_half_precision_is_fed_and_answers_as_any_other(
    bundle: Bundle, bundle_in: Callable[[Precision], Path], trained: TrainedRun
) -> None:
    assert isinstance(trained.data.test, TensorSplit)

    half = read_bundle(bundle_in("float16"))

    assert half.manifest.precision == "float16"
    for subnetwork, single in zip(
        half.manifest.subnetworks, bundle.manifest.subnetworks, strict=True
    ):
        graph = onnx.load(half.graph_path(subnetwork))
        assert {t.data_type for t in graph.graph.initializer if len(t.dims) in (2, 4)} == {
            onnx.TensorProto.FLOAT16
        }
        logits, probabilities = answers(half.graph_path(subnetwork), trained.data.test.images)
        assert logits.dtype == probabilities.dtype == np.float32
        assert subnetwork.accuracy.test_value == pytest.approx(single.accuracy.test_value, abs=0.01)


def test_int8_is_beside_the_float_graph_and_answers_nearly_as_it_does(
    bundle: Bundle, bundle_in: Callable[[Precision], Path], trained: TrainedRun
) -> None:
    assert isinstance(trained.data.validation, TensorSplit)
    images = trained.data.validation.images

    both = read_bundle(bundle_in("int8"))

    for subnetwork, single in zip(
        both.manifest.subnetworks, bundle.manifest.subnetworks, strict=True
    ):
        assert subnetwork.int8
        logits, _ = answers(both.graph_path(subnetwork), images)
        in_int8, int8_probabilities = answers(both.graph_path(subnetwork.int8), images)
        agreement = (in_int8.argmax(1) == logits.argmax(1)).mean()
        assert subnetwork.int8.agreement.value == pytest.approx(agreement)
        assert agreement > 0.95  # 0.98 to 1.00 seen; as much as rounding to 256 steps leaves alike
        assert int8_probabilities.dtype == np.float32
        np.testing.assert_allclose(int8_probabilities.sum(1), 1, atol=1e-5)
        assert subnetwork.accuracy.test_value == pytest.approx(single.accuracy.test_value, abs=0.01)


def test_int8_computes_joins_and_all_layers_but_the_first_in_integers(
    bundle_in: Callable[[Precision], Path],
) -> None:
    graph = onnx.load(bundle_in("int8") / "full.int8.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}

    inputs = [
        {made_by.get(name, "weights") for name in node.input}
        for node in graph.node
        if node.op_type in ("Conv", "Add")
    ]

    of_image = [kinds for kinds in inputs if "Mul" in kinds]  # what scales the image
    assert len(of_image) == 2  # the first layers of two columns
    assert all(kinds == {"DequantizeLinear"} for kinds in inputs if "Mul" not in kinds)
    assert [node.op_type for node in graph.node].count("Div") == 1  # by the temperature alone


def test_filters_in_integers_are_stored_once(bundle_in: Callable[[Precision], Path]) -> None:
    half, both = (read_bundle(bundle_in(p)).manifest for p in ("float16-filters", "int8"))

    # A byte a filter beside two, and what each subnetwork has of its own: scales, biases, its first layer.
    assert both.weights.size_bytes < 1.9 * half.weights.size_bytes


def test_a_bundle_is_exported_again_in_another_precision(
    bundle: Bundle, trained: TrainedRun, tmp_path: Path
) -> None:
    manifest = export.export_again(
        bundle, trained.data, tmp_path / "again", name="again", precision="float16-filters"
    )

    assert manifest == read_bundle(tmp_path / "again").manifest
    assert manifest.provenance
    assert manifest.provenance.recipe == bundle.trained[1].recipe
    for again, before in zip(manifest.subnetworks, bundle.manifest.subnetworks, strict=True):
        assert again.columns == before.columns
        assert again.accuracy.test_value == pytest.approx(before.accuracy.test_value, abs=0.01)


def test_accuracies_are_those_of_the_files(bundle: Bundle, trained: TrainedRun) -> None:
    assert isinstance(trained.data.test, TensorSplit)
    for subnetwork in bundle.manifest.subnetworks:
        logits, _ = answers(bundle.graph_path(subnetwork), trained.data.test.images)
        correct = (logits.argmax(1) == trained.data.test.labels.numpy()).mean()

        assert subnetwork.accuracy.test_value == pytest.approx(correct)
        assert subnetwork.accuracy.test
        assert subnetwork.accuracy.test.n == len(trained.data.test)
        assert subnetwork.accuracy.validation.n == len(trained.data.validation)


def test_the_manifest_says_what_each_subnetwork_costs(bundle: Bundle) -> None:
    architecture, _ = bundle.trained
    for s in bundle.manifest.subnetworks:
        assert s.parameters == cost.parameters(architecture, s.columns)
        assert s.macs == cost.macs(architecture, s.columns)
        assert s.depth == cost.depth(architecture, s.columns)


def test_the_manifest_says_where_the_bundle_comes_from(bundle: Bundle, trained: TrainedRun) -> None:
    _, provenance = bundle.trained

    assert provenance.recipe == "small"
    assert provenance.epochs == 3
    assert provenance.dataset_sha256 == trained.data.sha256
    assert set(provenance.versions) == {"torch", "onnx", "onnxruntime"}
    assert bundle.manifest.labels == trained.data.classes


def test_probabilities_are_calibrated_on_validation(bundle: Bundle) -> None:
    full = bundle.manifest.subnetworks[-1]

    assert full.calibration.temperature > 0
    assert full.accuracy.test
    assert full.calibration.n == full.accuracy.test.n


def test_a_crash_leaves_no_half_bundle(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file can be this exact: the first one fails its check.
    monkeypatch.setitem(export.PARITY_TOLERANCE, "float32", -1.0)

    with pytest.raises(TrainingError, match=r"column-1\.onnx: logits differ from torch"):
        export.export_bundle(trained.checkpoint, trained.data, tmp_path / "bundle", name="digits")

    assert list(tmp_path.iterdir()) == []


def test_another_data_set_is_refused(trained: TrainedRun, tmp_path: Path) -> None:
    other = replace(trained.data, sha256="0" * 64)

    with pytest.raises(TrainingError, match="pass that with --data"):
        export.export_bundle(trained.checkpoint, other, tmp_path / "bundle", name="digits")


def test_a_column_without_finite_answers_is_one_clear_line_and_no_bundle(
    tmp_path: Path, overflowing: Checkpoint, trained: TrainedRun
) -> None:
    with pytest.raises(
        TrainingError, match=r"^column-2: its answers are not finite .* more epochs"
    ):
        export.export_bundle(overflowing, trained.data, tmp_path / "bundle", name="digits")

    assert not (tmp_path / "bundle").exists()
