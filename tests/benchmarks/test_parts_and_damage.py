"""Benchmarks in several files, and files that are damaged: for all readers."""

import json
from pathlib import Path

import pytest

from benchmarks.base import ask, new_item, read_answer
from benchmarks.files import rows, rows_of
from benchmarks.table import BENCHMARKS, load_items
from benchmarks.videommmu import videommmu_item
from formats.sample import DataError
from tests.benchmarks.conftest import LAYOUTS
from tests.layouts_sound import write_parquet
from tests.layouts_video import write_video

FILES = ("*.parquet", "*.json", "*.jsonl")


def annotation_files(root: Path) -> list[Path]:
    found: list[Path] = []
    for pattern in FILES:
        found += root.rglob(pattern)
    return sorted(path for path in found if "scratch" not in path.parts)


# ------------------------------------------------------------------ parts
PARTS = {
    "avodyssey_parquet": ("data/av_odyssey_part{i}.parquet", "av_odyssey_part{i}.parquet"),
    "omnibench_parquet": (
        "data/test-{i:05d}-of-{n:05d}.parquet",
        "test-{i:05d}-of-{n:05d}.parquet",
    ),
    "worldsense_parquet": ("data/test-{i:05d}-of-{n:05d}.parquet",),
    "lvbench": ("data/train-{i:05d}-of-{n:05d}.parquet",),
    "mmvu": ("data/validation-{i:05d}-of-{n:05d}.parquet",),
    "videomme": (
        "videomme/test-{i:05d}-of-{n:05d}.parquet",
        "data/test-{i:05d}-of-{n:05d}.parquet",
    ),
    "videott": ("data/test-{i:05d}-of-{n:05d}.parquet",),
    "vsi": (
        "test-{i:05d}-of-{n:05d}.parquet",
        "data/test-{i:05d}-of-{n:05d}.parquet",
        "test_part{i:02d}.parquet",
    ),
}
CASES = [(layout, pattern) for layout, patterns in PARTS.items() for pattern in patterns]


def split_into_parts(root: Path, pattern: str) -> list[Path]:
    """The rows of a layout's annotation files, each in a parquet file of its own."""
    records = []
    for path in annotation_files(root):
        records += rows(path)
        path.unlink()
    # LVBench's own file has a list of questions per video, the hub's a row per question
    per_question = []
    for record in records:
        for question in record.pop("qa", [{}]):
            per_question.append(record | question)
            per_question[-1].pop("video_info", None)
    records = per_question
    # parquet has one type per column: a missing field is null there
    names = sorted({name for record in records for name in record})
    parts = []
    for i, record in enumerate(records):
        first = 1 if "part" in pattern else 0
        path = root / pattern.format(i=i + first, n=len(records))
        write_parquet(path, [{name: record.get(name) for name in names}])
        parts.append(path)
    return parts


@pytest.mark.parametrize(("layout", "pattern"), CASES)
def test_all_parts_are_read(tmp_path, layout, pattern):
    root = tmp_path / "root"
    LAYOUTS[layout](root)
    name = layout.split("_")[0]
    expected = [item.sample for item in BENCHMARKS[name].read(root, tmp_path / "scratch")]
    parts = split_into_parts(root, pattern)
    assert len(parts) >= 2
    read = [item.sample for item in BENCHMARKS[name].read(root, tmp_path / "scratch")]
    assert [s.id for s in read] == [s.id for s in expected]
    assert [s.answer for s in read] == [s.answer for s in expected]

    # a part of a numbered series that is missing is named
    if "of" in pattern:
        parts[-1].unlink()
        with pytest.raises(DataError, match=f"1 of {len(parts)} parts are missing, the first: "):
            list(BENCHMARKS[name].read(root, tmp_path / "scratch"))


def test_all_parts_of_jsonl_are_read(tmp_path):
    for i in range(3):
        path = tmp_path / f"test-0000{i}-of-00003.jsonl"
        path.write_text(json.dumps({"n": i}) + "\n")
    assert [row["n"] for row in rows_of(tmp_path, "*.jsonl")] == [0, 1, 2]

    (tmp_path / "test-00001-of-00003.jsonl").unlink()
    with pytest.raises(DataError, match=r"the first: test-00001-of-00003\.jsonl"):
        list(rows_of(tmp_path, "*.jsonl"))


@pytest.mark.parametrize(
    ("layout", "field"), [("dailyomni", "Choice"), ("tomato", "options"), ("mvbench", "candidates")]
)
def test_options_that_are_one_text_are_refused(tmp_path, layout, field):
    """Its letters would become the options, and whatever the model says would be wrong."""
    LAYOUTS[layout](tmp_path / "root")
    for path in annotation_files(tmp_path / "root"):
        content = json.loads(path.read_text())
        for row in content.values() if isinstance(content, dict) else content:
            row[field] = "red, blue"
        path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="'red, blue' are one text, not a list"):
        load_items(layout, tmp_path / "root", tmp_path / "scratch")


