"""optim.py: against torch's AdamW on fp32 weights, and rounding against its own definition."""

import copy

import pytest
import torch

from engine import optim
from engine.optim import Bf16AdamW, Trained, deal, learning_rate, round_at_random


def weights(dtype, seed=0, n=4000):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(n, generator=g).to(dtype)),
        torch.nn.Parameter(torch.randn(5, 7, generator=g).to(dtype)),
    ]


def give_gradients(params, step):
    g = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g).to(torch.bfloat16).to(p.dtype)


def test_fp32_weights_get_torchs_fused_adamw():
    a, b = weights(torch.float32)
    optimizer = Trained({"a": a}, {"b": b}, lr=1e-3, tower_share=0.1, weight_decay=0.01).optimizer
    assert (
        type(optimizer) is torch.optim.AdamW
        and optimizer.defaults["fused"]
        and [g["share"] for g in optimizer.param_groups] == [1.0, 0.1]
    )


def test_fp32_masters_follow_torchs_adamw(monkeypatch):
    """bf16 weights with fp32 state are, after every step, the rounded weights of AdamW on fp32 ones given the same gradients."""
    monkeypatch.setattr(optim, "SLICE", 1000)  # several slices per tensor
    ours, exact = weights(torch.bfloat16), weights(torch.bfloat16)
    exact = [torch.nn.Parameter(p.detach().float()) for p in exact]
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    a, b = Bf16AdamW(ours, **settings), torch.optim.AdamW(exact, **settings)
    for step in range(20):
        give_gradients(ours, step)
        give_gradients(exact, step)
        a.step()
        b.step()
        for p, q in zip(ours, exact, strict=True):
            torch.testing.assert_close(a.state[p]["master"], q.detach(), atol=1e-6, rtol=1e-6)
            assert p.dtype == torch.bfloat16 and torch.equal(p, a.state[p]["master"].bfloat16())


def test_random_rounding_is_unbiased_and_only_to_neighbours():
    """1 + 1/512 lies a quarter of the way from 1 to 1 + 1/128, bf16's next number: 25 % go up (standard error 0.14 %)."""
    x = torch.full((100_000,), 1 + 1 / 512)
    rounded = round_at_random(x, torch.Generator().manual_seed(0)).float()
    assert set(rounded.tolist()) == {1.0, 1 + 1 / 128} and (
        rounded > 1
    ).float().mean().item() == pytest.approx(0.25, abs=0.006)
    kept = torch.tensor([0.0, -1.5, 3.0e38, 1e-30, float("inf")]).bfloat16().float()
    assert torch.equal(round_at_random(kept, torch.Generator().manual_seed(1)).float(), kept)


def test_bf16_state_keeps_steps_that_nearest_rounding_would_lose():
    """1,000 steps of 5e-7, the released learning rate, on weights of 1: each is 1/15,000 of bf16's spacing. Together they are 5e-4."""
    ours, nearest = (torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16)) for _ in range(2))
    a, b = (
        Bf16AdamW([ours], lr=5e-7, state_dtype=torch.bfloat16),
        torch.optim.AdamW([nearest], lr=5e-7, weight_decay=0.0),
    )
    for _ in range(1000):
        ours.grad, nearest.grad = (torch.ones_like(p) for p in (ours, nearest))
        a.step()
        b.step()
    assert bool((nearest == 1).all())  # torch's own: nothing happened
    assert 1 - ours.float().mean().item() == pytest.approx(5e-4, rel=0.15)
    assert {s.dtype for k, s in a.state[ours].items() if k != "step"} == {
        torch.bfloat16
    } and "master" not in a.state[ours]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_bit_for_bit(dtype):
    def builder(params):
        return Bf16AdamW([{"params": params, "share": 1.0}], lr=1e-3, state_dtype=dtype, seed=3)

    first = weights(torch.bfloat16)
    a = builder(first)
    for step in range(3):
        give_gradients(first, step)
        a.step()
    saved = copy.deepcopy(a.state_dict())
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    b = builder(second)
    b.load_state_dict(saved)
    assert b.state[second[0]]["exp_avg"].dtype == dtype
    for optimizer, params in ((a, first), (b, second)):
        for step in range(3, 6):
            give_gradients(params, step)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_a_step_clips_and_reports_the_norm_and_scales_rates_by_share():
    """Gradients (3, 4) have norm 5. AdamW's first step moves every weight by its rate against the sign, whatever the gradient's size."""
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    trained = Trained({"a": a}, {"b": b}, lr=1.0, tower_share=0.1, weight_decay=0.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert trained.step(0.5, max_grad_norm=1.0) == pytest.approx(5.0)
    assert (a.item(), b.item()) == pytest.approx((-0.5, 0.05), rel=1e-4) and a.grad is None
    assert trained.state()["a"]["exp_avg"].item() == pytest.approx(
        0.1 * 3 / 5, rel=1e-4
    )  # clipped to norm 1, then (1 - beta1) of it


def test_clipping_equals_torchs():
    ours, theirs = weights(torch.float32), weights(torch.float32)
    for params in (ours, theirs):
        give_gradients(params, 0)
    norm = Trained({"a": ours[0]}, {"b": ours[1]}, lr=1.0).clip(2.0)
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 2.0).item(), rel=1e-6)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=0)


def test_owners_hold_about_the_same(monkeypatch):
    """The sizes of Qwen2.5-Omni-7B's kinds of tensors: no process holds more than the mean and one tensor."""
    sizes = (
        [545_000_000, 545_000_000]
        + [67_895_296] * 84
        + [12_845_056] * 56
        + [1_835_008] * 56
        + [3584] * 57
    )
    for world in (1, 2, 3, 8):
        owners = deal(sizes, world)
        held = [
            sum(n for n, o in zip(sizes, owners, strict=True) if o == rank) for rank in range(world)
        ]
        assert sum(held) == sum(sizes) and max(held) <= sum(sizes) / world + max(sizes) / 8
    monkeypatch.setattr(optim, "BUCKET", 8)
    trained = Trained(
        {str(n): torch.nn.Parameter(torch.zeros(n)) for n in (3, 4, 9, 1)}, {}, lr=1.0
    )
    assert [
        (owner, [p.numel() for p in batch]) for owner, batch in trained.messages(trained.whole)
    ] == [(0, [3, 4]), (0, [9]), (0, [1])]


def test_learning_rate_warms_up_and_decays():
    """Four warm-up steps of 40, then half a cosine from 1 to 0.05: in its middle (step 22) 0.525."""
    assert [learning_rate(1.0, 0.1, s, 40) for s in (0, 1, 3, 4, 22)] == pytest.approx(
        [0.25, 0.5, 1.0, 1.0, 0.525]
    )
    assert 0.05 < learning_rate(1.0, 0.1, 39, 40) < 0.06
