from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.load.dialects import DIALECTS
from benchmarks.protocol import render, triton_row
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
    def found(answers_per_s: float, refused: int = 0) -> dict[str, Any]:
        return {
            "answered_ms": {"p50": 0.4},
            "answers_per_s": answers_per_s,
            "offered": 100,
            "in_time": 1 - refused / 100,
            "outcomes": {"in_time": 100 - refused, "refused": refused},
        }

    jpeg, png = [found(1000.0), found(2000.0)], [found(500.0), found(1000.0)]
    saturated = {"anytime": jpeg, "png": png, "pixels": [found(1000.0, refused=10), found(1900.0)]}

    table = render(saturated, saturated)

    assert table.endswith("1400 (900–1900) | 0.925 (0.9–0.95) | 190 of 200 |")


def test_a_rate_is_held_where_all_below_it_are_too() -> None:
    shares = {500: 1.0, 1000: 1.0, 2000: 0.98, 4000: 1.0}
    points = [
        {"in_time": share, "correct_in_time": 0.8 * share, "lagging": rate == 4000}
        for rate, share in shares.items()
    ]

    row = triton_row("triton: full", {"answered_ms": {"p50": 1.234, "p99": 2.0}}, [*shares], points)

    assert row[:4] == ["triton: full", "1.23 / 2.00", "1000", "80.0 %"]
    assert row[-1] == "–"
