"""benchmarks/answers.py: what a free reply answers: a letter, several letters, yes or no.

Models under test were not all trained to put the bare answer into <answer>, so benchmarks read
replies leniently; training stays strict (problems.py, rewards.py). Numbers are read in numbers.py.

`choice_in` takes the first of these rules that finds a letter which an option has:
    1 the whole reply is a letter, a letter and its own option's text, or one option's text
    2 a letter or an option's text is said to be the answer: "The answer is (B)", "B is correct",
      "I choose b", boxed
    3 a letter leads the first line ("B. text", "B) text", "B - text"), or is all of the last line
    4 "option B"
    5 a capital stands alone ("A dog", "I see" and "vitamin C" name none)
    6 the text of exactly one option occurs
It never sees letters that are said to be wrong ("not B", "B is incorrect"), and from rule 3 on it
does not see the options where the reply only repeats them one after the other.

A completion is data and may be hostile: every pattern below has bounded repeats, so that reading
takes time linear in the length of the reply.

Names: bodies is {letter: text of its option}; a lone letter is one that is a word of its own.
"""

import functools
import itertools
import re

from problems import labels_of, plain, yes_no

# --------------------------------------------------------------------------- pieces of patterns

# What may not follow a lone letter: "B2", "A&E", "I'm", "T-shirt".
LETTER_END = r"(?![A-Za-z0-9&]|'[A-Za-z]|-[A-Za-z0-9])"

# Words that may follow a letter, but not an article: in "A because .." A is an option, in "A dog
# .." it is not.
FUNCTION_WORDS = (
    "because|since|as|for|given|based|with|in|from|is|or|and|then|but|due|by|if|while|when|which|"
    "that|this|the|there|it|he|she|they|was|are|were|has|does|can|would|should|must|not|shows|"
    "describes|matches|fits|seems|appears|states|says|suggests|looks|here|rather|instead|over|to"
)

# What may stand between "is" and a letter: "(the answer is) the option B", "choice (B".
OPTION_WORD = (
    r"(?:(?:the\s{1,3})?(?:options?|choices?|letters?|answers?|statement)\b[\s\"'(\[:]{0,6})?"
)

# The link between "the answer" and the answer: ":", "=", " is", " should be most likely".
IS = (
    r"(?:\s{0,3}[\"']?\s{0,3}[:=]"
    r"|\s{1,3}(?:is|are|was|be|would be|should be|must be|could be|will be|might be|seems to be|"
    r"appears to be|has to be)\b)"
    r"(?:\s{1,3}(?:therefore|thus|then|likely|probably|most likely|clearly|definitely|indeed|"
    r"simply|still|actually|now)\b,?){0,2}:?"
)

# What is chosen: "answer", "ans", "correct option", "best description", "my pick".
ANSWER_NOUN = (
    r"\b(?:answers?|ans|(?:correct|right|best|final|likely|accurate|appropriate|suitable|"
    r"plausible|true|my)\s{1,3}"
    r"(?:options?|choices?|ones?|letters?|statements?|descriptions?|selection|pick|response))\b"
)

# --------------------------------------------------------------------------- patterns

# A lone letter: the B of "(B)", "B.", "is B"; none of "A&E", "don't", "e.g.", "U.S.".
LONE_LETTER = re.compile(
    r"(?<![A-Za-z0-9&])(?<![A-Za-z0-9]['-])(?<!\b[A-Za-z]\.)([A-Za-z])" + LETTER_END
)

# Behind "A" or "I": a word that makes it an article or a pronoun, as " dog" in "A dog".
NEXT_WORD = re.compile(rf"[ \t]{{1,4}}(?!(?:{FUNCTION_WORDS})\b)[a-z0-9]", re.I)

# Before a capital: a thing that is called by a letter, as "vitamin " in "vitamin C".
LETTERED_THING = re.compile(
    r"\b(?:vitamin|plan|point|team|person|speaker|player|grade|type|group|hepatitis)s? $", re.I
)

