"""PURE: which answers were right, once somebody says what was on the image."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

Rejection = Literal["unknown", "repeated", "late"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of an answer."""

    subnetwork: str
    label: str
    model: str
    bundle: str


class AnswerMemory:
    """The latest answers, until their labels come.

    Args:
        capacity: how many are kept; the oldest is forgotten for a new one.
        window_s: how long after an answer its label is taken.
    """

    def __init__(self, *, capacity: int, window_s: float) -> None:
        self.capacity = capacity
        self.window_s = window_s
        # Plain tuples: unlike objects, the garbage collector stops looking at them. None: has its label.
        self._kept: OrderedDict[str, tuple[str, str, str, str, float] | None] = OrderedDict()

    def remember(
        self,
        request_id: str,
        *,
        subnetwork: str,
        label: str,
        model: str,
        bundle: str,
        now: float,
    ) -> None:
        """Keep an answer, with the model and the digest of the bundle that gave it; of two with one id the later counts."""
        if not self.capacity:
            return
        self._kept[request_id] = (subnetwork, label, model, bundle, now)
        self._kept.move_to_end(request_id)
        if len(self._kept) > self.capacity:
            self._kept.popitem(last=False)

    def answered_by(self, request_id: str) -> tuple[str, str] | None:
        """Return the model and the digest of the bundle that gave an answer, if that has no label yet."""
        kept = self._kept.get(request_id)
        return (kept[2], kept[3]) if kept is not None else None

    def take(self, request_id: str, now: float) -> Kept | Rejection:
        """Return the answer that a label is for, once, or say why there is none."""
        if request_id not in self._kept:
            return "unknown"
        kept = self._kept[request_id]
        if kept is None:
            return "repeated"
        subnetwork, label, model, bundle, answered_at = kept
        if now - answered_at > self.window_s:
            return "late"
        self._kept[request_id] = None
        return Kept(subnetwork, label, model, bundle)
