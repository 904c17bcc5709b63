"""How a release is made: the version, what the changelog says of it, the workflows, and the unit that a machine runs it by."""

import datetime
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
RELEASE = runpy.run_path(str(ROOT / "deploy/release.py"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TODAY = datetime.date(2027, 1, 31)
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n- A thing.\n\n## [0.0.9] - 2026-01-01\n\n- An older thing.\n"

set_version: Callable[[Path, str, datetime.date], None] = RELEASE["set_version"]
notes: Callable[[Path, str], str] = RELEASE["notes"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what has the version, with a short changelog."""
    (tmp_path / "service").mkdir()
    shutil.copy(ROOT / "service/__init__.py", tmp_path / "service")
    shutil.copytree(ROOT / "deploy/kubernetes", tmp_path / "deploy/kubernetes", symlinks=True)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_version_is_set_wherever_it_stands(project: Path) -> None:
    set_version(project, "7.2.0rc1", TODAY)

    chart = yaml.safe_load((project / "deploy/kubernetes/anytime/Chart.yaml").read_text())
    assert RELEASE["current"](project) == chart["appVersion"] == "7.2.0rc1"
    assert chart["version"] == "7.2.0-rc.1"  # as Helm counts
    assert "Version 7.2.0-rc.1" in (project / "deploy/kubernetes/anytime/README.md").read_text()
    assert (
        "## [Unreleased]\n\n## [7.2.0rc1] - 2027-01-31\n\n### Added\n- A thing."
        in (project / "CHANGELOG.md").read_text()
    )
    assert notes(project, "7.2.0rc1") == "### Added\n- A thing.\n"
    assert notes(project, "0.0.9") == "- An older thing.\n"


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("seven", "no version"),
        ("0.0.1", "0.0.1 is earlier than"),
        ("0.0.9", "earlier than"),
        ("0.1.0rc1", "earlier than"),
    ],
)
def test_version_that_is_none_or_goes_back_is_refused(
    project: Path, version: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        set_version(project, version, TODAY)


def test_release_of_nothing_is_refused(project: Path) -> None:
    set_version(project, "7.2.0", TODAY)

    with pytest.raises(ValueError, match=r"7\.2\.0 is released already"):
        set_version(project, "7.2.0", TODAY)
    with pytest.raises(ValueError, match="says nothing of Unreleased"):
        set_version(project, "7.3.0", TODAY)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_do_little_end_and_run_what_is_known(path: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job or job["uses"].startswith("./")
        for step in job.get("steps", []):
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", ""), "a value could be a command: pass it in env"


def test_an_image_has_no_tag_until_it_was_scanned_and_signed() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())

    steps = workflow["jobs"]["image"]["steps"]
    done = [each["uses"].split("@")[0] if "uses" in each else each["run"] for each in steps]
    built, scanned = done.index("docker/build-push-action"), done.index("anchore/scan-action")
    signed = done.index('cosign sign --yes "$IMAGE@$DIGEST"')
    (tagged,) = (place for place, each in enumerate(done) if "--tag" in each)

    assert built < scanned < signed < tagged
    assert "push-by-digest=true" in steps[built]["with"]["outputs"]
    assert "tags" not in steps[built]["with"]
    assert steps[scanned]["with"]["image"].endswith("@${{ steps.push.outputs.digest }}")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_unit_is_right_and_locked_down(tmp_path: Path) -> None:
    text = (ROOT / "deploy/systemd/anytime.service").read_text()
    unit = tmp_path / "anytime.service"
    unit.write_text(text.replace("/opt/anytime/bin/anytime", "/bin/true"))

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
    )

    assert verified.returncode == 0, verified.stderr
    assert str(unit) not in verified.stderr, verified.stderr
    assert rated.returncode == 0, rated.stdout[-80:]  # of 100: 14


def test_unit_leaves_time_to_drain() -> None:
    text = (ROOT / "deploy/systemd/anytime.service").read_text()
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)

    assert float(stop_s) > Settings.model_fields["drain_s"].default
