"""More than 2,000 replies with what they answer, by kind: how well are replies read?

    corpus()        all of them: Reply(kind, reader, text, options, answer, heldout)
    is_read(reply)  "right", "wrong" (another answer) or "none" (no answer was found)

    python -m tests.reading.corpus      prints right, wrong and none by kind

A reply is a wording with an option filled in: {L} its letter, {l} the letter in lower case, {T} its
text, {O} and {U} another option's letter and text, {LIST} all options, one a line. Wordings marked
as held out were written before the rules, by the same author.
"""

import collections
from dataclasses import dataclass

from problems import rouge
from reading.letters import choice_in, labels_in
from reading.numbers import number_in
from reading.yes_no import yes_or_no

CARS = ["A. A red car", "B. A blue car", "C. A green bus", "D. A white van"]
PLACES = ["A. left of the door", "B. on the table", "C. behind her", "D. In the U.S. office"]
OPTIONS = {
    "cars": CARS,
    "places": PLACES,
    "round": ["(A) red", "(B) dark red", "(C) blue-green", "(D) not red"],
    "angles": ["A) 50 °C", "B) 60 °C", "C) 70 °C", "D) 80 °C"],
    "joule": [f"{'ABCDEFGHIJ'[i]}. {100 * i + 100} J" for i in range(10)],
    "percent": ["A. 5.12%", "B. -5.12%", "C. 0.512%", "D. -0.512%"],
    "order": ["A. v1 < v2", "B. v1 > v2", "C. v1 = v2", "D. K<0"],
    "formulas": ["A. x² + 1", "B. x³ + 1", "C. x² - 1", "D. F = m·a"],
    "both": [
        "A. The dog barks",
        "B. The cat runs",
        "C. The bell rings",
        "D. The door shuts",
        "E. Both B and D",
        "F. Only D is correct",
        "G. A, B and C are correct",
    ],
    "does": ["A. Yes, he does", "B. No, he does not", "C. It is not shown", "D. He can't tell"],
    "people": ["A. Person B leaves", "B. Person A leaves", "C. Team C wins", "D. I do not know"],
    "can": [
        "A. A can is opened while he speaks",
        "B. A man coughs",
        "C. A bell",
        "D. I see him go",
    ],
    "chinese": ["A. 红色的球", "B. 蓝色的球", "C. 绿色的车", "D. 白色的车"],
    "numbers": ["A. 3", "B. 2", "C. 10", "D. 1"],
}

# ------------------------------------------------------------------------------------- wordings
# one letter is stated
STATED = """\
{L}
{L}.
({L})
**{L}**
The answer is {L}.
The correct answer is ({L}).
Answer: {L}
The answer is: **{L}**
**Final Answer:** {L}
I choose {L}.
I would go with option {L}.
Option {L} is correct.
{L} is the correct answer.
So the answer is {L}.
The video shows a street at night.\\n\\n{L}
It must be {L}.
Therefore, {L}.
I think it is {L}.
The best choice is {L} because of the sound.
Only {L} is correct.
I'm sure that the answer is {L}.
I'll look at the frames again. The answer is {L}.
I looked at whether the man stops or not\\nThe answer is {L}.
He does not\\n{L}
The answer is {L}: nothing else fits.
Correct option: {L}"""

STATED_HELDOUT = """\
Based on the video, the answer is **{L}**.
Looking at the frames in order, I believe option {L} best describes what happens.
After reviewing the audio and the frames, I'd go with {L}.
The most plausible choice here is ({L}).
My final answer: {L}
### Answer\\n{L}
Therefore the answer should be option {L}.
Option **{L}** is the one that matches.
I'm fairly confident it's {L}.
Among the options, {L} is the most accurate.
The answer is {L}, based on the audio.
{L} is what the video shows.
Out of these, I'd pick {L}.
It has to be {L}, given the sound.
The response that fits best is {L}.
I'll say {L}.
Sure, here is my answer: {L}
In conclusion, {L} is the answer.
Correct: {L}
I've watched it twice, so {L} it is.
Given what's heard at 0:05, the right answer must be {L}.
The option that matches is {L}.
Let's go with {L}.
Thus the answer is option ({L})"""

