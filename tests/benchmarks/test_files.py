"""Gold answers and options as files of benchmarks write them: missing, unreadable, in any form."""

import json
from pathlib import Path

import pytest

from benchmarks.base import ask, new_item, read_answer
from benchmarks.cgav import count_item
from benchmarks.files import letter_at, letter_for, lettered, named_letter, rows
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
    assert letter_for(None, ["", "some"]) == ""


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


# ------------------------------------------------------------------ options
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["A. x", "B. y"], ["A. x", "B. y"]),
        ({"A": "x", "B": "y"}, ["A. x", "B. y"]),
        ({"B": "x", "A": "y"}, ["B. x", "A. y"]),
        ({"A": "x", "B": None, "C": ""}, ["A. x"]),
        (["B. x", "A. y"], ["B. x", "A. y"]),
        (["(B) x", "(A) y"], ["B. x", "A. y"]),
        (["A. x", "C. y"], ["A. x", "C. y"]),
        # without a letter on each, or with the same twice, letters go by place and nothing is lost
        (["A. x", "y"], ["A. A. x", "B. y"]),
        (["A: hi", "A: no"], ["A. A: hi", "B. A: no"]),
        (["x", "y"], ["A. x", "B. y"]),
        (["B", "A"], ["A. B", "B. A"]),
        (["(B)(A)", "(A)(B)"], ["A. (B)(A)", "B. (A)(B)"]),
        (["B - A", "A - B"], ["A. B - A", "B. A - B"]),
        (["U.S. troops", "E.U. troops"], ["A. U.S. troops", "B. E.U. troops"]),
        (["1. x", "2. y"], ["A. 1. x", "B. 2. y"]),
        ([2, 1.5, True], ["A. 2", "B. 1.5", "C. True"]),
        ([], []),
    ],
)
def test_letters_of_options(options, expected):
    assert lettered(options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("x, y", "are one text, not a list"),
        (None, "options None are no list"),
        (7, "options 7 are no list"),
        (["x", None], r"option None of \['x', None\] is no text"),
        (["x", ["y"]], r"option \['y'\] of"),
        (["x", float("nan")], "option nan of"),
        ({"one": "x"}, "are not named by the letters A, B, .."),
        ({"AB": "x"}, "are not named by the letters A, B, .."),
        ({"A": ["x"]}, r"option \['x'\] of"),
        ({"A": "x", "B": float("nan")}, "option nan of"),
    ],
)
def test_options_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        lettered(options)


def test_more_options_than_letters_leave_the_item_out():
    texts = [f"t{i}" for i in range(27)]
    assert lettered(texts)[25:] == ["Z. t25", "t26"]
    assert not new_item("a", "?", "B", lettered(texts[:26]), video="v").broken
    item = new_item("a", "?", "B", lettered(texts), video="v")
    assert item.broken == "its 27 options are more than there are letters"


def test_gold_texts_and_places_mean_the_letter_that_is_shown():
    options = ["B. x", "A. y"]
    assert [letter_for("B. x", options), letter_for("y", options)] == ["B", "A"]
    assert [letter_at(0, options), letter_at(1, options)] == ["B", "A"]
    assert letter_for("y", {"A": "x", "B": "y"}) == "B"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" (b) ", "B"),
        ("B. blue", "B"),
        ("B. blue as the sea", "B"),
        ("B. red", "B. red"),
        ("Answer: B", "Answer: B"),
        ("BC", "BC"),
        ("A red", "A red"),
        ("C", "C"),
        (None, ""),
    ],
)
def test_a_gold_letter(answer, letter):
    assert named_letter(answer, ["A. red", "B. blue"]) == letter


DAILY_OMNI = {
    "Question": "Which?",
    "video_id": "v",
    "Type": "t",
    "video_duration": "30s",
}


@pytest.mark.parametrize(
    ("choice", "answer", "right", "broken"),
    [
        ({"A": "x", "B": "y"}, "B", "y", ""),
        (["B. x", "A. y"], "B", "x", ""),
        (["A. x", "C. y"], "C", "y", ""),
        (["A. x", "C. y"], "B", "", "its answer 'B' is none of its 2 options"),
        (["A. x", "B. y"], "Answer: B", "", "its answer 'Answer: B' is none of its 2 options"),
        (["A. x", "B. y"], "BC", "", "its answer 'BC' is none of its 2 options"),
    ],
    ids=str,
)
def test_options_of_dailyomni(tmp_path, choice, answer, right, broken):
    row = DAILY_OMNI | {"Choice": choice, "Answer": answer}
    (tmp_path / "qa.json").write_text(json.dumps([row]))
    [item] = BENCHMARKS["dailyomni"].read(tmp_path, tmp_path)
    assert item.broken == broken
    for text in ("x", "y"):
        score = BENCHMARKS["dailyomni"].score(item, read_answer(item, text, "last"))
        assert broken or score == {"score": float(text == right)}
    shown = ask(item, BENCHMARKS["dailyomni"], "paper").question
    assert "x" in shown.partition("Choices:")[2]


@pytest.mark.parametrize(
    ("layout", "field"),
    [("dailyomni", "Choice"), ("tomato", "options"), ("mvbench", "candidates")],
)
def test_a_null_among_the_options_is_refused(tmp_path, layout, field):
    root = tmp_path / "root"
    LAYOUTS[layout](root)
    for path in annotation_files(root):
        content = json.loads(path.read_text())
        for row in content.values() if isinstance(content, dict) else content:
            row[field] = [*row[field], None]
        path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="option None of") as caught:
        load_items(layout, root, tmp_path / "scratch")
    assert ", record 1: " in str(caught.value)


def test_a_letter_with_other_words_is_no_gold_answer_of_videott(tmp_path):
    shared = {
        "video_id": "v",
        "question_type": "Multiple-choice Question with a Single Correct Answer",
        "capability": "c",
        "question": "Which?\nA. red\nB. blue",
    }
    answers = {"B": "B", "B. blue": "B", "BC": "", "Blue or red": ""}
    records = []
    for answer in answers:
        records.append(shared | {"qid": answer, "answer": answer})
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", records)
    items = list(BENCHMARKS["videott"].read(tmp_path, tmp_path))
    assert ["" if item.broken else item.sample.answer for item in items] == list(answers.values())
