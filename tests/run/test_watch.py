"""run/watch.py: what is printed of a run's log."""

import json

import pytest

from formats.sample import DataError
from run.watch import main, report, sparkline


def test_bars_go_from_the_lowest_to_the_highest():
    assert sparkline([0.0, 3.5, 7.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None, 1.0, float("nan"), 0.0]) == " █ ▁"
    assert sparkline([]) == ""


def test_the_newest_values_stand_before_the_bars(tmp_path, capsys):
    """A torn last line, and one that is no JSON, are left out."""
    lines = [{"step": 0, "generated": 0, "eval_accuracy": 0.25}]
    lines += [{"step": i, "generated": 8 * i + 8, "loss": 0.1, "reward": i / 4} for i in range(4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + "no json\n" + '{"step": 9, "los')
    (tmp_path / "config.json").write_text('{"steps": 64}')
    main([str(tmp_path), "--once"])
    printed = capsys.readouterr().out
    assert "step 4 of 64, 32 completions" in printed
    assert "reward       0.75  ▁▃▆█" in printed
    assert "eval_accuracy       0.25  ▁" in printed
    assert "entropy" not in printed


def test_a_new_column_is_printed_behind_the_usual_ones(tmp_path, capsys):
    """Details of a run are printed with --all alone, and texts never."""
    line = {"step": 0, "generated": 8, "my_note": None, "lr": 0.001, "tier_hard": 3, "loss": 0.1}
    line |= {"reward_brevity": 0.5, "hinted_prompts": ["a"], "note_of_a_long_long_name": 1}
    lines = [line, line | {"my_note": 7.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)

    def printed(*flags: str) -> list[str]:
        main([str(tmp_path), "--once", *flags])
        return [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:]]

    usual = ["loss", "my_note", "reward_brevity", "note_of_a_long_long_name"]
    assert printed() == [*usual, "(4"]  # (4 more columns: --all)
    everything = printed("--all")
    assert everything[0] == "loss"
    assert set(everything) == {*usual, "step", "generated", "lr", "tier_hard"}


def test_a_run_that_is_done_ends_the_watch(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "generated": 8, "loss": 0.1}\n')
    (tmp_path / "config.json").write_text('{"steps": 2}')
    main([str(tmp_path), "--every", "1000"])
    assert "step 2 of 2" in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: there is no such file"):
        main([str(tmp_path)])
    assert report([], 0) == "no step is done yet"


@pytest.mark.parametrize(
    "line",
    [
        '{"loss": 0.5}',
        '{"step": "two", "loss": 0.5}',
        '{"step": null, "loss": 0.5}',
        '{"step": 1e9999, "loss": 0.5}',
        '{"step": 3, "loss": "low"}',
        '{"step": 3, "loss": 0.5, "generated": "many"}',
        '{"step": 3, "loss": NaN}',
        '{"step": 3, "loss": 1' + "0" * 400 + "}",
        "[" * 100_000,
        "[]",
    ],
)
@pytest.mark.parametrize("config", ["[]", "{", "[" * 100_000, '{"steps": "all"}', "{}"])
def test_damaged_lines_are_left_out_and_counted(tmp_path, capsys, line, config):
    """Whatever stands in config.json."""
    good = '{"step": 1, "generated": 8, "loss": 0.1}\n'
    (tmp_path / "metrics.jsonl").write_text(f"{good}{line}\n")
    (tmp_path / "config.json").write_text(config)
    main([str(tmp_path), "--once"])
    printed = capsys.readouterr().out
    assert "step 2, 8 completions" in printed
    assert "(damaged lines of metrics.jsonl, left out: 1)" in printed


def test_a_step_without_a_number_of_the_usual_columns(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": null}\n')
    main([str(tmp_path), "--once"])
    assert "step 1, 0 completions" in capsys.readouterr().out
