"""A training process that is killed loses at most the epoch in progress."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
RECIPE = ["train", "--recipe", "tiny", "--epochs", "3", "--seed", "4"]


@pytest.mark.timeout(300)  # two processes import torch, on whatever else the machine does
def test_a_killed_run_resumes_to_the_result_of_one_that_was_not(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    command = [*RECIPE, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/3"):
                process.kill()

    assert load_checkpoint(tmp_path / "killed").epoch < 3
    assert main([*command, "--resume"]) == 0
    assert main([*RECIPE, "--out", str(tmp_path / "whole")]) == 0

    resumed, whole = (load_checkpoint(tmp_path / name) for name in ("killed", "whole"))
    assert resumed.epoch == whole.epoch == 3
    assert all(torch.equal(whole.model[name], value) for name, value in resumed.model.items())
