"""Are results on a GPU those of a CPU? Kernels, log-probs, CUDA graph and bf16, one row each.

    python bench/agreement.py              # the bundled model
    python bench/agreement.py --size 7b    # and the drift of bf16 at Qwen2.5-Omni-7B's shapes

Attention and log-probs are compared with torch's own in fp64 on the CPU: relative errors
||ours - theirs|| / ||theirs||. The bundled model is compared with itself on the CPU in fp32, and a
decode step that is replayed as a CUDA graph with one that runs as written. Drift is the difference
between the log-probs that the sampler records and those of the trainer. A row whose error is above
what is allowed makes the program fail. Without a GPU all of it runs on the CPU, but for the graph.
"""

import itertools
import sys
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from common import arguments, device, make_policy, report, text_prompt
from step import random_prompts
from torch import Tensor

from engine.attention import Pieces, attend, attend_backward, attend_pieces
from engine.cuda_graph import CUDA_GRAPH
from engine.families import DEFAULT_MODEL, varlen_attention
from engine.logprobs import TokenLogprobs
from engine.packed_rows import PackedAttention, packed_layouts
from model import Features, Policy, load_policy
from rollout import Sampling, generate

HALF = torch.bfloat16
BF16_ERROR = 1e-2  # relative, of sums of products of bf16 numbers
FP32_ERROR = 1e-4
WIDTH = 128  # of a head, as in the 7B


def row(check: str, error: float, allowed: float) -> dict:
    return {"check": check, "error": error, "allowed": allowed, "ok": str(error <= allowed)}


def value_and_gradient_rows(
    name: str, out: Tensor, theirs: Tensor, grads: tuple, their_grads: tuple, allowed: float
) -> list[dict]:
    """A row for an output, within `allowed`, and one for the worst of its gradients."""
    error = max(relative_error(a, b) for a, b in zip(grads, their_grads, strict=True))
    return [
        row(name, relative_error(out, theirs), allowed),
        row(f"{name}: gradients", error, BF16_ERROR),
    ]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs||, in fp64 on the CPU."""
    ours = ours.detach().double().cpu()
    theirs = theirs.detach().double().cpu()
    return ((ours - theirs).norm() / theirs.norm()).item()


def random_half(*shape: int) -> Tensor:
    """Random bf16 numbers, on the CPU."""
    return torch.randn(*shape).to(HALF)


def in_fp64(x: Tensor) -> Tensor:
    """The same numbers in fp64, as a leaf."""
    return x.double().requires_grad_()


# ------------------------------------------------------------------------------ attention
def attention_rows(name: str, queries: int, keys: int, causal: bool) -> list[dict]:
    """Outputs, log-sum-exps and gradients of 28 query heads over 4 key-value heads."""
    q = random_half(1, 28, queries, WIDTH)
    k = random_half(1, 4, keys, WIDTH)
    v = random_half(1, 4, keys, WIDTH)
    grad = random_half(1, 28, queries, WIDTH)

    leaves = [in_fp64(x) for x in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*leaves, is_causal=causal, enable_gqa=True)
    their_grads = torch.autograd.grad(theirs, leaves, grad.double())

    q, k, v, grad = (x.to(device()) for x in (q, k, v, grad))
    out, lse = attend(q, k, v, causal)
    grads = attend_backward(grad, q, k, v, out, lse, causal)
    return value_and_gradient_rows(
        f"attention, {name}", out, theirs, grads, their_grads, BF16_ERROR
    )


def suffix_rows() -> list[dict]:
    """Attention to suffixes of which slots are empty, masked by a bias."""
    n, keys, used = 6, 256, 201
    q = random_half(n, 4, 7, WIDTH)
    k = random_half(n, 4, keys, WIDTH)
    v = random_half(n, 4, keys, WIDTH)
    bias = torch.zeros(1, 1, 1, keys)
    bias[..., used:] = float("-inf")

    scores = q.double() @ k.double().mT / WIDTH**0.5 + bias.double()  # (N, 4, 7, keys)
    theirs = scores.softmax(-1) @ v.double()
    out, lse = attend(*(x.to(device()) for x in (q, k, v)), bias=bias.to(device(), HALF))
    return [
        row("attention with a bias", relative_error(out, theirs), BF16_ERROR),
        row("its log-sum-exps", relative_error(lse, scores.logsumexp(-1)), FP32_ERROR),
    ]


def piece_rows() -> list[dict]:
    """A decode step's attention to pieces of a stream of keys, of which some are not used."""
    counts, keys = [5, 256, 77], [0, 5, 300]
    queries = [0, 7, 35, 49]  # 7, 28 and 14 of them
    q = random_half(queries[-1], 4, WIDTH)
    k = random_half(400, 4, WIDTH)
    v = random_half(400, 4, WIDTH)
    theirs = []
    for i, count in enumerate(counts):
        asked = q[queries[i] : queries[i + 1]].double()  # (queries, 4, d)
        part = slice(keys[i], keys[i] + count)
        scores = torch.einsum("qhd,khd->hqk", asked, k[part].double()) / WIDTH**0.5
        theirs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[part].double()))

    def int32(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=device())

    pieces = Pieces(int32(queries), int32([*keys, 0]), int32(counts), 28, max(counts))
    out, _ = attend_pieces(*(x.to(device()) for x in (q, k, v)), pieces)
    return [row("attention of pieces", relative_error(out, torch.cat(theirs)), BF16_ERROR)]


