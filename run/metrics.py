"""run/metrics.py: the lines of metrics.jsonl, read.

A log may have been cut or changed by hand. What is no line of it is left out and counted.
"""

from pathlib import Path

from formats.files import whole_lines

LARGEST = 1e300  # a number beyond it cannot be drawn
ALWAYS = ("step", "generated", "tier_")  # columns that are a number wherever they stand
MAYBE = ("loss", "reward", "eval_", "time_")  # and those that are null where there was none


def read_metrics(path: Path) -> tuple[list[dict], int]:
    """(the lines of metrics.jsonl, how many others there are). Its last line may still be
    written."""
    objects, n_bad = whole_lines(path)
    rows = [row for row in objects if is_line(row)]
    return rows, n_bad + len(objects) - len(rows)


def is_line(row: dict) -> bool:
    """Is this a line of metrics.jsonl: of a step, with numbers in the columns that are read?

    >>> is_line({"step": 3, "loss": None, "note": "a text of one's own"})
    True
    >>> is_line({"loss": 0.5}), is_line({"step": "3"}), is_line({"step": 3, "reward": "high"})
    (False, False, False)
    """
    if not is_step(row.get("step")):
        return False
    for name, value in row.items():
        is_null = value is None and name.startswith(MAYBE)
        if name.startswith((*ALWAYS, *MAYBE)) and not is_null and not is_drawable(value):
            return False
    return True


def is_step(value: object) -> bool:
    """Is this the number of a step?"""
    return type(value) is int and 0 <= value <= LARGEST


def is_drawable(value: object) -> bool:
    """Is this a number that can be drawn? NaN is none, nor is what is too large for a float."""
    return isinstance(value, int | float) and -LARGEST <= value <= LARGEST
