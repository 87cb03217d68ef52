"""How the replies of real models are read: letters, sets of letters, numbers, yes or no.

All expected values are written by hand.
"""

import re
import time

import pytest

from benchmarks.scoring import open_match
from reading.letters import choice_in, labels_in
from reading.numbers import number_in
from reading.yes_no import yes_or_no
from rewards import final_answer

CARS = ["A. A red car", "B. A blue car", "C. A green bus", "D. A white van"]
LISTED = "\n".join(CARS)

# ---------------------------------------------------------------------- one letter, whichever it is
# X: the letter, x: in lower case, T: its option's text, O: another option's letter
STATED = [
    "X",
    "x",
    "(X)",
    "X.",
    "X)",
    "**X**",
    "X. T",
    "X) T",
    "(X) T",
    "X: T",
    "X - T",
    "**X. T**",
    "T",
    "T.",
    "'X'",
    '"X"',
    "[X]",
    "<X>",
    "$X$",
    "`X`",
    "# X",
    "_X_",
    "The answer is X.",
    "The answer is x.",
    "The answer is 'X'.",
    "the answer is (x)",
    'The answer is "X".',
    "The answer is: X",
    "The answer is **X**.",
    "The answer is X because it is shown.",
    "The answer is X because O does not appear.",
    "The correct answer is X because O is wrong",
    "The best answer is X given the video.",
    "The best answer is: X.",
    "Answer: X",
    "answer: x",
    "ANSWER: X",
    "Answer: (X) T",
    "Answer: X based on what is heard.",
    "Answer:\n\nX",
    "**Answer:** X",
    "**Answer: X. T**",
    "Final Answer: X",
    "Therefore, the final answer is: $X",
    r"\boxed{X}",
    r"The answer is $\boxed{\text{X}}$.",
    r"\(\boxed{x}\)",
    "The correct option is X.",
    "The correct choice is (X): T",
    "The right option would be X.",
    "The best choice is option X.",
    "The most appropriate answer would be X.",
    "The answer should be X",
    "The answer to the question is X.",
    "Correct answer: X",
    "My answer is X, not O.",
    "Option X",
    "option x",
    "Option X because it fits.",
    "Option X is correct.",
    "Option X is the best choice, unlike Option O.",
    "X is the correct answer.",
    "X is the correct answer. Option O is incorrect, as it is not shown.",
    "X is correct, since the car turns.",
    "X is the most likely answer.",
    "x is correct",
    "I choose X as it is shown.",
    "I would choose X.",
    "I pick option X.",
    "I select X",
    "I would go with X here.",
    "It is option X since O is too early.",
    "It is X.",
    "It must be X.",
    "So the answer is X, and O is wrong.",
    "The video shows a road. Therefore, X.",
    "The video shows a road.\n\nX",
    "The video shows a road, which O does not.\n\nX. T",
    "O is wrong. The answer is X.",
    "O) is wrong. The answer is X.",
    "O. is incorrect because it is not there. The correct answer is X.",
    "It isn't O. X fits better.",
    "Not O. I choose X.",
    "**X. T**\n\nExplanation: O is wrong",
    "X. T\n\nExplanation: O shows something else.",
    "X\n\nO is too early.",
    "X\nExplanation: option O is not shown.",
    "X) T. This rules out O.",
    f"{LISTED}\nThe answer is X.",
    f"{LISTED}\n\nX",
    f"Options:\n{LISTED}\n\nX. T",
    f"{LISTED.replace(chr(10), ' ')} I think it is X.",
    '{"answer": "X"}',
    '{"answer": "X", "reason": "O is wrong"}',
    "答案：X",
    "答案是X。",
    "答案为（X）",
    "正确答案是 X",
    "我选X",
    "选择X，因为O不对",
    "选项X正确",
    "Answer：X",
    "（X）",
    "X．T",
    "**The correct answer is:**\n\n**X. T**",
    "The answer is T.",
    "Answer: T",
    "It shows X",
    "Sure! The answer is X.",
    "Choice X.",
    "Answer X",
    "O is not the answer; X is the right one.",
    "Based on the sound, X matches best.",
    "Rather than O, X is shown.",
    "Neither O nor the others, so X.",
    "I think the answer is probably X.",
    "The answer that fits the sound is X.",
    "Let me see. Option O shows a tree. The right answer is X",
    "X, as heard at 0:12.",
]


