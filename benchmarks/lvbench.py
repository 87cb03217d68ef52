"""benchmarks/lvbench.py: read, asked and scored."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, lettered, rows


def read_lvbench(root: Path, scratch: Path) -> Iterator[Item]:
    """Options stand inside the question, as lines "(A) ..". A question may be of several types."""
    path = first_file(root, "video_info.meta.jsonl", "data/*.parquet", "*.parquet")
    found = []
    for row in rows(path):
        found += [row | qa for qa in row["qa"]] if "qa" in row else [row]
    for row in found:
        stem = row.get("key") or Path(row.get("video_path") or row["video"]).stem
        head, *choices = re.split(r"\n\s*(?=\([A-Z]\))", row["question"].strip())
        yield item(
            f"lvbench-{row['uid']}",
            head,
            row["answer"].strip(),
            lettered(choices),
            video=stem,
            videos=[clip(root, stem, "all_videos", "videos", ".")],
            labels={"question_type": list(row["question_type"]), "type": row.get("type") or "none"},
            paper={"options": "\n".join(choices)},
        )
