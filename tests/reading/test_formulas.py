"""reading/letters.py: options that are formulas or numbers, and texts that are said to be absent.

Every reply has one reading that is clear to people; it was written down by hand.
"""

import pytest

from reading.letters import choice_in, letter_of
from rewards import accuracy_reward

INSTRUMENTS = ["A. Piano", "B. Violin", "C. Guitar", "D. Drum"]
ANIMALS = ["A. dog", "B. cat", "C. horse", "D. bird"]
CARS = ["A. red car", "B. blue car", "C. green bus", "D. white van"]
COUNTS = ["A. 2", "B. 3", "C. 4", "D. 10"]
WORDS = ["A. one", "B. two", "C. three", "D. Twenty-one"]
WEIGHTS = ["A. 15 kg", "B. 20 kg", "C. 0.5 kg"]
TRUE = ["A. True", "B. False"]

# An answer that is another formula than every option: it earns nothing, and chooses none
OTHER_FORMULAS = [
    (["A. x > 0", "B. x = 1"], "x < 0"),
    (["A. v1 > v2", "B. equal"], "v1 < v2"),
    (["A. v1 > v2", "B. equal"], "The answer is v1 < v2."),
    (["A. x^2", "B. 2x"], "x/2"),
    (["A. a + b", "B. ab"], "a × b"),
    (["A. a + b", "B. ab"], r"$a \div b$"),
    (["A. p ∧ q", "B. p"], "p ∨ q"),
    (["A. p ∧ q", "B. p"], r"p \lor q"),
    (["A. 5 + 3", "B. 7"], "5 - 3"),
    (["A. price ↑", "B. price unchanged"], "price ↓"),
    (["A. $5", "B. $6"], "€5"),
    (["A. £20", "B. £30"], "The answer is ¥20."),
    (["A. √3", "B. 5"], "3"),
    (["A. 3", "B. 5"], "√3"),
    (["A. 3", "B. 5"], r"The answer is \sqrt{3}."),
    (["A. 3", "B. 5"], "The answer is 10^3."),
    (["A. a ≤ b", "B. a = b"], r"a \geq b"),
    (["A. A ∪ B", "B. neither"], "A ∩ B"),
    (["A. C♯ minor", "B. D minor"], "C minor"),
    (["A. 15 kg", "B. 20 kg"], "15 g"),
    (["A. 20 °C", "B. 30 °C"], "20 °F"),
    (["A. 5%", "B. 6%"], "5 °"),
]

SAME_FORMULAS = [
    (["A. √2", "B. 2"], r"\sqrt{2}", "A"),
    (["A. √2", "B. 2"], r"The answer is $\sqrt{2}$.", "A"),
    ([r"A. $\sqrt{2}$", "B. 2"], "√2", "A"),
    (["A. √2", "B. 2"], "sqrt(2)", "A"),
    (["A. 1/3", "B. 3/4"], r"\frac{1}{3}", "A"),
    (["A. 1/3", "B. 3/4"], r"So the answer is \boxed{\dfrac{3}{4}}.", "B"),
    ([r"A. $\frac{1}{3}$", r"B. $\frac{3}{4}$"], "3/4", "B"),
    (["A. $x^2$", "B. $2x$", r"C. $\frac{x}{2}$", "D. $x$"], "x/2", "C"),
    (["A. $x^2$", "B. $2x$", r"C. $\frac{x}{2}$", "D. $x$"], "x²", "A"),
    (["A. $x^{2}$", "B. $2x$"], "x²", "A"),
    (["A. 20°C", "B. 30°C"], r"$20^\circ$C", "A"),
    (["A. 20°C", "B. 30°C"], r"It is $30^{\circ}$C.", "B"),
    (["A. x ≤ 3", "B. x > 3"], r"x \leq 3", "A"),
    (["A. x ≤ 3", "B. x > 3"], "x <= 3", "A"),
    (["A. a ≥ b", "B. a < b"], r"$a \ge b$", "A"),
    (["A. α", "B. β"], r"\alpha", "A"),
    (["A. α", "B. β"], r"The angle is $\beta$.", "B"),
    (["A. 2πr", "B. πr²"], r"2\pi r", "A"),
    (["A. 2πr", "B. πr²"], r"\pi r^2", "B"),
    (["A. a×b", "B. a+b"], r"a \times b", "A"),
    (["A. 10^3", "B. 10^4"], "10³", "A"),
    (["A. 10⁻³", "B. 10³"], "10^{-3}", "A"),
    (["A. H2O", "B. CO2"], r"$\mathrm{H_2O}$", "A"),
    (["A. H2O", "B. CO2"], "CO₂", "B"),
    (["A. H₂O", "B. CO₂"], "The gas is CO2.", "B"),
    (["A. 1/2", "B. 1/3"], "½", "A"),
    (["A. y = 2x - 1", "B. y = 2x + 1"], "y=2x-1", "A"),
    (["A. n - 1", "B. n + 1"], "n-1", "A"),
    (["A. $5", "B. $6"], "$5", "A"),
    (["A. $5", "B. $6"], "It costs $6.", "B"),
    (["A. $5", "B. $6"], r"\$6", "B"),
    (["A. 60 °C", "B. 70 °C"], "60", "A"),
    (["A. 50%", "B. 60%"], "The answer is 60.", "B"),
    (["A. A → B", "B. B → A"], r"$A \to B$", "A"),
    (["A. Δt", "B. Δx"], r"\Delta x", "B"),
    (["A. $E = mc^2$", "B. $E = mc^3$"], "E = mc²", "A"),
    (["A. x₁ > x₂", "B. x₁ < x₂"], r"The answer is $x_1 < x_2$.", "B"),
    ([r"A. \(2^n\)", r"B. \(n^2\)"], "n²", "B"),
    (["A. ♩=120", "B. ♩=90"], "120", "A"),
    (["A. 5 m/s", "B. 10 m/s"], "10", "B"),
]

