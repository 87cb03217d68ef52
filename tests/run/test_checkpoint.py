"""run/checkpoint.py: a run that is stopped anywhere and goes on is the undisturbed run, bit for
bit."""

import errno
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import data
import rewards
import train
from bench.chaos import chaos, equal, run_state
from config import DEFAULTS, parse
from data import PromptBuilder, TooLong
from engine.checksums import write_checksums
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer
from formats.sample import Away, DataError, Sample
from media.errors import MediaError
from replay import ReplayBuffer, prompts_of_columns
from run import logs, session
from run import signals as run_signals
from run.checkpoint import (
    attempt,
    clean_up,
    complete,
    loadable,
    make_folder,
    mend_of,
    random_states,
    resume,
)
from run.provenance import check_provenance, provenance
from run.rollouts import NAME as ROLLOUTS
from run.rollouts import read_steps
from run.session import Run, only_run
from run.signals import STOP, Signals
from run.stream import PromptStream, owner

REPO = Path(__file__).parent.parent.parent
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory) -> Path:
    """The working folder of all runs here: the toy world is rendered once, into its toy_world."""
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(autouse=True)
def in_toy_folder(toy_folder, monkeypatch):
    monkeypatch.chdir(toy_folder)


def flags(out: Path, *more: str, steps: int = 4) -> list[str]:
    """A run of 4 steps with checkpoints after the second and the last, unless `more` says else."""
    return [
        *("--method", "avatar", "--out", str(out), "--media_cache", ""),
        *("--data", "toy:6,3", "--prompts_per_step", "4", "--steps", str(steps)),
        *("--replay_min", "8", "--eval_every", "3", "--save_every", "2"),
        *("--max_completion_tokens", "32", *more),
    ]


def torchrun(*command: str) -> list[str]:
    """A command line of two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [*start, *command]


def before_optimiser_step(patch, number: int, action) -> None:
    """Call action(optimizer) before a run's optimiser step of this number, counted from its
    start."""
    real, calls = Optimizer.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) - 1 == number:
            action(self)
        return real(self, *args, **kwargs)

    patch.setattr(Optimizer, "step", step)


class Killed(Exception):
    pass


def die(optimizer) -> None:
    raise Killed


def assert_same_run(out: Path, expected: Path) -> None:
    """All that a run has left is equal to the last bit: logs, completions, weights and states."""
    left, wanted = run_state(out), run_state(expected)
    assert left.keys() == wanted.keys()
    for name, value in wanted.items():
        assert equal(value, left[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_folder) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_folder)
        train.main(flags(out))
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of it to be spoilt."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


# ------------------------------------------------------------------ what can be saved
def test_numpy_numbers_in_the_state_are_saved_as_pythons(tmp_path):
    state = {
        "entries": [{"size": np.float32(0.5), "n": np.int64(3)}],
        "pair": (np.bool_(True), "a"),
    }
    torch.save(loadable(state, "buffer"), tmp_path / "rank0.pt")
    again = torch.load(tmp_path / "rank0.pt", weights_only=True)
    assert again == {"entries": [{"size": 0.5, "n": 3}], "pair": (True, "a")}


@pytest.mark.parametrize("value", [np.zeros(3), Path("x"), {1, 2}, SimpleNamespace()])
def test_what_no_checkpoint_can_hold_is_named(value):
    kind = re.escape(f"is a {type(value).__module__}.{type(value).__name__}; store")
    with pytest.raises(TypeError, match=rf"buffer\['entries'\]\[0\]\['size'\].*{kind}"):
        loadable({"entries": [{"size": value}]}, "buffer")


def test_a_state_that_cannot_be_saved_ends_a_run_at_its_first_step(tmp_path, monkeypatch):
    """And not at its end, where the first checkpoint may be."""
    real = ReplayBuffer.state_dict
    monkeypatch.setattr(ReplayBuffer, "state_dict", lambda self: real(self) | {"sizes": {1}})
    out = tmp_path / "run"
    with pytest.raises(TypeError, match=r"buffer\['sizes'\]"):
        train.main(flags(out, "--save_every", "0"))
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2  # the first evaluation, and one step


# ------------------------------------------------------------------ kills and signals
def test_a_killed_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    """Killed in its third step, after a rollout, and once more when it has gone on for two
    steps."""
    out = tmp_path / "cut"
    for steps in (2, 1):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            before_optimiser_step(patch, steps, die)
            train.main(flags(out, "--resume"))
    train.main(flags(out, "--resume"))
    assert_same_run(out, finished)
    steps = [row["step"] for row in run_state(out)["metrics"] if "loss" in row]
    assert steps == list(range(4))
    assert [f.name for f in complete(out)] == ["000002", "000004"]


def test_a_run_that_is_killed_between_two_updates_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Killed before the second update of its third rollout; saved was the second."""
    more = ("--method", "avatar_fast", "--updates", "2", "--dynamic_sampling", "1")
    more += ("--replay_min", "8")
    train.main(flags(tmp_path / "whole", *more))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before_optimiser_step(patch, 5, die)
        train.main(flags(tmp_path / "cut", *more, "--resume"))
    train.main(flags(tmp_path / "cut", *more, "--resume"))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "lives"),
    [
        (("--train_type", "lora", "--lr", "2e-3", "--stage", "3"), (4,)),
        (("--method", "grpo", "--dynamic_sampling", "1"), (0, 2)),
        (("--method", "avatar_fast", "--replay_min", "8"), (7, 11)),
        (("--train_towers", "true", "--hint_patience", "1", "--save_every", "3"), (5,)),
    ],
)
def test_killed_runs_of_other_settings_go_on_bit_for_bit(tmp_path, monkeypatch, more, lives):
    """lives: how many steps of the optimiser each attempt sees."""
    train.main(flags(tmp_path / "whole", *more, steps=6))
    for steps in lives:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            before_optimiser_step(patch, steps, die)
            train.main(flags(tmp_path / "cut", *more, "--resume", steps=6))
    train.main(flags(tmp_path / "cut", *more, "--resume", steps=6))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_killed_cold_start_goes_on_bit_for_bit(tmp_path, monkeypatch):
    cold = ["--stage", "0", "--eval_every", "2", "--data", "toy:8,3"]
    train.main(flags(tmp_path / "whole", *cold))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before_optimiser_step(patch, 3, die)
        train.main(flags(tmp_path / "cut", *cold))
    train.main(flags(tmp_path / "cut", *cold, "--resume"))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_after_the_step_and_stops(
    finished, tmp_path, monkeypatch, number, code, capsys
):
    out, handler = tmp_path / "run", signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        before_optimiser_step(patch, 0, lambda optimizer: os.kill(os.getpid(), number))
        train.main(flags(out))
    assert stop.value.code == code
    assert [f.name for f in complete(out)] == ["000001"]
    assert "go on by the same command" in capsys.readouterr().out
    assert signal.getsignal(number) == handler
    train.main(flags(out, "--resume"))
    assert_same_run(out, finished)


