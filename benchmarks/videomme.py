"""benchmarks/videomme.py: Video-MME, videos from 11 seconds to an hour."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import clip, gold_text, lettered, rows_of


def read_videomme(root: Path, scratch: Path) -> Iterator[Item]:
    """The hub's parquet file, or the same rows as JSON."""
    parts = ("videomme/test-*.parquet", "test-*.parquet", "data/test-*.parquet")
    for row in rows_of(root, *parts, "videomme.json", "*.jsonl"):
        stem = row["videoID"]
        yield new_item(
            f"videomme-{row['question_id']}",
            row["question"],
            gold_text(row["answer"]),
            lettered(row["options"]),
            video=stem,
            videos=[clip(root, stem, "data", "video", "videos", ".")],
            labels={
                "duration": row["duration"],
                "domain": row["domain"],
                "task_type": row["task_type"],
            },
        )


BENCHMARK = Benchmark(
    title="Video-MME",
    files="lmms-lab/Video-MME: videomme/test-00000-of-00001.parquet, data/ (videos_chunked_*.zip)",
    read=read_videomme,
    splits=("duration", "domain", "task_type"),
    size=2_700,
    rule="letter; without subtitles",
    several="first",
    paper=(
        "Your task is to accurately answer the multiple-choice question based on the given video. "
        "Select the single most accurate answer from the provided choices.\nQuestion: {question}\n"
        "{options}\nYour answer should be a capital letter representing your choice. Do not "
        "generate any other text."
    ),
    tokens=64,
)
