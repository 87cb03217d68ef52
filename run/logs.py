"""run/logs.py: what a training run writes down.

    metrics.jsonl      one line per step, and one per evaluation
    completions.jsonl  a few completions in full
    bad_media.jsonl    records that were dropped for their media
    dropped.jsonl      records that were dropped because their prompt is too long
    rollouts.jsonl.gz  every completion with its tokens (run/rollouts.py)
    curves.png         at evaluations and at the end (run/plots.py)

A new diagnostic is one name, given where it is computed, and becomes a column by itself:

    log.note(clip_fraction=clipped[mask])        # the mean over all tokens, of all processes
    log.note(ratio_max=ratio[mask])              # names that end in _max: the largest value
    log.note(loss_sum=loss)                      # names that end in _sum: the sum, as "loss"

Nothing here changes what a run computes.
"""

import hashlib
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data import TooLong
from engine.distributed import gather, gather_lists, rank_and_world
from engine.flops import peak_flops
from formats.sample import DataError, LeftOut
from groups import Group
from media.errors import MediaError
from replay import TIERS, ReplayBuffer
from rewards import is_right
from run.checkpoint import Saved, move_aside, sync
from run.metrics import read_metrics
from run.plots import plot_run
from run.rollouts import NAME as ROLLOUTS
from run.rollouts import RolloutLog, bytes_before
from run.track import numbers_of, open_tracker

FILES = ("metrics.jsonl", "completions.jsonl", "bad_media.jsonl", "dropped.jsonl")
BINS = np.linspace(-2.5, 2.5, 42)  # of the advantages' histogram; the outermost hold what is beyond
FIRST_DRAWING = 20.0  # seconds until curves.png may be drawn on the way
DRAWING = 0.02  # of a run's time, at most, goes into drawing curves.png on the way
NAMED = 20  # prompts with a hint that a line names; "hints" counts them all
TAIL = 4096  # bytes before the end of a log by which it is known again
OF_THE_MACHINE = ("time_", "speed_", "memory_", "seconds")  # how columns of clocks begin
PLOTTED = {"loss", "generated", *(f"tier_{tier}" for tier in TIERS)}  # what curves.png needs
PLOTTED_OF_STAGE_0 = {"loss", "step"}
COLUMNS = (  # what every line of a step has; null where no token or completion has a value
    "loss",
    "kl",
    "ratio_mean",
    "ratio_max",
    "ratio_mean_replayed",
    "clip_fraction",
    "log_ratio_squared",
    "kl_behaviour",
    "replay_age",
)


@dataclass
class Tally:
    """What is remembered of many values of one name."""

    total: float = 0.0
    count: int = 0
    largest: float = -math.inf

    def merged(self, other: "Tally") -> "Tally":
        """The tally of both's values."""
        return Tally(
            self.total + other.total,
            self.count + other.count,
            max(self.largest, other.largest),
        )

    def column(self, name: str) -> float | None:
        """The column that the values make: their mean, or what the name's ending says."""
        if name.endswith("_sum"):
            return finite(self.total)
        if not self.count:
            return None
        if name.endswith("_max"):
            return finite(self.largest)
        return finite(float(f"{self.total / self.count:.6g}"))


class Evaluation(NamedTuple):
    """A point of the curve of held-out accuracy."""

    step: int
    generated: int
    accuracy: float
    questions: int  # that were asked, by all processes


class Notes:
    """The values of one step, by name."""

    def __init__(self):
        self.tallies: dict[str, Tally] = {}

    def add(self, name: str, values: torch.Tensor | Iterable[float]) -> None:
        """Add numbers to a name; of none at all the name is still known."""
        if isinstance(values, torch.Tensor):
            values = values.detach().flatten().tolist()  # one transfer from the device
        numbers = [float(value) for value in values if value is not None]
        tally = self.tallies.setdefault(name, Tally())
        if numbers:  # of none at all there is no largest
            added = Tally(sum(numbers), len(numbers), max(numbers))
            self.tallies[name] = tally.merged(added)

    def columns(self) -> dict[str, float | None]:
        """The columns that the notes of all processes make.

        Raises ValueError where two names make the same column.
        """
        merged: dict[str, Tally] = {}
        for tallies in gather(self.tallies):
            for name, tally in tallies.items():
                merged[name] = merged.get(name, Tally()).merged(tally)

        columns: dict[str, float | None] = {}
        for name, tally in merged.items():
            column = name.removesuffix("_sum")
            if column in columns:
                raise ValueError(f"two notes are called '{column}' and '{column}_sum'; rename one")
            columns[column] = tally.column(name)
        return columns


