"""The images that are held out of training, to validate and to test, and whether they can tell what they should."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.folders import named
from training.data.splits import Split

HELD_OUT_FRACTION = 0.15  # of each class, to validate and again to test


def stratified(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which images test, validate and train: of every class the same shares, one at least, in a given order."""
    part = torch.zeros(len(labels), dtype=torch.int64)
    for label in set(labels.tolist()):
        own = order[labels[order] == label]
        n = max(1, round(len(own) * HELD_OUT_FRACTION)) if len(own) > 2 else 0
        part[own[:n]], part[own[n : 2 * n]] = 2, 1
    test, validation, train = (order[part[order] == each] for each in (2, 1, 0))
    return test, validation, train


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
