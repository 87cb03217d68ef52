"""Does AVATAR's claim hold? Methods x seeds on the toy world, with intervals: sample efficiency, the paper's ablations, pictures.

    python bench/study.py                    # every run that is not in bench/results/study.jsonl yet, then the report; hours on 2 cores
    python bench/study.py --parts main       # one part of PARTS
    python bench/study.py --quick            # a small one into runs/study-quick; 20 minutes
    python bench/study.py --report           # tables and pictures alone, from the results that are there

A run is `train.py` with a cell's flags and one seed, on one core. Runs that were stopped go on where they were; finished ones are lines of study.jsonl and
are not run again. Every method first finds its own learning rate: the one of RATES with the best mean accuracy over all evaluations, on seeds of its own.

    completions to a target   where the mean curve over seeds, made non-decreasing by isotonic regression, first reaches it
    ratios, intervals         percentiles of a bootstrap over seeds, each method's drawn apart
    accuracy of a cell        mean of the last three evaluations, 95 % t-interval over seeds; differences are paired by seed
"""
import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent.parent))
import toy
from logs import BINS, plt
from tas import SHAPES

REPO = Path(__file__).parent.parent
SEEDS, TUNING = (0, 1, 2, 3, 4), (100, 101)
RATES = (2e-4, 4e-4, 8e-4)
TARGETS = (0.60, 0.65, 0.70, 0.75)


@dataclass(frozen=True)
class Cell:
    """One row of a table: a method with options. flags: of train.py. paper: its accuracy on OmniBench in the paper, where it has one."""
    name: str
    flags: tuple[str, ...]
    paper: float | None = None


def options(*rows: tuple[str, str, float | None]) -> list[Cell]:
    return [Cell(name, tuple(f"--method {flags}".split()), paper) for name, flags, paper in rows]


MAIN = options(("GRPO", "grpo", 45.4), ("GRPO, dynamic sampling", "grpo --dynamic_sampling 3", None), ("TAS only", "tas_only", 45.1),
               ("replay only", "replay_only", 47.8), ("AVATAR", "avatar", 49.1), ("AVATAR, no hints", "avatar --hint_patience 0 --hint_kl 0", None))
SHAPING = {"u": 49.1, "uniform": 47.8, "decay": 48.3, "incline": 48.5, "inverse": 46.5}
# Part: (the cell that the others are compared with, all cells). The same flags run once, whatever parts they stand in, so defaults are not spelled out.
PARTS: dict[str, tuple[str, list[Cell]]] = {
    "main": ("GRPO", MAIN),
    "shapes": ("u", options(*((s, "avatar" if s == "u" else f"avatar --tas_shape {s}", SHAPING[s]) for s in SHAPES))),
    "shapes of equal size": ("u", options(*((s, f"avatar --tas_shape {s} --tas_normalize true", SHAPING[s]) for s in SHAPES))),
    "fresh and replayed": ("4:4", options(*((f"{n}:{8 - n}", "avatar" if n == 4 else f"avatar --fresh {n} --replayed {8 - n}", None) for n in (8, 6, 4, 2)))),
    "lambda": ("0.3", options(*((str(x), "avatar" if x == 0.3 else f"avatar --tas_lambda {x}", None) for x in (0.1, 0.3, 0.5, 0.7, 0.9)))),
    "baseline of replay": ("VCRS", options(("VCRS", "avatar", None), ("group mean", "avatar --replay_baseline group", None))),
    "draws": ("by tier", options(("by tier", "avatar", None), ("uniform", "avatar --replay_draw uniform", None))),
    "hints": ("both rules", options(("both rules", "avatar", None), ("visits", "avatar --hint_kl 0", None), ("KL", "avatar --hint_patience 0", None),
                                    ("none", "avatar --hint_patience 0 --hint_kl 0", None))),
}


# ---------------------------------------------------------------------------------------------- running
@dataclass
class Plan:
    """Where and how long. common: flags of every run."""
    results: Path
    work: Path
    common: tuple[str, ...]
    seeds: tuple[int, ...] = SEEDS
    tuning: tuple[int, ...] = TUNING
    rates: tuple[float, ...] = RATES
    cores: int = 2


