"""Decoder processes: a corpus of 200 mostly bad files through the real way to a prompt, processes
that hang, crash and eat memory, and how they end."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch
from PIL import Image

from data import Prompt, PromptBuilder
from formats.sample import Sample
from media.errors import MediaError
from media.workers import Decoders, end_processes, load_media_and_mel
from tests.corpus import make_corpus
from tests.media_files import SETTINGS, sample_of_file, write_clip
from tests.misbehaving import misbehave, starve

ROOT = Path(__file__).parent.parent.parent


def task(name) -> Sample:
    """A task for `misbehave`, which does what the name says."""
    return sample_of_file(f"/{name}.mp4", id=name)


@contextlib.contextmanager
def decoders(*arguments, **keywords):
    pool = Decoders(*arguments, **keywords)
    try:
        yield pool
    finally:
        pool.close()


def gone(pid: int) -> bool:
    """Is a process no more, or only waiting for its parent to notice?"""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    status = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return not status or status.startswith("Z")


def wait_until(condition, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


# ------------------------------------------------------------------ the corpus
def test_a_corpus_of_bad_media(tmp_path, policy, monkeypatch):
    """200 files: none ends or stops the run, each bad one is one sentence with its path, each
    usable one a prompt, and processes that die are replaced."""
    monkeypatch.setattr("media.loader.MEDIA_TIMEOUT", 15.0)
    corpus = make_corpus(tmp_path)
    asked = [sample_of_file(file.path, file.kind, f"n{i}") for i, file in enumerate(corpus)]
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS, workers=2)
    start = time.monotonic()
    builder.prefetch(asked)
    built = builder.build(asked)
    assert time.monotonic() - start < 60

    outcomes = Counter()
    for file, sample, result in zip(corpus, asked, built, strict=True):
        outcome = "usable" if isinstance(result, Prompt) else "bad"
        assert file.expectation in (outcome, "either"), (file, str(result))
        outcomes[outcome] += 1
        if isinstance(result, Prompt):
            check_prompt(result)
        else:
            check_error(result, sample, file.path)
    assert len(corpus) == 200
    assert outcomes["usable"] >= 40
    assert outcomes["bad"] >= 80
    # and none needs more than an exception to be refused
    assert not [str(result) for result in built if "made the decoder crash" in str(result)]

    # neither bad nor usable files are decoded again
    monkeypatch.setattr(
        builder.loader.decoders, "submit", lambda *task: pytest.fail("decoded again")
    )
    again = builder.build(asked)
    assert [str(e) for e in again if isinstance(e, MediaError)] == [
        str(e) for e in built if isinstance(e, MediaError)
    ]
    builder.loader.close()


def check_prompt(prompt: Prompt) -> None:
    tensors = list(prompt.mels)
    if prompt.patches is not None:
        tensors.append(prompt.patches)
    assert len(prompt.ids) == prompt.positions.shape[1]
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def check_error(error, sample: Sample, path: str) -> None:
    text = str(error)
    assert isinstance(error, MediaError)
    assert text.startswith(f"x.jsonl:1 ('{sample.id}'): ")
    assert path in text
    assert "\n" not in text
    assert error.path == path
    assert text == f"x.jsonl:1 ('{sample.id}'): {error.reason}"


# ------------------------------------------------------------------ processes that are stuck or die
@pytest.mark.slow
def test_stuck_and_crashed_processes_are_replaced_while_others_go_on(tmp_path):
    """One process in native code that never returns and holds the GIL, one that segfaults, one that
    eats memory: each is one sentence, the stuck one after the deadline, and the 30 good tasks
    behind them are done by the other process meanwhile and by the new ones after it."""
    mark = tmp_path / "mark"  # each task writes "pid name" here
    with decoders(2, 4.0, misbehave) as pool:
        warm = [pool.submit(task(f"warm{i}")) for i in range(2)]
        assert {future.result(60)[0] for future in warm} == {"warm0", "warm1"}

        # the other process goes on while one is stuck
        start = time.monotonic()
        stuck = pool.submit(task("stuck"), str(mark))
        good = [pool.submit(task(f"g{i}"), str(mark)) for i in range(30)]
        names = [future.result(60)[0] for future in good]
        assert time.monotonic() - start < 3.5
        assert not stuck.done()
        assert names == [f"g{i}" for i in range(30)]

        # the deadline
        error = stuck.result(60)
        assert 3.9 < time.monotonic() - start < 8
        assert isinstance(error, MediaError)
        assert str(error) == (
            "x.jsonl:1 ('stuck'): /stuck.mp4 took longer than 4 s to decode; "
            "replace the file or remove the record"
        )
        assert error.path == "/stuck.mp4"

        # crashes
        bad = {}
        for name in ("segfault", "eats memory", "crashes once"):
            bad[name] = pool.submit(task(name), str(mark))
        last = [pool.submit(task(f"h{i}"), str(mark)) for i in range(4)]
        segfault = str(bad["segfault"].result(120))
        assert "/segfault.mp4 made the decoder crash twice (signal 11);" in segfault
        out_of_memory = str(bad["eats memory"].result(120))
        assert (
            "/eats memory.mp4 made the decoder crash twice (signal 9, out of memory?);"
            in out_of_memory
        )
        assert bad["crashes once"].result(120)[0] == "crashes once"
        assert [future.result(120)[0] for future in last] == [f"h{i}" for i in range(4)]

        # how often each was tried, and by how many processes
        marks = [line.split(" ", 1) for line in mark.read_text().splitlines()]
        tried = Counter(name for _, name in marks)
        expected = {"stuck": 1, "segfault": 2, "eats memory": 2, "crashes once": 2}
        expected |= dict.fromkeys([*names, "h0", "h1", "h2", "h3"], 1)
        assert tried == expected
        (stuck_pid,) = {int(pid) for pid, name in marks if name == "stuck"}
        assert gone(stuck_pid)
        assert len({pid for pid, _ in marks}) > 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set from /proc")
def test_a_file_that_needs_more_memory_than_there_is(tmp_path):
    Image.new("RGB", (9000, 9000)).save(tmp_path / "big.png")
    sample = sample_of_file(tmp_path / "big.png", "image")
    with decoders(1, 60.0, starve) as pool:
        error = pool.submit(sample, SETTINGS, None, None).result(120)
    assert isinstance(error, MediaError)
    assert error.path == str(tmp_path / "big.png")
    assert "\n" not in str(error)


# ------------------------------------------------------------------ other errors, and the end
def test_a_sound_whose_features_need_more_memory_than_there_is(tmp_path, monkeypatch):
    """torch has its own words for it."""

    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("media.workers.with_mel", full)
    path = write_clip(tmp_path / "v.mp4")
    result = load_media_and_mel(sample_of_file(path), SETTINGS, None, 64)
    assert isinstance(result, MediaError)
    assert "needs more memory to decode than there is" in str(result)


def test_other_errors_ctrl_c_and_closing(tmp_path):
    """A bug is raised where the result is asked for, with the process's own traceback. The process
    lives on, also through SIGINT. Closing cancels what waits and ends the process."""
    pool = Decoders(1, 60.0, misbehave)
    _, pid = pool.submit(task("x")).result(60)
    error = pool.submit(task("raises")).exception(60)
    assert isinstance(error, KeyError)
    assert "in misbehave" in error.__notes__[0]
    assert pool.submit(task("interrupted")).result(60) == ("interrupted", pid)
    assert pool.submit(task("y")).result(60) == ("y", pid)

    mark = tmp_path / "mark"
    stuck = pool.submit(task("stuck"), str(mark))
    waiting = pool.submit(task("z"))
    assert wait_until(mark.exists)
    pool.close()
    assert waiting.cancelled()
    assert wait_until(lambda: gone(pid))
    assert wait_until(stuck.done)
    assert isinstance(stuck.exception(), CancelledError)
    assert wait_until(lambda: not pool.supervisors[0].is_alive())


def test_a_pool_that_nobody_holds_ends_its_threads():
    (supervisor,) = Decoders(1, 60.0, misbehave).supervisors
    assert wait_until(lambda: not supervisor.is_alive())


class EmptiedMeanwhile(queue.SimpleQueue):
    """A thread takes the last task just after somebody has looked whether there is one."""

    def empty(self) -> bool:
        was_empty = super().empty()
        if not was_empty:
            self.get()
        return was_empty


def test_the_end_does_not_wait_for_a_task_that_a_thread_has_taken():
    tasks = EmptiedMeanwhile()
    tasks.put(None)
    end = threading.Thread(target=end_processes, args=(tasks, []), daemon=True)
    end.start()
    end.join(5)
    assert not end.is_alive()


PROGRAM = """
import sys, time
from media.workers import Decoders
from tests.media_files import sample_of_file
from tests.misbehaving import misbehave

