"""engine/adapter_folder.py: folders that hold LoRA adapters alone, in peft's form.

Such a folder names the model that its adapters belong to, in adapter_config.json. Wherever a model
is asked for, the folder stands for that model with the adapters added in (`model.load_policy`).

Nothing heavy is imported here: flags are read by it before torch is there.
"""

import json
from pathlib import Path

from formats.sample import DataError

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter_folder(path: str | Path) -> bool:
    """Does this folder hold adapters, and no model?"""
    folder = Path(path)
    return (folder / SETTINGS).is_file() and not (folder / "config.json").is_file()


def read_settings(folder: str | Path) -> dict:
    """The settings of adapters. Raises DataError where they cannot be read."""
    file = Path(folder) / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(settings, dict):
            return settings
        reason = "no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = type(error).__name__
    raise DataError(
        f"{file}: not the settings of an adapter ({reason}); save the adapter again, or pass "
        "--model with a whole model"
    )


def base_of(folder: str | Path) -> str:
    """The folder or hub name of the model that adapters belong to.

    A folder may be written relative to the working folder. Raises DataError where none is named.
    """
    base = read_settings(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError(
            f"{Path(folder) / SETTINGS}: field 'base_model_name_or_path' is missing; write the "
            "folder or hub name of the model that the adapters were trained on"
        )
    return base


def root_of(path: str | Path) -> str | Path:
    """The whole model that a path leads to. Adapters may belong to a model that is itself given by
    adapters: a later stage that was trained from an earlier stage's."""
    visited = []
    while is_adapter_folder(path):
        real = Path(path).resolve()
        if real in visited:
            raise DataError(f"{path}: its adapters belong to themselves; mend {SETTINGS}")
        visited.append(real)
        path = base_of(path)
    return path
