"""toy.py: clips show what the scene says, answers follow from it, the splits do not meet."""

import hashlib
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

ASKS = [ask for asks in toy.QUESTIONS.values() for ask in asks]


@pytest.fixture(scope="module")
def scenes():
    return [toy.make_scene(np.random.default_rng(i)) for i in range(200)]


def shape_named(scene, text):
    return next(s for s in scene.shapes if s.name in text)


def tone_named(scene, text):
    return next(t for t in scene.tones if f"the {t.pitch} tone" in text)


def option_of(question):
    """The text of the option whose letter is the gold answer."""
    return next(o for o in question.options if o.startswith(question.answer + "."))[3:]


# ------------------------------------------------------------------ scenes and questions
def test_every_tone_has_exactly_one_source(scenes):
    for scene in scenes:
        for tone in scene.tones:
            assert [s.place for s in scene.shapes if s.beats == tone.beats] == [tone.source]


def test_answers_follow_from_the_scene(scenes):
    """Each answer is derived again, from the scene alone, by other code than the question's."""
    for i, scene in enumerate(scenes):
        rng = np.random.default_rng(1000 + i)

        q = toy.ask_count_together(scene, rng)
        shape, tone = shape_named(scene, q.text), tone_named(scene, q.text)
        assert int(q.answer) == bin(int(shape.beats, 2) & int(tone.beats, 2)).count("1")

        q = toy.ask_which_sounds(scene, rng)
        assert shape_named(scene, option_of(q)).beats == tone_named(scene, q.text).beats

        q = toy.ask_colour_sounds(scene, rng)
        sounding = next(s for s in scene.shapes if s.beats == tone_named(scene, q.text).beats)
        assert q.answer == sounding.colour

        q = toy.ask_count_moves(scene, rng)
        assert int(q.answer) == sum(map(int, shape_named(scene, q.text).beats))

        q = toy.ask_first_mover(scene, rng)
        if q is not None:
            starts = sorted((s.beats.find("1"), s.name) for s in scene.shapes)
            assert starts[0][1] == option_of(q)
            assert starts[0][0] < starts[1][0]

        q = toy.ask_locate(scene, rng)
        answered = {item.split(":")[0].strip() for item in q.answer.split("|")}
        assert answered == {t.source for t in scene.tones}


def test_traces_are_well_formed_and_careful_ones_are_right(scenes):
    for i, scene in enumerate(scenes[:80]):
        rng = np.random.default_rng(i)
        for question in filter(None, [ask(scene, rng) for ask in ASKS]):
            for plan in toy.PLAN_WEIGHTS:
                trace = toy.write_trace(question, plan, rng)
                assert format_reward(trace) == 1
                answer = split_completion(trace)[1]
                right = accuracy_reward(
                    answer, question.answer, question.problem_type, question.options
                )
                if plan in ("careful", "slip"):
                    assert (right == 1) == (plan == "careful")


# ------------------------------------------------------------------ clips
def decode(path):
    """(T, H, W, 3) frames and (n,) sound, by PyAV, in order."""
    with av.open(str(path)) as box:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])
    with av.open(str(path)) as box:
        sound = np.concatenate([f.to_ndarray()[0] for f in box.decode(audio=0)])
    return frames.astype(int), sound


@pytest.mark.parametrize("seed", range(4))
def test_rendered_clip_shows_the_scene(tmp_path, seed):
    """A shape is high or lit on exactly its beats, the sound is loud on exactly the tones'."""
    rng = np.random.default_rng(seed)
    scene = toy.make_scene(rng)
    path = tmp_path / "clip.mp4"
    toy.write_clip(path, scene, rng)
    frames, sound = decode(path)
    assert frames.shape == (32, 56, 168, 3)

    for shape in scene.shapes:
        x = toy.PLACES.index(shape.place) * 56
        cells = frames[4::8, :47, x : x + 56]  # the middle of each beat
        if shape.act == "flash":  # a white card behind the shape
            moves = (cells.min(axis=-1) > 215).mean(axis=(1, 2)) > 0.2
        else:  # the shape's mean row
            colourful = cells.max(axis=-1) - cells.min(axis=-1) > 60
            moves = [np.nonzero(cell)[0].mean() < 28 for cell in colourful]
        assert "".join(str(int(v)) for v in moves) == shape.beats

    for beat in range(4):
        start = 1024 + beat * 16_000  # AAC starts 1,024 samples late
        loud = np.abs(sound[start + 4000 : start + 12_000]).max() > 0.1
        assert loud == any(t.beats[beat] == "1" for t in scene.tones)


