"""Does AVATAR's claim hold? Methods x seeds on the toy world, with intervals: sample efficiency, the paper's ablations, pictures.

    python bench/study.py                    # every run that is not in bench/results/study.jsonl yet, then the report; hours on 2 cores
    python bench/study.py --parts methods    # one part of PARTS
    python bench/study.py --quick            # a small one into runs/study-quick
    python bench/study.py --report           # tables and pictures alone, from the results that are there

A run is `train.py` with a cell's flags and one seed, on one core. Runs that were stopped go on where they were; finished ones are lines of study.jsonl and
are not run again. Every method first finds its own learning rate on other seeds: upward through RATES, until the mean accuracy over all evaluations gets worse.

    completions to a target   where the mean curve over seeds, made non-decreasing by isotonic regression, first reaches it
    ratios, intervals         percentiles of a bootstrap over seeds, each method's drawn apart
    accuracy of a cell        mean of the last three evaluations, 95 % t-interval over seeds; differences are paired by seed
"""

import argparse
import hashlib
import itertools
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

sys.path.insert(0, str(Path(__file__).parent.parent))
from scipy.optimize import isotonic_regression
from scipy.stats import t as student

import toy
from config import METHODS
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from run.logs import BINS, plt
from tas import SHAPES, temporal_weights

REPO = Path(__file__).parent.parent
SEEDS, TUNING = (0, 1, 2, 3, 4), (100, 101)
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
TARGETS = (0.60, 0.65, 0.70, 0.75)


@dataclass(frozen=True)
class Cell:
    """One row of a table: a method with options. flags: of train.py. paper: its accuracy on OmniBench in the paper, where it has one. like: the method whose
    learning rate it uses; empty: it has one of its own."""

    name: str
    flags: tuple[str, ...]
    paper: float | None = None
    like: str = "GRPO"


def cell(
    name: str, flags: str, length: str, paper: float | None = None, like: str = "GRPO"
) -> Cell:
    return Cell(name, tuple(f"--method {flags} {length}".split()), paper, like)


def variants(*rows: tuple, length: str = "--steps 32 --eval_every 8") -> list[Cell]:
    """Cells of AVATAR: (name, flags, accuracy in the paper if any). Half as long as the methods, while they still learn and differences can show; at
    GRPO's learning rate, at which AVATAR's seeds agree best."""
    return [cell(name, flags, length, *paper) for name, flags, *paper in rows]


