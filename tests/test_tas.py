"""tas.py against numbers worked by hand and against autograd of the plain formulas."""

import math

import numpy as np
import pytest
import torch

from tas import (
    clipped_is_loss,
    effective_sample_share,
    group_advantages,
    half_loss,
    importance_ratio,
    kl_k3,
    kl_to_behaviour,
    replay_advantages,
    temporal_weights,
    too_stale,
)


def row(n, width=None):
    return torch.arange(width or n)[None] < n


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
    assert temporal_weights(row(5, 7), 0.3, shape)[0].tolist() == pytest.approx([*expected, 0, 0])


def test_tas_counts_each_completions_own_tokens():
    """Two lengths in one batch: both rows end at 1 + lambda at their own last token, whatever the padding."""
    w = temporal_weights(torch.cat([row(3, 6), row(6, 6)]), 0.5)
    assert w[0].tolist() == pytest.approx([1.5, 1.0, 1.5, 0, 0, 0])
    assert w[1, 0].item() == w[1, 5].item() == pytest.approx(1.5)


def test_tas_one_token_and_none():
    assert temporal_weights(row(1, 3), 0.3)[0].tolist() == pytest.approx([1.3, 0, 0])
    assert temporal_weights(row(0, 3), 0.3, normalize=True)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", ["u", "inverse", "decay", "incline", "uniform"])
def test_tas_normalize_makes_the_mean_weight_one(shape):
    w = temporal_weights(torch.cat([row(4, 9), row(9, 9)]), 0.7, shape, normalize=True)
    assert (w.sum(1) / torch.tensor([4, 9])).tolist() == pytest.approx([1, 1])


def test_tas_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="known: u, uniform"):
        temporal_weights(row(3), 0.3, "parabola")


def test_group_advantages_by_hand():
    # mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.577350
    a = 0.5 / (0.57735027 + 1e-4)
    assert group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == pytest.approx(
        [a, -a, -a, a], rel=1e-6
    )


def test_group_advantages_of_two_prompts_keep_their_order():
    """Each prompt against its own group: the same reward is good in one and bad in the other."""
    a, b = torch.tensor([0.2, 0.6]), torch.tensor([0.6, 1.0])
    for group in (a, b):
        expected = (group.numpy() - group.numpy().mean()) / (group.numpy().std(ddof=1) + 1e-4)
        assert group_advantages(group).numpy() == pytest.approx(expected, rel=1e-5)
    assert group_advantages(a)[1] > 0 > group_advantages(b)[0]


@pytest.mark.parametrize("rewards", [[0.7] * 4, [0.0] * 4, [0.1 + 0.2, 0.3, 0.3], [1.0]])
def test_equal_rewards_and_single_completions_have_no_advantage(rewards):
    assert group_advantages(torch.tensor(rewards)).tolist() == [0.0] * len(rewards)


def test_replay_advantages_stand_against_the_prompts_history():
    # Rbar = 0.25; std([1, 0]) = 0.707107
    assert replay_advantages(torch.tensor([1.0, 0.0]), 0.25).tolist() == pytest.approx(
        [0.75 / 0.70720678, -0.25 / 0.70720678], rel=1e-6
    )
    assert replay_advantages(torch.tensor([1.0, 1.0]), 0.25).tolist() == [
        0.0,
        0.0,
    ]  # the printed formula would give 7,500


def plain_loss(logp, old, adv, w, mask, eps, beta, ref, level="token", clip="ppo", high=None):
    """The loss of every completion written token by token in NumPy, from method section 3. The sequence ratio and the weights of cispo and
    truncated are numbers here, so only their values are compared, never their gradients."""
    out, high = [], eps if high is None else high
    for i in range(len(logp)):
        total, n = 0.0, sum(mask[i])
        mean = sum(logp[i, t] - old[i, t] for t in range(n)) / max(n, 1)
        for t in range(n):
            r, a = (
                math.exp(mean if level == "sequence" else logp[i, t] - old[i, t]),
                adv[i] * w[i, t],
            )
            d, bounded = ref[i, t] - logp[i, t], min(max(r, 1 - eps), 1 + high)
            term = {
                "ppo": -min(r * a, bounded * a),
                "cispo": -bounded * a * logp[i, t],
                "truncated": -min(r, 1 + high) * a * logp[i, t],
            }[clip]
            total += term + beta * (math.exp(d) - d - 1)
        out.append(total / max(n, 1))
    return np.array(out)


