"""benchmarks/report.py: tables and pictures of scores.

`table` shows one run. The others compare runs: `comparison` and `plot_scores` by benchmark,
`length_table` and `plot_by_length` by the length of the reasoning, Figure 6 of the paper.

matplotlib is imported by the two functions that draw, not above: it takes a third of a second, and
eval.py must answer --help at once.
"""

from pathlib import Path

from benchmarks.base import Metric
from benchmarks.results import BAD_MEDIA
from benchmarks.statistics import FEW, gain, significant
from benchmarks.table import BENCHMARKS

NOT_SIGNIFICANT = "†"


def format_value(value: float | None, percent: bool, sign: bool = False) -> str:
    """A score as text.

    >>> format_value(0.5, percent=True), format_value(0.5, percent=False, sign=True)
    ('50.0', '+0.50')
    """
    if value is None:
        return "-"
    plus = "+" if sign else ""
    return f"{value * 100:{plus}.1f}" if percent else f"{value:{plus}.2f}"


def format_interval(measured: dict, percent: bool, sign: bool = False) -> str:
    low = format_value(measured["low"], percent, sign)
    high = format_value(measured["high"], percent, sign)
    return f"[{low}, {high}]"


def format_gain(gain: dict, percent: bool) -> str:
    """A gain with its interval, marked where that holds 0: "+2.5† [-4.0, +9.0]"."""
    mark = "" if significant(gain) else NOT_SIGNIFICANT
    return (
        f"{format_value(gain['value'], percent, sign=True)}{mark} "
        f"{format_interval(gain, percent, sign=True)}"
    )


# ------------------------------------------------------------------------------ one run as a table
def table(summary: dict) -> str:
    """A summary as text: settings, metrics with intervals, splits, failures."""
    metrics = {metric.name: metric for metric in BENCHMARKS[summary["benchmark"]].metrics}
    lines = [
        f"{summary['title']}: {summary['n']:,} items about {summary['videos']:,} videos, "
        f"{summary['settings']['model'] or 'the bundled model'}, "
        f"--prompt {summary['settings']['prompt']}",
        f"scored by: {summary['rule']}",
    ]
    for name, measured in summary["metrics"].items():
        note = "" if metrics[name].higher else ", lower is better"
        lines.append(metric_line(name, measured, metrics[name].percent) + note)
    lines += settings_lines(summary)
    lines += split_lines(summary, metrics)
    lines += failure_lines(summary)
    lines += incomplete_lines(summary)
    return "\n".join(lines)


def metric_line(name: str, measured: dict, percent: bool) -> str:
    """A score with its interval, and on how many videos it stands where they are fewer than FEW."""
    value = format_value(measured["value"], percent)
    few = f" of {measured['videos']} videos" if measured["videos"] < FEW else ""
    interval = format_interval(measured, percent)
    return f"  {name:<44} {value:>6}  {interval}  n {measured['n']:,}{few}"


def settings_lines(summary: dict) -> list[str]:
    """What the model was shown, how it answered, and the versions that it ran on."""
    settings = summary["settings"]
    sound = "with" if settings["use_audio"] else "without"
    sampling = f"temperature {settings['temperature']:g}" if settings["temperature"] else "greedy"
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        f"  at most {settings['max_frames']} frames of {settings['max_pixels']:,} pixels at "
        f"{settings['fps']:g} per second, {sound} the sound of videos, replies of at most "
        f"{settings['max_completion_tokens']:,} tokens, {sampling}",
        f"  {versions}",
    ]


def split_lines(summary: dict, metrics: dict[str, Metric]) -> list[str]:
    lines = []
    for label, by_value in summary["splits"].items():
        lines.append(f"by {label}")
        for value, by_metric in by_value.items():
            for name, measured in by_metric.items():
                # A split of a mean of means has a plain mean, which is none of the metrics
                percent = metrics[name].percent if name in metrics else True
                title = f"{value}, {name}" if len(by_metric) > 1 else value
                lines.append(metric_line(title, measured, percent))
    return lines


