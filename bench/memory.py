"""One step of stage 2 for each --train_type: measured peak memory, the computed one, and time.

    python bench/memory.py                                # CPU: a decoder of width 256, bf16
    python bench/memory.py --size 7b --prompts 4 --group 8 --frames 50 --seconds 60 --tokens 512 \
        --train_types lora

The second is for one GPU: Qwen2.5-Omni-7B's shapes with random weights, 50 frames and 60 s of
sound, prompts of 8,000 tokens. (`full` fits with --size 3b.) The step is made of train.py's own
functions, the computed side is `run.memory`. A prompt's row fills --max_tokens exactly, so that
both sides hold the same number of tokens. Each --train_type runs in a process of its own. On a CPU
the peak is that of resident memory beyond what Python and its libraries hold.
"""

import json
import time

import torch
from common import (
    argument_parser,
    device,
    in_own_process,
    make_policy,
    peak_extra,
    read_arguments,
    report,
)
from step import NoLog, random_prompts

import train
from config import parse
from engine.families import parameter_counts
from groups import fresh_groups
from model import Features
from rollout import Sampling, generate
from run.learner import make_optimizer, optimizer_step, prepare
from run.memory import memory
from tas import group_advantages

TRAIN_TYPES = ("lora", "full")


def measure(args, train_type: str) -> dict:
    """Peak GB and seconds by phase of the second of two steps, and the parts of the computed
    side."""
    flags = {
        "train_type": train_type,
        "fresh": args.group,
        "replayed": 0,
        "beta": 0.1,
        "prompts_per_step": args.prompts,
        "max_completion_tokens": args.tokens,
    }
    cfg = parse([f"--{name}={value}" for name, value in flags.items()])
    results: dict = {}

    def work() -> None:
        # the whole policy is within what is measured
        policy = make_policy(args.size, torch.bfloat16)
        samples, builder = random_prompts(policy, args)
        prompts = builder(samples[: args.prompts])
        cfg.max_prompt_tokens = max(len(p.ids) for p in prompts)
        cfg.max_tokens = cfg.max_prompt_tokens + args.group * args.tokens
        policy.max_tokens = cfg.max_tokens
        policy.checkpoint_layers = True  # as on a GPU, and as run.memory counts
        policy.model.train()
        learner, reference = prepare(cfg, policy)
        optimizer = make_optimizer(cfg, learner, weight_decay=0.0)
        log = NoLog()

        # the first step makes the optimiser's state; the second one's times count
        for step in range(2):
            features = Features(policy)
            generator = torch.Generator(policy.device).manual_seed(step)
            sampling = Sampling(args.tokens, generator=generator)
            start = now()
            completions = generate(policy, prompts, features.of(prompts), args.group, sampling)
            results["rollout_s"] = now() - start

            # rewards that differ, so that every group is trained
            scores = []
            for group in completions:
                rewards = torch.linspace(0, 1, len(group)).tolist()
                scores.append([{"reward": reward, "accuracy": reward} for reward in rewards])
            groups = fresh_groups(prompts, completions, scores, step)
            for group in groups:
                group.advantages = group_advantages(group.rewards)  # (G,)
            start = now()
            train.accumulate_gradients(cfg, learner, reference, groups, features, log, step)
            results["update_s"] = now() - start
            start = now()
            optimizer_step(cfg, policy, learner, optimizer, step, 2)
            results["optimiser_s"] = now() - start

        results["prompt_tokens"] = cfg.max_prompt_tokens
        counts = parameter_counts(policy.config, cfg.lora_rank, cfg.train_towers)
        results["computed"] = memory(cfg, counts, policy.config.text_config, 1)

    results["peak_gb"] = peak_extra(work) / 1e3
    return results


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argument_parser(
        __doc__.split("\n")[0], prompts=1, group=4, tokens=16, frames=2, seconds=10
    )
    parser.add_argument("--train_types", nargs="+", choices=TRAIN_TYPES, default=TRAIN_TYPES)
    args = read_arguments(parser)
    if args.side:
        print(json.dumps(measure(args, args.side)))
        return

    rows = []
    for train_type in args.train_types:
        results = in_own_process(train_type)
        computed = results["computed"]
        held = sum(computed.values()) - computed["rollout, update or step"]
        row = {
            "train_type": train_type,
            "measured GB": results["peak_gb"],
            "computed GB": sum(computed.values()),
            "of it held always": held,
            "P": results["prompt_tokens"],
        }
        for phase in ("rollout_s", "update_s", "optimiser_s"):
            row[phase] = results[phase]
        rows.append(row)
    report(
        args,
        f"memory: {args.prompts} prompts, {args.group} completions of {args.tokens} tokens each, "
        f"{args.size}, {device()}",
        rows,
    )


if __name__ == "__main__":
    main()
