"""config.py: every flag of train.py, in the groups of `--help`, and the presets of --method.

A flag that is None by default is filled in by a preset: METHODS by --method, DEFAULTS by the size
of --model and by the stage. A flag that the user gives wins over both. To add a flag, add a field;
to add a method, add a line to METHODS.

Nothing heavy is imported here, so that `python train.py --help` answers at once.
"""

import itertools
import json
import re
from dataclasses import dataclass

from formats.sample import DataError
from media.prompt_format import MIN_PIXELS
from run.flags import check_flags, fill, flag, groups_of, is_tiny, read_flags
from run.track import check_tracker

SIZE = re.compile("0*[1-9][0-9]{0,8}")  # a number of clips

# ------------------------------------------------------------------------------ presets
AVATAR = {  # the paper's own numbers
    "fresh": 4,
    "replayed": 4,
    "replay_min": 64,
    "updates": 1,
    "baseline": "group",
    "clip": "ppo",
    "loss_norm": "sequence",
    "tas_shape": "u",
    "hint_patience": 3,
    "hint_kl": 0.1,
    "hint_teacher": 0.0,
}
AVATAR_FAST = AVATAR | {  # ours: far fewer completions than GRPO (bench/STUDY.md)
    "fresh": 2,
    "replayed": 6,
    "updates": 2,
    "baseline": "shrunk",
    "clip": "cispo",
    "loss_norm": "token",
    "beta": 0.0,
    "hint_teacher": 0.3,
}
GRPO = AVATAR | {  # to compare with: no replay, uniform weights, no hints
    "fresh": 8,
    "replayed": 0,
    "tas_shape": "uniform",
    "hint_patience": 0,
    "hint_kl": 0.0,
}
METHODS = {
    "avatar": AVATAR,
    "avatar_fast": AVATAR_FAST,
    "grpo": GRPO,
    "tas_only": GRPO | {"tas_shape": "u"},
    "replay_only": AVATAR | {"tas_shape": "uniform"},
}

DEFAULTS = {
    "real": {  # the released run's numbers
        "train_type": "lora",
        "steps": 0,
        "prompts_per_step": 8,
        "beta": 0.1,
        "lr": 5e-7,
        "train_towers": False,
        "max_completion_tokens": 2048,
        "max_pixels": 50_176,
        "use_audio": True,
        "eval_every": 100,
        "log_rollouts": 10,
    },
    "tiny": {  # a model that is 5,000 times smaller learns at rates that would wreck a 7B
        "train_type": "full",
        "steps": 64,
        "prompts_per_step": 16,
        "beta": 0.02,
        "lr": 2e-4,
        "train_towers": False,
        "max_completion_tokens": 112,
        "max_pixels": 84 * 28,
        "use_audio": True,
        "eval_every": 8,
        "log_rollouts": 1,
    },
    "tiny, stage 0": {  # from random weights
        "steps": 1150,
        "prompts_per_step": 64,
        "lr": 2e-3,
        "train_towers": True,
        "eval_every": 250,
    },
}

ASKING = {  # of eval.py and ask.py
    "real": {"max_frames": 64, "max_pixels": 100_352, "max_completion_tokens": 2048},
    "tiny": {"max_frames": 16, "max_pixels": 84 * 28, "max_completion_tokens": 112},
}