def task(name):
    return sample_of_file(f"/{name}.mp4", id=name)

if __name__ == "__main__":
    mode = sys.argv[1]
    pool = Decoders(2, 2.0 if mode == "killed" else 60.0, misbehave)
    pids = set()
    while len(pids) < 2:  # until both processes are up
        pids = {future.result()[1] for future in [pool.submit(task(f"w{i}")) for i in range(2)]}
    if mode != "ends":
        stuck = pool.submit(task("stuck"))
    if mode == "interrupted":
        waiting = [pool.submit(task(f"q{i}")) for i in range(50)]
    time.sleep(0.3)
    print(*pids, flush=True)
    if mode != "ends":
        stuck.result()
"""


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("ends", marks=pytest.mark.slow),
        "interrupted",
        pytest.param("killed", marks=pytest.mark.slow),
    ],
)
def test_the_processes_end_with_the_program(tmp_path, mode):
    """A program that just ends, one ended by Ctrl-C at its terminal while a process is stuck, and
    one that is killed. In the last case an idle process ends as its pipe closes, and a stuck one a
    few seconds behind its deadline, by the system's timer."""
    (tmp_path / "program.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        # the tests may have been started with it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        pids = [int(word) for word in program.stdout.readline().split()]
        assert len(pids) == 2
        if mode == "interrupted":
            os.killpg(program.pid, signal.SIGINT)
        elif mode == "killed":
            program.kill()
        start = time.monotonic()
        _, errors = program.communicate(timeout=60)
        assert wait_until(lambda: all(map(gone, pids)))
        assert time.monotonic() - start < (15 if mode == "killed" else 8)
        if mode == "interrupted":
            assert errors.count("Traceback") == 1
            assert errors.rstrip().endswith("KeyboardInterrupt")
        else:
            assert errors == ""
            assert program.returncode == (0 if mode == "ends" else -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
