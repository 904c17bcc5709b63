"""Other servers' own clients against this server: the examples of docs/clients.md, each in an environment of its package.

Their packages bring half a gigabyte and versions that exclude each other, so that they are run where somebody made them room:
in ``~/.cache/anytime/clients``, or the folder that ``CLIENTS`` names.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT, ServerProcess, started
from tests.service.conftest import free_port

FOLDER = Path(os.environ.get("CLIENTS") or "~/.cache/anytime/clients").expanduser()
PACKAGES = {
    "tritonclient": "tritonclient[all]==2.73.0",
    "kserve": "kserve==0.21.0",
    "mlserver": "mlserver==1.7.1 httpx",
}
DOCUMENT = (ROOT / "docs/clients.md").read_text()
EXAMPLES = re.findall(r"^```python (\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with started({"grpc_port": free_port(), "default_deadline_ms": 5000}) as server:
        server.wait_for("ready")
        yield server


@pytest.mark.parametrize(
    ("package", "code"), EXAMPLES, ids=[f"{n}-{each[0]}" for n, each in enumerate(EXAMPLES)]
)
def test_a_client_is_served(
    request: pytest.FixtureRequest, package: str, code: str, tmp_path: Path
) -> None:
    folder = FOLDER / package
    if not (folder / "bin/python").exists():
        pytest.skip(
            f"{package} not installed: python -m venv {folder} && {folder}/bin/pip install {PACKAGES[package]}"
        )
    server: ServerProcess = request.getfixturevalue("server")
    shutil.copy(ROOT / "docs/samples/cat.jpg", tmp_path)
    _, port = server.address
    code = code.replace(":8001", f":{server.settings['grpc_port']}").replace(":8000", f":{port}")
    code = re.sub(
        r"(deadline_ms\W+)25\b|(client_timeout=)0.25", r"\1\g<2>5000", code
    )  # a busy machine
    (tmp_path / "example.py").write_text(code)

    result = subprocess.run(
        [folder / "bin/python", "example.py"], cwd=tmp_path, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stderr
    assert re.search("truck|ship|plane|automobile|cat|dog|frog|bird|deer|horse", result.stdout)


def test_the_load_tool_runs_to_its_end(request: pytest.FixtureRequest) -> None:
    program = shutil.which("perf_analyzer", path=f"{FOLDER}/perf_analyzer/bin:{os.environ['PATH']}")
    if program is None:
        pytest.skip(
            "perf_analyzer not installed: pip install perf-analyzer (glibc 2.38 or later; docs/clients.md says how with an older one)"
        )
    server: ServerProcess = request.getfixturevalue("server")
    host, port = server.address
    (documented,) = re.findall(r"^perf_analyzer (-m .*)$", DOCUMENT, re.MULTILINE)
    ask = documented.replace("127.0.0.1:8000", f"{host}:{port}").replace("Ms:25", "Ms:5000")
    ask = ask.replace("count 500", "count 20")

    result = subprocess.run([program, *ask.split()], capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Throughput" in result.stdout


def test_each_client_has_an_example() -> None:
    assert {package for package, _ in EXAMPLES} == PACKAGES.keys()
