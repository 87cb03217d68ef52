"""replies.py: what a free reply of a model answers: an option's letter, letters, yes or no, a number. For benchmarks, whose models were not all trained to
put the bare answer into <answer>; training stays strict (rewards.py). All patterns are linear in the reply's length: a completion is data, and may be hostile.

`choice_in` takes the first of these that finds a letter which an option has; letters said to be wrong are not seen:
    1 the whole reply: a letter, a letter before its own option's text, or one option's text
    2 a letter or an option's text that is said to be the answer ("The answer is (B)", "B is correct", "I choose b")
    3 a letter that leads the first line, options that are merely repeated left out
    4 "option B"
    5 a capital that stands alone ("A dog", "I see" and "vitamin C" name none)
    6 the one option whose text occurs
"""

import functools
import itertools
import re

from problems import NUMBER_WORDS, TENS, count_of, number, plain, yes_no

# Every pattern has bounded repeats, so that reading takes time linear in the reply's length.
PLAINER = str.maketrans("‘’“”「」【】{}_", '\'\'""""[]   ', "*#$`\\") | {
    c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)
}  # full width: ASCII

EDGE = r"(?![A-Za-z0-9&]|'[A-Za-z]|-[A-Za-z0-9])"  # what may not follow a letter that stands alone

LONE = re.compile(r"(?<![A-Za-z0-9&])(?<![A-Za-z0-9]['-])(?<!\b[A-Za-z]\.)([A-Za-z])" + EDGE)

AFTER_A = (
    "because|since|as|for|given|based|with|in|from|is|or|and|then|but|due|by|if|while|when|which|that|this|the|there|it|he|she|they|was|are|were|"
    "has|does|can|would|should|must|not|shows|describes|matches|fits|seems|appears|states|says|suggests|looks|here|rather|instead|over|to"
)

WORD = re.compile(
    rf"[ \t]{{1,4}}(?!(?:{AFTER_A})\b)[a-z0-9]", re.I
)  # behind an article or a pronoun, no option's letter

THING = re.compile(
    r"\b(?:vitamin|plan|point|team|person|speaker|player|grade|type|group|hepatitis)s? $", re.I
)

LOWER = re.compile(
    rf"\s{{0,2}}[\"')\]]{{0,3}}(?:[.,;:!?)\n](?![a-z]\.)|\s{{0,4}}$|\s{{1,3}}(?:{AFTER_A})\b)"
)  # behind a letter in lower case

OPTION = r"(?:(?:the\s{1,3})?(?:options?|choices?|letters?|answers?|statement)\b[\s\"'(\[:]{0,6})?"

IS = (
    r"(?:\s{0,3}[\"']?\s{0,3}[:=]|\s{1,3}(?:is|are|was|be|would be|should be|must be|could be|will be|might be|seems to be|appears to be|has to be)\b)"
    r"(?:\s{1,3}(?:therefore|thus|then|likely|probably|most likely|clearly|definitely|indeed|simply|still|actually|now)\b,?){0,2}:?"
)

NOUN = (
    r"\b(?:answers?|ans|(?:correct|right|best|final|likely|accurate|appropriate|suitable|plausible|true|my)\s{1,3}"
    r"(?:options?|choices?|ones?|letters?|statements?|descriptions?|selection|pick|response))\b"
)

ANSWER = re.compile(
    NOUN
    + r"(?:\s{1,3}(?:to|for|that|which|here|of|among|based|from|in)\b[^.:;\n]{0,80}?(?=[\s:=\"']))?"
    + IS
    + r"|答案(?:应该|应|就|是|为|选|[:\s]){0,4}",
    re.I,
)

PICK = re.compile(
    r"\b(?:choose|pick|select|go with|going with|opt for|I(?: would|'d)? say|it(?:'s| is| must be| should be))\b"
    r"|(?<!不)选(?:择|[:\s]){0,3}(?!项)",
    re.I,
)

CLOSING = re.compile(
    r"\b(?:so|thus|hence|therefore)\b[,:]?\s{0,3}"
    + OPTION
    + r"[\"'(\[]{0,2}([A-Z])"
    + EDGE
    + r"(?=[\"')\]]{0,2}\s{0,3}(?:[.!;\n]|$))",
    re.I,
)

STATED = re.compile(r"[\s\"'(\[<:=]{0,8}" + OPTION + r"[\"'(\[]{0,2}([A-Za-z])" + EDGE, re.I)

