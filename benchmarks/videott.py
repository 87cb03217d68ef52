"""benchmarks/videott.py: Video-TT, questions about short videos, also misleading ones."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, Metric, OpenJudge, new_item
from benchmarks.files import clip, first_file, gold_text, lettered, named_letter, rows, series_of

FOLDERS = (
    "Benchmark-AllVideos-LQ",
    "Benchmark-AllVideos-HQ-encoded",
    "video",
    "videos",
    ".",
)


def read_videott(root: Path, scratch: Path) -> Iterator[Item]:
    """Multiple choice (the split `test`), and open questions in four wordings where their files
    are there."""
    first_file(root, "data/*.parquet", "*.parquet")
    names: set[str] = set()
    paths = sorted([*root.glob("data/*.parquet"), *root.glob("*.parquet")])
    for path in paths:
        series_of(path, paths)  # DataError where a part of its split is missing
    for path in paths:
        for row in rows(path):
            name = str(row.get("qid") or f"{row['video_id']}-{row['question']}")
            if name not in names:  # `test_all` repeats the other splits
                names.add(name)
                yield videott_item(root, name, row)


def videott_item(root: Path, name: str, row: dict) -> Item:
    """The options are inside the question, as lines "(A) .." or "A. .."."""
    question = row["question"].strip()
    answer = gold_text(row["answer"])
    options: list[str] = []

    # the question ends where the first option begins; gold is a letter, which a text may follow
    is_choice = row["question_type"].startswith("Multiple-choice")
    if is_choice:
        question, *choices = re.split(r"\n\s*(?=\(?[A-Z][.)])", question)
        options = lettered(choices)
        answer = named_letter(answer, options)
    return new_item(
        f"videott-{name}",
        question,
        answer,
        options,
        "multiple choice" if is_choice else "free-form",
        video=row["video_id"],
        videos=[clip(root, row["video_id"], *FOLDERS)],
        prompt_fields={"prompt": row.get("question_prompt") or ""},
        labels={"question_type": row["question_type"], "capability": row["capability"]},
    )


def videott_question(item: Item, answer: str) -> str:
    """The authors' instruction to their judge, with the item."""
    return (
        "You are an intelligent chatbot designed for evaluating the correctness of generative "
        "outputs for question-answer pairs. Your task is to compare the predicted answer with the "
        "correct answer and determine if they match meaningfully. Here's how you can accomplish "
        "the task:------##INSTRUCTIONS: - Focus on the meaningful match between the predicted "
        "answer and the correct answer.\n- Consider synonyms or paraphrases as valid matches.\n- "
        "Evaluate the correctness of the prediction compared to the answer.Please evaluate the "
        "following video-based question-answer pair:\n\n"
        f"Question: {item.sample.question}\nCorrect Answer: {item.sample.answer}\n"
        f"Predicted Answer: {answer}\n\n"
        "Provide your evaluation only as a yes/no and score where the score is an integer value "
        "between 0 and 5, with 5 indicating the highest meaningful match. Please generate the "
        "response in the form of a Python dictionary string with keys 'pred' and 'score', where "
        "value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in INTEGER, not "
        "STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python "
        "dictionary string. For example, your response should look like this: {'pred': 'yes', "
        "'score': 4.8}."
    )


def videott_verdict(reply: str) -> float | None:
    """1 for a score of 3 or more of 5; None when the reply holds none."""
    score = re.search(r"['\"]score['\"]\s*:\s*['\"]?([0-5](?:\.\d+)?)\b", reply)
    return float(float(score[1]) >= 3) if score else None


BENCHMARK = Benchmark(
    title="Video-TT",
    files="lmms-lab/video-tt: data/*.parquet, Benchmark-AllVideos-LQ/",
    read=read_videott,
    splits=("question_type", "capability"),
    sound=False,
    rule=(
        "letter; open answers by --judge with the authors' instruction, right from 3 of 5; mean "
        "over the question types that are there and scored"
    ),
    several="first",
    metrics=(Metric("mean over question types", over=("question_type",)), Metric("accuracy")),
    judge=OpenJudge(videott_question, videott_verdict),
    paper={
        "multiple choice": "\n{question}\n{options}\n{prompt}\n",
        "free-form": "\n{question}\n{prompt}\n",
    },
    tokens=50,
)
