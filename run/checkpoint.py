"""run/checkpoint.py: what a training run saves, and how it goes on as if nothing had happened.

    out/checkpoints/000056/             whole or absent: written as 000056.part, then renamed
        model.safetensors, config.json  the model in Hugging Face form, adapters merged in; adapter/
        trainer/shared.pt               step, completions so far, flags, where the logs end
        trainer/optimizer.pt            the trained weights in fp32, and AdamW's moments, by name
        trainer/rank<r>.pt              of one process: buffer, random states, data cursor
        checksums.json                  of all these files; a run goes on only if all are whole
    out/checkpoint                      a link to the newest

Loading executes no code: everything is safetensors, JSON or what torch.load(weights_only=True)
reads. A run that goes on (--resume) repeats nothing and loses nothing: log lines behind the
checkpoint are cut off, and their steps are done again, on a CPU bit for bit.

With another number of processes the run goes on as well, but not bit for bit: prompts, their
histories and completions are assigned to the new processes, and random streams begin anew.
optimizer.pt holds whole tensors for this: rank 0 gathers and writes them, and when it reads them,
hands every process its part (engine/optim.py). The price is one writer, and 12 bytes of host memory
per trained weight on rank 0. torch.distributed.checkpoint would write shards in parallel and split
them anew, but its reader opens a file with pickle.load, which can execute what it finds there.
"""

import errno
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.checksums import check_checksums, write_checksums
from engine.distributed import gather, rank_and_world
from engine.optim import Optimizer
from engine.run_folder import complete, names_step, step_of
from formats.sample import DataError, Sample
from run.provenance import check_provenance

PART = ".part"  # behind the name of a checkpoint that is being written or removed
BEFORE = ".before"  # behind that of one whose successor is getting its name

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space: on the disk, or left to this user

KEEP = 2  # newest checkpoints that are kept

# Flags that say what the saved state means. All others may change between a run and its
# continuation.
FIXED = ("stage", "model", "train_type", "lora_rank", "train_towers")

NOT_SETTINGS = ("resume", "out", "config")  # say where a run and its flags are, not what they are


