"""problems.py: what the project knows about each problem type, in one record per type.

    problem_type(label)           the record of a data set's label; formats/load.py calls it, so an
                                  unknown label stops a run before it starts
    .instruction, .direct         what the prompt asks for (data.py, benchmarks/base.py)
    .read(answer, options)        one spelling per answer, so that votes can be counted (rewards.py)
    .score(answer, gold, options) the accuracy reward in [0, 1] (rewards.py, benchmarks/base.py)

The records are at the end of this file, in PROBLEM_TYPES. Above them are the functions that they
use, in the same order. An answer is the text inside <answer>...</answer>, and it is read strictly.
Benchmarks must also read free replies ("I think it is B"): READERS in benchmarks/base.py says how.
Letters, numbers and words are read in reading/, by training and benchmarks alike.

To add a type, write two functions and a record here; no other file has to change. For example, a
type whose answers are names in an order, scored by the fraction of them at the right place:

    >>> def read_order(answer, options):
    ...     return ", ".join(plain(name) for name in answer.split(",")) or None
    >>> def score_order(answer, gold, options):
    ...     pairs = zip(answer.split(","), gold.split(","), strict=False)
    ...     return sum(plain(a) == plain(b) for a, b in pairs) / len(gold.split(","))
    >>> ordering = ProblemType(
    ...     name="ordering",
    ...     labels=("sequence",),
    ...     instruction="Answer with the names in order, joined by commas.",
    ...     direct="Answer with the names in order, joined by commas, only.",
    ...     read=read_order,
    ...     score=score_order,
    ... )
    >>> ordering.read("Knock,  bell", []), ordering.score("Knock,  bell", "knock, horn", [])
    ('knock, bell', 0.5)

This module imports nothing of ours but reading/.
"""

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass

from reading.letters import bodies_of, labels_of, letter_of
from reading.numbers import is_dashed, number
from reading.overlap import is_same, rouge_mean, word_error_rate
from reading.text import plain
from reading.yes_no import yes_no

# What every prompt asks for, before the instruction of its problem type: in all stages, ask.py and
# eval.py. trap: rewards.py looks for these tags by name, so other tags here need others there.
INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."

# The system turn of all prompts that have none of their own; "": that of the chat template
SYSTEM = ""


@dataclass(frozen=True)
class ProblemType:
    """Everything about one problem type.

    name: the canonical name. labels: what data sets call it, beside that name.
    instruction: the prompt's last sentence, behind the request for <think> and <answer>.
    direct: the prompt's last sentence where no reasoning is asked for (eval.py --prompt direct).
    read(answer, options): the answer in canonical spelling; None when it is no answer of this type.
    score(answer, gold, options): the accuracy of the answer, in [0, 1].
    options: the choices as "A. red"; empty where the question has none.
    """

    name: str
    labels: tuple[str, ...]
    instruction: str
    direct: str
    read: Callable[[str, list[str]], str | None]
    score: Callable[[str, str, list[str]], float]


# ------------------------------------------------------------------------------------ text and sets


def f1(predicted: set | frozenset, gold: set | frozenset) -> float:
    """F1 of two sets: f1({1, 2}, {2}) = 2 * 1 / 3; 0 when either is empty."""
    if not predicted or not gold:
        return 0.0
    return 2 * len(predicted & gold) / (len(predicted) + len(gold))


# ---------------------------------------------------------------------------------- multiple choice


def score_letter(answer: str, gold: str, options: list[str]) -> float:
    """1 for the same letter, or for one whose option has the same text.

    >>> score_letter("blue", "B", ["A. red", "B. blue"])
    1.0
    >>> score_letter("C", "B", ["A. red", "B. blue", "C. blue"])
    1.0
    """
    letter, target = letter_of(answer, options), letter_of(gold, options)
    if letter is None or letter == target:
        return float(letter is not None)

    # two options of the same text; where they hold a medium, its place holder says nothing of it
    bodies = bodies_of(options)
    texts = [plain(bodies.get(key, "")) for key in (letter, target or "")]
    has_medium = re.search(r"<(?:image|audio|video)>|\[\w{1,10}\]", texts[0])
    return float(bool(texts[0]) and texts[0] == texts[1] and not has_medium)


# -------------------------------------------------------------------------------------- multi-label


def read_labels(answer: str, options: list[str]) -> str | None:
    """The labels in order: read_labels("e, B", []) = 'B, E'."""
    return ", ".join(sorted(labels_of(answer, options))) or None


