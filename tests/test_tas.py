"""tas.py against numbers worked by hand and against autograd of the plain formulas."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tas import (
    BASELINES,
    SHAPES,
    clipped_is_loss,
    completion_means,
    fresh_advantages,
    group_advantages,
    hint_gains,
    importance_ratio,
    kl_k3,
    kl_to_behaviour,
    loss_weights,
    replay_advantages,
    shrunk_advantages,
    temporal_weights,
    token_advantages,
)


def mask_of(*lengths: int, width: int | None = None) -> Tensor:
    """(N, R) bool: completions of these lengths, padded to `width`."""
    positions = torch.arange(width or max(lengths))
    return positions < torch.tensor(lengths)[:, None]


# ------------------------------------------------------------------ temporal weights
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("u", [1.3, 1.075, 1.0, 1.075, 1.3]),  # 1 + 0.3 (2 t/4 - 1)^2
        ("inverse", [1.0, 1.225, 1.3, 1.225, 1.0]),  # 1 + 0.3 (1 - (2 t/4 - 1)^2)
        ("decay", [1.3, 1.225, 1.15, 1.075, 1.0]),  # 1 + 0.3 (1 - t/4)
        ("incline", [1.0, 1.075, 1.15, 1.225, 1.3]),  # 1 + 0.3 t/4
        ("uniform", [1.0] * 5),
    ],
)
def test_tas_weights_by_hand(shape, expected):
    weights = temporal_weights(mask_of(5, width=7), 0.3, shape)
    assert weights[0].tolist() == pytest.approx([*expected, 0, 0])


def test_tas_counts_each_completions_own_tokens():
    """Two lengths in one batch: both end at 1 + lambda at their own last token, whatever the
    padding."""
    weights = temporal_weights(mask_of(3, 6), 0.5)
    assert weights[0].tolist() == pytest.approx([1.5, 1.0, 1.5, 0, 0, 0])
    assert weights[1, 0].item() == pytest.approx(1.5)
    assert weights[1, 5].item() == pytest.approx(1.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_tas_of_one_token_and_of_none(shape):
    """One token is a beginning, t/(L-1) = 0; of no token there is no weight and no NaN."""
    at_zero = SHAPES[shape](torch.zeros(1)).item()
    weights = temporal_weights(mask_of(1, 0, width=3), 0.3, shape)
    assert weights[0].tolist() == pytest.approx([1 + 0.3 * at_zero, 0, 0])
    assert weights[1].tolist() == [0, 0, 0]
    if shape == "u":
        assert weights[0, 0].item() == pytest.approx(1.3)


def test_tas_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="known: u, uniform"):
        temporal_weights(mask_of(3), 0.3, "parabola")


def test_a_shape_that_is_added_is_used(monkeypatch):
    monkeypatch.setitem(SHAPES, "cubic", lambda tt: tt**3)
    weights = temporal_weights(mask_of(3), 0.8, "cubic")
    assert weights[0].tolist() == pytest.approx([1.0, 1.1, 1.8])  # 0.8 x (0, 1/8, 1)


# ------------------------------------------------------------------ advantages
def test_group_advantages_by_hand():
    # mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.577350
    a = 0.5 / (0.57735027 + 1e-4)
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert advantages.tolist() == pytest.approx([a, -a, -a, a], rel=1e-6)


def test_group_advantages_of_two_prompts_keep_their_order():
    """Each prompt against its own group: the same reward is good in one and bad in the other."""
    first = torch.tensor([0.2, 0.6])
    second = torch.tensor([0.6, 1.0])
    for group in (first, second):
        rewards = group.numpy()
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        assert group_advantages(group).numpy() == pytest.approx(expected, rel=1e-5)
    assert group_advantages(first)[1] > 0 > group_advantages(second)[0]


@pytest.mark.parametrize("rewards", [[0.7] * 4, [0.0] * 4, [0.1 + 0.2, 0.3, 0.3], [1.0]])
def test_equal_rewards_and_single_completions_have_no_advantage(rewards):
    assert group_advantages(torch.tensor(rewards)).tolist() == [0.0] * len(rewards)


def test_replay_advantages_stand_against_the_prompts_history():
    # Rbar = 0.25; std([1, 0]) = 0.707107
    advantages = replay_advantages(torch.tensor([1.0, 0.0]), 0.25)
    expected = [0.75 / 0.70720678, -0.25 / 0.70720678]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-6)

    # the printed formula would give 7,500
    assert replay_advantages(torch.tensor([1.0, 1.0]), 0.25).tolist() == [0.0, 0.0]


def test_shrunk_advantages_equal_the_formula_written_out():
    """Against NumPy, one completion at a time; of many completions and no spread between prompts
    the baseline is the leave-one-out mean."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        rewards = rng.random(rng.integers(1, 6))
        history = rng.random(rng.integers(0, 20)).tolist()
        of_step = rng.random(rng.integers(2, 40))
        ours = shrunk_advantages(torch.tensor(rewards), history, torch.tensor(of_step))
        for i, reward in enumerate(rewards):
            known = np.array([*history, *np.delete(rewards, i)])
            baseline = (2 * of_step.mean() + known.sum()) / (2 + len(known))
            expected = (reward - baseline) / (of_step.std(ddof=1) + 1e-4)
            assert ours[i].item() == pytest.approx(expected)


