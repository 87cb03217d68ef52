"""Counts and clues: numbers, capped errors, clues in replies, and scores of clusters, against
hand-worked values and a search over all assignments."""

import itertools
import math
import random
import re
import time

import pytest

from benchmarks.base import new_item, read_answer
from benchmarks.cgav import PAPER_ATTRIBUTE, PAPER_EVENT, PAPER_OBJECT, cgav_score
from benchmarks.scoring import cluster_score, clusters_in, pair_score


# --------------------------------------------------------------------------- counts
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7", 7),
        ("7.", 7),
        ("There are 7 knocks.", 7),
        ("seven", 7),
        ("Twenty-one", 21),
        ("I count twenty two cups", 22),
        ("one hundred and five", 105),
        ("1,200", 1200),
        ("about 1,200 people", 1200),
        ("none", 0),
        ("No", 0),
        ("zero", 0),
        ("**12**", 12),
        ("-3", -3),
        ("2.0", 2),
        ("a few", None),
        ("", None),
        ("<think>3</think><answer>4</answer>", 4),
        ("<think>3 or", None),
        ("x5", None),
        ("3, no, 4", 3),
    ],
)
def test_numbers_are_read(reply, expected):
    answer = read_answer(new_item("a", "How many?", "1", kind="counting"), reply, "last")
    assert answer == "" if expected is None else float(answer) == expected


@pytest.mark.parametrize(
    ("gold", "reply", "expected"),
    [  # (exact, off by at most one, error, its square); one above max(2 gold, 100) is 2 gold
        ("2", "2", (1, 1, 0, 0)),
        ("2", "three", (0, 1, 1, 1)),
        ("2", "4", (0, 0, 2, 4)),
        ("1", "101", (0, 0, 100, 10_000)),
        ("1", "102", (0, 0, 2, 4)),
        ("76", "228", (0, 0, 152, 23_104)),
        ("76", "229", (0, 0, 152, 23_104)),
        ("60", "179", (0, 0, 119, 14_161)),
        ("60", "181", (0, 0, 120, 14_400)),
        ("3", "", (0, 0, 3, 9)),
        ("1", "no idea", (0, 1, 1, 1)),
        ("3", "none", (0, 0, 3, 9)),
        ("2", "1.5", (0, 1, 0.5, 0.25)),
        ("2", "-1", (0, 0, 3, 9)),
        ("5", "9" * 400, (0, 0, 5, 25)),
    ],
)  # too large to be a number: none
@pytest.mark.parametrize("setting", ["long", "ref"])
def test_capped_errors(setting, gold, reply, expected):
    item = new_item("a", "How many?", gold, kind="counting", labels={"setting": setting})
    parts = cgav_score(item, read_answer(item, reply, "last"))
    names = ("acc", "oboa", "error", "squared")
    assert parts == {f"{setting}_{n}": value for n, value in zip(names, expected, strict=True)}


# ------------------------------------------------------------------------ clues as they are written
BOX, OTHER = (0, 0, 10, 10), (20, 20, 30, 40)


