"""run/session.py: what surrounds a run. One run per folder, one sentence per error.

`Run` keeps processes, files, checkpoints and signals out of the training loop.
"""

import contextlib
import errno
import json
import math
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from tqdm import tqdm

from config import describe, to_json
from engine.distributed import (
    gather,
    gather_weights,
    lost_contact,
    name_rank,
    start_processes,
)
from engine.families import load_config, model_class
from engine.run_folder import FLAGS_OF_A_RUN, check_unused, settings_in
from formats.load import count_left_out
from formats.sample import Away, DataError, LeftOut
from groups import Group
from media.errors import MediaError
from run.card import model_card
from run.checkpoint import (
    clean_up,
    loadable,
    make_folder,
    random_states,
    resume,
    save,
    set_random_states,
)
from run.flags import take_any_bytes
from run.logs import Log
from run.machine import describe_machine, versions
from run.provenance import provenance
from run.signals import SIGNALS, STOP
from run.stream import load_data, owner

MAX_BAD_FRACTION = 0.2  # of the records may have media that cannot be used
MAX_NONFINITE = 5  # updates in a row whose gradient may be infinite or no number; all skipped
GO_ON = "go on by the same command with --resume"
LOCK_PATIENCE = 30.0  # seconds: the other run may have been told to stop, and be saving


# ------------------------------------------------------------------------------ a program's end
OPTIONAL = {"pyarrow": "pyarrow", "scipy": "scipy", "decord": "decord", "flash_attn": "flash-attn"}


OF_THE_DISK = {  # an OSError with another number is one of the program
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EDQUOT,
    errno.ELOOP,
    errno.ESTALE,
}


def ends_in_a_sentence(main, argv: list[str]) -> None:
    """Run main(argv); bad input, a full GPU or disk, a lost process, a missing optional package and
    Ctrl-C end the program with one sentence, on a line of its own.

    Other errors keep their traceback.
    """
    take_any_bytes()
    shown = warnings.showwarning
    warnings.showwarning = show_warning
    try:
        main(argv)
    except (DataError, torch.OutOfMemoryError, ModuleNotFoundError) as error:
        sentence = sentence_of(error)
        if not sentence:
            raise
        close_bars()
        raise SystemExit(f"error: {name_rank()}{sentence}") from None
    except KeyboardInterrupt:
        close_bars()
        print("stopped by Ctrl-C", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        close_bars()
        raise SystemExit(f"error: {name_rank()}{disk_sentence(error)}") from None
    except (dist.DistError, RuntimeError) as error:
        if not lost_contact(error):
            raise
        reason = str(error).splitlines()[0][:160]
        close_bars()
        raise SystemExit(
            f"error: {name_rank()}another process has died or has not come in time, so this one "
            f"ends, too; why, is in the output of the process that ended first ({reason})"
        ) from None
    finally:
        warnings.showwarning = shown
    if dist.is_initialized():
        dist.destroy_process_group()


def sentence_of(error: Exception) -> str:
    """What an error means to a user; "" for a missing package that is no optional one."""
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).split(". ")[0][:160]
        return (
            f"out of GPU memory: {reason}; lower --max_tokens, --max_frames or --max_pixels, or "
            "pass --train_type lora (python -m run.memory tells what each takes), and go on with "
            "--resume"
        )
    if isinstance(error, ModuleNotFoundError):
        package = OPTIONAL.get((error.name or "").partition(".")[0])
        return f"this needs the package {package}: pip install {package}" if package else ""
    return str(error)


