"""What holds for the project as a whole: who imports whom, and that the documents are true."""

import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.observability.telemetry import Metrics
from service.problems import CATALOGUE
from service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
API = (ROOT / "docs/api.md").read_text()
TRAINING_ONLY = {
    "torch",
    "onnx",
    "sklearn",
    "scipy",
    "tqdm",
    "matplotlib",
    "training",
}


def test_the_server_imports_nothing_that_only_training_or_grpc_needs() -> None:
    program = "import sys, service.server, service.front.__main__, service.engine.engine; print(*{m.split('.')[0] for m in sys.modules})"

    imported = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()

    assert not (TRAINING_ONLY | {"grpc"}) & set(imported)


def test_every_module_has_its_place_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"\w+\.py\b", text))
    modules = {
        path
        for package in ("model", "training", "service")
        for path in (ROOT / package).rglob("[a-z]*.py")
        if path.parent.name != "cli"  # a file a command
    }

    assert len(modules) > 100
    assert not {str(path.relative_to(ROOT)) for path in modules if path.name not in named}


def test_the_files_of_the_server_are_short_and_its_folders_small() -> None:
    modules = list((ROOT / "service").rglob("[a-z]*.py"))
    folders = Counter(path.parent for path in modules)

    assert not [path for path in modules if len(path.read_text().splitlines()) > 400]
    assert not [folder for folder, files in folders.items() if files > 16]


@pytest.mark.parametrize("document", ["security.md", "reliability.md"])
def test_every_test_that_holds_a_promise_exists(document: str) -> None:
    promises = (ROOT / "docs" / document).read_text()
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    names = set(re.findall(r"`(test_\w+)`", promises))
    files = set(re.findall(r"`(tests/\S+\.py)`", promises))

    assert len(names) > 10
    assert not {name for name in names if not any(f"def {name}(" in each for each in tests.values())}  # fmt: skip
    assert not {each for each in files if not (ROOT / each).is_file()}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`ANYTIME_{name.upper()}`" in API


def test_every_setting_of_the_table_exists() -> None:
    rows = set(re.findall(r"^\| `ANYTIME_(\w+)` \|", API, re.MULTILINE))

    assert rows == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("slug", CATALOGUE)
def test_every_problem_is_documented(slug: str) -> None:
    assert f"`{slug}`" in API


def test_every_metric_is_documented() -> None:
    metrics = Metrics(CollectorRegistry(), version="test")
    names = set(
        re.findall(r"^# TYPE (anytime_\w+)", metrics.exposition()[0].decode(), re.MULTILINE)
    )

    undocumented = {name for name in names if f"`{name}" not in API}

    assert names
    assert not undocumented


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_of_a_document_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text())

    broken = [link for link in links if not (document.parent / link).exists()]

    assert not broken


def test_every_command_of_a_document_runs_a_module_that_exists() -> None:
    modules = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("training/**/*.py")]
    commands = re.compile(
        r"python -m ((?:benchmarks|training|service|tests)\b[\w.]*\w)(?!\.?[\w<])"  # nor any of several: peers.<name>
        r"(?![^`\n]*` at commit)"  # a measurement of a commit that had it
    )
    named = {
        name
        for path in [*DOCUMENTS, ROOT / "Makefile", *modules]
        for name in commands.findall(path.read_text())
    }

    assert len(named) > 10
    assert not {name for name in named if not _can_be_run(name)}


def _can_be_run(name: str) -> bool:
    """Tell whether ``python -m name`` finds something to run."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # its package is not there
        return False
    if spec and spec.submodule_search_locations:  # a package
        return find_spec(f"{name}.__main__") is not None
    return spec is not None
