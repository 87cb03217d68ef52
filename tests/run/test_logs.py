"""run/logs.py: what a run writes down, from names noted in the loop to lines of the files."""

import json
import math
import resource

import numpy as np
import pytest
import torch

from data import TooLong
from formats.sample import RepeatedRecord, Unrewardable
from groups import Group
from media.errors import MediaError
from replay import Entry, ReplayBuffer
from run import logs
from run.logs import BINS, Log, Notes, effective_sample_fraction
from tests.runs import small_config


def notes_of(**values) -> Notes:
    notes = Notes()
    for name, numbers in values.items():
        notes.add(name, numbers)
    return notes


def entry(reward: float, step: int = 0, n: int = 2, accuracy: float = 0.0) -> Entry:
    scores = {"reward": reward, "format": 1.0, "accuracy": accuracy, "self": 0.0, "judge": None}
    tokens = np.zeros(n, np.int32)
    return Entry(tokens, np.zeros(n, np.float32), reward, accuracy, step, scores=scores)


def group_of(prompt_id, entries, advantages, replayed=False) -> Group:
    return Group(prompt_id, {}, entries, replayed, torch.tensor(advantages))


@pytest.fixture
def log(tmp_path):
    """The log of a run, its first step begun."""
    cfg = small_config(tmp_path, "--log_rollouts=0")
    (tmp_path / "run").mkdir()
    log = Log(cfg, rank=0, steps=3)
    log.start_step()
    return log


def lines_of(log, name: str) -> list[dict]:
    return [json.loads(line) for line in (log.out / name).read_text().splitlines()]


def write_step(log, step=0, groups=(), norm=1.0, dropped=None) -> dict:
    """One step's line, as it stands in the file."""
    groups = list(groups) or [group_of("a", [entry(0.5)], [0.0])]
    log.note_rewards([group for group in groups if not group.replayed])
    log.step(step, 8, [groups], ReplayBuffer(), [norm], 1e-3, dropped or {})
    return lines_of(log, "metrics.jsonl")[-1]


# ------------------------------------------------------------------ notes
def test_notes_are_means_largest_values_and_sums():
    notes = notes_of(ratio=[1.0, 2.0], ratio_max=[1.0, 2.0], tokens_sum=[1.0, 2.0])
    notes.add("ratio", torch.tensor([[6.0], [7.0]], requires_grad=True))
    notes.add("ratio_max", torch.tensor([-3.0]))
    notes.add("tokens_sum", [True, False])
    notes.add("low_max", [-2.0, -1.0])
    expected = {"ratio": 4.0, "ratio_max": 2.0, "tokens": 4.0, "low_max": -1.0}
    assert notes.columns() == expected


def test_notes_of_no_value_are_known_all_the_same():
    notes = notes_of(mean=[], largest_max=torch.zeros(0), tokens_sum=[])
    assert notes.columns() == {"mean": None, "largest_max": None, "tokens": 0.0}
    assert Notes().columns() == {}


def test_values_that_are_not_known_do_not_count():
    assert notes_of(judge=[None, 1.0, None, 0.0]).columns() == {"judge": 0.5}
    assert notes_of(judge=[None]).columns() == {"judge": None}


def test_what_json_does_not_know_is_null():
    notes = notes_of(a=[math.nan, 1.0], b_max=[math.inf], c_sum=[math.inf])
    assert notes.columns() == {"a": None, "b_max": None, "c": None}


def test_notes_are_of_all_processes(monkeypatch):
    """The other one has noted more values, other names, and a larger maximum."""
    other = notes_of(ratio=[1.0, 1.0, 1.0], ratio_max=[9.0], tokens_sum=[5], only_there=[2.0])
    monkeypatch.setattr(logs, "gather", lambda values: [values, other.tallies])
    notes = notes_of(ratio=[5.0], ratio_max=[5.0], tokens_sum=[2], only_here=[3.0])
    assert notes.columns() == {
        "ratio": 2.0,  # of four values, not of two means
        "ratio_max": 9.0,
        "tokens": 7.0,
        "only_here": 3.0,
        "only_there": 2.0,
    }


def test_adding_in_pieces_is_adding_at_once():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).double()
    pieces = Notes()
    for piece in values.split(7):
        pieces.add("x", piece)
        pieces.add("x_max", piece)
    columns = pieces.columns()
    assert columns["x"] == pytest.approx(values.numpy().mean(), abs=1e-6)
    assert columns["x_max"] == values.numpy().max()


