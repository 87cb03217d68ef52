"""benchmarks/videoholmes.py: Video-Holmes, reasoning about short suspense films."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import clip, first_file, gold_text, lettered, rows


def read_videoholmes(root: Path, scratch: Path) -> Iterator[Item]:
    """One JSON list; options are {letter: text}."""
    path = first_file(root, "test_Video-Holmes.json", "Benchmark/test_Video-Holmes.json")
    folders = ("videos_cropped", "videos", "videos/videos_cropped", "video")
    for row in rows(path):
        stem = row["video ID"]
        yield new_item(
            f"videoholmes-{stem}-{row['Question ID']}",
            row["Question"],
            gold_text(row["Answer"]),
            lettered(row["Options"]),
            video=stem,
            videos=[clip(path.parent, stem, *folders)],
            labels={"Question Type": row["Question Type"]},
        )


BENCHMARK = Benchmark(
    title="Video-Holmes",
    files="TencentARC/Video-Holmes: test_Video-Holmes.json, videos_cropped/ (videos.zip)",
    read=read_videoholmes,
    splits=("Question Type",),
    size=1_837,
)
