"""benchmarks/videommmu.py: Video-MMMU, what a model learns from a lecture."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, Metric, new_item, score_by_type
from benchmarks.files import clip, first_file, gold_text, lettered, rows_of, unpacked
from benchmarks.scoring import open_match

TRACKS = ("Perception", "Comprehension", "Adaptation")
DOMAINS = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")

# The authors' wordings.
RECALL = "{question}\n{options}\nPlease ignore the Quiz question in last frame of the video."
APPLY = (
    "You should watch and learn the video content. Then apply what you learned to answer the "
    "following {kind} question. The image for this question is at the end of the video.\n"
)


def read_videommmu(root: Path, scratch: Path) -> Iterator[Item]:
    """A folder of parquet files per track, a folder of videos per domain."""
    first_file(root, "*/test-*.parquet")
    for track in TRACKS:
        pattern = f"{track}/test-*.parquet"
        if not any(root.glob(pattern)):
            continue
        for row in rows_of(root, pattern):
            yield videommmu_item(root, scratch, track, row)


def videommmu_item(root: Path, scratch: Path, track: str, row: dict) -> Item:
    """An Adaptation question has its picture inside the parquet file; it comes after the video."""
    stem = row["id"]
    is_choice = row["question_type"] == "multiple-choice"
    picture = row.get("image")
    question = row["question"].replace("<image 1>", "<image>" if picture else "the picture")

    # one picture, shown as often as the question names it
    images = []
    if picture:
        images = [unpacked(scratch, ".png", picture)] * max(1, question.count("<image>"))

    answer = gold_text(row["answer"])
    folders = [*DOMAINS, *[f"videos/{domain}" for domain in DOMAINS], "videos"]
    item = new_item(
        f"videommmu-{track}-{stem}",
        question,
        answer,
        lettered(row["options"]) if is_choice else [],
        "multiple choice" if is_choice else "free-form",
        video=stem,
        videos=[clip(root, stem, *folders)],
        images=images,
        prompt_fields={"wording": "open" if track == "Adaptation" and not is_choice else track},
        labels={"track": track, "subject": " ".join(stem.split("_")[1:-1])},
    )
    if not is_choice and is_broken_list(answer):
        item.broken = item.broken or f"its answer {answer!r} is a list that was cut"
    return item


def is_broken_list(answer: str) -> bool:
    """Has a gold answer one end of a list only? No reply is like that.

    >>> is_broken_list("['3.43', '3.4"), is_broken_list("3.43]"), is_broken_list("[0, 1)")
    (True, True, False)
    """
    opens = answer.startswith("[")
    closes = answer.endswith("]")
    return (opens and not answer.endswith(("]", ")"))) or (closes and answer[0] not in "[(")


def videommmu_score(item: Item, answer: str | None) -> dict[str, float | None]:
    """The letter, or MMMU's rule for open answers."""
    if item.sample.problem_type == "multiple choice":
        return score_by_type(item, answer)
    return {"score": open_match(answer or "", item.sample.answer)}


BENCHMARK = Benchmark(
    title="Video-MMMU",
    files=(
        "lmms-lab/VideoMMMU: Perception/, Comprehension/, Adaptation/ (parquet), Art/ .. Science/ "
        "(zips)"
    ),
    read=read_videommmu,
    splits=("track", "subject"),
    size=900,
    sound=False,
    rule=(
        "letter; open answers by MMMU's rule (number to two decimals, or gold text inside); mean "
        "over the 3 tracks"
    ),
    score=videommmu_score,
    metrics=(Metric("mean over tracks", over=("track",)), Metric("accuracy")),
    paper={
        "Perception": RECALL,
        "Comprehension": RECALL,
        "Adaptation": APPLY.replace("{kind}", "multi-choice") + "{question}\n{options}",
        "open": APPLY.replace("{kind}", "open-ended") + "{question}",
    },
    tokens=1024,
)
