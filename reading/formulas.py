"""reading/formulas.py: formulas in one spelling, and whether two texts agree in their symbols.

    one_spelling(text)          TeX, superscripts and fractions as Unicode writes them
    symbols_agree(text, other)  "60" may be "60 °C"; "x < 0" is not "x > 0"

letters.py brings options and replies into one spelling before it compares them.
"""

import re
import unicodedata

from reading.text import tokens

# What TeX and ASCII write for a symbol. Longer names come first, since each is also tried before a
# letter ("\\leq" before "\\le").
TEX_SYMBOLS = {
    "leqslant": "≤", "geqslant": "≥", "leq": "≤", "geq": "≥", "neq": "≠", "le": "≤", "ge": "≥",
    "ne": "≠", "lt": "<", "gt": ">", "times": "×", "cdot": "·", "div": "÷", "pm": "±", "mp": "∓",
    "approx": "≈", "sim": "~", "equiv": "≡", "propto": "∝", "infty": "∞", "degree": "°",
    "rightarrow": "→", "leftarrow": "←", "uparrow": "↑", "downarrow": "↓", "Rightarrow": "⇒",
    "to": "→", "wedge": "∧", "land": "∧", "vee": "∨", "lor": "∨", "neg": "¬", "lnot": "¬",
    "in": "∈", "subset": "⊂", "cup": "∪", "cap": "∩", "forall": "∀", "exists": "∃", "sum": "∑",
    "int": "∫", "partial": "∂", "nabla": "∇", "perp": "⊥", "parallel": "∥", "angle": "∠",
}  # fmt: skip
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega"
)
for name in GREEK.split():
    TEX_SYMBOLS[name] = unicodedata.lookup(f"GREEK SMALL LETTER {name.replace('lambda', 'lamda')}")
    TEX_SYMBOLS[name.capitalize()] = TEX_SYMBOLS[name].upper()
TEX_COMMAND = re.compile(r"\\([A-Za-z]{2,12})(?![A-Za-z]) ?")
ASCII_SYMBOLS = {"<=": "≤", ">=": "≥", "!=": "≠", "+-": "±"}

DEGREE = re.compile(r"\^ ?\{? ?\\circ ?\}?")
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
MONEY = "\ufe69"  # a dollar sign that is none of TeX's
FRACTIONS = "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"

# What `one_spelling` changes; most texts have none of it
IN_FORMULAS = re.compile(rf"[$\\^_{FRACTIONS}⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉]|[<>!]=|\+-|sqrt")

# Of the mathematical symbols, those that may be left out: "120" for "♩ = 120", "5" for "~5".
LEFT_OUT = "=~≈"

# Behind a number.
UNIT = re.compile(r" ?[%°]")


def one_spelling(text: str) -> str:
    r"""The text with its formulas as Unicode writes them, whether they came as TeX or not.

    A dollar sign before a sum of money becomes MONEY, those around a formula go.

    >>> one_spelling(r"$\frac{1}{2} \leq \sqrt{x}$"), one_spelling(r"20^\circ C, 10³, H₂O, ½")
    ('1/2 ≤√x', '20°C, 10^3, H2O, 1/2')
    >>> one_spelling("$5 and $6") == f"{MONEY}5 and {MONEY}6"
    True
    """
    if not IN_FORMULAS.search(text):
        return text

    # as pandoc has it: a formula touches its dollar signs, and no digit follows
    text = re.sub(r"(?<!\\)\$\$?(?! )([^$\n]{1,200})(?<! )\$\$?(?!\d)", r"\1", text)
    text = re.sub(r"\\?\$ ?(?=[\d.])", MONEY, text)

    # fractions and roots of one level
    text = re.sub(r"\\[dt]?frac ?\{([^{}]{1,40})\} ?\{([^{}]{1,40})\}", r"\1/\2", text)
    text = re.sub(r"\\?\bsqrt ?(?:\{([^{}]{1,40})\}|\(([^()]{1,40})\))", r"√\1\2", text)
    text = re.sub(rf"(?<=\d)(?=[{FRACTIONS}])", " ", text)
    text = re.sub(rf"[{FRACTIONS}]", fraction_of, text)

    # symbols; the blank behind a command only ends it
    text = DEGREE.sub("°", text)
    text = TEX_COMMAND.sub(symbol_of, text)
    for ascii_form, symbol in ASCII_SYMBOLS.items():
        text = text.replace(ascii_form, symbol)

    # powers and indices
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]{1,9}", lambda match: "^" + match[0].translate(RAISED), text)
    text = re.sub(r"\^\{([^{}]{1,9})\}", r"^\1", text)
    text = re.sub(r"(?<=\w)_\{?(\d{1,3})\}?", r"\1", text)
    return text.translate(LOWERED)


def fraction_of(match: re.Match) -> str:
    """A fraction of one character as two numbers: "½" is "1/2"."""
    return unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/")


def symbol_of(match: re.Match) -> str:
    """The symbol of a TeX command; an unknown one stays."""
    return TEX_SYMBOLS.get(match[1], match[0])


def symbols_agree(text: str, other: str) -> bool:
    """Whether two texts of the same words may mean the same by their symbols.

    Operators must be equal: "x > 0" is not "x < 0", and "√3" not "3". Units and links may be left
    out, but not differ: "60" may be "60 °C", "€5" is not "$5".

    >>> symbols_agree("60", "60 °"), symbols_agree("x > 0", "x < 0"), symbols_agree("√3", "3")
    (True, False, False)
    """
    operators, links = symbols_in(text)
    other_operators, other_links = symbols_in(other)
    if operators != other_operators:
        return False
    return set(links) <= set(other_links) or set(other_links) <= set(links)


def symbols_in(text: str) -> tuple[list[str], list[str]]:
    """The operators of a text, and its units and links ("%", "°", "$", "/", "-", "&")."""
    symbols = [token.text for token in tokens(text) if not token.is_word]
    operators = [s for s in symbols if s == "^" or unicodedata.category(s) == "Sm"]
    operators = [s for s in operators if s not in LEFT_OUT]
    # a tick, a note or an emoji (So) says nothing; the degree sign is of that class, too
    dropped = [s for s in symbols if s in "#~≈" or (s != "°" and unicodedata.category(s) == "So")]
    return operators, [s for s in symbols if s not in operators and s not in dropped]


def with_unit(text: str, start: int, end: int) -> str:
    """A part of a text with the currency and the unit that touch it.

    >>> with_unit("It costs €5%", 10, 11)
    '€5%'
    """
    if start and unicodedata.category(text[start - 1]) == "Sc":
        start -= 1
    unit = UNIT.match(text, end)
    return text[start : unit.end() if unit else end]
