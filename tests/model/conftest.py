from pathlib import Path

import pytest
import torch

from model.bundle import file_record, write_manifest
from model.manifest import (
    FORMAT_VERSION,
    Accuracy,
    Calibration,
    Manifest,
    Measured,
    Provenance,
    Quantised,
    Subnetwork,
)
from model.preprocessing import Preprocessing
from model.presets import PRESETS
from tests.model.graphs import small_graph


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of two small graphs."""
    (tmp_path / "weights.bin").write_bytes(b"weights" * 100)
    (tmp_path / "column-1.onnx").write_bytes(small_graph().SerializeToString())
    (tmp_path / "column-1.int8.onnx").write_bytes(small_graph().SerializeToString())
    measured = Measured(value=0.5, n=100)
    accuracy = Accuracy(validation=measured, test=measured)
    calibration = Calibration(temperature=1.5, ece_before=0.1, ece_after=0.02, n=100)
    subnetwork = Subnetwork(
        name="column-1",
        columns=(1,),
        depth=3,
        parameters=1000,
        macs=10_000,
        accuracy=accuracy,
        calibration=calibration,
        graph=file_record(tmp_path / "column-1.onnx"),
        int8=Quantised(
            accuracy=accuracy,
            calibration=calibration,
            agreement=measured,
            graph=file_record(tmp_path / "column-1.int8.onnx"),
        ),
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="digits",
        architecture=PRESETS["tiny"],
        preprocessing=Preprocessing(size=32, shorter_side=36, interpolation="bicubic"),
        labels=tuple("0123456789"),
        weights=file_record(tmp_path / "weights.bin"),
        subnetworks=(subnetwork,),
        provenance=Provenance(
            recipe="tiny",
            seed=0,
            epochs=1,
            dataset="digits",
            dataset_sha256="0" * 64,
            commit="unknown",
            created="2026-01-01T00:00:00+00:00",
            versions={"torch": "2"},
        ),
    )
    write_manifest(tmp_path, manifest)
    return tmp_path
