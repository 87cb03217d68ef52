"""benchmarks/worldsense.py: read, asked and scored."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, lettered, parsed, rows


def read_worldsense(root: Path, scratch: Path) -> Iterator[Item]:
    path = first_file(root, "worldsense_qa.json", "data/*.parquet", "*.parquet")
    found = []
    if path.suffix == ".json":
        for stem, about in parsed(path).items():
            shared = {k: v for k, v in about.items() if not k.startswith("task")}
            found += [
                (f"{stem}_{task}", stem, shared | about[task])
                for task in about
                if re.fullmatch(r"task\d+", task)
            ]
    else:
        found = [(str(row["index"]), Path(row["video_path"]).stem, row) for row in rows(path)]
    for name, stem, row in found:
        yield item(
            f"worldsense-{name}",
            row["question"],
            row["answer"].strip(),
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