# ------------------------------------------------------------------------------ flags
@dataclass
class Common:
    """What most people need"""

    stage: int = flag(
        2,
        "0 cold start (SFT), 1 visual, 2 audio-visual, 3 localisation; several in a row: 0,1,2,3",
        choices=(0, 1, 2, 3),
    )
    method: str = flag(
        "avatar",
        "preset of the flags below: avatar (the paper's numbers), avatar_fast (ours: fewer fresh "
        "completions, two updates per rollout, the hint as a teacher), grpo (to compare with), "
        "tas_only, replay_only",
        choices=tuple(METHODS),
    )
    model: str = flag("", "model folder or hub name; empty: the bundled tiny model")
    data: str = flag(
        "",
        "training records in any format of formats/, or toy:N,M for the toy world with N training "
        "and M held-out clips, or toy-long:N,M for its long questions; empty: the toy world",
    )
    eval_data: str = flag("", "held-out records; empty: the toy world's, or none with --data")
    out: str = flag("", "output folder; empty: runs/stage<stage>-<method>-seed<seed>")
    steps: int | None = flag(
        None, "rollouts, each with --updates optimiser steps; 0: one pass over the data", 0
    )
    lr: float | None = flag(None, "peak learning rate of AdamW", 0, 1)
    seed: int = flag(0, "seed of data order, sampling and replay draws", 0)
    resume: bool = flag(False, "go on with the run in --out, or begin it where there is none yet")
    config: str = flag(
        "", "a run's config.json, or a file such as those in configs/; flags given beside it win"
    )


@dataclass
class Rollout:
    """Rollout"""

    prompts_per_step: int | None = flag(
        None, "B: prompts with fresh completions per step, over all processes (stage 0: traces)", 1
    )
    fresh: int | None = flag(
        None,
        "fresh completions per prompt, two or more: one has no advantage over itself "
        "(avatar 4, avatar_fast 2, grpo 8)",
        2,
    )
    max_completion_tokens: int | None = flag(None, "longest completion, EOS included", 1)
    temperature: float = flag(1.0, "of sampling and of the training log-probs alike", 1e-3, 100)
    dynamic_sampling: int = flag(
        0,
        "extra rounds of prompts in place of groups whose rewards are equal (DAPO); 0 = off. For "
        "--baseline group: with shrunk, and with --hint_teacher, such groups teach, too",
        0,
    )


@dataclass
class Reward:
    """Reward"""

    judge: str = flag(
        "",
        "stage 3: the judge's model folder or hub name, or oracle (toy world only); "
        "empty: oracle on the toy world, else InternVL3-2B",
    )
    judge_endpoint: str = flag(
        "",
        "stage 3: an OpenAI-compatible server that runs the --judge, e.g. "
        "http://localhost:8000/v1; empty: load it here",
    )


@dataclass
class Replay:
    """Replay and hints"""

    replayed: int | None = flag(
        None,
        "replayed completions per group, or all of its prompt where fewer are stored; two or more "
        "(avatar 4, avatar_fast 6, grpo 0 = no replay)",
        0,
    )
    replay_min: int | None = flag(
        None,
        "replay starts when the buffer holds this many completions (64)",
        1,
    )
    capacity: int = flag(
        10_000,
        "completions the buffer holds, over all processes: 40 / 35 / 25 % hard / medium / easy",
        8,
    )
    hint_patience: int | None = flag(
        None,
        "visits without success before a prompt gets its hint (3; grpo and tas_only 0); "
        "0 = this rule off",
        0,
    )
    hint_kl: float | None = flag(
        None,
        "a failing prompt of the hard tier gets its hint when its KL(pi_theta || pi_behaviour) is "
        "below this fraction of the median (0.1; grpo and tas_only 0); 0 = this rule off",
        0,
        1,
    )
    hint_teacher: float | None = flag(
        None,
        "weight c of the hint as a teacher: it adds c (log pi(y_t | q, hint) - log pi(y_t | q)), "
        "the difference between -1 and 1, to the advantage of a fresh token; c falls to 0 over "
        "the run (avatar_fast 0.3); 0 = off",
        0,
        100,
    )