OR = re.compile(r"[\"')\]]{0,3}\s{1,3}or\s{1,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])" + EDGE)

NAMED = re.compile(
    r"\b(?:options?|choices?|answers?)[\s\"'(\[:]{1,6}([A-Za-z])"
    + EDGE
    + r"|选项[\s\"'(\[:]{0,6}([A-Z])"
    + EDGE,
    re.I,
)

LEAD = re.compile(
    r"[\"'(\[]{0,3}([A-Za-z])(?:[\"')\]]{1,3}(?!\s{0,3}(?:,|/|or\b|and\b))|[.:]|\s{0,3}[-–—](?=\s)|[ \t]{0,3}(?:\n|$))"
)

RIGHT = re.compile(
    r"[\s\"')\].,(]{0,4}(?:(?:is|are|seems|appears|looks|must be|would be|should be|will be)(?: to be)?\s{1,3}"
    r"(?:(?:the|a|also|clearly|definitely|indeed|therefore|thus|likely|probably|most likely|obviously)\s{1,3}){0,3}"
    r"(?:correct|right(?! (?:of|next|side|hand|after|before|behind|in|on|there|away|now))|best(?!-)|answer|accurate|true|"
    r"only (?:correct|option|choice|answer|one)|"
    r"most (?:likely|accurate|appropriate|plausible|suitable|fitting|probable|reasonable|logical|consistent|relevant))\b"
    r"|[-–—:]\s{0,3}(?:this is\s)?(?:the\s)?correct\b|(?:fits|matches) best\b|(?:是|为)?(?:正确|对的))",
    re.I,
)

WRONG = re.compile(
    r"[\s\"')\].,:(–—-]{0,4}(?:(?:is|are|was|were|would be|seems?|appears?|looks?|can be|could be)\s{1,3}"
    r"(?:(?:also|both|all|clearly|definitely|simply|therefore|thus|just|likely|probably|to be|the)\s{1,3}){0,2}"
    r"(?:not|wrong|incorrect|false|inaccurate|irrelevant|impossible|unlikely|ruled out|eliminated|excluded|too)\b"
    r"|(?:is|are|was|were|does|do|did|would|could|ca)n't\b|(?:does|do|did|can|could|would)\s?not\b|(?:[Ii]ncorrect|[Ww]rong|INCORRECT|WRONG)\b|(?:是|为)?(?:错|不))"
)

AND = re.compile(
    r"(?:[\"')\]]{0,2}(?:,|,?\s{1,3}(?:and|or|nor)\b)\s{0,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + EDGE
    + "){1,6}"
)

NOT = re.compile(
    r"(?:\bnot|n't|\bcannot|\bneither|\bnor|\bunlike|\brather than|\binstead of|\bthan|\bexcept|\beliminat(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out|"
    r"\bexclud(?:e|es|ed|ing)|不选|不是|而非|排除)(?:\s{1,3}(?:be|choose|pick|select|think|that|the|correct|right|answer|is)){0,3}"
    r"\s{0,3}(?:(?:options?|choices?)\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + EDGE
    + r"(?:[\"')\]]{0,2}\s{1,3}(?:or|nor)\s{1,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + EDGE
    + "){0,1}",
    re.I,
)


def unmarked(text: str) -> str:
    r"""A reply without the marks of markdown and TeX, in plain quotes and ASCII punctuation; what is boxed is said to be the answer.

    >>> unmarked("**B**"), unmarked(r"so $\boxed{\text{B}}$"), unmarked("答案：（B）")
    ('B', 'so  answer:    B', '答案:(B)')
    """
    text = re.sub(r"\\boxed\b", " answer: ", text)
    return re.sub(r"\\(?:text|textbf|mathrm|mathbf)\b", " ", text).translate(PLAINER).strip()


def bodies_of(options: list[str]) -> dict[str, str]:
    """{letter: its option's text} of options "A. red"."""
    return {o.strip()[0].upper(): unmarked(o.split(".", 1)[-1]) for o in options}


