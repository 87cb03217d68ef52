"""formats/options.py and gold answers at loading: letters worked out by hand."""

import json
import warnings

import pytest

from data import question_text
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import RepeatedRecord, Unrewardable
from problems import PROBLEM_TYPES
from rewards import accuracy_reward
from tests.formats.forms import AVATAR, OWN, R1, as_lines, refused, write

CHOICE = OWN | {"problem_type": "multiple choice"}
SEVERAL = OWN | {"problem_type": "multi-label"}


def load_one(folder, record):
    """The record's Sample, and the errors of left-out records; another record is always there."""
    left_out = []
    path = write(folder, "d.jsonl", as_lines(OWN | {"id": "other"}, record))
    samples = load_samples(path, left_out=left_out)
    return (samples[1] if len(samples) == 2 else None), left_out


@pytest.mark.parametrize(
    ("options", "gold", "shown", "letter"),
    [
        # no letters: by place
        (["red", "blue"], "A", ["A. red", "B. blue"], "A"),
        (["red", "blue", "rose"], "red", ["A. red", "B. blue", "C. rose"], "A"),
        (["red", "blue"], "Blue.", ["A. red", "B. blue"], "B"),
        (["red", "blue"], r"\boxed{B}", ["A. red", "B. blue"], "B"),
        ([3, 4, 5.5], 4, ["A. 3", "B. 4", "C. 5.5"], "B"),
        (["2", "3", "1"], "2", ["A. 2", "B. 3", "C. 1"], "A"),
        (["No", "Yes"], "yes", ["A. No", "B. Yes"], "B"),
        (["-5%", "5%"], "5%", ["A. -5%", "B. 5%"], "B"),
        (["$x^{2}$", "$x^{3}$"], "$x^{3}$", ["A. $x^{2}$", "B. $x^{3}$"], "B"),
        # what looks like a letter or a number in front, and is none
        (["a.m.", "p.m."], "p.m.", ["A. a.m.", "B. p.m."], "B"),
        (["U.S.", "U.K."], "U.S.", ["A. U.S.", "B. U.K."], "A"),
        (["1.5", "2.5"], "2.5", ["A. 1.5", "B. 2.5"], "B"),
        (["1:30", "2:45"], "2:45", ["A. 1:30", "B. 2:45"], "B"),
        (["I am", "A dog"], "A dog", ["A. I am", "B. A dog"], "B"),
        # the usual marks
        (["A. red", "B. blue"], "B", ["A. red", "B. blue"], "B"),
        (["A. red", "B. blue"], "blue", ["A. red", "B. blue"], "B"),
        (["A. red", "B. blue"], "[B]", ["A. red", "B. blue"], "B"),
        (["A. red", "B. blue"], "(b) blue", ["A. red", "B. blue"], "B"),
        (["A. red", "B. dark blue"], "B. dark", ["A. red", "B. dark blue"], "B"),
        (["(A) red", "(B) blue"], "blue", ["A. red", "B. blue"], "B"),
        (["(a) red", "(b) blue"], "b", ["A. red", "B. blue"], "B"),
        (["A) red", "B) blue"], "B) blue", ["A. red", "B. blue"], "B"),
        (["A: red", "B: blue"], "B: blue", ["A. red", "B. blue"], "B"),
        (["A、红", "B、蓝"], "蓝", ["A. 红", "B. 蓝"], "B"),
        (["A.red", "B.blue"], "B", ["A. red", "B. blue"], "B"),
        (["Option A: red", "Option B: blue"], "Option B", ["A. red", "B. blue"], "B"),
        (["1. red", "2. blue"], "2", ["A. red", "B. blue"], "B"),
        (["1. red", "2. blue"], "2. blue", ["A. red", "B. blue"], "B"),
        (["(1) red", "(2) blue"], "B", ["A. red", "B. blue"], "B"),
        # their own letters stay
        (["B. red", "A. blue"], "A", ["B. red", "A. blue"], "A"),
        (["A. red", "C. blue"], "blue", ["A. red", "C. blue"], "C"),
        (["A", "B", "C"], "b", ["A", "B", "C"], "B"),
        (["A. red", "blue"], "blue", ["A. red", "B. blue"], "B"),
        # equal texts do no harm where they are not meant
        (["red", "red", "blue"], "blue", ["A. red", "B. red", "C. blue"], "C"),
    ],
)
def test_options_get_letters_and_the_gold_answer_becomes_one(
    tmp_path, options, gold, shown, letter
):
    sample, left_out = load_one(tmp_path, CHOICE | {"options": options, "answer": gold})
    assert not left_out
    assert (sample.options, sample.answer) == (shown, letter)
    assert "\n".join(shown) in question_text(sample)

    # the letter and the option are right, every other letter is wrong
    for option in shown:
        right = float(option[0] == letter)
        for reply in {option[0], option}:
            assert accuracy_reward(reply, letter, "multiple choice", sample.options) == right

    save_samples(tmp_path / "again.jsonl", [sample])
    [again] = load_samples(tmp_path / "again.jsonl")
    assert (again.options, again.answer) == (shown, letter)


