"""run/track.py: what each tracker was sent, read back from its own files."""

import importlib.util
import json
import sqlite3
import struct

import pytest

from config import parse
from formats.sample import DataError
from run import track
from run.session import sentence_of
from tests.runs import rows_of, small
from train import run_stage


def tracked_run(tmp_path, name):
    """A run of 3 steps with evaluations at its start, its second and its third step."""
    out = tmp_path / "run"
    flags = small(out, f"--track={name}", "--eval_every=2", "--max_completion_tokens=16")
    run_stage(parse(flags))
    return out, *rows_of(out)


def test_tensorboard_has_every_column(in_shared_folder, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, steps, evaluations = tracked_run(tmp_path, "tensorboard")
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    for name, rows in (("reward", steps), ("entropy", steps), ("eval_accuracy", evaluations)):
        sent = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in sent] == [row["step"] for row in rows]
        assert [v for _, v in sent] == pytest.approx([row[name] for row in rows], rel=1e-5)
    texts = {}
    for name in events.Tags()["tensors"]:
        texts[name.partition("/")[0]] = events.Tensors(name)[0].tensor_proto.string_val[0].decode()
    assert '"track": "tensorboard"' in texts["config"]
    assert "<think>" in texts["completions"]
    assert f'"eval_accuracy": {evaluations[-1]["eval_accuracy"]}' in texts["result"]


@pytest.mark.slow
def test_wandb_keeps_everything_offline(in_shared_folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    out, steps, evaluations = tracked_run(tmp_path, "wandb")
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    sent = []  # {name: value} of each call
    for content in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if items := record.history.item:
            pairs = [(item.key or item.nested_key[0], item.value_json) for item in items]
            sent.append({name: json.loads(value) for name, value in pairs})
    rewards = [line["reward"] for line in sent if "reward" in line]
    assert rewards == pytest.approx([row["reward"] for row in steps], rel=1e-5)
    accuracies = [line["eval_accuracy"] for line in sent if "eval_accuracy" in line]
    assert accuracies == pytest.approx([row["eval_accuracy"] for row in evaluations], rel=1e-5)
    assert any("completions" in line for line in sent)

    # the tables' clips wait to be uploaded
    waiting = [path.read_bytes() for path in (tmp_path / "data").rglob("tmp*") if path.is_file()]
    clips = [path.read_bytes() for path in in_shared_folder.rglob("stage2-heldout-*.mp4")]
    assert any(clip in waiting for clip in clips)


def wandb_records(content: bytes):
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format. Blocks of 32 KiB
    hold pieces (checksum 4 bytes, length 2, type 1: whole, first, middle, last)."""
    record = b""
    place = 7
    while place < len(content):
        space = 32_768 - place % 32_768
        if space < 7:  # the rest of a block is padding
            place += space
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_trackio_has_every_column(in_shared_folder, tmp_path, monkeypatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    _, steps, _ = tracked_run(tmp_path, "trackio")
    with sqlite3.connect(tmp_path / "store" / "avatar.db") as database:
        rows = database.execute("select metrics from metrics order by step").fetchall()
    sent = [json.loads(row[0]) for row in rows]
    rewards = [line["reward"] for line in sent if "reward" in line and "loss" in line]
    assert rewards == pytest.approx([row["reward"] for row in steps], rel=1e-5)
    assert any("eval_accuracy" in line for line in sent)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="--track wandb: the package is not installed; pip inst"):
        parse(["--track", "wandb"])
    assert sentence_of(DataError("x")) == "x"


def test_columns_that_are_no_numbers_are_not_sent():
    row = {"step": 3, "stage": 2, "reward": 0.5, "kl": None, "hinted_prompts": ["a"], "hints": 2}
    assert track.numbers_of(row) == {"reward": 0.5, "hints": 2}
