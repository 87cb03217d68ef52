"""eval.py: intervals against simulation and brute force, runs that are killed or split over processes, comparison tables. The module's name is that of a
Python function, hence `evaluation` here."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.base
import benchmarks.files
import benchmarks.table
import eval as evaluation
from benchmarks.base import Metric, item
from benchmarks.report import by_length, table
from benchmarks.results import BAD_MEDIA, NO_ANSWER, NO_VERDICT, TOO_LONG
from benchmarks.statistics import estimate, gain, interval, measured, resampled, summarise
from benchmarks.table import BENCHMARKS, load_items
from engine.families import DEFAULT_MODEL
from formats.sample import DataError
from model import load_policy
from tests import layouts_sound, layouts_video

REPO = Path(__file__).parent.parent


def lines(scores, videos=None, part="score", **labels):
    """Lines of results: a score, a video (each its own by default) and labels, one value or one per line."""
    pick = {k: v if isinstance(v, list) else [v] * len(scores) for k, v in labels.items()}
    return [
        {
            "id": f"q{i}",
            "video": str(videos[i] if videos else i),
            "labels": {k: v[i] for k, v in pick.items()},
            "parts": {part: s},
            "failure": None,
            "reason": None,
            "sound": "off",
            "tokens": 5,
            "reasoning_tokens": 0,
            "seconds": 0.1,
        }
        for i, s in enumerate(scores)
    ]


# ---------------------------------------------------------------------------------------------- values
def test_means_by_hand():
    found = lines([1, 0, 1, 1, 0, 0], task=["a", "a", "a", "a", "b", "b"])
    assert estimate(found, Metric("m")) == 0.5  # 3 of 6
    assert estimate(found, Metric("m", over=("task",))) == 0.375  # (3/4 + 0/2) / 2
    nested = lines(
        [1, 0, 0, 1, 1],
        task=["dir", "dir", "dir", "dist", "dist"],
        level=["easy", "easy", "hard", "x", "x"],
    )
    assert estimate(nested, Metric("m", over=("task", "level"))) == 0.625  # ((1/2 + 0) / 2 + 1) / 2
    assert estimate(lines([1, 4, 4]), Metric("m", root=True)) == math.sqrt(
        3
    )  # sqrt((1 + 4 + 4) / 3)
    assert estimate([*lines([1.0, 0.0]), *lines([9.0], part="error")], Metric("m", "error")) == 9.0
    assert estimate(lines([None]), Metric("m")) is None


@pytest.mark.parametrize(
    ("over", "root"), [((), False), (("task",), False), ((), True), (("task", "level"), False)]
)
def test_a_resample_is_the_metric_of_the_drawn_videos(over, root):
    """Every draw again by hand: the videos that the generator names, their lines repeated, `estimate` on them."""
    rng = random.Random(0)
    videos = [rng.randrange(7) for _ in range(40)]
    found = lines(
        [rng.random() for _ in range(40)],
        videos,
        task=[rng.choice("ab") for _ in range(40)],
        level=[rng.choice("xy") for _ in range(40)],
    )
    metric = Metric("m", over=over, root=root)
    values = resampled(found, metric, 60, seed=3)
    names = sorted({str(v) for v in videos})
    for value, drawn in zip(
        values, np.random.default_rng(3).integers(0, len(names), (60, len(names))), strict=True
    ):
        some = [
            row | {"video": f"{row['video']}-{i}"}
            for i, d in enumerate(drawn)
            for row in found
            if row["video"] == names[d]
        ]
        if (
            len({tuple(row["labels"].values()) for row in some}) == 4
        ):  # all groups drawn: no weight to hand on
            assert value == pytest.approx(estimate(some, metric), abs=1e-12)


def test_intervals_hold_the_truth_in_95_of_100_draws():
    """1,000 data sets of 150 videos with 3 questions each, right with a chance that is the video's own (mean 0.6): the truth is inside 93 to 97 % of
    the intervals. Questions drawn one by one, as if videos did not matter, would be far too sure."""
    rng, videos = np.random.default_rng(0), [i // 3 for i in range(450)]
    hits, naive = 0, 0
    for draw in range(1000):
        scores = (
            (rng.random((150, 3)) < rng.beta(0.9, 0.6, (150, 1))).astype(float).ravel().tolist()
        )
        low, high = interval(resampled(lines(scores, videos), Metric("m"), 400, seed=draw))
        hits += low <= 0.6 <= high
        if draw < 300:
            low, high = interval(resampled(lines(scores), Metric("m"), 400, seed=draw))
            naive += low <= 0.6 <= high
    assert 930 <= hits <= 970
    assert naive < 0.9 * 300


def test_one_video_has_no_interval():
    assert measured(lines([1, 0], [7, 7]), Metric("m"), 100) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 2,
        "videos": 1,
    }


# ---------------------------------------------------------------------------------------------- gains
def test_gains_are_paired():
    """Two runs that differ on 10 of 400 items only: the paired interval is about 2 sqrt(0.025 / 400) wide on either side of 0.025, far from the 0.07 of
    two runs on items of their own."""
    rng = np.random.default_rng(1)
    before = rng.integers(0, 2, 400).astype(float)
    wrong = np.flatnonzero(before == 0)[:10]
    after = before.copy()
    after[wrong] = 1
    found = gain(lines(before.tolist()), lines(after.tolist()), Metric("m"))
    assert found["value"] == pytest.approx(0.025) and found["n"] == 400
    assert found["low"] == pytest.approx(0.025 - 0.0153, abs=0.003) and found[
        "high"
    ] == pytest.approx(0.025 + 0.0153, abs=0.003)
    assert gain(lines(before.tolist()), lines(before.tolist()), Metric("m"))["high"] == 0


def test_paired_intervals_hold_the_true_gain():
    """400 draws of two runs on the same 120 videos of 2 questions, the second better by 0.1: 93 to 97 %, give or take one standard error (1.1 %)."""
    rng, videos, hits = np.random.default_rng(2), [i // 2 for i in range(240)], 0
    for _ in range(400):
        level, luck = rng.random((120, 1)) * 0.8 + 0.05, rng.random((120, 2))
        runs = [
            lines((luck < level + extra).astype(float).ravel().tolist(), videos)
            for extra in (0.0, 0.1)
        ]
        found = gain(*runs, Metric("m"), 300)
        hits += found["low"] <= 0.1 <= found["high"]
    assert 0.919 * 400 <= hits <= 0.981 * 400


def test_runs_on_other_items_are_refused():
    with pytest.raises(
        DataError,
        match=r"not of the same items: 1 are in the first only, 0 in the second only, e\.g\. 'q2'",
    ):
        gain(lines([1, 1, 1]), lines([1, 1]), Metric("m"))


def test_a_gain_needs_the_same_answers_scored():
    with pytest.raises(DataError, match=r"e\.g\. 'q1'; run eval\.py with --judge on both"):
        gain(lines([1, None]), lines([1, 1]), Metric("m"))
    assert gain(lines([None]), lines([None]), Metric("m"))["value"] is None


def test_gain_by_length():
    """Items by how many tokens the run reasons for, not the base: 0-9: q0, q1 (+1, 0); from 10: q2, q3 (0, -1)."""
    base, run = lines([0, 1, 1, 1]), lines([1, 1, 1, 0])
    for row, n in zip(run, (3, 9, 10, 50), strict=True):
        row["reasoning_tokens"] = n
    found = by_length({"base": {"toy": base}, "run": {"toy": run}}, "base", ["toy"], [10], 200)[
        "run"
    ]
    assert [(g["low_tokens"], g["high_tokens"], g["value"], g["n"]) for g in found] == [
        (0, 10, 0.5, 2),
        (10, None, -0.5, 2),
    ]


# ---------------------------------------------------------------------------------------------- whole runs
@pytest.fixture(scope="module")
def dataset(tmp_path_factory, world) -> Path:
    """Daily-Omni's layout: 14 questions about 5 of the toy's clips, the media of one missing and one file that is no video."""
    root, rng = tmp_path_factory.mktemp("dailyomni"), random.Random(1)
    clips = sorted(world.rglob("*.mp4"))[:4]
    for i in range(6):
        folder = root / "Videos" / f"v{i}"
        folder.mkdir(parents=True)
        if i < 4:
            shutil.copy(clips[i], folder / f"v{i}_video.mp4")
        elif i == 4:
            (folder / "v4_video.mp4").write_bytes(b"no video")
    (root / "qa.json").write_text(
        json.dumps(
            [
                {
                    "Question": f"What is it, number {n}?",
                    "Choice": ["A. disc", "B. square", "C. cross", "D. none"],
                    "Answer": rng.choice("ABCD"),
                    "video_id": f"v{n % 6}",
                    "Type": "Inference",
                    "video_category": "toy",
                    "video_duration": "30s",
                }
                for n in range(14)
            ]
        )
    )
    return root


def flags(dataset, out, *more):
    return [
        "--benchmark",
        "dailyomni",
        "--root",
        str(dataset),
        "--out",
        str(out),
        "--batch",
        "2",
        "--max_completion_tokens",
        "64",
        "--media_cache",
        "",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--resamples",
        "200",
        *more,
    ]


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("eval") / "run"
    evaluation.main(flags(dataset, out))
    return out


def rows_of(out):
    return [json.loads(row) for row in (out / "results.jsonl").read_text().splitlines()]


def test_a_run_lists_every_item_once_and_counts_failures_as_wrong(undisturbed, capsys):
    found, summary = rows_of(undisturbed), json.loads((undisturbed / "summary.json").read_text())
    assert [row["id"] for row in found] == [f"dailyomni-{n}" for n in range(14)]
    bad = [row for row in found if row["failure"] == BAD_MEDIA]
    assert [row["id"] for row in bad] == [
        "dailyomni-4",
        "dailyomni-5",
        "dailyomni-10",
        "dailyomni-11",
    ] and all(row["parts"]["score"] == 0 for row in bad)
    assert (
        "cannot read" in bad[0]["reason"]
        and "does not exist" in bad[1]["reason"]
        and "v4_video.mp4" in bad[0]["reason"]
    )
    right = sum(row["answer"] == row["gold"] for row in found)
    assert (
        summary["metrics"]["accuracy"]["value"] == right / 14
        and summary["n"] == 14
        and summary["videos"] == 6
    )
    assert summary["failures"][BAD_MEDIA] == 4 and sum(summary["failures"].values()) == len(
        summary["failed"]
    )
    assert (
        summary["settings"]["max_frames"] == 16
        and summary["settings"]["prompt"] == "think"
        and summary["versions"]["torch"]
    )
    assert summary["splits"]["Type"]["Inference"]["accuracy"]["n"] == 14
    text = table(summary)
    assert (
        "at most 16 frames of 2,352 pixels at 2 per second, with the sound of videos, replies of at most 64 tokens, greedy"
        in text
    )
    assert "the benchmark has 1,197 items as published, these files 14" in text and "torch " in text
    assert [row["score"] for row in found] == [row["parts"]["score"] for row in found]
    assert (
        "Daily-Omni: 14 items about 6 videos" in text
        and f"wrong because of: {BAD_MEDIA}: 4" in text
    )
    assert all(row["sound"] == "heard" for row in found if not row["reason"]) and all(
        row["prompt"].startswith("What is it, number") for row in found
    )


def test_batched_and_shared_answers_are_those_of_one_item_at_a_time(dataset, undisturbed, tmp_path):
    evaluation.main(
        flags(dataset, tmp_path / "one")[:6] + flags(dataset, tmp_path / "one", "--batch", "1")[6:]
    )
    assert [(row["id"], row["completion"]) for row in rows_of(tmp_path / "one")] == [
        (row["id"], row["completion"]) for row in rows_of(undisturbed)
    ]


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_summary(dataset, undisturbed, tmp_path, kills):
    """SIGKILL as soon as there are new lines, and a line torn in the middle of a letter; what was done is not asked again."""
    out, command = (
        tmp_path / "run",
        [sys.executable, str(REPO / "eval.py"), *flags(dataset, tmp_path / "run")],
    )
    for kill in range(kills):
        wanted = 2 * kill + 1
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (out / "results.jsonl").is_file() and (out / "results.jsonl").read_bytes().count(
                b"\n"
            ) >= wanted:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was still at it
    before = {row["id"]: row for row in rows_of(out)}
    assert 0 < len(before) < 14
    with (out / "results.jsonl").open("ab") as file:
        file.write('{"id": "dailyomni-9", "completion": "ü'.encode()[:-1])
    evaluation.main(flags(dataset, out))
    assert (out / "summary.json").read_bytes() == (undisturbed / "summary.json").read_bytes()
    after = {row["id"]: row for row in rows_of(out)}
    assert (
        all(after[name] == row for name, row in before.items()) and len(after) == 14
    )  # seconds, too: nothing was asked twice


def test_two_processes_lose_and_double_nothing(dataset, undisturbed, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(REPO / "eval.py"),
        *flags(dataset, tmp_path / "run"),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").read_bytes() == (
        undisturbed / "summary.json"
    ).read_bytes()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
        "results.jsonl",
        "settings.json",
        "summary.json",
    ]
    assert "14 items about 6 videos" in done.stdout


def test_a_finished_run_asks_nothing(dataset, undisturbed, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "load_policy", lambda *a: pytest.fail("asked again"))
    evaluation.main(flags(dataset, undisturbed))
    assert "14 items" in capsys.readouterr().out


def test_sampling_is_repeatable(dataset, tmp_path):
    for name in ("a", "b"):
        evaluation.main(flags(dataset, tmp_path / name, "--temperature", "1", "--limit", "6"))
    evaluation.main(
        flags(dataset, tmp_path / "c", "--temperature", "1", "--limit", "6", "--seed", "1")
    )
    a, b, c = ([row["completion"] for row in rows_of(tmp_path / name)] for name in "abc")
    assert a == b != c and len(a) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--prompt", "direct"],
            "holds results made with other settings \\(prompt 'think', now 'direct'\\)",
        ),
        (["--seed", "3"], "seed 0, now 3"),
        (["--only", "Type=x"], "the values of 'Type' are Inference"),
        (["--only", "x=y"], "no item has a label 'x'; labels are Type"),
        (["--strict"], "item .dailyomni-0.: no answer in the reply; leave out --strict"),
        (["--strict", "--retry"], "item .dailyomni-0.: no answer in the reply; leave out --strict"),
    ],
)
def test_errors_are_sentences(dataset, undisturbed, tmp_path, more, message):
    out = tmp_path / "run"
    if more != ["--strict"]:  # a new run stops there, and so does one that is done
        shutil.copytree(undisturbed, out)
    with pytest.raises(DataError, match=message):
        evaluation.main(flags(dataset, out, *more))


def test_memory_flags_may_change_in_the_middle(dataset, undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    kept = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(kept[:5]))
    evaluation.main(flags(dataset, out, "--max_tokens", "500"))
    assert "going on with max_tokens 16384, now 500" in capsys.readouterr().out and rows_of(out)[
        :5
    ] == [json.loads(row) for row in kept[:5]]
    assert [row["answer"] for row in rows_of(out)] == [
        row["answer"] for row in rows_of(undisturbed)
    ]
    assert json.loads((out / "summary.json").read_text())["settings"]["max_tokens"] == 500


def test_mended_media_are_asked_again_when_told_to(dataset, undisturbed, tmp_path, world):
    root, out = tmp_path / "root", tmp_path / "run"
    shutil.copytree(dataset, root)
    evaluation.main(flags(root, out))
    shutil.copy(sorted(world.rglob("*.mp4"))[5], root / "Videos" / "v5" / "v5_video.mp4")
    evaluation.main(flags(root, out))
    assert json.loads((out / "summary.json").read_text())["failures"][BAD_MEDIA] == 4
    evaluation.main(flags(root, out, "--retry"))
    summary = json.loads((out / "summary.json").read_text())
    assert (
        summary["failures"][BAD_MEDIA] == 2
        and summary["n"] == 14
        and [row["id"] for row in rows_of(out)] == [f"dailyomni-{n}" for n in range(14)]
    )


def test_what_was_heard_is_each_items_own(tmp_path, world):
    """Two spans of one clip of 4 s, the first behind its end: silent, and heard."""
    layouts_video.LAYOUTS["mvbench"](tmp_path / "root")
    clip = sorted(world.rglob("*.mp4"))[0]
    shutil.copy(clip, tmp_path / "root" / "video" / "star" / "Charades_v1_480" / "ZS9XR.mp4")
    for file in (tmp_path / "root" / "json").glob("*.json"):
        file.unlink()
    (tmp_path / "root" / "json" / "action_sequence.json").write_text(
        json.dumps(
            [
                {
                    "video": "ZS9XR.mp4",
                    "question": f"What {i}?",
                    "candidates": ["x", "y"],
                    "answer": "x",
                    "start": start,
                    "end": start + 1,
                }
                for i, start in enumerate((30.0, 1.0))
            ]
        )
    )
    evaluation.main(
        [
            "--benchmark",
            "mvbench",
            "--root",
            str(tmp_path / "root"),
            "--out",
            str(tmp_path / "out"),
            "--use_audio",
            "--max_completion_tokens",
            "4",
            "--workers",
            "0",
            "--media_cache",
            "",
            "--device",
            "cpu",
            "--resamples",
            "100",
        ]
    )
    assert [row["sound"] for row in rows_of(tmp_path / "out")] == ["silent", "heard"]


def test_other_weights_are_other_settings(dataset, tmp_path):
    """The same folder name with another training's weights does not go on with the old results."""
    model = tmp_path / "checkpoint"
    shutil.copytree(REPO / "assets" / "tiny-omni", model)
    evaluation.main(flags(dataset, tmp_path / "run", "--model", str(model), "--limit", "2"))
    os.utime(model / "model.safetensors", ns=(1, 1))
    with pytest.raises(DataError, match="weights '"):
        evaluation.main(flags(dataset, tmp_path / "run", "--model", str(model), "--limit", "2"))