def name_of(flags: tuple[str, ...], rate: float, seed: int) -> str:
    return hashlib.sha256(json.dumps([flags, rate, seed]).encode()).hexdigest()[:16]


def read_results(file: Path) -> dict[str, dict]:
    """The runs that are done, by name_of; a torn last line is left out."""
    found = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[name_of(tuple(row["flags"]), row["rate"], row["seed"])] = row
    return found


def run(plan: Plan, flags: tuple[str, ...], rate: float, seed: int) -> dict:
    """One run of train.py from start, or from where it was stopped, to its end. Returns what `collect` keeps of it."""
    out = plan.work / name_of(flags, rate, seed)
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPO / "train.py"), *plan.common, *flags, "--lr", str(rate), "--seed", str(seed), "--out", str(out), "--device", "cpu",
               "--resume", "--save_every", "8", "--keep", "1", "--toy_dir", str(plan.work / "toy"), "--media_cache", str(plan.work / "media")]
    with (out / "log.txt").open("a") as log:
        ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT).returncode
    if ended:
        raise RuntimeError(f"{' '.join(command)} ended with {ended}; see {out / 'log.txt'}")
    row = {"flags": list(flags), "rate": rate, "seed": seed, "common": list(plan.common), **collect(out)}
    shutil.rmtree(out)
    return row


def collect(out: Path) -> dict:
    """Of a run's folder: evaluations [step, completions, CPU-seconds of training, accuracy], per step the reward, the share of groups without advantage and the
    completions by tier, and the histograms of advantages."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evals, cpu = [], 0.0
    for row in rows:
        if "eval_accuracy" in row:
            evals.append([row["step"], row["generated"], round(cpu, 1), round(row["eval_accuracy"], 5)])
        else:
            cpu += row["time_cpu"]
    steps = [row for row in rows if "loss" in row]
    logs = torch.load(out / "checkpoint" / "trainer" / "shared.pt", weights_only=True)["logs"]
    return {"evals": evals, "generated": [r["generated"] for r in steps], "reward": [round(r["reward"], 4) for r in steps],
            "zero": [round(r["zero_advantage_groups"] / r["groups"], 4) for r in steps],
            "tiers": [[r["tier_hard"], r["tier_medium"], r["tier_easy"]] for r in steps[::4]], "advantages": logs["advantages"]}


def run_all(plan: Plan, jobs: list[tuple[tuple[str, ...], float, int]]) -> None:
    """Run what is not done yet, one process per core, and append each result as it comes. Raises RuntimeError at the end when some have failed."""
    done, lock, failed = read_results(plan.results), threading.Lock(), []
    todo = [job for job in dict.fromkeys(jobs) if name_of(*job) not in done]
    plan.results.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def one(job):
        try:
            row = run(plan, *job)
        except RuntimeError as error:
            failed.append(str(error))
            print(f"failed: {error}", flush=True)
            return
        with lock, plan.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{(time.monotonic() - started) / 60:6.1f} min  {' '.join(job[0])} --lr {job[1]:g} --seed {job[2]}: {row['evals'][-1][3]:.3f}", flush=True)

    with ThreadPoolExecutor(plan.cores) as pool:
        list(pool.map(one, todo))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed, the first: {failed[0]}")


def tuned(done: dict[str, dict], plan: Plan, flags: tuple[str, ...], rate: float) -> float | None:
    """Mean accuracy over all evaluations but the first of the tuning seeds; None while one is missing."""
    runs = [done.get(name_of(flags, rate, s)) for s in plan.tuning]
    return None if None in runs else float(np.mean([e[3] for r in runs for e in r["evals"][1:]]))


def best_rate(done: dict[str, dict], plan: Plan, flags: tuple[str, ...]) -> float | None:
    """The learning rate of a method; None while a tuning run is missing."""
    scores = {rate: tuned(done, plan, flags, rate) for rate in plan.rates}
    return None if None in scores.values() else max(scores, key=scores.get)


# ---------------------------------------------------------------------------------------------- statistics
def mean_curve(runs: list[dict], axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, accuracy) of the mean over runs, non-decreasing; axis: "completions" or "cpu" (seconds). Where runs end at different x, up to the least of them."""
    column = {"completions": 1, "cpu": 2}[axis]
    ends = min(r["evals"][-1][column] for r in runs)
    x = np.linspace(0, ends, 201)
    mean = np.mean([np.interp(x, [e[column] for e in r["evals"]], [e[3] for e in r["evals"]]) for r in runs], axis=0)
    return x, isotonic_regression(mean).x


