"""engine/logprobs.py: log-probs of tokens without the logits of a whole batch.

With V = 150,000 ids the fp32 logits of 16,000 tokens take 10 GB, and their gradient as much again.
Here logits are computed for LOGIT_CHUNK tokens at a time, reduced to one log-prob per token, and
thrown away. The backward pass computes each chunk a second time.

Dimensions: n tokens, c tokens of a chunk, V vocabulary, D width.
"""

import torch
from torch import Tensor

LOGIT_CHUNK = 1024  # tokens whose fp32 logits are held at a time


class TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden weight^T / temperature)[target] of each token, (n,) fp32; and the entropy
    of its distribution, (n,) in nats, through which no gradient flows.

    hidden (n, D); weight (V, D); targets (n,); banned (V,) bool: ids without probability.
    with_entropy: without it the entropies are NaN, and cost nothing.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, banned, temperature, with_entropy=False):
        lse = torch.empty(len(hidden), device=hidden.device)  # (n,)
        target_logits = torch.empty_like(lse)  # (n,)
        entropy = torch.full_like(lse, float("nan"))  # (n,)
        for chunk in chunks(len(hidden)):
            logits = fp32_logits(hidden[chunk], weight, banned, temperature)  # (c, V)
            lse[chunk] = logits.logsumexp(-1)
            target_logits[chunk] = logits.gather(-1, targets[chunk, None])[:, 0]
            if with_entropy:
                probs = logits.sub_(lse[chunk, None]).exp_()  # (c, V)
                entropy[chunk] = torch.special.entr(probs).sum(-1)

        ctx.save_for_backward(hidden, weight, targets, banned, lse)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return target_logits - lse, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, targets, banned, lse = ctx.saved_tensors
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # (n, D)
        dweight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # (V, D)

        for chunk in chunks(len(hidden)):
            logits = fp32_logits(hidden[chunk], weight, banned, ctx.temperature)  # (c, V)
            probs = logits.sub_(lse[chunk, None]).exp_()  # (c, V)

            # d logp[target] / d logits = onehot(target) - probs
            scaled = grad[chunk, None] / ctx.temperature  # (c, 1)
            dlogits = probs.mul_(-scaled).scatter_add_(-1, targets[chunk, None], scaled)  # (c, V)
            dlogits = dlogits.to(weight.dtype)
            if dhidden is not None:
                dhidden[chunk] = dlogits @ weight
            if dweight is not None:
                dweight.addmm_(dlogits.mT, hidden[chunk])
        return dhidden, dweight, None, None, None, None


def chunks(n: int) -> list[slice]:
    """The tokens 0 .. n - 1 in slices of LOGIT_CHUNK."""
    return [slice(start, start + LOGIT_CHUNK) for start in range(0, n, LOGIT_CHUNK)]


def fp32_logits(hidden: Tensor, weight: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """(n, V) fp32 logits at `temperature`, -inf where banned.

    Products and sums are in fp32 whatever the type of hidden and weight: bf16 logits of about 20
    would be off by 0.06, and an importance ratio with them.
    """
    if hidden.device.type == "cuda" and weight.dtype != torch.float32:
        # Tensor cores multiply bf16 exactly and sum in fp32.
        logits = torch.mm(hidden, weight.mT, out_dtype=torch.float32)  # (n, V)
    else:
        logits = hidden.float() @ weight.float().mT  # (n, V)
    if temperature != 1:
        logits.div_(temperature)
    return logits.masked_fill_(banned, float("-inf"))
