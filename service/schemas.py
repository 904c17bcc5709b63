"""What comes in and what goes out: query parameters, and the documents of the API.

The parameters of ``/classify`` are parsed by hand and its reply is built as a dict, because both are on the path of
every request; the models below describe them in ``/docs``, and the tests hold the two together.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.problems import InvalidFeedback, InvalidParameter
from service.scheduling.requests import OnMiss
from service.settings import CANARY, LONGEST_MS, NUMBER, SHORTEST_MS, Settings


@dataclass(frozen=True, slots=True)
class ClassifyQuery:
    """The query parameters of ``/classify``, valid."""

    model: str
    deadline_ms: float
    on_miss: OnMiss
    subnetwork: str | None
    top_k: int
    stop_at_confidence: float | None


MODEL = "model"  # the parameter that says which model is asked
CACHED_QUERIES = 256  # clients send few different ones


class QueryParser:
    """Parses and checks query parameters for a model.

    Args:
        settings: gives the defaults.
        model: its name.
        subnetworks: the names that may be forced.
        classes: K; the most labels that can be asked for.
    """

    def __init__(
        self, settings: Settings, *, model: str, subnetworks: Collection[str], classes: int
    ) -> None:
        self._parsers: dict[str, Callable[[str, str], Any]] = {
            MODEL: _one_of((model, model + CANARY)),
            "deadline_ms": _milliseconds,
            "on_miss": _one_of(("answer", "refuse")),
            "subnetwork": _one_of(tuple(subnetworks)),
            "top_k": _integer_up_to(classes),
            "stop_at_confidence": _fraction,
        }
        self._defaults = {
            MODEL: model,
            "deadline_ms": settings.default_deadline_ms,
            "on_miss": settings.default_on_miss,
            "subnetwork": None,
            "top_k": min(settings.default_top_k, classes),
            "stop_at_confidence": None,
        }

        self._parsed = lru_cache(CACHED_QUERIES)(self._parse)

    def __call__(
        self, query_string: bytes, fields: tuple[tuple[str, str], ...] = ()
    ) -> ClassifyQuery:
        """Return the parameters of a query and the fields of a form, defaults filled in.

        Raises:
            InvalidParameter: one is unknown, repeated or bad.
        """
        return self._parsed(query_string, fields)

    def _parse(self, query_string: bytes, fields: tuple[tuple[str, str], ...]) -> ClassifyQuery:
        values = dict(self._defaults)
        seen: set[str] = set()
        query = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        for name, text in (*query, *fields):
            parse = self._parsers.get(name)
            if parse is None:
                known = ", ".join(self._parsers)
                detail = f"there is no parameter {name!r}; there are {known}"
                raise InvalidParameter(
                    detail, parameter=name, value=text, allowed=f"the parameters {known}"
                )
            if name in seen:
                detail = f"{name} is given more than once, again as {text!r}"
                raise InvalidParameter(detail, parameter=name, value=text, allowed="one value")
            seen.add(name)
            values[name] = parse(name, text)
        return ClassifyQuery(**cast(Any, values))


def _milliseconds(name: str, text: str) -> float:
    number = _number(text)
    if not (SHORTEST_MS <= number <= LONGEST_MS):
        raise _invalid(name, text, f"a number from {SHORTEST_MS:g} to {LONGEST_MS}")
    return number


def _fraction(name: str, text: str) -> float:
    number = _number(text)
    if not (0 < number <= 1):
        raise _invalid(name, text, "a number over 0, at most 1")
    return number


def parse_share(text: str) -> float:
    """Return the share of requests that a canary is to answer.

    Raises:
        InvalidParameter: it is none.
    """
    number = _number(text)
    if not (0 <= number <= 1):
        raise _invalid("share", text, "a number from 0 to 1")
    return number


def _number(text: str) -> float:
    return float(text) if NUMBER.fullmatch(text) else math.nan


def _integer_up_to(limit: int) -> Callable[[str, str], int]:
    def parse(name: str, text: str) -> int:
        if not (text.isdecimal() and text.isascii() and len(text) < 10 and 1 <= int(text) <= limit):
            raise _invalid(name, text, f"a whole number from 1 to {limit}")
        return int(text)

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], str]:
    def parse(name: str, text: str) -> str:
        if text not in choices:
            raise _invalid(name, text, f"one of {', '.join(choices)}")
        return text

    return parse


def _invalid(name: str, text: str, allowed: str) -> InvalidParameter:
    return InvalidParameter(
        f"{name} is {text!r}; it must be {allowed}", parameter=name, value=text, allowed=allowed
    )


class Document(BaseModel):
    """Base of the API's documents."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Candidate(Document):
    """A label and how sure the network is of it."""

    label: str
    class_id: int
    confidence: float