def test_a_stop_after_the_last_step_keeps_the_next_stage_from_starting(tmp_path, monkeypatch):
    """It comes while the curves of the first stage are drawn."""
    drawn = []

    def draw(*args):
        drawn.append(1)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(logs, "plot_run", draw)
    more = ("--eval_every", "0", "--stage", "1,2")
    with pytest.raises(SystemExit) as stop:
        train.main(flags(tmp_path / "run", *more, steps=1))
    assert stop.value.code == 143
    assert len(drawn) == 1
    assert not (tmp_path / "run" / "stage2").exists()


def test_sigusr1_saves_and_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "run"
    before_optimiser_step(monkeypatch, 0, lambda optimizer: os.kill(os.getpid(), signal.SIGUSR1))
    train.main(flags(out, "--save_every", "0", "--eval_every", "0", steps=2))
    assert [f.name for f in complete(out)] == ["000001", "000002"]
    assert (out / "checkpoint").resolve().name == "000002"


def test_only_a_later_second_signal_stops_at_once(monkeypatch):
    """torchrun's end reaches its processes as two signals within a moment; a user's second Ctrl-C
    comes later, and means it."""
    killed, now = [], [100.0]
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(run_signals.time, "monotonic", lambda: now[0])
    signals = Signals()
    signals.running = True
    for at, number in ((100.0, signal.SIGTERM), (100.4, signal.SIGTERM), (100.9, signal.SIGUSR1)):
        now[0] = at
        signals.note(number, None)
    assert not killed and signals.agreed() == STOP
    now[0] = 102.0
    signals.note(signal.SIGINT, None)
    assert killed == [signal.SIGINT]


HOLD_THE_FOLDER = """
import pathlib, sys, time
from run.session import only_run

with only_run(pathlib.Path(sys.argv[1]), 0):
    print("in", flush=True)
    time.sleep(99)
"""


def test_two_runs_do_not_write_into_one_folder(tmp_path, monkeypatch):
    """The second waits a little, then says who is there; it changes nothing. When the first one is
    gone, however it ended, the folder is free."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", HOLD_THE_FOLDER, str(out)]
    other = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    monkeypatch.setattr(session, "only_run", partial(only_run, patience=0.5))
    message = (
        rf"another run writes here \(process {other.pid} on .*\); stop that one, "
        "or pass another --out"
    )
    with pytest.raises(DataError, match=message):
        train.main(flags(out, steps=1))
    assert sorted(f.name for f in out.iterdir()) == [".lock", ".running"]
    other.kill()
    other.wait()
    train.main(flags(out, "--eval_every", "0", steps=1))
    assert [f.name for f in complete(out)] == ["000001"]


# ------------------------------------------------------------------ what a step needs is away
AWAY = "http://judge/v1: no usable reply"


def fail_at_call(patch, owner, name: str, number: int, fault) -> None:
    """Let owner.name do fault(*args) from its call of this number on, counted from 0."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) if len(calls) <= number else fault(*args, **kwargs)

    patch.setattr(owner, name, call)


def judge_is_away(*args):
    raise Away(AWAY)


