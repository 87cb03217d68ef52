"""run/plots.py: pictures of a run: curves.png, and summary.png of a curriculum.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart. Lines differ in
their dashes, too, and bear their names at their ends.
"""

import itertools
import math
from pathlib import Path

import numpy as np

from replay import TIERS

# blue, vermilion, green, orange, purple, sky blue, black
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))

LABEL_GAP = 0.06  # of the height of the axes, between two names at the ends of lines


def pyplot():
    """matplotlib without a display; imported here, since only the end of a run needs it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLORS)
    return plt


def label_ends(axes) -> None:
    """Write each line's name behind its end, in its colour; names that would overlap are spread.

    Lines whose label begins with "_" get none, as in matplotlib's legends. Call it when the limits
    of the axes are final.
    """
    to_height = axes.transData + axes.transAxes.inverted()  # data -> share of the axes
    ends = []
    for line in axes.get_lines():
        known = [xy for xy in line.get_xydata() if np.isfinite(xy).all()]
        if known and not line.get_label().startswith("_"):
            ends.append((to_height.transform(known[-1])[1], line))

    # from the lowest end upward
    lowest_free = 0.0
    for height, line in sorted(ends, key=lambda end: end[0]):
        height = max(height, lowest_free)
        axes.annotate(
            line.get_label(),
            (1.01, height),
            xycoords="axes fraction",
            color=line.get_color(),
            va="center",
            fontsize=9,
        )
        lowest_free = height + LABEL_GAP


def plot_run(cfg, rows: list[dict], evaluations: list, advantages: dict, bins: np.ndarray) -> None:
    """curves.png: held-out accuracy, rewards, advantages fresh against replayed, the buffer's
    tiers.

    Of stage 0: held-out accuracy and cross-entropy. rows: the steps' lines of metrics.jsonl.
    evaluations: of run/logs.py. advantages: histograms over bins, by kind.
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    # by hand: a layout that is computed draws everything several times
    figure.subplots_adjust(0.07, 0.08, 0.92, 0.89, wspace=0.3, hspace=0.32)
    is_sft = cfg.stage == 0
    label = "step" if is_sft else "completions generated"
    x = [row["step" if is_sft else "generated"] for row in rows]

    done = [e.step if is_sft else e.generated for e in evaluations]
    plot_accuracy(axes[0, 0], done, evaluations)
    axes[0, 0].set(xlabel=label)
    if is_sft:
        axes[0, 1].semilogy(x, [row["loss"] or math.nan for row in rows])
        axes[0, 1].set(title="loss", xlabel=label, ylabel="cross-entropy per token (nats)")
    else:
        plot_rewards(axes[0, 1], x, rows)
        plot_advantages(axes[1, 0], advantages, bins)
        plot_tiers(axes[1, 1], x, rows)

    figure.suptitle(f"stage {cfg.stage}, {cfg.method}, seed {cfg.seed}")
    figure.savefig(Path(cfg.out) / "curves.png", dpi=100)
    plt.close(figure)


def plot_accuracy(axes, done: list[int], evaluations: list) -> None:
    """Held-out accuracy with its 95 % interval: 1.96 standard errors of n independent questions.

    done: steps or completions by each evaluation.
    """
    accuracy = np.array([e.accuracy for e in evaluations])  # (evaluations,)
    n = np.array([e.questions for e in evaluations])
    wings = 1.96 * np.sqrt(accuracy * (1 - accuracy) / n)
    axes.plot(done, accuracy, "o-")
    axes.fill_between(done, accuracy - wings, accuracy + wings, alpha=0.2)
    axes.set(title="held-out accuracy, 95 % interval", ylabel="accuracy", ylim=(0, 1))


def plot_rewards(axes, x: list[int], rows: list[dict]) -> None:
    """The reward and its parts, as far as they are known."""
    names = [name for name in rows[-1] if name == "reward" or name.startswith("reward_")]
    known = [name for name in names if any(row.get(name) is not None for row in rows)]
    low, high = 0.0, 1.0
    for name, dashes in zip(known, itertools.cycle(DASHES), strict=False):
        values = [row.get(name) for row in rows]
        values = [math.nan if value is None else value for value in values]
        axes.plot(x, values, linestyle=dashes, label=name.removeprefix("reward_"))
        low = min(low, np.nanmin(values))
        high = max(high, np.nanmax(values))

    # the axis holds 0 and 1, and whatever a weight or a reward of one's own reaches
    space = 0.02 * (high - low)
    axes.set(
        title="rewards of fresh completions",
        xlabel="completions generated",
        ylabel="mean of a step",
        ylim=(low - space if low < 0 else 0, high + space),
    )
    label_ends(axes)


def plot_advantages(axes, advantages: dict[str, np.ndarray], bins: np.ndarray) -> None:
    """Histograms of all advantages of the run."""
    for (kind, counts), dashes in zip(advantages.items(), DASHES, strict=False):
        if counts.any():
            axes.stairs(
                counts / counts.sum(),
                bins,
                linewidth=2,
                linestyle=dashes,
                label=f"{kind} ({counts.sum():,})",
            )
    axes.set(title="advantages of the whole run", xlabel="advantage", ylabel="share of completions")
    axes.legend()


def plot_tiers(axes, x: list[int], rows: list[dict]) -> None:
    """Completions in the buffer, by tier."""
    tiers = [f"tier_{tier}" for tier in TIERS]
    heights = []
    for tier in tiers:
        heights.append([row[tier] for row in rows])
    names = [tier.removeprefix("tier_") for tier in tiers]
    axes.stackplot(x, heights, labels=names, alpha=0.8)
    axes.set(title="replay buffer", xlabel="completions generated", ylabel="completions stored")
    axes.legend(title="tier of the prompt", loc="upper left", reverse=True)


def plot_curriculum(table: dict[str, dict[str, float]], path: Path) -> None:
    """summary.png: held-out accuracy after each stage, a bar per kind of questions.

    table: {"after stage 1": {"stage 1": 0.7, ..}, ..}
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    kinds = list(next(iter(table.values())))
    width = 0.8 / len(kinds)
    for i, kind in enumerate(kinds):
        places = [x + i * width for x in range(len(table))]
        heights = [row[kind] for row in table.values()]
        axes.bar(places, heights, width, label=f"{kind} questions")
    axes.set(
        xticks=range(len(table)),
        xticklabels=list(table),
        ylabel="held-out accuracy",
        ylim=(0, 1),
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
