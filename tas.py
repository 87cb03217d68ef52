"""tas.py: advantages, Temporal Advantage Shaping, the clipped loss. Pure tensor functions.

    fresh_advantages     one of BASELINES                           fresh completions
    group_advantages     A_i = (R_i - mean R) / (std R + 1e-4)      GRPO's and AVATAR's
    shrunk_advantages    A_i = (R_i - b_i) / (s + 1e-4)             avatar_fast's
    replay_advantages    A_i = (R_i - Rbar(q)) / (std R + 1e-4)     replayed ones, against the VCRS
    temporal_weights     w_t = 1 + lambda (2 t/(L-1) - 1)^2         plan and answer weigh more
    hint_gains           g_t = log(pi(y_t | q, hint) / pi(y_t | q)) the hint as a teacher, |g| <= 1
    token_advantages     A_t = w_t A + c g_t                        c = 0 in the paper
    importance_ratio     r_t = pi_theta / pi_behaviour              per token, or per completion
    clipped_is_loss      -min(r A_t, clip(r, 1-eps, 1+eps) A_t)     or CISPO
    kl_k3                exp(d) - d - 1, d = log pi_ref - log pi    not weighted by TAS
    loss_weights         J = J_on + alpha J_off                     what one token's loss counts

Dimensions: G completions of one prompt, N completions of a micro-batch, R completion tokens
(padded), L_i the true length of completion i, EOS included.

How this differs from the paper and its released trainer:
 1. std is the sample standard deviation (divided by G - 1), as in the trainer and its peers; the
    paper does not say which. A group whose rewards are equal gets advantage 0 (but for a shrunk
    baseline): the replay formula as printed would divide by 1e-4 and blow the step up.
 2. t counts the completion's own tokens. The trainer counts columns of the padded window, so its
    t/(L-1) leaves [0, 1].
 3. The ratio of a replayed completion is taken per token, as the trainer does; the paper writes one
    ratio per sequence (level="sequence", length-normalised as in GSPO, arXiv 2507.18071).
 4. The KL term is not weighted by TAS (as in the trainer; the paper does not say).

This module imports nothing of ours.
"""

import torch
from torch import Tensor

STD_EPS = 1e-4
LEVELS = ("token", "sequence")  # of the importance ratio
CLIPS = ("ppo", "cispo")
NORMS = ("sequence", "token")  # what the loss is a mean over
HINT_GAIN_MAX = 1.0  # nats
PRIOR = 2.0  # as how many completions of a prompt the step's mean counts in a shrunk baseline


