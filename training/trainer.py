"""The training loop: draw the paths, forward, step; after each epoch score every column and save."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format
from tqdm import tqdm

from model import cost
from model.drop_path import Pass, draw_passes
from model.fractal import FractalNet
from training import TrainingError
from training.augment import DRAWS, augment, channel_statistics
from training.config import Recipe
from training.data.data_set import DataSet
from training.distributed import Group
from training.evaluate import (
    NORM_IMAGES_OF_AN_EPOCH,
    extract_each_for_serving,
    predict_each,
    reported_subnetworks,
    score,
)
from training.mixing import Mixer
from training.optim import Optimizer, averaged, rate_factor
from training.precision import has_bf16, mixed_precision
from training.runs.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    check_holds_no_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from training.runs.files import written_by_one
from training.runs.history import Waited, epoch_line, write_history
from training.runs.origin import begin_from, completed, is_for_other_classes
from training.teacher import Teacher
from training.whitening import whiten

IDENTITY_DIGITS = 10  # hexadecimal, of a sha256: their sum over 8,192 processes is exact in float64
LOOK_EVERY = 20  # steps; looking at the loss waits for the device


def train(
    recipe: Recipe,
    data: DataSet,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    resume: bool,
    group: Group,
    begin_with: Path | None = None,
    teacher: Teacher | None = None,
    report: Callable[[str], None] = lambda line: None,
    follow: Callable[[Sequence[dict[str, float]]], None] = lambda history: None,
) -> Checkpoint:
    """Train a network by a recipe and leave its checkpoint in ``folder``, written by the group's first process.

    Each epoch draws its order, augmentation and paths from the seed and the epoch's number alone, so a resumed run
    ends as an uninterrupted one would; one that was stopped in its first epoch begins again. ``begin_with`` is the
    folder of a run or a bundle whose weights to begin with, instead of drawn ones; its optimiser and epochs stay its
    own, and so does its classifier where that is for another number of classes. They are saved before the first epoch:
    a resumed run needs the folder no more, but must have begun with it where it is named and still there.
    ``teacher`` has answers to views of the images, which the run then looks at and learns from.
    ``report`` gets a line that says what is trained and how it begins, and one after each epoch; ``follow`` the figures
    of all epochs so far.

    Raises:
        TrainingError: the loss is not finite, the checkpoint cannot be written, does not belong to this run, or is
            another's that is still running; the processes have different data, or too few images for all of them.
    """
    with _alone_in(folder, group):
        with group.together():
            checkpoint = _start(recipe, data, folder, seed=seed, resume=resume)
            warning = begin_from(begin_with, checkpoint, data) if begin_with else ""
        _check_alike(checkpoint, folder, data, group)
        run = Run(checkpoint, data, device=device, group=group, teacher=teacher)
        with group.together():
            if group.rank == 0:
                if checkpoint.origin and not checkpoint.epoch:
                    save_checkpoint(checkpoint, folder)
                words = (run.description, _beginning(checkpoint, data), warning)
                report("; ".join(filter(None, words)))
        if teacher and checkpoint.epoch < recipe.epochs:
            checkpoint.taught_by = teacher.description
        for epoch in range(checkpoint.epoch, recipe.epochs):
            started_at = time.perf_counter()
            train_loss = run.train_epoch(epoch)
            images_per_s = len(data.train) / (time.perf_counter() - started_at)
            record = {"epoch": epoch + 1.0, "train_loss": train_loss, "images_per_s": images_per_s}
            record |= run.score_subnetworks()
            run.check_finite(epoch, record)
            run.save_to(checkpoint, record)
            with group.together():
                if group.rank == 0:
                    save_checkpoint(checkpoint, folder)
                    write_history(checkpoint.history, folder)
                    took_s = time.perf_counter() - started_at
                    report(epoch_line(record, recipe.epochs, took_s))
                    follow(checkpoint.history)
    return checkpoint


@contextmanager
def _alone_in(folder: Path, group: Group) -> Iterator[None]:
    """Keep other runs out of the folder that the group's first process writes to."""
    with ExitStack() as held:
        with group.together():
            if group.rank == 0:
                held.enter_context(written_by_one(folder))
        yield