def fill(template: str, letter: str) -> str:
    """The template with its marks replaced; a mark is a letter that is no part of a word."""
    place = "ABCD".index(letter)
    values = {"X": letter, "x": letter.lower(), "T": CARS[place][3:], "O": "ABCD"[place - 3]}
    return re.sub(r"(?<![A-Za-z])[XxTO](?![A-Za-z])", lambda mark: values[mark[0]], template)


@pytest.mark.parametrize("template", STATED)
def test_no_letter_is_favoured(template):
    """Each of A to D is read, whichever of several letters counts."""
    for letter in "ABCD":
        reply = fill(template, letter)
        assert choice_in(reply, CARS, "first") == letter, reply
        assert choice_in(reply, CARS, "last") == letter, reply


def test_the_templates_are_filled():
    assert fill("The answer is X, x or O: T", "A") == "The answer is A, a or B: A red car"
    assert len(set(STATED)) == len(STATED) >= 40


# --------------------------------------------------------------------------- letters by hand
REASONING = (
    "The question asks what passes first. In option A a red car is named, and it appears at 0:03. "
    "Option B is about a blue car, which is parked. "
    "Option C has a bus; I hear its horn at 0:07. A van (D) is never seen. "
)
YES_NO = ["A. Yes", "B. No"]
NO_YES = ["A. No", "B. Yes", "C. Cannot be determined"]
NUMBERS = ["A. 3", "B. 2", "C. 0", "D. 1"]
NESTED = ["A. red", "B. dark red", "C. not red", "D. All of the above"]
PEOPLE = ["A. Person B leaves", "B. Person A leaves", "C. Both A and B leave", "D. I do not know"]
NEGATIVE = ["A. It is not shown", "B. Does not move", "C. is incorrect", "D. Nothing is wrong"]
MANY = [f"{letter}. {i} cm" for i, letter in enumerate("ABCDEFGHIJK")]
CHOICES = [  # options, reply, with several="first", with several="last"
    (CARS, "", None, None),
    (CARS, "   \n", None, None),
    (CARS, "...", None, None),
    (CARS, "I cannot determine the answer from the video.", None, None),
    (CARS, "I'm sorry, but I can't tell.", None, None),
    (CARS, "Sorry, as an AI I cannot watch a video.", None, None),
    (CARS, "None of the above", None, None),
    (CARS, "E", None, None),
    (CARS, "The answer is E.", None, None),
    (CARS, "E, or rather C", "C", "C"),
    (CARS, "Z. A red car", "A", "A"),
    (CARS, "A man walks by.", None, None),
    (CARS, "A dog and A cat", None, None),
    (CARS, "I see a tree", None, None),
    (CARS, "a", "A", "A"),
    (CARS, "a tree", None, None),
    (CARS, "Because of the crash", None, None),
    (CARS, "Vitamin C is named.", None, None),
    (CARS, "A C-shaped road.", None, None),
    (CARS, "The U.S. is shown; B.", "B", "B"),
    (CARS, "Q&A, then R&B", None, None),
    (CARS, "That's D's idea", None, None),
    (CARS, "A or B", "A", "B"),
    (CARS, "B or A", "B", "A"),
    (CARS, "(A) or (B)", "A", "B"),
    (CARS, "The answer is B or C.", "B", "C"),
    (CARS, "D? No, B", "D", "B"),
    (CARS, "A, then D", "A", "D"),
    (CARS, "D, not A", "D", "D"),
    (CARS, "not A but C", "C", "C"),
    (CARS, "The answer is B. Wait, the answer is C.", "B", "C"),
    (CARS, "The answer is B, C is close.", "B", "B"),
    (CARS, "The answer is not A. It is C.", "C", "C"),
    (CARS, "The answer is not B but D.", "D", "D"),
    (CARS, "The answer isn't C; it's D.", "D", "D"),
    (CARS, "A is wrong. B is wrong. C is incorrect. So D.", "D", "D"),
    (CARS, "A, B and D are wrong, which leaves C.", "C", "C"),
    (CARS, "Options A and B are incorrect. Option D is not shown. C fits.", "C", "C"),
    (CARS, "The answer is C, A and B are wrong.", "C", "C"),
    (CARS, "Answer: B because options C and D are not shown", "B", "B"),
    (CARS, "neither A nor B, C", "C", "C"),
    (CARS, LISTED, None, None),
    (CARS, f"{LISTED}\nThe answer is C.", "C", "C"),
    (CARS, f"{LISTED}\nI cannot tell.", None, None),
    (CARS, "A) A red car\nB) A blue car\nC) A green bus\nD) A white van\n\nAnswer: D", "D", "D"),
    (CARS, f"{LISTED}\nA", "A", "A"),
    (
        CARS,
        "A. A red car: it is parked.\nB. A blue car: it is far.\nC. A green bus: this is "
        "correct.\nD. A white van: never.\n\nC",
        "C",
        "C",
    ),
    (
        CARS,
        "A. A red car - incorrect.\nB. A blue car - correct.\nC. A green bus - incorrect.\nD. A "
        "white van - incorrect.",
        "B",
        "B",
    ),
    (CARS, REASONING + "Therefore, the correct answer is C.", "C", "C"),
    (CARS, REASONING + "So the best option is (A).", "A", "A"),
    (CARS, REASONING + "\n\n**Final Answer:** D", "D", "D"),
    (CARS, REASONING + "\n\nB. A blue car", "B", "B"),
    (CARS, REASONING + "\n\nA", "A", "A"),
    (CARS, REASONING + r"Thus $\boxed{A}$", "A", "A"),
    (CARS, REASONING + "So B.", "B", "B"),
    (CARS, REASONING + "Thus, it is option C.", "C", "C"),
    (CARS, "A loud bang, so C.", "C", "C"),
    (CARS, "A is right", "A", "A"),
    (CARS, "I say A", "A", "A"),
    (CARS, "A car is red, so A.", "A", "A"),
    (CARS, "Answer: A blue car", "B", "B"),
    (CARS, "Answer: A red car", "A", "A"),
    (CARS, "The answer is a blue car.", "B", "B"),
    (CARS, "The answer is A because a blue car is late.", "A", "A"),
    (CARS, "A blue car is seen.", "B", "B"),
    (CARS, "A white van and a blue car.", None, None),
    (CARS, "the blue car", "B", "B"),
    (CARS, "a green bus", "C", "C"),
    (CARS, "Best option:(A) A red car", "A", "A"),
    (CARS, "b) A blue car", "B", "B"),
    (CARS, "b. it is blue", "B", "B"),
    (CARS, "(b) blue", "B", "B"),
    (CARS, "B: it is blue", "B", "B"),
    (CARS, "B - it is blue", "B", "B"),
    (CARS, '```json\n{"answer": "D"}\n```', "D", "D"),
    (CARS, '{"answer": "A blue car"}', "B", "B"),
    (CARS, "B.A blue car", "B", "B"),
    (CARS, "答案：B。因为A没有出现。", "B", "B"),
    (CARS, "选项A错误，答案是C。", "C", "C"),
    (CARS, "不选A，选D", "D", "D"),
    (CARS, "Ｂ", "B", "B"),
    (CARS, "The options are A, B, C and D. The correct one is D.", "D", "D"),
    (CARS, "This matches option A, not option B.", "A", "A"),
    (CARS, "Is A correct? No. The answer is D.", "D", "D"),
    (CARS, "The answer is likely A or C, but I choose C.", "A", "C"),
    (CARS, "The answer cannot be A. The answer must be B.", "B", "B"),
    (CARS, "A is less likely than B.", "A", "A"),
    (CARS, "Person A thanks person B.", None, None),
    (CARS, "Options A, B and C can be ruled out. D", "D", "D"),
    (CARS, "A red car is the correct answer.", "A", "A"),
    (CARS, "C D", "C", "D"),
    (CARS, "Both the red and the blue one", None, None),
    (CARS, "A red car, not A blue car? B is right.", "B", "B"),
    (YES_NO, "Yes", "A", "A"),
    (YES_NO, "no.", "B", "B"),
    (YES_NO, "Yes, there is no dog", "A", "A"),
    (YES_NO, "No, yes would be wrong.", "B", "B"),
    (YES_NO, "B. No", "B", "B"),
    (YES_NO, "The answer is yes; no dog barks.", "A", "A"),
    (YES_NO, "A. Yes\nB. No\nThe answer is B.", "B", "B"),
    (YES_NO, "A. Yes\nB. No", None, None),
    (YES_NO, "Perhaps", None, None),
    (NO_YES, "Yes, he does.", "B", "B"),
    (NO_YES, "No, he does not say yes.", "A", "A"),
    (NO_YES, "It cannot be determined.", "C", "C"),
    (NO_YES, "C", "C", "C"),
    (NUMBERS, "3", "A", "A"),
    (NUMBERS, "There are 2.", "B", "B"),
    (NUMBERS, "C", "C", "C"),
    (NUMBERS, "The answer is 1.", "D", "D"),
    (NUMBERS, "D. 1", "D", "D"),
    (NUMBERS, "13", None, None),
    (NUMBERS, "The answer is B: 2, and not 3.", "B", "B"),
    (NUMBERS, "2 or 3", None, None),
    (MANY, "K", "K", "K"),
    (MANY, "10 cm", "K", "K"),
    (MANY, "It is 10 cm long.", "K", "K"),
    (MANY, "0 cm", "A", "A"),
    (MANY, "I think 3 cm", "D", "D"),
    (MANY, "I", "I", "I"),
    (MANY, "The answer is I.", "I", "I"),
    (MANY, "I think it is J.", "J", "J"),
    (MANY, "The answer is I think K.", "K", "K"),
    (NESTED, "dark red", "B", "B"),
    (NESTED, "It is dark red.", "B", "B"),
    (NESTED, "Not red.", "C", "C"),
    (NESTED, "red", "A", "A"),
    (NESTED, "The answer is dark red, not red.", "B", "B"),
    (NESTED, "All of the above", "D", "D"),
    (PEOPLE, "Person B leaves", "A", "A"),
    (PEOPLE, "Person A leaves.", "B", "B"),
    (PEOPLE, "Both A and B leave", "C", "C"),
    (PEOPLE, "B. Person A leaves", "B", "B"),
    (PEOPLE, "The answer is A. Person B leaves", "A", "A"),
    (PEOPLE, "The answer is both A and B leave.", "C", "C"),
    (PEOPLE, "I do not know", "D", "D"),
    (PEOPLE, "We see that Person B leaves first.", "A", "A"),
    (PEOPLE, "Answer: B", "B", "B"),
    (NEGATIVE, "A. It is not shown", "A", "A"),
    (NEGATIVE, "B. Does not move\n\nExplanation: it stands.", "B", "B"),
    (NEGATIVE, "C. is incorrect", "C", "C"),
    (NEGATIVE, "D. Nothing is wrong, as seen.", "D", "D"),
    (NEGATIVE, "A. It is not shown is wrong. The answer is B.", "B", "B"),
    (["A. x"], "A", "A", "A"),
    (["A. red", "B. "], "...", None, None),
    (["A. red", "B. "], "B", "B", "B"),
    (["A. C", "B. B", "C. A"], "A", "A", "A"),
    (["A. C", "B. B", "C. A"], "The answer is C.", "C", "C"),
    (["A. a girl", "B. a girl"], "a girl", None, None),
    (["A. joke", "B. I"], "I", "B", "B"),
]


