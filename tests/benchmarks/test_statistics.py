"""Scores and intervals against numbers worked by hand, brute force and simulation."""

import math
import random

import numpy as np
import pytest

from benchmarks.base import Metric
from benchmarks.statistics import (
    estimate,
    gain,
    interval,
    measured,
    resampled,
    significant,
    student_t,
)
from formats.sample import DataError
from tests.results import make_results


# ------------------------------------------------------------------------------ values
def test_means_by_hand():
    results = make_results([1, 0, 1, 1, 0, 0], task=["a", "a", "a", "a", "b", "b"])
    assert estimate(results, Metric("m")) == 0.5  # 3 of 6
    assert estimate(results, Metric("m", over=("task",))) == 0.375  # (3/4 + 0/2) / 2

    nested = make_results(
        [1, 0, 0, 1, 1],
        task=["dir", "dir", "dir", "dist", "dist"],
        level=["easy", "easy", "hard", "x", "x"],
    )
    # ((1/2 + 0) / 2 + 1) / 2
    assert estimate(nested, Metric("m", over=("task", "level"))) == 0.625

    # sqrt((1 + 4 + 4) / 3)
    assert estimate(make_results([1, 4, 4]), Metric("m", root=True)) == math.sqrt(3)
    two_parts = [*make_results([1.0, 0.0]), *make_results([9.0], part="error")]
    assert estimate(two_parts, Metric("m", "error")) == 9.0
    assert estimate(make_results([None]), Metric("m")) is None


@pytest.mark.parametrize(
    ("over", "root"), [((), False), (("task",), False), ((), True), (("task", "level"), False)]
)
def test_a_resample_is_the_metric_of_the_drawn_videos(over, root):
    """Every draw again by hand: the videos that the generator names, their results repeated,
    `estimate` on them."""
    rng = random.Random(0)
    videos = [rng.randrange(7) for _ in range(40)]
    results = make_results(
        [rng.random() for _ in range(40)],
        videos,
        task=[rng.choice("ab") for _ in range(40)],
        level=[rng.choice("xy") for _ in range(40)],
    )
    metric = Metric("m", over=over, root=root)
    values = resampled(results, metric, 60, seed=3)
    names = sorted({str(v) for v in videos})
    draws = np.random.default_rng(3).integers(0, len(names), (60, len(names)))
    compared = 0
    for value, drawn in zip(values, draws, strict=True):
        repeated = []
        for i, d in enumerate(drawn):
            for result in results:
                if result["video"] == names[d]:
                    repeated.append(result | {"video": f"{result['video']}-{i}"})

        # Only where all groups were drawn: else some weight goes to the others
        if len({tuple(result["labels"].values()) for result in repeated}) == 4:
            compared += 1
            assert value == pytest.approx(estimate(repeated, metric), abs=1e-12)
    assert compared > 30


