"""formats/sample.py: Sample, the one typed record that every form of data set is read into."""

import math
import re
from dataclasses import dataclass, field

MEDIA_KINDS = ("video", "image", "audio")

PLACEHOLDER = re.compile(r"<(video|image|audio)>")


def first_line(error: Exception) -> str:
    """The beginning of an error's message, short enough to stand inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


class DataError(ValueError):
    """Bad input data. The message names the file, the record and the field, and says what to do."""


class Away(DataError):
    """What a step needs from outside cannot be reached: the judge's server, all of the media.

    Raised in a step of training, it makes the run save and then end with this sentence
    (run/session.py). Its text is what is away and what to do about that.
    """


class LeftOut(DataError):
    """A record that is left out while the others are used. It is counted and named.

    Its arguments are (what is wrong, id of the record).
    """

    def __str__(self) -> str:
        return self.args[0]

    @property
    def id(self) -> str:
        return self.args[1]


class RepeatedRecord(LeftOut):
    """A downloaded record that says the same as an earlier one, which does no harm."""


class BadTrace(LeftOut):
    """A record of stage 0 whose trace teaches another form of completion, or another answer."""


class Unrewardable(LeftOut):
    """A record whose gold answer no reply can match: its prompt would never have a success."""


@dataclass
class Sample:
    """One question about some media, with its answer.

    Media paths are absolute, or relative to the working folder. `question` and `options` may hold
    placeholders `<video>`, `<image>`, `<audio>`, each for the next path of its list.
    """

    # Names the question AND its media: replay statistics are kept per id.
    id: str
    # The text of the user turn, without options and instruction.
    question: str
    # The type's canonical name (problems.py): how the answer is asked for and scored.
    problem_type: str
    # The gold answer, as the problem type reads it.
    answer: str

    # Media by kind. An image may be a moment of a video: "clip.mp4#t=12.5".
    videos: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    audios: list[str] = field(default_factory=list)
    # A sound file that takes the place of the only video's own sound track.
    soundtrack: str | None = None
    # The stretch of its videos, in seconds, that is shown; None: all of them. Set by benchmarks.
    span: tuple[float, float] | None = None
    # Pictures per second, where videos are folders of numbered pictures. Set by benchmarks.
    frame_rate: float = 0.0

    # The choices, with their letters: ["A. red", "B. blue"].
    options: list[str] = field(default_factory=list)
    # Stands below the question in place of the think / answer instruction. Set by benchmarks.
    instruction: str | None = None
    # A system turn in place of the chat template's own, or of problems.SYSTEM. Set by benchmarks.
    system: str = ""
    # A strategy, shown when the prompt is stuck (replay.py); stage 0 shows it always.
    hint: str = ""
    # What is heard, in words; shown below the question with --audio_caption.
    audio_caption: str = ""
    # The stage that the record belongs to; None: any.
    stage: int | None = None
    # The form of the question: the toy's benchmark reports accuracy by it.
    kind: str = ""
    # The target of stage 0: the text of a completion.
    trace: str = ""
    # Why the record's trace is none, as a sentence; "": it is one, or there is none.
    bad_trace: str = ""
    # The strategy of the toy's trace (toy.py).
    plan: str = ""
    # The toy's truth, which only its oracle judge reads.
    scene: dict | None = None
    # "file.jsonl:12", filled in by load_samples for error messages.
    where: str = ""

    def paths(self, kind: str) -> list[str]:
        """The media paths of one kind."""
        return {"video": self.videos, "image": self.images, "audio": self.audios}[kind]

    @property
    def text(self) -> str:
        """Question and options, one a line, placeholders included."""
        return "\n".join([self.question, *self.options])

    def segments(self) -> list[tuple[str, str]]:
        """The text in reading order: (kind, path) of media and ("text", text) between them.

        Media without a placeholder come first.

        >>> pictures = ["x.png", "y.png"]
        >>> Sample("a", "Is <image> like <image>?", "yes/no", "no", images=pictures).segments()
        [('text', 'Is '), ('image', 'x.png'), ('text', ' like '), ('image', 'y.png'), ('text', '?')]
        >>> Sample("a", "What is in it?", "ocr", "no", images=["x.png"]).segments()
        [('image', 'x.png'), ('text', 'What is in it?')]
        """
        # split gives text, kind, text, kind, .., text
        pieces = PLACEHOLDER.split(self.text)
        named = pieces[1::2]
        paths = {kind: iter(self.paths(kind)) for kind in MEDIA_KINDS}

        segments = []
        for kind in MEDIA_KINDS:
            for _ in range(len(self.paths(kind)) - named.count(kind)):
                segments.append((kind, next(paths[kind])))
        for i, piece in enumerate(pieces):
            if i % 2:
                segments.append((piece, next(paths[piece])))
            elif piece:
                segments.append(("text", piece))
        return segments

    @property
    def media(self) -> list[tuple[str, str]]:
        """(kind, path) of every medium in the order in which the model reads them."""
        return [segment for segment in self.segments() if segment[0] != "text"]

    @property
    def media_key(self) -> str:
        """What tells two sets of media apart (the clip, not the question): decoded media and
        features are shared by it."""
        items = list(self.media)
        if self.soundtrack:
            items.append(("soundtrack", self.soundtrack))
        if self.span:
            items.append(("span", str(self.span)))
        if self.frame_rate:
            items.append(("frame_rate", str(self.frame_rate)))
        return "|".join(f"{name}:{value}" for name, value in items)


def check_placeholders(sample: Sample) -> None:
    """Raises DataError where the text holds more placeholders than there are files."""
    named = PLACEHOLDER.findall(sample.text)
    for kind in dict.fromkeys(named):
        n_placeholders = named.count(kind)
        n_files = len(sample.paths(kind))
        if n_placeholders > n_files:
            raise DataError(
                f"{sample.where}: the text of record '{sample.id}' holds {n_placeholders} <{kind}> "
                f"for {n_files} file(s) in '{kind}'; name as many files, "
                "or write the word without < >"
            )


def file_of(path: str, kind: str) -> str:
    """The file of a media path of this kind (MEDIA_KINDS, "soundtrack").

    An image may be "clip.mp4#t=12.5", the picture of a video at 12.5 s (W3C media fragments). In a
    video or a sound, "#t=" is part of the file's name.
    """
    return path.partition("#t=")[0] if kind == "image" else path


def moment_of(path: str) -> float | None:
    """The seconds of "clip.mp4#t=12.5"; 0 for a path without "#t=", None where no time follows it.

    >>> moment_of("clip.mp4#t=12.5"), moment_of("clip.mp4#t=1,2"), moment_of("clip.mp4#t=-1")
    (12.5, None, None)
    """
    _, mark, text = path.partition("#t=")
    if not mark:
        return 0.0
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?(e-?[0-9]+)?", text):
        return None
    seconds = float(text)
    return seconds if math.isfinite(seconds) else None
