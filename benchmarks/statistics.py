"""benchmarks/statistics.py: scores with bootstrap intervals."""

import math
from collections import Counter

import numpy as np

from benchmarks.base import Benchmark, Metric
from formats.sample import DataError


def labels_of(labels: dict, name: str) -> list[str]:
    """The values of one label: a question may have several types."""
    value = labels.get(name, [])
    return [value] if isinstance(value, str) else list(value)


def sums(found: list[dict], metric: Metric) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the lines that have the metric's part, by video (C) and group of `over` (K): sums of the part (C, K), numbers of lines (C, K), and the groups'
    weights (K,). Groups weigh alike inside their outer group, which weigh alike."""
    some = [row for row in found if row["parts"].get(metric.part) is not None]
    videos = {v: i for i, v in enumerate(sorted({row["video"] for row in some}))}
    keys = [tuple(row["labels"][name] for name in metric.over) for row in some]
    leaves = {key: i for i, key in enumerate(sorted(set(keys)))}
    total, count = (np.zeros((len(videos), len(leaves))) for _ in range(2))
    for row, key in zip(some, keys, strict=True):
        total[videos[row["video"]], leaves[key]] += row["parts"][metric.part]
        count[videos[row["video"]], leaves[key]] += 1
    siblings = [
        Counter(key[:depth] for key in {k[: depth + 1] for k in leaves})
        for depth in range(len(metric.over))
    ]
    return (
        total,
        count,
        np.array(
            [
                math.prod(1 / siblings[depth][key[:depth]] for depth in range(len(metric.over)))
                for key in leaves
            ]
        ),
    )


def mean_of_groups(
    total: np.ndarray, count: np.ndarray, weights: np.ndarray, root: bool
) -> np.ndarray:
    """(.., K) sums and numbers -> (..) weighted means of the groups' means; a group without a line leaves its weight to the others."""
    there = count > 0
    means = np.where(there, total / np.maximum(count, 1), 0.0)
    value = (means * weights).sum(-1) / (there * weights).sum(-1)
    return np.sqrt(value) if root else value


def estimate(found: list[dict], metric: Metric) -> float | None:
    """A metric's value; None when no line has its part."""
    total, count, weights = sums(found, metric)
    return (
        float(mean_of_groups(total.sum(0), count.sum(0), weights, metric.root))
        if len(total)
        else None
    )


def resampled(
    found: list[dict], metric: Metric, resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """(resamples,) values of a metric on as many videos drawn with replacement, each with all of its lines. The same videos are drawn for any lines about
    the same videos, so that two runs on the same items can be subtracted draw by draw."""
    total, count, weights = sums(found, metric)
    n, rng, out = len(total), np.random.default_rng(seed), []
    for start in range(0, resamples, size := max(1, 2**22 // n)):
        some = min(size, resamples - start)
        drawn = rng.integers(0, n, (some, n)) + np.arange(some)[:, None] * n
        times = (
            np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(float)
        )  # how often each video was drawn
        out.append(mean_of_groups(times @ total, times @ count, weights, metric.root))
    return np.concatenate(out)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def measured(found: list[dict], metric: Metric, resamples: int) -> dict:
    """{value, low, high, n, videos} of a metric; low and high None where fewer than two videos leave nothing to resample."""
    some = [row for row in found if row["parts"].get(metric.part) is not None]
    videos = len({row["video"] for row in some})
    low, high = interval(resampled(some, metric, resamples)) if videos > 1 else (None, None)
    return {
        "value": estimate(some, metric),
        "low": low,
        "high": high,
        "n": len(some),
        "videos": videos,
    }


def summarise(found: list[dict], benchmark: Benchmark, resamples: int = 10_000) -> dict:
    """Scores, scores of splits (each a plain mean over its lines), failures by reason, and what a judge has still to say."""
    plain = [m for m in benchmark.metrics if not m.over] or [
        Metric("mean", benchmark.metrics[0].part)
    ]
    splits: dict[str, dict] = {}
    for name in benchmark.splits:
        for value in sorted({v for row in found for v in labels_of(row["labels"], name)}):
            inside = [row for row in found if value in labels_of(row["labels"], name)]
            splits.setdefault(name, {})[value] = {
                m.name: v for m in plain if (v := measured(inside, m, resamples))["n"]
            }
    failed = [
        {"id": row["id"], "failure": row["failure"], "reason": row["reason"] or row["failure"]}
        for row in found
        if row["failure"]
    ]
    return {
        "n": len(found),
        "videos": len({row["video"] for row in found}),
        "metrics": {
            m.name: v for m in benchmark.metrics if (v := measured(found, m, resamples))["n"]
        },
        "splits": splits,
        "failures": dict(Counter(f["failure"] for f in failed).most_common()),
        "failed": failed,
        "unjudged": sum(None in row["parts"].values() for row in found),
        "sound": dict(Counter(row["sound"] for row in found).most_common()),
        "completion_tokens": float(np.mean([row["tokens"] for row in found])) if found else 0.0,
    }


def gain(base: list[dict], other: list[dict], metric: Metric, resamples: int = 10_000) -> dict:
    """{value, low, high} of other - base on the same items, resampled in pairs: both on the same videos. Raises DataError for different items."""
    ids, theirs = {row["id"] for row in base}, {row["id"] for row in other}
    if ids != theirs:
        one = sorted(ids ^ theirs)[0]
        raise DataError(
            f"the runs are not of the same items: {len(ids - theirs)} are in the first only, {len(theirs - ids)} in the second only, e.g. '{one}'; "
            "run eval.py to the end, with the same --only and --limit"
        )
    scored = [
        {row["id"] for row in rows if row["parts"].get(metric.part) is not None}
        for rows in (base, other)
    ]
    if one := scored[0] ^ scored[1]:
        raise DataError(
            f"open answers of one run are scored and of the other not, e.g. '{sorted(one)[0]}'; run eval.py with --judge on both"
        )
    if not scored[0]:
        return {"value": None, "low": None, "high": None, "n": 0}
    videos = {
        row["id"]: row["video"] for row in base
    }  # runs may have kept their media in different places
    base, other = (
        [row | {"video": videos[row["id"]]} for row in rows if row["id"] in scored[0]]
        for rows in (base, other)
    )
    low, high = (
        interval(resampled(other, metric, resamples) - resampled(base, metric, resamples))
        if len({row["video"] for row in base}) > 1
        else (None, None)
    )
    return {
        "value": estimate(other, metric) - estimate(base, metric),
        "low": low,
        "high": high,
        "n": len(base),
    }


def significant(found: dict) -> bool:
    """Does the 95 % interval of a gain leave out 0?"""
    return found["low"] is not None and not found["low"] <= 0 <= found["high"]
