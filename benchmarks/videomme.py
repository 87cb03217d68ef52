"""benchmarks/videomme.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, lettered, rows


def read_videomme(root: Path, scratch: Path) -> Iterator[Item]:
    for row in rows(
        first_file(root, "videomme/test-*.parquet", "test-*.parquet", "videomme.json", "*.jsonl")
    ):
        yield item(
            f"videomme-{row['question_id']}",
            row["question"],
            row["answer"].strip(),
            lettered(row["options"]),
            video=row["videoID"],
            videos=[clip(root, row["videoID"], "data", "video", "videos", ".")],
            labels={
                "duration": row["duration"],
                "domain": row["domain"],
                "task_type": row["task_type"],
            },
        )
