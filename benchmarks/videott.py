"""benchmarks/videott.py: read, asked and scored."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import clip, first_file, lettered, rows


def read_videott(root: Path, scratch: Path) -> Iterator[Item]:
    """Multiple choice (the split `test`), and where their files are there open-ended questions in four wordings. Options stand inside the question."""
    seen: set[str] = set()
    first_file(root, "data/*.parquet", "*.parquet")
    for row in [
        row
        for path in sorted([*root.glob("data/*.parquet"), *root.glob("*.parquet")])
        for row in rows(path)
    ]:
        name = str(row.get("qid") or f"{row['video_id']}-{row['question']}")
        if name in seen:  # `test_all` repeats the other splits
            continue
        seen.add(name)
        chosen = row["question_type"].startswith("Multiple-choice")
        head, *choices = (
            re.split(r"\n\s*(?=\(?[A-Z][.)])", row["question"].strip())
            if chosen
            else [row["question"].strip()]
        )
        yield item(
            f"videott-{name}",
            head,
            row["answer"].strip()[:1] if chosen else row["answer"].strip(),
            lettered(choices),
            "multiple choice" if chosen else "free-form",
            video=row["video_id"],
            paper={"prompt": row.get("question_prompt") or ""},
            videos=[
                clip(
                    root,
                    row["video_id"],
                    "Benchmark-AllVideos-LQ",
                    "Benchmark-AllVideos-HQ-encoded",
                    "video",
                    "videos",
                    ".",
                )
            ],
            labels={"question_type": row["question_type"], "capability": row["capability"]},
        )


def videott_question(one: Item, answer: str) -> str:
    """The authors' instruction to their judge, with the item."""
    return (
        "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer pairs. Your task is to "
        "compare the predicted answer with the correct answer and determine if they match meaningfully. Here's how you can accomplish the "
        "task:------##INSTRUCTIONS: - Focus on the meaningful match between the predicted answer and the correct answer.\n- Consider synonyms or "
        "paraphrases as valid matches.\n- Evaluate the correctness of the prediction compared to the answer.Please evaluate the following video-based "
        "question-answer pair:\n\n"
        f"Question: {one.sample.question}\nCorrect Answer: {one.sample.answer}\nPredicted Answer: {answer}\n\n"
        "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 indicating the highest meaningful "
        "match. Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where value of 'pred' is  a string "
        "of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python "
        "dictionary string. For example, your response should look like this: {'pred': 'yes', 'score': 4.8}."
    )


def videott_verdict(reply: str) -> float | None:
    """1 for a score of 3 or more of 5; None when the reply holds none."""
    found = re.search(r"['\"]score['\"]\s*:\s*['\"]?([0-5](?:\.\d+)?)\b", reply)
    return float(float(found[1]) >= 3) if found else None
