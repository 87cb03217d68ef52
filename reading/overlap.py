"""reading/overlap.py: how much of a gold text an answer has: ROUGE, and the word error rate.

Both compare texts of every script. On English words ROUGE is that of Google's rouge-score with its
stemmer, which drops every character outside a-z and 0-9.
"""

import collections
import functools
import re
import unicodedata

import snowballstemmer

from reading.text import MARKS, UNSPACED, same_characters, tokens

# A word of a text as it is written: up to the next blank, or one character of an unspaced script.
WRITTEN_WORD = re.compile(rf"[{UNSPACED}][{MARKS}]*|[^\s{UNSPACED}]+")

# Words that Porter's rules miss; rouge-score's stemmer has them, too.
IRREGULAR = {"dying": "die", "lying": "lie", "tying": "tie", "skies": "sky", "sky": "sky"}
IRREGULAR |= {"news": "news", "outing": "outing", "inning": "inning", "innings": "inning"}


@functools.lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Porter's stem of an English word: stem("moving") = stem("moves") = 'move'; others stay."""
    if not (word.isascii() and word.isalpha()):
        return word
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) == 4 and word.endswith(("ies", "ied")):  # "dies", which Porter makes "di"
        return word[:-1]
    return snowballstemmer.stemmer("porter").stemWord(word)


def is_same(answer: str, gold: str) -> bool:
    """Whether two texts are the same but for case, white space and punctuation.

    >>> is_same("Red.", "red"), is_same("C++", "C#"), is_same("?", "!"), is_same("-5", "5")
    (True, False, False, False)
    """
    if answer == gold:  # so is every gold answer compared with itself, at loading
        return True
    answer, gold = same_characters(answer), same_characters(gold)
    words = [token.text for token in tokens(answer)]
    if words:
        return words == [token.text for token in tokens(gold)]
    return answer.split() == gold.split()  # punctuation alone


def f_measure(common: int, first: int, second: int) -> float:
    return 2 * common / (first + second) if first + second else 0.0


def common_ngrams(first: list[str], second: list[str], n: int) -> float:
    """ROUGE-n: the F1 of the n-grams that both texts have, each counted as often as it occurs."""
    counts = []
    for words in (first, second):
        shifted = [words[i:] for i in range(n)]
        counts.append(collections.Counter(zip(*shifted, strict=False)))
    common = sum((counts[0] & counts[1]).values())
    return f_measure(common, counts[0].total(), counts[1].total())


def common_subsequence(first: list[str], second: list[str]) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return f_measure(row[-1], len(first), len(second))


def rouge_mean(answer: str, gold: str) -> float:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of stemmed words.

    ROUGE-2 is left out when either side has fewer than two words: it is undefined there, and
    counting it as 0 would cap a right one-word answer at 2/3.

    >>> rouge_mean("a red disc", "blue"), rouge_mean("红色", "红色的球")
    (0.0, 0.611111111111111)
    """
    first = [stem(token.text) for token in tokens(same_characters(answer))]
    second = [stem(token.text) for token in tokens(same_characters(gold))]
    scores = [common_ngrams(first, second, 1), common_subsequence(first, second)]
    if min(len(first), len(second)) >= 2:
        scores.append(common_ngrams(first, second, 2))
    return sum(scores) / len(scores)


def written_words(text: str) -> list[str]:
    """Words as they are written, but for case: written_words("EXIT 左右") = exit, 左, 右."""
    return WRITTEN_WORD.findall(unicodedata.normalize("NFC", text).casefold())


def word_error_rate(answer: str, gold: str) -> float:
    """Words replaced, left out or added, over the words of the gold text; at most 1.

    >>> word_error_rate("EXIT left", "exit right")
    0.5
    """
    said, target = written_words(answer), written_words(gold)
    if not target:
        return float(bool(said))
    if len(said) >= 2 * len(target):
        return 1.0

    # Levenshtein's distance, row by row
    row = list(range(len(target) + 1))
    for i, word in enumerate(said, start=1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(target, start=1):
            above = row[j]
            row[j] = min(diagonal + (word != wanted), above + 1, row[j - 1] + 1)
            diagonal = above
    return min(1.0, row[-1] / len(target))
