"""records.py: what a data set's files say -> Samples. One typed record for every format, read here and nowhere else.

A record is one JSON object per line (fields: class Sample). Media stand where the question says `<video>`, `<image>` or `<audio>`; those that it
does not mention come first. This module opens no media and imports only `rewards` (for the names of problem types).
"""
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rewards import canonical_type

KINDS = ("video", "image", "audio")
PLACEHOLDER = re.compile(r"<(video|image|audio)>")


class DataError(ValueError):
    """Bad input data. The message names the file, the record and the field, and says what to do."""


@dataclass
class Sample:
    """One dataset item. Media paths are absolute, or relative to the working folder.

    `id` names the question AND its media: replay statistics are kept per id. `question` and `options` may hold placeholders `<video>`, `<image>`,
    `<audio>`, each for the next path of its list. `soundtrack` is a sound file that takes the place of the only video's own track.
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
    options: list[str] = field(default_factory=list)
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
        pieces = PLACEHOLDER.split("\n".join([self.question, *self.options]))      # text, kind, text, kind, .., text
        extra = {kind: len(self.paths(kind)) - pieces[1::2].count(kind) for kind in KINDS}
        left = {kind: iter(self.paths(kind)) for kind in KINDS}
        front = [(kind, next(left[kind])) for kind in KINDS for _ in range(extra[kind])]
        inside = [(piece, next(left[piece])) if i % 2 else ("text", piece) for i, piece in enumerate(pieces) if i % 2 or piece]
        return front + inside

    @property
    def media(self) -> list[tuple[str, str]]:
        """(kind, path) of every medium in the order in which the model reads them."""
        return [segment for segment in self.segments() if segment[0] != "text"]

    @property
    def media_key(self) -> str:
        """What tells two sets of media apart (the clip, not the question): decoded media and features are shared by it."""
        return "|".join(f"{kind}:{path}" for kind, path in [*self.media, *([("soundtrack", self.soundtrack)] if self.soundtrack else [])])


REQUIRED = ("id", "question", "problem_type", "answer")
OWN_FIELDS = {f.name for f in fields(Sample)} - {"videos", "images", "audios", "where"} | set(KINDS)


def own_record(record: dict, where: str) -> dict:
    """A record of this project's schema -> Sample's arguments. `video`, `image`, `audio` are a path or a list of paths. A sound beside one video
    that the text does not mention is its sound track."""
    missing = [name for name in REQUIRED if record.get(name) in (None, "")]
    if missing:
        raise DataError(f"{where}: field '{missing[0]}' is missing or empty; every record needs {', '.join(REQUIRED)}")
    if unknown := sorted(set(record) - OWN_FIELDS):
        raise DataError(f"{where}: unknown field '{unknown[0]}'; known fields: {', '.join(sorted(OWN_FIELDS))}")
    made = {k: v for k, v in record.items() if k not in KINDS}
    for kind in KINDS:
        value = record.get(kind) or []
        made[f"{kind}s"] = [value] if isinstance(value, str) else list(value)
    if len(made["videos"]) == len(made["audios"]) == 1 and "<audio>" not in "\n".join([record["question"], *record.get("options", [])]):
        made["soundtrack"] = made["audios"].pop()
    return made


def check_placeholders(sample: Sample) -> None:
    """Raises DataError where the text holds more placeholders than there are files."""
    found = PLACEHOLDER.findall("\n".join([sample.question, *sample.options]))
    for kind in KINDS:
        if found.count(kind) > len(sample.paths(kind)):
            raise DataError(f"{sample.where}: the text of record '{sample.id}' holds {found.count(kind)} <{kind}> for {len(sample.paths(kind))} file(s) in "
                            f"'{kind}'; name as many files, or write the word without < >")


def load_samples(path: str | Path, media_root: str | Path | None = None, stage: int | None = None) -> list[Sample]:
    """Read a file of records into Samples with absolute media paths; keep those of `stage` (records without a stage fit all).

    Raises DataError for a missing file, broken JSON, a missing or unknown field, an unknown problem type or a doubled id.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such data file; pass --data FILE.jsonl")
    root = Path(media_root) if media_root else path.parent
    samples, seen = [], {}
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{n}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not a JSON object on one line ({error}); mend or remove the line") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
        made = own_record(record, where)
        sample = Sample(**made | {"id": str(made["id"]), "answer": str(made["answer"]), "where": where})
        try:
            sample.problem_type = canonical_type(sample.problem_type)
        except ValueError as error:
            raise DataError(f"{where}: field 'problem_type' of record '{sample.id}': {error}") from None
        check_placeholders(sample)
        if sample.id in seen:
            raise DataError(f"{where}: id '{sample.id}' was used at {seen[sample.id]}; ids must name one question about one clip")
        seen[sample.id] = where
        if stage is not None and sample.stage not in (None, stage):
            continue
        for paths in (sample.videos, sample.images, sample.audios):
            paths[:] = [str(root / p) for p in paths]
        sample.soundtrack = sample.soundtrack and str(root / sample.soundtrack)
        samples.append(sample)
    if not samples:
        raise DataError(f"{path}: no record" + (f" of stage {stage}" if stage is not None else ""))
    return samples


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Write Samples as JSONL, leaving out `where`; written to a temporary name first. load_samples reads the same Samples back."""
    lines = []
    for s in samples:
        record = {k: v for k, v in asdict(s).items() if k not in ("videos", "images", "audios", "soundtrack", "where")}
        for kind in KINDS:
            if paths := s.paths(kind):
                record[kind] = paths[0] if len(paths) == 1 else paths
        if s.soundtrack:
            record["soundtrack"] = s.soundtrack
        lines.append(json.dumps(record))
    partial = path.with_suffix(".part")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.rename(path)
