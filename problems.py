"""problems.py: problem types: labels, reading an answer, scoring it."""

import itertools
import re

# canonical problem type: its labels in Video-R1, the released AVATAR, IntentBench / HumanOmniV2 and EchoInk, and our own
LABELS = {
    "multiple choice": ("multiple choice", "multiple_choice"),
    "multi-label": ("multi-label", "multi_label", "emer_ov_mc", "emer_ov"),
    "numeric": ("numeric", "numerical"),
    "regression": ("regression",),
    "counting": ("counting",),
    "ocr": ("OCR", "ocr", "text_recognition"),
    "free-form": ("free-form", "free_form", "descriptive"),
    "yes/no": ("yes/no", "judge"),
    "temporal": ("temporal", "temporal_iou", "temporal_grounding", "temporal retrieval"),
    "code": ("code",),
    "localisation": ("localisation", "localization"),
}

PROBLEM_TYPES = {label: kind for kind, labels in LABELS.items() for label in labels}

NUMBER_WORDS = {
    "no": 0,
    "none": 0,
    "zero": 0,
    "once": 1,
    "one": 1,
    "twice": 2,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
    "twenty": 20,
}

TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}


def canonical_type(label: str) -> str:
    """The canonical problem type of a data set's label. Raises ValueError for an unknown one.

    >>> canonical_type("numerical")
    'numeric'
    """
    if label not in PROBLEM_TYPES:
        raise ValueError(
            f"unknown problem type '{label}'; known: {', '.join(sorted(PROBLEM_TYPES))}"
        )
    return PROBLEM_TYPES[label]


def letter_of(answer: str, options: list[str]) -> str | None:
    """The option letter an answer means: a lone letter ("B", "(b).", "B. red disc"), or the text of exactly one option.

    >>> letter_of("(b)", ["A. red", "B. blue"]), letter_of("blue", ["A. red", "B. blue"]), letter_of("green", ["A. red", "B. blue"])
    ('B', 'B', None)
    """
    said = answer.strip()
    if match := re.fullmatch(r"\(?([A-Za-z])\)?(?:[.:)].*)?", said, flags=re.DOTALL):
        return match.group(1).upper()
    named = [o for o in options if plain(o.split(".", 1)[-1]) == plain(said) != ""]
    return named[0].strip()[0].upper() if len(named) == 1 else None


def plain(text: str) -> str:
    """Lower case, white space folded, outer punctuation gone: plain(' Red  disc. ') = 'red disc'."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'()")


def number(text: str) -> float | None:
    """A plain number, thousands separators removed: number('1,200') = 1200.0; None when it is not one."""
    try:
        value = float(text.strip().rstrip(".").replace(",", ""))
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def count_of(text: str) -> float | None:
    """A count in digits or in words below a thousand: count_of("Three.") = 3.0, count_of("twenty-one") = 21.0; None when it is neither."""
    value = number(text)
    if value is not None or plain(text) in NUMBER_WORDS:
        return float(NUMBER_WORDS[plain(text)]) if value is None else value
    total, words = 0, plain(text).replace("-", " ").replace(" and ", " ").split()
    for before, word in itertools.pairwise(["", *words]):
        if word == "hundred" and 1 <= total <= 9:
            total *= 100
        elif word in TENS or (
            0 < NUMBER_WORDS.get(word, 0) < 20
            and (not before or before == "hundred" or (before in TENS and NUMBER_WORDS[word] < 10))
        ):
            total += TENS.get(word) or NUMBER_WORDS[word]
        else:
            return None
    return float(total) if total else None


def labels_of(text: str, options: list[str]) -> frozenset[str]:
    """The labels of a multi-label answer: option letters where an item means one, else its plain text.

    >>> sorted(labels_of("B, e", ["A. x", "B. y", "E. z"])), sorted(labels_of("Happy; calm", []))
    (['B', 'E'], ['calm', 'happy'])
    """
    items = [item for item in re.split(r"[,;|\n]", text) if plain(item)]
    return frozenset(letter_of(item, options) or plain(item) for item in items)


def yes_no(text: str) -> str | None:
    """'yes' or 'no' by the answer's first word, None otherwise: yes_no("Yes, it does.") = 'yes'."""
    first = plain(text).split(" ")[0].strip(",.;:!")
    return first if first in ("yes", "no") else None