@pytest.mark.parametrize(
    ("category", "reply", "expected"),
    [
        ("event", 'Two:\n```json\n[["1.5", "2"], [3, 4.5]]\n```\nDone.', [[(1.5, 2), (3, 4.5)]]),
        ("event", '[["0:01:02.5", "1:03"], ["12.5 s", "13s"]]', [[(62.5, 63), (12.5, 13)]]),
        ("event", '[["1", "2", "knock"]]', [[(1, 2)]]),
        ("event", "[]", [[]]),
        *[
            ("event", reply, None)
            for reply in (
                "",
                "two",
                "[1, 2]",
                '["12", "34"]',
                "[[1]]",
                '[["a", "b"]]',
                "[[true, 2]]",
                '[["-1", "2"]]',
                '{"1": "2"}',
                '{"start": 1, "end": 2}',
                '[["12", "34"], ["56"',
                "[[NaN, 2]]",
                "[[], [",
                '{"none": []}',
                "[['1', '2'",
                "['1', '2']",
                "[null]",
            )
        ],
        (
            "object",
            '{"Frame1": [[0, 0, 10, 10]], "Frame 2": [], "Frame3": [[20, 20, 30, 40], [0, 0, 10, '
            '10]], "note": 1}',
            [[(0, BOX), (2, OTHER), (2, BOX)]],
        ),
        ("object", 'Boxes {"Frame2": [20, 20, 30, 40]}', [[(1, OTHER)]]),
        (
            "object",
            '{"Frame1": [[0, 0], [10, 10], [20, 20], [30, 40]]}',
            [[(0, BOX), (0, OTHER)]],
        ),  # corners as points
        ("object", "{}", [[]]),
        ("object", '{"Frame1": []}', [[]]),
        *[
            ("object", reply, None)
            for reply in (
                "[[0, 0, 10, 10]]",
                '{"Frame1": [[0, 0, 10]]}',
                '{"Frame1": [[0, 0, 10, NaN]]}',
                '{"Frame1": [["a", 0, 1, 1]]}',
                '{"Frame1": null}',
                '{"Frame one": []}',
                '{"cup": [[0, 0, 1, 1]]}',
                "none",
                '{"Frame1": [[0, 0, 10, 10]], "Fra',
            )
        ],
        (
            "attribute",
            '{"Frame 1": [{"bbox": [0, 0, 10, 10], "label": "red"}], "Frame2": [{"bbox_2d": [20, '
            '20, 30, 40], "label": "red"}, '
            '{"label": "blue", "bbox": [0, 0, 10, 10]}]}',
            [[(0, BOX), (1, OTHER)], [(1, BOX)]],
        ),
        ("attribute", "{}", []),
        *[
            ("attribute", reply, None)
            for reply in (
                '{"Frame 1": [{"bbox": [0, 0, 10, 10]}]}',
                '{"Frame 1": [{"bbox": [0, 0, 10, 10], \'label": "x"}]}',
                '{"Frame 1": [{"label": "x"}]}',
                '{"Frame 1": [[0, 0, 10, 10]]}',
                '{"Frame 1": 3}',
                "[]",
                '{"Frame 1": [{"bbox": [0, 0, 10, 10], "label": "x"}, {"bbox": [0',
            )
        ],
    ],
)
def test_clues_are_read(category, reply, expected):
    """None: not in the form that was asked for, even where a part of a cut-off reply would be."""
    assert clusters_in(category, reply) == expected


@pytest.mark.parametrize(
    ("category", "reply", "expected"),
    [
        ("event", "[['5.0','9.0']]", [[(5, 9)]]),
        ("event", "[('5.0', 9.0), (\"0:12\", '13 s',),]", [[(5, 9), (12, 13)]]),
        ("event", '[["5.0", "9.0"],\n]', [[(5, 9)]]),
        ("event", 'I see [1] that: [["5.0","9.0"]]', [[(5, 9)]]),
        ("event", 'The crowd [loud] isn\'t counted {"a": 1}: [["5.0","9.0"]]', [[(5, 9)]]),
        ("event", 'Not [] but [["5.0", "9.0"]]', [[(5, 9)]]),
        ("event", "In [1] there is none: []", [[]]),
        ("object", "{'Frame1': [[0, 0, 10, 10]], 'Frame2': []}", [[(0, BOX)]]),
        ("object", '{"Frame1": [[0, 0, 10, 10],], "Frame2": [...],}', [[(0, BOX)]]),
        ("object", "{'Frame1': [(0, 0, 10, 10)], \"Frame2\": None}", [[(0, BOX)]]),
        ("object", '{"Frame1": [{"bbox": [0, 0, 10, 10]}]}', [[(0, BOX)]]),
        ("object", "{'Frame1': [{'bbox_2d': [0, 0, 10, 10], 'label': 'x'}]}", [[(0, BOX)]]),
        ("object", 'In [Frame1, [0, 0]]: {"Frame1": [[0, 0, 10, 10]]}', [[(0, BOX)]]),
        (
            "attribute",
            '{"Frame 1": [{"bbox": [0, 0, 10, 10], \'label\': "Label 1"}], "Frame 2": [...] }',
            [[(0, BOX)]],
        ),
        (
            "attribute",
            "{'Frame 1': [{'bbox': [0, 0, 10, 10], 'label': 'it\\'s \"[red]'},"
            " {'bbox': [20, 20, 30, 40], 'label': \"it's \\\"[red]\"}]}",
            [[(0, BOX), (0, OTHER)]],
        ),
    ],
)
def test_clues_are_read_in_the_notation_of_python(category, reply, expected):
    """And in a mix with JSON's, which the released prompt itself shows, and behind other lists."""
    assert clusters_in(category, reply) == expected


