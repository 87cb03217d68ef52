"""rollout.py: against transformers' generate, the trainer's log-probs, the distribution itself."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import rollout
import toy
from data import share_prefixes
from engine import cuda_graph
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from formats.sample import DataError
from model import Features, load_policy
from rollout import Decoding, Sampling, decode, draw, generate
from tests.reference import hf_inputs


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def greedy(tokens):
    return Sampling(tokens, temperature=0)


def all_logps(groups):
    return torch.tensor([logp for group in groups for c in group for logp in c.logps])


def all_tokens(groups):
    return [[c.tokens for c in group] for group in groups]


@pytest.fixture(scope="module")
def features(policy, prompts):
    return Features(policy).of(prompts)


@pytest.fixture(scope="module")
def plain(policy, prompts, features):
    """Two greedy completions of each prompt, at most 60 tokens long, by steps run as written."""
    return generate(policy, prompts, features, 2, greedy(60))


@pytest.fixture
def tokens_per_pass(policy):
    """How many tokens pass the first layer, one entry per pass of the decoder."""
    passes = []

    def note(module, args, out):
        passes.append(len(args[0]))

    hook = policy.text.layers[0].mlp.register_forward_hook(note)
    yield passes
    hook.remove()


def test_greedy_equals_transformers_generate_on_fifty_prompts(policy, builder, tmp_path):
    """Token for token, in one batch whose completions end at different times: prefixes of two
    lengths, compactions, prompts that drop out."""
    toy.build(tmp_path, 2, "train", 25, progress=False)
    prompts = builder.build_or_raise(load_samples(next(tmp_path.glob("*/stage2_train_25x2.jsonl"))))
    ours = generate(policy, prompts, Features(policy).of(prompts), 1, greedy(60))
    assert len(prompts) == 50
    assert len({len(p.ids) for p in prompts}) > 1
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
    """What `record` does, without a GPU: step()'s tensor operations are recorded with the buffers
    they touched, and only those run again. Anything that a CUDA graph could not hold (a look at a
    value, an operation whose shape depends on one) is an error or stays as it was."""
    buffers = [
        run.token,
        run.angle,
        run.hidden,
        run.alive,
        run.t,
        run.tokens,
        run.logps,
        *run.suffix.keys,
        *run.suffix.values,
    ]
    before = [b.clone() for b in buffers]

    def step_with_result():
        step()
        return torch.zeros(())

    graph = make_fx(step_with_result)()
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(old)  # recording on a GPU runs nothing
    return graph


def decode_recorded(monkeypatch, policy, prefill, n, sampling):
    """Decode as on a GPU with CUDA graphs. Returns the Decoding and the recordings."""
    recordings = []

    def record(step, generator):
        recordings.append(traced(step, run))
        return recordings[-1]

    monkeypatch.setattr(cuda_graph, "record", record)
    monkeypatch.setitem(cuda_graph.CUDA_GRAPH, "cpu", True)
    run = Decoding(policy, prefill, n, sampling)
    decode(run)
    return run, recordings


@pytest.mark.parametrize("pieces", [False, True])  # True: the way a GPU goes
@torch.no_grad()
def test_a_recorded_step_replays_like_a_fresh_one(
    policy, prompts, features, plain, monkeypatch, pieces
):
    """Every step but the first of a shape comes from the recording; tokens and log-probs are those
    of steps run as written."""
    monkeypatch.setattr(rollout, "has_gpu_kernel", lambda x: pieces)
    prefill = policy.prefill(prompts, features)
    run, recordings = decode_recorded(monkeypatch, policy, prefill, 2, greedy(60))
    assert len(recordings) >= 2
    completions = [c for group in plain for c in group]
    for tokens, logps, completion in zip(run.tokens, run.logps, completions, strict=True):
        n = len(completion.tokens)
        assert tokens[:n].tolist() == completion.tokens
        torch.testing.assert_close(logps[:n], torch.tensor(completion.logps), atol=1e-5, rtol=0)


def test_ended_completions_cost_nothing_after_a_compaction(
    policy, prompts, features, tokens_per_pass
):
    """One prefill of all prompts passes the first layer, then at each step the completions that ran
    at the last compaction, and none when all have ended."""
    groups = generate(policy, prompts, features, 3, Sampling(200, generator=seeded(0)))
    lengths = [len(c.tokens) for g in groups for c in g]
    prefill, *steps = tokens_per_pass
    assert prefill == sum(len(p.ids) for p in prompts)
    every = rollout.COMPACT_EVERY
    for t, running in enumerate(steps, 1):  # step t samples token t + 1
        compacted_at = t // every * every
        if compacted_at:
            assert running == sum(n > compacted_at for n in lengths)
        else:
            assert running == len(lengths)
    assert len(steps) < max(lengths) + every


def test_completions_do_not_depend_on_their_company(policy, prompts, features, plain, monkeypatch):
    """Greedy completions of a prompt alone, among others, and with few keys and values held at a
    time."""
    alone = []
    for prompt, of_prompt in zip(prompts, features, strict=True):
        alone += generate(policy, [prompt], [of_prompt], 1, greedy(60))
    monkeypatch.setattr(rollout, "MAX_CACHE_TOKENS", 1)
    split = generate(policy, prompts, features, 1, greedy(60))
    for a, b, c in zip(plain, alone, split, strict=True):
        assert a[0].tokens == a[1].tokens == b[0].tokens == c[0].tokens


def test_a_prefix_is_held_once_for_its_completions(policy, prompts, features):
    run = Decoding(policy, policy.prefill(prompts[:2], features[:2]), 8, Sampling(10))
    assert all(k.shape[0] == 2 for k in run.prefix.keys)
    assert all(k.shape[:2] == (16, 10) for k in run.suffix.keys)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_one_sentence(fresh_policy, prompts, features, temperature):
    """As after an update that was too large. Sampled ids would lie outside of the vocabulary."""
    with torch.no_grad():
        fresh_policy.text.norm.weight[0] = math.nan
    with pytest.raises(DataError, match=r"log-probs are not numbers: .* lower --lr"):
        generate(fresh_policy, prompts[:2], features[:2], 2, Sampling(4, temperature))


def test_weights_that_are_no_numbers_are_refused(fresh_policy, tmp_path):
    with torch.no_grad():
        fresh_policy.text.norm.weight[0] = math.inf
    fresh_policy.save(tmp_path)
    (tmp_path / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"weight .*norm\.weight holds numbers that are infinite"):
        load_policy(tmp_path)


def test_on_a_cpu_the_keys_of_a_head_stand_side_by_side(policy, prompts, features):
    """At the start and after a compaction: else attention takes twice the time."""
    run = Decoding(policy, policy.prefill(prompts[:2], features[:2]), 2, Sampling(10))
    for index in ([0, 1, 2, 3], [0, 2]):
        run.keep(torch.tensor(index))
        for held in (run.prefix.keys, run.prefix.values, run.suffix.keys, run.suffix.values):
            assert all(x.transpose(1, 2).is_contiguous() for x in held)


def test_questions_about_one_clip_share_its_prefill(policy, builder, samples, tokens_per_pass):
    """Greedy completions and their log-probs are those of every question on its own, through
    compactions and with a lone question, a repeated one and one with its medium behind its text in
    the same batch; the decoder passes each clip once."""
    lone = replace(samples[6], question="Look: <video> What is there?")
    prompts = builder.build_or_raise([*samples[:6], samples[5], lone, samples[7]])
    features = Features(policy).of(prompts)
    alone = generate(policy, prompts, features, 2, greedy(60))
    tokens_per_pass.clear()
    shared = generate(policy, prompts, features, 2, greedy(60), share_prefill=True)

    rows = share_prefixes(prompts, policy.form)
    assert [len(questions) for _, questions in rows] == [2, 2, 3, 1, 1]
    assert rows[3][1] == rows[4][1] == [[]]
    passed = sum(len(prefix.ids) + sum(map(len, questions)) for prefix, questions in rows)
    assert tokens_per_pass[0] == passed < 0.7 * sum(len(p.ids) for p in prompts)

    for one, other in zip(alone, shared, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.tokens == b.tokens
            assert a.finished == b.finished
            torch.testing.assert_close(
                torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-4, rtol=0
            )
    assert all_tokens(shared)[5] == all_tokens(shared)[6]


@torch.no_grad()
def test_a_recorded_step_of_shared_prefills_replays_like_a_fresh_one(
    policy, prompts, plain, monkeypatch
):
    rows = share_prefixes(prompts, policy.form)
    prefixes = [prefix for prefix, _ in rows]
    prefill = policy.prefill(
        prefixes, Features(policy).of(prefixes), [questions for _, questions in rows]
    )
    run, _ = decode_recorded(monkeypatch, policy, prefill, 1, greedy(60))
    for tokens, (completion, _) in zip(run.tokens, plain, strict=True):
        assert tokens[: len(completion.tokens)].tolist() == completion.tokens


def test_an_optimiser_step_is_in_the_next_rollout(fresh_policy, prompts):
    """Nothing to sync: after the weights have moved, sampler and trainer still agree on them."""
    fresh_policy.freeze_towers()
    features = Features(fresh_policy).of(prompts)
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=seeded(0)))
    groups = generate(fresh_policy, prompts, features, 2, Sampling(20, generator=seeded(0)))
    logp, mask = fresh_policy.completion_logps(prompts, features, all_tokens(groups))
    torch.testing.assert_close(logp[mask], all_logps(groups), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_sampler_logps_equal_training_logps(policy, prompts, features, temperature):
    sampling = Sampling(60, temperature, seeded(0))
    groups = generate(policy, prompts, features, 3, sampling)
    logp, mask = policy.completion_logps(prompts, features, all_tokens(groups), temperature)
    assert [len(c.tokens) for g in groups for c in g] == mask.sum(1).tolist()
    torch.testing.assert_close(logp[mask], all_logps(groups), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def bf16_policy():
    return load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [False, True])  # True: the way a GPU goes
def test_bf16_sampler_drifts_little_from_the_bf16_trainer(
    bf16_policy, prompts, monkeypatch, pieces
):
    """In bf16 two ways to the same state round differently: log-probs are fp32 and differ by
    hundredths, and the ratio starts near 1."""
    monkeypatch.setattr(rollout, "has_gpu_kernel", lambda x: pieces)
    prompts = prompts[:2]  # bf16 is slow on a CPU
    features = Features(bf16_policy).of(prompts)
    groups = generate(bf16_policy, prompts, features, 2, Sampling(12, generator=seeded(0)))
    logp, mask = bf16_policy.completion_logps(prompts, features, all_tokens(groups))
    drift = (logp[mask] - all_logps(groups)).abs()
    assert logp.dtype == torch.float32
    assert 0 < drift.mean() < 0.02
    assert drift.max() < 0.5


@pytest.mark.parametrize("limit", [3, 60])
def test_completions_end_with_their_eos_or_at_the_limit(policy, prompts, features, limit):
    groups = generate(policy, prompts, features, 4, Sampling(limit, generator=seeded(1)))
    for completion in (c for g in groups for c in g):
        ends = [t in policy.eos_ids for t in completion.tokens]
        assert completion.finished == ends[-1]
        assert not any(ends[:-1])
        assert len(completion.tokens) == len(completion.logps) <= limit
        assert completion.finished or len(completion.tokens) == limit
        assert "<|" not in completion.text


def test_what_runs_out_of_memory_is_tried_once_in_halves(policy, prompts, features, monkeypatch):
    """Prefills of more than 2 prompts do not fit: the completions are those of two batches from the
    same random stream, and no draw is used twice."""
    prefill = policy.prefill
    generator = seeded(3)
    most = 2

    def small_gpu(prompts, *others):
        if len(prompts) > most:
            prefill(prompts[:1], *(other[:1] for other in others))
            torch.rand(7, generator=generator)  # a batch that fails half-way has drawn numbers
            raise torch.OutOfMemoryError
        return prefill(prompts, *others)

    monkeypatch.setattr(policy, "prefill", small_gpu)
    completions = generate(policy, prompts, features, 2, Sampling(12, generator=generator))
    other = seeded(3)
    in_halves = []
    for half in (slice(0, 2), slice(2, 4)):
        sampling = Sampling(12, generator=other)
        in_halves += generate(policy, prompts[half], features[half], 2, sampling)
    assert completions == in_halves
    assert torch.equal(generator.get_state(), other.get_state())

    most = 1
    with pytest.raises(
        DataError,
        match="out of GPU memory while completions of 4 prompts were written, and of half of them, "
        "too; lower MAX_CACHE_TOKENS",
    ):
        generate(policy, prompts, features, 2, Sampling(12, generator=generator))


def test_same_seed_same_completions_and_another_seed_others(policy, prompts, features):
    def completions(seed):
        return generate(policy, prompts, features, 4, Sampling(40, generator=seeded(seed)))

    assert completions(3) == completions(3)
    assert all_tokens(completions(3)) != all_tokens(completions(4))


def test_banned_ids_are_never_sampled(policy, prompts, features):
    """Even at a temperature that makes every id nearly equally likely."""
    sampling = Sampling(30, temperature=50.0, generator=seeded(0))
    groups = generate(policy, prompts, features, 8, sampling)
    drawn = {t for g in groups for c in g for t in c.tokens}
    assert len(drawn) > 100
    assert not drawn & set(torch.nonzero(policy.banned).squeeze(-1).tolist())


def test_sampler_follows_the_distribution():
    """20,000 draws against the probabilities, by a chi-square statistic (3 degrees of freedom,
    0.999 quantile 16.3)."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = draw(p.log().expand(20_000, 4).contiguous(), seeded(0))
    counts = torch.bincount(drawn, minlength=4)
    assert (((counts - 20_000 * p) ** 2) / (20_000 * p)).sum() < 16.3


def test_batches_are_cut_by_what_their_padded_cache_takes():
    """With room for 100 tokens: rows of 20, 20 and 60 prompt tokens, of which the last has two
    questions of 5 and 2; two completions of 4 tokens each."""

    def row(length, *questions):
        prompt = SimpleNamespace(ids=[0] * length)
        return rollout.PrefillRow(prompt, {}, [[0] * n for n in questions])

    rows = [row(20, 0), row(20, 0), row(60, 5, 2), row(20, 0)]
    assert rollout.cache_tokens(rows[:2], 2, 4) == 2 * 20 + 2 * 2 * 4
    assert rollout.cache_tokens(rows[2:3], 2, 4) == 60 + 2 * 2 * (5 + 4)
    assert rollout.cache_tokens(rows[1:3], 2, 4) == 2 * 60 + 3 * 2 * (5 + 4)
    batches = rollout.split_rows(rows, 2, 4, 100)
    assert batches == [rows[:2], rows[2:3], rows[3:]]
    assert rollout.split_rows(rows, 2, 4, 1) == [[row] for row in rows]
    assert rollout.split_rows([], 2, 4, 100) == []
