"""benchmarks/results.py: results on disk, safe against kills at any moment.

A folder of a run holds:

    settings.json          what the results are made with (`claim`)
    results.jsonl          one result per line
    results.rankN.jsonl    with several processes: what process N has added since the start

Results are only ever appended, a batch at a time, and are on the disk when `append_results`
returns. A kill can therefore tear the last line of a file and no other; `read_results` skips that
line, and its item is asked again. `collect` merges the files of all processes into results.jsonl by
writing a new file and renaming it, so that a reader finds the old one or the new one, never half of
one. A kill between the renaming and the removal of a merged file does no harm: the next `collect`
merges the same results once more.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.base import Item
from benchmarks.table import BENCHMARKS
from formats.fields import brief, is_number
from formats.files import parse_json, read_text, write_whole
from formats.sample import DataError, file_of

# Why an item counts as wrong, or has no answer: the values of a result's "failure"
BAD_MEDIA = "media missing or unusable"
TOO_LONG = "prompt too long"
NO_ANSWER = "no answer in the reply"
NO_VERDICT = "judge gave no verdict"

# What the scores, the intervals and the table need of a result (inference.py): field and its types
FIELDS = {
    "id": str,
    "benchmark": str,
    "video": str,
    "labels": dict,
    "parts": dict,
    "failure": str | None,
    "reason": str | None,
    "tokens": int,
    "reasoning_tokens": int,
    "finished": bool,
    "sound": str,
    "seconds": int | float,
}

# Settings that change the rounding only, and may be changed when memory runs out
ROUNDING = {"batch", "max_tokens"}


def to_line(result: dict) -> str:
    return json.dumps(result, ensure_ascii=False) + "\n"


def append_results(path: Path, results: list[dict]) -> None:
    """Append results to a file; they are safe on the disk when this returns."""
    if not results:
        return
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(to_line(result) for result in results))
        file.flush()
        os.fsync(file.fileno())


def read_results(path: Path) -> dict[str, dict]:
    """{id: result} of a file, empty where there is no file. Of an id's results the last one counts.

    A last line that a kill has torn is skipped. Raises DataError for any other line that is no
    result, and for one of another benchmark than the lines before.
    """
    if not path.is_file():
        return {}

    # errors="replace": the torn line may end in the middle of a letter. Not splitlines, which also
    # cuts at U+2028 and the like inside a completion
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    results: dict[str, dict] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        where = f"{path}:{number}"
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            is_torn = number == len(lines)  # a whole line ends in "\n", so that "" comes after it
            if is_torn:
                break
            raise not_a_result(where, "it is not JSON") from None
        except (ValueError, RecursionError):  # a number of 5,000 digits; brackets in brackets
            raise not_a_result(where, "it is no JSON that Python reads") from None

        fault = fault_of(result)
        if fault:
            raise not_a_result(where, fault)
        first = next(iter(results.values()), result)["benchmark"]
        if result["benchmark"] != first:
            fault = f"it is of {result['benchmark']}, and the lines before it of {first}"
            raise not_a_result(where, fault)
        results[result["id"]] = result
    return results


def not_a_result(where: str, fault: str) -> DataError:
    return DataError(
        f"{where}: not a line of results ({fault}); remove that line, and its item is asked again, "
        "or name the results.jsonl of a run of eval.py"
    )


def fault_of(result: object) -> str:
    """Why the JSON of a line is no result, in words; "" where it is one.

    >>> fault_of([1]), fault_of({"id": 7})
    ('it is no JSON object', "its field 'id' is 7")
    """
    if not isinstance(result, dict):
        return "it is no JSON object"
    for name, kinds in FIELDS.items():
        if name not in result:
            return f"it has no field '{name}'"
        if not isinstance(result[name], kinds):
            return f"its field '{name}' is {brief(result[name])}"
    if result["benchmark"] not in BENCHMARKS:
        return f"its benchmark {brief(result['benchmark'])} is none of {', '.join(BENCHMARKS)}"
    return fault_of_labels(result) or fault_of_numbers(result) or fault_of_judging(result)


def fault_of_labels(result: dict) -> str:
    """A label is a text or a list of texts."""
    for name, value in result["labels"].items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in values):
            return f"its label '{name}' is {brief(value)}"
    return ""


def fault_of_numbers(result: dict) -> str:
    """A part is a finite number, or null as long as a judge has to say; the others are numbers.

    A result without any part that its benchmark reports would be in no score.
    """
    reported = [metric.part for metric in BENCHMARKS[result["benchmark"]].metrics]
    if not result["parts"].keys() & set(reported):
        return f"its field 'parts' holds none of {', '.join(reported)}"
    numbers = {f"part '{name}'": value for name, value in result["parts"].items()}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    for name in ("tokens", "reasoning_tokens", "seconds"):
        numbers[f"field '{name}'"] = result[name]
    for name, value in numbers.items():
        if not is_number(value):
            return f"its {name} is {brief(value)}, not a finite number"
    return ""


def fault_of_judging(result: dict) -> str:
    """A judge is asked about the answer of a result that waits for one, and named afterwards."""
    if None in result["parts"].values() and not isinstance(result.get("answer"), str):
        return "it waits for a judge, and has no text in its field 'answer'"
    if not isinstance(result.get("judge", ""), str):
        return f"its field 'judge' is {brief(result['judge'])}"
    return ""


def read_settings(out: Path) -> dict | None:
    """The settings.json of a run's folder; None where there is none.

    Raises DataError for a file that holds something else.
    """
    file = out / "settings.json"
    if not file.is_file():
        return None
    advice = "put back the file that the run has written, or run eval.py again into another --out"
    text = read_text(file, advice)
    try:
        settings = parse_json(text)
    except ValueError as error:
        raise DataError(f"{file}: not the settings of a run ({error}); {advice}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{file}: not the settings of a run, but {brief(settings)}; {advice}")
    return settings


def has_results(out: Path) -> bool:
    """Does a run's folder hold results, of any process? An empty file holds none."""
    files = [out / "results.jsonl", *out.glob("results.rank*.jsonl")]
    return any(file.is_file() and file.stat().st_size for file in files)


