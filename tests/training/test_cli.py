"""``python -m training`` teaches, answers in tables, and fails in one line."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.bundle import read_bundle
from service.cli.app import app
from service.cli.training import COMMANDS
from tests.training.conftest import TrainedRun
from training.__main__ import EXAMPLES, main
from training.config import RECIPES
from training.runs.checkpoint import load_checkpoint


def test_help_shows_the_way_from_data_to_a_served_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    text = capsys.readouterr().out
    for command in ("anytime train", "anytime evaluate", "anytime export"):
        assert command in text


def test_anytime_has_the_commands_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    said = " ".join(capsys.readouterr().out.split())
    assert COMMANDS.keys() == EXAMPLES.keys()
    for name, summary in COMMANDS.items():
        assert f"{name} {summary[0].lower()}{summary[1:-1]}" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_anytime_passes_arguments_on_to_training(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])

    assert result.exit_code == 0
    assert f"usage: anytime {name} " in result.stdout
    assert f"example: {EXAMPLES[name]}" in result.stdout


def test_help_of_train_lists_every_recipe_and_every_kind_of_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in RECIPES)
    assert all(word in text for word in ("digits", "cifar10", "svhn", "train/<class>", "torchrun"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--recipe", "unknown", "--out", "x"],
        ["train", "--recipe", "tiny"],
        ["train", "--recipe", "tiny", "--out", "x", "--epochs", "0"],
        ["train", "--recipe", "tiny", "--out", "x", "--batch-size", "0"],
        ["train", "--recipe", "tiny", "--out", "x", "--image-size", "7"],
        ["train", "--recipe", "tiny", "--out", "x", "--image-size", "1025"],
        ["train", "--recipe", "tiny", "--out", "x", "--learning-rate", "nan"],
        ["train", "--recipe", "tiny", "--out", "x", "--learning-rate", "1e300"],
        ["train", "--recipe", "tiny", "--out", "x", "--seed", "4294967296"],
        ["evaluate", "--run", "x", "--split", "train"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["evaluate", "--run", "{tmp}/none"], "no such checkpoint; train first"),
        (["export", "--run", "{tmp}/none", "--out", "{tmp}/bundle"], "no such checkpoint"),
        (
            ["train", "--recipe", "tiny", "--data", "{tmp}/none", "--out", "{tmp}/run"],
            "no such data",
        ),
        (["export", "--run", "{tmp}/run", "--out", "{tmp}/bundle"], "no such checkpoint"),
        (
            ["train", "--recipe", "tiny", "--out", "{tmp}/run", "--image-size", "32"],
            "digits: its images are 8×8 and stay so; leave out --image-size",
        ),
        (
            ["train", "--recipe", "tiny", "--out", "/dev/null/run"],
            "/dev/null/run: cannot be written to (Not a directory); choose another --out",
        ),
    ],
)
def test_failures_are_one_line_and_exit_1(
    arguments: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([a.replace("{tmp}", str(tmp_path)) for a in arguments] + one_epoch(arguments))

    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.startswith("error: ")
    assert fault in captured.err
    assert captured.err.count("\n") == 1


def test_results_that_could_not_be_written_are_not_worked_for(
    trained: TrainedRun,
    bundle_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bundle_folder)
    for arguments, fault in (
        (["export", "--run", str(trained.folder), "--out", "/dev/null/b"], "/dev/null: cannot be"),
        (["export", "--run", str(trained.folder), "--out", "."], ".: is the folder you are in"),
        (["measure", "--bundle", str(bundle_folder), "--out", "/dev/null/a"], "a: cannot be"),
    ):
        assert main(arguments) == 1
        assert fault in capsys.readouterr().err


def one_epoch(arguments: list[str]) -> list[str]:
    return ["--epochs", "1"] if arguments[0] == "train" else []


def test_a_recipes_paths_and_augmentation_can_be_changed(tmp_path: Path) -> None:
    changes = ["--epochs", "1", "--drop-path", "local", "--augmentation", "+"]
    assert main(["train", "--recipe", "tiny", "--out", str(tmp_path), *changes]) == 0

    recipe = load_checkpoint(tmp_path).recipe
    assert (recipe.drop_path, recipe.augmentation) == ("local", "+")


def test_images_and_mini_batches_have_the_size_that_is_asked_for(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(tmp_path / "run"), str(class_folders)
    changes = ["--epochs", "1", "--image-size", "20", "--batch-size", "8"]
    assert main(["train", "--recipe", "tiny", "--data", data, "--out", run, *changes]) == 0

    recipe = load_checkpoint(tmp_path / "run").recipe
    assert (recipe.architecture.image_size, recipe.batch_size) == (20, 8)
    capsys.readouterr()
    assert main(["evaluate", "--run", run]) == 0  # it knows its data
    assert "4 validation images of " in capsys.readouterr().out


def test_what_a_user_should_know_of_the_data_is_said_before_training(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (class_folders / "train" / "dark" / "000.jpg").write_bytes(b"no image")
    train = ["train", "--recipe", "tiny", "--epochs", "1", "--out", str(tmp_path / "run")]
    train += ["--data", str(class_folders)]
    assert main(train) == 1
    assert (
        "an image cannot be read; mend the data, or go without with --skip-unreadable"
        in capsys.readouterr().err
    )

    assert main([*train, "--skip-unreadable"]) == 0
    assert "note: an image cannot be read, left out: " in capsys.readouterr().err
    assert main(["evaluate", "--run", str(tmp_path / "run")]) == 0


def test_a_file_that_is_no_archive_is_not_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", "--recipe", "tiny", "--out", str(tmp_path / "run"), "--data", __file__]
    assert main(run) == 1

    assert "is a file, but no .tar.gz of CIFAR; pass that" in capsys.readouterr().err


def fill_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "fill_memory",
    [fill_the_gpu, lambda: torch.empty(1 << 55), lambda: np.empty(1 << 55)],
    ids=["of a GPU", "by torch", "by NumPy"],
)
def test_no_memory_left_is_one_line_that_says_what_to_lower(
    fill_memory: Callable[[], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("training.__main__.train", lambda *_, **__: fill_memory())

    assert main(["train", "--recipe", "tiny", "--out", str(tmp_path)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory; lower --batch-size or --image-size (")


def test_output_that_nobody_reads_any_more_ends_a_command_without_a_word(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `anytime data check FOLDER | head` may

    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["data", "check", str(class_folders)]) == 1

    assert capsys.readouterr().err == ""


def test_a_plain_network_has_no_paths_to_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["train", "--recipe", "paper-plain-5", "--drop-path", "mixed", "--out", str(tmp_path)]
    assert main(plain) == 1

    assert "paper-plain-5 trains one column alone" in capsys.readouterr().err


def test_processes_that_cannot_join_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)

    assert main(["train", "--recipe", "tiny", "--out", str(tmp_path)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "WORLD_SIZE is set, but the processes cannot join" in line


def test_a_run_that_goes_on_no_longer_needs_the_one_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    train = ["train", "--recipe", "tiny", "--epochs", "1", "--out"]
    assert main([*train, first]) == 0
    assert main([*train, second, "--begin-with", first]) == 0
    shutil.rmtree(first)

    assert main([*train, second, "--begin-with", first, "--resume"]) == 0
    assert not capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_refused_before_the_data_are_read(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "photos")

    assert main(["train", "--data", missing, "--out", str(trained.folder)]) == 1

    assert f"{trained.folder}: holds a checkpoint already; " in capsys.readouterr().err


def test_a_teacher_needs_pupils_in_its_mini_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--recipe", "cpu-narrow-c4-distilled", "--drop-path", "mixed"]

    assert main([*train, "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "distils within a mini-batch: drop-path mixed has one pass in each" in line


def test_train_then_evaluate_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")

    assert main(["train", "--recipe", "tiny", "--epochs", "1", "--out", run]) == 0
    trained = capsys.readouterr()
    assert "device: CPU" in trained.out
    assert "epoch 1/1" in trained.out
    assert trained.err == ""  # no progress bar where there is no terminal

    assert main(["evaluate", "--run", run, "--split", "test"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "360 test images of digits" in table[0]
    assert table[1].split() == ["subnetwork", "depth", "MMACs", "accuracy", "95", "%", "loss"]
    assert [row.split()[0] for row in table[2:6]] == ["column-1", "column-2", "column-3", "full"]
    assert table[7] == "full, by class:"
    assert [row.split()[0] for row in table[9:]] == list("0123456789")
    assert sum(int(row.split()[1]) for row in table[9:]) == 360
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_export_prints_what_the_bundle_holds(
    trained: TrainedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"

    assert main(["export", "--run", str(trained.folder), "--out", str(out)]) == 0

    captured = capfd.readouterr()
    assert captured.err == ""  # no warnings of the exporter's libraries reach users
    assert "calibration error" in captured.out
    accuracy = read_bundle(out).manifest.subnetworks[-1].accuracy.test
    assert accuracy
    assert f"{accuracy.value:.2%}" in captured.out


def test_a_bundle_is_exported_in_another_precision_on_the_data_that_is_named(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", "--run", str(bundle_folder), "--out", str(tmp_path / "int8")]
    export += ["--precision", "int8"]

    assert main(export) == 1
    assert "where its data is (digits); pass it with --data" in capsys.readouterr().err
    assert main([*export, "--data", "digits"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert sum("in int8" in line and "of the answers as in float" in line for line in lines) == 3
    assert all(s.int8 for s in read_bundle(tmp_path / "int8").manifest.subnetworks)


def test_a_full_disk_at_export_names_the_bundle(
    trained: TrainedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundles" / "digits"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        code = main(["export", "--run", str(trained.folder), "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert code == 1
    assert capfd.readouterr().err == f"error: {out}: File too large\n"
    assert not list(out.parent.iterdir())


SWALLOWED = """
import signal
import weakref

from training.commands.exits import end_on_signals

end_on_signals()


class Thing: ...


thing = Thing()
callback = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
try:
    del thing
    while True:
        pass
except KeyboardInterrupt:
    print("ended")
"""


def test_a_signal_is_not_lost_in_a_callback_that_raises_for_nobody() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.stdout, run.stderr) == ("ended\n", "")


def test_an_export_told_to_end_leaves_nothing_behind(trained: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "digits"
    command = [
        sys.executable,
        "-m",
        "training",
        "export",
        "--run",
        str(trained.folder),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out.parent.exists() and list(out.parent.glob("*/new/*"))):
        assert process.poll() is None

    process.terminate()

    assert process.communicate()[1] == "stopped; run it again to go on\n"
    assert process.returncode == 130
    assert not list(out.parent.iterdir())
