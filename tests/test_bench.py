"""bench/: every benchmark runs, prints both sides, and writes its figures. How fast they are is no
test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu

BENCH = Path(__file__).parent.parent / "bench"


def run_bench(folder: Path, name: str, rows: list[str], *flags: str) -> dict:
    """Run a benchmark once. Returns what it writes, after a look at its rows."""
    done = subprocess.run(
        [sys.executable, BENCH / f"{name}.py", "--repeats", "1", "--json", "out.json", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "out.json").read_text())
    assert {"command", "date", "device", "torch", "transformers"} <= set(result)
    assert [next(iter(row.values())) for row in result["rows"]] == rows
    assert all(row in done.stdout for row in rows)
    return result


@pytest.mark.slow
def test_rollout(tmp_path):
    rows = ["ours", "generate, dynamic cache", "generate, static cache"]
    run_bench(tmp_path, "rollout", rows, "--prompt", "40", "--group", "2", "--tokens", "4")


@pytest.mark.slow
def test_update(tmp_path):
    rows = ["packed row, chunked logits", "repeated rows, full fp32 logits"]
    flags = ("--prompt", "40", "--group", "2", "--tokens", "4")
    result = run_bench(tmp_path, "update", rows, *flags)
    assert float(result["largest_difference_of_logps"]) < 1e-4
    assert float(result["relative_difference_of_gradients"]) < 1e-4


@pytest.mark.slow
def test_step(tmp_path):
    rows = [
        "media",
        "towers",
        "rollout",
        "reward, buffer",
        "reference",
        "policy forward, backward",
        "optimiser",
        "whole step",
        "completions trained per s",
    ]
    flags = ("--prompts", "2", "--group", "4", "--tokens", "4")
    result = run_bench(tmp_path, "step", rows, *flags)
    assert float(result["largest_difference_of_logps"]) < 1e-4


@pytest.mark.slow
def test_evaluation(tmp_path):
    rows = [
        "ours, shared prefill",
        "ours, batched",
        "ours, one at a time",
        "generate, one at a time",
    ]
    sizes = ("--videos", "2", "--questions", "2", "--prompt", "40", "--question", "8")
    result = run_bench(tmp_path, "evaluation", rows, *sizes, "--tokens", "4")
    assert all(row["same_tokens"] == 1 for row in result["rows"])


@pytest.mark.slow
def test_decode(tmp_path):
    rows = ["frames, resized"] * 2 + ["sound"] * 2 + ["both"] * 3
    run_bench(tmp_path, "decode", rows)


def program_of(command: str) -> str:
    return next(word for word in command.split() if word.endswith(".py"))


def test_every_part_for_a_gpu_runs_small(tmp_path):
    """bench/gpu.py at tiny sizes: every program runs, and its figures are there."""
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py", "--dry", "--out", tmp_path / "gpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    summary = json.loads((tmp_path / "gpu" / "summary.json").read_text())
    assert {line["outcome"] for line in summary} == {"done"}
    tried = {program_of(line["command"]) for line in summary}
    assert tried == {program_of(part.command) for part in gpu.PARTS}
    for name in ("agreement", "step-peers", "memory-3b", "decode-4x8-P2048", "update-P2048"):
        assert json.loads((tmp_path / "gpu" / f"{name}.json").read_text())["rows"]


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch):
    parts = [
        gpu.Part("hangs", 0.01, "", "-m http.server --bind 127.0.0.1 0", writes_json=False),
        gpu.Part("fails", 1, "", "-c raise(SystemExit(3))", writes_json=False),
        gpu.Part("works", 1, "", "-c print('figures')", writes_json=False),
    ]
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="not all parts are done"):
        gpu.main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    outcomes = [line["outcome"] for line in summary]
    assert outcomes == ["stopped after 1 s", "failed with 3", "done"]
    assert (tmp_path / "works.log").read_text() == "figures\n"