class Log:
    """The logs of one run. Rank 0 writes; every process must call every method, for they gather."""

    def __init__(self, cfg, rank: int, steps: int, saved: Saved | None = None, tokenizer=None):
        self.cfg = cfg
        self.is_main = rank == 0
        self.out = Path(cfg.out)
        self.rows: list[dict] = []  # of the steps
        self.evaluations: list[Evaluation] = []
        self.advantages = {}  # histograms over BINS
        for kind in ("fresh", "replayed"):
            self.advantages[kind] = np.zeros(len(BINS) - 1, dtype=int)
        self.reported: set[str] = set()  # ids of dropped records that this process has named
        self.notes = Notes()
        every = cfg.log_rollouts if cfg.stage else 0
        self.rollouts = RolloutLog(self.out, every, self.is_main, tokenizer)
        self.files = (*FILES, ROLLOUTS) if every else FILES
        self.tracker = None
        if self.is_main:
            start = saved.step if saved else 0
            self.tracker = open_tracker(cfg.track, self.out, asdict(cfg), start)
        _, self.world = rank_and_world()
        self.peak_flops: float | None = None  # of one GPU
        if torch.cuda.is_available():
            self.peak_flops = peak_flops(torch.cuda.get_device_name())
        self.times: dict[str, float] = {}
        self.last_evaluation: dict[str, float] = {}  # its numbers
        self.started = time.perf_counter()
        self.next_drawing = self.started + FIRST_DRAWING  # when curves.png may be drawn

        # the progress bar, and what a run that goes on has already written
        done = saved.step if saved else 0
        self.bar = tqdm(total=steps, initial=done, disable=not self.is_main, dynamic_ncols=True)
        if saved:
            self.evaluations = [Evaluation(*e) for e in saved.logs["evals"]]
            for kind, counts in saved.logs["advantages"].items():
                self.advantages[kind] = np.array(counts)
        if self.is_main:
            self.open_files(saved)

    def open_files(self, saved: Saved | None) -> None:
        """A new run's files are empty; one that goes on has its own up to the checkpoint."""
        for name in self.files:
            path = self.out / name
            if saved and name in saved.logs["files"]:
                cut_log(path, *saved.logs["files"][name], saved.step)
                continue
            if path.exists() and path.stat().st_size:
                aside = move_aside(path)
                tqdm.write(f"{path}: is of an earlier run; it is now {aside}")
            path.touch()
        if saved:
            needed = PLOTTED_OF_STAGE_0 if self.cfg.stage == 0 else PLOTTED
            rows = read_rows(self.out / "metrics.jsonl")
            self.rows = [row for row in rows if needed <= row.keys()]

    def state(self) -> dict:
        """What a checkpoint stores of the logs. The files are synced to the disk first."""
        self.rollouts.wait()
        ends = {}
        for name in self.files if self.is_main else ():
            sync(self.out / name)
            size = (self.out / name).stat().st_size
            ends[name] = [size, digest_before(self.out / name, size)]
        histograms = {kind: counts.tolist() for kind, counts in self.advantages.items()}
        return {
            "files": ends,
            "evals": [list(e) for e in self.evaluations],
            "advantages": histograms,
        }

    # -------------------------------------------------------------------------- during a step
    def note(self, **values: torch.Tensor | Iterable[float]) -> None:
        """Add values to columns of this step's line; see the top of this file."""
        for name, numbers in values.items():
            self.notes.add(name, numbers)

    def start_step(self) -> None:
        """Begin a step's clocks."""
        self.times = {}
        self.lap_start = time.perf_counter()
        self.cpu_start = time.process_time()

    def lap(self, phase: str) -> None:
        """The seconds since the last lap belong to this phase: time_<phase>, of this process."""
        now = time.perf_counter()
        name = f"time_{phase}"
        self.times[name] = self.times.get(name, 0.0) + now - self.lap_start
        self.lap_start = now

    # -------------------------------------------------------------------------- lines
    def step(
        self,
        step: int,
        generated: int,
        updates: list[list[Group]],
        buffer: ReplayBuffer,
        norms: list[float],
        lr: float,
        dropped: dict[str, DataError],
    ) -> None:
        """One line of metrics.jsonl for a step of stages 1-3, and its completions in
        rollouts.jsonl.gz.

        updates: the groups of each of the step's updates. norms: of each update's gradient.
        dropped: why records were left out so far, by id. Rewards are means over all completions
        that the step has sampled, on all processes. time_cpu: CPU-seconds of all processes, without
        those that decode. updates_per_prompt: groups of all updates, fresh and replayed, per prompt
        sampled.
        """
        self.rollouts.write(step, generated, updates, buffer)
        self.note_groups(list(itertools.chain.from_iterable(updates)), step)
        self.note_dropped(dropped)

        # what was noted during the step, then what the buffer knows
        columns = dict.fromkeys(COLUMNS) | self.notes.columns()
        columns |= effective_sample_fraction(columns) | sampler_correlation(columns)
        columns["updates_per_prompt"] = round(columns.get("groups", 0) / columns.pop("prompts"), 4)
        columns |= self.speeds(columns)
        row = joined(
            {"step": step, "stage": self.cfg.stage, "generated": generated},
            columns,
            sum_columns(gather(buffer.stats())),
            {"hinted_prompts": gather_lists(buffer.hinted_prompts()[:NAMED])[:NAMED]},
            self.end_of_line(norms, lr),
        )
        self.write_row(row)

        reward = f"{row['reward']:.2f}"
        accuracy = f"{row['accuracy']:.2f}"
        self.bar.set_postfix(reward=reward, accuracy=accuracy, generated=generated)
        self.bar.update()

    def speeds(self, columns: dict) -> dict:
        """Tokens of completions per second, of all processes: speed_generated, those sampled, and
        speed_trained, those trained on; and speed_mfu, the fraction of the GPUs' peak that the
        updates reach (None without a GPU that engine/flops.py knows).

        trained_tokens is that of all groups of all updates of the step, those left out for want of
        a gradient included; a prompt's tokens are not counted. The time of an update holds that of
        the reference and of the optimiser, too.
        """
        speeds: dict[str, float | None] = {"speed_mfu": None}
        for name, tokens, phase in (
            ("speed_generated", "completion_tokens", "time_rollout"),
            ("speed_trained", "trained_tokens", "time_update"),
        ):
            seconds = self.times.get(phase)
            speeds[name] = round(columns[tokens] / seconds, 1) if seconds else None
        seconds = self.times.get("time_update")
        if self.peak_flops and seconds:
            possible = seconds * self.peak_flops * self.world
            speeds["speed_mfu"] = round(columns.get("update_flops", 0) / possible, 4)
        return speeds

    def note_rewards(self, groups: list[Group]) -> None:
        """Columns of what was sampled and scored; each reward becomes reward_<name>."""
        for group in groups:
            self.note(prompts_sum=[1])
            for entry in group.entries:
                self.note(
                    reward=[entry.reward],
                    accuracy=[is_right(entry.accuracy)],
                    completion_tokens_sum=[len(entry.tokens)],
                    judge_missing_sum=[self.cfg.stage == 3 and entry.scores.get("judge") is None],
                )
                for name, value in entry.scores.items():
                    if name != "reward":
                        self.note(**{f"reward_{name}": [value]})

    def note_groups(self, groups: list[Group], step: int) -> None:
        """Columns and histograms of what the groups are trained with."""
        # groups without an advantage and the age of replayed completions, as columns
        histograms: dict[str, list[float]] = {"fresh": [], "replayed": []}
        for group in groups:
            histograms["replayed" if group.replayed else "fresh"] += group.advantages.tolist()
            ages = [step - entry.step for entry in group.entries if group.replayed]
            self.note(
                groups_sum=[1],
                zero_advantage_groups_sum=[not group.advantages.any()],
                replay_age=ages,
                replayed_sum=[len(ages)],
                trained_tokens_sum=[len(entry.tokens) for entry in group.entries],
            )

        # every advantage of the run, for curves.png
        for kind, counts in self.advantages.items():
            values = np.clip(gather_lists(histograms[kind]), BINS[0], BINS[-1])
            counts += np.histogram(values, BINS)[0]

    def sft_step(
        self,
        step: int,
        loss: float,
        tokens: int,
        norms: list[float],
        lr: float,
        dropped: dict[str, DataError],
    ) -> None:
        """One line of metrics.jsonl for a step of stage 0."""
        self.note_dropped(dropped)
        row = joined(
            {"step": step, "stage": 0, "generated": 0, "loss": finite(loss)},
            {"completion_tokens": tokens},
            self.notes.columns(),
            self.end_of_line(norms, lr),
        )
        self.write_row(row)
        self.bar.set_postfix(loss=f"{loss:.3f}")
        self.bar.update()

    def end_of_line(self, norms: list[float], lr: float) -> dict:
        """The columns that lines of all stages end with; ends the step's notes.

        grad_norm: the mean over the step's updates. skipped: updates whose norm was no finite
        number, which have changed nothing. lr: of the last update. memory_gb: the most that any
        process has held so far, on its GPU, or of the machine's memory.
        """
        cpu = time.process_time() - self.cpu_start
        skipped = sum(not math.isfinite(norm) for norm in norms)
        columns = {"grad_norm": finite(float(np.mean(norms))), "skipped": skipped, "lr": lr}
        columns |= {name: round(seconds, 4) for name, seconds in self.times.items()}
        columns["time_cpu"] = round(sum(gather(cpu)), 4)
        columns["memory_gb"] = round(max(gather(peak_memory())) / 1e9, 3)
        self.notes = Notes()
        return columns

    def left_out(self, errors: list[LeftOut]) -> None:
        """Name in dropped.jsonl the records that were left out when the data was read."""
        if self.is_main:
            for error in errors:
                self.write("dropped.jsonl", {"id": error.id, "reason": str(error)})

    def note_dropped(self, dropped: dict[str, DataError]) -> None:
        """Name the records that were dropped since the last call, and note how many there are.

        Those with bad media in bad_media.jsonl with the file, those that are too long in
        dropped.jsonl.
        """
        # each is named once
        new: list[tuple[str, dict]] = []  # (file, line)
        for prompt_id, why in dropped.items():
            if prompt_id in self.reported:
                continue
            if isinstance(why, MediaError):
                row = {"id": prompt_id, "path": why.path, "reason": str(why)}
                new.append(("bad_media.jsonl", row))
            else:
                new.append(("dropped.jsonl", {"id": prompt_id, "reason": str(why)}))
        self.reported.update(dropped)
        for name, row in gather_lists(new):
            if self.is_main:
                self.write(name, row)

        # how many there are by now
        bad_media = sum(isinstance(why, MediaError) for why in dropped.values())
        too_long = sum(isinstance(why, TooLong) for why in dropped.values())
        self.note(bad_media_sum=[bad_media], too_long_sum=[too_long])

    def examples(self, step: int, examples: list[dict]) -> None:
        """Append completions in full to completions.jsonl."""
        if not self.is_main:
            return
        for example in examples:
            self.write("completions.jsonl", {"step": step, **example})
        if self.tracker and examples:
            self.tracker.completions(step, examples)

    def evaluation(self, step: int, generated: int, scores: dict, examples: list[dict]) -> None:
        """A line of its own for an evaluation after `step` steps, and a few full completions."""
        if scores["n"] == 0:
            return
        self.evaluations.append(Evaluation(step, generated, scores["correct"], scores["n"]))
        if not self.is_main:
            return
        row = {
            "step": step,
            "stage": self.cfg.stage,
            "generated": generated,
            "eval_accuracy": scores["correct"],
            "eval_format": scores["format"],
            "eval_reward": scores["reward"],
            "eval_questions": scores["n"],
            "eval_unusable": scores["unusable"],
            "eval_completion_tokens": scores["tokens"],
            "seconds": round(time.perf_counter() - self.started, 1),
        }
        by_kind = scores["correct_by_kind"]
        for kind, accuracy in by_kind.items():
            row[f"eval_accuracy_{kind}"] = accuracy
        self.write_metrics(row)
        self.last_evaluation = numbers_of(row)
        self.examples(step, examples)
        if time.perf_counter() >= self.next_drawing:
            self.draw()
        self.bar.write(
            f"step {step}: held-out accuracy {scores['correct']:.3f} on {scores['n']} questions, "
            f"{generated:,} completions so far; "
            + ", ".join(f"{kind} {accuracy:.2f}" for kind, accuracy in by_kind.items())
        )

    # -------------------------------------------------------------------------- files
    def write_row(self, row: dict) -> None:
        self.rows.append(row)
        if self.is_main:
            self.write_metrics(row)

    def write_metrics(self, row: dict) -> None:
        """A line of metrics.jsonl, to the tracker, too."""
        self.write("metrics.jsonl", row)
        if self.tracker:
            self.tracker.numbers(row["step"], numbers_of(row))

    def write(self, name: str, row: dict) -> None:
        path = self.out / name
        try:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            error.filename = str(path)  # what fails in writing does not know it
            raise

    def draw(self) -> None:
        """Draw curves.png."""
        if not self.is_main or not self.rows:  # there are none before the first step
            return
        start = time.perf_counter()
        plot_run(self.cfg, self.rows, self.evaluations, self.advantages, BINS)
        end = time.perf_counter()
        self.next_drawing = end + (end - start) / DRAWING

    def finish(self) -> None:
        """End the logs of a run."""
        self.rollouts.close()
        self.bar.close()
        self.draw()
        if self.tracker:
            last_step = self.rows[-1] if self.rows else {}  # none where metrics.jsonl was lost
            self.tracker.finish(numbers_of(last_step) | self.last_evaluation)


