"""rollout.py: against transformers' generate, against the trainer's log-probs, against the distribution itself."""
import pytest
import torch

from rollout import generate, sample, truncate
from tests.test_model import hf_inputs


def test_greedy_equals_transformers_generate(policy, make, samples):
    prompts = make.many(samples[:8])
    ours = generate(policy, prompts, policy.features(prompts), 1, 40, temperature=0)
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        theirs = policy.model.generate(**hf_inputs(policy, prompt), do_sample=False, max_new_tokens=40, eos_token_id=policy.eos_ids,
                                       pad_token_id=policy.tokenizer.pad_token_id, suppress_tokens=torch.nonzero(policy.banned).squeeze(-1).tolist())
        assert completion.tokens == theirs[0, len(prompt.ids):].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_logps_equal_training_logps(policy, prompts, temperature):
    groups = generate(policy, prompts, policy.features(prompts), 3, 60, temperature, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logp, mask = policy.completion_logps(prompts, policy.features(prompts), [[c.tokens for c in g] for g in groups], temperature)
    flat = [c for g in groups for c in g]
    assert [len(c.tokens) for c in flat] == mask.sum(1).tolist()
    for row, completion in zip(logp, flat, strict=True):
        torch.testing.assert_close(row[: len(completion.tokens)], torch.tensor(completion.logps), atol=1e-5, rtol=0)


def test_completions_end_with_their_eos_or_at_the_limit(policy, prompts):
    for limit in (3, 60):
        for completion in [c for g in generate(policy, prompts, policy.features(prompts), 4, limit, generator=torch.Generator().manual_seed(1)) for c in g]:
            ends = [t in policy.eos_ids for t in completion.tokens]
            assert completion.finished == ends[-1] and not any(ends[:-1]) and len(completion.tokens) == len(completion.logps) <= limit
            assert completion.finished or len(completion.tokens) == limit
            assert "<|" not in completion.text


def test_same_seed_same_completions_and_another_seed_others(policy, prompts):
    def texts(seed):
        return [c.text for g in generate(policy, prompts, policy.features(prompts), 4, 40, generator=torch.Generator().manual_seed(seed)) for c in g]
    assert texts(3) == texts(3) != texts(4)


def test_banned_ids_are_never_sampled(policy, prompts):
    """Even at a temperature that makes every id nearly equally likely."""
    groups = generate(policy, prompts, policy.features(prompts), 8, 30, temperature=50.0, generator=torch.Generator().manual_seed(0))
    drawn = {t for g in groups for c in g for t in c.tokens}
    assert len(drawn) > 100 and not drawn & set(torch.nonzero(policy.banned).squeeze(-1).tolist())


def test_sampler_follows_the_distribution():
    """20,000 draws against the probabilities, by a chi-square statistic (3 degrees of freedom, 0.999 quantile 16.3)."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = torch.bincount(sample(p.log().expand(20_000, 4).contiguous(), torch.Generator().manual_seed(0)), minlength=4)
    assert (((drawn - 20_000 * p) ** 2) / (20_000 * p)).sum() < 16.3


def test_truncation_by_hand():
    logp = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    assert truncate(logp, top_k=2).isfinite().tolist() == [[True, True, False, False], [False, False, True, True]]
    assert truncate(logp, top_p=0.6).isfinite().tolist() == [[True, True, False, False], [False, False, True, True]]
    assert truncate(logp, top_p=0.45).isfinite().tolist() == [[True, False, False, False], [False, False, False, True]]
    assert torch.equal(truncate(logp), logp)
