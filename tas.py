"""tas.py: advantages and Temporal Advantage Shaping. Pure tensor functions, one equation each.

    group_advantages     A_i = (R_i - mean R) / (std R + 1e-4)                       fresh completions of one prompt (GRPO)
    replay_advantages    A_i = (R_i - Rbar(q)) / (std R + 1e-4)                      replayed ones, against the prompt's history (VCRS)
    temporal_weights     w_t = 1 + lambda (2 t/(L-1) - 1)^2                          a U over the completion: plan and answer weigh more
    importance_ratio     r_t = pi_theta / pi_behaviour                               per token, or one per completion (GSPO)
    clipped_is_loss      -min(r A, clip(r, 1-eps, 1+eps) A) + beta KL_k3             PPO's clip, CISPO's, or truncated ratios
    half_loss            J_on or J_off                                               each half a mean over completions, or over tokens

Dimensions: G completions, R completion tokens (padded), L_i the true length of completion i, EOS included.

How this differs from the paper and its released trainer:
 1. std is the sample standard deviation (divided by G - 1), as in the trainer and its peers; the paper does not say which. A group
    whose rewards are all alike gets advantage 0: the replay formula as printed would divide by 1e-4 and blow the step up.
 2. t counts the completion's own tokens. The trainer counts columns of the padded window, so its t/(L-1) leaves [0, 1].
 3. The ratio of a replayed completion is taken per token, as the trainer does; the paper writes one ratio per sequence
    (level="sequence", length-normalised as in GSPO, arXiv 2507.18071).
 4. The KL term is not weighted by TAS (as in the trainer; the paper does not say).

This module imports nothing of ours.
"""

import torch
from torch import Tensor

STD_EPS = 1e-4

SHAPES = ("u", "uniform", "decay", "incline", "inverse")

LEVELS, CLIPS, NORMS = ("token", "sequence"), ("ppo", "cispo", "truncated"), ("sequence", "token")


