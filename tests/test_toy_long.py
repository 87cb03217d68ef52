"""toy_long.py: answers against the scenes, lengths, and a step of training."""

import re
from collections import Counter

import numpy as np
import pytest

import toy
import toy_long
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.load import load_samples
from tests.runs import rows_of, small
from train import main


@pytest.fixture
def records(tmp_path, no_clips):
    """40 of the cold start, with traces; no clip is rendered."""
    return load_samples(toy_long.build(tmp_path, 0, "train", 40, progress=False))


def scenes_of(record) -> list[toy.Scene]:
    """The scenes of a record's clips, drawn again by their names."""
    scenes = []
    for path in record.videos:
        stage, split, i = re.search(r"stage(\d)-(\w+)-(\d+)\.mp4", path).groups()
        scenes.append(toy.draw_clip(int(stage), split, int(i))[1])
    return scenes


def test_answers_are_those_of_the_scenes(records):
    """Worked out from beats as sets, and apart from the lines of the solver."""
    for record in records:
        wanted = record.question.split()[-1].rstrip("?")
        assert wanted in ("left", "square")
        n = 0
        for scene in scenes_of(record):
            for tone in scene.tones:
                sounding = {i for i, beat in enumerate(tone.beats) if beat == "1"}
                for shape in scene.shapes:
                    moving = {i for i, beat in enumerate(shape.beats) if beat == "1"}
                    if moving == sounding:
                        n += wanted in (shape.place, shape.shape)
        assert record.answer == str(n)


def test_careful_reasoning_is_long_and_right(records):
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    careful = [record for record in records if record.plan == "careful"]
    assert {record.kind for record in careful} == {"count_left", "count_square"}
    lengths = []
    for record in careful:
        assert record.trace.endswith(f"<answer>{record.answer}</answer>")
        lengths.append(len(tokenizer(record.trace)["input_ids"]))
    assert min(lengths) > 130
    assert max(lengths) < 330
    assert 200 < np.mean(lengths) < 240
    wrong = [r for r in records if r.plan == "slip"]
    assert wrong
    assert not any(r.trace.endswith(f"<answer>{r.answer}</answer>") for r in wrong)


def test_guessing_seldom_pays(tmp_path, no_clips):
    """The commonest answer of each kind is that of about half of the questions at most."""
    records = load_samples(toy_long.build(tmp_path, 2, "heldout", 600, progress=False))
    for kind in ("count_left", "count_square"):
        answers = Counter(record.answer for record in records if record.kind == kind)
        assert sum(answers.values()) == 300
        assert answers.most_common(1)[0][1] < 165


def test_records_are_deterministic_and_splits_share_no_clip(tmp_path, no_clips):
    first = toy_long.build(tmp_path / "a", 2, "train", 10, progress=False).read_text()
    assert toy_long.build(tmp_path / "b", 2, "train", 10, progress=False).read_text() == first
    heldout = toy_long.build(tmp_path / "a", 2, "heldout", 10, progress=False).read_text()
    clips = [set(re.findall(r"clips/([\w-]+)\.mp4", text)) for text in (first, heldout)]
    assert len(clips[0]) > 4
    assert not clips[0] & clips[1]


def test_a_step_is_trained_on_two_clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ["--data=toy-long:4,2", "--steps=1", "--eval_every=0", "--max_completion_tokens=24"]
    main(small(tmp_path / "run", *more))
    steps, evaluations = rows_of(tmp_path / "run")
    assert len(steps) == 1
    assert np.isfinite(steps[0]["loss"])
    assert evaluations[-1]["eval_questions"] == 2
