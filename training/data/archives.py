"""The official archives: CIFAR-10 and CIFAR-100 as pickles, SVHN as MATLAB files.

The pickles of CIFAR are read by an unpickler that builds plain values and arrays, and calls nothing of NumPy's with what is
in them: a malicious file is refused before it can run code. Archives are read in place, never unpacked.
"""

import gzip
import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pooch
from numpy.typing import NDArray
from scipy.io import loadmat

from training import TrainingError, first_line

CIFAR_10_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
CIFAR_10 = {*CIFAR_10_TRAIN, "test_batch", "batches.meta"}
CIFAR_100 = {"train", "test", "meta"}
SVHN = {"train_32x32.mat", "test_32x32.mat"}
FILES = {"CIFAR-10": CIFAR_10, "CIFAR-100": CIFAR_100, "SVHN": SVHN}
MOST_PART_BYTES = 2**28  # the largest file of CIFAR-100 has 155 MB
CIFAR_SUFFIX = "-python.tar.gz"
SVHN_EXTRA = "extra_32x32.mat"  # the paper trains on train and extra


@dataclass(frozen=True, slots=True)
class Download:
    """A file on the web, and the sha256 that it must have."""

    url: str
    sha256: str


DOWNLOADS = {
    "cifar10": (
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "cifar100": (
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    "svhn": (
        Download(
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        Download(
            "http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
            "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
        ),
        Download(
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images uint8 (N, H, W, 3) and their labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Archive:
    """What an official archive holds."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def download(files: tuple[Download, ...], folder: Path) -> Path:
    """Fetch files into ``folder``, where they are not there yet, and return it.

    Raises:
        TrainingError: a file cannot be fetched, or is not the one that was published.
    """
    for file in files:
        try:
            pooch.retrieve(
                file.url,
                known_hash=f"sha256:{file.sha256}",
                fname=file.url.rpartition("/")[2],
                path=folder,
                progressbar=True,
            )
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise TrainingError(
                f"{file.url}: cannot be fetched ({first_line(error)}); fetch it elsewhere and pass its folder with --data"
            ) from error
    return folder


def read_archive(path: Path) -> Archive | None:
    """Read an official archive: a ``.tar.gz``, or a folder that holds it or its files; ``None`` if there is none.

    Raises:
        TrainingError: a file of it is missing, damaged, or holds what a data set does not; or there are several.
    """
    if path.is_file():
        if path.suffix not in (".gz", ".tgz"):
            raise TrainingError(
                f"{path}: is a file, but no .tar.gz of CIFAR; pass that, or a folder of images by class"
            )
        return _cifar(path, _unpack(path))
    found = _found(path)
    if len(found) > 1:
        raise TrainingError(
            f"{path}: holds {' and '.join(sorted(found))}; choose one by its own path with --data"
        )
    for name, place in found.items():
        if place.is_file():
            return _cifar(path, _unpack(place))
        files = {p.name: p for p in place.glob("*") if p.is_file()}
        if name == "SVHN":
            return _svhn(place, files)
        parts = files.keys() & FILES[name]
        return _cifar(place, {part: files[part].read_bytes() for part in parts})
    return None


def _found(path: Path) -> dict[str, Path]:
    """Return the archive or the folder of each data set in a folder; of those in part only where none is whole."""
    archives = sorted(path.glob(f"cifar-*{CIFAR_SUFFIX}"))
    packed = {p.name.removesuffix(CIFAR_SUFFIX).upper(): p for p in archives}
    folders = {
        folder: {p.name for p in folder.glob("*") if p.is_file()}
        for folder in (*sorted(path.glob("cifar-*-py*")), path)
    }
    pairs = [(name, folder) for folder in folders for name in FILES]
    whole = {name: folder for name, folder in pairs if FILES[name] <= folders[folder]}
    partial = {name: folder for name, folder in pairs if FILES[name] & folders[folder]}
    return whole | packed or partial


def _unpack(path: Path) -> dict[str, bytes]:
    """Return the contents of the archive's files that are part of a CIFAR, by name."""
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            files = dict(_members(archive))
            while stream.read(1 << 20):
                pass  # to the checksum at its end, which tarfile does not look at
            return files
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise TrainingError(f"{path}: not a readable .tar.gz ({error}); fetch it again") from error


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Give the files that are part of a CIFAR."""
    for member in archive:
        name = member.name.rpartition("/")[2]
        is_part = member.isfile() and name in CIFAR_10 | CIFAR_100
        if is_part and member.size > MOST_PART_BYTES:
            raise tarfile.TarError(
                f"{name} is {member.size} bytes, at most {MOST_PART_BYTES} are read"
            )
        file = archive.extractfile(member) if is_part else None
        if file:
            yield name, file.read()


def _cifar(source: Path, files: Mapping[str, bytes]) -> Archive:
    """Read CIFAR-10 or CIFAR-100, whichever the files are."""
    is_cifar_10 = not CIFAR_10.isdisjoint(files)
    _check_whole(source, files, CIFAR_10 if is_cifar_10 else CIFAR_100)
    meta = "batches.meta" if is_cifar_10 else "meta"
    labels_key = "labels" if is_cifar_10 else "fine_labels"
    try:
        names = _unpickle(files[meta])["label_names" if is_cifar_10 else "fine_label_names"]
        train, test = (
            [_pickled_images(files[part], labels_key) for part in parts]
            for parts in (
                (CIFAR_10_TRAIN, ("test_batch",)) if is_cifar_10 else (("train",), ("test",))
            )
        )
        archive = Archive(tuple(map(str, names)), _concatenate(train), _concatenate(test))
        labels = np.concatenate([archive.train.labels, archive.test.labels])
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"a label is {labels.max()}; there are {len(names)} classes")
        return archive
    except Exception as error:  # a damaged file can fail anywhere in unpickling
        raise TrainingError(
            f"{source}: not an official CIFAR archive ({first_line(error)})"
        ) from error


def _check_whole(source: Path, files: Collection[str], wanted: Collection[str]) -> None:
    """See to it that every file is there."""
    missing = sorted(set(wanted) - set(files))
    if missing:
        raise TrainingError(f"{source}: {', '.join(missing)} missing; fetch the archive again")


def _pickled_images(content: bytes, labels_key: str) -> Labelled:
    """Read one pickled batch: rows of 3,072 bytes, channel by channel."""
    batch = _unpickle(content)
    images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.asarray(batch[labels_key], np.int64)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, {len(labels)} labels")
    return Labelled(np.ascontiguousarray(images), labels)


def _svhn(source: Path, files: Mapping[str, Path]) -> Archive:
    """Read SVHN's cropped digits; "extra" is trained on where it is there."""
    _check_whole(source, files, SVHN)

    def read(path: Path) -> Labelled:
        try:
            content = loadmat(path, variable_names=("X", "y"))
            images, labels = content["X"], content["y"].ravel().astype(np.int64)
            if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
                raise ValueError(
                    f"X is {images.dtype} {images.shape}, y has {len(labels)} labels; "
                    f"expected uint8 (32, 32, 3, {len(labels)})"
                )
            if labels.min(initial=0) < 0 or labels.max(initial=0) > 10:
                raise ValueError(f"labels are {labels.min()} to {labels.max()}, not 0 to 10")
        except Exception as error:  # a damaged file can fail anywhere in the reader
            raise TrainingError(f"{path}: not a readable SVHN file ({error})") from error
        # The digit 0 is labelled 10.
        return Labelled(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10)

    train = [read(files[name]) for name in ("train_32x32.mat", SVHN_EXTRA) if name in files]
    return Archive(tuple("0123456789"), _concatenate(train), read(files["test_32x32.mat"]))


def _concatenate(parts: list[Labelled]) -> Labelled:
    """Return several parts as one."""
    return Labelled(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


class _DType:
    """A pickled ``numpy.dtype``: its name alone, so that no state of a file gets into NumPy's own."""

    def __init__(self, name: str, *_: object) -> None:
        if name not in ("u1", "i8", "b"):
            raise pickle.UnpicklingError(
                f"it asks for an array of {name!r:.20}, which no data set needs"
            )
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("it holds numbers in another byte order")


class _Array:
    """A pickled ``numpy.ndarray``, no larger than its bytes."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        self._take(raw.encode("latin1") if isinstance(raw, str) else raw, dtype, shape, is_fortran)

    @classmethod
    def of_buffer(cls, raw: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> "_Array":
        """Return an array as protocol 5 writes it."""
        array = cls()
        array._take(raw, dtype, shape, order == "F")
        return array

    def _take(self, raw: bytes, dtype: _DType, shape: tuple[int, ...], is_fortran: bool) -> None:
        values = np.frombuffer(bytes(raw), dtype.name)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and arrays; anything else named by the file is refused."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.numeric", "_frombuffer"): _Array.of_buffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for one of the allowed names."""
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 3 writes them for Python 2
            return _bytes_of
        known = self.ALLOWED.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")
        return known


def _bytes_of(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(
            f"it asks for the encoding {encoding}, which no data set needs"
        )
    return text.encode("latin1")


def _unpickle(content: bytes) -> dict[str, Any]:
    """Read a pickle as Python 2 wrote it."""
    for _ in pickletools.genops(content):
        pass  # to its end: of a cut bytearray, Python's unpickler frees memory that is still used
    value = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} where a dictionary was expected")
    return value
