"""formats/own.py: this project's own JSONL, one record a line.

    {"id": "clip7-0", "question": "How many times does it knock?", "problem_type": "numeric",
     "answer": "3", "video": "clips/7.mp4", "hint": "Listen first, then count."}

Sample explains the fields (formats/sample.py). `video`, `image` and `audio` are a path or a list of
paths. A sound beside one video that the text does not mention is the video's sound track.
"""

import json
from pathlib import Path

from formats.fields import (
    CONTROL,
    answer_field,
    assign_soundtrack,
    brief,
    list_field,
    paths_field,
    text_field,
)
from formats.files import write_whole
from formats.sample import MEDIA_KINDS, DataError, Sample

REQUIRED_FIELDS = ("id", "question", "problem_type", "answer")

OPTIONAL_FIELDS = (
    "options",
    "hint",
    "audio_caption",
    "stage",
    "kind",
    "trace",
    "plan",
    "scene",
)

OWN_FIELDS = (*REQUIRED_FIELDS, *OPTIONAL_FIELDS, *MEDIA_KINDS, "soundtrack")

TEXT_FIELDS = ("question", "problem_type", "hint", "audio_caption", "kind", "trace", "plan")


def own_record(record: dict, where: str) -> dict:
    """A record of this project's schema -> Sample's arguments."""
    missing = [name for name in REQUIRED_FIELDS if record.get(name) in (None, "")]
    if missing:
        raise DataError(
            f"{where}: field '{missing[0]}' is missing or empty; "
            f"every record needs {', '.join(REQUIRED_FIELDS)}"
        )
    unknown = sorted(set(record) - set(OWN_FIELDS))
    if unknown:
        raise DataError(
            f"{where}: unknown field {brief(unknown[0])}; "
            f"known fields: {', '.join(sorted(OWN_FIELDS))}"
        )

    fields = {name: value for name, value in record.items() if name not in MEDIA_KINDS}
    for name in TEXT_FIELDS:
        fields[name] = text_field(record, name, where, required=False)
    for kind in MEDIA_KINDS:
        fields[f"{kind}s"] = paths_field(record.get(kind), kind, kind, where)
    fields["id"] = id_field(record, where)
    fields["question"] = text_field(record, "question", where)
    fields["options"] = list_field(record.get("options"), "options", where, numbers=True)
    fields["answer"] = answer_field(record, "answer", where)
    fields["stage"] = stage_field(record, where)
    fields["scene"] = scene_field(record, where)

    # one file; white space is no hint
    soundtracks = paths_field(record.get("soundtrack"), "audio", "soundtrack", where)
    if len(soundtracks) > 1:
        raise DataError(f"{where}: field 'soundtrack' must be one path; remove the others")
    if soundtracks and len(fields["videos"]) != 1:
        raise DataError(
            f"{where}: field 'soundtrack' is the sound of a record's one video, and this has "
            f"{len(fields['videos'])}; name the sound in 'audio'"
        )
    fields["soundtrack"] = soundtracks[0] if soundtracks else None
    for name in ("hint", "audio_caption"):
        fields[name] = fields[name].strip()
    return assign_soundtrack(fields)


def id_field(record: dict, where: str) -> str:
    """The record's id. It stands in file names, logs and messages, so it is one line of text."""
    name = text_field(record, "id", where)
    if CONTROL.search(name):
        raise DataError(
            f"{where}: field 'id' is {brief(name)}, which holds a control character; "
            "write another one"
        )
    return name


def scene_field(record: dict, where: str) -> dict | None:
    """The toy world's truth; None without one."""
    scene = record.get("scene")
    if scene is not None and not isinstance(scene, dict):
        raise DataError(f"{where}: field 'scene' must be an object; mend it, or remove the field")
    return scene


def stage_field(record: dict, where: str) -> int | None:
    """The record's stage; None without one. "2" is refused: it would belong to no stage."""
    stage = record.get("stage")
    is_number = type(stage) is int  # not isinstance: true and false are no numbers here
    if stage is not None and not (is_number and 0 <= stage <= 3):
        raise DataError(
            f"{where}: field 'stage' must be 0, 1, 2 or 3, as a number; got {brief(stage)}; "
            "mend it, or remove the field"
        )
    return stage


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Write Samples as JSONL; load_samples reads the same Samples back (but for `where`)."""
    lines = []
    for sample in samples:
        record = {name: vars(sample)[name] for name in (*REQUIRED_FIELDS, *OPTIONAL_FIELDS)}
        for kind in MEDIA_KINDS:
            paths = sample.paths(kind)
            if paths:
                record[kind] = paths[0] if len(paths) == 1 else paths
        if sample.soundtrack:
            record["soundtrack"] = sample.soundtrack
        lines.append(json.dumps(record) + "\n")
    write_whole(path, "".join(lines))
