"""reading/text.py: the tokens of a text in any script, and a reply without its marks.

Two texts are compared by their tokens: words, numbers with their sign, and the symbols that carry
meaning (C++ is not C#, x² is not x³, -5 is not 5). Punctuation, case and white space say nothing.
"""

import re
import sys
import unicodedata
from typing import NamedTuple


def marks() -> str:
    """The combining marks of all scripts, as the inside of a character class.

    Python's "\\w" leaves them out, though the vowels of Hindi, Arabic and Thai are marks.
    """
    ranges = []
    for code in range(0x300, min(sys.maxunicode, 0x1FFFF)):
        if unicodedata.category(chr(code))[0] != "M":
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


MARKS = marks()

# Scripts without blanks between words: each character is a token (Thai, Lao, Khmer, kana, Han).
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"

# A number with what belongs to it ("-1,200.5", "3:1", "1/2"), a word, or a symbol. A hyphen before
# a number is its sign where nothing stands before it; between two letters it only joins words.
TOKEN = re.compile(
    r"(?P<number>(?:(?<![\w)\]%])[-+])?\d+(?:[.,:/]\d+)*)"
    rf"|(?P<word>[{UNSPACED}][{MARKS}]*|[^\W\d_{UNSPACED}](?:[^\W_{UNSPACED}]|[{MARKS}])*|[^\W_])"
    r"|(?P<symbol>[^\w\s])"
)

# Symbols beside those of Unicode's classes Sm, Sc and So that carry meaning.
SYMBOLS = frozenset("%#&@/^°-")

# Quotes, dashes and minus signs of all kinds, and full-width characters (U+FF01 to U+FF5E).
SAME_CHARACTERS = str.maketrans("‘’“”「」【】−‐‑‒–—﹣", '\'\'""""[]-------') | {
    code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)
}

# Punctuation around an answer, in every script's form that is not made ASCII.
PUNCTUATION = " .,;:!?\"'()。、・『』《》〈〉।॥؟،؛۔…¿¡«»"

# Characters that letters.py uses as marks of options; no text means anything by them.
PRIVATE = re.compile("[\ue000-\ue1ff]")


class Token(NamedTuple):
    """A token: its text, as it is compared, and where it stands; is_word: no symbol."""

    text: str
    start: int
    end: int
    is_word: bool


def same_characters(text: str) -> str:
    """The text composed (NFC), in plain quotes, dashes and ASCII punctuation, the length kept but
    for composing. Not NFKC: it would make x2 of x², and 102 of 10²."""
    return unicodedata.normalize("NFC", text).translate(SAME_CHARACTERS)


def tokens(text: str, fold: bool = True) -> list[Token]:
    """The tokens of a text that went through `same_characters`; fold: without regard to case.

    >>> [token.text for token in tokens("Dark-blue, -5.12% (x < 2)")]
    ['dark', 'blue', '-5.12', '%', 'x', '<', '2']
    >>> [token.text for token in tokens("红色 ball")]
    ['红', '色', 'ball']
    """
    found = []
    for match in TOKEN.finditer(text):
        word = match[0]
        if match["symbol"] and not is_meant(text, match):
            continue
        if match["number"]:
            word = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", word)
            word = re.sub(r"^([-+]?)0+(?=\d)", r"\1", word)  # "00:30" is "0:30"
        elif fold:
            word = word.casefold()
        found.append(Token(word, match.start(), match.end(), not match["symbol"]))
    return found


def is_meant(text: str, match: re.Match) -> bool:
    """Whether a symbol carries meaning: "<" does, a comma and the hyphen of "dark-blue" do not."""
    symbol = match[0]
    if symbol == "-":
        before = text[max(match.start() - 1, 0) : match.start()]
        after = text[match.end() : match.end() + 1]
        return (after.isalnum() and not before.isalpha()) or (before, after) == (" ", " ")
    return symbol in SYMBOLS or unicodedata.category(symbol) in ("Sm", "Sc", "So")


def unmarked(text: str) -> str:
    r"""A reply without the marks of markdown and TeX, in plain quotes and ASCII punctuation.

    What is boxed is said to be the answer.

    >>> unmarked("**B**"), unmarked(r"so $\boxed{\text{B}}$"), unmarked("答案：（B）")
    ('B', 'so  answer:    B', '答案:(B)')
    """
    text = re.sub(r"\\boxed\b", " answer: ", PRIVATE.sub("", same_characters(text)))
    text = re.sub(r"(?<=[A-Za-z])_(?:(\w)(?!\w)|\{(\w{1,5})\})", r"\1\2", text)  # v_1
    text = re.sub(r"\\(?:text|mathrm|mathbf)(?:bf|it|rm)?\b|\\[,;!]", " ", text)
    text = re.sub(r"</?[A-Za-z]{2,12}>", " ", text)
    text = re.sub(r"^[ \t]{0,3}#{1,6}(?=\s)", "", text, flags=re.M)
    return text.translate(str.maketrans("{}_", "   ", "*$`\\")).strip()


def words_of(text: str) -> str:
    """Words and numbers between blanks, without case, symbols and signs.

    >>> words_of("Dark-blue, 2!")
    'dark blue 2'
    """
    return " ".join(t.text.lstrip("+-") for t in tokens(same_characters(text)) if t.is_word)


def plain(text: str) -> str:
    """Without case, white space folded, outer punctuation gone: plain(" Red  disc.") = 'red disc'.

    >>> plain("红色的球。"), plain("C++!"), plain("Straße")
    ('红色的球', 'c++', 'strasse')
    """
    return " ".join(same_characters(text).casefold().split()).strip(PUNCTUATION)
