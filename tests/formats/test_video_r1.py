"""formats/video_r1.py: records of Video-R1, AVQA-R1 and IntentTrain against Samples by hand."""

import pytest

from tests.formats.forms import R1, check_form, refused_record, without

PATH = "CLEVRER/train/x.mp4"
CHOICE = {
    "question": "What falls?",
    "problem_type": "multiple choice",
    "answer": "B",
    "options": ["A. cup", "B. ball"],
}
FALLS = {"question": "What falls?"}


VIDEO_R1 = [
    (R1, CHOICE | {"videos": [PATH]}),
    (
        R1
        | {
            "data_type": "image",
            "path": "./a/./b//../x.png",
            "options": None,
            "problem_type": "OCR",
            "solution": "<answer>STOP</answer>",
        },
        FALLS | {"problem_type": "ocr", "answer": "STOP", "images": ["a/x.png"]},
    ),
    (
        R1 | {"options": [], "problem_type": "regression", "solution": 2.5},
        FALLS | {"problem_type": "regression", "answer": "2.5", "videos": [PATH]},
    ),
    (  # Video-R1-COT-165k
        R1 | {"process": "<think>It rolls.\nIt falls.</think>"},
        CHOICE
        | {
            "videos": [PATH],
            "trace": "<think>It rolls.\nIt falls.</think>\n<answer>B</answer>",
        },
    ),
]

AVQA_R1 = [
    (
        R1
        | {
            "data_type": "image_audio",
            "path": {"image": "images/1.jpg", "audio": "./audios/1.wav"},
        },
        CHOICE | {"images": ["images/1.jpg"], "audios": ["audios/1.wav"]},
    ),
    (
        R1 | {"data_type": "video_audio", "path": {"video": "x.mp4", "audio": "x.wav"}},
        CHOICE | {"videos": ["x.mp4"], "soundtrack": "x.wav"},
    ),
    (
        R1 | {"problem": "Is <audio> it?", "path": {"video": "x.mp4", "audio": "x.wav"}},
        CHOICE | {"question": "Is <audio> it?", "videos": ["x.mp4"], "audios": ["x.wav"]},
    ),
    (R1 | {"path": {"video": "x.mp4", "audio": None}}, CHOICE | {"videos": ["x.mp4"]}),
    (R1 | {"path": {"audio": "x.wav"}}, CHOICE | {"audios": ["x.wav"]}),
]

INTENT_TRAIN = [
    (
        R1
        | {
            "problem_type": "emer_ov_mc",
            "options": ["A. calm", "B. glad", "C. sad", "D. cross", "E. kind"],
            "solution": "<context>A man.</context>\n<think>He smiles.</think>\n"
            "<answer>B,E</answer><think>Or?</think>",
        },
        CHOICE
        | {
            "problem_type": "multi-label",
            "options": ["A. calm", "B. glad", "C. sad", "D. cross", "E. kind"],
            "answer": "B, E",
            "videos": [PATH],
            "trace": "<think>He smiles.</think>\n<answer>B,E</answer>",
        },
    ),
    (
        {"problem": "Sad?", "problem_type": "judge", "video": "m/y.mp4", "answer": "Yes"},
        {"question": "Sad?", "problem_type": "yes/no", "answer": "Yes", "videos": ["m/y.mp4"]},
    ),
]


@pytest.mark.parametrize(("record", "expected"), VIDEO_R1 + AVQA_R1 + INTENT_TRAIN)
def test_problem_records_by_hand(tmp_path, record, expected):
    check_form(tmp_path, record, expected)


BAD_PROBLEMS = [
    (without(R1, "problem_type"), "field 'problem_type' is missing"),
    (R1 | {"problem": " "}, "field 'problem' is missing, empty"),
    (R1 | {"problem_type": "essay"}, "field 'problem_type' of record '7-"),
    (without(R1, "solution"), "field 'solution' is missing"),
    (R1 | {"solution": "<answer> </answer>"}, "field 'solution' holds no answer"),
    (R1 | {"solution": "<answer>B"}, "field 'solution' holds no answer"),
    (R1 | {"solution": ["B"]}, "field 'solution' is missing, empty or not text"),
    (without(R1, "path"), "field 'path' must be a file's path"),
    (R1 | {"data_type": "text"}, "field 'path' must be a file's path"),
    (R1 | {"path": {"picture": "x.png"}}, "field 'path' must be a file's path"),
    (R1 | {"path": {"image": {"a": 1}}}, "field 'path' must be a text or a list"),
    (R1 | {"options": {"A": "cup"}}, "field 'options' must be a text or a list"),
    (R1 | {"problem": "<video> or <video>?"}, "holds 2 <video> for 1 file(s) in 'video'"),
]


@pytest.mark.parametrize(("record", "message"), BAD_PROBLEMS)
def test_bad_problem_records_are_named(tmp_path, record, message):
    refused_record(tmp_path, record, message)
