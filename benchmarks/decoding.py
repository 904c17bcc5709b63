"""How long a photograph of 12 megapixels takes to become the network's pixels: ``python -m benchmarks.decoding``.

The photograph is drawn: soft shapes under a camera's noise, at the size of file that cameras write. One thread.
"""

import platform
import time
from io import BytesIO
from statistics import median

import numpy as np
from PIL import Image

from model.image_files import read_image_file
from model.images import to_pixels
from model.preprocessing import Preprocessing

WIDTH, HEIGHT = 4000, 3000
RUNS = 9
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "WebP": ("WEBP", {"quality": 85, "method": 1}),
    "PNG": ("PNG", {"compress_level": 1}),
}
WAYS = (
    Preprocessing(size=32),
    Preprocessing(size=64, shorter_side=73),
    Preprocessing(size=224),
    Preprocessing(size=224, shorter_side=256),
)


def main() -> None:
    """Print a table."""
    photograph = _drawn()
    print(f"{platform.machine()}, one thread, median of {RUNS}, {WIDTH}×{HEIGHT} pixels\n")
    print("| file | MB | " + " | ".join(f"{way.description}, ms" for way in WAYS) + " |")
    print("|---|---:|" + "---:|" * len(WAYS))
    for name, (image_format, options) in KINDS.items():
        file = BytesIO()
        photograph.save(file, image_format, **options)
        cells = (f"{_median_ms(file.getvalue(), way):.0f}" for way in WAYS)
        print(f"| {name} | {len(file.getvalue()) / 1e6:.1f} | {' | '.join(cells)} |", flush=True)


def _drawn() -> Image.Image:
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
    pixels = np.asarray(shapes.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    noisy = pixels + rng.normal(0, 6, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _median_ms(content: bytes, preprocessing: Preprocessing) -> float:
    took_ms = []
    for _ in range(RUNS):
        started_at = time.perf_counter()
        to_pixels(read_image_file(content), preprocessing)
        took_ms.append(1000 * (time.perf_counter() - started_at))
    return median(took_ms)


if __name__ == "__main__":
    main()