def test_a_folder_that_is_not_the_benchmarks(tmp_path):
    with pytest.raises(DataError, match=r"none of qa\.json is there"):
        evaluation.main(flags(tmp_path, tmp_path / "out"))
    (tmp_path / "qa.json").write_text('[{"Question": "x"}]')
    with pytest.raises(
        DataError, match="the first item after its beginning is not as in Daily-Omni's own files"
    ):
        evaluation.main(flags(tmp_path, tmp_path / "out"))
    (tmp_path / "qa.json").write_text("{")
    with pytest.raises(DataError, match=r"qa\.json: not JSON"):
        evaluation.main(flags(tmp_path, tmp_path / "out"))


def test_too_long_prompts_are_wrong_by_reason(dataset, tmp_path):
    evaluation.main(flags(dataset, tmp_path / "run", "--max_prompt_tokens", "20", "--limit", "3"))
    assert [row["failure"] for row in rows_of(tmp_path / "run")] == [
        TOO_LONG
    ] * 3 and "--max_prompt_tokens 20" in rows_of(tmp_path / "run")[0]["reason"]


def test_items_without_a_right_answer_are_left_out_and_named(dataset, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(dataset, root)
    found = json.loads((root / "qa.json").read_text())
    found[1]["Answer"] = "E"
    (root / "qa.json").write_text(json.dumps(found))
    evaluation.main(flags(root, tmp_path / "run", "--limit", "3"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["n"] == 3 and summary["left_out"] == [
        {"id": "dailyomni-1", "reason": "its answer 'E' is none of its 4 options"}
    ]
    assert "left out" in table(summary)


# ---------------------------------------------------------------------------------------------- judged answers
class Canned:
    """A judge that says yes to "right", no to "wrong", and first mumbles about "odd"; it never makes up its mind about "never"."""

    asked = 0

    def ask(self, requests):
        Canned.asked += len(requests)
        replies = {
            "right": '{"extracted_answer": "x", "correct": true}',
            "wrong": '```json\n{"extracted_answer": "x", "correct": False}\n```',
        }
        out = [
            next((reply for word, reply in replies.items() if word in r.text), "hm")
            for r in requests
        ]
        return [
            '{"correct": true}' if "odd" in r.text and len(requests) == 2 else reply
            for r, reply in zip(requests, out, strict=True)
        ]


def test_open_answers_wait_for_their_judge(tmp_path, monkeypatch):
    """Without a judge they have no score; with one, later, they get it without being asked again."""
    one = item(
        "m",
        "What?",
        "gold",
        [],
        "free-form",
        labels={"question_type": "open-ended", "discipline": "Art"},
    )
    found = [
        {
            "id": f"m{i}",
            "video": str(i),
            "labels": one.labels,
            "answer": text,
            "parts": {"score": None},
            "failure": None,
            "reason": None,
            "sound": "off",
            "tokens": 1,
            "seconds": 0.0,
        }
        for i, text in enumerate(["right", "wrong", "odd", "never"])
    ]
    by_id = {row["id"]: one for row in found}
    benchmark = BENCHMARKS["mmvu"]
    found.append(found[0] | {"id": "m4", "answer": "", "failure": NO_ANSWER, "video": "4"})
    by_id["m4"] = one
    assert evaluation.let_judge(None, "", benchmark, by_id, found) == []
    before = summarise(found, benchmark, 100)
    assert (
        before["unjudged"] == 5 and before["metrics"] == {} and before["failures"] == {NO_ANSWER: 1}
    )  # a failure alone does not make a score
    judged = evaluation.let_judge(Canned(), "wise", benchmark, by_id, found)
    assert [row["score"] for row in judged] == [1.0, 0.0, 1.0, 0.0, 0.0] and {
        row["judge"] for row in judged
    } == {"wise"}
    assert [row["failure"] for row in judged] == [None, None, None, NO_VERDICT, NO_ANSWER]
    assert (
        Canned.asked == 6 and evaluation.let_judge(Canned(), "wise", benchmark, by_id, found) == []
    )  # the empty answer was not asked about
    assert summarise(found, benchmark, 100)["metrics"]["accuracy"]["value"] == 0.4


# ---------------------------------------------------------------------------------------------- comparison
def save(folder, scores, benchmark="toy"):
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text(
        "".join(json.dumps(row | {"benchmark": benchmark}) + "\n" for row in lines(scores))
    )
    return folder


def test_the_papers_table(tmp_path, capsys):
    """40 items: base 20 right, a 21 (not significant), b 36 (significant)."""
    base = [1] * 20 + [0] * 20
    runs = {"base": base, "a": [0, *base[1:20], 1, 1, *base[22:]], "b": [1] * 36 + [0] * 4}
    words = [f"{name}={save(tmp_path / name, scores)}" for name, scores in runs.items()]
    evaluation.main(
        [
            "--compare",
            *words,
            "--out",
            str(tmp_path / "out"),
            "--plot",
            "true",
            "--by_length",
            "true",
            "--length_edges",
            "10",
        ]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "| | Toy world (40) |" and said[2].startswith("| base | 50.0 [")
    assert said[3].startswith("| a | 52.5 (+2.5† [") and said[4].startswith("| b | 90.0 (+40.0 [")
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["runs"]["b"]["toy"]["gain"]["low"] > 0.2 and found["by_length"]["b"][0][
        "value"
    ] == pytest.approx(0.4)
    assert (tmp_path / "out" / "compare.png").stat().st_size > 1000 and (
        tmp_path / "out" / "by_length.png"
    ).stat().st_size > 1000


def test_runs_that_were_asked_otherwise_are_told(tmp_path, capsys):
    for name, prompt in (("a", "think"), ("b", "direct")):
        save(tmp_path / name, [1, 0, 1])
        (tmp_path / name / "settings.json").write_text(
            json.dumps({"prompt": prompt, "fps": 2.0, "model": name, "weights": name})
        )
    evaluation.main(
        [
            "--compare",
            f"base={tmp_path / 'a'}",
            f"b={tmp_path / 'b'}",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert (
        "b on toy was asked otherwise than base: prompt 'direct', not 'think'"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: [words[0], "x"], "write name=path"),
        (lambda words: [words[0], "x=/nowhere"], "write name=path"),
        (lambda words: [*words, words[0]], "'base' has a run on toy already"),
        (lambda words: [words[0], words[1], words[2]], "do not both have a run on"),
    ],
)
def test_comparisons_that_cannot_be_made(tmp_path, change, message):
    words = [
        f"base={save(tmp_path / 'a', [1, 0])}",
        f"b={save(tmp_path / 'b', [1, 0])}",
        f"b={save(tmp_path / 'c', [1, 0], 'vsi')}",
    ]
    with pytest.raises(DataError, match=message):
        evaluation.main(["--compare", *change(words), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--benchmark", "omnibench"], "--root: pass the folder of OmniBench"),
        (["--benchmark", "x"], "known are toy"),
        (["--prompt", "loud"], "known are think, direct, paper"),
        (["--resamples", "3"], "at least 100"),
        (["--compare", "a=b", "--length_edges", "1,x"], "write numbers of tokens"),
    ],
)
def test_bad_flags_end_with_one_sentence(argv, message, capsys):
    with pytest.raises(SystemExit):
        evaluation.parse(argv)
    assert message in capsys.readouterr().err


def test_the_papers_wording_brings_the_scripts_length():
    assert (
        evaluation.parse(
            ["--benchmark", "intentbench", "--root", "x", "--model", "some/7b", "--prompt", "paper"]
        ).max_completion_tokens
        == 20
    )
    cfg = evaluation.parse(["--benchmark", "vsi", "--root", "x", "--model", "some/7b"])
    assert (cfg.max_completion_tokens, cfg.max_frames, cfg.use_audio, cfg.temperature, cfg.out) == (
        2048,
        64,
        False,
        0.0,
        "runs/eval/vsi-some-7b-think",
    )


# ---------------------------------------------------------------------------------------------- all of them
EVERYTHING = {**layouts_sound.LAYOUTS, **layouts_video.LAYOUTS}


@pytest.fixture(scope="module")
def one_policy():
    return load_policy(DEFAULT_MODEL)


@pytest.mark.parametrize(
    "style",
    ["think", *(pytest.param(style, marks=pytest.mark.slow) for style in ("direct", "paper"))],
)
@pytest.mark.parametrize("name", EVERYTHING)
def test_every_benchmark_runs_on_its_own_layout(tmp_path, monkeypatch, one_policy, name, style):
    """From the files as downloaded to the summary: every item asked with its media, none failed on them, its metrics those of its lines."""
    monkeypatch.setattr(evaluation, "load_policy", lambda *a: one_policy)  # loaded once for all
    n = EVERYTHING[name](tmp_path / "root")
    evaluation.main(
        [
            "--benchmark",
            name,
            "--root",
            str(tmp_path / "root"),
            "--out",
            str(tmp_path / "out"),
            "--prompt",
            style,
            "--max_completion_tokens",
            "8",
            "--workers",
            "0",
            "--media_cache",
            str(tmp_path / "cache"),
            "--device",
            "cpu",
            "--resamples",
            "100",
        ]
    )
    found, summary = (
        rows_of(tmp_path / "out"),
        json.loads((tmp_path / "out" / "summary.json").read_text()),
    )
    assert (
        summary["n"] + len(summary["left_out"]) == n == summary["there"]
        and len({row["id"] for row in found}) == summary["n"]
    )
    assert {row["failure"] for row in found} <= {None, NO_ANSWER} and not any(
        row["reason"] for row in found
    )
    assert (
        set(summary["splits"]) <= set(BENCHMARKS[name].splits)
        and summary["settings"]["prompt"] == style
    )
    for metric in BENCHMARKS[name].metrics:
        values = [
            row["parts"][metric.part] for row in found if row["parts"].get(metric.part) is not None
        ]
        if values and not metric.over:
            mean = sum(values) / len(values)
            assert summary["metrics"][metric.name]["value"] == pytest.approx(
                math.sqrt(mean) if metric.root else mean
            )
    assert BENCHMARKS[name].title in table(summary)
    hears = any(row["sound"] == "heard" for row in found)
    assert hears == (
        BENCHMARKS[name].sound and name not in ("videomme", "videoholmes")
    ) and not any(row["sound"] == "cut" for row in found)


def test_the_fixtures_cover_every_benchmark():
    assert {*EVERYTHING, "toy"} == set(BENCHMARKS)


def test_items_that_share_an_id_are_all_kept(tmp_path):
    n = layouts_video.LAYOUTS["tomato"](tmp_path)
    file = next((tmp_path / "data").glob("*.json"))
    (tmp_path / "jsons").mkdir()
    shutil.copy(file, tmp_path / "jsons" / file.name)
    ids = [one.sample.id for one in load_items("tomato", tmp_path, tmp_path)[0]]
    assert (
        len(ids) == len(set(ids)) == n + len(json.loads(file.read_text()))
        and sum(i.endswith("#2") for i in ids) == len(ids) - n
    )


def test_the_new_benchmark_of_the_docs_runs(tmp_path, monkeypatch, one_policy):
    """The dozen lines of docs/evaluation.md as they stand there."""
    code = next(
        block
        for block in (REPO / "docs" / "evaluation.md").read_text().split("```python\n")
        if block.startswith("def read_mine")
    ).split("```")[0]
    (tmp_path / "mine.jsonl").write_text(
        json.dumps(
            {
                "question": "What?",
                "options": ["x", "y"],
                "answer": "B",
                "clip": "c.mp4",
                "topic": "t",
            }
        )
        + "\n"
    )
    layouts_video.write_video(tmp_path / "clips" / "c.mp4")
    known = dict(BENCHMARKS)
    exec(code, {**vars(benchmarks.base), **vars(benchmarks.files), **vars(benchmarks.table)})
    try:
        monkeypatch.setattr(evaluation, "load_policy", lambda *a: one_policy)
        flags = [
            "--out",
            str(tmp_path / "out"),
            "--device",
            "cpu",
            "--media_cache",
            "",
            "--max_completion_tokens",
            "4",
        ]
        evaluation.run(
            replace(evaluation.parse(flags), benchmark="mine", root=str(tmp_path), use_audio=False)
        )
        assert (
            json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["topic"]["t"][
                "accuracy"
            ]["n"]
            == 1
        )
    finally:
        BENCHMARKS.clear()
        BENCHMARKS.update(known)
