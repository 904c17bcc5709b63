"""The bundle: a folder with one ONNX file a subnetwork, one weights file for all, and the manifest that describes them.

``training`` writes bundles and ``service`` reads them; neither imports the other, and nothing here needs torch.
A bundle holds facts about the network. Latency is a fact about a machine, and is measured by the server at warm-up.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from model.presets import Architecture

FORMAT_VERSION = 2  # 1 had no int8 graphs; it is read too
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.bin"
PRETRAINED_DIR = Path(__file__).parent / "pretrained"

Precision = Literal["float32", "float16-filters", "float16", "int8"]
"""What the networks are in.

With "float16-filters" they are stored in half precision and computed with in float32. With "int8" each is there twice,
so and in 8-bit integers, and the server runs what is faster on its machine.
"""

PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class BundleError(Exception):
    """A bundle cannot be used; the message is one line that names the file and the fault."""


class Record(BaseModel):
    """Base of everything in the manifest: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileRecord(Record):
    """A file of the bundle and what it must contain."""

    name: PlainName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Measured(Record):
    """A fraction of ``n`` images, measured through ONNX Runtime."""

    value: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]


class Accuracy(Record):
    """Accuracy by split; choices are made on ``validation``, ``test`` is measured once and only published."""

    validation: Measured
    test: Measured


class Calibration(Record):
    """The temperature inside the graph's softmax, and the expected calibration error without and with it."""

    temperature: Annotated[float, Field(gt=0)]
    ece_before: Annotated[float, Field(ge=0, le=1)]
    ece_after: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]


class Quantised(Record):
    """A subnetwork in 8-bit integers: its own graph, measured for itself.

    ``agreement`` is the share of the validation images to which it gives the same class as the float graph.
    """

    accuracy: Accuracy
    calibration: Calibration
    agreement: Measured
    graph: FileRecord


class Subnetwork(Record):
    """One exported subnetwork; the bundle may hold it in 8-bit integers too.

    A graph takes ``images`` uint8 (N, H, W, 3) and gives ``logits`` and ``probabilities``, float32 (N, classes).
    """

    name: PlainName
    columns: tuple[int, ...]
    depth: int
    parameters: int
    macs: int
    accuracy: Accuracy
    calibration: Calibration
    graph: FileRecord
    int8: Quantised | None = None

    @property
    def in_int8(self) -> "Subnetwork | None":
        """The same subnetwork as its graph in 8-bit integers is, where there is one."""
        if self.int8 is None:
            return None
        measured = {name: getattr(self.int8, name) for name in ("accuracy", "calibration", "graph")}
        return self.model_copy(update={**measured, "int8": None})


class Provenance(Record):
    """Where a bundle comes from, enough to make it again."""

    recipe: str
    seed: int
    epochs: int
    began_with: str = ""  # the run whose weights were taken, empty where they were drawn
    dataset: str
    dataset_sha256: str
    commit: str
    created: str
    versions: dict[str, str]


class Manifest(Record):
    """The index of a bundle."""

    format_version: int
    name: PlainName
    architecture: Architecture
    labels: tuple[str, ...]
    precision: Precision = "float32"
    weights: FileRecord
    subnetworks: Annotated[tuple[Subnetwork, ...], Field(min_length=1)]
    provenance: Provenance

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        subnetworks = Counter(each.name for each in self.subnetworks)
        for what, names in (("subnetwork", subnetworks), ("label", Counter(self.labels))):
            for name, times in names.items():
                if times > 1:
                    raise ValueError(f"the {what} {name!r} is there {times} times")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: where it was read.
        manifest: its index.
        digest: sha256 of the manifest, which holds the sha256 of every other file.
    """

    folder: Path
    manifest: Manifest
    digest: str

    def graph_path(self, subnetwork: Subnetwork | Quantised) -> Path:
        """Return the path of a subnetwork's ONNX file."""
        return self.folder / subnetwork.graph.name


def file_record(path: Path) -> FileRecord:
    """Describe a file as it is now."""
    content = path.read_bytes()
    return FileRecord(
        name=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )


def is_bundle(folder: Path) -> bool:
    """Say whether a bundle is there."""
    return (folder / MANIFEST_FILE).exists()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify every file of it.

    Raises:
        BundleError: something is missing, truncated, altered, or of a newer format.
    """
    manifest_path = folder / MANIFEST_FILE
    content = _read(manifest_path)
    manifest = _parse_manifest(content, manifest_path)
    subnetworks = manifest.subnetworks
    in_float = [each.graph for each in subnetworks]
    in_int8 = [each.int8.graph for each in subnetworks if each.int8]
    for record in (manifest.weights, *in_float, *in_int8):
        _verify(folder / record.name, record)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a bundle's folder, beside the files that it names."""
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def check_name(name: str) -> None:
    """See to it that a bundle can be called so.

    Raises:
        BundleError: it cannot.
    """
    try:
        TypeAdapter(PlainName).validate_python(name)
    except ValidationError as error:
        raise BundleError(
            f"{name!r} cannot be a bundle's name: letters, digits, '.', '_' and '-' can, the first a letter or digit"
        ) from error


def check_target(target: Path) -> None:
    """See to it that a bundle can be written to ``target``, before the work of making it.

    Raises:
        BundleError: something else than a bundle is there.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"{target}: is no folder")
    if target.resolve() == Path.cwd():
        raise BundleError(f"{target}: is the folder you are in, and a bundle replaces its folder")
    found = sorted(each.name for each in target.iterdir())
    foreign = [each for each in found if not _is_part_of_a_bundle(target / each)]
    if foreign or (found and MANIFEST_FILE not in found):
        raise BundleError(
            f"{target}: holds {(foreign or found)[0]}, which is no part of a bundle and would be lost; "
            "choose another folder"
        )


def _is_part_of_a_bundle(path: Path) -> bool:
    if path.name != MANIFEST_FILE:
        return path.name == WEIGHTS_FILE or path.suffix == ".onnx"
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "format_version" in fields


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` if the block succeeds, and vanishes if it fails.

    A bundle that was at ``target`` before stays there until the new one is whole.

    Raises:
        BundleError: something else than a bundle is there.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staged = staging / "new"
        staged.mkdir()
        yield staged
        if target.exists():
            target.rename(staging / "old")
        staged.rename(target)
    finally:
        if (staging / "old").exists() and not target.exists():
            (staging / "old").rename(target)
        shutil.rmtree(staging)


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    """Validate the manifest; the format version is looked at first, a newer one may have any other field."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise BundleError(f"{path}: has no format_version; this is no bundle manifest")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version is {version}, this server reads up to {FORMAT_VERSION}; upgrade it"
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the manifest"
        raise BundleError(f"{path}: {where}: {first['msg']}") from error


def _verify(path: Path, record: FileRecord) -> None:
    """Compare a file with its record."""
    content = _read(path)
    if len(content) != record.size_bytes:
        raise BundleError(
            f"{path}: is {len(content)} bytes, the manifest says {record.size_bytes}; copy the bundle again"
        )
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise BundleError(
            f"{path}: content differs from the manifest's sha256; copy the bundle again"
        )


def _read(path: Path) -> bytes:
    """Read a file of the bundle, or say which one could not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
