"""The bundle: a folder with one ONNX file a subnetwork, one weights file for all, and the manifest that describes them.

``training`` writes bundles and ``service`` reads them; neither imports the other, and nothing here needs torch.

What is read is not trusted: the manifest is held to its own checksum, and to a signature where keys are given, every
other file to the checksum in the manifest, and every graph to ``graph_file``.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from model.graph_file import GraphRefused, check_graph
from model.manifest import (
    FORMAT_VERSION,
    FileRecord,
    Manifest,
    PlainName,
    Provenance,
    Quantised,
    Subnetwork,
)
from model.presets import Architecture
from model.signature import SignatureRefused, check_signature

if TYPE_CHECKING:
    from minisign import SecretKey

MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.json.sha256"  # as sha256sum writes and checks it
SIGNATURE_FILE = "manifest.json.minisig"  # as minisign writes and checks it
WEIGHTS_FILE = "weights.bin"
REPORT_FILE = "report.html"  # for people; nothing reads it
MOST_MANIFEST_BYTES = 16 * 2**20
MOST_GRAPH_BYTES = 64 * 2**20  # its large tensors are in the weights file
# beside manifest and graphs
OTHER_FILES = {WEIGHTS_FILE, CHECKSUM_FILE, SIGNATURE_FILE, REPORT_FILE}
PRETRAINED_DIR = Path(__file__).parent / "pretrained"


class BundleError(Exception):
    """A bundle cannot be used; the message is one line that names the file and the fault."""


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

    @property
    def trained(self) -> tuple[Architecture, Provenance]:
        """What network its subnetworks are columns of, and how that was trained.

        Raises:
            BundleError: they were imported, or are of several networks.
        """
        if self.manifest.networks:
            names = ", ".join(each.name for each in self.manifest.networks)
            raise BundleError(
                f"{self.folder}: its subnetworks are of several networks ({names}); take the bundle that one of them came from"
            )
        architecture, provenance = self.manifest.architecture, self.manifest.provenance
        if architecture is None or provenance is None:
            raise BundleError(f"{self.folder}: its networks were imported, not trained here")
        return architecture, provenance

    def part(self, architecture: str) -> "Bundle":
        """Return of several networks the one of this architecture, as a bundle with its subnetworks alone.

        Raises:
            BundleError: none has it, or its full network was left out.
        """
        networks = {each.architecture.name: each for each in self.manifest.networks}
        if architecture not in networks:
            known = ", ".join(sorted(networks))
            raise BundleError(
                f"{self.folder}: has no network {architecture}; its networks are {known}"
            )
        network = networks[architecture]
        own = tuple(each for each in self.manifest.subnetworks if each.network == network.name)
        if not any(_is_full(each, network.architecture) for each in own):
            raise BundleError(
                f"{self.folder}: of {architecture} it has only some columns, not the full network"
            )
        update = {
            "architecture": network.architecture,
            "provenance": network.provenance,
            "networks": (),
            "subnetworks": own,
        }
        return replace(self, manifest=self.manifest.model_copy(update=update))

    @property
    def seen_once(self) -> tuple[Subnetwork, ...]:
        """The subnetworks that look at an image once."""
        return tuple(each for each in self.manifest.subnetworks if each.views == 1)

    @property
    def full(self) -> Subnetwork:
        """The subnetwork of all columns of the network that was trained here, which looks at an image once.

        Raises:
            BundleError: its subnetworks were imported, are of several networks, or it was left out.
        """
        architecture, _ = self.trained
        for each in self.manifest.subnetworks:
            if _is_full(each, architecture):
                return each
        raise BundleError(f"{self.folder}: it has only some columns, not the full network")

    @property
    def best(self) -> Subnetwork:
        """The subnetwork that is expected to be right most often, however slow it is."""
        return max(self.manifest.subnetworks, key=lambda each: each.accuracy.estimate.value)

    def architecture_of(self, subnetwork: Subnetwork) -> Architecture:
        """Return the network that a subnetwork is columns of.

        Raises:
            BundleError: it was imported.
        """
        for network in self.manifest.networks:
            if network.name == subnetwork.network:
                return network.architecture
        return self.trained[0]

    def graph_path(self, subnetwork: Subnetwork | Quantised) -> Path:
        """Return the path of a subnetwork's ONNX file."""
        return self.folder / subnetwork.graph.name


def _is_full(subnetwork: Subnetwork, architecture: Architecture) -> bool:
    return subnetwork.views == 1 and set(subnetwork.columns) == architecture.all_columns


def file_record(path: Path) -> FileRecord:
    """Describe a file as it is now."""
    return FileRecord(name=path.name, sha256=_sha256(path), size_bytes=path.stat().st_size)


def is_bundle(folder: Path) -> bool:
    """Say whether a bundle is there."""
    return (folder / MANIFEST_FILE).exists()


