"""benchmarks/avodyssey.py: AV-Odyssey, sounds, pictures and videos at tags inside the text."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import RELEASED, Benchmark, Item, new_item
from benchmarks.files import gold_text, lettered, locate, rows_of, unpacked

# tag: kind of medium and suffix of its file
TAGS = {"img": ("image", "png"), "audio": ("audio", "wav"), "video": ("video", "mp4")}


def read_avodyssey(root: Path, scratch: Path) -> Iterator[Item]:
    """The authors' parquet files hold media as bytes; their JSON names paths."""
    names = ("av_odyssey*.parquet", "data/av_odyssey*.parquet", "av_odyssey*.json*")
    for row in rows_of(root, *names, "data/*.parquet", "*.parquet", "*.json*"):
        yield avodyssey_item(root, scratch, row)


def avodyssey_item(root: Path, scratch: Path, row: dict) -> Item:
    """Media stand at their tags [img1], [audio1], [video1], in the question and in the options."""
    files = {tag: media_of(root, scratch, row, tag) for tag in TAGS}
    if "image" in row["data_type"]:
        files["video"] = []  # the clip that the pictures were taken from

    # tags in reading order: (tag, number from 1); a tag without a file makes the item unusable
    texts = [row["question"], *lettered(row["options"])]
    tags = re.findall(r"\[(img|audio|video)(\d+)\]", "\n".join(texts))
    missing = [(tag, n) for tag, n in tags if not 1 <= int(n) <= len(files[tag])]
    order = [entry for entry in tags if entry not in missing]

    # files come in the order of their tags; those without a tag come first
    media = {}
    for tag, (kind, _) in TAGS.items():
        tagged = [int(n) - 1 for other, n in order if other == tag]
        untagged = [i for i in range(len(files[tag])) if i not in tagged]
        media[f"{kind}s"] = [files[tag][i] for i in untagged + tagged]
        texts = [re.sub(rf"\[{tag}\d+\]", f"<{kind}>", text) for text in texts]

    name = f"avodyssey-{row['question_id']}"
    labels = {"subfield": row["subfield"], "question_type_id": str(row["question_type_id"])}
    item = new_item(
        name, texts[0], gold_text(row["answer"]), texts[1:], video=name, labels=labels, **media
    )
    if missing:
        item.broken = f"it has no file for {', '.join(f'[{tag}{n}]' for tag, n in missing)}"
    return item


def media_of(root: Path, scratch: Path, row: dict, tag: str) -> list[str]:
    """The files of one kind: bytes in the columns image_1 to image_4, or the paths of a list."""
    kind, suffix = TAGS[tag]
    columns = [f"{kind}_{i}" for i in range(1, 5)]
    inside = [row[column] for column in columns if row.get(column)]
    if inside:
        return [unpacked(scratch, f".{suffix}", value) for value in inside]
    paths = row.get(f"{kind}_path") or []
    return [locate(root, path, f"{path.split('/')[0]}/{path}") for path in paths]


BENCHMARK = Benchmark(
    title="AV-Odyssey",
    files=(
        "AV-Odyssey/AV_Odyssey_Bench (parquet), or AV_Odyssey_Bench_LMMs_Eval with av_odyssey.json"
    ),
    read=read_avodyssey,
    splits=("subfield", "question_type_id"),
    size=4_555,
    paper=RELEASED.replace("given video", "given multimodal content"),
)