class BundleName(Document):
    """Which bundle answered."""

    name: str = Field(description="Of the model, as requests call it.")
    digest: str = Field(description="sha256 of its manifest.")


class Answer(Document):
    """The reply to ``/classify``."""

    request_id: str
    label: str
    class_id: int
    confidence: float = Field(description="Calibrated probability of the label.")
    top: list[Candidate] = Field(description="The most probable labels, best first.")
    subnetwork: str = Field(description="The subnetwork that answered.")
    expected_accuracy: float = Field(description="Its accuracy on validation images.")
    deadline_ms: float
    latency_ms: float = Field(description="Arrival to this reply.")
    queue_ms: float = Field(description="Arrival to the start of the first run, decoding included.")
    run_ms: float = Field(description="The run that gave this answer, of the whole batch.")
    in_time: bool = Field(description="Whether latency_ms is within deadline_ms.")
    bundle: BundleName


class Step(Answer):
    """An event of ``/classify/stream``."""

    final: bool = Field(description="Whether this is the last event.")


class Feedback(Document):
    """What was on an image that was classified."""

    request_id: str = Field(description="The `request_id` of the reply.")
    label: str = Field(description="One of the bundle's labels.")


class Score(Document):
    """The reply to ``/feedback``."""

    request_id: str
    label: str = Field(description="The label that was sent.")
    answer: str = Field(description="The label that was answered.")
    subnetwork: str = Field(description="The subnetwork that answered.")
    is_right: bool = Field(description="Whether they are the same.")


def parse_feedback(body: bytes) -> Feedback:
    """Return the feedback in a body.

    Raises:
        InvalidFeedback: it is no JSON document of the right form.
    """
    try:
        return Feedback.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise InvalidFeedback(f"{where}: {first['msg']}") from error


class SubnetworkEntry(Document):
    """One subnetwork and what it costs now."""

    name: str
    columns: list[int] = Field(description="Of the FractalNet; none of an imported network.")
    depth: int | None = Field(description="Convolutions in a row; null of an imported network.")
    parameters: int
    macs: int = Field(description="Multiply-adds an image.")
    precision: Literal["float", "int8"] = Field(description="The faster one on this machine.")
    expected_accuracy: float = Field(description="By validation images; choices are made on it.")
    expected_accuracy_interval: tuple[float, float] = Field(
        description="Between what it lies with 95 % confidence."
    )
    test_accuracy: float | None = Field(description="Null where there were no test images.")
    predicted_run_latency_ms: float = Field(description="Of one image, now.")


class SubnetworkList(Document):
    """The reply to ``/subnetworks``, in order of cost."""

    models: list[str] = Field(description="All that the server has; the first is the default.")
    bundle: BundleName
    device: str
    subnetworks: list[SubnetworkEntry]


class Reloaded(Document):
    """The reply to ``/admin/reload``."""

    bundle: BundleName = Field(description="What answers now.")
    before: BundleName = Field(description="What answered before; the same if nothing has changed.")


class CanaryShare(Document):
    """The reply to ``/admin/canary``."""

    model: str
    share: float = Field(
        description="Of the model's requests, what the canary answers from now on."
    )
    bundle: BundleName = Field(description="The model's own.")
    canary: BundleName


class Health(Document):
    """The reply to a health check that passes."""

    status: str


class ProblemDocument(BaseModel):
    """A problem as RFC 9457 describes it, with further members by problem."""

    type: str
    title: str
    status: int
    detail: str


Outcomes = list[Answer | ProblemDocument]  # of several images
