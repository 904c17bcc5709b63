"""Every example of docs/clients.md runs as it stands, where this machine has its language."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, ServerProcess

EXAMPLES = re.findall(
    r"^```(python|sh|javascript|go)\n(.*?)^```$",
    (ROOT / "docs/clients.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
ADDRESS = "http://127.0.0.1:8000"
PROGRAMS = {
    "python": ("example.py", [sys.executable]),
    "sh": ("example.sh", ["bash", "-eu"]),
    "javascript": ("example.mjs", ["node"]),
    "go": ("example.go", ["go", "run"]),
}


@pytest.mark.parametrize(
    ("language", "code"), EXAMPLES, ids=[f"{n}-{each[0]}" for n, each in enumerate(EXAMPLES)]
)
def test_an_example_runs(
    language: str, code: str, server: ServerProcess, jpeg: bytes, tmp_path: Path
) -> None:
    name, (program, *arguments) = PROGRAMS[language]
    needed = {program, "curl"} if "curl" in code else {program}
    missing = [each for each in sorted(needed) if shutil.which(each) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    (tmp_path / "cat.jpg").write_bytes(jpeg)
    url = str(server.client.base_url)
    (tmp_path / name).write_text(code.replace(ADDRESS, url).replace("Client()", f"Client({url!r})"))

    result = subprocess.run(
        [program, *arguments, name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stderr
    assert re.search(r"(?i)truck|ship|plane|car|cat|dog|frog|bird|deer|horse", result.stdout)


def test_there_is_an_example_in_each_language() -> None:
    assert {language for language, _ in EXAMPLES} == PROGRAMS.keys()
