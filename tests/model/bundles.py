"""Changes to the manifest of a bundle."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.bundle import CHECKSUM_FILE, MANIFEST_FILE


def renew_checksum(folder: Path) -> None:
    digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    (folder / CHECKSUM_FILE).write_text(f"{digest}  {MANIFEST_FILE}\n")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    renew_checksum(folder)