def choice_in(text: str, options: list[str], several: str = "last") -> str | None:
    """The option letter that a free reply chooses, for benchmarks: the first of these that finds one.

    1. the whole reply is a letter, a letter with its own option's text, or one option's text;
    2. it is said to be the answer: "the answer is (B)", "B is correct", "I choose B", boxed;
    3. it leads the first line ("B. text", "B) text", "B - text"), or is all of the last line;
    4. "option B"; 5. a capital on its own, where "A dog" and "I see" name no option; 6. the text of one option.
    several: which of different letters counts, "first" or "last". Not seen are letters that no option has, letters said to be wrong ("not B", "B is
    incorrect"), and, from the third rule on, the options where the reply repeats them one after the other.

    >>> options = ["A. red", "B. blue", "C. dark blue"]
    >>> choice_in("The answer is (B), not C.", options), choice_in("A. is wrong. I choose C", options), choice_in("A dark blue one.", options)
    ('B', 'C', 'C')
    >>> choice_in("A or B", options, "first"), choice_in("A or B", options, "last"), choice_in("green", options), choice_in("D", options)
    ('A', 'B', None, None)
    """
    bodies, said = bodies_of(options), unmarked(text)
    if letter := whole_choice(said, bodies):
        return letter
    said = without_wrong(said, bodies)
    rest = without_list(said, bodies)
    lines = rest.splitlines() or [""]
    for found in (
        declared,
        lambda *_: (
            leading(rest, bodies) or filter(None, [whole_choice(lines[-1], bodies, texts=False)])
        ),
        named,
        alone,
    ):
        if letters := list(found(said if found is declared else rest, bodies)):
            return letters[0 if several == "first" else -1]
    first = words_of(rest).partition(" ")[0]
    if first in ("yes", "no") and {"yes", "no"} <= {plain(body) for body in bodies.values()}:
        return next(letter for letter, body in bodies.items() if plain(body) == first)
    texts = texts_in(rest, bodies)
    return texts[0] if len(texts) == 1 else None


def whole_choice(said: str, bodies: dict[str, str], texts: bool = True) -> str | None:
    """The letter when all that is said is a letter, a letter and its option's text, or (texts) one option's text.

    >>> whole_choice("(b).", {"B": "blue"}), whole_choice("B) Blue", {"B": "blue"}), whole_choice("Blue.", {"B": "blue"}), whole_choice("B or C", {"B": "blue"})
    ('B', 'B', 'B', None)
    """
    head = re.match(r"[\s\"'(\[<]{0,6}([A-Za-z])(?![A-Za-z0-9])[\s\"')\]>.:,;!–—-]{0,6}", said)
    if head and (letter := head[1].upper()) in bodies:
        rest = said[head.end() :]
        if not rest.strip() or (
            words_of(bodies[letter]) and words_of(rest) == words_of(bodies[letter])
        ):
            return letter
    for form in (plain, words_of) if texts else ():
        found = [
            letter for letter, body in bodies.items() if form(body) and form(body) == form(said)
        ]
        if len(found) == 1:
            return found[0]
    return None


def past_own_text(text: str, start: int, body: str) -> int:
    """Where an option's text that follows its letter ends; start where it does not follow: past_own_text("B) Blue.", 1, "blue") = 7."""
    end = start
    at = re.compile(r"[\s\"')\].:,(–—-]{0,5}([^\W_]+)")
    for word in words_of(body).split():
        if not (match := at.match(text, end)) or match[1].lower() != word:
            return start
        end = match.end()
    return end


def without_wrong(text: str, bodies: dict[str, str]) -> str:
    """The reply with letters blanked that it says are not the answer.

    >>> without_wrong("A. Red is wrong; it is B, not C. D", {"A": "red", "B": "blue", "C": "green", "D": "grey"})
    ' . Red is wrong; it is B, not  . D'
    """
    gone = {
        match.start(i)
        for match in NOT.finditer(text)
        for i in (1, 2)
        if match.start(i) >= 0 and match[i].isupper()
    }
    for match in LONE.finditer(text):
        if match[1] in bodies:
            if WRONG.match(text, past_own_text(text, match.end(), bodies[match[1]])):
                gone.add(match.start())
            elif (
                (more := AND.match(text, match.end()))
                and WRONG.match(text, more.end())
                and not text.endswith(("is ", ": "), 0, match.start())
            ):
                gone.update(
                    m.start()
                    for m in LONE.finditer(text, match.start(), more.end())
                    if m[1].isupper()
                )  # "A, B and D are wrong"
    return (
        "".join(" " if i in gone else c for i, c in enumerate(text)).strip("\n") if gone else text
    )


