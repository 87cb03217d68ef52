"""Files for bench/fuzz.py: damaged checkpoints and media."""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fuzz_tally import Tally

import train
from media.workers import load_media_and_mel
from run.session import ends_in_a_sentence
from tests.corpus import make_corpus
from tests.media_files import SETTINGS, sample_of_file
from tests.odd_media import make_odd_media

MEMORY = 2 * 2**30  # bytes that reading one medium may take
DEADLINE = 120  # seconds for one input; a decoder has as many in training
N_MELS = 64


def in_child(work: Callable[[], str]) -> str:
    """work() in a forked process: its outcome, or "killed by signal .." when it died or was killed
    at the deadline. An exception's traceback is the outcome."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(DEADLINE)
        try:
            outcome = work()
        except BaseException:
            outcome = traceback.format_exc()
        os.write(writer, outcome.encode(errors="replace")[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return outcome


# --------------------------------------------------------------------------- damage
def flip_a_bit(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def change_bytes(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def append(content: bytearray, rng: random.Random) -> None:
    content += rng.randbytes(rng.randrange(1, 2000))


def put_zeros(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    end = min(len(content), start + 4096)
    content[start:end] = bytes(end - start)


def repeat_a_piece(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    content[start:start] = content[start : start + 512]


DAMAGES = [flip_a_bit, change_bytes, cut, append, put_zeros, repeat_a_piece]


def damage_file(path: Path, damage: Callable, rng: random.Random) -> bool:
    """Damage a file in place; whether that changed it."""
    before = path.read_bytes()
    content = bytearray(before)
    if content:
        damage(content, rng)
    path.write_bytes(content)
    return bytes(content) != before


# --------------------------------------------------------------------------- checkpoints
RUN_FLAGS = {
    "--data": "toy:8,2",
    "--prompts_per_step": "4",
    "--replay_min": "8",
    "--max_completion_tokens": "24",
    "--media_cache": "",
    "--eval_every": "0",
    "--workers": "0",
    "--steps": "2",
}


def run_train(out: Path, *flags: str) -> str:
    """What train.py prints; "error: .." at its end where it ended in a sentence."""
    words = ["--out", str(out), *flags]
    for name, value in RUN_FLAGS.items():
        words += [name, value]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            ends_in_a_sentence(train.main, words)
        except SystemExit as end:
            # a sentence, or the number 0
            if end.code:
                printed.write(f"\n{end.code}")
    return printed.getvalue()


def fuzz_checkpoints(until: float) -> Tally:
    """One file of a small run's only checkpoint damaged or gone, then --resume.

    The file must be named in a sentence, and nothing of the checkpoint may be removed.
    """
    tally = Tally()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        good = Path("good")
        said = in_child(lambda: run_train(good))
        if not (good / "checkpoints").is_dir():
            raise RuntimeError(f"the run that is to be damaged did not end well: {said[-500:]}")
        checkpoint = max((good / "checkpoints").iterdir())
        files = [path.relative_to(good) for path in checkpoint.rglob("*") if path.is_file()]
        while time.monotonic() < until and not tally.full:
            shutil.rmtree("bad", ignore_errors=True)
            shutil.copytree(good, "bad", symlinks=True)
            damage_checkpoint(Path("bad"), rng.choice(files), rng, tally)
    return tally


def damage_checkpoint(run: Path, file: Path, rng: random.Random, tally: Tally) -> None:
    """Damage one file, resume, and note what came of it."""
    damage = rng.choice([*DAMAGES, Path.unlink])
    kind = f"{file.name}: {damage.__name__.replace('_', ' ')}"
    state = rng.getstate()
    if damage is Path.unlink:
        (run / file).unlink()
    elif not damage_file(run / file, damage, rng):
        return
    left = {path.relative_to(run) for path in (run / "checkpoints").rglob("*")}

    said = in_child(lambda: run_train(run, "--resume"))
    gone = left - {path.relative_to(run) for path in (run / "checkpoints").rglob("*")}
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if "Traceback" in said or said.startswith("killed"):
        tally.find(f"{kind}, random state {hash(state)}: {said[-1500:]}")
    elif gone:
        tally.find(f"{kind}: removed {sorted(map(str, gone))[:3]}")
    elif not errors:
        tally.find(f"{kind}: the damage was not noticed; it said {said[-300:]!r}")
    tally.add(file.name, "named in a sentence" if errors else "not named")


# --------------------------------------------------------------------------- media
def fuzz_media(until: float) -> Tally:
    """All files of both corpora once, then good files with changed bytes until the time is over."""
    tally = Tally()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "corpus")
        odd = make_odd_media(Path(folder) / "odd")
        for file in corpus + odd:
            check_medium(file.category, file.path, file.kind, file.expectation, tally)

        good = [file for file in corpus + odd if file.category in ("good", "picture", "sound")]
        while time.monotonic() < until and not tally.full:
            file = rng.choice(good)
            content = Path(file.path).read_bytes()
            if len(content) > 1_000_000:
                continue
            target = Path(folder) / f"damaged{Path(file.path).suffix}"
            target.write_bytes(content)
            damage_file(target, rng.choice(DAMAGES), rng)
            check_medium(f"damaged {file.kind}", str(target), file.kind, "either", tally)
    return tally


def check_medium(category: str, path: str, kind: str, expectation: str, tally: Tally) -> None:
    """Read one medium in a process of its own, and note what came of it.

    A process that dies is what training allows for: it is one sentence there, and another process
    goes on. Here it is counted apart, and one that hangs is a find.
    """
    sample = sample_of_file(path, kind)

    def read() -> str:
        resource.setrlimit(resource.RLIMIT_AS, (memory_now() + MEMORY,) * 2)
        media = load_media_and_mel(sample, SETTINGS, None, N_MELS)
        return "read" if isinstance(media, list) else f"refused: {media}"

    outcome = in_child(read)
    short = outcome.partition(":")[0]
    if "Traceback" in outcome:
        keep = Path(tempfile.gettempdir()) / f"find-{Path(path).name}"
        shutil.copy(path, keep)
        tally.find(f"{category}, {keep}: {outcome[-1500:]}")
    elif outcome == f"killed by signal {signal.SIGALRM:d}":
        tally.find(f"{category}, {path}: it took longer than {DEADLINE} s")
    elif {"usable": "read", "bad": "refused"}.get(expectation, short) != short:
        tally.find(f"{category}, {path}: expected {expectation}, it was {outcome}")
    tally.add(category, short)


def memory_now() -> int:
    """Bytes of address space of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
