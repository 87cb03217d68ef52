"""formats/own.py: our own records against Samples written out by hand."""

import pytest

from formats.load import load_samples
from formats.own import save_samples
from tests.formats.forms import OWN, check_form, refused_record, without

ASKED = without(OWN, "id")


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