# Behind a letter in lower case: the end of a sentence or a function word ("answer is b because").
AFTER_LOWER_CASE = re.compile(
    rf"\s{{0,2}}[\"')\]]{{0,3}}"
    rf"(?:[.,;:!?)\n](?![a-z]\.)|\s{{0,4}}$|\s{{1,3}}(?:{FUNCTION_WORDS})\b)"
)

# "The answer is", "Best option:", "Answer to the question =", in Chinese as well; a letter or an
# option's text follows.
ANSWER_IS = re.compile(
    ANSWER_NOUN
    + r"(?:\s{1,3}(?:to|for|that|which|here|of|among|based|from|in)\b"
    + r"[^.:;\n]{0,80}?(?=[\s:=\"']))?"
    + IS
    + r"|答案(?:应该|应|就|是|为|选|[:\s]){0,4}",
    re.I,
)

# "I choose", "going with", "it must be", in Chinese as well; a letter follows.
I_CHOOSE = re.compile(
    r"\b(?:choose|pick|select|go with|going with|opt for|I(?: would|'d)? say"
    r"|it(?:'s| is| must be| should be))\b"
    r"|(?<!不)选(?:择|[:\s]){0,3}(?!项)",
    re.I,
)

# "So B.", "therefore option (C)" at the end of a sentence.
SO_LETTER = re.compile(
    r"\b(?:so|thus|hence|therefore)\b[,:]?\s{0,3}"
    + OPTION_WORD
    + r"[\"'(\[]{0,2}([A-Z])"
    + LETTER_END
    + r"(?=[\"')\]]{0,2}\s{0,3}(?:[.!;\n]|$))",
    re.I,
)

# The letter behind ANSWER_IS or I_CHOOSE: " (B", " option b".
STATED_LETTER = re.compile(
    r"[\s\"'(\[<:=]{0,8}" + OPTION_WORD + r"[\"'(\[]{0,2}([A-Za-z])" + LETTER_END, re.I
)

# A second letter: " or option C" in "The answer is B or option C".
OR_LETTER = re.compile(
    r"[\"')\]]{0,3}\s{1,3}or\s{1,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])" + LETTER_END
)

# "Option B", "choice (c", "选项B".
OPTION_LETTER = re.compile(
    r"\b(?:options?|choices?|answers?)[\s\"'(\[:]{1,6}([A-Za-z])"
    + LETTER_END
    + r"|选项[\s\"'(\[:]{0,6}([A-Z])"
    + LETTER_END,
    re.I,
)

# A label that begins the reply: "B. ", "(b) ", "B - ", "B\n"; not the "A) or" of a list.
LEADING_LETTER = re.compile(
    r"[\"'(\[]{0,3}([A-Za-z])"
    r"(?:[\"')\]]{1,3}(?!\s{0,3}(?:,|/|or\b|and\b))"
    r"|[.:]|\s{0,3}[-–—](?=\s)|[ \t]{0,3}(?:\n|$))"
)

# Behind a letter: " is correct", " seems the most likely", " - correct", " fits best", in
# Chinese as well; not " is right next to".
IS_RIGHT = re.compile(
    r"[\s\"')\].,(]{0,4}"
    r"(?:(?:is|are|seems|appears|looks|must be|would be|should be|will be)(?: to be)?\s{1,3}"
    r"(?:(?:the|a|also|clearly|definitely|indeed|therefore|thus|likely|probably|most likely|"
    r"obviously)\s{1,3}){0,3}"
    r"(?:correct|right(?! (?:of|next|side|hand|after|before|behind|in|on|there|away|now))|"
    r"best(?!-)|answer|accurate|true|"
    r"only (?:correct|option|choice|answer|one)|"
    r"most (?:likely|accurate|appropriate|plausible|suitable|fitting|probable|reasonable|logical|"
    r"consistent|relevant))\b"
    r"|[-–—:]\s{0,3}(?:this is\s)?(?:the\s)?correct\b|(?:fits|matches) best\b"
    r"|(?:是|为)?(?:正确|对的))",
    re.I,
)

