"""config.py: every flag of train.py, and the presets of --method."""

from dataclasses import dataclass

import torch

from engine.families import ATTENTIONS
from judge import DEFAULT_JUDGE, check_endpoint
from media.prompt_format import MIN_PIXELS
from run.flags import fill, flag, is_tiny, read_flags
from tas import CLIPS, LEVELS, NORMS, SHAPES

PAPER = {
    "fresh": 4,
    "replayed": 4,
    "replay_min": 64,
    "replay_draw": "tiers",
    "replay_shift": 0.0,
    "clip": "ppo",
    "loss_norm": "sequence",
    "tas_shape": "u",
    "hint_patience": 3,
    "hint_kl": 1e-3,
}

OURS = PAPER | {
    "fresh": 2,
    "replayed": 6,
    "replay_min": 256,
    "replay_draw": "uniform",
    "replay_shift": 0.2,
    "clip": "truncated",
    "loss_norm": "token",
    "beta": 0.0,
}

GRPO = PAPER | {
    "fresh": 8,
    "replayed": 0,
    "tas_shape": "uniform",
    "hint_patience": 0,
    "hint_kl": 0.0,
}

METHODS = {
    "avatar": OURS,
    "avatar_paper": PAPER,
    "grpo": GRPO,
    "tas_only": GRPO | {"tas_shape": "u"},
    "replay_only": OURS | {"tas_shape": "uniform"},
}


# The released run's numbers for real models; the tiny model is 5,000 times smaller and learns at rates that would wreck a 7B.
DEFAULTS = {
    "real": {
        "train_type": "lora",
        "steps": 0,
        "beta": 0.1,
        "lr": 5e-7,
        "train_towers": False,
        "max_completion_tokens": 2048,
        "max_pixels": 50_176,
        "use_audio": True,
        "eval_every": 100,
        "toy_clips": 256,
        "prompts_per_step": 8,
        "tower_lr": 1.0,
    },
    "tiny": {
        "train_type": "full",
        "steps": 48,
        "beta": 0.02,
        "lr": 2e-4,
        "train_towers": False,
        "max_completion_tokens": 112,
        "max_pixels": 84 * 28,
        "use_audio": True,
        "eval_every": 8,
        "toy_clips": 256,
        "prompts_per_step": 16,
        "tower_lr": 0.1,
    },
    "tiny stage 0": {
        "steps": 1150,
        "lr": 2e-3,
        "train_towers": True,
        "eval_every": 250,
        "toy_clips": 5000,
        "prompts_per_step": 64,
        "tower_lr": 1.0,
    },
}