@dataclass
class Update:
    """Advantages and update"""

    updates: int | None = flag(
        None,
        "optimiser steps per rollout; replay is drawn anew for each (1; avatar_fast 2)",
        1,
        1000,
    )
    baseline: str | None = flag(
        None,
        "what fresh rewards stand against. group: their own mean (avatar, grpo); shrunk: the mean "
        "of the prompt's other rewards, shrunk towards the step's (avatar_fast); or one that you "
        "add to tas.BASELINES",
        choices="tas.BASELINES",
    )
    alpha: float = flag(1.0, "weight of the off-policy part in J = J_on + alpha J_off", 0, 1e6)
    tas_shape: str | None = flag(
        None,
        "temporal weights: u (avatar), uniform (grpo: off), decay, incline, inverse, or one that "
        "you add to tas.SHAPES",
        choices="tas.SHAPES",
    )
    tas_lambda: float = flag(0.3, "lambda of the temporal weights; 0 = off", 0, 1e3)
    is_level: str = flag(
        "token",
        "importance ratio per token, or per sequence (length-normalised, as GSPO)",
        choices="tas.LEVELS",
    )
    clip: str | None = flag(
        None,
        "ppo (avatar, grpo); cispo: the ratio is a weight, bounded from above (avatar_fast)",
        choices="tas.CLIPS",
    )
    clip_eps: float = flag(0.2, "epsilon of the clipped ratio", 0, 1)
    clip_eps_high: float = flag(
        0.0, "epsilon of the upper bound when it differs (DAPO: 0.28); 0 = clip_eps", 0, 1e6
    )
    loss_norm: str | None = flag(
        None,
        "mean over completions of their token means (sequence: avatar, grpo), "
        "or over all tokens (token: avatar_fast)",
        choices="tas.NORMS",
    )
    beta: float | None = flag(
        None,
        "weight of the KL to the stage's starting weights; 0 = off, no reference (avatar_fast)",
        0,
        1e6,
    )


@dataclass
class Training:
    """What is trained"""

    train_type: str | None = flag(
        None,
        "lora: adapters; full: all weights, sharded over processes by FSDP2",
        choices=("lora", "full"),
    )
    lora_rank: int = flag(8, "rank of the adapters on all linear layers", 1)
    train_towers: bool | None = flag(
        None, "train the vision and audio towers, too (stage 0 of the tiny model does)"
    )
    max_tokens: int = flag(
        16_384,
        "tokens per forward pass (a prompt and its completions stay together): "
        "lower it when memory runs out",
        1,
    )


@dataclass
class Media:
    """Media and prompts"""

    media_root: str = flag(
        "", "folder that media paths are relative to; empty: the data file's own folder"
    )
    media_cache: str = flag("media_cache", "folder for decoded frames and sound; empty = off")
    workers: int | None = flag(
        None, "processes that decode ahead; 0 = threads (empty: 4 with a GPU, else 1, toy 0)", 0
    )
    fps: float = flag(2.0, "video frames sampled per second", 1e-3, 1e3)
    decoder: str = flag(
        "pyav",
        "what decodes video frames; decord is for comparison (docs/data.md)",
        choices=("pyav", "decord"),
    )
    max_frames: int = flag(16, "most frames per video", 2)
    max_pixels: int | None = flag(None, "most pixels per frame", MIN_PIXELS)
    use_audio: bool | None = flag(
        None, "read the sound of videos (stage 1 of a real model does not)"
    )
    audio_caption: bool = flag(False, "put the record's audio caption into the prompt")
    max_prompt_tokens: int = flag(
        16_384, "longer prompts are left out and counted, never cut; 0 = no limit", 0
    )


@dataclass
class Checks:
    """Evaluation, checkpoints, logs"""

    eval_every: int | None = flag(
        None, "steps between evaluations; 0 = at the start and the end (stage 0: the end)", 0
    )
    save_every: int = flag(
        0, "steps between checkpoints; 0 = only at the end, and when a signal asks for one", 0
    )
    log_rollouts: int | None = flag(
        None,
        "steps between two whose completions are kept, with their tokens, in rollouts.jsonl.gz; "
        "0 = off",
        0,
    )
    track: str = flag(
        "",
        "also send the log to tensorboard, wandb or trackio, an optional package; empty: to none",
        choices=("", "tensorboard", "wandb", "trackio"),
    )


@dataclass
class Config(Common, Rollout, Reward, Replay, Update, Training, Media, Checks):
    """Every flag of train.py"""


# ------------------------------------------------------------------------------ parsing
TITLE = "train.py: AVATAR, stages 0 to 3. README.md has examples."


