"""checkpoint.py: what a training run saves, and how it goes on as if nothing had happened.

    out/checkpoints/000056/                whole or absent: written as 000056.part, synced to the disk, then renamed
        model.safetensors, config.json, ..     the model in Hugging Face form; with LoRA the adapters merged in, and adapter/
        trainer/shared.pt                      step, completions, flags, where the logs end
        trainer/weights.safetensors            the trained weights as they are (LoRA: the adapters)
        trainer/rank<r>.pt                     per process: its share of the optimiser's state by parameter name, buffer, random states, data cursor
    out/checkpoint -> checkpoints/000056   the newest

Everything is safetensors, JSON or what torch.load(weights_only=True) reads: loading executes no code. A run that goes on (--resume) repeats nothing and loses
nothing: log lines behind the checkpoint are cut off, and their steps are done again, bit for bit on a CPU in fp32. With another number of processes the
prompts, their histories and completions, and the optimiser's state are dealt anew; then random streams begin anew, too: the run is as good but not the same.
"""

import contextlib
import errno
import json
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.distributed import gather
from formats.sample import DataError
from model import Policy

SAVE, STOP = 1, 2


# Flags that say what the saved state means; all others may change between a run and its continuation.
FIXED = ("stage", "model", "train_type", "lora_rank", "lora_alpha", "train_towers", "optim_dtype")


class Signals:
    """What the outside asks for: SIGTERM and SIGINT to save and stop after this step (one more, over a second later, stops at once), SIGUSR1 to save and go
    on."""

    def __init__(self):
        self.asked, self.number, self.stopped, self.since = 0, 0, False, 0.0

    @contextlib.contextmanager
    def heard(self):
        """Within, signals are noted instead of obeyed. Where Python cannot hear them (not the main thread) nothing changes."""
        try:
            before = {
                number: signal.signal(number, self.note)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
            }
        except ValueError:
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def note(self, number: int, frame) -> None:
        if number != signal.SIGUSR1:
            if (
                self.since and time.monotonic() - self.since > 1
            ):  # torchrun's end comes as two signals at once, one for each of its threads
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.since = self.since or time.monotonic()
        self.asked, self.number = (
            max(self.asked, SAVE if number == signal.SIGUSR1 else STOP),
            number,
        )

    def agreed(self) -> int:
        """The most that any process was asked for since the last call, on all processes."""
        asked, self.asked = max(gather(self.asked)), 0
        self.stopped |= asked == STOP
        return asked


