"""benchmarks/files.py: reading the files of a benchmark."""

import hashlib
import json
import re
import string
from collections.abc import Iterable
from pathlib import Path

from formats.files import read_records, write_whole
from formats.sample import DataError


def rows(path: Path) -> Iterable[dict]:
    """The records of a .parquet (one after the other: media inside them fill gigabytes), .jsonl or .json file; a JSON object of equally long lists is read
    as columns, one of objects as its values."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; pass the benchmark's own folder, as downloaded, by --root"
        )
    if path.suffix == ".parquet":
        import pyarrow.parquet  # imported here: only some benchmarks need it

        try:
            return (
                row
                for batch in pyarrow.parquet.ParquetFile(path).iter_batches(64)
                for row in batch.to_pylist()
            )
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: not a parquet file ({error}); download it again") from None
    if path.suffix == ".json":
        whole = parsed(path)
        if (
            isinstance(whole, dict)
            and whole
            and all(isinstance(v, list) for v in whole.values())
            and len({len(v) for v in whole.values()}) == 1
        ):
            return [
                dict(zip(whole, values, strict=True))
                for values in zip(*whole.values(), strict=True)
            ]
        return list(whole.values()) if isinstance(whole, dict) else whole
    found = [record for _, record in read_records(path)]
    if bad := [record for record in found if isinstance(record, DataError)]:
        raise bad[0]
    return found


def parsed(path: Path):
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error}); download it again") from None


def first_file(root: Path, *names: str) -> Path:
    """The first of these that is there, or that a pattern finds; DataError names all of them."""
    for name in names:
        if found := sorted(root.glob(name)):
            return found[0]
    raise DataError(
        f"{root}: none of {', '.join(names)} is there; download the benchmark into that folder, or pass another one by --root"
    )


def locate(root: Path, *names: str) -> str:
    """The first of these paths under root that exists, or the first one, so that the error about it names it."""
    return str(next((p for name in names if (p := root / name).exists()), root / names[0]))


def clip(root: Path, stem: str, *folders: str) -> str:
    """A video by its name without suffix, in one of these folders."""
    return locate(
        root,
        *[
            f"{folder}/{stem}{suffix}"
            for folder in folders
            for suffix in (".mp4", ".MP4", ".mkv", ".webm", ".avi")
        ],
    )


def lettered(options: Iterable[str]) -> list[str]:
    """Options as "A. red"; those that have their letters already, as "A. red", "A.red" or "(A) red", lose them first.

    >>> lettered(["red", "blue"]), lettered(["A.red", "B. blue"]), lettered(["(A) red", "(B) blue"])
    (['A. red', 'B. blue'], ['A. red', 'B. blue'], ['A. red', 'B. blue'])
    """
    options = [str(o).strip() for o in options]
    marked = [
        re.match(rf"\(?{letter}[.):]\s*(?=\S)", o)
        for letter, o in zip(string.ascii_uppercase, options, strict=False)
    ]
    if options and all(marked):
        options = [o[m.end() :] for o, m in zip(options, marked, strict=True)]
    return [f"{letter}. {o}" for letter, o in zip(string.ascii_uppercase, options, strict=False)]


def letter_for(text: str, options: list[str]) -> str:
    """The letter of the first option whose text is the gold answer, or else is it with white space folded; the text itself where none is."""
    same = [
        [str(o) == str(text) for o in options],
        [str(o).split() == str(text).split() for o in options],
    ]
    return next(
        (string.ascii_uppercase[hits.index(True)] for hits in same if True in hits), str(text)
    )


def kept(scratch: Path, suffix: str, value) -> str:
    """A medium that a row holds inside ({bytes, path} or bytes) as a file of the scratch folder, named by its content and written once."""
    inside = value["bytes"] if isinstance(value, dict) else value
    file = scratch / (hashlib.sha256(inside).hexdigest()[:32] + suffix)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, inside)
    return str(file)
