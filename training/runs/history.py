"""What a run gives to look at: a line of figures an epoch, their curves, and what is taken for what."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from torch import Tensor

from training import TrainingError
from training.runs.files import written_whole

HISTORY_FILE = "history.jsonl"
CURVES_FILE = "curves.png"
BOARD_FOLDER = "tensorboard"
REDRAW_S = 60  # curves take a second to draw
FLUSH_S = 2  # TensorBoard shows what is in its files
MISTAKES = 3  # classes that one is taken for, in a line


if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

Batch = TypeVar("Batch")


class Waited(Generic[Batch]):
    """Gives batches, and counts how long each was waited for: the device is busy as far as that is short."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._begun_at = time.perf_counter()
        self._waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches."""
        return self

    def __next__(self) -> Batch:
        """Wait for the next batch."""
        asked_at = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited_s += time.perf_counter() - asked_at

    def rates(self, n: int) -> dict[str, str]:
        """Return at how many images/s ``n`` images were loaded, as far as that was waited for, and were learnt from."""
        busy_s = time.perf_counter() - self._begun_at - self._waited_s
        return {
            what: f"{rate(n / max(took_s, 1e-9))}/s"
            for what, took_s in (("loading", self._waited_s), ("training", busy_s))
        }


def rate(images_per_s: float) -> str:
    """Return a rate for people: whole, with a decimal where it is below 10."""
    return f"{images_per_s:,.{0 if images_per_s >= 10 else 1}f}"


def epoch_line(record: dict[str, float], epochs: int, took_s: float) -> str:
    """Return the line printed after an epoch: validation accuracies, speed, and the time that the others will take."""
    accuracies = "  ".join(
        f"{key.removesuffix('/accuracy')} {value:.1%}"
        for key, value in record.items()
        if key.endswith("/accuracy")
    )
    left_s = round(took_s * (epochs - record["epoch"]))
    left = f", {timedelta(seconds=left_s)} left" if left_s else ""
    return (
        f"epoch {record['epoch']:.0f}/{epochs}  loss {record['train_loss']:.3f}  {accuracies}  "
        f"({rate(record['images_per_s'])} images/s{left})"
    )


def write_history(history: Sequence[dict[str, float]], folder: Path) -> None:
    """Write ``history.jsonl``: one object an epoch, whole, as the checkpoint has it."""
    with written_whole(folder / HISTORY_FILE) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in history)


class Followed:
    """Keeps what shows a run while it trains: its curves, and TensorBoard's files where they are wanted.

    As a context it leaves both whole, however the run ends.

    Args:
        folder: of the run.
        on_board: write a point of each figure an epoch into ``tensorboard``, in the run's folder.

    Raises:
        TrainingError: the package that writes them is not there.
    """

    def __init__(self, folder: Path, *, on_board: bool) -> None:
        self._folder = folder
        self._open_board = _board_writer() if on_board else None
        self._board: SummaryWriter | None = None
        self._history: Sequence[dict[str, float]] = ()
        self._drawn_at = time.monotonic()

    def __enter__(self) -> Self:
        """Follow a run from here on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Draw what the run has come to."""
        if self._board:
            self._board.close()
        if self._history:
            draw_curves(self._history, self._folder)

    def __call__(self, history: Sequence[dict[str, float]]) -> None:
        """Show what the last epoch added; the curves about once a minute."""
        self._history = history
        record = history[-1]
        epoch = int(record["epoch"])
        if (
            self._open_board and not self._board
        ):  # points after the epoch that a run goes on from are hidden
            self._board = self._open_board(
                str(self._folder / BOARD_FOLDER),
                purge_step=epoch,
                flush_secs=FLUSH_S,
                filename_suffix=f".from-epoch-{epoch}",  # files of one second would be one
            )
        if self._board:
            for name, value in record.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, epoch)
        if time.monotonic() - self._drawn_at > REDRAW_S:
            draw_curves(history, self._folder)
            self._drawn_at = time.monotonic()


def _board_writer() -> Any:
    """Return the class that writes for TensorBoard."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "--tensorboard needs the package tensorboardX: pip install 'anytime-inference[tensorboard]'"
        ) from error
    return SummaryWriter


def draw_curves(history: Sequence[dict[str, float]], folder: Path) -> None:
    """Draw ``curves.png``: losses and validation accuracies over the epochs, as the paper's Figure 3."""
    from matplotlib.figure import Figure  # takes a second to load

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    losses.plot(epochs, [record["train_loss"] for record in history], "k:", label="in training")
    for key in history[0]:
        name, _, what = key.rpartition("/")
        values = [record[key] for record in history]
        if what == "loss":
            losses.plot(epochs, values, label=name)
        elif what == "accuracy":
            accuracies.plot(epochs, [100 * value for value in values], label=name)
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="validation accuracy, %")
    for axes in (losses, accuracies):
        axes.legend(fontsize=8)
    with written_whole(folder / CURVES_FILE) as file:
        figure.savefig(file, dpi=120)


def by_class(confusion: Tensor, classes: Sequence[str]) -> str:
    """Return a table of the accuracy of each class, and of the classes that it is most often taken for."""
    width = max(len("class"), *map(len, classes))
    lines = [f"{'class':<{width}} {'images':>7} {'accuracy':>9}  taken for"]
    for label, (name, row) in enumerate(zip(classes, confusion.tolist(), strict=True)):
        others = sorted((-n, other) for other, n in enumerate(row) if n and other != label)
        mistakes = ", ".join(f"{classes[other]} {-n}" for n, other in others[:MISTAKES])
        accuracy = f"{row[label] / sum(row):.2%}" if sum(row) else "-"
        lines.append(f"{name:<{width}} {sum(row):>7} {accuracy:>9}  {mistakes}".rstrip())
    return "\n".join(lines)
