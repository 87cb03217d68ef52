"""engine/packed_rows.py against one masked softmax over the whole stream."""

import pytest
import torch

from engine.packed_rows import PackedAttention, packed_layouts

ROWS = [
    ([3], [[2, 1]]),
    ([1, 5, 2], [[4], [], [1, 3, 2]]),
    ([4, 2], [[0, 3, 0], [0]]),
    ([3, 3], [[], []]),
]
HEADS, KV_HEADS, WIDTH = 4, 2, 8


def visible_keys(prompt_lengths, suffix_lengths):
    """(T, T) bool: which key each token of the stream sees, written token by token."""
    total = sum(prompt_lengths) + sum(map(sum, suffix_lengths))
    visible = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for p, lengths in zip(prompt_lengths, suffix_lengths, strict=True):
        prompt = range(start, start + p)
        for token in prompt:
            visible[token, start : token + 1] = True
        start += p
        for length in lengths:
            for token in range(start, start + length):
                visible[token, list(prompt)] = True
                visible[token, start : token + 1] = True
            start += length
    return visible


def masked_softmax(q, k, v, visible):
    """(n, H, d) attention of q over all keys of the stream that are visible (n, T)."""
    k = k.repeat_interleave(HEADS // KV_HEADS, 1)  # (T, H, d)
    v = v.repeat_interleave(HEADS // KV_HEADS, 1)
    scores = torch.einsum("nhd,thd->hnt", q, k) / WIDTH**0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hnt,thd->nhd", weights, v)


@pytest.mark.parametrize(("prompt_lengths", "suffix_lengths"), ROWS)
def test_packed_attention_and_its_gradients_are_those_of_a_masked_softmax(
    prompt_lengths, suffix_lengths
):
    """In all layers but the last, and in the last one, which asks fewer queries."""
    visible = visible_keys(prompt_lengths, suffix_lengths)
    generator = torch.Generator().manual_seed(0)
    q, grad = (torch.randn(len(visible), HEADS, WIDTH, generator=generator) for _ in range(2))
    k, v = (torch.randn(len(visible), KV_HEADS, WIDTH, generator=generator) for _ in range(2))
    layouts = packed_layouts(prompt_lengths, suffix_lengths, "cpu")
    everything = torch.arange(len(visible))
    for layout in (layouts.all_but_last_layer, layouts.last_layer):
        asked = everything if layout.asked is None else layout.asked
        inputs = [x.clone().requires_grad_() for x in (q[asked], k, v)]
        ours = PackedAttention.apply(*inputs, layout)
        theirs = masked_softmax(*inputs, visible[asked])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

        our_grads = torch.autograd.grad(ours, inputs, grad[asked])
        their_grads = torch.autograd.grad(theirs, inputs, grad[asked])
        for a, b in zip(our_grads, their_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["all_but_last_layer", "last_layer"])
def test_gradients_are_finite_however_large_the_scores(layer):
    """A query of the prompt gives a suffix key a score 280 above its own softmax: exp of that is
    infinite. It does not see the key, so nothing comes of it."""
    q, k, v = torch.randn(3, 4, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    q[0, 0] = k[3, 0] = torch.full((WIDTH,), 7.0)
    k[0, 0] = torch.full((WIDTH,), -7.0)
    layout = getattr(packed_layouts([1], [[2, 1]], "cpu"), layer)  # p | a a | b padding

    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    out = PackedAttention.apply(*inputs, layout)
    for gradient in torch.autograd.grad(out.sum(), inputs):
        assert gradient.isfinite().all()


def test_the_last_layer_asks_what_comes_after_each_prompt():
    layouts = packed_layouts([2, 3], [[1, 0, 2], [2]], "cpu")
    # stream: p p | a | | c c || p p p | a a
    assert layouts.last_layer.asked.tolist() == [1, 2, 3, 4, 7, 8, 9]
    assert layouts.prompt_end.tolist() == [0, 0, 0, 4]
    assert layouts.suffix_end.tolist() == [1, 0, 3, 6]
