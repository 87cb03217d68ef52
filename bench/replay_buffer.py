"""bench/replay_buffer.py: time and memory of a full replay buffer.

    python bench/replay_buffer.py

How long it takes to insert a group, to draw the groups of a step, and to move tiers and evict.
"""

import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

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
            0.2 + 0.8 * right,
            float(right),
            step,
            scores={"format": 1.0, "accuracy": float(right)},
        )
        for right in rng.integers(0, 2, 4)
    ]


def milliseconds(call, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer()

    # More than fits, so that every tier is full.
    tracemalloc.start()
    for i in range(4_000):
        buffer.add(f"q{i}", group(rng, i))
        if i % 100 == 99:
            buffer.refresh()
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()

    # Steps of 8 prompts.
    add: list[float] = []
    draw: list[float] = []
    refresh: list[float] = []
    for step in range(4_000, 4_040):
        for i in range(8):
            add.append(milliseconds(buffer.add, f"q{step}-{i}", group(rng, step)))
        refresh.append(milliseconds(buffer.refresh))
        draw.append(milliseconds(buffer.draw_groups, 8, 4, step))

    print(
        f"{len(buffer):,} entries of 512 tokens of {len(buffer.stored):,} prompts "
        f"({len(buffer.prompts):,} visited): {megabytes:.0f} MB"
    )
    for name, times in (
        ("insert a group of 4", add),
        ("tiers and eviction, once per step of 8 groups", refresh),
        ("draw 8 groups of 4, once per step", draw),
    ):
        median = np.median(times)
        print(f"{name}: median {median:.3f} ms, worst {max(times):.3f} ms of {len(times)}")


if __name__ == "__main__":
    main()