# Behind a letter: " is not", " are both wrong", " can be ruled out", " doesn't", ": incorrect".
IS_WRONG = re.compile(
    r"[\s\"')\].,:(–—-]{0,4}"
    r"(?:(?:is|are|was|were|would be|seems?|appears?|looks?|can be|could be)\s{1,3}"
    r"(?:(?:also|both|all|clearly|definitely|simply|therefore|thus|just|likely|probably|to be|the)"
    r"\s{1,3}){0,2}"
    r"(?:not|wrong|incorrect|false|inaccurate|irrelevant|impossible|unlikely|ruled out|eliminated|"
    r"excluded|too)\b"
    r"|(?:is|are|was|were|does|do|did|would|could|ca)n't\b"
    r"|(?:does|do|did|can|could|would)\s?not\b"
    r"|(?:[Ii]ncorrect|[Ww]rong|INCORRECT|WRONG)\b|(?:是|为)?(?:错|不))"
)

# Behind a letter: further ones, as ", B and D" in "A, B and D are wrong".
AND_LETTERS = re.compile(
    r"(?:[\"')\]]{0,2}(?:,|,?\s{1,3}(?:and|or|nor)\b)\s{0,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + LETTER_END
    + "){1,6}"
)

# "not B", "rather than option C", "eliminates A or D", "不是B".
NOT_LETTER = re.compile(
    r"(?:\bnot|n't|\bcannot|\bneither|\bnor|\bunlike|\brather than|\binstead of|\bthan|\bexcept|"
    r"\beliminat(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out|\bexclud(?:e|es|ed|ing)|"
    r"不选|不是|而非|排除)"
    r"(?:\s{1,3}(?:be|choose|pick|select|think|that|the|correct|right|answer|is)){0,3}"
    r"\s{0,3}(?:(?:options?|choices?)\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + LETTER_END
    + r"(?:[\"')\]]{0,2}\s{1,3}(?:or|nor)\s{1,3}(?:option\s{1,3})?[\"'(\[]{0,2}([A-Z])"
    + LETTER_END
    + "){0,1}",
    re.I,
)

# A list of single letters from its beginning: "B, e", "(A) and (C)", "options A; B".
LETTER_LIST = re.compile(
    r"[\s\"'(\[]{0,4}(?:options?\s{1,3})?[\"'(\[]{0,2}([A-Za-z]"
    + LETTER_END
    + r"(?:[\"')\]]{0,2}(?:\s{0,3}[,;/&|、]\s{0,3}|\s{1,3})(?:(?:and|or)\s{1,3})?(?:option\s{1,3})?"
    + r"[\"'(\[]{0,2}[A-Za-z]"
    + LETTER_END
    + "){1,25})"
)

# "The answers are", "Correct options:"; a list of letters follows.
ANSWERS_ARE = re.compile(ANSWER_NOUN + IS + r"|答案(?:应该|应|就|是|为|选|[:\s]){0,4}", re.I)

# A line that begins with a capital as a label: "B. sad", "(C) glad", "- E".
LABELLED_LINE = re.compile(r"[\s•(-]{0,6}[A-Z](?:[).:,]|\s{0,3}$)")

# A letter that leads all that is said: the "(b)." of "(b). blue".
FIRST_LETTER = re.compile(
    r"[\s\"'(\[<]{0,6}([A-Za-z])(?![A-Za-z0-9])[\s\"')\]>.:,;!–—-]{0,6}",
)

# The next word of a text, behind blanks and punctuation: " blue" behind "B)".
NEXT_TEXT_WORD = re.compile(r"[\s\"')\].:,(–—-]{0,5}([^\W_]+)")

# "yes" or "no" behind ANSWER_IS.
STATED_YES_NO = re.compile(r"[\s\"'(]{0,4}(yes|no)\b", re.I)

# Quotes and brackets become plain ones, marks of markdown and TeX become blanks or nothing, and
# full-width characters (U+FF01 to U+FF5E) become ASCII.
PLAIN_CHARACTERS = str.maketrans("‘’“”「」【】{}_", '\'\'""""[]   ', "*#$`\\") | {
    code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)
}


