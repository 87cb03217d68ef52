"""Numbers by hand, by the kind of trap in the reply: dashes, words of fractions, conclusions."""

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
