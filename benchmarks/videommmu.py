"""benchmarks/videommmu.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, by_type, item
from benchmarks.files import clip, first_file, kept, lettered, rows
from benchmarks.scoring import open_match


def read_videommmu(root: Path, scratch: Path) -> Iterator[Item]:
    """Three tracks. An Adaptation question has its picture inside the parquet file; it stands behind the video."""
    domains = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")
    first_file(root, "*/test-*.parquet")
    for track in ("Perception", "Comprehension", "Adaptation"):
        for row in [
            row for path in sorted(root.glob(f"{track}/test-*.parquet")) for row in rows(path)
        ]:
            stem, chosen, picture = (
                row["id"],
                row["question_type"] == "multiple-choice",
                row.get("image"),
            )
            options, question = (
                lettered(row["options"]) if chosen else [],
                row["question"].replace("<image 1>", "<image>" if picture else "the picture"),
            )
            images = (
                [kept(scratch, ".png", picture)] * max(1, question.count("<image>"))
                if picture
                else []
            )
            yield item(
                f"videommmu-{track}-{stem}",
                question,
                row["answer"].strip(),
                options,
                "multiple choice" if chosen else "free-form",
                videos=[clip(root, stem, *domains, *[f"videos/{d}" for d in domains], "videos")],
                images=images,
                video=stem,
                labels={"track": track, "subject": " ".join(stem.split("_")[1:-1])},
                paper={"wording": track if chosen or track != "Adaptation" else "open"},
            )


def mmmu_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    if one.sample.problem_type == "multiple choice":
        return by_type(one, answer, several)
    return {"score": open_match(answer or "", one.sample.answer)}


APPLY = (
    "You should watch and learn the video content. Then apply what you learned to answer the following {kind} question. The image for this question is "
    "at the end of the video.\n"
)