# ------------------------------------------------------------------ random generators
def random_states(device: torch.device) -> dict:
    """The global random generators of this process: Python's, NumPy's, torch's and the GPU's."""
    # Python's and NumPy's states are tuples and an array. As JSON they are text, which
    # torch.load(weights_only=True) reads without executing anything.
    name, keys, *rest = np.random.get_state()
    return {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([name, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict, device: torch.device) -> None:
    """Put the generators back to where `random_states` found them."""
    # JSON has made lists of the tuples that `setstate` wants
    version, internal, gauss = json.loads(states["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = json.loads(states["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


# ------------------------------------------------------------------ writing
def save(
    out: Path, step: int, policy, optimizer: Optimizer, shared: dict, own: dict, card: str
) -> None:
    """Write checkpoints/<step>, all processes together; the newest KEEP are kept.

    policy: written in Hugging Face form. shared: what all processes have in common ("config" and
    "made_with" for `resume`, "generated", "logs"). own: the state of this process. card: the text
    of README.md. Raises DataError on every process when one cannot write (a full disk); what was
    there before is whole.
    """
    rank, world = rank_and_world()
    own = loadable(own)
    final = out / "checkpoints" / f"{step:06d}"
    partial = final.with_name(final.name + ".part")
    optimizer_state = optimizer.state_dict()  # gathers shards: every process takes part

    # the parts of the work, in the order of writing
    def write_shared() -> None:
        # what an earlier attempt at this step, or a kill, may have left
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "trainer").mkdir(parents=True)
        policy.save(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        torch.save(optimizer_state, partial / "trainer" / "optimizer.pt")
        torch.save(shared | {"step": step, "world": world}, partial / "trainer" / "shared.pt")

    def write_own() -> None:
        torch.save(own, partial / "trainer" / f"rank{rank}.pt")

    def give_name() -> None:
        write_checksums(partial)
        publish(partial, final)

    # One after the other, and each process waits for all before the next: rank 0 makes the folder,
    # all write into it, rank 0 gives it its name.
    for work, writers in (
        (write_shared, [0]),
        (write_own, range(world)),
        (give_name, [0]),
    ):
        error = attempt(work) if rank in writers else None
        errors = [reason for reason in gather(error) if reason]
        if errors:
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            before = complete(out)
            newest = f"{before[-1]} is whole; " if before else ""
            raise DataError(
                f"{final}: the checkpoint could not be written ({errors[0]}); {newest}"
                f"{mend_of(errors[0])} and go on with --resume"
            )


def mend_of(reason: str) -> str:
    """What to do about a checkpoint that could not be written, from the words of the system."""
    if any(os.strerror(number) in reason for number in FULL):
        return "free some space on the disk"
    if os.strerror(errno.EFBIG) in reason:
        return "raise the limit on the size of a file (ulimit -f)"
    return "see to that folder and its permissions"


def publish(partial: Path, final: Path) -> None:
    """Give a written checkpoint its name, point out/checkpoint to it, and remove old ones.

    A kill at any moment leaves only whole checkpoints under their names: files reach the disk
    before the rename, and the rename happens at once or not at all.
    """
    # files before the folders that list them
    for path in sorted(partial.rglob("*"), reverse=True):
        sync(path)
    sync(partial)

    # from here on it counts as a checkpoint; one of the same step keeps its files until then
    aside = final.with_name(final.name + BEFORE)
    if final.exists():
        final.rename(aside)
    partial.rename(final)
    sync(final.parent)

    # old ones go only when the new one is there
    out = final.parent.parent
    point(out / "checkpoint", final)
    if aside.exists():
        remove(aside)
    for old in complete(out)[:-KEEP]:
        remove(old)


def attempt(work: Callable[[], None]) -> str | None:
    """Do `work`, which writes. Returns what went wrong with the disk, None if nothing did.

    Returned and not raised, so that the process can still tell the others, which wait for it.
    Errors that are not of the disk are raised.
    """
    try:
        work()
    except (OSError, SafetensorError) as error:
        return str(error) or type(error).__name__
    except RuntimeError as error:
        # torch.save raises this on a full disk, and only the words tell
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        return f"{os.strerror(errno.ENOSPC)}? {str(error).splitlines()[0][:100]}"
    return None


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names."""
    # fsync takes an open file; a folder, too, can be opened for reading
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, at once; what else has that name is moved aside."""
    if link.exists() and not link.is_symlink():
        move_aside(link)
    # A link cannot be changed, but another one can take its name at once.
    new = link.with_name(link.name + ".new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(target, link.parent))
    new.replace(link)


def move_aside(path: Path) -> Path:
    """Give a file or folder the first free name of NAME.old-1, NAME.old-2, .. and return it."""
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists():
            return path.rename(aside)
    raise AssertionError("unreachable")


def remove(folder: Path) -> None:
    """Remove a checkpoint: renamed first, so that a kill half-way leaves nothing that looks
    whole."""
    doomed = folder.with_name(folder.name + PART)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def clean_up(out: Path) -> None:
    """Put in order what a kill has left: a link to an older checkpoint, and folders that were being
    written or removed. What has the name of a checkpoint is never touched, readable or not."""
    checkpoints = out / "checkpoints"
    for folder in leftovers(checkpoints, BEFORE):
        final = folder.with_name(folder.name.removesuffix(BEFORE))
        if final.exists():
            remove(folder)
        else:  # killed before its successor got the name
            folder.rename(final)
    for folder in leftovers(checkpoints, PART):
        shutil.rmtree(folder)

    whole = complete(out)
    # realpath: a link that leads to itself leads to no checkpoint, and is no error
    if whole and os.path.realpath(out / "checkpoint") != os.path.realpath(whole[-1]):
        point(out / "checkpoint", whole[-1])


def make_folder(out: Path) -> None:
    """Make the folder of a run's checkpoints. Raises DataError where none could be written into it:
    told now, not after the steps whose work would be lost."""
    checkpoints = out / "checkpoints"
    if os.path.lexists(checkpoints) and not checkpoints.is_dir():
        raise DataError(
            f"{checkpoints}: is no folder, and checkpoints are written into it; move it away"
        )
    checkpoints.mkdir(exist_ok=True)
    if not os.access(checkpoints, os.W_OK | os.X_OK):
        raise DataError(
            f"{checkpoints}: cannot be written into; see to its permissions, or pass another --out"
        )


def leftovers(checkpoints: Path, ending: str) -> list[Path]:
    """Folders with the name of a checkpoint and this ending; others are not ours."""
    found = []
    for path in checkpoints.glob(f"*{ending}"):
        is_ours = names_step(path.name.removesuffix(ending))
        if is_ours and path.is_dir() and not path.is_symlink():
            found.append(path)
    return found


# ------------------------------------------------------------------ reading
@dataclass
class Saved:
    """A checkpoint that was read.

    folder: where it lies    step: how many steps it is the end of
    generated: completions sampled so far    logs: where the log files end
    own: the state of this process; None when another number of processes made the checkpoint
    states: [own], or when that number differs, those of all processes that made it, in rank order
    optimizer: `Optimizer.state_dict` on rank 0, empty elsewhere
    """

    folder: Path
    step: int
    generated: int
    logs: dict
    own: dict | None
    states: list[dict] = field(repr=False)
    optimizer: dict = field(repr=False)

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Bring the trained weights and AdamW's moments to where they were, on all processes."""
        try:
            optimizer.load_state_dict(self.optimizer)
        except ValueError as error:
            raise DataError(
                f"{self.folder}: its trained weights are not this run's: {error}; use the model "
                "and --train_type that it was made with"
            ) from None
        self.optimizer = {}  # it is as large as the optimiser itself


def resume(
    out: Path, config: dict, made_with: dict, samples: list[Sample], rank: int, world: int
) -> Saved | None:
    """The newest checkpoint of a run, or None.

    config: the flags of now. made_with: `provenance` of now, of these samples. Raises DataError
    where a flag of FIXED, the records or the model have changed, or a file is damaged; nothing is
    removed.
    """
    checkpoints = complete(out)
    if not checkpoints:
        return None
    folder = checkpoints[-1]

    # before anything is loaded: is it whole, and a checkpoint of this run?
    if rank == 0:
        check_checksums(folder, advice_on(checkpoints))
    shared = load(folder / "trainer" / "shared.pt")
    if shared["step"] != step_of(folder):
        raise DataError(
            f"{folder}: holds the state after step {shared['step']}, and the number in its name "
            f"says another one; rename it to {shared['step']:06d}, or move it away"
        )
    changes = changed_flags(json.loads(shared["config"]), config)
    check_flags(folder, changes)
    if rank == 0:
        check_provenance(folder, shared["made_with"], made_with, samples)

    # Each process reads its own state. With another number of processes each reads all states, and
    # takes out of them what it now owns.
    same_world = shared["world"] == world
    ranks = [rank] if same_world else range(shared["world"])
    states = [load(folder / "trainer" / f"rank{r}.pt") for r in ranks]

    # 12 bytes per trained weight, so only on rank 0, which hands the others their parts
    optimizer_state = load(folder / "trainer" / "optimizer.pt") if rank == 0 else {}
    if rank == 0:
        report_resume(folder, shared, changes, world)
    return Saved(
        folder=folder,
        step=shared["step"],
        generated=shared["generated"],
        logs=shared["logs"],
        own=states[0] if same_world else None,
        states=states,
        optimizer=optimizer_state,
    )


def advice_on(checkpoints: list[Path]) -> str:
    """What to do where the newest of these checkpoints is damaged."""
    newest = checkpoints[-1]
    if len(checkpoints) > 1:
        return f"move {newest} away to go on from the one before it, {checkpoints[-2]}"
    return f"bring the file back, or move {newest} away to begin anew"


def changed_flags(before: dict, now: dict) -> dict[str, tuple]:
    """{flag: (value before, value now)} of those that differ."""
    changes = {}
    for name, value in now.items():
        if before.get(name) != value and name not in NOT_SETTINGS:
            changes[name] = (before.get(name), value)
    return changes


def check_flags(folder: Path, changes: dict[str, tuple]) -> None:
    """Raise DataError where flags that must stay have changed."""
    wrong = [name for name in changes if name in FIXED]
    if wrong:
        flags = ", ".join(f"--{n} {changes[n][0]!r}, now {changes[n][1]!r}" for n in wrong)
        raise DataError(
            f"{folder}: was made with {flags}; go on with the flags that it was made with, or "
            "start another run with another --out"
        )


def report_resume(folder: Path, shared: dict, changes: dict[str, tuple], world: int) -> None:
    """Print where the run goes on, and what is different now."""
    print(f"going on from {folder}: step {shared['step']}, {shared['generated']:,} completions")
    if changes:
        flags = (f"--{name} {old!r} -> {new!r}" for name, (old, new) in changes.items())
        print("changed flags: " + ", ".join(flags))
    if shared["world"] != world:
        print(
            f"{shared['world']} processes before, {world} now: prompts, buffer and optimiser state "
            "are assigned anew and random streams begin anew, so the run goes on as well, but not "
            "bit for bit"
        )


def loadable(value: object, place: str = "") -> object:
    """A state as `load` reads it: of tensors, texts, numbers, lists and dicts, and no others.

    NumPy's numbers become Python's. place: where the value stands; "": it is the state of a
    process. Raises TypeError that names the place of anything else: torch.save would write it, and
    no run could go on from that checkpoint.
    """
    if isinstance(value, dict):
        entries = {}
        for key, entry in value.items():
            entries[key] = loadable(entry, f"{place}[{key!r}]" if place else str(key))
        return entries
    if type(value) in (list, tuple):
        return type(value)(loadable(entry, f"{place}[{i}]") for i, entry in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, Tensor) or type(value) in (str, int, float, bool, bytes):
        return value
    kind = f"{type(value).__module__}.{type(value).__name__}"
    raise TypeError(
        f"{place}, a part of the state that a checkpoint holds, is a {kind}; store tensors, texts "
        "and numbers (of an array torch.from_numpy, of an object its numbers)"
    )


def load(path: Path) -> dict:
    """A file of `save`, without executing anything in it. Raises DataError: missing or damaged."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    # torch.load raises almost anything on a damaged file
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {str(error)[:100]}); move "
            f"{path.parent.parent} away to go on from the checkpoint before it"
        ) from None