def score_labels(answer: str, gold: str, options: list[str]) -> float:
    """F1 of the two sets of labels: score_labels("A, B", "B", []) = 2/3."""
    return f1(labels_of(answer, options), labels_of(gold, options))


# ------------------------------------------------------------------------------------------ numbers


def spelled(value: float | None) -> str | None:
    """A number to two decimals in its shortest spelling: spelled(3.0) = '3'."""
    return None if value is None else f"{round(value, 2) + 0.0:.15g}"  # -0.0 is 0, one vote


def read_number(answer: str, options: list[str]) -> str | None:
    """read_number("3.00", []) = '3', read_number("three", []) = '3'."""
    return spelled(number(answer))


def score_numeric(answer: str, gold: str, options: list[str]) -> float:
    """1 when both are equal after rounding to 2 decimals: score_numeric("3.0", "3", []) = 1.0."""
    predicted, target = number(answer), number(gold)
    if predicted is None or target is None:
        return 0.0
    return float(round(predicted, 2) == round(target, 2))


def score_regression(answer: str, gold: str, options: list[str]) -> float:
    """1 - min(1, |p - g| / |g|), the rMAE reward: score_regression("9", "12", []) = 0.75.

    Video-R1 adds 1e-9 to the difference as well, so that "0" would be wrong where gold is 0.
    """
    predicted, target = number(answer), number(gold)
    if predicted is None or target is None:
        return 0.0
    return 1 - min(1.0, abs(predicted - target) / (abs(target) + 1e-9))


def score_counting(answer: str, gold: str, options: list[str]) -> float:
    """1 - min(1, |p - g| / max(g, 1)), as AV-Reasoner: score_counting("three", "4", []) = 0.75."""
    predicted, target = number(answer), number(gold)
    if predicted is None or target is None:
        return 0.0
    return 1 - min(1.0, abs(predicted - target) / max(target, 1.0))


# -------------------------------------------------------------------------------- OCR and free text


def read_text(answer: str, options: list[str]) -> str | None:
    """The plain text: read_text("A dog.", []) = 'a dog'."""
    return plain(answer) or None


def word_accuracy(answer: str, gold: str, options: list[str]) -> float:
    """1 - word error rate, at least 0, case and white space folded.

    >>> word_accuracy("EXIT left", "exit right", [])
    0.5
    """
    return 1.0 - word_error_rate(answer, gold)


