"""engine/checksums.py: a checkpoint knows when its files are damaged.

A flipped bit in a weight or in the replay buffer is no error to any reader: the run would go on
with it. So a checkpoint holds checksums.json, {file: [bytes, SHA-256]} of all its other files, and
what reads a checkpoint checks them first. Hashing takes about a second per GB and core.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from formats.sample import DataError

NAME = "checksums.json"
CARD = "README.md"  # for people, who may change it

READ = (".json", ".jinja", ".safetensors", ".bin", ".pt", ".model")  # what loaders look for

THREADS = 4  # files that are hashed at once: hashlib lets other threads run


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files that a folder holds, but for the model card."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = sorted(path for path in paths if path not in (folder / NAME, folder / CARD))
    with ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(checksum, files))
    entries = {}
    for path, (size, digest) in zip(files, sums, strict=True):
        entries[path.relative_to(folder).as_posix()] = [size, digest]
    (folder / NAME).write_text(as_text(entries))


def as_text(entries: dict) -> str:
    return json.dumps(entries, indent=1) + "\n"


def checksum(path: Path) -> tuple[int, str]:
    """(bytes, SHA-256 in hexadecimal) of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def check_checksums(folder: Path, advice: str, leave_out: str = "") -> None:
    """Raise DataError, naming the file, unless all files are what was written.

    advice: what to do about it, the end of the sentence. leave_out: a subfolder that is not read,
    and not checked.
    """
    entries = read_checksums(folder, advice)
    names = [name for name in entries if not is_inside(name, leave_out)]
    with ThreadPoolExecutor(THREADS) as pool:
        faults = pool.map(lambda name: fault_of(folder / name, entries[name]), names)
        for name, fault in zip(names, faults, strict=True):
            if fault:
                raise DataError(f"{folder / name}: {fault}; {advice}")

    # one file more may be read in the place of another: an index of shards, a template
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_read = path.suffix in READ and path.is_file() and not path.name.startswith(".")
        if is_read and name not in (NAME, *entries) and not is_inside(name, leave_out):
            raise DataError(f"{path}: is none of the files that were written; move it away")


def is_inside(name: str, subfolder: str) -> bool:
    return bool(subfolder) and name.startswith(f"{subfolder}/")


def check_model_files(folder: Path) -> None:
    """Check the model of a checkpoint of ours; a folder from elsewhere has no checksums."""
    if (folder / NAME).is_file():
        advice = (
            "take another checkpoint, or bring the file back (if you changed the model on purpose, "
            f"remove {NAME})"
        )
        check_checksums(folder, advice, "trainer")


def read_checksums(folder: Path, advice: str) -> dict[str, list]:
    """The content of checksums.json. Raises DataError where it is damaged or gone."""
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text)
        if are_entries(entries) and text == as_text(entries):
            return entries
        reason = "it is not what was written"
    except FileNotFoundError:
        reason = "it is gone, so that nobody can tell whether the other files are whole"
    except (OSError, ValueError, RecursionError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    raise DataError(f"{path}: {reason}; {advice}")


def are_entries(entries: object) -> bool:
    """Is this {file: [bytes, digest]}?"""
    if not isinstance(entries, dict) or not entries:
        return False
    for value in entries.values():
        is_pair = isinstance(value, list) and len(value) == 2
        if not is_pair or not isinstance(value[0], int) or not isinstance(value[1], str):
            return False
    return True


def fault_of(path: Path, entry: Iterable) -> str | None:
    """What is wrong with a file, or None. entry: its bytes and its digest."""
    size, digest = entry
    try:
        if path.stat().st_size != size:
            return f"it has {path.stat().st_size:,} bytes, and {size:,} were written"
        if checksum(path)[1] != digest:
            return "it is damaged: its content is not what was written"
    except FileNotFoundError:
        return "it is gone"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({type(error).__name__})"
    return None
