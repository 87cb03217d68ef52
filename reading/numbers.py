"""reading/numbers.py: the number that an answer gives.

    number(answer)     strict, for training: the whole answer is one number, in digits or words,
                       with its unit: "1,200", "-5.12 %", "4,5 cm", "1.2×10^3", "a dozen", "五次"
    number_in(reply)   lenient, for evaluation: the number in a free reply

What `number` reads, `number_in` reads alike. It takes the first of these that is there:
    1 the whole reply, or a last line, which is one number
    2 the last number said to be the result: behind "the answer is", "total:", "the number of .. is"
      or "=", else before "in all", else behind "so", else in a last sentence that begins with "so";
      else the first behind a list that nothing is counted before
    3 the first number in digits, as the benchmarks' authors take it; but no ordinal, time or label
      ("1st", "10 seconds", "0:12", "Frame 1", the "1." of a list)
    4 the first count in words ("one of them" is no count), or none: "No bells are heard"
    5 the first number in digits of any kind
From rule 2 on, a number does not count that the reply takes back: "not 4, but 5", "4? No, 5".

As in letters.py, every pattern has bounded repeats: reading takes time linear in the reply.
"""

import math
import re
import unicodedata

from reading.formulas import DEGREE, RAISED
from reading.number_words import (
    CHINESE,
    MULTIPLES,
    NUMBER_WORDS,
    TENS,
    WORD,
    chinese_count,
    count_of_words,
    in_digits,
    words_of_letters,
)
from reading.refusals import CANNOT_COUNT, NO_NOUN, REFUSAL
from reading.text import unmarked

# An amount in digits: "1,200.5", "1 200", "1.234,5", "4,5" (a decimal comma), "3.2", ".5". Commas
# that neither part thousands nor stand before decimals make a list ("1,2,3"): its first number.
AMOUNT = (
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,9}(?![\d,]|\.\d{3},)(?:\.\d+)?"
    r"|[1-9]\d{0,2}(?:[ ']\d{3}){1,9}(?!\d)(?:[.,]\d+)?"
    r"|[1-9]\d{0,2}(?:\.\d{3}){1,9},\d+"
    r"|\d+,\d+(?![\d,])"
    r"|\d+(?:\.\d+)?|\.\d+)"
)

# A number in digits with its sign, and the power or the fraction that belongs to it. The 5 of "x5"
# and the parts of a time "0:12" are none. A dash with a blank behind it is no sign: "people - 4".
DIGITS = re.compile(
    r"(?<![A-Za-z0-9_.,])(?<!\d:)(?P<sign>[-+]?)(?:[$€£¥₹] ?)?"
    rf"(?P<amount>{AMOUNT})"
    r"(?:e(?P<e>[-+]?\d{1,4})(?![\w])"
    r"|\^ ?\(? ?(?P<power>[-+]?\d{1,4}) {0,2}\)?"
    r"| ?/ ?(?P<below>\d{1,9})(?![\d.,/]\d)| (?P<upper>[1-9]\d{0,3})/(?P<lower>\d{1,4})(?![\d/]))?"
    r"(?: ?[×x*·] ?10 ?(?:\^ ?\(? ?(?P<ten>[-+]?\d{1,4}) {0,2}\)?))?"
    r"(?: ?(?P<multiple>dozen|hundred|thousand|million|billion)\b|(?P<suffix>k|(?-i:M)|bn)\b)?"
    r"(?!:\d|\d)",
    re.I,
)

SUFFIXES = {"k": 1000, "m": 1_000_000, "bn": 1_000_000_000}  # "2.5k"; "5m" is 5 metres

# The rest of an answer that is a number: percent, degrees, or up to four words of a unit.
UNIT_WORD = r"[^\W\d_][^\W\d_]{0,20}(?:[²³]|\^[23])?"
REST = re.compile(
    rf"(?: ?[%°][CFK]?)?"
    rf"(?: ?{UNIT_WORD}(?:[/·-] ?{UNIT_WORD}){{0,2}}(?: {UNIT_WORD}){{0,3}})?[ .!)]{{0,4}}"
)

