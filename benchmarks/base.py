"""benchmarks/base.py: one item, one benchmark."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.answers import (
    bodies_of,
    choice_in,
    letters_in,
    number_in,
    texts_in,
    unmarked,
    yes_or_no,
)
from benchmarks.scoring import said_clusters
from data import INSTRUCTION
from formats.sample import DataError, Sample, check_placeholders
from problems import f1, labels_of, problem_type, yes_no
from rewards import accuracy_reward, final_answer

STYLES = ("think", "direct", "paper")

QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual inputs, as well as generating "
    "text and speech."
)

RELEASED = (
    "Your task is to accurately answer multiple-choice questions based on the given video. Select the single most accurate answer from the given "
    "choices.\nQuestion: {question}\n{options}\nYour answer should be a capital letter representing your choice. Don't generate any other text."
)


@dataclass
class Item:
    """One question of a benchmark. sample: its text, options ("A. red"), gold answer (`answer`) and media; labels: what its splits are told apart by, a
    text or several; video: what the bootstrap draws as one; truth: whatever else its score needs; paper: fields of the paper's wording; broken: why it
    cannot be scored whatever the model says, and is left out."""

    sample: Sample
    labels: dict[str, str | list[str]]
    video: str
    truth: object = None
    paper: dict[str, str] = field(default_factory=dict)
    broken: str = ""


@dataclass(frozen=True)
class Metric:
    """The mean of a part of the scores over the items that have it; over: labels, outermost first, whose values weigh alike (a mean of means); root: the
    square root of it. percent: shown times 100. higher: more is better."""

    name: str
    part: str = "score"
    over: tuple[str, ...] = ()
    root: bool = False
    percent: bool = True
    higher: bool = True


def by_type(one: Item, answer: str | None, several: str) -> dict[str, float | None]:
    """{"score"} by problem type: the letter chosen; letters as sets by F1; yes or no; an open answer is the judge's. answer None: the item was not asked."""
    sample, answer = one.sample, answer or ""
    if sample.problem_type == "multiple choice":
        return {"score": float(choice_in(answer, sample.options, several) == sample.answer)}
    if sample.problem_type == "free-form":
        return {"score": None}
    if sample.problem_type == "multi-label":
        return {
            "score": f1(labels_in(answer, sample.options), labels_of(sample.answer, sample.options))
        }
    if sample.problem_type == "yes/no":
        return {"score": float(yes_or_no(answer) == yes_no(sample.answer))}
    return {
        "score": accuracy_reward(answer or None, sample.answer, sample.problem_type, sample.options)
    }


def labels_in(text: str, options: list[str]) -> frozenset[str]:
    """The letters that a free reply names: the labels that it lists; where one of them is no letter, those of `letters_in`, else the options whose text occurs.

    >>> options = ["A. calm", "B. sad", "C. glad"]
    >>> sorted(labels_in("b, Glad", options)), sorted(labels_in("A, B, and C.", options)), sorted(labels_in("A man; joy", options))
    (['B', 'C'], ['A', 'B', 'C'], ['a man', 'joy'])
    >>> sorted(labels_in("B,C\\n\\nA is wrong.", options)), sorted(labels_in("He is glad and calm.", options))
    (['B', 'C'], ['A', 'C'])
    """
    said = labels_of(text, options)
    if all(len(label) == 1 for label in said):
        return said
    return (
        letters_in(text, options) or frozenset(texts_in(unmarked(text), bodies_of(options))) or said
    )


