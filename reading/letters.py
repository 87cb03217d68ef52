"""reading/letters.py: the option letter, or letters, that an answer means.

    letter_of(answer, options)    strict, for training: the answer is a letter or an option's text
    choice_in(reply, options)     lenient, for evaluation: the letter that a free reply chooses
    labels_of, labels_in          the same for several letters

What letter_of reads, choice_in reads alike. The texts of the options are looked for first, and each
becomes one mark, so that no rule sees a letter inside them ("60 °C", "Both B and D", "A blue car").
Then `choice_in` takes the first of these rules that finds a letter which an option has:
    1 the whole reply is a letter, a letter and its own option's text, or one option's text
    2 a letter or an option's text is said to be the answer: "The answer is (B)", "B is correct",
      "I choose b", boxed
    3 a letter leads the first line ("B. text", "B) text", "B - text"), or is all of the last line
    4 "option B"
    5 a capital stands alone ("A dog", "I see", "vitamin C" and "N/A" name none)
    6 the text of exactly one option occurs, in a reply that does not refuse; or, where all options
      are numbers, its number is that of one option
It never sees letters that are said to be wrong ("not B", "B is incorrect") or right only in another
case ("B would be correct if .."). From rule 3 on it does not see the options where the reply only
repeats them one after the other.

A completion is data and may be hostile: every pattern below has bounded repeats, so that reading
takes time linear in the length of the reply.

Names: bodies is {letter: text of its option}; a lone letter is one that is a word of its own.
"""

import functools
import itertools
import re

from reading.formulas import one_spelling, symbols_agree, symbols_in, with_unit
from reading.numbers import number, number_in
from reading.refusals import CANNOT_ANSWER
from reading.text import (
    Token,
    plain,
    same_characters,
    tokens,
    unmarked,
    words_of,
)

# --------------------------------------------------------------------------- marks of options

# In a marked reply one character stands for an option: of the first range where its text stood
# alone, of the second one where its text stood behind its letter ("B. blue").
TEXT_MARK = 0xE000
FULL_MARK = 0xE100
MARK = "\ue000-\ue019"
FULL = "\ue100-\ue119"

# --------------------------------------------------------------------------- pieces of patterns

# Before a text that is only part of a formula.
IN_FORMULA = re.compile(r"[√^]-?$")

# What may not follow a lone letter: "B2", "A&E", "I'm", "T-shirt", "A/V".
LETTER_END = r"(?![A-Za-z0-9&+#]|'[A-Za-z]|-[A-Za-z0-9]|/[A-Za-z])"

# An option: a lone letter (lower case where the pattern ignores case), or a mark.
OPTION = rf"((?:[A-Z]{LETTER_END})|[{MARK}{FULL}])"

# Words that may follow a letter, but not an article: in "A because .." A is an option, in "A dog
# .." it is not.
FUNCTION_WORDS = (
    "because|since|as|for|given|based|with|in|from|is|or|and|then|but|due|by|if|while|when|which|"
    "that|this|the|there|it|he|she|they|was|are|were|has|does|can|would|should|must|not|shows|"
    "describes|matches|fits|seems|appears|states|says|suggests|looks|here|rather|instead|over|to"
)

# What may stand between "is" and a letter: "(the answer is) the option B", "choice (B".
OPTION_WORD = (
    r"(?:that\s{1,3})?"
    r"(?:(?:the\s{1,3})?(?:options?|choices?|letters?|answers?|statement)\b[\s\"'(\[:-]{0,6})?"
)

# The link between "the answer" and the answer: ":", "=", " is", " should be most likely".
IS = (
    r"(?:\s{0,3}[\"']?\s{0,3}[:=]"
    r"|\s{1,3}(?:is|are|was|be|would be|should be|must be|could be|will be|might be|seems to be|"
    r"appears to be|has to be)\b)"
    r"(?:\s{1,3}(?:therefore|thus|then|likely|probably|most likely|clearly|definitely|indeed|"
    r"simply|still|actually|now|both)\b,?){0,2}:?"
)

# What is chosen: "answer", "ans", "correct option", "best description", "my pick".
ANSWER_NOUN = (
    r"\b(?:answers?|ans|(?:correct|right|best|final|likely|accurate|appropriate|suitable|"
    r"plausible|true|my|matching)\s{1,3}"
    r"(?:options?|choices?|ones?|letters?|statements?|descriptions?|selection|pick|response)|"
    r"(?:options?|choices?|one|response)\s{1,3}(?:that|which)\s{1,3}(?:best\s{1,3})?"
    r"(?:fits|matches)(?:\s{1,3}best)?|correct(?=:))"
)

# --------------------------------------------------------------------------- patterns

# A lone letter: the B of "(B)", "B.", "is B"; none of "A&E", "don't", "e.g.", "U.S.", "60 °C".
LONE_LETTER = re.compile(
    r"(?<![A-Za-z0-9&°])(?<!\d )(?<!° )(?<![A-Za-z0-9]['/-])(?<!\b[A-Za-z]\.)"
    rf"([A-Za-z]{LETTER_END}|[{MARK}{FULL}])"
)

# A letter before its option's text: the "(B) " of "(B) blue", before a mark.
LETTER_BEFORE_TEXT = re.compile(
    rf"(?<![A-Za-z0-9&])([A-Za-z])[\s\"')\].,:(\[–-]{{0,6}}(?:with\s)?([{MARK}])"
)

# Behind an option's text: the sentence goes on, as in "A piano is heard".
GOES_ON = re.compile(r" {1,3}(?!(?:because|since|as|given|due|based|for)\b)[a-z]")

# A letter behind its option's text: "blue (B)".
LETTER_BEHIND_TEXT = re.compile(rf"([{MARK}])[\s\"']{{0,3}}[(\[]([A-Z])[)\]]")

