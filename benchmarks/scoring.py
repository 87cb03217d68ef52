"""benchmarks/scoring.py: rules that only benchmarks use. Pure functions.

    mean_relative_accuracy   numbers (VSI-Bench)
    open_match               open answers without a judge (Video-MMMU)
    cluster_score            clues of counts (CG-AV-Counting)

Each has the form of the benchmark's own authors. The clues of CG-AV-Counting are clusters: of
events, the one cluster is a list of (start, end) in seconds; of objects, and of each value of an
attribute, it is a list of (frame from 0, box), a box being two opposite corners (x, y, x, y).
"""

import itertools
import json
import math
import re
from collections.abc import Iterator

import numpy as np

from problems import seconds

# --------------------------------------------------------------------------- numbers


def mean_relative_accuracy(predicted: float, gold: float) -> float:
    """MRA: the fraction of the thresholds t = 0.50, 0.55, .., 0.95 with |p - g| / |g| <= 1 - t.

    >>> round(mean_relative_accuracy(17, 20), 3)                   # off by 0.15: t = 0.50 to 0.85
    0.8
    >>> mean_relative_accuracy(0, 4)
    0.0
    """
    if not gold:
        return float(not predicted)
    thresholds = np.linspace(0.5, 0.95, 10)
    return float((abs(predicted - gold) / abs(gold) <= 1 - thresholds).mean())


# --------------------------------------------------------------------------- open answers

# Phrases of MMMU's rule. What follows one of them may be the answer.
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

# A number of MMMU's rule: "1,200", "1.5e-3", "12.97"; the pattern is theirs.
NUMBER = re.compile(
    r"-?\b\d{1,3}(?:,\d{3})+\b"
    r"|-?\d+(?:\.\d+)?[eE][+-]?\d+"
    r"|-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"
)


def open_match(reply: str, gold: str) -> float:
    """MMMU's rule for open answers: 1 when the gold number is among the numbers of the reply's key
    phrases, to two decimals, or the gold text is inside one of the phrases; else 0.

    >>> open_match("So the result is 12.968", "12.97"), open_match("13", "12.97")
    (1.0, 0.0)
    >>> open_match("Depth-first search.", "depth-first"), open_match("", "A")
    (1.0, 0.0)
    """
    reply = reply[-4000:]  # an answer is short, and NUMBER does not take linear time
    candidates = set()
    for phrase in key_phrases(reply):
        candidates.add(number_or_text(phrase))
        candidates.update(number_or_text(digits) for digits in NUMBER.findall(phrase))
    candidates.discard("")

    target = number_or_text(gold)
    if isinstance(target, float):
        return float(target in candidates)

    # a text of one character must be a word of its own
    texts = [candidate for candidate in candidates if isinstance(candidate, str)]
    if len(target) == 1:
        return float(any(f" {target} " in f" {text} " for text in texts))
    return float(any(target in text for text in texts))


def key_phrases(reply: str) -> list[str]:
    """Of each line, what follows the last of its INDICATORS (the shortest rest); the whole reply
    where no line has one. In the last line "=" is an indicator as well.

    >>> key_phrases("So it is big.\\nx = 5"), key_phrases("Five.")
    (['big.', '5'], ['five'])
    """
    full_text = reply.strip().strip(".").lower()
    lines = full_text.split("\n")
    phrases = []
    for i, line in enumerate(lines):
        is_last = i == len(lines) - 1
        indicators = [*INDICATORS, "="] if is_last else INDICATORS
        rests = [line.rpartition(text)[2].strip() for text in indicators if text in line]
        shortest = min(rests, key=len, default="")
        if shortest and shortest not in ":,.!?;'":
            phrases.append(shortest)
    return phrases or [full_text]


def number_or_text(text: str) -> float | str:
    """A number to two decimals, or the text in lower case."""
    try:
        return round(float(text.strip().replace(",", "")), 2)
    except ValueError:
        return text.strip().lower()


# --------------------------------------------------------------------------- clues: reading a reply

LARGEST = 1e9  # of a coordinate or a time; squares of larger ones overflow

MOST_TRIES = 64  # brackets of a reply at which a value may begin: keeps the search linear
MOST_CHARACTERS = 16_384  # of a value in Python's notation

# What Python's notation of lists and dicts differs in from JSON: quotes, brackets, constants, and a
# comma behind the last entry. A string in either quotes is one token, whatever is inside.
# trap: one that is never closed is a token as well, to the end: else each quote in it is tried
NOTATION = re.compile(
    r'"(?:[^"\\]|\\.)*+"?'
    r"|'(?:[^'\\]|\\.)*+'?"
    r"|,(?=\s*[\])}])"
    r"|[\[({\])}]"
    r"|\.\.\.|\b(?:True|False|None)\b",
    re.DOTALL,
)
IN_JSON = {"(": "[", ")": "]", "True": "true", "False": "false", "None": "null", "...": "null"}


