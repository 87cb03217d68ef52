"""reading/number_words.py: numbers in words, English and Chinese.

    count_of_words(words)   a whole number: ["twenty", "one"] is 21
    chinese_count(text)     the same in Chinese numerals
    in_digits(text)         the text with its fractions, decimals and signs in words respelled in
                            digits: "two thirds" as "2/3", "minus five" as "-5"; counts stay words

Every pattern has bounded repeats, as in numbers.py, which reads what is respelled here.
"""

import re
from collections.abc import Callable

# fmt: off
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}

NUMBER_WORDS = {
    "no": 0, "none": 0, "zero": 0, "once": 1, "one": 1, "twice": 2, "two": 2, "thrice": 3,
    "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}

# What multiplies the words before it: "two hundred", "a dozen".
MULTIPLES = {"couple": 2, "pair": 2, "dozen": 12, "hundred": 100, "thousand": 1000,
             "million": 1_000_000, "billion": 1_000_000_000}

CHINESE_DIGITS = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6,
                  "七": 7, "八": 8, "九": 9}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
# fmt: on

# --------------------------------------------------------------------------- counts


def words_of_letters(text: str) -> list[str]:
    """words_of_letters("Twenty-one!") = ['twenty', 'one']."""
    return re.findall(r"[^\W\d_]+", text.lower())


def count_of_words(words: list[str]) -> float | None:
    """The count that is all of the words: count_of_words(["half", "a", "dozen"]) = 6.0."""
    if words == ["half", "a", "dozen"]:
        return 6.0
    if len(words) == 1 and words[0] in NUMBER_WORDS:
        return float(NUMBER_WORDS[words[0]])

    # a word below twenty begins the number, or follows a multiple; below ten also tens
    total = part = 0
    previous = ""
    for i, word in enumerate(words):
        unit = NUMBER_WORDS.get(word, 0)
        may_follow = previous in ("", *MULTIPLES) or (previous in TENS and unit < 10)
        if word == "and" and previous in MULTIPLES and i + 1 < len(words):
            continue
        if word in ("a", "an") and i == 0 and len(words) > 1 and words[1] in MULTIPLES:
            part = 1
        elif word == "of" and previous in ("couple", "pair") and i + 1 == len(words):
            continue
        elif word in MULTIPLES and part:
            part *= MULTIPLES[word]
            if MULTIPLES[word] >= 1000:
                total, part = total + part, 0
        elif word in TENS and previous in ("", *MULTIPLES):
            part += TENS[word]
        elif 0 < unit < 20 and word not in ("once", "twice", "thrice") and may_follow:
            part += unit
        else:
            return None
        previous = word
    return float(total + part) if total + part else None


def chinese_count(text: str) -> float:
    """A count in Chinese numerals: chinese_count("一百零五") = 105.0."""
    total = part = digit = 0
    for character in text:
        if character in CHINESE_DIGITS:
            digit = CHINESE_DIGITS[character]
        elif character == "万":
            total, part, digit = (total + part + digit) * 10_000, 0, 0
        else:
            part += max(digit, 1) * CHINESE_UNITS[character]
            digit = 0
    return float(total + part + digit)


# --------------------------------------------------------------------------- fractions and signs

DENOMINATORS = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
    "twelfth": 12,
    "sixteenth": 16,
    "twentieth": 20,
    "hundredth": 100,
    "thousandth": 1000,
    "millionth": 1_000_000,
}
NO_COUNT = ("no", "none", "once", "twice", "thrice")
WORD = "|".join(
    sorted(
        {*NUMBER_WORDS, *TENS, *MULTIPLES} - {*NO_COUNT, "couple", "pair"}, key=len, reverse=True
    )
)
COUNT = rf"(?:(?:a )?\b(?:{WORD})\b(?:[ -](?:and )?(?:{WORD})\b){{0,5}})"
DENOMINATOR = rf"(?P<below>{'|'.join(DENOMINATORS)})(?P<s>s?)\b"
CHINESE = "[零〇一二两三四五六七八九十百千万]"
BELOW_TEN = "zero|oh|one|two|three|four|five|six|seven|eight|nine"