def test_clues_are_read_in_the_form_that_each_prompt_shows():
    """The example of the wording, with numbers in place of the names of numbers."""
    for category, wording in (
        ("event", PAPER_EVENT),
        ("object", PAPER_OBJECT),
        ("attribute", PAPER_ATTRIBUTE),
    ):
        example = wording.rpartition("<answer>")[2].partition("</answer>")[0]
        shown = example.replace("start_time", "1.0").replace("end_time", "2.0")
        for name, number in (("x_?min", 0), ("y_?min", 0), ("x_?max", 10), ("y_?max", 10)):
            shown = re.sub(name, str(number), shown)
        assert clusters_in(category, shown) == [[(1, 2)] if category == "event" else [(0, BOX)]]


@pytest.mark.some(6)
@pytest.mark.parametrize(
    "reply",
    [
        "['a'," * 20_000,
        "[(" * 50_000,
        "[" + "'" * 100_001,
        "['" + "\\" * 100_000,
        "[" * 60 + "\\'" * 50_000,
        "[" * 60 + "'1'," * 30_000,
        "{'Frame1':[" + "0x" + "f" * 30_000 + "]}",
        "[" + "..." * 50_000,
        "[1, 2" + " " * 100_000 + "]",
        "[1" + (", " + " " * 300) * 300,
        "[" * 100_000,
        "{" * 100_000,
        "[{" * 50_000,
        '{"Frame1":[' * 9_000,
        '["a",' * 20_000,
        "[1," * 60 + "1," * 50_000,
        "{" + ",".join(f'"Frame{i}":[[0,0,10,10]]' for i in range(4_000)) + "}",
        '{"Frame1":[' + ",".join(["[0,0,10,10]"] * 8_000) + "]}",
        "[" + ",".join(["[1,2]"] * 16_000) + "]",
        '{"Frame1":['
        + ",".join(f'{{"label":{i},"bbox":[0,0,10,10]}}' for i in range(2_700))
        + "]}",
    ],
)
def test_a_hostile_reply_costs_little(reply):
    for category, gold in (
        ("event", [[(0, 1)] * 76]),
        ("object", [[(0, BOX)] * 76]),
        ("attribute", [[(0, BOX)] * 9] * 9),
    ):
        started = time.process_time()
        predicted = clusters_in(category, reply)
        assert predicted is None or 0 <= cluster_score(category, gold, predicted) <= 1
        assert time.process_time() - started < 20


# --------------------------------------------------------------------------- agreement of clusters
def wide(start: float, end: float) -> tuple:
    """A box of height 1, whose overlaps are those of spans."""
    return (start, 0, end, 1)


# IoU of G1 P1: 8/12   G2 P1: 7/12   G1 P2: 5/10   G2 P2: 0
G1 = wide(0, 10)
G2 = wide(5, 14)
P1 = wide(2, 12)
P2 = wide(0, 5)


