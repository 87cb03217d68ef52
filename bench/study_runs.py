"""bench/study_runs.py: which runs the study is made of, and which of them are done.

A cell is one row of a table: a method with options. A part is a table: cells, and the one that the
others are compared with. A run is a cell with a learning rate and a seed; its result is a line of
bench/results/study.jsonl, found again by `name_of`. The same flags run once, in however many parts
they stand.

An earlier study (282 runs at commit fd7855e, one sample per held-out question, five seeds) is kept
in bench/results/study-fd7855e.jsonl. No table is made of it any more: since then tiers, draws and
presets have changed, and its methods took one update per rollout.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import METHODS

SEEDS = tuple(range(8))
TUNING_SEEDS = (100, 101, 102, 103)
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
TRAIN_CLIPS = 256
HELDOUT_CLIPS = 160
HELDOUT_SAMPLES = 3  # completions per held-out question, against the noise of sampling

# Flags that a patch of recipes/ adds: a run with one of them is of a copy of the repository that
# has the patch
RECIPES = {
    "--replay_dead": "popo",
    "--replay_decay": "freshper",
    "--uniform_draws": "uniform_draws",
}


# ------------------------------------------------------------------------------ cells
@dataclass(frozen=True)
class Cell:
    """A method with options.

    flags: of train.py, without learning rate and seed. paper: its accuracy on OmniBench in the
    paper, where it has one. like: the method whose learning rate it uses; "": it has its own.
    tuned_only: runs on the tuning seeds alone, to be chosen or not. against: the cell that it is
    compared with; "": the reference of its part. more_seeds: beside those of the plan, where a
    small difference matters.
    """

    name: str
    flags: tuple[str, ...]
    paper: float | None = None
    like: str = ""
    tuned_only: bool = False
    against: str = ""
    more_seeds: tuple[int, ...] = ()


def cell(name: str, method: str, length: str, **more) -> Cell:
    """A Cell of flags written as text; method: "avatar --fresh 4", length: "--steps 40". more: its
    other fields."""
    return Cell(name, tuple(f"--method {method} {length}".split()), **more)


# A step samples 16 prompts: of GRPO 128 completions, of AVATAR 64, of AVATAR fast 32. Evaluations
# are 512, 64 and 64 completions apart
GRPO_LENGTH = "--steps 80 --eval_every 4"
AVATAR_LENGTH = "--steps 64 --eval_every 1"
FAST_LENGTH = "--steps 24 --eval_every 2"

# GRPO takes one update per rollout in the paper. The second baseline takes as many as do it most
# good: 2, 4 and 8 are tuned, and the best on the tuning seeds, 8, runs on all seeds; so do 4
UPDATES = (2, 4, 8)
BEST_GRPO = "GRPO, 8 updates"


def updates_cell(updates: int) -> Cell:
    return cell(
        f"GRPO, {updates} updates",
        f"grpo --updates {updates}",
        "--steps 32 --eval_every 2",
        tuned_only=updates == 2,
    )


# AVATAR fast differs from GRPO in more than replay and TAS; this GRPO has all the rest of it.
# Hints are hardly shown here: the third failed visit turns one on for the fourth, and no question
# is asked more than three times
GRPO_LIKE_FAST = "GRPO with the rest of AVATAR fast"
REST = (
    "--fresh 2 --baseline shrunk --clip cispo --loss_norm token --beta 0 --updates 2 "
    "--hint_teacher 0.3"
)

# Twice as long, and with it the schedules of learning rate and teacher: does it get further?
LONGER_FAST = "AVATAR fast, 48 steps"

METHOD_CELLS = [
    cell("GRPO", "grpo", GRPO_LENGTH, paper=45.4),
    *(updates_cell(updates) for updates in UPDATES),
    cell("GRPO, 4 completions", "grpo --fresh 4", "--steps 64 --eval_every 4", like="GRPO"),
    cell(GRPO_LIKE_FAST, f"grpo {REST}", FAST_LENGTH, like="AVATAR fast"),
    cell("TAS only", "tas_only", GRPO_LENGTH, paper=45.1, like="GRPO"),
    cell("replay only", "replay_only", "--steps 64 --eval_every 4", paper=47.8, like="AVATAR"),
    cell("AVATAR", "avatar", AVATAR_LENGTH, paper=49.1),
    cell("AVATAR fast", "avatar_fast", FAST_LENGTH),
    cell(LONGER_FAST, "avatar_fast", "--steps 48 --eval_every 4", like="AVATAR fast"),
]
CONTROLS = {"GRPO, 4 completions", GRPO_LIKE_FAST}  # in a picture of their own

QUICK_CELLS = [
    cell("GRPO", "grpo", "--steps 32 --eval_every 4"),
    cell("AVATAR", "avatar", "--steps 40 --eval_every 4"),
    cell("AVATAR fast", "avatar_fast", "--steps 20 --eval_every 4"),
]


# ------------------------------------------------------------------------------ parts
@dataclass(frozen=True)
class Part:
    """A table of the report. reference: the name of the cell that the others are compared with."""

    reference: str
    cells: list[Cell]


def fast_cell(name: str, options: str) -> Cell:
    """AVATAR fast with one thing changed, at the learning rate of AVATAR fast."""
    length = FAST_LENGTH if not options else "--steps 24 --eval_every 4"
    return cell(name, f"avatar_fast {options}".strip(), length, like="AVATAR fast")


# The questions of toy_long.py, for the claim that Temporal Advantage Shaping gains more, the longer
# the reasoning is. The policy is a cold start of its own, from the bundled model
LONG_DATA = "toy-long:256,160"
LONG_START = "long_start"  # in the plan's folder
LONG_MORE_SEEDS = tuple(range(8, 18))  # of the claim itself: pairs of runs differ by 0.04
LONG_FLAGS = f"--model {LONG_START}/checkpoint --data {LONG_DATA} --max_completion_tokens 400"


def long_cell(name: str, options: str, **more) -> Cell:
    """AVATAR on questions with long reasoning, at the learning rate of AVATAR: it is not tuned anew
    for them."""
    method = f"avatar {options}".strip()
    length = f"{LONG_FLAGS} --steps 24 --eval_every 6"
    return cell(name, method, length, like="AVATAR", **more)


# So few clips that each question is asked about ten times: else the paper's hints, which come after
# three failed visits, are hardly ever shown
FEW_DATA = f"toy:48,{HELDOUT_CLIPS}"


def few_cell(name: str, options: str) -> Cell:
    """AVATAR on few questions, at the learning rate of AVATAR."""
    method = f"avatar {options}".strip()
    return cell(name, method, f"--data {FEW_DATA} --steps 64 --eval_every 8", like="AVATAR")


PARTS: dict[str, Part] = {
    "methods": Part("GRPO", METHOD_CELLS),
    "what makes AVATAR fast": Part(
        "all of it",
        [
            fast_cell("all of it", ""),
            fast_cell("no replay", "--replayed 0"),
            fast_cell("no teacher", "--hint_teacher 0"),
            fast_cell("uniform weights", "--tas_shape uniform"),
            fast_cell("baseline of the group", "--baseline group"),
            fast_cell("one update", "--updates 1"),
            fast_cell("4 fresh and 4 replayed", "--fresh 4 --replayed 4 --prompts_per_step 8"),
            fast_cell("PPO's clip", "--clip ppo"),
            fast_cell("mean over completions", "--loss_norm sequence"),
            fast_cell("replay in the places of dead groups (POPO)", "--replay_dead true"),
            fast_cell("draws with age decay (FreshPER)", "--replay_decay 8"),
        ],
    ),
    "long reasoning": Part(
        "uniform weights, long",
        [
            long_cell("uniform weights, long", "--tas_shape uniform", more_seeds=LONG_MORE_SEEDS),
            long_cell("u, long", "", more_seeds=LONG_MORE_SEEDS),
            long_cell("decay, long", "--tas_shape decay"),
            long_cell("inverse, long", "--tas_shape inverse"),
            long_cell("u with lambda 0.6, long", "--tas_lambda 0.6", against="u, long"),
            long_cell("u, draws without tiers, long", "--uniform_draws true", against="u, long"),
        ],
    ),
    "few questions": Part(
        "no hints, few questions",
        [
            few_cell("no hints, few questions", "--hint_patience 0 --hint_kl 0"),
            few_cell("hints, few questions", ""),
        ],
    ),
}


# ------------------------------------------------------------------------------ results
@dataclass
class Plan:
    """Where and what. common: flags of every run; methods: those that tune a learning rate; costs:
    where `--cost` writes, beside the results."""

    results: Path
    work: Path
    common: tuple[str, ...] = ()
    methods: tuple[Cell, ...] = tuple(METHOD_CELLS)
    seeds: tuple[int, ...] = SEEDS
    tuning: tuple[int, ...] = TUNING_SEEDS
    rates: tuple[float, ...] = RATES
    first_rate: float = 1e-4
    cores: int = 2

    @property
    def costs(self) -> Path:
        return self.results.with_name(f"{self.results.stem}-cost.jsonl")

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """The seeds of a cell's results; none where it is only tuned."""
        return () if cell.tuned_only else (*self.seeds, *cell.more_seeds)


