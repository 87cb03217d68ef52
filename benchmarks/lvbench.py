"""benchmarks/lvbench.py: LVBench, questions about videos of an hour and more."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import clip, gold_text, lettered, rows_of


def read_lvbench(root: Path, scratch: Path) -> Iterator[Item]:
    """The authors' file has a list of questions per video, the hub's a row per question.

    The options are inside the question, as lines "(A) ..". A question may be of several types.
    """
    questions = []
    for row in rows_of(root, "video_info.meta.jsonl", "data/*.parquet", "*.parquet"):
        questions += [row | question for question in row["qa"]] if "qa" in row else [row]

    for row in questions:
        stem = row.get("key") or Path(row.get("video_path") or row["video"]).stem
        question, *choices = re.split(r"\n\s*(?=\([A-Z]\))", row["question"].strip())
        yield new_item(
            f"lvbench-{row['uid']}",
            question,
            gold_text(row["answer"]),
            lettered(choices),
            video=stem,
            videos=[clip(root, stem, "all_videos", "videos", ".")],
            prompt_fields={"options": "\n".join(choices)},
            labels={"question_type": list(row["question_type"]), "type": row.get("type") or "none"},
        )


BENCHMARK = Benchmark(
    title="LVBench",
    files="THUDM/LVBench: video_info.meta.jsonl, all_videos/; or lmms-lab/LVBench (parquet)",
    read=read_lvbench,
    splits=("question_type", "type"),
    size=1_549,
    sound=False,
    rule="letter; a question counts in each of its types",
    several="first",
)
