"""A light load for a server that is watched: every subnetwork in turn, streams, and labels that are right or wrong."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import httpx
from PIL import Image

AMPLE_MS = 2000  # deadline of the healthy load
NO_TIME = (422, 503, 504)  # statuses of requests that are refused, or expire


class Load:
    """Requests one after the other: every subnetwork in turn, and labels for what was answered.

    Args:
        url: of the server.
        images: folder of <class>/*.jpg.
        labelled: whether the class is what an image shows; it is not on noise, and every answer counts as right.
    """

    def __init__(self, url: str, images: Path, *, labelled: bool) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._images = sorted(images.glob("*/*.jp*g"))
        self._labelled = labelled
        self._rng = Random(0)
        self._subnetworks: Iterator[str] = iter(())

    def is_ready(self) -> bool:
        """Return whether the server has warmed up."""
        try:
            return self._client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def learn(self) -> None:
        """Learn what subnetworks there are."""
        listed = self._client.get("/subnetworks").json()["subnetworks"]
        self._subnetworks = cycle([each["name"] for each in listed])

    def send(self) -> None:
        """Ask the next subnetwork, with time enough, and say what was right; and ask for a stream."""
        image = self._rng.choice(self._images)
        reply = self._ask("/classify", image, subnetwork=next(self._subnetworks))
        if reply is not None:
            self._label(reply, image.parent.name if self._labelled else reply.json()["label"])
        self._ask("/classify/stream", image)

    def send_mislabelled(self) -> None:
        """Ask for an answer, late or not, and say that it was wrong."""
        reply = self._ask("/classify", self._rng.choice(self._images), deadline_ms=25, top_k=2)
        if reply is not None:
            self._label(reply, reply.json()["top"][1]["label"])

    def _ask(self, path: str, image: Path, **query: Any) -> httpx.Response | None:
        """Return the reply; None where other work left no time for an answer."""
        query = {"deadline_ms": AMPLE_MS} | query
        reply = self._client.post(path, content=image.read_bytes(), params=query)
        return None if reply.status_code in NO_TIME else reply.raise_for_status()

    def _label(self, reply: httpx.Response, label: str) -> None:
        body = {"request_id": reply.json()["request_id"], "label": label}
        self._client.post("/feedback", json=body).raise_for_status()


def write_noise(folder: Path, label: str) -> Path:
    """Write images of nothing, all in the folder of one class."""
    rng = Random(0)
    (folder / label).mkdir(parents=True)
    for number in range(64):
        image = Image.frombytes("RGB", (32, 32), rng.randbytes(32 * 32 * 3))
        image.save(folder / label / f"{number}.jpg")
    return folder