def preset_of(flags: tuple[str, ...]) -> dict:
    """What the --method of these flags stands for today; {} where it is gone."""
    return METHODS.get(flags[flags.index("--method") + 1], {})


def recipe_of(flags: tuple[str, ...]) -> str | None:
    """The recipe that these flags need; None: none.

    >>> recipe_of(("--method", "avatar", "--replay_dead", "true"))
    'popo'
    """
    return next((RECIPES[flag] for flag in flags if flag in RECIPES), None)


def tuning_flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    """A cell's flags for the tuning seeds: a quarter of its evaluations, since these take longer
    than the training.

    >>> tuning_flags(("--method", "grpo", "--eval_every", "4"))
    ('--method', 'grpo', '--eval_every', '16')
    """
    place = flags.index("--eval_every") + 1
    return (*flags[:place], str(4 * int(flags[place])), *flags[place + 1 :])


def name_of(flags: tuple[str, ...], rate: float, seed: int) -> str:
    """The name of a run."""
    identity = json.dumps([flags, rate, seed])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def still_counts(run: dict) -> bool:
    """Does the method of a recorded run mean today what it meant then? A flag that is new since
    then must have the value that the code had for it."""
    today = preset_of(tuple(run["flags"]))
    return all(today.get(flag) == value for flag, value in run["preset"].items())


