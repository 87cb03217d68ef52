"""benchmarks/videoholmes.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, rows


def read_videoholmes(root: Path, scratch: Path) -> Iterator[Item]:
    path = first_file(root, "test_Video-Holmes.json", "Benchmark/test_Video-Holmes.json")
    for row in rows(path):
        stem = row["video ID"]
        yield item(
            f"videoholmes-{stem}-{row['Question ID']}",
            row["Question"],
            row["Answer"].strip(),
            [f"{k}. {v}" for k, v in row["Options"].items()],
            videos=[
                clip(
                    path.parent, stem, "videos_cropped", "videos", "videos/videos_cropped", "video"
                )
            ],
            video=stem,
            labels={"Question Type": row["Question Type"]},
        )
