"""run/plots.py: lines that can be told apart without seeing red and green; rewards of any size."""

import itertools

import pytest
from matplotlib.colors import to_rgb

from run.plots import COLORS, plot_rewards, pyplot

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


@pytest.fixture
def axes():
    plt = pyplot()
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_rewards_from_0_to_1_fill_the_same_axis(axes):
    rows = [{"reward": 0.25, "reward_format": None}, {"reward": 0.5, "reward_format": 0.75}]
    plot_rewards(axes, [8, 16], rows)
    assert axes.get_ylim() == pytest.approx((0, 1.02))


def test_the_axis_grows_with_rewards_beyond_0_and_1(axes):
    rows = [{"reward": 2.5, "reward_brevity": None}, {"reward": 0.5, "reward_brevity": -1.5}]
    plot_rewards(axes, [8, 16], rows)
    low, high = axes.get_ylim()
    assert -2 < low < -1.5
    assert 2.5 < high < 3


def test_every_reward_is_drawn(axes):
    """More than there are dashes."""
    row = {"reward": 0.5} | {f"reward_{i}": i / 10 for i in range(9)}
    plot_rewards(axes, [8, 16], [row, row])
    assert [line.get_label() for line in axes.get_lines()] == ["reward", *map(str, range(9))]
