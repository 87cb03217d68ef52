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
    ("5 minus 3 is 2", 2),
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
    [
        "two ",
        "two and ",
        "two and half ",
        "a half ",
        "minus ",
        "negative two ",
        "two point ",
        "一点",
        "负一",
    ],
)
def test_time_is_linear_in_words_of_numbers(piece):
    started = time.process_time()
    number(piece * (60_000 // len(piece)))
    number_in(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 20


CONCLUSIONS = [
    ("1. 0:03\n2. 0:07\n3. 0:12\n\nTherefore, the bell rings 3 times.", 3),
    ("The claps are at:\n1) 0:03\n2) 0:07\n3) 0:12\nThe man claps 3 times.", 3),
    ("5 times in the first half and 4 times in the second half: 9 times overall.", 9),
    ("There are 5 men and 4 women, totaling 9 people.", 9),
    ("5 men plus 4 women makes 9.", 9),
    ("The room is 4 m x 5 m, so the area is 20 square meters.", 20),
    ("It isn't 4, it's 5.", 5),
    ("Not 4, but 5.", 5),
    ("I first thought 4, but it is actually 5.", 5),
    ("4? No, 5.", 5),
    ("Player 10 touches the ball 6 times.", 6),
    ("No bells are heard.", 0),
    ("The bell never rings.", 0),
    ("一次也没有", 0),
    ("1. dog\n2. cat\n3. bird\n\nThere are 4 animals if the fish counts.", 4),
    ("- 2 claps at 0:03\n- 3 claps at 0:10\n\nThe man claps 5 times.", 5),
    ("* 2 claps at 0:03\n* 3 claps at 0:10\nHe claps five times", 5),
    ("There are 5 animals:\n1. 2 dogs\n2. 3 cats\n\nThe 2 dogs are brown.", 5),
    ("1. 2 dogs\n2. 3 cats\n\nThere are 5 animals.", 5),
    ("Clap 1: 0:03\nClap 2: 0:07\nClap 3: 0:12\nThe man claps 3 times.", 3),
    ("1) 0:03, 2) 0:07, 3) 0:12. The man claps 3 times.", 3),
    ("(1) 0:03 (2) 0:07: he claps twice", 2),
    ("Hence the man claps 3 times, first at 0:04.", 3),
    ("At 1 s, 3 s. In conclusion, the bell rings three times in 10 seconds.", 3),
    ("Overall, the bell rings 9 times.", 9),
    ("5 in the first and 4 in the second. In total, the man claps 9 times.", 9),
    ("5 + 4 gives 9", 9),
    ("Two and two make four.", 4),
    ("ten minus five equals five", 5),
    ("There were 5, then 2 left, leaving 3.", 3),
    ("5 here and 4 there, adding up to 9.", 9),
    ("5 and 4, which sums to 9 claps.", 9),
    ("5 men and 4 women: nine overall.", 9),
    ("5 men, 4 women, bringing the total to 9.", 9),
    ("It's not four but five.", 5),
    ("It isn't four, it's five.", 5),
    ("There aren't 4 people, there are 5.", 5),
    ("I counted 4, no, 5 claps.", 5),
    ("4... wait, 5.", 5),
    ("4 claps, or rather 5.", 5),
    ("At first I thought there were 4, but there are 5.", 5),
    ("Initially I counted 4 claps, but a closer look shows 5.", 5),
    ("It looks like 4, but it is actually 5.", 5),
    ("5, not 4.", 5),
    ("rather than 4, there are 5", 5),
    ("Neither 3 nor 4 but 5", 5),
    ("I thought it was 4. It is 5.", 5),
    ("Speaker 2 says hello 4 times.", 4),
    ("Room 12 has 3 chairs.", 3),
    ("Number 10 touches the ball 6 times.", 6),
    ("Player number 10 touches the ball six times.", 6),
    ("He calls the woman 3 times.", 3),
    ("No bells can be heard.", 0),
    ("No claps are audible in the video.", 0),
    ("He never claps.", 0),
    ("The bell is never heard.", 0),
    ("Not a single clap is heard.", 0),
    ("Not once.", 0),
    ("not one", 0),
    ("He does not clap once.", 0),
    ("He doesn't clap at all.", 0),
    ("Nobody claps.", 0),
    ("None of the bells ring.", 0),
    ("没有一个人", 0),
    ("一个人也没有", 0),
    ("No video was provided.", None),
    ("There is no audio.", None),
    ("No answer can be given.", None),
    ("I cannot tell, as no sound is audible", None),
    ("It is never stated how many there are.", None),
    ("I never saw the video.", None),
    ("No idea", None),
    ("nobody", None),
    ("4 m x 5 m", 4),
    ("The room is 4 by 5 meters, an area of 20 m²", 20),
    ("The box is 3 x 4 cm; there are 7 dots.", 7),
    ("7 or 8, I'd say 8.", 7),
    ("There is one dog and one cat, so the yard has two animals.", 2),
    ("So far 3 people have entered.", 3),
    ("There are 5 people, so the scene at 0:12 is full.", 5),
    ("The answer is 5. So 3 is wrong.", 5),
    ("There are 5 men. They walk so fast that 2 fall.", 5),
    ("It's not 4.", None),
    ("No more than 5", 5),
    ("not more than 5 people", 5),
    ("There are not only 4 men but also 3 women", 4),
    ("3 people in all the 4 rooms", 3),
    ("There is no sound.", 0),
    ("She combined 3 colors.", 3),
    ("I see 3 of them, which means the third frame has 3.", 3),
    ("As 4 men enter, the total is 6.", 6),
    ("4 claps. Actually, 5.", 5),
    ("There are 5 people. No, there are 6.", 6),
    ("- 0:03\n- 0:07\n\nThe bell rings twice.", 2),
    ("The count is not 4 but 5", 5),
    ("3 × 4 = 12", 12),
    ("5 and 4 are 9", 9),
    ("There are 2 men and 3 women are talking", 2),
    ("In game 2 he scores 12 points.", 12),
    ("ten minus five equals five", 5),
]


@pytest.mark.parametrize(("reply", "value"), CONCLUSIONS)
def test_conclusions_behind_lists_and_clauses(reply, value):
    assert number_in(reply) == value


@pytest.mark.parametrize(
    ("answer", "value"), [("一次也没有", 0), ("not once", 0), ("没有一个人", 0)]
)
def test_none_at_all_is_a_count_for_training_too(answer, value):
    assert number(answer) == number_in(answer) == value


@pytest.mark.parametrize(
    "piece",
    [
        "1) x ",
        "- 1\n",
        "not 1 ",
        "1? no, ",
        "I thought 1 ",
        "so 1 x ",
        "4 x ",
        "clap 1: ",
        "1 and 1 ",
        "1 plus ",
        "no bells ",
        "never ",
        "does not a ",
        "not once ",
        "Player 1 ",
        "overall a ",
        "seems 1 ",
    ],
)
def test_time_is_linear_in_conclusions(piece):
    started = time.process_time()
    number_in(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 20