# a letter with its text
TEXT = """\
{L}. {T}
({L}) {T}
{L}: {T}
**{L}. {T}**
The answer is {L}. {T}
The answer is ({L}) {T}.
Answer: {L}. {T}
{L}. {T} is the correct answer.
{L}. {T} is correct.
The correct answer is {L}: {T}, as seen.
I choose {L}. {T}
{T} ({L})
The video shows a street at night.\\n\\n{L}. {T}
The right answer is "{L}. {T}"."""

TEXT_HELDOUT = """\
{L}. {T}\\n\\nThe video clearly shows this at 0:12.
**Answer:** {L}) {T}
So, the correct choice would be {L}: {T}.
Thus, option {L}, "{T}", is the correct one.
The answer would be "{L}. {T}".
Based on the clip, **{L}. {T}** is the best option.
The correct option is:\\n\\n**{L}. {T}**
I'd say {L} ({T}).
Final answer: ({L}) {T}
The frames support {L}. {T}"""

# the text alone
ALONE = """\
{T}
{T}.
"{T}"
The answer is {T}.
Answer: {T}
The answer is "{T}".
**{T}**
The correct answer is: {T}
I choose {T}.
I pick "{T}".
So it is {T}."""

ALONE_HELDOUT = """\
Based on the video, the answer is {T}.
I would say the correct answer is "{T}".
The best option is {T}.
**Answer:** {T}
My answer would be {T}.
Final answer: {T}
The correct option is "{T}"."""

# letters that are denied, or would be right in another world
DENIED = """\
The answer is {L}, not {O}.
It is not {O}. The answer is {L}.
{O} is wrong. The answer is {L}.
{O} is incorrect, so {L}.
{O} isn't right; {L} is.
Not {O} but {L}.
The answer isn't {O}, it's {L}.
Rather than {O}, I choose {L}.
{O} can be ruled out. The correct answer is {L}.
I don't think it's {O}. I think it's {L}.
The answer cannot be {O}. It must be {L}."""

DENIED_HELDOUT = """\
{O} does not match the audio, so the answer is {L}.
While {O} may seem tempting, the correct answer is {L}.
Let's analyze. {O} is incorrect because it never appears. {L} is right.
{O} contradicts what is heard. Hence the answer is {L}.
The answer is {L}; {O} is not supported by the video.
I first thought of {O}, but the answer is {L}.
I eliminated {O}. Final answer: {L}"""

SUPPOSED = """\
The answer is {L}. {O} would be correct if the car were red.
{L} is correct. If the sound came first, {O} would be right.
The answer is {L}. {O} would be the answer only if he left.
Answer: {L}. {O} could be correct in another scene.
If it were night, the answer would be {O}. The answer is {L}.
The answer is {L}. Had he stayed, {O} would have been correct."""

SUPPOSED_HELDOUT = """\
The correct answer is {L}. {O} might have been correct had the bell rung.
{L}. One might choose {O} if the sound were missing.
Answer: {L}\\n\\nIf the order were reversed, the answer would be {O}.
I choose {L}. Were the light off, {O} would be the right choice."""

# all options are repeated
REPEATED = """\
{LIST}\\n\\n{L}
{LIST}\\nThe answer is {L}.
Options:\\n{LIST}\\n\\nAnswer: {L}
{LIST}\\n\\n{L}. {T}
The options are:\\n{LIST}\\nI choose {L}."""

REPEATED_HELDOUT = """\
Question: what is it?\\n{LIST}\\nFinal answer: {L}
Let me look at the options:\\n\\n{LIST}\\n\\nThe correct answer is **{L}**.
{LIST}\\n\\n**{L}. {T}**"""