def random_batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    logp, old, ref = (-torch.rand(4, 6, generator=g, dtype=torch.float64) * 2 for _ in range(3))
    mask = torch.stack([row(n, 6)[0] for n in (6, 3, 1, 0)])
    return (
        logp,
        old,
        ref,
        torch.tensor([1.2, -0.7, 0.4, 0.9], dtype=torch.float64),
        temporal_weights(mask, 0.3).double(),
        mask,
    )


def loss_of(
    logp, old, adv, w, mask, eps=0.2, beta=0.0, ref=None, level="token", clip="ppo", high=None
):
    """Our loss, averaged over each completion's tokens, and the diagnostics."""
    per_token, seen = clipped_is_loss(
        importance_ratio(logp, old, mask, level), logp, adv, w, mask, eps, high, clip, beta, ref
    )
    return per_token.sum(1) / mask.sum(1).clamp(min=1), seen


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("clip", ["ppo", "cispo", "truncated"])
@pytest.mark.parametrize("high", [None, 0.28])
def test_loss_equals_the_formula_written_out(level, clip, high):
    logp, old, ref, adv, w, mask = random_batch()
    loss, _ = loss_of(logp, old, adv, w, mask, 0.2, 0.1, ref, level, clip, high)
    values = [x.numpy() for x in (logp, old, adv, w, mask)]
    assert loss.numpy() == pytest.approx(
        plain_loss(*values, 0.2, 0.1, ref.numpy(), level, clip, high)
    )


def test_loss_gradient_equals_finite_differences():
    logp, old, ref, adv, w, mask = random_batch(1)
    logp.requires_grad_()
    loss_of(logp, old, adv, w, mask, 0.2, 0.1, ref)[0].sum().backward()
    values = [a.detach().numpy() for a in (logp, old, adv, w, mask)]
    for i, t in [(0, 0), (0, 5), (1, 2), (2, 0)]:
        up, down = values[0].copy(), values[0].copy()
        up[i, t] += 1e-6
        down[i, t] -= 1e-6
        numeric = (
            plain_loss(up, *values[1:], 0.2, 0.1, ref.numpy()).sum()
            - plain_loss(down, *values[1:], 0.2, 0.1, ref.numpy()).sum()
        ) / 2e-6
        assert logp.grad[i, t].item() == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_sequence_ratio_has_gspos_gradient():
    """With one advantage for the whole completion, GSPO's plain form (a ratio that carries its own gradient) and ours agree."""
    logp, old, _, adv, _, mask = random_batch(4)
    ours, plain = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    loss_of(ours, old, adv, torch.ones_like(logp) * mask, mask, level="sequence")[
        0
    ].sum().backward()
    s = torch.exp(((plain - old) * mask).sum(1) / mask.sum(1).clamp(min=1))  # (G,)
    live = mask.any(1)
    (-torch.minimum(s * adv, s.clamp(0.8, 1.2) * adv) * live).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_tas_weights_reach_their_own_token_through_a_sequence_ratio():
    logp, w = torch.full((1, 3), -1.0, requires_grad=True), torch.tensor([[3.0, 1.0, 2.0]])
    loss_of(logp, torch.full((1, 3), -1.0), torch.tensor([1.0]), w, row(3), level="sequence")[
        0
    ].sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([-1, -1 / 3, -2 / 3])


