"""benchmarks/worldsense.py: WorldSense, videos of eight domains with their sound."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import clip, files_of, gold_text, lettered, parsed, rows


def read_worldsense(root: Path, scratch: Path) -> Iterator[Item]:
    """The authors' JSON, or the hub's parquet files."""
    paths = files_of(root, "worldsense_qa.json", "data/*.parquet", "*.parquet")
    is_json = paths[0].suffix == ".json"
    questions = json_questions(paths[0]) if is_json else parquet_questions(paths)
    for name, stem, row in questions:
        yield new_item(
            f"worldsense-{name}",
            row["question"],
            gold_text(row["answer"]),
            lettered(row["candidates"]),
            video=stem,
            videos=[clip(root, stem, "videos", ".")],
            labels={
                "task_domain": row["task_domain"],
                "task_type": row["task_type"],
                "domain": row["domain"],
                "duration": row.get("duration") or "none",
                "audio_class": row.get("audio_class") or "none",
            },
        )


def json_questions(path: Path) -> Iterator[tuple[str, str, dict]]:
    """(name, video, row) of {video: {"domain": .., "task0": {question}, "task1": {question}}}."""
    for stem, about in parsed(path).items():
        shared = {key: value for key, value in about.items() if not key.startswith("task")}
        for key in about:
            if re.fullmatch(r"task\d+", key):
                yield f"{stem}_{key}", stem, shared | about[key]


def parquet_questions(paths: list[Path]) -> Iterator[tuple[str, str, dict]]:
    """(name, video, row) of a row per question."""
    for path in paths:
        for row in rows(path):
            yield str(row["index"]), Path(row["video_path"]).stem, row


BENCHMARK = Benchmark(
    title="WorldSense",
    files="honglyhly/WorldSense: worldsense_qa.json, videos/",
    read=read_worldsense,
    splits=("task_domain", "task_type", "domain", "duration", "audio_class"),
    size=3_172,
    several="first",
)
