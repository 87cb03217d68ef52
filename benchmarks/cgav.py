"""benchmarks/cgav.py: CG-AV-Counting, counts in videos, with the clues that the count rests on."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.base import Benchmark, Item, Metric, new_item
from benchmarks.files import first_file, gold_text, locate, rows
from benchmarks.scoring import box_of, cluster_score, clusters_in, time_of
from formats.fields import brief
from formats.files import parse_json
from formats.sample import DataError, Sample, first_line
from media.errors import MediaError
from media.video import displayed_size
from reading.numbers import number

SIZE_WORKERS = 2  # processes that read the sizes of videos

# --------------------------------------------------------------------------- wordings

# The released evaluation's, for counts and for clues of events, objects and attributes.
PAPER_COUNT = (
    "Watch the video and answer the question '{question}' with a number. Just output the number "
    "itself, don't output anything else."
)

PAPER_EVENT = (
    "Watch the video and provide your answer to the question '{question}', including the start and "
    "end timestamps for each event. Format your answer in JSON, enclosed in <answer> and </answer> "
    'tags. The output should look like this: <answer>[["start_time", "end_time"], ...]</answer>. '
    "Ensure each timestamp is in seconds (e.g., xx.xx )."
)

PAPER_OBJECT = (
    "{frames}According to the given video frames, answer the question '{question}', including the "
    "bounding box for the query object in the first frame where it appears. For subsequent frames "
    "where the object appears, do not provide the bounding box again. Format your answer in JSON, "
    "enclosed within <answer> and </answer> tags. The output should look like this: <answer>"
    '{"Frame1": [[xmin, ymin, x_max, y_max]], "Frame2": []}</answer>.{scale}'
)

PAPER_ATTRIBUTE = (
    "{frames}According to the given video frames, answer the question '{question}', clustering the "
    "objects based on the question. For each unique cluster, assign a unique label and return the "
    "bounding box for each object in the first frame where it appears. Format your answer in JSON, "
    "enclosed within <answer> and </answer> tags. The output should look like this: <answer>"
    '{"Frame 1": [{"bbox": [x_min, y_min, x_max, y_max], \'label\': "Label 1"}], "Frame 2": [...] '
    "}</answer>.{scale}"
)

# Ours: in which unit boxes are asked for, below the question and behind the released wording, which
# names none.
SCALE = "Boxes are on a scale of 0 to 100 in both directions."
PIXELS = "Each frame is {width} pixels wide and {height} pixels high, and boxes are in pixels."

CLUE_TASKS = {
    "event": (
        "Give the start and the end in seconds of each event that the question counts, as JSON: "
        '[["start", "end"], ...]'
    ),
    "object": (
        "Give the box of each object that the question counts, in the first frame where it appears "
        'and in no later one, as JSON: {"Frame1": [[x_min, y_min, x_max, y_max]], "Frame2": []}.'
    ),
    "attribute": (
        "Put the objects into the clusters that the question counts. Give each object's box and "
        "its cluster's label in the first frame where it appears, and in no later one, as JSON: "
        '{"Frame1": [{"bbox": [x_min, y_min, x_max, y_max], "label": "Label 1"}], "Frame2": []}.'
    ),
}

# --------------------------------------------------------------------------- reading


class Clues(NamedTuple):
    """The clues of one count. clusters: see scoring.py. times: seconds of the frames with boxes,
    in the order of their first appearance; [] of events."""

    category: str
    clusters: list
    times: list[float]


def read_cgav(root: Path, scratch: Path) -> Iterator[Item]:
    """Every question three times: about the whole video (long), about the clip that holds its
    answer (ref), and about its clues (clue).

    Boxes are asked for in the unit of the gold boxes, which the question names. No document of the
    authors says what it is, so the boxes themselves do: above 100 they are pixels of the video (and
    the authors' script tells the model the frame's size); others are on a scale of 0 to 100, or up
    to 1, which is brought to it.
    """
    # all boxes are looked at first, to see in what unit they are
    records = list(rows(first_file(root, "cg-av-counting.json")))
    read = [clues_or_fault(row["category"], row["clue"]) for row in records]
    all_clues = [clues for clues, _ in read]
    largest = max(box_coordinates(all_clues), default=100.0)
    videos = []
    for row in records:
        video = row["video"]
        videos.append(locate(root, f"cg_videos_720p/{video}", f"videos/{video}", video))
    sizes: dict[str, tuple[int, int]] = {}
    if largest > 100:
        with_boxes = [v for v, clues in zip(videos, all_clues, strict=True) if clues.times]
        sizes = sizes_of(with_boxes)

    # three questions about each record
    for row, (clues, fault), video in zip(records, read, videos, strict=True):
        yield count_item(row, "long", video)
        yield count_item(row, "ref", reference_clip(root, row))
        if clues.times and largest <= 1:
            clues = percentages(clues)
        item = clue_item(row, clues, video, scale_of(sizes.get(video)))
        item.broken = item.broken or fault
        yield item


def scale_of(size: tuple[int, int] | None) -> str:
    """The sentence that names the unit of boxes. size: (width, height) in pixels."""
    return PIXELS.format(width=size[0], height=size[1]) if size else SCALE


def clues_or_fault(category: str, clue: list | str) -> tuple[Clues, str]:
    """The clues of a record and "", or no clues and what is wrong with them."""
    try:
        return gold_clues(category, clue), ""
    except DataError as error:
        return Clues(category, [], []), str(error)


def gold_clues(category: str, clue: list | str) -> Clues:
    """The clues of a record, which are JSON or JSON as text.

    Of events: [{start, end}]; of objects: [{timestamp, bbox}]; of an attribute: a list of such
    lists, one per value. Raises DataError for clues that no reply could agree with.
    """
    if isinstance(clue, str):
        clue = clue_in_text(clue)
    if not isinstance(clue, list) or not clue:
        raise DataError("it has no clue")
    if category == "event":
        spans = [gold_span(event) for event in clue]
        # an instant overlaps with nothing; the authors count one beside others as never found
        if all(start == end for start, end in spans):
            raise DataError("none of its clues has a length")
        return Clues(category, [spans], [])

    timed_clusters = []
    times: list[float] = []  # each once, in the order of the clue
    for group in clue if category == "attribute" else [clue]:
        if not isinstance(group, list) or not group:
            raise DataError(f"its cluster of clues {brief(group)} holds no box")
        timed_boxes = [gold_box(entry) for entry in group]
        timed_clusters.append(timed_boxes)
        times += [time for time, _ in timed_boxes]
    times = list(dict.fromkeys(times))

    # the frames with boxes get numbers in the order of the clue
    clusters = []
    for timed_boxes in timed_clusters:
        clusters.append([(times.index(time), box) for time, box in timed_boxes])
    return Clues(category, clusters, times)


def clue_in_text(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"its clue is not JSON ({first_line(error)})") from None


def gold_span(event: object) -> tuple[float, float]:
    """(start, end) of an event in seconds. An event that ends when it starts is an instant."""
    fields = event if isinstance(event, dict) else {}
    start = time_of(fields.get("start"))
    end = time_of(fields.get("end"))
    if start is None or end is None or start > end:
        raise DataError(f"its clue {brief(event)} has no start in seconds and an end behind it")
    return start, end


def gold_box(entry: object) -> tuple[float, tuple[float, ...]]:
    """The time in seconds and the box of an object."""
    fields = entry if isinstance(entry, dict) else {}
    time = time_of(fields.get("timestamp"))
    box = box_of(fields.get("bbox"))
    if time is None:
        raise DataError(f"its clue {brief(entry)} has no timestamp in seconds")
    if box is None or box[0] == box[2] or box[1] == box[3]:
        raise DataError(f"its clue {brief(entry)} has no bbox of four numbers with an area")
    return time, box


def box_coordinates(all_clues: list[Clues]) -> list[float]:
    """The coordinates of all boxes."""
    coordinates = []
    for clues in all_clues:
        if clues.category != "event":
            for cluster in clues.clusters:
                for _, box in cluster:
                    coordinates += box
    return coordinates


def percentages(clues: Clues) -> Clues:
    """Clues whose boxes are fractions of a frame, on the scale of 0 to 100."""
    clusters = []
    for cluster in clues.clusters:
        clusters.append([(frame, tuple(100 * x for x in box)) for frame, box in cluster])
    return clues._replace(clusters=clusters)


def sizes_of(videos: list[str]) -> dict[str, tuple[int, int]]:
    """(width, height) in pixels of each video, as it is shown. One that cannot be read counts as of
    no size: its items fail on their media.

    Decoder processes open them under a deadline: a file may hang a decoder, or crash it.
    """
    from media.workers import MEDIA_TIMEOUT, Decoders  # here: it imports torch, which takes seconds

    decoders = Decoders(SIZE_WORKERS, MEDIA_TIMEOUT, size_of_video)
    try:
        waiting = {}
        for video in dict.fromkeys(videos):
            sample = Sample(video, "", "code", "", videos=[video])
            waiting[video] = decoders.submit(sample)
        sizes = {}
        for video, future in waiting.items():
            size = future.result()
            sizes[video] = (0, 0) if isinstance(size, MediaError) else size
        return sizes
    finally:
        decoders.close()


def size_of_video(sample: Sample) -> tuple[int, int] | MediaError:
    """What a decoder process does for each video."""
    try:
        return displayed_size(sample.videos[0], sample.id)
    except (MediaError, OSError) as error:
        return MediaError(sample.id, str(error), sample.videos[0])


def reference_clip(root: Path, row: dict) -> str:
    """The clip that holds the answer; its name has the bounds in seconds."""
    start, end = (float(time) for time in row["query_interval"])
    name = f"{Path(row['video']).stem}_{start:.2f}_{end:.2f}.mp4"
    return locate(root, f"ref_videos/{name}", f"clips/{name}")


# --------------------------------------------------------------------------- items


def question_of(row: dict) -> str:
    return row.get("question") or row["question_en"]


def gold_count(row: dict) -> str:
    """The count in plain digits; as it is written where it is none, which leaves the item out."""
    text = gold_text(row["answer"])
    value = number(text)
    return text if value is None else f"{value:.15g}"


def item_labels(row: dict, setting: str) -> dict[str, str]:
    return {"setting": setting, "category": row["category"], "type": row["type"]}


def count_item(row: dict, setting: str, path: str) -> Item:
    """A question for the count. setting: "long" or "ref"."""
    item = new_item(
        f"cgav-{row['index']}-{setting}",
        question_of(row),
        gold_count(row),
        kind="counting",
        videos=[path],
        video=Path(row["video"]).stem,
        prompt_fields={"wording": "count"},
        labels=item_labels(row, setting),
    )
    # twice a gold below 0, as which a large error counts, would be a gain
    if not item.broken and float(item.sample.answer) < 0:
        item.broken = f"its answer {item.sample.answer!r} is no count"
    return item


def clue_item(row: dict, clues: Clues, video: str, scale: str) -> Item:
    """A question for the clues. For boxes only the frames with clues are shown, and are named.

    scale: the unit of the boxes, in words.
    """
    frames = "".join(f"Frame{i}: <image>\n" for i in range(1, len(clues.times) + 1))
    media = {"images": [f"{video}#t={time}" for time in clues.times]}
    if not clues.times:
        media = {"videos": [video]}
    task = CLUE_TASKS[clues.category] + (f" {scale}" if clues.times else "")
    item = new_item(
        f"cgav-{row['index']}-clue",
        f"{frames}{question_of(row)}\n{task}",
        gold_count(row),
        kind="code",
        video=Path(row["video"]).stem,
        labels=item_labels(row, "clue"),
        prompt_fields={
            "wording": clues.category,
            "think": "Answer with the JSON.",
            "direct": "Answer with the JSON only.",
            "question": question_of(row),
            "frames": frames,
            # the released wording stays as it is where it may mean the scale that is asked for
            "scale": "" if scale == SCALE else f" {scale}",
        },
        **media,
    )
    item.truth = clues
    item.well_formed = functools.partial(is_clue, clues.category)
    return item


def is_clue(category: str, reply: str) -> bool:
    """Whether a reply is in the form that clues were asked for."""
    return clusters_in(category, reply) is not None


# --------------------------------------------------------------------------- scoring


def cgav_score(item: Item, answer: str | None) -> dict[str, float | None]:
    """The parts of a count, or of clues; answer None: the item was not asked."""
    if item.truth is not None:
        return clue_score(item.truth, answer or "")
    return count_score(float(item.sample.answer), answer, item.labels["setting"])


def count_score(gold: float, answer: str | None, setting: str) -> dict[str, float]:
    """acc, oboa (off by at most one), error and its square, each named by the setting.

    A reply without a number counts as 0. An error above max(2 gold, 100) counts as 2 gold, and so
    does an item that was not asked.
    """
    error = math.inf if answer is None else abs((number(answer) or 0.0) - gold)
    capped = error if error <= max(2 * gold, 100) else 2 * gold
    return {
        f"{setting}_acc": float(error < 1e-5),
        f"{setting}_oboa": float(error <= 1),
        f"{setting}_error": capped,
        f"{setting}_squared": capped**2,
    }


def clue_score(gold: Clues, answer: str) -> dict[str, float]:
    """wcs: agreement of the clusters. ifa: the reply is in the form that was asked for."""
    clusters = clusters_in(gold.category, answer)
    if clusters is None:
        return {"wcs": 0.0, "ifa": 0.0}
    return {"wcs": cluster_score(gold.category, gold.clusters, clusters), "ifa": 1.0}


BENCHMARK = Benchmark(
    title="CG-AV-Counting",
    files="CG-Bench/CG-AV-Counting: cg-av-counting.json, cg_videos_720p/, ref_videos/",
    read=read_cgav,
    splits=("setting", "category", "type"),
    size=3_081,
    rule=(
        "count: exact, off by one, MAE and RMSE with errors above max(2 gold, 100) taken as 2 "
        "gold, no number = 0; clues: WCS by optimal assignment, IFA"
    ),
    score=cgav_score,
    metrics=(
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
    ),
    paper={
        "count": PAPER_COUNT,
        "event": PAPER_EVENT,
        "object": PAPER_OBJECT,
        "attribute": PAPER_ATTRIBUTE,
    },
    tokens=1024,
)