def test_cispo_keeps_a_bounded_gradient_where_ppo_has_none():
    """Ratio 1.5, A = 1: PPO's clip at 1.2 kills the gradient, CISPO's weight is 1.2."""
    for clip, expected in (("ppo", 0.0), ("cispo", -1.2)):
        logp = torch.log(torch.tensor([[1.5]])).requires_grad_()
        loss, seen = loss_of(
            logp, torch.zeros(1, 1), torch.tensor([1.0]), torch.ones(1, 1), row(1), clip=clip
        )
        loss.sum().backward()
        assert logp.grad.item() == pytest.approx(expected) and seen["clipped"].item()


def test_a_shift_moves_replayed_advantages_but_not_those_of_equal_rewards():
    plain, moved = (
        replay_advantages(torch.tensor([1.0, 0.0, 0.0]), 0.25, shift) for shift in (0.0, 0.35)
    )
    assert (moved - plain).tolist() == pytest.approx([0.35] * 3) and replay_advantages(
        torch.ones(3), 0.25, 0.35
    ).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("clip", "slopes"),
    [
        ("ppo", [0.0, -0.5, 9.0, 0.0]),
        ("cispo", [-1.2, -0.8, 1.2, 0.8]),
        ("truncated", [-1.2, -0.5, 1.2, 0.5]),
    ],
)
def test_what_each_clip_does_to_good_and_bad_news_far_from_the_policy(clip, slopes):
    """Ratios 9 and 0.5 with A = 1, then with A = -1: d loss / d logp by hand. PPO alone lets one replayed token weigh nine times as much as a fresh one."""
    ratio, a = torch.tensor([[9.0], [0.5], [9.0], [0.5]]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    logp = torch.log(ratio).requires_grad_()
    loss, _ = loss_of(
        logp, torch.zeros(4, 1), a, torch.ones(4, 1), torch.ones(4, 1).bool(), clip=clip
    )
    loss.sum().backward()
    assert logp.grad[:, 0].tolist() == pytest.approx(slopes)


def test_clip_higher_moves_the_upper_bound_only():
    logp = torch.log(torch.tensor([[1.25], [0.75]]))
    _, seen = loss_of(
        logp,
        torch.zeros(2, 1),
        torch.tensor([1.0, -1.0]),
        torch.ones(2, 1),
        torch.ones(2, 1).bool(),
        high=0.28,
    )
    assert seen["clipped"][:, 0].tolist() == [False, True]


def test_last_token_is_trained_and_padding_and_empty_answers_are_not():
    """The last token of a completion is its EOS: it has a gradient. An empty completion gives loss 0, not NaN."""
    for level in ("token", "sequence"):
        logp, _, _, adv, w, mask = random_batch(2)
        old = logp.clone()
        logp.requires_grad_()
        loss, seen = loss_of(logp, old, adv, w, mask, level=level)
        loss.sum().backward()
        assert loss[3].item() == 0 and torch.isfinite(loss).all()
        assert logp.grad[0, 5] != 0 and logp.grad[1, 2] != 0 and logp.grad[2, 0] != 0
        assert (logp.grad[~mask] == 0).all() and torch.isfinite(logp.grad).all()
        assert (seen["ratio"][mask] == 1).all() and not seen["clipped"].any()


def test_clipping_by_hand():
    """Ratio 1.5 with A > 0 is clipped at 1.2 and has no gradient; with A < 0 it is not clipped."""
    logp = torch.log(torch.tensor([[1.5], [1.5], [0.5], [0.5]])).requires_grad_()
    mask = torch.ones(4, 1, dtype=torch.bool)
    loss, seen = loss_of(
        logp, torch.zeros(4, 1), torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4, 1), mask, 0.2
    )
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert seen["clipped"][:, 0].tolist() == [True, False, False, True]
    loss.sum().backward()
    assert logp.grad[:, 0].tolist() == pytest.approx([0, 1.5, -0.5, 0])


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_half_loss_does_not_depend_on_the_split(norm):
    """Completions of 6, 3, 1 and 0 tokens: by hand, whole and in pieces."""
    mask = random_batch()[5]
    per_token = (
        torch.arange(24.0).view(4, 6) * mask
    )  # the rows sum to 0 + .. + 5 = 15, 6 + 7 + 8 = 21, 12 and 0
    expected = (15 / 6 + 21 / 3 + 12 / 1 + 0) / 4 if norm == "sequence" else (15 + 21 + 12) / 10
    for pieces in ([slice(0, 4)], [slice(0, 1), slice(1, 4)], [slice(i, i + 1) for i in range(4)]):
        total = sum(half_loss(per_token[p], mask[p], 4, 10, norm) for p in pieces)
        assert total.item() == pytest.approx(expected)


