"""bench/study.py: its statistics by hand, and a study of two tiny cells that is stopped and goes on."""

import json
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bench.study import (
    MAIN,
    Cell,
    Findings,
    Plan,
    cells_table,
    climb,
    final,
    interval,
    mean_curve,
    name_of,
    reached,
    read_results,
    report,
    run_all,
    saving,
    savings,
    savings_table,
    verdict,
)
from config import METHODS


def run_of(points, flags=("--method", "grpo"), rate=1e-3, seed=0) -> dict:
    """A run whose accuracies are `points`, one per 100 completions and 10 CPU-seconds."""
    return {
        "flags": list(flags),
        "preset": METHODS[flags[1]],
        "rate": rate,
        "seed": seed,
        "evals": [[i, 100 * i, 10.0 * i, a] for i, a in enumerate(points)],
    }


def test_curves_are_means_made_non_decreasing():
    """Means 0.3, 0.5, 0.4, 0.6: isotonic regression pools 0.5 and 0.4 near their mean; the longer run counts up to the end of the shorter one."""
    x, y = mean_curve(
        [run_of([0.2, 0.4, 0.3, 0.5]), run_of([0.4, 0.6, 0.5, 0.7, 0.9])], "completions"
    )
    assert (
        x[0] == 0
        and x[-1] == 300
        and (np.diff(y) >= 0).all()
        and y[0] == pytest.approx(0.3)
        and y[-1] == pytest.approx(0.6)
    )
    assert np.interp(150, x, y) == pytest.approx(0.45, abs=0.005)
    assert mean_curve([run_of([0, 1])], "cpu")[0][-1] == 10


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0.4, 0.0), (0.45, 5.0), (0.5, 10.0), (0.6, 15.0), (0.7, 20.0), (0.71, math.inf)],
)
def test_a_target_is_reached_on_the_line_between_points(target, expected):
    assert reached(np.array([0.0, 10.0, 20.0]), np.array([0.4, 0.5, 0.7]), target) == pytest.approx(
        expected
    )


def test_savings_by_hand():
    """The baseline gains 0.1 per 100 completions, the other twice that: 0.5 after 500 or 250. Equal seeds have no interval; unequal ones have the extremes
    of their means; what is out of reach is a 0, and a baseline that does not get there counts with all it had."""
    slow, fast = [run_of(np.arange(9) / 10)] * 3, [run_of(np.arange(5) / 5)] * 3
    found = saving(slow, fast, 0.5, "completions", 50)
    assert (found["base"], found["ours"]) == (
        pytest.approx(500, abs=2),
        pytest.approx(250, abs=2),
    ) and found["low"] == pytest.approx(found["high"])
    assert saving(slow, fast, None, "completions", 50)["ratio"] == pytest.approx(
        2, rel=0.01
    )  # 0.8: 800 or 400
    assert saving(slow, fast, None, "cpu", 50)["base"] == pytest.approx(80, abs=0.1)
    assert (
        saving(fast, slow, 0.9, "completions", 50)["ratio"] == 0
        and saving(fast, slow, 0.9, "completions", 50)["missed"] == 1
    )
    assert saving(slow, fast, 0.8001, "completions", 50)["base"] == 800
    mixed = saving(
        slow, [run_of(np.arange(5) / 5), run_of(np.arange(9) / 10)], 0.4, "completions", 400
    )
    assert (
        mixed["low"] == pytest.approx(1, rel=0.02)
        and mixed["high"] == pytest.approx(2, rel=0.02)
        and 1 < mixed["ratio"] < 2
    )


def test_intervals_are_those_of_the_t_test():
    values = [0.1, 0.4, 0.35, 0.2, 0.3]
    mean, half = interval(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high)) and interval(
        [0.3]
    ) == (0.3, math.inf)
    assert final(run_of([0.9, 0.1, 0.2, 0.3])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("difference", "half", "paper", "expected"),
    [
        (0.05, 0.02, 2.4, "agrees"),
        (-0.05, 0.02, 2.4, "disagrees"),
        (-0.05, 0.02, -1.0, "agrees"),
        (0.01, 0.02, 2.4, "no difference"),
        (0.05, 0.02, None, "better"),
        (-0.05, 0.02, None, "worse"),
        (0.05, math.inf, 1.0, "no difference"),
    ],
)
def test_verdicts_follow_the_interval(difference, half, paper, expected):
    assert verdict(difference, half, paper) == expected


def test_the_rate_is_chosen_on_the_tuning_seeds_alone(tmp_path):
    """0.4, 0.5, 0.45 end at the second of four; what is missing is asked for, lowest first; 9.0 of a seed of the results has no say."""
    plan, flags = (
        Plan(
            tmp_path / "r.jsonl",
            tmp_path,
            (),
            seeds=(0,),
            tuning=(7, 8),
            rates=(1e-4, 2e-4, 4e-4, 8e-4),
        ),
        ("--method", "grpo"),
    )
    scores = {
        (1e-4, 7): 0.4,
        (1e-4, 8): 0.4,
        (2e-4, 7): 0.3,
        (2e-4, 8): 0.7,
        (4e-4, 7): 0.9,
        (4e-4, 8): 0.0,
        (1e-4, 0): 9.0,
    }
    rows = [run_of([0, a, a], rate=rate, seed=seed) for (rate, seed), a in scores.items()]
    done = {name_of(tuple(r["flags"]), r["rate"], r["seed"]): r for r in rows}
    assert climb(done, plan, flags) == (2e-4, None)
    assert climb(dict(list(done.items())[:3]), plan, flags) == (None, 2e-4) and climb(
        {}, plan, flags
    ) == (None, 1e-4)
    assert climb(done, Plan(tmp_path, tmp_path, tuning=(7,), rates=plan.rates), flags) == (
        1e-4,
        None,
    )  # 0.4, 0.3
    assert climb(
        dict(list(done.items())[:4]),
        Plan(tmp_path, tmp_path, tuning=(8,), rates=(1e-4, 2e-4)),
        flags,
    ) == (2e-4, None)


