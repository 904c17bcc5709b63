"""From an image file to what the network takes, uint8 (H, W, 3) at the network's size, so that no image delays another's.

Small images are decoded in place. Larger ones are in threads: up to ``LARGE_WORK`` in some, and the largest one after the
other in a thread of its own, so that they wait for each other alone and one of them is in memory at a time. How much
work an image is, its structure says; what would take seconds is refused by it.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import inf, isqrt
from threading import get_native_id

from PIL import Image

from model.image_files import FORMATS, BrokenImage, ImageFile, UnknownImage, read_image_file
from model.images import Pixels, to_pixels
from service.problems import DamagedImage, Expired, NotAnImage, Overloaded, TooManyPixels

DECODE_THREADS = 2  # medium images share two cores at most, the rest is for runs and small images
INLINE_BYTES = 64 * 1024  # what decodes in under a millisecond is not worth a thread's 0.1 ms
INLINE_WORK = 128 * 128  # pixels times scans, as all that follow
LARGE_WORK = 4_000_000  # up to 0.1 s, as long as a medium image may wait for another
SCANS_AT_MAX_PIXELS = 16  # of a progressive JPEG of the largest size; more is refused
LARGE_NICENESS = 10  # on a busy core, the largest images get a tenth of it


class ImageDecoder:
    """Decodes images, large ones in threads of its own.

    Args:
        size: height and width of the output.
        max_pixels: images with more are refused by their header, before they are decoded.
        max_waiting: large images that may wait for a thread; more are refused.
        clock: seconds, monotonic.
        on_wake: is told each time that a thread has called the event loop.
    """

    def __init__(
        self,
        *,
        size: int,
        max_pixels: int,
        max_waiting: int,
        clock: Callable[[], float],
        on_wake: Callable[[float], None],
    ) -> None:
        self._size = size
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._clock = clock
        self._on_wake = on_wake
        self._waiting = 0
        self._medium = ThreadPoolExecutor(DECODE_THREADS, "decode")
        self._large = ThreadPoolExecutor(1, "decode-large", initializer=_give_way)
        # Pillow's own limit is one for the process and only warns; ours is checked for each image.
        Image.MAX_IMAGE_PIXELS = None

    async def warm_up(self) -> None:
        """Decode an image of each format: Pillow loads its parts when they are first needed."""
        side = min(self._size, isqrt(self._max_pixels))
        for image_format in FORMATS:
            file = BytesIO()
            Image.new("RGB", (side, side)).save(file, image_format)
            await self.decode(file.getvalue())

    async def decode(self, content: bytes, *, give_up_at: float = inf) -> Pixels:
        """Return an image as uint8 (size, size, 3).

        Args:
            content: of the image's file.
            give_up_at: when nobody wants the image any more.

        Raises:
            NotAnImage, DamagedImage, TooManyPixels: it cannot be.
            Overloaded: too many large images wait.
            Expired: its turn came too late.
        """
        try:
            file = read_image_file(content)
            work = self._check_work(file)
            if work <= INLINE_WORK and len(content) <= INLINE_BYTES:
                return to_pixels(file, self._size)
            return await self._in_thread(file, work, give_up_at)
        except UnknownImage as error:
            raise NotAnImage(f"the {len(content)} bytes sent {error}") from error
        except BrokenImage as error:
            raise DamagedImage(f"the image cannot be decoded: {error}") from error

    def close(self) -> None:
        """End the threads, after what they decode for clients that left."""
        for threads in (self._medium, self._large):
            threads.shutdown(wait=False, cancel_futures=True)

    def _check_work(self, file: ImageFile) -> int:
        """Return how much work an image is: its pixels, once for each scan.

        Raises:
            TooManyPixels: it has more pixels, or is more work, than the server takes on.
        """
        size = f"the image is {file.width} × {file.height} = {file.pixels} pixels"
        if file.pixels > self._max_pixels:
            raise TooManyPixels(
                f"{size}, the limit is {self._max_pixels}",
                pixels=file.pixels,
                limit=self._max_pixels,
            )
        work, most = file.pixels * file.scans, SCANS_AT_MAX_PIXELS * self._max_pixels
        if work > most:
            raise TooManyPixels(
                f"{size} in {file.scans} scans, {work} to decode, the limit is {most}",
                pixels=work,
                limit=most,
            )
        return work

    async def _in_thread(self, file: ImageFile, work: int, give_up_at: float) -> Pixels:
        if self._waiting >= self._max_waiting:
            raise Overloaded(
                f"{self._waiting} large images wait to be decoded already, the most that may",
                headers={"Retry-After": "1"},
                limit=self._max_waiting,
            )
        threads = self._medium if work <= LARGE_WORK else self._large
        time_left_s = None if give_up_at == inf else give_up_at - self._clock()
        self._waiting += 1
        try:
            async with asyncio.timeout(time_left_s):  # takes it from the queue, too
                return await asyncio.get_running_loop().run_in_executor(
                    threads, to_pixels, file, self._size
                )
        except TimeoutError as error:
            raise Expired("the deadline passed before the image was decoded") from error
        finally:
            self._waiting -= 1
            self._on_wake(self._clock())


def _give_way() -> None:
    """Let this thread have a core only when no other wants it; elsewhere than on Linux that is the process's alone."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), LARGE_NICENESS)
