"""engine/logprobs.py against torch's log_softmax."""

import pytest
import torch

from engine import logprobs
from engine.families import DEFAULT_MODEL
from engine.logprobs import TokenLogprobs, fp32_logits
from model import Features, load_policy
from tests.reference import random_completions


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_log_probs_equal_log_softmax_and_hold_one_chunk(monkeypatch, temperature):
    """Values and gradients; no block of logits has more tokens than a chunk, in either pass."""
    chunks = []
    original = fp32_logits

    def counted(hidden, *args):
        chunks.append(len(hidden))
        return original(hidden, *args)

    monkeypatch.setattr(logprobs, "LOGIT_CHUNK", 4)
    monkeypatch.setattr(logprobs, "fp32_logits", counted)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 6, generator=generator, requires_grad=True)
    weight = torch.randn(13, 6, generator=generator, requires_grad=True)
    targets = torch.randint(0, 10, (10,), generator=generator)
    banned = torch.arange(13) > 9
    grad = torch.randn(10, generator=generator)

    ours, entropy = TokenLogprobs.apply(hidden, weight, targets, banned, temperature, True)
    logits = (hidden @ weight.T).masked_fill(banned, float("-inf")) / temperature
    theirs = logits.log_softmax(-1)[range(10), targets]
    torch.testing.assert_close(ours, theirs)
    of_torch = torch.distributions.Categorical(logits=logits[:, ~banned]).entropy()
    torch.testing.assert_close(entropy, of_torch)
    assert not entropy.requires_grad

    our_grads = torch.autograd.grad(ours, (hidden, weight), grad)
    their_grads = torch.autograd.grad(theirs, (hidden, weight), grad)
    torch.testing.assert_close(our_grads, their_grads)
    assert chunks == [4, 4, 2] * 2


def test_bf16_weights_keep_an_fp32_head(policy, prompts):
    """Log-probs come out in fp32, with logits that were never rounded to bf16, and near those of
    fp32 weights."""
    half = load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    completions = [[c] for c in random_completions(policy, [8, 8, 8, 8])]
    with torch.no_grad():
        exact, _ = policy.completion_logps(prompts, Features(policy).of(prompts), completions)
        rounded, _ = half.completion_logps(prompts, Features(half).of(prompts), completions)
        hidden = torch.randn(3, 128, dtype=torch.bfloat16)
        probs = half.log_distribution(hidden).exp()
        logits = fp32_logits(hidden, half.head.weight, half.banned, 1.0)
    torch.testing.assert_close(probs.sum(-1), torch.ones(3))

    assert rounded.dtype == logits.dtype == torch.float32
    expected = (hidden.double() @ half.head.weight.double().T).float()
    expected = expected.masked_fill(half.banned, float("-inf"))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    assert (exact - rounded).abs().median() < 0.1 < exact.abs().median()