def without_list(text: str, bodies: dict[str, str]) -> str:
    """The reply without the options that it repeats one after the other from the first on: three of them, or all of fewer.

    >>> without_list("A. red B. blue So B", {"A": "red", "B": "blue"})
    'So B'
    """
    items, last = [], ""
    for match in LONE.finditer(text):
        letter, marked = match[1], text[match.end() : match.end() + 1] in (".", ")", ":")
        if letter not in bodies or not marked:
            continue
        end = past_own_text(text, match.end(), bodies[letter])
        if end == match.end() and text[max(match.start() - 40, 0) : match.start()].rpartition("\n")[
            2
        ].strip(" -(•"):
            continue  # neither with its own text nor at the beginning of a line
        if letter <= last:
            break
        if letter == min(bodies) or items:
            items, last = [*items, (match.start(), max(end, match.end() + 1))], letter
    if len(items) < min(3, len(bodies)) or len(items) < 2:
        return text
    for start, end in reversed(items):
        text = text[:start].rstrip(" -(•") + " " + text[end:]
    return text.strip(" \n.,;)")


def is_article(text: str, match: re.Match) -> bool:
    """Whether a capital A or I on its own is a word of the sentence."""
    return match[1] in ("A", "I") and bool(WORD.match(text, match.end()))


def declared(text: str, bodies: dict[str, str]) -> list[str]:
    """The letters said to be the answer, in order.

    >>> declared("The answer is B because A is not shown. So c is right", {"A": "red", "B": "blue", "C": "grey"}), declared("Answer: blue", {"B": "blue"})
    (['B', 'C'], ['B'])
    """
    found = [
        (match.end(), letter)
        for link in (ANSWER, PICK)
        for match in link.finditer(text)
        for letter in stated(text, match.end(), bodies, texts=link is ANSWER)
    ]
    found += [(match.start(1), match[1]) for match in CLOSING.finditer(text) if match[1] in bodies]
    for match in LONE.finditer(text):
        letter = match[1].upper()
        if letter in bodies and RIGHT.match(text, past_own_text(text, match.end(), bodies[letter])):
            found.append((match.start(), letter))
    return [letter for _, letter in sorted(found, key=lambda place: place[0])]


def stated(text: str, start: int, bodies: dict[str, str], texts: bool) -> list[str]:
    """The letters that stand at a place, "B" or "B or C"; texts: or the option whose text does. "A" before another option's text is its article."""
    match, room = STATED.match(text, start), 20 + 2 * max(map(len, bodies.values()))
    letter = match[1].upper() if match else ""
    if (
        letter not in bodies
        or (match[1].islower() and not LOWER.match(text, match.end()))
        or (letter == "I" and is_article(text, match))
    ):
        return by_text(text[start : start + room], bodies) if texts else []
    if (
        texts
        and is_article(text, match)
        and past_own_text(text, match.end(), bodies[letter]) == match.end()
    ):
        return by_text(text[match.start(1) : match.start(1) + room], bodies) or [letter]
    other = OR.match(text, match.end())
    return [letter, other[1]] if other and other[1] in bodies else [letter]


def by_text(text: str, bodies: dict[str, str]) -> list[str]:
    """The option with the longest text that begins what is said, articles left out; none where two have it."""
    said = f"{bare_words(text)} "
    found = {
        letter: bare_words(body)
        for letter, body in bodies.items()
        if bare_words(body) and said.startswith(f"{bare_words(body)} ")
    }
    longest = max(map(len, found.values()), default=0)
    top = [letter for letter, body in found.items() if len(body) == longest]
    return top if len(top) == 1 else []


@functools.lru_cache(maxsize=1024)
def bare_words(text: str) -> str:
    """Its words without a leading article: bare_words("A red car.") = 'red car'."""
    return re.sub(r"^(?:an?|the) ", "", words_of(text))


def leading(text: str, bodies: dict[str, str]) -> list[str]:
    """The letter that the reply begins with as with a label: leading("b) blue", {"B": "blue"}) = ['B']."""
    match = LEAD.match(text.lstrip())
    return [match[1].upper()] if match and match[1].upper() in bodies else []


def named(text: str, bodies: dict[str, str]) -> list[str]:
    """The letters behind "option": named("Option B, unlike choice c.", {"B": "", "C": ""}) = ['B', 'C']."""
    found = [(match, match[1] or match[2]) for match in NAMED.finditer(text)]
    return [
        said.upper()
        for match, said in found
        if said.upper() in bodies and (said.isupper() or LOWER.match(text, match.end()))
    ]


