"""One step of stage 2 by train.py's own functions for every --train_type of one process: peak memory against `train.py --estimate`, and time by phase.

    python bench/memory.py                                        # CPU: a decoder of width 256, bf16; minutes
    python bench/memory.py --size 7b --prompts 4 --group 8 --frames 50 --seconds 60 --tokens 512

The second is for one GPU: Qwen2.5-Omni-7B's shapes with random weights, 50 frames and 60 s of sound, P = 8,000.
A prompt's row fills --max_tokens exactly, so that estimate and step hold the same number of tokens. Each --train_type runs in a process of its own.
On a CPU the peak is that of resident memory beyond what Python and its libraries hold.
"""

import itertools
import json
import time

import torch
from common import arguments, device, in_own_process, make_policy, peak_extra, report
from step import random_prompts

import train
from config import parse
from engine.families import parameter_counts
from engine.optim import Trained
from model import bound_memory
from replay import ReplayBuffer
from run.memory import memory

SIDES = ("lora fp32", "lora bf16", "full fp32", "full bf16")


def measure(args, kind: str, optim_dtype: str) -> dict:
    """Peak GB and seconds by phase of the second of two steps, and the estimate's parts."""
    cfg = parse(
        [
            "--train_type",
            kind,
            "--optim_dtype",
            optim_dtype,
            "--fresh",
            str(args.group),
            "--replayed",
            "0",
            "--beta",
            "0.1",
            "--checkpoint_layers",
            "true",
            "--prompts_per_step",
            str(args.prompts),
            "--max_completion_tokens",
            str(args.tokens),
        ]
    )
    found: dict = {}

    def work() -> None:
        policy = make_policy(args.size, torch.bfloat16)
        samples, builder = random_prompts(policy, args)
        prompts = builder(samples[: args.prompts])
        cfg.max_prompt_tokens = max(len(p.ids) for p in prompts)
        cfg.max_tokens = cfg.max_prompt_tokens + args.group * args.tokens
        bound_memory(cfg, policy)
        policy.checkpoint_layers = cfg.checkpoint_layers
        policy.model.train()
        learner, reference = train.prepare(cfg, policy)
        trained = Trained(*learner.named_trained(), 1e-6, optim_dtype=optim_dtype, weight_decay=0.0)
        for step in range(2):
            marks = [now()]
            groups, _ = train.rollout_step(
                cfg,
                policy,
                ReplayBuffer(),
                prompts,
                step,
                torch.Generator(policy.device).manual_seed(step),
                seen=(seen := {}),
            )
            for g in groups:  # random completions earn alike: keep every group in the update
                g.advantages = torch.linspace(-1, 1, len(g.tokens))
            marks.append(now())
            train.update_step(cfg, policy, reference, groups, step, seen, learner)
            marks.append(now())
            train.take_step(cfg, policy, learner, trained, step, 2)
            marks.append(now())
        found.update(
            zip(
                ("rollout_s", "update_s", "optimiser_s"),
                (b - a for a, b in itertools.pairwise(marks)),
                strict=True,
            )
        )
        found["prompt_tokens"] = cfg.max_prompt_tokens
        counts = parameter_counts(policy.config, cfg.lora_rank, cfg.train_towers)
        found["estimate"] = memory(cfg, counts, policy.config.text_config, 1)

    found["peak_gb"] = peak_extra(work) / 1e3
    return found


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompts=1, group=4, tokens=16, frames=2, seconds=10)
    if args.side:
        print(json.dumps(measure(args, *args.side.split())))
        return
    rows = []
    for side in SIDES:
        found = in_own_process(side)
        parts = found["estimate"]
        rows.append(
            {
                "train_type, optimiser": side,
                "measured GB": found["peak_gb"],
                "estimated GB": sum(parts.values()),
                "of it states": sum(parts.values()) - parts["rollout or update"],
                "P": found["prompt_tokens"],
                **{name: found[name] for name in ("rollout_s", "update_s", "optimiser_s")},
            }
        )
    report(
        args,
        f"memory: {args.prompts} prompts, {args.group} completions of {args.tokens} tokens each, {args.size}, {device()}",
        rows,
    )


if __name__ == "__main__":
    main()