BOXED = """\
\\\\boxed{{{L}}}
$\\\\boxed{{\\\\text{{{L}}}}}$
The answer is $\\\\boxed{{{L}}}$.
\\\\boxed{{{L}. {T}}}
The answer is \\\\(\\\\mathbf{{{L}}}\\\\).
Thus \\\\[\\\\boxed{{\\\\textbf{{({L})}}}}\\\\]"""

BOXED_HELDOUT = """\
Final answer is \\\\boxed{{{L}}}.
The final answer is: $\\\\boxed{{\\\\mathrm{{{L}}}}}$. I hope it is correct.
So we get $$\\\\boxed{{{L}}}$$"""

SCRIPTS = """\
答案：{L}
答案是{L}。
答案是（{L}）
正确答案是 {L}
我选{L}
选{L}。
应该选择{L}，因为{O}不对
选项{L}正确
不选{O}，选{L}
答えは{L}です。
正解は{L}です
Ответ: {L}
Правильный ответ: {L}.
उत्तर: {L}
सही उत्तर {L} है।
정답은 {L}입니다.
정답: {L}
La respuesta es {L}.
La respuesta correcta es {L}.
La réponse est {L}.
Die Antwort ist {L}.
Die richtige Antwort ist {L}.
Resposta: {L}
الإجابة: {L}
الإجابة الصحيحة هي {L}"""

SCRIPTS_HELDOUT = """\
因此，正确答案是 {L}。
所以答案为{L}
综上所述，选{L}。
最終的な答えは{L}です。
Верный ответ — {L}.
따라서 정답은 {L}입니다.
La bonne réponse est {L}.
Antwort: {L}
Respuesta: {L}"""

REFUSALS = """\
I'm sorry, but I can't answer that.
I'm unable to watch videos.
I'd need more information.
I've no access to the clip.
I'll need the video.
N/A
Answer: N/A
I can't process A/V content.
C'mon, there is no clip.
I cannot determine the answer.
As an AI, I can't see a video.
None of the above
None of them.
I am not able to hear the sound.
Unknown
I don't know.
There isn't enough information to answer.
Could you give me the A-roll?
The Q&A is missing.
A video is needed.
Unable to tell from a still.
I can't say.
A. I. systems cannot watch clips.
No answer""".splitlines()

REFUSALS_HELDOUT = """\
I'm afraid I cannot help with this request.
Unfortunately, I don't have access to A/V data.
I apologize, but I'm not able to see the video.
The answer cannot be determined from what is given.
Sorry, I couldn't hear anything.
It's impossible to say.
Answer: n/a
I'd rather not guess.
A clear answer is not possible here.
I wasn't given any frames.""".splitlines()

# ------------------------------------------------------------------------------- several letters
FEELINGS = ["A. calm", "B. sad", "C. glad", "D. angry", "E. bored", "F. A little shy"]
SEVERAL = """\
{L}, {M}
{L},{M}
{L} and {M}
({L}), ({M})
{L}. {T}, {M}. {V}
{L}. {T}\\n{M}. {V}
1. {L}\\n2. {M}
1. {L}. {T}\\n2. {M}. {V}
1) {L}\\n2) {M}
- {L}\\n- {M}
* {L}. {T}\\n* {M}. {V}
The answer is {L} and {M}.
The answers are: {L}, {M}
Answer: {L}, {M}
**{L}, {M}**
\\\\boxed{{{L}, {M}}}
Options {L} and {M} are correct.
{T}, {V}
答案：{L}、{M}
{L}{M}"""
SEVERAL_HELDOUT = """\
The correct options are {L} and {M}.
Based on the video, the person shows:\\n1. {L}. {T}\\n2. {M}. {V}
Both {L} and {M} apply.
I would select {L} and {M}.
Final answer: {L}, {M}
The emotions are {T} and {V}.
**Answer:** {L}, {M}
- **{L}. {T}**\\n- **{M}. {V}**"""

