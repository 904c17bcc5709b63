"""The optimiser and the learning rate over time."""

import math

from torch import nn
from torch.optim import SGD

from training.config import Recipe, Schedule

MOMENTUM = 0.9  # §4.1
WARM_UP_FRACTION = 0.2  # of a one-cycle run
PAPER_DROPS = 4  # 400 epochs: at 200, 300, 350 and 375 (§4.1)


def build_optimizer(network: nn.Module, recipe: Recipe) -> SGD:
    """Return SGD with momentum; weight decay on filters and classifier weights, none on scales, shifts and biases.

    A parameter that the path of a step does not reach has no gradient there and is left as it is.
    """
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=recipe.nesterov)


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Return the learning rate as a fraction of its highest, at ``progress`` in [0, 1) of the run."""
    if schedule == "paper":
        halvings = math.floor(-math.log2(1.0 - progress))
        return float(0.1 ** min(halvings, PAPER_DROPS))
    if progress < WARM_UP_FRACTION:
        return progress / WARM_UP_FRACTION
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))
