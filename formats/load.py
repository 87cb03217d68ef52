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
This module opens no media and imports only `problems` (for the names of problem types).
"""

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from formats.files import read_records
from formats.intent_train import read_yaml
from formats.messages import messages_record
from formats.own import own_record
from formats.sample import KINDS, REQUIRED, DataError, Sample, check_placeholders, file_of
from formats.video_r1 import problem_record
from problems import problem_type


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
        sample.problem_type = problem_type(sample.problem_type).name
    except ValueError as error:
        raise DataError(f"{where}: field 'problem_type' of record '{sample.id}': {error}") from None
    check_placeholders(sample)
    return sample, downloaded


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
