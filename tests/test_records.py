"""Every training format, read from small files written here, against Samples written out by hand. Needs no fixture of conftest."""

import hashlib
import json
import re
import warnings
from dataclasses import MISSING, fields

import pytest

from formats.intent_train import take_share
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, Sample

OWN = {"id": "a", "question": "How many?", "problem_type": "numeric", "answer": "1"}
R1 = {
    "problem_id": 7,
    "problem": "What falls?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. cup", "B. ball"],
    "solution": "<answer>B</answer>",
    "path": "./CLEVRER/train/x.mp4",
    "data_source": "CLEVRER",
}
AVATAR = {
    "messages": [
        {"role": "system", "content": "Think first."},
        {"role": "user", "content": "<video>How many knocks?"},
    ],
    "videos": ["v/a.mp4"],
    "solution": "<think>so</think><answer> 3 </answer>",
    "problem_type": "numerical",
}


def said(**message):
    return {"messages": [{"role": "user", "content": message.pop("user")}], **message}


def as_lines(*records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def write(folder, name, text):
    (folder / name).write_text(
        text if isinstance(text, str) else json.dumps(text), encoding="utf-8"
    )
    return folder / name


def told(sample, root):
    """A Sample's fields that differ from their defaults, without id and place; media relative to `root`, which all of them must lie under."""
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(Sample)
    }
    out = {k: v for k, v in vars(sample).items() if v != defaults[k] and k not in ("id", "where")}
    for paths in (
        sample.videos,
        sample.images,
        sample.audios,
        [sample.soundtrack] if sample.soundtrack else [],
    ):
        assert all(p.startswith(f"{root}/") for p in paths)
    out |= {
        k: [p.removeprefix(f"{root}/") for p in out[k]]
        for k in ("videos", "images", "audios")
        if k in out
    }
    return out | (
        {"soundtrack": sample.soundtrack.removeprefix(f"{root}/")} if sample.soundtrack else {}
    )


