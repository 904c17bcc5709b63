"""Bundles that differ from the real one."""

import json
from pathlib import Path

from model.bundle import CHECKSUM_FILE, MANIFEST_FILE, file_record, read_bundle


def amend_manifest(folder: Path, **fields: object) -> Path:
    """Change fields of a bundle's manifest; return its path."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    (folder / CHECKSUM_FILE).unlink(missing_ok=True)
    return path


def keep_subnetworks(folder: Path, *names: str) -> Path:
    """Leave the others out of a bundle, which is loaded in a fraction of the time; return its folder."""
    kept = [each for each in read_bundle(folder).manifest.subnetworks if each.name in names]
    amend_manifest(folder, subnetworks=[each.model_dump() for each in kept])
    return folder


def break_graph(folder: Path) -> Path:
    """Put what is no ONNX where a graph of a bundle was, with the checksum that fits it; return its path."""
    bundle = read_bundle(folder)
    first, *others = bundle.manifest.subnetworks
    path = bundle.graph_path(first)
    path.write_bytes(b"no graph")
    broken = first.model_copy(update={"graph": file_record(path)})
    amend_manifest(folder, subnetworks=[each.model_dump() for each in (broken, *others)])
    return path
