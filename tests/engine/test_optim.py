"""engine/optim.py on one process, against torch's AdamW on fp32 weights. Several processes:
test_distributed.py."""

import copy

import pytest
import torch

from engine.optim import Optimizer, learning_rate

LR = 1e-2
SETTINGS = {"betas": (0.9, 0.95), "weight_decay": 0.1}


def make_params(dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": torch.nn.Parameter(torch.randn(4000, generator=g).to(dtype)),
        "b": torch.nn.Parameter(torch.randn(5, 7, generator=g).to(dtype)),
    }


def set_gradients(params, step: int) -> None:
    """The same for every type of weight: numbers that bf16 holds."""
    g = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g).bfloat16().to(p.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_follow_torchs_adamw_on_fp32_weights(dtype):
    """After every step bf16 weights are the rounded weights of AdamW on fp32 ones with the same
    gradients, clipped by torch."""
    params = make_params(dtype)
    exact = [torch.nn.Parameter(p.detach().float()) for p in params.values()]
    ours = Optimizer(params, {}, LR, **SETTINGS)
    theirs = torch.optim.AdamW(exact, lr=LR, **SETTINGS)
    for step in range(20):
        set_gradients(params.values(), step)
        set_gradients(exact, step)
        expected_norm = torch.nn.utils.clip_grad_norm_(exact, 2.0).item()
        theirs.step()
        assert ours.step(LR, 2.0) == pytest.approx(expected_norm, rel=1e-6)
        for (name, p), q in zip(params.items(), exact, strict=True):
            master = ours.masters[name]
            torch.testing.assert_close(master.detach(), q.detach(), atol=1e-6, rtol=1e-6)
            assert p.dtype == dtype
            assert torch.equal(p, master.to(dtype))
            assert p.grad is None and master.grad is None


def test_fp32_weights_are_their_own_masters_and_bf16_weights_are_not():
    for dtype, same in ((torch.float32, True), (torch.bfloat16, False)):
        params = make_params(dtype)
        optimizer = Optimizer(params, {}, LR)
        for name, p in params.items():
            assert (optimizer.masters[name] is p) == same
            assert optimizer.masters[name].dtype == torch.float32


def test_masters_keep_steps_that_rounding_would_lose():
    """1,000 steps of 5e-7, the released learning rate, on weights of 0.25, where bf16's spacing is
    2,000 times as large. Together they are 5e-4."""
    ours = torch.nn.Parameter(torch.full((10,), 0.25, dtype=torch.bfloat16))
    rounded = torch.nn.Parameter(torch.full((10,), 0.25, dtype=torch.bfloat16))
    optimizer = Optimizer({"a": ours}, {}, 5e-7)
    theirs = torch.optim.AdamW([rounded], lr=5e-7, weight_decay=0.0)
    for _ in range(1000):
        ours.grad = torch.ones_like(ours)
        rounded.grad = torch.ones_like(rounded)
        optimizer.step(5e-7, 1.0)
        theirs.step()
    assert bool((rounded == 0.25).all())  # torch's own, on bf16: nothing happened
    moved = 0.25 - optimizer.masters["a"]
    assert moved.detach().numpy() == pytest.approx(5e-4, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_bit_for_bit(dtype):
    """The state alone restores the weights, too: the second run begins from other ones. "c" never
    had a gradient."""
    first = make_params(dtype)
    first["c"] = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    second = {name: torch.nn.Parameter(torch.zeros_like(p)) for name, p in first.items()}
    a, b = Optimizer(first, {}, LR), Optimizer(second, {}, LR)
    for step in range(3):
        set_gradients([first["a"], first["b"]], step)
        a.step(LR, 1.0)

    saved = copy.deepcopy(a.state_dict())
    assert sorted(saved["a"]) == ["exp_avg", "exp_avg_sq", "step", "weight"]
    assert list(saved["c"]) == ["weight"]
    assert {t.dtype for tensors in saved.values() for t in tensors.values()} == {torch.float32}
    b.load_state_dict(saved)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for optimizer, params in ((a, first), (b, second)):
        for step in range(3, 6):
            set_gradients([params["a"], params["b"]], step)
            optimizer.step(LR, 1.0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(a.masters["a"], b.masters["a"])


def test_a_state_of_other_parameters_is_refused():
    saved = Optimizer(make_params(torch.float32), {}, LR).state_dict()
    more = make_params(torch.float32) | {"c": torch.nn.Parameter(torch.ones(3))}
    with pytest.raises(ValueError, match=r"c has the shape None there, and \(3,\) here"):
        Optimizer(more, {}, LR).load_state_dict(saved)
    other = make_params(torch.float32) | {"b": torch.nn.Parameter(torch.ones(5, 8))}
    with pytest.raises(ValueError, match=r"b has the shape \(5, 7\) there, and \(5, 8\) here"):
        Optimizer(other, {}, LR).load_state_dict(saved)


def test_a_step_clips_and_reports_the_norm_and_scales_the_towers_rate():
    """Gradients (3, 4) have norm 5. AdamW's first step moves every weight by its rate against the
    sign, whatever the gradient's size."""
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = Optimizer({"a": a}, {"b": b}, lr=1.0, tower_lr_fraction=0.1)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert optimizer.step(0.5, max_grad_norm=1.0) == pytest.approx(5.0)
    assert a.item() == pytest.approx(-0.5, rel=1e-4)
    assert b.item() == pytest.approx(0.05, rel=1e-4)
    # clipped to norm 1, then (1 - beta1) of it
    assert optimizer.state_dict()["a"]["exp_avg"].item() == pytest.approx(0.1 * 3 / 5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_no_number_changes_nothing(dtype, bad):
    params = make_params(dtype)
    optimizer = Optimizer(params, {}, LR)
    set_gradients(params.values(), 0)
    optimizer.step(LR, 1.0)
    before = copy.deepcopy(optimizer.state_dict())
    weights = {name: p.detach().clone() for name, p in params.items()}

    set_gradients(params.values(), 1)
    params["b"].grad[2, 3] = bad
    norm = optimizer.step(LR, 1.0)
    assert not torch.isfinite(torch.tensor(norm))
    for name, tensors in optimizer.state_dict().items():
        assert all(torch.equal(t, before[name][key]) for key, t in tensors.items())
        assert torch.equal(params[name], weights[name])
        assert params[name].grad is None and optimizer.masters[name].grad is None


def test_a_parameter_without_a_gradient_stays_as_it_is():
    """Weight decay and old momentum would move it."""
    params = make_params(torch.float32)
    optimizer = Optimizer(params, {}, LR, weight_decay=0.1)
    set_gradients(params.values(), 0)
    optimizer.step(LR, 1.0)
    before = params["b"].detach().clone()
    set_gradients([params["a"]], 1)
    optimizer.step(LR, 1.0)
    assert torch.equal(params["b"], before)


def test_learning_rate_warms_up_and_decays():
    """Two warm-up steps of 40 (5 %), then half a cosine from 1 to 0.05: in its middle (step 21)
    0.525."""
    rates = [learning_rate(1.0, step, 40) for step in (0, 1, 2, 21)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.525])
    assert 0.05 < learning_rate(1.0, 39, 40) < 0.06
