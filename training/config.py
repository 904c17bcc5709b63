"""Recipes: how a network is trained, by name."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from model.drop_path import DropPath
from model.preprocessing import Preprocessing
from model.presets import PAPER_DROPOUT, PRESETS, Architecture
from training import TrainingError, epochs_in_words
from training.data.data_set import DataSet

Schedule = Literal["paper", "imagenet", "one-cycle", "linear"]
Augmentation = Literal["none", "mirror", "slight", "+", "++", "crop", "rand"]
Mixing = Literal["none", "mixup", "cutmix"]
Fit = Literal["stretch", "crop"]

SCALED_TO_SEEN = 8 / 7  # of a cropped image's shorter side to the square: ImageNet's 256 to 224
KEPT_TO_SEEN = (
    2  # of the side of an image that crops are taken of to theirs: the smallest keeps its detail
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training run besides the data and the seed; kept in checkpoint and manifest.

    Attributes:
        name: how the command line calls it.
        architecture: the network, fitted to the data set's classes and image size when training starts.
        epochs: passes over the training split.
        batch_size: images a step.
        learning_rate: the highest rate of the schedule.
        muon_rate: the highest rate of the filters where Muon moves them; 0 leaves them to SGD, as in the paper.
        muon_momentum: share of the gradients of earlier steps in a step of Muon.
        keeps_length: whether the filters that Muon moves are brought back to the length 1 each before every step, so that
            the rate alone says how far a step turns them. A classifier that is drawn begins with zeros then.
        shift_rate: the highest rate of the shifts of batch norm and of a whitening stem; 0 for ``learning_rate``.
        schedule: "paper" divides by 10 whenever the remaining epochs halve, "imagenet" at 5/7 and 13/14 of the run;
            "one-cycle" warms up and anneals to 0, "linear" falls to 0 from the first step on.
        weight_decay: of filters and classifier; batch norm has none.
        nesterov: look-ahead momentum; the paper's is the plain one.
        drop_path: how each mini-batch's paths are drawn.
        fit: how the images of class folders become squares: "stretch" by height and width each, "crop" scales them evenly
            and takes the middle.
        augmentation: "mirror" mirrors, "+" shifts too, by up to 4 pixels with zero padding, "++" with reflection, "slight" by
            up to 2 with reflection; "crop" mirrors, enlarges a random part and changes light and colour, as photographs differ; "rand" has two operations of
            RandAugment after that.
        mixing: what mini-batches are made of: "none" images as they are, "mixup" blends of two, "cutmix" parts of two.
        label_smoothing: share of the target spread over all classes.
        distillation: share of the target that is a teacher's answer: for a column the first pass of a "tied" or
            "sandwich" mini-batch, for the first pass another network where one teaches the run.
        averaging: decay a step of the average of the weights that is scored and exported; 0 for none.
    """

    name: str
    architecture: Architecture
    epochs: int
    batch_size: int
    learning_rate: float
    muon_rate: float = 0.0
    muon_momentum: float = 0.9
    keeps_length: bool = False
    shift_rate: float = 0.0
    schedule: Schedule = "paper"
    weight_decay: float = 1e-4
    nesterov: bool = False
    drop_path: DropPath = "mixed"
    fit: Fit = "stretch"
    augmentation: Augmentation = "none"
    mixing: Mixing = "none"
    label_smoothing: float = 0.0
    distillation: float = 0.0
    averaging: float = 0.0

    @property
    def description(self) -> str:
        """What tells it apart, in a few words."""
        words = [
            epochs_in_words(self.epochs),
            f"batch {self.batch_size}",
            f"{self.schedule} schedule at {self.learning_rate:g}",
            f"{'no' if self.drop_path == 'none' else self.drop_path} drop-path",
            *([f"{self.augmentation!r} augmentation"] if self.augmentation != "none" else []),
            *([self.mixing] if self.mixing != "none" else []),
            *(["distillation"] if self.distillation else []),
            *(["averaged weights"] if self.averaging else []),
            *(["smoothed labels"] if self.label_smoothing else []),
        ]
        return ", ".join(words)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images of class folders become pixels."""
        size = self.architecture.image_size
        shorter_side = round(SCALED_TO_SEEN * size) if self.fit == "crop" else None
        return Preprocessing(size=size, shorter_side=shorter_side)

    @property
    def views(self) -> Preprocessing:
        """How the images of class folders are kept that are learnt from: larger where random parts of them are shown."""
        if self.augmentation not in ("crop", "rand"):
            return self.preprocessing
        side = KEPT_TO_SEEN * self.architecture.image_size
        return Preprocessing(size=side, shorter_side=side if self.fit == "crop" else None)

    def at_rate(self, learning_rate: float) -> Self:
        """Return the recipe with this highest learning rate, and the other rates in proportion."""
        factor = learning_rate / self.learning_rate
        return replace(
            self,
            learning_rate=learning_rate,
            muon_rate=factor * self.muon_rate,
            shift_rate=factor * self.shift_rate,
        )

    def at_size(self, image_size: int) -> Self:
        """Return the recipe for images of this height and width, with as many blocks as they are large enough for."""
        classes = self.architecture.classes
        architecture = self.architecture.for_data(classes=classes, image_size=image_size)
        return replace(self, architecture=architecture)

    def check(self) -> None:
        """See to it that the recipe's parts fit together, where nobody else teaches.

        Raises:
            TrainingError: they do not.
        """
        if self.architecture.is_plain and self.drop_path != "none":
            raise TrainingError(
                f"recipe {self.name} trains one column alone: it has no paths to drop"
            )
        if self.distillation and self.drop_path not in ("tied", "sandwich"):
            raise TrainingError(
                f"recipe {self.name} distils within a mini-batch: drop-path {self.drop_path} has one pass in each, "
                "tied and sandwich several"
            )

    def architecture_for(self, data: DataSet) -> Architecture:
        """Return the network fitted to the classes and the image size of the data.

        Raises:
            TrainingError: the images are too small for it.
        """
        try:
            return self.architecture.for_data(classes=len(data.classes), image_size=data.image_size)
        except ValueError as error:
            raise TrainingError(f"{data.name}: does not fit recipe {self.name}: {error}") from error


def _paper(name: str, preset: str, **changes: Any) -> Recipe:
    """Return a recipe of the paper: 400 epochs, batch 100, learning rate 0.02, "++" data (§4.1)."""
    recipe = Recipe(
        name=name,
        architecture=PRESETS[preset],
        epochs=400,
        batch_size=100,
        learning_rate=0.02,
        augmentation="++",
    )
    return replace(recipe, **changes)


def _with_dropout(preset: str) -> Architecture:
    """Return a preset with the paper's dropout in each block."""
    return replace(PRESETS[preset], dropout=PAPER_DROPOUT)