# Words behind a number that are no unit: the answer says more than one number, or is a sentence.
NO_UNIT = re.compile(
    r"\b(?:or|and|to|of|but|not|then|in|is|are|st|nd|rd|th|if|for|at|with|from|by|on|plus|minus|"
    r"times that)\b",
    re.I,
)

# Before an answer that is a number: the dash of a list, "x = ", "≈", "(".
BEFORE = re.compile(r"(?:[-+•] {1,3})?(?:[A-Za-z] ?= ?|[≈~=(]|answer: ){0,2} {0,4}")

# What `readable` makes of dashes, each with its new spelling. In TeX a minus with a blank behind it
# is a sign, and so is a true minus (U+2212) before a whole answer; dashes between words never are.
DASHES = (
    (re.compile(r"([-−+])[ \t](?=\\[dt]?frac)|(?<=\$)([-−+])[ \t](?=\.?\d)"), r"\1\2"),
    (re.compile(r"\A(\s{0,9})−[ \t](?=\.?\d)"), r"\1-"),
    (re.compile(r"^([ \t]{0,8})\* (?=\S)", re.M), r"\1• "),
    (re.compile(r"[–—](?=\s)|(?<=[^\W\d_][ \t])—(?=\d)"), "• "),
)

# A sign with a blank behind it: behind an operator, and behind a colon where no list begins.
FAR_SIGN = re.compile(
    r"((?:[=+×·/<≤≥≈~(±^→]|(?<=\S)>|(?<=\S )>)[ \t]{0,2}[-+])[ \t](?=\.?\d)"
    r"|(:[ \t]{0,2}[-+])[ \t](?=\.?\d)(?![^\n]{0,200}? - \d)"
)

# Chinese numerals, with what is counted behind them: "五次".
CHINESE_NUMBER = re.compile(rf"{CHINESE}{{1,12}}(?![些直样起定般旦共半])")

# What stands before a result: "the answer is ", "Total: ", "the number of cups is about ", "= ",
# "in total there are ", "一共有".
RESULT_IS = re.compile(
    r"(?:\b(?:answer|total|count|number|sum|result)\b"
    r"(?:\s{1,3}(?:of|for|to|count|number|that|which|in|here)\b[^.:=\n]{0,60}?(?=[\s:=]))?"
    r"(?:\s{0,3}[:=]|\s{1,3}[-•]\s"
    r"|\s{1,3}(?:is|are|was|were|be|would be|should be|comes to|equals)\b):?"
    r"|=|\btotal of\b"
    r"|\b(?:in total|in all|altogether),?(?: there (?:is|are|were|was)| I (?:see|count|hear))?"
    r"|(?:答案|总数|一共|总共|共有|共)[^-+\dA-Za-z。，\n零〇一二两三四五六七八九十百千万]{0,6}"
    r"|(?:答え|正解|ответ|उत्तर|정답|respuesta|réponse|antwort|الإجابة)[^-+\dA-Za-z.\n]{0,12}(?:(?:es|est|ist)\b)?)"
    r"(?:\s{1,3}(?:about|approximately|around|roughly|therefore|thus|there|is|are|exactly|only|just)"
    r"\b){0,3}[\s\"'(:~≈]{0,6}",
    re.I,
)

# Before a conclusion: "so ", "thus there are ", "I get ", "totaling ".
SO = re.compile(
    r"\b(?:so|thus|hence|therefore|(?:which|that|it) makes|making|I get|I count|I counted|we get|"
    r"gives?|giving|leaving|totall?ing|totals|totals up to|(?:add|sum)(?:s|ming|ing)? (?:up )?to|"
    r"amount(?:s|ing) to|bring(?:s|ing) (?:the total|it|that|us|this) to)\b[,:]?"
    r"(?: (?:there (?:is|are|was|were)|it is|it's|that is|a total of|about|only))?\s{1,3}",
    re.I,
)

# Before the result of a sum in words: "5 men plus 4 women makes ", "two and two make ".
NUMBER = rf"(?:\d[\d.,]{{0,12}}|\b(?:{WORD})\b)"
SUM = re.compile(
    rf"{NUMBER}[^.;:\n]{{0,30}}?"
    rf"\b(?:plus|minus|added to|multiplied by|divided by|times(?= {NUMBER}))"
    r"\b[^.;:\n]{1,40}?\b(?:makes?|equals?|is|are|gives?|leaves?|totals?|comes? to)\s{1,3}"
    rf"|{NUMBER}(?: [^\W\d_]{{1,20}}){{0,4}} and {NUMBER}(?: [^\W\d_]{{1,20}}){{0,4}} "
    r"(?:make|equals?|total|totals|is|are|makes(?= [\w-]{1,20}(?:[.,;!]|$))) "
    rf"(?={NUMBER})",
    re.I,
)