class Run:
    """A network in training on one device, as one process of a group.

    Args:
        checkpoint: where the run stands; its recipe and seed decide the rest.
        data: what it is trained and scored on.
        device: where the network is.
        group: the processes that share every mini-batch.
        teacher: whose answers the first pass of every step learns from too; none by default.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        *,
        device: torch.device,
        group: Group,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher = teacher
        self.recipe, self.seed = checkpoint.recipe, checkpoint.seed
        self.device, self.group = device, group
        torch.backends.cudnn.benchmark = True  # on a GPU, tries algorithms once for each shape
        self.data = data
        self.normalise = channel_statistics(data.train).to(device)
        augmentation, mixing = self.recipe.augmentation, self.recipe.mixing
        self.mixer = Mixer(augmentation, mixing, self.normalise, len(data.classes))
        self.training, self.views, self.validation = (
            split.to(device)
            for split in (
                data.train,
                data.views,
                data.validation.take(group.share(torch.arange(len(data.validation)))),
            )
        )
        torch.manual_seed(self.seed)
        self.network = FractalNet(self.recipe.architecture_for(data)).to(device)
        # The order that convolutions compute in: without it every one copies its input and its output.
        convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        group.prepare(self.network)
        if checkpoint.epoch:
            load_weights(self.network, checkpoint.model)
        elif checkpoint.model:
            load_weights(self.network, completed(checkpoint.model, self.network))
        elif stem := self.network.whitening:
            whiten(stem, self.training, self.normalise)
        is_drawn = not checkpoint.model or is_for_other_classes(checkpoint.model, len(data.classes))
        if self.recipe.keeps_length and is_drawn:
            # Far steps: what was drawn would have to be unlearnt first.
            torch.nn.init.zeros_(self.network.classifier.weight)
        self.optimizer = Optimizer(self.network, self.recipe)
        if not checkpoint.epoch:
            self.optimizer.scale_filters()
        self.averaged = (
            averaged(self.network, self.recipe.averaging) if self.recipe.averaging else None
        )
        if checkpoint.epoch:
            self.optimizer.load_state_dict(checkpoint.optimizer)
            if self.averaged:
                self.averaged.load_state_dict(checkpoint.averaged)

    @property
    def description(self) -> str:
        """One line: what is trained, and where."""
        architecture = self.network.architecture
        n_parameters = cost.parameters(architecture, architecture.all_columns)
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        threads = "" if self.device.type == "cuda" else f", {torch.get_num_threads()} threads"
        precision = "bf16" if has_bf16(self.device) else "float32"
        return (
            f"training {architecture.name} ({n_parameters / 1e6:.1f}M parameters) on {len(self.data.train)} images "
            f"of {self.data.name} in {len(self.data.classes)} classes, device: {where} ({precision}{threads}), processes: {self.group.size}"
        )

    def train_epoch(self, epoch: int) -> float:
        """Take the steps of one epoch (0 is the first); return the mean loss of their first passes."""
        recipe, group = self.recipe, self.group
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        paths = Random(f"{self.seed}-{epoch}")
        torch.manual_seed((self.seed * 1_000_003 + epoch) * group.size + group.rank)  # for dropout
        order = torch.randperm(len(self.training), generator=generator)
        chunks = torch.split(order, recipe.batch_size)
        chunks = tuple(
            c[: len(c) // group.size * group.size] for c in chunks if len(c) >= group.size
        )
        n_draws = DRAWS[recipe.augmentation]
        view = self.teacher.view(epoch) if self.teacher else None
        losses = torch.zeros((), device=self.device)
        self.network.train()
        with self._progress_bar(epoch) as bar:
            batches = Waited(self.views.batches(map(group.share, chunks)))
            for step, (chunk, (images, labels)) in enumerate(zip(chunks, batches, strict=True)):
                progress = (epoch + step / len(chunks)) / recipe.epochs
                self.optimizer.set_rate(rate_factor(recipe.schedule, progress))
                if view:
                    draws, taught = (group.share(each[chunk]).to(self.device) for each in view)
                else:
                    draws = group.share(torch.rand(len(chunk), n_draws, generator=generator))
                    taught = None
                x = self.normalise(images)
                x = augment(x, recipe.augmentation, draws.to(self.device), self.data.image_size)
                x, targets = self.mixer(x, labels)
                passes = draw_passes(recipe.drop_path, paths, self.network.architecture)
                losses += self.step(x, targets, passes, taught)
                bar.update(len(chunk))
                if step % LOOK_EVERY == 0 or step == len(chunks) - 1:
                    (total,) = group.sum([losses.item()])
                    mean = total / group.size / (step + 1)
                    if not math.isfinite(mean):
                        raise self._diverged(epoch, f"the loss is {mean}")
                    bar.set_postfix(loss=f"{mean:.3f}", **batches.rates(bar.n), **self.views.cached)
        return mean

    def step(
        self, x: Tensor, targets: Tensor, passes: tuple[Pass, ...], taught: Tensor | None = None
    ) -> Tensor:
        """Take one step on a mini-batch and return the loss of the first pass.

        The first pass learns from the targets, labels (N,) or shares (N, classes), and from ``taught`` (N, classes), the answers of a teacher of the run; its
        own answers teach the others where the recipe distils.
        """
        first, *others = passes
        self.optimizer.zero_grad()
        loss, answers = self._learn(x, targets, first, teacher=taught)
        for other in others:
            self._learn(x, targets, other, teacher=answers)
        self.group.average_gradients(self.network)
        self.optimizer.step()
        if self.averaged:
            self.averaged.update_parameters(self.network)
        return loss

    def _learn(
        self, x: Tensor, targets: Tensor, sample: Pass, teacher: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of one pass; return its loss and its probabilities (N, classes)."""
        recipe = self.recipe
        with mixed_precision(self.device):
            logits = self.network(x, sample.path).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if teacher is not None and recipe.distillation:
            loss = torch.lerp(loss, F.cross_entropy(logits, teacher), recipe.distillation)
        torch.autograd.backward(loss * sample.weight)
        return loss.detach(), logits.detach().softmax(1)

    def score_subnetworks(self) -> dict[str, float]:
        """Return validation accuracy and loss of every column alone and of the full network, as they are exported."""
        network = self.averaged.module if self.averaged else self.network
        assert isinstance(network, FractalNet)
        record: dict[str, float] = {}
        columns = reported_subnetworks(network.architecture)
        with mixed_precision(self.device):
            subnetworks = extract_each_for_serving(
                network, columns.values(), self.training, self.normalise, n=NORM_IMAGES_OF_AN_EPOCH
            )
            answers = predict_each(subnetworks, self.validation, self.normalise)
        for name, logits in zip(columns, answers, strict=True):
            own = score(logits, self.validation.labels)
            correct, loss, n = self.group.sum([own.accuracy * own.n, own.loss * own.n, own.n])
            record |= {f"{name}/accuracy": correct / n, f"{name}/loss": loss / n}
        return record

    def check_finite(self, epoch: int, record: dict[str, float]) -> None:
        """See to it that the last steps of an epoch, whose loss was not seen any more, left a network that works.

        A deep column alone may overflow for some epochs, while others learn.

        Raises:
            TrainingError: they did not; the checkpoint of the epoch before stays.
        """
        losses = [value for name, value in record.items() if name.endswith("/loss")]
        if not any(map(math.isfinite, losses)):
            raise self._diverged(epoch, "no column gives finite answers any more")
        for name, values in self.network.state_dict().items():
            if not torch.isfinite(values).all():
                raise self._diverged(epoch, f"{name} is not finite any more")

    def _diverged(self, epoch: int, what: str) -> TrainingError:
        return TrainingError(
            f"epoch {epoch + 1}: {what}; train anew with a lower learning rate (it is {self.recipe.learning_rate:g})"
        )

    def save_to(self, checkpoint: Checkpoint, record: dict[str, float]) -> None:
        """Bring the checkpoint to where the run stands."""
        checkpoint.epoch += 1
        checkpoint.model = self.network.state_dict()
        checkpoint.optimizer = self.optimizer.state_dict()
        checkpoint.averaged = self.averaged.state_dict() if self.averaged else {}
        checkpoint.history.append(record)

    def _progress_bar(self, epoch: int) -> "tqdm[None]":
        """Return the bar of an epoch: images done, images/s, time left; on a terminal, in the first process."""
        return tqdm(
            total=len(self.training),
            desc=f"epoch {epoch + 1}/{self.recipe.epochs}",
            unit=" images",
            disable=self.group.rank > 0 or not sys.stderr.isatty(),
            leave=False,
        )


