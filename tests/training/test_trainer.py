"""A run learns, goes on where it stopped, and stops with one line when it cannot."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from model.drop_path import draw_passes
from model.preprocessing import Preprocessing
from tests.training.conftest import CPU, TrainedRun
from training import TrainingError
from training.config import Recipe
from training.data.data_set import DataSet, load_data
from training.data.splits import FileSplit
from training.distributed import Group
from training.evaluate import evaluate_checkpoint
from training.precision import mixed_precision
from training.runs.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from training.trainer import LOOK_EVERY, Run, train

TrainSmall = Callable[..., Checkpoint]


def are_equal(first: Checkpoint, second: Checkpoint) -> bool:
    """The same weights, statistics and momenta, bit for bit."""
    momenta = [momenta_of(c.optimizer) for c in (first, second)]
    return all(torch.equal(first.model[k], v) for k, v in second.model.items()) and all(
        torch.equal(own, other) for own, other in zip(*momenta, strict=True)
    )


def momenta_of(optimizer: dict[str, Any]) -> list[torch.Tensor]:
    """SGD's, and Muon's where there is one."""
    states = [optimizer, *([optimizer["muon"]] if "muon" in optimizer else [])]
    return [each["momentum_buffer"] for state in states for each in state["state"].values()]


def test_training_says_what_is_trained_where_and_scores_every_epoch(trained: TrainedRun) -> None:
    first, *epochs = trained.lines

    assert "training small" in first
    assert "1294 images of digits in 10 classes" in first
    assert first.endswith("; begins anew, with drawn weights")
    assert "device: CPU" in first
    assert len(epochs) == trained.checkpoint.recipe.epochs
    assert all(
        word in epochs[-1]
        for word in ("epoch 3/3", "loss", "column-1", "column-2", "full", "images/s")
    )


def test_training_lowers_the_loss(trained: TrainedRun) -> None:
    losses = [record["train_loss"] for record in trained.checkpoint.history]

    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": "++"},
        {"augmentation": "rand", "mixing": "cutmix", "muon_rate": 0.05},
        {"augmentation": "slight", "muon_rate": 0.1, "keeps_length": True, "shift_rate": 5.0},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, few_digits: DataSet, small_recipe: Recipe, changes: dict[str, Any]
) -> None:
    recipe = replace(
        small_recipe,
        epochs=2,
        batch_size=32,
        drop_path="tied",
        averaging=0.9,
        **changes,
    )
    recipe = replace(recipe, architecture=replace(recipe.architecture, dropout=(0.1, 0.2)))

    def run(folder: Path, *, resume: bool, stop_after: int | None = None) -> Checkpoint:
        def report(line: str) -> None:
            if stop_after is not None and line.startswith(f"epoch {stop_after}/"):
                raise KeyboardInterrupt

        return train(
            recipe,
            few_digits,
            folder,
            seed=5,
            device=CPU,
            resume=resume,
            group=Group(),
            report=report,
        )

    whole = run(tmp_path / "whole", resume=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", resume=False, stop_after=1)
    resumed = run(tmp_path / "parts", resume=True)

    assert are_equal(whole, resumed)
    assert all(torch.equal(whole.averaged[k], v) for k, v in resumed.averaged.items())
    assert [r["train_loss"] for r in whole.history] == [r["train_loss"] for r in resumed.history]


def test_the_same_seed_trains_the_same_network_and_another_seed_another(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    first, again, other = (
        train_small(tmp_path / name, seed=seed, epochs=1)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )

    assert are_equal(first, again)
    assert not are_equal(first, other)


def test_a_finished_run_resumes_to_nothing(tmp_path: Path, train_small: TrainSmall) -> None:
    first = train_small(tmp_path)

    assert are_equal(first, train_small(tmp_path, resume=True))


def test_a_run_stopped_in_its_first_epoch_begins_again(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    assert train_small(tmp_path, resume=True, epochs=1).epoch == 1


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path, train_small: TrainSmall) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path, report=stop)
    lines: list[str] = []

    train_small(tmp_path, resume=True, report=lines.append)
    train_small(tmp_path, resume=True, report=lines.append)

    first, _, last = lines
    assert first.endswith("; goes on after epoch 1")
    assert last.endswith("; has ended")


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path, train_small: TrainSmall) -> None:
    first = train_small(tmp_path / "first")

    barely = train_small(
        tmp_path / "second",
        epochs=1,
        learning_rate=1e-9,
        begin_with=tmp_path / "first",
    )

    assert barely.origin == first.description
    assert barely.epoch == 1
    for name, value in first.model.items():
        if name.endswith("conv.weight"):
            assert_close(barely.model[name], value)


def test_a_run_begins_with_no_weights_that_have_seen_its_validation_images(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    train_small(tmp_path / "first", seed=1, epochs=1)

    with pytest.raises(TrainingError, match="seed 1, which chose other validation images than 0"):
        train_small(tmp_path / "second", begin_with=tmp_path / "first")


def test_a_resumed_run_began_with_what_it_is_given(tmp_path: Path, train_small: TrainSmall) -> None:
    train_small(tmp_path / "first", epochs=1)
    train_small(tmp_path / "second", epochs=1)

    with pytest.raises(TrainingError, match="began with drawn weights, not with small, 1 epoch"):
        train_small(tmp_path / "second", epochs=1, resume=True, begin_with=tmp_path / "first")


def test_weights_of_another_network_are_one_clear_line(
    tmp_path: Path, train_small: TrainSmall, small_recipe: Recipe
) -> None:
    wider = replace(small_recipe.architecture, channels=(8, 24))
    train_small(tmp_path / "other", epochs=1, architecture=wider)

    with pytest.raises(
        TrainingError, match=r"do not fit small .*choose a run of the same network"
    ) as raised:
        train_small(tmp_path / "run", begin_with=tmp_path / "other")

    assert "\n" not in str(raised.value)


def test_a_network_that_ends_in_nan_costs_no_checkpoint(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    with pytest.raises(TrainingError, match=r"epoch 1: .*; train anew with a lower"):
        train_small(tmp_path, learning_rate=1e38, schedule="paper", batch_size=128, epochs=1)

    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_loss_that_is_no_number_stops_a_run_long_before_the_epoch_ends(
    tmp_path: Path, train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([torch.tensor(2.0), torch.tensor(nan), *[torch.tensor(2.0)] * LOOK_EVERY])
    monkeypatch.setattr(Run, "step", lambda *_: next(losses))

    with pytest.raises(TrainingError, match="epoch 1: the loss is nan; train anew with a lower"):
        train_small(tmp_path, batch_size=2, epochs=1)

    assert len(list(losses)) == 1


def test_a_column_that_overflows_while_others_learn_stops_no_run(
    overflowing: Checkpoint, trained: TrainedRun
) -> None:
    run = Run(overflowing, trained.data, device=CPU, group=Group())

    record = run.score_subnetworks()
    run.check_finite(0, record)

    assert record["column-2/loss"] == inf
    assert record["column-2/accuracy"] == 0
    assert record["column-1/loss"] < inf


def test_a_run_does_not_overwrite_another(tmp_path: Path, train_small: TrainSmall) -> None:
    train_small(tmp_path)

    with pytest.raises(TrainingError, match="continue it with --resume or choose another --out"):
        train_small(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"learning_rate": 0.5}, "recipe learning_rate 0.1, this run has 0.5"),
        ({"seed": 9}, "seed"),
        ({"data": None}, "data sha256"),
    ],
)
def test_a_checkpoint_of_another_run_is_one_clear_line(
    tmp_path: Path,
    few_digits: DataSet,
    train_small: TrainSmall,
    changes: dict[str, object],
    what: str,
) -> None:
    train_small(tmp_path, epochs=1)
    if "data" in changes:
        changes = {"data": replace(few_digits, sha256="0" * 64)}

    with pytest.raises(TrainingError, match=f"its checkpoint has {what}") as raised:
        train_small(tmp_path, resume=True, **{"epochs": 1, **changes})

    assert "\n" not in str(raised.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    with pytest.raises(TrainingError, match=r"the loss is .*lower learning rate") as raised:
        train_small(tmp_path, learning_rate=1e30, schedule="paper")

    assert "\n" not in str(raised.value)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_a_full_disk_stops_the_run_in_one_clear_line(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    (tmp_path / ".checkpoint.pt.new").symlink_to("/dev/full")

    with pytest.raises(TrainingError, match=r"cannot be written .*free some space and resume"):
        train_small(tmp_path)


@pytest.mark.parametrize("drop_path", ["mixed", "local", "global", "tied", "sandwich", "none"])
def test_every_drop_path_trains(drop_path: str, train_small: TrainSmall) -> None:
    checkpoint = train_small(drop_path=drop_path, epochs=1)

    assert checkpoint.history[0]["train_loss"] > 0


def run_of(recipe: Recipe, data: DataSet) -> Run:
    checkpoint = Checkpoint(
        recipe=recipe,
        seed=0,
        dataset="digits",
        dataset_sha256="",
    )
    return Run(checkpoint, data, device=CPU, group=Group())


def gradient_of_tied_passes(recipe: Recipe, data: DataSet) -> torch.Tensor:
    """The gradient of the deep column's own filters after one step."""
    run = run_of(recipe, data)
    images, labels = next(iter(data.train.batches([torch.arange(32)])))
    passes = draw_passes("tied", Random(0), run.network.architecture)
    run.step(run.normalise(images), labels, passes)
    gradient = run.network.get_parameter("blocks.0.first.conv.conv.weight").grad
    assert gradient is not None
    return gradient


