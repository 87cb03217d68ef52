"""reading/yes_no.py: whether an answer is yes or no.

yes_no(answer)      strict, for training: the first word
yes_or_no(reply)    lenient, for evaluation: in a free reply

The "no" of a refusal is none: "No idea.", "No video was provided.", "No dog, but I cannot tell".
Nor is that of "no doubt". "No, he is not", "No he isn't" and "No dog barks" are answers.
"""

import re

from reading.letters import ANSWER_IS
from reading.refusals import REFUSAL
from reading.text import same_characters, tokens, unmarked

# "Yes" and "no" in other languages; Chinese has several words for each.
YES = (
    "yes",
    "yeah",
    "yep",
    "yup",
    "да",
    "हाँ",
    "हां",
    "sí",
    "si",
    "oui",
    "ja",
    "sim",
    "نعم",
    "예",
    "네",
    "はい",
    "是",
    "是的",
    "对",
    "有",
)
NO = (
    "no",
    "nope",
    "nah",
    "нет",
    "नहीं",
    "non",
    "nein",
    "não",
    "لا",
    "아니요",
    "아니오",
    "いいえ",
    "不是",
    "不",
    "否",
    "没有",
    "不对",
)

# A word at the beginning; the words of scripts without blanks, longest first.
FIRST_WORD = re.compile(
    r"[\W_]{0,6}(不是|不对|没有|いいえ|はい|是的|[是否对不有没]|[^\W\d_\u3040-\u30ff\u4e00-\u9fff]"
    r"[^\s.,;:!?।。，、\"'()]{0,20})"
)

# "答案是否": the answer is no.
CHINESE_ANSWER = re.compile(
    r"答案(?:[是为:]|\s){0,3}?(不是|没有|不对|是的|[是否对不有没])\s?[。.!]?\s?$"
)


def yes_no(text: str, options: list[str] | None = None) -> str | None:
    """'yes' or 'no' by the answer's first word, None otherwise.

    >>> yes_no("Yes, it does."), yes_no("不是"), yes_no("Yesterday")
    ('yes', 'no', None)
    >>> yes_no("Yep"), yes_no("Nope, he lies.")
    ('yes', 'no')
    >>> yes_no("No he isn't"), yes_no("No idea."), yes_no("No doubt, he lies.")
    ('no', None, None)
    """
    # a dash ends the word: "No—he lies"
    text = re.sub(r"[^\S\n]{1,9}", " ", same_characters(re.sub("[–—]", " - ", text)))
    match = FIRST_WORD.match(text)
    word = match[1].casefold() if match else ""
    if match and REFUSAL.match(text, match.start(1)):
        return None
    if word in YES:
        return "yes"
    return "no" if word in NO else None


def yes_or_no(text: str) -> str | None:
    """'yes' or 'no': the first word, else what is last said to be the answer, else the only one.

    >>> yes_or_no("**No**, he does."), yes_or_no("The answer is yes; no doubt.")
    ('no', 'yes')
    >>> print(yes_or_no("It is no sign, yes"), yes_or_no("Sorry, no video was provided."))
    None None
    """
    reply = unmarked(text)
    if word := yes_no(reply):
        return word

    declared = [yes_no(reply[link.end() : link.end() + 40]) for link in ANSWER_IS.finditer(reply)]
    declared = [word for word in declared if word]
    if declared:
        return declared[-1]

    if match := CHINESE_ANSWER.search(reply):
        return yes_no(match[1])

    # a last line that is one of the words
    lines = reply.splitlines()
    if lines and len(tokens(lines[-1][:40])) == 1 and len(lines[-1]) < 40 and yes_no(lines[-1]):
        return yes_no(lines[-1])

    # the "no" of a refusal does not occur, nor does what it refuses
    occurring = set(
        re.findall(r"\b(?:yes|no)\b", REFUSAL.sub(" ", re.sub(r"\s+", " ", reply)).lower())
    )
    return occurring.pop() if len(occurring) == 1 else None