# 8 fresh completions of each prompt: 10,240 in 80 steps; the paper's 4: 4,096 in 64; 2: 2,048 in 64. Dynamic sampling draws up to three times per step.
# Four rows keep the comparison honest. A run's learning rate falls to its end, so a short run is not the beginning of a long one: the short GRPO and the short
# AVATAR, each half as long, show what that alone gives. AVATAR asks for 2 completions, averages over tokens and has no KL term: another GRPO shows what these
# alone give. And learning rates found on two seeds are uncertain: one row has AVATAR at the rate that GRPO found.
LONG, HALF, SHORT = (
    "--steps 80 --eval_every 5",
    "--steps 40 --eval_every 5",
    "--steps 64 --eval_every 8",
)
MAIN = [
    cell("GRPO", "grpo", LONG, 45.4, ""),
    cell("GRPO, short", "grpo", HALF),
    cell(
        "GRPO, token mean, 2 completions, no KL",
        "grpo --loss_norm token --fresh 2 --beta 0",
        "--steps 128 --eval_every 16",
        None,
        "",
    ),
    cell("GRPO, dynamic sampling", "grpo --dynamic_sampling 2", HALF, None, ""),
    cell("TAS only", "tas_only", LONG, 45.1, ""),
    cell("AVATAR as in the paper", "avatar_paper", SHORT, 49.1, ""),
    *variants(
        ("replay only", "replay_only", 47.8, ""),
        ("AVATAR", "avatar", 49.1, ""),
        ("AVATAR at GRPO's rate", "avatar"),
        ("AVATAR, no hints", "avatar --hint_patience 0 --hint_kl 0", None, "AVATAR"),
        length=SHORT,
    ),
    *variants(("AVATAR, short", "avatar", None, "")),
]
CONTROLS = {
    "GRPO, short",
    "GRPO, token mean, 2 completions, no KL",
    "AVATAR, short",
}  # in a picture of their own
STYLES = {
    c.name: {"color": f"C{i}" if i < 10 else "black", "linestyle": "--" if c.like else "-"}
    for i, c in enumerate(MAIN)
}  # dashed: another's rate
QUICK = [
    cell("GRPO", "grpo", "--steps 32 --eval_every 4", None, ""),
    cell("AVATAR", "avatar", "--steps 24 --eval_every 4", None, ""),
]
SHAPING = {"u": 49.1, "uniform": 47.8, "decay": 48.3, "incline": 48.5, "inverse": 46.5}
# In 32 steps the 512 questions of 256 clips come once each: no hint is due, and Rbar(q) is the mean of the replayed group. Those of 24 clips come 10 times.
FEW = "--steps 32 --eval_every 8 --toy_clips 24"
# Part: (the cell that the others are compared with, all cells). The same flags run once, whatever parts they stand in, so defaults are not spelled out.
PARTS: dict[str, tuple[str, list[Cell]]] = {
    "methods": ("GRPO", MAIN),
    "shapes": (
        "u",
        variants(
            *((s, "avatar" if s == "u" else f"avatar --tas_shape {s}", SHAPING[s]) for s in SHAPES)
        ),
    ),
    "shapes of equal size": (
        "u",
        variants(
            *(
                (
                    s,
                    f"avatar --tas_shape {s}{' --tas_normalize true' if s != 'uniform' else ''}",
                    SHAPING[s],
                )
                for s in SHAPES
            )
        ),
    ),
    "fresh and replayed": (
        "4:4",
        variants(
            *(
                (f"{n}:{8 - n}", "avatar" if n == 2 else f"avatar --fresh {n} --replayed {8 - n}")
                for n in (8, 6, 4, 2)
            )
        ),
    ),
    "groups replayed per prompt": (
        "1",
        variants(
            *((x, "avatar" if x == "1" else f"avatar --replay_groups {x}") for x in ("1", "2"))
        ),
    ),
    "lambda": (
        "0.3",
        variants(
            *(
                (str(x), "avatar" if x == 0.3 else f"avatar --tas_lambda {x}")
                for x in (0.1, 0.3, 0.5, 0.7, 0.9)
            )
        ),
    ),
    "baseline of replay": (
        "VCRS",
        variants(("VCRS", "avatar"), ("group mean", "avatar --replay_baseline group"), length=FEW),
    ),
    "draws": (
        "by tier",
        variants(("by tier", "avatar --replay_draw tiers"), ("uniform", "avatar")),
    ),
    "shift of replay": (
        "0.2",
        variants(
            *(
                (x, "avatar" if x == "0.2" else f"avatar --replay_shift {x}")
                for x in ("0", "0.2", "0.4")
            )
        ),
    ),
    "start of replay": (
        "256",
        variants(
            *((x, "avatar" if x == "256" else f"avatar --replay_min {x}") for x in ("64", "256"))
        ),
    ),
    "mean of the loss": (
        "tokens",
        variants(("tokens", "avatar"), ("completions", "avatar --loss_norm sequence")),
    ),
    "ratios": (
        "truncated",
        variants(
            ("truncated", "avatar"),
            ("clipped", "avatar --clip ppo"),
            ("CISPO", "avatar --clip cispo"),
        ),
    ),
    "hints": (
        "both rules",
        variants(
            ("both rules", "avatar"),
            ("visits", "avatar --hint_kl 0"),
            ("KL", "avatar --hint_patience 0"),
            ("none", "avatar --hint_patience 0 --hint_kl 0"),
            length=FEW,
        ),
    ),
    "the paper's setting": (
        "as in the paper",
        variants(
            *(
                (name, f"avatar_paper {flags}", paper, "AVATAR as in the paper")
                for name, flags, paper in (
                    ("as in the paper", "", SHAPING["u"]),
                    ("uniform weights", "--tas_shape uniform", SHAPING["uniform"]),
                    ("group mean instead of VCRS", "--replay_baseline group", None),
                    ("uniform draws", "--replay_draw uniform", None),
                )
            ),
            length=SHORT,
        ),
    ),
}
LENGTHS = {
    c.name: c for c in PARTS["shapes"][1] if c.name in ("u", "uniform")
}  # whose last answers are kept, to set gains against length
CURRICULUM = cell("curriculum", "avatar", "--stage 1,2,3 --steps 48 --eval_every 0")
PAPER_CURRICULUM = (45.8, 47.2, 48.6, 49.1)  # OmniBench after the cold start, stage 1, 2, 3


# ---------------------------------------------------------------------------------------------- running
@dataclass
class Plan:
    """Where and what. common: flags of every run; methods: what is compared with each other at large."""

    results: Path
    work: Path
    common: tuple[str, ...] = ()
    methods: tuple[Cell, ...] = tuple(MAIN)
    seeds: tuple[int, ...] = SEEDS
    tuning: tuple[int, ...] = TUNING
    rates: tuple[float, ...] = RATES
    cores: int = 2


