"""benchmarks/statistics.py: scores with bootstrap intervals.

A benchmark asks several questions about one video, and a model that misunderstands the video gets
them wrong together. Intervals therefore come from a bootstrap over videos: draw as many videos as
there are, with replacement, take all questions of each, compute the metric again. The spread of
10,000 such values gives the 95 % interval. Two runs on the same questions are compared in pairs:
both on the same drawn videos, so that what is hard for both cancels.

All of it works on two small tables, made once for each metric. C is the number of videos, K the
number of groups that weigh the same (`Metric.over`):

                    task=action  task=object                      task=action  task=object
    totals  video a         2.0          1.0       counts  video a          3            1
    (C, K)  video b         0.0          1.0       (C, K)  video b          1            2

A resample is a vector of how often each video was drawn, here (2, 0) for video a twice. It times
the tables gives the sums and counts of that draw.

A result, here and in the files beside this one, is one line of results.jsonl as a dict.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from benchmarks.base import Benchmark, Metric
from formats.sample import DataError

# Most numbers that one block of resamples holds: 32 MB of float64
BLOCK = 2**22


class Tables(NamedTuple):
    """What the bootstrap needs of the results, by video (C) and group of `Metric.over` (K)."""

    totals: np.ndarray  # (C, K) sums of the scores
    counts: np.ndarray  # (C, K) numbers of results
    weights: np.ndarray  # (K,) of the groups; they add up to 1


def label_values(labels: dict, name: str) -> list[str]:
    """The values of one label: a question may have several types."""
    value = labels.get(name, [])
    return [value] if isinstance(value, str) else list(value)


def scored(results: list[dict], metric: Metric) -> list[dict]:
    """The results that have the metric's score: an open answer has none until a judge was asked."""
    return [result for result in results if result["parts"].get(metric.part) is not None]


def n_videos(results: list[dict]) -> int:
    return len({result["video"] for result in results})


def group_path(result: dict, names: tuple[str, ...]) -> tuple[str, ...]:
    """The group of a result: the values of its labels of these names, the outermost first."""
    for name in names:
        if not isinstance(result["labels"].get(name), str):
            raise DataError(
                f"results.jsonl: item '{result['id']}' has no label '{name}', whose values weigh "
                "the same in the score; remove its line, and it is asked again"
            )
    return tuple(result["labels"][name] for name in names)


def tabulate(results: list[dict], metric: Metric) -> Tables:
    """Results -> the tables of the module's docstring, of those that have the metric's score."""
    results = scored(results, metric)
    group_of = [group_path(result, metric.over) for result in results]
    videos = {result["video"] for result in results}
    rows = {video: i for i, video in enumerate(sorted(videos))}
    columns = {group: i for i, group in enumerate(sorted(set(group_of)))}

    totals = np.zeros((len(rows), len(columns)))  # (C, K)
    counts = np.zeros((len(rows), len(columns)))  # (C, K)
    for result, group in zip(results, group_of, strict=True):
        cell = rows[result["video"]], columns[group]
        totals[cell] += result["parts"][metric.part]
        counts[cell] += 1
    return Tables(totals, counts, group_weights(list(columns)))


def group_weights(groups: list[tuple[str, ...]]) -> np.ndarray:
    """Weights (K,) of groups, each a path of labels from the outermost one.

    Siblings weigh the same inside their outer group, and so do the outer groups.

    >>> group_weights([("direction", "easy"), ("direction", "hard"), ("distance", "all")])
    array([0.25, 0.25, 0.5 ])
    """
    # Children of every inner node of the tree: of () the tasks, of ("direction",) its levels
    children: dict[tuple[str, ...], set[str]] = {}
    for group in groups:
        for depth, name in enumerate(group):
            children.setdefault(group[:depth], set()).add(name)

    weights = []
    for group in groups:
        weights.append(math.prod(1 / len(children[group[:depth]]) for depth in range(len(group))))
    return np.array(weights)  # (K,)


def mean_of_groups(
    totals: np.ndarray, counts: np.ndarray, weights: np.ndarray, root: bool
) -> np.ndarray:
    """(.., K) sums and counts -> (..) weighted means of the groups' means.

    A resample may draw no video of some group; that group then leaves its weight to the others.
    """
    present = counts > 0  # (.., K)
    means = np.where(present, totals / np.maximum(counts, 1), 0.0)  # (.., K)
    value = (means * weights).sum(-1) / (present * weights).sum(-1)  # (..)
    return np.sqrt(value) if root else value


def estimate(results: list[dict], metric: Metric) -> float | None:
    """A metric's value; None when no result has its score."""
    totals, counts, weights = tabulate(results, metric)
    if not len(totals):
        return None
    return float(mean_of_groups(totals.sum(0), counts.sum(0), weights, metric.root))