@dataclass(frozen=True)
class Benchmark:
    """title; files: where they come from; read(root, scratch): its Items; splits: labels that are reported; size: the number of items as published,
    0: not known. sound: videos are heard.

    rule: how it is scored, in words. several: which of several letters in a reply counts. score(item, answer, several): {part: number, or None where a
    judge has to say}; answer None: the item was not asked. metrics: the first one is the headline. judge: (what a judge is asked, its reply as 0, 1 or None).
    paper, system: the wording of --prompt paper, by problem type or for all; tokens: its longest reply."""

    title: str
    files: str
    read: Callable[[Path, Path], Iterable[Item]]
    splits: tuple[str, ...] = ()
    size: int = 0
    sound: bool = True
    rule: str = "letter"
    several: str = "last"
    score: Callable[[Item, str | None, str], dict[str, float | None]] = by_type
    metrics: tuple[Metric, ...] = (Metric("accuracy"),)
    judge: tuple[Callable[[Item, str], str], Callable[[str], float | None]] | None = None
    paper: str | dict[str, str] = RELEASED
    system: str = ""
    tokens: int = 512

    @property
    def scoring(self) -> str:
        """The rule in full."""
        return self.rule + ("; of several letters the first" if self.several == "first" else "")


def item(
    name: str,
    question: str,
    answer: str,
    options: list[str] = (),
    kind: str = "multiple choice",
    labels: dict | None = None,
    video: str = "",
    truth: object = None,
    paper: dict | None = None,
    **media,
) -> Item:
    """An Item; media: videos, images, audios (paths), span, frame_rate. video: the name of its cluster; empty: its first medium."""
    for k in ("videos", "images", "audios"):
        media[k] = [str(p) for p in media.get(k, ())]
    sample, broken = (
        Sample(str(name), question, kind, str(answer), options=list(options), **media),
        "",
    )
    wanted = {
        "multiple choice": {sample.answer},
        "multi-label": labels_of(sample.answer, sample.options),
    }.get(kind, set())
    if not sample.answer.strip():
        broken = "it has no gold answer"
    elif not wanted <= {o[0] for o in options}:
        broken = f"its answer {answer!r} is none of its {len(options)} options"
    elif kind == "yes/no" and yes_no(sample.answer) is None:
        broken = f"its answer {answer!r} is neither yes nor no"
    try:
        check_placeholders(sample)
    except DataError as error:
        broken = str(error)
    first = next(iter([*sample.videos, *sample.images, *sample.audios]), str(name))
    labels = {
        k: [str(x) for x in v] if isinstance(v, list) else "none" if v in (None, "") else str(v)
        for k, v in (labels or {}).items()
    }
    return Item(sample, labels, video or first, truth, paper or {}, broken)


def ask(one: Item, benchmark: Benchmark, style: str) -> Sample:
    """The sample that is shown to the model, by --prompt.

    think: reasoning, then <answer>, as in training. direct: no reasoning asked for. paper: the released evaluation's wording."""
    sample = Sample(**vars(one.sample))
    kind = sample.problem_type
    if style == "think":
        sample.instruction = f"{INSTRUCTION} {problem_type(kind).instruction if kind != 'code' else 'Answer with the JSON.'}"
    elif style == "direct":
        sample.instruction = (
            problem_type(kind).direct if kind != "code" else "Answer with the JSON only."
        )
    else:
        wording = (
            benchmark.paper
            if isinstance(benchmark.paper, str)
            else benchmark.paper[one.paper.get("wording", kind)]
        )
        fields = {
            "question": sample.question,
            "options": "\n".join(sample.options),
            "list": repr(sample.options),
            "round": "\n".join(f"({o[0]}) {o[3:]}" for o in sample.options),
        } | one.paper
        wording = re.sub(
            r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), wording
        )  # not str.format: wordings hold braces of JSON
        sample.question, sample.options, sample.instruction, sample.system = (
            wording,
            [],
            "",
            benchmark.system,
        )
    return sample


def read_answer(one: Item, completion: str, several: str) -> str:
    """What a completion answers: the letter, the number, or the text; "" when there is none."""
    said = final_answer(completion)
    if one.sample.problem_type == "multiple choice":
        return choice_in(said, one.sample.options, several) or ""
    if one.sample.problem_type in ("counting", "numeric"):
        value = number_in(said)
        return "" if value is None else f"{value:.15g}"
    if one.sample.problem_type == "yes/no":
        return yes_or_no(said) or ""
    if one.sample.problem_type == "code" and said_clusters(one.truth[0], said) is None:
        return ""
    return said
