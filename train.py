"""train.py: AVATAR, top to bottom.

    python train.py                                       # the bundled tiny model on the toy world, stage 2: minutes on two CPU cores
    python train.py --method grpo                         # the baseline in the same loop: 8 fresh completions, no replay, uniform weights
    python train.py --stage 0                             # supervised cold start: makes the tiny model from random weights
    torchrun --nproc_per_node=8 train.py --stage 2 --model Qwen/Qwen2.5-Omni-7B --data DATA.jsonl

One step (numbers as in the method's description, G = 4 fresh + 4 replayed):
    1 rollout      4 fresh completions of each of B prompts, behaviour log-probs recorded while sampling            rollout.py
    2 reward       format, accuracy, self, judge by the stage's table                                               rewards.py
    3 insert       fresh groups into the stratified buffer; Rbar(q), tiers and hint states move                     replay.py
    4 draw         B replayed groups: one stored prompt each, 4 of its completions                                  replay.py
    5 advantage    fresh: GRPO's; replayed: against Rbar(q); then TAS weights over the completion's tokens          tas.py
    6 update       clipped importance-sampled loss, J = J_on + alpha J_off, one optimiser step                      model.py, tas.py

How this differs from the paper and its released trainer (the modules list their own points):
 1. Only the fresh half is generated. Until the buffer holds --replay_min completions a step trains on the fresh half alone; `generated` in
    the log counts every completion sampled for training.
 2. The off-policy half trains on other prompts than the fresh one; both halves are means over their own completions.
 3. top-k truncation (50 in the released run) is off: it changes the sampled distribution but not the trained one.
 4. Groups whose advantages are all zero are left out of the forward pass when beta = 0: exact, they have no gradient. They are counted.
 5. One update per rollout, so a fresh completion's ratio is 1 up to rounding; clipping acts on the replayed half.
"""
import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import toy
from data import DataError, Prompt, PromptMaker, Sample, load_samples, question_text
from model import DEFAULT_MODEL, Policy, load_policy, make_tiny_policy
from replay import Entry, ReplayBuffer
from rewards import score_group
from rollout import Completion, generate
from tas import SHAPES, clipped_is_loss, group_advantages, replay_advantages, temporal_weights

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen: no display is needed)