def test_fresh_advantages_are_those_of_the_named_baseline(monkeypatch):
    rewards, history, of_step = torch.tensor([1.0, 0.0, 0.0]), [1.0], torch.tensor([1.0, 0.0])
    against_others = shrunk_advantages(rewards, history, of_step)
    assert torch.equal(fresh_advantages(rewards, history, of_step, "shrunk"), against_others)
    against_mean = group_advantages(rewards)
    assert torch.equal(fresh_advantages(rewards, history, of_step, "group"), against_mean)
    for baseline in BASELINES:  # a group without a verdict compares with itself alone
        assert torch.equal(fresh_advantages(rewards, None, of_step, baseline), against_mean)

    # one of one's own is used, and one that nobody added is refused
    def leave_one_out(rewards, history, step_rewards):
        return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)

    monkeypatch.setitem(BASELINES, "rloo", leave_one_out)
    ours = fresh_advantages(rewards, history, of_step, "rloo")
    torch.testing.assert_close(ours, torch.tensor([1.0, -0.5, -0.5]))
    with pytest.raises(ValueError, match="unknown baseline 'remax'; known: group, shrunk"):
        fresh_advantages(rewards, history, of_step, "remax")


def test_a_group_of_equal_rewards_has_advantages_against_a_shrunk_baseline():
    """Above 0 where it is better than the step, the less the better the prompt was before; a step
    whose rewards are all equal has none."""
    of_step = torch.tensor([0.0, 0.0, 1.0, 1.0])
    new = shrunk_advantages(torch.ones(2), [], of_step)
    known = shrunk_advantages(torch.ones(2), [1.0] * 20, of_step)
    assert (new > known).all()
    assert (known > 0).all()
    assert (shrunk_advantages(torch.zeros(2), [1.0] * 20, of_step) < -1).all()
    assert not shrunk_advantages(torch.ones(2), [], torch.ones(8)).any()


# ------------------------------------------------------------------ the hint as a teacher
def test_a_hint_adds_the_log_of_a_ratio_between_bounds():
    """log(0.5 / 0.25), log(0.1 / 0.2), and 1 in place of log(0.9 / 0.1) = 2.2; of weight 0.3 beside
    an advantage of 2 with weights 1.3 and 1."""
    hinted = torch.tensor([0.5, 0.1, 0.9]).log()
    plain = torch.tensor([0.25, 0.2, 0.1]).log()
    gains = hint_gains(hinted, plain)
    assert gains.tolist() == pytest.approx([math.log(2), -math.log(2), 1.0])
    assert hint_gains(plain, hinted).tolist() == pytest.approx([-math.log(2), math.log(2), -1.0])

    weights = torch.tensor([[1.3, 1.0, 0.0]])
    bonus = 0.3 * torch.tensor([[0.5, -0.5, 0.0]])
    together = token_advantages(torch.tensor([2.0]), weights, bonus)
    assert together[0].tolist() == pytest.approx([2.75, 1.85, 0.0])


# ------------------------------------------------------------------ the loss
class RandomBatch(NamedTuple):
    """Completions of 6, 3, 1 and 0 tokens under three policies, in double precision."""

    logp: Tensor
    behaviour: Tensor
    reference: Tensor
    advantages: Tensor
    weights: Tensor
    mask: Tensor


def random_batch(seed: int = 0) -> RandomBatch:
    generator = torch.Generator().manual_seed(seed)

    def logps():
        return -2 * torch.rand(4, 6, generator=generator, dtype=torch.float64)

    mask = mask_of(6, 3, 1, 0)
    advantages = torch.tensor([1.2, -0.7, 0.4, 0.9], dtype=torch.float64)
    weights = temporal_weights(mask, 0.3).double()
    return RandomBatch(logps(), logps(), logps(), advantages, weights, mask)