# What begins a sentence or a clause that concludes: "Therefore, the bell rings 3 times".
CONCLUSION = re.compile(
    r"(?:(?:^|[.,;:!?)•])\s{0,3}|\band )(?:so(?! (?:that|many|much|far|on|called)\b)|thus|hence|"
    r"therefore|overall|together|in total|in all|altogether|all in all|all told|in conclusion|"
    r"to conclude|"
    r"in summary|in sum|to sum up|as a result|consequently|(?:that|which|this) means|meaning|"
    r"(?:adding|summing|counting) (?:all|it|them|these|those|this|up)\b)\b(?P<clause>[^\n]{1,200})",
    re.I | re.M,
)

# The end of a sentence; the point of "2.5" ends none.
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")

# Before a count in words: "there are ", "I see exactly ".
THERE_ARE = re.compile(
    r"\b(?:there (?:are|is|were|was)|there're|I (?:can )?(?:see|hear|count))"
    r"(?: (?:a total of|exactly|only|about))? (?!no)",
    re.I,
)

# Before digits that name a thing: "frame ", "option ", "at ", "#".
LABEL = re.compile(
    r"(?:\b(?:frames?|clips?|videos?|images?|pictures?|steps?|options?|scenes?|seconds?|minutes?|"
    r"parts?|events?|figures?|at|t =)|#) ?$",
    re.I,
)

# The same of persons and places, of which one may also say "he calls the woman 3 times".
NAMED = re.compile(
    r"(?:(?<!\bthe )(?<!\ba )(?<!\ban )(?<!\bhis )(?<!\bher )(?<!\bone )"
    r"\b(?:players?|persons?|speakers?|man|woman|boy|girl|contestants?|participants?|candidates?|"
    r"characters?|students?|teams?|groups?|rounds?|questions?|levels?|chapters?|pages?|rows?|"
    r"rooms?|bus|routes?|gates?|platforms?|flights?|tracks?|channels?|episodes?|seasons?|laps?|"
    r"slides?|cameras?|shots?|segments?|sections?|samples?|trials?|stages?|phases?|lanes?|seats?|"
    r"floors?|versions?|jersey|day|week|game|item|cars?|trucks?|trains?|bikes?|runners?|kids?|child|"
    r"guests?|drivers?|riders?|horses?|chapter|point|object)"
    r"|\b(?:player|person|speaker|contestant|jersey|bus|room|track|question|gate|shirt|car|item) "
    r"(?:number|no\.|nr\.)) ?$",
    re.I,
)
NOT_NAMED = re.compile(r" (?:times?\b|or \d)")
NUMBERED = re.compile(r"\bnumber $", re.I)
DOES = re.compile(
    r" (?!is |was |times |chairs )[a-z]{2,14}s (?:the|a|an|his|her|it|him|in|on|at|to)\b"
)

# "clap 1: 0:03, clap 2: 0:07": what a word with 1 and 2 behind it names.
SERIES = re.compile(r"\b([A-Za-z]{2,14}) #?(\d{1,2})(?= ?[:)]| -| •| (?:is |occurs |comes )?at\b)")

# The mark of a list's item, in its own line or, as "1)", within one.
ITEM = re.compile(r"^[ \t]{0,8}(?:[-•·]|\(?\d{1,3}[.):])[ \t]{1,4}\S", re.M)
ENUMERATED = re.compile(
    r"(?:^[ \t]{0,8}\(?(?P<line>\d{1,3})[.):]|(?<=[\s(])(?P<inline>\d{1,2})\))(?=\s{1,3}\S)", re.M
)

# "4 m x 5 m", "4 by 5 meters"
LENGTH = r"\d[\d.,]{0,8}(?: ?(?:mm|cm|km|m|ft|feet|foot|in|inch(?:es)?|met(?:er|re)s?|pixels?))?"
SIZE = re.compile(rf"(?<![\w.,]){LENGTH} ?(?:(?:x|×|by) ?{LENGTH}){{1,2}}", re.I)