def test_of_two_splits_in_a_folder_one_is_read(tmp_path):
    for split in ("test", "train"):
        for i in range(2):
            row = {"question": split, "number": i}
            write_parquet(tmp_path / f"{split}-{i:05d}-of-00002.parquet", [row])
    assert [row["question"] for row in rows_of(tmp_path, "*.parquet")] == ["test", "test"]


# ------------------------------------------------------------------ damage
DAMAGE = {
    "torn": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "deep": lambda content: b"[" * 100_000,
    "a long number": lambda content: b'{"a": ' + b"9" * 5000 + b"}",
    "another JSON": lambda content: b'[{"unknown": [1, {"x": null}]}]',
    "a text": lambda content: b'"text"',
    "not UTF-8": lambda content: b"\xff\xfe" + content[2:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_file_is_a_sentence(tmp_path, layout, damage):
    """Each annotation file of each layout; the sentence names the folder, and the file where that
    file alone is wrong."""
    root = tmp_path / "root"
    LAYOUTS[layout](root)
    name = layout.split("_")[0]
    for path in annotation_files(root):
        if damage == "not UTF-8" and path.suffix == ".parquet":
            continue
        content = path.read_bytes()
        path.write_bytes(DAMAGE[damage](content))
        with pytest.raises(DataError) as raised:
            load_items(name, root, tmp_path / "scratch")
        assert str(root) in str(raised.value)
        if damage == "torn" and path.suffix != ".jsonl":
            assert path.name in str(raised.value)
        path.write_bytes(content)
    load_items(name, root, tmp_path / "scratch")


# ------------------------------------------------------------------ boxes in pixels
GOLD = [[100, 50, 200, 150], [300, 100, 420, 220]]


@pytest.fixture
def pixels(tmp_path):
    """A clue item of CG-AV-Counting with gold boxes in pixels of a video of 56 x 56."""
    clue = [{"timestamp": 0.5, "bbox": box} for box in GOLD]
    row = {
        "index": 0,
        "video": "x1.mp4",
        "question": "How many cups?",
        "answer": 2,
        "type": "V",
        "category": "object",
        "query_interval": [0, 1],
        "clue": clue,
    }
    (tmp_path / "cg-av-counting.json").write_text(json.dumps([row]))
    write_video(tmp_path / "cg_videos_720p/x1.mp4")
    return list(BENCHMARKS["cgav"].read(tmp_path, tmp_path / "scratch"))[-1]


@pytest.mark.parametrize("style", ["think", "direct", "paper"])
def test_boxes_are_asked_for_and_scored_in_the_unit_of_the_gold(pixels, style):
    shown = ask(pixels, BENCHMARKS["cgav"], style).text
    assert "Each frame is 56 pixels wide and 56 pixels high, and boxes are in pixels." in shown
    assert "0 to 100" not in shown
    reply = f"<answer>{json.dumps({'Frame1': GOLD})}</answer>"
    answer = read_answer(pixels, reply, "last")
    assert BENCHMARKS["cgav"].score(pixels, answer)["wcs"] == pytest.approx(1.0)


def test_a_video_that_hangs_or_crashes_a_decoder_ends_nothing(tmp_path, monkeypatch):
    """Its size is read by a decoder process; the items stay, and fail on their media."""
    from benchmarks import cgav

    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    write_video(tmp_path / "good.mp4")
    good, bad = str(tmp_path / "good.mp4"), str(tmp_path / "bad.mp4")
    assert cgav.sizes_of([good, bad, good, str(tmp_path / "gone.mp4")]) == {
        good: (56, 56),
        bad: (0, 0),
        str(tmp_path / "gone.mp4"): (0, 0),
    }


# ------------------------------------------------------------------ lenient clues
BOX = [20, 20, 30, 30]


@pytest.mark.parametrize(
    "reply",
    [
        {"Frame1": [[0, 0, 10]], "Frame2": [BOX]},
        {"Frame1": [[]], "Frame2": [BOX]},
        {"Frame1": [[1, 2, 3, 4, 5]], "Frame2": [BOX]},
        {"Frame1": [["a", 0, 1, 1]], "Frame2": [BOX]},
        {"Frame1": [[float("nan"), 0, 1, 1]], "Frame2": [BOX]},
        {"Frame1": [[10**400, 0, 1, 1]], "Frame2": [BOX]},
        {"Frame1": [[1e308, 0, 1, 1]], "Frame2": [BOX]},
        {"Frame1": "none", "Frame2": [BOX]},
        {"Frame1": None, "frame_2": [BOX]},
        {"frame one": [BOX], "Frame 2": [BOX]},
        {"Frame99999999999999999999": [BOX], "Frame2": [BOX]},
        {"Frame2": [BOX, None, 7, {"bbox": BOX}]},
    ],
    ids=str,
)
def test_one_malformed_box_is_left_out_and_the_rest_counts(reply):
    assert clusters("object", reply) == [[(1, tuple(map(float, BOX)))]]


@pytest.mark.parametrize(
    "reply",
    [
        [[-1, 3], [10, 12]],
        [["x", 3], [10, 12]],
        [[10, 12], []],
        [[10], [10, 12], None],
        [["10", "12 s"], [10**400, 3]],
        [["0:10", "0:12"], {"start": 1}],
        [[10, 12, 5], "text"],
    ],
    ids=str,
)
def test_one_malformed_time_is_left_out_and_the_rest_counts(reply):
    assert clusters("event", reply) == [[(10.0, 12.0)]]


@pytest.mark.parametrize(
    "member", [{"bbox": BOX}, {"label": "x"}, {"bbox": [1], "label": "x"}, 7, None, [BOX]]
)
def test_one_malformed_label_is_left_out_and_the_rest_counts(member):
    reply = {"Frame1": [member, {"bbox": BOX, "label": "red"}]}
    assert clusters("attribute", reply) == [[(0, tuple(map(float, BOX)))]]


@pytest.mark.parametrize(
    ("category", "reply"),
    [
        ("object", {"Frame1": [[0, 0, 10]]}),
        ("event", [["x", "y"]]),
        ("attribute", {"Frame1": [{"bbox": BOX}]}),
        ("object", [BOX]),
        ("event", {"Frame1": [BOX]}),
    ],
)
def test_where_all_is_malformed_the_reply_is_in_another_form(category, reply):
    assert clusters(category, reply) is None


def clusters(category, reply):
    from benchmarks.scoring import clusters_in

    return clusters_in(category, json.dumps(reply))


# ------------------------------------------------------------------ single broken items
@pytest.mark.parametrize("text", ["the <image> tag?", "<video><video>?", "[<audio>]"])
def test_a_placeholder_without_media_costs_its_own_item(tmp_path, text):
    root = tmp_path / "root"
    LAYOUTS["dailyomni"](root)
    questions = json.loads((root / "qa.json").read_text())
    questions[-1]["Question"] = text
    (root / "qa.json").write_text(json.dumps(questions))
    items, left_out = load_items("dailyomni", root, tmp_path / "scratch")
    assert len(items) == len(questions) - 1
    assert [name for name, _ in left_out] == ["dailyomni-2"]
    assert left_out[0][1].startswith("the text of record 'dailyomni-2' holds ")
    assert "name as many files" in left_out[0][1]


@pytest.mark.parametrize("name", ["mvbench", "tomato", "dailyomni", "lvbench", "worldsense"])
def test_a_row_that_is_not_as_known_is_named_with_its_file(tmp_path, name):
    """The last record of the last annotation file becomes a number."""
    root = tmp_path / "root"
    LAYOUTS[name](root)
    path = annotation_files(root)[-1]
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:-1], '{"a": 7}']))
    else:
        content = json.loads(path.read_text())
        last = list(content)[-1] if isinstance(content, dict) else -1
        content[last] = 7
        path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        load_items(name, root, tmp_path / "scratch")
    assert str(caught.value).startswith(str(path))
    assert "is not as in" in str(caught.value)


