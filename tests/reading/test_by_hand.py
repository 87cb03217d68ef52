"""Replies by hand, by the kind of trap in them; every expected answer is written by hand."""

import time

import pytest

from benchmarks.base import READERS
from problems import PROBLEM_TYPES
from reading.letters import choice_in, labels_in, letter_of
from reading.numbers import number, number_in
from reading.yes_no import yes_or_no
from tests.reading.corpus import corpus

CARS = ["A. A red car", "B. A blue car", "C. A green bus", "D. A white van"]
TEN = [f"{c}. thing {i}" for i, c in enumerate("ABCDEFGHIJ")]
UN = [
    "A. 500 J",
    "B. 600 J",
    "C. 700 J",
    "D. 800 J",
    "E. 900 J",
    "F. 5 C",
    "G. 7 F",
    "H. 3 H",
    "I. 4 A",
    "J. 5 K",
]
E5 = ["A. Dog", "B. Cat", "C. Bell", "D. Door", "E. Both B and D", "F. Only D is correct"]
SG = ["A. 5.12%", "B. -5.12%", "C. 0.512%", "D. 51.2%"]
V = ["A. v1 < v2", "B. v1 > v2", "C. v1 = v2", "D. K<0"]
YN = ["A. Yes, he does", "B. No, he does not"]
CAN = ["A. A can falls", "B. A man speaks while a dog barks", "C. A bell", "D. The I-beam bends"]
MU = ["A. music", "B. C major", "C. D minor", "D. A minor"]
MATH = ["A. f(x) = x + 1", "B. f(x) = x - 1", "C. f(x) = -x + 1", "D. f(x) = -x - 1"]
EMO = ["A. calm", "B. sad", "C. glad", "D. angry", "E. bored", "F. A little shy"]