# Small batches for many steps on a few CPU cores, where an epoch takes minutes: one cycle of 46 epochs.
_SHORT = _paper(
    "cpu-narrow-c4",
    "narrow-c4",
    epochs=46,
    batch_size=96,
    learning_rate=0.12,
    schedule="one-cycle",
    weight_decay=5e-4,
    nesterov=True,
)
# The same with Muon for the filters (docs/decisions/0005).
_MUON = replace(_SHORT, name="cpu-narrow-c4-muon", muon_rate=0.05)
# Layers that all columns share, a whitening stem, few layers of many filters: what processors are fastest at. Large
# mini-batches and steps that turn the filters far learn most of few epochs (Jordan, "94% on CIFAR-10 in 3.29 seconds",
# 2024). The full network, without drop-path: in so few epochs what other paths learn is lost to it.
_WIDE_ENTRY = Recipe(
    name="wide-entry-c2",
    architecture=PRESETS["wide-entry-c2"],
    epochs=16,
    batch_size=1000,
    learning_rate=0.007,
    muon_rate=0.2,
    muon_momentum=0.6,
    keeps_length=True,
    shift_rate=35.0,
    schedule="linear",
    weight_decay=0.3,
    nesterov=True,
    drop_path="none",
    augmentation="slight",
    label_smoothing=0.2,
)
_ALONE = replace(_WIDE_ENTRY, name="wide-entry-c1", architecture=PRESETS["wide-entry-c1"])

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Table 3, and the fractal network of Table 4
        *(_paper(f"paper-narrow-c{c}", f"narrow-c{c}", batch_size=50) for c in range(1, 7)),
        # Table 4, the plain networks
        *(
            _paper(f"paper-plain-{depth}", f"plain-{depth}", batch_size=50, drop_path="none")
            for depth in (5, 10, 20, 40)
        ),
        # Table 1: 20 layers, 40 layers, SVHN
        _paper("paper-wide-c3", "wide-c3", architecture=_with_dropout("wide-c3")),
        _paper("paper-thinning-c4", "thinning-c4"),
        _paper(
            "paper-svhn",
            "wide-c3",
            architecture=_with_dropout("wide-c3"),
            epochs=20,
            augmentation="none",
        ),
        # Table 2
        _paper(
            "paper-imagenet",
            "fractalnet-34",
            epochs=70,
            batch_size=32,
            learning_rate=0.001,
            schedule="imagenet",
            fit="crop",
            augmentation="+",
        ),
        _paper("patches-c4", "patches-c4"),
        _SHORT,
        # A second cycle, for a network that has had the first: --begin-with
        replace(_SHORT, name="cpu-narrow-c4-again", epochs=44, learning_rate=0.06),
        _MUON,
        replace(
            _MUON,
            name="cpu-narrow-c4-muon-again",
            epochs=32,
            learning_rate=0.03,
            muon_rate=0.02,
        ),
        # Every column in every mini-batch, and the joint sample as their teacher
        replace(_SHORT, name="cpu-narrow-c4-tied", drop_path="tied"),
        replace(
            _SHORT,
            name="cpu-narrow-c4-distilled",
            drop_path="tied",
            distillation=0.5,
            averaging=0.999,
        ),
        # The full network and one column in every mini-batch, the one as the other's teacher
        replace(
            _MUON,
            name="cpu-narrow-c4-sandwich",
            drop_path="sandwich",
            distillation=0.5,
        ),
        _WIDE_ENTRY,
        # Its first column as a plain network of six layers
        _ALONE,
        # A plain network of as many multiply-adds as the full one, for comparison: more epochs in shorter steps
        replace(
            _ALONE.at_rate(0.0035),
            name="broad-entry-c1",
            architecture=PRESETS["broad-entry-c1"],
            epochs=24,
            augmentation="++",
        ),
        # The narrow network's two shallowest columns: --teacher of `specialise` then has them answer for themselves
        replace(
            _MUON,
            name="cpu-narrow-c2-sandwich",
            architecture=PRESETS["narrow-c2"],
            epochs=16,
            batch_size=250,
            drop_path="sandwich",
            distillation=0.5,
        ),
        # A second cycle in small steps, from a network that has had the first: --begin-with
        replace(
            _MUON,
            name="wide-entry-c2-again",
            architecture=_WIDE_ENTRY.architecture,
            epochs=8,
            batch_size=250,
            learning_rate=0.05,
            muon_rate=0.03,
            drop_path="none",
            label_smoothing=0.2,
        ),
        # The last epochs: smoothed labels leave answers unsure that one temperature does not make right again
        *(
            replace(
                first.at_rate(first.learning_rate / 10),
                name=f"{first.name}-last",
                epochs=2,
                label_smoothing=0.0,
            )
            for first in (_WIDE_ENTRY, _ALONE)
        ),
        # For one GPU. The classifier sees four times the features: at 0.2, and Muon at 0.05, its loss explodes.
        replace(
            _MUON,
            name="gpu-wide-c3",
            architecture=PRESETS["wide-c3"],
            epochs=100,
            batch_size=256,
            learning_rate=0.005,
            muon_rate=0.02,
        ),
        # Half as wide: for a GPU too, and trained on two cores.
        replace(
            _MUON,
            name="medium-c3",
            architecture=PRESETS["medium-c3"],
            epochs=22,
            batch_size=128,
            learning_rate=0.02,
        ),
        # Seconds on the bundled digits: to try the whole path, and for the tests.
        Recipe(
            name="tiny",
            architecture=PRESETS["tiny"],
            epochs=12,
            batch_size=64,
            learning_rate=0.1,
            schedule="one-cycle",
            nesterov=True,
        ),
    )
}
"""The named recipes."""

