"""eval.py as a program: runs that are killed or split over processes, comparisons, every benchmark.

The module's name is that of a Python function, hence `evaluation` here. What eval.py is made of is
tested in tests/benchmarks/.
"""

import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.inference
import eval as evaluation
from benchmarks.report import table
from benchmarks.results import BAD_MEDIA, NO_ANSWER, TOO_LONG
from benchmarks.table import BENCHMARKS, load_items
from engine.families import DEFAULT_MODEL
from formats.sample import DataError
from model import load_policy
from tests import layouts_sound, layouts_video
from tests.families import QWEN3_OMNI
from tests.results import read_lines, save_results

REPO = Path(__file__).parent.parent
EVAL = [sys.executable, str(REPO / "eval.py")]
N_ITEMS = 14


# ------------------------------------------------------------------------------ one run
@pytest.fixture(scope="module")
def dataset(tmp_path_factory, world) -> Path:
    """Daily-Omni's layout: 14 questions about 6 videos, 4 of them the toy's clips, one of them a
    file that is no video, and one of them missing."""
    root = tmp_path_factory.mktemp("dailyomni")
    clips = sorted(world.rglob("*.mp4"))[:4]
    for i in range(6):
        video = root / "Videos" / f"v{i}" / f"v{i}_video.mp4"
        video.parent.mkdir(parents=True)
        if i < 4:
            shutil.copy(clips[i], video)
        elif i == 4:
            video.write_bytes(b"no video")

    rng = random.Random(1)
    questions = []
    for n in range(N_ITEMS):
        questions.append(
            {
                "Question": f"What is it, number {n}?",
                "Choice": ["A. disc", "B. square", "C. cross", "D. none"],
                "Answer": rng.choice("ABCD"),
                "video_id": f"v{n % 6}",
                "Type": "Inference",
                "video_category": "toy",
                "video_duration": "30s",
            }
        )
    (root / "qa.json").write_text(json.dumps(questions))
    return root


def run_flags(root, out, *more, benchmark="dailyomni", batch=2, length=64) -> list[str]:
    """Flags of a short run. Of a flag that is given twice the last one counts."""
    flags = {
        "--benchmark": benchmark,
        "--root": root,
        "--out": out,
        "--batch": batch,
        "--max_completion_tokens": length,
        "--media_cache": "",
        "--workers": 0,
        "--resamples": 200,
    }
    words = []
    for name, value in flags.items():
        words += [name, str(value)]
    return [*words, *more]


def read_summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory) -> Path:
    """The folder of a run that nothing has happened to. Tests that go on with one take a copy."""
    out = tmp_path_factory.mktemp("eval") / "run"
    evaluation.main(run_flags(dataset, out))
    return out