PRONOUNS = [
    (TEN, "I'd say the third clip shows it.", None),
    (TEN, "I’m not sure. It could be B.", "B"),
    (TEN, "I'm going with F", "F"),
    (TEN, "I can't see the video, so I cannot answer.", None),
    (TEN, "I", "I"),
    (TEN, "I. thing 8", "I"),
    (TEN, "I believe I is correct.", "I"),
]
OWN_LETTERS = [
    (UN, "The work done is 500 J.", "A"),
    (UN, "A. 500 J is correct.", "A"),
    (UN, "W = F d = 600 J", "B"),
    (UN, "The answer is 5 C.", "F"),
    (UN, "The current is 4 A, so I.", "I"),
    (UN, "After computing, the work is 700 J. Answer: C", "C"),
    (UN, "It takes 300 J of energy", None),
    (E5, "The answer is E. Both B and D are correct.", "E"),
    (E5, "Both B and D", "E"),
    (E5, "Both B and D are correct, so E", "E"),
    (E5, "B and D are both shown, thus E.", "E"),
    (E5, "The answer is E. Only B and D happen.", "E"),
    (E5, "The answer is F. Only D is correct", "F"),
]
SIGNS = [
    (SG, r"\boxed{-5.12\%}", "B"),
    (SG, "The answer is -5.12%.", "B"),
    (SG, "The answer is −5.12 %.", "B"),
    (SG, "The change is 5.12%", "A"),
    (SG, "The growth rate is -5.12%, i.e. it falls.", "B"),
    (SG, "-5.12", "B"),
    (SG, "$-5.12\\%$", "B"),
    (SG, "= 51.2 %", "D"),
    (V, "So v1 < v2 holds.", "A"),
    (V, "\\boxed{v1 > v2}", "B"),
    (V, "K < 0", "D"),
    (V, "The answer is $v_1 < v_2$", "A"),
    (MATH, "f(x) = x - 1", "B"),
    (MATH, "The answer is $f(x) = -x + 1$.", "C"),
    (MATH, "\\boxed{f(x) = -x - 1}", "D"),
    (MATH, "**f(x)=x+1**", "A"),
]
ARTICLES = [
    (CARS, "I choose A blue car.", "B"),
    (CARS, "It's A blue car that passes first.", "B"),
    (CARS, "Selected option: A blue car", "B"),
    (CARS, "The selected answer is A green bus.", "C"),
    (CAN, "Answer: A can falls", "A"),
    (CAN, "Answer: A man speaks while a dog barks", "B"),
    (CAN, "The answer is a man speaks while a dog barks.", "B"),
    (CAN, "I think the I-beam bends", "D"),
]
BREAKS = [
    (YN, "A. Yes, he does\nB. No, he does not\n\nThe answer is B.", "B"),
    (YN, "No", "B"),
    (YN, "Yes.", "A"),
    (YN, "No, he doesn't.", "B"),
    (CARS, "He does not\nB", "B"),
    (CARS, "It is not\n\nC. A green bus", "C"),
    (CARS, "Nothing like that is shown, not really.\nAnswer: C", "C"),
    (CARS, "N/A", None),
    (CARS, "Answer: N/A", None),
    (CARS, "n/a", None),
    (CARS, "A/C is off", None),
    (CARS, "Answer: None", None),
    (CARS, "The A/V sync is off, so C.", "C"),
]
SUPPOSED = [
    (CARS, "The answer is A. B would be correct if the car were red.", "A"),
    (CARS, "B would have been right had it been blue; A is the answer.", "A"),
    (CARS, "If the car had been blue, B would be correct. Since it is red, A.", "A"),
    (CARS, "If I had to choose, I would choose C.", "C"),
    (CARS, "If we look at the frames, the answer would be D.", "D"),
    (CARS, "Although C could be considered, D is better.", "D"),
]
KEYS = [
    (MU, "The chord is C major.", "B"),
    (MU, "The answer is D minor", "C"),
    (MU, "D. A minor", "D"),
    (MU, "A minor", "D"),
    (MU, "The piece is in A minor, option D.", "D"),
]
WORDINGS = [
    (CARS, "Among A, B, C and D, the best one is C.", "C"),
    (CARS, "Option A: red car - incorrect\nOption B: blue car - correct", "B"),
    (CARS, "A: No\nB: Yes\nC: No\nD: No", "B"),
    (CARS, "Answer (B)", "B"),
    (CARS, "[[B]]", "B"),
    (CARS, "<B>", "B"),
    (CARS, "B!", "B"),
    (CARS, 'The answer: "b"', "B"),
    (CARS, "Ans. B", "B"),
    (CARS, "(B", "B"),
    (CARS, "Option B)", "B"),
    (CARS, "B. A blue car</s>", "B"),
    (CARS, "Assistant: B", "B"),
    (CARS, "The correct answer is option B: A blue car. Options A, C, and D are incorrect.", "B"),
    (CARS, "The answer is not A, B or C, so it is D.", "D"),
    (CARS, "A, B, and C are all incorrect. The answer is D", "D"),
    (CARS, "Let's eliminate: A - no. C - no. D - no. Thus B.", "B"),
    (CARS, "the red car", "A"),
    (CARS, "It was the green bus that honked.", "C"),
    (CARS, "The first vehicle is a blue car, followed by a white van. So the answer is B.", "B"),
]
NAMES = [
    (CARS, "Dr. A. Smith says B.", "B"),
    (CARS, "J. B. Smith drives a green bus.", "C"),
    (CARS, "E = mc^2", None),
    (CARS, "Hepatitis B", None),
    (CARS, "I would rate it an A+ video", None),
    (CARS, "Plan B", None),
]
SCRIPTS = [
    (CARS, "答案选C", "C"),
    (CARS, "选C", "C"),
    (CARS, "应选B。", "B"),
    (CARS, "正确的选项是D", "D"),
    (CARS, "答案不是A，而是B", "B"),
    (CARS, "ответ B", "B"),
    (CARS, "Правильный вариант — C", "C"),
    (CARS, "सही विकल्प: B", "B"),
    (CARS, "सही विकल्प B है", "B"),
    (CARS, "الجواب هو C", "C"),
    (CARS, "الخيار B", "B"),
    (CARS, "選択肢Cが正しい", "C"),
    (CARS, "선택지 D", "D"),
    (CARS, "Die korrekte Option ist C.", "C"),
    (CARS, "La opción correcta es B.", "B"),
    (CARS, "L'option correcte est D.", "D"),
    (CARS, "A resposta correta é A.", "A"),
]
SETS = [
    ("1. A\n2. D", "AD"),
    ("1. A. calm\n2. D. angry", "AD"),
    ("A and D", "AD"),
    ("A & D", "AD"),
    ("(A)(D)", "AD"),
    ("AD", "AD"),
    ("A; D", "AD"),
    ("Options: A, D", "AD"),
    ("The person is calm and also angry.", "AD"),
    ("A) calm\nD) angry", "AD"),
    ("• A\n• D", "AD"),
    ("1. calm\n2. angry", "AD"),
    ("① A\n② D", "AD"),
    ("A\nD", "AD"),
    ("Answer: A, D. Not B.", "AD"),
    ("I would choose A and D because he is calm.", "AD"),
    ("A、D", "AD"),
    ("答案是A和D", "AD"),
    ("{A, D}", "AD"),
    ('["A", "D"]', "AD"),
    ("A + D", "AD"),
    ("A,D,", "AD"),
    ("A and D, but not C", "AD"),
    ("All except B, C, E and F", "AD"),
]
NUMBERS = [
    ("There are 3 chairs in the first room and 2 in the other.\n\n5", 5),
    ("4,5", 4.5),
    ("0,75", 0.75),
    ("2,3", 2.3),
    ("1,2,3", 1),
    ("4,5 meters", 4.5),
    ("three people and two dogs, so five in total", 5),
    ("五次", 5),
    ("a dozen", 12),
    ("a hundred", 100),
    ("He claps about a dozen times.", 12),
    ("There are several.", None),
    ("3 or 4", 3),
    ("Between 3 and 5", 3),
    ("roughly 2.5 meters", 2.5),
    ("12,5 m²", 12.5),
    ("The sum: 1,5 + 2,5 = 4,0", 4),
    ("10 000", 10000),
    ("1.5 million", 1500000),
    ("2 dozen", 24),
    ("５個", 5),
    ("三回", 3),
    ("答えは3回です", 3),
    ("Ответ: 7", 7),
    ("٣", 3),
    ("उत्तर: ४", 4),
    ("一共有12个人", 12),
    ("共三次", 3),
    ("There were no knocks.", 0),
    ("zero", 0),
    ("nobody", None),
    ("Three times.", 3),
    ("5 people (3 men, 2 women)", 5),
    ("3 men + 2 women = 5 people", 5),
    ("I counted 1... 2... 3... 4. So 4.", 4),
    ("The answer is 1,200.", 1200),
    ("1,000,000", 1e6),
    ("-0.5", -0.5),
    ("–0.5", -0.5),
    ("$0.5$", 0.5),
    ("\\frac{3}{2}", 1.5),
    ("\\(\\frac{3}{2}\\)", 1.5),
    ("3½", 3.5),
    ("50 percent", 50),
    ("at 3:45", None),
    ("1e400", None),
    ("9" * 500, None),
    ("5.", 5),
    ("#5", 5),
    ("5/10", 0.5),
    ("No. 5", 5),
    ("twenty five", 25),
    ("one hundred twenty three", 123),
    ("only one", 1),
    ("just once", 1),
    ("The man knocks once.", 1),
    ("thrice", 3),
    ("2^10", 1024),
    ("10^{3}", 1000),
    ("6.02 × 10^{23}", 6.02e23),
    ("1.5e-3", 0.0015),
    ("x = -2", -2),
    ("The final answer is \\boxed{12}.", 12),
    ("**Total: 7 knocks**", 7),
    ("Answer: ~30", 30),
    ("<answer>4</answer>", 4),
]