# ------------------------------------------------------------------------------ files
def digest_before(path: Path, size: int) -> str:
    """Of the last TAIL bytes before this place of a file: is it still the same place?"""
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        return hashlib.sha256(file.read(min(size, TAIL))).hexdigest()


def cut_log(path: Path, size: int, digest: str, step: int) -> None:
    """Cut a log to its first `size` bytes, which is where the checkpoint after `step` steps was
    made, if its `digest_before` is still the same.

    Else (the file was removed, cut or changed) what is whole of the steps before the checkpoint
    stays, and a warning says so.
    """
    path.touch()
    there = path.stat().st_size
    is_same = there >= size and digest_before(path, size) == digest
    with path.open("ab+") as file:
        if is_same:
            file.truncate(size)
            return

        # what is torn would spoil what comes next; what is behind the checkpoint would come twice
        if path.name == ROLLOUTS:
            kept = bytes_before(path, step)
            file.truncate(kept)
            say_cut(path, size, there, f"{kept:,} bytes")
            return
        file.seek(0)
        lines = file.read().split(b"\n")[:-1]
        kept = [line for line in lines if not is_behind(line, step)]
        file.truncate(0)
        file.write(b"".join(line + b"\n" for line in kept))
    say_cut(path, size, there, f"{len(kept):,} whole lines")


