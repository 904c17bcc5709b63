"""Small versions of images, each decoded once: a photograph's is read in a thirtieth of the time and less.

They lie in a file for each way in which images become pixels, record after record. A record is found by the path, size and
time of change of its image, and has a checksum: what was changed, or written by half, is decoded anew.
"""

import fcntl
import os
import shutil
import weakref
import zlib
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import numpy as np

from model.images import Pixels
from model.preprocessing import Preprocessing
from training.data.decoding import read_pixels
from training.data.imagenet import Member, Stored

CACHE_FOLDER = "cache"  # in that of a run
MAX_BYTES = 4 << 30  # of a file
SPARE = 0.5  # of the disk's free space, which is not taken
KEY_BYTES = 16
DECODERS = " ".join(f"{name} {version(name)}" for name in ("pillow", "simplejpeg"))


class SmallVersions:
    """Reads images, and keeps the small versions of those whose files are larger.

    One process writes to a file; others that read the same images at the same time find what was there when they began.

    Args:
        preprocessing: how images become pixels.
        folder: for the file, made when the first image is kept; none keeps nothing.
        max_bytes: of the file.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        folder: Path | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.preprocessing = preprocessing
        side = preprocessing.size
        self._record = np.dtype(
            [("key", f"V{KEY_BYTES}"), ("check", "<u4"), ("pixels", "u1", (side, side, 3))]
        )
        how = (side, preprocessing.shorter_side or "stretched", preprocessing.interpolation)
        self._path = folder / f"{'-'.join(map(str, how))}.pixels" if folder else None
        self._max_bytes = max_bytes
        self._most = 0  # records; none until the file is this process's to write to
        self._may_write = folder is not None
        self._lock = Lock()
        self._file: int | None = None
        self._n = 0  # records in the file
        self._rows: dict[bytes, int] = {}
        if self._path and self._path.is_file():
            with suppress(OSError):
                self._open(os.O_RDONLY)
                self._find_records()

    @property
    def kept(self) -> Mapping[str, str]:
        """How many small versions there are and what they take, for a bar; nothing where none are."""
        n = len(self._rows)
        size = f"{n * self._record.itemsize / 1e6:,.0f} MB"
        return {"cached": f"{n:,} images, {size}"} if n else {}

    def read(self, file: Stored) -> Pixels:
        """Return the pixels of an image, (size, size, 3).

        Raises:
            TrainingError: it is not readable.
        """
        if not self._path:
            return read_pixels(file, self.preprocessing)
        try:
            key, n_bytes = _known_by(file)
        except OSError:  # told by who reads it
            return read_pixels(file, self.preprocessing)
        kept = self._find(key)
        if kept is None:
            kept = read_pixels(file, self.preprocessing)
            if n_bytes > self._record.itemsize:
                self._keep(key, kept)
        return kept

    def _find(self, key: bytes) -> Pixels | None:
        row, size = self._rows.get(key), self._record.itemsize
        if row is None or self._file is None:
            return None
        content = os.pread(self._file, size, row * size)
        if len(content) < size:
            return None
        record = np.frombuffer(content, self._record)[0]
        pixels: Pixels = record["pixels"]
        return pixels if record["check"] == zlib.crc32(pixels.tobytes()) else None

    def _keep(self, key: bytes, pixels: Pixels) -> None:
        record = np.array([(key, zlib.crc32(pixels.tobytes()), pixels)], self._record)
        with self._lock:
            if self._may_write and not self._most:
                self._begin_to_write()
            row = self._rows.get(key, self._n)  # a damaged record is written again
            if not self._may_write or row >= self._most or self._file is None:
                return
            try:
                n = os.pwrite(self._file, record.tobytes(), row * self._record.itemsize)
            except OSError:  # the disk is full
                n = 0
            if n == self._record.itemsize:
                self._rows[key] = row
                self._n = max(self._n, row + 1)
            else:
                self._may_write = False

    def _begin_to_write(self) -> None:
        """Make the file this process's to write to, if it is nobody's."""
        assert self._path
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(self._open(os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find_records()  # another may have written meanwhile
            free = shutil.disk_usage(self._path.parent).free
        except OSError:  # another writes, or nobody may
            self._may_write = False
            return
        most_bytes = min(self._max_bytes, self._n * self._record.itemsize + SPARE * free)
        self._most = int(most_bytes / self._record.itemsize)

    def _open(self, flags: int) -> int:
        assert self._path
        self._file = os.open(self._path, flags, 0o666)
        weakref.finalize(self, os.close, self._file)
        return self._file

    def _find_records(self) -> None:
        """Find the records of the file that are whole."""
        assert self._path
        assert self._file is not None
        self._n = n = os.fstat(self._file).st_size // self._record.itemsize
        keys = np.memmap(self._path, self._record, "r", shape=(n,))["key"] if n else ()
        self._rows = {key.tobytes(): row for row, key in enumerate(keys)}


def _known_by(file: Stored) -> tuple[bytes, int]:
    """Return what an image is found by, and its size in bytes."""
    if isinstance(file, Member):
        path, offset, n_bytes = file.archive, file.offset, file.size
    else:
        path, offset, n_bytes = file, 0, file.stat().st_size
    changed_at_ns = path.stat().st_mtime_ns
    words = "\0".join(map(str, (os.path.abspath(path), offset, n_bytes, changed_at_ns, DECODERS)))
    return blake2b(os.fsencode(words), digest_size=KEY_BYTES).digest(), n_bytes