def read_lines(file: Path) -> list[dict]:
    """The runs that are done and still count; torn lines are left out."""
    runs = []
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in lines:
        try:
            run = json.loads(line)
        except json.JSONDecodeError:
            continue
        if still_counts(run):
            runs.append(run)
    return runs


def read_results(file: Path) -> dict[str, dict]:
    """`read_lines` by `name_of`."""
    results = {}
    for run in read_lines(file):
        results[name_of(tuple(run["flags"]), run["rate"], run["seed"])] = run
    return results


# ------------------------------------------------------------------------------ learning rates
def tuning_score(
    done: dict[str, dict], plan: Plan, flags: tuple[str, ...], rate: float
) -> float | None:
    """Mean accuracy over all evaluations but the first of the tuning seeds; None while one is
    missing."""
    accuracies = []
    for seed in plan.tuning:
        run = done.get(name_of(tuning_flags(flags), rate, seed))
        if run is None:
            return None
        accuracies += [accuracy for *_, accuracy in run["evals"][1:]]
    return float(np.mean(accuracies))


def climb(
    done: dict[str, dict], plan: Plan, flags: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """From the first learning rate upward until one does worse; where already the second does,
    downward instead: (the best, None), or, while a tuning run is missing, (None, the rate to try).
    A plan without tuning seeds runs at its first rate.
    """
    if not plan.tuning:
        return plan.first_rate, None

    def score(index: int) -> float | None:
        return tuning_score(done, plan, flags, plan.rates[index])

    best = plan.rates.index(plan.first_rate)
    if score(best) is None:
        return None, plan.rates[best]
    for step in (1, -1):
        start = best
        while 0 <= best + step < len(plan.rates):
            other = score(best + step)
            if other is None:
                return None, plan.rates[best + step]
            if other < score(best):
                break
            best += step
        if best != start:
            break
    return plan.rates[best], None


# ------------------------------------------------------------------------------ CPU-seconds
def at_cost(run: dict, seconds: list[float]) -> dict:
    """A run with other CPU-seconds at its evaluations. seconds: of each step, of a run with the
    same flags that had a quiet machine to itself."""
    spent = [0.0, *itertools.accumulate(seconds)]
    evals = []
    for step, generated, _, accuracy in run["evals"]:
        evals.append([step, generated, round(spent[step], 1), accuracy])
    return run | {"evals": evals}


def read_costs(file: Path) -> dict[tuple[str, ...], list[float]]:
    """CPU-seconds of each step, by flags: of several runs with the same flags the least."""
    costs: dict[tuple[str, ...], list[float]] = {}
    for run in read_lines(file):
        flags = tuple(run["flags"])
        costs[flags] = [
            min(pair) for pair in zip(run["cpu"], costs.get(flags, run["cpu"]), strict=True)
        ]
    return costs


class Findings:
    """The results at hand. rates: the learning rate of every method whose tuning is done; other
    cells use that of the method that they are `like`. costs: CPU-seconds of each step, by flags,
    from `bench/study.py --cost`; {}: not measured, and each run's own count."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.done = read_results(plan.results)
        self.costs = read_costs(plan.costs)
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
        seeds = self.plan.seeds_of(cell)
        names = [name_of(cell.flags, self.rate(cell), seed) for seed in seeds]
        return [self.done[name] for name in names if name in self.done]

    def of_methods(self) -> dict[str, list[dict]]:
        """{method: its results}, of those that have any."""
        runs = {method.name: self.runs(method) for method in self.plan.methods}
        return {name: results for name, results in runs.items() if results}

    def with_cpu(self) -> dict[str, list[dict]]:
        """`of_methods` of those whose CPU-seconds may be compared: all measured by `--cost` on one
        machine, or, where there is no such file, all as they ran."""
        if not self.costs:
            return self.of_methods()
        costed = {}
        for method in self.plan.methods:
            runs = self.runs(method)
            if runs and method.flags in self.costs:
                costed[method.name] = [at_cost(run, self.costs[method.flags]) for run in runs]
        return costed