# Behind digits that are an ordinal or a time: "st", " seconds", "-minute", ":30".
UNIT = re.compile(
    r"(?:st|nd|rd|th)\b|[ -]?(?:s|secs?|seconds?|mins?|minutes?|hours?|ms|frames?|[ap]m)\b|:\d",
    re.I,
)

# Behind a fraction that says which part is meant: "in 1/3 of the video", but "3/4 of the 12".
PART_OF = re.compile(r" of (?!(?:the |these |those )?\d)")

# Behind a result: " in total", " red cups in all".
ALL = r"(?:in total|in all|altogether|overall|combined|all together|all told|in sum|total(?! of))\b"
IN_ALL = re.compile(rf"(?:\s{{1,3}}\w{{1,20}}){{0,3}}?\s{{1,3}}{ALL}", re.I)

# Numbers that a reply takes back, in the group "gone": "not 4", "4? No, 5", "I thought 4, but 5".
GONE = rf"(?P<gone>[-+]?\d[\d.,]{{0,12}}(?<![.,])|\b(?:{WORD})\b(?:[ -](?:{WORD})\b){{0,3}})"
TAKEN_BACK = (
    re.compile(
        r"(?:\b(?:not|nor|neither|rather than|instead of)|n't)"
        rf"(?: (?:just|really|exactly|actually|quite|there (?:is|are)))? {GONE}(?! of\b)",
        re.I,
    ),
    re.compile(
        rf"{GONE}(?: [^\W\d_]{{1,20}}){{0,3}} ?[?.,;:!•-]{{1,4}} ?"
        r"(?:(?<!, )no(?=[,.;:!]| it\b| there\b)|wait\b|correction\b|sorry\b|oops\b|actually\b|"
        rf"(?:or )?rather\b|I mean\b|make that\b)(?=[^\n]{{0,60}}?{NUMBER})",
        re.I,
    ),
    re.compile(
        r"\b(?:thought|guessed|assumed|(?:at first|initially|first),? (?:I )?(?:counted|count|saw|"
        rf"see|heard|hear|guess))\b[^.;\n\d]{{0,40}}?{GONE}"
        r"(?=[^\n]{0,60}?(?:;|\.|\b(?:but|however|actually|though|in fact)\b)"
        rf"[^\n]{{0,60}}?{NUMBER})",
        re.I,
    ),
    re.compile(
        rf"{GONE}(?=[^.\n\d]{{0,40}}?\b(?:but|although|though|yet)\b[^.\n\d]{{0,25}}?"
        rf"\b(?:actually|really|in fact)\b[^.\n\d]{{0,25}}?{NUMBER})",
        re.I,
    ),
    re.compile(
        rf"\b(?:looks|looked|seems|seemed|seem) (?:like|to be)?[^.;\n\d]{{0,30}}?{GONE}"
        rf"(?=[^.\n]{{0,60}}?\b(?:actually|in fact|really|turns out)\b[^\n]{{0,60}}?{NUMBER})",
        re.I,
    ),
)

# Nothing is counted where one of these is missing: it is a refusal.
UNCOUNTED = (
    r"(?:one|answers?|way|audio|video|information|info|evidence|ideas?|clues?|doubt|data|context|"
    r"footage|response|access|question|indication|clip|file|transcript|need|reason|further|clear)\b"
)

