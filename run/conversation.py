"""run/conversation.py: questions about media that are read once (ask.py).

[ system turn, media | question 1 ]          the part with the media is prefilled once, and its
                     [ question 2 ]          keys and values are kept; a question adds its own
"""

import re
import time
from collections import Counter
from dataclasses import dataclass, field

import torch

from data import Prompt, prompt_builder, split_behind_media, tokens_with_positions
from engine.distributed import weight_dtype
from engine.families import DEFAULT_MODEL
from engine.kv_cache import Prefill
from formats.sample import DataError, Sample
from media.decode import Media, MediaSettings
from media.digest import media_digest
from media.errors import MediaError
from media.prompt_format import TEMPORAL_PATCH
from model import Features, load_policy
from problems import problem_type
from rewards import final_answer, split_completion
from rollout import Completion, Sampling, answer_more

MEL_FRAMES = 100  # per second


@dataclass
class Answer:
    """One answer to a question.

    read: its canonical spelling, by which answers agree; None: it is no answer of its problem type.
    finished: it ended by itself, not by the limit of tokens.
    """

    reasoning: str
    answer: str
    read: str | None
    tokens: int
    finished: bool


@dataclass
class Reply:
    """All answers to a question.

    shown: a line about each medium. new_tokens: those of the prompt's tokens that were computed for
    this question; the others were known from the one before. agreement: how many answers have each
    reading, the most frequent first.
    """

    question: str
    shown: list[str]
    prompt_tokens: int
    new_tokens: int
    answers: list[Answer]
    seconds: float
    tokens_per_second: float
    agreement: dict[str, int] = field(init=False)

    def __post_init__(self):
        counts = Counter(answer.read for answer in self.answers if answer.read is not None)
        self.agreement = dict(counts.most_common())

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(answer.tokens for answer in self.answers)


class Conversation:
    """Answers questions, with the media of the last one kept. cfg: the flags of ask.py."""

    def __init__(self, cfg):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.samples = cfg.samples
        self.policy = load_policy(cfg.model or DEFAULT_MODEL, device, weight_dtype(device))
        self.policy.freeze_towers()
        self.builder = prompt_builder(cfg, self.policy)
        generator = torch.Generator(device).manual_seed(cfg.seed)
        self.sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)

        # the last prompt's part with the media, and what its prefill left
        self.beginning: Prompt | None = None
        self.prefix: Prefill | None = None

    def ask(self, sample: Sample) -> Reply:
        """Raises DataError for media that cannot be read, and for a prompt that is too long."""
        started = time.perf_counter()
        try:
            prompt = self.builder(sample, hinted=bool(sample.hint))
        except MediaError as error:
            raise DataError(of_a_file(error.reason)) from None

        # the part with the media: computed, unless the last question began with it
        beginning, ids = split_behind_media(prompt, self.policy.form)
        is_known = self.beginning is not None and same_beginning(beginning, self.beginning)
        if not is_known:
            with torch.no_grad():
                features = Features(self.policy).of([beginning])
            self.prefix = self.policy.prefill([beginning], features)
            self.beginning = beginning

        completions = answer_more(self.policy, self.prefix, ids, self.samples, self.sampling)
        seconds = time.perf_counter() - started
        tokens = sum(len(completion.tokens) for completion in completions)
        return Reply(
            question=sample.question,
            shown=self.describe(sample),
            prompt_tokens=len(prompt.ids),
            new_tokens=len(ids) if is_known else len(prompt.ids),
            answers=[read(sample, completion) for completion in completions],
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1),
        )

    def describe(self, sample: Sample) -> list[str]:
        """What the model got of each medium, and what it did not get, and why."""
        (media,) = self.builder.loader.load([sample])  # decoded a moment ago, and still there
        lines = []
        for (kind, path), medium in zip(sample.media, media, strict=True):
            facts = picture_facts(kind, medium, self.builder.settings)
            facts += sound_facts(kind, medium, self.policy.form.n_mels is not None)
            lines.append(f"{path}: {', '.join(facts)}")
        return lines


def of_a_file(reason: str) -> str:
    """What is wrong with a record's medium, said where there is no record.

    >>> of_a_file("field 'video': a.mp4 is empty; replace the file or remove the record")
    'a.mp4 is empty; replace the file'
    """
    return re.sub(r"^field '\w+': ", "", reason).replace(" or remove the record", "")


def same_beginning(a: Prompt, b: Prompt) -> bool:
    """Do two parts of prompts hold the same tokens, at the same positions, of the same media?"""
    if media_digest(a) != media_digest(b):
        return False
    return tokens_with_positions(a) == tokens_with_positions(b)


def picture_facts(kind: str, medium: Media, settings: MediaSettings) -> list[str]:
    """Number, size and times of a medium's frames; nothing of a sound."""
    if medium.frames is None:
        return []
    t, height, width, _ = medium.frames.shape
    size = f"{width} x {height} pixels"
    if kind == "image":
        return [f"a picture of {size}"]

    facts = [f"{t} frames of {size}"]
    if medium.times is not None:
        facts.append(f"from {medium.times[0]:.1f} to {medium.times[-1]:.1f} s")
    per_second = TEMPORAL_PATCH / medium.seconds_per_group
    if per_second < 0.99 * settings.fps and t >= settings.max_frames:
        facts.append(f"{per_second:.2g} a second because of --max_frames {settings.max_frames}")
    return facts


def sound_facts(kind: str, medium: Media, model_hears: bool) -> list[str]:
    """What is heard of a medium, or why nothing is; nothing of a picture."""
    if medium.mel is not None:
        return [f"{medium.mel.shape[1] / MEL_FRAMES:.1f} s of sound"]
    if kind == "image":
        return []
    reason = "the file has none, or --use_audio is false"
    return [f"no sound ({reason if model_hears else 'this model hears nothing'})"]


def read(sample: Sample, completion: Completion) -> Answer:
    """Reasoning and answer of a completion. A reply without tags is an answer as a whole."""
    reasoning, answer = split_completion(completion.text)
    if answer is None:
        answer = final_answer(completion.text)
        reasoning = reasoning if "<think>" in completion.text else ""
    return Answer(
        reasoning,
        answer,
        problem_type(sample.problem_type).read(answer, sample.options),
        len(completion.tokens),
        completion.finished,
    )
