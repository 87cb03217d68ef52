"""rewards.py against the written rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from data import Prompt
from formats.sample import Sample
from problems import PROBLEM_TYPES
from rewards import (
    ScoringGroup,
    format_reward,
    has_all_parts,
    majority_rewards,
    score_group,
    score_prompts,
    split_completion,
    weighted,
)
from rollout import Completion

GOOD = "<think>look</think><answer>B</answer>"
WRONG = "<think>x</think><answer>A</answer>"
CHOICE = ("B", "multiple choice", [])  # gold, problem type, options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1),
        (" <think>a</think>\n\n<answer>b</answer> ", 1),
        ("<think></think><answer></answer>", 1),
        ("<answer>b</answer>", 0),
        ("<think>a</think>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        (GOOD + "!", 0),
        ("x" + GOOD, 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("", 0),
        ("<think>a<answer>b</think></answer>", 0),
    ],
)
def test_format(text, expected):
    assert format_reward(text) == expected


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        (GOOD, "look", "B"),
        ("<think>a", "a", None),
        ("no tags", "no tags", None),
        ("<think>a</think>B", "a", None),
        ("<answer>7</answer>", "", "7"),
        (
            "<think>is it <answer>A</answer>?</think><answer>B</answer>",
            "is it <answer>A</answer>?",
            "B",
        ),
        ("<think>a</think><answer>A</answer><answer>B</answer>", "a", "B"),
        ("<think>a</think><answer> </answer>", "a", None),
        ("<think>a</think></answer><answer>", "a", None),
    ],
)
def test_split_completion(text, reasoning, answer):
    assert split_completion(text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (["3", "3", "2", None], [1, 1, 0, 0]),
        (["3", "2", "3", "2"], [0.5] * 4),
        (["1", "2", None, None], [0.5, 0.5, 0, 0]),
        ([None, None], [0, 0]),
        (["7"], [1]),
    ],
)
def test_self_reward(votes, expected):
    assert majority_rewards(votes) == expected


def test_spellings_of_one_answer_are_one_vote():
    texts = [f"<answer>{answer}</answer>" for answer in ("(b)", "B. blue", "A", "A or B")]
    assert rewards.self_rewards(ScoringGroup(texts, *CHOICE)) == [1, 1, 0, 0]


def test_stage_tables_by_hand():
    two = score_group([GOOD, GOOD, WRONG, "B"], *CHOICE, 2)  # 0.2 format + 0.4 accuracy + 0.4 self
    assert [s["reward"] for s in two] == pytest.approx([1.0, 1.0, 0.2, 0.0])
    one = score_group([GOOD, WRONG, "B"], *CHOICE, 1)
    assert [s["reward"] for s in one] == pytest.approx([1.0, 0.5, 0.0])
    verdict = {"audio": 1.0, "visual": 0.5, "location": 0.0, "caption": 0.5}
    three = score_group([GOOD], *CHOICE, 3, [verdict])
    assert three[0]["judge"] == 0.5 and three[0]["reward"] == pytest.approx(0.75)


def test_a_missing_verdict_is_not_zero():
    """Without one verdict the format alone scores the whole group: else the unjudged completion
    would beat its judged rivals."""
    verdict = {"audio": 1.0, "visual": 1.0, "location": 0.0, "caption": 0.0}
    group = score_group([GOOD, GOOD, "B"], *CHOICE, 3, [verdict, None, verdict])
    assert [s["reward"] for s in group] == [1.0, 1.0, 0.0]
    assert [s["judge"] for s in group] == [0.5, None, 0.5]

    judged = score_group([GOOD, "B"], *CHOICE, 3, [verdict, verdict])
    assert [s["reward"] for s in judged] == [0.75, 0.25]
    assert weighted({"format": None, "judge": None}, {"format": 0.5, "judge": 0.5}) == 0.0


def test_a_stage_without_rewards_is_refused():
    with pytest.raises(ValueError, match="stage 0"):
        score_group([GOOD], *CHOICE, 0)


def test_a_new_reward_is_a_function_and_a_weight(monkeypatch):
    """A length reward reads the tokens, and its weight alone lets it count."""

    def length_rewards(group: ScoringGroup) -> list[float]:
        return [float(length >= 320) for length in group.lengths]

    monkeypatch.setitem(rewards.REWARDS, "length", length_rewards)
    watched = score_group([GOOD, WRONG], *CHOICE, 1, lengths=[400, 20])
    assert [s["length"] for s in watched] == [1.0, 0.0]
    assert [s["reward"] for s in watched] == [1.0, 0.5]

    monkeypatch.setitem(rewards.STAGE_REWARDS, 1, {"format": 0.5, "accuracy": 0.3, "length": 0.2})
    scored = score_group([GOOD, WRONG], *CHOICE, 1, lengths=[400, 20])
    assert [s["reward"] for s in scored] == pytest.approx([1.0, 0.5])
    assert score_group([GOOD], *CHOICE, 1, lengths=[20])[0]["reward"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "reward 'brevity' gave 0 values for 2 completions; it must give one for each"),
        ([1.0, None], "reward 'brevity' gave None; only the judge may"),
    ],
)
def test_a_reward_that_gives_no_number_is_named(monkeypatch, values, message):
    """A group with a None would not be stored, and replay would never begin."""
    monkeypatch.setitem(rewards.REWARDS, "brevity", lambda group: values)
    with pytest.raises(ValueError, match=message):
        score_group([GOOD, WRONG], *CHOICE, 2)


TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
TAGGED = st.lists(st.sampled_from([*TAGS, "A", " ", "3.5", "left: x", "|", "\n"]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(max_size=200), TAGGED.map("".join)),
    kind=st.sampled_from(sorted(PROBLEM_TYPES)),
    gold=st.text(max_size=20),
)
def test_any_text_is_scored_in_range(text, kind, gold):
    for parts in score_group([text, GOOD], gold, kind, ["A. x", "B. y"], 2):
        assert all(0 <= value <= 1 for value in parts.values() if value is not None)


def test_megabytes_of_nested_tags_are_scored():
    """A backtracking pattern would not return from this; a linear scan does at once."""
    text = "<answer></think><think></answer>" * 100_000
    assert format_reward(text) == 0 and split_completion(text)[1] is None


# ------------------------------------------------------------------ several prompts
def completions_of(*texts: str) -> list[Completion]:
    return [Completion([0] * len(text), [0.0] * len(text), text, True) for text in texts]


def two_prompts() -> list[Prompt]:
    first = Sample("q1", "?", "multiple choice", "B")
    second = Sample("q2", "?", "numeric", "3")
    return [Prompt(sample, False, None, None) for sample in (first, second)]


def test_prompts_are_scored_against_their_own_answers():
    """Each as score_group does it, with its own gold answer, type, and lengths."""
    texts = [[GOOD, WRONG], ["<think>x</think><answer>3</answer>", "nothing"]]
    completions = [completions_of(*group) for group in texts]
    scores = score_prompts(two_prompts(), completions, stage=2)
    assert scores == [
        score_group(texts[0], "B", "multiple choice", [], 2),
        score_group(texts[1], "3", "numeric", [], 2),
    ]
    assert [[s["accuracy"] for s in group] for group in scores] == [[1, 0], [1, 0]]


def test_a_reward_sees_the_lengths_of_its_own_completions(monkeypatch):
    def lengths(group):
        return [float(n) for n in group.lengths]

    monkeypatch.setitem(rewards.REWARDS, "length", lengths)
    completions = [completions_of("a", "bb"), completions_of("cccc")]
    scores = score_prompts(two_prompts(), completions, stage=2)
    assert [[s["length"] for s in group] for group in scores] == [[1.0, 2.0], [4.0]]


def test_the_judge_sees_all_completions_in_one_batch_and_may_miss_one():
    """A group with a missing verdict is paid by the format alone."""
    calls = []

    def judge(completions):
        calls.append(completions)
        verdicts = [{"audio": 1.0, "visual": 1.0, "location": 0.0, "caption": 0.0}] * 8
        verdicts[5] = None
        return verdicts

    completions = [completions_of(GOOD, WRONG, "no tags", GOOD) for _ in range(2)]
    scores = score_prompts(two_prompts(), completions, 3, judge)
    (questions,) = calls
    assert [sample.id for sample, _, _ in questions] == ["q1"] * 4 + ["q2"] * 4
    texts = [(reasoning, answer) for _, reasoning, answer in questions]
    assert texts == [("look", "B"), ("x", "A"), ("no tags", ""), ("look", "B")] * 2

    assert [s["judge"] for s in scores[0]] == [0.5] * 4
    assert [s["judge"] for s in scores[1]] == [0.5, None, 0.5, 0.5]
    assert [s["reward"] for s in scores[0]] == [0.75, 0.75, 0.25, 0.75]
    assert [s["reward"] for s in scores[1]] == [1.0, 1.0, 0.0, 1.0]


def test_a_reward_that_returns_numpy_numbers_is_stored_as_plain_floats(monkeypatch):
    """torch.load(weights_only=True) refuses NumPy numbers, and with them the whole checkpoint."""
    monkeypatch.setitem(rewards.REWARDS, "format", lambda group: [np.float32(0.5)] * 2)
    scores = score_group(["a", "b"], "3", "numeric", [], stage=1)
    for of_completion in scores:
        for value in of_completion.values():
            assert value is None or type(value) is float
    assert scores[0]["reward"] == 0.25


def test_a_group_that_lacks_a_verdict_has_another_ruler():
    verdict = dict.fromkeys(("audio", "visual", "location", "caption"), 0.4)
    text = "<think>a</think><answer>1</answer>"
    judged = score_group([text] * 2, "1", "numeric", [], 3, [verdict, verdict])
    partly = score_group([text] * 2, "1", "numeric", [], 3, [verdict, None])
    assert [parts["reward"] for parts in judged] == pytest.approx([0.7, 0.7])
    assert [parts["reward"] for parts in partly] == [1.0, 1.0]
    assert has_all_parts(judged, 3)
    assert not has_all_parts(partly, 3)
    # stages without a judge do not ask for verdicts
    assert has_all_parts(partly, 1) and has_all_parts(partly, 2)


def test_what_the_self_reward_can_tell_apart():
    """Of two answers it tells no pair apart; of four 192 of the 256 combinations of four letters.
    And one right answer beside three equal wrong ones earns what they earn in stage 2."""
    for n, apart in ((2, 0), (4, 192)):
        combinations = list(itertools.product("ABCD", repeat=n))
        rewards = [majority_rewards(list(answers)) for answers in combinations]
        assert sum(len(set(values)) > 1 for values in rewards) == apart
    answers = ["B", "A", "A", "A"]
    texts = [f"<think>x</think><answer>{answer}</answer>" for answer in answers]
    scores = score_group(texts, "B", "multiple choice", ["A. red", "B. blue"], 2)
    assert [parts["reward"] for parts in scores] == pytest.approx([0.6, 0.6, 0.6, 0.6])
