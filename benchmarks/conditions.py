"""What a figure was measured on: the machine, the versions and the bundle."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

from model.bundle import Bundle

PACKAGES = ("numpy", "pillow", "fastapi", "uvicorn", "uvloop")


def describe_conditions(bundle: Bundle) -> dict[str, Any]:
    """Return them, fit for JSON."""
    manifest = bundle.manifest
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": {"onnxruntime": onnxruntime.__version__}  # of either package
        | {name: version(name) for name in PACKAGES},
        "commit": commit or "unknown",
        "bundle": manifest.name,
        "digest": bundle.digest[:12],
        "test_accuracy": {each.name: each.accuracy.test.value for each in manifest.subnetworks},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
