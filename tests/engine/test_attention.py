"""engine/attention.py against torch's own attention and autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.attention import (
    Pieces,
    attend,
    attend_backward,
    attend_by_hand,
    attend_by_hand_backward,
    attend_pieces,
    join,
)
from engine.logprobs import fp32_logits

KERNELS = ((attend, attend_backward), (attend_by_hand, attend_by_hand_backward))


@pytest.mark.parametrize(
    ("heads", "tokens", "causal"),
    [((4, 2), (9, 9), True), ((4, 4), (5, 12), False), ((6, 2), (1, 7), False)],
)
def test_attention_and_its_gradients_equal_torch(heads, tokens, causal):
    """Kernel and by hand; the log-sum-exps against their definition."""
    generator = torch.Generator().manual_seed(0)

    def random(n_heads, n_tokens):
        return torch.randn(2, n_heads, n_tokens, 16, generator=generator, requires_grad=True)

    q = random(heads[0], tokens[0])
    k = random(heads[1], tokens[1])
    v = random(heads[1], tokens[1])
    grad = torch.randn(2, heads[0], tokens[0], 16, generator=generator)

    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    expected_grads = torch.autograd.grad(expected, (q, k, v), grad)
    repeated = k.repeat_interleave(heads[0] // heads[1], 1)
    scores = torch.einsum("bhsd,bhld->bhsl", q, repeated) / 4
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)

    for forward, backward in KERNELS:
        with torch.no_grad():
            out, lse = forward(q, k, v, causal)
            grads = backward(grad, q, k, v, out, lse, causal)
        torch.testing.assert_close(out, expected.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(lse, scores.logsumexp(-1).detach(), atol=1e-6, rtol=1e-5)
        for ours, theirs in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_gpu_kernels_take_these_calls():
    """On tensors that only claim to be on a GPU: names, arguments, shapes and types of the calls
    that bf16 on CUDA makes. (Not their results.)"""

    def empty(*shape, dtype=torch.bfloat16):
        return torch.empty(*shape, device="cuda", dtype=dtype)

    with FakeTensorMode():
        q = empty(1, 28, 40, 128)
        k = empty(1, 4, 100, 128)
        out, lse = attend(q, k, k)
        assert out.shape == q.shape
        assert out.dtype == torch.bfloat16
        assert lse.shape == q.shape[:3]
        assert lse.dtype == torch.float32
        stream = empty(100, 4, 128)
        lengths = empty(3, dtype=torch.int32)
        pieces = Pieces(lengths, lengths, empty(2, dtype=torch.int32), 7, 60)
        piece_out, piece_lse = attend_pieces(empty(14, 4, 128), stream, stream, pieces)
        assert piece_out.shape == (14, 4, 128)
        assert piece_lse.shape == (4, 14)
        grads = attend_backward(out, q, k, k, out, lse)
        assert [grad.shape for grad in grads] == [q.shape, k.shape, k.shape]

        hidden = empty(5, 64)
        weight = empty(900, 64)
        banned = empty(900, dtype=torch.bool)
        logits = fp32_logits(hidden, weight, banned, 0.7)
        assert logits.shape == (5, 900)
        assert logits.dtype == torch.float32


def test_attention_over_two_sets_of_keys_is_that_over_both():
    """Forward and backward: each part given the joined output and log-sum-exps."""
    generator = torch.Generator().manual_seed(0)
    q, grad = (torch.randn(1, 2, 3, 8, generator=generator) for _ in range(2))
    k, v = (torch.randn(1, 2, 10, 8, generator=generator) for _ in range(2))
    first, second = slice(4), slice(4, None)
    both, both_lse = attend(q, k, v)
    out_a, lse_a = attend(q, k[:, :, first], v[:, :, first])
    out_b, lse_b = attend(q, k[:, :, second], v[:, :, second])

    out, lse = join(out_a, lse_a, out_b, lse_b)
    torch.testing.assert_close(out, both)
    torch.testing.assert_close(lse, both_lse)

    dq, dk, dv = attend_backward(grad, q, k, v, both, both_lse)
    a = attend_backward(grad, q, k[:, :, first], v[:, :, first], out, lse)
    b = attend_backward(grad, q, k[:, :, second], v[:, :, second], out, lse)
    torch.testing.assert_close(a[0] + b[0], dq)
    torch.testing.assert_close(torch.cat([a[1], b[1]], 2), dk)
    torch.testing.assert_close(torch.cat([a[2], b[2]], 2), dv)

    # a bias of -inf hides keys
    bias = torch.zeros(1, 1, 1, 10)
    bias[..., second] = float("-inf")
    for kernel, _ in KERNELS:
        torch.testing.assert_close(kernel(q, k, v, bias=bias), (out_a, lse_a))
