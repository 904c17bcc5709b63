"""Data that needs no download: scikit-learn's handwritten digits, and pairs of them, on which depth pays."""

import numpy as np
from numpy.typing import NDArray

from training.data.archives import Archive, Labelled

SIDE = 8  # pixels
PAIRS, TEST_PAIRS = 4_000, 1_000
DRAWN_BY = 0  # the seed of the pairs, which are the same for every run


def read_digits() -> Archive:
    """Return the 1,797 digits, 8×8 in RGB, every fifth one for the test."""
    from sklearn.datasets import load_digits  # a second that only they cost

    data = load_digits()
    images = (data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    is_test = np.arange(len(labels)) % 5 == 0
    train, test = (Labelled(_rgb(images[own]), labels[own]) for own in (~is_test, is_test))
    return Archive(tuple(map(str, range(10))), train, test)


def read_pairs() -> Archive:
    """Return pairs of digits side by side, 16×16, each at a height of its own; their class is the larger digit."""
    digits = read_digits()
    rng = np.random.default_rng(DRAWN_BY)
    train, test = (
        _paired(part, n, rng) for part, n in ((digits.train, PAIRS), (digits.test, TEST_PAIRS))
    )
    return Archive(digits.classes, train, test)


def _paired(digits: Labelled, n: int, rng: np.random.Generator) -> Labelled:
    drawn = rng.integers(len(digits.labels), size=(n, 2))
    tops = rng.integers(SIDE + 1, size=(n, 2))
    images = np.zeros((n, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    for image, pair, heights in zip(images, drawn, tops, strict=True):
        for left, digit, top in zip((0, SIDE), pair, heights, strict=True):
            image[top : top + SIDE, left : left + SIDE] = digits.images[digit]
    return Labelled(images, digits.labels[drawn].max(1))


def _rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(images[..., None], 3, axis=3)


PACKAGED = {"digits": read_digits, "pairs": read_pairs}
"""What data is part of a library, by its name."""
