"""A bundle is whole, or stops with one line that names the file and the fault."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from model.bundle import (
    CHECKSUM_FILE,
    MANIFEST_FILE,
    MOST_MANIFEST_BYTES,
    BundleError,
    check_name,
    check_unchanged,
    file_record,
    read_bundle,
    sign_bundle,
    staged_folder,
    write_manifest,
)
from model.manifest import (
    FORMAT_VERSION,
    Accuracy,
    Calibration,
    Manifest,
    Measured,
    Provenance,
    Quantised,
    Subnetwork,
)
from model.preprocessing import Preprocessing
from model.presets import PRESETS
from model.signature import make_key
from tests.model.graphs import small_graph

UNTRUSTED_COMMENT = "untrusted comment: signature from minisign secret key\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of two small graphs."""
    (tmp_path / "weights.bin").write_bytes(b"weights" * 100)
    (tmp_path / "column-1.onnx").write_bytes(small_graph().SerializeToString())
    (tmp_path / "column-1.int8.onnx").write_bytes(small_graph().SerializeToString())
    measured = Measured(value=0.5, n=100)
    accuracy = Accuracy(validation=measured, test=measured)
    calibration = Calibration(temperature=1.5, ece_before=0.1, ece_after=0.02, n=100)
    subnetwork = Subnetwork(
        name="column-1",
        columns=(1,),
        depth=3,
        parameters=1000,
        macs=10_000,
        accuracy=accuracy,
        calibration=calibration,
        graph=file_record(tmp_path / "column-1.onnx"),
        int8=Quantised(
            accuracy=accuracy,
            calibration=calibration,
            agreement=measured,
            graph=file_record(tmp_path / "column-1.int8.onnx"),
        ),
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="digits",
        architecture=PRESETS["tiny"],
        preprocessing=Preprocessing(size=32, shorter_side=36, interpolation="bicubic"),
        labels=tuple("0123456789"),
        weights=file_record(tmp_path / "weights.bin"),
        subnetworks=(subnetwork,),
        provenance=Provenance(
            recipe="tiny",
            seed=0,
            epochs=1,
            dataset="digits",
            dataset_sha256="0" * 64,
            commit="unknown",
            created="2026-01-01T00:00:00+00:00",
            versions={"torch": "2"},
        ),
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def renew_checksum(folder: Path) -> None:
    digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    (folder / CHECKSUM_FILE).write_text(f"{digest}  {MANIFEST_FILE}\n")


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    renew_checksum(folder)


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


def delete_weights(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def delete_graph(folder: Path) -> None:
    (folder / "column-1.onnx").unlink()


def delete_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def truncate_weights(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weights" * 99)


def alter_graph(folder: Path) -> None:
    flip_bit(folder / "column-1.onnx", 100)


def alter_int8_graph(folder: Path) -> None:
    flip_bit(folder / "column-1.int8.onnx", 100)


def truncate_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])
    renew_checksum(folder)


def hold_a_list(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    renew_checksum(folder)


def name_a_label_twice(folder: Path) -> None:
    edit_manifest(folder, lambda fields: fields["labels"].append("3"))


def name_a_subnetwork_twice(folder: Path) -> None:
    edit_manifest(folder, lambda fields: fields["subnetworks"].append(fields["subnetworks"][0]))


def nest_too_deeply(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 200_000)
    renew_checksum(folder)


def be_newer(folder: Path) -> None:
    edit_manifest(folder, lambda m: m.update(format_version=4, sparsity="2:4"))


def lose_the_labels(folder: Path) -> None:
    edit_manifest(folder, lambda m: m.pop("labels"))


def hold_no_subnetworks(folder: Path) -> None:
    edit_manifest(folder, lambda m: m.update(subnetworks=[]))


def point_outside(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["weights"].update(name="../weights.bin"))


def alter_a_digit_of_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))


def grow_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b" " * (MOST_MANIFEST_BYTES + 1))


def lead_out(folder: Path) -> None:
    elsewhere = folder.parent / f"{folder.name}-elsewhere"
    (folder / "weights.bin").rename(elsewhere)
    (folder / "weights.bin").symlink_to(elsewhere)


