"""Several processes on one run: each takes its share of every mini-batch, and the gradients are averaged.

Start them with ``torchrun``; a process started alone is a group of one. Every process draws the same order,
augmentation and path, so the parameters stay equal without being sent. Batch norm sees a process's own share.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run: this one's ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch (N, ...), whose N is a multiple of ``size``."""
        return batch[self.rank :: self.size]

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over the group; all processes have run the same path."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, averaged in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(averaged.view_as(gradient))

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean over the group of each value."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total)
        return (total / self.size).tolist()


def join_group() -> Group:
    """Join the processes that ``torchrun`` started, or return the group of one."""
    if "WORLD_SIZE" not in os.environ:
        return Group()
    dist.init_process_group("gloo")
    return Group(dist.get_rank(), dist.get_world_size())
