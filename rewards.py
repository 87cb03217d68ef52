"""rewards.py: what a completion is worth. Pure functions of text; every reward lies in [0, 1].

    format    the whole completion is one <think>...</think> followed by one <answer>...</answer>
    accuracy  the answer against the gold one, by problem type
    self      agreement with the majority answer of the group's fresh completions
    judge     mean of four criteria in [0, 1], given by a judge (on the toy: an oracle that knows the scene)

Stage table (method section 7): 1 = 0.5 format + 0.5 accuracy, 2 = 0.2 format + 0.4 accuracy + 0.4 self, 3 = 0.5 format + 0.5 judge.

Problem types (rules: `accuracy_reward`) and the labels of the training sets that mean them are in PROBLEM_TYPES.

How this differs from the paper and its released trainer:
 1. An unknown problem type is an error, never an exact match (the released trainer's branches match none of Video-R1's labels).
 2. Self reward: a tie gives every tied answer 1/ties (the trainer gives the first one 1), and an unparsable answer never wins.
 3. A judge's missing score falls back to the stage's other rewards, re-weighted; it is never 0.

This module imports nothing of ours.
"""

import re
from collections import Counter

from problems import accuracy_reward, normalise

STAGE_REWARDS = {
    1: {"format": 0.5, "accuracy": 0.5},
    2: {"format": 0.2, "accuracy": 0.4, "self": 0.4},
    3: {"format": 0.5, "judge": 0.5},
}


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
    answer = tail[start + len("<answer>") : end].strip() if end >= 0 and start >= 0 else ""
    return reasoning.strip(), answer or None


def final_answer(text: str) -> str:
    """What a reply answers, whether it uses tags or not: split_completion's answer; without one, what follows </think>; without that, the whole reply. Empty
    when it never stopped thinking.

    >>> final_answer("<think>2 + 2</think><answer>4</answer>"), final_answer("<think>2 + 2</think> It is 4."), final_answer("B"), final_answer("<think>2 +")
    ('4', 'It is 4.', 'B', '')
    """
    answer = split_completion(text)[1]
    if answer is not None:
        return answer
    tail = text.rpartition("</think>")[2].partition("<think>")[0]
    return " ".join(re.split("</?answer>", tail)).strip()


def format_reward(text: str) -> float:
    """1 when the whole completion is one think block, optional white space, one answer block (each tag once, in order); else 0.

    >>> format_reward("<think>a</think><answer>b</answer>"), format_reward("<think>a</think> so <answer>b</answer>")
    (1.0, 0.0)
    """
    text = text.strip()
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if (
        any(text.count(tag) != 1 for tag in tags)
        or not text.startswith("<think>")
        or not text.endswith("</answer>")
    ):
        return 0.0
    between = text[
        text.index("</think>") + len("</think>") : max(
            text.index("<answer>"), text.index("</think>")
        )
    ]
    ordered = text.index("</think>") < text.index("<answer>") < text.index("</answer>")
    return float(ordered and not between.strip())


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


def weighted(parts: dict[str, float | None], weights: dict[str, float]) -> float:
    """sum of weight * part; a missing part (None) is left out and the other weights grow to the same total.

    >>> weighted({"format": 1.0, "judge": None}, {"format": 0.5, "judge": 0.5})
    1.0
    """
    present = {name: w for name, w in weights.items() if parts[name] is not None}
    scale = sum(weights.values()) / sum(present.values()) if present else 0.0
    return sum(w * scale * parts[name] for name, w in present.items())


def score_group(
    texts: list[str],
    gold: str,
    problem_type: str,
    options: list[str],
    stage: int,
    verdicts: list[dict[str, float] | None] | None = None,
    format_penalty: float = 0.0,
) -> list[dict[str, float | None]]:
    """Score the fresh completions of ONE prompt. Returns per completion: format, accuracy, self, judge and their stage-weighted
    `reward`; a part the stage does not use and cannot know is None.

    verdicts: the judge's {criterion: score in [0, 1]} of each completion, None where it gave no usable one; needed in stage 3 only. Where one
    is missing the whole group is scored by the other parts: a single completion without it would be measured by another ruler than its rivals.
    format_penalty: the format part of a badly formed completion (0, or -1 as one summary of the paper has it).
    """
    if stage not in STAGE_REWARDS:
        raise ValueError(
            f"stage {stage} has no reward table; stages with rewards: {sorted(STAGE_REWARDS)}"
        )
    read = [split_completion(t) for t in texts]
    votes = self_rewards([normalise(answer, problem_type, options) for _, answer in read])
    scored, unjudged = [], {} if verdicts and all(verdicts) else {"judge": None}
    for text, (_, answer), vote, verdict in zip(
        texts, read, votes, verdicts or [None] * len(texts), strict=True
    ):
        parts: dict[str, float | None] = {
            "format": format_reward(text) or format_penalty,
            "accuracy": accuracy_reward(answer, gold, problem_type, options),
            "self": vote,
            "judge": None,
        }
        if verdict:
            parts["judge"] = sum(verdict.values()) / len(verdict)
        scored.append(parts | {"reward": weighted(parts | unjudged, STAGE_REWARDS[stage])})
    return scored
