"""Results on disk: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from filelock import FileLock, Timeout

from training import TrainingError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file beside ``path`` that takes its place if the block succeeds, and vanishes if it fails.

    The folder need not exist. What was at ``path`` stays there until the new file is whole and on the disk.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.new")
    try:
        with staged.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """See to it that a folder can be written to, before the work whose results it is for.

    Raises:
        TrainingError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written to ({error.strerror}); choose another --out"
        ) from error


@contextmanager
def written_by_one(folder: Path) -> Iterator[None]:
    """Let no other process write to a folder during the block; a process that is killed lets go of it.

    Raises:
        TrainingError: another does, or the folder cannot be written to.
    """
    check_writable(folder)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"{folder}: another process is training there; stop it, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
