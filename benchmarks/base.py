"""benchmarks/base.py: what a benchmark is: its questions, how they are asked, read and scored.

    Benchmark.read(root, scratch)  -> Items       the files as they are downloaded
    ask(item, benchmark, style)    -> Sample      what the model is shown, by --prompt
    read_answer(item, completion)  -> answer      the letter, number or text that a reply means
    Benchmark.score(item, answer)  -> {part: x}   and Benchmark.metrics are means of the parts

Every benchmark is a file beside this one, which ends in its record `BENCHMARK = Benchmark(...)`;
table.py lists them, and shows how to add one.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from formats.options import LETTERS
from formats.sample import DataError, Sample, check_placeholders
from problems import INSTRUCTION, f1, problem_type, unreachable
from reading.letters import bodies_of, choice_in, labels_in, labels_of
from reading.numbers import number_in
from reading.yes_no import yes_no, yes_or_no
from rewards import accuracy_reward, final_answer

# Values of --prompt: think asks for reasoning and then <answer>, as in training; direct asks for no
# reasoning; paper is the wording of the released evaluation.
STYLES = ("think", "direct", "paper")

# The system turn of Qwen2.5-Omni's own examples, which the released evaluation sends with two
# benchmarks.
QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)

# The released evaluation's wording for most benchmarks.
RELEASED = (
    "Your task is to accurately answer multiple-choice questions based on the given video. Select "
    "the single most accurate answer from the given choices.\nQuestion: {question}\n{options}\n"
    "Your answer should be a capital letter representing your choice. Don't generate any other "
    "text."
)


@dataclass
class Item:
    """One question of a benchmark.

    sample: its text, options ("A. red"), gold answer (`answer`) and media.
    labels: {label: value, or several}; scores are reported by the values of Benchmark.splits.
    video: the video it is about; the bootstrap draws videos, with all questions about each.
    prompt_fields: texts for the braces of the paper's wording, beside those that `ask` fills in;
        "wording": the key of the wording, where that is not the problem type;
        "think", "direct": instructions in place of the problem type's own.
    truth: whatever else its score needs. well_formed: what a reply must fulfil to be an answer.
    broken: why it cannot be scored whatever the model says; such an item is left out.
    """

    sample: Sample
    labels: dict[str, str | list[str]]
    video: str
    prompt_fields: dict[str, str] = field(default_factory=dict)
    truth: object = None
    well_formed: Callable[[str], bool] | None = None
    broken: str = ""


@dataclass(frozen=True)
class Metric:
    """A number that is reported: the mean of one part of the scores over the items that have it.

    over: labels, outermost first, whose values weigh the same (a mean of means).
    root: the square root of that mean. percent: shown times 100. higher: more is better.
    """

    name: str
    part: str = "score"
    over: tuple[str, ...] = ()
    root: bool = False
    percent: bool = True
    higher: bool = True


class OpenJudge(NamedTuple):
    """How a judge scores open answers: question(item, answer) is what it is asked; verdict(reply)
    is 0.0 or 1.0, or None where the reply cannot be read."""

    question: Callable[[Item, str], str]
    verdict: Callable[[str], float | None]


# --------------------------------------------------------------------------- scoring


def score_by_type(item: Item, answer: str | None) -> dict[str, float | None]:
    """{"score"} by problem type; None for an open answer, which a judge has to score.

    answer: what `read_answer` gives; None: the item was not asked.
    """
    sample = item.sample
    if sample.problem_type == "free-form":
        return {"score": None}

    # several letters are read leniently here: no text can stand for the set
    if sample.problem_type == "multi-label":
        predicted = labels_in(answer or "", sample.options)
        return {"score": f1(predicted, labels_of(sample.answer, sample.options))}

    accuracy = accuracy_reward(answer or None, sample.answer, sample.problem_type, sample.options)
    return {"score": accuracy}


@dataclass(frozen=True)
class Benchmark:
    """Everything that is known of a benchmark.

    title: its name. files: where its files come from. read(root, scratch): its Items, from the
        folder of those files; scratch is a folder for media that the files hold inside.
    splits: labels whose values are reported apart. size: items as published, 0 if not known.
    sound: videos are heard. tokens: the longest reply, in tokens.
    rule: how it is scored, in words, for people. several: which of several letters in a reply
        counts, "first" or "last".
    score(item, answer): {part: number, or None where a judge has to say}; answer: what
        `read_answer` gives, None where the item was not asked. metrics: the first is the headline.
    judge: how open answers are judged, None where there are none.
    paper: the wording of --prompt paper, one for all or {problem type or "wording": text}.
    system: the system turn of --prompt paper.
    """

    title: str
    files: str
    read: Callable[[Path, Path], Iterable[Item]]
    splits: tuple[str, ...] = ()
    size: int = 0
    sound: bool = True
    rule: str = "letter"
    several: str = "last"
    score: Callable[[Item, str | None], dict[str, float | None]] = score_by_type
    metrics: tuple[Metric, ...] = (Metric("accuracy"),)
    judge: OpenJudge | None = None
    paper: str | dict[str, str] = RELEASED
    system: str = ""
    tokens: int = 512

    @property
    def scoring(self) -> str:
        """The rule in full."""
        return self.rule + ("; of several letters the first" if self.several == "first" else "")


# --------------------------------------------------------------------------- making items


def new_item(
    name: str,
    question: str,
    answer: str,
    options: Iterable[str] = (),
    kind: str = "multiple choice",
    *,
    labels: dict | None = None,
    video: str = "",
    prompt_fields: dict[str, str] | None = None,
    **media,
) -> Item:
    """An Item, with `broken` filled in.

    kind: a problem type. video: the name of the video it is about; without it its first medium.
    media: videos, images, audios (paths), and span and frame_rate (see formats/sample.py).
    """
    for medium in ("videos", "images", "audios"):
        media[medium] = [str(path) for path in media.get(medium, ())]
    kind = problem_type(kind).name
    sample = Sample(str(name), question, kind, str(answer), options=list(options), **media)

    paths = [*sample.videos, *sample.images, *sample.audios, sample.id]
    texts = {label: label_text(value) for label, value in (labels or {}).items()}
    return Item(sample, texts, video or paths[0], prompt_fields or {}, broken=defect(sample))


def label_text(value) -> str | list[str]:
    """The text of a label's value, or the texts of a list; "none" for a missing one."""
    if isinstance(value, list):
        return [str(entry) for entry in value]
    return "none" if value in (None, "") else str(value)


