"""Which of several subnetworks is how accurate, where the images to tell it by are few.

On 24 images two subnetworks are easily equal, or the deeper one wrong once more, by chance. So they are compared image by
image, and what differs by no more than chance does is pooled: its accuracy is the mean. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.intervals import wilson
from model.manifest import Accuracy, Estimate, Subnetwork

CHANCE = 0.05  # how often a subnetwork as good as another may be taken for worse
LUCK = (
    0.2  # how often a set of columns that is no better than a cheaper one may be exported beside it
)

Right = NDArray[np.bool_]
"""Whether a subnetwork is right (N,), image by image."""


def is_worse(own: Right, other: Right, chance: float = CHANCE) -> bool:
    """Say whether a subnetwork loses more of the images on which the two differ than chance explains (a sign test)."""
    from scipy.stats import binomtest  # takes half a second to load

    lost, won = int((other & ~own).sum()), int((own & ~other).sum())
    if lost <= won:
        return False
    return bool(binomtest(lost, lost + won, alternative="greater").pvalue < chance)


class Front:
    """Goes through subnetworks, cheapest first, and says which of them are worth their cost."""

    def __init__(self) -> None:
        self._best: Right | None = None

    def takes(self, own: Right) -> bool:
        """Say whether the next subnetwork is more accurate than all before it, and hardly by luck."""
        best = self._best
        if best is None or own.sum() > best.sum():
            self._best = own
        return best is None or is_worse(best, own, LUCK)


def with_expected(
    subnetworks: Sequence[Subnetwork], rights: Mapping[str, Right]
) -> tuple[Subnetwork, ...]:
    """Return the subnetworks of a bundle, cheapest first, with what accuracy to expect of each, in int8 for itself.

    Args:
        subnetworks: in any order, measured.
        rights: by the name of the graph's file, whether it is right on each validation image.
    """
    ordered = sorted(subnetworks, key=lambda each: each.macs)
    in_int8 = [each for each in ordered if each.int8]
    expected = expected_accuracies([rights[each.graph.name] for each in ordered])
    of_int8 = expected_accuracies([rights[each.int8.graph.name] for each in in_int8 if each.int8])

    def expecting(accuracy: Accuracy, estimate: Estimate) -> dict[str, Accuracy]:
        return {"accuracy": accuracy.model_copy(update={"expected": estimate})}

    quantised = {
        each.name: each.int8.model_copy(update=expecting(each.int8.accuracy, estimate))
        for each, estimate in zip(in_int8, of_int8, strict=True)
        if each.int8
    }
    return tuple(
        each.model_copy(
            update=expecting(each.accuracy, estimate) | {"int8": quantised.get(each.name)}
        )
        for each, estimate in zip(ordered, expected, strict=True)
    )


def expected_accuracies(rights: Sequence[Right]) -> list[Estimate]:
    """Return the accuracy to expect of each subnetwork, from the cheapest to the dearest.

    A deeper subnetwork that is not shown to be worse than those before it is expected to be as good as they are together,
    and a little better: one image is counted beside those seen, of which the k-th of K gets k/K right. That decides ties
    for depth, and is nothing on thousands of images.
    """
    if not rights:
        return []
    n = len(rights[0])
    pools: list[list[int]] = []  # of subnetworks that are as good as each other, ever better
    shares = [float(own.mean()) for own in rights]

    def pooled(pool: list[int]) -> float:
        return float(np.mean([shares[k] for k in pool]))

    for k, own in enumerate(rights):
        if pools and is_worse(own, rights[max(pools[-1], key=shares.__getitem__)]):
            continue
        pools.append([k])
        while len(pools) > 1 and pooled(pools[-1]) <= pooled(pools[-2]):
            pools[-2:] = [pools[-2] + pools[-1]]
    expected = shares.copy()
    for pool in pools:
        for k in pool:
            expected[k] = pooled(pool)
    estimates = []
    for k, share in enumerate(expected):
        low, high = wilson(share, n)
        value = (share * n + (k + 1) / len(rights)) / (n + 1)
        estimates.append(Estimate(value=value, low=low, high=high))
    return estimates
