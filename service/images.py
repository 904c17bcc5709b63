"""From the bytes of a request to what the network takes: uint8 (H, W, 3) at the network's size."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import inf, isqrt
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header

from model.images import FORMATS, Pixels, to_pixels
from service.problems import (
    DamagedImage,
    Expired,
    InvalidUpload,
    NotAnImage,
    Overloaded,
    TooManyPixels,
)

DECODE_THREADS = 2  # large images share two cores at most, the rest is for runs and small images
MAX_TEXT_BYTES = 8 << 20  # of a PNG, unpacked
INLINE_BYTES = 64 * 1024  # what decodes in under a millisecond is not worth a thread's 0.1 ms
INLINE_PIXELS = 128 * 128


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
        self._threads = ThreadPoolExecutor(DECODE_THREADS, "decode")
        # Pillow's own limit is one for the process and only warns; ours is checked for each image.
        Image.MAX_IMAGE_PIXELS = None
        # Enough for what editors and generators write beside the pixels, and unpacked within milliseconds.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES

    async def warm_up(self) -> None:
        """Decode an image of each format: Pillow loads its parts when they are first needed."""
        side = min(self._size, isqrt(self._max_pixels))
        for image_format in FORMATS:
            file = BytesIO()
            Image.new("RGB", (side, side)).save(file, image_format)
            await self.decode(file.getvalue())

    async def decode(
        self, body: bytes, content_type: bytes = b"", *, give_up_at: float = inf
    ) -> Pixels:
        """Return the image in a request's body as uint8 (size, size, 3).

        Args:
            body: as it was sent.
            content_type: of the body; may be that of a multipart form.
            give_up_at: when nobody wants the image any more.

        Raises:
            InvalidUpload, NotAnImage, DamagedImage, TooManyPixels: it cannot be.
            Overloaded: too many large images wait.
            Expired: its turn came too late.
        """
        if len(body) > INLINE_BYTES:
            return await self._in_thread(give_up_at, self._open_and_load, body, content_type)
        image = self._open(image_content(body, content_type))
        if image.width * image.height > INLINE_PIXELS:
            return await self._in_thread(give_up_at, self._load, image)
        return self._load(image)

    def close(self) -> None:
        """End the threads, after what they decode for clients that left."""
        self._threads.shutdown(wait=False)

    async def _in_thread(
        self, give_up_at: float, decode: Callable[..., Pixels], *arguments: Any
    ) -> Pixels:
        if self._waiting >= self._max_waiting:
            raise Overloaded(
                f"{self._waiting} large images wait to be decoded already, the most that may",
                headers={"Retry-After": "1"},
                limit=self._max_waiting,
            )

        def decode_in_turn() -> Pixels:
            if self._clock() > give_up_at:
                raise Expired("the deadline passed while the image waited to be decoded")
            return decode(*arguments)

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, decode_in_turn)
        finally:
            self._waiting -= 1
            self._on_wake(self._clock())

    def _open_and_load(self, body: bytes, content_type: bytes) -> Pixels:
        return self._load(self._open(image_content(body, content_type)))

    def _open(self, content: bytes) -> Image.Image:
        """Read the header alone and check the size that it claims."""
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise NotAnImage(
                f"the {len(content)} bytes sent are no {', '.join(FORMATS)} image"
            ) from error
        except Exception as error:  # Pillow's readers raise nearly anything on hostile headers
            raise DamagedImage(f"the image's header cannot be read: {error}") from error
        pixels = image.width * image.height
        if pixels > self._max_pixels:
            raise TooManyPixels(
                f"the image is {image.width} × {image.height} = {pixels} pixels, "
                f"the limit is {self._max_pixels}",
                pixels=pixels,
                limit=self._max_pixels,
            )
        return image

    def _load(self, image: Image.Image) -> Pixels:
        try:
            return to_pixels(image, self._size)
        except Exception as error:  # as above
            raise DamagedImage(f"the image cannot be decoded: {error}") from error


def image_content(body: bytes, content_type: bytes) -> bytes:
    """Return the image in a request's body: the body itself, or the one file of a multipart form.

    Raises:
        InvalidUpload: the form cannot be read or does not hold exactly one file.
    """
    media_type, parameters = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        return body
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise InvalidUpload("the Content-Type of a multipart form must name its boundary")
    files: list[bytes] = []
    try:
        form = FormParser(
            "multipart/form-data",
            on_field=None,
            on_file=lambda file: files.append(_content(file)),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body)},  # in memory it is already
        )
        form.write(body)
        form.finalize()
    except FormParserError as error:
        raise InvalidUpload(f"the multipart form cannot be read: {error}") from error
    if len(files) != 1:
        raise InvalidUpload(f"the multipart form holds {len(files)} files; send exactly one")
    return files[0]


def _content(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()