def values_in(text: str) -> Iterator[tuple[list | dict, bool]]:
    """The lists and objects of a reply, whatever is around them, and whether each stands inside of
    a bracket that is never closed.

    JSON, or Python's notation, which models mix with it, as the prompt of the benchmark's authors
    does ("bbox" and 'label' in one object).

    >>> list(values_in('Of [x] sure:\\n```json\\n[["1", "2"]]\\n```')), list(values_in("no"))
    ([([['1', '2']], False)], [])
    >>> list(values_in("{'Frame1': [(1, 2),]} [[3, 4], [5"))
    [({'Frame1': [[1, 2]]}, False), ([3, 4], True)]
    """
    decoder = json.JSONDecoder()
    is_cut = False
    end = 0
    for match in itertools.islice(re.finditer(r"[\[{]", text), MOST_TRIES):
        start = match.start()
        if start < end:  # inside of a value that was read
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # ValueError: no JSON, or a number of 5,000 digits
            written, stop = as_json(text, start)
            is_cut = is_cut or not written
            try:
                value = json.loads(written, strict=False)
            except (ValueError, RecursionError):
                continue
            end = stop
        yield value, is_cut


def as_json(text: str, start: int) -> tuple[str, int]:
    """The value that begins with a bracket, in the notation of JSON, and where it ends in the text;
    "" where nothing closes it."""
    pieces = []
    depth = 0
    at = start
    for token in NOTATION.finditer(text, start, start + MOST_CHARACTERS):
        pieces.append(text[at : token.start()])
        at = token.end()
        word = token[0]
        if word[0] == "'":
            inside = word[1:-1].replace("\\'", "'")
            word = '"' + re.sub(r'(?<!\\)"', r"\"", inside) + '"'
        elif word == ",":
            word = ""
        pieces.append(IN_JSON.get(word, word))
        depth += (token[0] in "[({") - (token[0] in "])}")
        if depth == 0:
            return "".join(pieces), at
    return "", at


def clusters_in(category: str, text: str) -> list | None:
    """The clusters of a reply, of the first value that can be read as such; None when there is
    none.

    category: "event", "object" or "attribute". A time, a box, a label or a frame that is malformed
    is left out, as the authors do, and the others count; where all of them are, the reply is in
    another form. An empty value says that there is nothing, if no later one says otherwise, and if
    it is no part of a reply that was cut off.
    """
    empty = None
    for content, is_cut in values_in(text):
        read = event_clusters(content) if category == "event" else box_clusters(category, content)
        if read and any(read):
            return read
        if read is not None and empty is None and not is_cut:
            empty = read
    return empty


def event_clusters(content) -> list | None:
    """[["1.5", "2"], ..] -> one cluster of (start, end)."""
    if not isinstance(content, list):
        return None
    spans = [span for entry in content if (span := span_of(entry))]
    return [spans] if spans or not content else None


def span_of(entry) -> tuple[float, float] | None:
    """(start, end) in seconds of ["1.5", "2"]; None for anything else."""
    if not isinstance(entry, list) or len(entry) < 2:
        return None
    start, end = time_of(entry[0]), time_of(entry[1])
    return None if start is None or end is None else (start, end)


def box_clusters(category: str, content) -> list | None:
    """{"Frame1": [[0, 0, 10, 10]], ..} -> one cluster of (frame, box); of an attribute the frames
    hold {"bbox": .., "label": ..}, and each label is a cluster."""
    if not isinstance(content, dict):
        return None
    frames: dict[int, list] = {}
    for key, value in content.items():
        frame = re.fullmatch(r"\s*[Ff]rame[ _]?(\d{1,9})\s*", key)
        if frame and isinstance(value, list):
            frames[int(frame[1]) - 1] = value
    if content and not frames:  # an inner object of a reply that was cut off
        return None

    clusters: dict[str, list] = {} if category == "attribute" else {"all": []}
    n_entries = 0
    for frame, members in frames.items():
        n_entries += len(members)
        pairs = labelled_boxes(members) if category == "attribute" else unlabelled_boxes(members)
        for label, box in pairs:
            clusters.setdefault(label, []).append((frame, box))
    if n_entries and not any(clusters.values()):
        return None
    return list(clusters.values())


def labelled_boxes(members: list) -> list[tuple[str, tuple[float, ...]]]:
    """(label, box) of each {"bbox": .., "label": ..}."""
    pairs = []
    for member in members:
        if not isinstance(member, dict) or "label" not in member:
            continue
        box = box_of(bbox_of(member))
        if box:
            pairs.append((str(member["label"]), box))
    return pairs


def bbox_of(member: dict):
    """What an object of a frame names as its box."""
    return member.get("bbox") or member.get("bbox_2d")


