"""Yes or no by hand: a refusal is not the answer "no", and neither is "no doubt"."""

import time

import pytest

from problems import problem_type
from reading.yes_no import yes_no, yes_or_no
from rewards import accuracy_reward, score_group

REFUSALS = [
    "No certain answer",
    "No possible way to know",
    "No speaker can be identified, I am not able to tell.",
    "No judgment possible",
    "No answer can be given.",
    "No idea.",
    "No video was provided.",
    "No audio is available, so I can't tell.",
    "No way to tell from the video.",
    "No clear evidence; I cannot tell.",
    "I have no idea.",
    "Sorry, no video was provided.",
    "No doubt, he is lying.",
    "No clue",
    "No frames were provided",
    "No transcript available, I cannot say",
    "No one can tell",
    "No sé",
    "Não sei",
    "Non lo so.",
    "不知道",
    "没有视频",
    "不清楚。",
    "no response",
    "I can give no answer.",
    "There is no way to tell.",
    "No further information is given",
    "No sound can be heard",
    "**No idea**",
    "No valid response",
    "No speech is audible, so I cannot determine it.",
    "There is no audio and no video, so I cannot tell.",
    "No definitive answer.",
    "NO IDEA",
    "No context is given.",
    "No idea",
    "The answer is: no idea",
    "No  idea",
    "No lo sé",
    "对不起，我不知道",
    "No image attached.",
    "No clip attached",
    "I see no evidence of it.",
    "No comment",
    "Unfortunately no footage was shared",
    "No speech provided.",
    "I can think of no clear answer",
    "No doubt he is lying.",
    "No question, he lies.",
]
NO = [
    "No, he is not.",
    "No.",
    "No he isn't",
    "No - she lies",
    "no",
    "No, no idea why but he lies",
    "No dog barks.",
    "No one knocks.",
    "No, there is no evidence",
    "No. I have no doubt.",
    "No longer.",
    "No\nidea: he lies",
    "No; no video shows it",
    "No it is not possible",
    "No the dog is not visible",
    "No: I cannot see it",
    "不，他没有。",
    "没有",
    "没有人说话",
    "不是",
    "No hay perro",
    "Нет.",
    "No (no evidence)",
    "No—he lies",
    "No because I can't see it",
    "No not at all",
    "No smiling is seen",
    "No dog received food.",
    "No man answers the phone.",
    "No sign of a dog.",
    "No, information is missing.",
    "No I have no idea",
    "No one can be seen.",
    "No man shared his food.",
    "No dog is visible",
    "No, I cannot hear it",
]
IN_REPLIES = [
    ("There is no dog in the video.", "no"),
    ("Answer: No idea? No, the answer is no.", "no"),
    ("No evidence of lying, so the answer is no.", "no"),
    ("No evidence of lying, so no.", "no"),
    ("No idea, maybe yes", "yes"),
    ("No doubt, yes.", "yes"),
    ("The answer is no doubt yes.", "yes"),
    ("No problem: yes, he is", "yes"),
    ("yes, no idea why", "yes"),
    ("I see no conclusive\nevidence.", None),
]


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refusal_is_no_answer(reply):
    assert yes_no(reply) is yes_or_no(reply) is None
    assert accuracy_reward(reply, "no", "yes/no", []) == 0


@pytest.mark.parametrize("reply", NO)
def test_no_is_read(reply):
    assert yes_no(reply) == yes_or_no(reply) == "no"
    assert accuracy_reward(reply, "no", "yes/no", []) == 1


@pytest.mark.parametrize(("reply", "word"), IN_REPLIES)
def test_refusals_beside_an_answer(reply, word):
    assert yes_or_no(reply) == word


def test_refusals_have_no_vote():
    """Two refusals do not outvote one yes."""
    assert problem_type("yes/no").read("No idea.", []) is None
    answers = ["No idea.", "No video was provided.", "Yes"]
    texts = [f"<think></think><answer>{answer}</answer>" for answer in answers]
    scores = score_group(texts, "yes", "yes/no", [], 2)
    assert [score["self"] for score in scores] == [0, 0, 1]


@pytest.mark.parametrize(
    "piece", ["no ", "no clear ", "no x ", "no a a a a ", "没有", "no one is "]
)
def test_time_is_linear_in_refusals(piece):
    started = time.process_time()
    yes_no(piece * (100_000 // len(piece)))
    yes_or_no(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 20
