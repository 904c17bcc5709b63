"""Several processes on one run: each takes its share of every mini-batch, and together they take one step.

Start them with ``torchrun``; a process started alone is a group of one. Every process draws the same order,
augmentation and paths, gradients are averaged, and batch norm sees the whole mini-batch: two processes with half
a mini-batch each step as one does with all of it, within rounding.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training import TrainingError, first_line

LEFT_ALONE = "another process of this run stopped; its line says why"


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run: this one's ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch (N, ...)."""
        return batch[self.rank :: self.size]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in every process; one that cannot go on stops all.

        Raises:
            TrainingError: the block did, here or elsewhere.
            OSError: the block did.
        """
        error: Exception | None = None
        try:
            yield
        except (TrainingError, OSError) as own:
            error = own
        (failed,) = self.sum([float(error is not None)])
        if error:
            raise error
        if failed:
            raise TrainingError(LEFT_ALONE)

    def prepare(self, network: nn.Module) -> None:
        """Let the batch norms of a network measure the whole group's mini-batch; parameters and state stay."""
        if self.size == 1:
            return
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    parent.add_module(name, GroupBatchNorm2d(child, self.size))

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over the group; all processes have run the same paths."""
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

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum over the group of each value."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the mini-batches of all processes, each of one size; on CPU and GPU alike."""

    def __init__(self, norm: nn.BatchNorm2d, group_size: int) -> None:
        super().__init__(norm.num_features, eps=norm.eps)
        self.group_size = group_size
        self.to(norm.weight.device)
        self.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        n = values.numel() // values.shape[1] * self.group_size
        local = torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])  # (2, C)
        sums: Tensor = _GroupSum.apply(local)  # type: ignore[no-untyped-call]  # torch leaves it so
        mean = sums[0] / n
        variance = (sums[1] / n - mean.square()).clamp(min=0)  # rounding can take it below
        self._update_running(mean.detach(), variance.detach() * (n / (n - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this mini-batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _GroupSum(torch.autograd.Function):
    """Sum over the group; so is its gradient, as every process's loss depends on every process's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum of every process's ``x``."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of every process's gradient."""
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


@contextmanager
def joined_group() -> Iterator[Group]:
    """Join the processes that ``torchrun`` started for the block, or be the group of one.

    Raises:
        TrainingError: the processes cannot join, or another stopped.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Group()
        return
    # Optimisers load it, whose functions have the group of that moment as their default. They would keep it for ever, and
    # with it Gloo's threads, which abort the process when they let go of a tensor while Python ends.
    import torch.distributed.nn

    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, dist.DistError) as error:  # ValueError: the environment lacks something
        raise TrainingError(
            f"WORLD_SIZE is set, but the processes cannot join: {first_line(error)}; start them with torchrun, or unset it"
        ) from error
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if "gloo" in str(error) or isinstance(error, dist.DistError):  # gloo's are no DistError
            raise TrainingError(LEFT_ALONE) from error
        raise
    finally:
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Return the device of this process: its GPU where there are any, else the CPU.

    Raises:
        TrainingError: there are more processes here than GPUs.
    """
    if torch.cuda.is_available():
        own, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= gpus:
            raise TrainingError(
                f"process {own + 1} of this machine has no GPU of its own; start at most --nproc-per-node {gpus}"
            )
        return torch.device("cuda", own)
    return torch.device("cpu")
