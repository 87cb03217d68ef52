"""formats/fields.py: reading the fields of a record, shared by all forms of data set."""

import math
import re
import reprlib

from formats.sample import DataError, moment_of
from problems import problem_type

# A number of more digits is no answer, and Python refuses to write it out.
MAX_DIGITS = 4_000

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

HALF_PAIR = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair, which no tokenizer takes.

    JSON can hold such halves, as "\\ud83d": a text of the web, cut in the middle of an emoji.
    """
    return HALF_PAIR.sub("\ufffd", text)


def brief(value) -> str:
    """A value as messages show it: on one line, and not at full length.

    >>> brief("two\\nlines"), brief([[1], None])
    ("'two\\\\nlines'", '[[1], None]')
    """
    shortened = reprlib.Repr()
    shortened.maxstring = 120
    return whole_characters(shortened.repr(value))


def text_field(record: dict, name: str, where: str, required: bool = True) -> str:
    """A field's text; numbers are written out, and a missing text is "" unless it is required."""
    value = record.get(name)
    if value is None:
        value = ""
    elif is_number(value):
        value = str(value)
    if not isinstance(value, str) or (required and not value.strip()):
        raise DataError(
            f"{where}: field '{name}' is missing, empty or not text; write a text there, "
            "or remove the record"
        )
    return whole_characters(value)


def is_number(value) -> bool:
    """A finite number of a sensible length; true and false are none here."""
    if type(value) is int:  # not isinstance, which takes true and false for numbers
        return value.bit_length() <= MAX_DIGITS * 3  # 10 digits take 33 bits
    return type(value) is float and math.isfinite(value)


def list_field(value, name: str, where: str, numbers: bool = False) -> list[str]:
    """A field that holds nothing, a text or a list of texts -> the list.

    numbers: they are written out. An empty text is nothing, a list must not hold one.
    """
    if value is None or value == "":  # many media fields: null, "" or []
        return []
    items = value if isinstance(value, list) else [value]
    texts = [str(item) if numbers and is_number(item) else item for item in items]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(
            f"{where}: field '{name}' must be a text or a list of texts, none of them empty; "
            "mend it, or remove the record"
        )
    return [whole_characters(text) for text in texts]


def paths_field(value, kind: str, name: str, where: str) -> list[str]:
    """A field that holds nothing, a path or a list of paths -> the list. kind: of the media."""
    paths = list_field(value, name, where)
    for path in paths:
        check_path(path, name, where)
        if kind == "image" and moment_of(path) is None:
            raise DataError(
                f"{where}: field '{name}': {brief(path)} is no picture of a moment; write the "
                "seconds as in clip.mp4#t=12.5, or another name of the file without #t="
            )
    return paths


def check_path(path: str, name: str, where: str) -> None:
    """Raises DataError for a path with a NUL, at which Python's os functions raise or end it, or
    with another control character, which would cut a message into lines."""
    if CONTROL.search(path):
        raise DataError(
            f"{where}: field '{name}': the path {brief(path)} holds a control character; "
            "mend it, or remove the record"
        )


def answer_field(record: dict, name: str, where: str) -> str:
    """The text of the gold answer; of the list that a multi-label question may have, one a line.

    true and false answer a yes/no question. Any other list, true or false is refused: as text
    ("['A', 'B']") no reply would ever equal it. A text may stand in its tags.
    """
    value = record.get(name)
    label = record.get("problem_type")
    try:
        kind = problem_type(label).name if isinstance(label, str) else ""
    except ValueError:  # make_sample names the unknown type
        kind = ""

    if kind == "yes/no" and isinstance(value, bool):
        return "yes" if value else "no"
    if kind == "multi-label" and isinstance(value, list) and value:
        return "\n".join(list_field(value, name, where, numbers=True))
    return gold_answer(text_field(record, name, where), name, where)


def gold_answer(text: str, name: str, where: str) -> str:
    """The text of the last <answer>...</answer> behind the last </think>, by which completions are
    read as well (rewards.py); without one there, of what stands outside of think blocks; without
    these tags the text itself, without its think blocks.

    Stripped. Raises DataError when it is empty, or holds a tag without its other half.

    >>> gold_answer("<think>or <answer>A</answer></think><answer> B </answer>", "solution", "x")
    'B'
    >>> gold_answer("42 ", "solution", "x.json[0]")
    '42'
    """
    # plain searches: the pattern "<answer>.*?</answer>" takes quadratic time where no tag is closed
    answer = text.rpartition("</think>")[2]
    if "<answer>" not in answer:
        answer = without_thinking(text)
    end = answer.rfind("</answer>")
    start = answer.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        answer = answer[start + len("<answer>") : end]
    if not answer.strip() or any(tag in answer for tag in TAGS):
        raise DataError(
            f"{where}: field '{name}' holds no answer, or half of a tag; write one as "
            "<answer>...</answer>, or remove the record"
        )
    return answer.strip()


def without_thinking(text: str) -> str:
    """A text without its think blocks; one that is never closed stays.

    >>> without_thinking("so <think>a</think><answer>B</answer><think>or?</think>")
    'so <answer>B</answer>'
    """
    first, *blocks = text.split("<think>")
    kept = [first]
    for block in blocks:
        _, closed, behind = block.partition("</think>")
        kept.append(behind if closed else f"<think>{block}")
    return "".join(kept)


def fault_of_trace(trace: str) -> str:
    """Why stage 0 must not imitate a trace, in words; "" where it may.

    By the rule of the format reward (rewards.py): one think block, one answer block, nothing else.
    """
    for tag in TAGS:
        if trace.count(tag) != 1:
            return f"it holds {tag} {trace.count(tag):,} times"
    before, _, rest = trace.partition("<think>")
    _, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    inside, closed, behind = rest.partition("</answer>")
    if not closed or (before + between + behind).strip():
        return "it is not one <think>...</think> and one <answer>...</answer> behind it"
    return "" if inside.strip() else "its answer is empty"


def assign_soundtrack(fields: dict) -> dict:
    """A sound beside one video that the text does not mention is the video's sound track, unless
    the record names another. fields: Sample's arguments, which are changed and returned."""
    one_of_each = len(fields["videos"]) == len(fields["audios"]) == 1
    mentioned = "<audio>" in "\n".join([fields["question"], *fields["options"]])
    if one_of_each and not mentioned and not fields.get("soundtrack"):
        fields["soundtrack"] = fields["audios"].pop()
    return fields
