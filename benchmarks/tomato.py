"""benchmarks/tomato.py: TOMATO, questions about motion that no single frame answers."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import clip, letter_at, lettered, noted, parsed, rows_of


def read_tomato(root: Path, scratch: Path) -> Iterator[Item]:
    """The authors' JSON files, or the hub's parquet. Gold is the option's place, from 0."""
    patterns = ("data/*.json", "jsons/*.json", "*.json")
    paths: list[Path] = []
    for pattern in patterns:
        paths += root.glob(pattern)
    paths.sort()
    questions = json_questions(paths) if paths else parquet_questions(root)
    for name, reasoning, stem, row in questions:
        yield new_item(
            f"tomato-{name}",
            row["question"],
            letter_at(row["answer"], row["options"]),
            lettered(row["options"]),
            video=stem,
            videos=[clip(root, stem, "videos", ".")],
            labels={"reasoning type": reasoning, "demonstration type": row["demonstration_type"]},
        )


def json_questions(paths: list[Path]) -> Iterator[tuple[str, str, str, dict]]:
    """(name, reasoning type, video, row) of a file per reasoning type, {id: row}."""
    for path in paths:
        content = parsed(path)
        for key, row in zip(content, noted(path, content.values()), strict=True):
            yield f"{path.stem}-{key}", path.stem, f"{row['demonstration_type']}/{row['key']}", row


def parquet_questions(root: Path) -> Iterator[tuple[str, str, str, dict]]:
    """(name, reasoning type, video, row) of a row per question."""
    for row in rows_of(root, "data/*.parquet", "*.parquet"):
        stem = Path(row["video_path"]).with_suffix("").as_posix()
        yield str(row["id"]), row["reason_type"], stem, row


BENCHMARK = Benchmark(
    title="TOMATO",
    files="yale-nlp/TOMATO: data/*.json, videos/; or lmms-lab/TOMATO (parquet)",
    read=read_tomato,
    splits=("reasoning type", "demonstration type"),
    size=1_484,
    sound=False,
    rule="letter; gold is the option's place",
)
