"""``python -m benchmarks.training``: images/s of training, against what is left when everything around it is gone.

- The trainer picks, normalises and augments images, draws paths and steps.
- A bare PyTorch loop over the same network runs the same mini-batches along the same paths, in the same precision and
  order of memory: forward, loss, backward and the optimiser's step on images that are ready.
- On a CPU, the bare loop once more with every map convolved by oneDNN, the small ones too (``model/small_maps.py``).
- Compiled (with ``--compiled``, which needs a C++ compiler on a CPU): the bare loop with every layer compiled.
- The floor: the multiply-adds of the filters alone, forward and backward, at the rate of one large product.

They take turns in one process; the network and the seed are the same. The images are random: what they show costs
nothing.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from random import Random
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks.floors import matrix_rate
from model import small_maps
from model.drop_path import draw_passes
from model.layers import ConvLayer
from model.preprocessing import Preprocessing
from training.config import RECIPES, Recipe
from training.data.data_set import DataSet
from training.data.splits import TensorSplit
from training.distributed import Group, own_device
from training.precision import mixed_precision
from training.runs.checkpoint import Checkpoint
from training.studies.compare import mean_cost
from training.trainer import Run

SEED = 0
BACKWARD = 2  # times the multiply-adds of the forward pass: for the filters, and for the input


def main() -> None:
    """Print images/s of each, by rounds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", choices=RECIPES, default="cpu-narrow-c4-muon", metavar="NAME")
    parser.add_argument("--steps", type=int, default=50, help="mini-batches a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="measure compiled layers too")
    options = parser.parse_args()
    found = measure_training(
        RECIPES[options.recipe],
        steps=options.steps,
        rounds=options.rounds,
        with_compiled=options.compiled,
    )
    print(described(found))


def measure_training(
    recipe: Recipe, *, steps: int, rounds: int, with_compiled: bool = False
) -> dict[str, Any]:
    """Return images/s of each by rounds, and of the floor."""
    device = own_device()
    n_images = steps * recipe.batch_size
    data = random_images(recipe, n_images)
    run = _run(recipe, data, device, rounds)
    systems: dict[str, Callable[[int], object]] = {
        "trainer": run.train_epoch,
        "bare loop": partial(_bare_epoch, run, data),
    }
    if device.type == "cpu":
        systems["bare loop without products"] = partial(_without_products, run, data)
    if with_compiled:
        compiled = _run(recipe, data, device, rounds)
        torch._dynamo.config.cache_size_limit = 1024  # every layer has shapes of its own
        for layer in compiled.network.modules():
            if isinstance(layer, ConvLayer):
                layer.compile(dynamic=False)
        systems["compiled"] = partial(_bare_epoch, compiled, data)
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for epoch in range(rounds + 1):
        for name, train in systems.items():
            rate = n_images / _timed(partial(train, epoch), device)
            if epoch > 0:  # the first allocates, tunes and compiles
                rates[name].append(rate)
    is_mixed = not isinstance(mixed_precision(device), nullcontext)
    dtype = torch.bfloat16 if is_mixed else torch.float32
    macs = (1 + BACKWARD) * mean_cost(recipe.drop_path, recipe.architecture)
    return {
        "network": run.description,
        "n": n_images,
        "rates": rates,
        "floor": matrix_rate(device.type, dtype) / (2 * macs),
    }


def described(found: dict[str, Any]) -> str:
    """Return one line for each, and what was trained."""
    bare = median(found["rates"]["bare loop"])
    lines = [found["network"]]
    for name, rates in found["rates"].items():
        lines.append(
            f"{name}: {median(rates):.0f} images/s ({min(rates):.0f} to {max(rates):.0f}; {len(rates)} rounds of "
            f"{found['n']} images), {median(rates) / bare:.2f} of the bare loop"
        )
    floor = found["floor"]
    lines.append(f"floor: {floor:.0f} images/s; the bare loop reaches {bare / floor:.2f} of it")
    return "\n".join(lines)


def random_images(recipe: Recipe, n: int) -> DataSet:
    """Return images of noise with labels at random, as a recipe's network takes them."""
    architecture = recipe.architecture
    size = (n, architecture.image_size, architecture.image_size, architecture.in_channels)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, architecture.classes, (n,), generator=generator)
    split = TensorSplit(images, labels)
    return DataSet(
        name="noise",
        classes=tuple(map(str, range(architecture.classes))),
        preprocessing=Preprocessing(size=architecture.image_size),
        train=split,
        validation=split,
        test=split,
        sha256="",
    )


def _run(recipe: Recipe, data: DataSet, device: torch.device, rounds: int) -> Run:
    checkpoint = Checkpoint(
        recipe=replace(recipe, epochs=rounds + 1),
        seed=SEED,
        dataset=data.name,
        dataset_sha256=data.sha256,
    )
    return Run(checkpoint, data, device=device, group=Group())


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


def _without_products(run: Run, data: DataSet, epoch: int) -> None:
    """Take the steps of an epoch with every convolution left to the library."""
    with patch.object(small_maps, "PIXELS", 0):
        _bare_epoch(run, data, epoch)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return how long the work took, in seconds, on the device as well."""
    begun_at = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun_at


if __name__ == "__main__":
    main()
