"""Subnetworks of several FractalNets become one bundle: each as it was, the front of all kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle import PRETRAINED_DIR, Bundle, BundleError, read_bundle
from model.manifest import FileRecord, Precision, Subnetwork
from model.sessions import open_session
from tests.training.conftest import SMALL
from training.data.data_set import DataSet
from training.export.export import export_again, export_bundle
from training.importing.command import main
from training.runs.checkpoint import Checkpoint
from training.runs.origin import read_origin

NARROW = replace(SMALL, name="narrower", channels=(4, 8))
Run = Callable[..., tuple[int, str, str]]
Train = Callable[..., Checkpoint]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Import into ``both``; return the exit code, and what was said to whom."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["import", "--out", str(tmp_path / "both"), *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def narrow_folder(tmp_path: Path, digits: DataSet, train_small: Train) -> Path:
    """The bundle of a second network, in int8 too, that learnt from the same images."""
    checkpoint = train_small(data=digits, architecture=NARROW)
    folder = tmp_path / "narrow"
    export_bundle(checkpoint, digits, folder, name="narrow", precision="int8")
    return folder


def logits(bundle: Bundle, graph: FileRecord, data: DataSet) -> np.ndarray:
    (batch,) = data.test.batches([torch.arange(64)])
    session = open_session(bundle.folder / graph.name, threads=1)
    given: np.ndarray = session.run(["logits"], {"images": batch[0].numpy()})[0]
    return given


def answers(graph: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits and the probabilities that a graph gives."""
    session = open_session(graph, threads=1)
    given = {"images": np.ascontiguousarray(images)}
    logits, probabilities = session.run(["logits", "probabilities"], given)
    return logits, probabilities


def named(bundle: Bundle) -> dict[str, Subnetwork]:
    return {each.name: each for each in bundle.manifest.subnetworks}


def test_subnetworks_of_two_networks_are_what_they_were(
    bundle_in: Callable[[Precision], Path],
    narrow_folder: Path,
    digits: DataSet,
    tmp_path: Path,
    run: Run,
) -> None:
    sources = {"wide": read_bundle(bundle_in("int8")), "narrow": read_bundle(narrow_folder)}
    words = [f"--with={name}={bundle.folder}" for name, bundle in sources.items()]

    code, _, err = run(*words, "--data", "digits", "--keep", "all")

    both = read_bundle(tmp_path / "both")
    found = named(both)
    assert (code, err) == (0, "")
    assert both.manifest.precision == "int8"
    assert len(found) == sum(len(each.manifest.subnetworks) for each in sources.values())
    for name, bundle in sources.items():
        network = next(each for each in both.manifest.networks if each.name == name)
        assert (network.architecture, network.provenance) == bundle.trained
        for before in bundle.manifest.subnetworks:
            after = found[f"{name}-{before.name}"]
            assert after.network == name
            for field in ("columns", "depth", "macs", "parameters"):
                assert getattr(after, field) == getattr(before, field)
            assert before.int8
            assert after.int8
            for old, new in ((before, after), (before.int8, after.int8)):
                assert new.accuracy.validation == old.accuracy.validation
                assert new.accuracy.test == old.accuracy.test
                assert new.calibration == old.calibration
                np.testing.assert_array_equal(
                    logits(both, new.graph, digits), logits(bundle, old.graph, digits)
                )
    sizes = [each.manifest.weights.size_bytes for each in sources.values()]
    assert max(sizes) < both.manifest.weights.size_bytes <= sum(sizes) + 64


def test_the_front_is_that_of_all_networks_and_the_rest_can_be_asked_for(
    bundle_in: Callable[[Precision], Path], tmp_path: Path, run: Run
) -> None:
    folder = bundle_in("float32")
    words = ["--with", f"a={folder}", "--with", f"b={folder}", "--data", "digits"]

    _, out, _ = run(*words)  # of each subnetwork there are two, and one is the faster

    front = named(read_bundle(tmp_path / "both"))
    twice = [name for name in front if {name[2:]} <= {other[2:] for other in front.keys() - {name}}]
    left_out = [line.split()[0] for line in out.splitlines() if " is left out, beaten by " in line]
    assert not twice
    assert len(left_out) + len(front) == 2 * len(read_bundle(folder).manifest.subnetworks)
    assert f"to have them all the same, import with --keep {','.join(left_out)}" in out

    run(*words, "--keep", left_out[0])

    assert left_out[0] in named(read_bundle(tmp_path / "both"))


def test_what_is_to_be_left_out_is_and_beats_no_other(
    bundle_in: Callable[[Precision], Path], tmp_path: Path, run: Run
) -> None:
    words = ["--with", f"a={bundle_in('float32')}", "--data", "digits", "--keep", "all"]

    code, out, err = run(*words, "--leave-out", "a-column-1,a-full")

    assert (code, err) == (0, "")
    assert not {"a-column-1", "a-full"} & named(read_bundle(tmp_path / "both")).keys()
    assert "beaten by a-full" not in out


