"""Several processes on gloo: the same loss and gradients as one, trouble that stops nobody, and an
end where one has died."""

import json
import math
import multiprocessing
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
from engine import distributed
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer
from formats.load import load_samples
from formats.sample import DataError
from model import load_policy
from replay import ReplayBuffer
from run import stream
from run.session import ends_in_a_sentence
from run.stream import load_data, owner
from tests.engine.workers import KINDS, half_precision, one_step
from tests.families import QWEN3_OMNI

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
def several(request, alone, data, families, tmp_path_factory) -> dict:
    """What 2 (4) processes find: {"world", "towers", "bf16": of rank 0, kind: [of each rank]}."""
    world, towers = request.param
    folder = tmp_path_factory.mktemp(f"of{world}")
    for kind in KINDS:
        torch.save(alone[kind, towers]["state"], folder / f"state-{kind}.pt")
    with_experts = str(families[QWEN3_OMNI].source)
    done = torchrun(world, "equal", str(folder), data, str(towers), with_experts, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]

    found = {"world": world, "towers": towers}
    found["bf16"] = torch.load(folder / "bf16-0.pt", weights_only=True)
    for kind in (*KINDS, "experts"):
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


def test_experts_are_sharded_like_any_weight(several, data, families):
    """Loss, gradients and stepped weights of a Qwen3-Omni, within 1e-6 of one process's, those of
    experts and routers included."""
    ranks, world = several["experts"], several["world"]
    one = one_step("full", data, False, model=families[QWEN3_OMNI].source)
    assert sum(rank["groups"] for rank in ranks) == one["groups"] == 6
    for rank in ranks:
        assert rank["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert rank["learner"] < 1.1 * one["learner"] / world
        assert rank["grads"].keys() == one["grads"].keys()
        for name, grad in one["grads"].items():
            torch.testing.assert_close(rank["grads"][name], grad, atol=1e-6, rtol=1e-5)
        difference = flat(rank["weights"]) - flat(one["weights"])
        assert (difference.abs() < 1e-5).float().mean() > 0.999

    start = families[QWEN3_OMNI].merged_weights()
    for leaf in ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
        name = f"thinker.model.layers.0.{leaf}"
        assert one["grads"][name].norm() > 0
        assert (ranks[0]["weights"][name] - start[name]).norm() > 0


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


@pytest.fixture
def troubled(data, tmp_path) -> tuple[Path, list[dict]]:
    """A data file and its records: a clip is missing (the first record), one is broken (the sixth),
    and others are text, a picture, a sound or two pictures alone."""
    lines = [json.loads(line) for line in Path(data).read_text().splitlines()]
    picture, sound = str(tmp_path / "p.png"), str(tmp_path / "s.wav")
    others = [{}, {"image": picture}, {"audio": sound}, {"image": [picture] * 2}]
    for i, line in enumerate(lines):
        line["video"] = str(Path(data).parent / line["video"])
        if i % 3 == 1:
            line.pop("video")
            line |= others[i // 3 % 4]
        if i % 2:
            line.pop("hint")  # some processes teach by hints while others do not
    lines[0]["video"] = str(tmp_path / "missing.mp4")
    lines[5]["video"] = str(tmp_path / "broken.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")

    pixels = np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3)
    Image.fromarray(pixels).save(picture)
    soundfile.write(sound, 0.1 * np.sin(np.arange(16_000) / 20), 16_000)
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file, lines


@pytest.mark.slow
def test_every_train_type_goes_through_trouble_on_four_processes(troubled, tmp_path):
    """Bad media, groups whose rewards are equal, an empty draw, longer completions, text, pictures
    or sound alone, each on some processes only, and fewer records than a pass needs on others:
    every run ends with all its steps, and every process holds the rewards of its own prompts.
    Towers are trained, too."""
    file, lines = troubled
    owned = [[line for line in lines if owner(line["id"], 4) == rank] for rank in range(4)]
    assert any(len({"video" in line for line in own}) == 2 for own in owned)
    sizes = [len(own) for own in owned]
    assert len(set(sizes)) > 1 and max(sizes) >= 2 * min(sizes)

    flags = ["--method", "avatar", "--data", str(file), "--media_root", "/"]
    flags += ["--steps", "8", "--prompts_per_step", "4", "--replay_min", "4", "--workers", "0"]
    flags += ["--max_completion_tokens", "24", "--train_towers", "true"]
    flags += ["--hint_teacher", "0.3"]
    flags += ["--media_cache", str(tmp_path / "media")]
    done = torchrun(4, "train", str(tmp_path), *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in KINDS:
        check_logs(tmp_path / kind, [lines[0]["id"], lines[5]["id"]])
        check_states(tmp_path / kind, {line["id"] for line in lines})
        adapter = tmp_path / kind / "checkpoint" / "adapter" / "adapter_model.safetensors"
        assert adapter.is_file() == (kind == "lora")

    # stage 0, sharded, uneven micro-batches
    steps = [row for row in read_lines(tmp_path / "cold" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in steps] == [0, 1]
    assert steps[0]["loss"] > steps[1]["loss"]


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_logs(out: Path, bad: list[str]) -> None:
    steps = [row for row in read_lines(out / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in steps] == list(range(8))
    assert [row["generated"] for row in steps] == [16 * i for i in range(1, 9)]
    assert steps[-1]["bad_media"] == 2 and steps[-1]["too_long"] == 0
    assert all(row["zero_advantage_groups"] >= 1 for row in steps)
    named = read_lines(out / "bad_media.jsonl")
    assert sorted(row["id"] for row in named) == sorted(bad)
    assert any("does not exist" in row["reason"] for row in named)


def check_states(out: Path, ids: set[str]) -> None:
    trainer = out / "checkpoint" / "trainer"
    for rank in range(4):
        state = torch.load(trainer / f"rank{rank}.pt", weights_only=True)
        buffer = ReplayBuffer()
        buffer.load_state_dict(state["buffer"])
        assert len(buffer) == 32
        assert all(i in ids and owner(i, 4) == rank for i in buffer.stored)
        if rank == 0:
            entries = [e for history in buffer.stored.values() for e in history.entries]
            assert {entry.reward for entry in entries} == {0.5}
    names = set(torch.load(trainer / "optimizer.pt", weights_only=True))
    for part in ("layers.3.mlp.down_proj", "audio_tower", "visual"):
        assert any(part in name for name in names)


def talk(rank: int, how: str, port: int, folder: Path) -> None:
    """One of two processes that talk; rank 1 dies or falls asleep in between."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    sys.stderr = (folder / f"stderr{rank}").open("w")

    def main(argv):
        distributed.start_processes(timeout_seconds=2)
        distributed.gather("here")
        if rank == 1 and how == "die":
            os._exit(7)
        if rank == 1:
            time.sleep(100)
        distributed.gather("still here")

    ends_in_a_sentence(main, [])


def check_sentence(errors: str) -> None:
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: [rank 0] another process has died or has not come")


@pytest.mark.parametrize("how", ["die", "hang"])
def test_a_process_that_waits_for_a_lost_one_ends_with_a_sentence(how, tmp_path):
    """Started by hand, so that nothing but the process itself can notice, within the timeout."""
    port = 29_000 + os.getpid() % 400 + (how == "die")
    context = multiprocessing.get_context("fork")  # all modules are loaded already
    both = []
    for rank in (0, 1):
        both.append(context.Process(target=talk, args=(rank, how, port, tmp_path)))
        both[-1].start()
    try:
        if how == "die":
            both[1].join(timeout=60)
            assert both[1].exitcode == 7
        start = time.monotonic()
        both[0].join(timeout=60)
        assert both[0].exitcode == 1
        assert time.monotonic() - start < 10
        check_sentence((tmp_path / "stderr0").read_text())
    finally:
        for process in both:
            process.kill()
            process.join()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["die", "hang"])
def test_a_run_that_loses_a_process_ends_with_a_sentence(how, data, tmp_path):
    """The same of the real command, in the middle of a sharded step."""
    port = str(29_500 + os.getpid() % 400 + (how == "die"))
    command = [sys.executable, WORKERS, how, str(tmp_path / "run"), "--data", data]
    command += ["--steps", "4", "--prompts_per_step", "2", "--max_completion_tokens", "8"]
    command += ["--media_cache", str(tmp_path / "media")]
    env = ENV | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = []
    for rank in ("0", "1"):
        own = env | {"RANK": rank, "LOCAL_RANK": rank}
        both.append(
            subprocess.Popen(command, env=own, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        )
    try:
        if how == "die":
            assert both[1].wait(timeout=100) == 7
            start = time.monotonic()
        _, errors = both[0].communicate(timeout=100)
        assert both[0].returncode == 1
        check_sentence(errors)
        if how == "die":
            assert time.monotonic() - start < 10
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_more_processes_than_prompts_is_one_sentence(data, monkeypatch):
    samples = load_samples(data)[:3]
    monkeypatch.setattr(stream, "load_samples", lambda *args, **more: samples)
    bare = next(rank for rank in range(8) if all(owner(s.id, 8) != rank for s in samples))
    with pytest.raises(DataError, match="3 prompts are too few for 8 processes"):
        load_data(parse(["--data", data]), bare, 8)
