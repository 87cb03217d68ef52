"""benchmarks/omnibench.py: OmniBench, questions about a picture and a sound."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import QWEN, Benchmark, Item, new_item
from benchmarks.files import letter_for, lettered, locate, rows_of, unpacked


def read_omnibench(root: Path, scratch: Path) -> Iterator[Item]:
    """The authors' own jsonl with folders of media, or the hub's parquet files that hold them."""
    batch = "batch-5_1142_20240817.jsonl"
    for row in rows_of(root, f"dataset/{batch}", batch, "*.jsonl", "data/*.parquet", "*.parquet"):
        yield new_item(
            f"omnibench-{row['index']}",
            row["question"],
            letter_for(row["answer"], row["options"]),
            lettered(row["options"]),
            images=[medium(row, "image", root, scratch)],
            audios=[medium(row, "audio", root, scratch)],
            video=Path(row["image_path"]).name,
            labels={
                "task type": row["task type"].strip(),
                "audio type": row["audio type"].strip().lower(),
            },
        )


def medium(row: dict, kind: str, root: Path, scratch: Path) -> str:
    """The file of a row's "image" or "audio"."""
    name = row[f"{kind}_path"]
    if row.get(kind):
        return unpacked(scratch, Path(name).suffix, row[kind])
    return locate(root, f"mm_data/{kind}/{name}", f"{kind}/{name}")


BENCHMARK = Benchmark(
    title="OmniBench",
    files="m-a-p/OmniBench: dataset/batch-5_1142_20240817.jsonl, mm_data/",
    read=read_omnibench,
    splits=("task type", "audio type"),
    size=1_142,
    rule="letter; gold is the option whose text is the answer",
    paper=(
        "Your task is to answer the multiple-choice question based on the provided image and "
        "audio. Select the single most accurate option.\n\nQuestion: {question}\nChoices:\n"
        "{options}\n\nYour answer should be a capital letter representing your choice: A, B, C, or "
        "D. Don't generate any other text. Return your choice between the <answer> tags, like "
        "this: <answer>A</answer>.\n"
    ),
    system=QWEN,
    tokens=1024,
)
