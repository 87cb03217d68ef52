"""bench/replay_buffer.py: time and memory of a full replay buffer.

    python bench/replay_buffer.py

How long it takes to insert a group, to move tiers and evict, to draw the groups of a step, and to
save and load, by the number of prompts that the run has seen. About two minutes.
"""

import io
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from replay import Entry, ReplayBuffer


def group(rng: np.random.Generator, step: int, tokens: int = 512) -> list[Entry]:
    """Four completions of one prompt, a random half of them right."""
    ids = np.zeros(tokens, np.int32)
    logps = np.zeros(tokens, np.float32)
    return [
        Entry(
            ids.copy(),
            logps.copy(),
            float(0.2 + 0.8 * right),
            float(right),
            step,
            scores={"format": 1.0, "accuracy": float(right)},
        )
        for right in rng.integers(0, 2, 4).tolist()
    ]


def milliseconds(call, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - start)


def full_buffer(seen: int, rng: np.random.Generator) -> ReplayBuffer:
    """A buffer after `seen` prompts were visited, 100 a step: every tier is full."""
    buffer = ReplayBuffer()
    for i in range(seen):
        buffer.add(f"q{i}", group(rng, i // 100))
        if i % 100 == 99:
            buffer.refresh()
    return buffer


def report(name: str, times: list[float]) -> None:
    median = np.median(times)
    print(f"  {name}: median {median:.3f} ms, worst {max(times):.3f} ms of {len(times)}")


def time_steps(buffer: ReplayBuffer, seen: int, rng: np.random.Generator) -> None:
    """40 steps of 8 prompts as train.py takes them, half of the prompts seen before."""
    add: list[float] = []
    refresh: list[float] = []
    draw: list[float] = []
    stats: list[float] = []
    for step in range(seen, seen + 40):
        old = [f"q{i}" for i in rng.integers(0, seen, 4)]
        for prompt_id in old + [f"new{step}-{i}" for i in range(4)]:
            add.append(milliseconds(buffer.add, prompt_id, group(rng, step)))
        refresh.append(milliseconds(buffer.refresh))
        draw.append(milliseconds(buffer.draw_groups, 8, 4, step))
        stats.append(milliseconds(buffer.stats))
    report("insert a group of 4", add)
    report("tiers and eviction, once per step", refresh)
    report("draw 8 groups of 4 of earlier steps, once per step", draw)
    report("what the log asks for, once per step", stats)


def time_saving(buffer: ReplayBuffer) -> None:
    """A checkpoint's part of it: to a file and back."""
    file = io.BytesIO()
    save = milliseconds(lambda: torch.save(buffer.state_dict(), file))
    file.seek(0)
    load = milliseconds(lambda: ReplayBuffer().load_state_dict(torch.load(file, weights_only=True)))
    print(
        f"  saved in {save:.0f} ms ({len(file.getvalue()) / 1e6:.0f} MB), loaded in {load:.0f} ms"
    )


def main() -> None:
    rng = np.random.default_rng(0)
    tracemalloc.start()
    buffer = full_buffer(4_000, rng)
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    print(f"{len(buffer):,} entries of 512 tokens: {megabytes:.0f} MB")

    for seen in (1_000, 10_000, 100_000, 260_000):
        buffer = full_buffer(seen, rng)
        print(f"{seen:,} prompts seen, {len(buffer):,} entries of {len(buffer.stored):,} prompts")
        time_steps(buffer, seen, rng)
        time_saving(buffer)


if __name__ == "__main__":
    main()