@pytest.fixture
def copied(undisturbed, tmp_path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def test_a_run_lists_every_item_once_and_counts_failures_as_wrong(undisturbed):
    results = read_lines(undisturbed)
    assert [result["id"] for result in results] == [f"dailyomni-{n}" for n in range(N_ITEMS)]
    assert all(result["score"] == result["parts"]["score"] for result in results)
    assert all("What is it, number" in result["prompt"] for result in results)
    asked = [result["prompt"] for result in results if not result["reason"]]
    assert all(prompt.endswith("<|im_end|>\n<|im_start|>assistant\n") for prompt in asked)
    assert all(result["sound"] == "heard" for result in results if not result["reason"])

    bad = [result for result in results if result["failure"] == BAD_MEDIA]
    bad_numbers = [int(result["id"].removeprefix("dailyomni-")) for result in bad]
    assert bad_numbers == [4, 5, 10, 11]
    assert all(result["parts"]["score"] == 0 for result in bad)
    assert "cannot read" in bad[0]["reason"]
    assert "v4_video.mp4" in bad[0]["reason"]
    assert "does not exist" in bad[1]["reason"]

    summary = read_summary(undisturbed)
    right = sum(result["answer"] == result["gold"] for result in results)
    assert summary["metrics"]["accuracy"]["value"] == right / N_ITEMS
    assert summary["n"] == N_ITEMS
    assert summary["videos"] == 6
    assert summary["failures"][BAD_MEDIA] == 4
    assert sum(summary["failures"].values()) == len(summary["failed"])
    assert summary["settings"]["max_frames"] == 16
    assert summary["settings"]["prompt"] == "think"
    assert summary["versions"]["torch"]
    assert summary["splits"]["Type"]["Inference"]["accuracy"]["n"] == N_ITEMS


def test_a_qwen3_omni_is_evaluated_like_any_model(dataset, families, tmp_path):
    model = str(families[QWEN3_OMNI].source)
    out = tmp_path / "run"
    evaluation.main(run_flags(dataset, out, "--model", model, "--limit", "3", length=6))
    results = read_lines(out)
    assert len(results) == 3
    assert all(result["sound"] == "heard" for result in results)
    assert all(result["failure"] in (None, "", NO_ANSWER) for result in results)


def test_the_table_of_a_run(undisturbed):
    text = table(read_summary(undisturbed))
    assert "Daily-Omni: 14 items about 6 videos" in text
    assert f"wrong because of: {BAD_MEDIA}: 4" in text
    assert "the benchmark has 1,197 items as published, these files 14" in text
    assert "torch " in text
    settings = (
        "at most 16 frames of 2,352 pixels at 2 per second, with the sound of videos, replies of "
        "at most 64 tokens, greedy"
    )
    assert settings in text


def test_batched_and_shared_answers_are_those_of_one_item_at_a_time(dataset, undisturbed, tmp_path):
    evaluation.main(run_flags(dataset, tmp_path / "one", batch=1))
    alone = [(result["id"], result["completion"]) for result in read_lines(tmp_path / "one")]
    batched = [(result["id"], result["completion"]) for result in read_lines(undisturbed)]
    assert alone == batched


def test_sampling_is_repeatable(dataset, tmp_path):
    completions = []
    for n, seed in enumerate(("0", "0", "1")):
        out = tmp_path / str(n)
        sampling = ("--temperature", "1", "--seed", seed, "--limit", "6")
        evaluation.main(run_flags(dataset, out, *sampling))
        completions.append([result["completion"] for result in read_lines(out)])
    first, again, other_seed = completions
    assert first == again != other_seed
    assert len(first) == 6


def test_too_long_prompts_are_wrong_by_reason(dataset, tmp_path):
    out = tmp_path / "run"
    evaluation.main(run_flags(dataset, out, "--max_prompt_tokens", "20", "--limit", "3"))
    assert [result["failure"] for result in read_lines(out)] == [TOO_LONG] * 3
    assert "--max_prompt_tokens 20" in read_lines(out)[0]["reason"]


def test_items_without_a_right_answer_are_left_out_and_named(dataset, tmp_path):
    root = Path(shutil.copytree(dataset, tmp_path / "root"))
    questions = json.loads((root / "qa.json").read_text())
    questions[1]["Answer"] = "E"
    (root / "qa.json").write_text(json.dumps(questions))
    evaluation.main(run_flags(root, tmp_path / "run", "--limit", "3"))
    summary = read_summary(tmp_path / "run")
    assert summary["n"] == 3
    assert summary["left_out"] == [
        {"id": "dailyomni-1", "reason": "its answer 'E' is none of its 4 options"}
    ]
    assert "left out" in table(summary)


def test_what_was_heard_is_each_items_own(tmp_path, world):
    """Two spans of one clip of 4 s, the first behind its end: silent, and heard."""
    root = tmp_path / "root"
    layouts_video.LAYOUTS["mvbench"](root)
    clip = sorted(world.rglob("*.mp4"))[0]
    shutil.copy(clip, root / "video" / "star" / "Charades_v1_480" / "ZS9XR.mp4")
    for file in (root / "json").glob("*.json"):
        file.unlink()
    questions = []
    for i, start in enumerate((30.0, 1.0)):
        questions.append(
            {
                "video": "ZS9XR.mp4",
                "question": f"What {i}?",
                "candidates": ["x", "y"],
                "answer": "x",
                "start": start,
                "end": start + 1,
            }
        )
    (root / "json" / "action_sequence.json").write_text(json.dumps(questions))
    out = tmp_path / "out"
    evaluation.main(run_flags(root, out, "--use_audio", benchmark="mvbench", length=4))
    assert [result["sound"] for result in read_lines(out)] == ["silent", "heard"]


# ------------------------------------------------------------------------------ runs that go on
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_summary(dataset, undisturbed, tmp_path, kills):
    """SIGKILL as soon as there are new results, and a line torn in the middle of a letter; what was
    done is not asked again."""
    out = tmp_path / "run"
    file = out / "results.jsonl"
    for kill in range(kills):
        process = subprocess.Popen(
            [*EVAL, *run_flags(dataset, out)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if file.is_file() and file.read_bytes().count(b"\n") >= 2 * kill + 1:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was still at it
    before = {result["id"]: result for result in read_lines(out)}
    assert 0 < len(before) < N_ITEMS

    with file.open("ab") as stream:
        stream.write('{"id": "dailyomni-9", "completion": "ü'.encode()[:-1])
    evaluation.main(run_flags(dataset, out))
    assert (out / "summary.json").read_bytes() == (undisturbed / "summary.json").read_bytes()
    after = {result["id"]: result for result in read_lines(out)}
    assert len(after) == N_ITEMS
    for name, result in before.items():
        assert after[name] == result  # seconds, too: nothing was asked twice


@pytest.mark.slow
def test_two_processes_lose_and_double_nothing(dataset, undisturbed, tmp_path):
    """Started as torchrun starts them, but without torchrun, which takes seconds to start."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in ("0", "1"):
        env = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        processes.append(
            subprocess.Popen(
                [*EVAL, *run_flags(dataset, out)],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | env,
            )
        )
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert (out / "summary.json").read_bytes() == (undisturbed / "summary.json").read_bytes()
    names = sorted(path.name for path in out.iterdir())
    assert names == [".lock", "results.jsonl", "settings.json", "summary.json"]
    assert "14 items about 6 videos" in outputs[0][0]
    assert outputs[1][0] == ""


def test_a_finished_run_asks_nothing(dataset, undisturbed, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.inference, "load_policy", lambda *a: pytest.fail("asked again"))
    evaluation.main(run_flags(dataset, undisturbed))
    assert "14 items" in capsys.readouterr().out


def test_memory_flags_may_change_in_the_middle(dataset, undisturbed, copied, capsys):
    file = copied / "results.jsonl"
    before = file.read_text().splitlines(keepends=True)[:5]
    file.write_text("".join(before))
    evaluation.main(run_flags(dataset, copied, "--max_tokens", "500"))
    assert "going on with max_tokens 16384, now 500" in capsys.readouterr().out
    results = read_lines(copied)
    assert results[:5] == [json.loads(line) for line in before]
    answers = [result["answer"] for result in results]
    assert answers == [result["answer"] for result in read_lines(undisturbed)]
    assert read_summary(copied)["settings"]["max_tokens"] == 500


def test_mended_media_are_asked_again_when_told_to(dataset, tmp_path, world):
    root = Path(shutil.copytree(dataset, tmp_path / "root"))
    out = tmp_path / "run"
    evaluation.main(run_flags(root, out))
    shutil.copy(sorted(world.rglob("*.mp4"))[5], root / "Videos" / "v5" / "v5_video.mp4")
    evaluation.main(run_flags(root, out))
    assert read_summary(out)["failures"][BAD_MEDIA] == 4
    evaluation.main(run_flags(root, out, "--retry"))
    assert read_summary(out)["failures"][BAD_MEDIA] == 2
    assert read_summary(out)["n"] == N_ITEMS
    ids = [result["id"] for result in read_lines(out)]
    assert ids == [f"dailyomni-{n}" for n in range(N_ITEMS)]


def test_other_weights_are_other_settings(dataset, tmp_path):
    """The same folder name with another training's weights does not go on with the old results."""
    model = Path(shutil.copytree(REPO / "assets" / "tiny-omni", tmp_path / "checkpoint"))
    flags = run_flags(dataset, tmp_path / "run", "--model", str(model), "--limit", "2")
    evaluation.main(flags)
    os.utime(model / "model.safetensors", ns=(1, 1))
    with pytest.raises(DataError, match="weights '"):
        evaluation.main(flags)


# ------------------------------------------------------------------------------ errors
STRICT = "item .dailyomni-0.: no answer in the reply; leave out --strict"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompt", "direct"], r"made with other settings \(prompt 'think', now 'direct'\)"),
        (["--seed", "3"], "seed 0, now 3"),
        (["--only", "Type=x"], "the values of 'Type' are Inference"),
        (["--only", "x=y"], "no item has a label 'x'; labels are Type"),
        (["--strict", "--retry"], STRICT),
    ],
)
def test_errors_are_sentences(dataset, copied, more, message):
    with pytest.raises(DataError, match=message):
        evaluation.main(run_flags(dataset, copied, *more))


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/", "latest/checkpoint", "checkpoint/."])
def test_the_link_of_a_checkpoint_is_followed_once(dataset, tmp_path, monkeypatch, name):
    """It moves on to another model while the first one is being read: weights, config and
    fingerprint are all of the first."""
    first, second = tmp_path / "000001", tmp_path / "000002"
    for folder in (first, second):
        shutil.copytree(DEFAULT_MODEL, folder)
    os.utime(second / "model.safetensors", ns=(1, 1))
    link = tmp_path / "checkpoint"
    link.symlink_to("000001")
    (tmp_path / "latest").symlink_to(".")
    read = []
    real = benchmarks.inference.can_hear

    def move_on(model):
        link.unlink()
        link.symlink_to("000002")
        return real(model)

    def note(path, *rest):
        read.append(str(path))
        return load_policy(path, *rest)

    monkeypatch.setattr(benchmarks.inference, "can_hear", move_on)
    monkeypatch.setattr(benchmarks.inference, "load_policy", note)
    out = tmp_path / "out"
    evaluation.main(run_flags(dataset, out, "--model", f"{tmp_path}/{name}", "--limit", "2"))
    assert read == [str(first)]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["weights"] == evaluation.fingerprint(str(first))
    assert settings["weights"] != evaluation.fingerprint(str(second))


@pytest.mark.parametrize("change", ["Question", "Choice", "Answer", "media"])
def test_a_changed_benchmark_is_noticed(dataset, tmp_path, change):
    """One question of three: a run does not go on, and two runs do not compare."""
    root = Path(shutil.copytree(dataset, tmp_path / "root"))
    evaluation.main(run_flags(root, tmp_path / "a", "--limit", "3"))
    questions = json.loads((root / "qa.json").read_text())
    if change == "media":
        with (root / "Videos/v2/v2_video.mp4").open("ab") as file:
            file.write(b"more")
    else:
        other = {"Question": "Who?", "Choice": ["A. x", "B. y", "C. z", "D. none"]}
        letter = "A" if questions[2]["Answer"] != "A" else "B"
        questions[2][change] = other.get(change, letter)
        (root / "qa.json").write_text(json.dumps(questions))
    what = "media" if change == "media" else "question, options or gold answer"
    with pytest.raises(DataError, match=rf"results of 1 items whose {what} were others than"):
        evaluation.main(run_flags(root, tmp_path / "a", "--limit", "3"))
    if change == "media":
        return
    evaluation.main(run_flags(root, tmp_path / "b", "--limit", "3"))
    runs = [f"{name}={tmp_path / name}" for name in "ab"]
    with pytest.raises(DataError, match="other questions, options or gold answers under 1 ids of"):
        evaluation.main(["--compare", *runs, "--out", str(tmp_path / "c")])


def test_strict_stops_a_new_run(dataset, tmp_path):
    with pytest.raises(DataError, match=STRICT):
        evaluation.main(run_flags(dataset, tmp_path / "run", "--strict"))


@pytest.mark.parametrize("video", ["../../other/clip", "link", "away/clip"])
def test_media_of_a_benchmark_lie_inside_its_folder(tmp_path, video):
    """Unless the user names another folder, too."""
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "clip.mp4").write_bytes(b"a clip of somebody else")
    (root / "data" / "link.mp4").symlink_to(tmp_path / "clip.mp4")
    (root / "data" / "away").symlink_to(tmp_path)
    row = {
        "video_id": "1",
        "videoID": video,
        "question_id": "1-1",
        "question": "?",
        "options": ["A. x", "B. y"],
        "answer": "A",
        "duration": "short",
        "domain": "d",
        "task_type": "t",
        "sub_category": "s",
    }
    layouts_sound.write_parquet(root / "videomme" / "test-00000-of-00001.parquet", [row])
    with pytest.raises(DataError, match=r"item '.*' names .*(clip|link)\.mp4, which lies outside"):
        load_items("videomme", root, tmp_path / "scratch")
    items, _ = load_items("videomme", root, tmp_path / "scratch", str(tmp_path))
    assert len(items) == 1