@pytest.mark.parametrize(("options", "reply", "letter"), PRONOUNS)
def test_pronouns_are_no_letters(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), OWN_LETTERS)
def test_letters_inside_the_options_own_text(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), SIGNS)
def test_options_that_differ_by_a_sign_or_symbol(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), ARTICLES)
def test_quoted_texts_with_an_article(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), BREAKS)
def test_negations_end_with_the_line_and_refusals_choose_none(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), SUPPOSED)
def test_what_would_be_right_is_not_chosen(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), KEYS)
def test_letters_of_musical_keys(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), WORDINGS)
def test_wordings(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), NAMES)
def test_initials_and_lettered_things(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), SCRIPTS)
def test_other_languages(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("reply", "letters"), SETS)
def test_several_letters(reply, letters):
    assert labels_in(reply, EMO) == frozenset(letters)


@pytest.mark.parametrize(("reply", "value"), NUMBERS)
def test_numbers(reply, value):
    assert number_in(reply) == (value if value is None else pytest.approx(value))


def test_formulas_in_a_repeated_list():
    options = ["A. I = V / R", "B. V = I + R", "C. A·s", "D. F = C·U", "E. B - C", "F. A, B and C"]
    listed = "\n".join(options)
    for option in options:
        assert choice_in(f"{listed}\n\n{option[0]}", options) == option[0]