def test_the_judge_is_away(finished, tmp_path, monkeypatch):
    """The step in which it happens is undone: the run ends saved, and goes on bit for bit."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_at_call(patch, train, "score_prompts", 3, judge_is_away)
        message = f"{AWAY}; the run is saved after step 3: go on by the same command with --resume"
        with pytest.raises(DataError, match=message):
            train.main(flags(out, "--save_every", "0"))
    assert [folder.name for folder in complete(out)] == ["000003"]

    # still away: there is nothing to save once more
    with monkeypatch.context() as patch:
        fail_at_call(patch, train, "score_prompts", 0, judge_is_away)
        with pytest.raises(DataError, match="nothing was lost, for no step was done: go on by"):
            train.main(flags(out, "--resume"))
    train.main(flags(out, "--resume"))
    left, wanted = run_state(out), run_state(finished)
    assert equal(left["metrics"], wanted["metrics"])
    assert equal(left["completions"], wanted["completions"])


@pytest.mark.slow
def test_the_judge_is_away_in_the_second_round_of_a_step(tmp_path, monkeypatch):
    """With --dynamic_sampling the first round's groups are undone, too."""
    more = ("--dynamic_sampling", "1", "--eval_every", "0", "--fresh", "2")
    train.main(flags(tmp_path / "whole", *more))
    out = tmp_path / "cut"

    def away_in_a_second_round(prompts, *args):
        rounds.append(len(prompts))
        if len(rounds) > 2 and len(prompts) < 4:
            raise Away(AWAY)
        return real(prompts, *args)

    rounds = []
    real = train.score_prompts
    with monkeypatch.context() as patch:
        patch.setattr(train, "score_prompts", away_in_a_second_round)
        with pytest.raises(DataError, match=f"{AWAY}; the run is saved after step"):
            train.main(flags(out, *more))
    train.main(flags(out, *more, "--resume"))
    left, wanted = run_state(out), run_state(tmp_path / "whole")
    assert equal(left["metrics"], wanted["metrics"])
    assert equal(left["states"], wanted["states"])


def no_media(builder, samples, hinted):
    return [MediaError(sample.media[0][1], "is missing") for sample in samples]


@pytest.mark.parametrize("more", [[], ["--stage", "0"]])
def test_the_storage_is_away(tmp_path, monkeypatch, more):
    """No record can be read any more: neither a step nor a record is lost."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_at_call(patch, PromptBuilder, "build", 2 if more else 5, no_media)
        with pytest.raises(DataError, match=r"none of the .* records .*; the run is saved after"):
            train.main(flags(out, "--save_every", "0", "--eval_every", "0", *more))
    assert len(complete(out)) == 1
    train.main(flags(out, "--eval_every", "0", "--resume", *more))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(4))
    assert steps[-1]["bad_media"] == 0


def test_many_bad_media_end_a_run_that_is_saved(tmp_path, monkeypatch):
    """More than a fifth of the records, after a step."""
    monkeypatch.setattr(session, "MAX_BAD_FRACTION", -1.0)
    out = tmp_path / "run"
    message = "more than .*: mend them; the run is saved after step 1: go on by the same command"
    with pytest.raises(DataError, match=message):
        train.main(flags(out, "--save_every", "0", "--eval_every", "1"))
    assert [folder.name for folder in complete(out)] == ["000001"]


AWAY_ON_ONE = """
import os, sys
import train
from formats.sample import Away

real, calls = train.score_prompts, []

def scores(*args):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        raise Away("the judge is away")
    return real(*args)

