"""engine/attention.py: attention over packed rows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, and the log-sum-exp of its scores, which scaled_dot_product_attention keeps to itself.

    q (B, H, S, d), k and v (B, K, L, d) with H a multiple of K, bias broadcastable to (B, H, S, L). causal: query i sees the keys 0..i (S = L).
    Returns (B, H, S, d) and (B, H, S) fp32. PyTorch's own flash kernels where they run, `attend_by_hand` elsewhere.
    """
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias
        )
    if q.device.type == "cuda" and bias is None and q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)[:2]
    return attend_by_hand(q, k, v, causal, bias)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to q, k, v of `attend`, given its output and log-sum-exp, or those of a larger softmax that these keys are a part of."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal
        )
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        seed, offset = (
            torch.zeros(n, dtype=torch.uint64, device=q.device) for n in ((2,), ())
        )  # of dropout, which is off
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.contiguous(),
            None,
            None,
            q.shape[2],
            k.shape[2],
            0.0,
            causal,
            seed,
            offset,
        )
    return attend_by_hand_backward(grad, q, k, v, out, lse, causal)


def for_each_query_head(k: Tensor, q: Tensor) -> Tensor:
    """(B, K, L, d) -> (B, H, L, d): each key-value head repeated for the query heads that share it."""
    return k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _scores(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
    """(B, H, S, L) fp32."""
    scores = (q @ for_each_query_head(k, q).mT).float() * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(
            torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), float("-inf")
        )
    return scores if bias is None else scores + bias