# ------------------------------------------------------------------ the world on disk
def test_world_is_deterministic_and_cached(tmp_path):
    a = toy.build(tmp_path / "a", 2, "train", 2, progress=False)
    b = toy.build(tmp_path / "b", 2, "train", 2, progress=False)
    assert a.read_text() == b.read_text()
    clip = "clips/stage2-train-00001.mp4"
    (frames, sound), (frames_b, sound_b) = decode(a.parent / clip), decode(b.parent / clip)
    assert np.array_equal(sound, sound_b)
    assert (abs(frames - frames_b) > 4).sum() == 0  # media/render.py says why not 0
    before = (a.parent / clip).stat().st_mtime_ns
    toy.build(tmp_path / "a", 2, "train", 3, progress=False)
    assert (a.parent / clip).stat().st_mtime_ns == before


def test_the_records_of_this_version_are_pinned(tmp_path, no_clips):
    """Whoever changes what the world asks raises VERSION, and this hash. Results of other runs on
    the toy world compare only while it stays."""
    digest = hashlib.sha256()
    for stage in range(4):
        for split in ("train", "heldout"):
            table = toy.build(tmp_path, stage, split, 100, progress=False)
            digest.update(table.read_bytes())
    assert (toy.VERSION, digest.hexdigest()[:16]) == (3, "d406bf4cd9ca223e")


def test_processes_may_build_the_same_world_at_once(tmp_path):
    """Four processes write the same files over and over: none finds its unfinished ones gone, and
    what is left is whole."""
    code = f"""
import toy
for _ in range(40):
    toy.build({str(tmp_path)!r}, 2, 'train', 1, progress=False)
"""
    folder = Path(toy.__file__).parent
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) for _ in range(4)
    ]
    for process in running:
        errors = process.communicate(timeout=120)[1]
        assert (errors, process.returncode) == ("", 0)
    assert len(load_samples(next(tmp_path.rglob("*.jsonl")))) == 2
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_records_of_every_stage_follow_the_schema(tmp_path, stage, no_clips):
    records = load_samples(toy.build(tmp_path, stage, "train", 4, progress=False))
    assert len({r.id for r in records}) == len(records)
    if stage == 0:  # a description and up to 7 questions
        assert 24 < len(records) <= 32
    else:
        assert len(records) == (4 if stage == 3 else 8)
    for r in records:
        assert r.audio_caption
        assert r.scene
        assert r.stage == stage
        assert bool(r.trace) == (stage == 0)
        assert r.hint or stage == 0
        if r.problem_type == "multiple choice":
            assert any(o.startswith(r.answer + ".") for o in r.options)


def test_training_and_heldout_share_no_scene(tmp_path, no_clips):
    scenes = {}
    for split in ("train", "heldout"):
        lines = toy.build(tmp_path, 2, split, 30, progress=False).read_text().splitlines()
        scenes[split] = {json.dumps(json.loads(line)["scene"]) for line in lines}
    assert len(scenes["train"]) == len(scenes["heldout"]) == 30
    assert not scenes["train"] & scenes["heldout"]


# ------------------------------------------------------------------ the oracle
SCENE = {
    "shapes": [
        {"place": "left", "colour": "red", "shape": "square", "act": "hop", "beats": "1000"},
        {"place": "right", "colour": "blue", "shape": "disc", "act": "hop", "beats": "0100"},
    ],
    "tones": [{"pitch": "high", "beats": "1000", "source": "left"}],
}


@pytest.mark.parametrize(
    ("reasoning", "answer", "audio", "visual", "location", "caption"),
    [
        (
            "listen: high tone 1000. look: red square 1000. look: blue disc 0100.",
            "left: red square",
            *(1.0, 1.0, 1.0, 1.0),
        ),
        ("", "", 0.0, 0.0, 0.0, 0.0),
        ("guess.", "left: red square | right: blue disc", 0.0, 1.0, pytest.approx(2 / 3), 0.0),
    ],
)
def test_oracle_judge_by_hand(reasoning, answer, audio, visual, location, caption):
    assert toy.oracle_judge(reasoning, answer, SCENE) == {
        "audio": audio,
        "visual": visual,
        "location": location,
        "caption": caption,
    }