def test_a_folder_that_is_not_the_benchmarks(tmp_path):
    flags = run_flags(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"none of qa\.json is there"):
        evaluation.main(flags)
    (tmp_path / "qa.json").write_text('[{"Question": "x"}]')
    message = "the first item after its beginning is not as in Daily-Omni's own files"
    with pytest.raises(DataError, match=message):
        evaluation.main(flags)
    (tmp_path / "qa.json").write_text("{")
    with pytest.raises(DataError, match=r"qa\.json: not JSON"):
        evaluation.main(flags)


# ------------------------------------------------------------------------------ flags
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--benchmark", "omnibench"], "--root: pass the folder of OmniBench"),
        (["--benchmark", "x"], "known are toy"),
        (["--prompt", "loud"], "known are think, direct, paper"),
        (["--resamples", "3"], "at least 100"),
        (["--compare", "a=b", "--length_edges", "1,x"], "write numbers of tokens"),
        (["--compare", "a=b", "--length_edges", "\u00b2"], "write numbers of tokens"),
    ],
)
def test_bad_flags_end_with_one_sentence(argv, message, capsys):
    with pytest.raises(SystemExit):
        evaluation.parse(argv)
    assert message in capsys.readouterr().err


def test_the_papers_wording_brings_the_scripts_length():
    flags = ["--root", "x", "--model", "some/7b"]
    cfg = evaluation.parse(["--benchmark", "intentbench", *flags, "--prompt", "paper"])
    assert cfg.max_completion_tokens == 20
    cfg = evaluation.parse(["--benchmark", "vsi", *flags])
    assert cfg.max_completion_tokens == 2048
    assert cfg.max_frames == 64
    assert cfg.use_audio is False
    assert cfg.temperature == 0.0
    assert cfg.out == "runs/eval/vsi-some-7b-think"