# -------------------------------------------------------------------------------------- numbers
NUMBERS = {  # {N}: the number, {W}: in words
    "number": """\
{N}
{N}.
**{N}**
The answer is {N}.
Answer: {N}
There are {N} chairs.
I count {N}.
In total there are {N} chairs.
There are 33 chairs in the first room and 44 in the other.\\n\\n{N}
The total is {N}.
Final answer: {N}
Let me count: 1, 2, and so on. The answer is {N}.
So, {N}
{N} chairs in total
I see 31 red and 32 blue ones, so {N} in total.
答案：{N}
一共有{N}个
At 0:12 I see {N} of them.""",
    "number held out": """\
Based on the video, there are {N} chairs in the room.
The number of knocks is {N}.
I can count {N} distinct knocks in the clip.
The final count is **{N}**.
After counting carefully, I get {N}.
The bell rings {N} times.
Approximately {N}
It's {N}.
In frame 12, we see {N} people.
Total: {N}""",
    "number word": """\
{W}
{W}.
The answer is {W}.
There are {W} chairs.
I count {W} of them.
In total {W} chairs
three people and two dogs, so {W} in total
Answer: **{W}**
He knocks {W} times.
The total is {W}.""",
    "number word held out": """\
Based on the video, there are {W} chairs in the room.
The number of knocks is {W}.
It's {W}.
After counting, I get {W}.
I can hear {W} knocks in the clip.
Final answer: {W}""",
    "LaTeX number": """\
${N}$
\\\\boxed{{{N}}}
\\\\(\\\\boxed{{{N}}}\\\\)
The answer is $\\\\boxed{{{N}}}$.
The answer is \\\\({N}\\\\).
$\\\\text{{{N}}}$
$x = {N}$
\\\\boxed{{{N}\\\\text{{ cm}}}}""",
    "LaTeX number held out": """\
Thus the result is $$\\\\boxed{{{N}}}$$
The final answer is: $\\\\boxed{{{N}}}$. I hope it is correct.
So $y={N}$.""",
}
DIGITS = [("5", 5), ("12", 12), ("0", 0), ("1,200", 1200), ("4.5", 4.5), ("0,75", 0.75), ("-3", -3)]
DIGITS += [("−7", -7), ("1 200", 1200), ("7,250,000", 7250000)]
WORDS = [("five", 5), ("Seven", 7), ("twelve", 12), ("twenty-one", 21), ("a hundred", 100)]
WORDS += [("a dozen", 12), ("one hundred and five", 105)]

