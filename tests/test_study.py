"""bench/study.py: its statistics by hand, and a study of two tiny cells that is stopped and goes
on."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import toy
from bench.study import append_line, chosen_cells, measure_costs, repeat_questions, run_all
from bench.study_report import part_table, report, savings_of_methods, savings_table
from bench.study_runs import (
    METHOD_CELLS,
    PARTS,
    Cell,
    Findings,
    Plan,
    climb,
    name_of,
    read_results,
    tuning_flags,
)
from bench.study_statistics import (
    final,
    interval,
    mean_curve,
    reached,
    savings,
    tails,
    verdict,
)
from config import METHODS
from formats.load import load_samples

BENCH = Path(__file__).parent.parent / "bench"
GRPO = ("--method", "grpo", "--eval_every", "1")
TUNED = ("--method", "grpo", "--eval_every", "4")


def make_run(accuracies, flags=GRPO, rate=1e-3, seed=0) -> dict:
    """A run with these accuracies, one per 100 completions and 10 CPU-seconds."""
    evals = [[i, 100 * i, 10.0 * i, accuracy] for i, accuracy in enumerate(accuracies)]
    preset = METHODS[flags[1]]
    return {"flags": list(flags), "preset": preset, "rate": rate, "seed": seed, "evals": evals}


def write_runs(file: Path, runs: list[dict]) -> None:
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))


# ------------------------------------------------------------------------------ statistics
def test_curves_are_means_made_non_decreasing():
    """Means 0.3, 0.5, 0.4, 0.6: isotonic regression pools 0.5 and 0.4 near their mean; the longer
    run counts up to the end of the shorter one."""
    runs = [make_run([0.2, 0.4, 0.3, 0.5]), make_run([0.4, 0.6, 0.5, 0.7, 0.9])]
    x, y = mean_curve(runs, "completions")
    assert x[0] == 0
    assert x[-1] == 300
    assert (np.diff(y) >= 0).all()
    assert y[0] == pytest.approx(0.3)
    assert y[-1] == pytest.approx(0.6)
    assert np.interp(150, x, y) == pytest.approx(0.45, abs=0.005)
    assert mean_curve([make_run([0, 1])], "cpu")[0][-1] == 10


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0.4, 0.0), (0.45, 5.0), (0.5, 10.0), (0.6, 15.0), (0.7, 20.0), (0.71, math.inf)],
)
def test_a_target_is_reached_on_the_line_between_points(target, expected):
    x = np.array([0.0, 10.0, 20.0])
    accuracy = np.array([0.4, 0.5, 0.7])
    assert reached(x, accuracy, target) == pytest.approx(expected)


def test_savings_by_hand():
    """The baseline gains 0.1 per 100 completions, the other twice that: 0.5 after 500 or 250. Equal
    seeds have no interval; unequal ones have the extremes of their means; what is out of reach is a
    0, and a baseline that does not get there counts with all it had."""
    slow = [make_run(np.arange(9) / 10)] * 3
    fast = [make_run(np.arange(5) / 5)] * 3
    middle, best, too_high = savings(slow, fast, [0.5, None, 0.8001], "completions", 50)
    assert middle["base"] == pytest.approx(500, abs=2)
    assert middle["ours"] == pytest.approx(250, abs=2)
    assert middle["low"] == pytest.approx(middle["high"])
    assert best["ratio"] == pytest.approx(2, rel=0.01)  # 0.8: 800 or 400
    assert too_high["base"] == 800
    in_seconds = savings(slow, fast, [None], "cpu", 50)[0]
    assert in_seconds["base"] == pytest.approx(80, abs=0.1)

    out_of_reach = savings(fast, slow, [0.9], "completions", 50)[0]
    assert out_of_reach["ratio"] == 0
    assert out_of_reach["missed"] == 1

    unequal = [make_run(np.arange(5) / 5), make_run(np.arange(9) / 10)]
    mixed = savings(slow, unequal, [0.4], "completions", 400)[0]
    assert mixed["low"] == pytest.approx(1, rel=0.02)
    assert mixed["high"] == pytest.approx(2, rel=0.02)
    assert 1 < mixed["ratio"] < 2


def test_intervals_are_those_of_the_t_test():
    values = [0.1, 0.4, 0.35, 0.2, 0.3]
    mean, half = interval(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean - half == pytest.approx(low)
    assert mean + half == pytest.approx(high)
    assert interval([0.3]) == (0.3, math.inf)


def test_a_run_ends_with_the_last_third_of_its_steps():
    """Of steps 0 to 9 those from 6 on."""
    assert final(make_run([0.9] * 6 + [0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.25)
    assert final(make_run([0.9, 0.1, 0.2, 0.3])) == pytest.approx(0.25)  # of 0 to 3: 2 and 3


def test_intervals_of_a_bootstrap_cover_for_few_seeds():
    """Of 8 normal values the mean is covered by plain percentiles in 89 % of samples, by these in
    95 %; both within 2 %."""
    rng = np.random.default_rng(0)
    covered = {"plain": 0, "expanded": 0}
    for _ in range(2000):
        values = rng.normal(size=8)
        means = rng.choice(values, size=(1000, 8)).mean(axis=1)
        for name, levels in (("plain", (0.025, 0.975)), ("expanded", tails(8))):
            low, high = np.quantile(means, levels)
            covered[name] += low <= 0 <= high
    assert covered["plain"] / 2000 == pytest.approx(0.89, abs=0.02)
    assert covered["expanded"] / 2000 == pytest.approx(0.95, abs=0.02)
    assert tails(1) == (0, 1)


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


# ------------------------------------------------------------------------------ runs
def test_the_rate_is_chosen_on_the_tuning_seeds_alone(tmp_path):
    """From 1e-4 0.4, 0.5, 0.45 end at the second; what is missing is asked for in that order; 9.0
    of a seed of the results has no say."""
    scores = {
        (1e-4, 7): 0.4,
        (1e-4, 8): 0.4,
        (2e-4, 7): 0.3,
        (2e-4, 8): 0.7,
        (4e-4, 7): 0.9,
        (4e-4, 8): 0.0,
        (1e-4, 0): 9.0,
    }
    done = {}
    for (rate, seed), accuracy in scores.items():
        done[name_of(TUNED, rate, seed)] = make_run([0, accuracy, accuracy], rate=rate, seed=seed)
    first_three = dict(list(done.items())[:3])
    first_four = dict(list(done.items())[:4])

    def plan(tuning, rates=(5e-5, 1e-4, 2e-4, 4e-4, 8e-4)) -> Plan:
        return Plan(tmp_path / "r.jsonl", tmp_path, (), seeds=(0,), tuning=tuning, rates=rates)

    assert climb(done, plan((7, 8)), GRPO) == (2e-4, None)
    assert climb(first_three, plan((7, 8)), GRPO) == (None, 2e-4)
    assert climb({}, plan((7, 8)), GRPO) == (None, 1e-4)
    assert climb(first_four, plan((8,), rates=(1e-4, 2e-4)), GRPO) == (2e-4, None)
    assert climb({}, plan(()), GRPO) == (1e-4, None)  # nothing is tuned


def test_a_rate_below_the_first_is_tried_where_the_one_above_is_worse(tmp_path):
    plan = Plan(tmp_path / "r.jsonl", tmp_path, tuning=(7,), rates=(2.5e-5, 5e-5, 1e-4, 2e-4))
    done = {}
    for rate, accuracy, expected in (
        (1e-4, 0.5, (None, 2e-4)),
        (2e-4, 0.4, (None, 5e-5)),
        (5e-5, 0.6, (None, 2.5e-5)),
        (2.5e-5, 0.55, (5e-5, None)),
    ):
        done[name_of(TUNED, rate, 7)] = make_run([0, accuracy], rate=rate, seed=7)
        assert climb(done, plan, GRPO) == expected


def test_a_cell_may_have_more_seeds_than_the_plan(tmp_path):
    """They are run and shown for it alone; one that is only tuned has none."""
    plan = Plan(tmp_path / "r.jsonl", tmp_path, seeds=(0, 1), tuning=(), first_rate=1e-4)
    few = Cell("GRPO", GRPO)
    more = Cell("long", GRPO, like="GRPO", more_seeds=(5,))
    assert plan.seeds_of(few) == (0, 1)
    assert plan.seeds_of(more) == (0, 1, 5)
    assert plan.seeds_of(Cell("tuned", GRPO, tuned_only=True)) == ()

    plan.methods = (few,)
    write_runs(plan.results, [make_run([0, 0.5], GRPO, 1e-4, seed) for seed in (0, 5)])
    findings = Findings(plan)
    assert [run["seed"] for run in findings.runs(few)] == [0]
    assert [run["seed"] for run in findings.runs(more)] == [0, 5]


def test_a_result_counts_while_its_method_means_the_same(tmp_path):
    """A flag that its preset has got since then changes nothing."""
    today = make_run([0, 1], seed=1)
    before = make_run([0, 1], seed=2) | {"preset": METHODS["grpo"] | {"fresh": 5}}
    older = make_run([0, 1], seed=3) | {"preset": {"fresh": 8}}
    gone = make_run([0, 1], seed=4) | {"flags": ["--method", "gone"]}
    write_runs(tmp_path / "r.jsonl", [today, before, older, gone])
    done = read_results(tmp_path / "r.jsonl")
    assert set(done) == {name_of(GRPO, 1e-3, seed) for seed in (1, 3)}


def test_every_recorded_result_counts():
    file = BENCH / "results" / "study.jsonl"
    recorded = file.read_text().splitlines()
    assert len(read_results(file)) == len(recorded) > 0


def test_every_recorded_result_is_shown():
    """It is a run of a cell that stands in a table, or one of its tuning."""
    shown = {cell.flags for part in PARTS.values() for cell in part.cells}
    shown |= {tuning_flags(cell.flags) for cell in METHOD_CELLS if not cell.like}
    for run in read_results(BENCH / "results" / "study.jsonl").values():
        assert tuple(run["flags"]) in shown


def test_a_cell_is_compared_with_one_of_its_part():
    for part in PARTS.values():
        names = {cell.name for cell in part.cells}
        assert {cell.against or part.reference for cell in part.cells} <= names
    assert [cell.name for cell in chosen_cells(["methods"], ["AVATAR"])] == ["AVATAR"]
    with pytest.raises(ValueError, match="no such cell"):
        chosen_cells(["methods"], ["AVATAR", "avatar"])


def test_a_line_does_not_stick_to_a_torn_one(tmp_path):
    file = tmp_path / "r.jsonl"
    append_line(file, make_run([0, 1], seed=1))
    with file.open("a") as opened:
        opened.write('{"torn')
    append_line(file, make_run([0, 1], seed=2))
    append_line(file, make_run([0, 1], seed=3))
    assert set(read_results(file)) == {name_of(GRPO, 1e-3, seed) for seed in (1, 2, 3)}


def test_held_out_questions_are_repeated_as_neighbours(tmp_path):
    table = toy.build(tmp_path, 2, "heldout", 2, progress=False)
    repeat_questions(table)
    asked = load_samples(table)
    repeated = load_samples(table.with_name(f"{table.stem}_repeated.jsonl"))
    assert len(repeated) == 3 * len(asked) == 12
    assert len({sample.id for sample in repeated}) == 12
    for i, sample in enumerate(repeated):
        assert (sample.question, sample.videos) == (asked[i // 3].question, asked[i // 3].videos)


# ------------------------------------------------------------------------------ tables
def test_tables_of_known_results(tmp_path):
    plan = Plan(
        tmp_path / "r.jsonl",
        tmp_path,
        (),
        seeds=(0, 1),
        tuning=(7,),
        rates=(1e-3,),
        first_rate=1e-3,
    )
    methods = {cell.name: cell for cell in METHOD_CELLS}
    runs = []
    for name, speed in (("GRPO", 0.5), ("AVATAR", 1.0)):
        for seed in (0, 1, 7):
            accuracies = np.arange(9) / 10 * speed + 0.01 * seed
            flags = tuning_flags(methods[name].flags) if seed == 7 else methods[name].flags
            runs.append(make_run(accuracies, flags, 1e-3, seed))
    write_runs(plan.results, runs)
    with plan.results.open("a") as file:
        file.write('{"torn')

    findings = Findings(plan)
    assert len(findings.done) == 6
    assert findings.rates == {"GRPO": 1e-3, "AVATAR": 1e-3}

    page = savings_table(savings_of_methods(findings, "completions"), "fresh completions")
    best = next(line for line in page.splitlines() if "best of GRPO" in line)
    assert best.startswith("| AVATAR | 0.405 (best of GRPO) | 800 | 400 | 2.00 [1.95, 2.05] |")
    page = part_table(findings, "methods")
    row = next(line for line in page.splitlines() if line.startswith("| AVATAR |"))
    # 0.7 and 0.71; t of one degree of freedom is 12.706
    assert (
        row == "| AVATAR | 2 | 800 | 695 | 0.705 ± 0.064 | GRPO | +0.350 ± 0.000 | +3.7 | agrees |"
    )


def test_cpu_seconds_are_those_of_the_runs_that_had_the_machine_alone(tmp_path):
    """An evaluation after two steps of 3 and 4 seconds, the least of two measurements, stands at 7,
    whatever the run itself took; a method that was not measured has no CPU-seconds beside those
    that were."""
    methods = tuple(cell for cell in METHOD_CELLS if cell.name in ("GRPO", "AVATAR"))
    plan = Plan(
        tmp_path / "r.jsonl",
        tmp_path,
        methods=methods,
        seeds=(0,),
        tuning=(7,),
        rates=(1e-3,),
        first_rate=1e-3,
    )
    runs = []
    for method in methods:
        runs.append(make_run([0.1, 0.2, 0.3], method.flags, 1e-3, 0))
        runs.append(make_run([0.1, 0.2, 0.3], tuning_flags(method.flags), 1e-3, 7))
    write_runs(plan.results, runs)
    own = Findings(plan).with_cpu()
    assert set(own) == {"GRPO", "AVATAR"}
    assert [evaluation[2] for evaluation in own["GRPO"][0]["evals"]] == [0, 10, 20]

    cost = {"flags": list(methods[0].flags), "preset": METHODS["grpo"], "rate": 1e-3, "seed": 0}
    write_runs(plan.costs, [cost | {"cpu": [3.0, 5.0]}, cost | {"cpu": [6.0, 4.0]}])
    measured = Findings(plan).with_cpu()
    assert set(measured) == {"GRPO"}
    assert measured["GRPO"][0]["evals"] == [
        [0, 0, 0.0, 0.1],
        [1, 100, 3.0, 0.2],
        [2, 200, 7.0, 0.3],
    ]


@pytest.mark.slow
def test_the_report_of_the_recorded_results_is_the_page(tmp_path):
    """Tables and numbers to the letter. (Pictures depend on the version of matplotlib.)"""
    (tmp_path / "results").mkdir()
    page = Path(shutil.copy(BENCH / "STUDY.md", tmp_path))
    report(Plan(BENCH / "results" / "study.jsonl", tmp_path), page, tmp_path / "results")
    assert page.read_text() == (BENCH / "STUDY.md").read_text()
    numbers = (tmp_path / "results" / "study.json").read_text()
    assert numbers == (BENCH / "results" / "study.json").read_text()


# ------------------------------------------------------------------------------ a whole study
@pytest.mark.slow
def test_a_study_is_run_and_goes_on(tmp_path):
    data = ("--data", "toy:6,3", "--prompts_per_step", "2", "--replay_min", "8")
    common = ("--steps", "3", *data)
    cells = [
        Cell("GRPO", ("--method", "grpo", "--eval_every", "1")),
        Cell("AVATAR", ("--method", "avatar", "--eval_every", "1")),
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
    repeat_questions(toy.build(plan.work / "toy_world", 2, "heldout", 3, progress=False))
    jobs = []
    for cell in cells:
        jobs += [(tuning_flags(cell.flags), 1e-4, 7), (cell.flags, 1e-4, 0)]
    run_all(plan, jobs[:2])
    first = plan.results.read_text()
    run_all(plan, jobs)
    assert plan.results.read_text().startswith(first)  # what was done is not done again
    assert len(read_results(plan.results)) == 4

    run = json.loads(plan.results.read_text().splitlines()[-1])
    assert [evaluation[0] for evaluation in run["evals"]] == [0, 1, 2, 3]
    assert [evaluation[1] for evaluation in run["evals"]] == [0, 8, 16, 24]
    assert run["evals"][1][2] > 0
    assert len(run["reward"]) == len(run["zero"]) == 3
    assert not any((tmp_path / "work").glob("*/metrics.jsonl"))

    page = tmp_path / "page.md"
    page.write_text(
        "# Mine\n\nabove\n\n<!-- tables: written by bench/study.py -->\nwas here before\n"
        "<!-- end of the tables -->\nbelow\n"
    )
    report(plan, page, tmp_path / "pictures")
    text = page.read_text()
    assert "above" in text
    assert "below" in text
    assert "was here before" not in text
    assert "| AVATAR | 0.0001 | 1 | 3 | 24 |" in text
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == [
        "study-advantages.png",
        "study-curves.png",
        "study-savings.png",
        "study-tas.png",
        "study-tiers.png",
        "study.json",
    ]
    measure_costs(plan, [])
    costed = Findings(plan).with_cpu()
    for cell in cells:
        cost = Findings(plan).costs[cell.flags]
        assert len(cost) == 3
        assert costed[cell.name][0]["evals"][-1][2] == pytest.approx(sum(cost), abs=0.1)

    numbers = json.loads((tmp_path / "pictures" / "study.json").read_text())
    assert numbers["learning_rates"] == {"GRPO": 1e-4, "AVATAR": 1e-4}
    with pytest.raises(RuntimeError, match="1 of 1 runs failed"):
        run_all(plan, [(("--method", "grpo", "--tas_lambda", "-1"), 1e-4, 0)])