# No count in digits or words, but none is there.
NONE_THERE = re.compile(
    rf"\bthere (?:is|are|was|were) no(?:ne\b| (?!{UNCOUNTED}))"
    rf"|\bno (?!{UNCOUNTED})(?:[^\W\d_]{{1,20}} ){{1,3}}?"
    r"(?:is|are|was|were|can be|could be|has been|have been) (?:ever |being )?"
    r"(?:heard|seen|shown|visible|audible|present|made|played|there|rung|thrown|"
    r"found|detected|produced|used|observed|in the|in this)\b"
    r"|(?<!\bI )\bnever (?!mind|know|stated|said|says|mentioned|specified|clear|tells|shown how)\w"
    r"|\bno(?:body| one) (?!knows|can|could|would|is sure)\w"
    r"|\bnone (?:is|are|was|were|of (?!the above|the options|the answers))"
    r"|(?<!\bI )\b(?:does|do|did|is|are|was|were)(?: not|n't) (?!know|matter)\w{1,20}"
    r"(?: \w{1,20}){0,2}? (?:at all|at any (?:point|time)|even once)\b"
    r"|(?<!\bI )\b(?:does|do|did)(?: not|n't) (?!know|matter|say|show|tell|see|specify|state|"
    r"reveal|work|indicate|mention|exist|load|play|open)\w{1,20}(?=[.!]|$)"
    r"|(?<!video )(?<!audio )(?<!clip )(?<!\bI )\b(?:is|are|was|were)(?: not|n't) "
    r"(?:heard|seen|visible|audible|present)(?=[.!]|$)"
    rf"|\b(?:is|are|was|were)(?: not|n't) any (?!{UNCOUNTED})"
    rf"|\bno (?!{UNCOUNTED})(?:[^\W\d_]{{1,20}} ){{1,3}}?(?:occurs?|happens?|takes? place)\b"
    r"|\Ano \w{1,20}ing[.!]?\Z"
    r"|没有?(?:响|敲|拍|叫|出现|发生|人)"
    r"|从未|从来没",
    re.I,
)

# "No bell rings in it", "no bell": a thing at the beginning of a sentence, and what it does not do.
NO_THING = re.compile(
    rf"(?:\A|[.!?\n]\s{{0,2}})(?=no (?!(?:{NO_NOUN}|one|body|more|fewer|less|other)\b))"
    rf"(?P<no>no (?!{UNCOUNTED})[a-z]{{2,20}}"
    r"(?: (?!(?:to|for|of|in|from)\b)[a-z]{2,20}|[.!]?\Z))",
    re.I,
)

# "one" and "once" are no counts before these words: "one of the men", "once the door opens".
NO_COUNT_BEFORE = re.compile("of|another|by|can|could|would|might|the|he|she|it|they|who|a|again")

# "one" is a pronoun behind these words: "this one", "the last one".
PRONOUN_AFTER = re.compile("no|the|this|that|each|which|any|every|another|last|next|first|second")

FRACTIONS = str.maketrans({c: unicodedata.normalize("NFKC", f" {c}") for c in "½⅓⅔¼¾⅕⅛"})


# --------------------------------------------------------------------------- spelling


def readable(text: str) -> str:
    r"""The text with its numbers in one spelling: ASCII digits, fractions as "1/2", no TeX.

    Counts in words stay words; fractions, decimals and signs in words become digits.

    >>> readable(r"$\frac{1}{2}$"), readable("٥ × 10³"), readable(r"90^\circ")
    ('1/2', '5 × 10^3', '90°')
    """
    text = text.translate(FRACTIONS).replace("⁄", "/")
    for pattern, spelling in DASHES:
        text = pattern.sub(spelling, text)
    text = re.sub(r"\\[dt]?frac ?\{ ?(-?[\d.]{1,40}) ?\} ?\{ ?([\d.]{1,40}) ?\}", r"\1/\2", text)
    text = re.sub(r"\\(?:times|cdot)\b|\*(?=10\^)", "×", text)
    text = re.sub(r"\\degree\b", "°", DEGREE.sub("°", text))
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ",", text)
    text = re.sub(r"(?<=\d)([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]{1,4})", lambda m: f"^{m[1].translate(RAISED)}", text)
    text = re.sub(r"(?<!\d)\d+(?:_\d+)+", "_", text)  # "1_0" is no number
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d)", " ", text)
    text = re.sub(r"(?<=\d)’(?=\d)", "'", text)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    text = in_digits(unmarked(text).replace("^  ", "^"))
    return FAR_SIGN.sub(r"\1\2", text)


def is_dashed(text: str) -> bool:
    """Whether a dash with a blank leads the answer, which may be meant as a sign or as a list.

    >>> is_dashed("- 5"), is_dashed("-5"), is_dashed("x = - 5")
    (True, False, False)
    """
    return readable(text).startswith(("- ", "• "))