# whole replies by hand: text, value
BY_HAND_NUMBERS = {
    "number": [
        ("50%", 50),
        ("-5.12%", -5.12),
        ("5 cm", 5),
        ("90°", 90),
        ("$1,200.00", 1200),
        ("x=5", 5),
        ("4,5", 4.5),
        ("2,3", 2.3),
        ("4,5 meters", 4.5),
        ("1.2e3", 1200),
        ("1.234,5", 1234.5),
        ("1/2", 0.5),
        ("3/4 of them", 0.75),
        ("٥", 5),
        ("३", 3),
        ("５", 5),
        ("1_0", None),
        ("about 7 or so", 7),
        ("10:30", None),
        ("a few", None),
        ("I cannot count them.", None),
        ("€5", 5),
        ("12 km/h", 12),
        ("+4", 4),
        ("1e400", None),
        ("½", 0.5),
        ("1’200", 1200),
        ("The height is 1.80 m.", 1.8),
        ("The distance is 2,5 m.", 2.5),
        ("≈ 3.2", 3.2),
        ("n = 4", 4),
        ("100 %", 100),
        ("The room is 20 m²", 20),
        ("(6)", 6),
        ("I'd say 8", 8),
    ],
    "LaTeX number": [
        (r"\frac{1}{2}", 0.5),
        (r"$\frac{3}{4}$", 0.75),
        (r"90^\circ", 90),
        (r"\dfrac{1}{4}", 0.25),
        ("1.2×10^3", 1200),
        (r"$1.2 \times 10^{3}$", 1200),
        ("2^3", 8),
        (r"\boxed{-5.12\%}", -5.12),
        (r"5\,\text{cm}", 5),
        (r"$1{,}200$", 1200),
        (r"3 \cdot 10^2", 300),
        (r"\boxed{\frac{1}{2}}", 0.5),
        (r"The answer is $\frac{1}{2}$.", 0.5),
        (r"$-\frac{1}{2}$", -0.5),
        (r"10^{-2}", 0.01),
    ],
    "number word": [
        ("五次", 5),
        ("十二", 12),
        ("两个", 2),
        ("三", 3),
        ("答案是五", 5),
        ("a couple", 2),
        ("half a dozen", 6),
        ("two dozen", 24),
        ("none", 0),
        ("zero", 0),
        ("no chairs", 0),
        ("once", 1),
        ("twice", 2),
        ("a thousand", 1000),
        ("two thousand five hundred", 2500),
        ("a dozen eggs", 12),
        ("二十一", 21),
        ("一百零五", 105),
        ("No one knocks; four bells ring.", 4),
        ("five.", 5),
        ("It happens twice.", 2),
        ("One of the men knocks three times", 3),
        ("一共五个人", 5),
    ],
}

YES_NO = [
    ("Yes", "yes"),
    ("No.", "no"),
    ("**Yes**", "yes"),
    ("no, he says yes", "no"),
    ("The answer is yes.", "yes"),
    ("Answer: No", "no"),
    ("Yes, it does.", "yes"),
    ("是", "yes"),
    ("不是", "no"),
    ("否", "no"),
    ("是的，他走了。", "yes"),
    ("没有", "no"),
    ("对", "yes"),
    ("はい", "yes"),
    ("いいえ", "no"),
    ("Да", "yes"),
    ("Нет.", "no"),
    ("हाँ", "yes"),
    ("नहीं", "no"),
    ("Sí", "yes"),
    ("Oui", "yes"),
    ("Non", "no"),
    ("Ja", "yes"),
    ("Nein", "no"),
    ("نعم", "yes"),
    ("لا", "no"),
    ("He lies, so yes", "yes"),
    ("The answer is: No.\nYes would need a dog.", "no"),
    (r"\boxed{Yes}", "yes"),
    ('"No"', "no"),
    ("Yesterday", None),
    ("None", None),
    ("I know", None),
    ("North", None),
    ("perhaps", None),
    ("Yes\n\nNo dog barks.", "yes"),
    ("Answer: **yes**", "yes"),
    ("I cannot tell.", None),
    ("It is not shown\nNo", "no"),
    ("YES!", "yes"),
    ("Nope, no.", "no"),
    ("The final answer is no, since yes would need a bell.", "no"),
    ("答案：是", "yes"),
    ("答案是否", "no"),
    ("예", "yes"),
    ("아니요", "no"),
    ("네", "yes"),
    ("True answer: yes", "yes"),
]
YES_NO_HELDOUT = [
    ("Based on the video, yes, the man opens the door.", "yes"),
    ("Final answer: **No**", "no"),
    ("No, the bell does not ring.", "no"),
    ("So the answer is Yes", "yes"),
    ("yes.", "yes"),
    ('The correct answer is "no".', "no"),
    ("NO", "no"),
    ("Yes – he does.", "yes"),
    ("I'd say yes.", "yes"),
    ("不，他没有。", "no"),
    ("In short: no.", "no"),
    ("Maybe", None),
]