def say_cut(path: Path, size: int, there: int, kept: str) -> None:
    """Warn that a log was found otherwise than the checkpoint left it."""
    warnings.warn(
        f"{path}: is not what it was when the checkpoint was made ({size:,} bytes then, {there:,} "
        f"now): {kept} of the steps before it stay, and the run goes on",
        stacklevel=3,
    )


def is_behind(line: bytes, step: int) -> bool:
    """Was a line of a log written after the checkpoint of this step?

    Steps count from 0, so the last one before it is step - 1; only an evaluation has its number.
    """
    try:
        row = json.loads(line)
        number = row.get("step")
    except (ValueError, RecursionError, AttributeError):
        return False  # damaged: it stays, as one that is no use
    if not isinstance(number, int):
        return False
    is_evaluation = "loss" not in row and row.get("advantage") is None
    return number > step or (number == step and not is_evaluation)


def read_rows(path: Path) -> list[dict]:
    """The lines of metrics.jsonl; damaged ones are left out, and a warning counts them."""
    rows, n_bad = read_metrics(path)
    if n_bad:
        warnings.warn(
            f"{path}: {n_bad} lines are damaged; curves.png and the run's page are drawn without "
            "them",
            stacklevel=2,
        )
    return rows


# ------------------------------------------------------------------------------ columns
def peak_memory() -> int:
    """Bytes: the most that this process has allocated on its GPU, or has held without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows, where nothing else counts it
        return 0
    kilobytes = 1024 if sys.platform == "linux" else 1  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes


def without_clocks(row: dict) -> dict:
    """What of a line is the same in every run of the same seed and flags.

    >>> without_clocks({"step": 3, "time_rollout": 0.2, "speed_trained": 9.0, "memory_gb": 1.1})
    {'step': 3}
    """
    return {name: value for name, value in row.items() if not name.startswith(OF_THE_MACHINE)}


def finite(x: float) -> float | None:
    """A number that JSON knows."""
    return x if math.isfinite(x) else None


def joined(*parts: dict) -> dict:
    """One line of columns; raises ValueError where two parts give the same name.

    >>> joined({"a": 1}, {"b": 2})
    {'a': 1, 'b': 2}
    """
    row: dict = {}
    for columns in parts:
        if taken := row.keys() & columns.keys():
            raise ValueError(f"two columns of metrics.jsonl are called '{min(taken)}'; rename one")
        row |= columns
    return row


def sum_columns(rows: list[dict[str, float]]) -> dict[str, float]:
    """The sums over processes of columns that all of them have."""
    totals = {}
    for name in rows[0]:
        totals[name] = sum(row[name] for row in rows)
    return totals


def effective_sample_fraction(row: dict) -> dict[str, float | None]:
    """Effective sample size of the replayed tokens' ratios as a fraction of their number.

    (sum r)^2 / (n sum r^2): 1 when all are equal, 1/n when one dominates. Takes the place of
    ratio_squared_replayed, the mean of r^2.

    >>> effective_sample_fraction({"ratio_mean_replayed": 2.0, "ratio_squared_replayed": 5.0})
    {'effective_sample_fraction': 0.8}
    """
    mean_square = row.pop("ratio_squared_replayed", None)
    if not mean_square:
        return {"effective_sample_fraction": None}
    return {"effective_sample_fraction": round(row["ratio_mean_replayed"] ** 2 / mean_square, 4)}


def sampler_correlation(row: dict) -> dict[str, float | None]:
    """Pearson's correlation of the recorded and the trainer's log-probs of fresh tokens.

    Takes the place of the means that `run.diagnostics.note_sampler_mismatch` notes.

    >>> means = {"x": 0.5, "y": 1.0, "xx": 0.5, "yy": 2.0, "xy": 1.0}
    >>> sampler_correlation({f"mismatch_{name}": mean for name, mean in means.items()})
    {'sampler_correlation': 1.0}
    """
    names = ("x", "y", "xx", "yy", "xy")
    x, y, xx, yy, xy = (row.pop(f"mismatch_{name}", None) for name in names)
    if x is None:
        return {"sampler_correlation": None}
    variances = (xx - x * x) * (yy - y * y)
    if variances <= 0:
        return {"sampler_correlation": None}
    correlation = (xy - x * y) / math.sqrt(variances)
    return {"sampler_correlation": round(min(1.0, correlation), 6)}  # the means are rounded