def test_far_steps_begin_with_no_opinion(few_digits: DataSet, small_recipe: Recipe) -> None:
    far = run_of(replace(small_recipe, muon_rate=0.1, keeps_length=True), few_digits)
    images, _ = next(iter(few_digits.train.batches([torch.arange(8)])))

    assert not far.network(far.normalise(images)).any()


def test_distillation_changes_what_columns_learn(few_digits: DataSet, small_recipe: Recipe) -> None:
    plain = gradient_of_tied_passes(small_recipe, few_digits)
    distilled = gradient_of_tied_passes(replace(small_recipe, distillation=0.5), few_digits)

    assert not torch.allclose(plain, distilled)


def test_averaged_weights_are_what_is_scored_and_exported(train_small: TrainSmall) -> None:
    checkpoint = train_small(averaging=0.9)

    name = "classifier.weight"
    assert not torch.equal(checkpoint.scored_weights[name], checkpoint.model[name])
    assert torch.equal(checkpoint.scored_weights[name], checkpoint.averaged[f"module.{name}"])
    assert checkpoint.scored_weights.keys() == checkpoint.model.keys()


def test_images_on_disk_train_the_same_network_as_in_memory(
    class_folders: Path, tmp_path: Path, train_small: TrainSmall
) -> None:
    seen, views = Preprocessing(size=16), Preprocessing(size=32)
    in_memory, on_disk = (
        load_data(str(class_folders), seed=0, preprocessing=seen, views=views, max_tensor_bytes=n)
        for n in (1 << 20, 0)
    )
    assert isinstance(on_disk.views, FileSplit)
    run = partial(train_small, epochs=1, batch_size=8, augmentation="crop")

    first = run(tmp_path / "memory", data=in_memory)
    second = run(tmp_path / "disk", data=on_disk)

    assert are_equal(first, second)