def reached(x: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """Where a non-decreasing curve first reaches the target, between points by a straight line; inf: it does not.

    >>> reached(np.array([0.0, 10.0, 20.0]), np.array([0.4, 0.5, 0.7]), 0.6), reached(np.array([0.0, 10.0]), np.array([0.4, 0.5]), 0.6)
    (15.0, inf)
    """
    i = int(np.searchsorted(accuracy, target - 1e-12))
    if i == len(x):
        return math.inf
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1]))


def saving(base: list[dict], runs: list[dict], target: float | None, axis: str, resamples: int = 2000, seed: int = 0) -> dict:
    """How many times less x `runs` needs than `base` to reach a target (None: the best that base reaches): {"target", "base", "ours", "ratio", "low", "high",
    "missed"}: at the mean curves, with the 95 % interval, and the share of resamples in which `runs` does not reach it (there the ratio counts as 0)."""
    rng = np.random.default_rng(seed)

    def once(some_base, some_runs):
        (x, y), ours = mean_curve(some_base, axis), mean_curve(some_runs, axis)
        wanted = y[-1] if target is None else target
        a, b = reached(x, y, wanted), reached(*ours, wanted)
        a = x[-1] if math.isinf(a) else a                    # a baseline that does not get there needs more than it had: a lower bound
        return wanted, a, b, a / b if b else math.inf
    wanted, a, b, ratio = once(base, runs)
    drawn = np.array([once([base[i] for i in rng.integers(len(base), size=len(base))], [runs[i] for i in rng.integers(len(runs), size=len(runs))])[3]
                      for _ in range(resamples)])
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return {"target": wanted, "base": a, "ours": b, "ratio": ratio, "low": float(low), "high": float(high), "missed": float(np.mean(drawn == 0))}