# Units that are halved: "half an hour", "a quarter mile".
HALVED = (
    r"(?:hours?|minutes?|seconds?|miles?|kilomet(?:er|re)s?|met(?:er|re)s?|inch(?:es)?|feet|foot|"
    r"yards?|cups?|lit(?:er|re)s?|pounds?|kilos?|days?|weeks?|months?|years?|turns?|dozen|"
    r"hundred|thousand|million|billion|percent)\b"
)

# "two point five"
DECIMAL = re.compile(
    rf"(?<![\w.,/])(?P<whole>{COUNT}|\d{{1,9}})[ -]point"
    rf"(?P<digits>(?:[ -](?:(?:{BELOW_TEN})\b|\d)){{1,9}})(?!\w)",
    re.I,
)

# "two and a half", "3 and two thirds", "2 and half"
MIXED = re.compile(
    rf"(?<![\w.,/])(?P<whole>{COUNT}|\d{{1,4}})[ -]and[ -]"
    rf"(?:(?P<above>{COUNT}|\d{{1,3}}|an?)[ -])?{DENOMINATOR}",
    re.I,
)

# "two thirds", "a quarter", "3 quarters"; "the first two thirds" is no number
SIMPLE = re.compile(
    rf"(?<![\w.,/])(?P<part>(?:first|last|next|all|other|both|final) )?"
    rf"(?P<above>{COUNT}|\d{{1,4}}|an?)[ -]{DENOMINATOR}",
    re.I,
)
DIGITS_MIXED = re.compile(r"(?<![\w.,/])(\d{1,4}) and (?=[1-9]\d?/[1-9]\d{0,2}(?![\d/])(?! of))")
HALF_A = re.compile(rf"\bhalf an? (?={HALVED})", re.I)

# Behind "a third" that is no ordinal: "a third man" is one.
NOTHING_FOLLOWS = re.compile(r"[ \t]{0,2}(?:$|[.,;:!?)\n%]|of\b)", re.M)

# "the twenty-first"
ORDINAL = re.compile(
    rf"\b(?:{'|'.join(TENS)})[ -](?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)\b",
    re.I,
)

# "minus five", "negative 3.2"
SIGN = re.compile(rf"\b(?P<word>minus|negative) (?:(?P<count>{COUNT})|(?=[$€£¥₹]?\.?\d))", re.I)

# "9 dogs minus 4" and "x minus 4" subtract; "is minus 4" does not.
MINUEND = re.compile(
    rf"(?:(?:\d|\b(?:{WORD})\b)[^\s\d]{{0,3}}(?: [^\W\d_]{{1,20}}){{0,2}}|\b[b-hj-z]"
    r"|\b(?:total|sum|number|count|rest)) $",
    re.I,
)
VERB = re.compile(
    r"\b(?:is|was|be|are|were|to|of|by|at|about|equals|and|or|from|than|between|around|roughly|"
    r"approximately|nearly|almost|exactly|so|just|only) $",
    re.I,
)

# "not a single clap", "not once", "never once"; "not one, but two" is two
NOT_ONE = re.compile(
    r"(?:\bnot|n't) (?:even )?(?:a single(?: one)?(?! time)|one(?![^.;\n]{0,40}?(?:,|\bbut\b)))"
    r"(?! ?[.,;:!?])(?=\s+[a-z])"
    r"|\A(?:not (?:even )?(?:one|once|a single one))(?=[.!]?\Z)",
    re.I,
)
NOT_ONCE = re.compile(
    r"(?:\b(?:not|never)|n't) (?:(?!once)\w{1,20} ){0,3}?once"
    r"(?=\s{0,2}(?:[.;!?\n]|$)| (?:in|during) )"
    r"|\bnot (?:even )?a single time\b",
    re.I,
)

# "5 degrees below zero"
BELOW_ZERO = re.compile(
    rf"(?<![\w.,/-])(?P<count>{COUNT}|\d{{1,6}}(?:[.,]\d{{1,4}})?)"
    r"(?P<unit>(?: ?°[CF]?| degrees?)?(?: (?:celsius|centigrade|fahrenheit|C|F))?)"
    r" below (?:zero|0)\b",
    re.I,
)

