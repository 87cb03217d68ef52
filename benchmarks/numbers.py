"""benchmarks/numbers.py: the number that a free reply gives.

`number_in` takes the first of these that is there:
    1 the whole reply as a count: "7", "twenty-one"
    2 the last number said to be the result: behind "the answer is", "total:", "the number of .. is"
      or "=", else before "in all"
    3 the first number in digits, as the benchmarks' authors take it; but no ordinal, time or label
      ("1st", "10 seconds", "0:12", "Frame 1")
    4 the first count in words ("one of them" is no count)
    5 the first number in digits of any kind

As in answers.py, every pattern has bounded repeats: reading takes time linear in the reply.
"""

import re

from problems import NUMBER_WORDS, TENS, count_of, number
from reading.text import unmarked

# A number in digits: "3", "-1,200.5"; not the 5 of "x5", nor a part of a time "0:12".
DIGITS = re.compile(r"[-+]?(?<![A-Za-z0-9_.])(?<!\d:)\d+(?:,\d{3})*(?:\.\d+)?(?!:\d)")

# What stands before a result: "the answer is ", "Total: ", "the number of cups is about ", "= ",
# "in total there are ".
RESULT_IS = re.compile(
    r"(?:\b(?:answer|total|count|number|sum|result)\b"
    r"(?:\s{1,3}(?:of|for|to|count|number|that|which|in|here)\b[^.:=\n]{0,60}?(?=[\s:=]))?"
    r"(?:\s{0,3}[:=]|\s{1,3}(?:is|are|was|were|be|would be|should be|comes to|equals)\b):?"
    r"|=|\btotal of\b|\bin total,?(?: there (?:is|are|were|was))?)"
    r"(?:\s{1,3}(?:about|approximately|around|roughly|therefore|thus|there|is|are|exactly|only|just)"
    r"\b){0,3}[\s\"'(:~]{0,6}",
    re.I,
)

# Before digits that name a thing: "frame ", "option ", "at ", "#".
LABEL = re.compile(
    r"(?:\b(?:frames?|clips?|videos?|images?|pictures?|steps?|options?|scenes?|seconds?|minutes?|"
    r"parts?|events?|figures?|at|t =)|#) ?$",
    re.I,
)

# Behind digits that are an ordinal or a time: "st", " seconds", "-minute", ":30".
UNIT = re.compile(
    r"(?:st|nd|rd|th)\b|[ -]?(?:s|secs?|seconds?|mins?|minutes?|hours?|ms|frames?)\b|:\d", re.I
)

# Behind a result: " in total", " red cups in all".
IN_ALL = re.compile(r"(?:\s{1,3}\w{1,20}){0,3}?\s{1,3}(?:in total|in all|altogether)\b", re.I)

# "one" and "once" are no counts before these words: "one of the men", "once the door opens".
NO_COUNT_BEFORE = re.compile("of|another|by|can|could|would|might|the|he|she|it|they|who|a|again")

# "one" is a pronoun behind these words: "this one", "the last one".
PRONOUN_AFTER = re.compile("no|the|this|that|each|which|any|every|another|last|next|first|second")


def number_in(text: str) -> float | None:
    """The number that a free reply gives, by the rules above; None when it gives none.

    >>> number_in("7"), number_in("about 1,200.5 metres"), number_in("a few")
    (7.0, 1200.5, None)
    >>> number_in("There are twenty one of them, not two")
    21.0
    >>> number_in("Frame 1: 2, frame 2: 1. Total: 3")
    3.0
    >>> number_in("In the first 10 seconds there are 3")
    3.0
    >>> number_in("One of the men knocks three times")
    3.0
    """
    reply = unmarked(text)

    # rule 1
    value = count_of(reply)
    if value is not None:
        return value

    # rule 2, what follows "the answer is"
    for match in reversed(list(RESULT_IS.finditer(reply))):
        digits = DIGITS.match(reply, match.end())
        if digits:
            return number(digits[0])
        value = count_at(words_of_letters(reply[match.end() : match.end() + 60]), 0)
        if value is not None:
            return value

    # rule 2, what stands before "in all"
    all_digits = list(DIGITS.finditer(reply))
    for match in reversed(all_digits):
        if IN_ALL.match(reply, match.end()):
            return number(match[0])

    # rule 3
    for match in all_digits:
        labelled = LABEL.search(reply, max(match.start() - 12, 0), match.start())
        if not labelled and not UNIT.match(reply, match.end()):
            return number(match[0])

    # rules 4 and 5
    value = first_count(reply)
    if value is None and all_digits:
        return number(all_digits[0][0])
    return value


def words_of_letters(text: str) -> list[str]:
    """words_of_letters("Twenty-one!") = ['twenty', 'one']."""
    return re.findall(r"[a-z]+", text.lower())


def first_count(text: str) -> float | None:
    """The first count in words: first_count("No one of the three hundred men") = 300.0."""
    words = words_of_letters(text)
    for i in range(len(words)):
        value = count_at(words, i)
        if value is not None:
            return value
    return None


def count_at(words: list[str], i: int) -> float | None:
    """The count that begins with the word at i, None if none does.

    >>> count_at(["the", "twenty", "one", "men"], 1), count_at(["one", "of", "them"], 0)
    (21.0, None)
    """
    # "no" and "none" are counts only where they are the whole reply
    word = words[i] if i < len(words) else ""
    if word in ("no", "none") or (word not in TENS and word not in NUMBER_WORDS):
        return None

    before = words[i - 1] if i > 0 else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if word in ("one", "once") and NO_COUNT_BEFORE.fullmatch(after):
        return None
    if word == "one" and PRONOUN_AFTER.fullmatch(before):
        return None

    # the longest run of words that is a count, of at most five: "two hundred and twenty one"
    for end in range(min(len(words), i + 5), i, -1):
        value = count_of(" ".join(words[i:end]))
        if value is not None:
            return value
    return None