def test_a_result_counts_while_its_method_means_the_same(tmp_path):
    now, before = (
        run_of([0, 1], seed=1),
        run_of([0, 1], seed=2) | {"preset": METHODS["grpo"] | {"fresh": 5}},
    )
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (now, before)))
    found = read_results(tmp_path / "r.jsonl")
    assert (
        len(found) == 2
        and name_of(("--method", "grpo"), 1e-3, 1) in found
        and name_of(("--method", "grpo"), 1e-3, 2) not in found
    )


def test_tables_of_known_results(tmp_path):
    plan, methods = (
        Plan(tmp_path / "r.jsonl", tmp_path, (), seeds=(0, 1), tuning=(7,), rates=(1e-3,)),
        {c.name: c for c in MAIN},
    )
    rows = [
        run_of(np.arange(9) / 10 * speed + 0.01 * seed, methods[name].flags, 1e-3, seed)
        for name, speed in (("GRPO", 0.5), ("AVATAR", 1.0))
        for seed in (0, 1, 7)
    ]
    plan.results.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"torn')
    found = Findings(plan)
    assert len(found.done) == 6 and found.rates == {"GRPO": 1e-3, "AVATAR": 1e-3}
    best = next(
        line
        for line in savings_table(savings(found, "completions"), "fresh completions").splitlines()
        if "GRPO's best" in line
    )
    assert best.split("|")[1:6] == [
        " AVATAR ",
        " 0.405 (GRPO's best) ",
        " 800 ",
        " 400 ",
        " 2.00 [1.95, 2.05] ",
    ]
    row = next(
        line for line in cells_table(found, "methods").splitlines() if line.startswith("| AVATAR |")
    )
    assert (
        row == "| AVATAR | 2 | 800 | 695 | 0.705 ± 0.064 | +0.350 ± 0.000 | +3.7 | agrees |"
    )  # 0.7 and 0.71; t of one degree is 12.706


@pytest.mark.slow
def test_a_study_is_run_and_goes_on(tmp_path):
    common = (
        "--steps",
        "3",
        "--eval_every",
        "1",
        "--toy_clips",
        "6",
        "--toy_heldout",
        "3",
        "--prompts_per_step",
        "2",
        "--replay_min",
        "8",
    )
    cells = [
        Cell("GRPO", ("--method", "grpo"), like=""),
        Cell("AVATAR", ("--method", "avatar_paper"), like=""),
    ]
    plan = Plan(
        tmp_path / "results" / "r.jsonl",
        tmp_path / "work",
        common,
        tuple(cells),
        seeds=(0,),
        tuning=(7,),
        rates=(1e-4,),
        cores=1,
    )
    jobs = [(c.flags, 1e-4, seed) for c in cells for seed in (7, 0)]
    run_all(plan, jobs[:2])
    first = plan.results.read_text()
    run_all(plan, jobs)
    assert (
        plan.results.read_text().startswith(first) and len(read_results(plan.results)) == 4
    )  # what was done is not done again
    row = json.loads(plan.results.read_text().splitlines()[-1])
    assert (
        [e[0] for e in row["evals"]] == [0, 1, 2, 3]
        and [e[1] for e in row["evals"]] == [0, 8, 16, 24]
        and row["evals"][1][2] > 0
    )
    assert len(row["reward"]) == len(row["zero"]) == 3 and not any(
        (tmp_path / "work").glob("*/metrics.jsonl")
    )
    (tmp_path / "page.md").write_text(
        "# Mine\n\nabove\n\n<!-- tables: written by bench/study.py -->\nwas here before\n<!-- end of the tables -->\nbelow\n"
    )
    report(plan, tmp_path / "page.md", tmp_path / "pictures")
    text = (tmp_path / "page.md").read_text()
    assert (
        "above" in text
        and "below" in text
        and "was here before" not in text
        and "| AVATAR | 0.0001 | 1 | 3 | 24 |" in text
    )
    assert sorted(f.name for f in (tmp_path / "pictures").iterdir()) == [
        "study-advantages.png",
        "study-curves.png",
        "study-savings.png",
        "study-tas.png",
        "study-tiers.png",
        "study.json",
    ]
    assert json.loads((tmp_path / "pictures" / "study.json").read_text())["learning_rates"] == {
        "GRPO": 1e-4,
        "AVATAR": 1e-4,
    }
    with pytest.raises(RuntimeError, match="1 of 1 runs failed"):
        run_all(plan, [(("--method", "grpo", "--tas_lambda", "-1"), 1e-4, 0)])
