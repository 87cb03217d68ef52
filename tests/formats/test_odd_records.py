"""Records and files of any oddity: each is read, or refused in one sentence; never a traceback."""

import json
import time

import pytest

from benchmarks.files import rows
from data import chat_text
from formats.load import load_samples
from formats.sample import DataError, Sample
from media.errors import MediaError
from tests.formats.forms import AVATAR, OWN, R1, as_lines, refused, refused_record, write

CHOICE = OWN | {"problem_type": "multiple choice", "options": ["A. red", "B. blue"], "answer": "A"}

# one value of every JSON type, and texts and numbers that are legal but odd
ODD_VALUES = [
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "  ",
    "half \ud83d",
    "\udc00\ud83d",
    "a\0b",
    "two\nlines",
    "x" * 5000,
    "../" * 2000,
    "<video>" * 3,
    "clip.mp4#t=",
    [],
    [[]],
    [None],
    [3],
    ["a", 4],
    ["half \ud83d"],
    {},
    {"value": 3},
    {"video": ["a\0.mp4"]},
    {"\ud83d": "\ud83d"},
]

FORMS = {"ours": CHOICE | {"video": "a.mp4"}, "R1": R1, "AVATAR": AVATAR}
FIELDS = {
    "ours": [
        *(*CHOICE, "video", "audio", "image", "hint", "audio_caption"),
        *("trace", "stage", "kind", "plan", "scene", "soundtrack"),
    ],
    "R1": [*R1, "process", "video", "answer"],
    "AVATAR": [*AVATAR, "options", "hint", "audio_cues", "images", "audios"],
}


def read_or_refuse(path, tokenizer):
    """Read a file in both ways. Whatever is taken becomes a prompt's text; errors are one line."""
    try:
        load_samples(path)
    except DataError as error:
        assert "\n" not in str(error)
        str(error).encode()  # no half of a surrogate pair, which could not be printed

    problems = []
    try:
        samples = load_samples(path, problems=problems)
    except DataError as error:
        assert "\n" not in str(error)
        return
    for sample in samples:
        text = chat_text(sample, tokenizer, hinted=True, audio_caption=True)
        tokenizer(text, add_special_tokens=False)
        json.dumps(vars(sample), ensure_ascii=False).encode()
    for problem in problems:
        assert str(problem).startswith(f"{path}:1: ")
        assert "\n" not in str(problem)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("form", FORMS)
def test_every_field_may_hold_anything(tmp_path, policy, form):
    for field in FIELDS[form]:
        for value in ODD_VALUES:
            record = FORMS[form] | {field: value}
            read_or_refuse(write(tmp_path, "d.jsonl", as_lines(record)), policy.tokenizer)


# ------------------------------------------------------------------ halves of surrogate pairs
@pytest.mark.parametrize(
    ("record", "field", "expected"),
    [
        (OWN | {"question": "cut \ud83d"}, "question", "cut \ufffd"),
        (OWN | {"question": "\ude00\ud83d\ude00"}, "question", "\ufffd\U0001f600"),
        (OWN | {"question": "a slash: \\ud83d"}, "question", "a slash: \\ud83d"),
        (CHOICE | {"options": ["A. x\ud83d", "B. y"]}, "options", ["A. x\ufffd", "B. y"]),
        (OWN | {"hint": "\ud83d"}, "hint", "\ufffd"),
        (OWN | {"audio_caption": "a\udfff"}, "audio_caption", "a\ufffd"),
        (OWN | {"id": "a\ud83d"}, "id", "a\ufffd"),
        (OWN | {"scene": {"k\ud83d": ["\ud83d"]}}, "scene", {"k\ufffd": ["\ufffd"]}),
        (R1 | {"problem": "cut \ud83d"}, "question", "cut \ufffd"),
    ],
)
def test_half_an_emoji_becomes_the_replacement_character(tmp_path, record, field, expected):
    for name, content in [("d.jsonl", as_lines(record)), ("d.json", [record])]:
        [sample] = load_samples(write(tmp_path, name, content))
        assert vars(sample)[field] == expected


# ------------------------------------------------------------------ moments
@pytest.mark.parametrize("moment", ["0", "12.5", "3.", "1e2", "5e-05"])
def test_a_moment_is_a_time_in_seconds(tmp_path, moment):
    [sample] = load_samples(
        write(tmp_path, "d.jsonl", as_lines(OWN | {"image": f"c.mp4#t={moment}"}))
    )
    assert sample.images == [f"{tmp_path}/c.mp4#t={moment}"]


