"""With what a bundle or a figure was made: the commit of this code, and the versions of packages."""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime


def commit() -> str:
    """Return the commit, with ``-dirty`` behind it where files differ from it, or ``unknown`` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        said = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return "unknown"
    return said.stdout.strip() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of packages, and that of ONNX Runtime, whichever package it comes from."""
    return {name: version(name) for name in packages} | {"onnxruntime": onnxruntime.__version__}


def made_now(*packages: str) -> dict[str, Any]:
    """Say with what a bundle is written, and when: what the manifest records of that."""
    return {
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(*packages),
    }
