"""records.py: what a data set's files say -> Samples. One typed record for every format, read here and nowhere else.

The format is told by each record's fields, the container by its first character (a JSON list, or JSONL) or the suffix .yaml / .yml:
    ours                          id, question, problem_type, answer; see class Sample                                      own_record
    Video-R1-260k, -COT-165k      problem, path, data_type, solution (CoT: process)                                         problem_record
    EchoInk AVQA-R1               the same, path = {"image": .., "audio": ..}                                               problem_record
    HumanOmniV2 IntentTrain       the same, in the files that a YAML's `datasets:` names                                    read_yaml
    AVATAR / ms-swift GRPO        messages, videos / audios / images, solution, hint, audio_cues                            messages_record

Media stand where the question says `<video>`, `<image>` or `<audio>`; those that it does not mention come first. A downloaded record's id is its
problem_id, if any, and 16 hex digits of the SHA-256 of all that makes the prompt and its target (`downloaded_id`): the same wherever the files lie,
never shared by two prompts, and shared only by exact repeats, of which the first is kept.
This module opens no media and imports only `rewards` (for the names of problem types).
"""

import functools
import hashlib
import json
import math
import os
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from os.path import normpath
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


# ---------------------------------------------------------------------------------------------- fields
def text_of(record: dict, name: str, where: str, needed: bool = True) -> str:
    """A field's text; numbers are written out, and what is missing is "" unless `needed`."""
    value = record.get(name)
    if type(value) in (int, float, type(None)):
        value = "" if value is None else str(value)
    if not isinstance(value, str) or (needed and not value.strip()):
        raise DataError(
            f"{where}: field '{name}' is missing, empty or not text; write a text there, or remove the record"
        )
    return value


def list_of(value, name: str, where: str) -> list[str]:
    """A field that holds nothing, a text or a list of texts -> the list."""
    if not value:  # most media fields: null, "" or []
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise DataError(
            f"{where}: field '{name}' must be a text or a list of texts, none of them empty; mend it, or remove the record"
        )
    return list(items)


def gold_answer(text: str, name: str, where: str) -> str:
    """What stands in the first <answer>...</answer>, or the whole text when it holds no <answer>; stripped. Empty or not closed: DataError.

    >>> gold_answer("<think>so</think><answer> B </answer>", "solution", "x.json[0]"), gold_answer("42 ", "solution", "x.json[0]")
    ('B', '42')
    """
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    answer = (match[1] if match else "" if "<answer>" in text else text).strip()
    if not answer:
        raise DataError(
            f"{where}: field '{name}' holds no answer; write one as <answer>...</answer>, or remove the record"
        )
    return answer


def take_soundtrack(made: dict) -> dict:
    """A sound beside one video that the text does not mention is the video's sound track, unless the record names another."""
    if (
        len(made["videos"]) == len(made["audios"]) == 1
        and not made.get("soundtrack")
        and "<audio>" not in "\n".join([made["question"], *made["options"]])
    ):
        made["soundtrack"] = made["audios"].pop()
    return made


# ---------------------------------------------------------------------------------------------- formats
def own_record(record: dict, where: str) -> dict:
    """A record of this project's schema -> Sample's arguments. `video`, `image`, `audio` are a path or a list of paths. A sound beside one video
    that the text does not mention is its sound track."""
    missing = [name for name in REQUIRED if record.get(name) in (None, "")]
    if missing:
        raise DataError(
            f"{where}: field '{missing[0]}' is missing or empty; every record needs {', '.join(REQUIRED)}"
        )
    if unknown := sorted(set(record) - OWN_FIELDS):
        raise DataError(
            f"{where}: unknown field '{unknown[0]}'; known fields: {', '.join(sorted(OWN_FIELDS))}"
        )
    made = {k: v for k, v in record.items() if k not in KINDS} | {
        name: text_of(record, name, where, needed=False) for name in OWN_TEXTS
    }
    made |= {f"{kind}s": list_of(record.get(kind), kind, where) for kind in KINDS} | {
        "options": list_of(record.get("options"), "options", where)
    }
    made |= {
        "id": str(record["id"]),
        "answer": str(record["answer"]),
        "soundtrack": text_of(record, "soundtrack", where, needed=False) or None,
    }
    if "<answer>" in made["answer"]:
        made["answer"] = gold_answer(made["answer"], "answer", where)
    return take_soundtrack(made)


