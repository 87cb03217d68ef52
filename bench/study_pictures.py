"""bench/study_pictures.py: the pictures of bench/STUDY.md."""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter

from bench.study_runs import CONTROLS, METHOD_CELLS, Findings
from bench.study_statistics import TARGETS, smooth
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from run.logs import BINS
from run.plots import COLORS, DASHES, pyplot
from tas import SHAPES, temporal_weights

plt = pyplot()

# A colour, dashes and a marker for each method. There are more methods than colours, so the first
# four, GRPO with fewer and more updates, are black and grey.
GREYS = ("#000000", "#444444", "#777777", "#aaaaaa")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*", "<", ">", "h", "d")
STYLES: dict[str, dict] = {}
MARKER_OF: dict[str, str] = {}
for i, method in enumerate(METHOD_CELLS):
    color = GREYS[i] if i < len(GREYS) else COLORS[(i - len(GREYS)) % (len(COLORS) - 1)]
    STYLES[method.name] = {"color": color, "linestyle": DASHES[i % len(DASHES)]}
    MARKER_OF[method.name] = MARKERS[i]

NOT_REACHED = -0.7  # where the pictures of savings put a target that a method never reached

OVER_SEEDS = (
    "mean and one standard error over seeds. On a log axis a saving is a distance to the left"
)


def draw_pictures(
    findings: Findings,
    savings: dict[str, dict[str, list[dict]]],
    folder: Path,
) -> dict[str, str]:
    """Draw what there are results for into `folder`. Returns {file: caption}.

    savings: {axis: {method: `savings`}}.
    """
    runs = findings.of_methods()
    captions: dict[str, str] = {}

    def save(name: str, caption: str, figure) -> None:
        figure.savefig(folder / f"study-{name}.png", dpi=80)
        plt.close(figure)
        captions[f"study-{name}.png"] = caption

    methods = {name: runs[name] for name in runs if name not in CONTROLS}
    with_cpu = findings.with_cpu()
    caption = f"Accuracy and reward of the methods, {OVER_SEEDS}"
    save("curves", caption, curves_picture(methods, with_cpu))
    if runs.keys() & CONTROLS:
        shown = {"GRPO", "AVATAR fast"} | CONTROLS
        controls = {name: runs[name] for name in runs if name in shown}
        caption = f"Accuracy and reward of GRPO with parts of AVATAR fast, {OVER_SEEDS}"
        save("controls", caption, curves_picture(controls, with_cpu))
    names = [name for name in methods if name in savings["completions"]]
    if names:
        caption = (
            "How many times as much GRPO needs, 95 % intervals (dashed: the goals, 5 and 2; an "
            "interval that reaches the lowest row: some resamples never reached the target)"
        )
        save("savings", caption, savings_picture(savings, names))

    both = {name: runs[name] for name in ("GRPO", "AVATAR") if name in runs}
    caption = "Advantages, and the share of groups without any"
    save("advantages", caption, advantages_picture(both))
    if "AVATAR" in runs:
        save("tiers", "What AVATAR's buffer holds", tiers_picture(runs["AVATAR"]))
        caption = "The weights of Temporal Advantage Shaping over a completion"
        save("tas", caption, weights_picture(runs["AVATAR"][0]["completion"]))
    return captions


def curves_picture(runs: dict[str, list[dict]], with_cpu: dict[str, list[dict]]):
    """Accuracy against completions and CPU-seconds, and reward against completions. with_cpu: the
    runs whose CPU-seconds may be compared, by method."""
    figure, axes = plt.subplots(1, 3, figsize=(18, 6), layout="constrained")
    for name in runs:
        plot_accuracy(axes[0], runs[name], 1, name)
        if name in with_cpu:
            plot_accuracy(axes[1], with_cpu[name], 2, name)
        band(axes[2], *over_steps(runs[name], "reward"), name)
    axes[0].set(xlabel="fresh completions", ylabel="held-out accuracy")
    axes[1].set(xlabel="CPU-seconds of training", ylabel="held-out accuracy")
    axes[2].set(xlabel="fresh completions", ylabel="reward of fresh completions")
    for ax in axes:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=9, handlelength=4)
    return figure


def plot_accuracy(ax, runs: list[dict], column: int, name: str) -> None:
    """A method's accuracy against a column of "evals": 1 fresh completions, 2 CPU-seconds."""
    start = max(run["evals"][1][column] for run in runs) / 2
    end = min(run["evals"][-1][column] for run in runs)
    x = np.geomspace(start, end, 201)
    curves = []
    for run in runs:
        at = [evaluation[column] for evaluation in run["evals"]]
        accuracy = [evaluation[3] for evaluation in run["evals"]]
        curves.append(np.interp(x, at, accuracy))
    band(ax, x, curves, name)


