from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.load.dialects import DIALECTS
from benchmarks.protocol import render
from service.front.open_inference.messages import read_request


def test_a_file_and_a_tensor_bring_the_same_pixels() -> None:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    as_png, as_tensor = (
        DIALECTS[name].request(file.getvalue(), 0.025).split(b"\r\n\r\n", 1)
        for name in ("png", "pixels")
    )
    headers = dict(line.split(b": ") for line in as_tensor[0].lower().split(b"\r\n")[1:])

    (pixels,) = read_request(as_tensor[1], headers, side=32).images

    assert np.array_equal(pixels, np.asarray(Image.open(BytesIO(as_png[1]))))


def test_rates_are_compared_round_by_round() -> None:
    alone_ms = {"anytime": [0.4, 0.4], "png": [0.5, 0.5], "pixels": [0.4, 0.4]}
    per_s = {"anytime": [1000.0, 2000.0], "png": [500.0, 1000.0], "pixels": [900.0, 1900.0]}

    assert render(alone_ms, per_s).endswith("1400 (900–1900) | 0.925 (0.9–0.95) |")