CHOICE = {
    "question": "What falls?",
    "problem_type": "multiple choice",
    "answer": "B",
    "options": ["A. cup", "B. ball"],
}
KNOCKS = {
    "question": "<video>How many knocks?",
    "problem_type": "numeric",
    "answer": "3",
    "videos": ["v/a.mp4"],
}
TURNS = AVATAR["messages"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            OWN | {"video": "a.mp4", "audio": "a.wav", "options": None},
            {k: v for k, v in OWN.items() if k != "id"}
            | {"videos": ["a.mp4"], "soundtrack": "a.wav"},
        ),
        (
            OWN | {"video": "a.mp4", "audio": "b.wav", "soundtrack": "a.wav"},
            {k: v for k, v in OWN.items() if k != "id"}
            | {"videos": ["a.mp4"], "audios": ["b.wav"], "soundtrack": "a.wav"},
        ),
        (
            OWN
            | {
                "problem_type": "multiple_choice",
                "answer": "<answer> B </answer>",
                "options": ["A. x", "B. y"],
            },
            {
                "question": "How many?",
                "problem_type": "multiple choice",
                "answer": "B",
                "options": ["A. x", "B. y"],
            },
        ),
        (R1, CHOICE | {"videos": ["CLEVRER/train/x.mp4"]}),  # Video-R1-260k
        (
            R1
            | {
                "data_type": "image",
                "path": "./a/./b//../x.png",
                "options": None,
                "problem_type": "OCR",
                "solution": "<answer>STOP</answer>",
            },
            {
                "question": "What falls?",
                "problem_type": "ocr",
                "answer": "STOP",
                "images": ["a/x.png"],
            },
        ),
        (
            R1 | {"options": [], "problem_type": "regression", "solution": 2.5},
            {
                "question": "What falls?",
                "problem_type": "regression",
                "answer": "2.5",
                "videos": ["CLEVRER/train/x.mp4"],
            },
        ),
        (
            R1 | {"process": "<think>It rolls.\nIt falls.</think>"},  # Video-R1-COT-165k
            CHOICE
            | {
                "videos": ["CLEVRER/train/x.mp4"],
                "trace": "<think>It rolls.\nIt falls.</think>\n<answer>B</answer>",
            },
        ),
        (
            R1
            | {
                "data_type": "image_audio",
                "path": {"image": "images/1.jpg", "audio": "./audios/1.wav"},
            },  # AVQA-R1-6K
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
        # IntentTrain
        (
            R1
            | {
                "problem_type": "emer_ov_mc",
                "solution": "<context>A man.</context>\n<think>He smiles.</think>\n<answer>B,E</answer><think>Or?</think>",
            },
            CHOICE
            | {
                "problem_type": "multi-label",
                "answer": "B,E",
                "videos": ["CLEVRER/train/x.mp4"],
                "trace": "<think>He smiles.</think>\n<answer>B,E</answer>",
            },
        ),
        (
            {"problem": "Sad?", "problem_type": "judge", "video": "m/y.mp4", "answer": "Yes"},
            {"question": "Sad?", "problem_type": "yes/no", "answer": "Yes", "videos": ["m/y.mp4"]},
        ),
        (AVATAR, KNOCKS),  # AVATAR / ms-swift
        (AVATAR | {"videos": "./v/a.mp4", "solution": "3\n"}, KNOCKS),
        (
            AVATAR
            | {
                "messages": [
                    *TURNS,
                    {"role": "assistant", "content": "<think>one by one</think><answer>4</answer>"},
                ]
            },
            KNOCKS | {"trace": "<think>one by one</think><answer>4</answer>"},
        ),
        (
            AVATAR
            | {
                "messages": [
                    *TURNS,
                    {"role": "assistant", "content": "<think>t</think><answer>4</answer>"},
                ],
                "solution": None,
            },
            KNOCKS | {"answer": "4", "trace": "<think>t</think><answer>4</answer>"},
        ),
        (
            AVATAR
            | {
                "messages": [*TURNS, {"role": "assistant", "content": None}],
                "hint": ["Listen.", "Count."],
                "question": "How many?",
                "audio_cues": None,
            },
            KNOCKS | {"hint": "Listen. Count."},
        ),
        (
            AVATAR | {"hint": "Listen.", "audio_cues": "Three knocks."},
            KNOCKS | {"hint": "Listen.", "audio_caption": "Three knocks."},
        ),
        (
            said(
                user="Same place?",
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
            said(
                user="Is <audio> in it?",
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
def test_each_format_by_hand(tmp_path, record, expected):
    """The record alone as a JSON list and as JSONL, with the right suffix and with the other one; the Sample survives being saved in our own schema."""
    root = tmp_path / "media"
    for name, text in [
        ("a.json", [record]),
        ("b.jsonl", as_lines(record)),
        ("c.json", "\n" + as_lines(record)),
        ("d.jsonl", " \n" + json.dumps([record])),
    ]:
        [sample] = load_samples(write(tmp_path, name, text), root)
        assert told(sample, root) == expected
        assert (
            sample.where
            == str(tmp_path / name)
            + {"a.json": "[0]", "b.jsonl": ":1", "c.json": ":2", "d.jsonl": "[0]"}[name]
        )
    save_samples(tmp_path / "own.jsonl", [sample])
    [again] = load_samples(tmp_path / "own.jsonl")
    assert vars(again) | {"where": sample.where} == vars(sample)


def test_placeholders_give_the_reading_order(tmp_path):
    """Media that the text names stand there; ms-swift's order for the others: video, audio, image."""
    record = said(
        user="Is <image> in <video>?",
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


def test_media_roots(tmp_path):
    """Next to the file, or under media_root; an absolute path stays."""
    data = write(tmp_path, "a.json", [R1, R1 | {"path": "/abs/./x.mp4"}])
    assert [s.videos for s in load_samples(data, allow_outside=True)] == [
        [f"{tmp_path}/CLEVRER/train/x.mp4"],
        ["/abs/x.mp4"],
    ]
    assert [s.videos for s in load_samples(data, "/m", allow_outside=True)] == [
        ["/m/CLEVRER/train/x.mp4"],
        ["/abs/x.mp4"],
    ]


# ---------------------------------------------------------------------------------------------- ids and repeats
def ids(folder, *records, **options):
    return [s.id for s in load_samples(write(folder, "ids.jsonl", as_lines(*records)), **options)]


def test_an_id_is_the_problem_id_and_the_hash_of_prompt_and_target(tmp_path):
    """The recipe of the docstring, written out as text; it does not change with the place of the files, the hint or the caption."""
    content = '["", "What falls?", ["A. cup", "B. ball"], "multiple choice", "B", "", ["CLEVRER/train/x.mp4"], [], [], null]'
    assert (
        ids(tmp_path, R1)
        == ids(tmp_path, R1, media_root="/elsewhere")
        == ["7-" + hashlib.sha256(content.encode()).hexdigest()[:16]]
    )
    [plain] = ids(tmp_path, AVATAR)
    assert re.fullmatch("[0-9a-f]{16}", plain) and ids(
        tmp_path, AVATAR | {"hint": "h", "audio_cues": "c"}
    ) == [plain]


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
    with pytest.warns(
        UserWarning,
        match=r"dropped 2 repeated record\(s\), the first: .*ids.jsonl:3: repeats the record at .*ids.jsonl:1",
    ):
        assert len(set(ids(tmp_path, record, record | change, record, record | change))) == 2
    problems = []
    assert len(ids(tmp_path, record, record | change, record, problems=problems)) == 2
    assert problems == [
        f"{tmp_path}/ids.jsonl:3: repeats the record at {tmp_path}/ids.jsonl:1; dropped"
    ]


# ---------------------------------------------------------------------------------------------- IntentTrain's YAML
@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("first:2", [0, 1]),
        ("first:9", [0, 1, 2, 3, 4]),
        ("first:0%", []),
        ("first:100%", [0, 1, 2, 3, 4]),
        ("end:50%", [2, 3, 4]),
        ("end:2", [3, 4]),
        ("end:0", []),
    ],
)
def test_shares_by_hand(strategy, kept):
    assert take_share([0, 1, 2, 3, 4], strategy, "a.json", "x.yaml") == kept


def test_random_shares_are_the_same_each_time_and_differ_by_name():
    shares = [take_share(list(range(100)), "random:10%", name, "x.yaml") for name in "aab"]
    assert (
        shares[0] == shares[1] != shares[2]
        and shares[0] == sorted(set(shares[0]))
        and len(shares[0]) == len(shares[2]) == 10
    )
    assert take_share(["x"], "random:1", "a", "x.yaml") == ["x"]


def test_a_yaml_names_files_roots_and_shares(tmp_path, monkeypatch):
    many = [R1 | {"problem": f"Question {i}?"} for i in range(4)]
    (tmp_path / "cfg").mkdir()
    write(tmp_path / "cfg", "a.json", many)
    write(tmp_path, "b.jsonl", as_lines(*many))
    write(tmp_path, "from_here.json", many)
    data = write(
        tmp_path / "cfg",
        "stage.yaml",
        f"""datasets:
  - {{json_path: a.json, data_root: /videos, sampling_strategy: "end:50%"}}
  - json_path: {tmp_path}/b.jsonl
    sampling_strategy: first:1
  - json_path: from_here.json            # as in HumanOmniV2: relative to the folder the command is run in
    data_root: clips
    sampling_strategy: random:1
""",
    )
    monkeypatch.chdir(tmp_path)
    samples = load_samples(data)
    at = "CLEVRER/train/x.mp4"
    assert [s.question for s in samples[:3]] == [
        "Question 2?",
        "Question 3?",
        "Question 0?",
    ] and len(samples) == 4
    assert [s.videos for s in samples] == [
        [f"/videos/{at}"],
        [f"/videos/{at}"],
        [f"{tmp_path}/{at}"],
        [f"{tmp_path}/cfg/clips/{at}"],
    ]
    assert [s.where for s in samples[:3]] == [
        f"{tmp_path}/cfg/a.json[2]",
        f"{tmp_path}/cfg/a.json[3]",
        f"{tmp_path}/b.jsonl:1",
    ]
    assert [s.question for s in load_samples(data)] == [s.question for s in samples]
    assert {s.videos[0] for s in load_samples(data, "/m")} == {f"/m/{at}"}


def test_the_same_paths_under_two_roots_are_two_prompts(tmp_path):
    for folder in ("c", "d"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "a.json", [R1])
    text = "datasets:\n- {json_path: c/a.json, data_root: one}\n- {json_path: c/a.json, data_root: two}\n- {json_path: c/a.json}\n- {json_path: d/a.json}\n"
    samples = load_samples(write(tmp_path, "d.yml", text))
    assert len({s.id for s in samples}) == len({s.videos[0] for s in samples}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [\n", "d.yaml: not a YAML file"),
        ("files: []", "d.yaml: field 'datasets' must be a list"),
        ("[1]", "field 'datasets' must be a list"),
        ("datasets: [a.json]", "field 'datasets' must be a list of entries"),
        ("datasets: []", "d.yaml: no record"),
        ("datasets: [{data_root: x}]", "d.yaml: datasets[0]: field 'json_path' is missing"),
        ("datasets: [{json_path: none.json}]", "none.json is not a file"),
        (
            "datasets: [{json_path: a.json, sampling_strategy: 'middle:2'}]",
            "datasets[0]: field 'sampling_strategy' is 'middle:2'",
        ),
        (
            "datasets: [{json_path: a.json, sampling_strategy: 'first:-1'}]",
            "field 'sampling_strategy' is 'first:-1'",
        ),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, message):
    write(tmp_path, "a.json", [R1])
    refused(write(tmp_path, "d.yaml", text), message)


# ---------------------------------------------------------------------------------------------- bad records
def refused(path, message, **options):
    with pytest.raises(DataError) as error:
        load_samples(path, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def without(record, name):
    return {k: v for k, v in record.items() if k != name}


BAD = [
    ([1], "expected a JSON object, got list"),
    ("text", "expected a JSON object, got str"),
    (
        {"Question": "q", "Choice": []},
        "a record of no known format, with the fields Question, Choice; known are ours",
    ),
    ({}, "with the fields (none)"),
    (OWN | {"question": ["q"]}, "field 'question' is missing, empty or not text"),
    (OWN | {"video": ["a.mp4", 3]}, "field 'video' must be a text or a list"),
    (OWN | {"answer": "<answer></answer>"}, "field 'answer' holds no answer"),
    (OWN | {"id": "first"}, "id 'first' was used at"),
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
    (AVATAR | {"videos": []}, "holds 1 <video> for 0 file(s) in 'video'"),
    (AVATAR | {"problem_type": "essay"}, "unknown problem type 'essay'"),
    (AVATAR | {"problem_type": None}, "field 'problem_type' is missing"),
    (without(AVATAR, "solution"), "field 'solution' is missing"),
    (AVATAR | {"messages": "hello"}, "field 'messages' must be a list"),
    (
        AVATAR | {"messages": TURNS[:1]},
        "must hold one user turn, with at most a system turn before and an assistant turn after it; got none",
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


@pytest.mark.parametrize(("record", "message"), BAD)
def test_bad_records_are_named(tmp_path, record, message):
    first = OWN | {"id": "first"}
    path = write(tmp_path, "d.json", [first, record])
    refused(path, message)
    refused(path, f"{path}[1]: ")
    path = write(tmp_path, "d.jsonl", as_lines(first, "", record if record != "text" else '"text"'))
    refused(path, message)
    refused(path, f"{path}:3: ")


def test_problems_are_collected_in_order_and_the_good_records_kept(tmp_path):
    lines = [json.dumps(r) for r in (OWN | {"id": "first"}, R1, *(record for record, _ in BAD), R1)]
    path, problems = write(tmp_path, "d.jsonl", as_lines(*lines, "{", AVATAR)), ["from before"]
    samples = load_samples(path, problems=problems)
    assert [s.problem_type for s in samples] == ["numeric", "multiple choice", "numeric"]
    expected = [
        *(message for _, message in BAD),
        "repeats the record at",
        "not a JSON object on one line",
    ]
    assert problems[0] == "from before" and len(problems) == len(expected) + 1
    for n, (problem, message) in enumerate(zip(problems[1:], expected, strict=True), 3):
        assert problem.startswith(f"{path}:{n}: ") and message in problem
    problems = []
    assert (
        load_samples(write(tmp_path, "bad.json", [{}]), problems=problems) == []
        and len(problems) == 1
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'[{"id": 1},\n {"id" 2}]',
            "d.json: not a JSON list (Expecting ':' delimiter: line 2 column 8",
        ),
        (b'[{"id": 1}', "d.json: not a JSON list (Expecting ','"),
        (
            b'{"id": 1',
            "d.json:1: not a JSON object on one line (Expecting ',' delimiter: line 1 column 9",
        ),
        (b"PAR1\xff\xfe", "d.json: not UTF-8 text"),
        (b"", "d.json: no record"),
        (b"[]", "d.json: no record"),
    ],
)
def test_broken_files_are_named_with_the_position(tmp_path, content, message):
    (tmp_path / "d.json").write_bytes(content)
    refused(tmp_path / "d.json", message)
    if b"{" in content[:1]:  # a broken line is a bad record, a broken list an unreadable file
        assert (
            load_samples(tmp_path / "d.json", problems=(problems := [])) == []
            and message in problems[0]
        )
    else:
        refused(tmp_path / "d.json", message, problems=[])


def test_missing_files_raise_even_when_problems_are_collected(tmp_path):
    refused(tmp_path / "none.json", "no such data file", problems=[])


def test_a_stage_is_kept_and_a_stage_without_records_is_named(tmp_path):
    path = write(
        tmp_path, "d.jsonl", as_lines(OWN | {"stage": 2}, OWN | {"id": "b", "stage": 3}, R1)
    )
    assert [s.stage for s in load_samples(path, stage=2)] == [2, None]
    path = write(tmp_path, "e.jsonl", as_lines(OWN | {"stage": 2}))
    refused(path, "no record of stage 3", stage=3)
    refused(path, "no record of stage 3", stage=3, problems=[])


def test_line_separators_inside_a_text_and_a_byte_order_mark_do_no_harm(tmp_path):
    record = json.dumps(OWN | {"question": "one\u2028two\x85three"}, ensure_ascii=False)
    [sample] = load_samples(write(tmp_path, "d.jsonl", "\ufeff" + record + "\r\n"))
    assert sample.question == "one\u2028two\x85three"


def test_many_records_load(tmp_path):
    path = write(
        tmp_path,
        "many.json",
        "["
        + ",\n".join(
            json.dumps(R1 | {"problem_id": i % 9, "path": f"./c/{i}.mp4"}) for i in range(20_000)
        )
        + "]",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = load_samples(path, "/m")
    assert len({s.id for s in samples}) == 20_000 and samples[-1].videos == ["/m/c/19999.mp4"]
