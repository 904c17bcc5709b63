from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.load.dialects import DIALECTS
from benchmarks.protocol import RATES, render, triton_row
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


def test_a_rate_is_held_where_all_below_it_are_too() -> None:
    shares = dict.fromkeys(RATES, 1.0) | {RATES[2]: 0.98}
    points = [
        {"in_time": share, "correct_in_time": 0.8 * share, "lagging": rate == RATES[-1]}
        for rate, share in shares.items()
    ]

    row = triton_row("triton: full", {"answered_ms": {"p50": 1.234, "p99": 2.0}}, points)

    assert row[:4] == ["triton: full", "1.23 / 2.00", str(RATES[1]), "80.0 %"]
    assert row[-1] == "–"