def preset_of(flags: tuple[str, ...]) -> dict:
    """What the --method of these flags stands for. A result counts for as long as its method means what it meant then."""
    return METHODS[flags[flags.index("--method") + 1]]


def name_of(flags: tuple[str, ...], rate: float, seed: int, preset: dict | None = None) -> str:
    return hashlib.sha256(
        json.dumps([flags, rate, seed, preset or preset_of(flags)]).encode()
    ).hexdigest()[:16]


def read_results(file: Path) -> dict[str, dict]:
    """The runs that are done, by name_of; a torn last line is left out."""
    found = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[name_of(tuple(row["flags"]), row["rate"], row["seed"], row["preset"])] = row
    return found


def run(plan: Plan, flags: tuple[str, ...], rate: float, seed: int) -> dict:
    """One run of train.py from start, or from where it was stopped, to its end. Returns what `collect` keeps of it."""
    out = plan.work / name_of(flags, rate, seed)
    out.mkdir(parents=True, exist_ok=True)
    media = ["--media_cache", str(plan.work / "media")]
    stage = [] if "--stage" in flags else ["--stage", "2"]
    call(
        out,
        "train.py",
        *stage,
        *plan.common,
        *flags,
        "--lr",
        str(rate),
        "--seed",
        str(seed),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--resume",
        "--save_every",
        "16",
        "--keep",
        "1",
        "--toy_dir",
        str(plan.work / "toy"),
        *media,
    )
    if "--stage" in flags:
        found = {"curriculum": json.loads((out / "summary.json").read_text())}
    else:
        found = collect(out)
        if flags in (c.flags for c in LENGTHS.values()):
            call(
                out,
                "eval.py",
                "--benchmark",
                "toy",
                "--root",
                str(plan.work / "toy"),
                "--model",
                str(out / "checkpoint"),
                "--temperature",
                "1",
                "--seed",
                str(seed),
                "--out",
                str(out / "items"),
                "--device",
                "cpu",
                *media,
            )
            lines = map(json.loads, (out / "items" / "results.jsonl").read_text().splitlines())
            found["items"] = [
                [r["reasoning_tokens"], r["score"]] for r in sorted(lines, key=lambda r: r["id"])
            ]
    shutil.rmtree(out)
    return {
        "flags": list(flags),
        "preset": preset_of(flags),
        "rate": rate,
        "seed": seed,
        "common": list(plan.common),
        **found,
    }


def call(out: Path, program: str, *words: str) -> None:
    """Run one of the repository's programs on one core, its words into log.txt. Raises RuntimeError when it fails."""
    command = [sys.executable, str(REPO / program), *words]
    with (out / "log.txt").open("a") as log:
        ended = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        ).returncode
    if ended:
        raise RuntimeError(f"{' '.join(command)} ended with {ended}; see {out / 'log.txt'}")