train.score_prompts = scores
train.ends_in_a_sentence(train.main, sys.argv[1:])
"""


@pytest.mark.slow
def test_the_judge_is_away_for_one_of_two_processes(tmp_path, toy_folder):
    (tmp_path / "away.py").write_text(AWAY_ON_ONE)
    command = torchrun(str(tmp_path / "away.py"), *flags(tmp_path / "run", "--save_every", "0"))
    env = ENV | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=toy_folder, env=env, capture_output=True, text=True)
    for rank in (0, 1):
        sentence = f"error: [rank {rank}] the judge is away; the run is saved after step 1: go on"
        assert sentence in done.stderr
    assert [folder.name for folder in complete(tmp_path / "run")] == ["000001"]


# ------------------------------------------------------------------ what is found at a start
def test_a_half_written_checkpoint_is_not_picked_up(copied, finished, tmp_path):
    newest = complete(copied)[-1]
    newest.rename(newest.with_name(newest.name + ".part"))
    assert [f.name for f in complete(copied)] == ["000002"]
    (copied / "checkpoints" / "000001.part").mkdir()  # of a kill long ago
    train.main(flags(copied, "--resume"))
    assert_same_run(copied, finished)
    assert sorted(f.name for f in (copied / "checkpoints").iterdir()) == ["000002", "000004"]


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["shared.pt", "rank0.pt", "optimizer.pt"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_file_is_named_and_nothing_of_the_run_is_lost(
    copied, finished, tmp_path, name, damage
):
    file = complete(copied)[-1] / "trainer" / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(bytes(1000) + content[1000:])
    logs = (copied / "metrics.jsonl").read_bytes()

    fault = {"gone": "it is gone", "cut": "it has .* bytes, and .* were written"}
    message = (
        rf"{name}: {fault.get(damage, 'it is damaged')}.*; move .*000004 away to go on from the "
        "one before it, .*000002"
    )
    names = sorted(str(path) for path in copied.rglob("*"))
    with pytest.raises(DataError, match=message):
        train.main(flags(copied, "--resume"))
    assert (copied / "metrics.jsonl").read_bytes() == logs
    assert sorted(str(path) for path in copied.rglob("*")) == names

    # as the sentence says
    newest = complete(copied)[-1]
    newest.rename(tmp_path / "away")
    train.main(flags(copied, "--resume"))
    assert_same_run(copied, finished)


def test_every_flipped_bit_is_noticed(copied, tmp_path):
    """One bit of any file of a checkpoint, at 60 places. (Its card is for people.)"""
    folder = complete(copied)[-1]
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(path for path in paths if path.name != "README.md")
    rng = np.random.default_rng(0)
    for i in range(60):
        file = files[i % len(files)]
        content = bytearray(file.read_bytes())
        place = rng.integers(len(content))
        content[place] ^= 1 << rng.integers(8)
        good = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(folder))):
            resume(copied, {}, {}, [], 0, 1)
        file.write_bytes(good)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"a": 1}', '{"a": [1, 2]}'])
def test_checksums_that_are_gone_or_broken(copied, content):
    file = complete(copied)[-1] / "checksums.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=r"checksums\.json: it .*; move .*000004 away"):
        resume(copied, {}, {}, [], 0, 1)


def test_a_checkpoint_under_another_number_is_refused(copied):
    """The next one would count as older than it."""
    complete(copied)[-1].rename(copied / "checkpoints" / "000009")
    with pytest.raises(DataError, match=r"000009: holds the state after step 4, .* to 000004, or"):
        train.main(flags(copied, "--resume"))


def test_the_only_checkpoint_is_never_removed(copied, tmp_path):
    """Whatever is missing of it; a run without --resume does not touch it either."""
    shutil.rmtree(copied / "checkpoints" / "000002")
    for name in ("shared.pt", "rank0.pt"):
        (copied / "checkpoints" / "000004" / "trainer" / name).unlink()
    for more in (["--resume"], []):
        with pytest.raises(DataError):
            train.main(flags(copied, *more))
        assert (copied / "checkpoints" / "000004" / "model.safetensors").is_file()
    shutil.rmtree(copied / "checkpoints" / "000004" / "trainer")
    with pytest.raises(DataError, match=r"bring the file back, or move .*000004 away to begin"):
        train.main(flags(copied, "--resume"))
    assert (copied / "checkpoints" / "000004" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["file", "link to nothing", "link to itself"])
def test_a_run_whose_checkpoints_have_no_place_does_not_begin(tmp_path, kind):
    out = tmp_path / "run"
    out.mkdir()
    if kind == "file":
        (out / "checkpoints").touch()
    else:
        (out / "checkpoints").symlink_to("gone" if kind == "link to nothing" else "checkpoints")
    for more in (["--resume"], []):
        with pytest.raises(DataError, match=r"checkpoints: is no folder, .*; move it away"):
            train.main(flags(out, *more))
    assert not (out / "metrics.jsonl").exists()


def test_checkpoints_without_a_permission_to_write_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(DataError, match=r"checkpoints: cannot be written into; see to its perm"):
        make_folder(tmp_path)


def test_a_link_to_itself_is_set_anew(copied, finished, tmp_path):
    link = copied / "checkpoint"
    link.unlink()
    link.symlink_to("checkpoint")
    train.main(flags(copied, "--resume"))
    assert os.readlink(link) == "checkpoints/000004"
    assert_same_run(copied, finished)


def test_a_digit_that_is_no_number_names_no_checkpoint(copied):
    for name in ("²", "³.part", "٣.before"):
        (copied / "checkpoints" / name).mkdir()
    before = sorted((copied / "checkpoints").iterdir())
    clean_up(copied)
    assert [folder.name for folder in complete(copied)] == ["000002", "000004"]
    assert sorted((copied / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]"])
def test_a_damaged_config_does_not_cost_the_checkpoints(copied, finished, content):
    """The mend that is named works."""
    (copied / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json: .* move it away, and go on by .*--resume$"):
        train.main(flags(copied, "--resume"))
    if content == "{":
        (copied / "config.json").rename(copied / "away.json")
        train.main(flags(copied, "--resume"))
        (copied / "away.json").unlink()
        assert_same_run(copied, finished)


def test_a_kill_before_the_link_is_set(copied, finished, tmp_path):
    """`checkpoint` is missing, or names an older one: --resume sets it, though there is nothing
    left to do."""
    link = copied / "checkpoint"
    for target in (None, "checkpoints/000002"):
        link.unlink()
        if target:
            link.symlink_to(target)
        train.main(flags(copied, "--resume"))
        assert link.resolve().name == "000004"
    assert_same_run(copied, finished)


def test_a_kill_while_a_step_is_saved_again(copied, finished, tmp_path):
    """The old one has been moved aside and the new one has no name yet: the old one counts."""
    folder = complete(copied)[-1]
    folder.rename(folder.with_name("000004.before"))
    shutil.copytree(copied / "checkpoints" / "000002", folder.with_name("000004.part"))
    train.main(flags(copied, "--resume"))
    assert_same_run(copied, finished)
    assert [f.name for f in sorted((copied / "checkpoints").iterdir())] == ["000002", "000004"]


def test_what_has_not_a_checkpoints_name_is_not_touched(copied, finished, tmp_path):
    folder = copied / "checkpoints"
    (folder / "2024 data.part").mkdir()
    (folder / "000007.part").write_text("a file")
    (folder / "000008.part").symlink_to(tmp_path)
    train.main(flags(copied, "--resume"))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000002", "000004", "000007.part", "000008.part", "2024 data.part"]


def test_a_new_run_in_an_old_ones_folder_keeps_the_old_logs(copied):
    """As the sentence on a damaged checkpoint says, all checkpoints were moved away."""
    shutil.rmtree(copied / "checkpoints")
    for number in (1, 2):
        logs = (copied / "metrics.jsonl").read_bytes()
        train.main(flags(copied, "--resume", "--eval_every", "0", steps=1))
        assert (copied / f"metrics.jsonl.old-{number}").read_bytes() == logs
        shutil.rmtree(copied / "checkpoints")


def test_the_folder_of_a_model_is_no_place_for_a_run(tmp_path):
    out = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, out)
    config = (out / "config.json").read_bytes()
    with pytest.raises(DataError, match=r"config\.json: is not that of a run, .*another --out"):
        train.main(flags(out, steps=1))
    assert (out / "config.json").read_bytes() == config


# ------------------------------------------------------------------ damaged logs
@pytest.mark.some(3)
@pytest.mark.parametrize("damage", ["gone", "short", "torn", "longer", "broken", "headless"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl"])
def test_damaged_logs_do_not_stop_a_run(copied, tmp_path, name, damage):
    shutil.rmtree(copied / "checkpoints" / "000004")
    file = copied / name
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "gone":
        file.unlink()
    elif damage == "short":
        file.write_bytes(lines[0])
    elif damage == "torn":
        file.write_bytes(lines[0] + lines[1][:20])
    elif damage == "headless":
        file.write_bytes(b"".join(lines[1:]))
    elif damage == "longer":
        file.write_bytes(b"".join([*lines, b"{\n"]))
    else:
        file.write_bytes(b"\xff" * 9 + b"".join(lines)[9:])
    if damage == "longer":
        train.main(flags(copied, "--resume"))
    else:
        with pytest.warns(UserWarning, match=f"{name}: "):
            train.main(flags(copied, "--resume"))
    content = file.read_bytes()
    assert b"\0" not in content
    assert content.endswith(b"\n")
    for line in content.splitlines()[1 if damage == "broken" else 0 :]:
        assert isinstance(json.loads(line), dict)
    if damage == "headless" and name == "metrics.jsonl":  # no step twice
        steps = [row["step"] for row in map(json.loads, content.splitlines()) if "loss" in row]
        assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "content", [b"hello\n", b'{"a":1}\n', b"[]\n", b"[" * 100_000, b'{"step": 0}\n']
)
def test_changed_completions_do_not_stop_a_run(copied, content):
    """Up to its page, which shows those of the steps that are done again."""
    shutil.rmtree(copied / "checkpoints" / "000004")
    (copied / ROLLOUTS).write_bytes(gzip.compress(content))
    with pytest.warns(UserWarning, match=f"{ROLLOUTS}: is not what it was"):
        train.main(flags(copied, "--resume"))
    shown = [step.step for step in read_steps(copied / ROLLOUTS)]
    assert shown == [2, 3]


def test_lines_without_a_step_do_not_stop_a_run(copied):
    """They are no use, and are left out of what is drawn."""
    shutil.rmtree(copied / "checkpoints" / "000004")
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    odd = [{"loss": 0.5}, rows[1] | {"step": "0"}, rows[1] | {"tier_hard": None}]
    lines = [json.dumps(row) + "\n" for row in (*odd, *rows)]
    (copied / "metrics.jsonl").write_text("".join(lines))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: 3 lines are damaged"):
        train.main(flags(copied, "--resume"))
    assert (copied / "run.html").is_file()


def test_a_run_without_its_log_and_nothing_left_to_do(copied):
    (copied / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: is not what it was"):
        train.main(flags(copied, "--resume"))


def test_reading_executes_nothing(copied, tmp_path):
    """A file that would create another one when it is unpickled is refused, and creates none."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"bomb": Bomb()}, complete(copied)[-1] / "trainer" / "optimizer.pt")
    write_checksums(complete(copied)[-1])
    with pytest.raises(DataError, match=r"optimizer\.pt: cannot be read \(UnpicklingError"):
        train.main(flags(copied, "--resume"))
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_refused(copied, tmp_path):
    path = complete(copied)[-1] / "trainer" / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["thinker.model.extra"] = state.pop("thinker.model.norm.weight")
    torch.save(state, path)
    write_checksums(complete(copied)[-1])
    with pytest.raises(
        DataError, match=r"trained weights are not this run's: thinker\.model\.extra"
    ):
        train.main(flags(copied, "--resume"))


