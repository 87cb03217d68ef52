"""run/curriculum.py: stages in a row."""

from config import Config, parse


def curriculum(argv: list[str]) -> list[Config]:
    """The runs that a command line asks for: one, or with --stage 0,1,2,3 one per stage, each from the last one's checkpoint and in a folder
    of its own under --out."""
    argv = [
        part
        for word in argv
        for part in (word.split("=", 1) if word.startswith(("--stage=", "--out=")) else [word])
    ]
    at = argv.index("--stage") if "--stage" in argv else None
    stages = argv[at + 1].split(",") if at is not None and at + 1 < len(argv) else []
    if len(stages) < 2:
        return [parse(argv)]
    configs = [parse([*argv[: at + 1], stage, *argv[at + 2 :]]) for stage in stages]
    base = (
        configs[0].out
        if "--out" in argv
        else f"runs/stages{''.join(stages)}-{configs[0].method}-seed{configs[0].seed}"
    )
    for i, cfg in enumerate(configs):
        cfg.out = f"{base}/stage{cfg.stage}"
        if i:
            cfg.model = f"{configs[i - 1].out}/checkpoint"
    return configs
