"""Several processes on gloo: the same loss and gradients as one, trouble that stops nobody, and an
end where one has died."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import toy
from config import parse
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer
from formats.load import load_samples
from formats.sample import DataError
from model import load_policy
from replay import ReplayBuffer
from run import stream
from run.stream import load_data, owner
from tests.engine.workers import KINDS, half_precision, one_step

REPO = Path(__file__).parent.parent.parent
WORKERS = str(REPO / "tests" / "engine" / "workers.py")
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}


def torchrun(n: int, *args: str, cwd) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={n}",
        WORKERS,
        *args,
    ]
    return subprocess.run(command, env=ENV, cwd=cwd, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(toy.build(tmp_path_factory.mktemp("toy"), 2, "train", 12, progress=False))


@pytest.fixture(scope="module")
def alone(data) -> dict:
    """What one process finds, by --train_type, with trained towers and without."""
    return {
        (kind, towers): one_step(kind, data, towers) for kind in KINDS for towers in (False, True)
    }


@pytest.fixture(
    scope="module", params=[(2, True), pytest.param((4, False), marks=pytest.mark.slow)]
)
def several(request, alone, data, tmp_path_factory) -> dict:
    """What 2 (4) processes find: {"world", "towers", "bf16": of rank 0, kind: [of each rank]}."""
    world, towers = request.param
    folder = tmp_path_factory.mktemp(f"of{world}")
    for kind in KINDS:
        torch.save(alone[kind, towers]["state"], folder / f"state-{kind}.pt")
    done = torchrun(world, "equal", str(folder), data, str(towers), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]

    found = {"world": world, "towers": towers}
    found["bf16"] = torch.load(folder / "bf16-0.pt", weights_only=True)
    for kind in KINDS:
        files = [folder / f"{kind}-{rank}of{world}.pt" for rank in range(world)]
        found[kind] = [torch.load(file, weights_only=True) for file in files]
    return found


def flat(tensors: dict) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_one_process(kind, several, alone):
    """fp32, within 1e-6 of one process's; processes hold different numbers of groups (some
    none)."""
    ranks, world, one = several[kind], several["world"], alone[kind, several["towers"]]
    assert sum(r["groups"] for r in ranks) == 6
    assert len({r["groups"] for r in ranks}) > 1
    assert [r["loss"] for r in ranks] == pytest.approx([one["loss"]] * world, abs=1e-6)
    assert [r["norm"] for r in ranks] == pytest.approx([one["norm"]] * world, rel=1e-6)
    assert len({r["norm"] for r in ranks}) == 1
    kls = [kl for r in ranks for kl in r["kl"]]
    assert sorted(kls) == pytest.approx(sorted(one["kl"]), abs=1e-5)

    assert one["norm"] > 0.01
    for rank in ranks:
        assert rank["grads"].keys() == one["grads"].keys()
        difference = flat(rank["grads"]) - flat(one["grads"])
        assert difference.abs().max() <= 1e-6
        assert difference.norm() <= 1e-6 * max(1, flat(one["grads"]).norm())
    if kind == "full":  # each process holds its part of the decoder
        assert all(r["learner"] < 1.1 * one["learner"] / world for r in ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_take_the_step_of_one_process(kind, several, alone):
    ranks, one = several[kind], alone[kind, several["towers"]]
    for rank in ranks[1:]:  # all sample from the same weights, to the last bit
        for name, weight in rank["weights"].items():
            assert torch.equal(weight, ranks[0]["weights"][name])
    start = flat(load_policy(DEFAULT_MODEL).merged_weights())
    stepped, expected = flat(ranks[0]["weights"]), flat(one["weights"])
    # the step is one of 1e-3 for most of what is trained, and the same but where a gradient is
    # nearly zero
    assert ((stepped - start).abs() > 1e-5).float().mean() > 0.3
    assert ((stepped - expected).abs() < 1e-5).float().mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_no_number_on_one_process_changes_nothing_on_any(kind, several):
    for rank in several[kind]:
        assert math.isnan(rank["spoilt_norm"])
        for name, weight in rank["weights"].items():
            assert torch.equal(weight, rank["spoilt_weights"][name])
    before, after = several[kind][0]["state"], several[kind][0]["spoilt_state"]
    assert same_state(before, after)


def same_state(a: dict, b: dict) -> bool:
    if a.keys() != b.keys() or any(a[name].keys() != b[name].keys() for name in a):
        return False
    return all(torch.equal(a[name][key], b[name][key]) for name in a for key in a[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimisers_state_is_whole_and_fits_any_number_of_processes(kind, several, alone):
    """Rank 0 has all of it, near to one process's; and one process's, given to several and read
    again, is the same to the last bit. So is theirs, given to one."""
    one, state = alone[kind, several["towers"]]["state"], several[kind][0]["state"]
    assert all(rank["state"] == {} for rank in several[kind][1:])
    assert same_state(several[kind][0]["restored_state"], one)

    assert state.keys() == one.keys()
    for name, tensors in one.items():
        assert tensors.keys() == state[name].keys()
        if "step" not in tensors:  # it has no gradient in this batch
            continue
        assert tensors["step"] == state[name]["step"] == 1
        torch.testing.assert_close(state[name]["exp_avg"], tensors["exp_avg"], atol=1e-6, rtol=0)
    params = {name: torch.nn.Parameter(torch.zeros_like(t["weight"])) for name, t in state.items()}
    optimizer = Optimizer(params, {}, 1e-3)
    optimizer.load_state_dict(state)
    assert same_state(optimizer.state_dict(), state)


def test_sharded_bf16_training_is_that_of_one_process(several, data):
    """Two steps in bf16, with fp32 shards or fp32 masters, end within bf16's rounding of each
    other. The policy that samples holds the rounded shards."""
    one, sharded = half_precision(data), several["bf16"]
    difference = (sharded["end"] - one["end"]).norm()
    assert difference < 0.05 * (one["end"] - one["start"]).norm()
    assert (one["end"] != one["start"]).float().mean() > 0.5
    names = ("exp_avg", "exp_avg_sq", "step", "weight")
    assert one["types"] == sharded["types"] == [f"{name} torch.float32" for name in names]
    for found in (one, sharded):
        for name, weight in found["rounded"].items():
            assert weight.dtype == torch.bfloat16
            assert torch.equal(weight, found["weight"][name].bfloat16())


@pytest.mark.slow
def test_every_train_type_goes_through_trouble_on_four_processes(data, tmp_path):
    """A broken and a missing file, groups whose rewards are all alike, an empty draw, longer
    completions, text, pictures or sound alone, each on some processes only, and fewer records than
    a pass needs on others: every run ends with all its steps, and every process holds the rewards
    of its own prompts. Towers are trained, too."""
    lines = [json.loads(line) for line in Path(data).read_text().splitlines()]
    for i, line in enumerate(lines):
        line["video"] = str(Path(data).parent / line["video"])
        if i in (0, 5):
            line["video"] = str(tmp_path / ("broken.mp4" if i else "missing.mp4"))
        elif i % 3 == 1:
            line.pop("video")
            line |= [
                {},
                {"image": str(tmp_path / "p.png")},
                {"audio": str(tmp_path / "s.wav")},
                {"image": [str(tmp_path / "p.png")] * 2},
            ][i // 3 % 4]
    Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3)).save(
        tmp_path / "p.png"
    )
    soundfile.write(tmp_path / "s.wav", 0.1 * np.sin(np.arange(16_000) / 20), 16_000)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    owned = [sum(owner(line["id"], 4) == rank for line in lines) for rank in range(4)]
    assert any(
        len({"video" in line for line in lines if owner(line["id"], 4) == rank}) == 2
        for rank in range(4)
    )
    assert len(set(owned)) > 1 and max(owned) >= 2 * min(owned)
    done = torchrun(
        4,
        "train",
        str(tmp_path),
        "--method",
        "avatar_paper",
        "--data",
        str(tmp_path / "d.jsonl"),
        "--steps",
        "8",
        "--prompts_per_step",
        "4",
        "--replay_min",
        "4",
        "--media_cache",
        str(tmp_path / "media"),
        "--max_completion_tokens",
        "24",
        "--train_towers",
        "true",
        "--media_root",
        "/",
        "--workers",
        "0",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_id = {line["id"]: line for line in lines}
    for kind in KINDS:
        rows = [
            json.loads(line)
            for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
        ]
        steps = [r for r in rows if "loss" in r]
        assert [r["step"] for r in steps] == list(range(8)) and [r["generated"] for r in steps] == [
            16 * i for i in range(1, 9)
        ]
        assert (
            steps[-1]["bad_media"] == 2
            and steps[-1]["too_long"] == 0
            and all(r["zero_advantage_groups"] >= 1 for r in steps)
        )
        named = [
            json.loads(line)
            for line in (tmp_path / kind / "bad_media.jsonl").read_text().splitlines()
        ]
        assert (
            sorted(r["id"] for r in named) == sorted([lines[0]["id"], lines[5]["id"]])
            and "does not exist" in named[0]["reason"] + named[1]["reason"]
        )
        stored = 0
        for rank in range(4):
            own = torch.load(
                tmp_path / kind / "checkpoint" / "trainer" / f"rank{rank}.pt", weights_only=True
            )
            buffer = ReplayBuffer()
            buffer.load_state_dict(own["buffer"])
            assert (
                all(owner(i, 4) == rank and i in by_id for i in buffer.stored) and len(buffer) == 32
            )
            stored += len(buffer)
            if rank == 0:
                assert {e.reward for h in buffer.stored.values() for e in h.entries} == {0.5}
        trainer = tmp_path / kind / "checkpoint" / "trainer"
        names = set(torch.load(trainer / "optimizer.pt", weights_only=True))
        assert stored == 128 and any("layers.3.mlp.down_proj" in n for n in names)
        assert any("audio_tower" in n for n in names) and any("visual" in n for n in names)
        assert (
            tmp_path / kind / "checkpoint" / "adapter" / "adapter_model.safetensors"
        ).is_file() == (kind == "lora")

    rows = [
        json.loads(line) for line in (tmp_path / "cold" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in rows if "loss" in r] == [0, 1] and rows[0]["loss"] > rows[1][
        "loss"
    ]  # stage 0, sharded, uneven micro-batches


# Two processes that talk; how: what rank 1 does in between.
TALK = """
import os, sys, time
from engine import distributed
from run.session import ends_in_a_sentence

