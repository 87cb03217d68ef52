"""engine/attention.py: attention that also returns its log-sum-exps, so that parts can be joined.

The softmax over two sets of keys A and B follows from the softmax over each:

    output over A and B  =  (e^a * output over A + e^b * output over B) / (e^a + e^b)

where a and b are the log-sum-exps of the scores over A and over B. PyTorch's
scaled_dot_product_attention keeps these numbers to itself, so its kernels are called one level
below. Packed rows (packed_rows.py) join a prompt and a suffix in this way, and decoding
(kv_cache.py, kv_pieces.py) joins a prefix stored once per prompt and a suffix stored once per
completion.

Dimensions: B batch, H query heads, K key-value heads (H is a multiple of K), S queries, L keys, d
head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, and the log-sum-exps of the scores.

    q (B, H, S, d); k and v (B, K, L, d); bias: broadcastable to (B, H, S, L). causal: query i sees
    the keys 0..i, and S = L. Returns (B, H, S, d), and (B, H, S) in fp32.

    By PyTorch's flash kernels where they run (CPU; half precision without bias on a GPU), by
    `attend_by_hand` elsewhere.
    """
    # The arguments behind v are the dropout, 0, and whether attention is causal.
    if q.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(q, k, v, 0.0, causal, attn_mask=bias)
    if has_gpu_kernel(q) and bias is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)[:2]
    return attend_by_hand(q, k, v, causal, bias)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` with respect to q, k and v.

    out and lse are what `attend` returned; or, where these keys are a part of a larger set, the
    output and log-sum-exps over all of it. The gradients are then exact for this part.
    """
    if q.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return kernel(grad, q, k, v, out, lse, 0.0, causal)
    if has_gpu_kernel(q):
        # The kernel also wants both lengths, and the random state of its dropout, which is off.
        lengths = (q.shape[2], k.shape[2])
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)
        offset = torch.zeros((), dtype=torch.uint64, device=q.device)
        lse = lse.contiguous()
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_backward
        return kernel(grad, q, k, v, out, lse, None, None, *lengths, 0.0, causal, seed, offset)
    return attend_by_hand_backward(grad, q, k, v, out, lse, causal)


@dataclass
class Pieces:
    """Which queries read which keys, for `attend_pieces`. Piece i has the queries from
    query_starts[i] up to query_starts[i + 1], and key_counts[i] keys from key_starts[i] on."""

    query_starts: Tensor  # (pieces + 1,) int32
    key_starts: Tensor  # (pieces + 1,) int32; the last one is not used
    key_counts: Tensor  # (pieces,) int32
    max_queries: int
    max_keys: int


def attend_pieces(q: Tensor, k: Tensor, v: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """`attend` for many pieces at once, each with queries and keys of its own.

    q (m, K, d); k and v (T, K, d), a query head for each key-value head. Returns (m, K, d), and the
    log-sum-exps (K, m) in fp32.
    """
    if has_gpu_kernel(q):
        # The arguments behind the lengths: dropout, causal, and a mask to debug with.
        return torch.ops.aten._flash_attention_forward(
            q,
            k,
            v,
            pieces.query_starts,
            pieces.key_starts,
            pieces.max_queries,
            pieces.max_keys,
            0.0,
            False,
            False,
            seqused_k=pieces.key_counts,
        )[:2]

    # By hand, in tests alone: all scores, with those of other pieces' keys masked.
    query = torch.arange(len(q), device=q.device)  # (m,)
    piece = torch.searchsorted(pieces.query_starts, query, right=True, out_int32=True) - 1  # (m,)
    place = torch.arange(len(k), device=q.device) - pieces.key_starts[piece][:, None]  # (m, T)
    seen = (place >= 0) & (place < pieces.key_counts[piece][:, None])  # (m, T)
    bias = torch.zeros(seen.shape, device=q.device).masked_fill_(~seen, float("-inf"))  # (m, T)
    batch = [x.transpose(0, 1)[None] for x in (q, k, v)]  # (1, K, tokens, d) each
    out, lse = attend_by_hand(*batch, bias=bias)
    return out[0].transpose(0, 1), lse[0]


def has_gpu_kernel(q: Tensor) -> bool:
    """Flash attention on a GPU takes half precision only. (And wants an Ampere GPU or a later one,
    and heads whose width is a multiple of 8.)"""
    return q.device.type == "cuda" and q.dtype in HALF


# ------------------------------------------------------------------ by hand
def attend_by_hand(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`attend` by two matrix products: for devices and types without a kernel, and to read."""
    scores = attention_scores(q, k, causal, bias)  # (B, H, S, L)
    lse = scores.logsumexp(-1)  # (B, H, S)
    weights = (scores - lse[..., None]).exp().to(v.dtype)  # (B, H, S, L)
    return weights @ for_each_query_head(v, q), lse


def attend_by_hand_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` by matrix products."""
    # Where lse is that of a larger set of keys, a query's weights sum to less than 1.
    scores = attention_scores(q, k, causal, None)  # (B, H, S, L)
    weights = (scores - lse[..., None]).exp()  # (B, H, S, L)

    # d softmax: ds = w (dw - sum_l w dw), and the sum over ALL keys is grad . out
    dweights = (grad @ for_each_query_head(v, q).mT).float()  # (B, H, S, L)
    mean = (grad.float() * out.float()).sum(-1, keepdim=True)  # (B, H, S, 1)
    dscores = (weights * (dweights - mean) * q.shape[-1] ** -0.5).to(q.dtype)  # (B, H, S, L)

    dq = dscores @ for_each_query_head(k, q)  # (B, H, S, d)
    dk = dscores.mT @ q  # (B, H, L, d)
    dv = weights.to(q.dtype).mT @ grad  # (B, H, L, d)
    # A key-value head collects from all query heads that share it.
    kv_heads = k.shape[1]
    dk = dk.unflatten(1, (kv_heads, -1)).sum(2)  # (B, K, L, d)
    dv = dv.unflatten(1, (kv_heads, -1)).sum(2)  # (B, K, L, d)
    return dq, dk, dv


def attention_scores(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
    """q k^T / sqrt(d) + bias, (B, H, S, L) fp32, -inf where a query must not look."""
    scores = (q @ for_each_query_head(k, q).mT).float() * q.shape[-1] ** -0.5  # (B, H, S, L)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)  # (S, L)
        scores = scores.masked_fill(future, float("-inf"))
    return scores if bias is None else scores + bias


def for_each_query_head(k: Tensor, q: Tensor) -> Tensor:
    """(B, K, L, d) -> (B, H, L, d): each key-value head for all query heads that share it."""
    if k.shape[1] == q.shape[1]:
        return k
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1)


# ------------------------------------------------------------------ two sets of keys
def join(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two sets of keys, from the attention over each.

    Outputs (.., d) and log-sum-exps (..) of each -> one output and one log-sum-exp.
    """
    weight_a = torch.sigmoid(lse_a - lse_b)[..., None]  # e^a / (e^a + e^b), (.., 1)
    out = torch.lerp(out_b.float(), out_a.float(), weight_a)  # (.., d)
    return out.to(out_a.dtype), torch.logaddexp(lse_a, lse_b)