def test_options_are_lettered_in_every_usual_way():
    for form in ("{}. {}", "({}) {}", "{}) {}", "{}: {}", "{}、{}"):
        options = [form.format("A", "red"), form.format("B", "rose")]
        assert letter_of("rose", options) == choice_in("It is rose.", options) == "B"
        assert letter_of("A", options) == letter_of("(a)", options) == "A"
        assert letter_of("R", options) is None


def test_options_without_letters_are_lettered_by_their_place():
    assert letter_of("blue", ["red", "blue", "rose"]) == "B"
    assert letter_of("R", ["red", "blue", "rose"]) is None


def test_training_and_evaluation_read_alike():
    """What training can read at all, it reads as evaluation does."""
    for reply in corpus():
        options = list(reply.options)
        if reply.reader == "letter":
            letter = letter_of(reply.text, options)
            assert letter in (None, choice_in(reply.text, options)), reply
        if reply.reader == "number":
            value = number(reply.text)
            assert value in (None, number_in(reply.text)), reply


@pytest.mark.parametrize("options", [[], [""], ["", ""], ["A", "B"], ["A. ", "B. "], ["A. x"] * 30])
@pytest.mark.parametrize(
    "reply",
    [
        "\\boxed{",
        "The answer is",
        "答案是",
        "",
        "A",
        "\ue000 is correct",
        "B. \ue019",
        "1" * 5000,
        "1e" + "9" * 400,
        "2^9999",
        "1/0",
        "1 1/0",
        "10^" + "9" * 50,
        "\ud83d",
    ],
)
def test_no_reply_raises(reply, options):
    for reader in (choice_in, labels_in, letter_of):
        reader(reply, options)
    for kind in PROBLEM_TYPES.values():
        kind.read(reply, options)
        kind.score(reply, reply, options)
    assert {*READERS} <= {*PROBLEM_TYPES}
    number_in(reply)
    yes_or_no(reply)


PIECES = [
    "A ",
    "(A)(",
    "1,",
    "1_",
    "1 ",
    "1.",
    "1/",
    "-",
    "\\frac{1}{",
    "五",
    "a dozen ",
    "half a ",
]
PIECES += [
    "if ",
    "if B would be right ",
    "A red car ",
    "A red ",
    "so ",
    "答案",
    "= ",
    "all except ",
]
PIECES += ["10^", "×10^", "10 ×", "A. I. ", "had ", "_1", "x_1", "{", "A + ", "①", "1:", "°C ", "é"]


def seconds_for(reply: str) -> float:
    started = time.process_time()
    choice_in(reply, TEN)
    labels_in(reply, EMO)
    number_in(reply)
    number(reply)
    yes_or_no(reply)
    return time.process_time() - started


