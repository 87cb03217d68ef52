"""benchmarks/avodyssey.py: read, asked and scored."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import first_file, kept, lettered, locate, rows


def read_avodyssey(root: Path, scratch: Path) -> Iterator[Item]:
    """Media stand at their tags [img1], [audio1], [video1], in the question and in the options; they are paths, or bytes inside parquet files."""
    kinds = {
        "img": ("image", "images", "png"),
        "audio": ("audio", "audios", "wav"),
        "video": ("video", "videos", "mp4"),
    }
    for path in sorted(root.glob("av_odyssey*.parquet")) or [
        first_file(root, "av_odyssey*.json*", "data/*.parquet", "*.parquet", "*.json*")
    ]:
        for row in rows(path):
            name, lists = f"avodyssey-{row['question_id']}", {}
            for tag, (kind, _, suffix) in kinds.items():
                if inside := [row[f"{kind}_{i}"] for i in range(1, 5) if row.get(f"{kind}_{i}")]:
                    lists[tag] = [kept(scratch, f".{suffix}", value) for value in inside]
                else:
                    lists[tag] = [
                        locate(root, p, f"{p.split('/')[0]}/{p}")
                        for p in row.get(f"{kind}_path") or []
                    ]
            if "image" in row["data_type"]:
                lists["video"] = []  # the clip that the pictures were taken from
            texts = [row["question"], *lettered(row["options"])]
            order = re.findall(r"\[(img|audio|video)(\d+)\]", "\n".join(texts))
            lost = [f"[{tag}{n}]" for tag, n in order if not 1 <= int(n) <= len(lists[tag])]
            order, media = [(tag, n) for tag, n in order if f"[{tag}{n}]" not in lost], {}
            for tag, (kind, field_name, _) in kinds.items():
                named = [int(n) - 1 for t, n in order if t == tag]
                media[field_name] = [
                    lists[tag][i] for i in range(len(lists[tag])) if i not in named
                ] + [lists[tag][i] for i in named]
                texts = [re.sub(rf"\[{tag}\d+\]", f"<{kind}>", text) for text in texts]
            one = item(
                name,
                texts[0],
                row["answer"].strip(),
                texts[1:],
                **media,
                video=name,
                labels={
                    "subfield": row["subfield"],
                    "question_type_id": str(row["question_type_id"]),
                },
            )
            one.broken = f"it has no file for {', '.join(lost)}" if lost else one.broken
            yield one