def shaped(batch: RandomBatch) -> Tensor:
    """A_t without a hint as teacher."""
    return token_advantages(batch.advantages, batch.weights, torch.zeros_like(batch.weights))


def ours(batch, level="token", clip="ppo", high=0.0, beta=0.0):
    """Our loss, averaged over each completion's tokens, and where it is clipped."""
    ratio = importance_ratio(batch.logp, batch.behaviour, batch.mask, level)
    loss, clipped = clipped_is_loss(ratio, batch.logp, shaped(batch), clip, eps=0.2, eps_high=high)
    loss = loss + beta * kl_k3(batch.logp, batch.reference)
    return completion_means(loss, batch.mask), clipped


def by_hand(batch, level="token", clip="ppo", high=0.2, beta=0.0, eps=0.2):
    """The loss of every completion, token by token in Python, from the paper's formulas.

    The sequence ratio and the weights of cispo are numbers here, so only values can be compared
    with it for them, never gradients.
    """
    losses = []
    for i in range(len(batch.logp)):
        logp = batch.logp[i].tolist()
        behaviour = batch.behaviour[i].tolist()
        n = int(batch.mask[i].sum())
        mean = sum(logp[t] - behaviour[t] for t in range(n)) / max(n, 1)

        total = 0.0
        for t in range(n):
            r = math.exp(mean if level == "sequence" else logp[t] - behaviour[t])
            a = batch.advantages[i].item() * batch.weights[i, t].item()
            bounded = min(max(r, 1 - eps), 1 + high)
            if clip == "ppo":
                total -= min(r * a, bounded * a)
            else:
                total -= min(r, 1 + high) * a * logp[t]
            d = batch.reference[i, t].item() - logp[t]
            total += beta * (math.exp(d) - d - 1)
        losses.append(total / max(n, 1))
    return np.array(losses)


def one_token_each(ratios, advantages) -> RandomBatch:
    """Completions of one token with these importance ratios."""
    n = len(ratios)
    logp = torch.log(torch.tensor(ratios))[:, None].requires_grad_()
    zeros = torch.zeros(n, 1)
    ones = torch.ones(n, 1)
    return RandomBatch(logp, zeros, zeros, torch.tensor(advantages), ones, ones.bool())


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("clip", ["ppo", "cispo"])
@pytest.mark.parametrize("high", [0.0, 0.28])
def test_loss_equals_the_formula_written_out(level, clip, high):
    batch = random_batch()
    loss, _ = ours(batch, level, clip, high, beta=0.1)
    expected = by_hand(batch, level, clip, high or 0.2, beta=0.1)
    assert loss.numpy() == pytest.approx(expected)


def test_loss_gradient_equals_finite_differences():
    batch = random_batch(1)
    batch.logp.requires_grad_()
    ours(batch, beta=0.1)[0].sum().backward()
    for i, t in [(0, 0), (0, 5), (1, 2), (2, 0)]:
        sums = []
        for change in (1e-6, -1e-6):
            moved = batch.logp.detach().clone()
            moved[i, t] += change
            sums.append(by_hand(batch._replace(logp=moved), beta=0.1).sum())
        numeric = (sums[0] - sums[1]) / 2e-6
        assert batch.logp.grad[i, t].item() == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_sequence_ratio_has_gspos_gradient():
    """With one advantage for the whole completion, GSPO's plain form (a ratio that carries its own
    gradient) and ours agree."""
    batch = random_batch(4)
    batch = batch._replace(weights=torch.ones_like(batch.logp) * batch.mask)
    batch.logp.requires_grad_()
    ours(batch, level="sequence")[0].sum().backward()

    plain = batch.logp.detach().clone().requires_grad_()
    lengths = batch.mask.sum(1)
    log_ratio = (plain - batch.behaviour) * batch.mask
    ratio = torch.exp(log_ratio.sum(1) / lengths.clamp(min=1))
    objective = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
    (-objective * (lengths > 0)).sum().backward()
    torch.testing.assert_close(batch.logp.grad, plain.grad)


def test_tas_weights_reach_their_own_token_through_a_sequence_ratio():
    logp = torch.full((1, 3), -1.0, requires_grad=True)
    weights = torch.tensor([[3.0, 1.0, 2.0]])
    behaviour = torch.full((1, 3), -1.0)
    batch = RandomBatch(logp, behaviour, behaviour, torch.ones(1), weights, mask_of(3))
    ours(batch, level="sequence")[0].sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([-1, -1 / 3, -2 / 3])