def test_a_checkpoint_of_another_version_is_refused_and_kept(copied, monkeypatch):
    """One whose buffer is written in another form."""

    def of_before(self, state):
        raise KeyError("ids")

    monkeypatch.setattr(ReplayBuffer, "load_state_dict", of_before)
    before = sorted(copied.rglob("*"))
    with pytest.raises(
        DataError, match=r"its state of 'buffer' is of another version of this code"
    ):
        train.main(flags(copied, "--resume", steps=5))
    assert sorted(copied.rglob("*")) == before


def test_a_finished_run_has_nothing_to_do(copied, finished, tmp_path, capsys):
    train.main(flags(copied, "--resume"))
    said = capsys.readouterr().out
    assert "going on from" in said
    assert "nothing is left to do: 4 steps are done, and the run is to have 4" in said
    assert_same_run(copied, finished)


def test_fewer_steps_than_are_done_are_said(copied, capsys):
    train.main(flags(copied, "--resume", steps=1))
    said = capsys.readouterr().out
    assert "nothing is left to do: 4 steps are done, and the run is to have 1" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], r"run: holds a run already; go on with it by --resume, or remove the folder, or pass"),
        (["--resume", "--train_type", "lora"], "was made with --train_type 'full', now 'lora'"),
        (["--resume", "--stage", "3"], "--stage 2, now 3"),
        (["--resume", "--data", "toy:5,3"], "was made on other training prompts"),
    ],
)
def test_what_would_spoil_a_run_is_refused(copied, finished, tmp_path, more, message):
    with pytest.raises(DataError, match=message):
        train.main(flags(copied, *more))
    assert_same_run(copied, finished)