def collect(out: Path, order: list[str]) -> dict[str, dict]:
    """Merge the results of all processes into results.jsonl, in the order of the items' ids.

    Returns {id: result}. Raises DataError when a result is of an item that is not in `order`.
    """
    # files of processes win over results.jsonl: they were written after it
    of_ranks = sorted(out.glob("results.rank*.jsonl"))
    results: dict[str, dict] = {}
    for path in [out / "results.jsonl", *of_ranks]:
        results |= read_results(path)

    unknown = results.keys() - set(order)
    if unknown:
        raise DataError(
            f"{out}/results.jsonl: holds the item '{min(unknown)}', which the benchmark's files do "
            "not; pass another --out"
        )

    # the new file first, the files that it merges last: a kill between them loses nothing
    results = {item: results[item] for item in order if item in results}
    write_whole(out / "results.jsonl", "".join(to_line(result) for result in results.values()))
    for path in of_ranks:
        path.unlink()
    return results


def finished_results(out: Path, judge: str, retry: bool, strict: bool) -> dict[str, dict]:
    """{id: result} of a run's items that need not be asked again.

    judge: the judge of now, "" without one. retry: items with bad media are asked again. strict:
    raises DataError at a failure. Raises it, too, where another judge has scored open answers.
    """
    done = read_results(out / "results.jsonl")
    if retry:
        done = {name: result for name, result in done.items() if result["failure"] != BAD_MEDIA}
    if strict:
        refuse_failures(done.values())

    judges = {result["judge"] for result in done.values() if "judge" in result}
    others = sorted(judges - {judge})
    if judge and others:
        raise DataError(
            f"{out}: its open answers were judged by {', '.join(others)}, and would now be by "
            f"{judge}; pass another --out"
        )
    return done


def refuse_failures(results: Iterable[dict]) -> None:
    """--strict: raises DataError at the first result that is a failure."""
    for result in results:
        if result["failure"]:
            raise DataError(
                f"item '{result['id']}': {result['reason'] or result['failure']}; leave out "
                "--strict to count such items as wrong"
            )


def claim(out: Path, settings: dict) -> None:
    """Make a folder this run's by writing settings.json, or go on with it.

    Raises DataError when its results were made with other settings, those of ROUNDING excepted, and
    when nothing says what they were made with.
    """
    before = read_settings(out)
    if before is None and has_results(out):
        raise DataError(
            f"{out}: holds results, but no settings.json that says what they were made with; put "
            "that file back, pass another --out, or remove the folder"
        )
    if before is not None:
        changes = {
            name: f"{name} {before.get(name)!r}, now {settings.get(name)!r}"
            for name in before | settings
            if before.get(name) != settings.get(name)
        }
        refused = [text for name, text in changes.items() if name not in ROUNDING]
        if refused:
            raise DataError(
                f"{out}: holds results made with other settings ({', '.join(refused)}); pass "
                "another --out, or remove the folder"
            )
        if changes:
            print(
                f"going on with {', '.join(changes.values())}: the items to come are rounded "
                "differently from those that are done"
            )
    write_whole(out / "settings.json", json.dumps(settings, indent=2) + "\n")


def contents(item: Item) -> dict[str, str]:
    """What a result was made of: {"content": digest of question, options, type, gold answer, what
    else the score needs, and the stretch or moments that are shown; "media": digest of the sizes of
    its files}."""
    sample = item.sample
    moments = [path.partition("#t=")[2] for path in sample.images]
    shown = [sample.span, sample.frame_rate, moments]
    text = [sample.question, sample.options, sample.problem_type, sample.answer, item.truth, shown]
    files = [file_of(path, kind) for kind, path in sample.media]
    sizes = [os.path.getsize(file) if os.path.isfile(file) else None for file in files]
    return {"content": short_digest(text), "media": short_digest(sizes)}


def short_digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()[:16]


def check_contents(out: Path, done: dict[str, dict], items: list[Item]) -> None:
    """Raise DataError where results were made of other questions, answers or media than there are
    now: the benchmark's files have changed. (Items whose media had failed may be mended.)"""
    for name, what in (("content", "question, options or gold answer"), ("media", "media")):
        changed = []
        for item in items:
            result = done.get(item.sample.id, {})
            mended = name == "media" and result.get("failure") == BAD_MEDIA
            if name in result and not mended and result[name] != contents(item)[name]:
                changed.append(item.sample.id)
        if changed:
            raise DataError(
                f"{out}: holds results of {len(changed):,} items whose {what} were others than the "
                f"benchmark's files have now, the first: '{changed[0]}'; pass another --out"
            )


def fingerprint(model: str) -> str:
    """What tells a model's weights apart without reading them; "" is the bundled model.

    Of a folder: names, sizes and times of change of its weights and its config. Else the hub name.
    """
    identity: object = model or "bundled"
    folder = Path(model)
    if model and folder.is_dir():
        files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("config.json"))
        stats = [(file.name, file.stat()) for file in files]
        identity = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats] or model
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