# Behind "A" or "I": a word that makes it an article or a pronoun, as " dog" in "A dog".
NEXT_WORD = re.compile(rf"[ \t]{{1,4}}(?!(?:{FUNCTION_WORDS})\b)[^\W_]", re.I)
NEXT_WORD_OF_I = re.compile(
    r"[ \t]{1,4}(?!(?:is|and|or|because|since|as|given|based|but|fits|matches|seems)\b)[^\W_]", re.I
)

# Before a capital: a thing that is called by a letter, as "vitamin " in "vitamin C".
LETTERED_THING = re.compile(
    r"\b(?:vitamin|plan|point|team|person|speaker|player|grade|type|group|hepatitis|class|camera|"
    r"box|line|room|man|woman|object|segment|angle|mr|mrs|ms|dr)\.?s? $",
    re.I,
)

# An initial: the "F. " between two names, the "A. " of "A. I.".
INITIAL = re.compile(r"\. ?(?:[A-Z]\b\.)")
BEHIND_INITIAL = re.compile(r"(?<![A-Za-z])[A-Z]\. ?$")

# Behind the letter of a formula: the " = " of "F = m a".
IN_EQUATION = re.compile(r" ?[=*^<>∩∪∧∨×÷±≤≥≠](?!\w{0,20}>)")

# Before the letter of a formula: the "= " of "F = B".
BEHIND_OPERATOR = re.compile(r"[=∩∪∧∨×÷±≤≥≠] $")

# Behind a letter in lower case: the end of a sentence or a function word ("answer is b because").
AFTER_LOWER_CASE = re.compile(
    rf"\s{{0,2}}[\"')\]]{{0,3}}"
    rf"(?:[.,;:!?)\n](?![a-z]\.)|\s{{0,4}}$|\s{{1,3}}(?:{FUNCTION_WORDS})\b)"
)

# "Answer" in other languages, with its link: "答案是", "正解は", "Ответ:", "La respuesta es".
ANSWER_ELSEWHERE = (
    r"(?:答案|答え|正解|ответ|उत्तर|जवाब|정답|respuesta|réponse|antwort|lösung|resposta|risposta|"
    r"الإجابة|الجواب)"
    rf"[^A-Za-z{MARK}{FULL}.,;。，；\n]{{0,20}}"
    r"(?:(?:es|est|ist|é|è|correcta|correcte|richtige|lautet|final|finale)\b[\s:]{1,3}){0,3}"
)

# "The answer is", "Best option:", "Answer to the question ="; a letter or an option's text follows.
ANSWER_IS = re.compile(
    ANSWER_NOUN
    + r"(?:\s{1,3}(?:to|for|that|which|here|of|among|based|from|in)\b"
    + r"[^.:;\n]{0,80}?(?=[\s:=\"']))?"
    + IS
    + "|"
    + ANSWER_ELSEWHERE,
    re.I,
)

# "I choose", "going with", in Chinese as well; a letter or an option's text follows.
I_CHOOSE = re.compile(
    r"\b(?:choose|pick|select(?:ed)?|go with|going with|opt for|I(?: would|'d|'ll| will)? say)\b"
    r"|(?<!不)选(?:择|[:\s]){0,3}(?!项)",
    re.I,
)

# "It is", "it must be"; a letter follows. A text behind it may be any thing that is seen.
IT_IS = re.compile(r"\bit(?:'s| is| must be| should be| has to be)\b", re.I)

# "It is", "the statement is"; the text "true" or "false" of an option follows.
THIS_IS = re.compile(r"\b(?:it|this|that|statement|claim|sentence)(?:'s| is)\b", re.I)

# "So B.", "therefore option (C)" at the end of a sentence.
SO_LETTER = re.compile(
    r"\b(?:so|thus|hence|therefore)\b[,:]?\s{0,3}"
    + OPTION_WORD
    + r"[\"'(\[]{0,2}"
    + OPTION
    + r"(?=[\"')\]]{0,2}\s{0,3}(?:[.!;\n]|$|it is\b))",
    re.I,
)

# The letter behind ANSWER_IS or I_CHOOSE: " (B", " option b", " the <text>".
STATED_LETTER = re.compile(
    r"[\s\"'(\[<:=-]{0,8}"
    + OPTION_WORD
    + r"[\"'(\[]{0,2}(?:(?:the|an?)\s(?=[\ue000-\ue019]))?"
    + OPTION,
    re.I,
)

# A second letter: " or option C" in "The answer is B or option C".
OR_LETTER = re.compile(r"[\"')\]]{0,3}\s{1,3}or\s{1,3}(?:option\s{1,3})?[\"'(\[]{0,2}" + OPTION)

# "Option B", "choice (c", "选项B".
OPTION_LETTER = re.compile(
    r"\b(?:options?|choices?|answers?)[ \"'(\[:-]{1,6}"
    + OPTION
    + r"|选项[\s\"'(\[:]{0,6}"
    + OPTION,
    re.I,
)

# A label that begins the reply: "B. ", "(b) ", "B - ", "B\n"; not the "A) or" of a list, nor "I'm".
LEADING_LETTER = re.compile(
    rf"[\"'(\[]{{0,3}}(?:([A-Za-z])"
    r"(?:[\"')\]]{1,3}(?![A-Za-z]|\s{0,3}(?:,|/|or\b|and\b|\([A-Z]\)))"
    r"|[.:](?! ?[A-Z]\.)|,(?=\s(?:because|since|as)\b)|\s{0,3}[-–—](?=\s)"
    rf"|[ \t]{{0,3}}(?:\n|$))|([{FULL}]))"
)

