"""formats/own.py: this project's own JSONL, one record a line.

    {"id": "clip7-0", "question": "How many times does it knock?", "problem_type": "numeric",
     "answer": "3", "video": "clips/7.mp4", "hint": "Listen first, then count."}

Sample explains the fields (formats/sample.py). `video`, `image` and `audio` are a path or a list of
paths. A sound beside one video that the text does not mention is the video's sound track.
"""

import json
from pathlib import Path

from formats.fields import assign_soundtrack, gold_answer, list_field, text_field
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
            f"{where}: unknown field '{unknown[0]}'; known fields: {', '.join(sorted(OWN_FIELDS))}"
        )

    fields = {name: value for name, value in record.items() if name not in MEDIA_KINDS}
    for name in TEXT_FIELDS:
        fields[name] = text_field(record, name, where, required=False)
    for kind in MEDIA_KINDS:
        fields[f"{kind}s"] = list_field(record.get(kind), kind, where)
    fields["id"] = str(record["id"])
    fields["options"] = list_field(record.get("options"), "options", where)
    fields["soundtrack"] = text_field(record, "soundtrack", where, required=False) or None
    fields["stage"] = stage_field(record, where)

    # An answer may stand in its tags, as in the downloaded forms. A list is refused: as text
    # ("['A', 'B']") no reply would ever equal it.
    fields["answer"] = text_field(record, "answer", where)
    if "<answer>" in fields["answer"]:
        fields["answer"] = gold_answer(fields["answer"], "answer", where)
    return assign_soundtrack(fields)


def stage_field(record: dict, where: str) -> int | None:
    """The record's stage; None without one. "2" is refused: it would belong to no stage."""
    stage = record.get("stage")
    is_number = type(stage) is int  # not isinstance: true and false are no numbers here
    if stage is not None and not (is_number and 0 <= stage <= 3):
        raise DataError(
            f"{where}: field 'stage' must be 0, 1, 2 or 3, as a number; got {stage!r}; "
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