def unlabelled_boxes(boxes: list) -> list[tuple[str, tuple[float, ...]]]:
    """("all", box) of a frame's boxes; also one without the outer list, boxes as pairs of points,
    or all of them as {"bbox": ..}, the form of an attribute's."""
    if all(isinstance(box, dict) for box in boxes):
        boxes = [bbox_of(box) for box in boxes]
    if boxes and not any(isinstance(box, list) for box in boxes):
        boxes = [boxes]
    if boxes and all(isinstance(point, list) and len(point) == 2 for point in boxes):
        boxes = [a + b for a, b in zip(boxes[::2], boxes[1::2], strict=False)]
    return [("all", values) for box in boxes if (values := box_of(box))]


def time_of(value) -> float | None:
    """Seconds of 12.5, "12.5", "12.5 s" or "1:02.5"; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and abs(value) > LARGEST:  # its text may be too long to be made
        return None
    time = seconds(str(value).strip().split(" ")[0].rstrip("s"))
    return time if time is not None and time <= LARGEST else None


def box_of(box) -> tuple[float, ...] | None:
    """Four numbers; None for anything else."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    try:
        values = tuple(float(x) for x in box)
    except (TypeError, ValueError, OverflowError):
        return None
    return values if all(abs(x) <= LARGEST for x in values) else None


# --------------------------------------------------------------------------- clues: scores


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Overlap over the hull of two time spans: span_iou((0, 2), (1, 3)) = 1/3."""
    hull = max(a[1], b[1]) - min(a[0], b[0])
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / hull if hull > 0 else 0.0


def box_iou(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes, each by any two opposite corners.

    >>> box_iou((0, 0, 2, 2), (3, 2, 1, 0))
    0.3333333333333333
    """
    ax0, ax1 = sorted((a[0], a[2]))
    ay0, ay1 = sorted((a[1], a[3]))
    bx0, bx1 = sorted((b[0], b[2]))
    by0, by1 = sorted((b[1], b[3]))
    width = max(0.0, min(ax1, bx1) - max(ax0, bx0))
    height = max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - width * height
    return width * height / union if union > 0 else 0.0


def counting_penalty(predicted: int, gold: int) -> float:
    """max(0, 1 - |p - g| / g): 0 from twice as many on."""
    return max(0.0, 1 - abs(predicted - gold) / max(gold, 1))


def pair_score(category: str, gold: list, predicted: list) -> float:
    """How well a predicted cluster agrees with a gold one, in [0, 1]: sqrt(location * penalty)."""
    if category == "event":
        return event_score(gold, predicted)
    return boxes_score(gold, predicted)


def event_score(gold: list, predicted: list) -> float:
    """Location: the mean over the gold spans of their best overlap with a predicted one."""
    penalty = counting_penalty(len(predicted), len(gold))
    if not penalty:  # a reply of endless spans costs nothing
        return 0.0
    overlap = 0.0
    for span in gold:
        overlap += max((span_iou(span, other) for other in predicted), default=0.0)
    return math.sqrt(penalty * overlap / max(len(gold), 1))


def boxes_score(gold: list, predicted: list) -> float:
    """The mean of `frame_score` over the frames in which either cluster has a box."""
    gold_boxes: dict[int, list] = {}
    predicted_boxes: dict[int, list] = {}
    for frame, box in gold:
        gold_boxes.setdefault(frame, []).append(box)
    for frame, box in predicted:
        predicted_boxes.setdefault(frame, []).append(box)

    frames = list(dict.fromkeys([*gold_boxes, *predicted_boxes]))
    scores = [frame_score(gold_boxes.get(f, []), predicted_boxes.get(f, [])) for f in frames]
    return sum(scores) / len(scores) if scores else 0.0


def frame_score(gold: list, predicted: list) -> float:
    """Location: the overlaps of boxes matched one to one, best overlap first, per gold box."""
    penalty = counting_penalty(len(predicted), len(gold)) if gold else 0.0
    if not penalty:
        return 0.0

    # all pairs, best overlap first; ties go to the earlier boxes, since sorting is stable
    pairs = []
    for i, box in enumerate(gold):
        pairs += [(box_iou(box, other), i, j) for j, other in enumerate(predicted)]
    pairs.sort(key=lambda pair: -pair[0])

    matched_gold: set[int] = set()
    matched_predicted: set[int] = set()
    total = 0.0
    for overlap, i, j in pairs:
        if i not in matched_gold and j not in matched_predicted:
            matched_gold.add(i)
            matched_predicted.add(j)
            total += overlap
    return math.sqrt(penalty * total / len(gold))


def cluster_score(category: str, gold: list, predicted: list) -> float:
    """WCS: the best one-to-one assignment of predicted to gold clusters, its sum of `pair_score`
    over the number of gold clusters."""
    if not gold or not predicted:
        return 0.0
    from scipy.optimize import linear_sum_assignment  # imported here: only this score needs it

    table = np.zeros((len(gold), len(predicted)))  # (gold, predicted)
    for i, gold_cluster in enumerate(gold):
        for j, cluster in enumerate(predicted):
            table[i, j] = pair_score(category, gold_cluster, cluster)
    best = linear_sum_assignment(table, maximize=True)
    return float(table[best].sum() / len(gold))
