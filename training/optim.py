"""The optimiser, the learning rate over time, and the average of the weights."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.config import Recipe, Schedule
from training.muon import Muon

MOMENTUM = 0.9  # §4.1
MUON_WEIGHT_DECAY = 0.02  # keeps the filters near their length
WARM_UP_FRACTION = 0.2  # of a one-cycle run
DROPS: dict[Schedule, tuple[float, ...]] = {
    "paper": (1 / 2, 3 / 4, 7 / 8, 15 / 16),  # 400 epochs: at 200, 300, 350 and 375 (§4.1)
    "imagenet": (50 / 70, 65 / 70),  # §4.3
}


class Optimizer:
    """SGD with momentum for the whole network, or Muon for its filters and SGD for the rest.

    Muon moves a filter bank as the matrix of its filters, every direction alike, however small its gradient. Without
    residuals that is what the deep columns lack. Weight decay is on filters and classifier weights, none on scales, shifts and biases. Shifts may have a
    rate of their own, which far steps want thousands of times the others'. Frozen filters stay, and a
    parameter that the path of a step does not reach has no gradient there and is left as it is.

    Args:
        network: on its device and in its memory format; its weights are those to begin with.
        recipe: says the highest rates, and with them whether Muon is used.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        self._network = network
        self._filters = [p for p in parameters if p.ndim == 4 and recipe.muon_rate]
        self._matrices = [nn.Parameter(as_matrix(p.detach())) for p in self._filters]
        own = set(_shifts(network)) if recipe.shift_rate else set()
        rest = [p for p in parameters if p not in own and (p.ndim != 4 or not recipe.muon_rate)]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if own:
            shifts = [p for p in parameters if p in own]
            groups.append({"params": shifts, "weight_decay": 0.0, "lr": recipe.shift_rate})
        self._sgd = SGD(
            groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=recipe.nesterov
        )
        self._muon = (
            Muon(
                self._matrices,
                rate=recipe.muon_rate,
                momentum=recipe.muon_momentum,
                weight_decay=MUON_WEIGHT_DECAY,
            )
            if self._matrices
            else None
        )
        self._keeps_length = recipe.keeps_length
        self._highest = [group["lr"] for group in self._groups()]

    @torch.no_grad()
    def scale_filters(self) -> None:
        """Give the filters that Muon moves the length 1 each, in the mean of their bank.

        Its steps have a length of their own, whatever the weights'. Behind a layer's filters batch norm takes any scale
        out again, and the statistics that it keeps for evaluation follow within some steps; a projection before a join
        has none behind it, so that its column begins with another weight there.
        """
        for matrix in self._matrices:
            matrix.mul_(math.sqrt(len(matrix)) / matrix.norm())

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to a fraction of their highest."""
        for group, highest in zip(self._groups(), self._highest, strict=True):
            group["lr"] = highest * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._network.zero_grad()

    def step(self) -> None:
        """Move the parameters that have a gradient."""
        self._sgd.step()
        if self._muon:
            if self._keeps_length:
                self.scale_filters()
            for matrix, own in zip(self._matrices, self._filters, strict=True):
                matrix.grad = None if own.grad is None else as_matrix(own.grad)
            self._muon.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the momenta: SGD's own state, and beside it Muon's."""
        return self._sgd.state_dict() | ({"muon": self._muon.state_dict()} if self._muon else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the momenta of a run that goes on."""
        own = dict(state)
        if self._muon:
            self._muon.load_state_dict(own.pop("muon"))
        self._sgd.load_state_dict(own)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameters by what they are moved by."""
        return self._sgd.param_groups + (self._muon.param_groups if self._muon else [])


def _shifts(network: nn.Module) -> Iterator[nn.Parameter]:
    """Return what batch norm and a whitening stem add."""
    for module in network.modules():
        own = module.bias if isinstance(module, nn.BatchNorm2d | nn.Conv2d) else None
        if isinstance(own, nn.Parameter):
            yield own


def as_matrix(filters: Tensor) -> Tensor:
    """Return a view of filters (out, in, height, width), channels last in memory, as (out, height · width · in)."""
    return filters.permute(0, 2, 3, 1).view(len(filters), -1)


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Return the learning rate as a fraction of its highest, at ``progress`` in [0, 1) of the run."""
    if schedule in DROPS:
        return float(0.1 ** sum(progress >= drop for drop in DROPS[schedule]))
    if schedule == "linear":
        return 1 - progress
    if progress < WARM_UP_FRACTION:
        return progress / WARM_UP_FRACTION
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of the network that follows its weights and statistics as an exponential average over steps."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it so
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
