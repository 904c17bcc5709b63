"""A bundle that is not whole, or not signed by whom it must be, stops with one line that names the file and the fault."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from model.bundle import (
    MOST_MANIFEST_BYTES,
    BundleError,
    check_unchanged,
    file_record,
    read_bundle,
    sign_bundle,
)
from model.signature import make_key
from tests.model.bundles import edit_manifest, renew_checksum

UNTRUSTED_COMMENT = "untrusted comment: signature from minisign secret key\n"


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


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
    edit_manifest(folder, lambda m: m.update(format_version=5, sparsity="2:4"))


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
        (be_newer, "manifest.json", "format_version is 5, this server reads up to 4"),
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
