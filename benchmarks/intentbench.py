"""benchmarks/intentbench.py: read, asked and scored."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import first_file, lettered, locate, rows
from formats.sample import DataError


def read_intentbench(root: Path, scratch: Path) -> Iterator[Item]:
    """Gold is the <answer> of `solution`, which the authors score, or else `answer`."""
    types = {"multiple choice": "multiple choice", "emer_ov_mc": "multi-label", "judge": "yes/no"}
    for i, row in enumerate(rows(first_file(root, "qa.json", "IntentBench/qa.json"))):
        kind, name = row["problem_type"], row.get("qid") or row.get("Question id") or ""
        if kind not in types:
            raise DataError(
                f"{root}: item {i} of qa.json has the problem_type {kind!r}; known are {', '.join(types)}"
            )
        gold = re.search(r"<answer>\s*(.*?)\s*</answer>", row.get("solution") or "", re.DOTALL)
        options = (
            ast.literal_eval(row["options"])
            if isinstance(row.get("options"), str) and row["options"]
            else row.get("options") or []
        )
        said = re.search(r'"(.*?)"', row["problem"])
        video = row.get("video") or row.get("path")
        yield item(
            f"intentbench-{i}-{name}",
            row["problem"],
            gold[1] if gold else row["answer"].strip(),
            lettered(options),
            types[kind],
            videos=[
                locate(
                    root,
                    f"videos/{video}",
                    video,
                    f"IntentBench/videos/{video}",
                    f"IntentBench/{video}",
                )
            ],
            video=video,
            paper={"said": said[1] if said else "the question"},
            labels={"Type": row.get("Type") or "none", "problem_type": kind},
        )