def collect(out: Path) -> dict:
    """Of a run's folder: evaluations [step, completions, CPU-seconds of training, accuracy], per step the reward, the share of groups without advantage and the
    completions by tier; the histograms of advantages; how many prompts were asked, and how many groups trained on; the steps' hints; a completion."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evals, cpu = [], 0.0
    for row in rows:
        if "eval_accuracy" in row:
            evals.append(
                [row["step"], row["generated"], round(cpu, 1), round(row["eval_accuracy"], 5)]
            )
        else:
            cpu += row["time_cpu"]
    steps = [row for row in rows if "loss" in row]
    logs = torch.load(out / "checkpoint" / "trainer" / "shared.pt", weights_only=True)["logs"]
    return {
        "evals": evals,
        "generated": [r["generated"] for r in steps],
        "reward": [round(r["reward"], 4) for r in steps],
        "zero": [round(r["zero_advantage_groups"] / r["groups"], 4) for r in steps],
        "tiers": [[r["tier_hard"], r["tier_medium"], r["tier_easy"]] for r in steps[::4]],
        "advantages": logs["advantages"],
        "prompts": steps[-1]["generated"] // json.loads((out / "config.json").read_text())["fresh"],
        "groups": sum(r["groups"] for r in steps),
        "hints": max(r["hints"] for r in steps),
        "completion": json.loads((out / "completions.jsonl").read_text().splitlines()[-1])[
            "completion"
        ],
    }


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
        print(
            f"{(time.monotonic() - started) / 60:6.1f} min  {' '.join(job[0])} --lr {job[1]:g} --seed {job[2]}: "
            + (f"{row['evals'][-1][3]:.3f}" if "evals" in row else "done"),
            flush=True,
        )

    with ThreadPoolExecutor(plan.cores) as pool:
        list(pool.map(one, todo))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed, the first: {failed[0]}")


def tuned(done: dict[str, dict], plan: Plan, flags: tuple[str, ...], rate: float) -> float | None:
    """Mean accuracy over all evaluations but the first of the tuning seeds; None while one is missing."""
    runs = [done.get(name_of(flags, rate, s)) for s in plan.tuning]
    return None if None in runs else float(np.mean([e[3] for r in runs for e in r["evals"][1:]]))


def climb(
    done: dict[str, dict], plan: Plan, flags: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """(the learning rate of a method, None) or, while a tuning run is missing, (None, the rate to try): upward through the grid until one does worse."""
    scores: list[float] = []
    for rate in plan.rates:
        score = tuned(done, plan, flags, rate)
        if score is None:
            return None, rate
        if scores and score < scores[-1]:
            break
        scores.append(score)
    return plan.rates[len(scores) - 1], None


# ---------------------------------------------------------------------------------------------- statistics
def mean_curve(runs: list[dict], axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, accuracy) of the mean over runs, non-decreasing; axis: "completions" or "cpu" (seconds). Where runs end at different x, up to the least of them."""
    column = {"completions": 1, "cpu": 2}[axis]
    ends = min(r["evals"][-1][column] for r in runs)
    x = np.linspace(0, ends, 201)
    mean = np.mean(
        [np.interp(x, [e[column] for e in r["evals"]], [e[3] for e in r["evals"]]) for r in runs],
        axis=0,
    )
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
    return float(
        x[i - 1] + (x[i] - x[i - 1]) * (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    )


def saving(
    base: list[dict],
    runs: list[dict],
    target: float | None,
    axis: str,
    resamples: int = 2000,
    seed: int = 0,
) -> dict:
    """How many times less x `runs` needs than `base` to reach a target (None: the best that base reaches): {"target", "base", "ours", "ratio", "low", "high",
    "missed"}: at the mean curves, with the 95 % interval, and the share of resamples in which `runs` does not reach it (there the ratio counts as 0)."""
    rng = np.random.default_rng(seed)

    def once(some_base, some_runs):
        (x, y), ours = mean_curve(some_base, axis), mean_curve(some_runs, axis)
        wanted = y[-1] if target is None else target
        a, b = reached(x, y, wanted), reached(*ours, wanted)
        a = (
            x[-1] if math.isinf(a) else a
        )  # a baseline that does not get there needs more than it had: a lower bound
        return wanted, a, b, a / b if b else math.inf

    wanted, a, b, ratio = once(base, runs)
    drawn = np.array(
        [
            once(
                [base[i] for i in rng.integers(len(base), size=len(base))],
                [runs[i] for i in rng.integers(len(runs), size=len(runs))],
            )[3]
            for _ in range(resamples)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return {
        "target": wanted,
        "base": a,
        "ours": b,
        "ratio": ratio,
        "low": float(low),
        "high": float(high),
        "missed": float(np.mean(drawn == 0)),
    }


def final(run: dict) -> float:
    """Accuracy of a run: the mean of its last three evaluations."""
    return float(np.mean([e[3] for e in run["evals"][-3:]]))


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % t-interval) of independent values; of one value the half is infinite."""
    n = len(values)
    return float(np.mean(values)), float(
        student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    ) if n > 1 else math.inf


def verdict(difference: float, half: float, paper: float | None) -> str:
    """What a difference with its interval says; paper: the difference that the paper reports, None: none."""
    if abs(difference) <= half:
        return "no difference"
    if paper is None:
        return "better" if difference > 0 else "worse"
    return "agrees" if (difference > 0) == (paper > 0) else "disagrees"


# ---------------------------------------------------------------------------------------------- the report
class Findings:
    """The results at hand. rates: the learning rate of every method whose tuning is done; other cells use that of the method that they are `like`."""

    def __init__(self, plan: Plan):
        self.plan, self.done = plan, read_results(plan.results)
        self.rates = {
            c.name: rate
            for c in plan.methods
            if not c.like and (rate := climb(self.done, plan, c.flags)[0])
        }

    def rate(self, cell: Cell) -> float | None:
        return self.rates.get(cell.like or cell.name)

    def runs(self, cell: Cell) -> list[dict]:
        rate = self.rate(cell)
        return [
            self.done[key]
            for s in self.plan.seeds
            if (key := name_of(cell.flags, rate, s)) in self.done
        ]

    def main(self) -> dict[str, list[dict]]:
        return {c.name: runs for c in self.plan.methods if (runs := self.runs(c))}


def table(title: str, text: str, head: list[str], rows: list[list[str]]) -> str:
    """A Markdown section; "" without rows."""
    lines = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    return f"## {title}\n\n{text}\n\n{lines}\n" if rows else ""


def count(x: float) -> str:
    return "not reached" if math.isinf(x) else f"{x:,.0f}"


def rates_table(found: Findings) -> str:
    rows = []
    for cell in (c for c in found.plan.methods if c.name in found.rates):
        scores = {
            rate: tuned(found.done, found.plan, cell.flags, rate) for rate in found.plan.rates
        }
        rows.append(
            [
                cell.name,
                *(
                    ""
                    if v is None
                    else f"**{v:.3f}**"
                    if rate == found.rates[cell.name]
                    else f"{v:.3f}"
                    for rate, v in scores.items()
                ),
            ]
        )
    seeds = ", ".join(map(str, found.plan.tuning))
    return table(
        "Learning rates",
        f"Mean accuracy over all evaluations of seeds {seeds}. A method climbs until a rate does worse, and runs at its best.",
        ["method", *(f"{rate:g}" for rate in found.plan.rates)],
        rows,
    )


def savings(found: Findings, axis: str) -> dict[str, list[dict]]:
    """`saving` of every method but GRPO at every target, and at the best that GRPO reaches (the last)."""
    runs = found.main()
    return {
        name: [saving(runs["GRPO"], runs[name], target, axis) for target in (*TARGETS, None)]
        for name in runs
        if name != "GRPO" and "GRPO" in runs
    }


def savings_table(found: dict[str, list[dict]], unit: str) -> str:
    rows = []
    for name, each in found.items():
        for i, s in enumerate(each):
            rows.append(
                [
                    name,
                    f"{s['target']:.3f}" + (" (GRPO's best)" if i == len(TARGETS) else ""),
                    f"{s['base']:,.0f}",
                    count(s["ours"]),
                    f"{s['ratio']:.2f} [{s['low']:.2f}, {s['high']:.2f}]",
                ]
            )
    return table(
        f"{unit[0].upper()}{unit[1:]} to a target",
        f"How many {unit} the mean curve needs, and how many times as many GRPO needs, with the 95 % "
        "interval over seeds (0: not reached). Where GRPO does not reach a target itself, all that it had is counted.",
        ["method", "held-out accuracy", "GRPO", "method", "GRPO / method"],
        rows,
    )


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
        said = [
            f"{difference:+.3f} ± {wide:.3f}",
            "" if paper is None else f"{paper:+.1f}",
            verdict(difference, wide, paper),
        ]
        spent, needed = (
            np.mean([r["evals"][-1][1] for r in runs]),
            reached(*mean_curve(runs, "completions"), 0.7),
        )
        rows.append(
            [
                cell.name,
                str(len(runs)),
                f"{spent:,.0f}",
                count(needed),
                f"{mean:.3f} ± {half:.3f}",
                *(["", "", ""] if cell is first else said),
            ]
        )
    head = [
        "cell",
        "seeds",
        "fresh completions",
        "of them to 0.70",
        "accuracy",
        f"less {reference}",
        "in the paper (points, OmniBench)",
        "verdict",
    ]
    return table(
        part.capitalize(),
        f"Held-out accuracy, and its difference from {reference} seed by seed, with 95 % intervals. No difference: the interval "
        "holds 0.",
        head,
        rows,
    )


def budget_table(found: Findings) -> str:
    """What each method spends: a group is the completions of one prompt that are trained on together, in one step."""
    rows = []
    for name, runs in found.main().items():
        prompts, completions = (
            sum(r["prompts"] for r in runs),
            sum(r["generated"][-1] for r in runs),
        )
        rows.append(
            [
                name,
                f"{runs[0]['rate']:g}",
                str(len(runs)),
                str(len(runs[0]["generated"])),
                f"{completions / len(runs):,.0f}",
                f"{sum(r['groups'] for r in runs) / prompts:.2f}",
                f"{1000 * sum(r['evals'][-1][2] for r in runs) / completions:.0f}",
                f"{interval([final(r) for r in runs])[0]:.3f}",
            ]
        )
    return table(
        "What each method spends",
        "Updates per prompt: groups trained on, fresh and replayed, per prompt asked. CPU-seconds: of training, without "
        "evaluations, per 1,000 fresh completions.",
        [
            "method",
            "learning rate",
            "seeds",
            "steps",
            "fresh completions",
            "updates per prompt",
            "CPU-seconds per 1,000",
            "accuracy at the end",
        ],
        rows,
    )


def curriculum_table(found: Findings) -> str:
    """The paper's Table 4 on the questions of stage 2: after the cold start (any run's first evaluation), and after each stage."""
    runs, first = (
        found.runs(CURRICULUM),
        [r["evals"][0][3] for some in found.main().values() for r in some],
    )
    if not runs or not first:
        return ""
    columns = [
        [first[0]] * len(runs),
        *([r["curriculum"][f"after stage {k}"]["stage 2"] for r in runs] for k in (1, 2, 3)),
    ]
    rows = []
    for i, (name, values) in enumerate(zip(("S0", "+ S1", "+ S2", "+ S3"), columns, strict=True)):
        mean, half = interval(values)
        row = [name, f"{mean:.3f}" + (f" ± {half:.3f}" if i else ""), "", "", ""]
        if i:
            difference, wide = interval(
                [a - b for a, b in zip(values, columns[i - 1], strict=True)]
            )
            paper = PAPER_CURRICULUM[i] - PAPER_CURRICULUM[i - 1]
            row[2:] = [
                f"{difference:+.3f} ± {wide:.3f}",
                f"{paper:+.1f}",
                verdict(difference, wide, paper),
            ]
        rows.append(row)
    return table(
        "Curriculum",
        f"Held-out accuracy on stage 2's questions after each stage, {len(runs)} seeds; differences are to the row above.",
        ["stages", "accuracy", "gain", "in the paper (points, OmniBench)", "verdict"],
        rows,
    )


def gains_by_length(
    found: Findings, edges: tuple[int, ...] = (0, 25, 35, 45, 200)
) -> list[tuple[str, float, float, int]]:
    """(tokens, gain of the U over uniform weights, half of its 95 % interval over seeds, questions) by how long the U's model reasons on a question."""
    u, flat = (
        {r["seed"]: r["items"] for r in found.runs(LENGTHS[shape]) if "items" in r}
        for shape in ("u", "uniform")
    )
    out = []
    for low, high in itertools.pairwise(edges):
        each = [
            [a[1] - b[1] for a, b in zip(u[s], flat[s], strict=True) if low <= a[0] < high]
            for s in u
            if s in flat
        ]
        if any(each):
            out.append(
                (
                    f"{low}-{high - 1}",
                    *interval([float(np.mean(e)) for e in each if e]),
                    sum(map(len, each)),
                )
            )
    return out


def length_table(found: Findings) -> str:
    rows = [
        [name, f"{mean:+.3f} ± {half:.3f}", str(n), verdict(mean, half, 1.0)]
        for name, mean, half, n in gains_by_length(found)
    ]
    return table(
        "Gain of the U by length",
        "Accuracy with the U's weights less that with uniform ones, on held-out questions grouped by the tokens that the "
        "U's model reasons for. In the paper the gain grows from 1.8 points below 200 tokens to 5.5 above 600.",
        ["tokens", "gain", "questions", "verdict"],
        rows,
    )


def curves_picture(runs: dict[str, list[dict]]):
    """Accuracy against completions and CPU-seconds, and reward against completions: on a log axis a saving is a distance to the left."""
    figure, axes = plt.subplots(1, 3, figsize=(18, 6), layout="constrained")
    for name, some in runs.items():
        for ax, column in ((axes[0], 1), (axes[1], 2)):
            x = np.geomspace(
                max(r["evals"][1][column] for r in some) / 2,
                min(r["evals"][-1][column] for r in some),
                201,
            )
            band(
                ax,
                x,
                [
                    np.interp(x, [e[column] for e in r["evals"]], [e[3] for e in r["evals"]])
                    for r in some
                ],
                name,
            )
        band(axes[2], *over_steps(some, "reward"), name)
    for ax, title, label in zip(
        axes,
        ("held-out accuracy", "held-out accuracy", "reward of fresh completions"),
        ("fresh completions", "CPU-seconds of training", "fresh completions"),
        strict=True,
    ):
        ax.set(title=title, xlabel=label, xscale="log")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    return figure


def savings_picture(saved: dict[str, dict[str, list[dict]]], names: list[str]):
    """How many times as much GRPO needs to every target, with intervals, beside the goals: a fifth of the completions, half of the CPU-seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(15, 5), layout="constrained")
    for ax, axis, what, goal in (
        (axes[0], "completions", "fresh completions", 5),
        (axes[1], "cpu", "CPU-seconds", 2),
    ):
        for i, name in enumerate(names):
            at = np.arange(len(TARGETS) + 1) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            ratio, low, high = (
                np.array([s[key] for s in saved[axis][name]]) for key in ("ratio", "low", "high")
            )
            ax.errorbar(
                at,
                ratio,
                np.maximum([ratio - low, high - ratio], 0),
                fmt="o",
                capsize=3,
                color=STYLES[name]["color"],
                label=name,
            )
        ax.set_xticks(range(len(TARGETS) + 1), [*(f"{t:.2f}" for t in TARGETS), "GRPO's best"])
        ax.axhline(1, color="black", linewidth=0.8)
        ax.axhline(goal, color="black", linewidth=0.8, linestyle="--")
        ax.set(title=f"{what}, GRPO / method", xlabel="held-out accuracy to reach", ylim=(0, None))
    axes[0].legend(fontsize=9)
    return figure


def advantages_picture(runs: dict[str, list[dict]]):
    """The histogram of all advantages trained on, and the share of groups without any over time."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, some in runs.items():
        counts = np.sum([np.array(kind) for r in some for kind in r["advantages"].values()], axis=0)
        axes[0].stairs(
            counts / counts.sum(), BINS, label=name, linewidth=2, color=STYLES[name]["color"]
        )
        band(axes[1], *over_steps(some, "zero"), name)
    axes[0].set(title="advantages of all trained completions", xlabel="A", ylabel="share")
    axes[1].set(title="share of groups without advantage", xlabel="fresh completions", ylim=(0, 1))
    axes[0].legend()
    return figure


def tiers_picture(runs: list[dict]):
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.stackplot(
        runs[0]["generated"][::4],
        np.mean([r["tiers"] for r in runs], axis=0).T,
        labels=("hard", "medium", "easy"),
        alpha=0.8,
    )
    ax.set(title="completions in AVATAR's buffer", xlabel="fresh completions")
    ax.legend(loc="upper left")
    return figure


def lengths_picture(gains: list[tuple[str, float, float, int]]):
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.bar(
        [g[0] for g in gains],
        [g[1] for g in gains],
        yerr=[0 if math.isinf(g[2]) else g[2] for g in gains],
        capsize=4,
    )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        title="gain of the U over uniform weights", xlabel="tokens of reasoning", ylabel="accuracy"
    )
    return figure


