"""benchmarks/cgav.py: read, asked and scored."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks.answers import number_in
from benchmarks.base import Item, Metric, item
from benchmarks.files import first_file, locate, rows
from benchmarks.scoring import cluster_score, said_clusters

CLUE_EVENT = (
    "{opening} provide your answer to the question '{question}', including the start and end timestamps for each event. Format your answer in "
    'JSON, enclosed in <answer> and </answer> tags. The output should look like this: <answer>[["start_time", "end_time"], ...]</answer>. '
    "Ensure each timestamp is in seconds (e.g., xx.xx )."
)

CLUE_OBJECT = (
    "According to the given video frames, answer the question '{question}', including the bounding box for the query object in the first frame "
    "where it appears. For subsequent frames where the object appears, do not provide the bounding box again. Format your answer in JSON, "
    'enclosed within <answer> and </answer> tags. The output should look like this: <answer>{"Frame1": [[xmin, ymin, x_max, y_max]], '
    '"Frame2": []}</answer>.'
)

CLUE_ATTRIBUTE = (
    "According to the given video frames, answer the question '{question}', clustering the objects based on the question. For each unique "
    "cluster, assign a unique label and return the bounding box for each object in the first frame where it appears. Format your answer in "
    'JSON, enclosed within <answer> and </answer> tags. The output should look like this: <answer>{"Frame 1": [{"bbox": [x_min, y_min, '
    'x_max, y_max], \'label\': "Label 1"}], "Frame 2": [...] }</answer>.'
)

SCALE = "Boxes are on a scale of 0 to 100 in both directions."

CLUE_TASKS = {
    "event": 'Give the start and the end in seconds of each event that the question counts, as JSON: [["start", "end"], ...]',
    "object": (
        'Give the box of each object that the question counts, in the first frame where it appears and in no later one, as JSON: {"Frame1": '
        '[[x_min, y_min, x_max, y_max]], "Frame2": []}. ' + SCALE
    ),
    "attribute": (
        "Put the objects into the clusters that the question counts. Give each object's box and its cluster's label in the first frame where it "
        'appears, and in no later one, as JSON: {"Frame1": [{"bbox": [x_min, y_min, x_max, y_max], "label": "Label 1"}], "Frame2": '
        "[]}. " + SCALE
    ),
}


def read_cgav(root: Path, scratch: Path) -> Iterator[Item]:
    """Every question three times: on the whole video (long), on the clip that holds its answer (ref), and with its clues (clue).

    Boxes are asked on a scale of 0 to 100. No document of the authors says in what unit theirs are, so the boxes themselves do: above 100 are pixels of the
    video, up to 1 shares; both are brought to that scale."""
    found = list(rows(first_file(root, "cg-av-counting.json")))
    clues = [
        json.loads(row["clue"]) if isinstance(row["clue"], str) else row["clue"] for row in found
    ]
    truths = [gold_clusters(row["category"], clue) for row, clue in zip(found, clues, strict=True)]
    boxes = [
        box
        for row, (truth, _) in zip(found, truths, strict=True)
        if row["category"] != "event"
        for cluster in truth
        for _, box in cluster
    ]
    largest = max((x for box in boxes for x in box), default=100.0)
    for row, (truth, times) in zip(found, truths, strict=True):
        question, stem, category = (
            row.get("question") or row["question_en"],
            Path(row["video"]).stem,
            row["category"],
        )
        start, end = (float(t) for t in row["query_interval"])
        whole = locate(
            root, f"cg_videos_720p/{row['video']}", f"videos/{row['video']}", row["video"]
        )
        part = locate(
            root,
            f"ref_videos/{stem}_{start:.2f}_{end:.2f}.mp4",
            f"clips/{stem}_{start:.2f}_{end:.2f}.mp4",
        )
        labels = {"category": category, "type": row["type"]}
        gold = f"{float(row['answer']):.15g}"
        for setting, path in (("long", whole), ("ref", part)):
            yield item(
                f"cgav-{row['index']}-{setting}",
                question,
                gold,
                kind="counting",
                videos=[path],
                video=stem,
                labels={"setting": setting} | labels,
                paper={"wording": "count"},
            )
        if times and not 1 < largest <= 100:
            w, h = (1.0, 1.0) if largest <= 1 else frame_size(whole)
            truth = [
                [
                    (
                        frame,
                        tuple(100 * x / side for x, side in zip(box, (w, h, w, h), strict=True)),
                    )
                    for frame, box in cluster
                ]
                for cluster in truth
            ]
        frames = "".join(
            f"Frame{i}: <image>\n" for i in range(1, len(times) + 1)
        )  # of boxes only the frames of the clues are shown, by name
        media = {"images": [f"{whole}#t={t}" for t in times]} if times else {"videos": [whole]}
        yield item(
            f"cgav-{row['index']}-clue",
            f"{frames}{question}\n{CLUE_TASKS[category]}",
            gold,
            kind="code",
            video=stem,
            labels={"setting": "clue"} | labels,
            truth=(category, truth),
            paper={
                "wording": category,
                "question": question,
                "opening": "Watch the video and",
                "frames": frames,
            },
            **media,
        )


def frame_size(path: str) -> tuple[float, float]:
    """(width, height) of a video in pixels; (1, 1) where there is none to ask about."""
    import decord  # imported here: only boxes in pixels need it

    try:
        height, width, _ = decord.VideoReader(path, num_threads=1)[0].shape
    except (decord.DECORDError, RuntimeError, IndexError):
        return 1.0, 1.0  # the item fails on its media
    return float(width), float(height)


def gold_clusters(category: str, clue: list) -> tuple[list, list[float]]:
    """(clusters, times of the clue frames in the order of their first appearance). Of events the one cluster is a list of (start, end); of objects, and of each
    attribute's value, a list of (frame from 0, box)."""
    if category == "event":
        return [[(float(c["start"]), float(c["end"])) for c in clue]], []
    groups = clue if category == "attribute" else [clue]
    times = list(dict.fromkeys(float(c["timestamp"]) for group in groups for c in group))
    return [
        [(times.index(float(c["timestamp"])), tuple(float(x) for x in c["bbox"])) for c in group]
        for group in groups
    ], times


