"""formats/fields.py: reading the fields of a record."""

import re

from formats.sample import DataError


def text_of(record: dict, name: str, where: str, needed: bool = True) -> str:
    """A field's text; numbers are written out, and what is missing is "" unless `needed`."""
    value = record.get(name)
    if type(value) in (int, float, type(None)):
        value = "" if value is None else str(value)
    if not isinstance(value, str) or (needed and not value.strip()):
        raise DataError(
            f"{where}: field '{name}' is missing, empty or not text; write a text there, or remove the record"
        )
    return value


def list_of(value, name: str, where: str) -> list[str]:
    """A field that holds nothing, a text or a list of texts -> the list."""
    if not value:  # most media fields: null, "" or []
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise DataError(
            f"{where}: field '{name}' must be a text or a list of texts, none of them empty; mend it, or remove the record"
        )
    return list(items)


def gold_answer(text: str, name: str, where: str) -> str:
    """What stands in the first <answer>...</answer>, or the whole text when it holds no <answer>; stripped. Empty or not closed: DataError.

    >>> gold_answer("<think>so</think><answer> B </answer>", "solution", "x.json[0]"), gold_answer("42 ", "solution", "x.json[0]")
    ('B', '42')
    """
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    answer = (match[1] if match else "" if "<answer>" in text else text).strip()
    if not answer:
        raise DataError(
            f"{where}: field '{name}' holds no answer; write one as <answer>...</answer>, or remove the record"
        )
    return answer


def take_soundtrack(made: dict) -> dict:
    """A sound beside one video that the text does not mention is the video's sound track, unless the record names another."""
    if (
        len(made["videos"]) == len(made["audios"]) == 1
        and not made.get("soundtrack")
        and "<audio>" not in "\n".join([made["question"], *made["options"]])
    ):
        made["soundtrack"] = made["audios"].pop()
    return made