# ------------------------------------------------------------------------------ comparison
def test_the_papers_table(tmp_path, capsys):
    """40 items: base 20 right, a 21 (not significant), b 36 (significant)."""
    base = [1] * 20 + [0] * 20
    runs = {"base": base, "a": [0, *base[1:20], 1, 1, *base[22:]], "b": [1] * 36 + [0] * 4}
    words = [f"{run}={save_results(tmp_path / run, scores)}" for run, scores in runs.items()]
    out = tmp_path / "out"
    pictures = ["--plot", "true", "--by_length", "true", "--length_edges", "10"]
    evaluation.main(["--compare", *words, "--out", str(out), *pictures])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | Toy world (40) |"
    assert lines[2].startswith("| base | 50.0 [")
    assert lines[3].startswith("| a | 52.5 (+2.5† [")
    assert lines[4].startswith("| b | 90.0 (+40.0 [")
    written = json.loads((out / "compare.json").read_text())
    assert written["runs"]["b"]["toy"]["gain"]["low"] > 0.2
    assert written["by_length"]["b"][0]["value"] == pytest.approx(0.4)
    assert (out / "compare.png").stat().st_size > 1000
    assert (out / "by_length.png").stat().st_size > 1000


def test_runs_that_were_asked_otherwise_are_told(tmp_path, capsys):
    for name, prompt in (("a", "think"), ("b", "direct")):
        folder = save_results(tmp_path / name, [1, 0, 1])
        settings = {"prompt": prompt, "fps": 2.0, "model": name, "weights": name}
        (folder / "settings.json").write_text(json.dumps(settings))
    words = [f"base={tmp_path / 'a'}", f"b={tmp_path / 'b'}"]
    evaluation.main(["--compare", *words, "--out", str(tmp_path / "out")])
    sentence = "b on toy was asked otherwise than base: prompt 'direct', not 'think'"
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base={base}", "x"], "write name=path"),
        (["base={base}", "x=/nowhere"], "write name=path"),
        (["base={base}", "b={toy}", "b={vsi}", "base={base}"], "'base' has a run on toy already"),
        (["base={base}", "b={toy}", "b={vsi}"], "do not both have a run on"),
    ],
)
def test_comparisons_that_cannot_be_made(tmp_path, words, message):
    folders = {
        "base": save_results(tmp_path / "a", [1, 0]),
        "toy": save_results(tmp_path / "b", [1, 0]),
        "vsi": save_results(tmp_path / "c", [1, 0], "vsi"),
    }
    words = [word.format(**folders) for word in words]
    with pytest.raises(DataError, match=message):
        evaluation.main(["--compare", *words, "--out", str(tmp_path / "out")])