def weights_picture(completion: str):
    """The temporal weights of every shape over the tokens of one completion."""
    tokenizer = load_tokenizer_and_config(DEFAULT_MODEL)[0]
    ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    weights = {
        shape: temporal_weights(torch.ones(1, len(ids), dtype=torch.bool), 0.3, shape)[0].tolist()
        for shape in SHAPES
    }
    figure, ax = plt.subplots(figsize=(15, 4), layout="constrained")
    ax.bar(range(len(ids)), weights["u"], color="lightsteelblue", label="u")
    for shape in SHAPES[1:]:
        ax.plot(range(len(ids)), weights[shape], label=shape)
    ax.set(
        title="weights of the advantage over the tokens of a held-out completion, lambda 0.3",
        ylim=(0.95, 1.35),
        xlim=(-1, len(ids)),
    )
    ax.set_xticks(range(len(ids)), [tokenizer.decode([i]) for i in ids], rotation=90, fontsize=8)
    ax.legend()
    return figure


def pictures(
    found: Findings, saved: dict[str, dict[str, list[dict]]], folder: Path
) -> dict[str, str]:
    """Draw what there are results for into `folder`. Returns {file: caption}."""
    runs = found.main()
    methods = {name: some for name, some in runs.items() if name not in CONTROLS}
    controls = {
        name: some
        for name, some in runs.items()
        if name in {"GRPO", "AVATAR at GRPO's rate"} | CONTROLS
    }
    lines = (
        "mean and one standard error over seeds. On a log axis a saving is a distance to the left"
    )
    drawn = [("curves", f"Accuracy and reward of the methods, {lines}", curves_picture(methods))]
    if runs.keys() & CONTROLS:
        drawn.append(
            (
                "controls",
                f"Accuracy and reward of the rows that keep the comparison honest, {lines}",
                curves_picture(controls),
            )
        )
    if names := [name for name in methods if name in saved["completions"]]:
        drawn.append(
            (
                "savings",
                "How many times as much GRPO needs, 95 % intervals (0: not reached; dashed: the goals, 5 and 2)",
                savings_picture(saved, names),
            )
        )
    drawn.append(
        (
            "advantages",
            "Advantages, and the share of groups without any",
            advantages_picture({name: runs[name] for name in ("GRPO", "AVATAR") if name in runs}),
        )
    )
    if ours := runs.get("AVATAR"):
        drawn.append(("tiers", "What AVATAR's buffer holds", tiers_picture(ours)))
    if gains := gains_by_length(found):
        drawn.append(
            ("lengths", "Gain of the U by length of the reasoning", lengths_picture(gains))
        )
    if ours:
        drawn.append(
            (
                "tas",
                "The weights of Temporal Advantage Shaping over a completion",
                weights_picture(ours[0]["completion"]),
            )
        )
    for name, _, figure in drawn:
        figure.savefig(folder / f"study-{name}.png", dpi=80)
        plt.close(figure)
    return {f"study-{name}.png": caption for name, caption, _ in drawn}


