"""What the labels say that come for answers given before: ``/feedback``."""

from collections.abc import Iterable
from typing import Any

from service.engine.loaded import LoadedBundle
from service.observability.feedback import AnswerMemory, Kept, Rejection
from service.observability.telemetry import Metrics
from service.problems import (
    FeedbackLate,
    FeedbackRepeated,
    InvalidFeedback,
    Problem,
    UnknownRequest,
)


class Labels:
    """Compares answers with their labels.

    Args:
        answers: those that labels may come for.
        metrics: is told.
    """

    def __init__(self, answers: AnswerMemory, metrics: Metrics) -> None:
        self.answers = answers
        self._metrics = metrics

    def expects(self, request_id: str) -> bool:
        """Whether an answer of that id is there, without its label."""
        return self.answers.answered_by(request_id) is not None

    def compare(
        self, request_id: str, label: str, current: Iterable[LoadedBundle], *, now: float
    ) -> dict[str, Any]:
        """Return the score of an answer.

        The labels of an answer of a bundle that was replaced meanwhile say nothing of those that answer now: they are
        compared, and not counted with their own.

        Args:
            request_id: of the answer.
            label: what was on its image.
            current: the bundles that answer now.
            now: seconds.

        Raises:
            InvalidFeedback, UnknownRequest, FeedbackRepeated, FeedbackLate: it cannot be compared.
        """
        kept = self.answers.answered_by(request_id)
        own = [each for each in current if kept in (None, (each.name, each.bundle.digest))]
        labels = dict.fromkeys(label for each in own for label in each.bundle.manifest.labels)
        if own and label not in labels:
            self._metrics.feedback.inc("invalid")
            raise InvalidFeedback(f"{label!r} is no label of the bundle", allowed=", ".join(labels))
        taken = self.answers.take(request_id, now)
        if not isinstance(taken, Kept):
            self._metrics.feedback.inc(taken)
            raise self._rejection(taken, request_id)
        is_right = label == taken.label
        if own:
            self._metrics.label_came(taken.model, taken.subnetwork, is_right)
        else:
            self._metrics.feedback.inc("replaced")
        return {
            "request_id": request_id,
            "label": label,
            "answer": taken.label,
            "subnetwork": taken.subnetwork,
            "is_right": is_right,
        }

    def _rejection(self, reason: Rejection, request_id: str) -> Problem:
        """Return what the sender of a label that cannot be used is told."""
        match reason:
            case "unknown":
                kept = self.answers.capacity
                return UnknownRequest(
                    f"no answer {request_id!r} is kept here; the latest {kept} are"
                )
            case "repeated":
                return FeedbackRepeated(f"the answer {request_id!r} has its label already")
            case "late":
                window_s = self.answers.window_s
                return FeedbackLate(
                    f"the answer {request_id!r} is older than {window_s:g} s", limit=window_s
                )
