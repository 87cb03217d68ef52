"""formats/fields.py: reading the fields of a record, shared by all forms of data set."""

import re

from formats.sample import DataError


def text_field(record: dict, name: str, where: str, required: bool = True) -> str:
    """A field's text; numbers are written out, and a missing text is "" unless it is required."""
    value = record.get(name)
    if value is None:
        value = ""
    elif type(value) in (int, float):  # not isinstance: true and false are no numbers here
        value = str(value)
    if not isinstance(value, str) or (required and not value.strip()):
        raise DataError(
            f"{where}: field '{name}' is missing, empty or not text; write a text there, "
            "or remove the record"
        )
    return value


def list_field(value, name: str, where: str) -> list[str]:
    """A field that holds nothing, a text or a list of texts -> the list."""
    if not value:  # most media fields: null, "" or []
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise DataError(
            f"{where}: field '{name}' must be a text or a list of texts, none of them empty; "
            "mend it, or remove the record"
        )
    return list(items)


def gold_answer(text: str, name: str, where: str) -> str:
    """The text of the first <answer>...</answer>, or the whole text when it holds no <answer>.

    Stripped. Raises DataError when it is empty or the tag is not closed.

    >>> gold_answer("<think>so</think><answer> B </answer>", "solution", "x.json[0]")
    'B'
    >>> gold_answer("42 ", "solution", "x.json[0]")
    '42'
    """
    answer = text
    if "<answer>" in text:
        match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        answer = match[1] if match else ""
    if not answer.strip():
        raise DataError(
            f"{where}: field '{name}' holds no answer; write one as <answer>...</answer>, "
            "or remove the record"
        )
    return answer.strip()


def assign_soundtrack(fields: dict) -> dict:
    """A sound beside one video that the text does not mention is the video's sound track, unless
    the record names another. fields: Sample's arguments, which are changed and returned."""
    one_of_each = len(fields["videos"]) == len(fields["audios"]) == 1
    mentioned = "<audio>" in "\n".join([fields["question"], *fields["options"]])
    if one_of_each and not mentioned and not fields.get("soundtrack"):
        fields["soundtrack"] = fields["audios"].pop()
    return fields
