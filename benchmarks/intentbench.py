"""benchmarks/intentbench.py: IntentBench, what people in videos feel, mean and hide."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, new_item
from benchmarks.files import first_file, gold_text, lettered, locate, rows
from formats.sample import DataError

# The authors' problem types, and ours.
TYPES = {"multiple choice": "multiple choice", "emer_ov_mc": "multi-label", "judge": "yes/no"}


def read_intentbench(root: Path, scratch: Path) -> Iterator[Item]:
    """One JSON list."""
    for i, row in enumerate(rows(first_file(root, "qa.json", "IntentBench/qa.json"))):
        kind = row["problem_type"]
        if kind not in TYPES:
            raise DataError(
                f"{root}: item {i} of qa.json has the problem_type {kind!r}; known are "
                f"{', '.join(TYPES)}"
            )
        yield intentbench_item(root, i, row)


def intentbench_item(root: Path, i: int, row: dict) -> Item:
    # gold is the <answer> of `solution`, which the authors score, or else `answer`
    solution = re.search(r"<answer>\s*(.*?)\s*</answer>", row.get("solution") or "", re.DOTALL)
    answer = solution[1] if solution else gold_text(row["answer"])

    # a list, or a list as Python prints it
    options = row.get("options") or []
    if isinstance(options, str):
        options = ast.literal_eval(options)

    kind = row["problem_type"]
    video = row.get("video") or row.get("path")
    folders = ("videos/", "", "IntentBench/videos/", "IntentBench/")
    question_to_person = re.search(r'"(.*?)"', row["problem"])
    return new_item(
        f"intentbench-{i}-{row.get('qid') or row.get('Question id') or ''}",
        row["problem"],
        answer,
        lettered(options),
        TYPES[kind],
        video=video,
        videos=[locate(root, *[f"{folder}{video}" for folder in folders])],
        prompt_fields={"said": question_to_person[1] if question_to_person else "the question"},
        labels={"Type": row.get("Type") or "none", "problem_type": kind},
    )


BENCHMARK = Benchmark(
    title="IntentBench",
    files="PhilipC/IntentBench: qa.json, videos/",
    read=read_intentbench,
    splits=("Type", "problem_type"),
    size=2_689,
    rule=(
        "letter; several letters by F1 of the sets; yes or no by the first word, or by the only "
        "one of the two; mean over all items (the authors' metric)"
    ),
    paper={
        "multiple choice": (
            "Your task is to accurately answer the multiple-choice question based on the given "
            "video. Read the question and the options carefully, then select the single most "
            "accurate answer.\n\nQuestion: {question}\nOptions:\n{options}\n\nYour answer must be "
            "a single capital letter representing your choice (e.g., A, B, C, D)."
        ),
        "multi-label": (
            "Based on the video, identify ALL the emotions or concepts that apply from the list "
            "below. More than one option can be correct.\n\nQuestion: {question}\nOptions:\n"
            "{options}\n\nYour answer must be a comma-separated list of all applicable letters "
            "(e.g., A, C, F)."
        ),
        "yes/no": (
            "You are a deception detection expert. Based on the provided video, you must determine "
            "if the person is being truthful or deceptive. The question they were asked is: "
            '"{said}".\nAfter careful observation of their verbal and non-verbal cues, answer with '
            "only 'Yes' if you believe they are lying, or 'No' if you believe they are telling the "
            "truth. Do not provide any explanation or other text. Your answer must be 'Yes' or "
            "'No'."
        ),
    },
    tokens=20,
)