def _start(recipe: Recipe, data: DataSet, folder: Path, *, seed: int, resume: bool) -> Checkpoint:
    """Return the checkpoint to go on from: the one in ``folder``, or that of a run not begun."""
    if not resume:
        check_holds_no_run(folder)
    if not (folder / CHECKPOINT_FILE).exists():
        return Checkpoint(
            recipe=recipe,
            seed=seed,
            dataset=data.name,
            dataset_sha256=data.sha256,
            source=data.source,
            skips_unreadable=data.skips_unreadable,
        )
    checkpoint = load_checkpoint(folder)
    for what, theirs, ours in (
        *_fields(checkpoint.recipe, recipe),
        ("seed", checkpoint.seed, seed),
        ("data sha256", checkpoint.dataset_sha256, data.sha256),
    ):
        if theirs != ours:
            raise TrainingError(
                f"{folder}: its checkpoint has {what} {theirs}, this run has {ours}; "
                "resume with what it was begun with; or train on from its weights by another schedule: "
                f"--begin-with {folder}, with another --out and without --resume"
            )
    return checkpoint


def _check_alike(checkpoint: Checkpoint, folder: Path, data: DataSet, group: Group) -> None:
    """See to it that all processes see one checkpoint, have the same data, and a share of every mini-batch.

    Raises:
        TrainingError: they do not.
    """
    identity = int(data.sha256[:IDENTITY_DIGITS], 16)
    stage = (checkpoint.epoch, bool(checkpoint.origin))
    *stages, identities = group.sum([*stage, identity])
    with group.together():
        if stages != [part * group.size for part in stage]:
            raise TrainingError(
                f"{folder}: holds the checkpoint of epoch {checkpoint.epoch} here and another for other processes; "
                "--out must be one folder that all of them see"
            )
        if identities != identity * group.size:
            raise TrainingError(
                f"{data.name}: its sha256 is {data.sha256[:12]}… here and another for other processes; "
                "--data must hold the same images for all of them"
            )
        if checkpoint.recipe.batch_size < group.size:
            raise TrainingError(
                f"a mini-batch of {checkpoint.recipe.batch_size} has no image for each of {group.size} processes; "
                "start fewer, or raise --batch-size"
            )


def _beginning(checkpoint: Checkpoint, data: DataSet) -> str:
    """Say what a run begins with, or where it goes on, if it does."""
    if checkpoint.epoch:
        has_ended = checkpoint.epoch >= checkpoint.recipe.epochs
        return "has ended" if has_ended else f"goes on after epoch {checkpoint.epoch}"
    if not checkpoint.origin:
        return "begins anew, with drawn weights"
    n = len(data.classes)
    is_drawn = is_for_other_classes(checkpoint.model, n)
    drawn = f", its classifier drawn anew for {n} classes" if is_drawn else ""
    return f"begins with {checkpoint.origin}{drawn}"


def _fields(theirs: Recipe, ours: Recipe) -> Iterator[tuple[str, object, object]]:
    """Pair the fields of two recipes, the name first."""
    for field in fields(Recipe):
        yield f"recipe {field.name}", getattr(theirs, field.name), getattr(ours, field.name)