@pytest.mark.parametrize("seed", range(3))
def test_effective_sample_fraction_against_numpy(seed):
    ratios = np.exp(np.random.default_rng(seed).normal(size=50))
    expected = ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum())
    row = notes_of(ratio_mean_replayed=ratios, ratio_squared_replayed=ratios**2).columns()
    mean = row["ratio_mean_replayed"]
    column = effective_sample_fraction(row)
    assert column["effective_sample_fraction"] == pytest.approx(expected, abs=1e-4)
    assert row == {"ratio_mean_replayed": mean}  # the mean square has gone


def test_effective_sample_fraction_by_hand():
    def fraction(*ratios):
        mean, square = np.mean(ratios), np.mean(np.square(ratios))
        row = {"ratio_mean_replayed": mean, "ratio_squared_replayed": square}
        return effective_sample_fraction(row)["effective_sample_fraction"]

    assert fraction(1, 1, 1, 1, 1) == 1
    assert fraction(0, 0, 0, 7) == 1 / 4
    assert effective_sample_fraction({})["effective_sample_fraction"] is None
    unknown = {"ratio_mean_replayed": None, "ratio_squared_replayed": None}
    assert effective_sample_fraction(unknown)["effective_sample_fraction"] is None


# ------------------------------------------------------------------ lines
def test_a_new_name_becomes_a_column_of_its_step(log):
    log.note(entropy=torch.tensor([1.0, 2.0]), entropy_max=[3.0], clicks_sum=[4, 5])
    row = write_step(log)
    assert (row["entropy"], row["entropy_max"], row["clicks"]) == (1.5, 3.0, 9.0)
    log.start_step()
    row = write_step(log, step=1)
    assert not {"entropy", "entropy_max", "clicks"} & set(row)  # notes are of one step


