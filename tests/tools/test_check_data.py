"""tools/check_data.py: the report on a data set with one of everything, and the command's uses."""

import json
import resource
import runpy
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data import PromptBuilder
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError
from media.decode import MediaSettings
from tools.annotate import read_own_records
from tools.check_data import main, report, walk

GOOD = {"id": "a", "question": "q", "problem_type": "numeric", "answer": "1"}
TRACE = "<think>so</think><answer>1</answer>"
SETTINGS = MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28)


def write_lines(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines))
    return path


def write_silent_video(path):
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=8)
        video.height, video.width, video.pix_fmt = 56, 84, "yuv420p"
        for level in range(0, 160, 10):
            frame = np.full((56, 84, 3), level, np.uint8)
            box.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(video.encode())


@pytest.fixture(scope="module")
def mess(tmp_path_factory, samples):
    """A data set with one of everything, two records about the same broken file."""
    folder = tmp_path_factory.mktemp("mess")
    shutil.copy(samples[0].videos[0], folder / "good.mp4")
    write_silent_video(folder / "silent.mp4")
    Image.new("RGB", (56, 56)).save(folder / "p.png")
    Image.new("RGB", (84, 28)).save(folder / "long.png")
    (folder / "broken.mp4").write_bytes(b"not a media file at all")
    long = {"question": "so long " * 200, "image": "long.png", "problem_type": "free-form"}
    return write_lines(
        folder / "d.jsonl",
        GOOD | {"id": "good", "video": "good.mp4", "stage": 2, "hint": "Look."},
        GOOD | {"id": "silent", "video": "silent.mp4"},
        GOOD | {"id": "broken", "video": "broken.mp4"},
        GOOD | {"id": "again", "video": "broken.mp4"},
        GOOD | {"id": "gone", "image": "none.png"},
        GOOD | {"id": "long"} | long,
        "{ no record",
        GOOD | {"id": "token", "question": "<|IMAGE|>?", "image": "p.png"},
        GOOD | {"id": "both", "image": ["p.png", "long.png"], "trace": TRACE},
    )


@pytest.fixture(scope="module")
def walked(mess, policy):
    """The samples of the mess, and what a walk over them found."""
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS, max_prompt_tokens=400)
    problems, left_out = [], []
    samples = load_samples(mess, problems=problems, left_out=left_out)
    return samples, walk(samples, builder, problems, left_out, batch=2)


def test_the_report_counts_what_is_there(walked, builder, mess):
    """Lengths are those of the three prompts that can be used."""
    samples, findings = walked
    usable = [s for s in samples if s.id in ("good", "silent", "both")]
    lengths = sorted(len(builder(s).ids) for s in usable)
    p95 = int(np.percentile(lengths, 95))
    assert report(samples, findings).split("\n")[:8] == [
        "9 records, 3 of them usable",
        "by problem type: numeric 7, free-form 1",
        "by media: video 4, image 3, image + image 1",
        "by stage: 2 1",
        "with a hint: yes 1",
        "with a trace for stage 0: yes 1",
        f"tokens per prompt: least {lengths[0]:,}, median {lengths[1]:,}, 95 % below {p95:,}, "
        f"most {lengths[2]:,}; {sum(lengths):,} in all",
        f"videos without a sound track, asked without sound: 1, e.g. {mess.parent / 'silent.mp4'}",
    ]


def test_the_report_names_what_would_be_dropped(walked, mess):
    """Every sentence is there once, under its reason."""
    lines = report(*walked).split("\n")[8:]
    starts = [
        "record cannot be read, so training does not start: 1",
        f"  {mess}:7: not a JSON object",
        "left out, media missing or unusable: 4",
        f"  {mess}:3 ('broken'): field 'video': cannot read",
        f"  {mess}:4 ('again'): field 'video': cannot read",
        f"  {mess}:5 ('gone'): field 'image': {mess.parent / 'none.png'} does not exist",
        f"  {mess}:8 ('token'): its text holds a media token",
        "left out, prompt too long: 1",
        f"  {mess}:6 ('long'): its prompt has ",
    ]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    before, _ = lines[-1].split(" tokens, more than --max_prompt_tokens 400")
    assert before.rsplit(" ", 1)[1].replace(",", "").isdigit()