def read_bundle(folder: Path, *, keys: Sequence[str] = ()) -> Bundle:
    """Read a bundle and verify every file of it.

    Args:
        folder: where it is.
        keys: public keys in minisign's form, one of which must have signed it; with none, a signature is not looked at.

    Raises:
        BundleError: something is missing, truncated, altered, not signed, of a newer format, or may not be loaded.
    """
    manifest_path = _part(folder, MANIFEST_FILE, MOST_MANIFEST_BYTES)
    content = _read(manifest_path)
    _check_checksum(folder, content)
    if keys:
        signature_path = _part(folder, SIGNATURE_FILE, MOST_MANIFEST_BYTES)
        try:
            check_signature(content, _read(signature_path), keys)
        except SignatureRefused as error:
            raise BundleError(f"{signature_path}: {error}") from error
    bundle = Bundle(
        folder, _parse_manifest(content, manifest_path), hashlib.sha256(content).hexdigest()
    )
    _check_files(bundle)
    weights = bundle.manifest.weights
    for record in _graph_records(bundle.manifest):
        path = _part(folder, record.name, MOST_GRAPH_BYTES)
        if path.suffix != ".onnx":  # ONNX Runtime takes other endings for other formats
            raise BundleError(f"{path}: is not called .onnx, as a graph must be")
        try:
            check_graph(_read(path), weights_file=weights.name, weights_bytes=weights.size_bytes)
        except GraphRefused as error:
            raise BundleError(f"{path}: {error}") from error
    return bundle


def check_unchanged(bundle: Bundle) -> None:
    """See to it that the files of a bundle are those that were read.

    Raises:
        BundleError: they are not.
    """
    if _sha256(_part(bundle.folder, MANIFEST_FILE, MOST_MANIFEST_BYTES)) != bundle.digest:
        raise BundleError(f"{bundle.folder}: changed while it was loaded; load it again")
    _check_files(bundle)


def sign_bundle(folder: Path, key: "SecretKey") -> None:
    """Sign a bundle, which is read and verified first: a signature vouches for every file of it.

    Raises:
        BundleError: it is not whole, or the signature cannot be written.
    """
    bundle = read_bundle(folder)
    signature = key.sign(
        _read(folder / MANIFEST_FILE), trusted_comment=f"bundle:{bundle.manifest.name}"
    )
    try:
        (folder / SIGNATURE_FILE).write_bytes(bytes(signature) + b"\n")
    except OSError as error:
        raise BundleError(f"{folder / SIGNATURE_FILE}: {error.strerror or error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a bundle's folder, beside the files that it names, and its checksum."""
    path = folder / MANIFEST_FILE
    path.write_text(manifest.model_dump_json(indent=2) + "\n")
    (folder / CHECKSUM_FILE).write_text(f"{_sha256(path)}  {MANIFEST_FILE}\n")


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
        return path.suffix == ".onnx" or path.name in OTHER_FILES
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


def _check_checksum(folder: Path, manifest: bytes) -> None:
    """Compare the manifest with its checksum; bundles from before there was one have none."""
    if not (folder / CHECKSUM_FILE).exists():
        return
    path = _part(folder, CHECKSUM_FILE, MOST_MANIFEST_BYTES)
    if _read(path) != f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_FILE}\n".encode():
        raise BundleError(
            f"{folder / MANIFEST_FILE}: content differs from {CHECKSUM_FILE}; copy the bundle again"
        )


def _graph_records(manifest: Manifest) -> Iterator[FileRecord]:
    """Give the record of every graph."""
    for each in manifest.subnetworks:
        yield each.graph
        if each.int8:
            yield each.int8.graph


def _check_files(bundle: Bundle) -> None:
    """Compare every file with its record."""
    for record in (bundle.manifest.weights, *_graph_records(bundle.manifest)):
        path = _part(bundle.folder, record.name)
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            raise BundleError(
                f"{path}: is {size_bytes} bytes, the manifest says {record.size_bytes}; copy the bundle again"
            )
        if _sha256(path) != record.sha256:
            raise BundleError(
                f"{path}: content differs from the manifest's sha256; copy the bundle again"
            )


def _part(folder: Path, name: str, most_bytes: int | None = None) -> Path:
    """Return the path of a part of the bundle, which is a file in its folder, and no larger than it may be."""
    path = folder / name
    try:
        status = path.stat()
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        raise BundleError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: is no file")
    if not real.is_relative_to(home):
        raise BundleError(f"{path}: leads out of the bundle, to {real}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise BundleError(f"{path}: is {status.st_size} bytes, at most {most_bytes} are read")
    return path


def _sha256(path: Path) -> str:
    """Return the checksum of a file of any size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    """Read a file of the bundle, or say which one could not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