# Behind a letter: " is correct", " seems the most likely", " - correct", " fits best", in
# Chinese as well; not " is right next to".
IS_RIGHT = re.compile(
    r"[ \t\"')\].,(]{0,4}"
    r"(?:(?:is|are|seems|appears|looks|must be|would be|should be|will be)(?: to be)?\s{1,3}"
    r"(?:(?:the|a|also|clearly|definitely|indeed|therefore|thus|likely|probably|most likely|"
    r"obviously)\s{1,3}){0,3}"
    r"(?:correct|right(?! (?:of|next|side|hand|after|before|behind|in|on|there|away|now))|"
    r"best(?!-)|answer|accurate|true|"
    r"only (?:correct|option|choice|answer|one)|"
    r"most (?:likely|accurate|appropriate|plausible|suitable|fitting|probable|reasonable|logical|"
    r"consistent|relevant))\b"
    r"|is(?=[\s.!]{0,3}$|\.)|[-–—:]\s{0,3}(?:this is\s)?(?:the\s)?correct\b|(?:fits|matches) best\b"
    r"|[-–—:][ \t]{0,3}(?:yes|true|✓|✔|✅)(?=[ \t.]{0,3}(?:\n|$))"
    r"|\?[ \t]{0,2}(?:[Yy]es|[Tt]rue|[Cc]orrect)(?=[.;!\n]|$)"
    r"|(?:选项|项)?(?:是|为)?(?:正确|对的|符合题意))",
    re.I,
)

# Behind a letter: " is not", " are both wrong", " can be ruled out", " doesn't", ": incorrect".
IS_WRONG = re.compile(
    r"[ \t\"')\].,:(–—-]{0,4}"
    r"(?:(?:is|are|was|were|would be|seems?|appears?|looks?|can be|could be)[ \t]{1,3}"
    r"(?:(?:also|both|all|clearly|definitely|simply|therefore|thus|just|likely|probably|to be|the)"
    r"[ \t]{1,3}){0,2}"
    r"(?:not|wrong|incorrect|false|inaccurate|irrelevant|impossible|unlikely|ruled out|eliminated|"
    r"excluded|too)\b"
    r"|(?:is|are|was|were|does|do|did|would|could|ca)n't\b|contradicts?\b"
    r"|(?:may|might|could)[ \t](?:also[ \t])?"
    r"(?:seem|appear|look|be[ \t](?:considered|tempting|plausible))\b"
    r"|(?:[Nn]o|[Ff]alse|❌|✗)(?=[ \t.]{0,3}(?:\n|$))"
    r"|\?[ \t]{0,2}(?:[Nn]o|[Ff]alse|[Ww]rong)(?=[.;\n]|$)"
    r"|[Nn]ot (?:heard|seen|shown|present|mentioned|correct|right|true)(?=[ \t.]{0,3}(?:\n|$))"
    r"|(?:is|are|looks?|seems?)[ \t](?:[a-z]{2,14}[ \t]){1,3}but[ \t](?:it is[ \t])?"
    r"(?:wrong|incorrect|false)\b"
    r"|(?:does|do|did|can|could|would)[ \t]?not\b"
    r"|(?:[Ii]ncorrect|[Ww]rong|INCORRECT|WRONG|[Nn]ot shown)\b|(?:是|为)?(?:错|不))"
)

# Behind a letter: further ones, as ", B and D" in "A, B and D are wrong".
AND_LETTERS = re.compile(
    r"(?:[\"')\]]{0,2}(?:,(?:[ \t]{1,3}(?:and|or|nor)\b)?|[ \t]{1,3}(?:and|or|nor)\b|[、和与及])"
    r"[ \t]{0,3}(?:option\s)?[\"'(\[]{0,2}" + OPTION + "){1,9}"
)

# "not B", "rather than option C", "eliminates A or D", "不是B"; never over the end of a line.
NOT_LETTER = re.compile(
    r"(?:\bnot|n't|\bcannot|\bneither|\bnor|\bunlike|\brather than|\binstead of|\bthan|\bexcept|"
    r"\beliminat(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out|\bexclud(?:e|es|ed|ing)|"
    r"\bthought (?:of|it was)|不选|不是|而非|排除)"
    r"(?:[ \t]{1,3}(?:be|choose|pick|select|think|that|the|correct|right|answer|is|it's|it)\b){0,4}"
    r"[ \t]{0,3}(?:(?:options?|choices?)[ \t]{1,3})?[\"'(\[]{0,2}"
    + OPTION
    + r"(?:[\"')\]]{0,2}[ \t]{1,3}(?:or|nor)[ \t]{1,3}(?:option\s)?[\"'(\[]{0,2}"
    + OPTION
    + "){0,1}",
    re.I,
)

# "does not show a piano", "not like a dog", "no cat": the text of an option that is not there.
NOT_TEXT = re.compile(
    r"(?:\b(?:do|does|did)(?:n't| not)[ \t]\w{2,14}"
    r"|\b(?:not|never|no|without|neither|nor|cannot)|n't)\b"
    r"(?:[ \t]{1,3}(?:actually|really|any|an?|the|to|be|have|show|sound|look|seem|appear|like|hear|"
    r"heard|see|seen|contain|include|feature|depict|play|present|visible|of)\b){0,4}"
    rf"[ \t]{{1,3}}([{MARK}])",
    re.I,
)

# "between A, B and C": none of them is chosen.
BETWEEN = re.compile(
    r"\b(?:between|among)[ \t]{1,3}(?:options?[ \t]{1,3})?"
    + OPTION
    + "(?:,[ \\t]{0,3}"
    + OPTION
    + r"){0,9},?[ \t]{1,3}(?:and|or)[ \t]{1,3}"
    + OPTION,
    re.I,
)

