"""ask.py: ask a model about clips, pictures and sounds of one's own.

    # the bundled model, one of its own clips
    python ask.py assets/clip.mp4 "What colour is the shape that moves in step with the low tone?"

    # a run's checkpoint, or its adapters alone, or a model of the hub
    python ask.py CLIP.mp4 "What knocks?" --model runs/stage2-avatar-seed0/checkpoint
    python ask.py a.png b.png "What has changed?" --model Qwen/Qwen2.5-Omni-7B

    # several questions; several answers to each, with their agreement; without a question, it waits
    # for some, one a line
    python ask.py CLIP.mp4 "What knocks?" "How often?" --samples 4
    python ask.py CLIP.mp4

    # choices come last, or end with --
    python ask.py CLIP.mp4 "What colour?" --options red blue
    python ask.py --options red blue -- CLIP.mp4 "What colour?"

A word that ends like a media file (.mp4, .png, .wav, ..) is one, and every other word is a
question. All questions are about all of the media. The model reads the videos first, then the
pictures, then the sounds, each kind in the order in which it is named, and then the question; a
question may say where: "Is <image> like <image>?".

The media are decoded once, and pass the model once, whatever is asked about them
(run/conversation.py).
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# torch and transformers take seconds to import, and --help must answer at once. What needs them is
# imported in `answer_all`, and at the end of this file.
from config import ASKING
from formats.fields import whole_characters
from formats.options import LETTERS, read_options
from formats.sample import DataError, Sample, check_placeholders, file_of
from media.prompt_format import MIN_PIXELS
from problems import PROBLEM_TYPES, problem_type
from run.flags import fill, flag, is_tiny, list_names, read_flags

ENDINGS = {
    "video": ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .flv .wmv .3gp .ogv .gif",
    "image": ".png .jpg .jpeg .webp .bmp .tif .tiff",
    "audio": ".wav .flac .mp3 .m4a .aac .ogg .opus .aiff .aif .wma .amr",
}
QUESTION_MARKS = ("?", "？", "؟")


# ------------------------------------------------------------------------------ flags
@dataclass
class WhatFlags:
    """What to ask"""

    words: tuple[str, ...] = flag(
        (),
        "media files, and questions about all of them; written before the flags, or behind --. "
        "The model reads first the videos, then the pictures, then the sounds, each kind in the "
        "order named; a question may say where: 'Is <image> like <image>?'. Without a question: "
        "lines of the terminal",
        positional=True,
    )
    model: str = flag("", "model folder, adapter folder or hub name; empty: the bundled tiny model")
    prompt: str = flag(
        "think",
        "think: reasoning, then <answer>, as in training; direct: the answer only",
        choices=("think", "direct"),
    )
    options: tuple[str, ...] = flag((), "choices, of which one is the answer")
    problem_type: str = flag(
        "",
        f"how to answer: {', '.join(PROBLEM_TYPES)}; empty: free-form, with --options multiple "
        "choice",
        choices=("", *PROBLEM_TYPES),
    )
    hint: str = flag("", "a strategy, shown below the question as in training")
    json: bool = flag(False, "print one JSON object per question")


@dataclass
class SamplingFlags:
    """Sampling"""

    samples: int = flag(1, "answers to each question", 1)
    temperature: float | None = flag(
        None, "0 = greedy (empty: 0 for one sample, 1 for several)", 0, 100
    )
    seed: int = flag(0, "seed of sampling", 0)
    max_completion_tokens: int | None = flag(
        None, "longest answer with its reasoning (empty: 2048, tiny model 112)", 1
    )


@dataclass
class MediaFlags:
    """Media"""

    fps: float = flag(2.0, "video frames sampled per second", 1e-3, 1e3)
    max_frames: int | None = flag(None, "most frames per video (empty: 64, tiny model 16)", 2)
    max_pixels: int | None = flag(
        None, "most pixels per frame (empty: 100,352, tiny model 2,352)", MIN_PIXELS
    )
    use_audio: bool = flag(True, "hear the sound of videos")
    max_prompt_tokens: int = flag(32_768, "longer prompts are refused; 0 = no limit", 0)


@dataclass
class Config(WhatFlags, SamplingFlags, MediaFlags):
    """Every flag of ask.py."""

    # what `prompt_builder` asks for besides; nothing is kept on the disk
    decoder = "pyav"
    media_cache = ""
    workers = 0


def parse(argv: list[str]) -> Config:
    """Flags -> Config, every None filled in. Bad flags end the program with one sentence."""
    cfg, parser = read_flags(Config, __doc__.split("\n")[0], argv)
    if "--" not in argv:  # with it, the user has said where a list ends
        check_lists(cfg, parser)
    fill(cfg, ASKING["tiny" if is_tiny(cfg.model) else "real"])
    fill(cfg, {"temperature": 0.0 if cfg.samples == 1 else 1.0})
    cfg.problem_type = cfg.problem_type or ("multiple choice" if cfg.options else "free-form")
    if len(cfg.options) == 1 or len(cfg.options) > len(LETTERS):
        parser.error(f"--options: two to {len(LETTERS)} choices; got {len(cfg.options)}")
    if cfg.problem_type in ("multiple choice", "multi-label") and not cfg.options:
        parser.error(f"--problem_type {cfg.problem_type}: pass the choices by --options")
    return cfg


def check_lists(cfg: Config, parser) -> None:
    """End the program with one sentence where a list, as that of --options, seems to have taken
    files or questions that stand behind it."""
    for name in list_names(Config):
        if name not in cfg.given:
            continue
        mend = f"write files and questions before --{name}, or end its list by --"
        if taken := swallowed(getattr(cfg, name), cfg.words):
            parser.error(f"--{name} took {taken}; {mend}")
        if not cfg.words:
            parser.error(f"no file and no question is left beside the list of --{name}; {mend}")


def swallowed(taken: Sequence[str], words: Sequence[str]) -> str | None:
    """What in a list seems to be a file or a question of the command line; None: nothing.

    words: those that no list has taken. A file that is among them was named twice, on purpose. So
    were questions, where all of the list are some, and another one is asked.
    """
    for word in taken:
        if is_medium(word) and word not in words:
            return f"'{word}', which is a media file"
    asking = [word for word in taken if word.rstrip().endswith(QUESTION_MARKS)]
    is_asked = any(not is_medium(word) for word in words)
    if asking and not (is_asked and len(asking) == len(taken)):
        return f"'{asking[0]}', which looks like a question"
    return None


# ------------------------------------------------------------------------------ what is asked
def medium_kind(word: str) -> str | None:
    """What a word names: "video", "image", "audio", or None for a question.

    >>> medium_kind("a/clip.MP4"), medium_kind("clip.mp4#t=2.5"), medium_kind("What is that?")
    ('video', 'image', None)
    """
    if "#t=" in word and medium_kind(word.partition("#t=")[0]) == "video":
        return "image"  # the picture of a video at this second
    ending = Path(word).suffix.lower()
    for kind, endings in ENDINGS.items():
        if ending and ending in endings.split():
            return kind
    return None


def is_medium(word: str) -> bool:
    """Is this a media file that is there?"""
    kind = medium_kind(word)
    return kind is not None and os.path.isfile(file_of(word, kind))


def split_words(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({kind: paths}, questions), each in the order named.

    Raises DataError for a file that is missing, or of no known kind.
    A word with spaces is a file only where there is one: "Describe a.mp4" is a question.
    """
    media: dict[str, list[str]] = {"video": [], "image": [], "audio": []}
    questions = []
    for word in words:
        kind = medium_kind(word)
        if is_medium(word):
            media[kind].append(word)
        elif kind and " " not in word:
            raise DataError(f"{word}: there is no such file")
        elif os.path.exists(word):
            raise DataError(
                f"{word}: its ending tells neither a video nor a picture nor a sound; those that "
                f"do: {' '.join(ENDINGS.values())}"
            )
        else:
            questions.append(word)
    return media, questions