def test_the_report_names_gold_answers_that_no_reply_can_give(tmp_path, policy):
    choice = GOOD | {"problem_type": "multiple choice", "options": ["A. red", "B. blue"]}
    path = write_lines(
        tmp_path / "d.jsonl",
        GOOD | {"id": "word", "answer": "many"},
        GOOD | {"id": "span", "answer": "1-2", "problem_type": "temporal"},
        choice | {"id": "other", "answer": "C"},
        choice | {"id": "bare", "answer": "A", "options": ["red", "rose"]},
        choice | {"id": "text", "answer": "blue"},
        choice | {"id": "set", "answer": "A, C", "problem_type": "multi-label"},
        GOOD | {"id": "zero", "answer": 0, "problem_type": "regression"},
        "{ no record",
        GOOD | {"id": "type", "question": ["q"]},
    )
    problems, left_out = [], []
    samples = load_samples(path, problems=problems, left_out=left_out)
    assert [sample.id for sample in samples] == ["bare", "text", "zero"]
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    lines = report(samples, walk(samples, builder, problems, left_out)).split("\n")
    assert lines[0] == "9 records, 3 of them usable"
    start = lines.index("record cannot be read, so training does not start: 2")
    field = "field 'answer' of record"
    starts = [
        f"  {path}:8: not a JSON object on one line",
        f"  {path}:9: field 'question' is missing, empty or not text",
        "left out, no reply can match the gold answer: 4",
        f"  {path}:1: {field} 'word': 'many' is no answer of the type numeric",
        f"  {path}:2: {field} 'span': '1-2' is no answer of the type temporal",
        f"  {path}:3: {field} 'other': 'C' is none of its 2 options",
        f"  {path}:6: {field} 'set': 'C' is none of its 2 options",
    ]
    for line, expected in zip(lines[start + 1 :], starts, strict=True):
        assert line.startswith(expected)


def test_the_report_names_traces_that_cannot_be_imitated(tmp_path, policy, capsys):
    """Their records are used by the other stages, and counted once."""
    path = write_lines(
        tmp_path / "d.jsonl",
        GOOD | {"id": "good", "trace": TRACE},
        GOOD | {"id": "open", "trace": "<think>so <answer>1</answer>"},
        GOOD | {"id": "other", "trace": TRACE.replace("1", "2")},
        GOOD | {"id": "none"},
    )
    samples = load_samples(path)
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    lines = report(samples, walk(samples, builder, [], [])).split("\n")
    assert lines[0] == "4 records, 4 of them usable"
    assert "with a trace for stage 0: yes 1" in lines
    start = lines.index("left out in stage 0 alone, its trace cannot be imitated: 2")
    assert lines[start + 1 :] == [
        f"  {path}:2: trace of record 'open': it holds </think> 0 times; mend the trace",
        f"  {path}:3: trace of record 'other': its answer '2' is not the gold answer '1'; mend the "
        "trace",
    ]

    main([str(path), "--convert", str(tmp_path / "ours.jsonl")])
    assert ": 4 records, 2 of them without their trace" in capsys.readouterr().out


def test_the_report_writes_out_at_most_so_many(walked):
    text = report(*walked, most=1)
    assert "left out, media missing or unusable: 4\n" in text
    assert "\n  .. and 3 more" in text


def command(monkeypatch, *flags):
    """python -m tools.check_data, in this process."""
    monkeypatch.setattr(sys, "argv", ["check_data", *map(str, flags)])
    monkeypatch.delitem(sys.modules, "tools.check_data")
    runpy.run_module("tools.check_data", run_name="__main__")


def test_the_command_checks(mess, monkeypatch, capsys):
    limits = ["--max_prompt_tokens", "400", "--max_pixels", "2352"]
    command(monkeypatch, mess, "--workers", "0", *limits)
    out = capsys.readouterr().out
    assert out.startswith("9 records, 3 of them usable\n")
    assert "\nleft out, prompt too long: 1\n" in out


def test_the_bar_counts_records(mess, monkeypatch, capsys):
    """9 lines, of which one is no record, though a batch has 64."""
    limits = ["--max_prompt_tokens", "400", "--max_pixels", "2352"]
    command(monkeypatch, mess, "--workers", "0", *limits)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in bar
    assert " 8/8 " in bar