def seconds(text: str) -> float | None:
    """A time in seconds or h:m:s: seconds("1:02.5") = 62.5; None when it is not one."""
    parts = [number(part) for part in text.split(":")]
    if len(parts) > 3 or any(part is None or part < 0 for part in parts):
        return None
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def intervals(text: str) -> list[tuple[float, float]]:
    """The time spans of a temporal answer, "[s, e]; [s, e]", merged and sorted; spans that do not parse or are empty are left out.

    >>> intervals("[1, 2.5]; [0:02, 0:04]"), intervals("from 1 to 2"), intervals("[3, 1]")
    ([(1.0, 4.0)], [], [])
    """
    spans = []
    for item in re.findall(r"\[([^\[\],]{1,40}),([^\[\],]{1,40})\]", text):
        start, end = seconds(item[0]), seconds(item[1])
        if start is not None and end is not None and start < end:
            spans.append((start, end))
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def temporal_iou(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    """Length of the intersection over that of the union of two sets of merged spans.

    >>> temporal_iou([(0.0, 4.0)], [(2.0, 6.0)])                  # 2 s of 6 s
    0.3333333333333333
    """
    shared = sum(max(0.0, min(e1, e2) - max(s1, s2)) for s1, e1 in a for s2, e2 in b)
    total = sum(e - s for s, e in a) + sum(e - s for s, e in b) - shared
    return shared / total if total else 0.0


def word_accuracy(prediction: str, gold: str) -> float:
    """1 - word error rate, clipped to [0, 1], case and white space folded (jiwer): word_accuracy("EXIT left", "exit right") = 0.5."""
    said, truth = " ".join(prediction.lower().split()), " ".join(gold.lower().split())
    if not truth:
        return float(not said)
    import jiwer  # imported here: only OCR answers need it

    return max(0.0, 1.0 - jiwer.wer(truth, said))


def f1(said: set | frozenset, truth: set | frozenset) -> float:
    """F1 of two sets: f1({1, 2}, {2}) = 2 * 1 / 3; 0 when either is empty."""
    return 2 * len(said & truth) / (len(said) + len(truth)) if said and truth else 0.0


def rouge(prediction: str, gold: str) -> float:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L with stemming (rouge-score); 1 for equal plain texts.

    ROUGE-2 is left out when either side has fewer than two words: it is undefined there, and counting it as 0 would cap a
    right one-word answer at 2/3.

    >>> rouge("Red.", "red"), rouge("a red disc", "blue")
    (1.0, 0.0)
    """
    if plain(prediction) == plain(gold):
        return 1.0
    from rouge_score import rouge_scorer  # imported here: only free-form answers need it

    names = (
        ["rouge1", "rougeL"]
        if min(len(prediction.split()), len(gold.split())) < 2
        else ["rouge1", "rouge2", "rougeL"]
    )
    scores = rouge_scorer.RougeScorer(names, use_stemmer=True).score(gold, prediction)
    return sum(s.fmeasure for s in scores.values()) / len(names)


def places(text: str) -> frozenset[tuple[str, str]]:
    """The (place, thing) pairs of a localisation answer.

    >>> sorted(places("left: red square | right: Blue disc"))
    [('left', 'red square'), ('right', 'blue disc')]
    """
    return frozenset(
        (plain(a), plain(b))
        for a, colon, b in (item.partition(":") for item in text.split("|"))
        if colon
    )


def accuracy_reward(
    answer: str | None, gold: str, problem_type: str, options: list[str] | None = None
) -> float:
    """The accuracy reward in [0, 1] of an extracted answer (None: unparsable, 0), by canonical problem type.

    multiple choice  same letter (an option's text counts as its letter)       multi-label  F1 of the sets of letters or labels
    numeric          equal after rounding to 2 decimals                        yes/no       same first word
    regression       1 - min(1, |p - g| / |g|), the rMAE reward                ocr          1 - word error rate
    counting         1 - min(1, |p - g| / max(g, 1)), number words allowed     free-form    `rouge`
    temporal         IoU of the time spans                                     code         equal but for white space
    localisation     F1 of the (place, thing) pairs

    >>> accuracy_reward("B. blue", "B", "multiple choice"), accuracy_reward("3.0", "3", "numeric"), accuracy_reward(None, "3", "numeric")
    (1.0, 1.0, 0.0)
    >>> accuracy_reward("A, B", "B", "multi-label"), round(accuracy_reward("9", "12", "regression"), 6), accuracy_reward("three", "4", "counting")
    (0.6666666666666666, 0.75, 0.75)
    """
    options = options or []
    if answer is None:
        return 0.0
    if problem_type == "multiple choice":
        said = letter_of(answer, options)
        return float(said is not None and said == letter_of(gold, options))
    if problem_type == "multi-label":
        return f1(labels_of(answer, options), labels_of(gold, options))
    if problem_type == "numeric":
        said, truth = number(answer), number(gold)
        return float(said is not None and truth is not None and round(said, 2) == round(truth, 2))
    if problem_type == "regression":
        said, truth = number(answer), number(gold)
        return (
            0.0
            if said is None or truth is None
            else 1 - min(1.0, (abs(said - truth) + 1e-9) / (abs(truth) + 1e-9))
        )
    if problem_type == "counting":
        said, truth = count_of(answer), count_of(gold)
        return (
            0.0
            if said is None or truth is None
            else 1 - min(1.0, abs(said - truth) / max(truth, 1.0))
        )
    if problem_type == "ocr":
        return word_accuracy(answer, gold)
    if problem_type == "free-form":
        return rouge(answer, gold)
    if problem_type == "yes/no":
        return float(yes_no(answer) is not None and yes_no(answer) == yes_no(gold))
    if problem_type == "temporal":
        return temporal_iou(intervals(answer), intervals(gold))
    if problem_type == "code":
        return float(answer.split() == gold.split())
    if problem_type == "localisation":
        return f1(places(answer), places(gold))
    raise ValueError(
        f"no accuracy rule for problem type '{problem_type}'; known: {', '.join(LABELS)}"
    )


def normalise(
    answer: str | None, problem_type: str, options: list[str] | None = None
) -> str | None:
    """One text for all spellings of an answer, so that votes can be counted; None when it cannot be read as its type.

    >>> normalise("(b)", "multiple choice"), normalise("3.00", "numeric"), normalise("e, b", "multi-label", ["B. x", "E. y"])
    ('B', '3', 'B, E')
    """
    if answer is None:
        return None
    options = options or []
    if problem_type == "multiple choice":
        return letter_of(answer, options)
    if problem_type in ("numeric", "regression", "counting"):
        value = count_of(answer) if problem_type == "counting" else number(answer)
        return None if value is None else f"{round(value, 2):.15g}"
    if problem_type == "multi-label":
        return ", ".join(sorted(labels_of(answer, options))) or None
    if problem_type == "yes/no":
        return yes_no(answer)
    if problem_type == "temporal":
        return "; ".join(f"{s:.2f}-{e:.2f}" for s, e in intervals(answer)) or None
    if problem_type == "localisation":
        return " | ".join(f"{place}: {thing}" for place, thing in sorted(places(answer))) or None
    if problem_type == "code":
        return " ".join(answer.split()) or None
    return plain(answer) or None
