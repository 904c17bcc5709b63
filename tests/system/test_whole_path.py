"""From a data set to an answer, as a user goes: train, export, serve, ask."""

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.bundle import read_bundle
from tests.server import ServerProcess
from training.data.data_set import load_data

ROOT = Path(__file__).parents[2]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # the network is too small for more


@pytest.fixture(scope="module")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("digits")
    for command in (
        ("train", "--recipe", "tiny", "--out", run),
        ("export", "--run", run, "--out", run / "bundle"),
    ):
        words = [sys.executable, "-m", "training", *map(str, command)]
        subprocess.run(words, cwd=ROOT, env=ONE_THREAD, check=True, capture_output=True)
    return run / "bundle"


def test_a_network_trained_here_answers_over_http(
    digits_bundle: Path, start_server: Callable[..., ServerProcess]
) -> None:
    bundle = read_bundle(digits_bundle)
    test = load_data("digits", seed=0).test
    ((images, labels),) = test.batches([torch.arange(len(test))])
    server = start_server(bundle_dir=digits_bundle)
    server.wait_for("ready")

    correct = 0
    for pixels, label in zip(images.numpy(), labels.tolist(), strict=True):
        png = BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        answer = server.classify(png.getvalue(), subnetwork="full", deadline_ms=1000).json()
        correct += answer["class_id"] == label

    accuracy = {each.name: each.accuracy.test_value for each in bundle.manifest.subnetworks}
    assert correct / len(test) == accuracy["full"]
    assert correct / len(test) > 0.9  # seed 0 reaches 0.98; ten classes, so chance is 0.1