def test_a_step_reports_its_groups(log):
    groups = [
        group_of("a", [entry(0.2), entry(1.0, n=6, accuracy=1.0)], [-0.5, 0.5]),
        group_of("b", [entry(0.6), entry(0.6)], [0.0, 0.0]),
        group_of("c", [entry(1.0, step=3), entry(0.0, step=7)], [2.0, -9.0], replayed=True),
    ]
    row = write_step(log, step=10, groups=groups)
    expected = {
        "step": 10,
        "stage": 2,
        "generated": 8,
        "groups": 3,
        "zero_advantage_groups": 1,
        "reward": 0.6,  # of the fresh ones
        "accuracy": 0.25,
        "reward_format": 1.0,
        "reward_accuracy": 0.25,
        "reward_judge": None,
        "completion_tokens": 12,
        "judge_missing": 0,
        "replayed": 2,
        "replay_age": 5.0,
        "kl": None,
        "grad_norm": 1.0,
        "skipped": 0,
        "lr": 1e-3,
        "buffer_size": 0,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["time_cpu"] >= 0

    # histograms for curves.png; what is beyond stands in the outermost bins
    assert log.advantages["fresh"].sum() == 4
    assert log.advantages["replayed"].sum() == 2
    assert log.advantages["replayed"][0] == 1
    middle = np.searchsorted(BINS, 0.0, side="right") - 1
    assert log.advantages["fresh"][middle] == 2


def test_a_line_does_not_grow_with_the_number_of_prompts(log):
    """Also where all of them have failed again and again."""
    lengths = []
    for n_prompts in (100, 3000):
        buffer = ReplayBuffer(100, patience=3, seed=0)
        for i in range(n_prompts):
            for _ in range(3):
                buffer.add(f"prompt-{i}", [entry(0.0), entry(0.0)])
        log.start_step()
        log.note_rewards([group_of("a", [entry(0.6)], [0.0])])
        log.step(0, 8, [], buffer, [1.0], 1e-3, {})
        lengths.append(len((log.out / "metrics.jsonl").read_text().splitlines()[-1]))
    assert lengths[1] < lengths[0] + 40  # a few digits


def test_a_step_without_replay_says_so(log):
    row = write_step(log)
    assert (row["replayed"], row["replay_age"]) == (0, None)


def test_missing_verdicts_count_in_stage_3_only(log):
    assert write_step(log)["judge_missing"] == 0
    log.cfg.stage = 3
    log.start_step()
    group = group_of("a", [entry(0.5), entry(0.5)], [0.0, 0.0])
    assert write_step(log, 1, [group])["judge_missing"] == 2


def test_a_skipped_step_is_marked(log):
    row = write_step(log, norm=math.nan)
    assert (row["skipped"], row["grad_norm"]) == (1, None)


def test_the_clock_of_a_phase_runs_from_lap_to_lap(log, monkeypatch):
    now = iter([10.0, 12.0, 15.0, 16.0])
    monkeypatch.setattr(logs.time, "perf_counter", lambda: next(now))
    log.start_step()
    for phase in ("rollout", "update", "rollout"):
        log.lap(phase)
    assert log.times == {"time_rollout": 3.0, "time_update": 3.0}


def test_a_step_of_stage_0(log):
    log.sft_step(0, 1.25, 300, [0.5], 1e-3, {})
    (row,) = lines_of(log, "metrics.jsonl")
    assert (row["loss"], row["completion_tokens"], row["grad_norm"]) == (1.25, 300, 0.5)
    assert (row["stage"], row["generated"], row["bad_media"], row["too_long"]) == (0, 0, 0, 0)


def test_an_evaluation_has_a_line_and_its_completions(log):
    scores = {"n": 5, "unusable": 1, "correct": 0.4, "format": 0.8, "reward": 0.5, "tokens": 20}
    scores["correct_by_kind"] = {"counting": 0.5, "locate": 0.25}
    log.evaluation(2, 64, scores, [{"id": "a"}, {"id": "b"}])
    (row,) = lines_of(log, "metrics.jsonl")
    seconds = row.pop("seconds")
    assert seconds >= 0
    assert row == {
        "step": 2,
        "stage": 2,
        "generated": 64,
        "eval_accuracy": 0.4,
        "eval_format": 0.8,
        "eval_reward": 0.5,
        "eval_questions": 5,
        "eval_unusable": 1,
        "eval_completion_tokens": 20,
        "eval_accuracy_counting": 0.5,
        "eval_accuracy_locate": 0.25,
    }
    assert log.evaluations == [(2, 64, 0.4, 5)]
    examples = [{"step": 2, "id": "a"}, {"step": 2, "id": "b"}]
    assert lines_of(log, "completions.jsonl") == examples

    log.evaluation(3, 64, scores | {"n": 0}, [])  # no held-out question: no line
    assert len(lines_of(log, "metrics.jsonl")) == 1


# ------------------------------------------------------------------ dropped records
def test_dropped_records_are_named_once(log):
    dropped = {"a": MediaError("a", "is missing", "a.mp4")}
    row = write_step(log, dropped=dropped)
    assert (row["bad_media"], row["too_long"]) == (1, 0)

    dropped["b"] = TooLong("b: too long")
    dropped["c"] = MediaError("c", "holds a media token")
    for step in (1, 2):
        log.start_step()
        row = write_step(log, step, dropped=dropped)
        assert (row["bad_media"], row["too_long"]) == (2, 1)
    assert lines_of(log, "bad_media.jsonl") == [
        {"id": "a", "path": "a.mp4", "reason": "a: is missing"},
        {"id": "c", "path": "", "reason": "c: holds a media token"},
    ]
    assert lines_of(log, "dropped.jsonl") == [{"id": "b", "reason": "b: too long"}]


def test_records_that_were_left_out_at_reading_are_named(log):
    errors = [Unrewardable("d.jsonl:1: 'many' is no number", "a"), RepeatedRecord("again", "b")]
    log.left_out(errors)
    assert lines_of(log, "dropped.jsonl") == [
        {"id": "a", "reason": "d.jsonl:1: 'many' is no number"},
        {"id": "b", "reason": "again"},
    ]


def test_records_that_another_process_has_dropped_are_named_and_counted(log, monkeypatch):
    theirs = [("dropped.jsonl", {"id": "z", "reason": "z: too long"})]
    monkeypatch.setattr(logs, "gather_lists", lambda mine: [*mine, *theirs])
    log.note_dropped({"a": TooLong("a: too long")})
    assert [row["id"] for row in lines_of(log, "dropped.jsonl")] == ["a", "z"]

    other = notes_of(too_long_sum=[1]).tallies
    monkeypatch.setattr(logs, "gather", lambda values: [values, other])
    assert log.notes.columns()["too_long"] == 2


def test_a_line_that_cannot_be_written_names_its_file(log, tmp_path):
    """The system refuses to write more than 10 bytes into a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            write_step(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(tmp_path / "run" / "metrics.jsonl")


def test_other_ranks_write_nothing(tmp_path):
    cfg = small_config(tmp_path, "--log_rollouts=0")
    (tmp_path / "run").mkdir()
    log = Log(cfg, rank=1, steps=3)
    log.start_step()
    groups = [group_of("a", [entry(0.5)], [0.0])]
    log.note_rewards(groups)
    log.step(0, 8, [groups], ReplayBuffer(), [1.0], 1e-3, {"a": TooLong("a: too long")})
    log.examples(0, [{"id": "a"}])
    log.finish()
    assert list((tmp_path / "run").iterdir()) == []
