"""bench/: every benchmark runs, prints both sides, and writes its figures. How fast they are is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.mark.parametrize(
    ("name", "flags", "rows"),
    [
        pytest.param(
            "rollout",
            ["--prompt", "40", "--group", "2", "--tokens", "4"],
            ["ours", "generate, dynamic cache", "generate, static cache"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "update",
            ["--prompt", "40", "--group", "2", "--tokens", "4"],
            ["packed row, chunked logits", "repeated rows, full fp32 logits"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "step",
            ["--prompts", "2", "--group", "4", "--tokens", "4"],
            [
                "media",
                "towers",
                "rollout",
                "reward, buffer",
                "reference",
                "policy forward, backward",
                "optimiser",
                "whole step",
                "completions trained per s",
            ],
            marks=pytest.mark.slow,
        ),
        (
            "evaluation",
            [
                "--videos",
                "2",
                "--questions",
                "2",
                "--prompt",
                "40",
                "--question",
                "8",
                "--tokens",
                "4",
            ],
            [
                "ours, shared prefill",
                "ours, batched",
                "ours, one at a time",
                "generate, one at a time",
            ],
        ),
        (
            "decode",
            [],
            ["frames", "frames", "frames", "sound", "sound", "both, resized", "both, resized"],
        ),
    ],
)
def test_a_benchmark_prints_both_sides(tmp_path, name, flags, rows):
    done = subprocess.run(
        [sys.executable, BENCH / f"{name}.py", "--repeats", "1", "--json", "out.json", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert {"command", "date", "device", "torch", "transformers"} <= set(result)
    assert [next(iter(row.values())) for row in result["rows"]] == rows and all(
        row in done.stdout for row in rows
    )
    if name == "update":
        assert (
            float(result["largest_difference_of_logps"]) < 1e-4
            and float(result["relative_difference_of_gradients"]) < 1e-4
        )
    if name == "evaluation":
        assert all(row["same_tokens"] == 1 for row in result["rows"])
    if name == "step":
        assert float(result["largest_difference_of_logps"]) < 1e-4
