"""``anytime``: it teaches, every setting is an option, and what goes wrong is one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import __version__
from service.cli.app import app
from service.settings import Settings, SettingsError, option_name, read_settings, variable_name

ROOT = Path(__file__).parents[3]
HERE = [sys.executable, "-c", "from service.cli import main; main()"]


def words(text: str) -> str:
    """Return a text as one line, however it was wrapped."""
    return " ".join(text.split())


def anytime(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it said."""
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_the_version_is_that_of_the_package() -> None:
    assert anytime("--version") == (0, f"anytime {__version__}\n")


@pytest.mark.parametrize("command", ["serve", "classify", "info", "bench"])
def test_help_of_every_command_has_an_example(command: str) -> None:
    code, text = anytime(command, "--help")

    assert code == 0
    assert f"anytime {command} " in re.split("(?i)examples?:", text)[1]


def test_every_setting_is_an_option() -> None:
    text = words(anytime("serve", "--help")[1])

    for name, field in Settings.model_fields.items():
        assert f"{option_name(name)} " in text
        assert variable_name(name) in text
        assert field.description
        assert field.description in text


def test_an_option_goes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTIME_PORT", "1")
    monkeypatch.setenv("ANYTIME_MAX_BATCH", "2")

    settings = read_settings({"port": "3"})

    assert (settings.port, settings.max_batch) == (3, 2)


def test_a_bad_value_is_named_by_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTIME_MAX_BATCH", "none")

    with pytest.raises(SettingsError, match=r"^ANYTIME_MAX_BATCH: .*'none'"):
        read_settings({"port": "3"})
    with pytest.raises(SettingsError, match=r"^--max-batch: .*'-1'"):
        read_settings({"max_batch": "-1"})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--port", "x"], 2, r"anytime: --port: .*, got 'x'\n"),
        (["serve", "--prot", "1"], 2, r"(?s).*No such option: --prot .*--port.*"),
        (
            ["serve", "/none", "--port", "0"],
            1,
            r"anytime: /none/manifest.json: No such file or directory\n",
        ),
        (["serve", "/none", "--bundle-dir", "/nil"], 2, r"(?s).*the bundle is named twice.*"),
        (["fly"], 2, r"(?s).*No such command 'fly'.*"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str
) -> None:
    result = subprocess.run([*HERE, *arguments], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == code
    assert re.fullmatch(message, result.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*HERE, "info"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert result.returncode == 1
    assert result.stderr == "anytime: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("package", ["service", "training"])
def test_what_lies_in_the_current_folder_is_not_taken_for_the_packages(
    package: str, tmp_path: Path
) -> None:
    for name in ("model", "numpy", "typer"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the current folder')")

    result = subprocess.run(
        [sys.executable, "-m", package, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stderr) == (0, "")