@dataclass
class Config:
    """Every flag of train.py. A default of None is filled in from METHODS (by --method) or DEFAULTS (by model and stage)."""

    stage: int = flag(
        2,
        "0 cold start (SFT), 1 visual, 2 audio-visual, 3 localisation; several in a row: 0,1,2,3",
        known=(0, 1, 2, 3),
    )
    method: str = flag(
        "avatar",
        "avatar, avatar_paper (the paper's own numbers), grpo (the baseline), tas_only, replay_only: presets of the flags below",
        known=tuple(METHODS),
    )
    model: str = flag(
        "",
        "model folder or hub name; empty: the bundled tiny model (stage 0: a new random tiny model)",
    )
    data: str = flag("", "training records, of any format of records.py; empty: the toy world")
    eval_data: str = flag(
        "", "held-out records; empty: the toy world's, or no evaluation with --data"
    )
    media_root: str = flag(
        "", "folder that media paths are relative to; empty: the data file's own folder"
    )
    out: str = flag("", "output folder; empty: runs/stage<stage>-<method>-seed<seed>")
    seed: int = flag(0, "seed of data order, sampling and replay draws")
    steps: int | None = flag(None, "optimiser steps; 0: one pass over the data", 0)
    prompts_per_step: int | None = flag(
        None, "B: prompts with fresh completions per step (stage 0: traces), over all processes", 1
    )
    fresh: int | None = flag(
        None, "fresh completions per prompt (avatar 2, avatar_paper 4, grpo 8)", 1
    )
    replayed: int | None = flag(
        None,
        "replayed completions per replayed group, or all of its prompt where fewer are stored "
        "(avatar 6, avatar_paper 4, grpo 0 = no replay)",
        0,
    )
    replay_groups: int = flag(1, "replayed groups per prompt with fresh completions", 1)
    replay_draw: str | None = flag(
        None,
        "which prompts are replayed: drawn by tiers (avatar_paper), or uniform, all alike likely (avatar)",
        known=("tiers", "uniform"),
    )
    replay_baseline: str = flag(
        "vcrs",
        "what replayed rewards stand against: vcrs, the prompt's Rbar(q), or group, the mean of the replayed group",
        known=("vcrs", "group"),
    )
    replay_shift: float | None = flag(
        None,
        "added to the advantages of replayed groups: above 0 their successes weigh more than their failures (avatar 0.2); "
        "0 = off",
    )
    alpha: float = flag(1.0, "weight of the off-policy half in J = J_on + alpha J_off")
    dynamic_sampling: int = flag(
        0,
        "extra rounds of fresh prompts in place of groups whose rewards are all alike (DAPO), all counted; 0 = off",
        0,
    )
    tas_shape: str | None = flag(
        None, f"temporal weights: {', '.join(SHAPES)} (avatar u, grpo uniform = off)", known=SHAPES
    )
    tas_lambda: float = flag(0.3, "lambda of the temporal weights; 0 = off", 0)
    tas_normalize: bool = flag(
        False,
        "divide temporal weights by their mean, so that a shape does not change the step size",
    )
    is_level: str = flag(
        "token",
        "importance ratio per token, or per sequence (length-normalised, as GSPO)",
        known=LEVELS,
    )
    clip: str | None = flag(
        None,
        "ppo (avatar_paper, grpo); cispo: clip the ratio as a weight; truncated: as a weight, from above only (avatar)",
        known=CLIPS,
    )
    clip_eps: float = flag(0.2, "epsilon of the clipped ratio", 0, 1)
    clip_eps_high: float = flag(
        0.0,
        "epsilon of the upper bound when it differs (DAPO's clip-higher: 0.28); 0 = clip_eps",
        0,
    )
    loss_norm: str | None = flag(
        None,
        "mean over: completions, of their token means (sequence), where tokens of short ones weigh more; or all tokens of "
        "a half of the loss (token: avatar)",
        known=NORMS,
    )
    beta: float | None = flag(
        None,
        "weight of the KL to the stage's starting weights; 0 = off, no reference pass (avatar)",
        0,
    )
    train_type: str | None = flag(
        None,
        "lora: adapters; full: all weights, over several processes sharded (FSDP2)",
        known=("lora", "full"),
    )
    lora_rank: int = flag(8, "rank of the adapters on all linear layers", 1)
    lora_alpha: float = flag(32.0, "the adapters' product is scaled by alpha / rank", 0)
    lr: float | None = flag(None, "peak learning rate of AdamW", 0)
    warmup: float = flag(0.05, "share of the steps with rising learning rate; 0 = off", 0, 1)
    max_grad_norm: float = flag(1.0, "gradient clipping; 0 = off")
    train_towers: bool | None = flag(
        None, "train the vision and audio towers, too (stage 0 of the tiny model does)"
    )
    tower_lr: float | None = flag(
        None,
        "learning rate of the towers as a share of --lr; 0 = they stay, at the cost of their gradient",
        0,
    )
    max_prompt_tokens: int = flag(
        16_384, "longer prompts are left out and counted, never cut; 0 = no limit", 0
    )
    max_tokens: int = flag(
        16_384,
        "tokens per forward pass (a prompt and its completions stay together): lower it when memory runs out",
        1,
    )
    max_cache_tokens: int = flag(
        2**18,
        "tokens whose keys and values are held while completions decode together (7B: 57 kB each)",
        1,
    )
    checkpoint_layers: bool | None = flag(
        None,
        "keep each layer's input and compute the layer again in the backward pass (empty: on a GPU)",
    )
    optim_dtype: str = flag(
        "fp32",
        "AdamW over bf16 weights: fp32 (with fp32 master weights, 16 bytes per weight) or bf16 (rounded at random, 8 bytes)",
        known=("fp32", "bf16"),
    )
    attn: str = flag(
        "auto",
        f"attention of the towers: {', '.join(ATTENTIONS)}; auto: flash-attn where it is installed, else PyTorch's",
        known=ATTENTIONS,
    )
    cuda_graph: bool = flag(True, "on a GPU, replay decode steps as CUDA graphs")
    feature_cache_gb: float = flag(
        4.0,
        "host memory for tower outputs while the towers are frozen; 0 = they run once per step",
        0,
    )
    media_cache: str = flag("media_cache", "folder for decoded frames and sound; empty = off")
    media_cache_gb: float = flag(20.0, "most that the folder holds", 0)
    media_timeout: float = flag(
        120.0,
        "seconds that a process may decode the media of one record, which then count as bad (--workers 0: no limit)",
        1,
    )
    max_bad_fraction: float = flag(
        0.2,
        "share of the records whose media may be bad; with more the run ends and names them",
        0,
        1,
    )
    allow_outside: bool = flag(False, "let a data set name files outside of its media folder")
    workers: int | None = flag(
        None,
        "processes that decode ahead, each under --media_timeout; 0 = threads without (empty: 4 with a GPU, else 1, toy 0)",
        0,
    )
    temperature: float = flag(
        1.0, "sampling temperature, of rollout and training log-probs alike", 1e-3
    )
    top_k: int = flag(0, "sample among the k likeliest ids only; 0 = off", 0)
    top_p: float = flag(1.0, "sample in the nucleus of this mass only; 1 = off", 1e-6, 1)
    max_completion_tokens: int | None = flag(None, "longest completion, EOS included", 1)
    format_penalty: float = flag(0.0, "format reward of a badly formed completion: 0, or -1")
    capacity: int = flag(
        10_000, "completions the buffer holds: 40 / 35 / 25 % hard / medium / easy", 1
    )
    replay_min: int | None = flag(
        None,
        "replay starts when the buffer holds this many completions (avatar 256, avatar_paper 64)",
        1,
    )
    replay_max_age: int = flag(
        0, "completions older than this many steps are dropped from the buffer; 0 = kept", 0
    )
    stale_bound: float = flag(
        0.0,
        "a replayed completion with A < 0 and mean log(pi_behaviour / pi_theta) above this is left out; 0 = off",
        0,
    )
    vcrs_window: int = flag(20, "fresh unhinted rewards in a prompt's moving average Rbar(q)", 1)
    hint_patience: int | None = flag(
        None,
        "visits without success before a prompt gets its hint (3; grpo and tas_only 0); 0 = this rule off",
        0,
    )
    hint_kl: float | None = flag(
        None,
        "a failing prompt of the hard tier gets its hint when KL(pi_theta || pi_behaviour) per token is below (1e-3; "
        "grpo and tas_only 0); 0 = this rule off",
        0,
    )
    fps: float = flag(2.0, "video frames sampled per second", 1e-3)
    max_frames: int = flag(16, "most frames per video", 2)
    max_pixels: int | None = flag(None, "most pixels per frame", MIN_PIXELS)
    use_audio: bool | None = flag(
        None, "read the sound of videos (stage 1 of a real model does not)"
    )
    judge: str = flag(
        "",
        "stage 3: the judge's model folder or hub name, or oracle (toy only); empty: oracle on the toy, else "
        + DEFAULT_JUDGE,
    )
    judge_endpoint: str = flag(
        "",
        "stage 3: an OpenAI-compatible server that runs the --judge, e.g. http://localhost:8000/v1; empty: load it here",
    )
    judge_device: str = flag(
        "", "stage 3: where a judge that is loaded here runs; empty: the training device"
    )
    audio_caption: bool = flag(False, "put the record's audio caption into the prompt")
    eval_every: int | None = flag(
        None, "steps between evaluations; 0 = only at the start and the end"
    )
    eval_temperature: float = flag(1.0, "sampling temperature of evaluations; 0 = greedy", 0)
    max_nonfinite: int = flag(
        5,
        "steps in a row whose gradient may be infinite or no number; they are skipped, and the last one ends the run",
        1,
    )
    save_every: int = flag(
        0, "steps between checkpoints; 0 = only at the end, and when a signal asks for one", 0
    )
    keep: int = flag(2, "newest checkpoints that are kept", 1)
    resume: bool = flag(
        False,
        "go on with the run in --out from its newest checkpoint; begin it where there is none yet",
    )
    overwrite: bool = flag(False, "begin anew in an --out that holds a run, which is lost")
    toy_dir: str = flag("toy_world", "where the toy world is rendered and cached")
    toy_clips: int | None = flag(None, "training clips of the toy world", 1)
    toy_heldout: int = flag(160, "held-out clips of the toy world, two questions each", 1)
    device: str = flag("", "cpu or cuda; empty: cuda when there is one")
    timeout: int = flag(
        1800, "seconds that a process waits for the others before it ends the run", 1
    )
    estimate: bool = flag(
        False, "print the memory per GPU that --model needs, for every --train_type, and end"
    )


def parse(argv: list[str]) -> Config:
    """Flags -> Config with every None filled in. Unknown flags and values out of range end the program with one sentence."""
    cfg, _ = read_flags(Config, __doc__.split("\n")[0], argv)
    tiny, gpu = is_tiny(cfg.model), torch.cuda.is_available()
    table = (
        DEFAULTS["tiny" if tiny else "real"]
        | METHODS[cfg.method]
        | ({"use_audio": False} if cfg.stage == 1 and not tiny else {})
    )
    if cfg.stage == 0 and tiny:
        table |= DEFAULTS["tiny stage 0"]
    fill(
        cfg, table | {"checkpoint_layers": gpu, "workers": 4 if gpu else int(bool(cfg.data))}
    )  # the toy's own clips need no guard
    if cfg.judge_endpoint:
        check_endpoint(cfg.judge_endpoint)  # before it is written into the run's config.json
    cfg.out = cfg.out or f"runs/stage{cfg.stage}-{cfg.method}-seed{cfg.seed}"
    return cfg
