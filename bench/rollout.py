"""Rollout: our engine against transformers' generate, EOS off.

Both use the same weights, prompts, lengths and sampling.

    python bench/rollout.py                          # one CPU thread: P = 1024, G = 8, R = 64
    python bench/rollout.py --size 7b --prompt 8192 --tokens 256 --prompts 4

generate is called once per prompt with num_return_sequences = G, as the trainers built on it do. On
a GPU the roofline is the bytes that a decode step must read (weights, prefix of each prompt once,
suffixes) over the copy bandwidth measured in the same run.
"""

from functools import partial

import torch
from common import (
    arguments,
    copy_bandwidth,
    device,
    make_policy,
    report,
    text_prompt,
    timed,
    write_rows,
)

import rollout
from engine.cuda_graph import CUDA_GRAPH


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompts=1, prompt=1024, group=8, tokens=64)
    policy = make_policy(args.size)
    policy.model.eval()
    prompts = [text_prompt(policy, args.prompt, seed) for seed in range(args.prompts)]

    ours = partial(run_ours, policy, prompts, args)
    theirs = partial(run_transformers, policy, prompts, args)
    sides = {"ours": ours}
    if device().type == "cuda" and not args.ours_only:
        sides["ours, no CUDA graph"] = partial(without_graph, ours)
    if not args.ours_only:
        sides["generate, dynamic cache"] = partial(theirs, None)
        sides["generate, static cache"] = partial(theirs, "static")
    rows: list[dict] = []
    for name, run in sides.items():
        rows.append(measure(name, run, args))
        write_rows(args, rows)
    for row in rows:
        row["ours_is_faster_by"] = row["seconds"] / rows[0]["seconds"]

    extra = roofline(policy, args, rows) if device().type == "cuda" else {}
    title = (
        f"rollout: {args.prompts} prompts of {args.prompt} tokens, "
        f"{args.group} completions of {args.tokens} tokens each, {args.size}"
    )
    report(args, title, rows, extra)


def run_ours(policy, prompts, args, tokens):
    generator = torch.Generator(policy.device).manual_seed(0)
    sampling = rollout.Sampling(tokens, generator=generator)
    groups = rollout.generate(policy, prompts, [{}] * len(prompts), args.group, sampling)
    for completions in groups:
        assert all(len(completion.tokens) == tokens for completion in completions)


def without_graph(run, tokens):
    """On a GPU, with every decode step run as written."""
    CUDA_GRAPH["cuda"] = False
    run(tokens)
    CUDA_GRAPH["cuda"] = True


def run_transformers(policy, prompts, args, cache, tokens):
    for prompt in prompts:
        ids = prompt.ids[None].to(policy.device)  # (1, P)
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=args.group,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation=cache,
        )  # (G, P + R)
        assert out.shape == (args.group, args.prompt + tokens)


def measure(name: str, run, args) -> dict:
    """One side's row. run(tokens=R) samples R tokens; R = 1 takes about as long as the prefill."""
    everything = timed(partial(run, tokens=args.tokens), args.repeats)
    first_token = timed(partial(run, tokens=1), args.repeats)
    decode = everything["median"] - first_token["median"]
    return {
        "side": name,
        "seconds": everything["median"],
        "min": everything["min"],
        "tokens_per_s": args.prompts * args.group * args.tokens / everything["median"],
        "prefill_s": first_token["median"],
        "decode_ms_per_step": 1e3 * decode / max(1, args.tokens - 1),
    }


def roofline(policy, args, rows) -> dict[str, float]:
    """Add to each row the fraction of the bandwidth roofline that its side reaches.

    Returns the copy bandwidth of this GPU, in TB / s.
    """
    bandwidth = copy_bandwidth()

    # What a step reads: all weights, every prefix once, suffixes that are half full on average.
    text = policy.text.config
    weights = sum(p.nbytes for p in policy.text.layers.parameters()) + policy.head.weight.nbytes
    head_dim = policy.text.layers[0].self_attn.head_dim
    numbers_per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim
    cached_tokens = args.prompts * (args.prompt + args.group * args.tokens / 2)
    bytes_read = weights + 2 * numbers_per_token * cached_tokens  # 2 bytes a number: bf16

    for row in rows:
        row["roofline_share"] = bytes_read / bandwidth / (row["decode_ms_per_step"] / 1e3)
    return {"copy_bandwidth_TB_s": round(bandwidth / 1e12, 3)}


if __name__ == "__main__":
    main()
