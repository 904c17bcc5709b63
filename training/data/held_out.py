"""The images that are held out of training, to validate and to test, and whether they can tell what they should."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.folders import named
from training.data.splits import Split

HELD_OUT_FRACTION = 0.15  # of each class, to validate and again to test


def stratified(
    labels: Tensor, order: Tensor, *, parts: int = 2, fraction: float = HELD_OUT_FRACTION
) -> tuple[Tensor, ...]:
    """Return which images are held out in each part, and which train: of every class the same shares, in a given order.

    Args:
        labels: of all images, (N,).
        order: in which they are taken, (N,).
        parts: that are held out.
        fraction: of each class in each part, one image at least; none of a class that would have none left to learn from.
    """
    part = torch.full((len(labels),), parts)
    for label in set(labels.tolist()):
        own = order[labels[order] == label]
        n = max(1, round(len(own) * fraction)) if len(own) > parts else 0
        for k in range(parts):
            part[own[k * n : (k + 1) * n]] = k
    return tuple(order[part[order] == k] for k in range(parts + 1))


def doubts(classes: Sequence[str], train: Split, validation: Split, test: Split) -> tuple[str, ...]:
    """Say why figures measured on these images would tell little."""
    found = []
    seen = set(train.identities())
    for split, does in ((validation, "validates"), (test, "tests")):
        counts = split.labels.bincount(minlength=len(classes)).tolist()
        lacking = [name for name, n in zip(classes, counts, strict=True) if not n]
        if lacking:
            found.append(
                f"no image {does} these classes: {named(lacking)}; give each at least three"
            )
        known = sum(identity in seen for identity in split.identities())
        if known:
            found.append(
                f"{known} of the {len(split)} images that {does[:-1]} are trained on too: accuracy will flatter"
            )
    return tuple(found)
