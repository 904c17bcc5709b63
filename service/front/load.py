"""Load for the page to show how the server holds: sent to it by a process of its own, and ended when nobody looks.

The page cannot send it: a browser keeps six connections to a server. Nor can this process: what it sends would stand in
the way of what it answers.
"""

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from service.engine.serving import Serving

MOST_TIMES = 10
LEASE_S = 5.0  # the load ends this long after the page last asked how it goes
SIDE, QUALITY = 32, 90  # of the images: files of 1 to 2 kB
SENDER = Path(__file__).with_name("sender.py")
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("holds_per_s", "expected_accuracy")),
    **dict.fromkeys(("sent_per_s", "in_time_per_s", "late_per_s", "refused_per_s"), 0),
    "subnetworks": {},
    "answers": [],
}


class LoadWanted(BaseModel):
    """How much load the page asks for, in multiples of what the server holds."""

    model_config = ConfigDict(extra="forbid")

    times: float = Field(ge=0, le=MOST_TIMES, allow_inf_nan=False)
    deadline_ms: float = Field(ge=0.1, le=1000, allow_inf_nan=False)


class Load:
    """Starts the process that sends, tells it what is wanted, and ends it.

    Args:
        pictures: what the requests show, one of them at a time.
        clock: seconds.
    """

    def __init__(self, pictures: list[Path], clock: Callable[[], float]) -> None:
        self._images = [b64encode(_shrunk(each)).decode() for each in pictures]
        self._clock = clock
        self._wanted = LoadWanted(times=0, deadline_ms=10)
        self._asked_at = 0.0
        self._report: dict[str, Any] = NOTHING
        self._sending: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def want(self, wanted: LoadWanted, *, serving: Serving, address: tuple[str, int]) -> None:
        """Have so much sent from now on to ``address``, for as long as somebody looks."""
        self._wanted = wanted
        self._asked_at = self._clock()
        self._changed.set()
        if wanted.times and (self._sending is None or self._sending.done()):
            predict_s = serving.latency.predict_s
            fastest = min(serving.expected_accuracy, key=lambda name: predict_s(name, 1))
            self._sending = asyncio.create_task(self._send(fastest, *address))

    def report(self) -> dict[str, Any]:
        """Say how the load goes: what became of the requests of the last second."""
        self._asked_at = self._clock()
        return {"times": self._wanted.times, **self._report}

    async def _send(self, fastest: str, host: str, port: int) -> None:
        """Have it sent until it is not wanted, or nobody asks any more."""
        sender = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-P",
                str(SENDER),
            ),  # of whatever folder this is run in, nothing counts
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # it ends with its stdin, not by the signals of a terminal
            limit=1 << 20,
        )
        assert sender.stdin is not None
        assert sender.stdout is not None
        begin = {"host": host, "port": port, "fastest": fastest, "images": self._images}
        reading = asyncio.create_task(self._read(sender.stdout))
        try:
            sender.stdin.write(_line(begin))
            while (
                self._wanted.times
                and self._clock() - self._asked_at < LEASE_S
                and not reading.done()
            ):
                self._changed.clear()
                sender.stdin.write(_line(self._wanted.model_dump()))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), LEASE_S)
        finally:
            sender.stdin.close()
            await reading
            await sender.wait()
            self._wanted = self._wanted.model_copy(update={"times": 0})
            self._report = NOTHING

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            self._report = json.loads(line)


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _shrunk(picture: Path) -> bytes:
    """Return the file of a picture at the size of CIFAR-10's."""
    file = BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
