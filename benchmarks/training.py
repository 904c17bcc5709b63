"""``python -m benchmarks.training``: images/s of training against a bare PyTorch loop over the same network.

The bare loop runs the same mini-batches along the same paths, in the same precision and order of memory: forward, loss,
backward and the optimiser's step on images that are ready. The trainer also picks, normalises and augments them. Both
take turns in one process; the network and the seed are the same.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from statistics import median

import torch
import torch.nn.functional as F

from model.drop_path import draw_passes
from training.checkpoint import Checkpoint
from training.config import RECIPES
from training.data import DataSet, TensorSplit, load_data
from training.distributed import Group, own_device
from training.trainer import Run, mixed_precision

SEED = 0


def main() -> None:
    """Print images/s of both, and the ratio, by rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="cpu-narrow-c4", metavar="NAME")
    parser.add_argument("--data", required=True, help="what training's --data takes")
    parser.add_argument("--steps", type=int, default=50, help="mini-batches a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recipe = replace(RECIPES[options.recipe], epochs=options.rounds + 1)
    data = load_data(options.data, seed=SEED, image_size=recipe.architecture.image_size)
    assert isinstance(data.train, TensorSplit)
    n_images = options.steps * recipe.batch_size
    few = replace(data, train=data.train.take(torch.arange(len(data.train))[:n_images]))
    checkpoint = Checkpoint(
        recipe=recipe,
        seed=SEED,
        epoch=0,
        dataset=few.name,
        dataset_sha256=few.sha256,
        model={},
        optimizer={},
        history=[],
    )
    run = Run(checkpoint, few, device=own_device(), group=Group())
    print(run.description)

    ratios = []
    for epoch in range(options.rounds + 1):
        trained_s = _timed(partial(run.train_epoch, epoch), run.device)
        bare_s = _timed(partial(_bare_epoch, run, few, epoch), run.device)
        if epoch == 0:
            continue  # allocates, and tunes convolutions
        ratios.append(bare_s / trained_s)
        print(
            f"round {epoch}: trainer {len(few.train) / trained_s:.0f} images/s, "
            f"bare loop {len(few.train) / bare_s:.0f} images/s, ratio {ratios[-1]:.3f}"
        )
    print(f"median ratio {median(ratios):.3f}, {len(ratios)} rounds of {n_images} images")


def _bare_epoch(run: Run, data: DataSet, epoch: int) -> None:
    """Take the steps of an epoch with nothing around them, on one mini-batch that is ready."""
    recipe, network, optimizer = run.recipe, run.network, run.optimizer
    images, labels = next(data.train.batches([torch.arange(recipe.batch_size)]))
    x = run.normalise(images.to(run.device)).contiguous(memory_format=torch.channels_last)
    y = labels.to(run.device)
    paths = Random(f"{SEED}-{epoch}")
    for _ in range(len(data.train) // recipe.batch_size):
        optimizer.zero_grad()
        for sample in draw_passes(recipe.drop_path, paths, network.architecture):
            with mixed_precision(run.device):
                logits = network(x, sample.path).float()
            torch.autograd.backward(sample.weight * F.cross_entropy(logits, y))
        optimizer.step()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return how long the work took, in seconds, on the device as well."""
    begun_at = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun_at


if __name__ == "__main__":
    main()