def over_steps(runs: list[dict], key: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """(fresh completions, each run's smoothed values of `key` there), up to the end of the shortest run."""
    x = np.linspace(runs[0]["generated"][0], min(r["generated"][-1] for r in runs), 101)
    return x, [np.interp(x, r["generated"], smooth(r[key])) for r in runs]


def band(ax, x: np.ndarray, curves: list[np.ndarray], name: str) -> None:
    """The mean of curves over seeds, and one standard error on each side."""
    mean, error = (
        np.mean(curves, axis=0),
        np.std(curves, axis=0, ddof=1) / math.sqrt(len(curves))
        if len(curves) > 1
        else np.zeros(len(x)),
    )
    ax.plot(x, mean, label=name, **STYLES[name])
    ax.fill_between(x, mean - error, mean + error, color=STYLES[name]["color"], alpha=0.15)


def smooth(values: list[float], width: int = 5) -> np.ndarray:
    """Running means over up to `width` steps on either side together."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def report(plan: Plan, page: Path, folder: Path) -> None:
    """Write tables and links to the pictures between the two marks of `page`, made when there is none; pictures and savings (study.json) into `folder`."""
    found = Findings(plan)
    saved = {axis: savings(found, axis) for axis in ("completions", "cpu")}
    parts = [
        rates_table(found),
        budget_table(found),
        savings_table(saved["completions"], "fresh completions"),
        savings_table(saved["cpu"], "CPU-seconds of training"),
        *(cells_table(found, part) for part in PARTS),
        curriculum_table(found),
        length_table(found),
    ]
    begin, end = "<!-- tables: written by bench/study.py -->", "<!-- end of the tables -->"
    text = page.read_text() if page.is_file() else f"# The study\n\n{begin}\n{end}\n"
    before, after = text.split(begin)[0], text.split(end)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    shown = [
        f"{caption}:\n\n![{Path(file).stem}]({os.path.relpath(folder / file, page.parent)})\n"
        for file, caption in pictures(found, saved, folder).items()
    ]
    page.write_text(
        f"{before}{begin}\n\n"
        + "\n".join([*(p for p in parts if p), "## Pictures\n", *shown])
        + f"\n{end}{after}"
    )
    numbers = {
        "learning_rates": found.rates,
        "accuracy": {
            name: interval([final(r) for r in runs]) for name, runs in found.main().items()
        },
        **{
            f"{axis}_to_targets": {
                name: [{k: v if math.isfinite(v) else None for k, v in s.items()} for s in each]
                for name, each in some.items()
            }
            for axis, some in saved.items()
        },
    }
    (folder / "study.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"{len(found.done)} runs; {page} and the pictures in {folder} are written")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", choices=(*PARTS, "curriculum"), default=[*PARTS, "curriculum"]
    )
    parser.add_argument(
        "--cells", nargs="+", default=[], help="of these parts, the cells of these names alone"
    )
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count() or 1, help="runs at a time, one core each"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="GRPO and AVATAR, two seeds, 32 and 24 steps, 80 questions, into runs/study-quick",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    plan = Plan(
        REPO / "bench" / "results" / "study.jsonl", REPO / "runs" / "study", cores=args.cores
    )
    page, folder = REPO / "bench" / "STUDY.md", REPO / "bench" / "results"
    cells = [
        c
        for part in args.parts
        for c in (PARTS[part][1] if part in PARTS else [CURRICULUM])
        if not args.cells or c.name in args.cells
    ]
    if args.quick:
        work = REPO / "runs" / "study-quick"
        plan = Plan(
            work / "study.jsonl",
            work,
            ("--toy_heldout", "40"),
            tuple(QUICK),
            (0, 1),
            (100,),
            (2e-4, 4e-4),
            args.cores,
        )
        page, folder, cells = work / "STUDY.md", work, QUICK
    if not args.report:
        for stage in (1, 2, 3) if CURRICULUM in cells else (2,):  # once, before several runs would
            toy.build(plan.work / "toy", stage, "train", 256)
            toy.build(plan.work / "toy", stage, "heldout", 40 if args.quick else 160)
        methods = [
            c
            for c in plan.methods
            if not c.like and (c in cells or c.name in {other.like for other in cells})
        ]
        while jobs := [
            (c.flags, rate, s)
            for c in methods
            if (rate := climb(read_results(plan.results), plan, c.flags)[1])
            for s in plan.tuning
        ]:
            run_all(plan, jobs)
        found = Findings(plan)
        run_all(plan, [(c.flags, found.rate(c), s) for s in plan.seeds for c in cells])
    report(plan, page, folder)


if __name__ == "__main__":
    main()