def alone(text: str, bodies: dict[str, str]) -> list[str]:
    """The capitals on their own that are options and no word of the sentence: alone("A man, I think. So B and A", {"A": "", "B": ""}) = ['B', 'A']."""
    found = [
        match for match in LONE.finditer(text) if match[1] in bodies and not is_article(text, match)
    ]
    return [
        match[1]
        for match in found
        if not THING.search(text, max(match.start() - 12, 0), match.start())
    ]


def texts_in(text: str, bodies: dict[str, str]) -> list[str]:
    """The options whose text occurs in a reply, those left out whose text is part of another one that does.

    >>> texts_in("A dark blue one", {"A": "red", "B": "blue", "C": "dark blue"})
    ['C']
    """
    whole = f" {words_of(text)} "
    found = {
        letter: f" {words_of(body)} "
        for letter, body in bodies.items()
        if words_of(body) and f" {words_of(body)} " in whole
    }
    return [
        letter
        for letter, body in found.items()
        if not any(body != other and body in other for other in found.values())
    ]


LETTERS = re.compile(  # a list of single letters, from its beginning
    r"[\s\"'(\[]{0,4}(?:options?\s{1,3})?[\"'(\[]{0,2}([A-Za-z]"
    + EDGE
    + r"(?:[\"')\]]{0,2}(?:\s{0,3}[,;/&|、]\s{0,3}|\s{1,3})(?:(?:and|or)\s{1,3})?(?:option\s{1,3})?[\"'(\[]{0,2}[A-Za-z]"
    + EDGE
    + "){1,25})"
)

SETS = re.compile(NOUN + IS + r"|答案(?:应该|应|就|是|为|选|[:\s]){0,4}", re.I)


def letters_in(text: str, options: list[str]) -> frozenset[str]:
    """The option letters that a free reply lists, for answers of several letters: behind the last "the answers are", else in its first line that names any.

    >>> options = ["A. calm", "B. sad", "C. glad", "E. bored"]
    >>> sorted(letters_in("B,E because A is wrong", options)), sorted(letters_in("be", options)), sorted(letters_in("BE", options))
    (['B', 'E'], [], ['B', 'E'])
    """
    bodies = bodies_of(options)
    said = without_wrong(unmarked(text), bodies)
    links, lines = (
        [match.end() for match in SETS.finditer(said)],
        [line for line in said.splitlines() if line.strip()][:200],
    )
    blocks = [said[end:].lstrip().splitlines() for end in links[-1:]] + [
        lines[i : i + 30] for i in range(len(lines))
    ]
    return next(
        (found for block in blocks if (found := letters_of_line("\n".join(listed(block)), bodies))),
        frozenset(),
    )


def listed(lines: list[str]) -> list[str]:
    """The first line, and the next ones as long as they begin with a letter as a label: listed(["B. sad", "E. bored", "For .."]) = ['B. sad', 'E. bored']."""
    labels = itertools.takewhile(
        re.compile(r"[\s•(-]{0,6}[A-Z](?:[).:,]|\s{0,3}$)").match, lines[1:]
    )
    return [*lines[:1], *labels]


def letters_of_line(line: str, bodies: dict[str, str]) -> frozenset[str]:
    """The options that a line lists: "B and e", "B, C", "BE"; else its capitals on their own."""
    match = LETTERS.match(line)
    some = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", match[1].upper()) if match else []
    tight = re.fullmatch(r"[\W_]{0,4}([A-Z]{2,26})[\W_]{0,4}", line)
    some = some or list(tight[1] if tight and len(set(tight[1])) == len(tight[1]) else "")
    return frozenset(some if some and set(some) <= set(bodies) else alone(line, bodies))


