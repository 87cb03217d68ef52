"""benchmarks/omnibench.py: read, asked and scored."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import first_file, kept, letter_for, lettered, locate, rows


def read_omnibench(root: Path, scratch: Path) -> Iterator[Item]:
    """Gold is the option's text. A picture and a sound per question, which the hub's parquet files hold inside."""
    path = first_file(
        root,
        "dataset/batch-5_1142_20240817.jsonl",
        "batch-5_1142_20240817.jsonl",
        "*.jsonl",
        "data/*.parquet",
    )
    for row in itertools.chain.from_iterable(
        map(rows, sorted(path.parent.glob("*.parquet")) if path.suffix == ".parquet" else [path])
    ):
        name = f"omnibench-{row['index']}"
        inside = {
            kind: [kept(scratch, Path(row[f"{kind}_path"]).suffix, row[kind])]
            for kind in ("image", "audio")
            if row.get(kind)
        }
        yield item(
            name,
            row["question"],
            letter_for(row["answer"], row["options"]),
            lettered(row["options"]),
            images=inside.get("image")
            or [locate(root, f"mm_data/image/{row['image_path']}", f"image/{row['image_path']}")],
            audios=inside.get("audio")
            or [locate(root, f"mm_data/audio/{row['audio_path']}", f"audio/{row['audio_path']}")],
            video=Path(row["image_path"]).name,
            labels={
                "task type": row["task type"].strip(),
                "audio type": row["audio type"].strip().lower(),
            },
        )
