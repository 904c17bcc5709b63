"""What all peers share: one ONNX file in one session, from the bytes of a JPEG file to a class."""

import argparse
from io import BytesIO
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from PIL import Image


class Options(NamedTuple):
    """What every peer is told."""

    graph: str
    port: int


class Graph:
    """An ONNX file in a session with one thread, for one core.

    Args:
        path: of the file; it takes ``images`` uint8 (N, H, W, 3).
    """

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def classify(self, jpeg: bytes) -> int:
        """Return the most probable class."""
        pixels = np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))
        return int(self.run(pixels[np.newaxis])[0])

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the most probable class of each image (N,)."""
        (probabilities,) = self._session.run(("probabilities",), {"images": images})
        classes: np.ndarray = probabilities.argmax(1)
        return classes


def read_options() -> Options:
    """Read a peer's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", required=True, help="the ONNX file")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    return Options(options.graph, options.port)
