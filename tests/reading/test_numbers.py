"""Numbers by hand, by the kind of trap in the reply: dashes, words of fractions, conclusions."""

import time

import pytest

from reading.numbers import number, number_in

# the same for both readers
DASHES = [
    ("- 5", 5),
    ("- 5 claps", 5),
    ("- 5 degrees", 5),
    ("-  5", 5),
    ("\u2013 5", 5),
    ("\u2014 5 claps", 5),
    ("- $5", 5),
    ("+ 5", 5),
    ("-5", -5),
    ("\u22125", -5),
    ("\u2212 5", -5),
    ("-$5", -5),
    ("\u20130.5", -0.5),
    ("x = - 5", -5),
    ("= - 5", -5),
    ("$- 5$", -5),
    ("(- 5)", -5),
    (r"\boxed{- 5}", -5),
    (r"- \frac{1}{2}", -0.5),
]
DASHES_IN_REPLIES = [
    ("Answer - 5", 5),
    ("Answer \u2014 5", 5),
    ("Answer \u2014 5 claps in all", 5),
    ("Of 12 people, 3 wave. Answer - 3", 3),
    ("Number of claps \u2013 5", 5),
    ("Total \u2013 7", 7),
    ("dogs \u2014 3", 3),
    ("dogs \u20143", 3),
    ("claps\u20145", 5),
    ("three \u2013 3", 3),
    ("The video shows people - 4 in total.", 4),
    ("2 on the left and 3 on the right \u2014 5 in the scene altogether", 5),
    ("The count - 5 - is final", 5),
    ("The answer is - 5.", 5),
    ("x = \u2013 5", 5),
    ("I see:\n- 3 dogs", 3),
    ("I see:\n- 3 dogs\n- 2 cats", 3),
    ("I see:\n\n- 3 big brown dogs\n- 2 cats", 3),
    ("I see: - 3 dogs - 2 cats", 3),
    ("> - 3 dogs", 3),
    ("Answer:\n- 5", 5),
    ("Answer: - 5", -5),
    ("Temperature: - 5 degrees", -5),
    ("2 + - 5 = - 3", -3),
    ("x > - 5", -5),
    ("It is -5 degrees.", -5),
    ("3 - 5", 3),
    ("3 \u2013 5", 3),
    ("12 - 4 = 8", 8),
    ("3 - 5 in total", 5),
]


@pytest.mark.parametrize(("answer", "value"), DASHES)
def test_a_dash_with_a_blank_behind_it_is_no_sign(answer, value):
    assert number(answer) == number_in(answer) == value


@pytest.mark.parametrize(("reply", "value"), DASHES_IN_REPLIES)
def test_dashes_in_replies(reply, value):
    assert number_in(reply) == value