def defect(sample: Sample) -> str:
    """Why no reply to this question could be scored; "" when there is no such reason."""
    try:
        check_placeholders(sample)
    except DataError as error:
        return str(error).removeprefix(f"{sample.where}: ")  # which names no file here
    if not sample.answer.strip():
        return "it has no gold answer"

    if len(sample.options) > len(LETTERS):
        return f"its {len(sample.options)} options are more than there are letters"

    gold: set | frozenset = set()
    if sample.problem_type == "multiple choice":
        gold = {sample.answer}
    elif sample.problem_type == "multi-label":
        gold = labels_of(sample.answer, sample.options)
    if not gold <= set(bodies_of(sample.options)):
        return f"its answer {sample.answer!r} is none of its {len(sample.options)} options"

    # an empty reply says neither: beside such a gold answer it would count as right
    if sample.problem_type == "yes/no" and yes_no(sample.answer) is None:
        return f"its answer {sample.answer!r} is neither yes nor no"

    # a number that is none ("nan", "['3', ..") would be wrong whatever is said
    if sample.problem_type in ("counting", "numeric"):
        reason = unreachable(sample.answer, problem_type(sample.problem_type), sample.options)
        return f"its answer {reason}" if reason else ""
    return ""


# --------------------------------------------------------------------------- asking


def ask(item: Item, benchmark: Benchmark, style: str) -> Sample:
    """The sample that the model is shown, in one of STYLES. The item itself stays as it is."""
    kind = problem_type(item.sample.problem_type)
    if style == "think":
        instruction = item.prompt_fields.get("think", kind.instruction)
        return replace(item.sample, instruction=f"{INSTRUCTION} {instruction}")
    if style == "direct":
        return replace(item.sample, instruction=item.prompt_fields.get("direct", kind.direct))
    return replace(
        item.sample,
        question=paper_wording(item, benchmark),
        options=[],
        instruction="",
        system=benchmark.system,
    )


def paper_wording(item: Item, benchmark: Benchmark) -> str:
    """The wording of --prompt paper, its fields filled in: {question}, {options} as lines, {list}
    as Python prints it, {round} as "(A) red", and the item's own prompt_fields."""
    sample = item.sample
    wording = benchmark.paper
    if not isinstance(wording, str):
        wording = wording[item.prompt_fields.get("wording", sample.problem_type)]

    fields = {
        "question": sample.question,
        "options": "\n".join(sample.options),
        "list": repr(sample.options),
        "round": "\n".join(f"({option[0]}) {option[3:]}" for option in sample.options),
    }
    fields |= item.prompt_fields

    # not str.format: wordings hold JSON, whose braces stay
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), wording)


# --------------------------------------------------------------------------- reading replies


def read_choice(reply: str, item: Item, several: str) -> str | None:
    return choice_in(reply, item.sample.options, several)


def read_number(reply: str, item: Item, several: str) -> str | None:
    value = number_in(reply)
    return None if value is None else f"{value:.15g}"


def read_yes_no(reply: str, item: Item, several: str) -> str | None:
    return yes_or_no(reply)


# Problem types whose free replies are read leniently; the reply itself is the answer of the others.
READERS: dict[str, Callable[[str, Item, str], str | None]] = {
    "multiple choice": read_choice,
    "counting": read_number,
    "numeric": read_number,
    "yes/no": read_yes_no,
}


def read_answer(item: Item, completion: str, several: str) -> str:
    """What a completion answers: the letter, the number, or the text; "" when there is none.

    several: which of several letters counts, "first" or "last".
    """
    reply = final_answer(completion)
    reader = READERS.get(item.sample.problem_type)
    if reader:
        return reader(reply, item, several) or ""
    if item.well_formed and not item.well_formed(reply):
        return ""
    return reply
