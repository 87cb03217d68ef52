"""scoring.py: rules of benchmarks beyond the rewards: relative accuracy, open answers, counted clues. Pure functions, each in the form of the benchmark's
own authors; what is read from a reply (letter, number, final answer) is read by rewards.py.

Clues of CG-AV-Counting are clusters. Of events the one cluster is a list of (start, end) in seconds; of objects, and of each value of an attribute, a list of
(frame from 0, box), a box being two opposite corners (x, y, x, y).
"""

import json
import math
import re

import numpy as np

from problems import seconds


def mean_relative_accuracy(said: float, gold: float) -> float:
    """MRA: the share of the thresholds 0.50, 0.55, .., 0.95 for which |said - gold| / gold <= 1 - threshold.

    >>> round(mean_relative_accuracy(17, 20), 3), mean_relative_accuracy(0, 4)                     # 0.15 off: 0.50 to 0.85
    (0.8, 0.0)
    """
    if not gold:
        return float(not said)
    return float((abs(said - gold) / gold <= 1 - np.linspace(0.5, 0.95, 10)).mean())


INDICATORS = (
    "could be ",
    "so ",
    "is ",
    "thus ",
    "therefore ",
    "final ",
    "answer ",
    "result ",
    "are ",
    "in total ",
    "total ",
    "identify ",
    "recognize ",
    "calculated as ",
    "counted as ",
    "measured as ",
    "observed as ",
    "concluded as ",
    "found to be ",
    "equals ",
    "determined to be ",
    "number of ",
    "value is ",
    "adds up to ",
    "have ",
    "has ",
)


def open_match(reply: str, gold: str) -> float:
    """MMMU's rule for open answers: of each line, what follows the last of its phrases such as "answer", else all; the gold number among the numbers
    there to two decimals, or the gold text inside one of them.

    >>> open_match("So the result is 12.968", "12.97"), open_match("Depth-first search.", "depth-first"), open_match("13", "12.97"), open_match("", "A")
    (1.0, 1.0, 0.0, 0.0)
    """
    reply = reply[-4000:]  # an answer is short; the patterns below are not linear
    lines = reply.strip().strip(".").lower().split("\n")
    keys = []
    for i, line in enumerate(lines):
        after = [
            line.rpartition(p)[2].strip()
            for p in [*INDICATORS, *(["="] if i == len(lines) - 1 else [])]
            if p in line
        ]
        keys += [k for k in [min(after, key=len, default="")] if k and k not in ":,.!?;'"]
    keys = keys or [reply.strip().strip(".").lower()]
    digits = r"-?\b\d{1,3}(?:,\d{3})+\b|-?\d+(?:\.\d+)?[eE][+-]?\d+|-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"
    said = {normal(x) for key in keys for x in [key, *re.findall(digits, key)]} - {""}
    truth = normal(gold)
    if isinstance(truth, float):
        return float(truth in said)
    texts = [s for s in said if isinstance(s, str)]
    return float(
        any(f" {truth} " in f" {s} " if len(truth) == 1 else truth in s for s in texts)
    )  # one character: as a word of its own


def normal(text: str) -> float | str:
    """A number to two decimals, or the text in lower case."""
    try:
        return round(float(text.strip().replace(",", "")), 2)
    except ValueError:
        return text.strip().lower()


def json_in(text: str):
    """The first JSON list or object of a reply, whatever stands around it (fences, prose); None when there is none.

    >>> json_in('Sure:\\n```json\\n[["1", "2"]]\\n```'), json_in("no")
    ([['1', '2']], None)
    """
    decoder = json.JSONDecoder()
    for start in [m.start() for m in re.finditer(r"[\[{]", text)][
        :64
    ]:  # a bounded number of tries keeps this linear
        try:
            return decoder.raw_decode(text, start)[0]
        except (json.JSONDecodeError, RecursionError):
            continue
    return None