def failure_lines(summary: dict) -> list[str]:
    """Each kind of failure with its number and one example."""
    lines = []
    for failure, n in summary["failures"].items():
        example = next(entry for entry in summary["failed"] if entry["failure"] == failure)
        has_reason = example["reason"] != failure
        text = example["reason"] if has_reason else example["id"]
        advice = " (mended? --retry asks them again)" if failure == BAD_MEDIA else ""
        lines.append(f"wrong because of: {failure}: {n:,}, e.g. {text}{advice}")
    return lines


def incomplete_lines(summary: dict) -> list[str]:
    """In what the run falls short of the whole benchmark: sound, judge, items."""
    # items that were asked without what belongs to them
    lines = []
    silent = summary["sound"].get("silent")
    if silent:
        lines.append(f"asked about a video without sound: {silent:,}")
    cut = summary["sound"].get("cut")
    if cut:
        lines.append(f"asked with sound cut at --max_sound: {cut:,}")

    if summary["videos"] < FEW:
        lines.append(
            f"only {summary['videos']} videos: intervals are wide, and from fewer than {FEW} none "
            "is significant"
        )
    if summary["cut_replies"]:
        longest = summary["settings"]["max_completion_tokens"]
        n = summary["cut_replies"]
        lines.append(f"replies cut at {longest:,} tokens (--max_completion_tokens): {n:,}")

    # items that have no score: not yet, or never
    if summary["unjudged"] and BENCHMARKS[summary["benchmark"]].judge:
        lines.append(f"not scored, waiting for a --judge: {summary['unjudged']:,} open answers")
    elif summary["unjudged"]:
        lines.append(
            f"not scored: {summary['unjudged']:,} open answers; the benchmark has neither a judge "
            "nor a score for them (benchmarks/base.py)"
        )
    if summary["size"] and summary["there"] != summary["size"]:
        lines.append(
            f"the benchmark has {summary['size']:,} items as published, these files "
            f"{summary['there']:,}"
        )
    if summary["left_out"]:
        example = summary["left_out"][0]
        lines.append(
            "left out, because the files do not say what is right: "
            f"{len(summary['left_out']):,}, e.g. {example['id']}: {example['reason']}"
        )
    return lines


# ------------------------------------------------------------------------------ runs side by side
def comparison(cells: dict[str, dict[str, dict]], benchmarks: list[str]) -> str:
    """The paper's table in Markdown: a row per run, a column per benchmark.

    cells: {run: {benchmark: `measured`, and "gain" in all runs but the first}}.
    """
    base = next(iter(cells.values()))
    titles = [f"{BENCHMARKS[name].title} ({base[name]['n']:,})" for name in benchmarks]
    lines = [f"| | {' | '.join(titles)} |", "|" + "---|" * (len(benchmarks) + 1)]

    # the first run has its own interval in brackets, each other one its gain
    for run, by_benchmark in cells.items():
        texts = [run]
        for name in benchmarks:
            cell = by_benchmark[name]
            percent = BENCHMARKS[name].metrics[0].percent
            beside = format_interval(cell, percent)
            if "gain" in cell:
                beside = f"({format_gain(cell['gain'], percent)})"
            texts.append(f"{format_value(cell['value'], percent)} {beside}")
        lines.append(f"| {' | '.join(texts)} |")
    legend = (
        "In brackets: the 95 % interval of the score, or of the gain over the first row, in pairs. "
        f"{NOT_SIGNIFICANT} not significant: the interval holds 0, or is of fewer than {FEW} "
        "videos."
    )
    return "\n".join([*lines, "", legend])


def by_length(
    runs: dict[str, dict[str, list[dict]]], base: str, edges: list[int], resamples: int
) -> dict[str, list[dict]]:
    """The gain over the base by the length of a run's reasoning, Figure 6 of the paper.

    runs: {run: {benchmark: results}}. Items of all benchmarks are pooled, those that are scored
    one by one. edges: where the groups of lengths end, in tokens. Returns {run: [group]}, a group
    being {low_tokens, high_tokens (None: no end)} and `gain`'s fields.
    """
    metric = Metric("accuracy")
    of_base = {result["id"]: result for result in pooled(runs[base])}
    starts = [0, *edges]
    ends = [*edges, None]

    groups: dict[str, list[dict]] = {}
    for run in runs:
        if run == base:
            continue
        results = [result for result in pooled(runs[run]) if result["id"] in of_base]
        for low, high in zip(starts, ends, strict=True):
            # The run's own length, not the base's: the question is what its longer reasoning brings
            inside = [result for result in results if is_between(result, low, high)]
            if inside:
                before = [of_base[result["id"]] for result in inside]
                group = {"low_tokens": low, "high_tokens": high}
                group |= gain(before, inside, metric, resamples)
                groups.setdefault(run, []).append(group)
    return groups


