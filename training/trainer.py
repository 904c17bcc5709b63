"""The training loop: draw a path, forward, step; after each epoch score every column and save."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path as FilePath
from random import Random

import torch
import torch.nn.functional as F
from tqdm import tqdm

from model.drop_path import sample_global, sample_local, sample_mixed
from model.fractal import FractalNet
from model.path import Path
from training.augment import augment
from training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from training.config import Recipe
from training.data import DataSet, Split
from training.distributed import Group
from training.errors import TrainingError
from training.evaluate import channel_statistics, normalise, predict, reported_subnetworks, score
from training.optim import build_optimizer, rate_factor

SAMPLERS = {"mixed": sample_mixed, "local": sample_local, "global": sample_global}


def train(
    recipe: Recipe,
    data: DataSet,
    folder: FilePath,
    *,
    seed: int,
    device: torch.device,
    resume: bool,
    group: Group,
) -> Checkpoint:
    """Train a network by a recipe and leave its checkpoint in ``folder``, written by the group's first process.

    Each epoch draws its order, augmentation and paths from the seed and the epoch's number alone, so a resumed run
    ends as an uninterrupted one would.

    Raises:
        TrainingError: the loss is not finite, the checkpoint cannot be written, or does not belong to this run.
    """
    checkpoint = _start(recipe, data, folder, seed=seed, resume=resume)
    torch.manual_seed(seed)
    network = FractalNet(recipe.architecture_for(data)).to(device)
    optimizer = build_optimizer(network, recipe)
    if checkpoint.epoch:
        network.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    mean, std = channel_statistics(data.train)

    train_split, validation = data.train.to(device), data.validation.to(device)
    validation = Split(group.share(validation.images), group.share(validation.labels))
    mean, std = mean.to(device), std.to(device)
    validation_images = normalise(validation.images, mean, std)
    steps = math.ceil(len(train_split) / recipe.batch_size)
    for epoch in range(checkpoint.epoch, recipe.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout draws from the global generator
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        draw_path = _path_sampler(recipe, network, Random(f"{seed}-{epoch}"))
        order = torch.randperm(len(train_split), generator=generator).to(device)
        started_at = time.perf_counter()
        losses = torch.zeros((), device=device)
        bar = tqdm(
            torch.split(order, recipe.batch_size),
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            disable=group.rank > 0 or not sys.stderr.isatty(),
            leave=False,
        )
        network.train()
        for step, indices in enumerate(bar):
            rate = recipe.learning_rate * rate_factor(
                recipe.schedule, (epoch + step / steps) / recipe.epochs
            )
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            indices = indices[: len(indices) // group.size * group.size]
            batch = train_split.take(indices)
            images = augment(normalise(batch.images, mean, std), recipe.augmentation, generator)
            with _mixed_precision(device):
                logits = network(group.share(images), draw_path())
            loss = F.cross_entropy(
                logits.float(), group.share(batch.labels), label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            group.average_gradients(network)
            optimizer.step()
            losses += loss.detach()
            if step % 20 == 19:
                bar.set_postfix(loss=f"{losses.item() / (step + 1):.3f}")
        (train_loss,) = group.mean([losses.item() / steps])
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"epoch {epoch + 1}: the loss is {train_loss}; lower the learning rate "
                f"({recipe.learning_rate}) and resume"
            )
        images_per_s = len(train_split) / (time.perf_counter() - started_at)
        record = {"epoch": epoch + 1.0, "train_loss": train_loss, "images_per_s": images_per_s}
        with _mixed_precision(device):
            for name, active in reported_subnetworks(network.architecture).items():
                logits = predict(network, validation_images, network.path_of(active))
                accuracy, loss_value = group.mean(score(logits, validation.labels))
                record |= {f"{name}/accuracy": accuracy, f"{name}/loss": loss_value}
        checkpoint.epoch = epoch + 1
        checkpoint.model, checkpoint.optimizer = network.state_dict(), optimizer.state_dict()
        checkpoint.history.append(record)
        if group.rank == 0:
            save_checkpoint(checkpoint, folder)
            tqdm.write(_epoch_line(record, recipe.epochs))
    return checkpoint


def _start(
    recipe: Recipe, data: DataSet, folder: FilePath, *, seed: int, resume: bool
) -> Checkpoint:
    """Return the checkpoint to go on from: the one in ``folder``, or that of a run not begun."""
    exists = (folder / CHECKPOINT_FILE).exists()
    if not resume:
        if exists:
            raise TrainingError(
                f"{folder}: holds a checkpoint already; continue it with --resume or choose another --out"
            )
        return Checkpoint(
            recipe=recipe,
            seed=seed,
            epoch=0,
            dataset=data.name,
            dataset_sha256=data.sha256,
            model={},
            optimizer={},
            history=[],
        )
    checkpoint = load_checkpoint(folder)
    for what, theirs, ours in (
        ("recipe", checkpoint.recipe, recipe),
        ("seed", checkpoint.seed, seed),
        ("data sha256", checkpoint.dataset_sha256, data.sha256),
    ):
        if theirs != ours:
            raise TrainingError(
                f"{folder}: its checkpoint has {what} {theirs}, this run has {ours}"
            )
    return checkpoint


def _path_sampler(recipe: Recipe, network: FractalNet, rng: Random) -> Callable[[], Path]:
    """Return a function that draws the path of the next mini-batch."""
    if recipe.drop_path == "none":
        return lambda: network.full_path
    sample = SAMPLERS[recipe.drop_path]
    blocks, columns = network.architecture.blocks, network.architecture.columns
    return lambda: sample(rng, blocks=blocks, columns=columns)


def _mixed_precision(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Return bf16 autocast where the device computes it in hardware, else float32."""
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _epoch_line(record: dict[str, float], epochs: int) -> str:
    """Return the line printed after an epoch: validation accuracy of every column alone and of the full network."""
    accuracies = "  ".join(
        f"{key.removesuffix('/accuracy')} {value:.1%}"
        for key, value in record.items()
        if key.endswith("/accuracy")
    )
    return (
        f"epoch {record['epoch']:.0f}/{epochs}  loss {record['train_loss']:.3f}  {accuracies}  "
        f"({record['images_per_s']:.0f} images/s)"
    )
