"""rollout.py: against transformers' generate, against the trainer's log-probs, against the distribution itself."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import rollout
import toy
from data import share_prefixes
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from formats.sample import DataError
from model import load_policy
from rollout import Decoding, Stepper, decode, generate, sample, truncate
from tests.reference import hf_inputs


def test_greedy_equals_transformers_generate_on_fifty_prompts(policy, builder, tmp_path):
    """Token for token, in one batch whose completions end at different times: prefixes of two lengths, compactions, prompts that drop out."""
    toy.build(tmp_path, 2, "train", 25, progress=False)
    prompts = builder.build_or_raise(load_samples(next(tmp_path.glob("*/stage2_train_25x2.jsonl"))))
    ours = generate(policy, prompts, policy.features(prompts), 1, 60, temperature=0)
    assert len(prompts) == 50 and len({len(p.ids) for p in prompts}) > 1
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        theirs = policy.model.generate(
            **hf_inputs(policy, prompt),
            do_sample=False,
            max_new_tokens=60,
            eos_token_id=policy.eos_ids,
            pad_token_id=policy.tokenizer.pad_token_id,
            suppress_tokens=torch.nonzero(policy.banned).squeeze(-1).tolist(),
        )
        assert completion.tokens == theirs[0, len(prompt.ids) :].tolist()
    assert len({len(c.tokens) for (c,) in ours}) > 3


def traced(step, run):
    """What `record` does, without a GPU: step()'s tensor operations are recorded with the buffers they touched, and only those run again. Anything
    that a CUDA graph could not hold (a look at a value, an operation whose shape hangs on one) is an error or stays as it was."""
    buffers = [
        run.token,
        run.position,
        run.state,
        run.alive,
        run.t,
        run.out_tokens,
        run.out_logps,
        *run.keys,
        *run.values,
    ]
    before = [b.clone() for b in buffers]
    graph = make_fx(lambda: (step(), torch.zeros(()))[1])()
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(old)  # recording on a GPU runs nothing
    return graph


@pytest.mark.parametrize("one_by_one", [False, True])
@torch.no_grad()
def test_a_recorded_step_replays_like_a_fresh_one(policy, prompts, monkeypatch, one_by_one):
    """Every step but the first of a shape comes from the recording; tokens and log-probs are those of steps run as written."""
    recordings = []

    def record(step, generator):
        recordings.append(traced(step, run))
        return recordings[-1]

    monkeypatch.setattr(rollout, "record", record)
    plain = generate(policy, prompts, policy.features(prompts), 2, 60, temperature=0)
    prefix = policy.prefill(prompts, policy.features(prompts))
    run = Decoding(
        policy,
        prefix,
        2,
        60,
        lambda state: ((logp := policy.log_distribution(state)).argmax(-1), logp.amax(-1)),
    )
    run.one_by_one = one_by_one
    tokens, logps = decode(run, Stepper(run, cuda_graph=True))
    assert len(recordings) >= 2
    for row, completion in enumerate(c for group in plain for c in group):
        n = len(completion.tokens)
        assert tokens[row, :n].tolist() == completion.tokens
        torch.testing.assert_close(
            logps[row, :n], torch.tensor(completion.logps), atol=1e-5, rtol=0
        )


def test_ended_completions_cost_nothing_after_a_compaction(policy, prompts):
    """Rows that pass the first layer: one prefill of all prompts, then at each step those that ran at the last compaction, none when all have ended."""
    passed = []
    hook = policy.text.layers[0].mlp.register_forward_hook(
        lambda m, args, out: passed.append(len(args[0]))
    )
    groups = generate(
        policy,
        prompts,
        policy.features(prompts),
        3,
        200,
        generator=torch.Generator().manual_seed(0),
    )
    hook.remove()
    lengths = [len(c.tokens) for g in groups for c in g]
    assert passed[0] == sum(len(p.ids) for p in prompts)
    every = rollout.COMPACT_EVERY
    for t, rows in enumerate(
        passed[1:], 1
    ):  # step t makes token t + 1; what had not ended after `seen` tokens runs
        seen = t // every * every
        assert rows == sum(n > seen for n in lengths) if seen else rows == len(lengths)
    assert len(passed) - 1 < max(lengths) + every


def test_completions_do_not_depend_on_their_company(policy, prompts):
    """Greedy completions of a prompt alone, among others, and with few keys and values held at a time."""
    features = policy.features(prompts)
    together = generate(policy, prompts, features, 1, 60, temperature=0)
    alone = [
        generate(policy, [p], [f], 1, 60, temperature=0)[0]
        for p, f in zip(prompts, features, strict=True)
    ]
    policy.max_cache_tokens, before = 1, policy.max_cache_tokens
    split = generate(policy, prompts, features, 1, 60, temperature=0)
    policy.max_cache_tokens = before
    for a, b, c in zip(together, alone, split, strict=True):
        assert a[0].tokens == b[0].tokens == c[0].tokens


def test_a_prefix_is_held_once_for_its_completions(policy, prompts):
    run = Decoding(
        policy, policy.prefill(prompts[:2], policy.features(prompts[:2])), 8, 10, lambda state: None
    )
    assert all(k.shape[0] == 2 for k in run.prefix_keys) and all(
        k.shape[0] == 16 and k.shape[2] == 10 for k in run.keys
    )


def test_questions_about_one_clip_share_its_prefill(policy, builder, samples):
    """Greedy completions and their log-probs are those of every question on its own, through compactions and with a lone question, a repeated one and one
    with its medium behind its text in the same batch; the decoder passes each clip once."""
    lone = replace(samples[6], question="Look: <video> What is there?")
    prompts = builder.build_or_raise([*samples[:6], samples[5], lone, samples[7]])
    features = policy.features(prompts)
    alone = generate(policy, prompts, features, 2, 60, temperature=0)
    passed = []
    hook = policy.text.layers[0].mlp.register_forward_hook(
        lambda m, args, out: passed.append(len(args[0]))
    )
    shared = generate(policy, prompts, features, 2, 60, temperature=0, share=True)
    hook.remove()
    parts = share_prefixes(prompts, policy.form)
    assert [len(rests) for _, rests in parts] == [2, 2, 3, 1, 1] and parts[3][1] == parts[4][1] == [
        []
    ]
    assert (
        passed[0]
        == sum(len(p.ids) + sum(map(len, rests)) for p, rests in parts)
        < 0.7 * sum(len(p.ids) for p in prompts)
    )
    for one, other in zip(alone, shared, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.tokens == b.tokens and a.finished == b.finished
            torch.testing.assert_close(
                torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-4, rtol=0
            )
    assert [c.tokens for c in shared[5]] == [c.tokens for c in shared[6]]


def test_a_recorded_step_of_shared_prefills_replays_like_a_fresh_one(policy, prompts, monkeypatch):
    shared = share_prefixes(prompts, policy.form)
    features = [policy.features([p])[0] for p, _ in shared]
    plain = generate(policy, prompts, policy.features(prompts), 1, 60, temperature=0)
    run = Decoding(
        policy,
        policy.prefill([p for p, _ in shared], features, [rests for _, rests in shared]),
        1,
        60,
        lambda state: ((logp := policy.log_distribution(state)).argmax(-1), logp.amax(-1)),
    )
    monkeypatch.setattr(rollout, "record", lambda step, generator: traced(step, run))
    tokens, _ = decode(run, Stepper(run, cuda_graph=True))
    for row, (completion,) in enumerate(plain):
        assert tokens[row, : len(completion.tokens)].tolist() == completion.tokens


def test_an_optimiser_step_is_in_the_next_rollout(fresh_policy, prompts):
    """Nothing to sync: after the weights have moved, sampler and trainer still agree on them."""
    fresh_policy.freeze_towers()
    features = fresh_policy.features(prompts)
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    groups = generate(
        fresh_policy, prompts, features, 2, 20, generator=torch.Generator().manual_seed(0)
    )
    logp, mask = fresh_policy.completion_logps(
        prompts, features, [[c.tokens for c in g] for g in groups]
    )
    torch.testing.assert_close(
        logp[mask],
        torch.tensor([x for g in groups for c in g for x in c.logps]),
        atol=1e-5,
        rtol=1e-6,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_logps_equal_training_logps(policy, prompts, temperature):
    groups = generate(
        policy,
        prompts,
        policy.features(prompts),
        3,
        60,
        temperature,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        logp, mask = policy.completion_logps(
            prompts, policy.features(prompts), [[c.tokens for c in g] for g in groups], temperature
        )
    flat = [c for g in groups for c in g]
    assert [len(c.tokens) for c in flat] == mask.sum(1).tolist()
    for row, completion in zip(logp, flat, strict=True):
        torch.testing.assert_close(
            row[: len(completion.tokens)], torch.tensor(completion.logps), atol=1e-5, rtol=0
        )


@torch.no_grad()
@pytest.mark.parametrize("one_by_one", [False, True])
def test_bf16_sampler_drifts_little_from_the_bf16_trainer(prompts, monkeypatch, one_by_one):
    """In bf16 two ways to the same state round differently: log-probs are fp32 and differ by hundredths, and the ratio starts near 1."""
    half = load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    real = Decoding.__init__

    def init(self, *args):
        real(self, *args)
        self.one_by_one = one_by_one  # the way a GPU goes

    monkeypatch.setattr(Decoding, "__init__", init)
    prompts = prompts[:2]  # bf16 is slow on a CPU
    features = half.features(prompts)
    groups = generate(half, prompts, features, 2, 12, generator=torch.Generator().manual_seed(0))
    logp, mask = half.completion_logps(prompts, features, [[c.tokens for c in g] for g in groups])
    drift = (logp[mask] - torch.tensor([x for g in groups for c in g for x in c.logps])).abs()
    assert logp.dtype == torch.float32 and 0 < drift.mean() < 0.02 and drift.max() < 0.5


def test_completions_end_with_their_eos_or_at_the_limit(policy, prompts):
    for limit in (3, 60):
        for completion in [
            c
            for g in generate(
                policy,
                prompts,
                policy.features(prompts),
                4,
                limit,
                generator=torch.Generator().manual_seed(1),
            )
            for c in g
        ]:
            ends = [t in policy.eos_ids for t in completion.tokens]
            assert (
                completion.finished == ends[-1]
                and not any(ends[:-1])
                and len(completion.tokens) == len(completion.logps) <= limit
            )
            assert completion.finished or len(completion.tokens) == limit
            assert "<|" not in completion.text


def test_what_runs_out_of_memory_is_tried_once_in_halves(policy, prompts, monkeypatch):
    """Prefills of more than 2 prompts do not fit: the completions are those of two batches from the same random stream, and no draw is used twice."""
    real, features = policy.prefill, policy.features(prompts)

    def seeded():
        return torch.Generator().manual_seed(3)

    def small_gpu(prompts, *rest):
        if len(prompts) > limit:
            real(prompts[:1], *(r[:1] for r in rest))
            torch.rand(7, generator=generator)  # a batch that fails half-way has drawn numbers
            raise torch.OutOfMemoryError
        return real(prompts, *rest)

    monkeypatch.setattr(policy, "prefill", small_gpu)
    limit, generator = 2, seeded()
    done = generate(policy, prompts, features, 2, 12, generator=generator)
    other = seeded()
    halves = [
        c
        for part in (slice(0, 2), slice(2, 4))
        for c in generate(policy, prompts[part], features[part], 2, 12, generator=other)
    ]
    assert done == halves and torch.equal(generator.get_state(), other.get_state())
    limit = 1
    with pytest.raises(
        DataError,
        match="out of GPU memory while completions of 4 prompts were written, and of half of them, too; lower --max_cache_tokens",
    ):
        generate(policy, prompts, features, 2, 12, generator=generator)


def test_same_seed_same_completions_and_another_seed_others(policy, prompts):
    def texts(seed):
        return [
            c.text
            for g in generate(
                policy,
                prompts,
                policy.features(prompts),
                4,
                40,
                generator=torch.Generator().manual_seed(seed),
            )
            for c in g
        ]

    assert texts(3) == texts(3) != texts(4)


def test_banned_ids_are_never_sampled(policy, prompts):
    """Even at a temperature that makes every id nearly equally likely."""
    groups = generate(
        policy,
        prompts,
        policy.features(prompts),
        8,
        30,
        temperature=50.0,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = {t for g in groups for c in g for t in c.tokens}
    assert len(drawn) > 100 and not drawn & set(torch.nonzero(policy.banned).squeeze(-1).tolist())


def test_sampler_follows_the_distribution():
    """20,000 draws against the probabilities, by a chi-square statistic (3 degrees of freedom, 0.999 quantile 16.3)."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = torch.bincount(
        sample(p.log().expand(20_000, 4).contiguous(), torch.Generator().manual_seed(0)),
        minlength=4,
    )
    assert (((drawn - 20_000 * p) ** 2) / (20_000 * p)).sum() < 16.3


def test_truncation_by_hand():
    logp = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    assert truncate(logp, top_k=2).isfinite().tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    assert truncate(logp, top_p=0.6).isfinite().tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    assert truncate(logp, top_p=0.45).isfinite().tolist() == [
        [True, False, False, False],
        [False, False, False, True],
    ]
    assert torch.equal(truncate(logp), logp)
