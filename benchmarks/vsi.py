"""benchmarks/vsi.py: VSI-Bench, sizes, distances, directions and counts in videos of rooms."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, Metric, new_item, score_by_type
from benchmarks.files import clip, gold_text, lettered, rows_of
from benchmarks.scoring import mean_relative_accuracy
from reading.numbers import number

# Question types with options; all others ask for a number.
CHOICE = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)

FRAMES = "These are frames of a video.\n{question}\n"


def read_vsi(root: Path, scratch: Path) -> Iterator[Item]:
    """One file; or the two parts test_debiased.parquet and test_pruned.parquet of the whole."""
    parts = ("test-*.parquet", "test_*.parquet", "data/test-*.parquet", "data/test_*.parquet")
    for row in rows_of(root, "test.jsonl", *parts):
        yield vsi_item(root, row)


def vsi_item(root: Path, row: dict) -> Item:
    stem = f"{row['dataset']}/{row['scene_name'].removesuffix('.mp4')}"
    kind = row["question_type"]
    return new_item(
        f"vsi-{row['id']}",
        row["question"],
        gold_text(row["ground_truth"]),
        lettered(row["options"]) if kind in CHOICE else [],
        "multiple choice" if kind in CHOICE else "numeric",
        video=stem,
        videos=[clip(root, stem, ".", "video", "videos")],
        labels={
            "task": re.sub("_(easy|medium|hard)$", "", kind),
            "question_type": kind,
            "dataset": row["dataset"],
        },
    )


def vsi_score(item: Item, answer: str | None) -> dict[str, float | None]:
    """The letter, or the mean relative accuracy of the number."""
    if item.sample.problem_type == "multiple choice":
        return score_by_type(item, answer)
    predicted = number(answer or "")
    if predicted is None:
        return {"score": 0.0}
    gold = number(item.sample.answer)  # there is one: an item without it is left out
    return {"score": mean_relative_accuracy(predicted, gold)}


BENCHMARK = Benchmark(
    title="VSI-Bench",
    files="nyu-visionx/VSI-Bench: test.jsonl (or parquet), arkitscenes/, scannet/, scannetpp/",
    read=read_vsi,
    splits=("task", "question_type", "dataset"),
    size=5_130,
    sound=False,
    rule=(
        "letter, or mean relative accuracy of a number; mean over 8 tasks, the three levels of "
        "relative direction being one"
    ),
    several="first",
    score=vsi_score,
    metrics=(Metric("mean over tasks", over=("task", "question_type")),),
    paper={
        "multiple choice": (
            FRAMES + "Options:\n{options}\n"
            "Answer with the option's letter from the given choices directly."
        ),
        "numeric": FRAMES + "Please answer the question using a single word or phrase.",
    },
    tokens=16,
)
