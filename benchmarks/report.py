"""benchmarks/report.py: tables and pictures of scores."""

import math
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from benchmarks.base import Metric
from benchmarks.results import BAD_MEDIA
from benchmarks.statistics import gain, significant
from benchmarks.table import BENCHMARKS

matplotlib.use("Agg")


def shown(value: float | None, percent: bool, sign: bool = False) -> str:
    return (
        "-"
        if value is None
        else f"{value * 100:{'+' if sign else ''}.1f}"
        if percent
        else f"{value:{'+' if sign else ''}.2f}"
    )


def line(name: str, found: dict, percent: bool) -> str:
    return f"  {name:<44} {shown(found['value'], percent):>6}  [{shown(found['low'], percent)}, {shown(found['high'], percent)}]  n {found['n']:,}"


def table(summary: dict) -> str:
    """A summary as text: metrics with intervals, splits, failures."""
    metrics = BENCHMARKS[summary["benchmark"]].metrics
    percent, lower = {m.name: m.percent for m in metrics}, {m.name for m in metrics if not m.higher}
    lines = [
        f"{summary['title']}: {summary['n']:,} items about {summary['videos']:,} videos, {summary['settings']['model'] or 'the bundled model'}, "
        f"--prompt {summary['settings']['prompt']}",
        f"scored by: {summary['rule']}",
    ]
    lines += [
        line(name, found, percent[name]) + ("" if name not in lower else ", lower is better")
        for name, found in summary["metrics"].items()
    ]
    settings = summary["settings"]
    lines.append(
        f"  at most {settings['max_frames']} frames of {settings['max_pixels']:,} pixels at {settings['fps']:g} per second, "
        f"{'with' if settings['use_audio'] else 'without'} the sound of videos, replies of at most {settings['max_completion_tokens']:,} tokens, "
        + (f"temperature {settings['temperature']:g}" if settings["temperature"] else "greedy")
    )
    lines.append(
        "  " + ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    )
    for name, values in summary["splits"].items():
        lines.append(f"by {name}")
        for value, found in values.items():
            lines += [
                line(
                    f"{value}, {metric}" if len(found) > 1 else value,
                    one,
                    percent.get(metric, True),
                )
                for metric, one in found.items()
            ]
    for failure, n in summary["failures"].items():
        one = next(f for f in summary["failed"] if f["failure"] == failure)
        lines.append(
            f"wrong because of: {failure}: {n:,}, e.g. "
            + (one["id"] if one["reason"] == failure else one["reason"])
            + (" (mended? --retry asks them again)" if failure == BAD_MEDIA else "")
        )
    for kind, what in (
        ("silent", "about a video without sound"),
        ("cut", "with sound cut at --max_sound"),
    ):
        if n := summary["sound"].get(kind):
            lines.append(f"asked {what}: {n:,}")
    if summary["unjudged"]:
        lines.append(f"not scored, waiting for a --judge: {summary['unjudged']:,} open answers")
    if summary["size"] and summary["there"] != summary["size"]:
        lines.append(
            f"the benchmark has {summary['size']:,} items as published, these files {summary['there']:,}"
        )
    if summary["left_out"]:
        lines.append(
            f"left out, because the files do not say what is right: {len(summary['left_out']):,}, e.g. {summary['left_out'][0]['id']}: "
            f"{summary['left_out'][0]['reason']}"
        )
    return "\n".join(lines)


def comparison(cells: dict[str, dict[str, dict]], names: list[str]) -> str:
    """The table of `compare` in Markdown."""
    first = next(iter(cells.values()))
    lines = [
        "| | "
        + " | ".join(f"{BENCHMARKS[name].title} ({first[name]['n']:,})" for name in names)
        + " |",
        "|" + "---|" * (len(names) + 1),
    ]
    for run, row in cells.items():
        texts = []
        for name in names:
            cell, percent = row[name], BENCHMARKS[name].metrics[0].percent
            text = shown(cell["value"], percent)
            if found := cell.get("gain"):
                text += f" ({shown(found['value'], percent, True)}{'' if significant(found) else '†'} [{shown(found['low'], percent, True)}, "
                text += f"{shown(found['high'], percent, True)}])"
            else:
                text += f" [{shown(cell['low'], percent)}, {shown(cell['high'], percent)}]"
            texts.append(text)
        lines.append(f"| {run} | " + " | ".join(texts) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "In brackets: the 95 % interval of the score, or of the gain over the first row, in pairs. † not significant: the "
            "interval holds 0.",
        ]
    )