def problem_record(record: dict, where: str) -> dict:
    """A record of Video-R1, EchoInk's AVQA-R1 or HumanOmniV2's IntentTrain -> Sample's arguments.

    `path` is a path of `data_type`, or {image, audio, video}. The trace of stage 0 is the `process` of Video-R1-COT or the think block of the
    solution, then the answer block; IntentTrain's <context> block is left out, for the format reward wants think, then answer.
    """
    path, kind = record.get("path"), str(record.get("data_type"))
    if not path and record.get("video"):  # some files of IntentTrain
        path, kind = record["video"], "video"
    paths = path if isinstance(path, dict) else {kind: path}
    if not any(paths.values()) or set(paths) - set(KINDS):
        raise DataError(
            f"{where}: field 'path' must be a file's path beside a 'data_type' of video, image or audio, or an object of such paths by kind, "
            f"as {{'image': .., 'audio': ..}}; got {path!r} and {kind!r}"
        )
    name = "answer" if "solution" not in record and "answer" in record else "solution"
    solution = text_of(record, name, where)
    answer = gold_answer(solution, name, where)
    think = text_of(record, "process", where, needed=False).strip() or "".join(
        re.findall(r"<think>.*?</think>", solution, re.DOTALL)[:1]
    )
    return take_soundtrack(
        {
            "question": text_of(record, "problem", where),
            "problem_type": text_of(record, "problem_type", where),
            "answer": answer,
            "options": list_of(record.get("options"), "options", where),
            "trace": f"{think}\n<answer>{answer}</answer>" if think else "",
            **{
                f"{kind}s": [normpath(p) for p in list_of(paths.get(kind), "path", where)]
                for kind in KINDS
            },
        }
    )


def messages_record(record: dict, where: str) -> dict:
    """A record of AVATAR / ms-swift's GRPO JSONL -> Sample's arguments.

    The system turn is dropped: it holds the released trainer's think / answer instruction, and our prompt carries its own. A last assistant turn is
    the trace (and holds the answer where there is no `solution`). Media without a placeholder get one at the front, in ms-swift's order; an audio
    here is always an item of its own, never a video's sound track. Raises DataError for a dialogue of several user turns.
    """
    turns = record["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{where}: field 'messages' must be a list of objects with 'role' and 'content'; mend it, or remove the record"
        )
    turns = [turn for turn in turns if turn.get("role") != "system"]
    trace = (
        text_of(turns.pop(), "content", where, needed=False).strip()
        if turns and turns[-1].get("role") == "assistant"
        else ""
    )
    if [turn.get("role") for turn in turns] != ["user"]:
        raise DataError(
            f"{where}: field 'messages' must hold one user turn, with at most a system turn before and an assistant turn after it; "
            f"got {', '.join(str(turn.get('role')) for turn in turns) or 'none'}; make single prompts of the dialogue"
        )
    question, options = (
        text_of(turns[0], "content", where),
        list_of(record.get("options"), "options", where),
    )
    text = "\n".join([question, *options])
    media = {
        f"{kind}s": [normpath(p) for p in list_of(record.get(f"{kind}s"), f"{kind}s", where)]
        for kind in KINDS
    }
    front = "".join(
        f"<{kind}>" * (len(media[f"{kind}s"]) - text.count(f"<{kind}>"))
        for kind in ("video", "audio", "image")
    )
    solution = (
        trace if trace and record.get("solution") is None else text_of(record, "solution", where)
    )
    return {
        "question": front + question,
        "problem_type": text_of(record, "problem_type", where),
        "answer": gold_answer(solution, "solution", where),
        "options": options,
        "hint": " ".join(list_of(record.get("hint"), "hint", where)),
        "audio_caption": text_of(record, "audio_cues", where, needed=False),
        "trace": trace,
        **media,
    }


def downloaded_id(made: dict, name: object, root: str) -> str:
    """`name` (problem_id or None) and 16 hex digits of what makes the prompt and its target: text, type, answer, trace, media as written and, from
    a YAML, their root as written. Hint and caption are left out, so that adding them keeps the id."""
    told = [
        root,
        made["question"],
        made["options"],
        made["problem_type"],
        made["answer"],
        made["trace"],
        made["videos"],
        made["images"],
        made["audios"],
        made.get("soundtrack"),
    ]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return digest if name is None else f"{name}-{digest}"


