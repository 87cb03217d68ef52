"""problems.py: every rule of every problem type against hand-worked values; labels; a new type."""

import numpy as np
import pytest

import problems
from data import question_text
from formats.load import load_samples
from formats.sample import DataError, Sample
from problems import PROBLEM_TYPES, ProblemType, problem_type, unreachable
from rewards import accuracy_reward, score_group

COLOURS = ["A. red", "B. blue"]


@pytest.mark.parametrize("kind", ["numeric", "regression", "counting"])
def test_all_spellings_of_zero_are_one_vote(kind):
    zeros = ["0", "-0", "0.0", "-0.0", "-0.001", "-0.004", "zero"]
    assert {problem_type(kind).read(zero, []) for zero in zeros} == {"0"}
    assert problem_type(kind).read("-0.006", []) == "-0.01"


@pytest.mark.parametrize(
    ("answer", "gold", "kind", "options", "expected"),
    [
        ("B", "B", "multiple choice", COLOURS, 1),
        ("b", "B", "multiple choice", COLOURS, 1),
        ("(B) blue", "B", "multiple choice", COLOURS, 1),
        ("B. blue", "B", "multiple choice", [], 1),
        ("blue", "B", "multiple choice", COLOURS, 1),
        ("A or B", "B", "multiple choice", COLOURS, 0),
        ("B", "A", "multiple choice", ["A. red", "B. Red", "C. blue"], 1),  # the same text
        ("C", "A", "multiple choice", ["A. red", "B. Red", "C. blue"], 0),
        ("B", "A", "multiple choice", ["A. <image>", "B. <image>"], 0),  # other pictures
        ("B", "A", "multiple choice", ["A. -5", "B. 5"], 0),
        ("red", "A", "multiple choice", ["A. red", "B. red"], 0),  # names two options: none
        ("3", "3", "numeric", [], 1),
        ("3.0", "3", "numeric", [], 1),
        ("1,200", "1200", "numeric", [], 1),
        ("three", "3", "numeric", [], 1),
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
        ("0", "0", "regression", [], 1),
        ("1", "0", "regression", [], 0),
        ("0.0", "0", "regression", [], 1),
        ("1e-4", "0.0001", "regression", [], 1),
        ("-0.0005", "-0.0005", "regression", [], 1),
        ("1_0", "10", "numeric", [], 0),
        ("1_0", "10", "counting", [], 0),
        ("50%", "50", "numeric", [], 1),
        ("0.5", r"\frac{1}{2}", "numeric", [], 1),
        ("5 cm", "5", "numeric", [], 1),
        ("-3", "\u22123", "numeric", [], 1),
        ("5 or 6", "5", "numeric", [], 0),
        ("2", "two thirds", "numeric", [], 0),
        ("0.67", "two thirds", "numeric", [], 1),
        ("two thirds", "2", "numeric", [], 0),
        ("one and a half", "1.5", "regression", [], 1),
        ("minus five", "-5", "numeric", [], 1),
        ("minus five", "5", "numeric", [], 0),
        ("一次也没有", "1", "counting", [], 0),
        ("一次也没有", "0", "counting", [], 1),
        ("two halves", "2", "counting", [], 0),  # two or one
        ("- 5", "5", "numeric", [], 1),
        ("\u2014 5 claps", "5", "counting", [], 1),
        ("- 5", "-5", "numeric", [], 0),
        ("x = - 5", "-5", "numeric", [], 1),
        ("\u2212 5", "-5", "numeric", [], 1),
        (r"$- \frac{1}{2}$", "-0.5", "regression", [], 1),
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
        ("No answer can be given.", "no", "yes/no", [], 0),
        ("No doubt, he is lying.", "no", "yes/no", [], 0),
        ("No, he is not.", "no", "yes/no", [], 1),
        ("yesterday", "Yes", "yes/no", [], 0),
        ("[2, 6]", "[0, 4]", "temporal", [], 1 / 3),
        ("[0:01, 0:02]; [1:00, 1:02]", "[1, 2]; [60, 62]", "temporal", [], 1),
        ("[0, 2]; [1, 3]", "[0, 3]", "temporal", [], 1),
        ("2 to 6", "[0, 4]", "temporal", [], 0),
        ("[4, 2]", "[0, 4]", "temporal", [], 0),
        ("[- 1, 4]", "[1, 4]", "temporal", [], 0),
        ("print( 1 )", "print(  1 )\n", "code", [], 1),
        ("print(1)", "print(2)", "code", [], 0),
    ],
)
def test_accuracy(answer, gold, kind, options, expected):
    assert accuracy_reward(answer, gold, kind, options) == pytest.approx(expected)