def resampled(
    results: list[dict], metric: Metric, resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Values of a metric on `resamples` draws of as many videos as there are, (resamples,).

    The draws depend on the seed and on the number of videos alone. Two runs on the same items
    therefore see the same draws, and can be subtracted value by value.
    """
    totals, counts, weights = tabulate(results, metric)
    videos = len(totals)
    rng = np.random.default_rng(seed)

    # In blocks of S draws: all of (resamples, C) would take gigabytes for thousands of videos
    values = []
    block = max(1, BLOCK // videos)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, videos, (size, videos))  # (S, C) numbers of videos

        # One bincount for the whole block: draw s counts into the bins from s * C on
        bins = drawn + np.arange(size)[:, None] * videos  # (S, C)
        times = np.bincount(bins.ravel(), minlength=size * videos).reshape(size, videos)
        times = times.astype(float)  # (S, C) how often each video was drawn
        values.append(mean_of_groups(times @ totals, times @ counts, weights, metric.root))  # (S,)
    return np.concatenate(values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


# Student's t, two-sided 95 %, of 1 to 30 degrees of freedom
# fmt: off
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
NORMAL = 1.959964  # and of infinitely many


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: student_t(1) = 12.706, student_t(100) = 1.984."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    # the expansion of Cornish and Fisher
    z = NORMAL
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + first + second


def share_interval(value: float, values: np.ndarray, videos: int) -> tuple[float, float]:
    """The 95 % interval of a score in 0 to 1, from its resampled values (resamples,).

    Near 0 or 1 a bootstrap's percentiles are too narrow: of 22 videos at a mean of 0.05 they hold
    the truth in 86 % of draws. Wilson's interval for a share holds there, too. Its n is how many
    independent answers would spread as much as the resamples do, value (1 - value) / variance
    (Kish's effective sample size), less what so few videos leave unknown of that variance
    (Student's t in place of the normal, as Korn and Graubard 1998 do).

    >>> low, high = share_interval(0.0, np.zeros(100), 22)              # 0 of 22
    >>> low, round(high, 4)
    (0.0, 0.1544)
    """
    # Resamples of C videos vary less than C videos do
    variance = float(np.var(values)) * videos / (videos - 1)
    if variance < 1e-24:
        return agreed_interval(value, videos, (0.0, 1.0))

    n = value * (1 - value) / variance * (NORMAL / student_t(videos - 1)) ** 2
    centre = (value + NORMAL**2 / (2 * n)) / (1 + NORMAL**2 / n)
    spread = value * (1 - value) / n + NORMAL**2 / (4 * n**2)
    half = NORMAL * math.sqrt(spread) / (1 + NORMAL**2 / n)
    return centre - half, centre + half


def percentile_interval(
    value: float, values: np.ndarray, videos: int, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The 95 % interval of a gain or an error from its resampled values (resamples,), as wide as so
    few videos ask for.

    Resamples of C videos vary less than C videos do, by sqrt((C - 1) / C), and a spread that is
    estimated from C of them is not known to be that: Student's t in place of the normal (Hesterberg
    2015, "What teachers should know about the bootstrap").
    """
    low, high = interval(values)
    if high - low < 1e-12 and math.isfinite(bounds[1] - bounds[0]):
        return agreed_interval(value, videos, bounds)

    wider = student_t(videos - 1) / NORMAL * math.sqrt(videos / (videos - 1))
    low, high = value - wider * (value - low), value + wider * (high - value)
    return max(low, bounds[0]), min(high, bounds[1])


def agreed_interval(value: float, videos: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """The 95 % interval where all C videos agree, so that resamples have no spread.

    Up to 1 - 0.025^(1/C) of all videos may yet differ (Clopper and Pearson's interval of 0 of C),
    by as much as the metric's range allows.
    """
    others = 1 - 0.025 ** (1 / videos)
    return value - others * (value - bounds[0]), value + others * (bounds[1] - value)


def bounds_of(metric: Metric) -> tuple[float, float]:
    """Between which values a metric lies: scores in 0 to 1, errors above 0."""
    return (0.0, 1.0) if metric.percent else (0.0, math.inf)


def measured(results: list[dict], metric: Metric, resamples: int) -> dict:
    """{value, low, high, n, videos} of a metric.

    low and high are None for fewer than two videos, which leave nothing to resample.
    """
    results = scored(results, metric)
    videos = n_videos(results)
    value = estimate(results, metric)
    low, high = None, None
    if videos > 1:
        values = resampled(results, metric, resamples)
        if metric.percent:
            low, high = share_interval(value, values, videos)
        else:
            low, high = percentile_interval(value, values, videos, bounds_of(metric))
    return {"value": value, "low": low, "high": high, "n": len(results), "videos": videos}


def measured_all(results: list[dict], metrics: list[Metric], resamples: int) -> dict[str, dict]:
    """{name: `measured`} of the metrics that any of the results has a score for."""
    values = {metric.name: measured(results, metric, resamples) for metric in metrics}
    return {name: value for name, value in values.items() if value["n"]}


def summarise(results: list[dict], benchmark: Benchmark, resamples: int = 10_000) -> dict:
    """Scores, scores of splits, failures by reason, and how many answers still wait for a judge."""
    # failures count as wrong in every metric below; here they are listed with their reasons
    failed = []
    for result in results:
        if result["failure"]:
            reason = result["reason"] or result["failure"]
            failed.append({"id": result["id"], "failure": result["failure"], "reason": reason})
    return {
        "n": len(results),
        "videos": n_videos(results),
        "metrics": measured_all(results, list(benchmark.metrics), resamples),
        "splits": measured_splits(results, benchmark, resamples),
        "failures": dict(Counter(entry["failure"] for entry in failed).most_common()),
        "failed": failed,
        "unjudged": sum(None in result["parts"].values() for result in results),
        "sound": dict(Counter(result["sound"] for result in results).most_common()),
        "cut_replies": sum(not r["finished"] and r["tokens"] > 0 for r in results),
        "completion_tokens": (
            float(np.mean([result["tokens"] for result in results])) if results else 0.0
        ),
    }


def measured_splits(results: list[dict], benchmark: Benchmark, resamples: int) -> dict[str, dict]:
    """{label: {value: {metric: `measured`}}} of the labels that a benchmark reports.

    A mean of groups' means makes no sense inside one group, so that splits have plain means.
    """
    metrics = [metric for metric in benchmark.metrics if not metric.over]
    if not metrics:
        metrics = [Metric("mean", benchmark.metrics[0].part)]

    splits: dict[str, dict] = {}
    for name in benchmark.splits:
        by_value: dict[str, list[dict]] = {}
        for result in results:
            for value in set(label_values(result["labels"], name)):
                by_value.setdefault(value, []).append(result)
        for value in sorted(by_value):
            scores = measured_all(by_value[value], metrics, resamples)
            splits.setdefault(name, {})[value] = scores
    return splits


def gain(base: list[dict], other: list[dict], metric: Metric, resamples: int = 10_000) -> dict:
    """{value, low, high, n} of the metric's gain, other - base, resampled in pairs.

    Raises DataError when the runs are not of the same items, or when a judge has scored only one.
    """
    ids = same_scored_items(base, other, metric)
    if not ids:
        return {"value": None, "low": None, "high": None, "n": 0, "videos": 0}

    # Both runs get the base's names of videos: runs may have kept their media in different places
    videos = {result["id"]: result["video"] for result in base if result["id"] in ids}
    base = [result for result in base if result["id"] in ids]
    other = [result | {"video": videos[result["id"]]} for result in other if result["id"] in ids]

    value = estimate(other, metric) - estimate(base, metric)
    low, high = None, None
    if n_videos(base) > 1:
        differences = resampled(other, metric, resamples) - resampled(base, metric, resamples)
        lowest, highest = bounds_of(metric)
        bounds = (lowest - highest, highest - lowest)
        low, high = percentile_interval(value, differences, n_videos(base), bounds)
    return {"value": value, "low": low, "high": high, "n": len(base), "videos": n_videos(base)}


def same_scored_items(base: list[dict], other: list[dict], metric: Metric) -> set[str]:
    """The ids of the scored items of two runs; DataError when they differ."""
    base_ids = {result["id"] for result in base}
    other_ids = {result["id"] for result in other}
    if base_ids != other_ids:
        raise DataError(
            f"the runs are not of the same items: {len(base_ids - other_ids)} are in the first "
            f"only, {len(other_ids - base_ids)} in the second only, e.g. "
            f"'{min(base_ids ^ other_ids)}'; run eval.py to the end, with the same --only and "
            "--limit"
        )
    # the same items may still differ in which open answers a judge has scored
    base_scored = {result["id"] for result in scored(base, metric)}
    other_scored = {result["id"] for result in scored(other, metric)}
    if base_scored != other_scored:
        raise DataError(
            "open answers of one run are scored and of the other not, e.g. "
            f"'{min(base_scored ^ other_scored)}'; run eval.py with --judge on both"
        )
    return base_scored


# Videos; from fewer no significance is read: with 6 to 9 videos, 7 to 9 % of the intervals of two
# equal models leave out 0, not 5 %.
FEW = 10


def significant(difference: dict) -> bool:
    """Does the 95 % interval of a gain leave out 0, and is it of FEW videos or more?"""
    if difference["videos"] < FEW:
        return False
    return difference["low"] is not None and not difference["low"] <= 0 <= difference["high"]
