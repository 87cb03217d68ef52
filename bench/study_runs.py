"""bench/study_runs.py: which runs the study is made of, and which of them are done.

A cell is one row of a table: a method with options. A part is a table: cells, and the one that the
others are compared with. A run is a cell with a learning rate and a seed; its result is a line of
bench/results/study.jsonl, found again by `name_of`. The same flags run once, in however many parts
they stand.

The results were recorded at commit fd7855e. Since then some flags are gone, because no setting of
them made a difference here (GONE_FLAGS). Their cells stay in the tables and are not run any more;
and the results of `avatar`, which had --replay_shift 0.2, stand for the method without the shift.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import METHODS

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (100, 101)
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
TRAIN_CLIPS = 256
HELDOUT_CLIPS = 160
GONE_FLAGS = ("--replay_groups", "--replay_baseline", "--replay_shift", "--tas_normalize")


# ------------------------------------------------------------------------------ cells
@dataclass(frozen=True)
class Cell:
    """A method with options.

    flags: of train.py, without learning rate and seed. paper: its accuracy on OmniBench in the
    paper, where it has one. like: the method whose learning rate it uses; "": it has its own.
    """

    name: str
    flags: tuple[str, ...]
    paper: float | None = None
    like: str = "GRPO"

    @property
    def can_run(self) -> bool:
        return not set(GONE_FLAGS) & set(self.flags)


def cell(
    name: str, method: str, length: str, paper: float | None = None, like: str = "GRPO"
) -> Cell:
    """A Cell of flags written as text; method: "avatar --fresh 4", length: "--steps 40"."""
    return Cell(name, tuple(f"--method {method} {length}".split()), paper, like)


# 8 fresh completions of each of 16 prompts: 10,240 in 80 steps; the paper's 4: 4,096 in 64; 2:
# 2,048 in 64. Dynamic sampling draws up to three times per step.
LONG = "--steps 80 --eval_every 5"
HALF = "--steps 40 --eval_every 5"
SHORT = "--steps 64 --eval_every 8"

# Variants of AVATAR run half as long as the methods, while they still learn and differences can
# show; at GRPO's learning rate, at which AVATAR's seeds agree best
VARIANT = "--steps 32 --eval_every 8"

# In 32 steps the 512 questions of 256 clips come once each: no hint is due, and Rbar(q) is the mean
# of the replayed group. Those of 24 clips come 10 times
FEW_CLIPS = f"{VARIANT} --data toy:24,{HELDOUT_CLIPS}"

# Four rows keep the comparison honest. A run's learning rate falls to its end, so a short run is
# not the beginning of a long one: the short GRPO and the short AVATAR, each half as long, show what
# that alone gives. AVATAR asks for 2 completions, averages over tokens and has no KL term: another
# GRPO shows what these alone give. And learning rates found on two seeds are uncertain: one row has
# AVATAR at the rate that GRPO found
TOKEN_MEAN = "GRPO, token mean, 2 completions, no KL"
METHOD_CELLS = [
    cell("GRPO", "grpo", LONG, 45.4, like=""),
    cell("GRPO, short", "grpo", HALF),
    cell(
        TOKEN_MEAN,
        "grpo --loss_norm token --fresh 2 --beta 0",
        "--steps 128 --eval_every 16",
        like="",
    ),
    cell("GRPO, dynamic sampling", "grpo --dynamic_sampling 2", HALF, like=""),
    cell("TAS only", "tas_only", LONG, 45.1, like=""),
    cell("AVATAR as in the paper", "avatar_paper", SHORT, 49.1, like=""),
    cell("replay only", "replay_only", SHORT, 47.8, like=""),
    cell("AVATAR", "avatar", SHORT, 49.1, like=""),
    cell("AVATAR at GRPO's rate", "avatar", SHORT),
    cell("AVATAR, no hints", "avatar --hint_patience 0 --hint_kl 0", SHORT, like="AVATAR"),
    cell("AVATAR, short", "avatar", VARIANT, like=""),
]
CONTROLS = {"GRPO, short", TOKEN_MEAN, "AVATAR, short"}  # in a picture of their own

QUICK_CELLS = [
    cell("GRPO", "grpo", "--steps 32 --eval_every 4", like=""),
    cell("AVATAR", "avatar", "--steps 24 --eval_every 4", like=""),
]

CURRICULUM = cell("curriculum", "avatar", "--stage 1,2,3 --steps 48 --eval_every 0")
PAPER_CURRICULUM = (45.8, 47.2, 48.6, 49.1)  # OmniBench after the cold start, stage 1, 2, 3


# ------------------------------------------------------------------------------ parts
@dataclass(frozen=True)
class Part:
    """A table of the report. reference: the name of the cell that the others are compared with."""

    reference: str
    cells: list[Cell]


# The shapes of the temporal weights, with the paper's accuracy of each
SHAPES = {"u": 49.1, "uniform": 47.8, "decay": 48.3, "incline": 48.5, "inverse": 46.5}


def shape_cells(normalised: bool = False) -> list[Cell]:
    """A cell per shape of the temporal weights; normalised: all shapes with a mean weight of 1."""
    cells = []
    for shape in SHAPES:
        method = f"avatar --tas_shape {shape}"
        if normalised and shape != "uniform":  # uniform weights are all 1 already
            method += " --tas_normalize true"
        elif shape == "u" and not normalised:
            method = "avatar"  # the default is not spelled out, so that it runs once for all parts
        cells.append(cell(shape, method, VARIANT, SHAPES[shape]))
    return cells


def value_cells(flag: str, values: tuple[str, ...], default: str) -> list[Cell]:
    """A cell of AVATAR per value of one flag; the default is not spelled out."""
    return [
        cell(value, "avatar" if value == default else f"avatar {flag} {value}", VARIANT)
        for value in values
    ]


PARTS: dict[str, Part] = {
    "methods": Part("GRPO", METHOD_CELLS),
    "shapes": Part("u", shape_cells()),
    "shapes of equal size": Part("u", shape_cells(normalised=True)),
    "fresh and replayed": Part(
        "4:4",
        [
            cell("8:0", "avatar --fresh 8 --replayed 0", VARIANT),
            cell("6:2", "avatar --fresh 6 --replayed 2", VARIANT),
            cell("4:4", "avatar --fresh 4 --replayed 4", VARIANT),
            cell("2:6", "avatar", VARIANT),
        ],
    ),
    "groups replayed per prompt": Part("1", value_cells("--replay_groups", ("1", "2"), "1")),
    "lambda": Part("0.3", value_cells("--tas_lambda", ("0.1", "0.3", "0.5", "0.7", "0.9"), "0.3")),
    "baseline of replay": Part(
        "VCRS",
        [
            cell("VCRS", "avatar", FEW_CLIPS),
            cell("group mean", "avatar --replay_baseline group", FEW_CLIPS),
        ],
    ),
    "draws": Part(
        "by tier",
        [
            cell("by tier", "avatar --replay_draw tiers", VARIANT),
            cell("uniform", "avatar", VARIANT),
        ],
    ),
    "shift of replay": Part("0.2", value_cells("--replay_shift", ("0", "0.2", "0.4"), "0.2")),
    "start of replay": Part("256", value_cells("--replay_min", ("64", "256"), "256")),
    "mean of the loss": Part(
        "tokens",
        [
            cell("tokens", "avatar", VARIANT),
            cell("completions", "avatar --loss_norm sequence", VARIANT),
        ],
    ),
    "ratios": Part(
        "truncated",
        [
            cell("truncated", "avatar", VARIANT),
            cell("clipped", "avatar --clip ppo", VARIANT),
            cell("CISPO", "avatar --clip cispo", VARIANT),
        ],
    ),
    "hints": Part(
        "both rules",
        [
            cell("both rules", "avatar", FEW_CLIPS),
            cell("visits", "avatar --hint_kl 0", FEW_CLIPS),
            cell("KL", "avatar --hint_patience 0", FEW_CLIPS),
            cell("none", "avatar --hint_patience 0 --hint_kl 0", FEW_CLIPS),
        ],
    ),
    "the paper's setting": Part(
        "as in the paper",
        [
            cell("as in the paper", "avatar_paper", SHORT, 49.1, "AVATAR as in the paper"),
            cell(
                "uniform weights",
                "avatar_paper --tas_shape uniform",
                SHORT,
                47.8,
                "AVATAR as in the paper",
            ),
            cell(
                "group mean instead of VCRS",
                "avatar_paper --replay_baseline group",
                SHORT,
                like="AVATAR as in the paper",
            ),
            cell(
                "uniform draws",
                "avatar_paper --replay_draw uniform",
                SHORT,
                like="AVATAR as in the paper",
            ),
        ],
    ),
}

# Cells whose last answers are kept, to set the gain of the U against the reasoning's length
LENGTH_CELLS = {c.name: c for c in PARTS["shapes"].cells if c.name in ("u", "uniform")}


# ------------------------------------------------------------------------------ results
@dataclass
class Plan:
    """Where and what. common: flags of every run; methods: those that tune a learning rate."""

    results: Path
    work: Path
    common: tuple[str, ...] = ()
    methods: tuple[Cell, ...] = tuple(METHOD_CELLS)
    seeds: tuple[int, ...] = SEEDS
    tuning: tuple[int, ...] = TUNING_SEEDS
    rates: tuple[float, ...] = RATES
    cores: int = 2


def preset_of(flags: tuple[str, ...]) -> dict:
    """What the --method of these flags stands for."""
    return METHODS[flags[flags.index("--method") + 1]]


def name_of(flags: tuple[str, ...], rate: float, seed: int, preset: dict | None = None) -> str:
    """The name of a run. preset: what its method stood for when it ran, None: today's.

    A result counts for as long as its method means what it meant then, in the flags that are still
    there.
    """
    today = preset_of(flags)
    preset = today if preset is None else preset
    preset = {flag: value for flag, value in preset.items() if f"--{flag}" not in GONE_FLAGS}
    identity = [flags, rate, seed, sorted(preset.items())]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def in_todays_flags(flags: list[str]) -> tuple[str, ...]:
    """Flags as they were recorded, in today's words.

    >>> in_todays_flags(["--method", "avatar", "--toy_clips", "24"])
    ('--method', 'avatar', '--data', 'toy:24,160')
    """
    flags = list(flags)
    if "--toy_clips" in flags:
        i = flags.index("--toy_clips")
        flags[i : i + 2] = ["--data", f"toy:{flags[i + 1]},{HELDOUT_CLIPS}"]
    return tuple(flags)


def read_results(file: Path) -> dict[str, dict]:
    """The runs that are done, by `name_of`; a torn last line is left out."""
    results = {}
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in lines:
        try:
            run = json.loads(line)
        except json.JSONDecodeError:
            continue
        flags = in_todays_flags(run["flags"])
        results[name_of(flags, run["rate"], run["seed"], run["preset"])] = run
    return results


# ------------------------------------------------------------------------------ learning rates
def tuning_score(
    done: dict[str, dict], plan: Plan, flags: tuple[str, ...], rate: float
) -> float | None:
    """Mean accuracy over all evaluations but the first of the tuning seeds; None while one is
    missing."""
    accuracies = []
    for seed in plan.tuning:
        run = done.get(name_of(flags, rate, seed))
        if run is None:
            return None
        accuracies += [accuracy for *_, accuracy in run["evals"][1:]]
    return float(np.mean(accuracies))


def climb(
    done: dict[str, dict], plan: Plan, flags: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """Upward through the learning rates until one does worse: (the best, None), or, while a tuning
    run is missing, (None, the rate to try)."""
    scores: list[float] = []
    for rate in plan.rates:
        score = tuning_score(done, plan, flags, rate)
        if score is None:
            return None, rate
        if scores and score < scores[-1]:
            break
        scores.append(score)
    return plan.rates[len(scores) - 1], None


class Findings:
    """The results at hand. rates: the learning rate of every method whose tuning is done; other
    cells use that of the method that they are `like`."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.done = read_results(plan.results)
        self.rates: dict[str, float] = {}
        for method in plan.methods:
            if not method.like:
                rate, _ = climb(self.done, plan, method.flags)
                if rate:
                    self.rates[method.name] = rate

    def rate(self, cell: Cell) -> float | None:
        return self.rates.get(cell.like or cell.name)

    def runs(self, cell: Cell) -> list[dict]:
        """A cell's results, by seed."""
        names = [name_of(cell.flags, self.rate(cell), seed) for seed in self.plan.seeds]
        return [self.done[name] for name in names if name in self.done]

    def of_methods(self) -> dict[str, list[dict]]:
        """{method: its results}, of those that have any."""
        runs = {method.name: self.runs(method) for method in self.plan.methods}
        return {name: results for name, results in runs.items() if results}