def make_sample(cfg: Config, media: dict[str, list[str]], question: str) -> Sample:
    """One question as a record. Raises DataError where it says <video> more often than there are
    videos.

    trap: Python keeps a byte of the command line that is no UTF-8 as half a character, which no
    tokenizer takes, and nothing prints.
    """
    question = whole_characters(question)
    options = [whole_characters(option) for option in cfg.options]
    sample = Sample(
        id=question,
        question=question,
        problem_type=cfg.problem_type,
        answer="",
        videos=media["video"],
        images=media["image"],
        audios=media["audio"],
        options=[option.shown for option in read_options(options)],
        hint=whole_characters(cfg.hint),
        where="question",
    )
    if cfg.prompt == "direct":
        sample.instruction = problem_type(cfg.problem_type).direct
    check_placeholders(sample)
    return sample


# ------------------------------------------------------------------------------ the program
def show(reply) -> None:
    """Print a Reply for people."""
    print(f"\n{reply.question}")
    for i, answer in enumerate(reply.answers, 1):
        number = f" {i}" if len(reply.answers) > 1 else ""
        if answer.reasoning:
            print(f"reasoning{number}: {answer.reasoning}")
        cut = "" if answer.finished else " (cut off at --max_completion_tokens)"
        print(f"answer{number}: {answer.answer or '(none)'}{cut}")
    if len(reply.answers) > 1:
        counts = [f"{read} ({n} of {len(reply.answers)})" for read, n in reply.agreement.items()]
        print(f"agreement: {', '.join(counts) or 'no answer could be read'}")
    print(
        f"[{reply.tokens:,} tokens in {reply.seconds:.2f} s, {reply.tokens_per_second:.0f} a "
        f"second; prompt of {reply.prompt_tokens:,} tokens, {reply.new_tokens:,} of them new]",
        flush=True,
    )