# --------------------------------------------------------------------------- text


def unmarked(text: str) -> str:
    r"""A reply without the marks of markdown and TeX, in plain quotes and ASCII punctuation.

    What is boxed is said to be the answer.

    >>> unmarked("**B**"), unmarked(r"so $\boxed{\text{B}}$"), unmarked("答案：（B）")
    ('B', 'so  answer:    B', '答案:(B)')
    """
    text = re.sub(r"\\boxed\b", " answer: ", text)
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\b", " ", text)
    return text.translate(PLAIN_CHARACTERS).strip()


def words_of(text: str) -> str:
    """Words and numbers in lower case between blanks: words_of("Dark-blue, 2!") = 'dark blue 2'."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


@functools.lru_cache(maxsize=1024)
def without_article(text: str) -> str:
    """Its words without a leading article: without_article("A red car.") = 'red car'."""
    return re.sub(r"^(?:an?|the) ", "", words_of(text))


def bodies_of(options: list[str]) -> dict[str, str]:
    """{letter: text} of options: bodies_of(["A. red"]) = {"A": "red"}."""
    return {option.strip()[0].upper(): unmarked(option.split(".", 1)[-1]) for option in options}


def past_own_text(text: str, start: int, body: str) -> int:
    """Where the option's text that follows its letter at `start` ends; `start` if none follows.

    >>> past_own_text("B) Blue.", 1, "blue"), past_own_text("B) Red.", 1, "blue")
    (7, 1)
    """
    end = start
    for word in words_of(body).split():
        match = NEXT_TEXT_WORD.match(text, end)
        if not match or match[1].lower() != word:
            return start
        end = match.end()
    return end


def is_article(text: str, match: re.Match) -> bool:
    """Whether the lone "A" or "I" that was matched is a word of the sentence, not an option."""
    return match[1] in ("A", "I") and bool(NEXT_WORD.match(text, match.end()))


# --------------------------------------------------------------------------- one letter


def choice_in(text: str, options: list[str], several: str = "last") -> str | None:
    """The option letter that a free reply chooses, by the rules above; None when it chooses none.

    several: which of different letters counts, "first" or "last".

    >>> options = ["A. red", "B. blue", "C. dark blue"]
    >>> choice_in("The answer is (B), not C.", options)
    'B'
    >>> choice_in("A. is wrong. I choose C", options), choice_in("A dark blue one.", options)
    ('C', 'C')
    >>> choice_in("green", options), choice_in("D", options)
    (None, None)
    >>> choice_in("A or B", options, "first"), choice_in("A or B", options, "last")
    ('A', 'B')
    """
    bodies = bodies_of(options)
    reply = unmarked(text)

    # rule 1
    if letter := whole_choice(reply, bodies):
        return letter

    # rules 2 to 5: the first one that finds letters decides
    reply = without_wrong(reply, bodies)
    rest = without_list(reply, bodies)
    letters = declared(reply, bodies)
    letters = letters or labelling(rest, bodies)
    letters = letters or named(rest, bodies)
    letters = letters or alone(rest, bodies)
    if letters:
        return letters[0] if several == "first" else letters[-1]

    # where "yes" and "no" are options, the first word chooses one of them
    first = words_of(rest).partition(" ")[0]
    texts = [plain(body) for body in bodies.values()]
    if first in ("yes", "no") and "yes" in texts and "no" in texts:
        return list(bodies)[texts.index(first)]

    # rule 6
    letters = texts_in(rest, bodies)
    return letters[0] if len(letters) == 1 else None


def whole_choice(reply: str, bodies: dict[str, str], by_text: bool = True) -> str | None:
    """Rule 1: all of the reply is a letter, or one with its option's text, or (by_text) the text.

    >>> bodies = {"A": "red", "B": "blue"}
    >>> whole_choice("(b).", bodies), whole_choice("B) Blue", bodies), whole_choice("Blue.", bodies)
    ('B', 'B', 'B')
    >>> print(whole_choice("B or C", bodies))
    None
    """
    head = FIRST_LETTER.match(reply)
    if head and head[1].upper() in bodies:
        letter = head[1].upper()
        rest = reply[head.end() :]
        body = words_of(bodies[letter])
        if not rest.strip() or (body and words_of(rest) == body):
            return letter
    if not by_text:
        return None

    # first with the punctuation inside, in which "-3" and "3" differ, then by the words alone
    for form in (plain, words_of):
        same = [letter for letter, body in bodies.items() if form(body) == form(reply) != ""]
        if len(same) == 1:
            return same[0]
    return None


def without_wrong(text: str, bodies: dict[str, str]) -> str:
    """The reply, with a blank in place of every letter that it says is not the answer.

    >>> bodies = {"A": "red", "B": "blue", "C": "green", "D": "grey"}
    >>> without_wrong("A. Red is wrong; it is B, not C. D", bodies)
    ' . Red is wrong; it is B, not  . D'
    """
    wrong = set()  # positions in the text

    # "not B", "neither A nor C"
    for match in NOT_LETTER.finditer(text):
        for group in (1, 2):
            if match[group] and match[group].isupper():
                wrong.add(match.start(group))

    for match in LONE_LETTER.finditer(text):
        if match[1] not in bodies:
            continue

        # "B is wrong", "B. blue is wrong"
        if IS_WRONG.match(text, past_own_text(text, match.end(), bodies[match[1]])):
            wrong.add(match.start())
            continue

        # "A, B and D are wrong"; but in "It is A, and B is wrong" A is the answer
        others = AND_LETTERS.match(text, match.end())
        is_answer = text.endswith(("is ", ": "), 0, match.start())
        if others and not is_answer and IS_WRONG.match(text, others.end()):
            for letter in LONE_LETTER.finditer(text, match.start(), others.end()):
                if letter[1].isupper():
                    wrong.add(letter.start())

    if not wrong:
        return text
    return "".join(" " if i in wrong else c for i, c in enumerate(text)).strip("\n")


def without_list(text: str, bodies: dict[str, str]) -> str:
    """The reply without the options where it only repeats them, in order from the first one on.

    Fewer than three repeated options stay, unless they are all options there are.

    >>> without_list("A. red B. blue So B", {"A": "red", "B": "blue"})
    'So B'
    """
    spans = []  # of repeated options
    last = ""
    for match in LONE_LETTER.finditer(text):
        letter = match[1]
        if letter not in bodies or text[match.end() : match.end() + 1] not in (".", ")", ":"):
            continue

        # an option is repeated with its own text, or at the beginning of a line
        end = past_own_text(text, match.end(), bodies[letter])
        before = text[max(match.start() - 40, 0) : match.start()].rpartition("\n")[2]
        if end == match.end() and before.strip(" -(•"):
            continue
        if letter <= last:
            break
        if spans or letter == min(bodies):
            spans.append((match.start(), max(end, match.end() + 1)))
            last = letter

    if len(spans) < max(2, min(3, len(bodies))):
        return text
    for start, end in reversed(spans):
        text = text[:start].rstrip(" -(•") + " " + text[end:]
    return text.strip(" \n.,;)")


def declared(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 2: the letters said to be the answer, in order.

    >>> bodies = {"A": "red", "B": "blue", "C": "grey"}
    >>> declared("The answer is B because A is not shown. So c is right", bodies)
    ['B', 'C']
    >>> declared("Answer: blue", bodies)
    ['B']
    """
    statements = []  # (position in the text, letter)
    for match in ANSWER_IS.finditer(text):
        for letter in stated(text, match.end(), bodies, by_text=True):
            statements.append((match.end(), letter))
    for match in I_CHOOSE.finditer(text):
        for letter in stated(text, match.end(), bodies, by_text=False):
            statements.append((match.end(), letter))

    # "So B."
    for match in SO_LETTER.finditer(text):
        if match[1] in bodies:
            statements.append((match.start(1), match[1]))

    # "B is correct"
    for match in LONE_LETTER.finditer(text):
        letter = match[1].upper()
        if letter in bodies:
            end = past_own_text(text, match.end(), bodies[letter])
            if IS_RIGHT.match(text, end):
                statements.append((match.start(), letter))

    statements.sort(key=lambda entry: entry[0])
    return [letter for _, letter in statements]