def final(run: dict) -> float:
    """Accuracy of a run: the mean of its last three evaluations."""
    return float(np.mean([e[3] for e in run["evals"][-3:]]))


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % t-interval) of independent values; of one value the half is infinite."""
    n = len(values)
    return float(np.mean(values)), float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf


def verdict(difference: float, half: float, paper: float | None) -> str:
    """What a difference with its interval says; paper: the difference that the paper reports, None: none."""
    if abs(difference) <= half:
        return "no difference"
    if paper is None:
        return "better" if difference > 0 else "worse"
    return "agrees" if (difference > 0) == (paper > 0) else "disagrees"


# ---------------------------------------------------------------------------------------------- the report
class Findings:
    """The results at hand. rates: the learning rate of every method of MAIN whose tuning is done; other cells are variants of AVATAR and use its rate."""

    def __init__(self, plan: Plan):
        self.plan, self.done = plan, read_results(plan.results)
        self.rates = {c.name: rate for c in MAIN if (rate := best_rate(self.done, plan, c.flags))}

    def runs(self, cell: Cell) -> list[dict]:
        rate = self.rates.get(cell.name, self.rates.get("AVATAR"))
        return [self.done[key] for s in self.plan.seeds if (key := name_of(cell.flags, rate, s)) in self.done]

    def main(self) -> dict[str, list[dict]]:
        return {c.name: runs for c in MAIN if (runs := self.runs(c))}


def table(title: str, text: str, head: list[str], rows: list[list[str]]) -> str:
    """A Markdown section; "" without rows."""
    lines = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    return f"## {title}\n\n{text}\n\n{lines}\n" if rows else ""


def rates_table(found: Findings) -> str:
    rows = []
    for cell in (c for c in MAIN if c.name in found.rates):
        scores = {rate: tuned(found.done, found.plan, cell.flags, rate) for rate in found.plan.rates}
        rows.append([cell.name, *(f"**{v:.3f}**" if rate == found.rates[cell.name] else f"{v:.3f}" for rate, v in scores.items())])
    seeds = ", ".join(map(str, found.plan.tuning))
    return table("Learning rates", f"Mean accuracy over all evaluations of seeds {seeds}; below each method runs at its best one.",
                 ["method", *(f"{rate:g}" for rate in found.plan.rates)], rows)


def savings_table(found: Findings, axis: str, unit: str) -> str:
    runs, rows = found.main(), []
    for name in [n for n in runs if n != "GRPO" and "GRPO" in runs]:
        for target in (*TARGETS, None):
            s = saving(runs["GRPO"], runs[name], target, axis)
            rows.append([name, f"{s['target']:.3f}" + (" (GRPO's best)" if target is None else ""), f"{s['base']:,.0f}",
                         "not reached" if math.isinf(s["ours"]) else f"{s['ours']:,.0f}", f"{s['ratio']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"])
    return table(f"{unit[0].upper()}{unit[1:]} to a target", f"How many {unit} the mean curve needs, and how many times as many GRPO needs, with the 95 % "
                 "interval over seeds (0: not reached). Where GRPO does not reach a target itself, all that it had is counted.",
                 ["method", "held-out accuracy", "GRPO", "method", "GRPO / method"], rows)


def cells_table(found: Findings, part: str) -> str:
    reference, cells = PARTS[part]
    first = next(c for c in cells if c.name == reference)
    base, rows = {r["seed"]: final(r) for r in found.runs(first)}, []
    for cell in cells:
        runs = found.runs(cell)
        both = [final(r) - base[r["seed"]] for r in runs if r["seed"] in base]
        if not both:
            continue
        mean, half = interval([final(r) for r in runs])
        difference, wide = interval(both)
        paper = None if None in (cell.paper, first.paper) else cell.paper - first.paper
        said = [f"{difference:+.3f} ± {wide:.3f}", "" if paper is None else f"{paper:+.1f}", verdict(difference, wide, paper)]
        rows.append([cell.name, str(len(runs)), f"{mean:.3f} ± {half:.3f}", *(["", "", ""] if cell is first else said)])
    return table(part.capitalize(), f"Held-out accuracy, and its difference from {reference} seed by seed, with 95 % intervals.",
                 ["cell", "seeds", "accuracy", f"less {reference}", "in the paper (points, OmniBench)", "verdict"], rows)


def pictures(found: Findings, folder: Path) -> None:
    """study-curves.png: accuracy and reward against completions and CPU-seconds; study-advantages.png: GRPO's and AVATAR's advantages, and the share of groups
    without any over time; study-tiers.png: what AVATAR's buffer holds."""
    runs = found.main()
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, some in runs.items():
        for ax, column in ((axes[0], 1), (axes[1], 2)):
            x = np.linspace(0, min(r["evals"][-1][column] for r in some), 101)
            band(ax, x, [np.interp(x, [e[column] for e in r["evals"]], [e[3] for e in r["evals"]]) for r in some], name)
        x = np.linspace(some[0]["generated"][0], min(r["generated"][-1] for r in some), 101)
        band(axes[2], x, [np.interp(x, r["generated"], smooth(r["reward"])) for r in some], name)
    for ax, title, label in zip(axes, ("held-out accuracy", "held-out accuracy", "reward of fresh completions"),
                                ("fresh completions", "CPU-seconds of training", "fresh completions"), strict=True):
        ax.set(title=title, xlabel=label)
    axes[0].legend(fontsize=8)
    figure.savefig(folder / "study-curves.png", dpi=90)

    pair = [name for name in ("GRPO", "AVATAR") if name in runs]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in pair:
        counts = np.sum([np.array(kind) for r in runs[name] for kind in r["advantages"].values()], axis=0)
        axes[0].stairs(counts / counts.sum(), BINS, label=name, linewidth=2)
        x = np.linspace(runs[name][0]["generated"][0], runs[name][0]["generated"][-1], 101)
        band(axes[1], x, [np.interp(x, r["generated"], smooth(r["zero"])) for r in runs[name]], name)
    axes[0].set(title="advantages of all trained completions", xlabel="A", ylabel="share")
    axes[1].set(title="share of groups without advantage", xlabel="fresh completions", ylim=(0, 1))
    axes[0].legend()
    figure.savefig(folder / "study-advantages.png", dpi=90)

    if "AVATAR" in runs:
        figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        held = np.mean([r["tiers"] for r in runs["AVATAR"]], axis=0)
        ax.stackplot(runs["AVATAR"][0]["generated"][::4], held.T, labels=("hard", "medium", "easy"), alpha=0.8)
        ax.set(title="completions in AVATAR's buffer", xlabel="fresh completions")
        ax.legend(loc="upper left")
        figure.savefig(folder / "study-tiers.png", dpi=90)
    plt.close("all")


