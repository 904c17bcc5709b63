"""What a figure was measured on: the machine, the versions and the bundle."""

import os
import platform
from pathlib import Path
from typing import Any

from model.bundle import Bundle
from model.provenance import commit, versions

PACKAGES = ("numpy", "pillow", "fastapi", "uvicorn", "uvloop")


def describe_conditions(bundle: Bundle) -> dict[str, Any]:
    """Return them, fit for JSON."""
    manifest = bundle.manifest
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": versions(*PACKAGES),
        "commit": commit(),
        "bundle": manifest.name,
        "digest": bundle.digest[:12],
        "test_accuracy": {each.name: each.accuracy.test_value for each in manifest.subnetworks},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
