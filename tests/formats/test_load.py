"""formats/load.py: ids, repeats, stages, media folders, and files that cannot be read."""

import hashlib
import json
import re
import warnings

import pytest

from formats import load
from formats.load import load_samples
from tests.formats.forms import AVATAR, OWN, R1, as_lines, refused, refused_record, write
from tests.formats.test_messages import BAD_DIALOGUES
from tests.formats.test_video_r1 import BAD_PROBLEMS


def ids(folder, *records, **options):
    data = write(folder, "ids.jsonl", as_lines(*records))
    return [s.id for s in load_samples(data, **options)]


# ------------------------------------------------------------------ media folders
def test_media_roots(tmp_path):
    """Next to the file, or under media_root; an absolute path stays."""
    inside = f"{tmp_path}/CLEVRER/./x.mp4"
    data = write(tmp_path, "a.json", [R1, R1 | {"path": inside}])
    assert [s.videos for s in load_samples(data)] == [
        [f"{tmp_path}/CLEVRER/train/x.mp4"],
        [f"{tmp_path}/CLEVRER/x.mp4"],
    ]
    assert [s.videos for s in load_samples(data, "/")] == [
        ["/CLEVRER/train/x.mp4"],
        [f"{tmp_path}/CLEVRER/x.mp4"],
    ]
    refused(data, f"lies outside of the media folder {tmp_path}/m;", media_root=f"{tmp_path}/m")


# ------------------------------------------------------------------ ids and repeats
def test_an_id_is_the_problem_id_and_the_hash_of_prompt_and_target(tmp_path):
    """The recipe of downloaded_id, written out as text."""
    content = (
        '["", "What falls?", ["A. cup", "B. ball"], "multiple choice", "B", "", '
        '["CLEVRER/train/x.mp4"], [], [], null]'
    )
    expected = "7-" + hashlib.sha256(content.encode()).hexdigest()[:16]
    assert ids(tmp_path, R1) == [expected]
    assert ids(tmp_path, R1, media_root="/elsewhere") == [expected]


def test_an_id_does_not_change_with_the_hint_or_the_caption(tmp_path):
    [plain] = ids(tmp_path, AVATAR)
    assert re.fullmatch("[0-9a-f]{16}", plain)
    assert ids(tmp_path, AVATAR | {"hint": "h", "audio_cues": "c"}) == [plain]


def test_a_new_form_says_what_it_knows_and_gets_an_id(tmp_path, monkeypatch):
    """A reader of records need not fill in ids, options or traces."""

    def minimal(record, where):
        return {"question": record["messages"], "answer": "3", "problem_type": "numeric"}

    monkeypatch.setattr(load, "messages_record", minimal)
    first, second = ids(tmp_path, {"messages": "a"}, {"messages": "b"})
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first != second


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (R1, {"path": "./CLEVRER/train/y.mp4"}),
        (R1, {"problem": "What rolls?"}),
        (R1, {"options": ["A. cup", "B. cat"]}),
        (R1, {"data_type": "image"}),
        (R1, {"problem_id": 8}),
        (R1, {"solution": "<answer>A</answer>"}),
        (R1, {"process": "<think>t</think>"}),
        (AVATAR, {"videos": ["v/b.mp4"]}),
        (AVATAR, {"problem_type": "code"}),
        (AVATAR, {"messages": [{"role": "user", "content": "<video>How many?"}]}),
    ],
)
def test_no_two_prompts_share_an_id_and_exact_repeats_are_dropped(tmp_path, record, change):
    warning = (
        r"dropped 2 repeated record\(s\), the first: "
        r".*ids.jsonl:3: repeats the record at .*ids.jsonl:1"
    )
    with pytest.warns(UserWarning, match=warning):
        assert len(set(ids(tmp_path, record, record | change, record, record | change))) == 2
    problems = []
    assert len(ids(tmp_path, record, record | change, record, problems=problems)) == 2
    file = f"{tmp_path}/ids.jsonl"
    assert problems == [f"{file}:3: repeats the record at {file}:1; dropped"]


