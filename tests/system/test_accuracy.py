"""The accuracy of answers over HTTP is the manifest's, on the images that it was measured on."""

import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from model.bundle import PRETRAINED_DIR, read_bundle
from service.schemas import SubnetworkList
from tests.server import ServerProcess, started

ARCHIVE = Path(__file__).parents[3] / "shared/data/cifar10-jpeg.tar.xz"
CONNECTIONS = 8

pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason=f"needs {ARCHIVE.name}")


@pytest.fixture(scope="module")
def test_images() -> list[tuple[bytes, str]]:
    """The 10,000 test images as JPEG files, each with its label."""
    with tarfile.open(ARCHIVE) as archive:
        return [
            (file.read(), Path(member.name).parent.name)
            for member in archive
            if member.name.startswith("test/") and (file := archive.extractfile(member))
        ]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with started({"bundle_dir": PRETRAINED_DIR / "cifar10"}) as server:
        server.wait_for("ready")
        yield server


def answers(server: ServerProcess, contents: list[bytes], subnetwork: str) -> list[str]:
    """Return the label of every image, in order."""
    labels = [""] * len(contents)

    def ask_from(first: int) -> None:
        with closing(HTTPConnection(*server.address, timeout=60)) as connection:
            for k in range(first, len(contents), CONNECTIONS):
                query = f"subnetwork={subnetwork}&deadline_ms=10000"
                connection.request("POST", f"/classify?{query}", contents[k])
                reply = connection.getresponse()
                assert reply.status == 200
                labels[k] = json.load(reply)["label"]

    with ThreadPoolExecutor(CONNECTIONS) as clients:
        list(clients.map(ask_from, range(CONNECTIONS)))
    return labels


def encoded(jpeg: bytes, kind: str) -> bytes:
    """Return the same pixels in another, lossless file format."""
    target = BytesIO()
    with Image.open(BytesIO(jpeg)) as image:
        image.save(target, kind, lossless=True)
    return target.getvalue()


def test_answers_over_http_are_as_accurate_as_the_manifest_says(
    server: ServerProcess, test_images: list[tuple[bytes, str]]
) -> None:
    shallowest = read_bundle(PRETRAINED_DIR / "cifar10").manifest.subnetworks[0]
    assert shallowest.int8
    listed = SubnetworkList.model_validate_json(server.client.get("/subnetworks").content)
    served = shallowest.int8 if listed.subnetworks[0].precision == "int8" else shallowest

    labels = answers(server, [content for content, _ in test_images], shallowest.name)

    correct = sum(label == truth for label, (_, truth) in zip(labels, test_images, strict=True))
    assert served.accuracy.test
    assert served.accuracy.test.n == len(test_images)
    assert correct / len(test_images) == served.accuracy.test_value


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_lossless_copy_gets_the_same_answer(
    server: ServerProcess, test_images: list[tuple[bytes, str]], kind: str
) -> None:
    jpegs = [content for content, _ in test_images[::20]]

    copies = [encoded(content, kind) for content in jpegs]

    deepest = read_bundle(PRETRAINED_DIR / "cifar10").manifest.subnetworks[-1].name
    assert answers(server, copies, deepest) == answers(server, jpegs, deepest)
