"""run/plots.py: lines that can be told apart without seeing red and green."""

import itertools

from matplotlib.colors import to_rgb

from run.plots import COLORS

# Viénot, Brettel and Mollon 1999: linear RGB as people without long-wave cones see it
PROTANOPIA = (
    (0.11238, 0.88762, 0.0),
    (0.11238, 0.88762, 0.0),
    (0.00401, -0.00401, 1.0),
)


def seen(color: str) -> list[float]:
    """The linear RGB of a colour as such people see it."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
    return [sum(a * x for a, x in zip(row, linear, strict=True)) for row in PROTANOPIA]


def test_the_first_colours_are_told_apart_by_everybody():
    """Those of the three lines that a picture has at most: far apart, and unlike red and green."""
    for first, second in itertools.combinations(COLORS[:3], 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen(first), seen(second), strict=True))
        assert distance > 0.01
    red_and_green = sum((a - b) ** 2 for a, b in zip(seen("#CC0000"), seen("#3A6600"), strict=True))
    assert red_and_green < 0.01
