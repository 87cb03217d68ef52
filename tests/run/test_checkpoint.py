"""checkpoint.py: a run that is stopped anywhere and goes on is the undisturbed run, bit for bit."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from bench.chaos import alike, chaos, told
from config import DEFAULTS
from formats.sample import DataError
from media.errors import MediaError
from replay import ReplayBuffer
from run import checkpoint
from run.checkpoint import STOP, Signals, attempt, complete, save
from run.session import only_run
from run.stream import Cursor, owner

REPO = Path(__file__).parent.parent
TOY: dict[str, str] = {}


def flags(tmp_path, out, *more, steps=6):
    TOY.setdefault("toy", str(tmp_path.parent / "toy"))  # rendered once for all tests here
    return [
        "--method",
        "avatar_paper",
        "--out",
        str(out),
        "--toy_dir",
        TOY["toy"],
        "--media_cache",
        "",
        "--toy_clips",
        "6",
        "--toy_heldout",
        "3",
        "--prompts_per_step",
        "4",
        "--steps",
        str(steps),
        "--replay_min",
        "8",
        "--eval_every",
        "3",
        "--max_completion_tokens",
        "32",
        "--device",
        "cpu",
        *more,
    ]


class Killed(Exception):
    pass


def kill_in_step(monkeypatch, wanted):
    """The process is gone in the middle of step `wanted`, after its rollout."""
    real = train.update_step

    def dies(cfg, policy, reference, groups, step=0, *rest):
        if step == wanted:
            raise Killed
        return real(cfg, policy, reference, groups, step, *rest)

    monkeypatch.setattr(train, "update_step", dies)


@pytest.mark.parametrize(
    ("more", "kills"),
    [
        (("--steps", "4"), (2,)),
        pytest.param((), (3, 5), marks=pytest.mark.slow),
        pytest.param(
            ("--train_type", "lora", "--lr", "2e-3", "--stage", "3"), (4,), marks=pytest.mark.slow
        ),
        pytest.param(
            ("--method", "grpo", "--dynamic_sampling", "1"), (0, 2), marks=pytest.mark.slow
        ),
        pytest.param(
            ("--train_towers", "true", "--hint_patience", "1", "--save_every", "3"),
            (5,),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, more, kills):
    train.main(flags(tmp_path, tmp_path / "whole", "--save_every", "2", *more))
    for kill in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in_step(patch, kill)
            train.main(flags(tmp_path, tmp_path / "cut", "--save_every", "2", *more, "--resume"))
    train.main(flags(tmp_path, tmp_path / "cut", "--save_every", "2", *more, "--resume"))
    whole, cut = told(tmp_path / "whole"), told(tmp_path / "cut")
    assert [row["step"] for row in cut["metrics"] if "loss" in row] == list(
        range(4 if "--steps" in more else 6)
    )
    for name, value in whole.items():
        assert alike(value, cut[name]), name
    assert [f.name for f in complete(tmp_path / "cut")] == [
        f.name for f in complete(tmp_path / "whole")
    ] and len(complete(tmp_path / "cut")) == 2


def test_a_killed_cold_start_goes_on_bit_for_bit(tmp_path, monkeypatch):
    cold = ["--stage", "0", "--eval_every", "2", "--save_every", "2", "--toy_clips", "8"]
    train.main(flags(tmp_path, tmp_path / "whole", *cold, steps=4))
    real = train.take_step
    monkeypatch.setattr(
        train, "take_step", lambda *a: (_ for _ in ()).throw(Killed) if a[4] == 3 else real(*a)
    )
    with pytest.raises(Killed):
        train.main(flags(tmp_path, tmp_path / "cut", *cold, steps=4))
    monkeypatch.undo()
    train.main(flags(tmp_path, tmp_path / "cut", *cold, "--resume", steps=4))
    whole, cut = told(tmp_path / "whole"), told(tmp_path / "cut")
    assert all(alike(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_after_the_step_and_stops(tmp_path, monkeypatch, number, code, capsys):
    real = train.update_step

    def hears(cfg, policy, reference, groups, step=0, *rest):
        if step == 1:
            os.kill(os.getpid(), number)
        return real(cfg, policy, reference, groups, step, *rest)

    monkeypatch.setattr(train, "update_step", hears)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        train.main(flags(tmp_path, tmp_path / "run", steps=3))
    assert (
        stop.value.code == code
        and [f.name for f in complete(tmp_path / "run")] == ["000002"]
        and "go on by the same command" in capsys.readouterr().out
    )
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    train.main(flags(tmp_path, tmp_path / "run", "--resume", steps=3))
    train.main(flags(tmp_path, tmp_path / "whole", steps=3))
    assert all(
        alike(value, told(tmp_path / "run")[name])
        for name, value in told(tmp_path / "whole").items()
    )


def test_sigusr1_saves_and_goes_on(tmp_path, monkeypatch):
    real, names = train.update_step, []

    def hears(cfg, policy, reference, groups, step=0, *rest):
        names.append([f.name for f in complete(tmp_path / "run")])
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(cfg, policy, reference, groups, step, *rest)

    monkeypatch.setattr(train, "update_step", hears)
    train.main(flags(tmp_path, tmp_path / "run", steps=3))
    assert (
        names == [[], [], ["000002"]]
        and (tmp_path / "run" / "checkpoint").resolve().name == "000003"
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    train.main(flags(out / "x", out / "run", "--save_every", "2", steps=4))
    return out / "run"


def test_a_half_written_checkpoint_is_not_picked_up(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    newest = complete(out)[-1]
    newest.rename(newest.with_name(newest.name + ".part"))
    assert [f.name for f in complete(out)] == ["000002"]
    (out / "checkpoints" / "000001.part").mkdir()  # of a kill long ago
    train.main(flags(tmp_path, out, "--save_every", "2", "--resume", steps=4))
    assert all(alike(value, told(out)[name]) for name, value in told(finished).items())
    assert sorted(f.name for f in (out / "checkpoints").iterdir()) == ["000002", "000004"]


@pytest.mark.parametrize("name", ["shared.pt", "rank0.pt", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_file_is_named_and_nothing_of_the_run_is_lost(finished, tmp_path, name, damage):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    file = complete(out)[-1] / "trainer" / name
    content = file.read_bytes()
    file.write_bytes(
        content[: len(content) // 2] if damage == "cut" else bytes(1000) + content[1000:]
    )
    if damage == "gone":
        file.unlink()
    logs = (out / "metrics.jsonl").read_bytes()
    if (name, damage) == (
        "shared.pt",
        "gone",
    ):  # what makes a checkpoint whole: the one before is taken
        assert [f.name for f in complete(out)] == ["000002"]
        return
    with pytest.raises(
        DataError,
        match=rf"{name}: cannot be read \(.*remove .*000004 to go on from the checkpoint before",
    ):
        train.main(flags(tmp_path, out, "--save_every", "2", "--resume", steps=4))
    assert (out / "metrics.jsonl").read_bytes() == logs
    if (name, damage) != ("rank0.pt", "cut"):
        return
    shutil.rmtree(complete(out)[-1])
    train.main(flags(tmp_path, out, "--save_every", "2", "--resume", steps=4))
    assert alike(told(out)["weights"], told(finished)["weights"])


def test_a_finished_run_has_nothing_to_do(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    train.main(flags(tmp_path, out, "--resume", steps=4))
    assert "going on from" in capsys.readouterr().out and all(
        alike(value, told(out)[name]) for name, value in told(finished).items()
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "holds a run already; go on with it by --resume"),
        (["--resume", "--train_type", "lora"], "was made with --train_type 'full', now 'lora'"),
        (["--resume", "--stage", "3"], "--stage 2, now 3"),
        (["--resume", "--toy_clips", "5"], "was made on other training prompts"),
    ],
)
def test_what_would_spoil_a_run_is_refused(finished, tmp_path, more, message):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    with pytest.raises(DataError, match=message):
        train.main(flags(tmp_path, out, *more, steps=4))
    assert all(alike(value, told(out)[name]) for name, value in told(finished).items())


def test_changed_flags_are_listed(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    train.main(flags(tmp_path, out, "--resume", "--lr", "1e-4", steps=5))
    said = capsys.readouterr().out
    changed = said.split("changed flags")[1].splitlines()[0]
    assert (
        f"--lr {DEFAULTS['tiny']['lr']} -> 0.0001" in changed
        and "--steps 4 -> 5" in changed
        and "--out" not in changed
    )


def test_beginning_anew_must_be_asked_for(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    train.main(flags(tmp_path, out, "--overwrite", "--seed", "5", steps=2))
    assert [f.name for f in complete(out)] == ["000002"] and len(told(out)["metrics"]) == 4


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    """The system refuses to write more than 1 MB into a file, from the second checkpoint on."""
    real, limits = save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def cramped(out, step, *rest):
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (limits[0] if step == 2 else 1_000_000, limits[1])
        )
        try:
            return real(out, step, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(train, "save", cramped)
    with pytest.raises(
        DataError,
        match=r"000004: the checkpoint could not be written \(.*000002 is whole; free some space",
    ):
        train.main(flags(tmp_path, tmp_path / "run", "--save_every", "2", steps=4))
    assert [f.name for f in (tmp_path / "run" / "checkpoints").iterdir()] == ["000002"]
    monkeypatch.undo()
    train.main(flags(tmp_path, tmp_path / "run", "--save_every", "2", "--resume", steps=4))
    train.main(flags(tmp_path, tmp_path / "whole", "--save_every", "2", steps=4))
    assert all(
        alike(value, told(tmp_path / "run")[name])
        for name, value in told(tmp_path / "whole").items()
    )


def test_a_writer_that_finds_the_disk_full_is_told_apart_from_other_errors():
    assert "space" in attempt(
        lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    )
    with pytest.raises(RuntimeError, match="shapes"):
        attempt(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))


# ---------------------------------------------------------------------------------------------- other numbers of processes
@pytest.mark.parametrize(
    "kind",
    [
        "full",
        pytest.param("lora", marks=pytest.mark.slow),
        pytest.param("fsdp", marks=pytest.mark.slow),
    ],
)
def test_another_number_of_processes_loses_nothing(tmp_path, kind):
    """Two processes, then one (under torchrun, too): every prompt, completion and piece of the optimiser's state is there."""
    out, env = tmp_path / "run", os.environ | {"OMP_NUM_THREADS": "1"}

    def run(processes, steps, *more):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
            str(REPO / "train.py"),
            *flags(
                tmp_path,
                out,
                "--train_type",
                kind,
                "--resume",
                "--optim_dtype",
                "fp32",
                *more,
                steps=steps,
            ),
        ]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=env
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, told(out)["states"]

    _, two = run(2, 2)
    stored = two[0]["buffer"]["prompts"] | two[1]["buffer"]["prompts"]
    one = ReplayBuffer.redistribute([s["buffer"] for s in two], lambda i: True)
    assert one["prompts"] == stored
    assert sorted(map(str, (e["reward"] for e in one["entries"]))) == sorted(
        map(str, (e["reward"] for s in two for e in s["buffer"]["entries"]))
    )
    assert len(one["tokens"]) == sum(len(s["buffer"]["tokens"]) for s in two)
    said, single = run(1, 4)
    assert "2 processes before, 1 now" in said
    assert set(stored) <= set(single[0]["buffer"]["prompts"]) and set(single[0]["optimizer"]) == {
        n for s in two for n in s["optimizer"]
    }
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == list(range(4)) and [
        r["generated"] for r in rows if "loss" in r
    ] == [16 * i for i in range(1, 5)]


