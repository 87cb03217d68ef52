"""formats/files.py: files of records: read as JSON or JSONL, written whole."""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from formats.fields import MAX_DIGITS, whole_characters
from formats.sample import DataError

# The escape of half a surrogate pair in JSON; most stand beside their other half.
HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class RawRecord(NamedTuple):
    """A record as it stands in a file."""

    where: str  # "x.json[17]" or "x.jsonl:18"
    content: object  # the parsed JSON, or the DataError that says why it could not be parsed
    media_root: Path  # the folder that its media paths are relative to
    root_name: str = ""  # that folder as a YAML writes it: part of the record's id


def read_records(path: Path) -> list[tuple[str, object]]:
    """(where, parsed record) of every record of a JSON list or a JSONL, whatever the suffix says.

    `where` is "x.json[17]" (counted from 0) or "x.jsonl:18" (a line). For a broken line of JSONL
    the record is the DataError, not raised, so that the other lines can still be read.
    """
    text = read_text(path, "records are JSON or JSONL, or a YAML that names such files")
    if text.lstrip()[:1] == "[":
        try:
            return [(f"{path}[{i}]", record) for i, record in enumerate(parse_json(text))]
        except ValueError as error:
            raise DataError(
                f"{path}: not a JSON list ({error}); download the file again, or mend that place"
            ) from None

    # subtle: splitlines would also cut at U+2028 and the like, which may stand inside of a text.
    records: list[tuple[str, object]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            records.append((where, parse_line(line, where)))
    return records


def read_text(path: Path, expected: str) -> str:
    """The text of a file. Raises DataError for one that cannot be read, or is not UTF-8.

    expected: what the file should be, for the message.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); {expected}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {expected}") from None


def parse_line(line: str, where: str) -> object:
    """The JSON of a line, or the DataError that says why there is none."""
    try:
        return parse_json(line)
    except ValueError as error:
        return DataError(
            f"{where}: not a JSON object on one line ({error}); mend or remove the line"
        )


def whole_lines(path: Path) -> tuple[list[dict], int]:
    """(the JSON objects of a log's whole lines, how many lines are damaged).

    Its last line may still be written.
    """
    rows = []
    n_bad = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            n_bad += 1
    return rows, n_bad


def parse_json(text: str) -> object:
    """What a JSON text holds, without halves of surrogate pairs. Raises ValueError if it is none.

    An integer of more digits than Python reads stays a text, which the fields then judge.
    """
    try:
        content = json.loads(text, parse_int=parse_int)
        if HALF_ESCAPE.search(text):
            written = json.dumps(content, ensure_ascii=False)
            content = json.loads(whole_characters(written), parse_int=parse_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) < MAX_DIGITS else digits


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent at any moment.

    It is written under a name of this process's own, synced to the disk, then renamed.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
