"""Results on disk: torn lines, several processes, other settings. (Real kills: test_eval.py.)"""

import json
import os

import pytest

from benchmarks.results import (
    BAD_MEDIA,
    append_results,
    claim,
    collect,
    contents,
    fingerprint,
    finished_results,
    read_results,
    read_settings,
    refuse_failures,
)
from benchmarks.table import load_items
from formats.sample import DataError
from tests.benchmarks.conftest import LAYOUTS
from tests.results import make_results


def result(name: str, **fields) -> dict:
    """Text that cuts lines elsewhere stands inside."""
    [whole] = make_results([0])
    return whole | {"id": name, "benchmark": "toy", "completion": "über\u2028"} | fields


def test_what_is_appended_is_read_and_the_last_of_an_id_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    assert read_results(file) == {}
    append_results(file, [])
    assert not file.exists()
    append_results(file, [result("a", score=0), result("b")])
    append_results(file, [result("a", score=1)])
    assert read_results(file) == {"a": result("a", score=1), "b": result("b")}


def test_a_torn_last_line_is_skipped_at_every_byte(tmp_path):
    file = tmp_path / "results.jsonl"
    whole = (json.dumps(result("b"), ensure_ascii=False)).encode()
    for length in range(len(whole)):
        file.write_text("")
        append_results(file, [result("a")])
        with file.open("ab") as stream:
            stream.write(whole[:length])
        assert read_results(file) == {"a": result("a")}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    file = tmp_path / "results.jsonl"
    line = json.dumps(result("a"))
    file.write_text(f'{line}\n{{"id": \n{line}\n')
    with pytest.raises(
        DataError, match=r"results\.jsonl:2: not a line of results \(it is not JSON"
    ):
        read_results(file)


def without(field: str) -> dict:
    return {name: value for name, value in result("b").items() if name != field}


FOREIGN = {
    "[1]": "it is no JSON object",
    "7": "it is no JSON object",
    "null": "it is no JSON object",
    "[" * 100_000: "it is no JSON that Python reads",
    "9" * 5_000: "it is no JSON that Python reads",
    '{"step": 1, "loss": 0.5}': "it has no field 'id'",
    json.dumps(without("benchmark")): "it has no field 'benchmark'",
    json.dumps(without("parts")): "it has no field 'parts'",
    json.dumps(without("failure")): "it has no field 'failure'",
    json.dumps(without("video")): "it has no field 'video'",
    json.dumps(without("seconds")): "it has no field 'seconds'",
    json.dumps(result("b", id=7)): "its field 'id' is 7",
    json.dumps(result("b", benchmark="mine")): "its benchmark 'mine' is none of toy, ",
    json.dumps(result("b", benchmark=["toy"])): r"its field 'benchmark' is \['toy'\]",
    json.dumps(result("b", parts={})): "its field 'parts' holds none of score",
    json.dumps(result("b", parts={"wcs": 1})): "its field 'parts' holds none of score",
    json.dumps(result("b", parts={"score": None})): "it waits for a judge, and has no text in its",
    json.dumps(result("b", judge=["x"])): r"its field 'judge' is \['x'\]",
    json.dumps(result("b", parts=[1])): r"its field 'parts' is \[1\]",
    json.dumps(result("b", parts={"score": "1"})): "its part 'score' is '1', not a finite number",
    json.dumps(result("b", parts={"score": True})): "its part 'score' is True, not a finite",
    json.dumps(result("b", parts={"score": float("nan")})): "its part 'score' is nan, not a finite",
    json.dumps(
        result("b", parts={"score": 1, "x": float("inf")})
    ): "its part 'x' is inf, not a finite number",
    json.dumps(
        result("b", seconds=float("nan"))
    ): "its field 'seconds' is nan, not a finite number",
    json.dumps(result("b", failure=3)): "its field 'failure' is 3",
    json.dumps(result("b", labels={"kind": {"x": 1}})): "its label 'kind' is ",
    json.dumps(result("b", benchmark="vsi")): "it is of vsi, and the lines before it of toy",
}


@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: line[:80])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_line_that_is_no_result_is_named_with_its_field(tmp_path, line, ending):
    """Also the last one: what a kill has torn is no JSON."""
    file = tmp_path / "results.jsonl"
    append_results(file, [result("a", parts={"score": None}, answer="so")])
    file.write_text(file.read_text() + line + ending)
    with pytest.raises(DataError, match=FOREIGN[line]) as caught:
        read_results(file)
    assert str(caught.value).startswith(f"{file}:2: not a line of results (")
    assert "remove that line, and its item is asked again" in str(caught.value)