def tower_rows() -> list[dict]:
    """The towers' attention to windows of 64, 3 and 16 patches, 16 heads of width 80; on a GPU."""
    if device().type != "cuda":
        return []
    starts = [0, 64, 67, 83]
    q, k, v, grad = (random_half(1, 16, starts[-1], 80) for _ in range(4))
    leaves = [in_fp64(x) for x in (q, k, v)]
    parts = []
    for start, end in itertools.pairwise(starts):
        parts.append(F.scaled_dot_product_attention(*(x[:, :, start:end] for x in leaves)))
    theirs = torch.cat(parts, dim=2)  # (1, H, T, d)
    their_grads = torch.autograd.grad(theirs, leaves, grad.double())

    ours = [x.to(device()).requires_grad_() for x in (q, k, v)]
    lengths = torch.tensor(starts, device=device())
    out, _ = varlen_attention(None, *ours, None, 80**-0.5, lengths, 64)  # (1, T, H, d)
    out = out.transpose(1, 2)
    grads = torch.autograd.grad(out, ours, grad.to(device()))
    return value_and_gradient_rows("towers' attention", out, theirs, grads, their_grads, BF16_ERROR)


def packed_rows() -> list[dict]:
    """A packed row [prompt | 3 completions] against one row with a mask."""
    prompt, lengths = 100, [20, 33, 1]
    total = prompt + sum(lengths)
    q = random_half(total, 28, WIDTH)
    k = random_half(total, 4, WIDTH)
    v = random_half(total, 4, WIDTH)
    grad = random_half(total, 28, WIDTH)

    # each completion sees the prompt and itself
    part = torch.cat([torch.full((n,), i) for i, n in enumerate([prompt, *lengths])])  # (T,)
    seen = (part[:, None] == part[None]) | (part[None] == 0)  # (T, T)
    seen = seen & torch.ones(total, total, dtype=torch.bool).tril()
    leaves = [in_fp64(x) for x in (q, k, v)]
    batch = [x.transpose(0, 1)[None] for x in leaves]  # (1, heads, T, d)
    theirs = F.scaled_dot_product_attention(*batch, attn_mask=seen, enable_gqa=True)
    theirs = theirs[0].transpose(0, 1)  # (T, H, d)
    their_grads = torch.autograd.grad(theirs, leaves, grad.double())

    layout = packed_layouts([prompt], [lengths], device()).all_but_last_layer
    ours = [x.to(device()).requires_grad_() for x in (q, k, v)]
    out = PackedAttention.apply(*ours, layout)
    grads = torch.autograd.grad(out, ours, grad.to(device()))
    return value_and_gradient_rows("packed row", out, theirs, grads, their_grads, BF16_ERROR)


# ------------------------------------------------------------------------------ log-probs
def logprob_rows() -> list[dict]:
    """Chunked log-probs of 1,500 tokens over 5,000 ids against log_softmax."""
    hidden = random_half(1500, 512)
    weight = random_half(5000, 512) / 16
    targets = torch.randint(100, 5000, (1500,))
    banned = torch.arange(5000) < 100  # (V,)
    grad = torch.randn(1500)

    leaves = [in_fp64(hidden), in_fp64(weight)]
    logits = (leaves[0] @ leaves[1].T).masked_fill(banned, float("-inf"))  # (tokens, V)
    theirs = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    their_grads = torch.autograd.grad(theirs, leaves, grad.double())

    ours = [x.to(device()).requires_grad_() for x in (hidden, weight)]
    logp, _ = TokenLogprobs.apply(*ours, targets.to(device()), banned.to(device()), 1.0)
    grads = torch.autograd.grad(logp, ours, grad.to(device()))
    return value_and_gradient_rows("log-probs", logp, theirs, grads, their_grads, FP32_ERROR)


# ------------------------------------------------------------------------------ the model
def media_prompts(policy: Policy) -> list:
    """Two prompts with random pictures and sound."""
    samples, build = random_prompts(policy, SimpleNamespace(prompts=1, frames=2, seconds=2))
    return build(samples)


