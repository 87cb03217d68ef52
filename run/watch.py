"""run/watch.py: a run that is going on, from another terminal.

    python -m run.watch runs/stage2-avatar-seed0          # until Ctrl-C, or the run's end
    python -m run.watch runs/stage2-avatar-seed0 --once
    python -m run.watch runs/stage2-avatar-seed0 --all    # every column of metrics.jsonl

Prints for each column of metrics.jsonl its newest number and a sparkline of its last steps:
METRICS first, then all others that are not in DETAILS. A column that you add is printed at once.
"""

import math
import sys
import time
from pathlib import Path

from engine.run_folder import settings_in
from formats.sample import DataError
from run.flags import Parser, number_in, take_any_bytes
from run.metrics import is_drawable, is_step, read_metrics

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # steps in a sparkline
METRICS = (  # printed first, in this order
    "reward",
    "accuracy",
    "eval_accuracy",
    "loss",
    "kl",
    "entropy",
    "ratio_max",
    "clip_fraction",
    "zero_advantage_groups",
    "hints",
    "grad_norm",
    "speed_generated",
    "speed_trained",
    "speed_mfu",
    "time_tail_max",
    "memory_gb",
)
DETAILS = (  # printed with --all; a name that ends in "_" stands for all that begin with it
    "step",
    "stage",
    "generated",
    "seconds",
    "eval_",
    "ratio_mean",
    "ratio_mean_replayed",
    "log_ratio_squared",
    "kl_behaviour",
    "effective_sample_fraction",
    "clip_fraction_age_",
    "replay_age",
    "replayed",
    "replayed_age_",
    "buffer_size",
    "tier_",
    "sampler_difference_max",
    "sampler_correlation",
    "groups",
    "updates_per_prompt",
    "trained_tokens",
    "update_flops",
    "judge_missing",
    "bad_media",
    "too_long",
    "skipped",
    "lr",
    "time_",
)
CLEAR = "\033[2J\033[H"


def sparkline(values: list[float | None]) -> str:
    """One bar per value, from the lowest to the highest; a gap where there is none.

    >>> sparkline([0, 1, None, 7])
    '▁▂ █'
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    bars = []
    for value in values:
        if value is None or not math.isfinite(value):
            bars.append(" ")
            continue
        share = (value - low) / (high - low) if high > low else 0.0
        bars.append(BARS[round(share * (len(BARS) - 1))])
    return "".join(bars)


def read_lines(file: Path) -> tuple[list[dict], int]:
    """The whole lines of metrics.jsonl, and how many are damaged. Raises DataError where there is
    no such file."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; pass the folder of a run")
    try:
        return read_metrics(file)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); see to its permissions"
        ) from None


def is_detail(name: str) -> bool:
    """Is this a column that DETAILS names?

    >>> is_detail("tier_hard"), is_detail("lr"), is_detail("lr_towers")
    (True, True, False)
    """
    beginnings = tuple(detail for detail in DETAILS if detail.endswith("_"))
    return name in DETAILS or name.startswith(beginnings)


def numbers_by_column(lines: list[dict]) -> dict[str, list[float]]:
    """The numbers of each column, METRICS first, then the others as they stand in the log. A column
    without a number is left out."""
    columns: dict[str, list[float]] = {name: [] for name in METRICS}
    for line in lines:
        for name, value in line.items():
            numbers = columns.setdefault(name, [])
            if is_drawable(value):
                numbers.append(value)
    return {name: values for name, values in columns.items() if values}


def report(lines: list[dict], total: int, everything: bool = False) -> str:
    """What is printed. total: the steps of the run; 0: not known. everything: DETAILS, too."""
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return "no step is done yet"
    newest = steps[-1]
    of = f" of {total}" if total else ""
    rows = [f"step {newest['step'] + 1}{of}, {newest.get('generated', 0):,} completions"]
    columns = numbers_by_column(lines)
    shown = [name for name in columns if everything or name in METRICS or not is_detail(name)]
    width = max(map(len, shown), default=0)
    for name in shown:
        values = columns[name]
        rows.append(f"{name:>{width}} {values[-1]:>10.4g}  {sparkline(values[-WIDTH:])}")
    if len(shown) < len(columns):
        rows.append(f"({len(columns) - len(shown)} more columns: --all)")
    return "\n".join(rows)


def total_steps(folder: Path) -> int:
    """--steps of the run; 0 where it goes once over the data, or is not known."""
    steps = settings_in(folder / "config.json").get("steps")
    return steps if is_step(steps) else 0


def main(argv: list[str]) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--once", action="store_true", help="print once, and end")
    parser.add_argument("--all", action="store_true", help="every column, not the usual ones alone")
    parser.add_argument(
        "--every", type=number_in(float, 0.1, 86_400), default=5.0, help="seconds between two looks"
    )
    args = parser.parse_args(argv)

    total = total_steps(args.run)
    while True:
        lines, n_bad = read_lines(args.run / "metrics.jsonl")
        clear = CLEAR if sys.stdout.isatty() and not args.once else ""
        print(f"{clear}{args.run}\n{report(lines, total, args.all)}", flush=True)
        if n_bad:
            print(f"(damaged lines of metrics.jsonl, left out: {n_bad})", flush=True)
        done = max((line["step"] for line in lines if "loss" in line), default=-1) + 1
        if args.once or 0 < total <= done:
            return
        time.sleep(args.every)


if __name__ == "__main__":
    take_any_bytes()
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
