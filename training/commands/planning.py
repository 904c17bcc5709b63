"""What to train on a user's images when no recipe is named, and what a run will take before it begins.

A choice is made from the number and the size of the images and from the device, and says why. What a run takes is measured:
a network of its kind learns a few random images and scores others, of which the time, and the bytes kept for the backward
pass, are counted.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from statistics import mean, median

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import convert_conv2d_weight_memory_format

from model import cost
from model.bundle import PRETRAINED_DIR
from model.drop_path import DropPath, draw_passes
from model.fractal import FractalNet
from model.image_files import FORMATS
from model.presets import Architecture
from training import TrainingError, epochs_in_words
from training.augment import DRAWS, augment
from training.config import RECIPES, Fit, Recipe
from training.data.data_set import DataSet
from training.data.digits import PACKAGED
from training.data.folders import find_images
from training.data.held_out import HELD_OUT_FRACTION
from training.data.imagenet import Stored
from training.evaluate import NORM_IMAGES_OF_AN_EPOCH, evaluation_batch, reported_subnetworks
from training.optim import Optimizer
from training.precision import mixed_precision
from training.runs.history import rate

HEADERS_READ = 200  # images whose size is looked at, spread over the folder
# From what shorter side on, in the middle of the images, which size is worth its cost; a GPU affords twice the side.
SIZES = ((96, 64), (0, 32))
SIZES_ON_GPU = ((256, 128), *SIZES)
IMAGES_TO_LEARN = 20_000  # images seen in a run; few images are seen more often
# At least and at most; of weights that are begun with the least, after which the full network learns no more of 20 images a
# class (docs/results.md).
EPOCHS = (30, 100)
STEPS_AN_EPOCH = (
    10  # at least, as far as mini-batches of 16 allow: batch norm and Muon need many steps
)
BATCHES = (16, 96)
BEGUN_RECIPE = "wide-entry-c2-again"  # for the largest network of the shipped bundle
SHIPPED = PRETRAINED_DIR / "cifar10"
TRIAL_PIXELS = (
    32 * 32 * 32
)  # of so many images; as many as a step takes were more exact, and too many
TRIALS = 3  # of what is timed, after one that allocates: the fastest counts
DRAWN_PATHS = 200  # whose mean cost is that of a step
SPARE = 0.7  # of the free memory, which a run may take
# Of what is kept for the backward pass, that a step takes in all, and of libraries that have begun to compute; with both
# what runs took at 32 to 128 pixels was foreseen within 15 %.
OVERHEAD, LIBRARIES_BYTES = 1.15, 180e6


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a folder of images before they are read.

    Attributes:
        n_train: images to learn from.
        shorter_side: of the image in the middle, in pixels.
    """

    n_train: int
    shorter_side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is trained.

    Attributes:
        recipe: by which recipe.
        begin_with: folder of the run or bundle whose weights it begins with; none where they are drawn.
        why: which was chosen and why, for people; empty where nothing was.
    """

    recipe: Recipe
    begin_with: Path | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run will take on this machine.

    Attributes:
        image_s: for an image of a step, in the mean over the paths that are drawn.
        step_s: for the optimiser's part of a step.
        scoring_s: for the scores after an epoch.
        n_images: that an epoch learns from.
        epochs: of the recipe.
        bytes_of_image: for each of a mini-batch.
        bytes_of_network: whatever the mini-batch.
        bytes_held: by the process, its images and its libraries, whatever it computes.
        bytes_to_score: in all, while subnetworks are scored; the size of the images decides how many are at once.
        batch_size: of the recipe.
    """

    image_s: float
    step_s: float
    scoring_s: float
    n_images: int
    epochs: int
    bytes_of_image: float
    bytes_of_network: float
    bytes_held: float
    bytes_to_score: float
    batch_size: int

    @property
    def memory_bytes(self) -> float:
        """At its peak."""
        to_learn = self.bytes_held + self.bytes_of_image * self.batch_size
        return max(to_learn, self.bytes_to_score) + self.bytes_of_network

    @property
    def epoch_s(self) -> float:
        """An epoch, with the scores after it."""
        steps = math.ceil(self.n_images / self.batch_size)
        return self.image_s * self.n_images + self.step_s * steps + self.scoring_s

    @property
    def description(self) -> str:
        """One line for people."""
        took = timedelta(seconds=max(1, round(self.epoch_s * self.epochs)))
        return (
            f"{epochs_in_words(self.epochs)} in mini-batches of {self.batch_size} will take about {took} "
            f"({rate(self.n_images / self.epoch_s)} images/s) and {self.memory_bytes / 1e9:.1f} GB of memory"
        )

    def fitting(self, free_bytes: float) -> "Outlook":
        """Return the same with a mini-batch that fits into what is free beside the process, no larger than this one."""
        left = SPARE * free_bytes - self.bytes_of_network
        largest = max(1, int(left / self.bytes_of_image))
        return (
            self if self.batch_size <= largest else replace(self, batch_size=_power_of_two(largest))
        )


