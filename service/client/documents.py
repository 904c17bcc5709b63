"""What the server replies, as typed values. Fields of newer servers are left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label and how sure the network is of it."""

    label: str
    class_id: int
    confidence: float

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Take it from a document."""
        return cls(document["label"], document["class_id"], document["confidence"])


@dataclass(frozen=True, slots=True)
class BundleName:
    """Which bundle answered."""

    name: str
    digest: str

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Take it from a document."""
        return cls(document["name"], document["digest"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What is on an image; docs/api.md describes each field.

    Attributes:
        deadline_ms: the caller's, or the server's own where the caller gave none; the server was asked for less.
        in_time: whether ``waited_ms`` is within it; where the caller gave none, whether ``latency_ms`` is.
        final: whether no better answer follows; of ``classify``, always.
        waited_ms: from the call to this answer, on the caller's clock; ``latency_ms`` is on the server's.
    """

    request_id: str
    label: str
    class_id: int
    confidence: float
    top: tuple[Candidate, ...]
    subnetwork: str
    expected_accuracy: float
    deadline_ms: float
    latency_ms: float
    queue_ms: float
    run_ms: float
    in_time: bool
    bundle: BundleName
    final: bool
    waited_ms: float

    @classmethod
    def read(cls, document: Mapping[str, Any], *, waited_ms: float) -> Self:
        """Take it from a document.

        Raises:
            KeyError, TypeError: the document is another.
        """
        return cls(
            request_id=document["request_id"],
            label=document["label"],
            class_id=document["class_id"],
            confidence=document["confidence"],
            top=tuple(Candidate.read(each) for each in document["top"]),
            subnetwork=document["subnetwork"],
            expected_accuracy=document["expected_accuracy"],
            deadline_ms=document["deadline_ms"],
            latency_ms=document["latency_ms"],
            queue_ms=document["queue_ms"],
            run_ms=document["run_ms"],
            in_time=document["in_time"],
            bundle=BundleName.read(document["bundle"]),
            final=document.get("final", True),
            waited_ms=waited_ms,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a label that was sent as feedback."""

    request_id: str
    label: str
    answer: str
    subnetwork: str
    is_right: bool

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Take it from a document."""
        return cls(*(document[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Subnetwork:
    """One subnetwork of a server, and what it costs now.

    Attributes:
        columns: of the FractalNet; an imported network has none, and no ``depth``.
        expected_accuracy_interval: between what it lies with 95 % confidence.
        test_accuracy: None where there were no test images.
    """

    name: str
    columns: tuple[int, ...]
    depth: int | None
    parameters: int
    macs: int
    precision: str
    expected_accuracy: float
    expected_accuracy_interval: tuple[float, float]
    test_accuracy: float | None
    predicted_run_latency_ms: float

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Take it from a document."""
        low, high = document["expected_accuracy_interval"]
        own = {"columns": tuple(document["columns"]), "expected_accuracy_interval": (low, high)}
        return cls(**{name: document[name] for name in cls.__slots__} | own)


@dataclass(frozen=True, slots=True)
class SubnetworkList:
    """What a model of a server can answer with, in order of cost.

    Attributes:
        models: all that the server has; the first is the default.
    """

    models: tuple[str, ...]
    bundle: BundleName
    device: str
    subnetworks: tuple[Subnetwork, ...]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Take it from a document."""
        entries = tuple(Subnetwork.read(each) for each in document["subnetworks"])
        bundle = BundleName.read(document["bundle"])
        return cls(tuple(document["models"]), bundle, document["device"], entries)
