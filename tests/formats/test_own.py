"""formats/own.py: our own records against Samples written out by hand."""

import random
import re

import pytest

from formats.fields import fault_of_trace, gold_answer
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError
from rewards import format_reward, split_completion
from tests.formats.forms import (
    AVATAR,
    OWN,
    R1,
    as_lines,
    check_form,
    refused_record,
    without,
    write,
)

ASKED = without(OWN, "id")


def dialogue(reply: str) -> dict:
    """AVATAR's record, whose gold answer is 3, with a reply to imitate."""
    return AVATAR | {"messages": [*AVATAR["messages"], {"role": "assistant", "content": reply}]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            OWN | {"video": "a.mp4", "audio": "a.wav", "options": None},
            ASKED | {"videos": ["a.mp4"], "soundtrack": "a.wav"},
        ),
        (
            OWN | {"video": "a.mp4", "audio": "b.wav", "soundtrack": "a.wav"},
            ASKED | {"videos": ["a.mp4"], "audios": ["b.wav"], "soundtrack": "a.wav"},
        ),
        (
            OWN
            | {
                "problem_type": "multiple_choice",
                "answer": "<answer> B </answer>",
                "options": ["A. x", "B. y"],
            },
            ASKED | {"problem_type": "multiple choice", "answer": "B", "options": ["A. x", "B. y"]},
        ),
    ],
)
def test_our_form_by_hand(tmp_path, record, expected):
    check_form(tmp_path, record, expected)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (OWN | {"question": ["q"]}, "field 'question' is missing, empty or not text"),
        (OWN | {"video": ["a.mp4", 3]}, "field 'video' must be a text or a list"),
        (OWN | {"answer": "<answer></answer>"}, "field 'answer' holds no answer"),
        (OWN | {"answer": ["A", "B"]}, "field 'answer' is missing, empty or not text"),
        (OWN | {"answer": True}, "field 'answer' is missing, empty or not text"),
        (OWN | {"answer": " "}, "field 'answer' is missing, empty or not text"),
        (OWN | {"id": "first"}, "id 'first' was used at"),
        (without(OWN, "answer"), "field 'answer' is missing or empty; every record needs id, "),
        (OWN | {"problem_type": "essay"}, "field 'problem_type' of record 'a': unknown"),
        (OWN | {"vidoe": "x.mp4"}, "unknown field 'vidoe'"),
        (OWN | {"stage": "2"}, "field 'stage' must be 0, 1, 2 or 3, as a number; got '2'"),
        (OWN | {"stage": 4}, "field 'stage' must be 0, 1, 2 or 3, as a number; got 4"),
        (OWN | {"stage": True}, "field 'stage' must be 0, 1, 2 or 3, as a number; got True"),
        (
            OWN | {"question": "Is <image> like <image>?", "image": "x.png"},
            "holds 2 <image> for 1 file(s)",
        ),
    ],
)
def test_bad_records_of_our_form_are_named(tmp_path, record, message):
    refused_record(tmp_path, record, message)


def test_records_survive_a_round_trip(tmp_path, samples):
    """The toy world's, scenes included; their media lie in another folder."""
    save_samples(tmp_path / "copy.jsonl", samples)
    again = load_samples(tmp_path / "copy.jsonl", "/")
    for before, after in zip(samples, again, strict=True):
        assert vars(after) | {"where": before.where} == vars(before)


# ------------------------------------------------------------------ tags
def tag_soups() -> list[str]:
    """Texts of words and tags in any order, most of them broken, and the common ones of each."""
    rng = random.Random(0)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "1", "2", " ", "so"]
    soups = ["<think>so</think>\n<answer>1</answer>", "<answer>1</answer>", "1"]
    for _ in range(4_000):
        soups.append("".join(rng.choices(pieces, k=rng.randint(1, 9))))
    return soups


