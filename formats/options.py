"""formats/options.py: the letters of a question's options, and the gold answer that names them.

Data sets write options as "A. red", "(A) red", "A、红", "1. red" or "red", and gold answers as a
letter, as the option's text, or as both. The prompt asks for a letter, so every option is brought
to "A. red" and every gold answer to letters.
"""

import re
import string
from typing import NamedTuple

from formats.fields import brief
from formats.sample import PLACEHOLDER, Sample, Unrewardable
from problems import plain

LETTERS = string.ascii_uppercase

# "(A) red", "[A] red", "A) red", "A. red", "A: red", "A、红", "A - red", "Option A: red", or "A"
# alone, but not "a.m." or "U.S."
LETTER_MARK = re.compile(
    r"(?:option\s+)?"
    r"(?:[(\[（【]\s*([a-z])\s*[)\]）】][.:、．：]?"
    r"|([a-z])(?:\.(?![a-z]\.)|[:)、．：）]|\s+[-–—]\s|$))"
    r"\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)

# "1. red", "(1) red", "1) red", "1、红", "1: red", but neither "1.5" nor "1: 30"
NUMBER_MARK = re.compile(
    r"(?:[(\[（【]\s*([0-9]{1,2})\s*[)\]）】][.:、．：]?"
    r"|([0-9]{1,2})(?:[.)、．）](?![0-9])|[:：](?!\s*[0-9])))"
    r"\s*(\S.*)",
    re.DOTALL,
)


class Option(NamedTuple):
    """One option of a question."""

    letter: str  # as the prompt shows it
    text: str  # without any mark; "" where the option is a letter alone
    mark: str  # the letter or number that the record writes in front of it; "" without one
    written: str  # as the record writes it

    @property
    def shown(self) -> str:
        """As the prompt shows it: "A. red"."""
        return f"{self.letter}. {self.text}" if self.text else self.letter


def split_mark(text: str) -> tuple[str, str]:
    """The letter (as a capital) or the number in front of an option, and what follows; "" without.

    >>> split_mark("(b) blue"), split_mark("2. blue"), split_mark("C"), split_mark("blue")
    (('B', 'blue'), ('2', 'blue'), ('C', ''), ('', 'blue'))
    """
    text = text.strip()
    for pattern in (LETTER_MARK, NUMBER_MARK):
        match = pattern.match(text)
        if match:
            return (match[1] or match[2]).upper(), match[3].strip()
    return "", text


def read_options(options: list[str]) -> list[Option]:
    """Options as a record writes them, each with a letter of its own.

    Their own letters stay, also when some are left out or in another order. Numbers 1, 2, .. and
    options without marks get letters by their place.

    >>> [option.shown for option in read_options(["(A) red", "(B) blue"])]
    ['A. red', 'B. blue']
    >>> [option.shown for option in read_options(["1. red", "2. blue"])]
    ['A. red', 'B. blue']
    >>> [option.shown for option in read_options(["8 a.m.", "noon"])]
    ['A. 8 a.m.', 'B. noon']
    """
    pairs = [split_mark(option) for option in options]
    marks = [mark for mark, _ in pairs]
    places = list(LETTERS[: len(options)])
    numbers = [str(i + 1) for i in range(len(options))]

    # a small letter alone may be a name ("x: 3"): it counts where it is in order
    surely = []
    for option, mark in zip(options, marks, strict=True):
        surely.append(mark.isalpha() and not option.strip()[0].islower())

    # marks in order, or letters, each there once
    own_letters = all(surely) and len(set(marks)) == len(marks)
    in_order = marks in (places, numbers)
    lettered = []
    for i, (mark, text) in enumerate(pairs):
        written = options[i].strip()
        letter = mark if own_letters else places[i]

        # among others without a mark, only the letter of this place is one
        if not (own_letters or in_order or (surely[i] and text and mark == letter)):
            text = written
        lettered.append(Option(letter, text, mark, written))
    return lettered


def named_by(gold: str, options: list[Option]) -> list[str]:
    """The letters that a gold answer may mean: one, if all is well.

    >>> options = read_options(["red", "blue"])
    >>> named_by("blue", options), named_by("(b)", options), named_by("green", options)
    (['B'], ['B'], [])
    """
    # by text: word for word, else but for case and outer punctuation
    gold = gold.strip()
    named = {option.letter for option in options if gold in (option.text, option.written)}
    gold = gold if named else unwrapped(gold)
    if not named and plain(gold):
        for option in options:
            if plain(gold) in (plain(option.text), plain(option.written), plain(option.shown)):
                named.add(option.letter)

    # by letter, alone or with a text that does not contradict it
    mark, text = split_mark(gold)
    if gold.isdecimal():
        mark, text = gold, ""
    for option in options:
        if mark and not text and mark in (option.letter, option.mark):
            named.add(option.letter)
    if mark and text and not named:
        named = {o.letter for o in options if plain(text) == plain(o.text)}
        for option in options:
            if mark == option.letter and (named or agree(text, option.text)):
                named.add(option.letter)

    # of two options that say the same, neither is meant; pictures are not looked at
    texts = set()
    for option in options:
        if option.letter in named and option.text and not PLACEHOLDER.search(option.text):
            texts.add(" ".join(option.text.split()))
    named |= {option.letter for option in options if " ".join(option.text.split()) in texts}
    return sorted(named)


def unwrapped(gold: str) -> str:
    r"""A gold answer without LaTeX and Markdown around it.

    >>> unwrapped(r"\boxed{B}"), unwrapped("$B$"), unwrapped("**(B)**")
    ('B', 'B', '(B)')
    """
    gold = gold.strip(" \n$*")
    for command in ("\\boxed{", "\\text{", "\\mathrm{", "\\mathbf{"):
        if gold.startswith(command) and gold.endswith("}"):
            gold = gold[len(command) : -1].strip(" \n$*")
    return gold


def agree(text: str, of_option: str) -> bool:
    """Is one of the two texts a part of the other? A gold answer may be cut short."""
    return plain(text) in plain(of_option) or plain(of_option) in plain(text)


def name_options(sample: Sample) -> None:
    """Letter the options of a question that asks for letters, and write its gold answer as letters.

    In place. Raises Unrewardable for a gold answer that names no option, or several.
    """
    name = f"{sample.where}: field 'answer' of record '{sample.id}'"
    if len(sample.options) > len(LETTERS):
        raise Unrewardable(
            f"{name} stands for a letter, of which {len(sample.options)} options are too many",
            sample.id,
        )
    options = read_options(sample.options)

    # one answer, or several
    items = [sample.answer]
    if sample.problem_type == "multi-label":
        items = split_labels(sample.answer, options)
    letters: list[str] = []
    for item in dict.fromkeys(items):
        named = named_by(item, options)
        if not named:
            raise Unrewardable(
                f"{name}: {brief(item)} is none of its {len(options)} options", sample.id
            )
        if len(named) > 1:
            raise Unrewardable(
                f"{name}: {brief(item)} may mean the options {', '.join(named)}", sample.id
            )
        letters += named
    sample.options = [option.shown for option in options]
    sample.answer = ", ".join(dict.fromkeys(letters))


def split_labels(answer: str, options: list[Option]) -> list[str]:
    """The items of a multi-label answer: of a list (one a line), of letters in any form, or of
    texts joined by commas or semicolons.

    >>> split_labels("A and C", read_options(["x", "y", "z"]))
    ['A', 'C']
    """
    if "\n" not in answer:
        # one option, whose text may hold a comma
        if named_by(answer, options):
            return [answer]
        # letters alone: "A, C", "A C", "AC", "A and C"
        letters = re.sub(r"\band\b|[\s,;|/&+、，；()\[\].]", "", unwrapped(answer))
        if re.fullmatch("[A-Z]+", letters) and set(letters) <= {o.letter for o in options}:
            return list(letters)
    separators = r"\n" if "\n" in answer else r"[,;|、，；]"
    return [item.strip() for item in re.split(separators, answer) if plain(item)]
