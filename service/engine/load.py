"""Load for the page to show how the server holds: sent to it by a process of its own, and ended when nobody looks.

The page cannot send it: a browser keeps six connections to a server. Nor can this process: what it sends would stand in
the way of what it answers.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LEASE_S = 5.0  # the load ends this long after the page last asked how it goes
SENDER = Path(__file__).with_name("sender.py")
NO_LOAD: Mapping[str, Any] = {"times": 0.0, "deadline_ms": 10.0, "model": None}
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("holds_per_s", "expected_accuracy")),
    **dict.fromkeys(("sent_per_s", "in_time_per_s", "late_per_s", "refused_per_s"), 0),
    "subnetworks": {},
    "answers": [],
}


class Load:
    """Starts the process that sends, tells it what is wanted, and ends it.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wanted = NO_LOAD
        self._asked_at = 0.0
        self._report: dict[str, Any] = NOTHING
        self._sending: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def want(self, wanted: Mapping[str, Any], sender: Mapping[str, Any]) -> dict[str, Any]:
        """Have so much sent from now on, for as long as somebody looks.

        Args:
            wanted: ``times`` what the server holds of a ``model``, whose ``fastest`` subnetwork tells how much that is, and
                ``deadline_ms``.
            sender: what ``sender.py`` is told first.
        """
        self._wanted = wanted
        self._asked_at = self._clock()
        self._changed.set()
        if wanted["times"] and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send(sender))
        return self.report()

    def report(self) -> dict[str, Any]:
        """Say how the load goes: what became of the requests of the last second."""
        self._asked_at = self._clock()
        return {"times": self._wanted["times"], "model": self._wanted["model"], **self._report}

    async def _send(self, begin: Mapping[str, Any]) -> None:
        """Have it sent until it is not wanted, or nobody asks any more."""
        sender = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-P",
                str(SENDER),
            ),  # of the folder that this is run in, nothing counts
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # it ends with its stdin, not by the signals of a terminal
            limit=1 << 20,
        )
        assert sender.stdin is not None
        assert sender.stdout is not None
        reading = asyncio.create_task(self._read(sender.stdout))
        try:
            sender.stdin.write(_line(begin))
            while (
                self._wanted["times"]
                and self._clock() - self._asked_at < LEASE_S
                and not reading.done()
            ):
                self._changed.clear()
                sender.stdin.write(_line(self._wanted))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), LEASE_S)
        finally:
            sender.stdin.close()
            await reading
            await sender.wait()
            self._wanted = {**self._wanted, "times": 0}
            self._report = NOTHING

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            self._report = json.loads(line)


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"