def rouge(answer: str, gold: str, options: list[str]) -> float:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L with stemming; 1 for equal plain texts.

    >>> rouge("Red.", "red", []), rouge("a red disc", "blue", [])
    (1.0, 0.0)
    """
    if is_same(answer, gold):
        return 1.0
    return min(rouge_mean(answer, gold), 1 - 1e-3)  # the same words in other spellings


# ---------------------------------------------------------------------------------------- yes or no


def score_yes_no(answer: str, gold: str, options: list[str]) -> float:
    """1 when both begin with the same of the two words: score_yes_no("No.", "no", []) = 1.0."""
    word = yes_no(answer)
    return float(word is not None and word == yes_no(gold))


# ----------------------------------------------------------------------------------------- temporal


def seconds(text: str) -> float | None:
    """A time in seconds or h:m:s: seconds("1:02.5") = 62.5; None when it is not one."""
    # no time has a dash before it; `number` would take that of "- 5" for the mark of a list
    fields = [None if is_dashed(field) else number(field) for field in text.split(":")]
    if len(fields) > 3 or any(value is None or value < 0 for value in fields):
        return None
    return sum(value * 60**power for power, value in enumerate(reversed(fields)))


# "[start, end]"; the lengths are bounded, so that a hostile answer costs linear time
SPAN = re.compile(r"\[([^\[\],]{1,40}),([^\[\],]{1,40})\]")


def intervals(text: str) -> list[tuple[float, float]]:
    """The time spans of an answer "[s, e]; [s, e]", merged and sorted.

    Spans that do not parse, or that end before they start, are left out.

    >>> intervals("[1, 2.5]; [0:02, 0:04]"), intervals("from 1 to 2"), intervals("[3, 1]")
    ([(1.0, 4.0)], [], [])
    """
    spans = []
    for first, second in SPAN.findall(text):
        start, end = seconds(first), seconds(second)
        if start is not None and end is not None and start < end:
            spans.append((start, end))

    # overlapping spans become one, so that no second counts twice
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def are_intervals(text: str) -> bool:
    """Whether this is nothing but time spans, each of which ends after it starts.

    >>> are_intervals("[1, 2]; [3, 4]"), are_intervals("[1, 2]; 3 to 4"), are_intervals("[2, 1]")
    (True, False, False)
    """
    spans = [match[0] for match in SPAN.finditer(text)]
    others = SPAN.sub("", text).replace("and", "")
    return all(intervals(span) for span in spans) and not others.strip(" \t\n;,.[]")


def temporal_iou(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    """Length of the intersection over that of the union of two sets of merged spans.

    >>> temporal_iou([(0.0, 4.0)], [(2.0, 6.0)])                  # 2 s of 6 s
    0.3333333333333333
    """
    overlap = 0.0
    for start_a, end_a in a:
        overlap += sum(max(0.0, min(end_a, end) - max(start_a, start)) for start, end in b)
    union = sum(end - start for start, end in a) + sum(end - start for start, end in b) - overlap
    return overlap / union if union else 0.0


def read_intervals(answer: str, options: list[str]) -> str | None:
    """The merged spans: read_intervals("[0:01, 2]", []) = '1.00-2.00'."""
    return "; ".join(f"{start:.2f}-{end:.2f}" for start, end in intervals(answer)) or None


def score_intervals(answer: str, gold: str, options: list[str]) -> float:
    """IoU of the time spans: score_intervals("[2, 6]", "[0, 4]", []) = 1/3."""
    return temporal_iou(intervals(answer), intervals(gold))


# --------------------------------------------------------------------------------------------- code


def read_code(answer: str, options: list[str]) -> str | None:
    """The code with white space folded: read_code("x  = 1", []) = 'x = 1'."""
    return " ".join(answer.split()) or None


def score_code(answer: str, gold: str, options: list[str]) -> float:
    """1 when both are equal but for white space: score_code("f( 1 )", "f(  1 )", []) = 1.0."""
    return float(answer.split() == gold.split())


# ------------------------------------------------------------------------------------- localisation


def places(text: str) -> frozenset[tuple[str, str]]:
    """The (place, thing) pairs of a localisation answer.

    >>> sorted(places("left: red square | right: Blue disc"))
    [('left', 'red square'), ('right', 'blue disc')]
    """
    pairs = set()
    for item in text.split("|"):
        place, colon, thing = item.partition(":")
        if colon:
            pairs.add((plain(place), plain(thing)))
    return frozenset(pairs)


def are_places(text: str) -> bool:
    """Whether this is nothing but "place: thing", joined by |. The colon of a time is none.

    >>> are_places("left: a | right: clock at 3:15"), are_places("left: a, right: b")
    (True, False)
    >>> are_places("left: a | right b")
    False
    """
    for item in text.split("|"):
        place, _, thing = item.partition(":")
        n_colons = len(re.findall(r":(?!\d)|(?<!\d):", item))
        if n_colons != 1 or not place.strip() or not thing.strip():
            return False
    return True


def read_places(answer: str, options: list[str]) -> str | None:
    """The pairs in order: read_places("right: b|left: A", []) = 'left: a | right: b'."""
    return " | ".join(f"{place}: {thing}" for place, thing in sorted(places(answer))) or None


def score_places(answer: str, gold: str, options: list[str]) -> float:
    """F1 of the (place, thing) pairs: score_places("left: a | right: b", "left: a", []) = 2/3."""
    return f1(places(answer), places(gold))


# ---------------------------------------------------------------------------------------- the table

# The labels are those of Video-R1, the released AVATAR, IntentBench / HumanOmniV2 and EchoInk.
PROBLEM_TYPES = {
    entry.name: entry
    for entry in (
        ProblemType(
            name="multiple choice",
            labels=("multiple_choice",),
            instruction="Answer with the letter.",
            direct="Answer with the option's letter only.",
            read=letter_of,
            score=score_letter,
        ),
        ProblemType(
            name="multi-label",
            labels=("multi_label", "emer_ov_mc", "emer_ov"),
            instruction="Answer with the letters, joined by commas.",
            direct="Answer with the letters of all options that apply, joined by commas.",
            read=read_labels,
            score=score_labels,
        ),
        ProblemType(
            name="numeric",
            labels=("numerical",),
            instruction="Answer with a number.",
            direct="Answer with a number only.",
            read=read_number,
            score=score_numeric,
        ),
        ProblemType(
            name="regression",
            labels=(),
            instruction="Answer with a number.",
            direct="Answer with a number only.",
            read=read_number,
            score=score_regression,
        ),
        ProblemType(
            name="counting",
            labels=(),
            instruction="Answer with a number.",
            direct="Answer with a number only.",
            read=read_number,
            score=score_counting,
        ),
        ProblemType(
            name="ocr",
            labels=("OCR", "text_recognition"),
            instruction="Answer with the text as it is written.",
            direct="Answer with the text as it is written only.",
            read=read_text,
            score=word_accuracy,
        ),
        ProblemType(
            name="free-form",
            labels=("free_form", "descriptive"),
            instruction="Answer briefly.",
            direct="Answer with a word or a short phrase only.",
            read=read_text,
            score=rouge,
        ),
        ProblemType(
            name="yes/no",
            labels=("judge",),
            instruction="Answer yes or no.",
            direct="Answer yes or no only.",
            read=yes_no,
            score=score_yes_no,
        ),
        ProblemType(
            name="temporal",
            labels=("temporal_iou", "temporal_grounding", "temporal retrieval"),
            instruction="Answer with time spans in seconds, [start, end], joined by ;.",
            direct="Answer with time spans in seconds, [start, end], joined by ;, only.",
            read=read_intervals,
            score=score_intervals,
        ),
        ProblemType(
            name="code",
            labels=(),
            instruction="Answer with the code.",
            direct="Answer with the code only.",
            read=read_code,
            score=score_code,
        ),
        ProblemType(
            name="localisation",
            labels=("localization",),
            instruction="Answer with place: shape, joined by |.",
            direct="Answer with place: shape, joined by |, only.",
            read=read_places,
            score=score_places,
        ),
    )
}


def problem_type(label: str) -> ProblemType:
    """The problem type that a label or a name stands for. ValueError, naming all known, if none.

    >>> problem_type("numerical").name, problem_type("numeric").name
    ('numeric', 'numeric')
    """
    known = []
    for entry in PROBLEM_TYPES.values():
        if label == entry.name or label in entry.labels:
            return entry
        known += [entry.name, *entry.labels]
    # reprlib: a label may be any text, of any length
    raise ValueError(
        f"unknown problem type {reprlib.repr(label)}; known: {', '.join(sorted(known))}"
    )


def unreachable(gold: str, problem_type: ProblemType, options: list[str]) -> str | None:
    """Why no reply could be rewarded 1 for this gold answer; None where one can.

    Such a record would never have a success, whatever is answered: formats/load.py leaves it out.

    >>> print(unreachable("B", PROBLEM_TYPES["multiple choice"], ["A. red", "B. blue"]))
    None
    >>> unreachable("E", PROBLEM_TYPES["multiple choice"], ["A. red", "B. blue"])
    "'E' is none of its 2 options"
    >>> unreachable("maybe", PROBLEM_TYPES["yes/no"], [])
    "'maybe' is no answer of the type yes/no"
    """
    # every letter that is named has to be an option's
    if options and problem_type.name in ("multiple choice", "multi-label"):
        labels = labels_of(gold, options)
        if problem_type.name == "multiple choice":
            labels = {letter_of(gold, options) or gold}
        unknown = sorted(labels - set(bodies_of(options)))
        if unknown:
            return f"{unknown[0]!r} is none of its {len(options)} options"

    # `number` takes the dash for the mark of a list, which in a data file it hardly is; a reply may
    # say "none" for 0, but in a data file it says that there is no answer
    if problem_type.name in ("numeric", "regression", "counting"):
        if is_dashed(gold):
            return (
                f'{gold!r} has a dash and a blank before the number, which is no sign; write "-5"'
            )
        if plain(gold) in ("none", "no"):
            return f'{gold!r} may be 0 or no answer at all; write "0", or remove the record'

    if problem_type.read(gold, options) is None:
        return f"{gold!r} is no answer of the type {problem_type.name}"
    if problem_type.score(gold, gold, options) < 1 - 1e-6:
        return f"{gold!r} is no answer of the type {problem_type.name}"

    # what is read of a reply in part is refused here: the other part would be lost
    if problem_type.name == "temporal" and not are_intervals(gold):
        return f"{gold!r} is not time spans alone; write [start, end], joined by ;"
    if problem_type.name == "localisation" and not are_places(gold):
        return f"{gold!r} is not places alone; write place: thing, joined by |"
    return None
