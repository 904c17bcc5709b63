"""Everything that reads bytes of strangers, each as one function: it returns, or it refuses with one of its own errors."""

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import BundleError, read_bundle
from model.graph_file import GraphRefused, check_graph
from model.image_files import BrokenImage, UnknownImage, read_image_file
from model.images import to_pixels
from model.preprocessing import Preprocessing
from model.signature import SignatureRefused, check_signature
from service.front.access.keys import KeysUnusable, read_keys
from service.front.http.request_parser import LargeHeadError, MalformedError, RequestParser
from service.front.http.uploads import read_upload
from service.front.open_inference.messages import read_request
from service.problems import Problem
from service.schemas import QueryParser, parse_feedback
from service.settings import read_settings
from training import TrainingError
from training.data.archives import read_archive

KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"  # of minisign's documentation
IMAGES = np.zeros((2, 3072), np.uint8)
CIFAR_100 = {
    "train": pickle.dumps({"data": IMAGES, "fine_labels": [0, 1]}),
    "test": pickle.dumps({"data": IMAGES, "fine_labels": [1, 0]}),
    "meta": pickle.dumps({"fine_label_names": ["cat", "dog"]}),
}
MOST_PIXELS = 1_000_000  # no fuzzing gains from decoding more


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads bytes, and what it may refuse them with; any other error is a bug."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]

    def __call__(self, content: bytes) -> bool:
        """Say whether it was read, not refused."""
        try:
            self.read(content)
        except self.refusals:
            return False
        return True


def _image(content: bytes) -> None:
    file = read_image_file(content)
    if file.pixels * file.scans <= MOST_PIXELS:
        pixels = to_pixels(file, Preprocessing(size=32))
        assert pixels.shape == (32, 32, 3)


def _form(content: bytes) -> None:
    """A form; the first line is its Content-Type."""
    content_type, _, body = content.partition(b"\n")
    read_upload(body, content_type)


class _Told:
    """What the parser of requests tells is not looked at."""

    def head_begun(self) -> None:
        """A head begins."""

    def head_read(self, head: RequestParser) -> None:
        """A head has come; what is read of it may not fail."""
        assert head.http_version
        assert head.keep_alive in (True, False)

    def body_read(self, body: bytes) -> None:
        """A part of a body has come."""

    def request_read(self) -> None:
        """A request has ended."""


def _requests(content: bytes) -> None:
    """Requests; the first byte says how large the pieces are in which they come."""
    parser, piece = RequestParser(_Told(), 32_768), 1 + (content[0] if content else 0)
    for at in range(1, len(content), piece):
        parser.feed(content[at : at + piece])


@cache
def _query_parser() -> QueryParser:
    return QueryParser(
        read_settings(), model="cifar10", subnetworks=["column-1", "full"], classes=10
    )


def _inference(content: bytes) -> None:
    """A message; the first line is the length of its JSON, empty if all of it is."""
    size, _, body = content.partition(b"\n")
    headers = {b"inference-header-content-length": size} if size else {}
    read_request(body, headers, 4)


@cache
def _folder() -> Path:
    """Where files are put for what reads files; removed with the process."""
    folder = tempfile.TemporaryDirectory(prefix="hostile-", dir="/dev/shm")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[Any] = []


def _manifest(content: bytes) -> None:
    (_folder() / "manifest.json").write_bytes(content)
    read_bundle(_folder())


def _data_set(content: bytes) -> None:
    """CIFAR-100, of which the training images are the content."""
    folder = _folder() / "cifar-100-python"
    folder.mkdir(exist_ok=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(content if name == "train" else CIFAR_100[name])
    read_archive(folder)


def _keys(content: bytes) -> None:
    path = _folder() / "keys.toml"
    path.write_bytes(content)
    read_keys(path)


READERS = {
    "image": Reader(_image, (UnknownImage, BrokenImage)),
    "form": Reader(_form, (Problem,)),
    "requests": Reader(_requests, (MalformedError, LargeHeadError)),
    "query": Reader(lambda content: _query_parser()(content), (Problem,)),
    "feedback": Reader(parse_feedback, (Problem,)),
    "inference": Reader(_inference, (Problem,)),
    "manifest": Reader(_manifest, (BundleError,)),
    "graph": Reader(
        lambda content: check_graph(content, weights_file="weights.bin", weights_bytes=700),
        (GraphRefused,),
    ),
    "signature": Reader(
        lambda content: check_signature(b"test", content, [KEY]), (SignatureRefused,)
    ),
    "data set": Reader(_data_set, (TrainingError,)),
    "keys": Reader(_keys, (KeysUnusable,)),
}
