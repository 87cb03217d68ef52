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
from formats.files import write_whole
from formats.sample import DataError, file_of

# Why an item counts as wrong, or has no answer: the values of a result's "failure"
BAD_MEDIA = "media missing or unusable"
TOO_LONG = "prompt too long"
NO_ANSWER = "no answer in the reply"
NO_VERDICT = "judge gave no verdict"

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

    A last line that a kill has torn is skipped. Raises DataError for any other broken line.
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
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            is_torn = number == len(lines)  # a whole line ends in "\n", so that "" comes after it
            if is_torn:
                break
            raise DataError(
                f"{path}:{number}: not a line of results; remove that line, and its item is asked "
                "again"
            ) from None
        results[result["id"]] = result
    return results


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

    Raises DataError when its results were made with other settings, those of ROUNDING excepted.
    """
    file = out / "settings.json"
    if file.is_file():
        before = json.loads(file.read_text())
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
    write_whole(file, json.dumps(settings, indent=2) + "\n")


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