def test_only_a_later_second_signal_stops_at_once(monkeypatch):
    """torchrun's end reaches its processes as two signals within a moment; a user's second Ctrl-C comes later, and means it."""
    killed, now = [], [100.0]
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    signals = Signals()
    for at, number in ((100.0, signal.SIGTERM), (100.4, signal.SIGTERM), (100.9, signal.SIGUSR1)):
        now[0] = at
        signals.note(number, None)
    assert not killed and signals.agreed() == STOP
    now[0] = 102.0
    signals.note(signal.SIGINT, None)
    assert killed == [signal.SIGINT]


def test_two_runs_do_not_write_into_one_folder(tmp_path, monkeypatch):
    """The second waits a little, then says who is there; it changes nothing. When the first one is gone, however it ended, the folder is free."""
    out = tmp_path / "run"
    code = "import sys, time, pathlib\nfrom run.session import only_run\nwith only_run(pathlib.Path(sys.argv[1]), 0):\n  print('in', flush=True)\n  time.sleep(99)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    monkeypatch.setattr(train, "only_run", partial(only_run, patience=0.5))
    with pytest.raises(
        DataError,
        match=rf"another run writes here \(process {other.pid} on .*\); stop that one, or pass another --out",
    ):
        train.main(flags(tmp_path, out, steps=1))
    assert [f.name for f in out.iterdir()] == [".lock"]
    other.kill()
    other.wait()
    train.main(flags(tmp_path, out, "--eval_every", "0", steps=1))
    assert [f.name for f in complete(out)] == ["000001"]


