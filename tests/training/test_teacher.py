"""A teacher's answers belong to the very pixels that the run looks at, and are asked for once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle import PRETRAINED_DIR, Bundle, read_bundle
from model.sessions import open_session
from training import TrainingError
from training.augment import augment, channel_statistics
from training.data.data_set import DataSet
from training.data.splits import TensorSplit
from training.teacher import Teacher, ask, draws_of


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


@pytest.fixture
def teacher(bundle: Bundle, few_digits: DataSet, tmp_path: Path) -> Teacher:
    return ask(bundle, few_digits, tmp_path / "answers.npz", augmentation="++", epochs=2)


def test_a_view_is_answered_as_the_run_will_see_it(
    bundle: Bundle, few_digits: DataSet, teacher: Teacher
) -> None:
    assert isinstance(few_digits.train, TensorSplit)
    draws, answers = teacher.view(epoch=1)
    normalise = channel_statistics(few_digits.train)
    seen = augment(normalise(few_digits.train.images), "++", draws)
    pixels = (seen.permute(0, 2, 3, 1) * normalise.std + normalise.mean) * 255

    session = open_session(bundle.graph_path(bundle.manifest.subnetworks[-1]), threads=1)
    (logits,) = session.run(["logits"], {"images": pixels.round().byte().numpy()})

    expected = torch.from_numpy(logits).softmax(1)
    assert (answers - expected).abs().max() < 0.01  # logits of some units, in half precision


def test_an_image_and_its_mirror_take_turns(teacher: Teacher) -> None:
    first, second, third = (teacher.view(epoch)[0] for epoch in range(3))

    assert torch.equal(first[:, 0] < 0.5, second[:, 0] > 0.5)
    assert torch.equal(first, third)
    assert torch.equal(first, draws_of(0, len(first), "++"))


def test_the_same_is_not_asked_again_but_other_views_are(
    bundle: Bundle, few_digits: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "answers.npz"
    ask(bundle, few_digits, path, augmentation="++", epochs=1)
    written_at = path.stat().st_mtime_ns

    ask(bundle, few_digits, path, augmentation="++", epochs=1)
    assert path.stat().st_mtime_ns == written_at

    assert len(ask(bundle, few_digits, path, augmentation="++", epochs=2).logits) == 2
    assert path.stat().st_mtime_ns != written_at


def test_damaged_answers_are_asked_for_again(
    bundle: Bundle, few_digits: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "answers.npz"
    once = ask(bundle, few_digits, path, augmentation="++", epochs=1)
    path.write_bytes(path.read_bytes()[:1000])

    again = ask(bundle, few_digits, path, augmentation="++", epochs=1)

    assert np.array_equal(once.logits, again.logits)


def test_mirrored_images_have_two_views_however_long_the_run(
    bundle: Bundle, few_digits: DataSet, tmp_path: Path
) -> None:
    teacher = ask(bundle, few_digits, tmp_path / "answers.npz", augmentation="mirror", epochs=5)

    assert len(teacher.logits) == 2


def test_a_teacher_of_other_classes_is_one_clear_line(few_digits: DataSet, tmp_path: Path) -> None:
    shipped = read_bundle(PRETRAINED_DIR / "cifar10")

    with pytest.raises(TrainingError, match="a teacher needs the same, by the same names"):
        ask(shipped, few_digits, tmp_path / "answers.npz", augmentation="mirror", epochs=1)