# "三分之二", "百分之五", "两点五", "两个半", "负五"
CHINESE_PART = re.compile(
    rf"(?:(?P<whole>{CHINESE}{{1,8}}|\d{{1,4}})又)?"
    rf"(?P<below>{CHINESE}{{1,8}}|\d{{1,4}})分之(?P<above>{CHINESE}{{1,8}}|\d{{1,4}}(?:\.\d{{1,4}})?)"
)
CHINESE_NONE = re.compile(
    r"(?:连)?一[次个声人点下只](?:[^，。,.\n\d]{0,4}?)[也都](?:没有?|不|未)|没有?(?:任何)?一[次个声人下只]"
)
CHINESE_POINT = re.compile(
    rf"(?P<whole>{CHINESE}{{1,8}})点(?P<digits>[零〇一二三四五六七八九]{{1,8}})(?![十分钟半刻])"
)
CHINESE_HALF = re.compile(rf"(?P<whole>{CHINESE}{{1,8}}|\d{{1,4}})(?P<unit>[个年天倍米次斤块])半")
CHINESE_SIGN = re.compile(
    rf"(?<![正胜平\d零〇一二两三四五六七八九十])(?:负|零下)(?:(?P<count>{CHINESE}{{1,8}})|(?=\d))"
)


def whole_number(text: str) -> int | None:
    """The value of a count in digits, words or Chinese numerals: whole_number("Two") = 2."""
    if text.isdecimal():
        return int(text)
    if re.fullmatch(f"{CHINESE}+", text):
        return int(chinese_count(text))
    words = words_of_letters(text)
    value = 1 if words in (["a"], ["an"]) else count_of_words(words)
    return None if value is None else int(value)


def in_digits(text: str) -> str:
    """The text with its fractions, decimals and signs in words respelled in digits.

    Where no value is obvious, no number is left: "two halves" may be two, or one.

    >>> in_digits("two thirds"), in_digits("one and a half hours"), in_digits("a third man")
    ('2/3', '1 1/2 hours', 'a third man')
    >>> in_digits("two halves"), in_digits("two point five"), in_digits("it is minus five")
    ('_ halves', '2.5', 'it is -5')
    >>> in_digits("三分之二"), in_digits("百分之五"), in_digits("两个半"), in_digits("负五")
    ('2/3', '5%', '2.5个', '-5')
    """
    lowered = text.lower()
    if not any(part in lowered for part in PARTS_OF_RESPELLED):
        return text  # as most do: the patterns below are slow
    for pattern, respelled in RESPELLED:
        text = pattern.sub(respelled, text)
    return text


def decimal(match: re.Match) -> str:
    """DECIMAL in digits."""
    whole = whole_number(match["whole"])
    digits = [word for word in re.split("[ -]", match["digits"].lower()) if word]
    digits = [word if word.isdecimal() else NUMBER_WORDS.get(word, 0) for word in digits]
    return match[0] if whole is None else f"{whole}." + "".join(map(str, digits))


def mixed(match: re.Match) -> str:
    """MIXED in digits."""
    whole, above = whole_number(match["whole"]), whole_number(match["above"] or "a")
    below = DENOMINATORS[match["below"].lower()]
    behind = match.string[match.end() : match.end() + 30]
    if not match["above"] and (below > 2 or behind.startswith(" of")):
        return match[0]  # "there are 5 and half of them"
    is_noun = not match["s"] and below not in (2, 4) and not NOTHING_FOLLOWS.match(behind)
    if is_noun and not re.match(r" \w+s\b", behind):
        return match[0]  # "two and a third man"
    if whole is None or above is None or above >= below:
        return match[0]

    # "a dozen and a half" is 18
    multiple = MULTIPLES.get(last_word(match["whole"]), 1)
    if multiple not in (1, 100):
        return f"{whole + multiple * above / below:.15g}"
    return f"{whole} {above}/{below}"


def last_word(text: str) -> str:
    """last_word("a dozen") = 'dozen'; "" where there is none."""
    return next(reversed(words_of_letters(text)), "")


