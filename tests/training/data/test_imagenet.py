"""ImageNet is read as it is published: archives of archives, a list of labels, a table of the classes."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from shutil import move

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from model.preprocessing import Preprocessing
from training import TrainingError
from training.commands.planning import survey
from training.data.check import check_folder
from training.data.data_set import DataSet, load_data

CLASSES = {  # by their numbers in the development kit, which are in no order of the ids
    1: ("n02119789", "kit fox, Vulpes macrotis"),
    2: ("n02012849", "crane"),
    3: ("n03126707", "crane"),
    4: ("n01440764", "tench, Tinca tinca"),
}
LISTED = [4, 2, 3, 1, 1, 4]  # the class of each image to validate with
A_CLASS = 12  # images to train on
KIT = "ILSVRC2012_devkit_t12"
SEEN = Preprocessing(size=16)


def photo(number: int) -> bytes:
    """Draw an image whose level tells its class."""
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 20, (30 + number % 7, 40, 3))
    Image.fromarray((50 * number % 250 + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def pack(files: dict[str, bytes], mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A folder with the three files that are downloaded, of four classes."""
    root = tmp_path / "imagenet"
    root.mkdir()
    classes = {
        f"{id_}.tar": pack({f"{id_}_{i}.JPEG": photo(number) for i in range(A_CLASS)})
        for number, (id_, _) in CLASSES.items()
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(pack(classes))
    val = {f"ILSVRC2012_val_{i:08}.JPEG": photo(number) for i, number in enumerate(LISTED, 1)}
    (root / "ILSVRC2012_img_val.tar").write_bytes(pack(dict(reversed(val.items()))))
    table = io.BytesIO()
    columns = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, id_, words, 0) for number, (id_, words) in CLASSES.items()]
    rows.append((1001, "n00001740", "entity", 2))  # what several classes are of
    savemat(table, {"synsets": np.array(rows, columns)})
    labels = "".join(f"{number}\n" for number in LISTED).encode()
    kit = {
        f"{KIT}/data/meta.mat": table.getvalue(),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": labels,
    }
    (root / f"{KIT}.tar.gz").write_bytes(pack(kit, "w:gz"))
    return root


def load(root: Path) -> DataSet:
    return load_data(str(root), seed=0, preprocessing=SEEN, max_tensor_bytes=0)


def unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(target, filter="data")


def unpack_all(root: Path) -> None:
    """As people do: archives of classes into folders, the others where they are."""
    train, kit = root / "ILSVRC2012_img_train.tar", root / f"{KIT}.tar.gz"
    unpack(train, root / "train")
    for each in (root / "train").glob("*.tar"):
        unpack(each, root / "train" / each.stem)
        each.unlink()
    unpack(root / "ILSVRC2012_img_val.tar", root / "val")
    unpack(kit, root)
    for path in (train, kit, root / "ILSVRC2012_img_val.tar"):
        path.unlink()


def test_its_archives_are_read_as_they_are_published(imagenet: Path) -> None:
    data = load(imagenet)

    assert data.classes == ("tench", "crane (n02012849)", "kit fox", "crane (n03126707)")
    assert [len(each) for each in (data.train, data.validation, data.test)] == [44, 4, 6]
    assert data.test.labels.bincount().tolist() == [2, 1, 2, 1]
    ids = sorted(id_ for id_, _ in CLASSES.values())
    number_of = {id_: number for number, (id_, _) in CLASSES.items()}
    for split in (data.train, data.test):
        ((images, labels),) = split.batches([torch.arange(len(split))])
        for image, label in zip(images, labels.tolist(), strict=True):
            level = 50 * number_of[ids[label]] % 250
            assert level <= image.float().mean() <= level + 20  # by which each class was drawn


def test_it_may_be_unpacked_and_its_list_tells_the_classes(imagenet: Path) -> None:
    packed = load(imagenet)
    unpack_all(imagenet)
    unpacked = load(imagenet)

    assert unpacked.classes == packed.classes
    assert unpacked.sha256 == packed.sha256  # the same images, in one order


def test_its_archives_are_looked_at_as_folders_are(imagenet: Path) -> None:
    seen = survey(imagenet)

    assert (seen.n_train, seen.shorter_side) == (48, 32)
    assert "54 images in 4 classes" in check_folder(imagenet)


def cut(root: Path) -> None:
    path = root / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:-12_000])


def lose_the_kit(root: Path) -> None:
    (root / f"{KIT}.tar.gz").unlink()


def damage_the_kit(root: Path) -> None:
    (root / f"{KIT}.tar.gz").write_bytes(b"no archive")


def lose_the_train(root: Path) -> None:
    (root / "ILSVRC2012_img_train.tar").unlink()


def lose_an_image(root: Path) -> None:
    unpack_all(root)
    (root / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()


def lose_a_class(root: Path) -> None:
    unpack_all(root)
    move(root / "train" / "n01440764", root / "elsewhere")


def add_a_class(root: Path) -> None:
    unpack_all(root)
    move(root / "train" / "n01440764", root / "train" / "fish")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (cut, "an archive is damaged or cut off"),
        (lose_the_kit, f"{KIT}.tar.gz is missing, which has their labels"),
        (damage_the_kit, f"{KIT} is damaged"),
        (lose_the_train, "holds neither ILSVRC2012_img_train.tar nor class folders in train"),
        (lose_an_image, f"has 5 images to validate with, the list in {KIT} 6 labels"),
        (lose_a_class, "no image to train on of the class n01440764"),
        (add_a_class, f"the class fish is not in {KIT}"),
    ],
)
def test_what_is_missing_or_damaged_is_told_in_one_line(
    imagenet: Path, damage: Callable[[Path], None], fault: str
) -> None:
    damage(imagenet)

    with pytest.raises(TrainingError) as raised:
        load(imagenet)

    assert fault in str(raised.value)
    assert str(imagenet) in str(raised.value)
    assert "\n" not in str(raised.value)
