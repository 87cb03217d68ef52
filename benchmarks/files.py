"""benchmarks/files.py: reading the files of a benchmark, as they are downloaded."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from formats.fields import brief, is_number
from formats.files import parse_json, read_records, read_text, write_whole
from formats.options import LETTERS, agree, split_mark
from formats.sample import DataError

# The name of one of several parts on the hub: test-00000-of-00006, test-00000-of-00006-0f3e5a
PART = re.compile(r"(?P<split>.*)-(?P<number>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]+)?")

# The letter in front of an option, and its text: "A. red", "A.red", "(A) red", "A、红"; but neither
# "U.S. troops" nor the first of an order, "(B)(A)(C)" or "B - A - C"
OWN_LETTER = re.compile(
    r"(?:[(\[（]\s?([A-Z])\s?[)\]）][.:]?|([A-Z])(?:\.(?![A-Za-z]\.)|[):、．：]))"
    r"(?!\s*[(\[（]?[A-Z][)\]）])\s*(.*)",
    re.DOTALL,
)

# --------------------------------------------------------------------------- records

# The file that was read last and its row that was handed out last. Where a row is not as its reader
# knows it, the sentence about it (table.load_items) names both.
last_read: dict = {"file": None, "row": 0}


def noted(path: Path, records: Iterable[dict]) -> Iterator[dict]:
    """The records of a file; each is `last_read` while the caller works on it."""
    for number, record in enumerate(records, 1):
        last_read.update(file=path, row=number)
        yield record


def rows(path: Path) -> Iterable[dict]:
    """The records of a .parquet, .jsonl or .json file.

    A JSON object of equally long lists is read as columns, any other one as its values. Parquet
    rows come one after the other: the media inside them can fill gigabytes.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; pass the benchmark's own folder, as downloaded, by --root"
        )
    if path.suffix == ".parquet":
        return noted(path, parquet_rows(path))
    if path.suffix == ".json":
        return noted(path, json_rows(parsed(path)))

    records = [record for _, record in read_records(path)]
    for record in records:
        if isinstance(record, DataError):
            raise record
    return noted(path, records)


def parquet_rows(path: Path) -> Iterator[dict]:
    """The rows of a parquet file. One that is no parquet file is refused before the first row."""
    import pyarrow.parquet  # imported here: only some benchmarks need it

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a parquet file ({error}); download it again") from None
    return rows_of_batches(file, path)


def rows_of_batches(file, path: Path) -> Iterator[dict]:
    """The rows of an open parquet file. DataError where it is damaged further on."""
    import pyarrow

    try:
        for batch in file.iter_batches(64):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: is damaged ({error}); download it again") from None


def json_rows(content) -> list[dict]:
    """json_rows({"a": [1, 2], "b": [3, 4]}) = [{"a": 1, "b": 3}, {"a": 2, "b": 4}]."""
    if not isinstance(content, dict):
        return content
    columns = list(content.values())
    lengths = {len(column) if isinstance(column, list) else None for column in columns}
    if len(lengths) != 1 or None in lengths:
        return columns
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def parsed(path: Path):
    """What a JSON file holds."""
    last_read.update(file=path, row=0)
    try:
        return parse_json(read_text(path, "download it again"))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not JSON ({error}); download it again") from None


# --------------------------------------------------------------------------- finding files


def first_file(root: Path, *names: str) -> Path:
    """The first of these files that is there, or that a pattern finds; DataError names them all."""
    for name in names:
        matches = sorted(root.glob(name))
        if matches:
            return matches[0]
    raise DataError(
        f"{root}: none of {', '.join(names)} is there; download the benchmark into that folder, "
        "or pass another one by --root"
    )


def files_of(root: Path, *names: str) -> list[Path]:
    """The first of these files that is there; where it is one of several parts, all of them.

    Parts are the parquet files that the same pattern finds. Those of the hub, in any format, say
    how many there are (test-00000-of-00006.jsonl): DataError for one that is missing.
    """
    first = first_file(root, *names)
    if first.suffix != ".parquet" and not PART.fullmatch(first.stem):
        return [first]
    for name in names:
        parts = sorted(root.glob(name))
        if parts:
            break
    return series_of(first, parts)  # of several splits in one folder the first


def series_of(one: Path, parts: list[Path]) -> list[Path]:
    """The parts 0 to total - 1 of the split that one of them is of, in order, where their names
    have numbers; else all parts. DataError for one that is missing.

    The parts of a split lie in one folder. The hub's older files have a hash behind the numbers.
    """
    numbered = PART.fullmatch(one.stem)
    if not numbered:
        return parts
    split, total = numbered.group("split", "total")

    found: dict[int, Path] = {}
    for path in parts:
        match = PART.fullmatch(path.stem)
        if not match or path.parent != one.parent or path.suffix != one.suffix:
            continue
        if match.group("split", "total") == (split, total):
            found[int(match["number"])] = path

    missing = [number for number in range(int(total)) if number not in found]
    if missing:
        name = f"{split}-{missing[0]:0{len(total)}d}-of-{total}{one.suffix}"
        raise DataError(
            f"{one.parent}: {len(missing)} of {int(total)} parts are missing, the first: {name}; "
            "download them into that folder"
        )
    return [found[number] for number in range(int(total))]


def rows_of(root: Path, *names: str) -> Iterator[dict]:
    """The rows of all parts (`files_of`), in order."""
    for path in files_of(root, *names):
        yield from rows(path)