def attend_by_hand(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`attend` by two matrix products: for devices and types without a kernel, and to read."""
    scores = _scores(q, k, causal, bias)
    lse = scores.logsumexp(-1)  # (B, H, S)
    p = (scores - lse[..., None]).exp().to(v.dtype)  # (B, H, S, L)
    return p @ for_each_query_head(v, q), lse


def attend_by_hand_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    p = (
        _scores(q, k, causal, None) - lse[..., None]
    ).exp()  # (B, H, S, L) shares of the whole softmax
    dp = (grad @ for_each_query_head(v, q).mT).float()
    ds = (p * (dp - (grad.float() * out.float()).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5).to(
        q.dtype
    )  # (B, H, S, L)
    dk, dv = (
        x.unflatten(1, (k.shape[1], -1)).sum(2) for x in (ds.mT @ q, p.to(q.dtype).mT @ grad)
    )  # (B, K, L, d)
    return ds @ for_each_query_head(k, q), dk, dv


def join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two sets of keys, from that over each: outputs (..., d) and log-sum-exps (...) -> one of each."""
    share = torch.sigmoid(lse - more_lse)[..., None]  # e^a / (e^a + e^b)
    return torch.lerp(more.float(), out.float(), share).to(out.dtype), torch.logaddexp(
        lse, more_lse
    )


@dataclass
class Layout:
    """Where the tokens of a stream stand. Keys are those of the whole stream; `rows` names the tokens whose queries are asked (None: all).

    prompts: the keys of each prompt, as slices of the stream. causal: the queries of each prompt's own tokens. after: the queries of each group
    that see the whole prompt. Both are slices of the queries asked, maybe empty. pad_q, pad_k: (N, R) indices of the completion tokens among
    queries and keys, 0 on padding; real: (n,) which of the N * R are tokens; own, own_k: (n,) the completion tokens among queries and keys.
    """

    prompts: list[slice]
    causal: list[slice]
    after: list[slice]
    pad_q: Tensor
    pad_k: Tensor
    real: Tensor
    own: Tensor
    own_k: Tensor
    rows: Tensor | None = None


def lay_out_groups(
    prompt_lengths: list[int], completion_lengths: list[list[int]], device
) -> tuple[Layout, Layout, Tensor]:
    """Layouts of a stream of packed rows [prompt | c1 | .. | cG]: for all layers but the last, and for the last one, which asks only each
    prompt's last token and the completions. Also the index in the latter's output of the state that predicts each completion's first token (N,)."""
    prompts, after, last, tail, first = [], [], [], [], []
    at = 0
    starts: list[int] = []
    for p, lengths in zip(prompt_lengths, completion_lengths, strict=True):
        n = sum(lengths)
        prompts.append(slice(at, at + p))
        after.append(slice(at + p, at + p + n))
        tail.append(slice(len(last), len(last) + 1 + n))
        first += [len(last)] * len(lengths)
        starts += (at + p + np.cumsum([0, *lengths[:-1]])).tolist() if lengths else []
        last += range(at + p - 1, at + p + n)
        at += p + n
    rows = torch.tensor(last, device=device)
    flat = [n for lengths in completion_lengths for n in lengths]
    inside = (
        torch.arange(max(flat, default=0), device=device)
        < torch.tensor(flat, device=device, dtype=torch.long)[:, None]
    )  # (N, R)
    pad = torch.where(
        inside,
        torch.tensor(starts, device=device, dtype=torch.long)[:, None]
        + torch.arange(inside.shape[1], device=device),
        0,
    )
    real = inside.flatten().nonzero().squeeze(-1)
    place = torch.zeros(at, dtype=torch.long, device=device).index_copy(
        0, rows, torch.arange(len(rows), device=device)
    )  # stream -> tail
    own = pad.flatten()[real]
    body = Layout(prompts, prompts, after, pad, pad, real, own, own)
    end = Layout(
        prompts, [slice(0, 0)] * len(prompts), tail, place[pad], pad, real, place[own], own, rows
    )
    return body, end, torch.tensor(first, device=device, dtype=torch.long)


def _rows(x: Tensor) -> Tensor:
    """(n, H, d) tokens of one row, or (N, R, H, d) of several -> (B, H, S, d) as the kernels want them."""
    return (x[None] if x.ndim == 3 else x).transpose(1, 2)


class PackedAttention(torch.autograd.Function):
    """Attention over a stream: q (n, H, d) of the tokens asked, k and v (T, K, d) of all -> (n, H, d). See the drawing at the top."""

    @staticmethod
    def forward(ctx, q, k, v, lay: Layout):
        out, lse = (
            torch.empty_like(q),
            torch.empty(q.shape[:2], device=q.device),
        )  # (n, H, d), (n, H)
        for queries, causal in ((lay.causal, True), (lay.after, False)):
            for some, prompt in zip(queries, lay.prompts, strict=True):
                if some.stop > some.start:
                    o, s = attend(_rows(q[some]), _rows(k[prompt]), _rows(v[prompt]), causal)
                    out[some], lse[some] = o[0].transpose(0, 1), s[0].transpose(0, 1)
        if len(lay.own):
            o, s = attend(
                _rows(q[lay.pad_q]), _rows(k[lay.pad_k]), _rows(v[lay.pad_k]), True
            )  # right padding: no token sees it
            o, s = (
                o.transpose(1, 2).flatten(0, 1)[lay.real],
                s.transpose(1, 2).flatten(0, 1)[lay.real],
            )
            out[lay.own], lse[lay.own] = join(out[lay.own], lse[lay.own], o, s)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.lay = lay
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        lay, dq, dk, dv = ctx.lay, torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for queries, causal in ((lay.causal, True), (lay.after, False)):
            for some, prompt in zip(queries, lay.prompts, strict=True):
                if some.stop > some.start:
                    a, b, c = attend_backward(
                        _rows(grad[some]),
                        _rows(q[some]),
                        _rows(k[prompt]),
                        _rows(v[prompt]),
                        _rows(out[some]),
                        lse[some].transpose(0, 1)[None],
                        causal,
                    )
                    for total, part, where in ((dq, a, some), (dk, b, prompt), (dv, c, prompt)):
                        total[where] += part[0].transpose(0, 1)
        if len(lay.own):
            padded = grad.new_zeros(*lay.pad_q.shape, *grad.shape[1:])  # (N, R, H, d), 0 on padding
            padded.flatten(0, 1)[lay.real] = grad[lay.own]
            parts = attend_backward(
                _rows(padded),
                _rows(q[lay.pad_q]),
                _rows(k[lay.pad_k]),
                _rows(v[lay.pad_k]),
                _rows(out[lay.pad_q]),
                lse[lay.pad_q].transpose(1, 2),
                True,
            )
            a, b, c = (x.transpose(1, 2).flatten(0, 1)[lay.real] for x in parts)  # (n, heads, d)
            dq[lay.own] += (
                a  # each token stands once in the padded block, so that += loses nothing to repeated indices
            )
            dk[lay.own_k] += b
            dv[lay.own_k] += c
        return dq, dk, dv, None
