"""run/track.py: a run's numbers and some of its completions in a tracker, for --track.

Each tracker is an optional package. A run without --track imports none of them.

    numbers(step, values)      columns of metrics.jsonl
    completions(step, rows)    a table: the lines of completions.jsonl
    finish(result)             the end result
"""

import importlib.util
import json
from pathlib import Path

from formats.sample import DataError

PROJECT = "avatar"
COLUMNS = ("id", "prompt", "gold", "completion", "reward", "accuracy", "advantage", "hinted")


class TensorBoard:
    """Files in the run's folder: `tensorboard --logdir RUN/tensorboard`. It has no videos."""

    def __init__(self, folder: Path, config: dict, start: int):
        from torch.utils.tensorboard import SummaryWriter

        # a run that goes on writes its steps anew from its checkpoint on
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
        self.writer.add_text("config", as_code(config), start)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def completions(self, step: int, rows: list[dict]) -> None:
        self.writer.add_text("completions", as_code(rows), step)

    def finish(self, result: dict[str, float]) -> None:
        self.writer.add_text("result", as_code(result))
        self.writer.close()


class Wandb:
    """Weights & Biases; WANDB_MODE=offline keeps everything in the run's folder."""

    def __init__(self, folder: Path, config: dict, start: int):
        import wandb

        self.wandb = wandb
        self.run = wandb.init(project=PROJECT, name=folder.name, dir=folder, config=config)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def completions(self, step: int, rows: list[dict]) -> None:
        table = self.wandb.Table(columns=[*COLUMNS, "clip"])
        for row in rows:
            clip = next((path for path in row["media"] if Path(path).suffix == ".mp4"), None)
            video = self.wandb.Video(clip, format="mp4") if clip else None
            table.add_data(*[row[name] for name in COLUMNS], video)
        self.run.log({"completions": table}, step=step)

    def finish(self, result: dict[str, float]) -> None:
        self.run.summary.update(result)
        self.run.finish()


class Trackio:
    """trackio's local store: `trackio show --project avatar`."""

    def __init__(self, folder: Path, config: dict, start: int):
        import trackio

        self.trackio = trackio
        trackio.init(project=PROJECT, name=folder.name, config=config, resume="allow")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self.trackio.log(values, step=step)

    def completions(self, step: int, rows: list[dict]) -> None:
        texts = {name: [str(row[name]) for row in rows] for name in COLUMNS}
        self.trackio.log({"completions": json.dumps(texts)}, step=step)

    def finish(self, result: dict[str, float]) -> None:
        self.trackio.log({f"end_{name}": value for name, value in result.items()})
        self.trackio.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def check_tracker(name: str) -> None:
    """Raises DataError where the tracker's package is not installed. "" is no tracker."""
    if name and importlib.util.find_spec(name) is None:
        raise DataError(f"--track {name}: the package is not installed; pip install {name}")


def open_tracker(name: str, folder: Path, config: dict, start: int):
    """The tracker of this name, for a run that begins at step `start`; None for ""."""
    return TRACKERS[name](folder, config, start) if name else None


def numbers_of(row: dict) -> dict[str, float]:
    """The columns of a line that are numbers."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("step", "stage")
    }


def as_code(content: object) -> str:
    """JSON as TensorBoard shows it: an indented block of Markdown."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return "\n".join(f"    {line}" for line in text.splitlines())