def be_a_pipe(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")


def call_a_graph_otherwise(folder: Path) -> None:
    (folder / "column-1.onnx").rename(folder / "column-1.ort")
    edit_manifest(folder, lambda m: m["subnetworks"][0]["graph"].update(name="column-1.ort"))


def hold_no_graph(folder: Path) -> None:
    path = folder / "column-1.onnx"
    path.write_bytes(b"no graph")
    record = file_record(path).model_dump()
    edit_manifest(folder, lambda m: m["subnetworks"][0].update(graph=record))


def claim_impossible_accuracy(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["subnetworks"][0]["accuracy"]["test"].update(value=1.5))


@pytest.mark.parametrize(
    ("damage", "file", "fault"),
    [
        (delete_weights, "weights.bin", "No such file"),
        (delete_graph, "column-1.onnx", "No such file"),
        (delete_manifest, "manifest.json", "No such file"),
        (truncate_weights, "weights.bin", "is 693 bytes, the manifest says 700"),
        (alter_graph, "column-1.onnx", "differs from the manifest's sha256"),
        (truncate_manifest, "manifest.json", "not valid JSON"),
        (hold_a_list, "manifest.json", "no format_version"),
        (name_a_label_twice, "manifest.json", "the label '3' is there 2 times"),
        (name_a_subnetwork_twice, "manifest.json", "the subnetwork 'column-1' is there 2 times"),
        (nest_too_deeply, "manifest.json", "not valid JSON"),
        (alter_int8_graph, "column-1.int8.onnx", "differs from the manifest"),
        (be_newer, "manifest.json", "format_version is 4, this server reads up to 3"),
        (lose_the_labels, "manifest.json", "labels: Field required"),
        (hold_no_subnetworks, "manifest.json", "subnetworks"),
        (point_outside, "manifest.json", "weights.name"),
        (alter_a_digit_of_the_manifest, "manifest.json", "differs from manifest.json.sha256"),
        (grow_the_manifest, "manifest.json", "is 16777217 bytes, at most 16777216 are read"),
        (lead_out, "weights.bin", "leads out of the bundle"),
        (be_a_pipe, "weights.bin", "is no file"),
        (call_a_graph_otherwise, "column-1.ort", "is not called .onnx"),
        (hold_no_graph, "column-1.onnx", "is no ONNX file"),
        (claim_impossible_accuracy, "manifest.json", "subnetworks.0.accuracy.test.value"),
    ],
)
def test_a_damaged_bundle_is_named_with_its_fault_in_one_line(
    folder: Path, damage: Callable[[Path], None], file: str, fault: str
) -> None:
    damage(folder)

    with pytest.raises(BundleError) as raised:
        read_bundle(folder)

    message = str(raised.value)
    assert message.startswith(f"{folder / file}: ")
    assert fault in message
    assert "\n" not in message


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "..data").mkdir()  # as Kubernetes mounts a volume
    for path in list(folder.glob("*.*n")):
        path.rename(folder / "..data" / path.name)
        path.symlink_to(f"..data/{path.name}")

    assert read_bundle(folder).manifest.name == "digits"


def test_a_bundle_without_the_checksum_of_its_manifest_is_read(folder: Path) -> None:
    (folder / "manifest.json.sha256").unlink()

    assert read_bundle(folder).manifest.name == "digits"


def test_a_bundle_that_is_as_it_was_read_is_unchanged(folder: Path) -> None:
    bundle = read_bundle(folder)

    check_unchanged(bundle)
    edit_manifest(folder, lambda m: m.update(name="another"))

    with pytest.raises(BundleError, match="changed while it was loaded"):
        check_unchanged(bundle)


def test_no_flipped_bit_passes(folder: Path) -> None:
    """One bit at a time, in every file of a signed bundle, at places that a seed draws."""
    rng = Random(0)
    with make_key() as key:
        sign_bundle(folder, key)
        keys = [key.get_public_key().to_base64().decode()]
    passed = []
    for path in sorted(each for each in folder.iterdir()):
        # The first line of a signature is a comment of which nothing depends; its length is minisign's.
        first = len(UNTRUSTED_COMMENT) if path.suffix == ".minisig" else 0
        for place in rng.sample(range(8 * first, 8 * path.stat().st_size), 40):
            flip_bit(path, place)
            with suppress(BundleError):
                read_bundle(folder, keys=keys)
                passed.append((path.name, place))
            flip_bit(path, place)

    assert not passed
    assert read_bundle(folder, keys=keys).manifest.name == "digits"


def test_where_a_signature_is_demanded_there_must_be_one(folder: Path) -> None:
    with make_key() as key:
        keys = [key.get_public_key().to_base64().decode()]

        with pytest.raises(BundleError, match=r"manifest.json.minisig: No such file"):
            read_bundle(folder, keys=keys)
        sign_bundle(folder, key)

    assert read_bundle(folder, keys=keys).manifest.name == "digits"
    edit_manifest(folder, lambda m: m.update(name="another"))
    with pytest.raises(BundleError, match=r"manifest.json.minisig: is the signature of other"):
        read_bundle(folder, keys=keys)


def test_what_is_not_whole_is_not_signed(folder: Path) -> None:
    delete_weights(folder)

    with make_key() as key, pytest.raises(BundleError, match=r"weights.bin: No such file"):
        sign_bundle(folder, key)


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