def terminal_lines() -> Iterator[str]:
    """Questions, one a line, until the end of the input (Ctrl-D).

    Raises DataError where the input is no terminal and ends without one.
    """
    has_asked = False
    while True:
        if sys.stdin.isatty():
            print("\nquestion> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        if line.strip():
            has_asked = True
            yield line.strip()
    if not has_asked and not sys.stdin.isatty():
        raise DataError(
            "there is no question on the command line, and none in the input; write one behind the "
            "files"
        )


def answer_all(cfg: Config) -> None:
    """Answer the questions of the command line; without any, those of the terminal."""
    from run.conversation import Conversation

    media, questions = split_words(list(cfg.words))
    samples = [make_sample(cfg, media, question) for question in questions]  # errors first
    if not any(media.values()):
        print("no media file is named: the model is asked without media", file=sys.stderr)
    if cfg.options and not samples:  # one of them may have been meant as the question
        choices = ", ".join(f"'{option}'" for option in cfg.options)
        print(f"questions are read from the input; the choices of each: {choices}", file=sys.stderr)
    conversation = Conversation(cfg)
    shown: list[str] = []  # what was said of the media

    def answer(sample: Sample) -> None:
        nonlocal shown
        reply = conversation.ask(sample)
        if cfg.json:
            print(json.dumps(asdict(reply), ensure_ascii=False), flush=True)
            return
        if reply.shown != shown:
            print("\n".join(reply.shown))
        show(reply)
        shown = reply.shown

    for sample in samples:
        answer(sample)
    for line in [] if samples else terminal_lines():
        try:
            answer(make_sample(cfg, media, line))
        except DataError as error:  # the next question may do better
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    cfg = parse(sys.argv[1:])
    from run.session import ends_in_a_sentence  # after --help and mistyped flags: it imports torch

    ends_in_a_sentence(answer_all, cfg)