def test_a_mirrored_subnetwork_answers_with_the_mean_of_both_views(
    bundle_in: Callable[[Precision], Path], digits: DataSet, tmp_path: Path, run: Run
) -> None:
    folder = bundle_in("int8")
    words = ["--with", f"a={folder}", "--data", "digits", "--keep", "all"]

    code, _, err = run(*words, "--mirror", "a-full,a-column-1")

    both = read_bundle(tmp_path / "both")
    found = named(both)
    assert (code, err) == (0, "")
    assert {"a-full-mirrored", "a-column-1-mirrored"} <= found.keys()
    (batch,) = digits.test.batches([torch.arange(64)])
    images = batch[0].numpy()
    for name in ("a-full", "a-column-1"):
        before, after = found[name], found[f"{name}-mirrored"]
        assert (after.macs, after.parameters) == (2 * before.macs, before.parameters)
        assert (before.views, after.views) == (1, 2)
        assert after.calibration.temperature != before.calibration.temperature
        for old, new in ((before, after), (before.in_int8, after.in_int8)):
            assert old
            assert new
            seen = [answers(both.graph_path(old), view)[0] for view in (images, images[:, :, ::-1])]
            means, probabilities = answers(both.graph_path(new), images)
            np.testing.assert_allclose(means, (seen[0] + seen[1]) / 2, atol=1e-5)
            scaled = torch.from_numpy(means) / after.calibration.temperature
            np.testing.assert_allclose(probabilities, scaled.softmax(1).numpy(), atol=1e-5)


def test_the_full_network_is_the_one_that_looks_once(
    bundle_in: Callable[[Precision], Path], digits: DataSet, tmp_path: Path, run: Run
) -> None:
    plain = read_bundle(bundle_in("float32"))
    run("--with", plain.folder, "--data", "digits", "--keep", "all", "--mirror", "column-1,full")

    both = read_bundle(tmp_path / "both")
    again = export_again(both, digits, tmp_path / "again", name="again", precision="float32")

    assert len(both.manifest.subnetworks) == len(plain.manifest.subnetworks) + 2
    assert both.full.name == "full"
    origin, before = (read_origin(each.folder, "") for each in (both, plain))
    assert origin.weights.keys() == before.weights.keys()
    assert [each.name for each in again.subnetworks] == [
        each.name for each in plain.manifest.subnetworks
    ]


def test_a_bundle_of_several_networks_is_measured_joined_again_and_not_taken_for_one(
    bundle_folder: Path, tmp_path: Path, run: Run
) -> None:
    run("--with", f"a={bundle_folder}", "--data", "digits", "--keep", "all")
    inner = (tmp_path / "both").rename(tmp_path / "inner")

    code, _, err = run(f"--with=x={inner}", f"--with=b={bundle_folder}", "--data", "digits")

    both = read_bundle(tmp_path / "both")
    assert (code, err) == (0, "")
    assert {each.network for each in both.manifest.subnetworks} <= {"x-a", "b"}
    assert both.manifest.origin == read_bundle(bundle_folder).trained[1]
    with pytest.raises(BundleError, match=r"its subnetworks are of several networks \(.*\); take"):
        _ = both.trained


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no networks; name .onnx or .pt2 files, or bundles by --with NAME=BUNDLE"),
        (["--with", "{0}", "--with", "b={0}"], "of several bundles each needs a name"),
        (["--with", "a={0}", "--with", "a={0}"], "'a-column-1' would be there twice; rename"),
        (["--with", "={0}"], "has no name before the '='; say NAME=BUNDLE"),
        (["--with", "a b={0}"], "'a b' cannot be a bundle's name"),
        (["--with", "a={0}", "--keep", "column-9"], "--keep column-9: is none of a-column-1, "),
        (["--with", "a={0}", "--leave-out", "full"], "--leave-out full: is none of a-column-1, "),
        (["--with", "a={0}", "--mirror", "full"], "--mirror full: is none of a-column-1, "),
        (["--with", "a={0}", "--with", "b={1}"], "truck) are not those of "),
    ],
)
def test_bundles_that_cannot_be_one_are_told_in_one_line(
    words: list[str], reason: str, bundle_folder: Path, run: Run
) -> None:
    folders = (bundle_folder, PRETRAINED_DIR / "cifar10")
    given = [word.format(*folders) for word in words]

    code, _, err = run(*given, "--data", "digits")

    (line,) = err.splitlines()
    assert code == 1
    assert reason in line


def test_networks_that_put_other_images_aside_are_not_compared_on_them(
    bundle_folder: Path, digits: DataSet, train_small: Train, tmp_path: Path, run: Run
) -> None:
    other = tmp_path / "other"
    export_bundle(train_small(data=digits, seed=1), digits, other, name="other")

    code, _, err = run(f"--with=a={bundle_folder}", f"--with=b={other}", "--data", "digits")

    (line,) = err.splitlines()
    assert code == 1
    assert "was trained with seed 1, which put other images aside than seed 0" in line
    assert "give images that neither learnt from with --images" in line