def parse(argv: list[str]) -> Config:
    """Flags -> Config with every None filled in.

    Unknown flags and values out of range end the program with one sentence.
    """
    cfg, parser = read_flags(Config, TITLE, argv)
    if cfg.data in ("", "toy"):
        cold_start = cfg.stage == 0 and is_tiny(cfg.model)
        cfg.data = f"toy:{5000 if cold_start else 256},160"  # 160 clips are 320 questions
    fill(cfg, by_model_and_stage(cfg) | METHODS[cfg.method])  # a method wins over a model
    check_flags(cfg, parser)  # the presets' values, too
    check_replay(cfg, parser)
    cfg.out = cfg.out or f"runs/stage{cfg.stage}-{cfg.method}-seed{cfg.seed}"

    if cfg.judge_endpoint:  # before it is written into the run's config.json
        from tools.chat import check_endpoint

        check_endpoint(cfg.judge_endpoint)
    check_tracker(cfg.track)
    return cfg


def check_replay(cfg: Config, parser) -> None:
    """End the program with one sentence where replay could never begin, or would teach nothing."""
    if cfg.stage == 0 or cfg.replayed == 0:
        return
    if cfg.replayed == 1:
        parser.error("--replayed 1: a group of one has no spread of rewards; pass 2 or more, or 0")
    if cfg.replay_min > cfg.capacity:
        parser.error(
            f"--replay_min {cfg.replay_min}: the buffer never holds more than --capacity "
            f"{cfg.capacity} completions; lower the one or raise the other"
        )


def by_model_and_stage(cfg: Config) -> dict:
    """Defaults that hang on the model's size, the stage and the machine."""
    import torch  # here, not at the top: it takes longer to import than --help may take

    tiny = is_tiny(cfg.model)
    defaults = dict(DEFAULTS["tiny" if tiny else "real"])
    if tiny and cfg.stage == 0:
        defaults |= DEFAULTS["tiny, stage 0"]
    if not tiny and cfg.stage == 1:
        defaults["use_audio"] = False  # stage 1 is visual reasoning

    if torch.cuda.is_available():
        defaults["workers"] = 4
    else:  # the toy's own clips need no guard
        defaults["workers"] = 0 if is_toy(cfg.data) else 1
    return defaults


def is_toy(data: str) -> bool:
    """Is --data the toy world, or its long questions?"""
    return data.startswith(("toy:", "toy-long:"))


def toy_sizes(data: str) -> tuple[int, int]:
    """(training clips, held-out clips) of --data toy:N,M or toy-long:N,M.

    >>> toy_sizes("toy:256,160")
    (256, 160)
    """
    world, _, sizes = data.partition(":")
    train, _, heldout = sizes.partition(",")
    if not (SIZE.fullmatch(train) and SIZE.fullmatch(heldout)):
        raise DataError(f"--data {data}: write {world}:N,M with N training and M held-out clips")
    return int(train), int(heldout)


def in_order() -> list:
    """The flags as fields, in the order of --help."""
    return list(itertools.chain.from_iterable(groups_of(Config).values()))


def to_json(cfg: Config) -> str:
    """A run's config.json: every flag, and under "given" the names of those that the user set."""
    values = {f.name: getattr(cfg, f.name) for f in in_order()}
    return json.dumps(values | {"given": sorted(cfg.given)}, indent=2) + "\n"


def describe(cfg: Config) -> str:
    """The config in words, by where each value comes from."""
    given: list[str] = []
    preset: list[str] = []
    default: list[str] = []
    for f in in_order():
        value = getattr(cfg, f.name)
        if value in ("", None):
            continue
        if f.name in cfg.given:
            given.append(f"{f.name} {value}")
        elif f.default is None:
            preset.append(f"{f.name} {value}")
        else:
            default.append(f"{f.name} {value}")
    return "\n".join(
        [
            f"config, given: {', '.join(given) or 'nothing'}",
            f"config, from --method {cfg.method}, the model and the stage: {', '.join(preset)}",
            f"config, defaults: {', '.join(default)}",
        ]
    )
