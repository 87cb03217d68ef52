"""engine/run_folder.py: what the folder of a run is, and which checkpoints it holds.

A run keeps its models in checkpoints (run/checkpoint.py writes them), and its own config.json holds
flags. So its folder, given where its model was wanted, is refused with the name of the checkpoint.
"""

import json
from pathlib import Path

from formats.sample import DataError

FLAGS_OF_A_RUN = {"stage", "method"}  # in its config.json, and in no model's


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
    names = settings_in(folder / "config.json").keys()
    if names & {"model_type", "thinker_config"}:
        return False
    return names >= FLAGS_OF_A_RUN or (folder / "metrics.jsonl").is_file()


def settings_in(config: Path) -> dict:
    """The object in a config.json; {} where there is none that can be read."""
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def complete(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: a folder gets such a name when all is written."""
    # while one is written or removed, there is more behind its number
    folders = [f for f in (run / "checkpoints").glob("*") if names_step(f.name) and f.is_dir()]
    return sorted(folders, key=step_of)


def names_step(name: str) -> bool:
    """Is this the name of a checkpoint's folder? "²" is a digit, and no number.

    >>> names_step("000012"), names_step("000012.part"), names_step("²")
    (True, False, False)
    """
    return name.isascii() and name.isdecimal()


def check_unused(run: Path) -> None:
    """Raises DataError where a new run would be written over one that has saved a checkpoint."""
    if complete(run):
        raise DataError(
            f"{run}: holds a run already; go on with it by --resume, or remove the folder, or pass "
            "another --out"
        )


def step_of(checkpoint: Path) -> int:
    """The step at whose end a checkpoint was made, from the name of its folder."""
    return int(checkpoint.name)


def checkpoints_of(run: Path) -> list[Path]:
    """The models that a run has saved, the newest first."""
    candidates = [run / "checkpoint", *reversed(complete(run))]  # the link is lost in a copied run
    return [path for path in candidates if (path / "config.json").is_file()]


def as_typed(path: Path) -> str:
    """A path as its user has typed it: from the working folder, where it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
