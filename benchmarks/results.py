"""benchmarks/results.py: results on disk."""

import hashlib
import json
import os
from pathlib import Path

from engine.families import DEFAULT_MODEL
from formats.files import write_whole
from formats.sample import DataError

ROUNDING = {
    "batch",
    "max_tokens",
    "max_cache_tokens",
    "attn",
    "device",
}  # what changes its rounding only, and may be changed when memory runs out
BAD_MEDIA, TOO_LONG, NO_ANSWER, NO_VERDICT = (
    "media missing or unusable",
    "prompt too long",
    "no answer in the reply",
    "judge gave no verdict",
)


def read_results(path: Path) -> dict[str, dict]:
    """{id: line} of a results file, a later line of an id in place of an earlier one. A last line that a killed run left torn is not read."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    found: dict[str, dict] = {}
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line else None
        except json.JSONDecodeError:
            if n == len(lines):
                break
            raise DataError(
                f"{path}:{n}: not a line of results; remove that line, and its item is asked again"
            ) from None
        if row is not None:
            found[row["id"]] = row
    return found


def collect(out: Path, order: list[str]) -> dict[str, dict]:
    """Bring what all processes have written into results.jsonl, in the order of the items. Whole at any moment: written beside and renamed."""
    parts = [out / "results.jsonl", *sorted(out.glob("results.rank*.jsonl"))]
    found: dict[str, dict] = {}
    for path in parts:
        found |= read_results(path)
    place = {name: i for i, name in enumerate(order)}
    if strange := [name for name in found if name not in place]:
        raise DataError(
            f"{out}/results.jsonl: holds the item '{strange[0]}', which the benchmark's files do not; pass another --out"
        )
    found = dict(sorted(found.items(), key=lambda pair: place[pair[0]]))
    write_whole(
        out / "results.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.values()),
    )
    for path in parts[1:]:
        path.unlink()
    return found


def fingerprint(model: str) -> str:
    """What tells a model's weights apart without reading them: names, sizes and times of change of the files, or the hub name."""
    folder = Path(model) if model else DEFAULT_MODEL
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("config.json"))
    known = (
        [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files] if model else "bundled"
    )
    return hashlib.sha256(json.dumps(known or model).encode()).hexdigest()[:16]


def claim(out: Path, settings: dict) -> None:
    """Make --out this run's, or go on with it when it was made with the same settings."""
    file = out / "settings.json"
    before = json.loads(file.read_text()) if file.is_file() else settings
    differ = {
        k: f"{k} {before.get(k)!r}, now {settings.get(k)!r}"
        for k in {**before, **settings}
        if before.get(k) != settings.get(k)
    }
    if differ.keys() - ROUNDING:
        raise DataError(
            f"{out}: holds results made with other settings ({', '.join(v for k, v in differ.items() if k not in ROUNDING)}); "
            "pass another --out, or remove the folder"
        )
    if differ:
        print(
            f"going on with {', '.join(differ.values())}: the items to come are rounded differently from those that are done"
        )
    write_whole(file, json.dumps(settings, indent=2) + "\n")


def write(path: Path, found: list[dict]) -> None:
    """Append lines, safe on the disk when this returns."""
    if found:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
            file.flush()
            os.fsync(file.fileno())
