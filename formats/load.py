"""formats/load.py: what a data set's files say -> Samples.

A record's fields tell its form; the file's first character tells a JSON list from a JSONL; the
suffix .yaml or .yml tells a list of files:

    form                      fields                                              read by
    ours                      id, question, problem_type, answer                  own.py
    Video-R1-260k, -COT-165k  problem, path, data_type, solution (COT: process)   video_r1.py
    EchoInk AVQA-R1           the same, path = {"image": .., "audio": ..}         video_r1.py
    HumanOmniV2 IntentTrain   the same, in the files that a YAML names            intent_train.py
    AVATAR, ms-swift GRPO     messages, videos / audios / images, solution, hint  messages.py

To add a form: a file with a function (record, where) -> Sample's arguments, and a branch in
make_sample. Nothing here opens media; `problems` is imported for the names of problem types.
"""

import hashlib
import json
import os
import re
import warnings
from pathlib import Path

from formats.confine import Confinement
from formats.fields import brief, fault_of_trace, gold_answer, text_field
from formats.files import RawRecord, read_records
from formats.intent_train import read_yaml
from formats.messages import messages_record
from formats.options import name_options
from formats.own import REQUIRED_FIELDS, own_record
from formats.sample import (
    MEDIA_KINDS,
    BadTrace,
    DataError,
    LeftOut,
    RepeatedRecord,
    Sample,
    Unrewardable,
    check_placeholders,
    file_of,
)
from formats.video_r1 import problem_record
from problems import problem_type, unreachable

LONGEST_COMPARED = 4_000  # characters of two answers: scores of texts take quadratic time


def load_samples(
    path: str | Path,
    media_root: str | Path | None = None,
    stage: int | None = None,
    problems: list[str] | None = None,
    left_out: list[LeftOut] | None = None,
) -> list[Sample]:
    """Read a file of records, ours or as downloaded, into Samples.

    media_root: the folder that media paths are relative to, and inside which all must lie; None:
    the file's own folder. A YAML's data_root inside that folder is what its paths are relative to.
    Whether files exist is not looked at.
    stage: keep the records of this stage, and those without one; None: all.
    problems: a list to which the sentences on records that cannot be used are added, in place of an
    error for the first bad one.
    left_out: a list for the errors of records that are left out, in place of a warning.

    Left out are exact repeats of a downloaded record, and records whose gold answer no reply can
    match. A trace that stage 0 must not imitate becomes `bad_trace`; what else the record says
    is used. In our own schema a repeated id is an error. Raises DataError for a file that cannot be
    read and, without `problems`, for a bad record: broken JSON, an unknown form, a missing or
    unknown field, an unknown problem type, a repeated id, a path outside of the media folder.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise DataError(f"{path}: is a folder; name the file of records in it")
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such data file; name a JSON, JSONL or YAML of records")

    samples: list[Sample] = []
    unused: list[DataError] = []  # in the order of the file
    first_use: dict[str, str] = {}  # where each id was met first
    root = Path(media_root or path.parent)
    confinement = Confinement(root)
    for raw in read_file(path, media_root):
        try:
            sample = make_sample(raw)
            check_id(sample, is_downloaded(raw), first_use)
            if stage is not None and sample.stage not in (None, stage):
                continue
            join_media(sample, raw.media_root, confinement)
            settle_answer(sample)
            settle_trace(sample)
        except DataError as error:
            if problems is None and not isinstance(error, LeftOut):
                raise
            unused.append(error)
        else:
            samples.append(sample)

    if not samples and not unused:
        of_stage = "" if stage is None else f" of stage {stage}"
        raise DataError(f"{path}: no record{of_stage}")
    if not samples and problems is None:
        raise DataError(f"{path}: none of its records can be used; the first: {unused[0]}")

    tell_unused(path, unused, problems, left_out)
    return samples


def tell_unused(
    path: Path,
    unused: list[DataError],
    problems: list[str] | None,
    left_out: list[LeftOut] | None,
) -> None:
    """The errors of a file's unused records, to who asks for them (see `load_samples`); records
    that were left out are else a warning, and bad ones have been raised."""
    harmless = [error for error in unused if isinstance(error, LeftOut)]
    if left_out is not None:
        left_out += harmless
        unused = [error for error in unused if not isinstance(error, LeftOut)]
    elif problems is None:
        for sentence in count_left_out(harmless):
            warnings.warn(f"{path}: {sentence}", stacklevel=3)
    if problems is not None:
        problems += [str(error) for error in unused]


def count_left_out(left_out: list[LeftOut]) -> list[str]:
    """For each reason, how many records were left out, and which was the first."""
    reasons = {
        RepeatedRecord: "repeated record(s)",
        Unrewardable: "record(s) whose gold answer no reply can match",
        BadTrace: "record(s) whose trace cannot be imitated",
    }
    sentences = []
    for kind, reason in reasons.items():
        errors = [error for error in left_out if isinstance(error, kind)]
        if errors:
            sentences.append(f"dropped {len(errors):,} {reason}, the first: {errors[0]}")
    return sentences


def read_file(path: Path, media_root: str | Path | None) -> list[RawRecord]:
    """The records of a file, or of the files that a YAML names."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yaml(path, media_root)
    folder = Path(media_root or path.parent)
    return [RawRecord(where, content, folder) for where, content in read_records(path)]


def is_downloaded(raw: RawRecord) -> bool:
    """Is the record of a downloaded form, which has no id of its own, and not of ours?"""
    return "id" not in raw.content or "messages" in raw.content or "problem" in raw.content