def disk_sentence(error: OSError) -> str:
    """What an error of OF_THE_DISK means to a user."""
    return (
        f"{error.filename or 'the disk'}: {error.strerror}; see to space and permissions there, or "
        "name another folder"
    )


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """A warning on a line of its own, also while there is a progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def close_bars() -> None:
    """End the line of every progress bar, so that what comes begins on a new one."""
    for bar in list(getattr(tqdm, "_instances", [])):
        bar.close()


# ------------------------------------------------------------------------------ a run's folder
@contextlib.contextmanager
def only_run(out: Path, rank: int, patience: float = LOCK_PATIENCE):
    """Within, this is the only run that writes into a folder; all its processes enter together.

    Raises DataError on rank 0 when another one still does after `patience` seconds. The system
    gives the folder free when a run ends, however it ends.
    """
    if rank:
        gather(None)
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    holder = out / ".running"  # says who has the lock
    with locked(out, holder, patience):
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        gather(None)
        yield
        holder.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(out: Path, holder: Path, patience: float):
    """Within, a folder is locked. Raises DataError where another process keeps it."""
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        who = holder.read_text() if holder.is_file() else "unknown"
        raise DataError(
            f"{out}: another run writes here ({who}); stop that one, or pass another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        print(
            f"{out}: this file system cannot be locked ({error}); see to it that no other run "
            "writes here",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------ a run
class Run:
    """What surrounds one stage's training: processes, data, the output folder, checkpoints,
    signals.

    with Run(cfg) as run:            joins the processes, locks the folder, loads the data and, with
                                     --resume, the newest checkpoint
        run.samples, run.heldout     this process's training samples, its part of the held-out ones
        run.start, run.steps         the first step, and the one after the last
        run.announce()               write config.json and open the logs
        run.restore(..)              bring weights, optimiser and `state` to the checkpoint's
        run.begin_step(..)           what the step may leave undone can be saved from here on
        run.agree()                  all processes have what the step needs from outside
        run.save_or_stop(..)         save when it is time to; True when the run is to end

    A step that raises `formats.sample.Away` (the judge or the media cannot be reached) is as if it
    had not begun: the run saves what it was before, and ends with the sentence.

    `state` is what each process saves beside the weights and the optimiser: {name: object with
    state_dict and load_state_dict, or a torch.Generator}. When the number of processes has changed,
    each object's redistribute(states of all, owns) is called instead, and random streams begin
    anew.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.out = Path(cfg.out)
        self.exits = contextlib.ExitStack()
        self.begun: Callable[[], str] | None = None  # saves what was there before the step
        self.away = ""  # what all processes know to be away
        self.trouble = ""  # why the run ends after this step

    def __enter__(self) -> "Run":
        cfg = self.cfg
        self.started = time.perf_counter()
        self.rank, self.world, self.device = start_processes()
        if cfg.prompts_per_step % self.world:
            raise DataError(
                f"--prompts_per_step {cfg.prompts_per_step} cannot be split evenly over "
                f"{self.world} processes; use a multiple of {self.world}"
            )
        if cfg.replayed and cfg.capacity < self.world:
            raise DataError(
                f"--capacity {cfg.capacity} leaves some of {self.world} processes without a place; "
                "raise it"
            )
        self.per_rank = cfg.prompts_per_step // self.world

        # from here on the folder is ours; whatever happens, it is given free
        self.exits.enter_context(only_run(self.out, self.rank))
        try:
            self.open()
        except BaseException:  # __exit__ is not called for what __enter__ raises
            self.exits.close()
            raise
        return self

    def open(self) -> None:
        """Seeds, data, and the checkpoint to go on from."""
        cfg = self.cfg
        for set_seed in (random.seed, np.random.seed, torch.manual_seed):
            set_seed(cfg.seed)

        # a model that cannot be loaded is told now, not after hours of decoding
        if cfg.model:
            load_config(cfg.model)

        # this process's prompts, and what tells the data and the model of two runs apart
        self.left_out: list[LeftOut] = []
        self.all_samples, self.heldout = load_data(cfg, self.rank, self.world, self.left_out)
        self.samples = [s for s in self.all_samples if self.owns(s.id)]
        self.made_with = {}
        if self.rank == 0:
            self.made_with = provenance(self.all_samples, self.heldout, cfg.model, cfg.stage)

        # the checkpoint to go on from; a run is never written over
        self.saved = None
        if self.rank == 0:
            clean_up(self.out)
        gather(None)
        if cfg.resume:
            self.saved = resume(
                self.out, asdict(cfg), self.made_with, self.all_samples, self.rank, self.world
            )
        if not self.saved:
            check_unused(self.out)
        if not is_free(self.out / "config.json"):
            # a checkpoint holds the flags that it was made with
            mend = f"move it away, and {GO_ON}" if self.saved else "pass another --out"
            raise DataError(
                f"{self.out}/config.json: is not that of a run, and would be written over; {mend}"
            )
        if self.rank == 0:
            make_folder(self.out)

        # where to begin, and where to end
        self.start = self.saved.step if self.saved else 0
        self.generated = self.saved.generated if self.saved else 0
        total = sum(gather(len(self.samples)))
        self.steps = cfg.steps or max(1, total // cfg.prompts_per_step)
        self.seed = cfg.seed * 1000 + self.rank
        if self.saved and not self.same_world:
            self.seed += 1_000_003 * self.start  # streams of its own: those of before are used up
        self.bad_updates = 0  # in a row, with a gradient that is no finite number
        self.signals = SIGNALS

    def __exit__(self, kind, error, trace) -> None:
        try:
            if isinstance(error, Away) and self.begun:
                self.save_begun(error)
        finally:
            self.exits.close()

    @property
    def same_world(self) -> bool:
        """Was the checkpoint written by as many processes as there are now?"""
        return self.saved.own is not None

    def owns(self, prompt_id: str) -> bool:
        """Does this prompt belong to this process?"""
        return owner(prompt_id, self.world) == self.rank

    def share(self, total: int) -> int:
        """This process's part of a number of the whole run; the parts add up to it."""
        return total // self.world + (self.rank < total % self.world)

    def announce(self, tokenizer=None) -> Log:
        """Write config.json, say what is going to happen, and open the logs.

        tokenizer: decodes the tokens of rollouts.jsonl.gz.
        """
        cfg = self.cfg
        if self.rank == 0:
            (self.out / "config.json").write_text(to_json(cfg))
            machine = json.dumps(describe_machine(self.world), indent=2)
            (self.out / "machine.json").write_text(machine + "\n")
            completions = f" x ({cfg.fresh} fresh + {cfg.replayed} replayed)" if cfg.stage else ""
            print(describe(cfg))
            print(
                f"{cfg.train_type} training on {self.device}, {self.world} process(es); "
                f"{len(self.samples):,} prompts on rank 0, {len(self.heldout):,} held-out; "
                f"{self.steps} steps of {cfg.prompts_per_step} prompts{completions}"
            )
            for sentence in count_left_out(self.left_out):
                print(sentence)
            if self.start >= self.steps:
                print(
                    f"nothing is left to do: {self.start} steps are done, and the run is to have "
                    f"{self.steps}; a larger --steps goes on"
                )
        self.log = Log(cfg, self.rank, self.steps, self.saved, tokenizer)
        if not self.saved:  # else the run has named them at its beginning
            self.log.left_out(self.left_out)
        self.exits.enter_context(self.signals.heard())  # from here on there is a run to save
        return self.log

    # -------------------------------------------------------------------------- checkpoints
    def restore(self, policy, learner, optimizer, state: dict) -> None:
        """Bring everything to where the checkpoint left it; nothing in a new run."""
        if not self.saved:
            return
        # weights and moments; a sharded learner gives its weights to the policy that samples
        self.saved.load_optimizer(optimizer)
        if learner is not policy:
            gather_weights(policy, learner)
        # buffer, data order, random streams
        for name, stateful in state.items():
            if any(name not in s for s in self.saved.states):
                raise DataError(
                    f"{self.saved.folder}: holds no state of '{name}', which this run has; go on "
                    "with the flags and the code that it was made with, or start another run"
                )
            states = [s[name] for s in self.saved.states]
            try:
                self.restore_one(stateful, states)
            except DataError:  # a ValueError, too, but it says what is wrong
                raise
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(
                    f"{self.saved.folder}: its state of '{name}' is of another version of this "
                    f"code ({type(error).__name__}: {error}); go on with the code that it was made "
                    "with, or start another run from its model by --model"
                ) from None
        if self.same_world:
            set_random_states(self.saved.own["random"], self.device)
        self.saved.states = []  # buffers of all processes, maybe
        again = state["stream"].tried_again
        self.log.reported = state["stream"].dropped.keys() | again
        n_again = sum(gather(len(again)))
        if n_again and self.rank == 0:
            tqdm.write(f"{n_again:,} records whose media could not be read are tried again")

    def restore_one(self, stateful, states: list) -> None:
        """Give one object what the checkpoint holds of it: `states`, of each process."""
        if not self.same_world:
            if not isinstance(stateful, torch.Generator):
                stateful.redistribute(states, self.owns)
        elif isinstance(stateful, torch.Generator):
            stateful.set_state(states[0])
        else:
            stateful.load_state_dict(states[0])

    def save_or_stop(self, done: int, policy, optimizer, state: dict) -> bool:
        """Save when it is time to, or a signal asks for it; True when the run is to end.

        Raises DataError after saving where `check` has found that the run had better end.
        """
        if done == self.start + 1:
            # what no checkpoint can hold is found now, not in the end
            loadable(self.own_state(state))
        asked = self.signals.agreed()  # the same on all processes
        every = self.cfg.save_every
        if asked or self.trouble or done == self.steps or (every and done % every == 0):
            self.save(done, policy, optimizer, self.own_state(state))
        if self.trouble:
            raise DataError(f"{self.trouble}; the run is saved after step {done}: {GO_ON}")
        return asked == STOP

    def save(self, done: int, policy, optimizer, own: dict) -> None:
        """Write the checkpoint after `done` steps. own: the state of this process."""
        shared = {
            "config": json.dumps(asdict(self.cfg)),
            "made_with": self.made_with,
            "generated": self.generated,
            "logs": self.log.state(),
        }
        evaluations = self.log.evaluations
        evaluation = evaluations[-1] if evaluations else None
        class_name = model_class(policy.config).__name__
        card = model_card(self.cfg, class_name, done, self.generated, evaluation, versions())
        save(self.out, done, policy, optimizer, shared, own, card)

    def own_state(self, state: dict) -> dict:
        """What a checkpoint stores of this process: `state`, and the global random generators."""
        own = {"random": random_states(self.device)}
        for name, stateful in state.items():
            is_generator = isinstance(stateful, torch.Generator)
            own[name] = stateful.get_state() if is_generator else stateful.state_dict()
        return own

    # -------------------------------------------------------------------------- what is away
    def begin_step(self, step: int, policy, optimizer, state: dict) -> None:
        """Remember where the step begins, so that one that cannot be ended can be undone.

        Only what moves before `agree` is copied: the place in the data and the random streams.
        """
        moving = {}
        for name, stateful in state.items():
            if name == "stream" or isinstance(stateful, torch.Generator):
                moving[name] = stateful
        before = self.own_state(moving)

        def save_as_before() -> str:
            if step == self.start:
                return "nothing was lost, for no step was done"
            self.save(step, policy, optimizer, self.own_state(state) | before)
            return f"the run is saved after step {step}"

        self.begun = save_as_before

    def agree(self, away: Away | None = None) -> None:
        """Raises Away on all processes where one of them has met it.

        Each calls it once a step, when it has what the step needs from outside, and before any
        other message to the others; one that has met Away calls it from `__exit__`.
        """
        reasons = [reason for reason in gather(away and str(away)) if reason]
        if reasons:
            self.away = reasons[0]
            raise Away(self.away)
        self.begun = None

    def save_begun(self, error: Away) -> None:
        """Undo the step, save, and raise Away with the sentence that says so."""
        if not self.away:  # met here: the others wait in `agree`
            with contextlib.suppress(Away):
                self.agree(error)
        saved = self.begun()
        raise Away(f"{self.away}; {saved}: {GO_ON}") from None

    # -------------------------------------------------------------------------- limits
    def evaluates(self, done: int) -> bool:
        """Is there an evaluation after `done` steps? None where the run is about to end early."""
        if self.trouble:
            return False
        every = self.cfg.eval_every
        return done == self.steps or bool(every and done % every == 0)

    def check(self, step: int, groups: list[Group], norms: list[float], dropped: dict) -> None:
        """Had the run better end? Then `save_or_stop` saves and ends it.

        groups: of the step's last update. norms: of the gradients of all its updates.
        """
        self.trouble = self.check_gradient(step, groups, norms) or self.check_media(dropped)

    def check_media(self, dropped: dict[str, DataError]) -> str:
        """The sentence, where too many records have media that cannot be used. dropped: why, by
        id."""
        bad = sum(gather(sum(isinstance(why, MediaError) for why in dropped.values())))
        if bad <= MAX_BAD_FRACTION * len(self.all_samples):
            return ""
        return (
            f"{bad:,} of {len(self.all_samples):,} records have media that cannot be used, "
            f"more than {MAX_BAD_FRACTION:.0%}; they are listed in {self.out}/bad_media.jsonl: "
            "mend them"
        )

    def check_gradient(self, step: int, groups: list[Group], norms: list[float]) -> str:
        """The sentence, where the gradient was no finite number MAX_NONFINITE times in a row.

        The groups of the last step are left in a file to be looked at.
        """
        for norm in norms:
            self.bad_updates = 0 if math.isfinite(norm) else self.bad_updates + 1
        if self.bad_updates < MAX_NONFINITE:
            return ""
        file = self.out / f"nonfinite-rank{self.rank}.pt"
        torch.save([describe_group(group) for group in groups], file)
        return (
            f"the gradient of {MAX_NONFINITE} updates in a row, up to step {step}, was infinite or "
            "no number; weights and optimiser are as they were before them, and the last batch is "
            f"in {file}; lower --lr, or look at that batch"
        )

    def finish(self, builder) -> None:
        """The end of a run: exit when it was asked to stop, else say what it has reached."""
        self.signals.agreed()  # what was asked for after the last step: all is saved
        # stopped by a signal: the exit status says which
        if self.signals.stopped:
            if self.rank == 0:
                print(
                    "asked to stop, and stopped; go on by the same command with --resume "
                    f"({self.out}/checkpoint)"
                )
            sys.exit(128 + max(gather(self.signals.number)))
        if self.rank:
            return

        # the first and the last held-out accuracy
        evaluations = self.log.evaluations
        result = f"{self.generated:,} completions"
        if evaluations:
            first = evaluations[0].accuracy
            last = evaluations[-1].accuracy
            result = f"held-out accuracy {first:.2f} -> {last:.2f} after {result}"
        if builder.silent:
            print(
                f"{len(builder.silent):,} videos of rank 0 have no sound track and were shown "
                f"without sound, e.g. {min(builder.silent)}"
            )
        minutes = (time.perf_counter() - self.started) / 60
        print(
            f"{result} ({minutes:.1f} minutes); see {self.out}/run.html, curves.png, "
            "metrics.jsonl, completions.jsonl, checkpoint/"
        )


def is_free(config: Path) -> bool:
    """Is there no config.json, or that of a run?"""
    return not config.exists() or settings_in(config).keys() >= FLAGS_OF_A_RUN


def describe_group(group: Group) -> dict:
    """A group as plain values, for a file that torch.load(weights_only=True) reads."""
    return {
        "id": group.prompt_id,
        "hinted": [entry.hinted for entry in group.entries],
        "replayed": group.replayed,
        "tokens": [entry.tokens.tolist() for entry in group.entries],
        "behaviour_logps": [entry.logps.tolist() for entry in group.entries],
        "rewards": group.rewards,
        "advantages": group.advantages,
    }