def make_sample(record, where: str, root_name: str) -> tuple[Sample, bool]:
    """A parsed record -> its Sample, media paths as they are written, and whether it is of a downloaded format."""
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
    if downloaded := "messages" in record or "problem" in record:
        made = (
            messages_record(record, where)
            if "messages" in record
            else problem_record(record, where)
        )
        made["id"] = downloaded_id(made, record.get("problem_id"), root_name)
    elif "id" in record or "problem_type" in record:
        made = own_record(record, where)
    else:
        raise DataError(
            f"{where}: a record of no known format, with the fields {', '.join(record) or '(none)'}; known are ours ({', '.join(REQUIRED)}), "
            "Video-R1, EchoInk and IntentTrain (problem, path, solution), AVATAR / ms-swift (messages, solution)"
        )
    sample = Sample(**made, where=where)
    try:
        sample.problem_type = canonical_type(sample.problem_type)
    except ValueError as error:
        raise DataError(f"{where}: field 'problem_type' of record '{sample.id}': {error}") from None
    check_placeholders(sample)
    return sample, downloaded


def check_placeholders(sample: Sample) -> None:
    """Raises DataError where the text holds more placeholders than there are files."""
    found = PLACEHOLDER.findall("\n".join([sample.question, *sample.options]))
    for kind in dict.fromkeys(found):
        if found.count(kind) > len(sample.paths(kind)):
            raise DataError(
                f"{sample.where}: the text of record '{sample.id}' holds {found.count(kind)} <{kind}> for {len(sample.paths(kind))} file(s) in "
                f"'{kind}'; name as many files, or write the word without < >"
            )