def test_free_form_is_the_mean_of_three_rouge_scores():
    # words a b c against a b d: ROUGE-1 = 2/3, ROUGE-2 (ab, bc | ab, bd) = 1/2, ROUGE-L (a b) = 2/3
    score = accuracy_reward("alpha beta gamma", "alpha beta delta", "free-form")
    assert score == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)


@pytest.mark.parametrize(
    "prediction",
    ["the cat sat", "the hat", "a b the cat sat on the mat x", "mat the on sat cat the"],
)
def test_ocr_is_one_minus_the_edit_distance_over_words(prediction):
    gold = ["the", "cat", "sat", "on", "the", "mat"]
    words = prediction.split()

    # Levenshtein by the textbook
    table = np.zeros((len(gold) + 1, len(words) + 1))
    table[:, 0] = range(len(gold) + 1)
    table[0] = range(len(words) + 1)
    for i, g in enumerate(gold):
        for j, word in enumerate(words):
            swapped = table[i, j] + (g != word)
            table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, swapped)

    score = accuracy_reward(prediction, " ".join(gold), "ocr")
    assert score == pytest.approx(max(0, 1 - table[-1, -1] / 6))


@pytest.mark.parametrize(
    ("kind", "spellings", "expected"),
    [
        ("multiple choice", ["(b)", "B. blue"], "B"),
        ("numeric", ["3.0", "3"], "3"),
        ("numeric", ["1234567.25"], "1234567.25"),
        ("numeric", ["nonsense"], None),
        ("localisation", ["left: a | right: b", "right: b|left: A"], "left: a | right: b"),
        ("multi-label", ["e,B", "B, E"], "B, E"),
        ("counting", ["two", "2"], "2"),
        ("numeric", ["-0", "0"], "0"),
        ("numeric", ["two thirds", "2/3", "0.67"], "0.67"),
        ("numeric", ["minus five", "-5", "= - 5"], "-5"),
        ("temporal", ["[0:01, 2]", "[1, 2.0]"], "1.00-2.00"),
        ("temporal", ["soon"], None),
        ("yes/no", ["Yes."], "yes"),
        ("code", ["x  = 1"], "x = 1"),
    ],
)
def test_spellings_of_one_answer_are_read_as_one(kind, spellings, expected):
    for spelling in spellings:
        assert problem_type(kind).read(spelling, []) == expected


def test_every_label_of_the_training_sets_is_known():
    video_r1 = ["multiple choice", "free-form", "numerical", "OCR", "regression"]
    avatar = ["multiple_choice", "numerical", "ocr", "text_recognition", "free_form"]
    avatar += ["descriptive", "code"]
    intent = ["multiple choice", "emer_ov_mc", "emer_ov", "judge"]
    names = {label: problem_type(label).name for label in video_r1 + avatar + intent}
    assert set(names.values()) == {
        "multiple choice",
        "free-form",
        "numeric",
        "ocr",
        "regression",
        "code",
        "multi-label",
        "yes/no",
    }
    assert names["judge"] == "yes/no"
    assert names["emer_ov_mc"] == "multi-label"
    assert names["descriptive"] == "free-form"


def test_no_label_means_two_types_and_every_field_is_filled_in():
    labels = [label for kind in PROBLEM_TYPES.values() for label in {kind.name, *kind.labels}]
    assert len(labels) == len(set(labels))
    for name, kind in PROBLEM_TYPES.items():
        assert kind.name == name
        assert kind.instruction.endswith(".") and kind.direct.endswith(".")


def test_unknown_types_are_errors():
    with pytest.raises(ValueError, match="unknown problem type 'essay'; known: OCR, code,"):
        problem_type("essay")
    for answer in ("x", None):
        with pytest.raises(ValueError, match="unknown problem type 'essay'"):
            accuracy_reward(answer, "x", "essay")


