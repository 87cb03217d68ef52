"""tools/annotate.py: hints and captions from canned replies, a server and tiny random models."""

import json
import os
import runpy
import sys

import pytest

from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, Sample
from tests.chat_fakes import Canned, Server, mixed_media
from tests.media_files import write_clip
from tools.annotate import annotate, check_out, listen, main, reveals
from tools.chat import LocalModel

ROOT = "/"  # naming it is the permission for the records' absolute paths


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


OPTIONS = ["A. red disc", "B. blue disc"]


@pytest.mark.parametrize(
    ("hint", "kind", "answer", "options", "revealing"),
    [
        ("Look at the blue disc first.", "multiple choice", "B", OPTIONS, True),
        ("The answer is B", "multiple choice", "B", ["A. x", "B. y"], True),
        ("Choose (B) here.", "multiple choice", "B", ["A. x", "B. y"], True),
        ("A shape moves in step; find it.", "multiple choice", "A", OPTIONS, False),
        ("Count the flashes, then the tones.", "numeric", "2", [], False),
        ("It flashes 2 times.", "numeric", "2", [], True),
        ("It flashes two times.", "numeric", "2", [], True),
        ("Watch 12 frames.", "numeric", "2", [], False),
        ("Listen, then find the red one.", "free-form", "red", [], True),
        ("Listen for the tone, then look.", "free-form", "red", [], False),
        ("Look left: red square.", "localisation", "left: red square", [], True),
        ("Look at each place in turn.", "localisation", "left: red square", [], False),
    ],
)
def test_hints_that_hold_the_answer_are_recognised(hint, kind, answer, options, revealing):
    assert reveals(hint, Sample("a", "q?", kind, answer, options=options)) == revealing


@pytest.fixture
def records(tmp_path, samples):
    """Six records without hints and captions, in a file of their own, away from their media."""
    bare = []
    for i, sample in enumerate(samples[:6]):
        caption = "" if i else "kept as it is"
        bare.append(Sample(**vars(sample) | {"hint": "", "audio_caption": caption}))
    save_samples(tmp_path / "bare.jsonl", bare)
    return tmp_path / "bare.jsonl"


def load(path):
    return load_samples(path, ROOT)


def test_hints_are_written_checked_and_continued(records, tmp_path):
    out = tmp_path / "hinted.jsonl"
    before = load(records)
    gold = [s.answer for s in before]
    telling = f"Easy: the answer is ({gold[1]}) {gold[1]}."
    model = Canned(["Look first.", telling], ["Listen first.", ""])
    with pytest.raises(IndexError):  # the third batch finds no reply: the run dies
        annotate("hint", str(records), str(out), model, ROOT, batch=2)
    with open(out, "a") as file:
        file.write('{"id": "torn')

    rest = Canned(["Line them up.", "Wait."])
    counts = annotate("hint", str(records), str(out), rest, ROOT, batch=2)
    assert counts == {"made": 2, "kept": 4, "revealing": 0, "empty": 0, "unusable": 0}
    after = load(out)
    hints = ["Look first.", "", "Listen first.", "", "Line them up.", "Wait."]
    assert [s.hint for s in after] == hints
    assert [s.id for s in after] == [s.id for s in before]
    assert [s.answer for s in after] == gold
    rejected = read_jsonl(tmp_path / "hinted.jsonl.rejected")
    assert [r["id"] for r in rejected] == [after[1].id]
    assert gold[0] in model.asked[0][0].text
    assert model.asked[0][0].frames is not None


def test_captions_are_made_from_the_sound_by_the_command(records, tmp_path, server, capsys):
    Server.replies[:] = ["A low tone sounds twice."] * 5
    out = tmp_path / "captioned.jsonl"
    flags = {
        "--data": str(records),
        "--out": str(out),
        "--model": "kimi",
        "--endpoint": server,
        "--batch": "4",
        "--media_root": ROOT,
        "--workers": "0",
    }
    main(["caption", *(word for pair in flags.items() for word in pair)])
    captions = [s.audio_caption for s in load(out)]
    assert captions == ["kept as it is"] + ["A low tone sounds twice."] * 5
    assert len(Server.seen) == 5
    for _, _, body in Server.seen:
        assert body["messages"][0]["content"][0]["type"] == "input_audio"
    assert "5 made, 1 kept" in capsys.readouterr().out


def test_a_tiny_local_model_writes_hints(records, tmp_path, tiny_internvl):
    out = tmp_path / "local.jsonl"
    model = LocalModel(str(tiny_internvl), max_tokens=5)
    counts = annotate("hint", str(records), str(out), model, ROOT)
    assert sum(counts.values()) == 6
    assert len(load(out)) == 6


def test_a_tiny_local_model_captions_sound(records, tmp_path, tiny_qwen2_audio):
    out = tmp_path / "local.jsonl"
    model = LocalModel(str(tiny_qwen2_audio), max_tokens=5)
    counts = annotate("caption", str(records), str(out), model, ROOT)
    assert counts["kept"] == 1
    assert sum(counts.values()) == 6
    assert load(out)[0].audio_caption == "kept as it is"


