"""The hop: what fronts and the engine tell each other over a Unix socket.

A frame is a head (the length of what follows, the kind of message, and which request it is about) and the message. What
is told of every request has a fixed layout; the rest is JSON. Instants are on the system's monotonic clock, which all
processes of a machine share.

    front -> engine    Ask Gone Record Tally Flushed Call Held
    engine -> front    Answer Delivered Shed Failed Bundles Reply Flush
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from pydantic_core import from_json, to_json

from service.outcomes import Ending, KeyRefusal, Outcome
from service.scheduling.requests import OnMiss, Refine, Shed

HEAD: Final = Struct("<IBI")  # bytes that follow, kind, request
LARGEST_FRAME: Final = 1 << 30


class Kind(IntEnum):
    """What a frame holds."""

    ASK = 1
    GONE = 2
    RECORD = 3
    TALLY = 4
    CALL = 5
    HELD = 6  # a list of generations: those of the bundles that it may still ask
    FLUSHED = 7
    ANSWER = 11
    DELIVERED = 12
    SHED = 13
    FAILED = 14
    BUNDLES = 15  # a list of ``ServedBundle``: all that answer from now on
    REPLY = 16
    FLUSH = 17


class FrameReader:
    """Cuts what comes over a socket into frames."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of a frame that is not whole yet
        self._size = 0
        self._wanted = 0  # bytes before there can be another frame

    def feed(self, data: bytes) -> Iterator[tuple[int, int, memoryview]]:
        """Give the kind, the request and the message of each frame that is whole now.

        Raises:
            ValueError: this is no such stream.
        """
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return
        view = memoryview(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        begin, self._wanted = 0, 0
        while len(view) - begin >= HEAD.size:
            size, kind, request = HEAD.unpack_from(view, begin)
            if size > LARGEST_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            end = begin + HEAD.size + size
            if end > len(view):
                self._wanted = end - begin
                break
            yield kind, request, view[begin + HEAD.size : end]
            begin = end
        rest = bytes(view[begin:])
        self._parts, self._size = ([rest] if rest else []), len(rest)


def frame(kind: Kind, request: int = 0, message: bytes = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(len(message), kind, request) + message


def document_frame(kind: Kind, request: int, document: Any) -> bytes:
    """Return a frame of a message in JSON."""
    return frame(kind, request, to_json(document))


def read_document(message: memoryview) -> Any:
    """Return a message that came as JSON."""
    return from_json(bytes(message))


ON_MISS: Final[tuple[OnMiss, ...]] = get_args(OnMiss)
REFINE: Final[tuple[Refine, ...]] = get_args(Refine)
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
REASONS: Final = ("impossible", "overloaded", "queue_full")
ANY_SUBNETWORK: Final = 0xFFFF


class Ask(NamedTuple):
    """A request for the best answer to one image.

    Attributes:
        generation: of the bundle that decoded it.
        arrived_at, deadline_at: in seconds.
        on_miss, refine: of the scheduler's request.
        subnetwork: the place in the bundle's list of the only one that may answer; None for any.
        stop_at_confidence: an answer that is as sure as this is the last; infinite for none.
        wants_steps: whether each answer is to be told that another may follow.
        was_alone: whether nothing else was asked of its front since it arrived.
    """

    generation: int
    arrived_at: float
    deadline_at: float
    on_miss: OnMiss
    refine: Refine
    subnetwork: int | None
    stop_at_confidence: float
    was_alone: bool


ASK: Final = Struct("<IddfBBH?")


def ask_frame(request: int, ask: Ask, pixels: bytes) -> bytes:
    """Return the frame of an ``Ask`` with its pixels, uint8 (H, W, 3)."""
    generation, arrived_at, deadline_at, on_miss, refine, subnetwork, stop_at, was_alone = ask
    place = ANY_SUBNETWORK if subnetwork is None else subnetwork
    codes = ON_MISS.index(on_miss), REFINE.index(refine)
    message = ASK.pack(generation, arrived_at, deadline_at, stop_at, *codes, place, was_alone)
    return b"".join((HEAD.pack(len(message) + len(pixels), Kind.ASK, request), message, pixels))


def read_ask(message: memoryview) -> tuple[Ask, memoryview]:
    """Return an ``Ask`` and its pixels."""
    generation, arrived_at, deadline_at, stop_at, on_miss, refine, place, was_alone = (
        ASK.unpack_from(message)
    )
    subnetwork = None if place == ANY_SUBNETWORK else place
    return (
        Ask(
            generation,
            arrived_at,
            deadline_at,
            ON_MISS[on_miss],
            REFINE[refine],
            subnetwork,
            stop_at,
            was_alone,
        ),
        message[ASK.size :],
    )


class Answer(NamedTuple):
    """An answer to a request.

    Attributes:
        probabilities: float32 (classes,), as bytes.
        subnetwork: the place in the bundle's list of what answered.
        batch_size: requests in its run.
        predicted_s: the run latency that the choice of subnetwork counted with.
        started_at, finished_at: of its run.
        is_last: no better one follows.
        is_first_reply: whether no other of its run is replied to before.
    """

    probabilities: bytes
    subnetwork: int
    batch_size: int
    predicted_s: float
    started_at: float
    finished_at: float
    is_last: bool
    is_first_reply: bool


ANSWER: Final = Struct("<HHddd??")


def answer_frame(request: int, answer: Answer) -> bytes:
    """Return the frame of an ``Answer``."""
    message = ANSWER.pack(
        answer.subnetwork,
        answer.batch_size,
        answer.predicted_s,
        answer.started_at,
        answer.finished_at,
        answer.is_last,
        answer.is_first_reply,
    )
    size = len(message) + len(answer.probabilities)
    return b"".join((HEAD.pack(size, Kind.ANSWER, request), message, answer.probabilities))


def read_answer(message: memoryview) -> Answer:
    """Return an ``Answer``."""
    return Answer(bytes(message[ANSWER.size :]), *ANSWER.unpack_from(message))


SHED: Final = Struct("<Bddd")


def shed_frame(request: int, shed: Shed) -> bytes:
    """Return the frame of the scheduler's shed."""
    message = SHED.pack(REASONS.index(shed.reason), shed.needed_s, shed.limit, shed.retry_after_s)
    return frame(Kind.SHED, request, message)


def read_shed(message: memoryview) -> Shed:
    """Return the scheduler's shed."""
    reason, needed_s, limit, retry_after_s = SHED.unpack(message)
    return Shed(REASONS[reason], needed_s, limit, retry_after_s)


class Record(NamedTuple):
    """What became of a request that was answered; its front tells it once the reply is written.

    Attributes:
        generation: of the bundle.
        subnetwork, label: places in the bundle's lists.
        is_first_reply: of its ``Answer``.
        first_answer_s: arrival to the first answer of a stream; negative where it is none.
        trace_id: of the trace that it is a part of, in hexadecimal; empty where it is of none.
        request_id: as the client knows it.
    """

    generation: int
    outcome: Outcome
    subnetwork: int
    label: int
    is_first_reply: bool
    confidence: float
    latency_s: float
    deadline_s: float
    queue_s: float
    decode_s: float
    reply_s: float
    slack_s: float
    first_answer_s: float
    trace_id: str
    request_id: str


RECORD: Final = Struct("<IBHH?dddddddd16s")


def record_frame(record: Record) -> bytes:
    """Return the frame of a ``Record``."""
    generation, outcome, *rest, trace_id, request_id = record
    trace = bytes.fromhex(trace_id)
    message = RECORD.pack(generation, OUTCOMES.index(outcome), *rest, trace)
    return frame(Kind.RECORD, 0, message + request_id.encode())


def read_record(message: memoryview) -> Record:
    """Return a ``Record``."""
    generation, outcome, *rest, trace = RECORD.unpack_from(message)
    trace_id = trace.hex() if any(trace) else ""
    request_id = bytes(message[RECORD.size :]).decode()
    return Record._make((generation, OUTCOMES[outcome], *rest, trace_id, request_id))


class Delivered(NamedTuple):
    """The last answer told is the best that there will be.

    Attributes:
        at: since this instant.
    """

    at: float


DELIVERED: Final = Struct("<d")


def delivered_frame(request: int, delivered: Delivered) -> bytes:
    """Return the frame of a ``Delivered``."""
    return frame(Kind.DELIVERED, request, DELIVERED.pack(delivered.at))


def read_delivered(message: memoryview) -> Delivered:
    """Return a ``Delivered``."""
    return Delivered(*DELIVERED.unpack(message))


class ServedSubnetwork(TypedDict):
    """What a front knows of a subnetwork: what it is called, and what it is worth in the precision that is served."""

    name: str
    precision: Literal["float", "int8"]
    expected_accuracy: float
    expected_accuracy_interval: tuple[float, float]
    test_accuracy: float | None


class ServedBundle(TypedDict):
    """A bundle that answers from now on.

    Attributes:
        model: what requests call it.
    """

    model: str
    generation: int
    digest: str
    device: str
    manifest: str  # JSON
    subnetworks: list[ServedSubnetwork]


class Tally(TypedDict, total=False):
    """Counts since the last tally, by what is counted and its label."""

    requests: dict[str, dict[Outcome, int]]  # by the model that they asked, or NO_MODEL
    connections_ended: dict[Ending, int]
    keys_refused: dict[KeyRefusal, int]