@pytest.mark.parametrize(("options", "reply", "first", "last"), CHOICES)
def test_letters(options, reply, first, last):
    assert choice_in(reply, options, "first") == first
    assert choice_in(reply, options, "last") == last


def test_a_letter_that_was_read_reads_as_itself():
    for options in (CARS, YES_NO, NUMBERS, NESTED, PEOPLE, NEGATIVE, MANY):
        for option in options:
            assert choice_in(option[0], options) == option[0]


# --------------------------------------------------------------------------- sets of letters
FEELINGS = ["A. calm", "B. sad, tired", "C. glad", "D. angry", "E. bored", "F. A little shy"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B,E", "BE"),
        ("B, E", "BE"),
        ("e; b", "BE"),
        ("b and e", "BE"),
        ("B and E", "BE"),
        ("BE", "BE"),
        ("B E", "BE"),
        ("B/E", "BE"),
        ("B & E", "BE"),
        ("B", "B"),
        ("b", "B"),
        ("A, B, and E.", "ABE"),
        ("**B, E**", "BE"),
        ("(B), (E)", "BE"),
        ("[B, E]", "BE"),
        ("B、E", "BE"),
        ("B，E", "BE"),
        ("B\nE", "BE"),
        ("B,E\n\nExplanation: A is wrong", "BE"),
        ("B, E because A is not shown", "BE"),
        ("B,E\nA and C do not fit, D is wrong.", "BE"),
        ("B and E are shown.", "BE"),
        ("The answer is B and E.", "BE"),
        ("The answers are: B, E", "BE"),
        ("Answer: B,E", "BE"),
        ("**Answer:** B, E\n\nF would be too much.", "BE"),
        ("A man sighs, and D is discussed. The correct options are B and E.", "BE"),
        ("Answer: b, e", "BE"),
        ("答案：B、E", "BE"),
        (r"\boxed{B, E}", "BE"),
        ("B. sad, tired, E. bored", "BE"),
        ("B. sad, tired\nE. bored", "BE"),
        ("- B. sad, tired\n- E. bored\n\nC. would be wrong", "BE"),
        ("The person shows:\n\nB. sad, tired\nE. bored", "BE"),
        ("B. sad, tired and E. bored", "BE"),
        ("glad, bored", "CE"),
        ("He is glad and bored.", "CE"),
        ("B, glad", "BC"),
        ("Options B and E", "BE"),
        ("I think B and E apply.", "BE"),
        ("A little shy", "F"),
        ("A, B, C, D, E, F", "ABCDEF"),
        ("B, not A", "B"),
        ('{"answer": "B, E"}', "BE"),
        ("", ""),
    ],
)
def test_sets_of_letters(reply, expected):
    assert labels_in(reply, FEELINGS) == frozenset(expected)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("B,Z", {"B", "Z"}), ("A man; joy", {"a man", "joy"}), ("I cannot tell.", {"i cannot tell"})],
)
def test_what_names_no_option_stays_as_it_is(reply, expected):
    assert labels_in(reply, FEELINGS) == expected


