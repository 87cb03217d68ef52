"""run/plots.py: pictures of a run: curves.png, and summary.png of a curriculum."""

import math
from pathlib import Path

import numpy as np


def pyplot():
    """matplotlib without a display; imported here, since only the end of a run needs it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot_run(cfg, rows: list[dict], evaluations: list, advantages: dict, bins: np.ndarray) -> None:
    """curves.png: held-out accuracy, rewards, advantages fresh against replayed, the buffer's
    tiers.

    Of stage 0: held-out accuracy and cross-entropy. rows: the steps' lines of metrics.jsonl.
    evaluations: of run/logs.py. advantages: histograms over bins, by kind.
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    is_sft = cfg.stage == 0
    label = "step" if is_sft else "completions generated"
    x = [row["step" if is_sft else "generated"] for row in rows]

    done = [e.step if is_sft else e.generated for e in evaluations]
    axes[0, 0].plot(done, [e.accuracy for e in evaluations], "o-")
    axes[0, 0].set(title="held-out accuracy", xlabel=label, ylim=(0, 1))
    if is_sft:
        axes[0, 1].semilogy(x, [row["loss"] or math.nan for row in rows])
        axes[0, 1].set(title="cross-entropy per token", xlabel=label)
    else:
        plot_rewards(axes[0, 1], x, rows)
        plot_advantages(axes[1, 0], advantages, bins)
        plot_tiers(axes[1, 1], x, rows)

    figure.suptitle(f"stage {cfg.stage}, {cfg.method}, seed {cfg.seed}")
    figure.savefig(Path(cfg.out) / "curves.png", dpi=100)
    plt.close(figure)


def plot_rewards(axes, x: list[int], rows: list[dict]) -> None:
    """The reward and its parts, as far as they are known."""
    names = [name for name in rows[-1] if name == "reward" or name.startswith("reward_")]
    for name in names:
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            axes.plot(x, values, label=name.removeprefix("reward_"))
    axes.set(title="rewards of fresh completions", xlabel="completions generated", ylim=(0, 1.02))
    axes.legend()


def plot_advantages(axes, advantages: dict[str, np.ndarray], bins: np.ndarray) -> None:
    """Histograms of all advantages of the run."""
    for kind, counts in advantages.items():
        if counts.any():
            axes.hist(
                bins[:-1],
                bins,
                weights=counts,
                alpha=0.6,
                density=True,
                label=f"{kind} ({counts.sum():,})",
            )
    axes.set(title="advantages", xlabel="A")
    axes.legend()


def plot_tiers(axes, x: list[int], rows: list[dict]) -> None:
    """Completions in the buffer, by tier."""
    tiers = ("tier_hard", "tier_medium", "tier_easy")
    heights = []
    for tier in tiers:
        heights.append([row[tier] for row in rows])
    names = [tier.removeprefix("tier_") for tier in tiers]
    axes.stackplot(x, heights, labels=names, alpha=0.8)
    axes.set(title="completions in the buffer, by tier", xlabel="completions generated")
    axes.legend(loc="upper left")


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