@pytest.mark.parametrize("gold", ["['3.43', '3.4", "[1, 2", "3.43]"])
def test_a_gold_answer_that_is_half_a_list_is_left_out(tmp_path, gold):
    row = {"id": "new_Math_15", "question_type": "open", "question": "?", "options": []}
    item = videommmu_item(tmp_path, tmp_path, "Adaptation", row | {"answer": gold})
    assert "is a list that was cut" in item.broken
    for whole in ("3.43", "[0, 1)", "(2, 5]", "[1, 2]"):
        assert not videommmu_item(tmp_path, tmp_path, "Adaptation", row | {"answer": whole}).broken


@pytest.mark.parametrize("gold", ["nan", "inf", "['1', '2", "abc"])
def test_a_gold_number_that_is_none_is_left_out(gold):
    assert "its answer" in new_item("a", "How many?", gold, kind="numeric", video="v").broken


@pytest.mark.parametrize("name", ["test-{i:05d}-of-00003-0f3e5a", "test-{i:06d}-of-000003"])
def test_numbered_parts_of_other_forms(tmp_path, name):
    for i in (2, 0, 1):
        write_parquet(tmp_path / f"{name.format(i=i)}.parquet", [{"number": i}])
    assert [row["number"] for row in rows_of(tmp_path, "*.parquet")] == [0, 1, 2]
    (tmp_path / f"{name.format(i=1)}.parquet").unlink()
    with pytest.raises(DataError, match="1 of 3 parts are missing"):
        list(rows_of(tmp_path, "*.parquet"))


def test_a_missing_part_of_a_track_is_named(tmp_path):
    LAYOUTS["videommmu"](tmp_path)
    part = tmp_path / "Perception/test-00000-of-00001.parquet"
    part.rename(part.with_name("test-00001-of-00002.parquet"))
    with pytest.raises(DataError, match=r"test-00000-of-00002\.parquet"):
        load_items("videommmu", tmp_path, tmp_path / "scratch")
