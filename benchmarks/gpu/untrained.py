"""Bundles of networks that were never trained: they answer nothing right, as fast as trained ones."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training import random_images
from model.bundle import Bundle, read_bundle
from model.fractal import FractalNet
from training.config import Recipe
from training.export.export import export_bundle
from training.runs.checkpoint import Checkpoint

IMAGES = 300  # of noise: enough for batch norm to have statistics
SCORED = 16  # of them; nothing is learnt from their scores


def untrained_bundle(recipe: Recipe, folder: Path) -> Bundle:
    """Export the network of a recipe with weights as drawn, in half precision, to ``folder``."""
    data = random_images(recipe, IMAGES)
    few = data.train.take(torch.arange(SCORED))
    data = replace(data, validation=few, test=few)
    checkpoint = Checkpoint(
        recipe=recipe,
        seed=0,
        dataset=data.name,
        dataset_sha256=data.sha256,
        model=FractalNet(recipe.architecture_for(data)).state_dict(),
    )
    export_bundle(checkpoint, data, folder, name=recipe.name, precision="float16")
    return read_bundle(folder)
