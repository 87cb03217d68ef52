"""benchmarks/toy_world.py: the held-out questions of the embedded world, rendered where needed."""

from collections.abc import Iterator
from pathlib import Path

import toy
from benchmarks.base import Benchmark, Item
from formats.load import load_samples
from rewards import accuracy_reward


def read_toy(root: Path, scratch: Path) -> Iterator[Item]:
    """The held-out questions of stage 2, rendered into root."""
    for sample in load_samples(toy.build(root, 2, "heldout", 160), stage=2):
        yield Item(sample, labels={"kind": sample.kind}, video=sample.videos[0])


def toy_score(item: Item, answer: str | None) -> dict[str, float | None]:
    """Right where the training's accuracy reward is 1."""
    sample = item.sample
    accuracy = accuracy_reward(answer or None, sample.answer, sample.problem_type, sample.options)
    return {"score": float(accuracy >= 1 - 1e-6)}


BENCHMARK = Benchmark(
    title="Toy world",
    files="rendered here",
    read=read_toy,
    splits=("kind",),
    size=320,
    rule="the training's accuracy reward is 1",
    score=toy_score,
    paper="{question}\n{options}",
    tokens=112,
)
