"""With what a bundle or a figure was made: the commit of this code, and the versions of packages."""

import subprocess
from importlib.metadata import version
from pathlib import Path

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