def test_gold_answers_are_read_as_the_answers_of_completions():
    """By the reward's own reader, wherever that finds one without a tag in it; else it is what
    stands outside of think blocks, with or without its own tags."""
    n_read = 0
    for text in tag_soups():
        theirs = split_completion(text)[1]
        if theirs is None:
            outside = re.sub("<think>((?!<think>).)*?</think>", "", text)
            tagged = re.findall("<answer>([^<]*)</answer>", outside)
            theirs = (tagged[-1] if tagged else outside).strip()
        try:
            gold = gold_answer(text, "solution", "x")
        except DataError:
            continue
        n_read += 1
        assert gold == theirs
        assert "<" not in gold
    assert n_read > 500


def test_traces_are_imitated_by_the_rule_of_the_format_reward():
    n_good = 0
    for text in [*tag_soups(), "<think>a</think><answer> </answer>"]:
        good = format_reward(text) == 1 and bool(split_completion(text)[1])
        assert (fault_of_trace(text) == "") == good
        n_good += good
    assert n_good


@pytest.mark.parametrize(
    "gold", ["red</answer>", "<answer>red", "<think>red", "</think>", "a<think>"]
)
def test_half_a_tag_in_a_gold_answer_is_refused(tmp_path, gold):
    record = OWN | {"problem_type": "free-form", "answer": gold}
    refused_record(tmp_path, record, "field 'answer' holds no answer, or half of a tag; write one")


def test_an_answer_inside_of_the_reasoning_is_no_gold_answer(tmp_path):
    solution = "<think>maybe <answer>A</answer></think><answer>B</answer>"
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(R1 | {"solution": solution})))
    assert sample.answer == "B"
    assert sample.trace == ""
    assert "it holds <answer> 2 times" in sample.bad_trace


# ------------------------------------------------------------------ traces
GOOD_TRACE = "<think>so</think><answer>1</answer>"


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (OWN | {"trace": "so, 1"}, "it holds <think> 0 times"),
        (OWN | {"trace": GOOD_TRACE + " done"}, "it is not one <think>...</think> and one"),
        (OWN | {"trace": "<think>so</think><answer> </answer>"}, "its answer is empty"),
        (
            OWN | {"trace": GOOD_TRACE.replace("1", "2")},
            "its answer '2' is not the gold answer '1'",
        ),
        (R1 | {"process": "It falls."}, "it holds <think> 0 times"),
        (R1 | {"process": "<think>It falls."}, "it holds </think> 0 times"),
        (R1 | {"process": "<think>It <answer>A</answer></think>"}, "it holds <answer> 2 times"),
        (dialogue("<think>t</think><answer>4</answer>"), "its answer '4' is not the gold answer"),
        (dialogue("four"), "it holds <think> 0 times"),
        (
            OWN
            | {"problem_type": "regression", "answer": "12"}
            | {"trace": GOOD_TRACE.replace("1", "9")},
            "its answer '9' is not the gold answer '12'",
        ),
    ],
)
def test_a_trace_that_cannot_be_imitated_is_left_out_and_said(tmp_path, record, fault):
    path = write(tmp_path, "d.jsonl", as_lines(record))
    [sample] = load_samples(path)
    assert sample.trace == ""
    assert sample.bad_trace.startswith(f"{path}:1: trace of record '{sample.id}': {fault}")
    assert sample.bad_trace.endswith("; mend the trace")


@pytest.mark.parametrize(
    "record",
    [
        OWN | {"trace": f" {GOOD_TRACE}\n"},
        OWN | {"trace": GOOD_TRACE.replace("1", "1.00")},
        OWN
        | {"problem_type": "free-form", "answer": "a red disc"}
        | {"trace": GOOD_TRACE.replace("1", "red")},
        OWN | {"trace": GOOD_TRACE.replace("1", "2"), "plan": "slip"},  # the toy's, on purpose
        R1 | {"process": "<think>It falls.</think>"},
        dialogue("<think>t</think>\n\n<answer>three</answer>"),
    ],
)
def test_a_trace_that_can_be_imitated_stays(tmp_path, record):
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(record)))
    assert sample.trace
    assert not sample.bad_trace