def test_a_killed_torchrun_takes_its_processes_along(tmp_path):
    """SIGKILL reaches torchrun alone; its two processes save and end."""
    out, env = tmp_path / "run", os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(REPO / "train.py"),
        *flags(tmp_path, out, "--save_every", "1", "--resume", "--eval_every", "0", steps=60),
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while not complete(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    told = process.stdout.read()  # ends when the last of them has closed it
    assert "asked to stop, and stopped" in told
    assert 1 <= int(complete(out)[-1].name) < 60 and not any((out / "checkpoints").glob("*.part"))


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, plan in (("whole", (4,)), ("cut", (2, 4))):
        for stop in plan:  # the schedule is that of 4 steps: a signal stops the first part
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node=2",
                str(REPO / "tests" / "workers.py"),
                "stop",
                str(tmp_path / name),
                str(stop),
                *flags(tmp_path, tmp_path / name, "--resume", steps=4)[2:],
            ]
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=env
            )
            assert (done.returncode == 0) == (stop == 4), done.stderr[-3000:]
    whole, cut = told(tmp_path / "whole"), told(tmp_path / "cut")
    assert all(alike(value, cut[name]) for name, value in whole.items())


def test_dealing_takes_what_is_waiting_and_what_was_dropped(samples):
    """By hand: rank 0 of 2 waits for its last two records, rank 1 for its first; one of them had been dropped."""
    parts = [[s for s in samples if owner(s.id, 2) == r] for r in (0, 1)]
    cursors = [Cursor(part, 0) for part in parts]
    cursors[0].order, cursors[1].order = [len(parts[0]) - 2, len(parts[0]) - 1], [0]
    cursors[1].dropped = {parts[1][1].id: MediaError("x", "is missing")}
    one = Cursor(samples, 0)
    one.deal([c.state() for c in cursors], samples)
    assert [samples[i].id for i in one.order] == [parts[0][-2].id, parts[1][0].id, parts[0][-1].id]
    assert str(one.dropped[parts[1][1].id]) == "x: is missing"