# What "no" and "true" do not say here.
NO_DOUBT = re.compile(r"\b(?:there is )?no doubt\b[\s,]{0,3}", re.I)
NOT_TRUE = re.compile(r"\bis(?: not|n't) (true|false)\b", re.I)

# A sentence of what would be: "B would be correct if ..", "Had he stayed, B would ..". "If we look
# closely" and "If I had to choose" suppose nothing.
SUPPOSED = re.compile(
    r"(?<!\bas )\bif (?!(?:I|we|you|one)\b(?! (?:ignore|miss|remove|change|left out)))"
    r"|\b(?:unless|otherwise|in (?:another|a different|other))\b"
    r"|(?:^|[,;]\s)\s{0,3}(?:had|were)\s|\b(?:correct|right|answer|true|chosen)\s(?:had|were)\s",
    re.I,
)
WOULD = re.compile(r"\b(?:would|could|might)\b", re.I)
SENTENCE = re.compile(r"[^.!?;。！？；\n]{1,600}[.!?;。！？；\n]{0,5}")

# A list of single letters from its beginning: "B, e", "(A) and (C)", "options A; B".
LETTER_LIST = re.compile(
    r"[\s\"'(\[]{0,4}(?:both\s)?(?:options?\s{1,3})?[\"'(\[]{0,2}([A-Za-z](?![A-Za-z0-9]|'[A-Za-z])"
    r"(?:[\"')\]]{0,2}(?:\s{0,3}[,;/&|、+]\s{0,3}|\s{1,3}|(?=\())(?:(?:and|or)\s{1,3})?(?:option\s{1,3})?"
    r"[\"'(\[]{0,2}[A-Za-z](?![A-Za-z0-9]|'[A-Za-z])){1,25})"
)

# "The answers are", "Correct options:"; a list of letters follows.
ANSWERS_ARE = re.compile(ANSWER_NOUN + IS + "|" + ANSWER_ELSEWHERE, re.I)

# A line that begins with a capital as a label: "B. sad", "(C) glad", "- E".
LABELLED_LINE = re.compile(r"[\s•(-]{0,6}[A-Z](?:[).:,]|\s{0,3}$)")

# The number or bullet of an entry of a list, before a letter: the "1. " of "1. A".
ENTRY = re.compile(
    r"^[ \t]{0,8}(?:(?:\(?\d{1,2}[.):]|[-•])[ \t]{1,3}|[①-⑳][ \t]{0,3})"
    rf"(?=[\"'(\[]{{0,2}}[A-Z]\b|[{MARK}{FULL}])",
    re.M,
)

# "All of them except", before letters.
ALL_EXCEPT = re.compile(
    r"\ball(?: of)?(?: (?:the|them|options|letters)){0,3} (?:except|but)\b", re.I
)

# A letter that leads all that is said: the "(b)." of "(b). blue".
FIRST_LETTER = re.compile(
    r"[\s\"'(\[<]{0,6}([A-Za-z])(?![A-Za-z0-9&]|['/][A-Za-z])[\s\"')\]>.:,;!–—-]{0,6}",
)

# The letter of an option as it is written in a data set: "A. ", "(A) ", "A) ", "A: ", "A、".
OPTION_LABEL = re.compile(
    r"\s*(?:[(\[]\s?([A-Za-z])\s?[)\]][.:]?|([A-Za-z])\s?[.):、．,](?!\d)|([A-Za-z])\s*$)\s*"
)

# Words that the rules themselves need: an option of these words alone is no mark inside a reply.
WORDS_OF_RULES = frozenset(
    [
        "answer",
        "correct",
        "right",
        "wrong",
        "incorrect",
        "true",
        "false",
        "is",
        "not",
        "are",
        "both",
        "option",
        "choice",
        "best",
        "the",
        "a",
        "an",
        "if",
        "would",
        "it",
        "neither",
        "none",
        "so",
        "i",
        "or",
        "and",
    ]
)

# Characters of a number with its unit; longer texts are not read as one, which takes time.
LONGEST_NUMBER = 200

# --------------------------------------------------------------------------- options


def bodies_of(options: list[str]) -> dict[str, str]:
    """{letter: text} of options; where one has no letter, all are lettered by their places.

    >>> bodies_of(["A. red", "B. blue"]), bodies_of(["(A) red"]), bodies_of(["red", "A dog"])
    ({'A': 'red', 'B': 'blue'}, {'A': 'red'}, {'A': 'red', 'B': 'A dog'})
    """
    bodies = {}
    for option in options:
        match = OPTION_LABEL.match(same_characters(option))
        if not match:
            return {chr(65 + i): bare(text) for i, text in enumerate(options[:26])}
        letter = (match[1] or match[2] or match[3]).upper()
        bodies[letter] = bare(same_characters(option)[match.end() :])
    return bodies


def bare(text: str) -> str:
    r"""An option or a reply without marks, its formulas in one spelling.

    >>> bare(r"**$\sqrt{2}$**"), bare("√2")
    ('√2', '√2')
    """
    return unmarked(one_spelling(text))


def key_of(text: str, fold: bool, symbols: bool = True) -> tuple[str, ...]:
    """The tokens by which an option's text is found, without a leading article."""
    found = [token for token in tokens(text, fold) if symbols or token.is_word]
    words = [token.text for token in found]
    return tuple(words[1:] if begins_with_article(text) else words)


def begins_with_article(text: str) -> bool:
    """Whether an article and a further word begin the text: "A dog", but not "A, B and C"."""
    return bool(re.match(r"\s{0,3}(?:an?|the) +[^\W_]", text, re.I))


