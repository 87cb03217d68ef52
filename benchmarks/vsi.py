"""benchmarks/vsi.py: read, asked and scored."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.answers import number_in
from benchmarks.base import Item, by_type, item
from benchmarks.files import clip, first_file, lettered, rows
from benchmarks.scoring import mean_relative_accuracy

VSI_CHOICE = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)


def read_vsi(root: Path, scratch: Path) -> Iterator[Item]:
    """One file; or the two halves test_debiased.parquet and test_pruned.parquet, which make up the whole."""
    whole = first_file(root, "test.jsonl", "test-*.parquet", "test_*.parquet")
    for row in [
        row
        for path in (sorted(root.glob("test_*.parquet")) if "test_" in whole.name else [whole])
        for row in rows(path)
    ]:
        kind, stem = (
            row["question_type"],
            f"{row['dataset']}/{row['scene_name'].removesuffix('.mp4')}",
        )
        chosen = kind in VSI_CHOICE
        yield item(
            f"vsi-{row['id']}",
            row["question"],
            str(row["ground_truth"]).strip(),
            lettered(row["options"]) if chosen else [],
            "multiple choice" if chosen else "numeric",
            videos=[clip(root, stem, ".", "video", "videos")],
            video=stem,
            labels={
                "task": re.sub("_(easy|medium|hard)$", "", kind),
                "question_type": kind,
                "dataset": row["dataset"],
            },
        )


def vsi_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    if one.sample.problem_type == "multiple choice":
        return by_type(one, answer, several)
    said = number_in(answer or "")
    return {
        "score": 0.0 if said is None else mean_relative_accuracy(said, float(one.sample.answer))
    }


FRAMES = "These are frames of a video.\n{question}\n"
