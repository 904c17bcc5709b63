"""PURE: which answers were right, once somebody says what was on the image."""

from array import array
from dataclasses import dataclass
from typing import Literal

Rejection = Literal["unknown", "repeated", "late"]

NOWHERE = -1
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

    It has its full size from the start, 65 bytes an answer, and takes no more as answers come and go: they are written
    round a ring, and those whose ids have hashes of one remainder are chained, the latest first. An id is known by its
    hash of 64 bits, which Python salts anew in each process: among 50,000 answers, one of 10^14 ids that were never
    answered is taken for one that was.

    Args:
        capacity: how many are kept; the oldest is forgotten for a new one.
        window_s: how long after an answer its label is taken.
    """

    def __init__(self, *, capacity: int, window_s: float) -> None:
        self.capacity = capacity
        self.window_s = window_s
        self._newest = -1  # its position on the ring
        self._hashes = array("q", [0]) * capacity
        self._answers = [""] * (FIELDS * capacity)
        self._answered_at = array("d", [0.0]) * capacity
        self._has_label = bytearray(capacity)
        self._first = array("q", [NOWHERE]) * capacity  # position, by remainder of the hash
        self._next = array("q", [NOWHERE]) * capacity  # position of the next of the same remainder

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
        self._forget(self._find(request_id))
        at = self._newest = (self._newest + 1) % self.capacity
        self._forget(at)
        self._hashes[at] = hash(request_id)
        self._answers[FIELDS * at : FIELDS * (at + 1)] = subnetwork, label, model, bundle
        self._answered_at[at] = now
        self._has_label[at] = False
        chain = self._hashes[at] % self.capacity
        self._next[at], self._first[chain] = self._first[chain], at

    def answered_by(self, request_id: str) -> tuple[str, str] | None:
        """Return the model and the digest of the bundle that gave an answer, if that has no label yet."""
        at = self._find(request_id)
        if at == NOWHERE or self._has_label[at]:
            return None
        kept = self._kept(at)
        return kept.model, kept.bundle

    def take(self, request_id: str, now: float) -> Kept | Rejection:
        """Return the answer that a label is for, once, or say why there is none."""
        at = self._find(request_id)
        if at == NOWHERE:
            return "unknown"
        if self._has_label[at]:
            return "repeated"
        if now - self._answered_at[at] > self.window_s:
            return "late"
        self._has_label[at] = True
        return self._kept(at)

    def _kept(self, at: int) -> Kept:
        return Kept(*self._answers[FIELDS * at : FIELDS * (at + 1)])

    def _find(self, request_id: str) -> int:
        """Return the position of an answer, or ``NOWHERE``."""
        if not self.capacity:
            return NOWHERE
        key = hash(request_id)
        at = self._first[key % self.capacity]
        while at != NOWHERE and self._hashes[at] != key:
            at = self._next[at]
        return at

    def _forget(self, at: int) -> None:
        """Take what is kept at a position, if anything is, out of its chain."""
        if at == NOWHERE:
            return
        chain = self._hashes[at] % self.capacity
        before, here = NOWHERE, self._first[chain]
        while here not in (NOWHERE, at):
            before, here = here, self._next[here]
        if here == NOWHERE:
            return
        if before == NOWHERE:
            self._first[chain] = self._next[at]
        else:
            self._next[before] = self._next[at]
