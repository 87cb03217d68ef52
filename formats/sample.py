"""formats/sample.py: one typed record of a data set, for every format."""

import re
from dataclasses import dataclass, field, fields

KINDS = ("video", "image", "audio")

PLACEHOLDER = re.compile(r"<(video|image|audio)>")


class DataError(ValueError):
    """Bad input data. The message names the file, the record and the field, and says what to do."""


@dataclass
class Sample:
    """One dataset item. Media paths are absolute, or relative to the working folder.

    `id` names the question AND its media: replay statistics are kept per id. `question` and `options` may hold placeholders `<video>`, `<image>`,
    `<audio>`, each for the next path of its list. `soundtrack` is a sound file that takes the place of the only video's own track.
    `span` is the part of its videos, in seconds, that is shown; `frame_rate` that of videos which are folders of numbered pictures (0: files).
    `instruction` stands below the question in place of the think / answer instruction, `system` is a system turn in place of the chat template's own.
    `trace` is the target of stage 0, `hint` a strategy shown when a prompt is stuck (stage 0 shows it whenever present), `scene` the toy's truth
    (read by the oracle judge only).
    """

    id: str
    question: str
    problem_type: str
    answer: str
    videos: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    audios: list[str] = field(default_factory=list)
    soundtrack: str | None = None
    span: tuple[float, float] | None = None
    frame_rate: float = 0.0
    options: list[str] = field(default_factory=list)
    instruction: str | None = None
    system: str = ""
    hint: str = ""
    audio_caption: str = ""
    stage: int | None = None
    kind: str = ""
    trace: str = ""
    plan: str = ""
    scene: dict | None = None
    where: str = ""  # "file.jsonl:12", filled in by load_samples for error messages

    def paths(self, kind: str) -> list[str]:
        return {"video": self.videos, "image": self.images, "audio": self.audios}[kind]

    def segments(self) -> list[tuple[str, str]]:
        """Question and options in reading order as (kind, path) of media and ("text", text) between them; media without a placeholder come first.

        >>> Sample("a", "Is <image> louder than <image>?", "yes/no", "no", images=["x.png", "y.png"], audios=["z.wav"]).segments()
        [('audio', 'z.wav'), ('text', 'Is '), ('image', 'x.png'), ('text', ' louder than '), ('image', 'y.png'), ('text', '?')]
        """
        pieces = PLACEHOLDER.split(
            "\n".join([self.question, *self.options])
        )  # text, kind, text, kind, .., text
        extra = {kind: len(self.paths(kind)) - pieces[1::2].count(kind) for kind in KINDS}
        left = {kind: iter(self.paths(kind)) for kind in KINDS}
        front = [(kind, next(left[kind])) for kind in KINDS for _ in range(extra[kind])]
        inside = [
            (piece, next(left[piece])) if i % 2 else ("text", piece)
            for i, piece in enumerate(pieces)
            if i % 2 or piece
        ]
        return front + inside

    @property
    def media(self) -> list[tuple[str, str]]:
        """(kind, path) of every medium in the order in which the model reads them."""
        return [segment for segment in self.segments() if segment[0] != "text"]

    @property
    def media_key(self) -> str:
        """What tells two sets of media apart (the clip, not the question): decoded media and features are shared by it."""
        shown = [
            (name, value)
            for name, value in (("soundtrack", self.soundtrack), ("span", self.span))
            if value
        ]
        return "|".join(f"{kind}:{path}" for kind, path in [*self.media, *shown])


REQUIRED = ("id", "question", "problem_type", "answer")

ASKING = {
    "span",
    "frame_rate",
    "instruction",
    "system",
}  # set by benchmarks.py, not by training records

OWN_FIELDS = {f.name for f in fields(Sample)} - {
    "videos",
    "images",
    "audios",
    "where",
} - ASKING | set(KINDS)

OWN_TEXTS = ("question", "problem_type", "hint", "audio_caption", "kind", "trace", "plan")


def check_placeholders(sample: Sample) -> None:
    """Raises DataError where the text holds more placeholders than there are files."""
    found = PLACEHOLDER.findall("\n".join([sample.question, *sample.options]))
    for kind in dict.fromkeys(found):
        if found.count(kind) > len(sample.paths(kind)):
            raise DataError(
                f"{sample.where}: the text of record '{sample.id}' holds {found.count(kind)} <{kind}> for {len(sample.paths(kind))} file(s) in "
                f"'{kind}'; name as many files, or write the word without < >"
            )


def file_of(path: str) -> str:
    """The file of a media path: without the moment of "clip.mp4#t=12.5", the picture of a video at 12.5 s (W3C media fragments)."""
    return path.partition("#t=")[0]