SETTINGS = {
    b"": "not the settings of a run",
    b"{": "not the settings of a run",
    b"[]": r"not the settings of a run, but \[\]",
    b"7": "not the settings of a run, but 7",
    b"\xff\xfe": "not UTF-8 text",
    b"[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize("content", SETTINGS, ids=lambda content: repr(content[:9]))
def test_settings_that_are_none_are_named(tmp_path, content):
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    for read in (read_settings, lambda out: claim(out, {"prompt": "think"})):
        with pytest.raises(DataError, match=SETTINGS[content]) as caught:
            read(tmp_path)
        assert str(file) in str(caught.value)
        assert "put back the file" in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["results.jsonl", "results.rank1.jsonl"])
def test_results_without_settings_are_nobodys(tmp_path, name):
    """What they were made with is unknown: they are not taken for those of other settings."""
    (tmp_path / "results.jsonl").touch()
    claim(tmp_path, {"fps": 2.0})
    append_results(tmp_path / name, [result("a")])
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DataError, match=r"holds results, but no settings\.json"):
        claim(tmp_path, {"fps": 1.0})
    assert not (tmp_path / "settings.json").exists()


def test_the_results_of_all_processes_are_merged_in_the_order_of_the_items(tmp_path):
    append_results(tmp_path / "results.jsonl", [result("c"), result("b", score=0)])
    append_results(tmp_path / "results.rank0.jsonl", [result("d")])
    append_results(tmp_path / "results.rank1.jsonl", [result("b", score=1)])
    merged = collect(tmp_path, ["a", "b", "c", "d"])
    assert list(merged) == ["b", "c", "d"]
    assert merged["b"]["score"] == 1
    assert read_results(tmp_path / "results.jsonl") == merged
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]

    with pytest.raises(DataError, match="holds the item 'd', which the benchmark's files do not"):
        collect(tmp_path, ["a", "b", "c"])


def test_a_folder_is_its_settings(tmp_path, capsys):
    claim(tmp_path, {"prompt": "think", "batch": 2})
    claim(tmp_path, {"prompt": "think", "batch": 2})
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match=r"other settings \(prompt 'think', now 'direct'\)"):
        claim(tmp_path, {"prompt": "direct", "batch": 4})
    assert json.loads((tmp_path / "settings.json").read_text())["batch"] == 2
    claim(tmp_path, {"prompt": "think", "batch": 4})
    assert "going on with batch 2, now 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "settings.json").read_text())["batch"] == 4


def test_strict_stops_at_the_first_failure():
    refuse_failures([result("a"), result("b")])
    failed = result("b", failure="prompt too long", reason="b: 70 tokens")
    with pytest.raises(DataError, match="item 'b': b: 70 tokens; leave out --strict"):
        refuse_failures([result("a"), failed])


def test_a_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = fingerprint(str(tmp_path))
    assert before == fingerprint(str(tmp_path))
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert before != fingerprint(str(tmp_path))
    names = ("", "Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B")
    assert len({fingerprint(name) for name in names}) == 3


def test_what_need_not_be_asked_again(tmp_path):
    bad = result("b", failure=BAD_MEDIA, reason="b: gone")
    append_results(tmp_path / "results.jsonl", [result("a", judge="wise"), bad])
    assert finished_results(tmp_path, "", retry=False, strict=False).keys() == {"a", "b"}
    assert finished_results(tmp_path, "wise", retry=True, strict=True).keys() == {"a"}
    with pytest.raises(DataError, match="item 'b': b: gone"):
        finished_results(tmp_path, "", retry=False, strict=True)
    with pytest.raises(DataError, match="were judged by wise, and would now be by other"):
        finished_results(tmp_path, "other", retry=False, strict=False)


def contents_of(layout, root):
    items, _ = load_items(layout, root, root / "scratch")
    return {item.sample.id: contents(item) for item in items}


def test_changed_clues_are_other_content(tmp_path):
    """Gold boxes and times of CG-AV-Counting are part of the gold answer."""
    LAYOUTS["cgav"](tmp_path)
    file = tmp_path / "cg-av-counting.json"
    before = contents_of("cgav", tmp_path)
    records = json.loads(file.read_text())
    for record in records:
        record["clue"] = moved(record["clue"])
    file.write_text(json.dumps(records))
    after = contents_of("cgav", tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith("-clue")}


def moved(clue):
    """A clue whose numbers are all a little smaller."""
    if isinstance(clue, str):
        return json.dumps(moved(json.loads(clue)))
    if isinstance(clue, dict):
        return {name: moved(value) for name, value in clue.items()}
    if isinstance(clue, list):
        return [moved(value) for value in clue]
    return clue * 0.9 if isinstance(clue, int | float) else clue


def test_changed_bounds_are_other_content(tmp_path):
    """MVBench's annotations say which part of a video is shown."""
    LAYOUTS["mvbench"](tmp_path)
    before = contents_of("mvbench", tmp_path)
    file = tmp_path / "json/action_sequence.json"
    records = json.loads(file.read_text())
    records[0]["end"] = float(records[0]["end"]) - 0.25
    file.write_text(json.dumps(records))
    after = contents_of("mvbench", tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"mvbench-action_sequence-0"}
