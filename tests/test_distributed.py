"""Several processes on gloo: the same loss and gradients as one, trouble that stops nobody, and an end where one has died."""

import json
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
from formats.load import load_samples
from formats.sample import DataError
from model import load_policy
from replay import ReplayBuffer
from run import stream
from run.stream import load_data, owner
from tests.workers import KINDS, one_step

REPO = Path(__file__).parent.parent
WORKERS = str(REPO / "tests" / "workers.py")
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
    """What one process finds. FSDP on one process would be a group of one: full weights are its reference."""
    return {
        (kind, towers): one_step(kind, data, towers)
        for kind in ("lora", "full")
        for towers in (False, True)
    }


@pytest.mark.parametrize(
    ("world", "towers"), [(2, True), pytest.param(4, False, marks=pytest.mark.slow)]
)
def test_loss_and_gradients_are_those_of_one_process(world, towers, alone, data, tmp_path):
    """Every --train_type, fp32: within 1e-6 of one process's; processes hold different numbers of groups (some none). In bf16 two steps of FSDP
    and of whole weights, both with fp32 master weights, end within bf16's rounding of each other."""
    done = torchrun(world, "equal", str(tmp_path), data, str(towers), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    full, fsdp = (
        torch.load(tmp_path / f"bf16-{kind}-0.pt", weights_only=True) for kind in ("full", "fsdp")
    )
    assert (fsdp["end"] - full["end"]).norm() < 0.05 * (full["end"] - full["start"]).norm() and (
        full["end"] != full["start"]
    ).float().mean() > 0.5
    assert (
        full["state"]
        == fsdp["state"]
        == [f"{k} torch.float32" for k in ("exp_avg", "exp_avg_sq", "master", "step")]
    )
    for kind in KINDS:
        parts = [
            torch.load(tmp_path / f"{kind}-{rank}of{world}.pt", weights_only=True)
            for rank in range(world)
        ]
        one = alone["full" if kind == "fsdp" else kind, towers]
        assert sum(p["groups"] for p in parts) == 6 and len({p["groups"] for p in parts}) > 1
        assert [p["loss"] for p in parts] == pytest.approx([one["loss"]] * world, abs=1e-6)
        assert [p["norm"] for p in parts] == pytest.approx([one["norm"]] * world, rel=1e-6)
        assert sorted(x for p in parts for x in p["kl"]) == pytest.approx(
            sorted(one["kl"]), abs=1e-5
        )
        grads = {name: g for p in parts for name, g in p["grads"].items()}
        assert grads.keys() == one["grads"].keys() and one["norm"] > 0.01
        flat = [
            torch.cat([g[name].flatten() for name in one["grads"]]) for g in (grads, one["grads"])
        ]
        assert (flat[0] - flat[1]).abs().max() <= 1e-6 and (flat[0] - flat[1]).norm() <= 1e-6 * max(
            1, flat[1].norm()
        )
        if kind != "fsdp":  # each summed gradient is at one owner only
            assert (
                sum(len(p["grads"]) for p in parts) == len(grads)
                and min(len(p["grads"]) for p in parts) > 0
            )
        else:  # each process holds its part of the decoder
            assert all(p["learner"] < 1.1 * one["learner"] / world for p in parts)
        for p in parts[1:]:  # after the step all processes sample from the same weights
            assert all(
                torch.equal(w, parts[0]["weights"][name]) for name, w in p["weights"].items()
            )
        stepped, expected, start = (
            torch.cat([weights[name].flatten() for name in sorted(weights)])
            for weights in (
                parts[0]["weights"],
                one["weights"],
                load_policy(DEFAULT_MODEL).merged_weights(),
            )
        )
        assert (
            (stepped - start).abs() > 1e-5
        ).float().mean() > 0.3  # the step is one of 1e-3 for most of what is trained, and
        assert (
            (stepped - expected).abs() < 1e-5
        ).float().mean() > 0.999  # the same but where a gradient is nearly zero


@pytest.mark.slow
def test_every_train_type_goes_through_trouble_on_four_processes(data, tmp_path):
    """A broken and a missing file, groups whose rewards are all alike, an empty draw, longer completions, text, pictures or sound alone, each on some
    processes only, and fewer records than a pass needs on others: every run ends with all its steps, and every process holds the rewards of its own
    prompts. Towers are trained, too."""
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
        "--device",
        "cpu",
        "--media_cache",
        str(tmp_path / "media"),
        "--max_completion_tokens",
        "24",
        "--train_towers",
        "true",
        "--timeout",
        "100",
        "--allow_outside",
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
        names, stored = set(), 0
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
            names |= set(own["optimizer"])
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


@pytest.mark.parametrize("how", [pytest.param("die", marks=pytest.mark.slow), "hang"])
def test_a_process_that_falls_out_ends_the_run(how, data, tmp_path):
    """Started by hand, so that nothing but the process itself can notice: within --timeout seconds it ends with one sentence."""
    port = str(29_500 + os.getpid() % 400 + (how == "die"))
    command = [
        sys.executable,
        WORKERS,
        how,
        str(tmp_path / "run"),
        "--data",
        data,
        "--steps",
        "4",
        "--prompts_per_step",
        "2",
        "--device",
        "cpu",
        "--max_completion_tokens",
        "8",
        "--media_cache",
        str(tmp_path / "media"),
        "--timeout",
        "6",
    ]
    env = ENV | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            command,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        if how == "die":
            assert both[1].wait(timeout=100) == 7
            start = time.monotonic()
        _, said = both[0].communicate(timeout=100)
        assert both[0].returncode == 1 and "Traceback" not in said
        assert (
            said.strip()
            .splitlines()[-1]
            .startswith("error: [rank 0] another process has died or has not come within --timeout")
        )
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