def stated(text: str, start: int, bodies: dict[str, str], by_text: bool) -> list[str]:
    """The letters that stand at `start`, "B" or "B or C"; by_text: else the letter of the option
    whose text stands there.

    >>> stated("It is a red car", 6, {"A": "dog", "B": "a red car"}, by_text=True)
    ['B']
    """
    match = STATED_LETTER.match(text, start)
    reach = 20 + 2 * max(map(len, bodies.values()))  # an option's text fits into it
    letter = match[1].upper() if match else ""

    # no letter: one that no option has, a word in lower case, or the pronoun "I"
    is_word = match and match[1].islower() and not AFTER_LOWER_CASE.match(text, match.end())
    if letter not in bodies or is_word or (letter == "I" and is_article(text, match)):
        return by_beginning(text[start : start + reach], bodies) if by_text else []

    # "A" before a text that is not its own may be that text's article
    own_text = past_own_text(text, match.end(), bodies[letter]) > match.end()
    if by_text and is_article(text, match) and not own_text:
        begin = match.start(1)
        return by_beginning(text[begin : begin + reach], bodies) or [letter]

    other = OR_LETTER.match(text, match.end())
    return [letter, other[1]] if other and other[1] in bodies else [letter]


def by_beginning(text: str, bodies: dict[str, str]) -> list[str]:
    """The option whose text the given text begins with, articles left out; of several options the
    one with the longest text.

    >>> by_beginning("the dark blue car", {"A": "dark", "B": "dark blue", "C": "red"})
    ['B']
    """
    words = f"{without_article(text)} "
    lengths = {}
    for letter, body in bodies.items():
        body = without_article(body)
        if body and words.startswith(f"{body} "):
            lengths[letter] = len(body)
    longest = [letter for letter, n in lengths.items() if n == max(lengths.values())]
    return longest if len(longest) == 1 else []


