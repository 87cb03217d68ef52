"""rewards.py: what a completion is worth. Pure functions of text; every reward lies in [0, 1].

    format    the whole completion is one <think>...</think> followed by one <answer>...</answer>
    accuracy  the answer against the gold one, by problem type
    self      agreement with the majority answer of the group's fresh completions
    judge     mean of four criteria in [0, 1], given by a judge (on the toy: an oracle that knows the scene)

Stage table (method section 7): 1 = 0.5 format + 0.5 accuracy, 2 = 0.2 format + 0.4 accuracy + 0.4 self, 3 = 0.5 format + 0.5 judge.

How this differs from the paper and its released trainer:
 1. An unknown problem type is an error, never an exact match.
 2. Self reward: a tie gives every tied answer 1/ties (the trainer gives the first one 1), and an unparsable answer never wins.
 3. A judge's missing score falls back to the stage's other rewards, re-weighted; it is never 0.

This module imports nothing of ours.
"""
import re
from collections import Counter

STAGE_REWARDS = {1: {"format": 0.5, "accuracy": 0.5}, 2: {"format": 0.2, "accuracy": 0.4, "self": 0.4}, 3: {"format": 0.5, "judge": 0.5}}

# label in a data set -> canonical problem type
PROBLEM_TYPES = {"multiple choice": "multiple choice", "multiple_choice": "multiple choice", "numeric": "numeric", "numerical": "numeric",
                 "free-form": "free-form", "free_form": "free-form", "localisation": "localisation"}


def canonical_type(label: str) -> str:
    """The canonical problem type of a data set's label. Raises ValueError for an unknown one.

    >>> canonical_type("numerical")
    'numeric'
    """
    if label not in PROBLEM_TYPES:
        raise ValueError(f"unknown problem type '{label}'; known: {', '.join(sorted(PROBLEM_TYPES))}")
    return PROBLEM_TYPES[label]


# ---------------------------------------------------------------------------------------------- reading a completion
def split_completion(text: str) -> tuple[str, str | None]:
    """(reasoning, answer) of a completion, in time linear in its length; answer None when there is no closed, non-empty <answer>.

    The answer is the last <answer>...</answer> after the last </think>: tags inside the reasoning do not count.

    >>> split_completion("<think>2 + 2</think><answer> 4 </answer>")
    ('2 + 2', '4')
    >>> split_completion("no tags at all")
    ('no tags at all', None)
    """
    head, closed, tail = text.rpartition("</think>")
    reasoning = (head if closed else text.partition("<answer>")[0]).replace("<think>", "", 1)
    end = tail.rfind("</answer>")
    start = tail.rfind("<answer>", 0, max(end, 0))
    answer = tail[start + len("<answer>"): end].strip() if end >= 0 and start >= 0 else ""
    return reasoning.strip(), answer or None


def format_reward(text: str) -> float:
    """1 when the whole completion is one think block, optional white space, one answer block (each tag once, in order); else 0.

    >>> format_reward("<think>a</think><answer>b</answer>"), format_reward("<think>a</think> so <answer>b</answer>")
    (1.0, 0.0)
    """
    text = text.strip()
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags) or not text.startswith("<think>") or not text.endswith("</answer>"):
        return 0.0
    between = text[text.index("</think>") + len("</think>"): max(text.index("<answer>"), text.index("</think>"))]
    ordered = text.index("</think>") < text.index("<answer>") < text.index("</answer>")
    return float(ordered and not between.strip())


# ---------------------------------------------------------------------------------------------- accuracy
def letter_of(answer: str, options: list[str]) -> str | None:
    """The option letter an answer means: a lone letter ("B", "(b).", "B. red disc"), or the text of exactly one option.

    >>> letter_of("(b)", ["A. red", "B. blue"]), letter_of("blue", ["A. red", "B. blue"]), letter_of("green", ["A. red", "B. blue"])
    ('B', 'B', None)
    """
    said = answer.strip()
    if match := re.fullmatch(r"\(?([A-Za-z])\)?(?:[.:)].*)?", said, flags=re.DOTALL):
        return match.group(1).upper()
    named = [o for o in options if plain(o.split(".", 1)[-1]) == plain(said)]
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
    names = ["rouge1", "rougeL"] if min(len(prediction.split()), len(gold.split())) < 2 else ["rouge1", "rouge2", "rougeL"]
    scores = rouge_scorer.RougeScorer(names, use_stemmer=True).score(gold, prediction)
    return sum(s.fmeasure for s in scores.values()) / len(names)


def places(text: str) -> frozenset[tuple[str, str]]:
    """The (place, thing) pairs of a localisation answer.

    >>> sorted(places("left: red square | right: Blue disc"))
    [('left', 'red square'), ('right', 'blue disc')]
    """
    return frozenset((plain(a), plain(b)) for a, colon, b in (item.partition(":") for item in text.split("|")) if colon)