@pytest.mark.some(8)
@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear_in_the_reply(piece):
    """Twice the reply takes about twice the time: four times would be quadratic."""
    # the least of three: what else the process does may come in between (garbage collection)
    short = min(seconds_for(piece * (4_000 // len(piece))) for _ in range(3))
    long = min(seconds_for(piece * (16_000 // len(piece))) for _ in range(3))
    assert long < 8 * short + 0.2  # 4 expected, 16 if it were quadratic


# ------------------------------------------------------------------- a second set, written later
LONG = [
    "A. He picks up the phone and calls her",
    "B. He sits down",
    "C. A woman enters the room and I see B",
    "D. No one moves",
]
MIXED = ["A. 1.2 mm", "B. 1.5 mm", "C. 2.0 mm", "D. 2.4 V", "E. 3 A", "F. 5 F"]
MIXED += ["G. Only II is true", "H. I and II", "I. I, II and III", "J. None of these"]
YESNO = ["A. Yes", "B. No", "C. Not sure"]
TRUE = ["A. True", "B. False"]
CODE = ["A. C", "B. C++", "C. C#", "D. Java"]

LATER = [
    (
        CARS,
        "Looking at the video, a blue car is first, then a green bus. The answer is the blue car.",
        "B",
    ),
    (CARS, "I'm confident the answer is D.", "D"),
    (CARS, "It's not A or B. C is not there either. That leaves D.", "D"),
    (CARS, "The options A, B, and C don't match; D does.", "D"),
    (CARS, "D - A white van", "D"),
    (CARS, "D—A white van", "D"),
    (CARS, "**D**: A white van passes.", "D"),
    (
        CARS,
        "Answer: **D. A white van**.\n\n**Reasoning:** The red car (A) is parked, and "
        "the blue car (B) leaves, and C is absent.",
        "D",
    ),
    (CARS, "The video begins with a man. A car passes by. I think B.", "B"),
    (CARS, "I think it's a blue car", "B"),
    (CARS, "My choice: C", "C"),
    (CARS, "My choice is C.", "C"),
    (CARS, "Choice: C", "C"),
    (CARS, "Option: C", "C"),
    (CARS, "Selected: C", "C"),
    (CARS, "Prediction: C", "C"),
    (CARS, "I'd choose (C).", "C"),
    (CARS, "I will go for C.", "C"),
    (CARS, "C would be the best answer.", "C"),
    (CARS, "C would be my answer", "C"),
    (CARS, "C, I think.", "C"),
    (CARS, "c, because it honks", "C"),
    (CARS, "Probably C", "C"),
    (CARS, "C?", "C"),
    (CARS, "Hmm, C maybe", "C"),
    (CARS, "The correct letter is C", "C"),
    (CARS, "The letter C", "C"),
    (CARS, "The answer lies in C", "C"),
    (CARS, "Thus the correct answer: C) A green bus", "C"),
    (CARS, "Correct Answer - C", "C"),
    (CARS, "Answer - C", "C"),
    (CARS, "Answer→C", "C"),
    (CARS, "=> C", "C"),
    (CARS, "Final: C", "C"),
    (CARS, "Verdict: C", "C"),
    (CARS, "The sound matches (C).", "C"),
    (
        CARS,
        "Since the car isn't red, A is out. As it isn't a van, D is out. B is too small. So C.",
        "C",
    ),
    (CARS, "A and B are unlikely. D is impossible. C it is.", "C"),
    (LONG, "He picks up the phone and calls her.", "A"),
    (LONG, "I choose He sits down.", "B"),
    (LONG, "The answer is that he sits down.", "B"),
    (LONG, "No one moves", "D"),
    (LONG, "Answer: No one moves.", "D"),
    (LONG, "A woman enters the room and I see B", "C"),
    (LONG, "I see that he sits down.", "B"),
    (MIXED, "Only II is true", "G"),
    (MIXED, "I and II", "H"),
    (MIXED, "I, II and III", "I"),
    (MIXED, "The answer is I and II.", "H"),
    (MIXED, "The current is 3 A.", "E"),
    (MIXED, "The capacitance is 5 F, so the answer is F.", "F"),
    (MIXED, "The voltage is 2.4 V", "D"),
    (MIXED, "The thickness is 1.5 mm.", "B"),
    (MIXED, "None of these", "J"),
    (MIXED, "I would say J.", "J"),
    (MIXED, "I am going with statement I only.", None),
    (YESNO, "Yes, she does.", "A"),
    (YESNO, "No.", "B"),
    (YESNO, "Not sure", "C"),
    (YESNO, "The answer is no", "B"),
    (YESNO, "I am not sure.", "C"),
    (TRUE, "True", "A"),
    (TRUE, "False.", "B"),
    (TRUE, "The statement is false.", "B"),
    (TRUE, "The answer is true", "A"),
    (TRUE, "B", "B"),
    (TRUE, "It is true.", "A"),
    (CODE, "C++", "B"),
    (CODE, "C#", "C"),
    (CODE, "The answer is C++.", "B"),
    (CODE, "The answer is C#", "C"),
    (CODE, "The language is Java", "D"),
    (CODE, "B. C++", "B"),
    (CODE, "It is written in C++", "B"),
    (CARS, "The answer is neither A nor B but C", "C"),
    (CARS, "A isn't correct; neither is B. The answer's C.", "C"),
    (CARS, "It's got to be C", "C"),
    (CARS, "Based on audio: C", "C"),
    (CARS, "I'm leaning towards C.", "C"),
    (CARS, "None of the options seem right, but C is closest.", "C"),
    (CARS, "C appears to be the correct one", "C"),
    (CARS, "C is the closest match", "C"),
    (CARS, "If the horn is heard first, the answer is C.", "C"),
    (CARS, "The green one", None),
    (CARS, "I do not know, A?", "A"),
    (CARS, "Step 1: A is red. Step 2: B is blue. Step 3: The bus honks.\nAnswer: C", "C"),
    (CARS, '{"choice": "C"}', "C"),
    (CARS, "answer = C", "C"),
    (CARS, "The answer is:\nC", "C"),
    (CARS, "The answer is\n\n(C) A green bus", "C"),
    (CARS, "<option>C</option>", "C"),
    (CARS, "C\n\nA is wrong because the car is red. B is wrong.", "C"),
    (CARS, "C. A green bus\nA. A red car is wrong", "C"),
]
LATER_NUMBERS = [
    ("I can see 4 people in the video, of whom 2 are women.", 4),
    ("The answer is four (4).", 4),
    ("There are four people: 2 men and 2 women.", 4),
    ("4 (four)", 4),
    ("four (4)", 4),
    ("At first 2, later 3 more join, making 5.", 5),
    ("The count of claps is three.", 3),
    ("Clap count = 6", 6),
    ("It rings 3 times, from 0:04 to 0:12.", 3),
    ("There're 7.", 7),
    ("7 or 8, I'd say 8.", 7),
    ("approximately 3.5 seconds", 3.5),
    ("3.5 sec.", 3.5),
    ("The temperature is 25°C.", 25),
    ("25 °C", 25),
    ("Speed: 60 km/h", 60),
    ("It costs $15.", 15),
    ("15$", 15),
    ("1/3", 1 / 3),
    ("33.3%", 33.3),
    ("Answer: 1/2", 0.5),
    ("2:30", None),
    ("In 2019, there were 5 cars.", 2019),
    ("a total of twenty-three", 23),
    ("0.5 m", 0.5),
    ("about half", None),
    ("six or seven", 6),
    ("exactly 10", 10),
    ("I count:\n1. dog\n2. cat\n3. bird\nTotal: 3", 3),
    ("1. dog\n2. cat\n3. bird\n\nSo there are 3 animals.", 3),
    ("The man says 'one, two, three'. He claps 5 times.", 5),
    ("Five people.", 5),
    ("There is only 1 person", 1),
    ("12.", 12),
    ("12,", 12),
    ("Number: 12", 12),
    ("12 times", 12),
    ("It is 12 o'clock", 12),
]


@pytest.mark.parametrize(("options", "reply", "letter"), LATER)
def test_later_letters(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("reply", "value"), LATER_NUMBERS)
def test_later_numbers(reply, value):
    assert number_in(reply) == (value if value is None else pytest.approx(value))