def locate(root: Path, *names: str) -> str:
    """The first of these paths that exists, else the first: the error about it then names it."""
    for name in names:
        if (root / name).exists():
            return str(root / name)
    return str(root / names[0])


def clip(root: Path, stem: str, *folders: str) -> str:
    """A video by its name without suffix, in the first of these folders that has it."""
    names = []
    for folder in folders:
        for suffix in (".mp4", ".MP4", ".mkv", ".webm", ".avi"):
            names.append(f"{folder}/{stem}{suffix}")
    return locate(root, *names)


def unpacked(scratch: Path, suffix: str, value: dict | bytes) -> str:
    """A medium that a row holds inside, {bytes, path} or bytes, as a file of the scratch folder.

    Its name is made of its content: it is written once.
    """
    content = value["bytes"] if isinstance(value, dict) else value
    file = scratch / (hashlib.sha256(content).hexdigest()[:32] + suffix)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    return str(file)


# --------------------------------------------------------------------------- gold answers


def gold_text(value) -> str:
    """A gold answer as text; "" for null and whatever else is neither a text nor a number, so that
    the item counts as one without a gold answer.

    >>> gold_text(" B "), gold_text(2), gold_text(None), gold_text(["A"])
    ('B', '2', '', '')
    """
    if isinstance(value, str):
        return value.strip()
    return str(value) if is_number(value) else ""


# --------------------------------------------------------------------------- options


def lettered(options: Iterable | dict) -> list[str]:
    """Options as "A. red", whether or not they have letters already ("A.red", "(A) red").

    Letters of their own stay, also in another order or with gaps, where every option has one, no
    two the same, and A is among them: "J. Smith" begins with no mark. Options beyond the 26th get
    no letter, and their item is left out (base.defect).

    >>> lettered(["red", "blue"])
    ['A. red', 'B. blue']
    >>> lettered(["A.red", "B. blue"]), lettered(["(B) red", "(A) blue"])
    (['A. red', 'B. blue'], ['B. red', 'A. blue'])
    >>> lettered(["J. Smith", "K. Jones"])
    ['A. J. Smith', 'B. K. Jones']
    >>> lettered({"A": "red", "B": "blue", "C": None})
    ['A. red', 'B. blue']

    ValueError for what is no list of texts, nor one of texts by letter.
    """
    texts = option_texts(options)
    marks = [match for text in texts if (match := OWN_LETTER.match(text))]
    letters = {mark[1] or mark[2] for mark in marks}
    if len(letters) == len(texts) and "A" in letters and any(mark[3] for mark in marks):
        return [f"{mark[1] or mark[2]}. {mark[3]}" for mark in marks]
    named = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return named + texts[len(LETTERS) :]


def option_texts(options: Iterable | dict) -> list[str]:
    """The options as they are written; of {letter: text} those with a text, as "A. red"."""
    if isinstance(options, str):
        raise ValueError(f"options {options[:60]!r} are one text, not a list")
    if isinstance(options, dict):
        options = texts_by_letter(options)
    if not isinstance(options, list | tuple):
        raise ValueError(f"options {brief(options)} are no list")
    return [option_text(option, options) for option in options]


def option_text(option: object, options: Iterable | dict) -> str:
    if not isinstance(option, str | bool) and not is_number(option):
        raise ValueError(f"option {brief(option)} of {brief(options)} is no text")
    return str(option).strip()


def texts_by_letter(options: dict) -> list[str]:
    """Of {letter: text} the options, as "A. red"; a letter without a text is no option."""
    if not all(isinstance(name, str) and name in LETTERS and len(name) == 1 for name in options):
        raise ValueError(f"options {brief(options)} are not named by the letters A, B, ..")
    texts = []
    for letter, text in options.items():
        if text not in ("", None):
            texts.append(f"{letter}. {option_text(text, options)}")
    return texts


def named_letter(answer: object, options: list[str]) -> str:
    """The letter of a gold answer "B", "(b)" or "B. blue", its text being the option's or a part of
    it; any other answer as it is written, which is none of the options.

    >>> named_letter("B. blue", ["A. red", "B. blue"]), named_letter("BC", ["A. red", "B. blue"])
    ('B', 'BC')
    """
    gold = gold_text(answer)
    letter, text = split_mark(gold)
    body = {option[:1]: option[3:] for option in options}.get(letter)
    if body is not None and (not text or agree(text, body)):
        return letter
    return gold


def letter_at(place: int | str, options: list[str]) -> str:
    """The letter of the option at a gold place, counted from 0; the place itself where none is.

    >>> letter_at(1, ["red", "blue"]), letter_at("0", ["red"]), letter_at(-1, ["red"])
    ('B', 'A', '-1')
    """
    text = gold_text(place).removesuffix(".0")
    shown = lettered(options)
    if text.isdecimal() and len(text) <= 2 and int(text) < len(shown):
        return shown[int(text)][:1]
    return text


def letter_for(text: str, options: list[str]) -> str:
    """The letter of the option whose text is the gold answer, white space folded where none is the
    same without; the text itself where that finds none either.

    >>> letter_for("blue", ["red", "blue"]), letter_for("a  b", ["a b"]), letter_for("x", ["red"])
    ('B', 'A', 'x')
    """
    text = gold_text(text)
    if not text:  # an option may be empty, too
        return ""
    shown = lettered(options)
    texts = option_texts(options)
    for option, written in zip(shown, texts, strict=True):
        if text in (written, option[3:]):
            return option[:1]
    for option, written in zip(shown, texts, strict=True):
        if text.split() in (written.split(), option[3:].split()):
            return option[:1]
    return text