@functools.lru_cache(maxsize=256)
def keys_of(bodies: tuple[tuple[str, str], ...]) -> tuple[dict, dict, bool]:
    """Two tables {first token: [(key, letter), longest first]}, and whether case is folded.

    The first table keeps symbols and signs; the second one, of words alone, has only the texts
    which words alone tell apart. A text that two options share is in neither.
    """
    folded = [key_of(body, True) for _, body in bodies]
    exact = [key_of(body, False) for _, body in bodies]
    fold = len(set(folded)) == len(set(exact))
    tables = []
    for symbols in (True, False):
        keys = [key_of(body, fold, symbols) for _, body in bodies]
        table: dict[str, list] = {}
        for (letter, _), key in zip(bodies, keys, strict=True):
            if key and keys.count(key) == 1:
                table.setdefault(key[0], []).append((key, letter))
        for entries in table.values():
            entries.sort(key=lambda entry: -len(entry[0]))
        tables.append(table)
    return tables[0], tables[1], fold


def find_text(words: list[str], i: int, table: dict) -> tuple[str, int] | None:
    """The option whose text begins with the word at i, and the number of its words; or None."""
    for key, letter in table.get(words[i], ()):
        if tuple(words[i : i + len(key)]) == key:
            return letter, len(key)
    return None


def is_common(words: tuple[str, ...] | list[str]) -> bool:
    """Whether the words may be anything but an option: a letter, or words of the rules."""
    letter = len(words) == 1 and len(words[0]) == 1 and words[0].isascii() and words[0].isalpha()
    return letter or all(word in WORDS_OF_RULES for word in words)


def with_marks(text: str, bodies: dict[str, str]) -> str:
    """The text with a mark in place of each option's text, and of a letter with its own text.

    >>> ascii(with_marks("A blue car, (B) blue.", {"A": "red", "B": "blue"}))
    "'\\\\ue001 car, (\\\\ue101.'"
    """
    table, word_table, fold = keys_of(tuple(bodies.items()))
    letters = list(bodies)
    spans: list[tuple[int, int, str]] = []
    found = tokens(text, fold)
    for entries in (table, word_table):
        if entries is word_table:
            found = [token for token in found if token.is_word]
        spans = merged(spans, text_spans(found, entries, text, bodies))

    pieces, end = [], 0
    for start, stop, letter in spans:
        pieces += [text[end:start], chr(TEXT_MARK + letters.index(letter))]
        end = stop
    marked = "".join([*pieces, text[end:]])

    # a letter and its own text are one mark
    def full(match: re.Match) -> str:
        letter, mark = (match[1], match[2]) if ord(match[1]) < 128 else (match[2], match[1])
        place = ord(mark) - TEXT_MARK
        # "a piano", "A piano is heard": an article; "A piano." may be the letter and its text
        is_before = match[1] == letter and marked[match.end(1) : match.start(2)].isspace()
        if is_before and (letter == "a" or (letter == "A" and GOES_ON.match(marked, match.end()))):
            return mark
        return chr(FULL_MARK + place) if letters[place] == letter.upper() else match[0]

    marked = LETTER_BEFORE_TEXT.sub(full, marked)
    return LETTER_BEHIND_TEXT.sub(full, marked)


def text_spans(
    found: list[Token], table: dict, text: str, bodies: dict[str, str]
) -> list[tuple[int, int, str]]:
    """(start, end, letter) of the option texts among the tokens, with an article before them."""
    words = [token.text for token in found]
    spans = []
    i = 0
    while i < len(words):
        hit = find_text(words, i, table)
        if hit is None or is_common(words[i : i + hit[1]]):
            i += 1
            continue
        letter, n = hit
        start, end = found[i].start, found[i + n - 1].end

        # a part of a formula is no option ("√3", "10^3"), nor are its words with other symbols
        if IN_FORMULA.search(text, max(start - 2, 0), start) or text.startswith("^", end):
            i += 1
            continue
        if not symbols_agree(with_unit(text, start, end), bodies[letter]):
            i += 1
            continue

        # an article before the text belongs to it, unless it may be the letter of this option
        article = found[i - 1] if i else None
        may_be_letter = letter == "A" and not begins_with_article(bodies[letter])
        if article and article.text.lower() in ("a", "an", "the") and not may_be_letter:
            between = text[article.end : start]
            if between == " ":
                start = article.start
        spans.append((start, end, letter))
        i += n
    return spans


def merged(first: list, second: list) -> list:
    """The spans of both lists in order; those of the second that overlap the first are left out."""
    result = sorted([*((*span, 0) for span in first), *((*span, 1) for span in second)])
    kept: list = []
    for start, end, letter, rank in result:
        if kept and start < kept[-1][1]:
            longer = end - start > kept[-1][1] - kept[-1][0]
            if kept[-1][3] > rank or (kept[-1][3] == rank and longer):
                kept[-1] = (start, end, letter, rank)
            continue
        kept.append((start, end, letter, rank))
    return [span[:3] for span in kept]


def letter_at(character: str, bodies: dict[str, str]) -> str | None:
    """The option that a letter or a mark stands for; None where no option has the letter."""
    code = ord(character)
    if code >= TEXT_MARK:
        place = code - (FULL_MARK if code >= FULL_MARK else TEXT_MARK)
        return list(bodies)[place] if place < len(bodies) else None
    return character.upper() if character.upper() in bodies else None


def is_text(character: str) -> bool:
    """Whether it is the mark of an option's text without its letter."""
    return TEXT_MARK <= ord(character) < FULL_MARK


def is_article(text: str, match: re.Match, group: int = 1) -> bool:
    """Whether the lone "A" or "I" that was matched is a word of the sentence, not an option."""
    if match[group] == "I":
        return bool(NEXT_WORD_OF_I.match(text, match.end(group)))
    return match[group] == "A" and bool(NEXT_WORD.match(text, match.end(group)))