def accuracy_reward(answer: str | None, gold: str, problem_type: str, options: list[str] | None = None) -> float:
    """The accuracy reward in [0, 1] of an extracted answer (None: unparsable, 0), by canonical problem type.

    multiple choice: same letter (an option's text counts as its letter). numeric: equal after rounding to 2 decimals.
    free-form: `rouge`. localisation: F1 of the (place, thing) pairs.

    >>> accuracy_reward("B. blue", "B", "multiple choice"), accuracy_reward("3.0", "3", "numeric"), accuracy_reward(None, "3", "numeric")
    (1.0, 1.0, 0.0)
    """
    if answer is None:
        return 0.0
    if problem_type == "multiple choice":
        said = letter_of(answer, options or [])
        return float(said is not None and said == letter_of(gold, options or []))
    if problem_type == "numeric":
        said, truth = number(answer), number(gold)
        return float(said is not None and truth is not None and round(said, 2) == round(truth, 2))
    if problem_type == "free-form":
        return rouge(answer, gold)
    if problem_type == "localisation":
        said, truth = places(answer), places(gold)
        return 2 * len(said & truth) / (len(said) + len(truth)) if said and truth else 0.0
    raise ValueError(f"no accuracy rule for problem type '{problem_type}'; known: {', '.join(sorted(set(PROBLEM_TYPES.values())))}")


# ---------------------------------------------------------------------------------------------- self reward
def normalise(answer: str | None, problem_type: str, options: list[str] | None = None) -> str | None:
    """One text for all spellings of an answer, so that votes can be counted: normalise("(b)", "multiple choice") = 'B'."""
    if answer is None:
        return None
    if problem_type == "multiple choice":
        return letter_of(answer, options or [])
    if problem_type == "numeric":
        value = number(answer)
        return None if value is None else f"{round(value, 2):g}"
    if problem_type == "localisation":
        return str(sorted(places(answer))) if places(answer) else None
    return plain(answer) or None


def self_rewards(votes: list[str | None]) -> list[float]:
    """1 for the majority answer of a group, 1/ties for each of several tied ones, 0 otherwise; None (unparsable) never wins.

    >>> self_rewards(["3", "3", "2", None]), self_rewards(["3", "2"]), self_rewards([None, None])
    ([1.0, 1.0, 0.0, 0.0], [0.5, 0.5], [0.0, 0.0])
    """
    counts = Counter(v for v in votes if v is not None)
    if not counts:
        return [0.0] * len(votes)
    top = max(counts.values())
    winners = {v for v, n in counts.items() if n == top}
    return [1.0 / len(winners) if v in winners else 0.0 for v in votes]


# ---------------------------------------------------------------------------------------------- a whole group
def weighted(parts: dict[str, float | None], weights: dict[str, float]) -> float:
    """sum of weight * part; a missing part (None) is left out and the other weights grow to the same total.

    >>> weighted({"format": 1.0, "judge": None}, {"format": 0.5, "judge": 0.5})
    1.0
    """
    present = {name: w for name, w in weights.items() if parts[name] is not None}
    scale = sum(weights.values()) / sum(present.values()) if present else 0.0
    return sum(w * scale * parts[name] for name, w in present.items())


def score_group(texts: list[str], gold: str, problem_type: str, options: list[str], stage: int, judge=None,
                format_penalty: float = 0.0) -> list[dict[str, float | None]]:
    """Score the fresh completions of ONE prompt. Returns per completion: format, accuracy, self, judge and their stage-weighted
    `reward`; a part the stage does not use and cannot know is None.

    judge(reasoning, answer) -> {criterion: score in [0, 1]} or None when it gave no usable verdict; only asked in stage 3.
    format_penalty: the format part of a badly formed completion (0, or -1 as one summary of the paper has it).
    """
    if stage not in STAGE_REWARDS:
        raise ValueError(f"stage {stage} has no reward table; stages with rewards: {sorted(STAGE_REWARDS)}")
    read = [split_completion(t) for t in texts]
    votes = self_rewards([normalise(answer, problem_type, options) for _, answer in read])
    scored = []
    for text, (reasoning, answer), vote in zip(texts, read, votes, strict=True):
        parts: dict[str, float | None] = {"format": format_reward(text) or format_penalty,
                                          "accuracy": accuracy_reward(answer, gold, problem_type, options), "self": vote, "judge": None}
        if "judge" in STAGE_REWARDS[stage] and judge is not None:
            criteria = judge(reasoning, answer or "")
            parts["judge"] = sum(criteria.values()) / len(criteria) if criteria else None
        scored.append(parts | {"reward": weighted(parts, STAGE_REWARDS[stage])})
    return scored