def test_all_sounds_are_heard_in_order(tmp_path):
    sound = listen(mixed_media(tmp_path))
    assert 3.0 <= len(sound) / 16_000 < 3.2
    assert sound[-16_000:] == pytest.approx(0.25, abs=1e-3)
    assert abs(sound[:16_000].mean()) < 0.01
    silent = write_clip(tmp_path / "s.mp4", frames=8, tone=False)
    sample = Sample("s", "?", "yes/no", "no", videos=[str(silent)], where="x.jsonl:1")
    with pytest.raises(DataError, match=r"x.jsonl:1 \('s'\): there is no sound, neither"):
        listen(sample)


def test_media_that_are_broken_cost_their_own_records(tmp_path):
    """One that is no video, one that ends early, a silent one: no caption, counted and listed; the
    other gets its own. (Decoders that crash are in tests/media/test_workers.py.)"""
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    write_clip(tmp_path / "silent.mp4", frames=8, tone=False)
    write_clip(tmp_path / "v.mp4", frames=8)
    whole = write_clip(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    names = ("noise.mp4", "half.mp4", "v.mp4", "silent.mp4")
    records = [
        Sample(name, "What?", "free-form", "red", videos=[str(tmp_path / name)]) for name in names
    ]
    data, out = tmp_path / "d.jsonl", tmp_path / "out.jsonl"
    save_samples(data, records)

    counts = annotate("caption", str(data), str(out), Canned(["A tone."]), workers=1)
    assert counts == {"made": 1, "kept": 0, "revealing": 0, "empty": 0, "unusable": 3}
    assert [s.audio_caption for s in load_samples(out)] == ["", "", "A tone.", ""]
    noise, half, silent = read_jsonl(tmp_path / "out.jsonl.bad_media")
    assert (noise["id"], noise["path"]) == ("noise.mp4", str(tmp_path / "noise.mp4"))
    assert "cannot read" in noise["reason"]
    assert half["id"] == "half.mp4"
    assert "cannot read" in half["reason"]
    assert silent["id"] == "silent.mp4"
    assert "there is no sound" in silent["reason"]


@pytest.mark.parametrize(
    "content",
    [
        "thesis\n" * 1000,
        "7\n8\n",
        "[]\n",
        '{"id": "of another data set"}\n',
        '{"no": "id"}\n',
        "\n",
        "no line end",
        "{\n",
        b"\xff\xfe\0",
        "same twice",
    ],
)
def test_a_file_that_is_not_of_such_a_run_is_left_as_it_is(records, tmp_path, content):
    out = tmp_path / "thesis.txt"
    if content == "same twice":
        content = records.read_text().splitlines(keepends=True)[0] * 2
    out.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = out.read_bytes()
    model = Canned()  # it has no reply: nothing is asked
    with pytest.raises(DataError, match=r"thesis\.txt:?\d*: .*left as it is; pass another --out"):
        annotate("hint", str(records), str(out), model, ROOT)
    assert out.read_bytes() == before
    assert model.asked == []


def test_annotating_in_place_is_refused(records):
    with pytest.raises(DataError, match="another file"):
        annotate("hint", str(records), str(records), Canned())


VIDEO_R1 = {
    "problem": "?",
    "problem_type": "numerical",
    "path": "x.mp4",
    "data_type": "video",
    "solution": "<answer>1</answer>",
}
MESSAGES = {
    "messages": [{"role": "user", "content": "?"}],
    "problem_type": "numeric",
    "solution": "<answer>1</answer>",
}


@pytest.mark.parametrize("content", [[VIDEO_R1], MESSAGES])
def test_annotating_a_downloaded_format_is_one_sentence(tmp_path, content):
    (tmp_path / "d.json").write_text(json.dumps(content))
    mend = r"this project's own JSONL; make one by: python -m tools.check_data .* --convert"
    with pytest.raises(DataError, match=mend):
        annotate("hint", str(tmp_path / "d.json"), str(tmp_path / "out.jsonl"), Canned())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/x.jsonl", "there is no folder .*gone; make it, or pass another file to --out"),
        ("bare.jsonl/x.jsonl", "there is no folder .*; make it, or pass another file to --out"),
        (".", "is a folder; pass a file in it to --out, as .*annotated.jsonl"),
        ("/dev/full", "is no file that replies can be written into; pass another --out"),
        ("loop", "is no file that replies can be written into; pass another --out"),
        ("x" * 300, "File name too long"),
        ("x" * 250, "File name too long"),  # of the list of what is unusable
    ],
)
def test_an_out_that_cannot_be_written_is_told_before_a_model_is_asked(
    records, tmp_path, server, monkeypatch, name, message
):
    (tmp_path / "loop").symlink_to("loop")
    flags = ["--data", str(records), "--out", str(tmp_path / name), "--media_root", ROOT]
    flags += ["--endpoint", server, "--model", "kimi", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["annotate", "caption", *flags])
    monkeypatch.delitem(sys.modules, "tools.annotate")
    with pytest.raises(SystemExit, match=f"^error: .*: {message}"):
        runpy.run_module("tools.annotate", run_name="__main__")
    assert Server.seen == []


def test_an_out_without_a_permission_to_write_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(DataError, match="cannot be written; see to its permissions"):
        check_out(tmp_path / "x.jsonl")


@pytest.mark.parametrize("device", ["tpu", "", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_none_is_one_sentence(records, tmp_path, device):
    flags = ["--data", str(records), "--out", str(tmp_path / "x.jsonl"), "--model", "gone"]
    with pytest.raises(DataError, match=f"^--device {device}: cannot be used here .*; pass cpu"):
        main(["hint", *flags, "--device", device])