# free answers: said, gold, whether they are the same answer
FREE = [
    ("红色的球", "红色的球。", True),
    ("Red.", "red", True),
    ("КРАСНЫЙ шар", "красный шар", True),
    ("C++", "C#", False),
    ("x²", "x³", False),
    ("-5", "5", False),
    ("?", "!", False),
    ("café au lait", "cafe au lait", False),
    ("Cafe\u0301", "Café", True),
    ("लाल गेंद", "लाल गेंद।", True),
    ("赤いボール", "赤いボール", True),
    ("a red disc", "A red disc.", True),
    ("$5", "5%", False),
    ("ＡＢＣ", "abc", True),
    ("Straße", "STRASSE", True),
    ("蓝色的球", "红色的球", False),
    ("“red”", "red", True),
    ("the dog's bowl", "the dog’s bowl", True),
    ("H₂O", "H₃O", False),
    ("كرة حمراء", "كرة حمراء", True),
    ("A", "B", False),
    ("10°C", "10°F", False),
    ("1.5", "15", False),
    ("빨간 공", "빨간 공.", True),
    ("v1 < v2", "v1 > v2", False),
    ("−5", "-5", True),
    ("क", "कि", False),
    ("red, blue", "red blue", True),
    ("3:1", "31", False),
    ("白い猫", "黒い猫", False),
    ("♥", "♠", False),
]


@dataclass(frozen=True)
class Reply:
    """One reply and what it answers: a letter, letters in order, a number, yes or no, a text;
    None for no answer. reader: letter, letters, number, yes/no or free (text is then a pair)."""

    kind: str
    reader: str
    text: str
    options: tuple[str, ...]
    answer: object
    heldout: bool = False


def halves(option: str) -> tuple[str, str]:
    """The letter and the text of an option: halves("(A) red") = ("A", "red")."""
    head, _, text = option.partition(" ")
    return head.strip("().:"), text


def wordings(text: str) -> list[str]:
    return [
        line.encode().decode("unicode_escape").encode("latin-1").decode()
        for line in text.splitlines()
    ]


def filled(kind: str, lines: str, heldout: bool, names=None, step: int = 1):
    """Each wording with each option of each question; step: only every so many."""
    replies = []
    for name in names or OPTIONS:
        options = OPTIONS[name]
        for i, option in enumerate(options):
            letter, text = halves(option)
            other, other_text = halves(options[i - 1])
            values = {"L": letter, "l": letter.lower(), "T": text, "O": other, "U": other_text}
            values["LIST"] = "\n".join(options)
            for line in wordings(lines):
                said = line.format(**values)
                if any(said == f"{halves(one)[1]}." for one in options if "{T}" not in line):
                    continue  # "Only D is correct." may be an option
                replies.append(Reply(kind, "letter", said, tuple(options), letter, heldout))
    return replies[::step]


def letters() -> list[Reply]:
    tricky = ["joule", "angles", "percent", "order", "formulas", "both", "people", "can", "does"]
    replies = filled("stated letter", STATED, False, step=5)
    replies += filled("stated letter", STATED_HELDOUT, True, step=5)
    for kind, used, heldout in (
        ("letter and text", TEXT, TEXT_HELDOUT),
        ("option's text alone", ALONE, ALONE_HELDOUT),
    ):
        plain_names = [name for name in OPTIONS if name not in tricky]
        replies += filled(kind, used, False, plain_names, step=2)
        replies += filled(kind, heldout, True, plain_names)
        # letters, signs, units and articles inside the options
        replies += filled(f"{kind}, tricky options", used, False, tricky, step=3)
        replies += filled(f"{kind}, tricky options", heldout, True, tricky, step=2)
    for kind, used, heldout, step in (
        ("negation", DENIED, DENIED_HELDOUT, 4),
        ("counterfactual", SUPPOSED, SUPPOSED_HELDOUT, 3),
        ("repeated options", REPEATED, REPEATED_HELDOUT, 2),
        ("LaTeX letter", BOXED, BOXED_HELDOUT, 3),
        ("other scripts", SCRIPTS, SCRIPTS_HELDOUT, 8),
    ):
        replies += filled(kind, used, False, step=step)
        replies += filled(kind, heldout, True, step=step)
    return replies