def simple(match: re.Match) -> str:
    """SIMPLE in digits; "_" in place of a number that has no obvious value."""
    above, below = whole_number(match["above"]), DENOMINATORS[match["below"].lower()]
    noun = match["below"] + match["s"]
    behind = match.string[match.end() : match.end() + 30]
    if above is None or above == 0:
        return match[0]
    if match["part"]:
        return f"{match['part']}_ {noun}" if match["s"] else match[0]
    if match["s"] and match["above"].lower() not in ("a", "an"):
        return f"_ {noun}" if above % below == 0 else f"{above}/{below}"

    # in the singular: "a quarter", "one third of", "a half hour", "two-third"
    before = match.string[max(match.start() - 8, 0) : match.start()]
    is_one = match["above"].lower() in ("one", "1")
    if match["s"] or re.search(r"\b(?:the|after|in|within|during|for|every|at) $", before, re.I):
        return f"_ {noun}" if is_one and not match["s"] else match[0]
    if last_word(match["above"]) in TENS or above >= below:
        return f"_ {noun}"
    is_halved = (below in (2, 4) or is_one) and re.match(rf" {HALVED}", behind, re.I)
    is_whole = is_one and re.match(r" (?:is|are|was|were|and|or|full|empty)\b", behind, re.I)
    if NOTHING_FOLLOWS.match(behind) or is_halved or is_whole:
        return f"{above}/{below}"
    return f"_ {noun}" if is_one or (above > 1 and below == 4) else match[0]


def signed(match: re.Match) -> str:
    """SIGN as "-", but where it subtracts, or where "negative" says how a test went."""
    before = match.string[max(match.start() - 60, 0) : match.start()]
    behind = match.string[match.end() : match.end() + 40]
    word = match["word"].lower()
    if word == "minus" and MINUEND.search(before) and not VERB.search(before):
        return match[0]
    if word == "negative" and re.match(r"[\d.,]{0,12} ?times\b", behind):
        return match[0]
    if not match["count"]:
        return "-"
    value = whole_number(match["count"])
    return match[0] if value is None else f"-{value}"


def below_zero(match: re.Match) -> str:
    """BELOW_ZERO with a minus sign."""
    value = match["count"] if match["count"][0].isdecimal() else whole_number(match["count"])
    return match[0] if value is None else f"-{value}{match['unit']}"


def chinese_part(match: re.Match) -> str:
    """CHINESE_PART in digits: "2/3", "1 2/3" or "5%"."""
    above = match["above"] if "." in match["above"] else whole_number(match["above"])
    below = whole_number(match["below"])
    if match["below"] == "百":
        return f"{above}%"
    whole = f"{whole_number(match['whole'])} " if match["whole"] else ""
    return f"{whole}{above}/{below}" if "." not in match["above"] else match[0]


def chinese_point(match: re.Match) -> str:
    """CHINESE_POINT in digits."""
    digits = [str(CHINESE_DIGITS[character]) for character in match["digits"]]
    return f"{whole_number(match['whole'])}." + "".join(digits)


def chinese_half(match: re.Match) -> str:
    """CHINESE_HALF in digits."""
    return f"{whole_number(match['whole'])}.5{match['unit']}"


def chinese_sign(match: re.Match) -> str:
    """CHINESE_SIGN as "-"."""
    return f"-{whole_number(match['count'])}" if match["count"] else "-"


# One of these is in whatever is respelled. Plain searches, since a pattern of all takes ten times
# as long.
PARTS_OF_RESPELLED = (
    "point",
    "minus",
    "negative",
    "below",
    "and ",
    "first",
    "second",
    "once",
    "not",
    "n't",
    *DENOMINATORS,
    *"点分半负零没也都",
)

# the longer forms first: "two and a half" holds "a half", "minus two thirds" holds "two thirds"
RESPELLED: tuple[tuple[re.Pattern, Callable[[re.Match], str]], ...] = (
    (DECIMAL, decimal),
    (MIXED, mixed),
    (SIMPLE, simple),
    (NOT_ONCE, lambda match: " 0 times"),
    (NOT_ONE, lambda match: " 0"),
    (CHINESE_NONE, lambda match: "0"),
    (DIGITS_MIXED, lambda match: f"{match[1]} "),
    (HALF_A, lambda match: "1/2 "),
    (ORDINAL, lambda match: "_"),
    (BELOW_ZERO, below_zero),
    (SIGN, signed),
    (CHINESE_POINT, chinese_point),
    (CHINESE_PART, chinese_part),
    (CHINESE_HALF, chinese_half),
    (CHINESE_SIGN, chinese_sign),
)
