"""run/curriculum.py: stages in a row, --stage 0,1,2,3, each from the last one's checkpoint."""

import json
from pathlib import Path

from config import Config, parse
from engine.run_folder import check_unused
from formats.sample import DataError
from run.plots import plot_curriculum


def stages_of(argv: list[str]) -> list[Config]:
    """The runs that a command line asks for: one, or with --stage 1,2,3 one per stage.

    Of several, each has a folder of its own under --out, and the last one's checkpoint as its
    --model. Raises DataError where two would have the same folder, or one's holds a run: else that
    is found out after hours, when the stages before it are done.
    """
    words: list[str] = []
    for word in argv:  # --stage=1,2 is --stage 1,2
        is_joined = word.startswith(("--stage=", "--out="))
        words += word.split("=", 1) if is_joined else [word]

    # one stage, or several joined by commas
    at = words.index("--stage") + 1 if "--stage" in words else len(words)
    stages = words[at].split(",") if at < len(words) else []
    if len(stages) < 2:
        return [parse(argv)]

    # every stage with the same flags, in a folder of its own
    configs = [parse([*words[:at], stage, *words[at + 1 :]]) for stage in stages]
    folder = f"runs/stages{''.join(stages)}-{configs[0].method}-seed{configs[0].seed}"
    if "--out" in words:
        folder = configs[0].out
    checkpoint = ""
    for cfg in configs:
        cfg.out = f"{folder}/stage{cfg.stage}"
        if checkpoint:  # named in config.json as if the user had: a start from that file keeps it
            cfg.model = checkpoint
            cfg.given.add("model")
        checkpoint = f"{cfg.out}/checkpoint"

    numbers = [cfg.stage for cfg in configs]
    if len(set(numbers)) < len(numbers):
        raise DataError(f"--stage {','.join(stages)}: a stage is named twice; name each one once")
    for cfg in configs:
        if not cfg.resume:
            check_unused(Path(cfg.out))
    return configs


def write_summary(table: dict[str, dict[str, float]], folder: Path) -> None:
    """summary.json, summary.png and the same in words: the paper's Table 4.

    table: held-out accuracy by checkpoint and kind of questions,
    {"after stage 1": {"stage 1": 0.7, ..}, ..}.
    """
    (folder / "summary.json").write_text(json.dumps(table, indent=2) + "\n")
    plot_curriculum(table, folder / "summary.png")
    for name, row in table.items():
        print(f"{name}: " + ", ".join(f"{kind} questions {v:.3f}" for kind, v in row.items()))
