"""run/memory.py: memory per GPU of a training run, computed from the model's config alone.

    python -m run.memory --model Qwen/Qwen2.5-Omni-7B
    python -m run.memory --model Qwen/Qwen2.5-Omni-7B --max_tokens 8192

takes every flag of train.py and prints a table: GB per GPU for --train_type lora and full on 1, 2,
4 and 8 GPUs. No weights are loaded.

Bytes per weight, in bf16 training (engine/optim.py says why):

                        every weight    a trained weight
                        (bf16)          itself in fp32    gradient    fp32 master    two moments
    lora (adapters)     2                                 2           4              8
    full, one GPU       2                                 2           4              8
    full, n GPUs        2               4 / n             4 / n                      8 / n

With full on n GPUs the 2 bytes are the whole policy, which samples. Towers are not sharded: when
they are trained, each GPU holds for them what one GPU does. A KL term (--beta) needs the starting
weights, too: with lora they are there, else it is 2 more bytes per weight of the decoder, over n
GPUs 2 / n.
"""

import sys
from dataclasses import replace

from config import Config, parse
from engine.families import (
    DEFAULT_MODEL,
    has_experts,
    head_sizes,
    load_config,
    parameter_counts,
)
from engine.logprobs import LOGIT_CHUNK
from engine.optim import BUCKET
from rollout import MAX_CACHE_TOKENS
from run.session import ends_in_a_sentence


def memory(cfg: Config, counts: dict[str, int], text, world: int) -> dict[str, float]:
    """GB per GPU of each part of a run on `world` GPUs, by cfg.train_type.

    counts: weights by part (families.parameter_counts). text: the decoder's config. What is held
    always is exact. Of what comes and goes the largest counts: the rollout, the update, or the
    optimiser's step. Activations are counted by their tensors. Left out: gaps of the allocator,
    CUDA's own 0.5 to 1 GB, and the activations of the towers.
    """
    # Rollout, update and step come one after the other, and each frees what it took.
    held = held_bytes(cfg, counts, text, world)
    passing = max(
        rollout_bytes(cfg, text, world),
        update_bytes(cfg, text),
        step_bytes(cfg, counts, world),
    )
    return {name: n / 1e9 for name, n in (held | {"rollout, update or step": passing}).items()}


def held_bytes(cfg: Config, counts: dict[str, int], text, world: int) -> dict[str, float]:
    """Weights, gradients, optimiser state and reference, in bytes."""
    has_reference = bool(cfg.beta and cfg.stage)  # stage 0 has no KL term

    # bf16 weights are always there: they sample
    decoder = counts["decoder"] + counts["head"]
    weights = 2 * (decoder + counts["towers"])

    # LoRA: adapters are bf16 weights like others, replicated, and AdamW steps fp32 copies of them
    if cfg.train_type == "lora":
        adapters = counts["adapters"]
        return {
            "weights": weights + 2 * adapters,
            "gradients": 2 * adapters,
            "optimiser": (4 + 8) * adapters,
            "reference": 0,
        }

    # full on one GPU: AdamW steps fp32 copies of bf16 weights
    towers = counts["towers"] if cfg.train_towers else 0
    if world == 1:
        return {
            "weights": weights,
            "gradients": 2 * (decoder + towers),
            "optimiser": (4 + 8) * (decoder + towers),
            "reference": 2 * decoder if has_reference else 0,
        }

    # Full on several: the learner's fp32 shards are their own masters; trained towers are bf16 on
    # every GPU. Gathered while they are computed: a layer and the next one, embedding and head.
    gathered = 2 * (2 * counts["layer"] + 2 * text.vocab_size * text.hidden_size)
    return {
        "weights": weights + 4 * decoder / world + gathered,
        "gradients": 4 * decoder / world + 2 * towers,
        "optimiser": 8 * decoder / world + (4 + 8) * towers,
        "reference": 2 * decoder / world if has_reference else 0,
    }


def rollout_bytes(cfg: Config, text, world: int) -> int:
    """Keys and values of prompts and completions, at their longest."""
    _, kv_heads, width = head_sizes(text)
    prompts = -(-cfg.prompts_per_step // world)  # rounded up
    tokens = prompts * (cfg.max_prompt_tokens + cfg.fresh * cfg.max_completion_tokens)
    per_token = 2 * 2 * text.num_hidden_layers * kv_heads * width  # bf16; keys and values
    return min(MAX_CACHE_TOKENS, tokens) * per_token


def update_bytes(cfg: Config, text) -> int:
    """Activations of a micro-batch of --max_tokens.

    Layers are checkpointed, as they are on a GPU: each leaves its input (bf16), and one at a time
    has all of its activations and their gradients.
    """
    heads, kv_heads, width = head_sizes(text)
    queries = heads * width
    keys = kv_heads * width
    hidden = text.hidden_size

    # MLP: gate, up, product
    mlp = 3 * text.intermediate_size
    if has_experts(text):
        # of each expert of a token, with copies of its input and, in three steps, of its output
        mlp = text.num_experts_per_tok * (3 * text.moe_intermediate_size + 4 * hidden)

    # inputs of the layer, attention and MLP and their norms; q, its output, k, v; the MLP
    layer = 2 * cfg.max_tokens * (4 * hidden + 3 * queries + 4 * keys + mlp)

    # the inputs of all layers; of one layer its activations and as many gradients; the log-probs
    inputs = text.num_hidden_layers * 2 * cfg.max_tokens * hidden
    logits = 2 * 4 * LOGIT_CHUNK * text.vocab_size  # fp32, and their gradient
    return inputs + 2 * layer + logits


def step_bytes(cfg: Config, counts: dict[str, int], world: int) -> int:
    """What the optimiser's step holds besides: gradients of masters in fp32 instead of bf16, and
    the bucket of the all-reduce of what is not sharded."""
    decoder = counts["decoder"] + counts["head"]
    towers = counts["towers"] if cfg.train_towers else 0
    if cfg.train_type == "lora":
        bucket = 4 * min(BUCKET, counts["adapters"]) if world > 1 else 0
        return 2 * counts["adapters"] + bucket
    if world == 1:
        return 2 * (decoder + towers)
    return 2 * towers + 4 * min(BUCKET, towers)


def main(argv: list[str]) -> None:
    """Print `memory` for every --train_type on 1, 2, 4 and 8 GPUs."""
    # what the numbers are of
    cfg = parse(argv)
    name = cfg.model or DEFAULT_MODEL
    config = load_config(name)
    counts = parameter_counts(config, cfg.lora_rank, cfg.train_towers)
    total = counts["decoder"] + counts["head"] + counts["towers"]
    print(
        f"{name}: {total / 1e9:.2f} billion weights, {counts['towers'] / 1e9:.2f} of them in the "
        f"towers; LoRA of rank {cfg.lora_rank}: {counts['adapters'] / 1e6:.1f} million.\n"
        f"GB per GPU, computed, not measured: bf16, --beta {cfg.beta}, --max_tokens "
        f"{cfg.max_tokens:,}, {cfg.prompts_per_step} prompts of at most "
        f"{cfg.max_prompt_tokens:,} tokens x {cfg.fresh} completions of at most "
        f"{cfg.max_completion_tokens:,}"
    )

    # one line per --train_type and number of GPUs
    header = None
    for train_type in ("lora", "full"):
        for world in (1, 2, 4, 8):
            parts = memory(replace(cfg, train_type=train_type), counts, config.text_config, world)
            parts["sum"] = sum(parts.values())
            if header is None:
                header = ["train_type", "GPUs", *parts]
                print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
            cells = [train_type, str(world), *(f"{gb:.1f}" for gb in parts.values())]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
