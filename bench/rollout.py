"""Rollout: our engine against transformers' generate, on the same weights, prompts, lengths and sampling; EOS off.

    python bench/rollout.py                          # one CPU thread: P = 1024, G = 8, R = 64
    python bench/rollout.py --size 7b --prompt 8192 --tokens 256 --prompts 4

generate is called once per prompt with num_return_sequences = G, as the trainers built on it do. On a GPU the roofline is the bytes that a
decode step must read (weights, prefix of each prompt once, suffixes) over the copy bandwidth measured in the same run.
"""

import torch
from common import arguments, clock, device, make_policy, report, text_prompt, timed

import rollout


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompts=1, prompt=1024, group=8, tokens=64)
    policy = make_policy(args.size)
    prompts = [text_prompt(policy, args.prompt, seed) for seed in range(args.prompts)]
    made = args.prompts * args.group * args.tokens

    def ours(tokens=args.tokens, graph=True):
        generator = torch.Generator(policy.device).manual_seed(0)
        done = rollout.generate(
            policy,
            prompts,
            [{}] * len(prompts),
            args.group,
            tokens,
            generator=generator,
            cuda_graph=graph,
        )
        assert all(len(c.tokens) == tokens for group in done for c in group)

    def theirs(cache, tokens=args.tokens):
        for prompt in prompts:
            ids = prompt.ids[None].to(policy.device)
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
            )
            assert out.shape == (args.group, args.prompt + tokens)

    def row(name, run):
        whole, first = timed(run, args.repeats), timed(lambda: run(tokens=1), args.repeats)
        decode = whole["median"] - first["median"]
        return {
            "side": name,
            "seconds": whole["median"],
            "min": whole["min"],
            "tokens_per_s": made / whole["median"],
            "prefill_s": first["median"],
            "decode_ms_per_step": 1e3 * decode / max(1, args.tokens - 1),
        }

    policy.model.eval()
    rows = [row("ours", ours)]
    if device().type == "cuda":
        rows.append(row("ours, no CUDA graph", lambda **kw: ours(graph=False, **kw)))
    rows += [
        row("generate, dynamic cache", lambda **kw: theirs(None, **kw)),
        row("generate, static cache", lambda **kw: theirs("static", **kw)),
    ]
    for r in rows:
        r["ours_is_faster_by"] = r["seconds"] / rows[0]["seconds"]
    extra = roofline(policy, args, rows) if device().type == "cuda" else {}
    report(
        args,
        f"rollout: {args.prompts} prompts of {args.prompt} tokens, {args.group} completions of {args.tokens} tokens each, {args.size}",
        rows,
        extra,
    )


def roofline(policy, args, rows) -> dict[str, float]:
    """Adds each side's share of the bandwidth roofline to its row; returns the copy bandwidth (bytes / s) of this GPU."""
    x = torch.empty(2**30, dtype=torch.bfloat16, device="cuda")
    y = torch.empty_like(x)
    y.copy_(x)
    start = clock()
    for _ in range(10):
        y.copy_(x)
    bandwidth = 10 * 2 * x.nbytes / (clock() - start)
    text = policy.text.config
    weights = sum(p.nbytes for p in policy.text.layers.parameters()) + policy.head.weight.nbytes
    per_token = (
        2
        * text.num_hidden_layers
        * text.num_key_value_heads
        * policy.text.layers[0].self_attn.head_dim
        * 2
    )
    bytes_read = weights + per_token * args.prompts * (args.prompt + args.group * args.tokens / 2)
    for r in rows:
        r["roofline_share"] = bytes_read / bandwidth / (r["decode_ms_per_step"] / 1e3)
    return {"copy_bandwidth_TB_s": round(bandwidth / 1e12, 3)}


if __name__ == "__main__":
    main()
