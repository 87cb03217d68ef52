"""engine/run_folder.py: the folder of a run, given where its model was wanted.

A run keeps its models in checkpoints (run/checkpoint.py), and its own config.json holds flags.
"""

import json
from pathlib import Path

from formats.sample import DataError


def check_no_run(folder: Path) -> None:
    """Raises DataError for the folder of a run, or of several: their models are in checkpoints
    (run/checkpoint.py)."""
    if (folder / "config.json").is_file() and not is_run(folder):
        return
    # the folder of all checkpoints; a `checkpoint` that is not there yet, or leads nowhere
    is_absent = folder.name == "checkpoint" and not folder.exists()
    if folder.name == "checkpoints" or is_absent:
        folder = folder.parent

    if is_run(folder):
        found = checkpoints_of(folder)
        if not found:
            raise DataError(
                f"{as_typed(folder)} is the folder of a run, and holds no checkpoint yet; a run "
                "saves one at its end, and every --save_every steps"
            )
        raise DataError(
            f"{as_typed(folder)} is the folder of a run; pass its checkpoint, {as_typed(found[0])}"
        )

    # several runs, as those of a curriculum
    found = []
    for log in sorted(folder.glob("*/metrics.jsonl")):
        if is_run(log.parent):
            found += checkpoints_of(log.parent)[:1]
    if found:
        raise DataError(
            f"{as_typed(folder)} holds the folders of runs; pass the checkpoint of one, for "
            f"example {as_typed(found[-1])}"
        )


def is_run(folder: Path) -> bool:
    """Is this what train.py has written: a config.json of flags, or logs and no model?"""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    names = set(settings) if isinstance(settings, dict) else set()
    if names & {"model_type", "thinker_config"}:
        return False
    return names >= {"stage", "method"} or (folder / "metrics.jsonl").is_file()


def checkpoints_of(run: Path) -> list[Path]:
    """The models that a run has saved, the newest first."""
    numbered = [path for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    numbered.sort(key=lambda path: int(path.name), reverse=True)
    candidates = [run / "checkpoint", *numbered]  # the link is lost where a run was copied
    return [path for path in candidates if (path / "config.json").is_file()]


def as_typed(path: Path) -> str:
    """A path as its user has typed it: from the working folder, where it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
