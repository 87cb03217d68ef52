"""run/memory.py: memory per GPU, computed."""

import itertools
from dataclasses import replace

from config import Config
from engine.families import DEFAULT_MODEL, load_config, parameter_counts
from engine.logprobs import LOGIT_CHUNK
from engine.optim import BUCKET


def memory(cfg: Config, counts: dict[str, int], text, world: int) -> dict[str, float]:
    """GB per GPU of each part of a bf16 run on `world` GPUs, by --train_type: what is held always, and the larger of what the rollout and the update hold.

    counts: weights by part (model.parameter_counts); text: the decoder's config. Exact for weights, gradients and optimiser state; activations are counted
    by their tensors, and leave out the allocator's gaps, CUDA's own 0.5-1 GB and the towers' working set.
    """
    decoder = counts["decoder"] + counts["head"]
    whole = decoder + counts["towers"]
    learnt = (
        counts["adapters"] if cfg.train_type == "lora" else whole if cfg.train_towers else decoder
    )
    state = {"fp32": 12, "bf16": 4}[
        cfg.optim_dtype
    ] / world  # master and two moments, or two moments
    split = world if cfg.train_type == "fsdp" else 1
    out = {
        "weights": 2 * (whole + (counts["adapters"] if cfg.train_type == "lora" else 0)),
        "gradients": 2 * learnt / split,
        "optimiser": state * learnt,
        "reference": 2 * decoder / split if cfg.beta and cfg.train_type != "lora" else 0,
    }
    if cfg.train_type == "fsdp":  # shards, two gathered layers, embedding and head
        out["weights"] += 2 * decoder / split + 2 * (
            2 * counts["layer"] + 2 * text.vocab_size * text.hidden_size
        )
    out["messages"] = 4 * min(BUCKET, learnt) if world > 1 else 0
    d, heads, kv = (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        text.num_attention_heads,
        text.num_key_value_heads,
    )
    cached = min(
        cfg.max_cache_tokens,
        -(-cfg.prompts_per_step // world)
        * (cfg.max_prompt_tokens + cfg.fresh * cfg.max_completion_tokens),
    )
    rollout = cached * 2 * text.num_hidden_layers * kv * d * 2
    tokens = cfg.max_tokens
    one_layer = (
        2
        * tokens
        * (4 * text.hidden_size + 3 * heads * d + 4 * kv * d + 3 * text.intermediate_size)
    )  # inputs, norms, q, k, v, MLP
    kept = text.num_hidden_layers * (
        2 * tokens * text.hidden_size if cfg.checkpoint_layers else one_layer
    )
    update = (
        kept + 2 * one_layer + 2 * 4 * LOGIT_CHUNK * text.vocab_size
    )  # a layer's gradients beside it; logits and theirs
    out["rollout or update"] = max(rollout, update)
    return {name: n / 1e9 for name, n in out.items()}


def estimate(cfg: Config) -> None:
    """Print `memory` for every --train_type on 1, 2, 4 and 8 GPUs."""
    config = load_config(cfg.model or DEFAULT_MODEL)
    counts = parameter_counts(config, cfg.lora_rank, cfg.train_towers)
    whole = counts["decoder"] + counts["head"] + counts["towers"]
    print(
        f"{cfg.model or DEFAULT_MODEL}: {whole / 1e9:.2f} billion weights, {counts['towers'] / 1e9:.2f} of them in the towers; "
        f"LoRA of rank {cfg.lora_rank}: {counts['adapters'] / 1e6:.1f} million.\nGB per GPU, computed, not measured: bf16, --optim_dtype {cfg.optim_dtype}, "
        f"--beta {cfg.beta}, --max_tokens {cfg.max_tokens:,}, {cfg.prompts_per_step} prompts of at most {cfg.max_prompt_tokens:,} tokens x {cfg.fresh} "
        f"completions of at most {cfg.max_completion_tokens:,}"
    )
    table = []
    for kind, world in itertools.product(("lora", "full", "fsdp"), (1, 2, 4, 8)):
        if (kind, world) != ("fsdp", 1):
            found = memory(
                replace(cfg, train_type=kind, checkpoint_layers=True),
                counts,
                config.text_config,
                world,
            )
            table.append(
                {
                    "train_type": kind,
                    "GPUs": world,
                    **{k: f"{v:.1f}" for k, v in found.items()},
                    "sum": f"{sum(found.values()):.1f}",
                }
            )
    print("| " + " | ".join(table[0]) + " |\n|" + "---|" * len(table[0]))
    print("\n".join("| " + " | ".join(str(v) for v in row.values()) + " |" for row in table))
