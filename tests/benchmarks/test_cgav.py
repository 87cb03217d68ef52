"""CG-AV-Counting: clues that no reply could agree with leave their question out, and no other."""

import json

import pytest

from benchmarks.base import read_answer
from benchmarks.cgav import cgav_score, gold_clues
from benchmarks.table import load_items
from formats.sample import DataError
from tests.benchmarks.conftest import LAYOUTS


def box(*corners, timestamp=1.0) -> dict:
    return {"timestamp": timestamp, "bbox": list(corners)}


def span(start, end) -> dict:
    return {"start": start, "end": end}


NAN = float("nan")
NO_AREA = "has no bbox of four numbers with an area"
NO_SPAN = "has no start in seconds and an end behind it"
NO_TIME = "has no timestamp in seconds"
BROKEN = [
    ("object", [box(0, 0, 1)], NO_AREA),
    ("object", [box(0, 0, 5, 5), box(0, 0, 1)], NO_AREA),
    ("object", [box(0, 0, NAN, 1)], NO_AREA),
    ("object", [box(0, 0, float("inf"), 1)], NO_AREA),
    ("object", [box(3, 0, 3, 1)], NO_AREA),
    ("object", [box(0, 2, 3, 2)], NO_AREA),
    ("object", [{"timestamp": 1}], NO_AREA),
    ("object", [box(0, 0, 1, 1, timestamp="nan")], NO_TIME),
    ("object", [box(0, 0, 1, 1, timestamp=-1)], NO_TIME),
    ("object", [box(0, 0, 1, 1, timestamp=None)], NO_TIME),
    ("object", [7], NO_TIME),
    ("object", [], "it has no clue"),
    ("object", None, "it has no clue"),
    ("object", "[", "its clue is not JSON"),
    ("attribute", [[box(0, 0, 1, 1)], []], r"its cluster of clues \[\] holds no box"),
    ("attribute", [[box(0, 0, 1, 1)], [box(0, 0, 1)]], NO_AREA),
    ("attribute", [], "it has no clue"),
    ("event", [span("nan", 2)], NO_SPAN),
    ("event", [span(1, float("inf"))], NO_SPAN),
    ("event", [span(1, 2), span(3, 2)], NO_SPAN),
    ("event", [span(1, None)], NO_SPAN),
    ("event", [[1, 2]], NO_SPAN),
    ("event", [], "it has no clue"),
    ("event", [span(1, 1)], "none of its clues has a length"),
]


@pytest.mark.parametrize(("category", "clue", "message"), BROKEN, ids=str)
def test_clues_that_no_reply_could_agree_with(category, clue, message):
    with pytest.raises(DataError, match=message):
        gold_clues(category, clue)


def test_an_instant_beside_a_span_is_taken_as_the_authors_take_it():
    """Of two spans one is found: sqrt(1/2)."""
    clues = gold_clues("event", [span(1, 2), span("3", "3")])
    assert clues.clusters == [[(1.0, 2.0), (3.0, 3.0)]]
    item = type("Item", (), {"truth": clues})
    parts = cgav_score(item, "[[1, 2], [3, 3]]")
    assert parts == {"wcs": pytest.approx(0.5**0.5), "ifa": 1.0}


def test_corners_come_in_any_order():
    assert gold_clues("object", [box(5, 1, 2, 4)]).clusters == [[(0, (5.0, 1.0, 2.0, 4.0))]]


def test_a_broken_clue_costs_its_own_question_alone(tmp_path):
    """The counts of its record stay, and the boxes of the others are scored as before."""
    root = tmp_path / "root"
    LAYOUTS["cgav"](root)
    file = root / "cg-av-counting.json"
    records = json.loads(file.read_text())
    # were it a box, its coordinates would make the unit of all boxes pixels
    records[1]["clue"] = [box(0, 0, 1000)]
    file.write_text(json.dumps(records))
    items, left_out = load_items("cgav", root, tmp_path / "scratch")
    assert len(items) == 8
    assert [name for name, _ in left_out] == ["cgav-1-clue"]
    assert NO_AREA in left_out[0][1]

    attribute = items[-1]
    assert "0 to 100" in attribute.sample.question
    reply = json.dumps(
        {
            "Frame1": [{"bbox": [0, 0, 10, 10], "label": "a"}],
            "Frame2": [{"bbox": [5, 5, 9, 9], "label": "a"}],
            "Frame3": [{"bbox": [20, 20, 30, 40], "label": "b"}],
        }
    )
    parts = cgav_score(attribute, read_answer(attribute, reply, "last"))
    assert parts == {"wcs": pytest.approx(1.0), "ifa": 1.0}
