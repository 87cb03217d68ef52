"""benchmarks/toy_world.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

import toy
from benchmarks.base import Item
from formats.load import load_samples
from rewards import accuracy_reward


def read_toy(root: Path, scratch: Path) -> Iterator[Item]:
    """The held-out questions of the embedded world's stage 2, rendered into root."""
    for sample in load_samples(toy.build(root, 2, "heldout", 160), stage=2):
        yield Item(sample, {"kind": sample.kind}, sample.videos[0])


def toy_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    """Right by the training's accuracy reward."""
    return {
        "score": float(
            accuracy_reward(
                answer or None, one.sample.answer, one.sample.problem_type, one.sample.options
            )
            >= 1 - 1e-6
        )
    }
