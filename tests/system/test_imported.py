"""Three networks that were made elsewhere are imported and served as docs/your-models.md tells it."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from service.cli.app import app
from service.client import Client
from tests.networks import network, write_images
from tests.server import ROOT, ServerProcess, started

STORY = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "docs/your-models.md").read_text(), re.MULTILINE | re.DOTALL
)
ANYTIME = [sys.executable, "-P", "-c", "from service.cli import main; main()"]
NAMES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the story begins with: three networks, labels, and photographs of each class."""
    folder = tmp_path_factory.mktemp("models")
    for name, channels in zip(NAMES, ((1,), (3,), (64, 512, 256)), strict=True):
        onnx.save(network(*channels), folder / f"{name}.onnx")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in range(10)))
    write_images(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """The server that the story ends with."""
    imported, shown, served = (shlex.split(line) for line in STORY[0].splitlines())
    said = subprocess.check_output([*ANYTIME, *imported[1:]], cwd=folder, text=True)
    for name in NAMES:
        assert re.search(rf"^{name} +– ", said, re.MULTILINE)
    assert shown[:2] == ["anytime", "info"]
    assert served[:2] == ["anytime", "serve"]
    settings = {"bundle_dir": folder / served[2], "warm_up_s": 0.5, "max_lateness": 10_000}
    with started(settings) as server:  # which a busy machine may be late for
        server.wait_for("ready")
        yield server


def test_deadlines_choose_among_the_networks(server: ServerProcess, folder: Path) -> None:
    photo = next((folder / "photos" / "3").iterdir()).read_bytes()
    tight, loose = (
        float(re.findall(r"deadline_ms=(\d+)", line)[0]) for line in STORY[1].splitlines()
    )
    listed = {
        each["name"]: each for each in server.client.get("/subnetworks").json()["subnetworks"]
    }
    tight = min(tight, listed["large"]["predicted_run_latency_ms"])

    soon = server.classify(photo, deadline_ms=tight).json()
    later = server.classify(photo, deadline_ms=loose).json()

    assert soon["subnetwork"] in ("small", "medium")
    assert (later["subnetwork"], later["label"], later["in_time"]) == ("large", "3", True)
    assert 0.5 < later["confidence"] < 1


def test_networks_without_columns_are_listed_counted_and_shown(
    server: ServerProcess, folder: Path
) -> None:
    photo = next((folder / "photos" / "7").iterdir())
    url = str(server.client.base_url)
    with Client(url) as client:
        listed = client.subnetworks().subnetworks
        answers = {
            name: client.classify(photo, subnetwork=name, deadline_ms=5000) for name in NAMES
        }

    assert [(each.name, each.columns, each.depth) for each in listed] == [
        (name, (), None) for name in NAMES
    ]
    assert all(each.test_accuracy is None for each in listed)
    accuracies = [each.expected_accuracy for each in listed]
    assert accuracies == sorted(accuracies)
    assert answers["large"].label == "7"
    metrics = server.metrics()
    for name in NAMES:
        assert any(f'subnetwork="{name}"' in sample and value for sample, value in metrics.items())
    assert server.client.get("/").status_code == 200
    assert "large" in CliRunner().invoke(app, ["info", url]).output