def value_of(match: re.Match) -> float | None:
    """The finite number that DIGITS has matched; None where it is too large, or a part by zero."""
    amount = match["amount"].replace(" ", "").replace("'", "")
    if "," in amount and "." in amount:
        last = max(amount, key=lambda c: amount.rfind(c) if c in ".," else -1)
        amount = amount.replace("," if last == "." else ".", "").replace(",", ".")
    elif re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+", amount):
        amount = amount.replace(",", "")
    amount = amount.replace(",", ".")
    try:
        value = float(amount)
        if match["e"]:
            value = float(f"{amount}e{match['e']}")
        if match["power"]:
            value = value ** int(match["power"])
        if match["below"]:
            value = value / int(match["below"])
        if match["upper"]:
            value = value + int(match["upper"]) / int(match["lower"])
        if match["multiple"]:
            value = value * MULTIPLES[match["multiple"].lower()]
        if match["suffix"]:
            value = value * SUFFIXES[match["suffix"].lower()]
        if match["ten"]:
            value = value * 10.0 ** int(match["ten"])
    except (OverflowError, ZeroDivisionError):
        return None
    if not math.isfinite(value):
        return None
    return -value if match["sign"] == "-" else value


# --------------------------------------------------------------------------- strictly


def number(text: str) -> float | None:
    """The finite number that is all of the answer, in digits or words, with its unit; else None.

    >>> number("1,200"), number("4,5 cm"), number("-5.12%"), number("Three."), number("1/2")
    (1200.0, 4.5, -5.12, 3.0, 0.5)
    >>> number("2.5k"), number("3M"), number("3 m")
    (2500.0, 3000000.0, 3.0)
    >>> number("1_0"), number("1,2,3"), number("5 or 6"), number("10:30"), number("1e400")
    (None, None, None, None, None)
    """
    reply = readable(text)
    begin = BEFORE.match(reply).end()
    match = DIGITS.match(reply, begin)
    if match:
        rest = REST.fullmatch(reply, match.end())
        is_unit = rest and not NO_UNIT.search(rest[0])
        return value_of(match) if is_unit else None
    return count_of(reply[begin : begin + 200])


def count_of(text: str) -> float | None:
    """A count in words, with up to three words of what is counted; None when it is none.

    >>> count_of("two hundred and twenty-one"), count_of("a dozen eggs"), count_of("many")
    (221.0, 12.0, None)
    >>> count_of("五次"), count_of("二十一"), count_of("No idea")
    (5.0, 21.0, None)
    """
    chinese = CHINESE_NUMBER.match(text.strip())
    if chinese and len(text.strip()) - chinese.end() <= 4:
        return chinese_count(chinese[0])

    words = words_of_letters(text)
    if words in (["half"], ["一半"]):
        return 0.5
    if words == ["quarter"]:
        return 0.25
    if re.sub(r"[^\W\d_]+|[\s.,!?'\"()-]", "", text) or len(words) > 10:
        return None
    for end in range(len(words), 0, -1):
        value = count_of_words(words[:end])
        if value is None:
            continue
        rest = words[end:]
        if len(rest) > 3 or any(NO_UNIT.fullmatch(word) or count_of_words([word]) for word in rest):
            return None
        if words[0] in ("no", "none", "one", "once", "twice", "a") and end == 1 and rest:
            counted = len(rest) == 1 and (rest[0].endswith("s") or words[0] == "one")
            return value if counted and rest[0] not in NO_COUNTED else None
        return value
    return None


# "No" before these is no count of 0.
NO_COUNTED = frozenset(["answers", "of", "another", "by", "the", "times"])


