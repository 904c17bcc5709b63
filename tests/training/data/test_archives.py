"""Official archives are read as published, and a malicious one is refused."""

import hashlib
import os
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from training import TrainingError
from training.data.archives import Download, download, read_archive

RNG = np.random.default_rng(0)


def rows(n: int) -> Any:
    return RNG.integers(0, 256, (n, 3072), np.uint8)


def write_cifar10(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the files of the archive with four images a batch, and return what they hold."""
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {
        name: {"data": rows(4), "labels": [0, 9, 3, 1]}
        for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")
    }
    files["batches.meta"] = {"label_names": [f"class {k}" for k in range(10)]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2 if "meta" in name else 4))
    return files


def pack(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return target


def test_cifar10_is_read_with_its_labels_and_its_planes_in_order(tmp_path: Path) -> None:
    files = write_cifar10(tmp_path / "cifar-10-batches-py")

    archive = read_archive(tmp_path)

    assert archive is not None
    assert archive.classes == tuple(f"class {k}" for k in range(10))
    assert archive.train.images.shape == (20, 32, 32, 3)
    assert archive.test.labels.tolist() == [0, 9, 3, 1]
    first = files["data_batch_1"]["data"][0]
    # Red, green and blue follow each other, 1,024 bytes each, row by row.
    assert archive.train.images[0, 0, 1].tolist() == [first[1], first[1025], first[2049]]


@pytest.mark.parametrize("as_folder", [True, False])
def test_cifar10_may_stay_packed(tmp_path: Path, as_folder: bool) -> None:
    write_cifar10(tmp_path / "files" / "cifar-10-batches-py")
    path = pack(tmp_path / "files" / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")

    packed = read_archive(tmp_path if as_folder else path)
    unpacked = read_archive(tmp_path / "files")

    assert packed is not None
    assert unpacked is not None
    assert np.array_equal(packed.train.images, unpacked.train.images)


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        batch = {"data": rows(3), "fine_labels": [99, 0, 5], "coarse_labels": [1, 1, 1]}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    names = {"fine_label_names": [f"fine {k}" for k in range(100)]}
    (tmp_path / "meta").write_bytes(pickle.dumps(names))

    archive = read_archive(tmp_path)

    assert archive is not None
    assert len(archive.classes) == 100
    assert archive.train.labels.tolist() == [99, 0, 5]


def test_svhn_trains_on_its_extra_images_and_calls_the_zero_0(tmp_path: Path) -> None:
    for name, n in (("train", 3), ("extra", 2), ("test", 2)):
        images = RNG.integers(0, 256, (32, 32, 3, n), np.uint8)
        savemat(tmp_path / f"{name}_32x32.mat", {"X": images, "y": np.full((n, 1), 10)})

    archive = read_archive(tmp_path)

    assert archive is not None
    assert archive.train.images.shape == (5, 32, 32, 3)
    assert set(archive.train.labels.tolist()) == {0}


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_missing_file_of_svhn_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}_32x32.mat").write_bytes(b"one of two")
    (missing,) = {"train", "test"} - {name}

    with pytest.raises(TrainingError, match=rf"{missing}_32x32\.mat missing; fetch the archive"):
        read_archive(tmp_path)


def test_one_of_several_data_sets_in_a_folder_is_chosen_by_its_path(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    for name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz"):
        pack(tmp_path / "cifar-10-batches-py", tmp_path / name)

    with pytest.raises(
        TrainingError, match="holds CIFAR-10 and CIFAR-100; choose one by its own path"
    ):
        read_archive(tmp_path)
    assert read_archive(tmp_path / "cifar-10-batches-py") is not None


def test_files_that_are_part_of_another_data_set_are_not_looked_at(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    pack(tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")
    (tmp_path / "meta").write_bytes(b"of something else")

    archive = read_archive(tmp_path)

    assert archive is not None
    assert len(archive.classes) == 10


def test_a_folder_without_an_archive_is_none(class_folders: Path) -> None:
    assert read_archive(class_folders) is None


class Malicious:
    """Runs a command when it is unpickled by a trusting reader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    trace = tmp_path / "ran"
    (tmp_path / "data" / "data_batch_3").write_bytes(pickle.dumps(Malicious(f"touch {trace}")))

    with pytest.raises(TrainingError, match=r"asks for \w+\.system, which no data set needs"):
        read_archive(tmp_path / "data")

    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"no pickle", "not an official CIFAR archive"),
        (pickle.dumps([1, 2]), "a list where a dictionary was expected"),
        (pickle.dumps({"data": rows(2)}), "labels"),
        (pickle.dumps({"data": rows(2), "labels": [1]}), "2 images, 1 labels"),
        (pickle.dumps({"data": rows(1), "labels": [10]}), "a label is 10; there are 10 classes"),
        (pickle.dumps({"data": b"abc", "labels": [1]}), "not an official CIFAR archive"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255 + b"R.", "not an official CIFAR archive"),
    ],
)
def test_a_damaged_batch_is_one_clear_line(tmp_path: Path, content: bytes, fault: str) -> None:
    write_cifar10(tmp_path / "data")
    (tmp_path / "data" / "test_batch").write_bytes(content)

    with pytest.raises(TrainingError, match=fault) as raised:
        read_archive(tmp_path / "data")

    assert str(raised.value).startswith(f"{tmp_path / 'data'}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("protocol", [2, 5])
def test_an_archive_written_again_by_python_3_is_read(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    for name, content in write_cifar10(folder).items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))

    archive = read_archive(folder)

    assert archive is not None
    assert len(archive.train.labels) == 20


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.addfile(link)

    with pytest.raises(TrainingError, match="missing; fetch the archive again"):
        read_archive(tmp_path / "cifar.tar.gz")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    (tmp_path / "data" / "data_batch_2").unlink()

    with pytest.raises(TrainingError, match="data_batch_2 missing"):
        read_archive(tmp_path / "data")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_cut_archive_archive_is_one_clear_line(tmp_path: Path, kept: int) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    path = pack(tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(TrainingError, match=r"not a readable \.tar\.gz"):
        read_archive(path)


def test_an_archive_damaged_anywhere_is_one_clear_line(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    path = pack(tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")
    content = path.read_bytes()

    for at in range(100, len(content), len(content) // 40):  # behind the header
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(TrainingError) as raised:
            read_archive(path)
        assert "\n" not in str(raised.value)


def test_a_damaged_svhn_file_is_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}_32x32.mat").write_bytes(b"no matrix")

    with pytest.raises(TrainingError, match=r"train_32x32\.mat: not a readable SVHN file"):
        read_archive(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (np.zeros((32, 32, 3, 4), np.uint8), [[1]] * 5, r"y has 5 labels; expected uint8"),
        (np.zeros((16, 16, 3, 2), np.uint8), [[1]] * 2, r"X is uint8 \(16, 16, 3, 2\)"),
        (np.zeros((32, 32, 3, 2)), [[1]] * 2, "X is float64"),
        (np.zeros((32, 32, 3, 2), np.uint8), [[1], [77]], "labels are 1 to 77, not 0 to 10"),
    ],
)
def test_a_file_that_is_not_svhn_is_refused(
    tmp_path: Path, images: Any, labels: list[list[int]], fault: str
) -> None:
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})

    with pytest.raises(
        TrainingError, match=rf"train_32x32\.mat: not a readable SVHN file.*{fault}"
    ):
        read_archive(tmp_path)


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server with one file."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "data.tar.gz").write_bytes(b"published")
    handler = partial(SilentHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_verified_and_kept(tmp_path: Path, web: str) -> None:
    file = Download(f"{web}/data.tar.gz", hashlib.sha256(b"published").hexdigest())

    folder = download((file,), tmp_path / "cache")
    (tmp_path / "web" / "data.tar.gz").unlink()

    assert (folder / "data.tar.gz").read_bytes() == b"published"
    assert download((file,), folder) == folder  # not fetched again


def test_a_download_that_fails_without_a_word_is_still_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("pooch.retrieve", fail)

    with pytest.raises(TrainingError, match=r"cannot be fetched \(TimeoutError\)"):
        download((Download("http://localhost/data.tar.gz", "0" * 64),), tmp_path)


def test_a_download_that_is_not_what_was_published_is_refused(tmp_path: Path, web: str) -> None:
    file = Download(f"{web}/data.tar.gz", "0" * 64)

    with pytest.raises(TrainingError, match=r"data\.tar\.gz: cannot be fetched .*hash"):
        download((file,), tmp_path / "cache")

    assert not list((tmp_path / "cache").glob("data*"))


def test_an_unreachable_site_is_one_clear_line(tmp_path: Path) -> None:
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/data.tar.gz"

        with pytest.raises(TrainingError, match="pass its folder with --data") as raised:
            download((Download(url, "0" * 64),), tmp_path / "cache")

    assert "\n" not in str(raised.value)