def refusals() -> list[Reply]:
    replies = []
    for name in ("cars", "joule", "percent", "places"):
        for heldout, texts in ((False, REFUSALS), (True, REFUSALS_HELDOUT)):
            for text in texts:
                options = tuple(OPTIONS[name])
                replies.append(Reply("refusal", "letter", text, options, None, heldout))
    return replies


def sets() -> list[Reply]:
    replies = []
    for i, j in ((0, 3), (1, 4), (2, 5), (1, 2), (0, 5)):
        (first, text), (second, other) = halves(FEELINGS[i]), halves(FEELINGS[j])
        for heldout, lines in ((False, SEVERAL), (True, SEVERAL_HELDOUT)):
            for line in wordings(lines):
                said = line.format(L=first, M=second, T=text, V=other)
                answer = first + second
                replies.append(
                    Reply("several letters", "letters", said, tuple(FEELINGS), answer, heldout)
                )
    return replies


def numbers() -> list[Reply]:
    replies = []
    for name, lines in NUMBERS.items():
        kind = name.removesuffix(" held out")
        for line in wordings(lines):
            for spelling, value in WORDS if "word" in name else DIGITS:
                if kind == "LaTeX number" and not spelling.isascii():
                    continue
                said = line.format(N=spelling, W=spelling)
                replies.append(Reply(kind, "number", said, (), value, kind != name))
    for kind, pairs in BY_HAND_NUMBERS.items():
        replies += [Reply(kind, "number", said, (), value) for said, value in pairs]
    return replies


def corpus() -> list[Reply]:
    replies = letters() + refusals() + sets() + numbers()
    replies += [Reply("yes or no", "yes/no", text, (), word) for text, word in YES_NO]
    replies += [Reply("yes or no", "yes/no", text, (), word, True) for text, word in YES_NO_HELDOUT]
    replies += [Reply("free text", "free", said, (gold,), same) for said, gold, same in FREE]
    return list(dict.fromkeys(replies))


def answer_of(reply: Reply):
    """What our readers take the reply for."""
    options = list(reply.options)
    if reply.reader == "letter":
        first, last = (choice_in(reply.text, options, which) for which in ("first", "last"))
        return first if first == last else f"{first} or {last}"
    if reply.reader == "letters":
        return "".join(sorted(labels_in(reply.text, options)))
    if reply.reader == "number":
        return number_in(reply.text)
    if reply.reader == "yes/no":
        return yes_or_no(reply.text)
    return rouge(reply.text, reply.options[0], []) == 1


def is_read(reply: Reply) -> str:
    try:
        answer = answer_of(reply)
    except (ValueError, OverflowError) as error:
        return f"wrong: {error!r}"
    if answer == reply.answer:
        return "right"
    return "none" if answer in (None, "") else f"wrong: {answer}"


def table(replies: list[Reply]) -> dict[str, dict[str, int]]:
    """{kind: {"n", "right", "wrong", "none", "held out", "held out right"}}."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for reply in replies:
        outcome = is_read(reply).partition(":")[0]
        for kind in (reply.kind, "all"):
            rows[kind]["n"] += 1
            rows[kind][outcome] += 1
            rows[kind]["held out"] += reply.heldout
            rows[kind]["held out right"] += reply.heldout and outcome == "right"
    return rows


def main() -> None:
    print("| kind | replies | right | wrong | none | held out right |\n|---|---|---|---|---|---|")
    for kind, row in table(corpus()).items():
        share = f"{100 * row['right'] / row['n']:.1f} %"
        heldout = f"{row['held out right']} of {row['held out']}"
        print(f"| {kind} | {row['n']} | {share} | {row['wrong']} | {row['none']} | {heldout} |")


if __name__ == "__main__":
    main()
