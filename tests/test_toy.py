"""toy.py: the clips say what the scene says, the questions' answers follow from it, the splits do not meet."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import toy
from formats.load import load_samples
from rewards import accuracy_reward, format_reward, split_completion


def scenes(n=200):
    return [toy.make_scene(np.random.default_rng(i)) for i in range(n)]


def test_every_tone_has_exactly_one_source():
    for scene in scenes():
        for tone in scene.tones:
            in_step = [s.place for s in scene.shapes if s.beats == tone.beats]
            assert in_step == [tone.source]


def test_answers_follow_from_the_scene():
    """Each answer is derived again, from the scene alone, by other code than the question's."""
    for i, scene in enumerate(scenes()):
        rng = np.random.default_rng(1000 + i)
        q = toy.ask_count_together(scene, rng)
        shape = next(s for s in scene.shapes if s.name in q.text)
        tone = next(t for t in scene.tones if f"the {t.pitch} tone" in q.text)
        assert int(q.answer) == bin(int(shape.beats, 2) & int(tone.beats, 2)).count("1")
        q = toy.ask_which_sounds(scene, rng)
        tone = next(t for t in scene.tones if f"the {t.pitch} tone" in q.text)
        named = next(o for o in q.options if o.startswith(q.answer + "."))[3:]
        assert next(s.beats for s in scene.shapes if s.name == named) == tone.beats
        q = toy.ask_first_mover(scene, rng)
        if q is not None:
            named = next(o for o in q.options if o.startswith(q.answer + "."))[3:]
            starts = sorted((s.beats.find("1"), s.name) for s in scene.shapes)
            assert starts[0][1] == named and starts[0][0] < starts[1][0]
        q = toy.ask_locate(scene, rng)
        assert {p.split(":")[0].strip() for p in q.answer.split("|")} == {
            t.source for t in scene.tones
        }


def test_traces_are_well_formed_and_careful_ones_are_right():
    for i, scene in enumerate(scenes(80)):
        rng = np.random.default_rng(i)
        for ask in [a for asks in toy.QUESTIONS.values() for a in asks]:
            q = ask(scene, rng)
            if q is None:
                continue
            for plan in toy.PLAN_SHARES:
                trace = toy.write_trace(q, plan, rng)
                right = accuracy_reward(
                    split_completion(trace)[1], q.answer, q.problem_type, q.options
                )
                assert format_reward(trace) == 1
                if plan in ("careful", "slip"):
                    assert (right == 1) == (plan == "careful")


def test_rendered_clip_shows_the_scene(tmp_path):
    """Decode with PyAV (the trainer decodes with decord): a shape is high or lit on exactly its beats, the sound is loud on exactly the tones'."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scene = toy.make_scene(rng)
        path = tmp_path / f"{seed}.mp4"
        toy.write_clip(path, scene, rng)
        with av.open(str(path)) as box:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)]).astype(
                int
            )
        with av.open(str(path)) as box:
            sound = np.concatenate([f.to_ndarray()[0] for f in box.decode(audio=0)])
        assert frames.shape == (32, 56, 168, 3)
        for shape in scene.shapes:
            x = list(toy.PLACES).index(shape.place) * 56
            cells = frames[4::8, :47, x : x + 56]  # the middle of each beat
            lit = (cells.min(axis=-1) > 215).mean(
                axis=(1, 2)
            ) > 0.2  # a white card behind the shape
            colourful = cells.max(axis=-1) - cells.min(axis=-1) > 60
            high = np.array(
                [np.nonzero(c)[0].mean() < 28 for c in colourful]
            )  # the shape's mean row
            assert (
                "".join(str(int(v)) for v in (lit if shape.act == "flash" else high)) == shape.beats
            )
        sounding = "".join(str(max(int(t.beats[b]) for t in scene.tones)) for b in range(4))
        loud = [
            np.abs(sound[1024 + b * 16_000 + 4000 : 1024 + b * 16_000 + 12_000]).max() > 0.1
            for b in range(4)
        ]  # AAC starts 1,024 samples late
        assert "".join(str(int(v)) for v in loud) == sounding


def test_world_is_deterministic_and_cached(tmp_path):
    a = toy.build(tmp_path / "a", 2, "train", 2, progress=False)
    b = toy.build(tmp_path / "b", 2, "train", 2, progress=False)
    assert a.read_text() == b.read_text()
    clip = "clips/stage2-train-00001.mp4"
    assert (a.parent / clip).read_bytes() == (b.parent / clip).read_bytes()
    before = (a.parent / clip).stat().st_mtime_ns
    toy.build(tmp_path / "a", 2, "train", 3, progress=False)
    assert (a.parent / clip).stat().st_mtime_ns == before


def test_processes_may_build_the_same_world_at_once(tmp_path):
    """Four processes write the same files over and over: none finds its unfinished ones gone, and what is left is whole."""
    code = f"import toy\nfor _ in range(40): toy.build({str(tmp_path)!r}, 2, 'train', 1, progress=False)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(toy.__file__).parent,
        )
        for _ in range(4)
    ]
    assert [(one.communicate(timeout=120)[1], one.returncode) for one in running] == [("", 0)] * 4
    assert len(load_samples(next(tmp_path.rglob("*.jsonl")))) == 2 and not list(
        tmp_path.rglob("*.part")
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_records_of_every_stage_follow_the_schema(tmp_path, stage):
    records = load_samples(toy.build(tmp_path, stage, "train", 4, progress=False))
    assert len({r.id for r in records}) == len(records)
    assert (
        24 < len(records) <= 32 if stage == 0 else len(records) == (4 if stage == 3 else 8)
    )  # stage 0: a description and up to 7 questions
    for r in records:
        assert (
            r.audio_caption
            and r.scene
            and r.stage == stage
            and bool(r.trace) == (stage == 0)
            and (r.hint or stage == 0)
        )
        assert r.problem_type != "multiple choice" or any(
            o.startswith(r.answer + ".") for o in r.options
        )


def test_training_and_heldout_share_no_scene(tmp_path):
    sets = []
    for split in ("train", "heldout"):
        lines = toy.build(tmp_path, 2, split, 30, progress=False).read_text().splitlines()
        sets.append({json.dumps(json.loads(line)["scene"]) for line in lines})
    assert len(sets[0]) == len(sets[1]) == 30 and not sets[0] & sets[1]


def test_oracle_judge_by_hand():
    scene = {
        "shapes": [
            {"place": "left", "colour": "red", "shape": "square", "act": "hop", "beats": "1000"},
            {"place": "right", "colour": "blue", "shape": "disc", "act": "hop", "beats": "0100"},
        ],
        "tones": [{"pitch": "high", "beats": "1000", "source": "left"}],
    }
    full = toy.oracle_judge(
        "listen: high tone 1000. look: red square 1000. look: blue disc 0100.",
        "left: red square",
        scene,
    )
    assert full == {"audio": 1.0, "visual": 1.0, "location": 1.0, "caption": 1.0}
    assert toy.oracle_judge("", "", scene) == {
        "audio": 0.0,
        "visual": 0.0,
        "location": 0.0,
        "caption": 0.0,
    }
    part = toy.oracle_judge("guess.", "left: red square | right: blue disc", scene)
    assert part == {"audio": 0.0, "visual": 1.0, "location": pytest.approx(2 / 3), "caption": 0.0}