# --------------------------------------------------------------------------- one letter, strictly


def letter_of(answer: str, options: list[str]) -> str | None:
    """The option letter an answer means, or None.

    That is a lone letter ("B", "(b).", "B. red disc"), or the text of exactly one option.

    >>> options = ["A. red", "B. blue"]
    >>> letter_of("(b)", options), letter_of("blue", options), letter_of("green", options)
    ('B', 'B', None)
    >>> letter_of("B. It is A or B", options), letter_of("E", options), letter_of("E", [])
    (None, None, 'E')
    """
    bodies = bodies_of(options)
    reply = bare(answer)
    if not options:  # the options may stand in the question: any letter may be one
        match = re.fullmatch(r"[(\[]?([A-Za-z])[)\]]?(?:[.:)].*)?", reply, flags=re.DOTALL)
        return match[1].upper() if match else None
    if letter := whole_choice(reply, bodies):
        return letter

    # "B. anything", as long as the rest is short and names no other option
    match = re.match(r"[(\[]?([A-Za-z])[)\]]?[.:)]", reply)
    if not match or match[1].upper() not in bodies or len(reply) > 2000:
        return None
    read = {choice_in(answer, options, several) for several in ("first", "last")}
    return match[1].upper() if read == {match[1].upper()} else None


def whole_choice(reply: str, bodies: dict[str, str]) -> str | None:
    """Rule 1: all of the reply is a letter, or one with its option's text, or the text.

    >>> bodies = {"A": "red", "B": "blue"}
    >>> whole_choice("(b).", bodies), whole_choice("B) Blue", bodies), whole_choice("Blue.", bodies)
    ('B', 'B', 'B')
    >>> print(whole_choice("B or C", bodies))
    None
    """
    if len(reply) > 200 + 3 * max(map(len, bodies.values()), default=0):
        return None

    head = FIRST_LETTER.match(reply)
    if head and head[1].upper() in bodies:
        letter = head[1].upper()
        if head.end() == len(reply):
            return letter
        body = key_of(bodies[letter], True)
        rests = (reply[head.start(1) + 1 :].lstrip(" .:)]"), reply[head.end() :])
        is_word = letter in "AI" and reply[head.end(1) : head.end()] == " "
        # with and without a sign before the text
        if body and not is_word and body in (key_of(rest, True) for rest in rests):
            return letter
    # first as written, then with symbols and signs, then by the words alone
    forms = (
        lambda text: "".join(text.casefold().split()),
        lambda text: key_of(text, False),
        lambda text: key_of(text, True),
        lambda text: key_of(text, True, symbols=False),
    )
    for form in forms:
        wanted = form(reply)
        same = [letter for letter, body in bodies.items() if wanted and form(body) == wanted]
        if len(same) == 1:
            return same[0] if symbols_agree(reply, bodies[same[0]]) else None

    # numbers in another spelling: "three", "3 kg", "0.50"
    if len(reply) > LONGEST_NUMBER:
        return None
    return by_value(reply, number(reply), bodies)


def by_value(reply: str, value: float | None, bodies: dict[str, str]) -> str | None:
    """The one option that is this number, where all options are numbers; not one in another unit.

    >>> by_value("three", 3.0, {"A": "2 kg", "B": "3 kg"}), by_value("3", 3.0, {"A": "3", "B": "a"})
    ('B', None)
    >>> print(by_value("3 g", 3.0, {"A": "2 kg", "B": "3 kg"}))
    None
    """
    if value is None or max(map(len, bodies.values())) > LONGEST_NUMBER:
        return None
    values = {letter: number(body) for letter, body in bodies.items()}
    same = [letter for letter in values if values[letter] == value]
    if None in values.values() or len(same) != 1:
        return None

    # what stands beside the number in both
    unit = beside_number(reply)
    other_unit = beside_number(bodies[same[0]])
    agree = not unit or not other_unit or other_unit <= unit
    return same[0] if agree and symbols_agree(reply, bodies[same[0]]) else None


def is_bare_number(body: str) -> bool:
    """Whether nothing stands beside an option's number: neither a word nor a symbol."""
    if len(body) > LONGEST_NUMBER:
        return False
    return not beside_number(body) and not any(symbols_in(body))


def beside_number(text: str) -> set[str]:
    """The words of a text that are no numbers: beside_number("3 red cars") = {"red", "cars"}."""
    words = [token.text for token in tokens(text) if token.is_word]
    return {word for word in words if number(word) is None}


# --------------------------------------------------------------------------- one letter, leniently


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
    reply = bare(text)
    if not bodies:
        return None

    # rule 1
    if letter := whole_choice(reply, bodies):
        return letter

    # "No doubt, yes"; "not true", where "True" and "False" are the options
    reply = NO_DOUBT.sub("", reply)
    if {words_of(body) for body in bodies.values()} == {"true", "false"}:
        reply = NOT_TRUE.sub(opposite, reply)

    # rules 2 to 5: the first one that finds letters decides
    reply = without_wrong(without_supposed(with_marks(reply, bodies)), bodies)
    rest = without_list(reply, bodies)
    letters = declared(reply, bodies)
    letters = letters or labelling(rest, bodies)
    letters = letters or named(rest, bodies)
    letters = letters or alone(rest, bodies)
    if letters:
        return letters[0] if several == "first" else letters[-1]

    # where "yes" and "no" are options, the first word chooses one of them
    letters = [letter_at(c, bodies) for c in rest if is_text(c)]
    first = rest[:1]
    texts = [words_of(body).partition(" ")[0] for body in bodies.values()]
    if letters and is_text(first) and {"yes", "no"} <= set(texts):
        return letters[0]
    word = words_of(rest).partition(" ")[0]
    if word in ("yes", "no") and texts.count(word) == 1 and {"yes", "no"} <= set(texts):
        return list(bodies)[texts.index(word)]

    # rule 6
    if CANNOT_ANSWER.search(rest):
        return None
    if letters:
        return letters[0] if len(set(letters)) == 1 else None

    # where all options are bare numbers, the number of a reply that is no formula
    operators, _ = symbols_in(rest)
    if operators or not all(is_bare_number(body) for body in bodies.values()):
        return None
    return by_value("", number_in(rest), bodies)


