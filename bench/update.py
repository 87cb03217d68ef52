"""Update: log-probs and gradients of one group by our packed row, against repeated rows.

    python bench/update.py                       # one CPU thread: P = 1024, G = 8, R = 64
    python bench/update.py --size 7b --prompt 8192 --tokens 512

Theirs are G rows [prompt | completion] with full fp32 logits, on the same tokens and weights. Time
is that of forward and backward of an importance-sampled loss; peak memory is what they need beyond
weights and gradients, each side in a process of its own.

On a GPU both sides checkpoint each layer, and MFU is counted over 790 TFLOP/s: the floating-point
operations of the packed form for ours, of the repeated form for theirs (engine/flops.py).
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

from engine.flops import update_flops
from model import Features

SIDES = {"ours": "packed row, chunked logits", "theirs": "repeated rows, full fp32 logits"}
# Operations per second that MFU is a fraction of: what an H100 or H200 reached in a product of two
# large matrices. (speed_mfu of a run's log is of the data sheet's 989e12.)
PEAK_FLOPS = 790e12


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompt=1024, group=8, tokens=64)
    if args.side:
        print(json.dumps(measure(args)))
        return

    rows = []
    logps = []
    gradients = []
    for side, name in SIDES.items():
        if side == "theirs" and args.ours_only:
            continue
        row = {"side": name} | in_own_process(side)
        logps.append(torch.tensor(row.pop("logps")))
        gradients.append(torch.tensor(row.pop("gradients")))
        rows.append(row)
    ours = rows[0]
    for row in rows:
        row["ours_is_faster_by"] = row["seconds"] / ours["seconds"]
        row["memory_ratio"] = row["peak_extra_MB"] / ours["peak_extra_MB"]

    p, g, r = args.prompt, args.group, args.tokens
    facts: dict = {"token_bound": round(g * (p + r) / (p + g * r), 2)}
    if not args.ours_only:
        logp_difference = (logps[0] - logps[1]).abs().max()
        grad_difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
        facts["largest_difference_of_logps"] = f"{logp_difference:.1e}"
        facts["relative_difference_of_gradients"] = f"{grad_difference:.1e}"
    title = f"update: 1 prompt of {p} tokens, {g} completions of {r} tokens, {args.size}"
    report(args, title, rows, facts)


def measure(args) -> dict:
    """One side: seconds, peak memory, and what shows that the sides agree: all log-probs, and a
    sample of the gradients."""
    policy = make_policy(args.size)
    policy.model.train()
    policy.freeze_towers()
    prompt = text_prompt(policy, args.prompt)
    generator = torch.Generator().manual_seed(1)
    completions = torch.randint(0, 500, (args.group, args.tokens), generator=generator)  # (G, R)
    advantages = torch.linspace(-1, 1, args.group, device=policy.device)[:, None]  # (G, 1)
    on_gpu = device().type == "cuda"
    if on_gpu and args.side == "theirs":
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})

    def logps():
        if args.side == "ours":
            return packed_logps(policy, prompt, completions)
        return repeated_logps(policy, prompt, completions)

    def work():
        logp = logps()  # (G, R)
        ratio = (logp - logp.detach()).exp()  # (G, R)
        (-(ratio * advantages).mean()).backward()

    # gradients exist before the measurement, so that they do not count as extra memory
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    peak = peak_extra(work)
    sample = [p.grad.flatten()[:: max(1, p.numel() // 20)] for p in parameters]
    seconds = timed(work, args.repeats)

    with torch.no_grad():
        final_logps = logps()
    row = {
        "seconds": seconds["median"],
        "min": seconds["min"],
        "peak_extra_MB": peak,
        "logps": final_logps.flatten().tolist(),
        "gradients": torch.cat(sample).float().tolist(),
    }
    if on_gpu:
        row["MFU"] = operations(policy, args) / seconds["median"] / PEAK_FLOPS
    return row


def packed_logps(policy, prompt, completions: torch.Tensor) -> torch.Tensor:
    """(G, R) by one packed row."""
    features = Features(policy).of([prompt])
    logp, _ = policy.completion_logps([prompt], features, [completions.tolist()])
    return logp


def repeated_logps(policy, prompt, completions: torch.Tensor) -> torch.Tensor:
    """(G, R) by transformers' forward over G rows [prompt | completion]."""
    p = len(prompt.ids)
    prompts = prompt.ids.expand(len(completions), -1)  # (G, P)
    ids = torch.cat([prompts, completions], dim=1).to(policy.device)  # (G, P + R)
    output = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    logits = output.logits.float().masked_fill(policy.banned, float("-inf"))  # (G, P + R, V)
    logp = logits.log_softmax(-1)[:, p - 1 : -1]  # (G, R, V)
    return logp.gather(-1, ids[:, p:, None]).squeeze(-1)


def operations(policy, args) -> float:
    """Floating-point operations of one forward and backward pass of this side."""
    p, g, r = args.prompt, args.group, args.tokens
    if args.side == "ours":
        return update_flops(policy.text, policy.head, [p], [[r] * g])
    # theirs: every prompt token of every row, through the head too
    return update_flops(policy.text, policy.head, [0] * g, [[p + r]] * g)


if __name__ == "__main__":
    main()