def count_score(one: Item, answer: str | None, several: str) -> dict[str, float | None]:
    """acc, oboa (off by at most one), error and its square; an error above max(2 gold, 100) counts as 2 gold, and so does an item that was not asked; a reply
    without a number counts as 0. Of clues: wcs and ifa."""
    if one.truth is not None:
        clusters = said_clusters(one.truth[0], answer or "")
        return {
            "wcs": 0.0 if clusters is None else cluster_score(one.truth[0], one.truth[1], clusters),
            "ifa": float(clusters is not None),
        }
    gold, setting = float(one.sample.answer), one.labels["setting"]
    error = math.inf if answer is None else abs((number_in(answer) or 0.0) - gold)
    capped = error if error <= max(2 * gold, 100) else 2 * gold
    return {
        f"{setting}_acc": float(error < 1e-5),
        f"{setting}_oboa": float(error <= 1),
        f"{setting}_error": capped,
        f"{setting}_squared": capped**2,
    }


COUNTING = (
    Metric("long accuracy", "long_acc"),
    Metric("long OBOA", "long_oboa"),
    Metric("long MAE", "long_error", percent=False, higher=False),
    Metric("long RMSE", "long_squared", root=True, percent=False, higher=False),
    Metric("ref accuracy", "ref_acc"),
    Metric("ref OBOA", "ref_oboa"),
    Metric("ref MAE", "ref_error", percent=False, higher=False),
    Metric("ref RMSE", "ref_squared", root=True, percent=False, higher=False),
    Metric("clue WCS", "wcs"),
    Metric("clue IFA", "ifa"),
)
