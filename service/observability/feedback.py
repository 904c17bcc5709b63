"""PURE: which answers were right, once somebody says what was on the image."""

from array import array
from dataclasses import dataclass
from typing import Literal

import numpy as np

Rejection = Literal["unknown", "repeated", "late"]

FIELDS = 4  # of Kept


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of an answer."""

    subnetwork: str
    label: str
    model: str
    bundle: str


class AnswerMemory:
    """The latest answers, until their labels come.

    It has its full size from the start, 49 bytes an answer, and takes no more as answers come and go, which are written
    round a ring. An id is known by its hash of 64 bits, which Python salts anew in each process: among 50,000 answers, one
    of 10^14 ids that were never answered is taken for one that was. To look one up, all hashes are looked through.

    Args:
        capacity: how many are kept; the oldest is forgotten for a new one.
        window_s: how long after an answer its label is taken.
    """

    def __init__(self, *, capacity: int, window_s: float) -> None:
        self.capacity = capacity
        self.window_s = window_s
        self._remembered = 0  # ever
        self._hashes = np.full(capacity, 0, np.int64)
        self._answers = [""] * (FIELDS * capacity)
        self._answered_at = array("d", [0.0]) * capacity
        self._has_label = bytearray(capacity)

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
        """Keep an answer, with the model and the digest of the bundle that gave it; of two with one id the later counts.

        Both take room until their time is over.
        """
        if not self.capacity:
            return
        at = self._remembered % self.capacity
        self._remembered += 1
        self._hashes[at] = hash(request_id)
        self._answers[FIELDS * at : FIELDS * (at + 1)] = subnetwork, label, model, bundle
        self._answered_at[at] = now
        self._has_label[at] = False

    def answered_by(self, request_id: str) -> tuple[str, str] | None:
        """Return the model and the digest of the bundle that gave an answer, if that has no label yet."""
        at = self._find(request_id)
        if at is None or self._has_label[at]:
            return None
        kept = self._kept(at)
        return kept.model, kept.bundle

    def take(self, request_id: str, now: float) -> Kept | Rejection:
        """Return the answer that a label is for, once, or say why there is none."""
        at = self._find(request_id)
        if at is None:
            return "unknown"
        if self._has_label[at]:
            return "repeated"
        if now - self._answered_at[at] > self.window_s:
            return "late"
        self._has_label[at] = True
        return self._kept(at)

    def _kept(self, at: int) -> Kept:
        return Kept(*self._answers[FIELDS * at : FIELDS * (at + 1)])

    def _find(self, request_id: str) -> int | None:
        """Return the place of the latest answer of an id on the ring, if there is one."""
        places = np.flatnonzero(self._hashes[: self._remembered] == hash(request_id)).tolist()
        return max(places, key=lambda at: (at - self._remembered) % self.capacity, default=None)