def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO: (G,) rewards of one prompt's fresh completions -> (G,) advantages. All-equal rewards and G = 1 give exactly 0.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]))      # mean 0.5, std 0.57735 -> 0.5 / 0.57745
    tensor([ 0.8659, -0.8659, -0.8659,  0.8659])
    """
    return replay_advantages(rewards, rewards.mean())


def replay_advantages(rewards: Tensor, baseline: Tensor | float, shift: float = 0.0) -> Tensor:
    """AVATAR: (G,) rewards of one prompt's replayed completions and its VCRS Rbar(q) -> (G,) advantages (method section 4). shift is added to those of a group
    that can tell good from bad: above 0 successes of another policy weigh more than its failures (a lowered baseline, AsymRE, arXiv 2506.20520).

    >>> replay_advantages(torch.tensor([1.0, 0.0]), 0.25)         # std 0.70711: 0.75 / 0.70721, -0.25 / 0.70721
    tensor([ 1.0605, -0.3535])
    """
    spread = rewards.std(correction=1) if len(rewards) > 1 else rewards.new_zeros(())
    if spread <= 1e-6:  # all alike up to rounding: the group cannot tell good from bad
        return torch.zeros_like(rewards)
    return (rewards - baseline) / (spread + STD_EPS) + shift  # (G,)


def temporal_weights(
    mask: Tensor, lam: float = 0.3, shape: str = "u", normalize: bool = False
) -> Tensor:
    """TAS weights (G, R) of completions with mask (G, R) bool (True on tokens up to and including EOS); 0 on padding.

    With tt = t/(L-1) in [0, 1] and p = (2 tt - 1)^2:  u 1 + lam p;  inverse 1 + lam (1 - p);  decay 1 + lam (1 - tt);
    incline 1 + lam tt;  uniform 1.  L = 1 counts as an end (tt = 0; u gives 1 + lam).
    normalize divides each row by its mean weight, so that a shape does not also change the step size.

    >>> temporal_weights(torch.tensor([[True] * 5, [True] * 1 + [False] * 4]))
    tensor([[1.3000, 1.0750, 1.0000, 1.0750, 1.3000],
            [1.3000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    length = mask.sum(dim=1, keepdim=True)  # (G, 1)
    tt = torch.arange(mask.shape[1], device=mask.device) / (length - 1).clamp(min=1)  # (G, R)
    parabola = (2 * tt - 1) ** 2  # (G, R)
    shapes = {
        "u": parabola,
        "inverse": 1 - parabola,
        "decay": 1 - tt,
        "incline": tt,
        "uniform": torch.zeros_like(tt),
    }
    if shape not in shapes:
        raise ValueError(f"unknown TAS shape '{shape}'; known: {', '.join(SHAPES)}")
    w = (1 + lam * shapes[shape]) * mask  # (G, R)
    if normalize:
        w = w * length / w.sum(dim=1, keepdim=True).clamp(min=1e-8)
    return w


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || ref) per token: exp(d) - d - 1 with d = ref - logp; >= 0, 0 where they agree."""
    d = ref_logp - logp
    return torch.exp(d) - d - 1


def importance_ratio(
    logp: Tensor, behaviour_logp: Tensor, mask: Tensor, level: str = "token"
) -> Tensor:
    """r (G, R) = pi_theta / pi_behaviour, with gradient through logp; 1 on padding.

    token: exp(logp - behaviour), one per token. sequence: the length-normalised ratio of the whole completion,
    s_i = exp(mean_t (logp - behaviour)), on each of its tokens, in GSPO's token form (arXiv 2507.18071):
    the value is s_i, the gradient s_i grad logp_t, so that TAS weights still reach their own token.

    >>> importance_ratio(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2).bool(), "sequence")   # exp(-1/2)
    tensor([[0.6065, 0.6065]])
    """
    log_ratio = (logp - behaviour_logp) * mask  # (G, R)
    if level == "token":
        return torch.exp(log_ratio)
    if level != "sequence":
        raise ValueError(
            f"unknown level '{level}' of the importance ratio; known: {', '.join(LEVELS)}"
        )
    mean = log_ratio.detach().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(
        min=1
    )  # (G, 1)
    return torch.exp((mean + log_ratio - log_ratio.detach()) * mask)  # (G, R)


def clipped_is_loss(
    ratio: Tensor,
    logp: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    eps: float = 0.2,
    eps_high: float | None = None,
    clip: str = "ppo",
    beta: float = 0.0,
    ref_logp: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped importance-sampled loss of each token, (G, R), 0 on padding, and per-token diagnostics.

    ppo         -min(r A_t, clip(r, 1-eps, 1+eps_high) A_t)          a clipped token has no gradient; where A < 0, r has no ceiling
    cispo       -sg[clip(r, 1-eps, 1+eps_high)] A_t logp_t           every token keeps one, of bounded weight (arXiv 2506.13585)
    truncated   -sg[min(r, 1+eps_high)] A_t logp_t                   importance weights with a ceiling (V-trace's rho, arXiv 1802.01561)
    plus beta KL_k3(logp, ref_logp), which TAS does not weight. A_t = w_t A.

    ratio (G, R) from importance_ratio; logp, ref_logp (G, R) under the policy now and the reference; advantages (G,); weights (G, R) from
    temporal_weights; mask (G, R). eps_high: upper half-width of the clip (None: eps; DAPO's clip-higher uses 0.28, arXiv 2503.14476).
    diagnostics (G, R): ratio, clipped (the bound was active), kl (0 without ref_logp).
    """
    low, high = 1 - eps, 1 + (eps if eps_high is None else eps_high)
    a = advantages[:, None] * weights  # (G, R)  A_it = w_it A_i
    if clip == "ppo":
        per_token = -torch.minimum(ratio * a, ratio.clamp(low, high) * a)  # (G, R)
        clipped = ((ratio < low) & (a < 0)) | ((ratio > high) & (a > 0))
    elif clip == "cispo":
        per_token = -ratio.detach().clamp(low, high) * a * logp  # (G, R)
        clipped = (ratio < low) | (ratio > high)
    elif clip == "truncated":
        per_token = -ratio.detach().clamp(max=high) * a * logp  # (G, R)
        clipped = ratio > high
    else:
        raise ValueError(f"unknown clip '{clip}'; known: {', '.join(CLIPS)}")
    kl = torch.zeros_like(ratio)
    if ref_logp is not None:
        kl = kl_k3(logp, ref_logp) * mask  # (G, R)
        per_token = per_token + beta * kl  # the KL term is not shaped by TAS
    return per_token * mask, {
        "ratio": ratio.detach(),
        "clipped": (clipped & mask),
        "kl": kl.detach(),
    }


def half_loss(
    per_token: Tensor, mask: Tensor, completions: int, tokens: int, norm: str = "sequence"
) -> Tensor:
    """A micro-batch's share of J_on or of J_off, a scalar: summed over micro-batches and processes it is that half's loss, however split.

    sequence: the mean over the half's completions of the mean over their tokens (GRPO). token: the mean over all its tokens (DAPO), so that
    long completions count by their length. per_token, mask (G, R); completions, tokens: how many the WHOLE half has, in all processes.

    >>> loss, mask = torch.tensor([[1.0, 3.0], [4.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    >>> half_loss(loss, mask, completions=2, tokens=3)                     # (2 + 4) / 2
    tensor(3.)
    >>> half_loss(loss, mask, completions=2, tokens=3, norm="token")       # (1 + 3 + 4) / 3
    tensor(2.6667)
    """
    if norm not in NORMS:
        raise ValueError(f"unknown loss norm '{norm}'; known: {', '.join(NORMS)}")
    if norm == "token":
        return per_token.sum() / tokens
    return (per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / completions


def too_stale(log_ratio: Tensor, mask: Tensor, advantages: Tensor, bound: float) -> Tensor:
    """(G,) bool: replayed completions that are left out of the loss, because they are bad news (A < 0) about behaviour the policy has
    already left: mean_t log(pi_behaviour / pi_theta) > bound (DeepSeek-V3.2, arXiv 2512.02556, off-policy sequence masking). bound 0: none.
    log_ratio (G, R) = log(pi_theta / pi_behaviour), 0 outside the mask; advantages (G,).
    """
    left = (
        -log_ratio.sum(dim=1) / mask.sum(dim=1).clamp(min=1) > bound
        if bound
        else torch.zeros_like(advantages, dtype=torch.bool)
    )
    return left & (advantages < 0)


def kl_to_behaviour(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """(G,) estimate of KL(pi_theta || pi_behaviour) per token from completions that pi_behaviour wrote: mean_t of r log r - (r - 1) >= 0,
    r = pi_theta / pi_behaviour. log_ratio, mask (G, R)."""
    r = torch.exp(log_ratio * mask)  # (G, R)
    return ((r * log_ratio - (r - 1)) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # (G,)


def effective_sample_share(ratio: Tensor) -> float:
    """Effective sample size of importance weights as a share of their number, (sum r)^2 / (n sum r^2): 1 when all are alike, 1/n when one
    dominates. ratio (n,).

    >>> round(effective_sample_share(torch.tensor([1.0, 3.0])), 6)         # 16 / (2 * 10)
    0.8
    """
    return (ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())).item()