SPECIALISED = replace(
    RECIPES["cpu-narrow-c4-muon-again"],
    name="specialised",
    epochs=8,
    learning_rate=0.06,
    augmentation="mirror",
    drop_path="none",
    distillation=0.5,
)
"""How a column of a trained network is trained on alone; its network is the column.

A narrow column is small for its task: shifted images cost it a point in as many epochs, and column 1 had no more from 12
epochs.
"""

SPECIALISED_SHIFTED = replace(SPECIALISED, name="specialised-shifted", augmentation="++")
"""The same for columns that are large enough to learn mirrored images by heart."""


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of the paper optimised as the short ones are: with Muon, over one cycle."""
    return replace(
        recipe,
        batch_size=_MUON.batch_size,
        learning_rate=_MUON.learning_rate,
        muon_rate=_MUON.muon_rate,
        schedule=_MUON.schedule,
        weight_decay=_MUON.weight_decay,
        nesterov=_MUON.nesterov,
    )


def recipes_help() -> str:
    """Return how a network is trained on the command line, and the recipes with what tells them apart."""
    lines = [f"  {n:<24} {r.architecture.name:<14} {r.description}" for n, r in RECIPES.items()]
    return (
        "Train a network; after each epoch its columns are scored and a checkpoint is written.\n"
        "Start several processes with: torchrun --nproc-per-node N -m training train ...\n\n"
        "recipes, with their networks:\n" + "\n".join(lines)
    )