NUMBERS = [
    (COUNTS, "There are three people.", "B"),
    (COUNTS, "three", "B"),
    (COUNTS, "I count ten of them.", "D"),
    (COUNTS, "3.0", "B"),
    (WORDS, "Two.", "B"),
    (WORDS, "3", "C"),
    (WORDS, "21", "D"),
    (["A. Once", "B. Three times"], "3 times", "B"),
    (WEIGHTS, "15", "A"),
    (WEIGHTS, "20.0 kg", "B"),
    (WEIGHTS, ".5 kg", "C"),
    (["A. 0.5", "B. 0.7"], "0.50", "A"),
    (["A. 0:30", "B. 0:45"], "00:30", "A"),
    (["A. 0:30", "B. 0:45"], "At 00:45.", "B"),
    (COUNTS, "I cannot tell how many of the three are people.", None),
    (COUNTS, "5", None),
]

ABSENT = [
    (INSTRUMENTS, "The video does not show a piano; only the violin is heard.", "B"),
    (INSTRUMENTS, "This sounds like a violin and not like a piano.", "B"),
    (INSTRUMENTS, "There's no piano, it is the guitar.", "C"),
    (INSTRUMENTS, "I hear a drum. There is no violin.", "D"),
    (INSTRUMENTS, "We never see a guitar, but we hear a piano.", "A"),
    (ANIMALS, "It doesn't sound like a dog. It sounds like a horse.", "C"),
    (ANIMALS, "Not a cat but a bird.", "D"),
    (["A. Left", "B. Ahead"], "The car does not turn left; it goes ahead.", "B"),
    (ANIMALS, "The dog is silent, so the horse.", "C"),
]

ARTICLES = [
    (INSTRUMENTS, "A piano", "A"),
    (INSTRUMENTS, "A piano.", "A"),
    (INSTRUMENTS, "The answer is A piano.", "A"),
    (INSTRUMENTS, "A. Piano is heard.", "A"),
    (INSTRUMENTS, "I hear a piano playing.", "A"),
    (INSTRUMENTS, "A piano because of its sound, unlike the violin's.", "A"),
    (
        INSTRUMENTS,
        "There is a piano in the background, but the instrument being played is a violin.",
        None,
    ),
    (ANIMALS, "A dog is visible, but the sound is that of a bird.", None),
    (ANIMALS, "a dog barks and the answer is the cat", "B"),
]

REFUSALS = [
    (ANIMALS, "I see a dog but cannot hear anything, so I cannot answer."),
    (ANIMALS, "There is a cat, but it is impossible to tell from the picture."),
    (CARS, "I can't choose between A, B, C, and D without it."),
    (CARS, "It could be anything between A and D."),
]

WORDINGS = [
    (CARS, "A is tempting but wrong. C.", "C"),
    (CARS, "A? No. B? No. C? Yes. D? No.", "C"),
    (CARS, "A选项错误，B选项正确。", "B"),
    (CARS, "选项A、B都不符合，C符合题意", "C"),
    (CARS, "A: not heard\nB: not heard\nC: heard\nD: not heard", "C"),
    (CARS, "Answer is option-B", "B"),
    (CARS, "Between A and B, A fits best.", "A"),
    (["A. Yes", "B. No"], "No doubt, yes.", "A"),
    (["A. Yes", "B. No"], "There is no doubt: yes", "A"),
    (TRUE, "The statement is not true.", "B"),
    (TRUE, "The statement isn't false.", "A"),
    (["A. Both", "B. Neither"], "The answer is both", "A"),
]


@pytest.mark.parametrize(("options", "reply"), OTHER_FORMULAS)
def test_another_formula_is_no_option(options, reply):
    assert choice_in(reply, options, "first") is None
    assert choice_in(reply, options, "last") is None
    for gold in ("A", "B"):
        assert accuracy_reward(reply, gold, "multiple choice", options) == 0


@pytest.mark.parametrize(("options", "reply", "letter"), SAME_FORMULAS)
def test_a_formula_is_the_same_in_tex_and_unicode(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


def test_training_reads_formulas_and_numbers_alike():
    assert letter_of(r"\sqrt{2}", ["A. √2", "B. 2"]) == "A"
    assert letter_of("three", COUNTS) == "B"
    assert accuracy_reward("√2", "B", "multiple choice", [r"A. $\sqrt{2}$", "B. 2"]) == 0
    assert accuracy_reward("three", "B", "multiple choice", COUNTS) == 1


@pytest.mark.parametrize(("options", "reply", "letter"), NUMBERS)
def test_a_number_is_the_same_in_digits_and_words(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), ABSENT)
def test_a_text_that_is_said_to_be_absent_is_not_chosen(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply", "letter"), ARTICLES)
def test_the_article_before_a_text_is_no_letter(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter


@pytest.mark.parametrize(("options", "reply"), REFUSALS)
def test_who_refuses_chooses_none(options, reply):
    assert choice_in(reply, options, "first") is None
    assert choice_in(reply, options, "last") is None


@pytest.mark.parametrize(("options", "reply", "letter"), WORDINGS)
def test_more_wordings(options, reply, letter):
    assert choice_in(reply, options, "first") == letter
    assert choice_in(reply, options, "last") == letter
