"""formats/intent_train.py: HumanOmniV2's YAML of data sets: files of records, what to take of each.

datasets:
  - json_path: files/social_iq.json       # records of any form of formats/
    data_root: /videos/social_iq          # where their media lie; left out: the file's folder
    sampling_strategy: random:50%         # all (the default), first:N, end:N or random:N
"""

import math
import os
import random
import re
from pathlib import Path

from formats.confine import Confinement
from formats.fields import brief, check_path, text_field
from formats.files import RawRecord, read_records, read_text
from formats.sample import DataError

FIELDS = ("json_path", "data_root", "sampling_strategy")  # of an entry


def apply_strategy(records: list, strategy: str, name: str, where: str) -> list:
    """The records that a sampling_strategy keeps, in their order.

    A percentage is rounded up; random:N is the same each time for the same `name`, the file's.

    >>> apply_strategy([1, 2, 3], "first:2", "a.json", "x.yaml")
    [1, 2]
    >>> apply_strategy([1, 2, 3], "end:50%", "a.json", "x.yaml")
    [2, 3]
    """
    if strategy == "all":
        return records
    match = re.fullmatch(r"(first|end|random):([0-9]{1,12})(%?)", strategy)
    if not match:
        raise DataError(
            f"{where}: field 'sampling_strategy' is {brief(strategy)}; write all, first:N, "
            "end:N or random:N with a number or a percentage for N"
        )
    total = len(records)
    which, number, percent = match.groups()
    if percent and int(number) > 100:
        raise DataError(
            f"{where}: field 'sampling_strategy' is {brief(strategy)}; more than all cannot be "
            "taken, for each record is one prompt; write at most 100%"
        )
    n = math.ceil(total * int(number) / 100) if percent else int(number)
    n = min(total, n)

    if which == "first":
        return records[:n]
    if which == "end":
        return records[total - n :]

    # seeded by the file's name, so that every process and every run chooses the same records
    chosen = random.Random(f"{name}:{number}{percent}").sample(range(total), n)
    return [records[i] for i in sorted(chosen)]


def read_yaml(path: Path, media_root: str | Path | None = None) -> list[RawRecord]:
    """The records that a HumanOmniV2 YAML names.

    The files and folders that it names must lie inside its own folder, or inside media_root.
    """
    confinement = Confinement(path.parent, *([media_root] if media_root else []))
    records: list[RawRecord] = []
    for i, dataset in enumerate(read_datasets(path)):
        where = f"{path}: datasets[{i}]"
        unknown = [key for key in dataset if key not in FIELDS]
        if unknown:
            raise DataError(
                f"{where}: unknown field {brief(unknown[0])}; known fields: {', '.join(FIELDS)}"
            )
        name = text_field(dataset, "json_path", where)
        data_root = text_field(dataset, "data_root", where, required=False)
        check_path(name, "json_path", where)
        check_path(data_root, "data_root", where)
        strategy = text_field(dataset, "sampling_strategy", where, required=False) or "all"

        # its records, each with the folder of its media
        file = nearest(name, path.parent)
        if not os.path.isfile(file):
            raise DataError(
                f"{where}: field 'json_path': {file} is not a file; "
                "write it relative to the YAML, or in full"
            )
        folder = nearest(data_root, path.parent) if data_root else file.parent
        if media_root and not confinement.holds(folder):
            folder = Path(media_root)  # it takes the place of a root on another machine
        for field, named in (("json_path", file), ("data_root", folder)):
            if not confinement.holds(named):
                raise DataError(
                    f"{where}: field '{field}': {named} lies outside of the YAML's own folder; "
                    "pass --media_root with a folder that holds all that it names"
                )
        root_name = data_root or str(Path(name).parent)
        for record_where, content in apply_strategy(read_records(file), strategy, name, where):
            records.append(RawRecord(record_where, content, folder, root_name))
    return records


def read_datasets(path: Path) -> list[dict]:
    """The entries of the YAML's `datasets`."""
    import yaml  # here, not at the top: only this format needs it

    text = read_text(path, "a file of this suffix is a YAML that names files of records")
    try:
        content = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises its own errors, ValueError, RecursionError, ..
        on_one_line = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: not a YAML file ({on_one_line}); mend that place") from None
    datasets = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(datasets, list) or not all(isinstance(entry, dict) for entry in datasets):
        raise DataError(
            f"{path}: field 'datasets' must be a list of entries with json_path, data_root and "
            "sampling_strategy"
        )
    return datasets


def nearest(name: str, folder: Path) -> Path:
    """A path relative to the YAML's folder; where nothing is there, to the working folder, as in
    HumanOmniV2's own files."""
    for base in (folder, Path()):
        if os.path.exists(base / name):
            return base / name
    return folder / name