def test_the_command_shows_prompts(mess, capsys):
    first = write_lines(mess.parent / "first.jsonl", mess.read_text().split("\n")[0])
    main([str(first), "--show", "1", "--model", str(DEFAULT_MODEL)])
    out = capsys.readouterr().out
    assert out.startswith("--- good: ")
    assert "mel frames [" in out
    assert "gold '1'" in out


def test_a_missing_file_is_one_sentence(mess, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: .*none.jsonl: no such data file"):
        command(monkeypatch, mess.parent / "none.jsonl", "--workers", "0")


def test_converting_writes_our_own_records_for_the_next_command(tmp_path, monkeypatch, capsys):
    """A dialogue of AVATAR's form, read from another folder: the same question, media, answer."""
    (tmp_path / "d").mkdir()
    turn = {"role": "user", "content": "<video>\nIs it louder than <audio>?"}
    record = {
        "messages": [turn],
        "videos": ["v.mp4"],
        "audios": ["a.wav"],
        "problem_type": "numeric",
        "solution": "<answer>1</answer>",
        "hint": "Listen.",
    }
    write_lines(tmp_path / "d" / "d.jsonl", record)
    monkeypatch.chdir(tmp_path)
    main(["d/d.jsonl", "--convert", "ours.jsonl"])
    assert capsys.readouterr().out == "ours.jsonl: 1 records\n"

    # the next command of the README takes it as it is
    records, _ = read_own_records("ours.jsonl", "")
    assert records[0]["video"] == "d/v.mp4"

    [before] = load_samples("d/d.jsonl")
    [after] = load_samples("ours.jsonl")
    assert json.loads(Path("ours.jsonl").read_text())["id"] == before.id == after.id
    assert (after.question, after.answer, after.hint) == (before.question, "1", "Listen.")
    assert after.media == [
        ("video", "d/v.mp4"),
        ("audio", "d/a.wav"),
    ]

    # it is not written over, whatever it holds
    content = Path("ours.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"ours\.jsonl: exists already; pass another name"):
        main(["d/d.jsonl", "--convert", "ours.jsonl"])
    assert Path("ours.jsonl").read_bytes() == content


def test_converting_into_another_folder_names_the_media_root(tmp_path, monkeypatch, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "elsewhere").mkdir()
    record = {"messages": [{"role": "user", "content": "<video>?"}], "videos": ["v/v.mp4"]}
    record |= {"problem_type": "numeric", "solution": "<answer>1</answer>"}
    write_lines(tmp_path / "d" / "d.jsonl", record)
    out = str(tmp_path / "elsewhere" / "ours.jsonl")
    main([str(tmp_path / "d" / "d.jsonl"), "--convert", out])
    root = str(tmp_path / "d")
    assert f"pass --media_root {root} with it" in capsys.readouterr().out
    [sample] = load_samples(out, root)
    assert sample.videos == [f"{root}/v/v.mp4"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/a.jsonl", "there is no folder .*gone; make it, or pass another file to --convert"),
        ("d.jsonl/a.jsonl", "there is no folder .*; make it, or pass another file to --convert"),
        (".", "is a folder; pass a file in it to --convert, as .*ours.jsonl"),
        ("link", "exists already; pass another name to --convert"),
        ("x" * 300, "File name too long"),
    ],
)
def test_converting_into_no_file_is_one_sentence(tmp_path, monkeypatch, name, message):
    (tmp_path / "d.jsonl").write_text("no record")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SystemExit, match=f"^error: .*: {message}"):
        command(monkeypatch, tmp_path / "d.jsonl", "--convert", tmp_path / name)


def test_converting_onto_a_full_disk_is_one_sentence(tmp_path, samples, monkeypatch):
    """The system refuses to write more than 10 bytes into a file."""
    save_samples(tmp_path / "d.jsonl", samples[:2])
    flags = [tmp_path / "d.jsonl", "--media_root", "/", "--convert", tmp_path / "a.jsonl"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"^error: .*: File too large; see to space"):
            command(monkeypatch, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
