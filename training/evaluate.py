"""Accuracy and loss of subnetworks, and the batch-norm statistics that each of them needs."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.fractal import FractalNet
from model.path import Path, column_path, subnetwork_name
from model.presets import Architecture
from training.data import Split

EVALUATION_BATCH = 500


def column_paths(architecture: Architecture) -> dict[str, Path]:
    """Return the paths that training reports: every column alone and, for C > 1, the full network."""
    sets = [frozenset((k,)) for k in range(1, architecture.columns + 1)]
    if architecture.columns > 1:
        sets.append(architecture.all_columns)
    return {
        subnetwork_name(active, architecture.columns): column_path(
            active, blocks=architecture.blocks, columns=architecture.columns
        )
        for active in sets
    }


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W) with mean 0 and deviation 1 a channel."""
    x = (images.float() / 255 - mean) / std
    return x.permute(0, 3, 1, 2)


def channel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel (3,), for images in [0, 1]."""
    pixels = split.images.flatten(0, 2).double() / 255
    return pixels.mean(0).float(), pixels.std(0).float()


@torch.no_grad()
def predict(network: FractalNet, images: Tensor, path: Path | None = None) -> Tensor:
    """Return the logits (N, classes) of normalised images (N, 3, H, W), in evaluation mode."""
    was_training = network.training
    network.eval()
    logits = torch.cat([network(batch, path).float() for batch in images.split(EVALUATION_BATCH)])
    network.train(was_training)
    return logits


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy of logits (N, classes)."""
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return accuracy, F.cross_entropy(logits, labels).item()


@torch.no_grad()
def reestimate_norms(network: FractalNet, images: Tensor) -> None:
    """Replace the running statistics of every batch norm by those of normalised training images (N, 3, H, W).

    The statistics learnt in training mix every path that drop-path drew; a set of columns that was not trained by
    itself needs its own.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.train()
    for batch in images.split(EVALUATION_BATCH):
        network(batch)
    network.eval()


def needs_own_norms(active: Collection[int], architecture: Architecture) -> bool:
    """Tell whether a subnetwork's statistics must be re-estimated: a column alone was trained with its own."""
    return len(active) > 1 and architecture.columns > 1