def band(ax, x: np.ndarray, curves: list[np.ndarray], name: str) -> None:
    """The mean of curves over seeds, and one standard error on each side."""
    mean, error = np.mean(curves, axis=0), np.std(curves, axis=0, ddof=1) / math.sqrt(len(curves)) if len(curves) > 1 else np.zeros(len(x))
    line, = ax.plot(x, mean, label=name)
    ax.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.2)


def smooth(values: list[float], width: int = 5) -> np.ndarray:
    """Running means over up to `width` steps on either side together."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def report(plan: Plan, page: Path, folder: Path) -> None:
    """Write the tables between the two marks of `page`, made when there is none, and the pictures into `folder`."""
    found = Findings(plan)
    parts = [rates_table(found), savings_table(found, "completions", "fresh completions"), savings_table(found, "cpu", "CPU-seconds of training"),
             *(cells_table(found, part) for part in PARTS)]
    begin, end = "<!-- tables: written by bench/study.py -->", "<!-- end of the tables -->"
    text = page.read_text() if page.is_file() else f"# The study\n\n{begin}\n{end}\n"
    before, after = text.split(begin)[0], text.split(end)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{begin}\n\n" + "\n".join(p for p in parts if p) + f"\n{end}{after}")
    pictures(found, folder)
    print(f"{len(found.done)} runs; {page} and the pictures in {folder} are written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="runs at a time, one core each")
    parser.add_argument("--quick", action="store_true", help="GRPO and AVATAR, two seeds, 24 steps, 80 questions, into runs/study-quick")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    plan = Plan(REPO / "bench" / "results" / "study.jsonl", REPO / "runs" / "study", ("--stage", "2", "--steps", "80", "--eval_every", "4"), cores=args.cores)
    page, folder, cells = REPO / "bench" / "STUDY.md", REPO / "bench" / "results", [c for part in args.parts for c in PARTS[part][1]]
    if args.quick:
        work = REPO / "runs" / "study-quick"
        small = ("--stage", "2", "--steps", "24", "--eval_every", "4", "--toy_heldout", "40")
        plan = Plan(work / "study.jsonl", work, small, (0, 1), (100,), (4e-4, 8e-4), args.cores)
        page, folder, cells = work / "STUDY.md", work, [c for c in MAIN if c.name in ("GRPO", "AVATAR")]
    if not args.report:
        for split, clips in (("train", 256), ("heldout", 40 if args.quick else 160)):                # once, before several runs would
            toy.build(plan.work / "toy", 2, split, clips)
        methods = [c for c in MAIN if c in cells or c.name == "AVATAR"]
        run_all(plan, [(c.flags, rate, s) for c in methods for rate in plan.rates for s in plan.tuning])
        found = Findings(plan)
        run_all(plan, [(c.flags, found.rates.get(c.name, found.rates["AVATAR"]), s) for s in plan.seeds for c in cells])
    report(plan, page, folder)


if __name__ == "__main__":
    main()
