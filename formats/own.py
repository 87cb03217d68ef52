"""formats/own.py: this project's own JSONL."""

import json
from dataclasses import asdict
from pathlib import Path

from formats.fields import gold_answer, list_of, take_soundtrack, text_of
from formats.files import write_whole
from formats.sample import KINDS, OWN_FIELDS, OWN_TEXTS, REQUIRED, DataError, Sample


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