@pytest.mark.some(1)
@pytest.mark.parametrize("field", ["question", "answer", "options", "hint", "problem_type"])
def test_another_text_under_the_same_id_is_refused(tmp_path, toy_folder, field):
    """The fifth of twelve records: it is named."""
    file = next(toy_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    records = [json.loads(line) for line in file.read_text().splitlines()]
    data = tmp_path / "d.jsonl"

    def write() -> list[str]:
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        root = ["--media_root", str(file.parent), "--steps", "1", "--eval_every", "0"]
        return flags(tmp_path / "run", "--data", str(data), *root, steps=1)

    train.main(write())
    changed = records[4]
    new = {"options": ["A. 1", "B. 2"], "problem_type": "counting", "answer": "2"}
    if field in ("options", "problem_type"):
        changed.update({"problem_type": "numeric", "answer": "1"})
    changed[field] = new.get(field, "Something else?")
    message = (
        r"1 of 12 are no longer there as they were; 1 of 12 are new now, or have another text, "
        rf"answer or file name, the first: '{changed['id']}' at .*d\.jsonl:5; go on with the same"
    )
    with pytest.raises(DataError, match=message):
        train.main([*write(), "--resume"])


def test_records_that_came_went_or_moved(capsys):
    """The first new one is named; another order alone goes on."""
    samples = [Sample(str(i), f"How many are {i}?", "counting", "3") for i in range(6)]

    def check(now: list[Sample]) -> None:
        before = provenance(samples[:5], [], DEFAULT_MODEL, 2)
        check_provenance(Path("000004"), before, provenance(now, [], DEFAULT_MODEL, 2), now)

    check(samples[:5])
    assert capsys.readouterr().err == ""
    check(samples[4::-1])
    assert "the records stand in another order than before" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"0 of 5 are .*; 1 of 6 are new now, .* the first: '5' at"):
        check(samples)
    with pytest.raises(DataError, match="2 of 5 are no longer there as they were; go on with"):
        check(samples[:3])


def test_another_wording_and_other_weights_are_listed(copied, monkeypatch, capsys):
    """Which a change of the code brings."""
    monkeypatch.setattr(data, "INSTRUCTION", "Reason in <think>, answer in <answer>.")
    monkeypatch.setitem(rewards.STAGE_REWARDS, 2, {"format": 0.5, "accuracy": 0.5})
    train.main(flags(copied, "--resume"))
    said = capsys.readouterr().err
    assert "the prompts are worded otherwise than before" in said
    assert 'the rewards weigh {"format": 0.5, "accuracy": 0.5} now, before {"format": 0.2,' in said


def test_a_run_that_goes_on_unchanged_says_nothing(copied, capsys):
    train.main(flags(copied, "--resume"))
    assert "warning" not in capsys.readouterr().err


def test_media_and_held_out_questions_that_changed_are_listed(copied, tmp_path, toy_folder, capsys):
    clip = next(toy_folder.glob("toy_world/*/clips/*train*.mp4"))
    times = (clip.stat().st_atime_ns, clip.stat().st_mtime_ns)
    os.utime(clip, ns=(1, 1))
    try:
        train.main(flags(copied, "--resume"))
    finally:
        os.utime(clip, ns=times)
    said = capsys.readouterr().err
    assert "of 12 records have media of another size or time than before" in said
    assert clip.name in said
    assert "held-out" not in said


def test_other_weights_under_the_name_of_the_model_are_refused(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, model)
    train.main(flags(tmp_path / "run", "--model", str(model), steps=1))
    # as after training: the towers at both ends of the file stay, one layer between them is new
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "layers.0.mlp.gate_proj" in name)
    weights[name] += 0.01
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="other weights or another config under the same --model"):
        train.main(flags(tmp_path / "run", "--model", str(model), "--resume", steps=2))


