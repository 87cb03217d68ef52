"""One record of each form of data set, and helpers of the tests of formats/."""

import json
from dataclasses import MISSING, fields

import pytest

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


def as_lines(*records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    return "".join(line + "\n" for line in lines)


def write(folder, name, content):
    """A text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def without(record, name):
    return {k: v for k, v in record.items() if k != name}


def set_fields(sample, root):
    """A Sample's fields that differ from their defaults, without id and where; media relative to
    `root`, which all of them must lie under."""
    out = {}
    for f in fields(Sample):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = getattr(sample, f.name)
        if value != default and f.name not in ("id", "where"):
            out[f.name] = value
    for name in ("videos", "images", "audios"):
        if name in out:
            assert all(path.startswith(f"{root}/") for path in out[name])
            out[name] = [path.removeprefix(f"{root}/") for path in out[name]]
    if "soundtrack" in out:
        assert out["soundtrack"].startswith(f"{root}/")
        out["soundtrack"] = out["soundtrack"].removeprefix(f"{root}/")
    return out


def check_form(folder, record, expected):
    """The record alone as a JSON list and as JSONL, with the right suffix and with the other one,
    is read as `expected`; the Sample survives being saved in our own schema."""
    root = folder / "media"
    for name, content, place in [
        ("a.json", [record], "[0]"),
        ("b.jsonl", as_lines(record), ":1"),
        ("c.json", "\n" + as_lines(record), ":2"),
        ("d.jsonl", " \n" + json.dumps([record]), "[0]"),
    ]:
        [sample] = load_samples(write(folder, name, content), root)
        assert set_fields(sample, root) == expected
        assert sample.where == f"{folder}/{name}{place}"
    save_samples(folder / "own.jsonl", [sample])
    [again] = load_samples(folder / "own.jsonl")
    assert vars(again) | {"where": sample.where} == vars(sample)


def refused(path, message, **options):
    """load_samples raises one sentence that holds `message`."""
    with pytest.raises(DataError) as error:
        load_samples(path, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def refused_record(folder, record, message):
    """The record, second of a JSON list and third line of a JSONL, is refused by its place."""
    first = OWN | {"id": "first"}
    path = write(folder, "d.json", [first, record])
    refused(path, message)
    refused(path, f"{path}[1]: ")
    line = record if isinstance(record, dict) else json.dumps(record)
    path = write(folder, "d.jsonl", as_lines(first, "", line))
    refused(path, message)
    refused(path, f"{path}:3: ")
