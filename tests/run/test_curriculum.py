"""run/curriculum.py: stages in a row."""

import json

import pytest

import train
from config import parse, to_json
from formats.sample import DataError
from run import curriculum
from run.curriculum import stages_of, write_summary
from tests.runs import rows_of, small


def test_one_stage_is_one_run():
    for argv in ([], ["--stage=2"], ["--stage", "2"], ["--lr=1"]):
        (cfg,) = stages_of(argv)
        assert (cfg.stage, cfg.model) == (2, "")
        assert cfg == parse(argv)


@pytest.mark.parametrize("joined", [False, True])
def test_each_stage_has_a_folder_and_starts_from_the_last_ones_checkpoint(joined):
    argv = ["--stage=0,2,3", "--out=a-b"] if joined else ["--stage", "0,2,3", "--out", "a-b"]
    stages = stages_of([*argv, "--fresh", "3"])
    assert [(cfg.stage, cfg.out, cfg.model) for cfg in stages] == [
        (0, "a-b/stage0", ""),
        (2, "a-b/stage2", "a-b/stage0/checkpoint"),
        (3, "a-b/stage3", "a-b/stage2/checkpoint"),
    ]
    assert all(cfg.fresh == 3 for cfg in stages)


def test_each_stage_has_its_own_presets():
    stages = stages_of(["--stage=0,1"])
    assert [cfg.lr for cfg in stages] == [2e-3, parse([]).lr]
    assert [cfg.out for cfg in stages] == [f"runs/stages01-avatar-seed0/stage{i}" for i in (0, 1)]
    stages = stages_of(["--stage=1,2", "--model=some/7b", "--method=grpo", "--seed=4"])
    assert [cfg.use_audio for cfg in stages] == [False, True]
    assert [cfg.model for cfg in stages] == [
        "some/7b",
        "runs/stages12-grpo-seed4/stage1/checkpoint",
    ]


def test_a_stage_run_again_from_its_config_starts_from_the_same_checkpoint(tmp_path):
    """Also under another method, which takes from the file only what was asked for there."""
    _, second = stages_of(["--stage=0,2", "--out=a"])
    file = tmp_path / "config.json"
    file.write_text(to_json(second))
    for other in ([], ["--method=grpo"]):
        cfg = parse([f"--config={file}", *other])
        assert (cfg.stage, cfg.model) == (2, "a/stage0/checkpoint")


@pytest.mark.parametrize("stages", ["0,4", "0,", "0,two"])
def test_a_bad_stage_ends_with_one_sentence(stages, capsys):
    with pytest.raises(SystemExit):
        stages_of([f"--stage={stages}"])
    assert "--stage" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("stages", ["2,2", "1,2,1", "2,02"])
def test_a_stage_that_is_named_twice_is_refused_before_the_first_runs(stages):
    with pytest.raises(DataError, match=f"^--stage {stages}: a stage is named twice; name each"):
        stages_of([f"--stage={stages}"])


def test_a_later_stage_whose_folder_holds_a_run_is_refused_before_the_first_runs(
    tmp_path, in_shared_folder
):
    out = tmp_path / "run"
    flags = ["--steps=1", "--max_completion_tokens=8", "--eval_every=0"]
    train.main(small(out / "stage2", *flags, stage="2"))
    both = small(out, *flags, stage="1,2")
    with pytest.raises(DataError, match="stage2: holds a run already; go on with it by --resume"):
        stages_of(both)
    assert len(stages_of([*both, "--resume"])) == 2


def test_a_curriculum_runs_its_stages_and_sums_them_up(tmp_path, in_shared_folder, capsys):
    out = tmp_path / "run"
    flags = ["--steps=1", "--max_completion_tokens=8", "--eval_every=0"]
    train.main(small(out, *flags, stage="0,2"))

    # each was trained, the second from the first
    for stage in (0, 2):
        steps, evaluations = rows_of(out / f"stage{stage}")
        assert [row["stage"] for row in steps] == [stage]
        assert evaluations[-1]["step"] == 1
    config = json.loads((out / "stage2" / "config.json").read_text())
    assert config["model"] == str(out / "stage0" / "checkpoint")

    # each checkpoint on the questions of stage 2; stage 0 has none of its own
    table = json.loads((out / "summary.json").read_text())
    assert list(table) == ["after stage 0", "after stage 2"]
    for row in table.values():
        assert list(row) == ["stage 2"]
        assert 0 <= row["stage 2"] <= 1
    last = rows_of(out / "stage2")[1][-1]
    assert table["after stage 2"]["stage 2"] == last["eval_accuracy"]
    assert (out / "summary.png").read_bytes()[:4] == b"\x89PNG"
    assert "after stage 0: stage 2 questions" in capsys.readouterr().out


def test_a_summary_is_written_drawn_and_printed(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(curriculum, "plot_curriculum", lambda *args: drawn.append(args))
    table = {
        "after stage 1": {"stage 1": 0.75, "stage 2": 0.5},
        "after stage 2": {"stage 1": 0.25, "stage 2": 1.0},
    }
    write_summary(table, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == table
    assert drawn == [(table, tmp_path / "summary.png")]
    assert capsys.readouterr().out.splitlines() == [
        "after stage 1: stage 1 questions 0.750, stage 2 questions 0.500",
        "after stage 2: stage 1 questions 0.250, stage 2 questions 1.000",
    ]