# ------------------------------------------------------------------ stages
def test_a_stage_is_kept_and_a_stage_without_records_is_named(tmp_path):
    lines = as_lines(OWN | {"stage": 2}, OWN | {"id": "b", "stage": 3}, R1)
    path = write(tmp_path, "d.jsonl", lines)
    assert [s.stage for s in load_samples(path, stage=2)] == [2, None]
    path = write(tmp_path, "e.jsonl", as_lines(OWN | {"stage": 2}))
    refused(path, "no record of stage 3", stage=3)
    refused(path, "no record of stage 3", stage=3, problems=[])


# ------------------------------------------------------------------ bad records and files
BAD_RECORDS = [
    ([1], "expected a JSON object, got list"),
    ("text", "expected a JSON object, got str"),
    (
        {"Question": "q", "Choice": []},
        "a record of no known format, with the fields 'Question, Choice'; known are ours",
    ),
    ({}, "with the fields (none)"),
]


@pytest.mark.parametrize(("record", "message"), BAD_RECORDS)
def test_records_of_no_form_are_named(tmp_path, record, message):
    refused_record(tmp_path, record, message)


def test_problems_are_collected_in_order_and_the_good_records_kept(tmp_path):
    bad = BAD_RECORDS + BAD_PROBLEMS + BAD_DIALOGUES
    records = [OWN | {"id": "first"}, R1, *(record for record, _ in bad), R1]
    lines = [json.dumps(record) for record in records]
    path = write(tmp_path, "d.jsonl", as_lines(*lines, "{", AVATAR))
    problems = ["from before"]
    samples = load_samples(path, problems=problems)
    assert [s.problem_type for s in samples] == ["numeric", "multiple choice", "numeric"]

    expected = [message for _, message in bad]
    expected += ["repeats the record at", "not a JSON object on one line"]
    assert problems[0] == "from before"
    for line, (problem, message) in enumerate(zip(problems[1:], expected, strict=True), 3):
        assert problem.startswith(f"{path}:{line}: ")
        assert message in problem


def test_a_file_of_bad_records_only_is_no_error_when_problems_are_collected(tmp_path):
    problems = []
    assert load_samples(write(tmp_path, "bad.json", [{}]), problems=problems) == []
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'[{"id": 1},\n {"id" 2}]',
            "d.json: not a JSON list (Expecting ':' delimiter: line 2 column 8",
        ),
        (b'[{"id": 1}', "d.json: not a JSON list (Expecting ','"),
        (b"PAR1\xff\xfe", "d.json: not UTF-8 text"),
        (b"", "d.json: no record"),
        (b"[]", "d.json: no record"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_position(tmp_path, content, message):
    (tmp_path / "d.json").write_bytes(content)
    refused(tmp_path / "d.json", message)
    refused(tmp_path / "d.json", message, problems=[])


def test_a_broken_line_is_a_bad_record(tmp_path):
    path = write(tmp_path, "d.json", '{"id": 1')
    message = "d.json:1: not a JSON object on one line (Expecting ',' delimiter: line 1 column 9"
    refused(path, message)
    problems = []
    assert load_samples(path, problems=problems) == []
    assert message in problems[0]


def test_missing_files_raise_even_when_problems_are_collected(tmp_path):
    refused(tmp_path / "none.json", "no such data file", problems=[])


def test_line_separators_inside_a_text_and_a_byte_order_mark_do_no_harm(tmp_path):
    record = json.dumps(OWN | {"question": "one\u2028two\x85three"}, ensure_ascii=False)
    [sample] = load_samples(write(tmp_path, "d.jsonl", "\ufeff" + record + "\r\n"))
    assert sample.question == "one\u2028two\x85three"


def test_many_records_load(tmp_path):
    records = [R1 | {"problem_id": i % 9, "path": f"./c/{i}.mp4"} for i in range(5_000)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = load_samples(write(tmp_path, "many.json", records), "/m")
    assert len({s.id for s in samples}) == 5_000
    assert samples[-1].videos == ["/m/c/4999.mp4"]
