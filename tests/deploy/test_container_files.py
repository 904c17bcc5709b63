"""What can be said of the container files without building them."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service import __version__

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVERS = ("server", "server-gpu", "replica")


def locked(file: str) -> dict[str, list[Requirement]]:
    """Return what a lock file pins, by name; some packages have a version for each Python."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "deploy" / "requirements" / file).read_text().splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\").strip())
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def required(project: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """Give what an extra asks for, and what the extras ask for that it is made of."""
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for part in requirement.extras:
                yield from required(project, part)
        else:
            yield requirement


def test_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"

    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert result.stdout + result.stderr == ""


def test_pip_of_the_base_is_removed_before_the_server_s_user_takes_over(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    final = dockerfile[dockerfile.index("AS runtime") :]
    (removal,) = re.findall(r"^RUN (find / .*)$", final, re.MULTILINE)
    pip = (
        "usr/local/bin/pip",
        "usr/local/bin/pip3.13",
        "usr/local/lib/python3.13/site-packages/pip/__init__.py",
        "usr/local/lib/python3.13/site-packages/pip-25.1.1.dist-info/RECORD",
        "usr/local/lib/python3.13/ensurepip/_bundled/pip-25.1.1-py3-none-any.whl",
        "usr/lib/python3/dist-packages/pip/__init__.py",
        "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl",
    )
    others = (
        "usr/local/bin/python3.13",
        "usr/local/bin/pipewire",
        "usr/local/lib/python3.13/pipes.py",
        "usr/local/lib/python3.13/site-packages/pipeline/__init__.py",
    )
    for name in (*pip, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    subprocess.run(removal.replace("find /", f"find {tmp_path}", 1), shell=True, check=True)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)
    assert final.index(removal) < final.index("USER ")


LOCKS = {
    "cpu": ("cpu", "traces", "grpc"),
    "gpu": ("gpu", "traces", "grpc"),
    "dev": ("serve", "traces", "grpc", "train", "dev"),
    "audit": ("audit",),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_the_project_asks_for(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked(f"{lock}.txt")

    for wanted in (each for extra in LOCKS[lock] for each in required(project, extra)):
        if wanted.name == "torch":  # the machine chooses its build
            continue
        for pin in pins[canonicalize_name(wanted.name)]:
            (version,) = [each.version for each in pin.specifier]
            assert wanted.specifier.contains(version), f"{pin} is not {wanted}: run deploy/lock.sh"


def test_the_locks_that_are_installed_together_agree() -> None:
    """A version for each Python, but never two for one."""
    for runtime in ("cpu", "gpu"):
        pins, others = locked(f"{runtime}.txt"), locked("dev.txt")
        for name in pins.keys() & others.keys():
            assert set(map(str, pins[name])) == set(map(str, others[name]))


def test_everything_that_is_locked_has_a_hash() -> None:
    for path in (ROOT / "deploy" / "requirements").glob("*.txt"):
        blocks = re.split(r"\n(?=[a-z])", path.read_text())[1:]
        assert blocks
        assert all("--hash=sha256:" in block for block in blocks), path


def test_chart_is_of_the_package_s_version() -> None:
    chart = yaml.safe_load((ROOT / "deploy/kubernetes/anytime/Chart.yaml").read_text())

    assert chart["appVersion"] == __version__
    assert chart["version"].replace("-", "").replace("rc.", "rc") == __version__


def test_only_one_onnx_runtime_and_no_torch_is_locked() -> None:
    assert {name for name in locked("cpu.txt") if name.startswith(("onnx", "torch"))} == {
        "onnxruntime"
    }
    assert {name for name in locked("gpu.txt") if name.startswith(("onnx", "torch"))} == {
        "onnxruntime-gpu"
    }


@pytest.mark.parametrize("name", SERVERS)
def test_composed_server_is_restricted(name: str) -> None:
    server = COMPOSE["services"][name]

    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVERS)
def test_composed_server_may_drain_before_it_is_killed(name: str) -> None:
    server = COMPOSE["services"][name]

    grace_s = float(server["stop_grace_period"].removesuffix("s"))
    assert grace_s > float(server["environment"]["ANYTIME_DRAIN_S"])


def test_composed_images_have_a_version_and_mounted_files_exist() -> None:
    for service in COMPOSE["services"].values():
        assert not service["image"].rstrip("}").endswith(":latest")
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
