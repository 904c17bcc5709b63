"""The board: a page of memory that all processes of the server share, for what is too short-lived to be told.

The engine writes what a front needs to see that a request is lost before it decodes it; each front writes how busy it
is. A value is eight bytes, written and read whole; each has one writer, but for the buckets of API keys and shares. What the
engine shows of its load is many values: its edition is odd while they are written, and who reads them looks at it before and
after. Nothing here is waited for.
"""

import mmap
import os
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

ENGINE_PLACES: Final = 4096  # values of the engine: for each bundle 48, and two for each subnetwork
PLACES: Final = 16  # values of a front: two cache lines
KEYS: Final = 256  # API keys that limits are kept of
CANARIES: Final = 64  # canaries that have a share

# Places of the engine.
ENGINE_BEAT_AT, EDITION, LENGTH, LOADS = range(4)

# Places of a front.
CONNECTIONS, CPU_S, HANDLED, SHED, SHED_CPU_S, LINES_DROPPED, BEAT_AT = range(7)
UNSEEN = 7  # requests that it refused, by their heads or once they were read, so that the engine never saw them
UNSEEN_DEADLINE_S = 8  # of the last of them
RECEIVED = 9  # how many requests of it the engine has read; the engine writes this one


class BeingWrittenError(Exception):
    """The engine was writing what was read: some of it may be of the edition before."""


class Board:
    """The shared page: the values of the engine, and those of each front.

    Args:
        descriptor: of the memory, as ``create`` gave it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size = os.fstat(descriptor).st_size
        self._values = memoryview(mmap.mmap(descriptor, size)).cast("d")
        self.fronts = (size // 8 - ENGINE_PLACES - KEYS - CANARIES) // (PLACES + KEYS)
        self._buckets = ENGINE_PLACES + PLACES * self.fronts  # where those of the keys begin
        self._in_flight = self._buckets + KEYS  # then what each front has in flight of them
        self._shares = size // 8 - CANARIES  # then the canaries

    @classmethod
    def create(cls, fronts: int) -> "Board":
        """Return a new board, all 0.

        Raises:
            OSError: the memory cannot be had.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("anytime-board")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        size = 8 * (ENGINE_PLACES + KEYS + CANARIES + (PLACES + KEYS) * fronts)
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, bytes(size), 0)  # a full memory is seen here, not at the first use
        return cls(descriptor)

    def beat(self, now: float) -> None:
        """Write that the engine works."""
        self._values[ENGINE_BEAT_AT] = now

    @property
    def engine_beat_at(self) -> float:
        """When the engine has last said that it works; 0 if it has not."""
        return self._values[ENGINE_BEAT_AT]

    @property
    def has_engine(self) -> bool:
        """Whether an engine was ever warm."""
        return self._values[LENGTH] > 0

    def publish(self, loads: Mapping[int, Sequence[float]]) -> None:
        """Write the engine's load for each bundle, by its generation; those that do not fit are left out."""
        row = array("d")
        for generation, load in loads.items():
            if LOADS + len(row) + 2 + len(load) <= ENGINE_PLACES:
                row.extend((generation, len(load), *load))
        writing = (int(self.edition) + 1) | 1  # odd already, where an engine was killed as it wrote
        self._values[EDITION] = writing
        self._values[LENGTH] = len(row)
        self._values[LOADS : LOADS + len(row)] = row
        self._values[EDITION] = writing + 1

    @property
    def edition(self) -> float:
        """What changes whenever the engine publishes its load; odd while it does."""
        return self._values[EDITION]

    def published(self, generation: int) -> list[float] | None:
        """Return the engine's load for a bundle; None if it is not there.

        Raises:
            BeingWrittenError: it was written at the same time.
        """
        edition = self.edition
        if edition % 2:
            raise BeingWrittenError
        rows: list[float] = self._values[LOADS : LOADS + int(self._values[LENGTH])].tolist()  # type: ignore[assignment]
        if edition != self.edition:
            raise BeingWrittenError
        at = 0
        while at < len(rows):
            begin = at + 2
            at = begin + int(rows[begin - 1])
            if rows[begin - 2] == generation:
                return rows[begin:at]
        return None

    def set(self, front: int, place: int, value: float) -> None:
        """Write a value of a front."""
        self._values[ENGINE_PLACES + PLACES * front + place] = value

    def get(self, front: int, place: int) -> float:
        """Return a value of a front."""
        return self._values[ENGINE_PLACES + PLACES * front + place]

    def beat_at(self, front: int) -> float:
        """Return when a front has last said that it works; 0 if it has not."""
        return self.get(front, BEAT_AT)

    def total(self, place: int) -> float:
        """Return the sum of a value over all fronts."""
        return sum(self._values[ENGINE_PLACES + place : self._buckets : PLACES])

    def full_at(self, key: int) -> float:
        """Return when the bucket of an API key is full."""
        return self._values[self._buckets + key]

    def set_full_at(self, key: int, at: float) -> None:
        """Write when it is; any front may, and of two that do at once one counts."""
        self._values[self._buckets + key] = at

    def in_flight(self, key: int) -> float:
        """Return how many requests with an API key all fronts answer now."""
        return sum(self._values[self._in_flight + key : self._shares : KEYS])

    def set_in_flight(self, front: int, key: int, requests: int) -> None:
        """Write how many of them one front answers."""
        self._values[self._in_flight + KEYS * front + key] = requests

    def share(self, canary: int) -> float:
        """Return the share of its model's requests that a canary answers."""
        return self._values[self._shares + canary]

    def set_share(self, canary: int, share: float) -> None:
        """Write it; it outlives engines and fronts."""
        self._values[self._shares + canary] = share

    def clear(self, front: int) -> None:
        """Forget the values of a front that has ended, but for the lines that it lost: the next one adds to them."""
        for place in range(PLACES):
            if place != LINES_DROPPED:
                self.set(front, place, 0.0)
        for key in range(KEYS):
            self.set_in_flight(front, key, 0)


class Pulse:
    """Tells whether a process has stopped working, from looks at the instant of its last sign of life.

    It counts looks, not seconds: while the whole machine or container is paused, nobody looks.

    Args:
        most_missed: looks in a row that find no new sign of life before it says so.
    """

    def __init__(self, most_missed: int) -> None:
        self._most_missed = most_missed
        self._beat_at = 0.0
        self._missed = 0

    def has_stopped(self, beat_at: float) -> bool:
        """Look; 0 says that there was no sign of life yet, which is waited for."""
        is_same = beat_at > 0 and beat_at == self._beat_at
        self._missed = self._missed + 1 if is_same else 0
        self._beat_at = beat_at
        return self._missed >= self._most_missed
