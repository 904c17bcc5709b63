"""A load for the dashboards to show: noise images, mixed deadlines, and a rate that swells and ebbs.

It runs in the compose network (``docker compose --profile load up``), in the server's own image, and ends by itself.
"""

import math
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from random import Random

from PIL import Image

URL = os.environ.get("URL", "http://127.0.0.1:8000")
PEAK = float(os.environ.get("PEAK", "300"))  # requests a second
SECONDS = float(os.environ.get("SECONDS", "3600"))
SWELL_S = 120.0  # from ebb to ebb
DEADLINES_MS = (5, 10, 25, 50, 100)
WORKERS = 64


def noise(rng: Random) -> bytes:
    """Return a PNG image."""
    buffer = BytesIO()
    Image.frombytes("RGB", (32, 32), rng.randbytes(32 * 32 * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(image: bytes, deadline_ms: int) -> None:
    """Post one image; refusals are the server's to count."""
    url = f"{URL}/classify?deadline_ms={deadline_ms}"
    with suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, image), timeout=5).read()


def main() -> None:
    """Send until the time is over."""
    rng = Random(0)
    images = [noise(rng) for _ in range(32)]
    began_at = now = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        while now - began_at < SECONDS:
            tide = (1 - math.cos(2 * math.pi * (now - began_at) / SWELL_S)) / 2
            now += rng.expovariate(1 + PEAK * tide)
            time.sleep(max(0.0, now - time.monotonic()))
            pool.submit(ask, rng.choice(images), rng.choice(DEADLINES_MS))


if __name__ == "__main__":
    main()