# --------------------------------------------------------------------------- numbers, yes and no
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7", 7),
        ("7.", 7),
        ("**7**", 7),
        ("Seven", 7),
        ("twenty-one", 21),
        ("1,200", 1200),
        ("-3", -3),
        ("2.5 m", 2.5),
        ("4 chairs", 4),
        ("about 1,200.5 metres", 1200.5),
        ("Frame 1: 2, Frame 2: 1. Total: 3", 3),
        ("In the first 10 seconds there are 3", 3),
        ("one of the men knocks three times", 3),
        ("There are 2 (or 4).", 2),
        ("First 3.\nThe answer is 4.", 4),
        ("The total number of knocks is 5, of which 2 are loud.", 5),
        ("Answer: 6", 6),
        ("The answer is six.", 6),
        ("2 + 1 = 3", 3),
        ("I count 2 and then 3, so in total there are 5 knocks.", 5),
        ("The number of chairs in the room is 4.", 4),
        ("Final answer: **8**", 8),
        (r"\boxed{9}", 9),
        ("At 0:12 and 0:15 there are 2 knocks.", 2),
        ("1st: a dog. 2nd: a cat. 3 in all.", 3),
        ("He knocks three times in the first 10 seconds.", 3),
        ("The answer is about 120 cm.", 120),
        ("There are twenty one of them, not two", 21),
        ("No one knocks; four bells ring.", 4),
        ("Once the bell rings, he knocks twice.", 2),
        ("The answer is 2. Wait: the answer is 3.", 3),
        ("The count is 12", 12),
        ("A total of 15 people", 15),
        ("10 seconds", 10),
        ("3s", 3),
        ("0", 0),
        ("none", 0),
        ("", None),
        ("a few", None),
        ("I cannot count them.", None),
        ("one", 1),
        ("答案：7", 7),
        ("答案是7", 7),
        ("Total:7", 7),
        ("There is one.", 1),
        ("Total number of knocks: 4 (2 + 2)", 4),
        ("The answer is clear: the man knocks 3 times", 3),
        ("In frame 12 there are two cups.", 2),
        ("2 chairs and 3 tables, 5 in total", 5),
        ("Based on 32 frames, there are 4 chairs.", 4),
        ("The room is 20 m²", 20),
        ("4-5", 4),
    ],
)
def test_numbers(reply, expected):
    assert number_in(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes", "yes"),
        ("**No**", "no"),
        ("no, he says yes", "no"),
        ("The answer is Yes.", "yes"),
        ("Answer: No. There is yes and no.", "no"),
        ("Yesterday", None),
        ("It is no sign, yes", None),
        ("He lies, so yes", "yes"),
        ("", None),
        ("None", None),
        ("I know", None),
    ],
)
def test_yes_or_no(reply, expected):
    assert yes_or_no(reply) == expected