@pytest.mark.parametrize(("clip", "slope"), [("ppo", 0.0), ("cispo", -1.2)])
def test_cispo_keeps_a_bounded_gradient_where_ppo_has_none(clip, slope):
    """Ratio 1.5, A = 1: PPO's clip at 1.2 kills the gradient, CISPO's weight is 1.2."""
    batch = one_token_each([1.5], [1.0])
    loss, clipped = ours(batch, clip=clip)
    loss.sum().backward()
    assert batch.logp.grad.item() == pytest.approx(slope)
    assert clipped.item()


@pytest.mark.parametrize(
    ("clip", "slopes"),
    [
        ("ppo", [0.0, -0.5, 9.0, 0.0]),
        ("cispo", [-1.2, -0.5, 1.2, 0.5]),
    ],
)
def test_what_each_clip_does_to_good_and_bad_news_far_from_the_policy(clip, slopes):
    """Ratios 9 and 0.5 with A = 1, then with A = -1: d loss / d logp by hand. PPO alone lets one
    replayed token weigh nine times as much as a fresh one."""
    batch = one_token_each([9.0, 0.5, 9.0, 0.5], [1.0, 1.0, -1.0, -1.0])
    ours(batch, clip=clip)[0].sum().backward()
    assert batch.logp.grad[:, 0].tolist() == pytest.approx(slopes)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("ppo", [True, False, False, True]),
        ("cispo", [True, True, False, False]),
    ],
)
def test_where_each_bound_is_active(clip, expected):
    """Ratios 1.5, 1.5, 0.5, 0.5 with A = 1, -1, 1, -1."""
    _, clipped = ours(one_token_each([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0]), clip=clip)
    assert clipped[:, 0].tolist() == expected


def test_clip_higher_moves_the_upper_bound_only():
    _, clipped = ours(one_token_each([1.25, 0.75], [1.0, -1.0]), high=0.28)
    assert clipped[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_last_token_is_trained_and_padding_and_empty_completions_are_not(level):
    """The last token of a completion is its EOS: it has a gradient. An empty completion gives loss
    0, not NaN."""
    batch = random_batch(2)
    batch = batch._replace(behaviour=batch.logp.clone())
    batch.logp.requires_grad_()
    loss, clipped = ours(batch, level)
    loss.sum().backward()
    gradient = batch.logp.grad
    assert loss[3].item() == 0
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    assert all(gradient[i, n - 1] != 0 for i, n in enumerate((6, 3, 1)))
    assert (gradient[~batch.mask] == 0).all()

    ratio = importance_ratio(batch.logp, batch.behaviour, batch.mask, level)
    assert (ratio == 1).all()
    assert not clipped.any()


@pytest.mark.parametrize("clip", ["ppo", "cispo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_padding_has_ratio_one_no_loss_and_is_never_clipped(level, clip):
    """Whatever stands in it."""
    batch = random_batch(5)
    batch = batch._replace(behaviour=torch.where(batch.mask, batch.behaviour, -50.0))
    ratio = importance_ratio(batch.logp, batch.behaviour, batch.mask, level)
    loss, clipped = clipped_is_loss(ratio, batch.logp, shaped(batch), clip)
    assert (ratio[~batch.mask] == 1).all()
    assert (loss[~batch.mask] == 0).all()
    assert not clipped[~batch.mask].any()


def test_clipping_by_hand():
    """Ratio 1.5 with A > 0 is clipped at 1.2 and has no gradient; with A < 0 it is not clipped."""
    batch = one_token_each([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    loss, clipped = ours(batch)
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert clipped[:, 0].tolist() == [True, False, False, True]
    loss.sum().backward()
    assert batch.logp.grad[:, 0].tolist() == pytest.approx([0, 1.5, -0.5, 0])


# ------------------------------------------------------------------ the weights of the losses
PIECES = ([slice(0, 4)], [slice(0, 1), slice(1, 4)], [slice(i, i + 1) for i in range(4)])


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("sequence", (15 / 6 + 21 / 3 + 12 / 1 + 0) / 4),
        ("token", (15 + 21 + 12) / 10),
    ],
)
def test_the_loss_does_not_depend_on_the_split(norm, expected):
    """Completions of 6, 3, 1 and 0 tokens: by hand, as one batch and in pieces."""
    mask = mask_of(6, 3, 1, 0)
    loss = torch.arange(24.0).view(4, 6)  # sums of the tokens: 15, 6 + 7 + 8 = 21, 12 and 0
    fresh = torch.zeros(4, dtype=torch.bool)
    counts = torch.tensor([[4, 10], [0, 0]])
    for pieces in PIECES:
        total = 0.0
        for piece in pieces:
            weights = loss_weights(mask[piece], fresh[piece], counts, 1.0, norm)
            total += (loss[piece] * weights).sum().item()
        assert total == pytest.approx(expected)


@pytest.mark.parametrize(
    ("norm", "on_policy", "off_policy"),
    [
        ("sequence", (15 / 6 + 12 / 1) / 2, (21 / 3 + 0) / 2),
        ("token", (15 + 12) / 7, 21 / 3),
    ],
)
def test_fresh_and_replayed_losses_are_means_of_their_own(norm, on_policy, off_policy):
    """J_on + alpha J_off with the first and third completion fresh, whole and in pieces."""
    mask = mask_of(6, 3, 1, 0)
    loss = torch.arange(24.0).view(4, 6)
    replayed = torch.tensor([False, True, False, True])
    counts = torch.tensor([[2, 7], [2, 3]])
    for pieces in PIECES:
        total = 0.0
        for piece in pieces:
            weights = loss_weights(mask[piece], replayed[piece], counts, 0.3, norm)
            assert (weights[~mask[piece]] == 0).all()
            total += (loss[piece] * weights).sum().item()
        assert total == pytest.approx(on_policy + 0.3 * off_policy)


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_a_batch_of_fillers_has_weights_of_zero(norm):
    """No token counts and no completion was counted anywhere: 0, not NaN."""
    mask = torch.zeros(2, 3, dtype=torch.bool)
    replayed = torch.tensor([False, True])
    weights = loss_weights(mask, replayed, torch.zeros(2, 2, dtype=torch.long), 1.0, norm)
    assert weights.tolist() == [[0.0] * 3] * 2


# ------------------------------------------------------------------ KL and diagnostics
def test_completion_means_are_over_each_completions_own_tokens():
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 7.0, 100.0], [5.0, 5.0, 5.0]])
    assert completion_means(values, mask_of(3, 2, 0)).tolist() == pytest.approx([4.0, 5.5, 0.0])