def labelling(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 3: the letter that leads the reply like a label, else the one that is its last line.

    >>> labelling("b) blue", {"B": "blue"}), labelling("Hm.\\nB", {"B": "blue"})
    (['B'], ['B'])
    """
    match = LEADING_LETTER.match(text.lstrip())
    if match and match[1].upper() in bodies:
        return [match[1].upper()]
    lines = text.splitlines() or [""]
    letter = whole_choice(lines[-1], bodies, by_text=False)
    return [letter] if letter else []


def named(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 4: the letters behind "option".

    >>> named("Option B, unlike choice c.", {"B": "", "C": ""})
    ['B', 'C']
    """
    letters = []
    for match in OPTION_LETTER.finditer(text):
        letter = match[1] or match[2]
        is_word = letter.islower() and not AFTER_LOWER_CASE.match(text, match.end())
        if letter.upper() in bodies and not is_word:
            letters.append(letter.upper())
    return letters


def alone(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 5: the lone capitals that are options, and no word of the sentence.

    >>> alone("A man, I think. So B and A", {"A": "", "B": ""})
    ['B', 'A']
    """
    letters = []
    for match in LONE_LETTER.finditer(text):
        if match[1] not in bodies or is_article(text, match):
            continue
        if not LETTERED_THING.search(text, max(match.start() - 12, 0), match.start()):
            letters.append(match[1])
    return letters


def texts_in(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 6: the options whose text occurs, without those inside another one's text that does.

    >>> texts_in("A dark blue one", {"A": "red", "B": "blue", "C": "dark blue"})
    ['C']
    """
    reply_words = f" {words_of(text)} "
    occurring = {}
    for letter, body in bodies.items():
        words = f" {words_of(body)} "
        if words.strip() and words in reply_words:
            occurring[letter] = words

    letters = []
    for letter, words in occurring.items():
        if not any(words != other and words in other for other in occurring.values()):
            letters.append(letter)
    return letters


# --------------------------------------------------------------------------- several letters


def labels_in(text: str, options: list[str]) -> frozenset[str]:
    """The letters that a free reply names, for multi-label questions.

    These are the labels that it lists, if all of them are letters; else the letters of
    `letters_in`; else the options whose text occurs; else the labels as they stand there.

    >>> options = ["A. calm", "B. sad", "C. glad"]
    >>> sorted(labels_in("b, Glad", options)), sorted(labels_in("A, B, and C.", options))
    (['B', 'C'], ['A', 'B', 'C'])
    >>> sorted(labels_in("B,C\\n\\nA is wrong.", options)), sorted(labels_in("A man; joy", options))
    (['B', 'C'], ['a man', 'joy'])
    >>> sorted(labels_in("He is glad and calm.", options))
    ['A', 'C']
    """
    labels = labels_of(text, options)
    if all(len(label) == 1 for label in labels):
        return labels
    by_text = frozenset(texts_in(unmarked(text), bodies_of(options)))
    return letters_in(text, options) or by_text or labels


def letters_in(text: str, options: list[str]) -> frozenset[str]:
    """The option letters that a free reply lists: behind the last "the answers are", else in its
    first line that names any.

    >>> options = ["A. calm", "B. sad", "C. glad", "E. bored"]
    >>> sorted(letters_in("B,E because A is wrong", options)), sorted(letters_in("BE", options))
    (['B', 'E'], ['B', 'E'])
    >>> sorted(letters_in("be", options))
    []
    """
    bodies = bodies_of(options)
    reply = without_wrong(unmarked(text), bodies)
    lines = [line for line in reply.splitlines() if line.strip()][:200]

    # each block is a line that may list letters, with the lines below it
    blocks = [lines[i : i + 30] for i in range(len(lines))]
    links = list(ANSWERS_ARE.finditer(reply))
    if links:
        blocks.insert(0, reply[links[-1].end() :].lstrip().splitlines())

    for block in blocks:
        letters = letters_of_line("\n".join(label_lines(block)), bodies)
        if letters:
            return letters
    return frozenset()


def label_lines(lines: list[str]) -> list[str]:
    """The first line, and the next ones as long as they begin with a letter as a label.

    >>> label_lines(["B. sad", "E. bored", "For he weeps"])
    ['B. sad', 'E. bored']
    """
    return [*lines[:1], *itertools.takewhile(LABELLED_LINE.match, lines[1:])]


def letters_of_line(line: str, bodies: dict[str, str]) -> frozenset[str]:
    """The options that a line lists, "B and e", "B, C" or "BE"; else its lone capitals."""
    letters = []
    match = LETTER_LIST.match(line)
    if match:
        letters = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", match[1].upper())

    # "BE", but no word with a letter twice
    joined = re.fullmatch(r"[\W_]{0,4}([A-Z]{2,26})[\W_]{0,4}", line)
    if not letters and joined and len(set(joined[1])) == len(joined[1]):
        letters = list(joined[1])

    if letters and set(letters) <= set(bodies):
        return frozenset(letters)
    return frozenset(alone(line, bodies))


# --------------------------------------------------------------------------- yes or no


def yes_or_no(text: str) -> str | None:
    """'yes' or 'no': the first word, else what is last said to be the answer, else the only one.

    >>> yes_or_no("**No**, he does."), yes_or_no("The answer is yes; no doubt.")
    ('no', 'yes')
    >>> print(yes_or_no("It is no sign, yes"))
    None
    """
    reply = unmarked(text)
    if word := yes_no(reply):
        return word

    declared_words = []
    for link in ANSWER_IS.finditer(reply):
        match = STATED_YES_NO.match(reply, link.end())
        if match:
            declared_words.append(match[1].lower())
    if declared_words:
        return declared_words[-1]

    occurring = set(re.findall(r"\b(?:yes|no)\b", reply.lower()))
    return occurring.pop() if len(occurring) == 1 else None
