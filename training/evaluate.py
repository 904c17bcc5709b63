"""What subnetworks are worth: accuracy and loss, with the batch-norm statistics that each needs."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from model.fractal import FractalNet
from model.intervals import wilson
from model.path import subnetwork_name
from model.presets import Architecture
from training.augment import Normalisation, channel_statistics
from training.data.data_set import DataSet
from training.data.splits import Split
from training.runs.checkpoint import Checkpoint, restore_network

EVALUATION_BATCH = 250  # images at most, and as many pixels as so many of CIFAR's: larger images would take gigabytes
EVALUATION_PIXELS = EVALUATION_BATCH * 32 * 32
NORM_IMAGES = 5_000  # training images that re-estimate batch norm; stable from some thousands
NORM_IMAGES_OF_AN_EPOCH = 1_000  # the same after each epoch, in a fifth of the time

Views = Callable[[Tensor], Sequence[Tensor]]
"""Several views of a batch of images (N, H, W, 3), each as large as the network sees."""


@dataclass(frozen=True, slots=True)
class Score:
    """How a subnetwork did on ``n`` images: fraction of correct answers, mean cross-entropy."""

    accuracy: float
    loss: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy on all images of this kind lies, with 95 % confidence; ``n`` is at least 1."""
        return wilson(self.accuracy, self.n)


def reported_subnetworks(architecture: Architecture) -> dict[str, frozenset[int]]:
    """Return the column sets that training reports: every column alone and, for several, the full network."""
    sets = [frozenset((k,)) for k in sorted(architecture.all_columns)]
    if len(sets) > 1:
        sets.append(architecture.all_columns)
    return {subnetwork_name(active, architecture.columns): active for active in sets}


def evaluation_batch(image_size: int) -> int:
    """Return how many images of a size are scored at once, at most."""
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // image_size**2))


def in_order(split: Split) -> tuple[Tensor, ...]:
    """Return the indices of a split's images in chunks for evaluation, of one size within one image."""
    n_chunks = max(1, math.ceil(len(split) / evaluation_batch(split.image_size)))
    return torch.tensor_split(torch.arange(len(split)), n_chunks)


def predict(network: FractalNet, split: Split, normalise: Normalisation) -> Tensor:
    """Return the logits (N, classes) of a split's images, in evaluation mode."""
    (logits,) = predict_each([network], split, normalise)
    return logits


def _images(split: Split, shown_as: str) -> Iterator[Tensor]:
    """Give a split's images in batches, with a bar on a terminal where it has a name."""
    is_hidden = None if shown_as else True  # None: where there is no terminal
    with tqdm(total=len(split), desc=shown_as, unit=" images", disable=is_hidden) as bar:
        for images, _ in split.batches(in_order(split)):
            yield images
            bar.update(len(images))


@torch.no_grad()
def predict_each(
    networks: Sequence[FractalNet],
    split: Split,
    normalise: Normalisation,
    *,
    views: Views | None = None,
    shown_as: str = "",
) -> list[Tensor]:
    """Return the logits (N, classes) of a split's images from each network, in evaluation mode; every image is read once.

    With ``views``, what a network says is the mean of its probabilities for the views of an image, as a logarithm.
    """
    were_training = [network.training for network in networks]
    logits: list[list[Tensor]] = [[] for _ in networks]
    for network in networks:
        network.eval()
    for images in _images(split, shown_as):
        seen = [normalise(each) for each in (views(images) if views else (images,))]
        for network, own in zip(networks, logits, strict=True):
            answers = [network(x).float() for x in seen]
            own.append(_mean(answers) if views else answers[0])
    for network, was_training in zip(networks, were_training, strict=True):
        network.train(was_training)
    return [torch.cat(own) for own in logits]


def _mean(answers: list[Tensor]) -> Tensor:
    return torch.stack(answers).softmax(2).mean(0).log()


def top_error(logits: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of images whose class is not among the k likeliest; at least one image."""
    among = logits.topk(min(k, logits.shape[1])).indices == labels[:, None]
    return 1 - among.any(1).double().mean().item()


def score(logits: Tensor, labels: Tensor) -> Score:
    """Score logits (N, classes) against labels (N,); 0 for none, as a process's share may be.

    Logits that are not finite are a wrong answer, and the loss is then infinite.
    """
    if not len(labels):
        return Score(0.0, 0.0, 0)
    is_finite = logits.isfinite().all(1)
    is_correct = (logits.argmax(1) == labels) & is_finite
    loss = F.cross_entropy(logits, labels).item() if is_finite.all() else math.inf
    return Score(is_correct.double().mean().item(), loss, len(labels))


def extract_for_serving(
    network: FractalNet, active: Collection[int], training: Split, normalise: Normalisation
) -> FractalNet:
    """Return a subnetwork with the batch norm that it needs, in evaluation mode."""
    (subnetwork,) = extract_each_for_serving(network, [active], training, normalise)
    return subnetwork


@torch.no_grad()
def extract_each_for_serving(
    network: FractalNet,
    sets: Collection[Collection[int]],
    training: Split,
    normalise: Normalisation,
    *,
    n: int = NORM_IMAGES,
    shown_as: str = "",
) -> list[FractalNet]:
    """Return the subnetwork of each set of columns with the batch norm that it needs, in evaluation mode.

    Its statistics are a plain average over batches of up to ``n`` training images, each read once: those learnt in
    training mix every path that drop-path drew, those of a column alone lag behind filters that other paths train too,
    and after few steps all of them are still near their beginning.
    """
    subnetworks = [network.extract(active).eval() for active in sets]  # no dropout
    for subnetwork in subnetworks:
        for module in subnetwork.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
                module.train()
    chosen = training.take(torch.arange(min(len(training), n)))
    for images in _images(chosen, shown_as):
        x = normalise(images)
        for subnetwork in subnetworks:
            subnetwork(x)
    return [subnetwork.eval() for subnetwork in subnetworks]


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    data: DataSet,
    split: Split,
    device: torch.device,
    *,
    only: Collection[str] = (),
) -> dict[str, Score]:
    """Score every column alone and the full network, or ``only`` some, on images of the data, each as it is exported.

    Raises:
        TrainingError: the data is not what the network was trained on.
    """
    answers = predict_checkpoint(checkpoint, data, split, device, only=only)
    return {name: score(logits, split.labels) for name, logits in answers.items()}


def predict_checkpoint(
    checkpoint: Checkpoint,
    data: DataSet,
    split: Split,
    device: torch.device,
    *,
    only: Collection[str] = (),
    views: Views | None = None,
) -> dict[str, Tensor]:
    """Return the logits (N, classes) that ``evaluate_checkpoint`` scores, or those of views of the images, on the CPU.

    Raises:
        TrainingError: the data is not what the network was trained on.
    """
    network = restore_network(checkpoint, data).to(device)
    normalise = channel_statistics(data.train).to(device)
    training, scored = data.train.to(device), split.to(device)
    reported = reported_subnetworks(network.architecture)
    sets = {name: active for name, active in reported.items() if not only or name in only}
    subnetworks = extract_each_for_serving(
        network, sets.values(), training, normalise, shown_as="batch norm"
    )
    answers = predict_each(subnetworks, scored, normalise, views=views, shown_as="scoring")
    return {name: logits.cpu() for name, logits in zip(sets, answers, strict=True)}


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many images of each class (rows) were taken for each class (columns), int64 (classes, classes)."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)