def test_kl_to_behaviour_is_unbiased_for_the_exact_kl():
    """Two policies over three tokens: the mean of r log r - (r - 1) under the behaviour policy is
    sum p_theta log(p_theta / p_behaviour)."""
    new = np.array([0.5, 0.3, 0.2])
    old = np.array([0.2, 0.2, 0.6])
    log_ratio = torch.from_numpy(np.log(new / old))[:, None]
    per_token = kl_to_behaviour(log_ratio, torch.ones(3, 1).bool()).numpy()
    assert (per_token >= 0).all()
    assert (old * per_token).sum() == pytest.approx((new * np.log(new / old)).sum())

    for length in (2, 0):  # equal policies; no token at all
        assert kl_to_behaviour(torch.zeros(1, 4), mask_of(length, width=4)).item() == 0


def test_kl_is_zero_where_policies_agree_and_positive_elsewhere():
    logp = torch.tensor([-1.0, -2.0, -0.5])
    assert kl_k3(logp, logp).tolist() == [0, 0, 0]
    expected = [2 - math.log(2) - 1] * 3
    assert kl_k3(logp, logp + math.log(2)).tolist() == pytest.approx(expected, rel=1e-5)


def test_kl_is_unbiased_for_the_exact_kl():
    """Under the policy's own samples: the mean of k3 is sum p log(p / p_ref)."""
    policy = np.array([0.5, 0.3, 0.2])
    reference = np.array([0.2, 0.2, 0.6])
    k3 = kl_k3(torch.from_numpy(np.log(policy)), torch.from_numpy(np.log(reference))).numpy()
    assert (policy * k3).sum() == pytest.approx((policy * np.log(policy / reference)).sum())


def test_kl_is_not_shaped_by_tas():
    batch = random_batch(3)._replace(advantages=torch.zeros(4, dtype=torch.float64))
    shaped, _ = ours(batch, beta=0.1)
    unshaped, _ = ours(batch._replace(weights=torch.ones_like(batch.weights)), beta=0.1)
    assert torch.equal(shaped, unshaped)
    assert shaped[0] > 0


def test_unknown_options_are_refused():
    x = torch.zeros(2, 3)
    mask = torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match=r"unknown level 'word'.*known: token, sequence"):
        importance_ratio(x, x, mask, "word")
    with pytest.raises(ValueError, match="unknown clip 'none'; known: ppo, cispo"):
        clipped_is_loss(x, x, x, clip="none")
    with pytest.raises(ValueError, match="unknown loss norm 'max'; known: sequence, token"):
        loss_weights(mask, mask[:, 0], torch.ones(2, 2), 1.0, norm="max")