def savings_picture(savings: dict[str, dict[str, list[dict]]], names: list[str]):
    """How many times as much GRPO needs to every target, with intervals, beside the goals: a fifth
    of the completions, half of the CPU-seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(15, 5), layout="constrained")
    plot_savings(axes[0], savings["completions"], names, "fresh completions", goal=5)
    costed = [name for name in names if name in savings["cpu"]]
    plot_savings(axes[1], savings["cpu"], costed, "CPU-seconds", goal=2)
    axes[0].legend(fontsize=9)
    return figure


def plot_savings(ax, by_method: dict[str, list[dict]], names: list[str], unit: str, goal: float):
    for i, name in enumerate(names):
        x = np.arange(len(TARGETS) + 1) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
        ratio = np.array([entry["ratio"] for entry in by_method[name]])
        low = np.array([entry["low"] for entry in by_method[name]])
        high = np.array([entry["high"] for entry in by_method[name]])
        # a ratio of 0: the method never reached the target
        ratio[ratio == 0] = NOT_REACHED
        low[low == 0] = NOT_REACHED
        wings = np.maximum([ratio - low, high - ratio], 0)
        style = {"color": STYLES[name]["color"], "fmt": MARKER_OF[name]}
        ax.errorbar(x, ratio, wings, capsize=3, label=name, **style)
    ax.set_xticks(range(len(TARGETS) + 1), [*(f"{t:.2f}" for t in TARGETS), "GRPO's best"])
    ax.axhline(1, color="black", linewidth=0.8)
    ax.axhline(goal, color="black", linewidth=0.8, linestyle="--")
    ax.set(
        xlabel="held-out accuracy to reach",
        ylabel=f"{unit}: GRPO's / the method's",
        ylim=(NOT_REACHED - 0.3, None),
    )
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= ax.get_ylim()[1]]
    ax.set_yticks([NOT_REACHED, *ticks], ["not reached", *(f"{tick:g}" for tick in ticks)])
    ax.axhspan(NOT_REACHED - 0.3, NOT_REACHED + 0.3, color="#eeeeee", zorder=0)


def advantages_picture(runs: dict[str, list[dict]]):
    """The histogram of all advantages trained on, and the share of groups without any over time."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in runs:
        histograms = []
        for run in runs[name]:
            histograms += [np.array(counts) for counts in run["advantages"].values()]
        counts = np.sum(histograms, axis=0)
        color = STYLES[name]["color"]
        axes[0].stairs(counts / counts.sum(), BINS, label=name, linewidth=2, color=color)
        band(axes[1], *over_steps(runs[name], "zero"), name)
    axes[0].set(xlabel="advantage", ylabel="share of all trained completions")
    axes[1].set(xlabel="fresh completions", ylabel="share of groups without advantage", ylim=(0, 1))
    axes[0].legend()
    return figure


def tiers_picture(runs: list[dict]):
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    tiers = np.mean([run["tiers"] for run in runs], axis=0).T  # (3, steps)
    labels = ("hard", "medium", "easy")
    ax.stackplot(runs[0]["generated"][::4], tiers, labels=labels, alpha=0.8)
    ax.set(xlabel="fresh completions", ylabel="completions in AVATAR's buffer")
    ax.legend(title="tier of the prompt", loc="upper left", reverse=True)
    return figure


def weights_picture(completion: str):
    """The temporal weights of every shape over the tokens of one completion."""
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    weights = {shape: temporal_weights(mask, 0.3, shape)[0].tolist() for shape in SHAPES}

    figure, ax = plt.subplots(figsize=(15, 4), layout="constrained")
    ax.bar(range(len(ids)), weights["u"], color="#cccccc", label="u")
    for shape, dashes in zip(list(SHAPES)[1:], DASHES, strict=False):
        ax.plot(range(len(ids)), weights[shape], linestyle=dashes, label=shape)
    ax.set(
        xlabel="tokens of a held-out completion",
        ylabel="weight of the advantage (lambda 0.3)",
        ylim=(0.95, 1.35),
        xlim=(-1, len(ids)),
    )
    ax.set_xticks(range(len(ids)), [tokenizer.decode([i]) for i in ids], rotation=90, fontsize=8)
    ax.legend()
    return figure


def over_steps(runs: list[dict], key: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """(fresh completions, each run's smoothed values of `key` there), up to the end of the shortest
    run."""
    end = min(run["generated"][-1] for run in runs)
    x = np.linspace(runs[0]["generated"][0], end, 101)
    return x, [np.interp(x, run["generated"], smooth(run[key])) for run in runs]


def band(ax, x: np.ndarray, curves: list[np.ndarray], name: str) -> None:
    """The mean of curves over seeds, and one standard error on each side."""
    mean = np.mean(curves, axis=0)
    error = np.zeros(len(x))
    if len(curves) > 1:
        error = np.std(curves, axis=0, ddof=1) / math.sqrt(len(curves))
    ax.plot(x, mean, label=name, **STYLES[name])
    ax.fill_between(x, mean - error, mean + error, color=STYLES[name]["color"], alpha=0.15)