# ---------------------------------------------------------------------------------------------- numbers and memory
def test_a_gradient_that_is_no_number_skips_its_step(tmp_path, monkeypatch):
    """Steps 1 and 2 give NaN and infinity: weights and optimiser are those after step 0, bit for bit; the run goes on and counts them."""
    real, seen = train.update_step, {}

    def spoilt(cfg, policy, reference, groups, step=0, *rest):
        log = real(cfg, policy, reference, groups, step, *rest)
        seen[step] = policy.text.norm.weight.detach().clone()
        if step in (1, 2):
            policy.text.norm.weight.grad[0] = float("nan" if step == 1 else "inf")
        return log

    monkeypatch.setattr(train, "update_step", spoilt)
    train.main(flags(tmp_path, tmp_path / "run", steps=4))
    rows = [row for row in told(tmp_path / "run")["metrics"] if "loss" in row]
    assert (
        [row["skipped"] for row in rows] == [0, 1, 1, 0]
        and rows[1]["grad_norm"] is None
        and rows[0]["grad_norm"] > 0
    )
    assert (
        not torch.equal(seen[0], seen[1])
        and torch.equal(seen[1], seen[2])
        and torch.equal(seen[2], seen[3])
    )
    assert not torch.equal(
        seen[3],
        load_file(tmp_path / "run" / "checkpoint" / "trainer" / "weights.safetensors")[
            "thinker.model.norm.weight"
        ],
    )


