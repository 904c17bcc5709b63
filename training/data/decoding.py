"""Image files that are read for training and measuring: decoded as the server does, or named in one line."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from model.image_files import UnknownImage, read_image_file
from model.images import Pixels, to_pixels
from model.preprocessing import Preprocessing
from training import TrainingError
from training.data.imagenet import Stored

BATCHES_AHEAD = 2  # decoded while the networks work on another


def read_pixels(path: Stored, preprocessing: Preprocessing) -> Pixels:
    """Decode one image to (H, W, 3), as the server does."""
    with naming(path):
        return to_pixels(read_image_file(path.read_bytes()), preprocessing)


def batches_ahead(
    batches: Iterable[Iterable[Stored]], read: Callable[[Stored], Pixels]
) -> Iterator[Pixels]:
    """Give each batch of files as (n, H, W, 3), in order, some batches ahead read in threads."""
    waiting: deque[list[Future[Pixels]]] = deque()

    def decoded() -> Pixels:
        return np.stack([image.result() for image in waiting.popleft()])

    with ThreadPoolExecutor() as pool:
        for files in batches:
            waiting.append([pool.submit(read, file) for file in files])
            if len(waiting) > BATCHES_AHEAD:
                yield decoded()
        while waiting:
            yield decoded()


@contextmanager
def naming(path: Stored) -> Iterator[None]:
    """Name the file of an image where anything in the block fails."""
    try:
        yield
    except MemoryError:
        raise
    except UnknownImage as error:
        raise TrainingError(f"{path}: not a readable image (its bytes {error})") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise TrainingError(f"{path}: not a readable image ({error})") from error
