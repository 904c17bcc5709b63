"""What the subnetworks of a run are worth, as a table."""

from collections.abc import Mapping

from torch import Tensor

from model import cost
from model.presets import Architecture
from training.evaluate import reported_subnetworks, score, top_error

MANY_CLASSES = 20  # of so many, whether an image's is among the five likeliest is told too


def by_subnetwork(answers: Mapping[str, Tensor], labels: Tensor, architecture: Architecture) -> str:
    """Return a table of what each reported subnetwork costs, and what its logits (N, classes) are worth."""
    is_top_5_told = architecture.classes >= MANY_CLASSES
    head = f"{'subnetwork':<14} {'depth':>5} {'MMACs':>9} {'accuracy':>9} {'95 %':>13} {'loss':>7}"
    lines = [f"{head} {'in top 5':>9}" if is_top_5_told else head]
    for name, active in reported_subnetworks(architecture).items():
        scored = score(answers[name], labels)
        low, high = scored.interval
        line = (
            f"{name:<14} {cost.depth(architecture, active):>5} {cost.macs(architecture, active) / 1e6:>9.2f} "
            f"{scored.accuracy:>9.2%} {f'{low:.1%}–{high:.1%}':>13} {scored.loss:>7.4f}"
        )
        top_5 = f" {1 - top_error(answers[name], labels, 5):>9.2%}" if is_top_5_told else ""
        lines.append(line + top_5)
    return "\n".join(lines)
