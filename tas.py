"""tas.py: advantages and Temporal Advantage Shaping. Pure tensor functions, one equation each.

    group_advantages     A_i = (R_i - mean R) / (std R + 1e-4)                       fresh completions of one prompt (GRPO)
    replay_advantages    A_i = (R_i - Rbar(q)) / (std R + 1e-4)                      replayed ones, against the prompt's history (VCRS)
    temporal_weights     w_t = 1 + lambda (2 t/(L-1) - 1)^2                          a U over the completion: plan and answer weigh more
    clipped_is_loss      -min(r A, clip(r, 1-eps, 1+eps) A) + beta KL_k3             r = pi_theta / pi_behaviour, token by token

Dimensions: G completions, R completion tokens (padded), L_i the true length of completion i, EOS included.

How this differs from the paper and its released trainer:
 1. std is the sample standard deviation (divided by G - 1), as in the trainer and its peers; the paper does not say which. A group
    whose rewards are all alike gets advantage 0: the replay formula as printed would divide by 1e-4 and blow the step up.
 2. t counts the completion's own tokens. The trainer counts columns of the padded window, so its t/(L-1) leaves [0, 1].
 3. The ratio of a replayed completion is taken per token, as the trainer does; the paper writes one ratio per sequence.
 4. The KL term is not weighted by TAS (as in the trainer; the paper does not say).

This module imports nothing of ours.
"""
import torch
from torch import Tensor

STD_EPS = 1e-4
SHAPES = ("u", "uniform", "decay", "incline", "inverse")


def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO: (G,) rewards of one prompt's fresh completions -> (G,) advantages. All-equal rewards and G = 1 give exactly 0.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]))      # mean 0.5, std 0.57735 -> 0.5 / 0.57745
    tensor([ 0.8659, -0.8659, -0.8659,  0.8659])
    """
    return replay_advantages(rewards, rewards.mean())


def replay_advantages(rewards: Tensor, baseline: Tensor | float) -> Tensor:
    """AVATAR: (G,) rewards of one prompt's replayed completions and its VCRS Rbar(q) -> (G,) advantages (method section 4).

    >>> replay_advantages(torch.tensor([1.0, 0.0]), 0.25)         # std 0.70711: 0.75 / 0.70721, -0.25 / 0.70721
    tensor([ 1.0605, -0.3535])
    """
    spread = rewards.std(correction=1) if len(rewards) > 1 else rewards.new_zeros(())
    if spread <= 1e-6:                                   # all alike up to rounding: the group cannot tell good from bad
        return torch.zeros_like(rewards)
    return (rewards - baseline) / (spread + STD_EPS)     # (G,)


def temporal_weights(mask: Tensor, lam: float = 0.3, shape: str = "u", normalize: bool = False) -> Tensor:
    """TAS weights (G, R) of completions with mask (G, R) bool (True on tokens up to and including EOS); 0 on padding.

    With tt = t/(L-1) in [0, 1] and p = (2 tt - 1)^2:  u 1 + lam p;  inverse 1 + lam (1 - p);  decay 1 + lam (1 - tt);
    incline 1 + lam tt;  uniform 1.  L = 1 counts as an end (tt = 0; u gives 1 + lam).
    normalize divides each row by its mean weight, so that a shape does not also change the step size.

    >>> temporal_weights(torch.tensor([[True] * 5, [True] * 1 + [False] * 4]))
    tensor([[1.3000, 1.0750, 1.0000, 1.0750, 1.3000],
            [1.3000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    length = mask.sum(dim=1, keepdim=True)                                               # (G, 1)
    tt = torch.arange(mask.shape[1], device=mask.device) / (length - 1).clamp(min=1)     # (G, R)
    parabola = (2 * tt - 1) ** 2                                                         # (G, R)
    shapes = {"u": parabola, "inverse": 1 - parabola, "decay": 1 - tt, "incline": tt, "uniform": torch.zeros_like(tt)}
    if shape not in shapes:
        raise ValueError(f"unknown TAS shape '{shape}'; known: {', '.join(SHAPES)}")
    w = (1 + lam * shapes[shape]) * mask                                                 # (G, R)
    if normalize:
        w = w * length / w.sum(dim=1, keepdim=True).clamp(min=1e-8)
    return w


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || ref) per token: exp(d) - d - 1 with d = ref - logp; >= 0, 0 where they agree."""
    d = ref_logp - logp
    return torch.exp(d) - d - 1


def clipped_is_loss(logp: Tensor, behaviour_logp: Tensor, advantages: Tensor, weights: Tensor, mask: Tensor, eps: float = 0.2,
                    beta: float = 0.0, ref_logp: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped importance-sampled loss of each completion, (G,), averaged over its own tokens, and per-token diagnostics.

    logp, behaviour_logp, ref_logp (G, R): log-probs under the policy now, the policy that wrote the completion, and the reference;
    advantages (G,); weights (G, R) from temporal_weights; mask (G, R). Only logp carries gradient. An empty completion gives 0.
    diagnostics (G, R): ratio, clipped (the clip was active), kl (0 without ref_logp).
    """
    ratio = torch.exp((logp - behaviour_logp) * mask)                                    # (G, R)
    a = advantages[:, None] * weights                                                    # (G, R)  A_it = w_it A_i
    surrogate = torch.minimum(ratio * a, ratio.clamp(1 - eps, 1 + eps) * a)              # (G, R)
    per_token = -surrogate
    kl = torch.zeros_like(ratio)
    if ref_logp is not None:
        kl = kl_k3(logp, ref_logp) * mask                                                # (G, R)
        per_token = per_token + beta * kl                                                # the KL term is not shaped by TAS
    loss = (per_token * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)                  # (G,)
    clipped = ((ratio < 1 - eps) & (a < 0)) | ((ratio > 1 + eps) & (a > 0))
    return loss, {"ratio": ratio.detach(), "clipped": (clipped & mask), "kl": kl.detach()}