def test_changed_flags_are_listed(copied, tmp_path, capsys):
    train.main(flags(copied, "--resume", "--lr", "1e-4", steps=5))
    changed = capsys.readouterr().out.split("changed flags")[1].splitlines()[0]
    assert f"--lr {DEFAULTS['tiny']['lr']} -> 0.0001" in changed
    assert "--steps 4 -> 5" in changed
    assert "--out" not in changed and "--resume" not in changed


# ------------------------------------------------------------------ a full disk
def test_a_full_disk_leaves_the_old_checkpoint_whole(finished, tmp_path, monkeypatch):
    """The system refuses to write more than 1 MB into a file, from the second checkpoint on."""
    out = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    real, saves = Optimizer.state_dict, []

    def state_dict(self):  # the first thing that is done for a checkpoint
        saves.append(1)
        if len(saves) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        return real(self)

    message = r"000004: the checkpoint could not be written \(.*000002 is whole; raise the limit"
    with monkeypatch.context() as patch, pytest.raises(DataError, match=message):
        patch.setattr(Optimizer, "state_dict", state_dict)
        try:
            train.main(flags(out))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [f.name for f in (out / "checkpoints").iterdir()] == ["000002"]
    train.main(flags(out, "--resume"))
    assert_same_run(out, finished)


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        (f"[Errno 28] {os.strerror(errno.ENOSPC)}", "free some space on the disk"),
        (f"I/O error: {os.strerror(errno.EDQUOT)} (os error 122)", "free some space on the disk"),
        (f"[Errno 27] {os.strerror(errno.EFBIG)}", "raise the limit on the size of a file"),
        (f"[Errno 20] {os.strerror(errno.ENOTDIR)}", "see to that folder and its permissions"),
        ("OSError", "see to that folder and its permissions"),
    ],
)
def test_space_is_asked_for_where_it_is_what_lacks(reason, mend):
    assert mend_of(reason).startswith(mend)


def test_a_writer_that_finds_the_disk_full_is_told_apart_from_other_errors():
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def silent():
        raise OSError

    def wrong():
        raise RuntimeError("shapes do not fit")

    assert "space" in attempt(full)
    assert attempt(silent) == "OSError"  # not "", which would pass for no error
    with pytest.raises(RuntimeError, match="shapes"):
        attempt(wrong)


# ------------------------------------------------------------------ several processes
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_killed_torchrun_takes_its_processes_along_and_one_process_goes_on(
    tmp_path, kind, capsys
):
    """SIGKILL reaches torchrun alone; its two processes save and end. One process then goes on:
    every prompt, completion and piece of the optimiser's state is there."""
    out, more = tmp_path / "run", ["--train_type", kind, "--save_every", "1", "--eval_every", "0"]
    process = subprocess.Popen(
        torchrun(str(REPO / "train.py"), *flags(out, *more, "--resume", steps=60)),
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not complete(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    output = process.stdout.read()  # ends when the last of them has closed it
    assert "asked to stop, and stopped" in output
    last = int(complete(out)[-1].name)
    assert 1 <= last < 60
    assert not any((out / "checkpoints").glob("*.part"))

    two = run_state(out)
    buffers = [state["buffer"] for state in two["states"]]
    joined = ReplayBuffer()
    joined.redistribute(buffers, lambda prompt_id: True)
    one = joined.state_dict()
    prompts = [prompts_of_columns(buffer["prompts"]) for buffer in buffers]
    assert prompts_of_columns(one["prompts"]) == prompts[0] | prompts[1]
    rewards = [str(e["reward"]) for buffer in buffers for e in buffer["entries"]]
    assert sorted(str(e["reward"]) for e in one["entries"]) == sorted(rewards)
    assert len(one["tokens"]) == sum(len(buffer["tokens"]) for buffer in buffers)

    train.main(flags(out, *more, "--resume", steps=last + 1))
    assert "2 processes before, 1 now" in capsys.readouterr().out
    single = run_state(out)
    assert len(single["states"]) == 1
    assert one["prompts"].keys() <= single["states"][0]["buffer"]["prompts"].keys()
    assert single["optimizer"].keys() == two["optimizer"].keys()
    for name, tensors in two["optimizer"].items():
        if "step" in tensors:
            assert single["optimizer"][name]["step"] - tensors["step"] in (0, 1)
    rows = [row for row in single["metrics"] if "loss" in row]
    assert [row["step"] for row in rows] == list(range(last + 1))
    assert [row["generated"] for row in rows] == [16 * i for i in range(1, last + 2)]


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(tmp_path):
    """The schedule is that of 4 steps: a signal stops the first part after 2. 0: in no step."""
    workers = str(REPO / "tests" / "engine" / "workers.py")
    for name, plan in (("whole", (0,)), ("cut", (2, 0))):
        out = tmp_path / name
        for stop in plan:
            more = flags(out, "--save_every", "0", "--resume")
            command = torchrun(workers, "stop", str(out), str(stop), *more)
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENV)
            assert (done.returncode == 0) == (stop == 0), done.stderr[-3000:]
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.fixture(scope="module")
def prompt_ids() -> list[str]:
    return [f"q{i}" for i in range(12)]


def make_stream(ids: list[str], coming: list[str]) -> PromptStream:
    """A stream over records of these ids, of which `coming` are next. It builds no prompts."""
    samples = [Sample(i, "?", "numeric", "1", videos=[f"{i}.mp4"]) for i in ids]
    stream = PromptStream(samples, None, 0)
    stream.coming = coming
    return stream


def test_redistributing_takes_what_is_waiting_and_what_was_dropped(prompt_ids):
    """By hand: rank 0 of 2 waits for its last two records, rank 1 for its first; one of them had
    been dropped."""
    parts = [[i for i in prompt_ids if owner(i, 2) == rank] for rank in (0, 1)]
    streams = [make_stream(parts[0], parts[0][-2:]), make_stream(parts[1], parts[1][:1])]
    streams[1].dropped = {parts[1][1]: TooLong("x: is too long")}
    one = make_stream(prompt_ids, [])
    one.redistribute([stream.state_dict() for stream in streams], lambda i: True)
    assert one.coming == [parts[0][-2], parts[1][0], parts[0][-1]]
    assert str(one.dropped[parts[1][1]]) == "x: is too long"


# ------------------------------------------------------------------ numbers and media
def test_a_gradient_that_is_no_number_skips_its_step(tmp_path, monkeypatch):
    """Steps 1 and 2 give NaN and infinity: the weights are those after step 0, bit for bit; the run
    goes on and counts them."""
    real, weights = Optimizer.step, []

    def step(self, *args):
        weight = self.params["thinker.model.norm.weight"]
        weights.append(weight.detach().clone())
        if len(weights) in (2, 3):
            weight.grad[0] = float("nan" if len(weights) == 2 else "inf")
        return real(self, *args)

    monkeypatch.setattr(Optimizer, "step", step)
    train.main(flags(tmp_path / "run", "--eval_every", "0"))
    left = run_state(tmp_path / "run")
    rows = [row for row in left["metrics"] if "loss" in row]
    assert [row["skipped"] for row in rows] == [0, 1, 1, 0]
    assert rows[1]["grad_norm"] is None and rows[0]["grad_norm"] > 0
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2]) and torch.equal(weights[2], weights[3])
    after = left["optimizer"]["thinker.model.norm.weight"]
    assert not torch.equal(weights[3], after["weight"])
    assert after["step"] == 2