def opposite(match: re.Match) -> str:
    """What NOT_TRUE has matched, without its "not"."""
    return "is false" if match[1].lower() == "true" else "is true"


def without_supposed(text: str) -> str:
    """The reply without the letters and marks in sentences of what would be.

    >>> without_supposed("B. C would be correct if it were red.")
    'B.   would be correct if it were red.'
    """

    def mended(match: re.Match) -> str:
        sentence = match[0]
        if not (SUPPOSED.search(sentence) and WOULD.search(sentence)):
            return sentence
        # "The answer is B, because C would be right if ..": the part before the last comma stays
        cut = 0
        said = re.search(
            rf"\b(?:answer|option|choice) is [(\"']?(?:[A-Z]\b|[{MARK}{FULL}])[^,;:]{{0,5}}",
            sentence,
        )
        if said:
            cut = said.end()
        return sentence[:cut] + LONE_LETTER.sub(" ", sentence[cut:])

    return SENTENCE.sub(mended, text)


def without_wrong(text: str, bodies: dict[str, str]) -> str:
    """The reply, with a blank in place of every letter that it says is not the answer.

    >>> bodies = {"A": "red", "B": "blue", "C": "green", "D": "grey"}
    >>> without_wrong("A. is wrong; it is B, not C. D", bodies)
    ' . is wrong; it is B, not  . D'
    """
    wrong = set()  # positions in the text

    # "not B", "neither A nor C"
    for match in NOT_LETTER.finditer(text):
        for group in (1, 2):
            if match[group] and not match[group].islower():
                wrong.add(match.start(group))
    for match in NOT_TEXT.finditer(text):
        wrong.add(match.start(1))

    # "between A, B and C"
    for match in BETWEEN.finditer(text):
        for letter in LONE_LETTER.finditer(text, match.start(1), match.end()):
            if not letter[1].islower():
                wrong.add(letter.start(1))

    for match in LONE_LETTER.finditer(text):
        if letter_at(match[1], bodies) is None or match[1].islower():
            continue

        # "B is wrong", "B. blue is wrong"
        if IS_WRONG.match(text, match.end()):
            wrong.add(match.start())
            continue

        # "A, B and D are wrong"; but in "It is A, and B is wrong" A is the answer
        others = AND_LETTERS.match(text, match.end())
        is_answer = text.endswith(("is ", ": "), 0, match.start())
        if others and not (is_answer or is_text(match[1])) and IS_WRONG.match(text, others.end()):
            for letter in LONE_LETTER.finditer(text, match.start(), others.end()):
                if not letter[1].islower():
                    wrong.add(letter.start())

    if not wrong:
        return text
    return "".join(" " if i in wrong else c for i, c in enumerate(text)).strip("\n")


def without_list(text: str, bodies: dict[str, str]) -> str:
    """The reply without the options where it only repeats them, in order from the first one on.

    Fewer than three repeated options stay, unless they are all options there are.

    >>> bodies = {"A": "red", "B": "blue"}
    >>> without_list(with_marks("A. red B. blue So B", bodies), bodies)
    'So B'
    """
    spans = []  # of repeated options
    last = ""
    for match in LONE_LETTER.finditer(text):
        letter = letter_at(match[1], bodies)
        is_full = ord(match[1]) >= FULL_MARK
        follows = text[match.end() : match.end() + 1]
        if letter is None or is_text(match[1]) or not (is_full or follows in (".", ")", ":")):
            continue

        # an option is repeated with its own text, or at the beginning of a line
        before = text[max(match.start() - 40, 0) : match.start()].rpartition("\n")[2]
        if not is_full and before.strip(" -(•") and not (spans and not before.strip(" .(")):
            continue
        if letter <= last:
            break
        if spans or letter == min(bodies):
            spans.append((match.start(), match.end() + (follows in (".", ")", ":"))))
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
    >>> declared(with_marks("Answer: blue", bodies), bodies)
    ['B']
    """
    statements = []  # (position in the text, letter)
    hints = []  # texts of options behind "it is": they count where nothing else is stated
    for link in ANSWER_IS.finditer(text):
        statements += stated(text, link.end(), bodies, certain=True)
    for link in I_CHOOSE.finditer(text):
        statements += stated(text, link.end(), bodies, certain=False)
    for link in IT_IS.finditer(text):
        for place, letter in stated(text, link.end(), bodies, certain=False):
            (hints if is_text(text[place]) else statements).append((place, letter))

    # "The statement is false", where "False" is an option
    for link in itertools.chain(ANSWER_IS.finditer(text), THIS_IS.finditer(text)):
        hints += common_text(text, link.end(), bodies)
        if link[0].lower().endswith("both"):  # a word of the link, or the option "Both"
            hints += common_text(text, link.end() - len("both"), bodies)

    # "So B."
    for match in SO_LETTER.finditer(text):
        letter = letter_at(match[1], bodies)
        if letter and not match[1].islower():
            statements.append((match.start(1), letter))

    # "B is correct"
    for match in LONE_LETTER.finditer(text):
        letter = letter_at(match[1], bodies)
        if letter and IS_RIGHT.match(text, match.end()):
            statements.append((match.start(1), letter))

    return [letter for _, letter in sorted(statements or hints)]


def stated(text: str, start: int, bodies: dict[str, str], certain: bool) -> list[tuple[int, str]]:
    """(place, letter) of what stands at `start`: "B" or "B or C", or an option's text.

    certain: an "A" there is a letter, even where a word follows that could follow an article.
    """
    match = STATED_LETTER.match(text, start)
    letter = letter_at(match[1], bodies) if match else None
    if letter is None:
        return []

    # no letter: a word in lower case, the pronoun "I", an article
    is_word = match[1].islower() and not AFTER_LOWER_CASE.match(text, match.end())
    if is_word or (is_article(text, match) and not (certain and match[1] == "A")):
        return []
    found = [(match.start(1), letter)]
    other = OR_LETTER.match(text, match.end())
    if other and letter_at(other[1], bodies):
        found.append((other.start(1), letter_at(other[1], bodies)))
    return found


def common_text(text: str, start: int, bodies: dict[str, str]) -> list[tuple[int, str]]:
    """(place, letter) of the option at `start` whose text is a word of the rules, as "True".

    >>> common_text("It is true.", 5, {"A": "True", "B": "False"})
    [(5, 'A')]
    """
    for letter, body in bodies.items():
        key = key_of(body, True)
        if len(body) > 1 and key and is_common(key):
            words = [token.text for token in tokens(text[start : start + 40 + len(body)])]
            if tuple(words[: len(key)]) == key:
                return [(start, letter)]
    return []


def labelling(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 3: the letter that leads the reply like a label, else the one that is its last line.

    >>> labelling("b) blue", {"B": "blue"}), labelling("Hm.\\nB", {"B": "blue"})
    (['B'], ['B'])
    """
    match = LEADING_LETTER.match(text.lstrip())
    letter = letter_at(match[1] or match[2], bodies) if match else None
    if letter:
        return [letter]
    line = (text.splitlines() or [""])[-1].strip(" \t\"'()[]<>.:,;!")
    if len(line) == 1 and (line.isascii() or "\ue000" <= line <= "\ue1ff"):
        letter = letter_at(line, bodies)
        return [letter] if letter else []
    return []