@pytest.mark.parametrize(
    "moment",
    ["", "abc", "1,2", "-1", "nan", "inf", "1e999", "1_0", " 1", "0:01", "npt:3", "1#t=2", "1٣"],
)
def test_a_moment_of_another_form_is_refused(tmp_path, moment):
    message = "is no picture of a moment; write the seconds as in clip.mp4#t=12.5"
    path = f"c.mp4#t={moment}"
    refused_record(tmp_path, OWN | {"image": path}, message)
    refused_record(tmp_path, R1 | {"data_type": "image", "path": path}, message)
    refused_record(tmp_path, AVATAR | {"images": [path]}, message)


def test_a_soundtrack_belongs_to_one_video(tmp_path):
    """Without a video nobody would hear it; of two it would be both's."""
    for media in ({}, {"image": "p.png"}, {"video": ["a.mp4", "b.mp4"]}):
        record = OWN | {"video": None} | media | {"soundtrack": "s.wav"}
        refused_record(tmp_path, record, "'soundtrack' is the sound of a record's one video")


# ------------------------------------------------------------------ paths
@pytest.mark.parametrize("path", ["a\0.mp4", "a\n.mp4", "\0", "a.mp4\x1b[2J", "a\u2028b"])
def test_a_path_with_a_control_character_is_refused(tmp_path, path):
    refused_record(tmp_path, OWN | {"video": path}, "holds a control character")
    refused_record(tmp_path, OWN | {"soundtrack": path}, "holds a control character")
    refused_record(tmp_path, R1 | {"path": path}, "holds a control character")


def test_paths_in_other_scripts_are_taken(tmp_path):
    name = "\u97f3\u3000\u697d\u00a0\U0001f600.mp4"
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(OWN | {"video": name})))
    assert sample.videos == [f"{tmp_path}/{name}"]


# ------------------------------------------------------------------ JSON that is legal but odd
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_deep_json_is_one_sentence(tmp_path, opening):
    refused(write(tmp_path, "d.jsonl", opening * 100_000), "nested too deeply")
    deep = '{"id": "a", "scene": ' + opening * 100_000
    refused(write(tmp_path, "d.jsonl", as_lines(OWN, deep)), "d.jsonl:2: not a JSON object")


@pytest.mark.parametrize("depth", range(300, 1000, 50))
def test_json_that_is_almost_too_deep_is_no_traceback(tmp_path, policy, depth):
    for field in ("scene", "video", "answer", "id"):
        record = OWN | {field: "DEEP"}
        line = json.dumps(record).replace('"DEEP"', '{"\\ud83d":' * depth + "1" + "}" * depth)
        try:
            load_samples(write(tmp_path, "d.jsonl", line))
        except DataError as error:
            assert str(error).startswith(f"{tmp_path}/d.jsonl:1: ")


def test_a_number_of_5000_digits_costs_its_own_line(tmp_path):
    """Where a text stands, it is one; elsewhere it is refused."""
    digits = "9" * 5000
    long = json.dumps(OWN | {"stage": "LONG"}).replace('"LONG"', digits)
    good = as_lines(OWN | {"id": "b"})
    problems = []
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(long) + good), problems=problems)
    assert sample.id == "b"
    assert "d.jsonl:1: field 'stage' must be 0, 1, 2 or 3" in str(problems[0])
    assert len(str(problems[0])) < 500

    content = json.dumps([OWN | {"question": "LONG"}]).replace('"LONG"', digits)
    [sample] = load_samples(write(tmp_path, "d.json", content))
    assert sample.question == digits


# ------------------------------------------------------------------ files
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no record"),
        (b"\xef\xbb\xbf", "no record"),
        (b"\n \n", "no record"),
        (b"\0\0\0\0", "not a JSON object on one line"),
        ('{"id": "a"}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"id": "\xff"}', "not UTF-8 text"),
        (b'{"id": "\xed\xa0\xbd"}', "not UTF-8 text"),  # half an emoji as CESU-8
        (json.dumps(OWN).encode()[:-3], "d.jsonl:1: not a JSON object on one line"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, content, message):
    (tmp_path / "d.jsonl").write_bytes(content)
    refused(tmp_path / "d.jsonl", message)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "a: " + "9" * 5000,
        "a: 2024-99-99",
        "? [a]\n: b",
        "a: !!python/object:os.system x",
        "a: *none",
        "\x00",
        "datasets: 3",
        "datasets: [3]",
        "datasets: [{json_path: [1]}]",
        'datasets: [{json_path: "a\\0b"}]',
        'datasets: [{json_path: "\\ud83d"}]',
        "datasets: [{json_path: 0x" + "f" * 5000 + "}]",
        "datasets: [{json_path: " + "x" * 5000 + "}]",
        "datasets: [{json_path: d.yaml, sampling_strategy: first:" + "9" * 5000 + "}]",
        "datasets: &x [{json_path: *x}]",
    ],
)
def test_odd_yaml_is_one_sentence(tmp_path, content):
    refused(write(tmp_path, "d.yaml", content), "d.yaml")


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path):
    refused(tmp_path, "is a folder; name the file of records in it")
    refused(tmp_path / "none.jsonl", "no such data file")
    refused(tmp_path / ("x" * 5000), "no such data file")