@pytest.mark.parametrize(
    ("options", "gold", "reason"),
    [
        (["A. red", "B. blue"], "Z", "'Z' is none of its 2 options"),
        (["A. red", "B. blue"], "green", "'green' is none of its 2 options"),
        (["A. red", "B. blue"], "B. green", "'B. green' is none of its 2 options"),
        (["A. red", "B. blue"], "A. blue", "'A. blue' may mean the options A, B"),
        (["A. red", "B. blue"], "A, B", "'A, B' is none of its 2 options"),
        (["red", "blue"], "C", "'C' is none of its 2 options"),
        (["red", "red"], "red", "'red' may mean the options A, B"),
        (["A. red", "B.  red"], "A", "'A' may mean the options A, B"),
        (["Bush", "A. Lincoln"], "A", "'A' may mean the options A, B"),
        (["3", "4"], "5", "'5' is none of its 2 options"),
        ([], "red", "'red' is no answer of the type multiple choice"),
        ([], "Z", "'Z' is no option, for the record has none"),
        (["x"] * 27, "A", "stands for a letter, of which 27 options are too many"),
    ],
)
def test_gold_answers_that_name_no_option_are_left_out(tmp_path, options, gold, reason):
    sample, left_out = load_one(tmp_path, CHOICE | {"options": options, "answer": gold})
    assert sample is None
    [error] = left_out
    assert isinstance(error, Unrewardable)
    assert str(error).startswith(f"{tmp_path}/d.jsonl:2: field 'answer' of record 'a'")
    assert reason in str(error)


def test_options_may_stand_in_the_question(tmp_path):
    for question in ("Which? A. red B. blue", "Which?\n(A) red\n(B) blue"):
        sample, _ = load_one(tmp_path, CHOICE | {"question": question, "answer": "B"})
        assert sample.answer == "B"


@pytest.mark.parametrize(
    ("options", "gold", "letters"),
    [
        (["A. x", "B. y", "C. z"], ["A", "C"], "A, C"),
        (["x", "y", "z"], ["z", "x"], "C, A"),
        (["x, y", "z"], ["x, y", "z"], "A, B"),
        (["x, y", "z"], "x, y", "A"),
        (["A. x", "B. y", "C. z"], "A,C", "A, C"),
        (["A. x", "B. y", "C. z"], "AC", "A, C"),
        (["A. x", "B. y", "C. z"], "(A) and (C)", "A, C"),
        (["A、x", "B、y"], "A、B", "A, B"),
        ([], ["happy", "calm"], "happy, calm"),
    ],
)
def test_several_labels_become_letters(tmp_path, options, gold, letters):
    sample, _ = load_one(tmp_path, SEVERAL | {"options": options, "answer": gold})
    assert sample.answer == letters
    assert accuracy_reward(letters, letters, "multi-label", sample.options) == 1


@pytest.mark.parametrize("gold", ["A, Z", ["A", "green"], "ABZ", "green"])
def test_labels_that_are_no_option_are_left_out(tmp_path, gold):
    record = SEVERAL | {"options": ["A. x", "B. y"], "answer": gold}
    assert load_one(tmp_path, record)[0] is None


@pytest.mark.parametrize(
    ("kind", "gold"),
    [
        ("numeric", "many"),
        ("regression", "it is 5 or so"),
        ("numeric", "NaN"),
        ("yes/no", "maybe"),
        ("temporal", "later"),
        ("counting", "some"),
        ("localisation", "left red disc"),
    ],
)
def test_gold_answers_that_their_type_cannot_read_are_left_out(tmp_path, kind, gold):
    sample, [error] = load_one(tmp_path, OWN | {"problem_type": kind, "answer": gold})
    assert sample is None
    assert f"{gold!r} is no answer of the type {kind}" in str(error)


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_what_is_taken_earns_its_reward(tmp_path, kind):
    for gold in ("5", "50%", r"\frac{1}{2}", "5 cm", "\u2212 3", "B", "yes", "a cat", "[1, 2]"):
        sample, _ = load_one(tmp_path, OWN | {"problem_type": kind, "answer": gold})
        if sample:
            assert accuracy_reward(sample.answer, sample.answer, kind, sample.options) == 1


def test_what_is_left_out_is_counted_and_the_first_named(tmp_path):
    bad = [OWN | {"id": f"b{i}", "answer": "many"} for i in range(3)]
    path = write(tmp_path, "d.jsonl", as_lines(*bad, OWN, R1, R1))
    with pytest.warns(UserWarning) as caught:
        assert len(load_samples(path)) == 2
    messages = [str(warning.message) for warning in caught]
    assert messages[0].startswith(f"{path}: dropped 1 repeated record(s), the first: {path}:6:")
    assert messages[1].startswith(f"{path}: dropped 3 record(s) whose gold answer no reply can")
    assert f"the first: {path}:1: field 'answer' of record 'b0'" in messages[1]

    left_out = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_samples(path, left_out=left_out)
    kinds = [type(error) for error in left_out]
    assert kinds == [Unrewardable] * 3 + [RepeatedRecord]

    refused(write(tmp_path, "e.jsonl", as_lines(*bad)), "none of its records can be used")


def test_records_of_another_stage_are_not_looked_at(tmp_path):
    records = [OWN | {"id": "b", "answer": "many", "stage": 1}, OWN | {"stage": 2}]
    path = write(tmp_path, "d.jsonl", as_lines(*records))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_samples(path, stage=2)) == 1


def test_downloaded_records_get_letters_and_keep_their_ids(tmp_path):
    """An id is made of the record as it is written."""
    bare = R1 | {"options": ["cup", "ball"], "solution": "<answer>ball</answer>"}
    sample, _ = load_one(tmp_path, bare)
    assert (sample.options, sample.answer) == (["A. cup", "B. ball"], "B")
    assert sample.id != load_one(tmp_path, R1)[0].id

    turns = [{"role": "user", "content": "<video>Which?"}]
    choice = AVATAR | {"messages": turns, "problem_type": "multiple_choice"}
    sample, _ = load_one(tmp_path, choice | {"options": ["1. cup", "2. ball"], "solution": "2"})
    assert (sample.options, sample.answer) == (["A. cup", "B. ball"], "B")
    assert json.loads(json.dumps(vars(sample)))["answer"] == "B"