def test_intervals_hold_the_truth_in_95_of_100_draws():
    """1,000 data sets of 150 videos with 3 questions each, right with a chance that is the video's
    own (mean 0.6): the truth is inside 93 to 97 % of the intervals. Questions drawn one by one, as
    if videos did not matter, would be far too sure."""
    rng = np.random.default_rng(0)
    videos = [i // 3 for i in range(450)]
    hits = 0
    hits_by_question = 0
    for draw in range(1000):
        luck = rng.random((150, 3))
        chances = rng.beta(0.9, 0.6, (150, 1))
        scores = (luck < chances).astype(float).ravel().tolist()
        low, high = interval(resampled(make_results(scores, videos), Metric("m"), 400, seed=draw))
        hits += low <= 0.6 <= high
        if draw < 300:
            low, high = interval(resampled(make_results(scores), Metric("m"), 400, seed=draw))
            hits_by_question += low <= 0.6 <= high
    assert 930 <= hits <= 970
    assert hits_by_question < 0.9 * 300


@pytest.mark.parametrize("mean", [0.05, 0.6, 0.95])
@pytest.mark.parametrize("n_videos", [2, 3, 5, 10, 22, 40])
def test_intervals_of_few_videos_hold_the_truth(n_videos, mean):
    """300 data sets of so few videos with 3 questions each, right with a chance that is the video's
    own: at least 91 % of the intervals hold the mean (percentiles alone: 48, 70, 90, 93 and 95 % of
    2, 3, 5, 10 and 22 videos at 0.6, and 86 % of 22 videos at 0.05)."""
    rng = np.random.default_rng(n_videos)
    videos = [i // 3 for i in range(3 * n_videos)]
    hits = 0
    for _ in range(300):
        chances = rng.beta(2 * mean, 2 * (1 - mean), (n_videos, 1))
        scores = (rng.random((n_videos, 3)) < chances).astype(float).ravel().tolist()
        of_draw = measured(make_results(scores, videos), Metric("m"), 300)
        hits += of_draw["low"] <= mean <= of_draw["high"]
    assert hits >= 0.91 * 300


def test_the_interval_of_a_share_is_wilsons():
    """Videos of one question each, 9 of 200 right; Student's t of 199 degrees makes it a little
    wider than SciPy's."""
    from scipy.stats import binomtest

    of_run = measured(make_results([1.0] * 9 + [0.0] * 191), Metric("m"), 10_000)
    wilson = binomtest(9, 200).proportion_ci(method="wilson")
    assert (of_run["low"], of_run["high"]) == pytest.approx((wilson.low, wilson.high), abs=1e-3)


@pytest.mark.parametrize("freedom", [1, 2, 5, 29, 30, 31, 60, 1000])
def test_quantiles_of_students_t(freedom):
    from scipy.stats import t

    assert student_t(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=1e-3)


def test_videos_that_all_agree_are_no_certainty():
    """0 of 22, and two of two that are won: the intervals of Clopper and Pearson."""
    from scipy.stats import beta

    none = measured(make_results([0.0] * 22), Metric("m"), 100)
    assert (none["low"], none["high"]) == (0.0, pytest.approx(beta.ppf(0.975, 1, 22)))
    all_right = measured(make_results([1.0] * 5), Metric("m"), 100)
    assert (all_right["low"], all_right["high"]) == (pytest.approx(beta.ppf(0.025, 5, 1)), 1.0)
    won = gain(make_results([0.0] * 2), make_results([1.0] * 2), Metric("m"), 100)
    assert won["low"] < 0 < won["high"] == 1.0
    assert not significant(won)


def test_one_video_has_no_interval():
    assert measured(make_results([1, 0], [7, 7]), Metric("m"), 100) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 2,
        "videos": 1,
    }


# ------------------------------------------------------------------------------ gains
def test_gains_are_paired():
    """Two runs that differ on 10 of 400 items only: the paired interval is about
    2 sqrt(0.025 / 400) wide on either side of 0.025, far from the 0.07 of two runs on items of
    their own."""
    rng = np.random.default_rng(1)
    before = rng.integers(0, 2, 400).astype(float)
    after = before.copy()
    after[np.flatnonzero(before == 0)[:10]] = 1
    base = make_results(before.tolist())
    difference = gain(base, make_results(after.tolist()), Metric("m"))
    assert difference["value"] == pytest.approx(0.025)
    assert difference["n"] == 400
    assert difference["low"] == pytest.approx(0.025 - 0.0153, abs=0.003)
    assert difference["high"] == pytest.approx(0.025 + 0.0153, abs=0.003)


def test_a_gain_of_nothing_is_no_certainty():
    """Two runs that are both 0 of 22, or equal on all 400: a share that Clopper and Pearson's
    interval allows may yet differ, to either side."""
    from scipy.stats import beta

    for scores in ([0.0] * 22, [0.0, 1.0] * 200):
        base = make_results(scores)
        difference = gain(base, base, Metric("m"), 100)
        most = beta.ppf(0.975, 1, len(scores))
        assert difference["value"] == 0
        assert (difference["low"], difference["high"]) == pytest.approx((-most, most))


def test_paired_intervals_hold_the_true_gain():
    """400 draws of two runs on the same 120 videos of 2 questions, the second better by 0.1: 93 to
    97 %, give or take one standard error (1.1 %)."""
    rng = np.random.default_rng(2)
    videos = [i // 2 for i in range(240)]
    hits = 0
    for _ in range(400):
        level = rng.random((120, 1)) * 0.8 + 0.05
        luck = rng.random((120, 2))
        before = (luck < level).astype(float).ravel().tolist()
        after = (luck < level + 0.1).astype(float).ravel().tolist()
        difference = gain(
            make_results(before, videos), make_results(after, videos), Metric("m"), 300
        )
        hits += difference["low"] <= 0.1 <= difference["high"]
    assert 0.919 * 400 <= hits <= 0.981 * 400


def test_runs_on_other_items_are_refused():
    message = r"not of the same items: 1 are in the first only, 0 in the second only, e\.g\. 'q2'"
    with pytest.raises(DataError, match=message):
        gain(make_results([1, 1, 1]), make_results([1, 1]), Metric("m"))


def test_a_gain_needs_the_same_answers_scored():
    with pytest.raises(DataError, match=r"e\.g\. 'q1'; run eval\.py with --judge on both"):
        gain(make_results([1, None]), make_results([1, 1]), Metric("m"))
    assert gain(make_results([None]), make_results([None]), Metric("m"))["value"] is None