def random_states(device: torch.device) -> dict:
    """The global random generators of this process: Python's, NumPy's, torch's and the GPU's."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([name, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict, device: torch.device) -> None:
    version, internal, gauss = json.loads(states["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = json.loads(states["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def save(
    out: Path,
    step: int,
    policy: Policy,
    weights: dict[str, torch.Tensor],
    shared: dict,
    own: dict,
    rank: int,
    keep: int,
) -> None:
    """Write checkpoints/<step>, all processes together; the newest `keep` are kept. Raises DataError on all of them when one cannot write (a full disk):
    what was there before is whole."""
    final = out / "checkpoints" / f"{step:06d}"
    partial = final.with_name(final.name + ".part")

    def on_main():
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "trainer").mkdir(parents=True)
        policy.save(partial)
        save_file(
            {name: w.detach().cpu().contiguous() for name, w in weights.items()},
            partial / "trainer" / "weights.safetensors",
        )
        torch.save(shared, partial / "trainer" / "shared.pt")

    def finish():
        for path in sorted(partial.rglob("*"), reverse=True):
            sync(path)
        sync(partial)
        if final.exists():  # the same step of an earlier attempt
            remove(final, ".before.part")
        partial.rename(final)
        sync(final.parent)
        point(out / "checkpoint", final)
        for old in complete(out)[:-keep]:
            remove(old)

    for work in (
        on_main if rank == 0 else None,
        lambda: torch.save(own, partial / "trainer" / f"rank{rank}.pt"),
        finish if rank == 0 else None,
    ):
        failed = next((f for f in gather(attempt(work)) if f), None)
        if failed:
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            last = complete(out)
            raise DataError(
                f"{final}: the checkpoint could not be written ({failed}); "
                + (f"{last[-1]} is whole; " if last else "")
                + "free some space on the disk and go on with --resume"
            )


def attempt(work: Callable[[], None] | None) -> str | None:
    """Do it; what went wrong with the disk, or None."""
    try:
        if work is not None:
            work()
    except (OSError, SafetensorError) as error:
        return str(error)
    except RuntimeError as error:  # torch.save's writer says it so
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        return f"{os.strerror(errno.ENOSPC)}? {str(error).splitlines()[0][:100]}"
    return None


def sync(path: Path) -> None:
    """Have the disk hold a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(link: Path, target: Path) -> None:
    """Make link a symbolic link to target, in one step; a folder of that name (of an earlier version) is moved aside."""
    if link.is_dir() and not link.is_symlink():
        link.rename(link.with_name(f"{link.name}.before"))
    new = link.with_name(link.name + ".new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(target, link.parent))
    new.replace(link)


def remove(folder: Path, ending: str = ".part") -> None:
    """Remove a checkpoint: renamed first, so that a kill half-way leaves nothing that looks whole."""
    doomed = folder.with_name(folder.name + ending)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def complete(out: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(
        (
            f
            for f in (out / "checkpoints").glob("*")
            if f.name.isdigit() and (f / "trainer" / "shared.pt").is_file()
        ),
        key=lambda f: int(f.name),
    )


@dataclass
class Saved:
    """A checkpoint that was read. step: of how many it is the end; own: this process's state, None when the number of processes is another one;
    states: this process's alone, or when there are more or fewer of them now, those of all that wrote it; samples: the training samples of all processes."""

    folder: Path
    step: int
    generated: int
    config: dict
    logs: dict
    own: dict | None
    states: list[dict] = field(repr=False)
    samples: list = field(default_factory=list, repr=False)

    def load_weights(self, into: dict[str, torch.Tensor]) -> None:
        """Copy the trained weights into these, by name."""
        found = load(self.folder / "trainer" / "weights.safetensors")
        if found.keys() != into.keys():
            odd = sorted(found.keys() ^ into.keys())[0]
            raise DataError(
                f"{self.folder}: its trained weights are not this run's, e.g. {odd}; use the model and --train_type that it was made with"
            )
        with torch.no_grad():
            for name, w in into.items():
                w.copy_(found[name])


def load(path: Path) -> dict:
    """A file of `save`, without running any code of it. Raises DataError where it is missing or damaged."""
    try:
        return (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {str(error)[:100]}); remove {path.parent.parent} to go on from the "
            "checkpoint before it"
        ) from None


def resume(out: Path, config: dict, data: str, rank: int, world: int) -> Saved | None:
    """The newest whole checkpoint of a run, None when there is none yet; what a kill has left half written is removed. config: the flags of now; data: what
    tells the training prompts apart. Raises DataError where a flag of FIXED or the prompts have changed, or a file cannot be read."""
    if rank == 0:
        for half in (out / "checkpoints").glob("*.part"):
            shutil.rmtree(half)
    found = complete(out)
    if not found:
        return None
    folder = found[-1]
    shared = load(folder / "trainer" / "shared.pt")
    before = json.loads(shared["config"])
    changed = {
        name: (before.get(name), config[name])
        for name in config
        if before.get(name) != config[name] and name not in ("resume", "out", "overwrite")
    }
    if wrong := [name for name in changed if name in FIXED]:
        said = ", ".join(
            f"--{name} {changed[name][0]!r}, now {changed[name][1]!r}" for name in wrong
        )
        raise DataError(
            f"{folder}: was made with {said}; go on with the flags that it was made with, or start another run with another --out"
        )
    if shared["data"] != data:
        raise DataError(
            f"{folder}: was made on other training prompts than there are now; go on with the same --data, or start another run with another --out"
        )
    ranks = [folder / "trainer" / f"rank{r}.pt" for r in range(shared["world"])]
    same = shared["world"] == world
    states = [load(path) for path in (ranks[rank : rank + 1] if same else ranks)]
    if rank == 0:
        print(f"going on from {folder}: step {shared['step']}, {shared['generated']:,} completions")
        if changed:
            print(
                "changed flags: "
                + ", ".join(f"--{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
            )
        if not same:
            print(
                f"{shared['world']} processes before, {world} now: prompts, buffer and optimiser state are dealt anew and random streams begin anew, so the "
                "run goes on as good, but not bit for bit"
            )
    return Saved(
        folder,
        shared["step"],
        shared["generated"],
        before,
        shared["logs"],
        states[0] if same else None,
        states,
    )
