"""ROUGE and word error rates against numbers of rouge-score 0.1.2 and jiwer 4.0."""

import pytest

from reading.overlap import is_same, rouge_mean, stem, word_error_rate


# The mean of rouge1, rouge2 and rougeL as rouge-score gives it with use_stemmer=True.
@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the dogs were barking loudly", "a dog barks loud", 0.296296),
        ("He opened the door and walked in", "the man opens a door, walks inside", 0.333333),
        ("three knocks then a bell", "a bell rings after three knocks", 0.511785),
        ("running ponies", "the pony runs", 0.4),
        ("dying flies", "a fly dies", 0.266667),
    ],
)
def test_rouge_is_that_of_rouge_score(answer, gold, expected):
    assert rouge_mean(answer, gold) == pytest.approx(expected, abs=1e-5)


# 1 - jiwer.wer(gold, answer)
@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the cat sat", "the cat sat on the mat", 0.5),
        ("no exit here", "exit", 1),
        ("a b c d", "x", 1),
        ("mind the gap", "Mind the gap", 0),
        ("", "x y", 1),
        ("", "", 0),
        ("出口在左", "出口在右", 0.25),  # a character is a word where nothing parts words
    ],
)
def test_word_error_rate(answer, gold, expected):
    assert word_error_rate(answer, gold) == pytest.approx(expected)


@pytest.mark.parametrize("words", ["moves moving moved", "days day", "eyes eye", "dies die dying"])
def test_forms_of_one_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("红色的球", "红色的球。"), ("КРАСНЫЙ", "красный."), ("Cafe\u0301", "café"), ("ＡＢ", "ab")],
)
def test_case_width_and_punctuation_are_no_difference(answer, gold):
    assert is_same(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("C++", "C#"),
        ("x²", "x³"),
        ("-5", "5"),
        ("?", "!"),
        ("क", "कि"),
        ("v1 < v2", "v1 > v2"),
        ("10 °C", "10 °F"),
        ("蓝色", "红色"),
        ("3:1", "31"),
        ("", "?"),
    ],
)
def test_signs_and_symbols_are_a_difference(answer, gold):
    assert not is_same(answer, gold)