FOREIGN_FILES = {
    "settings.json": ('{"prompt": "think"}\n', "it has no field 'id'"),
    "metrics.jsonl": ('{"step": 1, "reward": 0.5}\n', "it has no field 'id'"),
    "empty/settings.json": ("{", "not the settings of a run"),
    "bytes/settings.json": (b"\xff\xfe", "not UTF-8 text"),
    "list/settings.json": ("[]", "not the settings of a run"),
}


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_a_foreign_file_is_no_run(tmp_path, name):
    content, message = FOREIGN_FILES[name]
    base = save_results(tmp_path / "base", [1, 0])
    file = tmp_path / name
    run = file
    if "/" in name:
        run = save_results(file.parent, [1, 0])
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = [f"base={base}", f"x={run}"]
    with pytest.raises(DataError, match=message) as caught:
        evaluation.main(["--compare", *words, "--out", str(tmp_path / "out")])
    assert str(file) in str(caught.value)


def test_a_run_without_the_label_of_its_groups_is_named(tmp_path):
    """VSI-Bench's score is a mean over tasks."""
    words = [f"{name}={save_results(tmp_path / name, [1, 0], 'vsi')}" for name in "ab"]
    with pytest.raises(DataError, match="item 'q0' has no label 'task'"):
        evaluation.main(["--compare", *words, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("damage", ["{", "", "[]", None])
def test_a_run_does_not_go_on_without_its_settings(dataset, copied, damage):
    """Else its results would be those of the settings of now."""
    file = copied / "settings.json"
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    with pytest.raises(DataError, match=r"settings\.json"):
        evaluation.main(run_flags(dataset, copied, "--fps", "1"))


# ------------------------------------------------------------------------------ every benchmark
EVERYTHING = {**layouts_sound.LAYOUTS, **layouts_video.LAYOUTS}
WITHOUT_SOUND = ("videomme", "videoholmes")  # heard as a benchmark, but the layouts' clips are mute
STYLES = [
    "think",
    pytest.param("direct", marks=pytest.mark.slow),
    pytest.param("paper", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def loaded_policy():
    """Not the session's `policy`: a run freezes the towers of its model."""
    return load_policy(DEFAULT_MODEL)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", EVERYTHING)
def test_every_benchmark_runs_on_its_own_layout(tmp_path, monkeypatch, loaded_policy, name, style):
    """From the files as downloaded to the summary: every item asked with its media, none failed on
    them, its metrics those of its results."""
    monkeypatch.setattr(benchmarks.inference, "load_policy", lambda *a: loaded_policy)
    n = EVERYTHING[name](tmp_path / "root")
    out = tmp_path / "out"
    more = ("--prompt", style, "--media_cache", str(tmp_path / "cache"), "--resamples", "100")
    evaluation.main(run_flags(tmp_path / "root", out, *more, benchmark=name, batch=32, length=8))

    benchmark = BENCHMARKS[name]
    results = read_lines(out)
    summary = read_summary(out)
    assert summary["n"] + len(summary["left_out"]) == n == summary["there"]
    assert len({result["id"] for result in results}) == summary["n"]
    assert {result["failure"] for result in results} <= {None, NO_ANSWER}
    assert not any(result["reason"] for result in results)
    assert set(summary["splits"]) <= set(benchmark.splits)
    assert summary["settings"]["prompt"] == style
    assert benchmark.title in table(summary)

    for metric in benchmark.metrics:
        scores = [result["parts"].get(metric.part) for result in results]
        scores = [score for score in scores if score is not None]
        if scores and not metric.over:
            mean = sum(scores) / len(scores)
            expected = math.sqrt(mean) if metric.root else mean
            assert summary["metrics"][metric.name]["value"] == pytest.approx(expected)

    sounds = {result["sound"] for result in results}
    assert ("heard" in sounds) == (benchmark.sound and name not in WITHOUT_SOUND)
    assert "cut" not in sounds


def test_the_fixtures_cover_every_benchmark():
    assert {*EVERYTHING, "toy"} == set(BENCHMARKS)


def test_items_that_share_an_id_are_all_kept(tmp_path):
    n = layouts_video.LAYOUTS["tomato"](tmp_path)
    file = next((tmp_path / "data").glob("*.json"))
    (tmp_path / "jsons").mkdir()
    shutil.copy(file, tmp_path / "jsons" / file.name)
    ids = [item.sample.id for item in load_items("tomato", tmp_path, tmp_path)[0]]
    assert len(ids) == len(set(ids)) == n + len(json.loads(file.read_text()))
    assert sum(i.endswith("#2") for i in ids) == len(ids) - n


def test_the_new_benchmark_of_the_docs_runs(tmp_path, monkeypatch, loaded_policy):
    """The file of docs/evaluation.md as it stands there, and the line of table.py beside it."""
    page = (REPO / "docs" / "evaluation.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```python\n")]
    code = next(block for block in blocks if "def read_mine" in block)
    question = {
        "question": "What?",
        "options": ["x", "y"],
        "answer": "B",
        "clip": "c.mp4",
        "topic": "t",
    }
    (tmp_path / "mine.jsonl").write_text(json.dumps(question) + "\n")
    layouts_video.write_video(tmp_path / "clips" / "c.mp4")
    monkeypatch.setattr(benchmarks.inference, "load_policy", lambda *a: loaded_policy)
    known = dict(BENCHMARKS)
    module = {}
    exec(code, module)
    assert '`"mine": mine.BENCHMARK,`' in page
    try:
        BENCHMARKS["mine"] = module["BENCHMARK"]
        out = tmp_path / "out"
        cfg = evaluation.parse(run_flags(tmp_path, out, benchmark="toy", length=4))
        evaluation.run(replace(cfg, benchmark="mine", use_audio=False))
        assert read_summary(out)["splits"]["topic"]["t"]["accuracy"]["n"] == 1
    finally:
        BENCHMARKS.clear()
        BENCHMARKS.update(known)
