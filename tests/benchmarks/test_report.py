"""Tables of scores. (Pictures and whole tables: tests/test_eval.py.)"""

import pytest

from benchmarks.base import Benchmark
from benchmarks.report import (
    by_length,
    format_gain,
    incomplete_lines,
    length_table,
    metric_line,
)
from benchmarks.statistics import summarise
from benchmarks.table import BENCHMARKS
from tests.results import make_results


def test_gain_by_length():
    """Items by how many tokens the run reasons for, not the base: 0-9: q0, q1 (+1, 0); from 10:
    q2, q3 (0, -1)."""
    base = make_results([0, 1, 1, 1])
    run = make_results([1, 1, 1, 0])
    for result, n in zip(run, (3, 9, 10, 50), strict=True):
        result["reasoning_tokens"] = n
    groups = by_length({"base": {"toy": base}, "run": {"toy": run}}, "base", [10], 200)["run"]
    assert [(g["low_tokens"], g["high_tokens"], g["value"], g["n"]) for g in groups] == [
        (0, 10, 0.5, 2),
        (10, None, -0.5, 2),
    ]
    first, second = length_table({"run": groups}).splitlines()
    assert first.startswith("run, 0-9 tokens: +50.0†")
    assert second.startswith("run, 10+ tokens: -50.0†")


def test_a_gain_whose_interval_holds_zero_is_marked():
    doubtful = {"value": 0.025, "low": -0.04, "high": 0.09, "videos": 50}
    assert format_gain(doubtful, percent=True) == "+2.5† [-4.0, +9.0]"
    sure = {"value": 0.025, "low": 0.01, "high": 0.09, "videos": 50}
    assert format_gain(sure, percent=False) == "+0.03 [+0.01, +0.09]"
    nothing = {"value": None, "low": None, "high": None, "videos": 0}
    assert format_gain(nothing, percent=True) == "-† [-, -]"

    # from nine videos nothing is significant
    assert format_gain(sure | {"videos": 9}, percent=False) == "+0.03† [+0.01, +0.09]"


@pytest.mark.parametrize(
    ("benchmark", "line"),
    [
        ("mmvu", "not scored, waiting for a --judge: 2 open answers"),
        ("mine", "not scored: 2 open answers; the benchmark has neither a judge nor a score"),
    ],
)
def test_open_answers_wait_for_a_judge_only_where_the_benchmark_knows_how_to_ask_it(
    monkeypatch, benchmark, line
):
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark("Mine", "mine.jsonl", iter))
    summary = summary_of(benchmark=benchmark, unjudged=2)
    assert incomplete_lines(summary)[0].startswith(line)


def summary_of(**values) -> dict:
    nothing = {"sound": {}, "unjudged": 0, "size": 0, "left_out": [], "cut_replies": 0}
    nothing["videos"] = 100
    return nothing | {"benchmark": "toy"} | values


def test_replies_that_were_cut_are_counted():
    settings = {"max_completion_tokens": 2048}
    lines = incomplete_lines(summary_of(cut_replies=22, settings=settings))
    assert lines == ["replies cut at 2,048 tokens (--max_completion_tokens): 22"]

    results = make_results([0, 1, 1, 0])
    results[0]["finished"] = False  # cut
    results[3] |= {"finished": False, "tokens": 0}  # not asked at all
    assert summarise(results, BENCHMARKS["toy"], 100)["cut_replies"] == 1


def test_few_videos_are_said():
    lines = incomplete_lines(summary_of(videos=3))
    assert lines == [
        "only 3 videos: intervals are wide, and from fewer than 10 none is significant"
    ]
    assert incomplete_lines(summary_of(videos=10)) == []


def test_a_split_of_few_videos_says_of_how_many():
    measured = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 12, "videos": 4}
    assert metric_line("x", measured, True).endswith("n 12 of 4 videos")
    assert metric_line("x", measured | {"videos": 40}, True).endswith("n 12")