def logps_and_gradient(policy: Policy, prompts: list, ids: list) -> tuple[Tensor, Tensor]:
    """Packed log-probs, and the gradients of their sum, in one vector."""
    policy.model.zero_grad()
    policy.freeze_towers()
    logp, _ = policy.completion_logps(prompts, Features(policy).of(prompts), ids)  # (N, R)
    logp.sum().backward()
    grads = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return logp, torch.cat(grads)


def sample(policy: Policy, prompts: list, temperature: float, tokens: int = 48) -> list:
    """The completions of a fixed seed, four of each prompt, in one list."""
    generator = torch.Generator(policy.device).manual_seed(3)
    with torch.no_grad():
        features = Features(policy).of(prompts)
    groups = generate(policy, prompts, features, 4, Sampling(tokens, temperature, generator))
    return [completion for group in groups for completion in group]


def different_tokens(some: list, others: list) -> float:
    """The fraction of completions that are not the same."""
    pairs = zip(some, others, strict=True)
    return sum(a.tokens != b.tokens for a, b in pairs) / len(some)


def model_rows() -> list[dict]:
    """The bundled model in fp32, on this device and on the CPU."""
    here = load_policy(DEFAULT_MODEL, device())
    cpu = load_policy(DEFAULT_MODEL)
    prompts = media_prompts(cpu)
    greedy = sample(cpu, prompts, 0)
    ids = [[c.tokens for c in greedy[:4]], [c.tokens for c in greedy[4:]]]
    our_logps, our_gradient = logps_and_gradient(here, prompts, ids)
    cpu_logps, cpu_gradient = logps_and_gradient(cpu, prompts, ids)
    drift = (our_logps.detach().cpu() - cpu_logps.detach()).abs().max().item()
    gradient = relative_error(our_gradient, cpu_gradient)
    return [
        row("model in fp32: greatest difference of log-probs", drift, 1e-3),
        row("model in fp32: gradients", gradient, 1e-3),
        row(
            "model in fp32: greedy completions that differ",
            different_tokens(sample(here, prompts, 0), greedy),
            0.0,
        ),
    ]


def graph_rows(policy: Policy, prompts: list, name: str) -> list[dict]:
    """A replayed decode step against one that runs as written, same seed."""
    if device().type != "cuda":
        return []
    replayed = sample(policy, prompts, 1.0, tokens=300)
    CUDA_GRAPH["cuda"] = False
    written = sample(policy, prompts, 1.0, tokens=300)
    CUDA_GRAPH["cuda"] = True
    different = different_tokens(replayed, written)
    return [row(f"CUDA graph, {name}: completions that differ", different, 0.0)]


def drift_rows(policy: Policy, prompts: list, name: str) -> list[dict]:
    """The log-probs that sampling recorded against those of training."""
    completions = sample(policy, prompts, 1.0)
    ids = [[c.tokens for c in completions[i : i + 4]] for i in range(0, len(completions), 4)]
    with torch.no_grad():
        logp, mask = policy.completion_logps(prompts, Features(policy).of(prompts), ids)
    recorded = torch.cat([torch.tensor(c.logps) for c in completions])  # (tokens,)
    difference = logp[mask].cpu() - recorded  # (tokens,)
    ratio = difference.exp()
    sample_size = ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())
    return [
        row(f"drift, {name}: mean |difference|", difference.abs().mean().item(), 0.06),
        row(f"drift, {name}: largest", difference.abs().max().item(), 0.5),
        row(f"drift, {name}: 1 - effective sample fraction", 1 - sample_size.item(), 0.01),
    ]


def main() -> None:
    args = arguments(__doc__.split("\n")[0])
    rows = attention_rows("causal", 300, 300, causal=True)
    rows += attention_rows("of completions to a prompt", 70, 300, causal=False)
    rows += suffix_rows()
    rows += piece_rows()
    rows += tower_rows()
    rows += packed_rows()
    rows += logprob_rows()
    rows += model_rows()

    bundled = load_policy(DEFAULT_MODEL, device(), HALF)
    bundled.eos_ids = []
    prompts = media_prompts(bundled)
    rows += graph_rows(bundled, prompts, "bundled model in bf16")
    rows += drift_rows(bundled, prompts, "bundled model in bf16")
    if args.size != "tiny":
        policy = make_policy(args.size)
        prompts = [text_prompt(policy, length, seed=length) for length in (500, 300)]
        rows += graph_rows(policy, prompts, args.size)
        rows += drift_rows(policy, prompts, args.size)

    report(args, f"kernels on {device()}", rows)
    failed = [line["check"] for line in rows if line["ok"] != "True"]
    if failed:
        sys.exit(f"above what is allowed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