def pooled(by_benchmark: dict[str, list[dict]]) -> list[dict]:
    """The scored results of all benchmarks; ids and videos get their benchmark's name in front."""
    pool = []
    for name, results in by_benchmark.items():
        for result in results:
            if result["parts"].get("score") is not None:
                unique = {
                    "id": f"{name}/{result['id']}",
                    "video": f"{name}/{result['video']}",
                }
                pool.append(result | unique)
    return pool


def is_between(result: dict, low: int, high: int | None) -> bool:
    """Is the reasoning's length in [low, high)?"""
    return low <= result["reasoning_tokens"] and (high is None or result["reasoning_tokens"] < high)


def group_name(group: dict) -> str:
    if group["high_tokens"] is None:
        return f"{group['low_tokens']}+ tokens"
    return f"{group['low_tokens']}-{group['high_tokens'] - 1} tokens"


def length_table(groups: dict[str, list[dict]]) -> str:
    """`by_length` as text, a line per group."""
    lines = []
    for run in groups:
        for group in groups[run]:
            text = format_gain(group, percent=True)
            lines.append(f"{run}, {group_name(group)}: {text}, n {group['n']:,}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------ pictures
def plot_scores(cells: dict[str, dict[str, dict]], benchmarks: list[str], path: Path) -> None:
    """compare.png: a group of bars per benchmark, of the benchmarks that are scored in percent."""
    benchmarks = [name for name in benchmarks if BENCHMARKS[name].metrics[0].percent]
    titles = [BENCHMARKS[name].title for name in benchmarks]
    bars = {}
    for run, by_benchmark in cells.items():
        titled = zip(titles, benchmarks, strict=True)
        bars[run] = {title: by_benchmark[name] for title, name in titled}
    plot_bars(bars, titles, path, width=2 + 1.6 * len(benchmarks), ylabel="score, 95 % interval")


def plot_by_length(groups: dict[str, list[dict]], path: Path) -> None:
    """by_length.png: the gain over the base in groups of reasoning length."""
    bars = {}
    starts = {}
    for run in groups:
        bars[run] = {group_name(group): group for group in groups[run]}
        starts |= {group_name(group): group["low_tokens"] for group in groups[run]}
    names = sorted(starts, key=starts.get)
    plot_bars(
        bars, names, path, width=7, ylabel="gain in accuracy, 95 % interval", xlabel="reasoning"
    )


def plot_bars(
    bars: dict[str, dict[str, dict]], names: list[str], path: Path, width: float, **axis_labels
) -> None:
    """Bars with their intervals in percent, side by side above each name, a colour per run.

    bars: {run: {name: `measured` or `gain`}}; a run may have no bar above some name.
    """
    import matplotlib

    matplotlib.use("Agg")  # files only: there may be no screen
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, 4), layout="constrained")
    bar_width = 0.8 / max(1, len(bars))
    for i, (run, by_name) in enumerate(bars.items()):
        x = [names.index(name) + i * bar_width for name in by_name]
        heights = [100 * measured["value"] for measured in by_name.values()]
        below = [interval_wing(measured, "low") for measured in by_name.values()]
        above = [interval_wing(measured, "high") for measured in by_name.values()]
        axes.bar(x, heights, bar_width, yerr=[below, above], capsize=3, label=run)

    axes.axhline(0, color="black", linewidth=0.8)
    ticks = [x + 0.4 - bar_width / 2 for x in range(len(names))]
    axes.set(xticks=ticks, xticklabels=names, **axis_labels)
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def interval_wing(measured: dict, side: str) -> float:
    """How far the interval reaches from the value to its "low" or "high", in percent; 0 where there
    is no interval."""
    if measured[side] is None:
        return 0.0
    return abs(100 * measured[side] - 100 * measured["value"])
