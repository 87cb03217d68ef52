"""rewards.py: what a completion is worth. Every reward is a pure function of text in [0, 1].

    format    the whole completion is one <think>...</think> followed by one <answer>...</answer>
    accuracy  the answer against the gold one, by problem type (problems.py)
    self      agreement with the majority answer of the prompt's fresh completions
    judge     mean of four criteria, given by a judge (on the toy: an oracle that knows the scene)

`score_group` computes all of them for the fresh completions of one prompt, and STAGE_REWARDS says
how much each of them weighs in which stage.

A new reward is a function of a ScoringGroup, an entry in REWARDS and a weight in STAGE_REWARDS.
It gives each completion a number. For example a length reward as in Video-R1, for right answers of
320 to 512 tokens, where more than one completion of the group is right:

    >>> def length_rewards(group):
    ...     right = [accuracy == 1 for accuracy in accuracy_rewards(group)]
    ...     if sum(right) < 2 or not group.lengths:  # a caller may not know the lengths
    ...         return [0.0] * len(right)
    ...     good = [320 <= n <= 512 for n in group.lengths]
    ...     return [float(r and g) for r, g in zip(right, good, strict=True)]
    >>> group = ScoringGroup(["<answer>3</answer>"] * 2, "3", "numeric", lengths=[400, 20])
    >>> length_rewards(group)
    [1.0, 0.0]

How this differs from the paper and its released trainer:
 1. An unknown problem type is an error, never an exact match (the released trainer's branches
    match none of Video-R1's labels).
 2. Self reward: a tie gives every tied answer 1/ties (the trainer gives the first one 1), and an
    unparsable answer never wins.
 3. A judge's missing score falls back to the stage's other rewards, re-weighted; it is never 0.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import problems

# stage: weight of each reward (method section 7); stage 0 is supervised and has none
STAGE_REWARDS = {
    1: {"format": 0.5, "accuracy": 0.5},
    2: {"format": 0.2, "accuracy": 0.4, "self": 0.4},
    3: {"format": 0.5, "judge": 0.5},
}


@dataclass
class ScoringGroup:
    """The fresh completions of ONE prompt, and everything that a reward may look at.

    texts: the completions. gold, problem_type, options: of the prompt's Sample.
    verdicts: the judge's {criterion: score in [0, 1]} of each completion, None where it gave none.
    lengths: tokens of each completion; empty where the caller does not know them.
    reasonings, answers: what split_completion finds in the texts.
    """

    texts: list[str]
    gold: str
    problem_type: str
    options: list[str] = field(default_factory=list)
    verdicts: list[dict[str, float] | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reasonings: list[str] = field(init=False)
    answers: list[str | None] = field(init=False)  # None: unparsable

    def __post_init__(self):
        pairs = [split_completion(text) for text in self.texts]
        self.reasonings = [reasoning for reasoning, _ in pairs]
        self.answers = [answer for _, answer in pairs]
        self.verdicts = self.verdicts or [None] * len(self.texts)


# --------------------------------------------------------------------------- reading a completion


def split_completion(text: str) -> tuple[str, str | None]:
    """(reasoning, answer) of a completion, in time linear in its length.

    The answer is the last <answer>...</answer> after the last </think>: tags inside the reasoning
    do not count. It is None when there is no closed, non-empty <answer>.

    >>> split_completion("<think>2 + 2</think><answer> 4 </answer>")
    ('2 + 2', '4')
    >>> split_completion("no tags at all")
    ('no tags at all', None)
    """
    # without a </think>, rpartition leaves everything in `tail`
    head, closed, tail = text.rpartition("</think>")
    reasoning = head if closed else text.partition("<answer>")[0]
    reasoning = reasoning.replace("<think>", "", 1).strip()

    # plain searches from the end: a backtracking pattern would hang on nested tags
    end = tail.rfind("</answer>")
    start = tail.rfind("<answer>", 0, max(end, 0))
    if start < 0 or end < 0:
        return reasoning, None
    return reasoning, tail[start + len("<answer>") : end].strip() or None


def final_answer(text: str) -> str:
    """What a reply answers, whether it uses tags or not.

    The answer of split_completion; without one, what follows </think>; without that, the whole
    reply. Empty when it never stopped thinking.

    >>> final_answer("<think>2 + 2</think><answer>4</answer>"), final_answer("B")
    ('4', 'B')
    >>> final_answer("<think>2 + 2</think> It is 4."), final_answer("<think>2 +")
    ('It is 4.', '')
    """
    answer = split_completion(text)[1]
    if answer is not None:
        return answer
    tail = text.rpartition("</think>")[2].partition("<think>")[0]
    return " ".join(re.split("</?answer>", tail)).strip()


# --------------------------------------------------------------------------- the rewards


def format_reward(text: str) -> float:
    """1 for one think block, optional white space, one answer block and nothing else; else 0.

    >>> format_reward("<think>a</think><answer>b</answer>")
    1.0
    >>> format_reward("<think>a</think> so <answer>b</answer>")
    0.0
    """
    text = text.strip()
    if not text.startswith("<think>") or not text.endswith("</answer>"):
        return 0.0
    if any(text.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return 0.0

    # each tag is there once: only white space may stand between the two blocks
    between = text.partition("</think>")[2].partition("<answer>")
    return float("<answer>" in between and not between[0].strip())


def accuracy_reward(
    answer: str | None, gold: str, problem_type: str, options: list[str] | None = None
) -> float:
    """The accuracy in [0, 1] of an extracted answer, by problem type; 0 for None (unparsable).

    >>> accuracy_reward("B. blue", "B", "multiple choice"), accuracy_reward(None, "3", "numeric")
    (1.0, 0.0)
    """
    kind = problems.problem_type(problem_type)
    return 0.0 if answer is None else kind.score(answer, gold, options or [])


def is_right(accuracy: float) -> bool:
    """Is an answer completely right? An accuracy may miss 1 by rounding."""
    return accuracy >= 1 - 1e-6


def majority_rewards(votes: list[str | None]) -> list[float]:
    """1 for the majority vote, 1/ties for each of several tied ones, else 0; None never wins.

    >>> majority_rewards(["3", "3", "2", None]), majority_rewards(["3", "2"])
    ([1.0, 1.0, 0.0, 0.0], [0.5, 0.5])
    >>> majority_rewards([None, None])
    [0.0, 0.0]
    """
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    winners = [vote for vote, count in counts.items() if count == most]
    return [1.0 / len(winners) if vote in winners else 0.0 for vote in votes]


# --------------------------------------------------------------------------- a group's rewards


def format_rewards(group: ScoringGroup) -> list[float]:
    return [format_reward(text) for text in group.texts]


def accuracy_rewards(group: ScoringGroup) -> list[float]:
    return [
        accuracy_reward(answer, group.gold, group.problem_type, group.options)
        for answer in group.answers
    ]


def self_rewards(group: ScoringGroup) -> list[float]:
    """Answers vote in their canonical spelling, so that "(b)" and "B. blue" are one vote."""
    kind = problems.problem_type(group.problem_type)
    votes = [
        None if answer is None else kind.read(answer, group.options) for answer in group.answers
    ]
    return majority_rewards(votes)


def judge_rewards(group: ScoringGroup) -> list[float | None]:
    return [sum(v.values()) / len(v) if v else None for v in group.verdicts]


# Name in STAGE_REWARDS, in metrics and in the buffer: one value per completion. None, where a
# judge gave no verdict, is for the judge alone: such groups are not stored for replay.
REWARDS: dict[str, Callable[[ScoringGroup], list[float | None]]] = {
    "format": format_rewards,
    "accuracy": accuracy_rewards,
    "self": self_rewards,
    "judge": judge_rewards,
}


def weighted(parts: dict[str, float | None], weights: dict[str, float]) -> float:
    """sum of weight * part; without the missing parts, whose weight the other ones take over.

    >>> weighted({"format": 1.0, "judge": None}, {"format": 0.5, "judge": 0.5})
    1.0
    """
    known = {name: weight for name, weight in weights.items() if parts[name] is not None}
    total = sum(weight * parts[name] for name, weight in known.items())
    if len(known) == len(weights) or not known:
        return total
    return total * sum(weights.values()) / sum(known.values())


def score_group(
    texts: list[str],
    gold: str,
    problem_type: str,
    options: list[str],
    stage: int,
    verdicts: list[dict[str, float] | None] | None = None,
    lengths: list[int] | None = None,
) -> list[dict[str, float | None]]:
    """Score the fresh completions of ONE prompt: per completion every part of REWARDS + `reward`.

    `reward` is the sum that STAGE_REWARDS weighs. Parts that the stage does not use are reported
    all the same, so that they can be watched. verdicts, lengths: see ScoringGroup.
    """
    if stage not in STAGE_REWARDS:
        raise ValueError(f"stage {stage} has no reward table; known stages: {[*STAGE_REWARDS]}")
    group = ScoringGroup(texts, gold, problem_type, options, verdicts or [], lengths or [])
    values = {name: values_of(name, group) for name in REWARDS}

    # where one completion lacks a part, the whole group is scored without it: else that completion
    # would be scored by other weights than its rivals
    weights = STAGE_REWARDS[stage]
    missing = {name: None for name in weights if None in values[name]}

    # plain floats: a checkpoint holds no NumPy numbers (torch.load(weights_only=True))
    scores = []
    for i in range(len(texts)):
        parts = {}
        for name, of_group in values.items():
            parts[name] = None if of_group[i] is None else float(of_group[i])
        scores.append(parts | {"reward": weighted(parts | missing, weights)})
    return scores


def values_of(name: str, group: ScoringGroup) -> list[float | None]:
    """What a reward of REWARDS gives. Raises ValueError that names it where that is not one number
    for each completion."""
    values = REWARDS[name](group)
    if len(values) != len(group.texts):
        raise ValueError(
            f"reward '{name}' gave {len(values)} values for {len(group.texts)} completions; "
            "it must give one for each"
        )
    if name != "judge" and None in values:
        raise ValueError(
            f"reward '{name}' gave None; only the judge may, and groups without a verdict are not "
            "stored for replay. Give 0 where the reward does not apply"
        )
    return values


def has_all_parts(group_scores: list[dict], stage: int) -> bool:
    """Does every completion of a group have every part that the stage weighs?

    A group without a verdict is scored by its other parts alone: its rewards compare with each
    other, and with those of no other visit.

    >>> has_all_parts([{"format": 1.0, "judge": 0.4}, {"format": 1.0, "judge": None}], 3)
    False
    """
    for parts in group_scores:
        if any(parts[name] is None for name in STAGE_REWARDS[stage]):
            return False
    return True


def score_prompts(prompts, completions, stage: int, judge=None) -> list[list[dict]]:
    """Score the completions of several prompts: per prompt the list that `score_group` gives.

    prompts: data.Prompt; completions: per prompt its list of rollout.Completion. judge: of stage 3,
    called once with (sample, reasoning, answer) of all completions.
    """
    verdicts = itertools.repeat(None)
    if judge is not None:
        questions = []
        for prompt, group in zip(prompts, completions, strict=True):
            for completion in group:
                reasoning, answer = split_completion(completion.text)
                questions.append((prompt.sample, reasoning, answer or ""))
        verdicts = iter(judge(questions))

    scores = []
    for prompt, group in zip(prompts, completions, strict=True):
        sample = prompt.sample
        scores.append(
            score_group(
                [completion.text for completion in group],
                sample.answer,
                sample.problem_type,
                sample.options,
                stage,
                list(itertools.islice(verdicts, len(group))),
                [len(completion.tokens) for completion in group],
            )
        )
    return scores


# a weight without a function would end a run at its first step; it ends the import instead
for _stage, _weights in STAGE_REWARDS.items():
    for _name in _weights:
        if _name not in REWARDS:
            raise ValueError(f"STAGE_REWARDS[{_stage}] weighs '{_name}', which REWARDS lacks")