def make_sample(raw: RawRecord) -> Sample:
    """A record -> its Sample, with media paths as they are written."""
    record = raw.content
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        raise DataError(f"{raw.where}: expected a JSON object, got {type(record).__name__}")

    # its fields tell the form; a record of ours without an id counts as ours, so that the error
    # names the missing field
    if "messages" in record:
        fields = messages_record(record, raw.where)
    elif "problem" in record:
        fields = problem_record(record, raw.where)
    elif "id" in record or "problem_type" in record:
        fields = own_record(record, raw.where)
    else:
        names = brief(", ".join(record)) if record else "(none)"
        raise DataError(
            f"{raw.where}: a record of no known format, with the fields {names}; "
            f"known are ours ({', '.join(REQUIRED_FIELDS)}), "
            "Video-R1, EchoInk and IntentTrain (problem, path, solution), "
            "AVATAR / ms-swift (messages, solution)"
        )

    # the same for every form: an id, the type's canonical name, enough media for the text
    sample = Sample(**{"id": "", **fields}, where=raw.where)
    if is_downloaded(raw):
        problem_id = text_field(record, "problem_id", raw.where, required=False)
        sample.id = downloaded_id(sample, problem_id, raw.root_name)
    try:
        sample.problem_type = problem_type(sample.problem_type).name
    except ValueError as error:
        raise DataError(
            f"{raw.where}: field 'problem_type' of record '{sample.id}': {error}"
        ) from None
    check_placeholders(sample)
    return sample


def downloaded_id(sample: Sample, problem_id: str, root_name: str) -> str:
    """An id for a record that has none of its own: `problem_id`, if any, and 16 hex digits of the
    SHA-256 of what makes the prompt and its target.

    That is text, type, answer, trace, media as written and, from a YAML, their root as written. So
    the id is the same wherever the files lie, never shared by two prompts, and shared by exact
    repeats. Hint and caption are left out, so that adding them keeps the id.
    """
    content = [
        root_name,
        sample.question,
        sample.options,
        sample.problem_type,
        sample.answer,
        sample.trace,
        sample.videos,
        sample.images,
        sample.audios,
        sample.soundtrack,
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{problem_id}-{digest}" if problem_id else digest


def settle_answer(sample: Sample) -> None:
    """Bring options and gold answer of a sample to the form that its problem type scores, in place.

    Raises Unrewardable where no reply could be rewarded.
    """
    kind = problem_type(sample.problem_type)
    asks_for_letters = kind.name in ("multiple choice", "multi-label")
    if asks_for_letters and sample.options:
        name_options(sample)
    elif kind.name == "multi-label":
        sample.answer = ", ".join(sample.answer.split("\n"))  # of a list, one a line

    fault = unreachable(sample.answer, kind, sample.options)
    if fault is None and kind.name == "multiple choice" and not sample.options:
        # a question may list its options itself
        letter = kind.read(sample.answer, [])
        if not re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", sample.question):
            fault = f"{brief(sample.answer)} is no option, for the record has none"
    if fault:
        if len(fault) > 300:  # it may quote an answer of any length
            fault = f"{fault[:150]} .. {fault[-100:]}"
        raise Unrewardable(
            f"{sample.where}: field 'answer' of record '{sample.id}': {fault}", sample.id
        )


def settle_trace(sample: Sample) -> None:
    """Take a trace away that breaks the format rule, or whose answer is not the gold one, and say
    so in `bad_trace`.

    The toy's traces, which name their `plan`, may answer wrongly: some plans are meant to fail.
    """
    if not sample.trace.strip():
        return
    fault = fault_of_trace(sample.trace)
    if not fault and not sample.plan:
        answer = gold_answer(sample.trace, "trace", sample.where)
        if contradicts(answer, sample):
            fault = f"its answer {brief(answer)} is not the gold answer {brief(sample.answer)}"
    if fault:
        sample.trace = ""
        sample.bad_trace = f"{sample.where}: trace of record '{sample.id}': {fault}; mend the trace"


def contradicts(answer: str, sample: Sample) -> bool:
    """Is the answer of a trace another one than the gold answer? A text in other words is not."""
    kind = problem_type(sample.problem_type)
    if kind.name in ("numeric", "regression", "counting"):
        return kind.read(answer, []) != kind.read(sample.answer, [])
    if len(answer) + len(sample.answer) > LONGEST_COMPARED:
        return False
    return kind.score(answer, sample.answer, sample.options) == 0


def check_id(sample: Sample, downloaded: bool, first_use: dict[str, str]) -> None:
    """Note where an id was met first. Raises DataError for one that was met before."""
    if sample.id not in first_use:
        first_use[sample.id] = sample.where
    elif downloaded:
        raise RepeatedRecord(
            f"{sample.where}: repeats the record at {first_use[sample.id]}; dropped", sample.id
        )
    else:
        raise DataError(
            f"{sample.where}: id '{sample.id}' was used at {first_use[sample.id]}; "
            "ids must name one question about one clip"
        )


def join_media(sample: Sample, root: Path, confinement: Confinement) -> None:
    """Join the media paths of a sample to their folder, in place.

    Raises DataError for a path that leads out of the confinement: by "..", as an absolute path or
    by a symbolic link.
    """
    for paths in (sample.videos, sample.images, sample.audios):
        paths[:] = [str(root / path) for path in paths]
    if sample.soundtrack:
        sample.soundtrack = str(root / sample.soundtrack)

    named: list[tuple[str, str]] = []  # (field, path)
    for kind in MEDIA_KINDS:
        named += [(kind, path) for path in sample.paths(kind)]
    if sample.soundtrack:
        named.append(("soundtrack", sample.soundtrack))
    for field, path in named:
        if not confinement.holds(file_of(path, field)):
            raise DataError(
                f"{sample.where}: field '{field}' of record '{sample.id}': {path} lies outside of "
                f"the media folder {root}; pass --media_root with the folder that holds all of them"
            )