def test_a_checkpoint_on_disk_is_the_one_returned(tmp_path: Path, train_small: TrainSmall) -> None:
    checkpoint = train_small(tmp_path)

    assert are_equal(load_checkpoint(tmp_path), checkpoint)


def test_two_runs_never_write_to_one_folder(
    tmp_path: Path, few_digits: DataSet, small_recipe: Recipe
) -> None:
    recipe = replace(small_recipe, epochs=1, batch_size=32)
    run = partial(
        train, recipe, few_digits, tmp_path, seed=0, device=CPU, resume=True, group=Group()
    )
    refused = []

    def begin_another(line: str) -> None:
        if not line.startswith("epoch"):
            with pytest.raises(TrainingError) as raised:
                run()
            refused.append(str(raised.value))

    run(report=begin_another)

    assert refused == [
        f"{tmp_path}: another process is training there; stop it, or choose another --out"
    ]
    assert run().epoch == 1


def test_an_epochs_scores_are_those_of_the_networks_that_are_exported(
    train_small: TrainSmall, few_digits: DataSet
) -> None:
    """Some steps in, batch norm's running statistics are still near their beginning, and would score below."""
    checkpoint = train_small(drop_path="global", epochs=1)

    with mixed_precision(CPU):
        scores = evaluate_checkpoint(checkpoint, few_digits, few_digits.validation, CPU)

    for name, own in scores.items():
        assert checkpoint.history[0][f"{name}/accuracy"] == own.accuracy
        assert_close(checkpoint.history[0][f"{name}/loss"], own.loss)
