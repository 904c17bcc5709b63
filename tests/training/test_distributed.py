"""Two processes with half a mini-batch each step as one does with all of it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from socket import socket

import pytest
import torch
from torch.testing import assert_close

from tests.training.conftest import CPU
from training import TrainingError
from training.config import RECIPES, Recipe
from training.data.data_set import DataSet, load_data
from training.data.splits import TensorSplit
from training.distributed import LEFT_ALONE, Group, joined_group
from training.runs.checkpoint import Checkpoint, load_checkpoint
from training.trainer import train

ROOT = Path(__file__).parents[2]


def recipe() -> Recipe:
    """Two steps of every pass there is; no dropout, whose masks belong to a process."""
    tiny = RECIPES["tiny"]
    architecture = replace(tiny.architecture, columns=2, divisors=(), channels=(8, 16), dropout=())
    return replace(
        tiny,
        name="pair",
        architecture=architecture,
        epochs=1,
        batch_size=64,
        drop_path="tied",
        distillation=0.5,
        averaging=0.9,
        augmentation="++",
        schedule="paper",
    )


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
WORKER = """
import sys
from pathlib import Path

import torch

from tests.training.test_distributed import train_in_float32
from training.distributed import joined_group

torch.set_num_threads(1)
with joined_group() as group:
    train_in_float32(Path(sys.argv[1]), group)
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads  # they would abort while Python ends
"""


def few() -> DataSet:
    """128 digits to train on: two steps."""
    digits = load_data("digits", seed=0)
    assert isinstance(digits.train, TensorSplit)
    assert isinstance(digits.validation, TensorSplit)
    return replace(
        digits,
        train=digits.train.take(torch.arange(128)),
        validation=digits.validation.take(torch.arange(33)),
    )


def train_in_float32(folder: Path, group: Group, data: DataSet | None = None) -> Checkpoint:
    """Train without bf16, whose rounding would hide every other difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return train(recipe(), data or few(), folder, seed=0, device=CPU, resume=True, group=group)


def train_in_two_processes(folder: Path) -> Checkpoint:
    """Train in two processes started by torchrun."""
    script = folder / "worker.py"
    folder.mkdir()
    script.write_text(WORKER)
    process = subprocess.Popen([*TORCHRUN, str(script), str(folder)], cwd=ROOT, env=ENVIRONMENT)
    try:
        assert process.wait(timeout=280) == 0
    finally:
        process.terminate()  # torchrun takes its workers along
        process.wait()
    return load_checkpoint(folder)


@pytest.mark.timeout(300)  # three interpreters import torch, on whatever else the machine does
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    one = train_in_float32(tmp_path / "one", Group())
    two = train_in_two_processes(tmp_path / "two")

    # float32 sums in another order, through two steps: 1e-6 seen.
    for name, value in one.model.items():
        assert_close(two.model[name], value, atol=2e-5, rtol=1e-4)
    for name, value in one.averaged.items():
        assert_close(two.averaged[name], value, atol=2e-5, rtol=1e-4)
    for key in ("train_loss", "full/accuracy", "full/loss", "column-1/loss"):
        assert_close(two.history[0][key], one.history[0][key], atol=1e-4, rtol=1e-4)


STOPPED = {
    "a folder that is not shared": (
        "train_in_float32(folder / str(group.rank), group)",
        "here and another for other processes; --out must be one folder that all of them see",
    ),
    "data that is not the same": (
        "train_in_float32(folder / 'run', group, replace(few(), sha256='ab'[group.rank] * 64))",
        "here and another for other processes; --data must hold the same images for all of them",
    ),
    "an error that one alone has": (
        "if group.rank:\n        raise TrainingError('image 7 is damaged')\n    group.sum([1.0])",
        "image 7 is damaged",
    ),
}
STOPPED_WORKER = """
import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.training.test_distributed import few, train_in_float32
from training import TrainingError
from training.distributed import joined_group

folder = Path(sys.argv[1])
try:
    with joined_group() as group:
        {block}
except TrainingError as error:
    (folder / f"line-{{os.environ['RANK']}}").write_text(str(error))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", STOPPED)
def test_what_stops_one_process_stops_all_with_a_line_each(case: str, tmp_path: Path) -> None:
    block, line = STOPPED[case]
    script = tmp_path / "worker.py"
    script.write_text(STOPPED_WORKER.format(block=block.replace("\n", "\n    ")))
    (tmp_path / "1").mkdir()
    one = train_in_float32(tmp_path / "1", Group())
    assert one.epoch == 1

    run = subprocess.run(
        [*TORCHRUN, str(script), str(tmp_path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    lines = [path.read_text() for path in tmp_path.glob("line-*")]
    assert len(lines) == 2, run.stderr
    assert any(line in each for each in lines)
    assert all(line in each or LEFT_ALONE in each for each in lines)


@pytest.mark.timeout(300)
def test_the_command_line_prints_what_stopped_it(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    train = ["-m", "training", "train", "--recipe", "tiny", "--epochs", "1", "--out", str(taken)]

    run = subprocess.run(
        [*TORCHRUN, *train], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )

    assert run.returncode == 1
    assert "taken: cannot be written to" in run.stderr
    assert "Connection closed" not in run.stderr


def test_processes_that_cannot_join_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in {"WORLD_SIZE": "1", "RANK": "0", **address}.items():
            monkeypatch.setenv(name, value)

        with (
            pytest.raises(TrainingError, match="the processes cannot join") as raised,
            joined_group(),
        ):
            pass

    assert "\n" not in str(raised.value)


class AlikeGroup(Group):
    """Processes that all have the same to say."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return [value * self.size for value in values]


def test_every_process_has_a_share_of_every_mini_batch(tmp_path: Path) -> None:
    one = replace(recipe(), batch_size=1)

    with pytest.raises(TrainingError, match="a mini-batch of 1 has no image for each of 2"):
        train(one, few(), tmp_path, seed=0, device=CPU, resume=False, group=AlikeGroup(size=2))


def test_a_process_alone_shares_with_nobody() -> None:
    group = Group()

    assert torch.equal(group.share(torch.arange(5)), torch.arange(5))
    assert group.sum([1.5, 2.0]) == [1.5, 2.0]