def survey(root: Path) -> Survey:
    """Count the images of a folder of classes, and look at the headers of some.

    Raises:
        TrainingError: it is no such folder.
    """
    found = find_images(root)
    held_out = 2 * HELD_OUT_FRACTION if found.test is None else 0.0
    some = found.train[:: max(1, len(found.train) // HEADERS_READ)]
    sides = [side for side in (_shorter_side(path) for path, _ in some) if side]
    return Survey(round(len(found.train) * (1 - held_out)), round(median(sides or [0])))


def _shorter_side(path: Stored) -> int:
    """Return the shorter side of an image in pixels; 0 where it cannot be read, which is told when all are."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            return min(image.size)
    except Exception:  # Pillow's readers raise nearly anything on damaged files
        return 0


def choose(
    source: str, device: torch.device, *, image_size: int | None = None, fit: Fit | None = None
) -> Choice:
    """Choose for data what is not told, and say what and why."""
    is_gpu = device.type == "cuda"
    if source in PACKAGED:
        why = f"recipe tiny: {source} are small, and learnt in seconds"
        return Choice(recipe=RECIPES["tiny"], why=why)
    try:
        return for_folder(survey(Path(source)), is_gpu=is_gpu, image_size=image_size, fit=fit)
    except TrainingError:  # an archive, of 32×32 images; or nothing, which is told when it is read
        recipe = RECIPES["gpu-wide-c3" if is_gpu else "cpu-narrow-c4-muon"]
        why = f"recipe {recipe.name}: 32×32 images on {_name_of(is_gpu)}"
        return Choice(recipe=recipe, why=why)


def for_folder(
    seen: Survey, *, is_gpu: bool, image_size: int | None = None, fit: Fit | None = None
) -> Choice:
    """Choose for a folder of images what is not told, and say what and why.

    5 or 20 images a class teach a network that has seen others before far more than one of drawn weights, and 50 as much
    (docs/results.md).
    """
    sizes = SIZES_ON_GPU if is_gpu else SIZES
    suited = next(size for side, size in sizes if seen.shorter_side >= side)
    size = image_size or suited
    shipped = RECIPES[BEGUN_RECIPE].architecture
    is_large_enough = shipped.for_data(classes=2, image_size=size).blocks == shipped.blocks
    is_begun = seen.n_train < IMAGES_TO_LEARN and is_large_enough
    name = BEGUN_RECIPE if is_begun else "gpu-wide-c3" if is_gpu else "cpu-narrow-c4-muon"
    low, high = BATCHES
    wanted = max(low, min(high, seen.n_train // STEPS_AN_EPOCH))
    least, most = EPOCHS
    often_enough = IMAGES_TO_LEARN // max(1, seen.n_train)
    is_photo = suited > 32
    recipe = replace(
        RECIPES[name].at_size(size),
        batch_size=_power_of_two(wanted),
        epochs=least if is_begun else max(least, min(most, often_enough)),
        fit=fit or ("crop" if is_photo else "stretch"),
        augmentation="crop" if is_photo else "++",
    )
    how = "evenly scaled and cropped" if recipe.fit == "crop" else "stretched"
    why = (
        f"recipe {name} on {_name_of(is_gpu)}; {size}×{size} pixels, {how}: the shorter side of the middle "
        f"image has {seen.shorter_side}"
    )
    if is_begun:
        recipe = replace(recipe, drop_path="local")
        why += f"; begun with the shipped network, as there are only {seen.n_train:,} images to learn from"
    return Choice(recipe=recipe, begin_with=SHIPPED if is_begun else None, why=why)


def _name_of(is_gpu: bool) -> str:
    return "a GPU" if is_gpu else "a CPU"


def _power_of_two(most: int) -> int:
    """Return the largest power of two that is no larger."""
    return 1 << (most.bit_length() - 1)


def foresee(recipe: Recipe, data: DataSet, device: torch.device) -> tuple[str, int]:
    """Say in a line what a run will take; return with it the mini-batch that fits into memory, no larger than its own."""
    expected, free = outlook(recipe, data, device), free_bytes(device)
    fitting = expected.fitting(free)
    if fitting == expected:
        return expected.description, recipe.batch_size
    return (
        f"{expected.description}, of which {free / 1e9:.1f} GB are free; --batch-size {fitting.batch_size} fits, "
        f"or a lower --image-size",
        fitting.batch_size,
    )


def outlook(recipe: Recipe, data: DataSet, device: torch.device) -> Outlook:
    """Measure what a run will take, with a network that is thrown away; no random number of the run is drawn.

    Raises:
        TrainingError: the images are too small for the recipe.
    """
    held = held_bytes(device)
    architecture = recipe.architecture_for(data)
    size = architecture.image_size
    n = min(max(2, TRIAL_PIXELS // size**2), recipe.batch_size)
    n_scored = min(len(data.train), NORM_IMAGES_OF_AN_EPOCH) + len(data.validation)
    with torch.random.fork_rng():
        trial = _Trial(recipe, architecture, device)
        scored = min(evaluation_batch(size), n_scored)
        trial.score(n)  # what comes first takes longer
        score_s = trial.seconds(lambda: trial.score(scored)) / scored
        to_score = held_bytes(device)
        kept = trial.bytes_kept(n) / n
        learn_s = trial.seconds(lambda: trial.learn(n)) / n
        trial.optimizer.step()
        step_s = trial.seconds(trial.optimizer.step)
    full = cost.macs(architecture, architecture.all_columns)
    reported = reported_subnetworks(architecture).values()
    share_scored = sum(cost.macs(architecture, active) for active in reported) / full
    weights = sum(p.numel() * p.element_size() for p in trial.network.parameters())
    return Outlook(
        image_s=learn_s * _mean_macs(recipe.drop_path, architecture) / full,
        step_s=step_s,
        scoring_s=score_s * share_scored * n_scored,
        n_images=len(data.train),
        epochs=recipe.epochs,
        bytes_of_image=OVERHEAD * kept,
        bytes_of_network=4 * weights,  # they, their gradients, momenta and average
        bytes_held=held + LIBRARIES_BYTES,
        bytes_to_score=to_score,
        batch_size=recipe.batch_size,
    )


class _Trial:
    """A network like a run's, that learns random images and scores others as a run does."""

    def __init__(self, recipe: Recipe, architecture: Architecture, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.network = FractalNet(architecture).to(device)
        convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        self.optimizer = Optimizer(self.network, recipe)

    def learn(self, n: int) -> None:
        """Find the gradients of n images."""
        architecture, kind = self.network.architecture, self.recipe.augmentation
        side = self.recipe.views.size
        views = torch.randn(n, architecture.in_channels, side, side, device=self.device)
        images = augment(
            views, kind, torch.rand(n, DRAWS[kind], device=self.device), architecture.image_size
        )
        labels = torch.zeros(n, dtype=torch.int64, device=self.device)
        with mixed_precision(self.device):
            logits = self.network(images).float()
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def score(self, n: int) -> None:
        """Ask the full network of n images."""
        architecture = self.network.architecture
        size = architecture.image_size
        images = torch.randn(n, architecture.in_channels, size, size, device=self.device)
        with mixed_precision(self.device):
            self.network(images)

    def bytes_kept(self, n: int) -> float:
        """Learn n images, and return the bytes that were kept for the backward pass, without the weights."""
        kept = {p.data_ptr(): 0 for p in self.network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            kept.setdefault(tensor.data_ptr(), tensor.numel() * tensor.element_size())
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            self.learn(n)
        return sum(kept.values())

    def seconds(self, work: Callable[[], None]) -> float:
        """Return how long some work takes where nothing else delays it: the least of a few times."""
        return min(self._timed(work) for _ in range(TRIALS))

    def _timed(self, work: Callable[[], None]) -> float:
        self._wait()
        started_at = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started_at

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _mean_macs(kind: DropPath, architecture: Architecture) -> float:
    """Return the mean multiply-adds of the steps whose paths are drawn, for an image."""
    rng = Random(0)
    drawn = (draw_passes(kind, rng, architecture) for _ in range(DRAWN_PATHS))
    return mean(sum(cost.path_macs(architecture, each.path) for each in passes) for passes in drawn)


def held_bytes(device: torch.device) -> float:
    """Return the memory that this process has taken so far, at its peak."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def free_bytes(device: torch.device) -> float:
    """Return the memory that a run may still take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):  # not Linux
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
