"""formats/intent_train.py: HumanOmniV2's YAML of data sets."""

import pytest

from formats.intent_train import apply_strategy
from formats.load import load_samples
from tests.formats.forms import R1, as_lines, refused, write

CLIP = "CLEVRER/train/x.mp4"


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
def test_strategies_by_hand(strategy, kept):
    assert apply_strategy([0, 1, 2, 3, 4], strategy, "a.json", "x.yaml") == kept


def test_random_strategies_are_the_same_each_time_and_differ_by_name():
    once, again, other = (
        apply_strategy(list(range(100)), "random:10%", name, "x.yaml") for name in "aab"
    )
    assert once == again != other
    assert once == sorted(set(once))
    assert len(once) == len(other) == 10
    assert apply_strategy(["x"], "random:1", "a", "x.yaml") == ["x"]


def test_a_yaml_names_files_roots_and_strategies(tmp_path, monkeypatch):
    four = [R1 | {"problem": f"Question {i}?"} for i in range(4)]
    (tmp_path / "cfg").mkdir()
    write(tmp_path / "cfg", "a.json", four)
    write(tmp_path, "b.jsonl", as_lines(*four))
    write(tmp_path, "from_here.json", four)
    text = f"""datasets:
  - {{json_path: a.json, data_root: /videos, sampling_strategy: "end:50%"}}
  - json_path: {tmp_path}/b.jsonl
    sampling_strategy: first:1
  - json_path: from_here.json    # as in HumanOmniV2: relative to the folder the command is run in
    data_root: clips
    sampling_strategy: random:1
"""
    data = write(tmp_path / "cfg", "stage.yaml", text)
    monkeypatch.chdir(tmp_path)
    samples = load_samples(data, tmp_path)
    assert len(samples) == 4
    assert [s.question for s in samples[:3]] == ["Question 2?", "Question 3?", "Question 0?"]
    assert [s.videos for s in samples] == [
        [f"{tmp_path}/{CLIP}"],  # /videos is a folder of another machine
        [f"{tmp_path}/{CLIP}"],
        [f"{tmp_path}/{CLIP}"],
        [f"{tmp_path}/cfg/clips/{CLIP}"],
    ]
    assert [s.where for s in samples[:3]] == [
        f"{tmp_path}/cfg/a.json[2]",
        f"{tmp_path}/cfg/a.json[3]",
        f"{tmp_path}/b.jsonl:1",
    ]
    again = load_samples(data, tmp_path)
    assert [s.question for s in again] == [s.question for s in samples]


def test_the_same_paths_under_two_roots_are_two_prompts(tmp_path):
    for folder in ("c", "d"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "a.json", [R1])
    text = """datasets:
- {json_path: c/a.json, data_root: one}
- {json_path: c/a.json, data_root: two}
- {json_path: c/a.json}
- {json_path: d/a.json}
"""
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
        (
            "datasets: [{json_path: a.json, sampling_stategy: 'first:1'}]",
            "datasets[0]: unknown field 'sampling_stategy'; known fields: json_path, data_root,",
        ),
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
        (
            "datasets: [{json_path: a.json, sampling_strategy: 'random:300%'}]",
            "field 'sampling_strategy' is 'random:300%'; more than all cannot be taken",
        ),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, message):
    write(tmp_path, "a.json", [R1])
    refused(write(tmp_path, "d.yaml", text), message)