# the same for both readers; None where no value is obvious
PARTS = [
    ("two thirds", 2 / 3),
    ("three quarters", 0.75),
    ("one half", 0.5),
    ("half", 0.5),
    ("a half", 0.5),
    ("a quarter", 0.25),
    ("one third", 1 / 3),
    ("two-thirds", 2 / 3),
    ("Two Thirds.", 2 / 3),
    ("3 quarters", 0.75),
    ("2 thirds", 2 / 3),
    ("one and a half", 1.5),
    ("2 and a half", 2.5),
    ("two and three quarters", 2.75),
    ("one and a half hours", 1.5),
    ("two and a half", 2.5),
    ("two-and-a-half", 2.5),
    ("a dozen and a half", 18),
    ("two and a half million", 2500000.0),
    ("minus five", -5),
    ("negative 5", -5),
    ("minus 5", -5),
    ("negative five", -5),
    ("negative 3.2%", -3.2),
    ("minus two thirds", -2 / 3),
    ("minus one and a half", -1.5),
    ("two point five", 2.5),
    ("zero point seven five", 0.75),
    ("minus zero point five", -0.5),
    ("three tenths", 0.3),
    ("half an hour", 0.5),
    ("a half dozen", 6),
    ("half a dozen", 6),
    ("half a million", 500000.0),
    ("a quarter mile", 0.25),
    ("5 degrees below zero", -5),
    ("five below zero", -5),
    ("three halves", 1.5),
    ("five thirds", 5 / 3),
    ("two halves", None),
    ("four quarters", None),
    ("twenty-first", None),
    ("twenty third", None),
    ("twenty-one", 21),
    ("three seconds", 3),
    ("one second", 1),
    ("三分之二", 2 / 3),
    ("百分之五十", 50),
    ("百分之50", 50),
    ("两点五", 2.5),
    ("负五", -5),
    ("负5", -5),
    ("零下5度", -5),
    ("一半", 0.5),
    ("两个半", 2.5),
    ("一又二分之一", 1.5),
    ("one hundredth", 0.01),
    ("minus twenty-one", -21),
    ("minus a hundred", -100),
    ("negative one half", -0.5),
    ("a third", 1 / 3),
    ("one fifth", 0.2),
    ("three-fourths", 0.75),
    ("Minus 5 degrees", -5),
    ("3 and 1/2", 3.5),
    ("one hundred and one half", 100.5),
    ("two third", 2 / 3),
    ("two hundred and five", 205),
    ("two and two thirds cups", 2 + 2 / 3),
    ("minus $5", -5),
    ("half of them", None),
]
PARTS_IN_REPLIES = [
    ("The temperature is minus 5 degrees.", -5),
    ("It is about two thirds.", 2 / 3),
    ("The answer is one half.", 0.5),
    ("The answer is half.", 0.5),
    ("about half", None),
    ("5 minus 3 is 2", 5),
    ("He shows the temperature outside: minus five degrees", -5),
    ("It lasts one and a half minutes.", 1.5),
    ("In the first half there are 5 goals.", 5),
    ("In the first two thirds of the video there are 5 knocks.", 5),
    ("One third of the video shows 5 people.", 5),
    ("A third man enters, so there are 3 men.", 3),
    ("A quarter of the people wear hats.", 0.25),
    ("Two thirds of the people wear hats.", 2 / 3),
    ("The game has two halves and 4 goals.", 4),
    ("There are 5 and half of them are red.", 5),
    ("It fell to minus 3.", -3),
    ("x equals minus 4", -4),
    ("The test was negative 3 times.", 3),
    ("The second third of it has 7", 7),
    ("On the twenty-first day 3 men come", 3),
    ("About two and a half meters", 2.5),
    ("The glass is three quarters full.", 0.75),
    ("三分之二的人戴帽子", 2 / 3),
    ("前一半有3次", 3),
    ("温度是零下五度", -5),
    ("There is a half-open door and 3 men", 3),
    ("The man claps one and a half times", 1.5),
    ("From minus 5 to 3 degrees", -5),
    ("At that point five people leave.", 5),
    ("Three men play a quarter-final", 3),
    ("The clock shows a quarter past 3", 3),
    ("He wears number 7 and a third man wears 8", 7),
    ("The change is minus 5.12%.", -5.12),
    ("The answer is negative.", None),
    ("The temperature reads minus 7 °C.", -7),
    ("one half of the 12", 0.5),
    ("one third of it", 1 / 3),
]


def about(value: float | None) -> object:
    return value if value is None else pytest.approx(value)


@pytest.mark.parametrize(("answer", "value"), PARTS)
def test_fractions_decimals_and_signs_in_words(answer, value):
    assert number(answer) == about(value)
    assert number_in(answer) == about(value)


@pytest.mark.parametrize(("reply", "value"), PARTS_IN_REPLIES)
def test_fractions_and_signs_in_replies(reply, value):
    assert number_in(reply) == about(value)


@pytest.mark.parametrize(
    "piece",
    ["two ", "two and ", "a half ", "minus ", "negative two ", "two point ", "一点", "负一"],
)
def test_time_is_linear_in_words_of_numbers(piece):
    started = time.process_time()
    number(piece * (60_000 // len(piece)))
    number_in(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 20
