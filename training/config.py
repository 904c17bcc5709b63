"""Recipes: how a network is trained, by name."""

from dataclasses import dataclass, replace
from typing import Literal

from model.presets import PRESETS, Architecture
from training.data import DataSet

DropPath = Literal["mixed", "local", "global", "none"]
Schedule = Literal["paper", "one-cycle"]
Augmentation = Literal["none", "+", "++"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training run besides the data and the seed; kept in checkpoint and manifest.

    Attributes:
        name: how the command line calls it.
        architecture: the network, fitted to the data set's classes and image size when training starts.
        epochs: passes over the training split.
        batch_size: images a step.
        learning_rate: the highest rate of the schedule.
        schedule: "paper" divides by 10 whenever the remaining epochs halve; "one-cycle" warms up and anneals to 0.
        weight_decay: of filters and classifier; batch norm has none.
        nesterov: look-ahead momentum; the paper's is the plain one.
        drop_path: how each mini-batch's path is drawn.
        augmentation: "+" mirrors and shifts by up to 4 pixels with zero padding, "++" with reflection.
        label_smoothing: share of the target spread over all classes.
    """

    name: str
    architecture: Architecture
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule = "paper"
    weight_decay: float = 1e-4
    nesterov: bool = False
    drop_path: DropPath = "mixed"
    augmentation: Augmentation = "none"
    label_smoothing: float = 0.0

    def architecture_for(self, data: DataSet) -> Architecture:
        """Return the network fitted to the classes and the image size of the data."""
        return self.architecture.for_data(classes=len(data.classes), image_size=data.image_size)


# The paper's narrow networks (Tables 3 and 4): 400 epochs, batch 50, learning rate 0.02, "++" data.
PAPER_NARROW = Recipe(
    name="paper-narrow-c4",
    architecture=PRESETS["narrow-c4"],
    epochs=400,
    batch_size=50,
    learning_rate=0.02,
    augmentation="++",
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        PAPER_NARROW,
        # For a few CPU cores, where an epoch takes minutes: small batches for many steps, one cycle of 32 epochs.
        replace(
            PAPER_NARROW,
            name="cpu-narrow-c4",
            epochs=32,
            batch_size=96,
            learning_rate=0.12,
            schedule="one-cycle",
            weight_decay=5e-4,
            nesterov=True,
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