def main(argv):
    distributed.TIMEOUT_SECONDS = 2
    rank, _, _ = distributed.start_processes()
    distributed.gather("here")
    if rank == 1:
        os._exit(7) if argv[0] == "die" else time.sleep(100)
    distributed.gather("still here")

ends_in_a_sentence(main, sys.argv[1:])
"""


@pytest.mark.parametrize("how", ["die", "hang"])
@pytest.mark.parametrize("what", ["talk", pytest.param("train", marks=pytest.mark.slow)])
def test_a_process_that_falls_out_ends_the_run(what, how, data, tmp_path):
    """Started by hand, so that nothing but the process itself can notice: within the timeout it
    ends with one sentence."""
    port = str(29_500 + os.getpid() % 400 + (how == "die"))
    command = [sys.executable, "-c", TALK, how]
    if what == "train":
        command = [sys.executable, WORKERS, how, str(tmp_path / "run"), "--data", data]
        command += ["--steps", "4", "--prompts_per_step", "2", "--max_completion_tokens", "8"]
        command += ["--media_cache", str(tmp_path / "media")]
    env = ENV | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = []
    for rank in ("0", "1"):
        both.append(
            subprocess.Popen(
                command,
                env=env | {"RANK": rank, "LOCAL_RANK": rank},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        if how == "die":
            assert both[1].wait(timeout=100) == 7
            start = time.monotonic()
        _, errors = both[0].communicate(timeout=100)
        assert both[0].returncode == 1 and "Traceback" not in errors
        last = errors.strip().splitlines()[-1]
        assert last.startswith("error: [rank 0] another process has died or has not come")
        if how == "die":
            assert time.monotonic() - start < 10
    finally:
        for p in both:
            p.kill()
            p.communicate()


def test_more_processes_than_prompts_is_one_sentence(data, monkeypatch):
    samples = load_samples(data)[:3]
    monkeypatch.setattr(stream, "load_samples", lambda *args, **more: samples)
    bare = next(rank for rank in range(8) if all(owner(s.id, 8) != rank for s in samples))
    with pytest.raises(DataError, match="3 prompts are too few for 8 processes"):
        load_data(parse(["--data", data]), bare, 8)
