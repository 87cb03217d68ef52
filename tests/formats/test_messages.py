"""formats/messages.py: records of AVATAR and ms-swift against Samples written out by hand."""

import pytest

from formats.load import load_samples
from tests.formats.forms import AVATAR, as_lines, check_form, refused_record, without, write

KNOCKS = {
    "question": "<video>How many knocks?",
    "problem_type": "numeric",
    "answer": "3",
    "videos": ["v/a.mp4"],
}
TURNS = AVATAR["messages"]


def dialogue(user, **fields):
    return {"messages": [{"role": "user", "content": user}], **fields}


def with_reply(text):
    return {"messages": [*TURNS, {"role": "assistant", "content": text}]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (AVATAR, KNOCKS),
        (AVATAR | {"videos": "./v/a.mp4", "solution": "3\n"}, KNOCKS),
        (
            AVATAR | with_reply("<think>one by one</think><answer>3.0</answer>"),
            KNOCKS | {"trace": "<think>one by one</think><answer>3.0</answer>"},
        ),
        (
            AVATAR | with_reply("<think>t</think><answer>4</answer>") | {"solution": None},
            KNOCKS | {"answer": "4", "trace": "<think>t</think><answer>4</answer>"},
        ),
        (
            AVATAR
            | with_reply(None)
            | {"hint": ["Listen.", "Count."], "question": "How many?", "audio_cues": None},
            KNOCKS | {"hint": "Listen. Count."},
        ),
        (
            AVATAR | {"hint": "Listen.", "audio_cues": "Three knocks."},
            KNOCKS | {"hint": "Listen.", "audio_caption": "Three knocks."},
        ),
        (
            dialogue(
                "Same place?",
                videos=["a.mp4"],
                audios="a.wav",
                images=["i.png"],
                solution="yes",
                problem_type="descriptive",
            ),
            {
                "question": "<video><audio><image>Same place?",
                "problem_type": "free-form",
                "answer": "yes",
                "videos": ["a.mp4"],
                "audios": ["a.wav"],
                "images": ["i.png"],
            },
        ),
        (
            dialogue(
                "Is <audio> in it?",
                images=["i.png", "j.png"],
                audios=["a.wav", "b.wav"],
                solution="x",
                problem_type="text_recognition",
            ),
            {
                "question": "<audio><image><image>Is <audio> in it?",
                "problem_type": "ocr",
                "answer": "x",
                "images": ["i.png", "j.png"],
                "audios": ["a.wav", "b.wav"],
            },
        ),
    ],
)
def test_dialogues_by_hand(tmp_path, record, expected):
    check_form(tmp_path, record, expected)


def test_placeholders_give_the_reading_order(tmp_path):
    """Media that the text names stand there; the others in ms-swift's order in front."""
    record = dialogue(
        "Is <image> in <video>?",
        videos=["a.mp4", "b.mp4"],
        audios=["a.wav"],
        images=["i.png"],
        solution="x",
        problem_type="code",
    )
    [sample] = load_samples(write(tmp_path, "a.jsonl", as_lines(record)), "/m")
    assert sample.segments() == [
        ("video", "/m/a.mp4"),
        ("audio", "/m/a.wav"),
        ("text", "Is "),
        ("image", "/m/i.png"),
        ("text", " in "),
        ("video", "/m/b.mp4"),
        ("text", "?"),
    ]


BAD_DIALOGUES = [
    (AVATAR | {"videos": []}, "holds 1 <video> for 0 file(s) in 'video'"),
    (AVATAR | {"problem_type": "essay"}, "unknown problem type 'essay'"),
    (AVATAR | {"problem_type": None}, "field 'problem_type' is missing"),
    (without(AVATAR, "solution"), "field 'solution' is missing"),
    (AVATAR | {"messages": "hello"}, "field 'messages' must be a list"),
    (
        AVATAR | {"messages": TURNS[:1]},
        "must hold one user turn, with at most a system turn before and an assistant turn after "
        "it; got none",
    ),
    (
        AVATAR | {"messages": [*TURNS, {"role": "assistant", "content": "?"}, TURNS[1]]},
        "field 'messages' must hold one user turn",
    ),
    (
        AVATAR | {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "field 'content' is missing, empty or not text",
    ),
    (AVATAR | {"hint": {"a": 1}}, "field 'hint' must be a text or a list"),
    (AVATAR | {"videos": [None]}, "field 'videos' must be a text or a list"),
]


@pytest.mark.parametrize(("record", "message"), BAD_DIALOGUES)
def test_bad_dialogues_are_named(tmp_path, record, message):
    refused_record(tmp_path, record, message)
