"""engine/logprobs.py: log-probs of tokens without the logits of a whole batch."""

import torch
from torch import Tensor

LOGIT_CHUNK = 1024  # completion tokens per fp32 logits block, so that no (tokens, V) tensor of a whole batch exists


class TokenLogprobs(torch.autograd.Function):
    """log softmax(h W^T / temperature)[target] with a chunk of fp32 logits at a time, which the backward pass makes again.

    h (n, D), weight (V, D), targets (n,), banned (V,) bool: ids without probability. -> (n,) fp32.
    """

    @staticmethod
    def forward(ctx, h, weight, targets, banned, temperature):
        lse, picked = (torch.empty(len(h), device=h.device) for _ in range(2))
        for at in range(0, len(h), LOGIT_CHUNK):
            part = slice(at, at + LOGIT_CHUNK)
            logits = fp32_logits(h[part], weight, banned, temperature)  # (c, V)
            lse[part] = logits.logsumexp(-1)
            picked[part] = logits.gather(-1, targets[part, None])[:, 0]
        ctx.save_for_backward(h, weight, targets, banned, lse)
        ctx.temperature = temperature
        return picked - lse

    @staticmethod
    def backward(ctx, grad):
        h, weight, targets, banned, lse = ctx.saved_tensors
        dh = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        dw = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for at in range(0, len(h), LOGIT_CHUNK):
            part = slice(at, at + LOGIT_CHUNK)
            logits = fp32_logits(h[part], weight, banned, ctx.temperature)
            p = logits.sub_(lse[part, None]).exp_()  # (c, V)
            g = grad[part, None] / ctx.temperature
            d = (
                p.mul_(-g).scatter_add_(-1, targets[part, None], g).to(weight.dtype)
            )  # g (onehot - p)
            if dh is not None:
                dh[part] = d @ weight
            if dw is not None:
                dw.addmm_(d.mT, h[part])
        return dh, dw, None, None, None


def fp32_logits(h: Tensor, weight: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """(n, V) fp32 logits at `temperature`, -inf where banned. Products and sums are fp32 whatever the type of h and weight."""
    if h.device.type == "cuda" and weight.dtype != torch.float32:
        logits = torch.mm(
            h, weight.mT, out_dtype=torch.float32
        )  # tensor cores: bf16 products are exact in fp32
    else:
        logits = h.float() @ weight.float().mT
    return (
        logits.masked_fill_(banned, float("-inf"))
        if temperature == 1
        else logits.div_(temperature).masked_fill_(banned, float("-inf"))
    )
