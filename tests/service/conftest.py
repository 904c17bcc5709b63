"""A server for many tests, the real bundle, and images to send."""

import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.bundle import Bundle, read_bundle
from service.settings import read_settings
from tests.server import ServerProcess, started


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server for all tests that leave it as it was."""
    settings = {"max_body_bytes": 200_000, "max_pixels": 1_000_000, "grpc_port": free_port()}
    with started(settings) as server:
        server.wait_for("ready")
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def bundle_dir() -> Path:
    """The bundle that the server takes by default."""
    return read_settings().bundle_dir


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    return read_bundle(bundle_dir)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """An image at the size of the network: smooth colours, so that JPEG loses little."""
    y, x = np.mgrid[0:32, 0:32]
    return Image.fromarray(np.stack([8 * x, 8 * y, 128 + 0 * x], axis=-1).astype(np.uint8))


@pytest.fixture(scope="session")
def jpeg(picture: Image.Image) -> bytes:
    """That image as a JPEG file."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def random_batch(n: int, bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Images of noise, as a device takes them."""
    size = bundle.manifest.preprocessing.size
    rng = np.random.default_rng(n)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]