# --------------------------------------------------------------------------- leniently


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
    >>> number_in("Three people and two dogs, so five in total")
    5.0
    """
    # rule 1: the whole reply, or its last line
    value = number(text)
    if value is not None:
        return value
    reply = readable(text)
    lines = [line for line in reply.splitlines() if line.strip()] or [""]
    last = lines[-1].removeprefix("- ").removeprefix("• ")
    is_item = last != lines[-1] and lines[-2:-1] and is_dashed(lines[-2])
    if len(lines) > 1 and not is_item and len(last) <= 40 and len(last.split()) <= 3:
        value = number(last)
        if value is not None:
            return value

    # what the reply takes back; the marks of a list count only where nothing else does
    kept = without_taken_back(reply)
    value = counted_in(without_enumeration(kept))
    if value is None and ENUMERATED.search(kept):
        value = counted_in(kept)
    return value


def counted_in(reply: str) -> float | None:
    """The number by rules 2 to 5: counted_in("In the first 10 seconds there are 3") = 3.0."""
    # rule 2
    value = concluded(reply)
    if value is None:
        value = behind_list(reply)
    if value is not None:
        return value

    # rule 3; "There are four people: 2 men .."
    all_digits = list(DIGITS.finditer(reply))
    first_digits = all_digits[0].start() if all_digits else len(reply)
    if (there := THERE_ARE.search(reply)) and there.end() < first_digits:
        value = count_at(words_of_letters(reply[there.end() : there.end() + 60]), 0)
        if value is not None:
            return value
    value = first_plain(reply)
    if value is not None:
        return value

    # rules 4 and 5
    value = first_count(reply)
    if value is None and all_digits:
        return value_of(all_digits[0])
    return value


def without_taken_back(reply: str) -> str:
    """The reply with "_" for each number that it denies or corrects.

    >>> without_taken_back("It isn't 4, it's 5."), without_taken_back("4? No, 5.")
    ("It isn't _, it's 5.", '_? No, 5.')
    """
    for pattern in TAKEN_BACK:
        reply = pattern.sub(
            lambda m: m[0][: m.start("gone") - m.start()] + "_" + m[0][m.end("gone") - m.start() :],
            reply,
        )
    return reply


def without_enumeration(reply: str) -> str:
    r"""The reply with "•" for the marks of a list that counts on from 1.

    >>> without_enumeration("1. dog\n2. cat\nSo 2."), without_enumeration("5. So 5.")
    ('• dog\n• cat\nSo 2.', '5. So 5.')
    """
    marks = []
    for match in ENUMERATED.finditer(reply):
        if int(match["line"] or match["inline"]) == len(marks) + 1:
            marks.append(match)
    if len(marks) < 2:
        return reply
    parts = []
    end = 0
    for match in marks:
        parts += [reply[end : match.start()], "•"]
        end = match.end()
    return "".join(parts) + reply[end:]


def behind_list(reply: str) -> float | None:
    r"""The first number behind a list of two items or more, if there is none before the list.

    >>> behind_list("I see:\n- 2 dogs\n- 3 cats\n\nThe yard has 5 animals.")
    5.0
    """
    items = list(ITEM.finditer(reply))
    if len(items) < 2:
        return None
    head = reply[: items[0].start()]
    tail = reply[items[-1].end() :]
    blank_line = re.search(r"\n[ \t]{0,9}\n", tail)
    tail = tail[blank_line.end() :] if blank_line else tail.partition("\n")[2]
    if plain_or_word(head) is not None:
        return None
    return plain_or_word(tail)


def plain_or_word(text: str) -> float | None:
    """The first number in digits that is no label or time, else the first count in words."""
    value = first_plain(text)
    return first_count(text) if value is None else value


def first_plain(reply: str) -> float | None:
    """Rule 3: the first number in digits that is no ordinal, time, label or part of a size.

    >>> first_plain("Player 10 touches the ball 6 times"), first_plain("1st, at 0:12")
    (6.0, None)
    """
    sizes = [size.span() for size in SIZE.finditer(reply)]
    named = {}
    for series in SERIES.finditer(reply):
        named.setdefault(series[1].lower(), set()).add(int(series[2]))
    for match in DIGITS.finditer(reply):
        while sizes and sizes[0][1] <= match.start():
            sizes.pop(0)
        in_size = bool(sizes) and sizes[0][0] <= match.start()
        if not in_size and not is_label(reply, match, named) and not UNIT.match(reply, match.end()):
            return value_of(match)
    return None


def is_label(reply: str, match: re.Match, named: dict[str, set[int]]) -> bool:
    """Whether a number in digits only names a thing, or the part of one: "Player 10", "1/3 of it".

    named: the numbers behind each word of a series, as "clap" in "clap 1: .., clap 2: ..".
    """
    start, end = match.start(), match.end()
    first = max(start - 24, 0)
    if LABEL.search(reply, max(start - 12, 0), start):
        return True
    if NAMED.search(reply, first, start) and not NOT_NAMED.match(reply, end):
        return True
    if NUMBERED.search(reply, first, start) and DOES.match(reply, end):
        return True
    if match["below"] and PART_OF.match(reply, end):
        return True
    word = re.search(r"([A-Za-z]{2,14}) #?$", reply[first:start])
    return bool(word) and {1, 2} <= named.get(word[1].lower(), set())


def concluded(reply: str) -> float | None:
    """Rule 2: the last number said to be the result; else that before "in all", else behind "so".

    >>> concluded("2 + 1 = 3"), concluded("2 and 3, so 5 in total"), concluded("There are 2")
    (3.0, 5.0, None)
    """
    for match in reversed(list(RESULT_IS.finditer(reply))):
        value = number_at(reply, match.end())
        if value is not None:
            return value

    # what stands before "in all", in digits or words
    for match in reversed(list(DIGITS.finditer(reply))):
        if IN_ALL.match(reply, match.end()):
            return value_of(match)
    for match in reversed(list(re.finditer(rf"\b{ALL}", reply, re.I))):
        before = reply[max(match.start() - 60, 0) : match.start()]
        words = words_of_letters(re.split(r"[.,;:\n]", before)[-1])
        value = first_count(" ".join(words))
        if value is not None:
            return value

    for match in reversed(list(SO.finditer(reply))):
        value = number_at(reply, match.end())
        if value is not None:
            return value
    for match in reversed(list(SUM.finditer(reply))):
        value = number_at(reply, match.end())
        if value is not None:
            return value
    return concluding_clause(reply)


def concluding_clause(reply: str) -> float | None:
    """The number of the last clause that begins with "so" or the like, if none stands behind it.

    >>> concluding_clause("At 0:03 and 0:07. Therefore, the bell rings 2 times.")
    2.0
    """
    clauses = list(CONCLUSION.finditer(reply))
    if not clauses:
        return None
    last = clauses[-1]
    end = SENTENCE_END.search(reply, last.start("clause"))
    stop = min(end.start() if end else len(reply), last.end("clause"))
    if first_plain(reply[stop:]) is not None:
        return None
    return plain_or_word(reply[last.start("clause") : stop])


def number_at(reply: str, start: int) -> float | None:
    """The number in digits or words that begins at `start`, None if none does."""
    digits = DIGITS.match(reply, start)
    if digits:
        return value_of(digits)
    if re.compile(r"half[.!]?\s{0,3}(?:\n|\Z)", re.I).match(reply, start):
        return 0.5
    chinese = CHINESE_NUMBER.match(reply, start)
    if chinese:
        return chinese_count(chinese[0])
    return count_at(words_of_letters(reply[start : start + 60]), 0)


def first_count(text: str) -> float | None:
    """The first count in words: first_count("No one of the three hundred men") = 300.0."""
    words = words_of_letters(text)
    for i in range(len(words)):
        value = count_at(words, i)
        if value is not None:
            return value
    if not CANNOT_COUNT.search(text):
        thing = NO_THING.search(text)
        if NONE_THERE.search(text) or (thing and not REFUSAL.match(text, thing.start("no"))):
            return 0.0
    chinese = CHINESE_NUMBER.search(text)
    return chinese_count(chinese[0]) if chinese else None


def count_at(words: list[str], i: int) -> float | None:
    """The count that begins with the word at i, None if none does.

    >>> count_at(["the", "twenty", "one", "men"], 1), count_at(["one", "of", "them"], 0)
    (21.0, None)
    """
    # "no" and "none" are counts only where they are the whole reply
    word = words[i] if i < len(words) else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    begins = word in TENS or word in NUMBER_WORDS or (word in ("a", "half") and after)
    if word in ("no", "none") or not begins:
        return None

    before = words[i - 1] if i > 0 else ""
    if word in ("one", "once") and NO_COUNT_BEFORE.fullmatch(after):
        return None
    if word == "one" and PRONOUN_AFTER.fullmatch(before):
        return None

    # the longest run of words that is a count, of at most seven: "two hundred and twenty one"
    for end in range(min(len(words), i + 7), i, -1):
        value = count_of_words(words[i:end])
        if value is not None:
            return value
    return None