def test_a_new_type_is_one_record(tmp_path, monkeypatch):
    """It is read from a data file, asked for, voted on and scored; before, the file is refused."""
    record = (
        '{"id": "a", "question": "Which order?", "problem_type": "sequence", '
        '"answer": "knock, bell"'
        ', "video": "a.mp4"}\n'
    )
    (tmp_path / "new.jsonl").write_text(record)
    with pytest.raises(DataError, match=r"new\.jsonl:1: field 'problem_type' of record 'a'"):
        load_samples(tmp_path / "new.jsonl")

    def read_order(answer: str, options: list[str]) -> str | None:
        return ", ".join(problems.plain(name) for name in answer.split(",")) or None

    def score_order(answer: str, gold: str, options: list[str]) -> float:
        return float(read_order(answer, options) == read_order(gold, options))

    ordering = ProblemType(
        name="ordering",
        labels=("sequence",),
        instruction="Answer with the names in order.",
        direct="Answer with the names in order only.",
        read=read_order,
        score=score_order,
    )
    monkeypatch.setitem(PROBLEM_TYPES, "ordering", ordering)

    sample: Sample = load_samples(tmp_path / "new.jsonl")[0]
    assert sample.problem_type == "ordering"
    assert question_text(sample).endswith("Answer with the names in order.")
    texts = [f"<think></think><answer>{a}</answer>" for a in ("Knock,  bell", "knock, bell", "x")]
    scores = score_group(texts, sample.answer, sample.problem_type, sample.options, 2)
    assert [score["accuracy"] for score in scores] == [1, 1, 0]
    assert [score["self"] for score in scores] == [1, 1, 0]


@pytest.mark.parametrize(
    ("gold", "kind", "options"),
    [
        ("Z", "multiple choice", COLOURS),
        ("green", "multiple choice", COLOURS),
        ("red", "multiple choice", []),
        ("A, Z", "multi-label", COLOURS),
        ("about five", "numeric", []),
        ("NaN", "regression", []),
        ("10:30", "numeric", []),
        ("1_0", "numeric", []),
        ("1,2,3", "numeric", []),
        ("it is 5", "regression", []),
        ("two halves", "numeric", []),
        ("- 5", "numeric", []),  # 5 in a list, or minus five
        ("\u2013 5 cm", "regression", []),
        ("maybe", "yes/no", []),
        ("from 1 to 2", "temporal", []),
        ("left red disc", "localisation", []),
        # what is read in part: the rest would be lost
        ("[1, 2]; from 3 to 4", "temporal", []),
        ("[1, 2]; [5, 3]", "temporal", []),
        ("[1, 2]; [2]", "temporal", []),
        ("[1, 2]; [3,", "temporal", []),
        ("left: a | right b", "localisation", []),
        ("left: a, right: b", "localisation", []),
        ("left: a; right: b", "localisation", []),
        ("left: a | right:", "localisation", []),
        ("None", "numeric", []),  # 0, or a field that was empty
        ("no", "counting", []),
        ("  ", "free-form", []),
    ],
)
def test_a_gold_answer_that_no_reply_can_match_is_named(gold, kind, options):
    reason = unreachable(gold, problem_type(kind), options)
    assert reason and (gold in reason or "Z" in reason)


@pytest.mark.parametrize(
    ("gold", "kind", "options"),
    [
        ("B", "multiple choice", COLOURS),
        ("blue", "multiple choice", COLOURS),
        ("B", "multiple choice", []),
        ("A, B", "multi-label", COLOURS),
        ("sad; calm", "multi-label", []),
        ("5", "numeric", []),
        ("50%", "numeric", []),
        (r"\frac{1}{2}", "numeric", []),
        ("5 cm", "numeric", []),
        ("\u22123", "numeric", []),
        ("$5$", "numeric", []),
        (r"\boxed{5}", "numeric", []),
        ("1 200", "numeric", []),
        ("$1,200.00", "numeric", []),
        ("x=5", "numeric", []),
        ("-5", "numeric", []),
        ("two thirds", "numeric", []),
        ("minus five", "numeric", []),
        ("x = - 5", "numeric", []),
        ("1.2×10^3", "numeric", []),
        (r"90^\circ", "numeric", []),
        ("five", "numeric", []),
        ("a dozen", "counting", []),
        ("[B]", "multiple choice", COLOURS),
        ("0", "regression", []),
        ("twelve", "counting", []),
        ("Yes", "yes/no", []),
        ("[1, 2]", "temporal", []),
        ("[1, 2] and [3, 4].", "temporal", []),
        ("[[1, 2], [3, 4]]", "temporal", []),
        ("left: red disc | right: clock at 3:15", "localisation", []),
        ("2.5k", "numeric", []),
        ("left: red disc", "localisation", []),
        ("a red disc", "free-form", []),
    ],
)
def test_a_gold_answer_that_can_be_matched_has_no_reason(gold, kind, options):
    assert unreachable(gold, problem_type(kind), options) is None