# ---------------------------------------------------------------------------------------------- flags
def flag(default, help: str):
    """A Config field with its --help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class Config:
    """Every flag of train.py. A default of None is filled in from METHODS (by --method) or DEFAULTS (by model and stage)."""
    stage: int = flag(2, "0 cold start (SFT), 1 visual, 2 audio-visual, 3 localisation")
    method: str = flag("avatar", "avatar, or grpo: the baseline in the same loop")
    model: str = flag("", "model folder or hub name; empty: the bundled tiny model (stage 0: a new random tiny model)")
    data: str = flag("", "training records, JSONL; empty: the toy world")
    eval_data: str = flag("", "held-out records, JSONL; empty: the toy world's, or no evaluation with --data")
    media_root: str = flag("", "folder that media paths are relative to; empty: the JSONL's own folder")
    out: str = flag("", "output folder; empty: runs/stage<stage>-<method>-seed<seed>")
    seed: int = flag(0, "seed of data order, sampling and replay draws")
    steps: int | None = flag(None, "optimiser steps; 0: one pass over the data")
    prompts_per_step: int = flag(8, "B: prompts with fresh completions per step, over all processes")
    fresh: int | None = flag(None, "fresh completions per prompt (avatar 4, grpo 8)")
    replayed: int | None = flag(None, "replayed completions per replayed group, one group per prompt (avatar 4, grpo 0 = no replay)")
    alpha: float = flag(1.0, "weight of the off-policy half in J = J_on + alpha J_off")
    tas_shape: str | None = flag(None, f"temporal weights: {', '.join(SHAPES)} (avatar u, grpo uniform = off)")
    tas_lambda: float = flag(0.3, "lambda of the temporal weights; 0 = off")
    tas_normalize: bool = flag(False, "divide temporal weights by their mean, so that a shape does not change the step size")
    clip_eps: float = flag(0.2, "epsilon of the clipped ratio")
    beta: float | None = flag(None, "weight of the KL to the stage's starting weights; 0 = off, no reference pass")
    lr: float | None = flag(None, "peak learning rate of AdamW")
    warmup: float = flag(0.05, "share of the steps with rising learning rate; 0 = off")
    max_grad_norm: float = flag(1.0, "gradient clipping; 0 = off")
    train_towers: bool | None = flag(None, "train the vision and audio towers, too (stage 0 of the tiny model does)")
    micro_batch: int = flag(8, "prompt groups per forward pass: lower it when memory runs out")
    temperature: float = flag(1.0, "sampling temperature, of rollout and training log-probs alike")
    top_k: int = flag(0, "sample among the k likeliest ids only; 0 = off")
    top_p: float = flag(1.0, "sample in the nucleus of this mass only; 1 = off")
    max_completion_tokens: int | None = flag(None, "longest completion, EOS included")
    format_penalty: float = flag(0.0, "format reward of a badly formed completion: 0, or -1")
    capacity: int = flag(10_000, "completions the buffer holds: 40 / 35 / 25 % hard / medium / easy")
    replay_min: int | None = flag(None, "replay starts when the buffer holds this many completions")
    vcrs_window: int = flag(20, "fresh unhinted rewards in a prompt's moving average Rbar(q)")
    hint_patience: int = flag(3, "visits without success before a prompt gets its hint; 0 = no hints")
    fps: float = flag(2.0, "video frames sampled per second")
    max_frames: int = flag(16, "most frames per video")
    max_pixels: int | None = flag(None, "most pixels per frame")
    use_audio: bool | None = flag(None, "read the sound of videos (stage 1 does not)")
    audio_caption: bool = flag(False, "put the record's audio caption into the prompt")
    eval_every: int | None = flag(None, "steps between evaluations; 0 = only at the start and the end")
    eval_temperature: float = flag(1.0, "sampling temperature of evaluations; 0 = greedy")
    toy_dir: str = flag("toy_world", "where the toy world is rendered and cached")
    toy_clips: int | None = flag(None, "training clips of the toy world")
    device: str = flag("", "cpu or cuda; empty: cuda when there is one")


METHODS = {"avatar": {"fresh": 4, "replayed": 4, "tas_shape": "u"}, "grpo": {"fresh": 8, "replayed": 0, "tas_shape": "uniform"}}
# The released run's numbers for real models; the tiny model is 5,000 times smaller and learns at rates that would wreck a 7B.
DEFAULTS = {
    "real": {"steps": 0, "beta": 0.1, "lr": 5e-7, "train_towers": False, "max_completion_tokens": 2048, "replay_min": 64, "max_pixels": 50_176,
             "use_audio": True, "eval_every": 100, "toy_clips": 256},
    "tiny": {"steps": 48, "beta": 0.02, "lr": 3e-4, "train_towers": False, "max_completion_tokens": 96, "replay_min": 64, "max_pixels": 84 * 28,
             "use_audio": True, "eval_every": 8, "toy_clips": 256},
    "tiny stage 0": {"steps": 2500, "lr": 1.5e-3, "train_towers": True, "eval_every": 500, "toy_clips": 6000, "prompts_per_step": 24},
}
MIN_PIXELS = 28 * 28
HELDOUT_CLIPS = 160  # of the toy world, two questions each


def parse(argv: list[str]) -> Config:
    """Flags -> Config with every None filled in. Unknown flags and values out of range end the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    for f in fields(Config):
        kind = str(f.type).split(" ")[0] if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type).split(" ")[0])
        convert = {"int": int, "float": float, "str": str, "bool": to_bool}[kind]
        parser.add_argument(f"--{f.name}", type=convert, default=f.default, help=f.metadata["help"], metavar=kind.upper())
    cfg = Config(**vars(parser.parse_args(argv)))
    if cfg.method not in METHODS:
        parser.error(f"--method {cfg.method}: known methods are {', '.join(METHODS)}")
    if cfg.stage not in (0, 1, 2, 3):
        parser.error(f"--stage {cfg.stage}: stages are 0, 1, 2, 3")
    tiny = not cfg.model or Path(cfg.model).resolve() == DEFAULT_MODEL.resolve() or "tiny" in Path(cfg.model).name
    table = METHODS[cfg.method] | DEFAULTS["tiny" if tiny else "real"] | ({"use_audio": False} if cfg.stage == 1 else {})
    if cfg.stage == 0 and tiny:
        table |= DEFAULTS["tiny stage 0"]
        if "--prompts_per_step" not in " ".join(argv):
            cfg.prompts_per_step = table["prompts_per_step"]
    for name, value in table.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, value)
    cfg.out = cfg.out or f"runs/stage{cfg.stage}-{cfg.method}-seed{cfg.seed}"
    for name, low, high in (("prompts_per_step", 1, None), ("steps", 0, None), ("fresh", 1, None), ("replayed", 0, None), ("micro_batch", 1, None),
                            ("capacity", 1, None), ("max_completion_tokens", 1, None), ("fps", 1e-3, None), ("max_frames", 2, None),
                            ("max_pixels", MIN_PIXELS, None), ("tas_lambda", 0, None), ("clip_eps", 0, 1), ("beta", 0, None), ("lr", 0, None),
                            ("warmup", 0, 1), ("temperature", 1e-3, None), ("top_k", 0, None), ("top_p", 1e-6, 1), ("eval_temperature", 0, None),
                            ("vcrs_window", 1, None), ("hint_patience", 0, None), ("replay_min", 1, None), ("toy_clips", 1, None)):
        value = getattr(cfg, name)
        if value < low or (high is not None and value > high):
            parser.error(f"--{name} {value}: must be " + (f"between {low} and {high}" if high is not None else f"at least {low}"))
    if cfg.tas_shape not in SHAPES:
        parser.error(f"--tas_shape {cfg.tas_shape}: known shapes are {', '.join(SHAPES)}")
    return cfg


def to_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"