# ------------------------------------------------------------------ time
@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: "<think>" * n,
        lambda n: "<answer>" * n,
        lambda n: "<answer>x</answer>" + "<think>" * n,
        lambda n: "</think>" * n,
        lambda n: "<think>a</think>" * (n // 2) + "<answer>",
        lambda n: " " * 7 * n,
        lambda n: "x" + " \n" * 3 * n + "x",
        lambda n: "<video" * n,
        lambda n: "A, " * 2 * n,
        lambda n: "a. " * 2 * n,
        lambda n: "(" * 7 * n,
    ],
)
def test_reading_takes_linear_time(tmp_path, text_of):
    """A text that is four times as long takes about four times as long. Sixteen times would be
    quadratic."""
    quarter = seconds_to_read(tmp_path, text_of(25_000))
    whole = seconds_to_read(tmp_path, text_of(100_000))
    assert whole < 8 * quarter + 0.1


def seconds_to_read(tmp_path, text):
    """CPU-seconds of reading records that hold a text in each of their fields."""
    records = [
        R1 | {"solution": text},
        R1 | {"solution": "<answer>A</answer>", "process": text},
        R1 | {"solution": "<answer>A</answer>", "problem": text},
        AVATAR | {"solution": text},
        AVATAR | {"hint": text},
        OWN | {"answer": text, "problem_type": "free-form"},
        OWN | {"id": "b", "hint": text, "audio_caption": text, "trace": text},
        CHOICE | {"id": "c", "options": [text, text + "y"]},
        CHOICE | {"id": "d", "answer": text},
        CHOICE | {"id": "e", "answer": text, "problem_type": "multi-label"},
    ]
    path = write(tmp_path, "d.jsonl", as_lines(*records))
    start = time.process_time()
    problems = []
    load_samples(path, problems=problems)
    assert max(map(len, problems), default=0) < 1000
    return time.process_time() - start


# ------------------------------------------------------------------ answers of another type
@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (OWN | {"problem_type": "yes/no", "answer": True}, "yes"),
        (OWN | {"problem_type": "judge", "answer": False}, "no"),
        (R1 | {"problem_type": "judge", "solution": False}, "no"),
        (OWN | {"answer": 3}, "3"),
        (OWN | {"answer": -2.5}, "-2.5"),
    ],
)
def test_an_answer_of_another_type_has_its_obvious_reading(tmp_path, record, answer):
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(record)))
    assert sample.answer == answer


@pytest.mark.parametrize(
    "answer", [True, ["A", "B"], ["3"], [3], {"value": 3}, "  ", [], float("nan"), float("inf")]
)
def test_an_answer_without_an_obvious_reading_is_refused(tmp_path, answer):
    refused_record(tmp_path, OWN | {"answer": answer}, "field 'answer' is missing, empty or not")
    solution = R1 | {"solution": answer}
    refused_record(tmp_path, solution, "field 'solution' is missing, empty or not text")


def test_a_hint_of_white_space_is_none(tmp_path):
    record = OWN | {"hint": " \n", "audio_caption": "\t"}
    [sample] = load_samples(write(tmp_path, "d.jsonl", as_lines(record)))
    assert (sample.hint, sample.audio_caption) == ("", "")


# ------------------------------------------------------------------ beyond data sets
@pytest.mark.parametrize("name", ["qa.json", "qa.jsonl"])
def test_files_of_benchmarks_are_read_by_the_same_rules(tmp_path, name):
    record = '{"q": "cut \\ud83d", "n": ' + "9" * 5000 + "}"
    content = f"[{record}]" if name == "qa.json" else record
    [row] = rows(write(tmp_path, name, content))
    assert row == {"q": "cut \ufffd", "n": "9" * 5000}
    for odd in ("[" * 100_000, '{"a":' * 100_000, '{"a": '):
        with pytest.raises(DataError, match=f"{name}.*: not "):
            list(rows(write(tmp_path, name, odd)))
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        list(rows(tmp_path / name))


def test_a_moment_of_another_form_is_a_bad_medium_where_no_loader_has_looked(builder, samples):
    sample = Sample("a", "What?", "ocr", "x", images=[samples[0].videos[0] + "#t=1,2"])
    [error] = builder.build([sample])
    assert isinstance(error, MediaError)
    assert "names no time in seconds behind #t=" in str(error)
