"""How sure a share of images is."""

from math import sqrt

Z = 1.959964  # standard deviations either way that hold 95 % of a normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return where a share of all images of a kind lies with 95 % confidence, measured on ``n`` of them (Wilson)."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