def named(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 4: the letters behind "option".

    >>> named("Option B, unlike choice c.", {"B": "", "C": ""})
    ['B', 'C']
    """
    letters = []
    for match in OPTION_LETTER.finditer(text):
        character = match[1] or match[2]
        is_word = character.islower() and not AFTER_LOWER_CASE.match(text, match.end())
        letter = letter_at(character, bodies)
        if letter and not is_word:
            letters.append(letter)
    return letters


def alone(text: str, bodies: dict[str, str]) -> list[str]:
    """Rule 5: the lone capitals that are options, and no word of the sentence.

    >>> alone("A man, I think. So B and A", {"A": "", "B": ""})
    ['B', 'A']
    """
    letters = []
    for match in LONE_LETTER.finditer(text):
        letter = letter_at(match[1], bodies)
        if letter is None or is_text(match[1]) or match[1].islower() or is_article(text, match):
            continue
        operator = BEHIND_OPERATOR.search(text, max(match.start() - 2, 0), match.start())
        if operator or IN_EQUATION.match(text, match.end()):
            continue
        before = text[max(match.start() - 4, 0) : match.start()]
        is_initial = BEHIND_INITIAL.search(before) and text.startswith(".", match.end())
        if INITIAL.match(text, match.end()) or is_initial:
            continue
        if not LETTERED_THING.search(text, max(match.start() - 12, 0), match.start()):
            letters.append(letter)
    return letters


# --------------------------------------------------------------------------- several letters


def labels_of(text: str, options: list[str]) -> frozenset[str]:
    """The labels of a multi-label answer: the option letter an item means, else its plain text.

    >>> sorted(labels_of("B, e", ["A. x", "B. y", "E. z"])), sorted(labels_of("Happy; calm", []))
    (['B', 'E'], ['calm', 'happy'])
    """
    labels = []
    for item in dict.fromkeys(re.split(r"[,;|\n、，；]", text)):
        label = plain(item)
        if label:
            lone = label.upper() if len(label) == 1 and label.isascii() else ""
            labels.append(letter_of(item, options) or lone or label)
    return frozenset(labels)


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
    bodies = bodies_of(options)
    reply = ENTRY.sub("", unmarked(text))
    labels = labels_of(reply, options)
    if not bodies or all(len(label) == 1 for label in labels):
        return labels

    marked = ENTRY.sub("", with_marks(bare(text), bodies))
    if exception := ALL_EXCEPT.search(marked):
        return frozenset(bodies) - letters_of_line(marked[exception.end() :].strip(), bodies)
    marked = without_wrong(without_supposed(marked), bodies)
    by_text = frozenset(letter_at(c, bodies) for c in marked if is_text(c))
    return letters_in(marked, bodies) or by_text or labels


def letters_in(marked: str, bodies: dict[str, str]) -> frozenset[str]:
    """The option letters that a marked reply lists: behind the last "the answers are", else in its
    first line that names any.

    >>> bodies = {"A": "calm", "B": "sad", "C": "glad", "E": "bored"}
    >>> sorted(letters_in("B,E because A is wrong", bodies)), sorted(letters_in("BE", bodies))
    (['B', 'E'], ['B', 'E'])
    >>> sorted(letters_in("be", bodies))
    []
    """
    # a letter with its own text is a letter here, and further texts stand out of the way
    places = {FULL_MARK + i: letter for i, letter in enumerate(bodies)}
    reply = marked.translate(places)
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
        texts = (letter_at(c, bodies) for c in line if is_text(c))
        return frozenset([*letters, *texts])
    return frozenset(alone(line, bodies))
