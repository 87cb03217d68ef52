"""tas.py against numbers worked by hand and against autograd of the plain formulas."""
import math

import numpy as np
import pytest
import torch

from tas import clipped_is_loss, group_advantages, kl_k3, replay_advantages, temporal_weights


def row(n, width=None):
    return torch.arange(width or n)[None] < n


@pytest.mark.parametrize(("shape", "expected"), [
    ("u", [1.3, 1.075, 1.0, 1.075, 1.3]),            # 1 + 0.3 (2 t/4 - 1)^2
    ("inverse", [1.0, 1.225, 1.3, 1.225, 1.0]),      # 1 + 0.3 (1 - (2 t/4 - 1)^2)
    ("decay", [1.3, 1.225, 1.15, 1.075, 1.0]),       # 1 + 0.3 (1 - t/4)
    ("incline", [1.0, 1.075, 1.15, 1.225, 1.3]),     # 1 + 0.3 t/4
    ("uniform", [1.0] * 5),
])
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
    assert group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == pytest.approx([a, -a, -a, a], rel=1e-6)


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
    assert replay_advantages(torch.tensor([1.0, 0.0]), 0.25).tolist() == pytest.approx([0.75 / 0.70720678, -0.25 / 0.70720678], rel=1e-6)
    assert replay_advantages(torch.tensor([1.0, 1.0]), 0.25).tolist() == [0.0, 0.0]  # the printed formula would give 7,500


def plain_loss(logp, old, adv, w, mask, eps, beta, ref):
    """The loss written token by token in NumPy, from method section 3."""
    out = []
    for i in range(len(logp)):
        total, n = 0.0, 0
        for t in range(logp.shape[1]):
            if not mask[i, t]:
                continue
            r, a = math.exp(logp[i, t] - old[i, t]), adv[i] * w[i, t]
            d = ref[i, t] - logp[i, t]
            total += -min(r * a, min(max(r, 1 - eps), 1 + eps) * a) + beta * (math.exp(d) - d - 1)
            n += 1
        out.append(total / max(n, 1))
    return np.array(out)


def random_batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    logp, old, ref = (-torch.rand(4, 6, generator=g, dtype=torch.float64) * 2 for _ in range(3))
    mask = torch.stack([row(n, 6)[0] for n in (6, 3, 1, 0)])
    return logp, old, ref, torch.tensor([1.2, -0.7, 0.4, 0.9], dtype=torch.float64), temporal_weights(mask, 0.3).double(), mask


def test_loss_equals_the_formula_written_out():
    logp, old, ref, adv, w, mask = random_batch()
    loss, _ = clipped_is_loss(logp, old, adv, w, mask, 0.2, 0.1, ref)
    assert loss.numpy() == pytest.approx(plain_loss(logp.numpy(), old.numpy(), adv.numpy(), w.numpy(), mask.numpy(), 0.2, 0.1, ref.numpy()))


def test_loss_gradient_equals_finite_differences():
    logp, old, ref, adv, w, mask = random_batch(1)
    logp.requires_grad_()
    clipped_is_loss(logp, old, adv, w, mask, 0.2, 0.1, ref)[0].sum().backward()
    values = [a.detach().numpy() for a in (logp, old, adv, w, mask)]
    for i, t in [(0, 0), (0, 5), (1, 2), (2, 0)]:
        up, down = values[0].copy(), values[0].copy()
        up[i, t] += 1e-6
        down[i, t] -= 1e-6
        numeric = (plain_loss(up, *values[1:], 0.2, 0.1, ref.numpy()).sum() - plain_loss(down, *values[1:], 0.2, 0.1, ref.numpy()).sum()) / 2e-6
        assert logp.grad[i, t].item() == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_last_token_is_trained_and_padding_and_empty_answers_are_not():
    """The last token of a completion is its EOS: it has a gradient. An empty completion gives loss 0, not NaN."""
    logp, old, _, adv, w, mask = random_batch(2)
    old = logp.clone()
    logp.requires_grad_()
    loss, seen = clipped_is_loss(logp, old, adv, w, mask)
    loss.sum().backward()
    assert loss[3].item() == 0 and torch.isfinite(loss).all()
    assert logp.grad[0, 5] != 0 and logp.grad[1, 2] != 0 and logp.grad[2, 0] != 0
    assert (logp.grad[~mask] == 0).all() and torch.isfinite(logp.grad).all()
    assert (seen["ratio"][mask] == 1).all() and not seen["clipped"].any()


def test_clipping_by_hand():
    """Ratio 1.5 with A > 0 is clipped at 1.2 and has no gradient; with A < 0 it is not clipped."""
    logp = torch.log(torch.tensor([[1.5], [1.5], [0.5], [0.5]])).requires_grad_()
    mask = torch.ones(4, 1, dtype=torch.bool)
    loss, seen = clipped_is_loss(logp, torch.zeros(4, 1), torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4, 1), mask, 0.2)
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert seen["clipped"][:, 0].tolist() == [True, False, False, True]
    loss.sum().backward()
    assert logp.grad[:, 0].tolist() == pytest.approx([0, 1.5, -0.5, 0])


def test_kl_is_zero_where_policies_agree_and_positive_elsewhere():
    logp = torch.tensor([-1.0, -2.0, -0.5])
    assert kl_k3(logp, logp).tolist() == [0, 0, 0]
    assert kl_k3(logp, logp + math.log(2)).tolist() == pytest.approx([2 - math.log(2) - 1] * 3, rel=1e-5)


def test_kl_is_not_shaped_by_tas():
    logp, old, ref, adv, w, mask = random_batch(3)
    zero = torch.zeros_like(adv)
    a, _ = clipped_is_loss(logp, old, zero, w, mask, 0.2, 0.1, ref)
    b, _ = clipped_is_loss(logp, old, zero, torch.ones_like(w), mask, 0.2, 0.1, ref)
    assert torch.equal(a, b) and a[0] > 0
