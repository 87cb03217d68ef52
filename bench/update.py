"""Update: log-probs and gradients of one group by our packed row, against G repeated rows with full fp32 logits, on the same tokens and weights.

    python bench/update.py                                         # one CPU thread: P = 1024, G = 8, R = 64
    python bench/update.py --size 7b --prompt 8192 --tokens 512

Time is that of forward and backward of an importance-sampled loss; peak memory is what they need beyond weights and gradients, each side in a
process of its own. On a GPU both sides checkpoint each layer, and MFU counts the floating-point operations of the packed form for ours, of the
repeated form for theirs (6 per weight and token, 12 per head width and seen key), over 790 TFLOP/s.
"""

import json

import torch
from common import (
    arguments,
    device,
    in_own_process,
    make_policy,
    peak_extra,
    report,
    text_prompt,
    timed,
)

from model import Features

SIDES = {"ours": "packed row, chunked logits", "theirs": "repeated rows, full fp32 logits"}


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompt=1024, group=8, tokens=64)
    if args.side:
        print(json.dumps(measure(args)))
        return
    rows = [{"side": name} | in_own_process(side) for side, name in SIDES.items()]
    logps, grads = (
        [torch.tensor(row.pop(name)) for row in rows] for name in ("logps", "gradients")
    )
    for row in rows:
        row["ours_is_faster_by"], row["memory_ratio"] = (
            row["seconds"] / rows[0]["seconds"],
            row["peak_extra_MB"] / rows[0]["peak_extra_MB"],
        )
    bound = args.group * (args.prompt + args.tokens) / (args.prompt + args.group * args.tokens)
    report(
        args,
        f"update: 1 prompt of {args.prompt} tokens, {args.group} completions of {args.tokens} tokens, {args.size}",
        rows,
        {
            "token_bound": round(bound, 2),
            "largest_difference_of_logps": f"{(logps[0] - logps[1]).abs().max():.1e}",
            "relative_difference_of_gradients": f"{(grads[0] - grads[1]).norm() / grads[1].norm():.1e}",
        },
    )


def measure(args) -> dict:
    """One side: seconds, peak memory, and what shows that the sides agree: all log-probs, and a sample of the gradients."""
    policy = make_policy(args.size)
    policy.model.train()
    policy.freeze_towers()
    prompt = text_prompt(policy, args.prompt)
    completions = torch.randint(
        0, 500, (args.group, args.tokens), generator=torch.Generator().manual_seed(1)
    )
    advantages = torch.linspace(-1, 1, args.group, device=policy.device)[:, None]
    params = [p for p in policy.model.parameters() if p.requires_grad]
    gpu = device().type == "cuda"
    policy.checkpoint_layers = gpu
    if gpu and args.side == "theirs":
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})

    def ours():
        return policy.completion_logps(
            [prompt], Features(policy).of([prompt]), [completions.tolist()]
        )[0]

    def theirs():
        ids = torch.cat([prompt.ids.expand(args.group, -1), completions], dim=1).to(
            policy.device
        )  # (G, P + R)
        logits = policy.model(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits.float()  # (G, P + R, V)
        logp = logits.masked_fill(policy.banned, float("-inf")).log_softmax(-1)
        return logp[:, args.prompt - 1 : -1].gather(-1, ids[:, args.prompt :, None]).squeeze(-1)

    side = {"ours": ours, "theirs": theirs}[args.side]

    def work():
        logp = side()  # (G, R)
        ratio = (logp - logp.detach()).exp()
        (-(ratio * advantages).mean()).backward()
        return logp

    for p in params:
        p.grad = torch.zeros_like(p)
    peak = peak_extra(work)
    sample = torch.cat([p.grad.flatten()[:: max(1, p.numel() // 20)] for p in params]).float()
    seconds = timed(work, args.repeats)
    with torch.no_grad():
        logps = side()
    row = {
        "seconds": seconds["median"],
        "min": seconds["min"],
        "peak_extra_MB": peak,
        "logps": logps.flatten().tolist(),
        "gradients": sample.tolist(),
    }
    if gpu:
        text, p, g, r = policy.text.config, args.prompt, args.group, args.tokens
        body, head = (
            sum(x.numel() for x in policy.text.layers.parameters()),
            policy.head.weight.numel(),
        )
        packed = args.side == "ours"
        seen = p * p / 2 + g * (p * r + r * r / 2) if packed else g * (p + r) ** 2 / 2
        work_done = 6 * body * (p + g * r if packed else g * (p + r)) + 6 * head * (
            g * r if packed else g * (p + r)
        )
        work_done += 12 * text.num_hidden_layers * text.hidden_size * seen
        row["MFU"] = work_done / seconds["median"] / 790e12
    return row


if __name__ == "__main__":
    main()