def by_length(
    runs: dict, base: str, names: list[str], edges: list[int], resamples: int
) -> dict[str, list[dict]]:
    """Figure 6 of the paper: {run: [{low_tokens, high_tokens, and `gain`'s fields}]}, items grouped by how many tokens the run reasons for; those of all
    benchmarks together that score answers one by one."""
    metric, out = Metric("accuracy"), {}
    pools = {
        run: [
            row | {"id": f"{name}/{row['id']}", "video": f"{name}/{row['video']}"}
            for name in names
            for row in found[name]
            if row["parts"].get("score") is not None
        ]
        for run, found in runs.items()
    }
    before = {row["id"]: row for row in pools[base]}
    for run in [run for run in runs if run != base]:
        for low, high in zip([0, *edges], [*edges, math.inf], strict=True):
            some = [
                row
                for row in pools[run]
                if low <= row["reasoning_tokens"] < high and row["id"] in before
            ]
            if some:
                found = gain([before[row["id"]] for row in some], some, metric, resamples)
                out.setdefault(run, []).append(
                    {"low_tokens": low, "high_tokens": None if high == math.inf else high, **found}
                )
    return out


def length_table(found: dict[str, list[dict]]) -> str:
    return "\n".join(
        f"{run}, {group_name(g)}: {shown(g['value'], True, True)}{'' if significant(g) else '†'} [{shown(g['low'], True, True)}, "
        f"{shown(g['high'], True, True)}], n {g['n']:,}"
        for run, groups in found.items()
        for g in groups
    )


def group_name(group: dict) -> str:
    return (
        f"{group['low_tokens']}+ tokens"
        if group["high_tokens"] is None
        else f"{group['low_tokens']}-{group['high_tokens'] - 1} tokens"
    )


def bars(axes, values: list[dict], places: list[float], width: float, label: str) -> None:
    """Bars with their intervals, in percent."""
    heights = [100 * v["value"] for v in values]
    wings = [
        [
            0.0 if v[side] is None else abs(100 * v[side] - h)
            for v, h in zip(values, heights, strict=True)
        ]
        for side in ("low", "high")
    ]
    axes.bar(places, heights, width, yerr=wings, capsize=3, label=label)


def plot_scores(cells: dict[str, dict[str, dict]], names: list[str], path: Path) -> None:
    """compare.png: a group of bars per benchmark, of those whose headline is a share."""
    names, width = [name for name in names if BENCHMARKS[name].metrics[0].percent], 0.8 / len(cells)
    figure, axes = plt.subplots(figsize=(2 + 1.6 * len(names), 4), layout="constrained")
    for i, (run, row) in enumerate(cells.items()):
        bars(
            axes,
            [row[name] for name in names],
            [x + i * width for x in range(len(names))],
            width,
            run,
        )
    axes.set(
        xticks=[x + 0.4 - width / 2 for x in range(len(names))],
        xticklabels=[BENCHMARKS[name].title for name in names],
        ylabel="score, 95 % interval",
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_by_length(found: dict[str, list[dict]], path: Path) -> None:
    """by_length.png: the gain over the base in groups of reasoning length."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    order = {group_name(g): g["low_tokens"] for groups in found.values() for g in groups}
    labels, width = sorted(order, key=order.get), 0.8 / max(1, len(found))
    for i, (run, groups) in enumerate(found.items()):
        bars(axes, groups, [labels.index(group_name(g)) + i * width for g in groups], width, run)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        xticks=[x + 0.4 - width / 2 for x in range(len(labels))],
        xticklabels=labels,
        ylabel="gain in accuracy, 95 % interval",
        xlabel="reasoning",
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
