from pathlib import Path

import numpy as np
import onnx
import pytest

from model.bundle import PRETRAINED_DIR
from training import TrainingError
from training.graphs.quantise import quantise

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)


def test_a_graph_is_quantised_from_a_folder_that_holds_a_training_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)

    quantised = quantise(onnx.load(PRETRAINED_DIR / "cifar10" / "narrow-column-1.onnx"), NOISE)

    assert "QuantizeLinear" in {node.op_type for node in quantised.graph.node}


def test_a_graph_that_cannot_be_quantised_is_one_line() -> None:
    with pytest.raises(TrainingError, match=r"^int8: [^\n]+$"):
        quantise(onnx.ModelProto(), NOISE)
