"""rewards.py against the written rules."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.answers import choice_in, number_in
from benchmarks.scoring import open_match
from problems import PROBLEM_TYPES, accuracy_reward, canonical_type, normalise
from rewards import (
    final_answer,
    format_reward,
    score_group,
    self_rewards,
    split_completion,
    weighted,
)

GOOD = "<think>look</think><answer>B</answer>"


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
    ("answer", "gold", "kind", "options", "expected"),
    [
        ("B", "B", "multiple choice", ["A. red", "B. blue"], 1),
        ("b", "B", "multiple choice", ["A. red", "B. blue"], 1),
        ("(B) blue", "B", "multiple choice", ["A. red", "B. blue"], 1),
        ("B. blue", "B", "multiple choice", [], 1),
        ("blue", "B", "multiple choice", ["A. red", "B. blue"], 1),
        ("A or B", "B", "multiple choice", ["A. red", "B. blue"], 0),
        ("red", "A", "multiple choice", ["A. red", "B. red"], 0),  # names two options: none
        ("3", "3", "numeric", [], 1),
        ("3.0", "3", "numeric", [], 1),
        ("1,200", "1200", "numeric", [], 1),
        ("three", "3", "numeric", [], 0),
        ("nan", "3", "numeric", [], 0),
        ("inf", "3", "numeric", [], 0),
        ("2.004", "2", "numeric", [], 1),
        ("2.006", "2", "numeric", [], 0),
        ("Red.", "red", "free-form", [], 1),
        ("blue", "red", "free-form", [], 0),
        ("left: red disc | right: blue disc", "left: red disc", "localisation", [], 2 / 3),
        ("right: red disc", "left: red disc", "localisation", [], 0),
        ("red disc", "left: red disc", "localisation", [], 0),
        (None, "3", "numeric", [], 0),
        ("B, E", "B,E", "multi-label", [], 1),
        ("B", "B, E", "multi-label", [], 2 / 3),
        ("A", "B, E", "multi-label", [], 0),
        ("sad; calm", "calm, Sad", "multi-label", [], 1),
        ("joy", "A", "multi-label", ["A. joy", "B. fear"], 1),
        ("9", "12", "regression", [], 0.75),
        ("30", "12", "regression", [], 0),
        ("12.0", "12", "regression", [], 1),
        ("far", "12", "regression", [], 0),
        ("3", "4", "counting", [], 0.75),
        ("four", "4", "counting", [], 1),
        ("1", "0", "counting", [], 0),
        ("0", "0", "counting", [], 1),
        ("none", "0", "counting", [], 1),
        ("9", "4", "counting", [], 0),
        ("many", "4", "counting", [], 0),
        ("EXIT left", "exit right", "ocr", [], 0.5),
        ("stop", "STOP", "ocr", [], 1),
        ("a b c d", "x", "ocr", [], 0),
        ("", "x y", "ocr", [], 0),
        ("Yes, it does.", "yes", "yes/no", [], 1),
        ("no", "Yes", "yes/no", [], 0),
        ("perhaps", "Yes", "yes/no", [], 0),
        ("yesterday", "Yes", "yes/no", [], 0),
        ("[2, 6]", "[0, 4]", "temporal", [], 1 / 3),
        ("[0:01, 0:02]; [1:00, 1:02]", "[1, 2]; [60, 62]", "temporal", [], 1),
        ("[0, 2]; [1, 3]", "[0, 3]", "temporal", [], 1),
        ("2 to 6", "[0, 4]", "temporal", [], 0),
        ("[4, 2]", "[0, 4]", "temporal", [], 0),
        ("print( 1 )", "print(  1 )\n", "code", [], 1),
        ("print(1)", "print(2)", "code", [], 0),
    ],
)
def test_accuracy(answer, gold, kind, options, expected):
    assert accuracy_reward(answer, gold, kind, options) == pytest.approx(expected)


def test_free_form_is_the_mean_of_three_rouge_scores():
    # words a b c against a b d: ROUGE-1 = 2/3, ROUGE-2 (ab, bc | ab, bd) = 1/2, ROUGE-L (a b) = 2/3
    assert accuracy_reward("alpha beta gamma", "alpha beta delta", "free-form") == pytest.approx(
        (2 / 3 + 1 / 2 + 2 / 3) / 3
    )


def test_every_label_of_the_training_sets_is_known():
    video_r1 = ["multiple choice", "free-form", "numerical", "OCR", "regression"]
    avatar = [
        "multiple_choice",
        "numerical",
        "ocr",
        "text_recognition",
        "free_form",
        "descriptive",
        "code",
    ]
    intent = ["multiple choice", "emer_ov_mc", "emer_ov", "judge"]
    kinds = {label: canonical_type(label) for label in video_r1 + avatar + intent}
    assert set(kinds.values()) == {
        "multiple choice",
        "free-form",
        "numeric",
        "ocr",
        "regression",
        "code",
        "multi-label",
        "yes/no",
    }
    assert (
        kinds["judge"] == "yes/no"
        and kinds["emer_ov_mc"] == "multi-label"
        and kinds["descriptive"] == "free-form"
    )


@pytest.mark.parametrize(
    "prediction",
    ["the cat sat", "the hat", "a b the cat sat on the mat x", "mat the on sat cat the"],
)
def test_ocr_is_one_minus_the_edit_distance_over_words(prediction):
    gold = ["the", "cat", "sat", "on", "the", "mat"]
    said = prediction.split()
    table = np.zeros((len(gold) + 1, len(said) + 1))  # Levenshtein by the textbook
    table[:, 0], table[0] = range(len(gold) + 1), range(len(said) + 1)
    for i, g in enumerate(gold):
        for j, s in enumerate(said):
            table[i + 1, j + 1] = min(
                table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (g != s)
            )
    assert accuracy_reward(prediction, " ".join(gold), "ocr") == pytest.approx(
        max(0, 1 - table[-1, -1] / 6)
    )


def test_unknown_types_are_errors():
    with pytest.raises(ValueError, match="unknown problem type 'essay'"):
        canonical_type("essay")
    with pytest.raises(ValueError, match="no accuracy rule"):
        accuracy_reward("x", "x", "essay")


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
    assert self_rewards(votes) == expected


def test_self_reward_votes_are_normalised():
    assert normalise("(b)", "multiple choice") == normalise("B. blue", "multiple choice") == "B"
    assert normalise("3.0", "numeric") == normalise("3", "numeric")
    assert normalise("left: a | right: b", "localisation") == normalise(
        "right: b|left: A", "localisation"
    )
    assert normalise("nonsense", "numeric") is None
    assert (
        normalise("e,B", "multi-label") == normalise("B, E", "multi-label")
        and normalise("two", "counting") == normalise("2", "counting") == "2"
    )
    assert (
        normalise("[0:01, 2]", "temporal") == normalise("[1, 2.0]", "temporal")
        and normalise("soon", "temporal") is None
    )
    assert (
        normalise("Yes.", "yes/no") == "yes"
        and normalise("x  = 1", "code") == "x = 1"
        and normalise("1234567.25", "numeric") == "1234567.25"
    )


def test_stage_tables_by_hand():
    right, wrong, bad = GOOD, "<think>x</think><answer>A</answer>", "B"
    two = score_group([right, right, wrong, bad], "B", "multiple choice", [], 2)
    assert [s["reward"] for s in two] == pytest.approx(
        [1.0, 1.0, 0.2, 0.0]
    )  # 0.2 format + 0.4 accuracy + 0.4 self
    one = score_group([right, wrong, bad], "B", "multiple choice", [], 1)
    assert [s["reward"] for s in one] == pytest.approx([1.0, 0.5, 0.0])
    three = score_group(
        [right],
        "B",
        "multiple choice",
        [],
        3,
        [{"audio": 1.0, "visual": 0.5, "location": 0.0, "caption": 0.5}],
    )
    assert three[0]["judge"] == 0.5 and three[0]["reward"] == pytest.approx(0.75)


def test_a_missing_verdict_is_not_zero():
    """Without one verdict the whole group falls back to the format: else the unjudged completion would beat its judged rivals."""
    good = {"audio": 1.0, "visual": 1.0, "location": 0.0, "caption": 0.0}
    group = score_group([GOOD, GOOD, "B"], "B", "multiple choice", [], 3, [good, None, good])
    assert [s["reward"] for s in group] == [1.0, 1.0, 0.0] and [s["judge"] for s in group] == [
        0.5,
        None,
        0.5,
    ]
    assert [
        s["reward"] for s in score_group([GOOD, "B"], "B", "multiple choice", [], 3, [good, good])
    ] == [0.75, 0.25]
    assert weighted({"format": None, "judge": None}, {"format": 0.5, "judge": 0.5}) == 0.0


def test_format_penalty():
    assert (
        score_group(["B"], "B", "multiple choice", [], 1, format_penalty=-1.0)[0]["format"] == -1.0
    )


def test_a_stage_without_rewards_is_refused():
    with pytest.raises(ValueError, match="stage 0"):
        score_group([GOOD], "B", "multiple choice", [], 0)


TAGGED = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<answer>", "</answer>", "A", " ", "3.5", "left: x", "|", "\n"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(max_size=200), TAGGED),
    kind=st.sampled_from(sorted(set(PROBLEM_TYPES.values()))),
    gold=st.text(max_size=20),
)
def test_any_text_is_scored_in_range(text, kind, gold):
    for part in score_group([text, GOOD], gold, kind, ["A. x", "B. y"], 2):
        assert all(0 <= v <= 1 for v in part.values() if v is not None)


def test_megabytes_of_nested_tags_are_scored():
    """A backtracking pattern would not return from this; a linear scan does at once."""
    text = "<answer></think><think></answer>" * 100_000
    assert format_reward(text) == 0 and split_completion(text)[1] is None


@pytest.mark.parametrize(
    "reply",
    [
        "answer" + " " * 100_000,
        "answer is" * 12_000,
        "A " * 50_000,
        "1" * 100_000 + ",",
        "one " * 25_000,
        "<think>" * 14_000,
        "(" * 100_000,
        "1,111" * 20_000 + "e",
        "<answer>" * 12_000 + "</answer>",
        "is =" * 25_000,
    ],
)
def test_hostile_replies_are_read_at_once(reply):
    """100 kB each: nothing here takes time that grows faster than the reply."""
    started = time.process_time()
    (
        final_answer(reply),
        choice_in(reply, ["A. x", "B. y"]),
        number_in(reply),
        open_match(reply, "x"),
        open_match(reply, "2"),
    )
    assert time.process_time() - started < 20
