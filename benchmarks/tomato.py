"""benchmarks/tomato.py: read, asked and scored."""

import json
import string
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, lettered, rows


def read_tomato(root: Path, scratch: Path) -> Iterator[Item]:
    """A file per reasoning type, each an object by id; gold is the option's place, from 0. The hub's parquet holds the same in rows."""
    found = []
    for path in sorted(
        [*root.glob("data/*.json"), *root.glob("jsons/*.json"), *root.glob("*.json")]
    ):
        found += [
            (f"{path.stem}-{key}", path.stem, row, f"{row['demonstration_type']}/{row['key']}")
            for key, row in json.loads(path.read_text(encoding="utf-8")).items()
        ]
    if not found:
        found = [
            (
                str(row["id"]),
                row["reason_type"],
                row,
                Path(row["video_path"]).with_suffix("").as_posix(),
            )
            for row in rows(first_file(root, "data/*.parquet", "*.parquet", "data/*.json"))
        ]
    for name, kind, row, stem in found:
        yield item(
            f"tomato-{name}",
            row["question"],
            string.ascii_uppercase[int(row["answer"])],
            lettered(row["options"]),
            video=stem,
            videos=[clip(root, stem, "videos", ".")],
            labels={"reasoning type": kind, "demonstration type": row["demonstration_type"]},
        )
