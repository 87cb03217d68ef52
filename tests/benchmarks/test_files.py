"""Gold answers as the files of benchmarks write them: missing, unreadable, in any spelling."""

import json
from pathlib import Path

import pytest

from benchmarks.base import read_answer
from benchmarks.cgav import count_item
from benchmarks.files import letter_at, letter_for, rows
from benchmarks.table import BENCHMARKS, load_items
from benchmarks.vsi import vsi_item
from formats.sample import DataError
from tests.benchmarks.conftest import LAYOUTS
from tests.benchmarks.test_parts_and_damage import annotation_files
from tests.layouts_sound import write_parquet

GOLD_FIELDS = ("answer", "Answer", "ground_truth", "solution")


# ------------------------------------------------------------------ gold answers that are missing
def without_gold(content):
    """JSON with null in place of every gold answer."""
    if isinstance(content, list):
        return [without_gold(entry) for entry in content]
    if not isinstance(content, dict):
        return content
    return {
        name: None if name in GOLD_FIELDS else without_gold(value)
        for name, value in content.items()
    }


def remove_gold(path: Path) -> None:
    if path.suffix == ".parquet":
        records = list(rows(path))
        path.unlink()
        write_parquet(path, without_gold(records))
    elif path.suffix == ".jsonl":
        lines = [json.dumps(without_gold(row)) for row in rows(path)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(without_gold(json.loads(path.read_text()))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gold_answer_that_is_null_leaves_its_item_out(tmp_path, layout):
    """null is no text "None", which is a count of 0 and may be the text of an option."""
    root = tmp_path / "root"
    LAYOUTS[layout](root)
    for path in annotation_files(root):
        remove_gold(path)
    with pytest.raises(DataError, match=r"items can be scored, e\.g\. .*: it has no (gold|file)"):
        load_items(layout.split("_")[0], root, tmp_path / "scratch")


def test_null_is_no_option_with_the_text_none():
    assert letter_for(None, ["None", "some"]) == ""
    assert letter_for("None", ["None", "some"]) == "A"


# ------------------------------------------------------------------ places of options
@pytest.mark.parametrize(
    ("place", "letter"),
    [(0, "A"), ("1", "B"), (1.0, "B"), (2, "2"), (-1, "-1"), (1.5, "1.5"), (None, ""), ("x", "x")],
)
def test_the_letter_of_a_place(place, letter):
    assert letter_at(place, ["red", "blue"]) == letter


# ------------------------------------------------------------------ gold numbers
def vsi_number(tmp_path, gold):
    row = {
        "id": 1,
        "dataset": "scannet",
        "scene_name": "s",
        "question_type": "object_counting",
        "question": "How many?",
        "options": None,
        "ground_truth": gold,
    }
    return vsi_item(tmp_path, row)


@pytest.mark.parametrize(
    ("gold", "reply", "expected"),
    [
        ("1,000", "1000", 1.0),
        ("1,000", "1", 0.0),
        ("five", "5", 1.0),
        ("5%", "5", 1.0),
        ("½", "0.5", 1.0),
        ("4 chairs", "4", 1.0),
        (4, "3", 0.6),  # off by 0.25: t = 0.50 to 0.75
        ("-3", "-3", 1.0),
        ("-3", "4", 0.0),
        ("-4", "-3", 0.6),
    ],
)
def test_a_gold_number_is_read_as_replies_are(tmp_path, gold, reply, expected):
    item = vsi_number(tmp_path, gold)
    assert not item.broken
    score = BENCHMARKS["vsi"].score(item, read_answer(item, reply, "first"))
    assert score == {"score": pytest.approx(expected)}


@pytest.mark.parametrize("gold", [None, "", "many", "nan", float("nan"), [3], {"n": 3}, True])
def test_a_gold_number_that_is_none_leaves_the_item_out(tmp_path, gold):
    assert vsi_number(tmp_path, gold).broken


@pytest.mark.parametrize(
    ("gold", "text", "reason"),
    [
        ("1,000", "1000", ""),
        ("five", "5", ""),
        (2.0, "2", ""),
        (None, "", "it has no gold answer"),
        ("many", "many", "its answer 'many' is no answer of the type counting"),
        ("-3", "-3", "its answer '-3' is no count"),
    ],
)
def test_gold_counts(gold, text, reason):
    row = {"index": 0, "video": "v.mp4", "question": "?", "category": "event", "type": "V"}
    item = count_item(row | {"answer": gold}, "long", "v.mp4")
    assert (item.sample.answer, item.broken) == (text, reason)