def test_too_many_such_steps_end_the_run_with_the_batch(tmp_path, monkeypatch):
    real = Optimizer.step

    def step(self, *args):
        self.params["thinker.model.norm.weight"].grad.fill_(float("nan"))
        return real(self, *args)

    monkeypatch.setattr(Optimizer, "step", step)
    monkeypatch.setattr(session, "MAX_NONFINITE", 2)
    message = (
        r"the gradient of 2 updates in a row, up to step 1, .* the last batch is in "
        r".*nonfinite-rank0\.pt"
    )
    with pytest.raises(DataError, match=message):
        train.main(flags(tmp_path / "run", "--eval_every", "0"))
    batch = torch.load(tmp_path / "run" / "nonfinite-rank0.pt", weights_only=True)
    assert len(batch) >= 4
    for group in batch:
        assert len(group["tokens"]) == len(group["behaviour_logps"]) == len(group["rewards"])


def test_too_many_bad_media_end_the_run_and_are_listed(finished, tmp_path, toy_folder, monkeypatch):
    """The toy's records, of which the first four have no clip; `finished` has rendered it."""
    file = next(toy_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[:4]:
        line["video"] = "gone.mp4"
    spoilt = file.with_name("spoilt.jsonl")
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(session, "MAX_BAD_FRACTION", 0.1)
    message = r"of 12 records have media that cannot be used, more than 10%; they are listed in"
    with pytest.raises(DataError, match=message):
        train.main(flags(tmp_path / "run", "--data", str(spoilt), "--eval_every", "0"))
    text = (tmp_path / "run" / "bad_media.jsonl").read_text()
    listed = [json.loads(line) for line in text.splitlines()]
    assert 2 <= len(listed) <= 4
    for row in listed:
        assert row["path"].endswith("gone.mp4") and "does not exist" in row["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_change_nothing(tmp_path, processes):
    found = chaos(tmp_path, 20, processes)
    assert (
        found["equal"]
        and found["lost_or_doubled"] == 0
        and found["killed"] == 20
        and found["while_saving"] >= 5
    )


def test_a_checkpoint_without_a_state_that_the_run_has_is_refused(tmp_path, monkeypatch):
    """Someone adds something that every step changes, and goes on with a run of before."""
    run = Run(parse([f"--out={tmp_path}", "--resume"]))
    own = {"random": random_states(torch.device("cpu")), "stream": {}}
    run.saved = SimpleNamespace(
        folder=tmp_path / "checkpoints" / "000002",
        states=[own],
        own=own,
        load_optimizer=lambda optimizer: None,
    )
    policy = object()
    with pytest.raises(DataError, match="000002: holds no state of 'slow_weights'"):
        run.restore(policy, policy, None, {"slow_weights": None})
