"""From an image file to what the network takes, uint8 (H, W, 3) at the network's size, so that no image delays another's.

Small images are decoded in place and larger ones in threads, which take the most urgent. What is over ``LARGE_WORK``, a
process of its own decodes, one after the other: they wait for each other alone, one of them is in memory at a time, and one
that nobody wants any more is killed. How much work an image is, its structure says; what would take seconds is refused by it.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from math import ceil, inf, isqrt
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from model.image_files import FORMATS, BrokenImage, ImageFile, UnknownImage, read_image_file
from model.images import Pixels, to_pixels
from model.preprocessing import Preprocessing
from service.front.images import decode_process
from service.problems import DamagedImage, Expired, NotAnImage, Overloaded, TooManyPixels
from service.scheduling.decoding import DecodeQueue, Turn

DECODE_THREADS = 2  # medium images share two cores at most, the rest is for runs and small images
DECODE_PROCESSES = 1  # for large ones, whose memory is bounded so
INLINE_BYTES = 64 * 1024  # what decodes in under a millisecond is not worth a thread's 0.1 ms
INLINE_WORK = 128 * 128  # pixels times scans, as all that follow
LARGE_WORK = 4_000_000  # up to 0.1 s, as long as a medium image may wait for another
# What a hostile image may do to its decoder; a SIGKILL is the system's, short of memory.
CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL}
SCANS_AT_MAX_PIXELS = 16  # of a progressive JPEG of the largest size; more is refused


class Larger(NamedTuple):
    """An image that waits for its turn to be decoded.

    Attributes:
        file: what it says of itself.
        work: its pixels, once for each scan.
        content: of the file, whole.
    """

    file: ImageFile
    work: int
    content: bytes


class ImageDecoder:
    """Decodes images, medium ones in threads of its own, large ones in processes.

    Args:
        preprocessing: what they are brought to.
        max_pixels: images with more are refused by their header, before they are decoded.
        max_waiting: medium and large images that may wait for their turn; more are refused.
        decode_s: what a large image may take of a core's time.
        decode_memory_bytes: and of memory.
        clock: seconds, monotonic.
        on_wake: is told each time that a thread has called the event loop.
    """

    def __init__(
        self,
        *,
        preprocessing: Preprocessing,
        max_pixels: int,
        max_waiting: int,
        decode_s: int,
        decode_memory_bytes: int,
        clock: Callable[[], float],
        on_wake: Callable[[float], None],
    ) -> None:
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._decode_s = decode_s
        self._decode_memory_bytes = decode_memory_bytes
        self._clock = clock
        self._on_wake = on_wake
        self._threads = ThreadPoolExecutor(DECODE_THREADS, "decode")
        self._medium, self._large = DecodeQueue(DECODE_THREADS), DecodeQueue(DECODE_PROCESSES)
        self._lock = Lock()  # of the queue of medium ones and their files, which threads take
        self._files: dict[Turn, tuple[ImageFile, Future[Pixels]]] = {}  # medium ones, by turn
        self._turns: dict[Turn, asyncio.Future[None]] = {}  # large ones that wait
        self._callers: set[asyncio.Task[Any]] = set()  # who wait for a process
        # Pillow's own limit is one for the process and only warns; ours is checked for each image.
        Image.MAX_IMAGE_PIXELS = None

    async def warm_up(self) -> None:
        """Decode an image of each format: Pillow loads its parts when they are first needed."""
        side = min(self._preprocessing.size, isqrt(self._max_pixels))
        for image_format in FORMATS:
            file = BytesIO()
            Image.new("RGB", (side, side)).save(file, image_format)
            await self.decode(file.getvalue())

    async def decode(
        self, content: bytes, *, in_time_by: float = inf, of_use_by: float = inf
    ) -> Pixels:
        """Return an image of any size as uint8 (H, W, 3) at the network's; see ``decode_small`` and ``decode_in_turn``."""
        pixels = self.decode_small(content)
        if isinstance(pixels, Larger):
            return await self.decode_in_turn(pixels, in_time_by=in_time_by, of_use_by=of_use_by)
        return pixels

    def decode_small(self, content: bytes) -> Pixels | Larger:
        """Return a small image as uint8 (H, W, 3) at the network's size, or a larger one as it has to wait for its turn.

        Raises:
            NotAnImage, DamagedImage, TooManyPixels: it cannot be decoded.
        """
        try:
            file = read_image_file(content)
            work = self._check_work(file)
            if work > INLINE_WORK or len(content) > INLINE_BYTES:
                return Larger(file, work, content)
            return to_pixels(file, self._preprocessing)
        except UnknownImage as error:
            raise NotAnImage(f"the {len(content)} bytes sent {error}") from error
        except BrokenImage as error:
            raise _damaged(error) from error

    async def decode_in_turn(
        self, larger: Larger, *, in_time_by: float = inf, of_use_by: float = inf
    ) -> Pixels:
        """Return a larger image as uint8 (H, W, 3) at the network's size.

        Args:
            larger: the image.
            in_time_by: when it must be decoded for an answer in time.
            of_use_by: and for one that is of use.

        Raises:
            DamagedImage: it cannot be.
            Overloaded: with the images ahead of it, it could not be decoded by then, or too many wait.
            Expired: it was not.
        """
        file, work, content = larger
        # A JPEG of one scan is decoded at a part of its size.
        is_medium = work <= LARGE_WORK or (file.format == "JPEG" and file.scans == 1)
        queue = self._medium if is_medium else self._large
        turn = self._admit(queue, file, work, in_time_by=in_time_by, of_use_by=of_use_by)
        decoding = self._in_thread(turn) if is_medium else self._in_process(turn, content)
        try:
            return await self._in_turn(queue, turn, decoding, of_use_by)
        except BrokenImage as error:
            raise _damaged(error) from error

    def close(self) -> None:
        """End the threads, after what they decode for clients that left, and all that is large."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for _, decoded in self._files.values():
            decoded.cancel()
        for begun in self._turns.values():
            begun.cancel()
        for caller in self._callers:
            caller.cancel()

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

    def _admit(
        self, queue: DecodeQueue, file: ImageFile, work: int, *, in_time_by: float, of_use_by: float
    ) -> Turn:
        """Let an image into a queue.

        Raises:
            Overloaded: it could not be decoded in time, or too many wait.
        """
        now = self._clock()
        waiting = len(self._medium) + len(self._large)
        if waiting >= self._max_waiting:
            raise Overloaded(
                f"{waiting} large images wait to be decoded already, the most that may",
                headers={"Retry-After": "1"},
                limit=self._max_waiting,
            )
        with self._lock:
            turn = queue.admit(file.format, work, now, in_time_by=in_time_by, of_use_by=of_use_by)
            drain_s = queue.drain_s(now)
            if turn is not None and queue is self._medium:
                self._files[turn] = file, Future[Pixels]()
        if turn is None:
            raise Overloaded(
                "with the images ahead of it, it could not be decoded in time",
                headers={"Retry-After": str(max(ceil(drain_s), 1))},
            )
        return turn

    async def _in_turn(
        self, queue: DecodeQueue, turn: Turn, decoding: Awaitable[Pixels], of_use_by: float
    ) -> Pixels:
        """Wait for an image until an instant, and take its turn out of the queue."""
        time_left_s = None if of_use_by == inf else of_use_by - self._clock()
        is_decoded = False
        try:
            async with asyncio.timeout(time_left_s):
                pixels = await decoding
                is_decoded = True
                return pixels
        except TimeoutError as error:
            raise Expired("the deadline passed before the image was decoded") from error
        finally:
            now = self._clock()
            with self._lock:
                queue.leave(turn, now, is_decoded=is_decoded)
                self._files.pop(turn, None)
            self._turns.pop(turn, None)
            self._on_wake(now)

    async def _in_thread(self, turn: Turn) -> Pixels:
        """Decode an image when a thread takes it."""
        _, decoded = self._files[turn]
        self._threads.submit(self._decode_next)
        try:
            return await asyncio.wrap_future(decoded)
        finally:
            del decoded  # holds the error of a broken image, which holds this frame

    def _decode_next(self) -> None:
        """Decode the most urgent image that waits, in a thread: it asks no event loop, which may be busy, what is next."""
        with self._lock:
            turn = self._medium.begin(self._clock())
            if turn is None:  # some caller left
                return
            file, decoded = self._files[turn]
        pixels, failure = None, None
        if decoded.set_running_or_notify_cancel():
            try:
                pixels = to_pixels(file, self._preprocessing)
            except Exception as error:
                failure = error
        with self._lock:
            self._medium.end(turn, self._clock(), is_decoded=pixels is not None)
        if failure is not None:
            decoded.set_exception(failure)
        elif pixels is not None:
            decoded.set_result(pixels)
        del decoded, failure  # as above

    async def _in_process(self, turn: Turn, content: bytes) -> Pixels:
        """Decode an image in a process when its turn has come; cancelled, it is killed."""
        begun = self._turns[turn] = asyncio.get_running_loop().create_future()
        caller = asyncio.current_task()
        assert caller is not None
        is_decoded = False
        try:
            self._begin_process()
            await begun
            self._callers.add(caller)
            pixels = await self._decode_apart(content)
            is_decoded = True
            return pixels
        finally:
            self._callers.discard(caller)
            if turn.begun_at < inf:
                self._large.end(turn, self._clock(), is_decoded=is_decoded)
                self._begin_process()

    def _begin_process(self) -> None:
        """Begin those whose turn has come."""
        while (turn := self._large.begin(self._clock())) is not None:
            begun = self._turns.pop(turn)
            if not begun.done():  # its caller may be leaving
                begun.set_result(None)

    async def _decode_apart(self, content: bytes) -> Pixels:
        preprocessing = json.dumps(asdict(self._preprocessing))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", decode_process.__file__, preprocessing),
            *(str(self._decode_s), str(self._decode_memory_bytes)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # the signals of a terminal are the server's
        )
        try:
            pixels, reason = await process.communicate(content)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode == 0:
            size = self._preprocessing.size
            return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)
        if process.returncode == decode_process.BROKEN:
            raise BrokenImage(reason.decode())
        if process.returncode == decode_process.TOO_LARGE:
            raise BrokenImage(f"it takes more than {self._decode_memory_bytes} bytes of memory")
        if process.returncode == -signal.SIGXCPU:
            raise BrokenImage(f"it takes more than {self._decode_s} s")
        if process.returncode in CRASHES:
            raise BrokenImage("it ends its decoder")
        told = reason.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"a decoder ended with {process.returncode}: {' '.join(told[-1:])}")


def _damaged(error: BrokenImage) -> DamagedImage:
    return DamagedImage(f"the image cannot be decoded: {error}")