# ---------------------------------------------------------------------------------------------- files
def read_records(path: Path) -> list[tuple[str, object]]:
    """(place, parsed record) of every record of a JSON list ("x.json[17]") or a JSONL ("x.jsonl:18"), whatever the suffix says.

    For a broken line of JSONL the record is the DataError, not raised, so that the other lines can still be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] == "[":
            return [(f"{path}[{i}]", record) for i, record in enumerate(json.loads(text))]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); records are JSON or JSONL, or a YAML that names such files"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not a JSON list ({error}); download the file again, or mend that place"
        ) from None
    records: list[tuple[str, object]] = []
    for n, line in enumerate(
        text.split("\n"), 1
    ):  # subtle: not splitlines, which also cuts at U+2028 and the like inside a text
        if line.strip():
            try:
                records.append((f"{path}:{n}", json.loads(line)))
            except json.JSONDecodeError as error:
                records.append(
                    (
                        f"{path}:{n}",
                        DataError(
                            f"{path}:{n}: not a JSON object on one line ({error}); mend or remove the line"
                        ),
                    )
                )
    return records


def take_share(records: list, strategy: str, name: str, where: str) -> list:
    """The records that HumanOmniV2's sampling_strategy keeps, in their order. A percentage is rounded up; random:N is the same for the same `name`.

    >>> take_share([1, 2, 3], "first:2", "a.json", "x.yaml"), take_share([1, 2, 3], "end:50%", "a.json", "x.yaml")
    ([1, 2], [2, 3])
    """
    match = re.fullmatch(r"(first|end|random):(\d+)(%?)", strategy)
    if strategy == "all":
        return records
    if not match:
        raise DataError(
            f"{where}: field 'sampling_strategy' is '{strategy}'; write all, first:N, end:N or random:N with a number or a percentage for N"
        )
    total, share = len(records), int(match[2])
    n = min(total, math.ceil(total * share / 100) if match[3] else share)
    if match[1] == "random":
        return [
            records[i]
            for i in sorted(random.Random(f"{name}:{match[2]}{match[3]}").sample(range(total), n))
        ]
    return records[:n] if match[1] == "first" else records[total - n :]


def read_yaml(path: Path) -> list[tuple[str, object, Path, str]]:
    """(place, parsed record, media root, its name for ids: data_root or else json_path's folder, as written) of the records that a HumanOmniV2 YAML names.

    json_path and data_root are relative to the YAML's folder; where nothing is there, to the working folder, as in HumanOmniV2's own files.
    """
    import yaml  # here, not at the top: only this format needs it

    def nearest(name: str) -> Path:
        return next(
            (base / name for base in (path.parent, Path()) if (base / name).exists()),
            path.parent / name,
        )

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a YAML file ({' '.join(str(error).split())}); mend that place"
        ) from None
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{path}: field 'datasets' must be a list of entries with json_path, data_root and sampling_strategy"
        )
    found = []
    for i, entry in enumerate(entries):
        where = f"{path}: datasets[{i}]"
        name, data_root = (
            text_of(entry, "json_path", where),
            text_of(entry, "data_root", where, needed=False),
        )
        if not (file := nearest(name)).is_file():
            raise DataError(
                f"{where}: field 'json_path': {file} is not a file; write it relative to the YAML, or in full"
            )
        strategy = text_of(entry, "sampling_strategy", where, needed=False) or "all"
        root = nearest(data_root) if data_root else file.parent
        found += [
            (*record, root, data_root or str(Path(name).parent))
            for record in take_share(read_records(file), strategy, name, where)
        ]
    return found


def file_of(path: str) -> str:
    """The file of a media path: without the moment of "clip.mp4#t=12.5", the picture of a video at 12.5 s (W3C media fragments)."""
    return path.partition("#t=")[0]


def check_inside(sample: Sample, root: str, real: Callable[[str], str]) -> None:
    """Raises DataError where a media path of a sample leads out of its root, by "..", as an absolute path or by a symbolic link. real: os.path.realpath
    that remembers folders."""
    inside = real(root).rstrip(os.sep) + os.sep
    named = [(kind, path) for kind in KINDS for path in sample.paths(kind)] + [
        ("soundtrack", sample.soundtrack)
    ] * bool(sample.soundtrack)
    for name, path in named:
        file = file_of(path)
        folder, last = os.path.split(file)
        target = (
            os.path.realpath(file)
            if last in ("", ".", "..") or os.path.islink(file)
            else os.path.join(real(folder), last)
        )
        if not target.startswith(inside):
            raise DataError(
                f"{sample.where}: field '{name}' of record '{sample.id}': {path} lies outside of the media folder {root}; pass --media_root with "
                "the folder that holds all of them, or --allow_outside if you trust this data set to name any file of this machine"
            )


def load_samples(
    path: str | Path,
    media_root: str | Path | None = None,
    stage: int | None = None,
    problems: list[str] | None = None,
    allow_outside: bool = False,
) -> list[Sample]:
    """Read a file of records, ours or as downloaded, into Samples; keep those of `stage` (records without a stage fit all).

    Media paths are joined to `media_root`, or else to the YAML's data_root or the file's folder, and must stay inside of it unless `allow_outside`;
    whether they exist is not looked at. An exact repeat of a downloaded record is dropped with a warning; in our own schema a doubled id is an error.
    Raises DataError for a missing or unreadable file, and for a bad record: broken JSON, an unknown format, a missing or unknown field, an unknown
    problem type, a doubled id, a path outside of its folder. With a list `problems`, bad and repeated records are skipped and their sentences
    put there instead.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such data file; pass --data FILE.jsonl")
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    records = (
        read_yaml(path)
        if is_yaml
        else [(where, record, path.parent, "") for where, record in read_records(path)]
    )
    samples, said, seen = [], [], {}
    override, real = (
        Path(media_root) if media_root else None,
        functools.cache(os.path.realpath),
    )  # few folders hold many files
    for where, record, root, root_name in records:
        try:
            sample, downloaded = make_sample(record, where, root_name)
            if sample.id in seen and not downloaded:
                raise DataError(
                    f"{where}: id '{sample.id}' was used at {seen[sample.id]}; ids must name one question about one clip"
                )
        except DataError as error:
            if problems is None:
                raise
            said.append(str(error))
            continue
        if sample.id in seen:
            said.append(f"{where}: repeats the record at {seen[sample.id]}; dropped")
            continue
        seen[sample.id] = where
        if stage is not None and sample.stage not in (None, stage):
            continue
        root = override or root
        for paths in (sample.videos, sample.images, sample.audios):
            paths[:] = [str(root / p) for p in paths]
        sample.soundtrack = sample.soundtrack and str(root / sample.soundtrack)
        try:
            if not allow_outside:
                check_inside(sample, str(root), real)
        except DataError as error:
            if problems is None:
                raise
            said.append(str(error))
            continue
        samples.append(sample)
    if problems is not None:
        problems += said
    elif said:  # repeats only: anything worse was raised
        warnings.warn(
            f"{path}: dropped {len(said)} repeated record(s), the first: {said[0]}", stacklevel=2
        )
    if not samples and not said:
        raise DataError(f"{path}: no record" + (f" of stage {stage}" if stage is not None else ""))
    return samples


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent at any moment: under a name of this process's own, synced to the disk, then renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Write Samples as JSONL, leaving out `where`; written to a temporary name first. load_samples reads the same Samples back."""
    lines = []
    for s in samples:
        record = {k: v for k, v in asdict(s).items() if k in OWN_FIELDS - {"soundtrack"}}
        for kind in KINDS:
            if paths := s.paths(kind):
                record[kind] = paths[0] if len(paths) == 1 else paths
        if s.soundtrack:
            record["soundtrack"] = s.soundtrack
        lines.append(json.dumps(record))
    write_whole(path, "".join(line + "\n" for line in lines))
