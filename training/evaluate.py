"""Accuracy and loss of subnetworks, and the batch-norm statistics that each of them needs."""

from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.fractal import FractalNet
from model.path import Path, subnetwork_name
from model.presets import Architecture
from training.checkpoint import Checkpoint, restore_network
from training.data import DataSet, Split

EVALUATION_BATCH = 500
NORM_IMAGES = (
    10_000  # training images that re-estimate batch norm; statistics are stable from some thousands
)


def reported_subnetworks(architecture: Architecture) -> dict[str, frozenset[int]]:
    """Return the column sets that training reports: every column alone and, for C > 1, the full network."""
    sets = [frozenset((k,)) for k in range(1, architecture.columns + 1)]
    if architecture.columns > 1:
        sets.append(architecture.all_columns)
    return {subnetwork_name(active, architecture.columns): active for active in sets}


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
    logits = torch.cat(
        [network(batch, path).float() for batch in torch.split(images, EVALUATION_BATCH)]
    )
    network.train(was_training)
    return logits


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy of logits (N, classes)."""
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return accuracy, F.cross_entropy(logits, labels).item()


def extract_for_serving(
    network: FractalNet, active: Collection[int], training_images: Tensor
) -> FractalNet:
    """Return a subnetwork with the batch norm that it needs, in evaluation mode.

    A column alone has its own from training. Any other set of columns gets statistics of its own, re-estimated on
    normalised training images (N, 3, H, W): those learnt in training mix every path that drop-path drew.
    """
    subnetwork = network.extract(active)
    if len(active) > 1:
        _reestimate_norms(subnetwork, training_images)
    return subnetwork.eval()


@torch.no_grad()
def _reestimate_norms(network: FractalNet, images: Tensor) -> None:
    """Replace the running statistics of every batch norm by a plain average over batches of ``images``."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in torch.split(images, EVALUATION_BATCH):
        network(batch)


def evaluate_checkpoint(
    checkpoint: Checkpoint, data: DataSet, split: Literal["validation", "test"]
) -> dict[str, tuple[float, float]]:
    """Return accuracy and loss of every column alone and of the full network on a split.

    The full network is scored as it is exported, with statistics re-estimated on training images.

    Raises:
        TrainingError: the data is not what the network was trained on.
    """
    network = restore_network(checkpoint, data)
    mean, std = channel_statistics(data.train)
    scored: Split = getattr(data, split)
    images = normalise(scored.images, mean, std)
    training_images = normalise(data.train.images[:NORM_IMAGES], mean, std)
    scores = {}
    for name, active in reported_subnetworks(network.architecture).items():
        subnetwork = extract_for_serving(network, active, training_images)
        scores[name] = score(predict(subnetwork, images), scored.labels)
    return scores
