"""bench/replay_buffer.py: how long the replay buffer takes to insert and to draw a group, and how much memory it needs, when it is full.

python bench/replay_buffer.py
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
    ids, logps = np.zeros(tokens, np.int32), np.zeros(tokens, np.float32)
    return [
        Entry(
            ids.copy(),
            logps.copy(),
            0.2 + 0.8 * right,
            float(right),
            step,
            parts={"format": 1.0, "accuracy": float(right)},
        )
        for right in rng.integers(0, 2, 4)
    ]


def milliseconds(call, times: list[float]) -> None:
    start = time.perf_counter()
    call()
    times.append(1e3 * (time.perf_counter() - start))


def main() -> None:
    rng, buffer = np.random.default_rng(0), ReplayBuffer()
    tracemalloc.start()
    for i in range(4_000):  # more than fits, so that every tier is full
        buffer.add(f"q{i}", group(rng, i))
        if i % 100 == 99:
            buffer.refresh()
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    add, draw, refresh = [], [], []
    for i in range(300):
        new = group(rng, 4_000 + i)
        milliseconds(lambda new=new, i=i: buffer.add(f"q{4_000 + i}", new), add)
        milliseconds(lambda: buffer.draw(4), draw)
        if i % 8 == 7:  # once per step of 8 prompts
            milliseconds(buffer.refresh, refresh)
    print(
        f"{len(buffer):,} entries of 512 tokens of {len(buffer.stored):,} prompts ({len(buffer.prompts):,} seen): {megabytes:.0f} MB"
    )
    for name, times in (
        ("insert a group of 4", add),
        ("draw a group of 4", draw),
        ("tiers and eviction, once per step of 8 groups", refresh),
    ):
        print(
            f"{name}: median {np.median(times):.3f} ms, worst {max(times):.3f} ms of {len(times)}"
        )


if __name__ == "__main__":
    main()
