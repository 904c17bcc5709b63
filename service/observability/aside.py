"""A process of the lowest priority that classifies images.

It runs only where a core has nothing else to do. A thread of that kind in the server would not do: it can lose its core
while it holds the interpreter's lock, and then the whole server waits.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.bundle import Bundle, read_bundle
from model.images import Pixels
from service.engine.cpu import Split, open_cpu_devices

CLASS_BYTES = 4
PACKAGES = Path(__file__).parents[2]

# Out of everybody's way before anything is imported, which takes a core for half a second.
START = """
import os, sys
sys.path[0] = sys.argv.pop(1)  # in place of the current folder, which may hold a ``service`` or ``model`` of its own
if hasattr(os, "SCHED_IDLE"):  # Linux
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
else:
    os.nice(19)
from service.observability.aside import main
sys.exit(main())
"""


class Aside:
    """The server's end: starts the process, which ends with the server or by ``close``."""

    def __init__(self, bundle: Bundle, subnetwork: str) -> None:
        self.subnetwork = subnetwork
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, PACKAGES, bundle.folder, bundle.digest, subnetwork],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server
        )

    def classify(self, pixels: Pixels) -> int:
        """Return the class of an image, however long that takes.

        Raises:
            OSError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(pixels.tobytes())
        self._process.stdin.flush()
        answer = self._process.stdout.read(CLASS_BYTES)
        if len(answer) < CLASS_BYTES:
            raise OSError("the process for comparisons has ended")
        return int.from_bytes(answer, "big")

    def close(self) -> None:
        """End the process; a call of ``classify`` that waits for it fails."""
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Answer images from stdin, (H, W, 3) bytes each, with classes on stdout, until stdin ends."""
    folder, digest, subnetwork = sys.argv[1:]
    bundle = read_bundle(Path(folder))
    if bundle.digest != digest:  # the server has verified another one
        return 1
    manifest = bundle.manifest
    alone = [
        each.model_copy(update={"int8": None})
        for each in manifest.subnetworks
        if each.name == subnetwork
    ]
    bundle = replace(bundle, manifest=manifest.model_copy(update={"subnetworks": alone}))
    (device,) = open_cpu_devices(bundle, Split(devices=1, threads=1))
    size = manifest.preprocessing.size
    while image := sys.stdin.buffer.read(size * size * 3):
        pixels = np.frombuffer(image, np.uint8).reshape(size, size, 3)
        class_id = int(device.run(subnetwork, [pixels]).argmax())
        sys.stdout.buffer.write(class_id.to_bytes(CLASS_BYTES, "big"))
        sys.stdout.buffer.flush()
    return 0