def words_of(text: str) -> str:
    """Lower-case words and numbers, everything else folded into single blanks: words_of("Dark-blue, 2!") = 'dark blue 2'."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def yes_or_no(text: str) -> str | None:
    """'yes' or 'no' of a free reply: its first word, else the last one said to be the answer, else the only one of the two.

    >>> yes_or_no("**No**, he does."), yes_or_no("The answer is yes; no doubt."), yes_or_no("It is no sign, yes")
    ('no', 'yes', None)
    """
    said = unmarked(text)
    words = [
        m[1].lower()
        for link in ANSWER.finditer(said)
        if (m := re.compile(r"[\s\"'(]{0,4}(yes|no)\b", re.I).match(said, link.end()))
    ]
    only = set(re.findall(r"\b(?:yes|no)\b", said.lower()))
    return yes_no(said) or (words[-1] if words else only.pop() if len(only) == 1 else None)


DIGITS = re.compile(r"[-+]?(?<![A-Za-z0-9_.])(?<!\d:)\d+(?:,\d{3})*(?:\.\d+)?(?!:\d)")

EXPLICIT = re.compile(  # what a number that is said to be the result stands behind
    r"(?:\b(?:answer|total|count|number|sum|result)\b(?:\s{1,3}(?:of|for|to|count|number|that|which|in|here)\b[^.:=\n]{0,60}?(?=[\s:=]))?"
    r"(?:\s{0,3}[:=]|\s{1,3}(?:is|are|was|were|be|would be|should be|comes to|equals)\b):?|=|\btotal of\b|\bin total,?(?: there (?:is|are|were|was))?)"
    r"(?:\s{1,3}(?:about|approximately|around|roughly|therefore|thus|there|is|are|exactly|only|just)\b){0,3}[\s\"'(:~]{0,6}",
    re.I,
)

LABEL = re.compile(
    r"(?:\b(?:frames?|clips?|videos?|images?|pictures?|steps?|options?|scenes?|seconds?|minutes?|parts?|events?|figures?|at|t =)|#) ?$",
    re.I,
)

UNIT = re.compile(
    r"(?:st|nd|rd|th)\b|[ -]?(?:s|secs?|seconds?|mins?|minutes?|hours?|ms|frames?)\b|:\d", re.I
)

IN_ALL = re.compile(r"(?:\s{1,3}\w{1,20}){0,3}?\s{1,3}(?:in total|in all|altogether)\b", re.I)

NO_COUNT = (
    "of",
    "another",
    "by",
    "can",
    "could",
    "would",
    "might",
    "the",
    "he",
    "she",
    "it",
    "they",
    "who",
    "a",
    "again",
)  # behind "one" or "once"

PRONOUN = (
    "no",
    "the",
    "this",
    "that",
    "each",
    "which",
    "any",
    "every",
    "another",
    "last",
    "next",
    "first",
    "second",
)  # before "one"


def number_in(text: str) -> float | None:
    """The number that a free reply gives, for benchmarks: the first of these that is there.

    1. the whole reply as a count; 2. the last number said to be the result: behind "the answer is", "total:", "the number of .. is", "=", "in total",
    or before "in all";
    3. the first number, as the benchmarks' authors take it: in digits, but for ordinals, times and labels ("1st", "10 seconds", "0:12", "Frame 1"), else
    in words ("one of them" is no count); 4. the first number in digits of any kind.

    >>> number_in("7"), number_in("about 1,200.5 metres"), number_in("There are twenty one of them, not two"), number_in("a few")
    (7.0, 1200.5, 21.0, None)
    >>> number_in("Frame 1: 2, frame 2: 1. Total: 3"), number_in("In the first 10 seconds there are 3"), number_in("One of the men knocks three times")
    (3.0, 3.0, 3.0)
    """
    said = unmarked(text)
    if (value := count_of(said)) is not None:
        return value
    for match in reversed(list(EXPLICIT.finditer(said))):
        if digits := DIGITS.match(said, match.end()):
            return number(digits[0])
        if (
            value := first_count(said[match.end() : match.end() + 60], only_at_start=True)
        ) is not None:
            return value
    found = list(DIGITS.finditer(said))
    if chosen := next((m for m in reversed(found) if IN_ALL.match(said, m.end())), None):
        return number(chosen[0])
    counts = (
        m
        for m in found
        if not UNIT.match(said, m.end())
        and not LABEL.search(said, max(m.start() - 12, 0), m.start())
    )
    if chosen := next(counts, None):
        return number(chosen[0])
    value = first_count(said)
    return number(found[0][0]) if value is None and found else value


def first_count(text: str, only_at_start: bool = False) -> float | None:
    """The first count in words: first_count("No one of the three hundred men") = 300.0; only_at_start: no word stands before it."""
    words = re.findall(r"[a-z]+", text.lower())
    for i, word in enumerate(words[:1] if only_at_start else words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if word in ("one", "once") and (after in NO_COUNT or (word == "one" and before in PRONOUN)):
            continue
        if word in TENS or (word in NUMBER_WORDS and word not in ("no", "none")):
            spans = (" ".join(words[i:j]) for j in range(min(len(words), i + 5), i, -1))
            if (
                value := next((v for span in spans if (v := count_of(span)) is not None), None)
            ) is not None:
                return value
    return None
