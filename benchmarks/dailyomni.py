"""benchmarks/dailyomni.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import first_file, lettered, locate, rows


def read_dailyomni(root: Path, scratch: Path) -> Iterator[Item]:
    for i, row in enumerate(rows(first_file(root, "qa.json"))):
        stem = row["video_id"]
        yield item(
            f"dailyomni-{i}",
            row["Question"],
            row["Answer"].strip()[:1],
            lettered(row["Choice"]),
            video=stem,
            videos=[locate(root, f"Videos/{stem}/{stem}_video.mp4", f"{stem}/{stem}_video.mp4")],
            paper={"list": repr(list(row["Choice"]))},
            labels={
                "Type": row["Type"],
                "video_duration": row["video_duration"],
                "video_category": row.get("video_category") or "none",
            },
        )