# --------------------------------------------------------------------------- hostile replies
@pytest.mark.some(12)
@pytest.mark.parametrize(
    "reply",
    [
        "the answer is " * 7_000,
        "answer to " * 10_000,
        "answer to the " + "x" * 100_000,
        "not A " * 17_000,
        "A, " * 33_000,
        "A, B and " * 11_000,
        "A or " * 20_000,
        "A. A red car\n" * 7_500,
        "A. A red " * 11_000,
        "A is " * 20_000,
        "A is also " * 10_000,
        "option " * 14_000,
        "option A " * 11_000,
        "\\boxed{" * 14_000,
        "*" * 100_000,
        "\n" * 100_000,
        "答案" * 50_000,
        "选" * 100_000,
        "total of " * 11_000,
        "the number of " * 7_000,
        "total: one " * 9_000,
        "1 s " * 25_000,
        "= " * 50_000,
        "A\n" * 50_000,
        "is the most likely " * 5_000,
        "A " + "is the " * 14_000,
        "so " * 33_000,
        "a b " * 25_000,
        "(" * 50_000 + "A" + ")" * 50_000,
        "A B " * 25_000,
        "once " * 20_000,
        "A. " * 33_000,
        "1,111" * 20_000,
        "yes no " * 14_000,
        "answer is yes " * 7_000,
        " " * 100_000 + "x",
        "'" * 100_000,
        "A'" * 50_000,
        "n't " * 25_000,
        "answer" + " " * 100_000,
        "answer is" * 12_000,
        "A " * 50_000,
        "1" * 100_000 + ",",
        "one " * 25_000,
        "<think>" * 14_000,
        "(" * 100_000,
        "1,111" * 20_000 + "e",
        "<answer>" * 12_000 + "</answer>",
        "is =" * 25_000,
    ],
)
def test_hostile_replies_are_read_at_once(reply):
    """About 100 kB each: nothing here takes time that grows faster than the reply."""
    started = time.process_time()
    final_answer(reply)
    choice_in(reply, CARS)
    labels_in(reply, FEELINGS)
    number_in(reply)
    yes_or_no(reply)
    open_match(reply, "x")
    open_match(reply, "2")
    assert time.process_time() - started < 20
