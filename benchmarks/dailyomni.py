"""benchmarks/dailyomni.py: Daily-Omni, questions about videos of daily life and their sound."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import QWEN, Benchmark, Item, new_item
from benchmarks.files import first_file, lettered, locate, named_letter, rows


def read_dailyomni(root: Path, scratch: Path) -> Iterator[Item]:
    """One JSON list; a folder per video."""
    for i, row in enumerate(rows(first_file(root, "qa.json"))):
        stem = row["video_id"]
        options = lettered(row["Choice"])
        # a list is printed as the file has it
        choices = row["Choice"] if isinstance(row["Choice"], list) else options
        yield new_item(
            f"dailyomni-{i}",
            row["Question"],
            named_letter(row["Answer"], options),
            options,
            video=stem,
            videos=[locate(root, f"Videos/{stem}/{stem}_video.mp4", f"{stem}/{stem}_video.mp4")],
            prompt_fields={"list": repr(choices)},
            labels={
                "Type": row["Type"],
                "video_duration": row["video_duration"],
                "video_category": row.get("video_category") or "none",
            },
        )


BENCHMARK = Benchmark(
    title="Daily-Omni",
    files="liarliar/Daily-Omni: qa.json, Videos/ (Videos.tar)",
    read=read_dailyomni,
    splits=("Type", "video_duration", "video_category"),
    size=1_197,
    paper=(
        "\nYour task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\nQuestion: {question}\n"
        "Choices: {list}\nYour answer should be a capital letter representing your choice: A, B, "
        "C, or D. Don't generate any other text.\n"
    ),
    system=QWEN,
    tokens=4096,
)
