"""The optimiser, the learning rate over time, and the average of the weights."""

import math

from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.config import Recipe, Schedule

MOMENTUM = 0.9  # §4.1
WARM_UP_FRACTION = 0.2  # of a one-cycle run
DROPS: dict[Schedule, tuple[float, ...]] = {
    "paper": (1 / 2, 3 / 4, 7 / 8, 15 / 16),  # 400 epochs: at 200, 300, 350 and 375 (§4.1)
    "imagenet": (50 / 70, 65 / 70),  # §4.3
}


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
    if schedule in DROPS:
        return float(0.1 ** sum(progress >= drop for drop in DROPS[schedule]))
    if progress < WARM_UP_FRACTION:
        return progress / WARM_UP_FRACTION
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of the network that follows its weights and statistics as an exponential average over steps."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it so
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
