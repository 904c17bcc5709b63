"""Image files that are read for training and measuring: decoded as the server does, or named in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.image_files import UnknownImage, read_image_file
from model.images import Pixels, to_pixels
from model.preprocessing import Preprocessing
from training import TrainingError


def read_pixels(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Decode one image to (H, W, 3), as the server does."""
    with naming(path):
        return to_pixels(read_image_file(path.read_bytes()), preprocessing)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file of an image where anything in the block fails."""
    try:
        yield
    except MemoryError:
        raise
    except UnknownImage as error:
        raise TrainingError(f"{path}: not a readable image (its bytes {error})") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise TrainingError(f"{path}: not a readable image ({error})") from error
