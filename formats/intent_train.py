"""formats/intent_train.py: HumanOmniV2's YAML of data sets."""

import math
import random
import re
from pathlib import Path

from formats.fields import text_of
from formats.files import read_records
from formats.sample import DataError


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
