"""What is installed works anywhere: the wheel, in an environment of its own, in a folder with misleading files."""

import subprocess
import sys
import venv
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image

from service import __version__
from tests.server import ROOT, started

TOOLS = ("hatchling", "pip")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that sees the libraries of this one; return its programs."""
    missing = [name for name in TOOLS if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    wheels = tmp_path_factory.mktemp("wheels")
    home = tmp_path_factory.mktemp("environment")
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(wheels),
    ]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    venv.create(home, symlinks=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin/python"),
        "install",
        str(wheel),
    ]
    subprocess.run([*install, "--no-deps", "--no-index", "--quiet"], cwd=wheels, check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(str(Path(onnxruntime.__file__).parents[1]))
    return home / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder whose files are named like the packages, and none of whose may be run."""
    for name in ("model", "service", "training"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name}.py was run')\n")
    (tmp_path / "data").mkdir()
    return tmp_path


def test_an_installed_program_says_its_version(programs: Path, elsewhere: Path) -> None:
    said = subprocess.check_output([programs / "anytime", "--version"], cwd=elsewhere, text=True)

    assert said == f"anytime {__version__}\n"


def test_an_installed_server_serves_the_bundled_network(programs: Path, elsewhere: Path) -> None:
    image = BytesIO()
    Image.new("RGB", (32, 32), "teal").save(image, "PNG")
    command: list[str | Path] = [programs / "anytime", "serve", "--agreement-sample", "1"]
    with started({"folder": elsewhere, "warm_up_s": 0.2}, command) as server:
        server.wait_for("ready")
        reply = server.classify(image.getvalue()).json()
        page, sample = server.client.get("/"), server.client.get("/samples/cat.jpg")
        server.client.post("/load", json={"times": 0.1, "deadline_ms": 500})
        while not server.client.get("/load").json()["sent_per_s"]:
            pass  # its process sends, whatever the folder holds
        server.terminate()

        assert reply["bundle"]["name"] == "cifar10"
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert sample.content == (ROOT / "docs/samples/cat.jpg").read_bytes()
        assert server.end() == (0, "")


def test_an_installed_program_classifies_without_a_server(programs: Path, elsewhere: Path) -> None:
    Image.new("RGB", (32, 32), "teal").save(elsewhere / "teal.png")

    said = subprocess.check_output(
        [programs / "anytime", "classify", "teal.png", "--deadline-ms", "60000"],
        cwd=elsewhere,
        text=True,
    )

    assert said.splitlines()[1].startswith("teal.png ")


@pytest.mark.parametrize(
    ("hidden", "arguments", "extras"),
    [
        ("typer", ["--help"], "cpu"),
        ("uvicorn", ["serve"], "cpu"),
        ("httpx", ["info"], "cpu"),
        ("torch", ["train", "--help"], "cpu,train"),
        ("onnx", ["import", "--help"], "cpu,import"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    programs: Path, elsewhere: Path, hidden: str, arguments: list[str], extras: str
) -> None:
    hide = f"import sys; sys.modules[{hidden!r}] = None; from service.cli import main; main()"

    result = subprocess.run(
        [programs / "python", "-P", "-c", hide, *arguments],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert result.stderr == (
        f"anytime: {hidden} is not installed: pip install 'anytime-inference[{extras}]'\n"
    )