def said_clusters(category: str, text: str) -> list | None:
    """A reply's clusters in the form of `gold_clusters`; None when it is not in the form that was asked for."""
    made = json_in(text)
    try:
        if category == "event":
            return (
                [[(time_of(s[0]), time_of(s[1])) for s in made]]
                if isinstance(made, list) and all(isinstance(s, list) for s in made)
                else None
            )
        frames = {
            int(re.fullmatch(r"\s*[Ff]rame[ _]?(\d+)\s*", key)[1]) - 1: value
            for key, value in made.items()
            if "rame" in key
        }
        if made and not frames:  # a part of a reply that was cut off
            return None
        if category == "object":
            return [[(frame, box) for frame, boxes in frames.items() for box in boxes_of(boxes)]]
        clusters: dict[str, list] = {}
        for frame, members in frames.items():
            for m in members:
                clusters.setdefault(str(m["label"]), []).append(
                    (frame, box_of(m.get("bbox") or m["bbox_2d"]))
                )
        return list(clusters.values())
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None


def time_of(value) -> float:
    """Seconds of 12.5, "12.5", "12.5 s" or "1:02.5"; ValueError for anything else."""
    found = seconds(str(value).strip().split(" ")[0].rstrip("s"))
    if isinstance(value, bool) or found is None:
        raise ValueError(value)
    return found


def boxes_of(boxes: list) -> list[tuple[float, ...]]:
    """A frame's boxes, also when it has one without the outer list, or boxes as pairs of points; ValueError for anything else."""
    if boxes and not isinstance(boxes[0], list):
        boxes = [boxes]
    if boxes and len(boxes[0]) == 2:
        boxes = [a + b for a, b in zip(boxes[::2], boxes[1::2], strict=True)]
    return [box_of(b) for b in boxes]


def box_of(box) -> tuple[float, ...]:
    """Four numbers; ValueError for anything else."""
    values = tuple(float(x) for x in box)
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(box)
    return values


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Overlap over the hull of two time spans: span_iou((0, 2), (1, 3)) = 1/3."""
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / hull if hull > 0 else 0.0


def box_iou(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes, each by any two opposite corners: box_iou((0, 0, 2, 2), (1, 0, 3, 2)) = 1/3."""
    (ax0, ax1), (ay0, ay1), (bx0, bx1), (by0, by1) = (
        sorted(pair) for pair in ((a[0], a[2]), (a[1], a[3]), (b[0], b[2]), (b[1], b[3]))
    )
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    total = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    return shared / total if total > 0 else 0.0


def penalty(said: int, gold: int) -> float:
    """The counting accuracy penalty, max(0, 1 - |said - gold| / gold): 0 from twice as many on."""
    return max(0.0, 1 - abs(said - gold) / max(gold, 1))


def pair_score(category: str, gold: list, said: list) -> float:
    """How well one said cluster agrees with one gold cluster, in [0, 1]: sqrt(location accuracy x `penalty`). Events: every gold span's best overlap.
    Boxes: in each frame that either has, matched one to one, best overlap first; the mean over these frames."""
    if category == "event":
        if not (
            share := penalty(len(said), len(gold))
        ):  # so that a reply of endless spans costs nothing
            return 0.0
        return math.sqrt(
            share
            * sum(max((span_iou(g, p) for p in said), default=0.0) for g in gold)
            / max(len(gold), 1)
        )
    scores, frames = [], {frame: ([], []) for frame, _ in [*gold, *said]}
    for side, cluster in enumerate((gold, said)):
        for frame, box in cluster:
            frames[frame][side].append(box)
    for truth, boxes in frames.values():
        if not truth or not (share := penalty(len(boxes), len(truth))):
            scores.append(0.0)
            continue
        pairs = sorted(
            ((box_iou(g, p), i, j) for i, g in enumerate(truth) for j, p in enumerate(boxes)),
            key=lambda t: (-t[0], t[1], t[2]),
        )
        used_gold, used_said, total = set(), set(), 0.0
        for overlap, i, j in pairs:
            if i not in used_gold and j not in used_said:
                used_gold.add(i)
                used_said.add(j)
                total += overlap
        scores.append(math.sqrt(share * total / len(truth)))
    return sum(scores) / len(scores) if scores else 0.0


def cluster_score(category: str, gold: list, said: list) -> float:
    """WCS: the best one-to-one assignment of said to gold clusters, its sum of `pair_score` over the number of gold clusters."""
    if not gold or not said:
        return 0.0
    from scipy.optimize import linear_sum_assignment  # imported here: only this score needs it

    table = np.array([[pair_score(category, g, s) for s in said] for g in gold])  # (gold, said)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(gold))
