"""A bundle is read as it was written, whatever its age, and replaces the one before as a whole."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from model.bundle import MANIFEST_FILE, BundleError, check_name, read_bundle, staged_folder
from model.preprocessing import Preprocessing
from model.presets import PRESETS
from tests.model.bundles import edit_manifest


def test_a_whole_bundle_is_read_as_it_was_written(folder: Path) -> None:
    bundle = read_bundle(folder)

    assert bundle.manifest.architecture == PRESETS["tiny"]
    assert bundle.manifest.preprocessing.shorter_side == 36
    (subnetwork,) = bundle.manifest.subnetworks
    assert bundle.graph_path(subnetwork) == folder / "column-1.onnx"
    assert subnetwork.int8
    assert bundle.graph_path(subnetwork.int8) == folder / "column-1.int8.onnx"
    assert bundle.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_a_manifest_from_before_newer_architecture_fields_is_still_read(folder: Path) -> None:
    def drop(fields: dict[str, Any]) -> None:
        for name in ("divisors", "convolution", "stem", "is_plain"):
            del fields["architecture"][name]

    edit_manifest(folder, drop)

    assert read_bundle(folder).manifest.architecture == PRESETS["tiny"]


def test_a_bundle_from_before_int8_is_still_read(folder: Path) -> None:
    def be_older(fields: dict[str, Any]) -> None:
        fields["format_version"] = 1
        del fields["preprocessing"]
        del fields["subnetworks"][0]["int8"]

    edit_manifest(folder, be_older)

    assert read_bundle(folder).manifest.subnetworks[0].int8 is None


def test_a_bundle_that_does_not_say_how_images_became_pixels_stretched_them(folder: Path) -> None:
    def be_older(fields: dict[str, Any]) -> None:
        fields["format_version"] = 2
        del fields["preprocessing"]

    edit_manifest(folder, be_older)

    assert read_bundle(folder).manifest.preprocessing == Preprocessing(size=32)


@pytest.mark.parametrize(
    ("preprocessing", "fault"),
    [
        ({"size": 16}, "brings images to 16×16, the network sees 32×32"),
        ({"size": 32, "shorter_side": 31}, "shorter_side is 31; at least 32"),
        ({"size": 0}, "size is 0"),
        ({"size": 32, "interpolation": "nearest"}, "'bilinear' or 'bicubic'"),
        (None, "preprocessing: "),
    ],
)
def test_pixels_that_the_network_cannot_see_are_refused(
    folder: Path, preprocessing: object, fault: str
) -> None:
    edit_manifest(folder, lambda fields: fields.update(preprocessing=preprocessing))

    with pytest.raises(BundleError, match=fault):
        read_bundle(folder)


def test_a_bundle_of_networks_that_were_not_trained_here_has_no_columns(folder: Path) -> None:
    def be_imported(fields: dict[str, Any]) -> None:
        for name in ("columns", "depth"):
            del fields["subnetworks"][0][name]
        del fields["subnetworks"][0]["accuracy"]["test"]
        fields["subnetworks"][0]["source"] = {"file": "my net.onnx", "sha256": "0" * 64}
        for name in ("architecture", "provenance"):
            del fields[name]

    edit_manifest(folder, be_imported)

    bundle = read_bundle(folder)
    (subnetwork,) = bundle.manifest.subnetworks
    assert (subnetwork.columns, subnetwork.depth, subnetwork.accuracy.test_value) == (
        (),
        None,
        None,
    )
    with pytest.raises(BundleError, match="its networks were imported, not trained here"):
        _ = bundle.trained


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "..data").mkdir()  # as Kubernetes mounts a volume
    for path in list(folder.glob("*.*n")):
        path.rename(folder / "..data" / path.name)
        path.symlink_to(f"..data/{path.name}")

    assert read_bundle(folder).manifest.name == "digits"


def test_a_bundle_without_the_checksum_of_its_manifest_is_read(folder: Path) -> None:
    (folder / "manifest.json.sha256").unlink()

    assert read_bundle(folder).manifest.name == "digits"


def test_a_staged_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundles" / "digits"
    with staged_folder(target) as staged:
        (staged / MANIFEST_FILE).write_text("new")
        assert not target.exists()

    assert (target / MANIFEST_FILE).read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_staged_folder_replaces_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "digits"
    for content in ("old", "new"):
        with staged_folder(target) as staged:
            (staged / f"{content}.onnx").write_text(content)
            (staged / MANIFEST_FILE).write_text('{"format_version": 1}')

    assert {p.name for p in target.iterdir()} == {"new.onnx", MANIFEST_FILE}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_folder_before_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "digits"
    with staged_folder(target) as staged:
        (staged / MANIFEST_FILE).write_text('{"format_version": 1}')

    def crash_half_way() -> None:
        with staged_folder(target) as staged:
            (staged / MANIFEST_FILE).write_text("half")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash_half_way()

    assert (target / MANIFEST_FILE).read_text() == '{"format_version": 1}'
    assert list(tmp_path.iterdir()) == [target]


def test_another_programs_manifest_makes_no_bundle(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text('{"name": "a web app"}')

    with (
        pytest.raises(BundleError, match=f"holds {MANIFEST_FILE}, which is no part of a bundle"),
        staged_folder(tmp_path),
    ):
        pytest.fail("the work has begun")


@pytest.mark.parametrize("there", ["settings.json", "checkpoint.pt", "weights.bin", "cifar10"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")

    fault = f"holds {there}, which is no part of a bundle"
    with pytest.raises(BundleError, match=fault), staged_folder(tmp_path):
        pass

    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize("name", ["my bundle", ".hidden", "_x", "größe", ""])
def test_a_name_that_would_not_be_read_again_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="cannot be a bundle's name"):
        check_name(name)
