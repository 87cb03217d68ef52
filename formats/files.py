"""formats/files.py: files of records: read in any container, written whole."""

import json
import os
from pathlib import Path

from formats.sample import DataError


def read_records(path: Path) -> list[tuple[str, object]]:
    """(place, parsed record) of every record of a JSON list ("x.json[17]") or a JSONL ("x.jsonl:18"), whatever the suffix says.

    For a broken line of JSONL the record is the DataError, not raised, so that the other lines can still be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] == "[":
            return [(f"{path}[{i}]", record) for i, record in enumerate(json.loads(text))]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); records are JSON or JSONL, or a YAML that names such files"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not a JSON list ({error}); download the file again, or mend that place"
        ) from None
    records: list[tuple[str, object]] = []
    for n, line in enumerate(
        text.split("\n"), 1
    ):  # subtle: not splitlines, which also cuts at U+2028 and the like inside a text
        if line.strip():
            try:
                records.append((f"{path}:{n}", json.loads(line)))
            except json.JSONDecodeError as error:
                records.append(
                    (
                        f"{path}:{n}",
                        DataError(
                            f"{path}:{n}: not a JSON object on one line ({error}); mend or remove the line"
                        ),
                    )
                )
    return records


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent at any moment: under a name of this process's own, synced to the disk, then renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