@pytest.mark.parametrize(
    ("category", "gold", "predicted", "expected"),
    [  # expected: the square of the score
        ("event", [(0, 2), (4, 6)], [(1, 3), (4, 6)], (1 / 3 + 1) / 2),
        ("event", [(0, 2), (4, 6)], [(0, 2)], 1 / 2 * (1 - 1 / 2)),
        ("event", [(0, 2), (4, 6)], [(0, 2), (4, 6), (8, 9)], 1 * (1 - 1 / 2)),
        ("event", [(0, 2), (1, 3)], [(0, 2), (10, 11)], (1 + 1 / 3) / 2),  # one span may serve two
        ("event", [(0, 2)], [(0, 2), (0, 2)], 0),
        ("event", [(0, 2)], [(2, 0)], 0),
        ("event", [(0, 2)], [(3, 4)], 0),
        ("event", [(0, 2)], [], 0),
        ("event", [(1, 1)], [(1, 1)], 0),  # no length
        (
            "object",
            [(0, G1), (0, G2)],
            [(0, P1), (0, P2)],
            (8 / 12 + 0) / 2,
        ),  # best first; 7/12 + 5/10 would be more
        ("object", [(0, G1)], [(0, G1), (3, G1)], ((1 + 0) / 2) ** 2),  # a frame too many
        ("object", [(0, G1), (1, G2)], [(0, G1)], ((1 + 0) / 2) ** 2),  # one too few
        ("object", [(0, G1), (0, G2)], [(0, G2)], 1 / 2 * (1 - 1 / 2)),
        (
            "object",
            [(0, G1), (0, G2), (1, G1)],
            [(0, G2), (1, P1)],
            ((math.sqrt(1 / 4) + math.sqrt(8 / 12)) / 2) ** 2,
        ),
        ("object", [(0, (0, 0, 10, 20))], [(0, (10, 20, 0, 0))], 1),
        ("object", [(0, (0, 0, 2, 2))], [(0, (1, 1, 3, 3))], 1 / 7),
        ("object", [(0, G1)], [(-1, G1)], 0),
        ("object", [(0, (1, 1, 1, 1))], [(0, (1, 1, 1, 1))], 0),
    ],
)
def test_one_cluster_by_hand(category, gold, predicted, expected):
    assert (
        pair_score(category, gold, predicted)
        == cluster_score(category, [gold], [predicted])
        == pytest.approx(math.sqrt(expected))
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        (
            [G1, G2],
            [P1, P2],
            (math.sqrt(5 / 10) + math.sqrt(7 / 12)) / 2,
        ),  # best first would give sqrt(8 / 12) / 2
        ([G1, G2], [G2], 1 / 2),
        ([G1, G2], [G2, G1, P1, P2], 1),
        ([G1], [], 0),
        ([G1, G2, wide(50, 60)], [P2, P1], (math.sqrt(5 / 10) + math.sqrt(7 / 12)) / 3),
    ],
)
def test_attributes_are_assigned_at_best(gold, predicted, expected):
    assert cluster_score(
        "attribute", [[(0, box)] for box in gold], [[(0, box)] for box in predicted]
    ) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_the_assignment_against_all_permutations(seed):
    draw = random.Random(seed)

    def random_clusters() -> list:
        clusters = []
        for _ in range(draw.randint(1, 4)):
            cluster = []
            for _ in range(draw.randint(1, 3)):
                frame, start = draw.randrange(2), draw.uniform(0, 8)
                cluster.append((frame, wide(start, start + draw.uniform(2, 9))))
            clusters.append(cluster)
        return clusters

    gold, predicted = random_clusters(), random_clusters()
    totals = []
    if len(gold) <= len(predicted):
        for chosen in itertools.permutations(predicted, len(gold)):
            pairs = zip(gold, chosen, strict=True)
            totals.append(sum(pair_score("attribute", g, p) for g, p in pairs))
    else:
        for chosen in itertools.permutations(gold, len(predicted)):
            pairs = zip(chosen, predicted, strict=True)
            totals.append(sum(pair_score("attribute", g, p) for g, p in pairs))
    score = cluster_score("attribute", gold, predicted)
    assert score == pytest.approx(max(totals) / len(gold))


@pytest.mark.parametrize(
    ("kind", "answer", "options", "reason"),
    [
        ("yes/no", "maybe", [], "is neither yes nor no"),
        ("yes/no", "Yes.", [], ""),
        ("yes/no", " ", [], "no gold answer"),
        ("free-form", "a dog", [], ""),
        ("multiple choice", "C", ["A. x", "B. y"], "none of its 2 options"),
        ("multi-label", "A, B", ["A. x", "B. y"], ""),
    ],
)
def test_an_item_whose_gold_answer_cannot_be_met_is_left_out(kind, answer, options, reason):
    """An empty reply says neither yes nor no: beside such a gold answer it would count as right."""
    broken = new_item("a", "Is it?", answer, options, kind).broken
    assert reason in broken and bool(reason) == bool(broken)