# ------------------------------------------------------------------------------ advantages
def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO: rewards (G,) of one prompt's fresh completions -> advantages (G,).

    Equal rewards, and a group of one, give exactly 0.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]))      # mean 0.5, std 0.57735
    tensor([ 0.8659, -0.8659, -0.8659,  0.8659])
    """
    return over_std(rewards - rewards.mean(), rewards)


def shrunk_advantages(rewards: Tensor, history: list[float], step_rewards: Tensor) -> Tensor:
    """Fresh rewards (G,) of a prompt against what its other rewards and those of the step predict:
    advantages (G,).

        b_i = (PRIOR m + sum history + sum_{j != i} R_j) / (PRIOR + |history| + G - 1)
        A_i = (R_i - b_i) / (s + 1e-4)

    m and s are the mean and standard deviation of step_rewards: those of the fresh groups that the
    step trains on, on all processes, without groups that lack a verdict. history: the prompt's
    earlier rewards. The mean of two or four completions is a poor estimate of what a prompt earns;
    shrinking it towards the mean of all prompts makes it better (Stein; arXiv 2511.03710), and so
    do its earlier rewards (arXiv 2603.18444). And a group of equal rewards has advantages, too:
    above 0 where the prompt has done better than expected.

    >>> step_rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])                  # m 0.5, s 0.57735
    >>> shrunk_advantages(torch.tensor([1.0, 1.0]), [], step_rewards)     # b 2/3, 2/3
    tensor([0.5773, 0.5773])
    >>> shrunk_advantages(torch.tensor([1.0, 1.0]), [1.0], step_rewards)  # b 3/4, 3/4
    tensor([0.4329, 0.4329])
    """
    others = sum(history) + rewards.sum() - rewards  # (G,)
    n_others = len(history) + len(rewards) - 1
    baseline = (PRIOR * step_rewards.mean() + others) / (PRIOR + n_others)  # (G,)
    return over_std(rewards - baseline, step_rewards)


def replay_advantages(rewards: Tensor, baseline: Tensor | float) -> Tensor:
    """AVATAR: rewards (G,) of one prompt's replayed completions and its VCRS Rbar(q) -> advantages
    (G,).

    >>> replay_advantages(torch.tensor([1.0, 0.0]), 0.25)         # std 0.70711: 0.75 / 0.70721, ..
    tensor([ 1.0605, -0.3535])
    """
    return over_std(rewards - baseline, rewards)


def over_std(differences: Tensor, rewards: Tensor) -> Tensor:
    """differences (G,) / (std of rewards (n,) + 1e-4): (G,). Exactly 0 where the rewards are equal
    up to rounding, or there is one alone: they cannot tell good from bad."""
    std = rewards.std(correction=1) if len(rewards) > 1 else rewards.new_zeros(())  # ()
    if std <= 1e-6:
        return torch.zeros_like(differences)  # (G,)
    return differences / (std + STD_EPS)  # (G,)


# What fresh rewards stand against. A function of (rewards, history, step_rewards) as of
# `shrunk_advantages` that is added here is a value of --baseline at once. trap: where rewards are
# equal and nothing is learned from that, advantages must be exactly 0, as those of `over_std` are;
# rewards - rewards.mean() may be 6e-8, and the group then counts as one with a signal.
BASELINES = {
    "group": lambda rewards, history, step_rewards: group_advantages(rewards),
    "shrunk": shrunk_advantages,
}


def fresh_advantages(
    rewards: Tensor, history: list[float] | None, step_rewards: Tensor, baseline: str = "group"
) -> Tensor:
    """Advantages (G,) of a prompt's fresh completions by one of BASELINES.

    history: None for a group that lacks a verdict. It was scored by another ruler than all other
    groups, so it always stands against its own mean.
    """
    if baseline not in BASELINES:
        raise ValueError(f"unknown baseline '{baseline}'; known: {', '.join(BASELINES)}")
    if history is None:
        return group_advantages(rewards)
    return BASELINES[baseline](rewards, history, step_rewards)


# ------------------------------------------------------------------------------ temporal weights
# The shape of the temporal weights over tt = t/(L-1) in [0, 1]. A function that is added here is a
# value of --tas_shape at once.
SHAPES = {
    "u": lambda tt: (2 * tt - 1) ** 2,  # the paper's: 1 at both ends, 0 in the middle
    "uniform": lambda tt: torch.zeros_like(tt),  # off
    "decay": lambda tt: 1 - tt,
    "incline": lambda tt: tt,
    "inverse": lambda tt: 1 - (2 * tt - 1) ** 2,
}


def temporal_weights(mask: Tensor, lam: float = 0.3, shape: str = "u") -> Tensor:
    """TAS weights (N, R) of completions, w_t = 1 + lambda shape(t/(L-1)); 0 on padding.

    mask (N, R) bool: True on tokens up to and including EOS. A completion of one token counts as an
    end: tt = 0, so that u gives 1 + lambda.

    >>> temporal_weights(torch.tensor([[True] * 5, [True] + [False] * 4]))
    tensor([[1.3000, 1.0750, 1.0000, 1.0750, 1.3000],
            [1.3000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown TAS shape '{shape}'; known: {', '.join(SHAPES)}")
    length = mask.sum(dim=1, keepdim=True)  # (N, 1)
    t = torch.arange(mask.shape[1], device=mask.device)  # (R,)
    tt = t / (length - 1).clamp(min=1)  # (N, R)
    return (1 + lam * SHAPES[shape](tt)) * mask  # (N, R)


def hint_gains(hinted_logp: Tensor, logp: Tensor) -> Tensor:
    """g = log pi(y_t | q, hint) - log pi(y_t | q), between -1 and 1: any shape.

    What the policy would rather have written with the hint in sight has a gain above 0. Both are
    of the policy that sampled y. The log of a ratio has no bound, and one token that a hint rules
    out would outweigh all the others: hence HINT_GAIN_MAX. The idea is on-policy self-distillation
    (OPSD, arXiv 2601.18734); RLSD (arXiv 2604.03128) multiplies with it instead.
    """
    return (hinted_logp - logp).clamp(-HINT_GAIN_MAX, HINT_GAIN_MAX)


def token_advantages(advantages: Tensor, weights: Tensor, hint_term: Tensor) -> Tensor:
    """A_t = w_t A + c g_t: (N, R).

    advantages (N,), weights (N, R) from temporal_weights, hint_term (N, R): c g_t, 0 where there
    is no hint, on padding, and without --hint_teacher.
    """
    return advantages[:, None] * weights + hint_term  # (N, R)


# ------------------------------------------------------------------------------ ratio, loss, KL
def importance_ratio(
    logp: Tensor, behaviour_logp: Tensor, mask: Tensor, level: str = "token"
) -> Tensor:
    """r (N, R) = pi_theta / pi_behaviour, with gradient through logp; 1 on padding.

    token: exp(logp - behaviour), one per token. sequence: the length-normalised ratio of the whole
    completion, s_i = exp(mean_t (logp - behaviour)), on each of its tokens, in GSPO's token form:
    the value is s_i, the gradient s_i grad logp_t, so that TAS weights still reach their own token.

    >>> logp, behaviour = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.0]])
    >>> importance_ratio(logp, behaviour, torch.ones(1, 2).bool(), "sequence")      # exp(-1/2)
    tensor([[0.6065, 0.6065]])
    """
    log_ratio = (logp - behaviour_logp) * mask  # (N, R)
    if level == "token":
        return torch.exp(log_ratio)  # (N, R)
    if level != "sequence":
        raise ValueError(
            f"unknown level '{level}' of the importance ratio; known: {', '.join(LEVELS)}"
        )
    mean = completion_means(log_ratio.detach(), mask)[:, None]  # (N, 1)
    straight_through = log_ratio - log_ratio.detach()  # (N, R): 0, with the gradient of logp
    return torch.exp((mean + straight_through) * mask)  # (N, R)


def clipped_is_loss(
    ratio: Tensor,
    logp: Tensor,
    advantages: Tensor,
    clip: str = "ppo",
    eps: float = 0.2,
    eps_high: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The clipped importance-sampled loss of each token (N, R), and where the bound was active (N,
    R) bool.

    ppo         -min(r A_t, clip(r, 1-eps, 1+eps_high) A_t)
                a clipped token has no gradient; where A < 0, r has no ceiling
    cispo       -sg[min(r, 1+eps_high)] A_t logp_t
                every token keeps a gradient, of bounded weight (arXiv 2506.13585, which has no
                lower bound either; V-trace's rho, arXiv 1802.01561, is the same weight)

    ratio (N, R) from importance_ratio; logp (N, R) under the policy now; advantages (N, R): A_t
    from token_advantages, 0 on padding, and with it the loss. eps_high: upper half-width of the
    clip when it differs (0: eps; DAPO's clip-higher uses 0.28, arXiv 2503.14476).
    """
    low = 1 - eps
    high = 1 + (eps_high or eps)
    if clip == "ppo":
        loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)  # (N, R)
        too_low = (ratio < low) & (advantages < 0)  # (N, R)
        too_high = (ratio > high) & (advantages > 0)  # (N, R)
        clipped = too_low | too_high  # (N, R)
    elif clip == "cispo":
        loss = -ratio.detach().clamp(max=high) * advantages * logp  # (N, R)
        clipped = ratio > high  # (N, R)
    else:
        raise ValueError(f"unknown clip '{clip}'; known: {', '.join(CLIPS)}")
    return loss, clipped


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || ref) per token: exp(d) - d - 1 with d = ref - logp >= 0.

    It is one only on tokens that pi itself has sampled. Their expectation is the KL, but the
    gradient through it, with the samples held fixed, is that of KL(ref || pi): E_pi[(1 - ref / pi)
    grad log pi] (as in GRPO, arXiv 2402.03300). Times the ratio pi / sg(pi) it is that of
    KL(pi || ref).
    """
    d = ref_logp - logp
    return torch.exp(d) - d - 1


def loss_weights(
    mask: Tensor, is_replayed: Tensor, counts: Tensor, alpha: float, norm: str = "sequence"
) -> Tensor:
    """What each token's loss counts in J = J_on + alpha J_off: (N, R), 0 on padding.

    J_on and J_off are means over the fresh and over the replayed completions of the step, so the
    sum of loss x weight over all micro-batches and processes is the loss, however the step is
    split.

    sequence: the mean over completions of the mean over their tokens (GRPO). token: the mean over
    all tokens (DAPO), so that long completions count by their length. mask (N, R) bool; is_replayed
    (N,) bool; counts (2, 2) from groups.global_counts: of the fresh, then of the replayed
    completions, their number and the number of their tokens, over all processes.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> fresh, counts = torch.tensor([False, False]), torch.tensor([[2, 3], [0, 0]])
    >>> loss_weights(mask, fresh, counts, alpha=1.0)                       # 1/2 x 1/2, 1/2 x 1
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])
    >>> loss_weights(mask, fresh, counts, alpha=1.0, norm="token")         # 1/3
    tensor([[0.3333, 0.3333],
            [0.3333, 0.0000]])
    """
    n_completions, n_tokens = counts.to(mask.device).unbind(dim=1)  # (2,), (2,): fresh, replayed
    part = is_replayed.long()  # (N,): the row of counts
    weight = torch.where(is_replayed, alpha, 1.0)  # (N,)
    if norm == "sequence":
        length = mask.sum(dim=1).clamp(min=1)  # (N,)
        weight = weight / n_completions[part].clamp(min=1) / length  # (N,)
    elif norm == "token":
        weight = weight / n_tokens[part].clamp(min=1)  # (N,)
    else:
        raise ValueError(f"unknown loss norm '{norm}'; known: {', '.join(NORMS)}")
    return weight[:, None] * mask  # (N, R)


# ------------------------------------------------------------------------------ diagnostics
def completion_means(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values (N, R) over each completion's own tokens: (N,)."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # (N,)


def kl_to_behaviour(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Estimate (N,) of KL(pi_theta || pi_behaviour) per token from completions that pi_behaviour
    wrote.

    The mean over tokens of r log r - (r - 1) >= 0, r = pi_theta / pi_behaviour.
    log_ratio, mask (N, R).
    """
    r = torch.exp(log_ratio * mask)  # (N, R)
    return completion_means(r * log_ratio - (r - 1), mask)  # (N,)
