"""bench/study_statistics.py: what the study computes of its runs.

A run's "evals" are (step, fresh completions, CPU-seconds of training, accuracy) of each evaluation.

    completions to a target   where the mean curve over seeds, made non-decreasing by isotonic
                              regression, first reaches it
    ratios                    with percentiles of a bootstrap over seeds, each method's drawn apart,
                              widened for few seeds
    accuracy of a cell        mean of the evaluations in the last third of the steps, with a
                              t-interval over seeds
"""

import math

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import norm
from scipy.stats import t as student

TARGETS = (0.60, 0.65, 0.70, 0.75)  # accuracies to reach
COLUMNS = {"completions": 1, "cpu": 2}  # of a run's "evals", for the x axis


Curve = tuple[np.ndarray, np.ndarray]  # x, and the accuracy there


def mean_curve(runs: list[dict], axis: str) -> Curve:
    """The mean over runs, made non-decreasing, at 201 points.

    axis: "completions" or "cpu" (seconds). Where runs end at different x: up to the least of them.
    """
    column = COLUMNS[axis]
    end = min(run["evals"][-1][column] for run in runs)
    x = np.linspace(0, end, 201)
    curves = []
    for run in runs:
        at = [evaluation[column] for evaluation in run["evals"]]
        accuracy = [evaluation[3] for evaluation in run["evals"]]
        curves.append(np.interp(x, at, accuracy))
    return x, isotonic_regression(np.mean(curves, axis=0)).x


def reached(x: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """Where a non-decreasing curve first reaches the target, between points by a straight line;
    inf: it does not.

    >>> reached(np.array([0.0, 10.0, 20.0]), np.array([0.4, 0.5, 0.7]), 0.6)
    15.0
    >>> reached(np.array([0.0, 10.0]), np.array([0.4, 0.5]), 0.6)
    inf
    """
    i = int(np.searchsorted(accuracy, target - 1e-12))
    if i == len(x):
        return math.inf
    if i == 0:
        return float(x[0])
    slope = (x[i] - x[i - 1]) * (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    return float(x[i - 1] + slope)


def needed(base: Curve, other: Curve, target: float) -> tuple[float, float]:
    """(x that base needs to reach a target, x that the other needs; inf: not reached).

    Where base does not reach it, all that it had is counted: a lower bound of what it needs.
    """
    of_base = reached(*base, target)
    if math.isinf(of_base):
        of_base = base[0][-1]
    return of_base, reached(*other, target)


def savings(
    base: list[dict],
    runs: list[dict],
    targets: list[float | None],
    axis: str,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """How many times less x `runs` needs than `base` to reach each target, at the mean curves, with
    the 95 % interval: `tails` of a bootstrap over seeds. A target None is the best that base
    reaches, in each resample its own.

    missed: the fraction of resamples in which `runs` does not reach it; there the ratio counts
    as 0. Returns {target, base, ours, ratio, low, high, missed} of each target.
    """
    rng = np.random.default_rng(seed)
    ratios = np.zeros((resamples, len(targets)))
    for i in range(resamples):
        some_base = [base[j] for j in rng.integers(len(base), size=len(base))]
        some_runs = [runs[j] for j in rng.integers(len(runs), size=len(runs))]
        curves = mean_curve(some_base, axis), mean_curve(some_runs, axis)
        for k, target in enumerate(targets):
            best = curves[0][1][-1]
            ratios[i, k] = ratio(*needed(*curves, best if target is None else target))

    entries = []
    levels = tails(min(len(base), len(runs)))
    curves = mean_curve(base, axis), mean_curve(runs, axis)
    for k, target in enumerate(targets):
        if target is None:
            target = curves[0][1][-1]
        of_base, of_runs = needed(*curves, target)
        low, high = np.quantile(ratios[:, k], levels, method="nearest")
        entries.append(
            {
                "target": target,
                "base": of_base,
                "ours": of_runs,
                "ratio": ratio(of_base, of_runs),
                "low": float(low),
                "high": float(high),
                "missed": float(np.mean(ratios[:, k] == 0)),
            }
        )
    return entries


def tails(n: int) -> tuple[float, float]:
    """The two levels at which percentiles of a bootstrap over n seeds are a 95 % interval.

    A bootstrap draws from n values as if they were all there are, so its spread is too small by
    sqrt((n - 1)/n), and it knows no t-distribution. Both are made up for by levels further out
    (Hesterberg, arXiv 1411.5279, section 3.3: the expanded percentile interval).

    >>> [round(level, 4) for level in tails(8)]
    [0.0057, 0.9943]
    """
    if n < 2:
        return 0.0, 1.0
    low = float(norm.cdf(-math.sqrt(n / (n - 1)) * student.ppf(0.975, n - 1)))
    return low, 1 - low


def ratio(of_base: float, of_runs: float) -> float:
    """How many times as much base needs; 0 where the other never gets there."""
    return of_base / of_runs if of_runs else math.inf


def final(run: dict) -> float:
    """Accuracy of a run: the mean of the evaluations in the last third of its steps. So cells that
    were evaluated more or less often are compared over the same stretch."""
    last_step = run["evals"][-1][0]
    late = [accuracy for step, _, _, accuracy in run["evals"] if 3 * step >= 2 * last_step]
    return float(np.mean(late))


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % t-interval) of independent values; of one value it is infinite."""
    n = len(values)
    mean = float(np.mean(values))
    if n == 1:
        return mean, math.inf
    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def verdict(difference: float, half_interval: float, paper: float | None) -> str:
    """What a difference with its interval says; paper: the difference that the paper reports, None:
    none."""
    if abs(difference) <= half_interval:
        return "no difference"
    if paper is None:
        return "better" if difference > 0 else "worse"
    return "agrees" if (difference > 0) == (paper > 0) else "disagrees"


def smooth(values: list[float], width: int = 5) -> np.ndarray:
    """Running means over up to `width` steps."""
    kernel = np.ones(min(width, len(values)))
    sums = np.convolve(values, kernel, "same")
    return sums / np.convolve(np.ones(len(values)), kernel, "same")