def test_stale_bad_news_is_left_out():
    """Only completions with A < 0 that are now less likely per token by more than the bound; 0 switches it off."""
    log_ratio = torch.tensor(
        [
            [-2.0, -2.0, -2.0],
            [-3.0, 0.0, 0.0],
            [-2.0, -2.0, -2.0],
            [2.0, 2.0, 2.0],
            [-1.0, -0.5, 0.0],
            [0.0, 0.0, 0.0],
        ]
    )
    mask = torch.tensor(
        [[True] * 3, [True] * 3, [True] * 3, [True] * 3, [True, True, False], [False] * 3]
    )
    adv = torch.tensor([-1.0, -1.0, 1.0, -1.0, -1.0, -1.0])
    assert too_stale(log_ratio, mask, adv, 1.0).tolist() == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]  # means -2, -1, -2, 2, -0.75, none
    assert too_stale(log_ratio, mask, adv, 0.7).tolist() == [True, True, False, False, True, False]
    assert not too_stale(log_ratio, mask, adv, 0.0).any()


def test_kl_to_behaviour_is_unbiased_for_the_exact_kl():
    """Two policies over three tokens: the mean of r log r - (r - 1) under the behaviour policy is sum p_theta log(p_theta / p_behaviour)."""
    new, old = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    log_ratio = torch.from_numpy(np.log(new / old))[:, None]
    per_token = kl_to_behaviour(log_ratio, torch.ones(3, 1).bool()).numpy()
    assert (per_token >= 0).all() and (old * per_token).sum() == pytest.approx(
        (new * np.log(new / old)).sum()
    )
    assert (
        kl_to_behaviour(torch.zeros(1, 4), row(2, 4)).item()
        == 0
        == kl_to_behaviour(torch.zeros(1, 4), row(0, 4)).item()
    )


def test_effective_sample_share():
    assert effective_sample_share(torch.ones(5)) == pytest.approx(1) and effective_sample_share(
        torch.tensor([0.0, 0, 0, 7])
    ) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m: importance_ratio(x, x, m, "word"), "unknown level"),
        (lambda x, m: clipped_is_loss(x, x, x[:, 0], x, m, clip="none"), "unknown clip"),
        (lambda x, m: half_loss(x, m, 1, 1, norm="max"), "unknown loss norm"),
    ],
)
def test_unknown_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3), torch.ones(2, 3).bool())


def test_kl_is_zero_where_policies_agree_and_positive_elsewhere():
    logp = torch.tensor([-1.0, -2.0, -0.5])
    assert kl_k3(logp, logp).tolist() == [0, 0, 0]
    assert kl_k3(logp, logp + math.log(2)).tolist() == pytest.approx(
        [2 - math.log(2) - 1] * 3, rel=1e-5
    )


def test_kl_is_not_shaped_by_tas():
    logp, old, ref, adv, w, mask = random_batch(3)
    zero = torch.zeros_like(adv)
    a, _ = loss_of(logp, old, zero, w, mask, 0.2, 0.1, ref)
    b, _ = loss_of(logp, old, zero, torch.ones_like(w), mask, 0.2, 0.1, ref)
    assert torch.equal(a, b) and a[0] > 0