def test_too_many_such_steps_end_the_run_with_the_batch(tmp_path, monkeypatch):
    real = train.update_step

    def spoilt(cfg, policy, *rest):
        log = real(cfg, policy, *rest)
        policy.text.norm.weight.grad.fill_(float("nan"))
        return log

    monkeypatch.setattr(train, "update_step", spoilt)
    with pytest.raises(
        DataError,
        match=r"the gradient of 2 steps in a row, up to step 1, .* the last batch is in .*nonfinite-rank0\.pt",
    ):
        train.main(flags(tmp_path, tmp_path / "run", "--max_nonfinite", "2", "--toy_heldout", "1"))
    batch = torch.load(tmp_path / "run" / "nonfinite-rank0.pt", weights_only=True)
    assert len(batch) >= 4 and all(
        len(g["tokens"]) == len(g["behaviour"]) == len(g["rewards"]) for g in batch
    )


@pytest.mark.parametrize("fits", [pytest.param(True, marks=pytest.mark.slow), False])
def test_out_of_memory_is_tried_once_with_half_the_tokens(tmp_path, monkeypatch, fits):
    """Forward passes of more than 3,000 tokens do not fit; the retry's gradients are those of a run that never asked for more."""
    real, limits = train.update_step, []

    def small_gpu(cfg, policy, reference, groups, step=0, *rest):
        limits.append(cfg.max_tokens)
        log = real(
            cfg, policy, reference, groups, step, *rest
        )  # gradients are there already when it fails
        if cfg.max_tokens > 3000:
            raise torch.OutOfMemoryError
        return log

    monkeypatch.setattr(train, "update_step", small_gpu)
    asked = 4000 if fits else 8000
    if not fits:
        with pytest.raises(
            DataError,
            match="out of GPU memory in step 0, with half of --max_tokens 8,000, too; lower",
        ):
            train.main(flags(tmp_path, tmp_path / "run", "--max_tokens", str(asked), steps=2))
        assert limits == [8000, 4000]
        return
    train.main(flags(tmp_path, tmp_path / "run", "--max_tokens", str(asked), steps=2))
    assert limits == [4000, 2000] * 2
    monkeypatch.undo()
    train.main(flags(tmp_path, tmp_path / "plain", "--max_tokens", "2000", steps=2))
    assert alike(told(tmp_path / "run")["weights"], told(tmp_path / "plain")["weights"])


def test_too_many_bad_media_end_the_run_and_are_listed(tmp_path):
    train.main(flags(tmp_path, tmp_path / "x", steps=1))
    file = next(Path(TOY["toy"]).glob("*/stage2_train_6x2.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[:4]:
        line["video"] = "gone.mp4"
    spoilt = file.with_name("spoilt.jsonl")
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        DataError,
        match=r"of 12 records have media that cannot be used, more than --max_bad_fraction 0\.1; they are listed in",
    ):
        train.main(
            flags(
                tmp_path,
                tmp_path / "run",
                "--data",
                str(spoilt),
                "--max_bad_fraction",
                "0.1",
                "--eval_every",
                "0",
            )
        )
    listed = [
        json.loads(line) for line in (tmp_path / "run" / "bad_media.jsonl").read_text().splitlines()
    ]
    assert 2 <= len(listed) <= 4 and all(
        row["path"].endswith("gone.mp4") and "does not exist" in row["reason"] for row in listed
    )


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
