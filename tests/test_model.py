"""model.py against transformers' own forward on repeated rows, and the checkpoint in Hugging Face form."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoTokenizer,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from data import build_prompt
from engine import logprobs as logprobs_module
from engine import packed_rows as attention_module
from engine.attention import attend, attend_backward, attend_by_hand, attend_by_hand_backward, join
from engine.batching import split_by_tokens
from engine.families import DEFAULT_MODEL, parts
from engine.feature_cache import FeatureCache
from engine.logprobs import TokenLogprobs, fp32_logits
from formats.sample import DataError
from media.digest import media_digest
from model import Features, Policy, load_policy
from tests.random_media import media_of, sample_of
from tests.reference import hf_inputs, hf_logps, random_completions
from tools.tiny_model import MEDIA_TOKENS, make_tiny_policy

# Random tokens have log-probs down to -40, where one fp32 step is 4e-6: hence rtol = 1e-6 beside atol = 1e-5.
GROUPS = [[5, 1, 12], [7], [1, 1], [3, 9, 2, 4]]  # completion lengths of four prompts


def test_shared_prefix_logps_equal_transformers_on_repeated_rows(policy, prompts):
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(GROUPS)]
    with torch.no_grad():
        logp, mask = policy.completion_logps(
            prompts, Features(policy).of(prompts), completions, temperature=0.7
        )
        row = 0
        for prompt, group in zip(prompts, completions, strict=True):
            for completion in group:
                assert (
                    mask[row].sum() == len(completion) and (logp[row, len(completion) :] == 0).all()
                )
                torch.testing.assert_close(
                    logp[row, : len(completion)],
                    hf_logps(policy, prompt, completion, 0.7),
                    atol=1e-5,
                    rtol=1e-6,
                )
                row += 1
    assert row == len(logp)


@pytest.mark.parametrize(
    "kind", ["video", "image", "image+sound", "sound", "video+sound", "several"]
)
def test_every_kind_of_prompt_equals_transformers(policy, kind):
    prompt = build_prompt(sample_of(kind), media_of(kind), policy.tokenizer, policy.form)
    completion = random_completions(policy, [6])[0]
    with torch.no_grad():
        ours, _ = policy.completion_logps([prompt], Features(policy).of([prompt]), [[completion]])
        torch.testing.assert_close(
            ours[0], hf_logps(policy, prompt, completion), atol=1e-5, rtol=1e-6
        )


def gradients(policy):
    found = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return found


MIXES = [
    GROUPS,
    [[1], [1], [1], [1]],
    [[], [6, 2], [], [3]],
    [[30, 1], [2, 2, 2, 2, 2], [17], [0, 8, 0]],
]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("layers", ["kept", "checkpointed", "by hand"])
def test_packed_rows_give_the_gradients_of_repeated_rows(
    fresh_policy, prompts, mix, layers, monkeypatch
):
    """Every parameter's gradient, towers included, within 1e-5 of transformers' over [prompt | completion] rows, one at a time."""
    policy = fresh_policy
    policy.checkpoint_layers = layers == "checkpointed"
    if layers == "by hand":
        monkeypatch.setattr(attention_module, "attend", attend_by_hand)
        monkeypatch.setattr(attention_module, "attend_backward", attend_by_hand_backward)
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(mix)]
    features = Features(policy)
    logp, mask = policy.completion_logps(
        prompts, features.of(prompts), completions, temperature=0.8
    )
    weights = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    (logp * weights)[mask].sum().backward()
    features.backward()
    ours, row = gradients(policy), 0
    for prompt, group in zip(prompts, completions, strict=True):
        for completion in group:
            if completion:
                theirs = hf_logps(policy, prompt, completion, 0.8)
                torch.testing.assert_close(
                    logp[row, : len(completion)], theirs, atol=1e-5, rtol=1e-6
                )
                (theirs * weights[row, : len(completion)]).sum().backward()
            row += 1
    theirs = gradients(policy)
    assert (
        set(ours) >= set(theirs)
        and any("visual" in n for n in theirs)
        and any("audio_tower" in n for n in theirs)
    )
    flat = [torch.cat([g[n].flatten() for n in theirs]) for g in (ours, theirs)]
    assert (flat[0] - flat[1]).norm() <= 1e-5 * flat[1].norm()
    assert all(not ours[n].any() for n in set(ours) - set(theirs))
    for (
        name,
        grad,
    ) in (
        theirs.items()
    ):  # a gradient that is nearly zero (a key bias: softmax ignores it) is all rounding
        assert (ours[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6 * flat[1].norm(), name


def test_the_prompt_is_computed_once_and_its_last_layer_hardly_at_all(policy, prompts):
    """Tokens that pass the first and the last layer's MLP: P + sum (R - 1) of each row; and 1 + sum (R - 1). Repeated rows would take sum (P + R)."""
    passed = {0: [], -1: []}
    hooks = [
        policy.text.layers[i].mlp.register_forward_hook(
            lambda m, args, out, i=i: passed[i].append(len(args[0]))
        )
        for i in passed
    ]
    completions = [random_completions(policy, lengths) for lengths in GROUPS]
    with torch.no_grad():
        policy.completion_logps(prompts, Features(policy).of(prompts), completions)
    for hook in hooks:
        hook.remove()
    own = sum(n - 1 for lengths in GROUPS for n in lengths)
    assert passed == {0: [sum(len(p.ids) for p in prompts) + own], -1: [len(prompts) + own]}


@pytest.mark.parametrize(
    ("heads", "keys", "causal"),
    [((4, 2), (9, 9), True), ((4, 4), (5, 12), False), ((6, 2), (1, 7), False)],
)
def test_attention_and_its_gradients_equal_torch(heads, keys, causal):
    """Kernel and by hand, against scaled_dot_product_attention and autograd; the log-sum-exp against its definition."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, h, n, 16, generator=g, requires_grad=True)
        for h, n in ((heads[0], keys[0]), (heads[1], keys[1]), (heads[1], keys[1]))
    )
    grad = torch.randn(2, heads[0], keys[0], 16, generator=g)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    scores = torch.einsum("bhsd,bhld->bhsl", q, k.repeat_interleave(heads[0] // heads[1], 1)) / 4
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
    wanted = torch.autograd.grad(expected, (q, k, v), grad)
    for forward, backward in ((attend, attend_backward), (attend_by_hand, attend_by_hand_backward)):
        with torch.no_grad():
            out, lse = forward(q, k, v, causal)
            torch.testing.assert_close(out, expected.detach(), atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-6, rtol=1e-5)
            for ours, theirs in zip(backward(grad, q, k, v, out, lse, causal), wanted, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_gpu_kernels_take_these_calls():
    """On tensors that only claim to be on a GPU: names, arguments, shapes and types of the calls that bf16 on CUDA makes. (Not their results.)"""
    with FakeTensorMode():
        q, k = (
            torch.empty(1, h, n, 128, device="cuda", dtype=torch.bfloat16)
            for h, n in ((28, 40), (4, 100))
        )
        out, lse = attend(q, k, k)
        assert (out.shape, lse.shape, lse.dtype, out.dtype) == (
            q.shape,
            q.shape[:3],
            torch.float32,
            torch.bfloat16,
        )
        assert [x.shape for x in attend_backward(out, q, k, k, out, lse)] == [
            q.shape,
            k.shape,
            k.shape,
        ]
        h, weight, banned = (
            torch.zeros(n, device="cuda", dtype=t)
            for n, t in (((5, 64), q.dtype), ((900, 64), q.dtype), (900, torch.bool))
        )
        logits = fp32_logits(h, weight, banned, 0.7)
        assert logits.shape == (5, 900) and logits.dtype == torch.float32


def test_attention_over_two_sets_of_keys_is_that_over_both():
    """Forward and backward: each part given the joined output and log-sum-exp. And a bias of -inf hides keys."""
    g = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, n, 8, generator=g) for n in (3, 10, 10, 3))
    whole, lse = attend(q, k, v)
    (a, la), (b, lb) = attend(q, k[:, :, :4], v[:, :, :4]), attend(q, k[:, :, 4:], v[:, :, 4:])
    out, both = join(a, la, b, lb)
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(both, lse)
    dq, dk, dv = attend_backward(grad, q, k, v, whole, lse)
    first, second = (
        attend_backward(grad, q, k[:, :, s], v[:, :, s], out, both)
        for s in (slice(4), slice(4, None))
    )
    torch.testing.assert_close(first[0] + second[0], dq)
    torch.testing.assert_close(torch.cat([first[1], second[1]], 2), dk)
    torch.testing.assert_close(torch.cat([first[2], second[2]], 2), dv)
    bias = torch.zeros(1, 1, 1, 10)
    bias[..., 4:] = float("-inf")
    for kernel in (attend, attend_by_hand):
        torch.testing.assert_close(kernel(q, k, v, bias=bias), (a, la))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_log_probs_equal_log_softmax_and_hold_one_chunk(monkeypatch, temperature):
    """Values and gradients against torch's log_softmax; no logits block has more rows than a chunk, forward or backward."""
    monkeypatch.setattr(logprobs_module, "LOGIT_CHUNK", 4)
    rows = []
    real = fp32_logits
    monkeypatch.setattr(
        logprobs_module, "fp32_logits", lambda h, *args: rows.append(len(h)) or real(h, *args)
    )
    g = torch.Generator().manual_seed(0)
    h, w = (
        torch.randn(10, 6, generator=g, requires_grad=True),
        torch.randn(13, 6, generator=g, requires_grad=True),
    )
    targets, banned, grad = (
        torch.randint(0, 10, (10,), generator=g),
        torch.arange(13) > 9,
        torch.randn(10, generator=g),
    )
    ours = TokenLogprobs.apply(h, w, targets, banned, temperature)
    theirs = ((h @ w.T).masked_fill(banned, float("-inf")) / temperature).log_softmax(-1)[
        range(10), targets
    ]
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (h, w), grad),
        torch.autograd.grad(theirs, (h, w), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert rows == [4, 4, 2] * 2


def test_bf16_weights_keep_an_fp32_head(prompts):
    """Log-probs come out in fp32, with logits that were never rounded to bf16, and near those of fp32 weights."""
    exact, half = load_policy(DEFAULT_MODEL), load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    completions = [[c] for c in random_completions(exact, [8, 8, 8, 8])]
    with torch.no_grad():
        a, b = (
            p.completion_logps(prompts, Features(p).of(prompts), completions)[0]
            for p in (exact, half)
        )
        state = torch.randn(3, 128, dtype=torch.bfloat16)
        torch.testing.assert_close(half.log_distribution(state).exp().sum(-1), torch.ones(3))
        logits = fp32_logits(state, half.head.weight, half.banned, 1.0)
    assert b.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(
        logits,
        (state.double() @ half.head.weight.double().T)
        .float()
        .masked_fill(half.banned, float("-inf")),
        atol=1e-4,
        rtol=1e-5,
    )
    assert (a - b).abs().median() < 0.1 < a.abs().median()


def test_long_batches_are_split_by_tokens(fresh_policy, prompts):
    """Towers and prefill in passes of at most max_tokens (or one prompt): the same prefixes."""
    fresh_policy.freeze_towers()
    assert split_by_tokens(list("abcd"), [3, 4, 9, 1], 8) == [["a", "b"], ["c"], ["d"]]
    passes = []
    fresh_policy.text.layers[0].mlp.register_forward_hook(
        lambda m, args, out: passes.append(len(args[0]))
    )
    whole = fresh_policy.prefill(prompts, Features(fresh_policy).of(prompts))
    fresh_policy.max_tokens, fresh_policy.cache = 1, FeatureCache(0)
    single = fresh_policy.prefill(prompts, Features(fresh_policy).of(prompts))
    assert passes == [sum(whole.lengths), *whole.lengths] and whole.keys[0].shape == (
        4,
        2,
        max(whole.lengths),
        32,
    )
    for name in ("keys", "values"):
        for a, b in zip(getattr(whole, name), getattr(single, name), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.hidden, single.hidden, atol=1e-4, rtol=1e-4)


def test_log_prob_passes_change_no_input(policy, prompts):
    before = [
        (p.ids.clone(), p.positions.clone(), p.patches.clone(), p.mels[0].clone()) for p in prompts
    ]
    weights = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    completions = [random_completions(policy, [4, 2]) for _ in prompts]
    copy = json.loads(json.dumps(completions))
    features = Features(policy).of(prompts)
    kept = [{k: v.clone() for k, v in f.items()} for f in features]
    first, _ = policy.completion_logps(prompts, features, completions)
    second, _ = policy.completion_logps(prompts, features, completions)
    assert torch.equal(first, second) and completions == copy
    for prompt, old in zip(prompts, before, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                (prompt.ids, prompt.positions, prompt.patches, prompt.mels[0]), old, strict=True
            )
        )
    assert all(torch.equal(f[k], old[k]) for f, old in zip(features, kept, strict=True) for k in f)
    assert all(torch.equal(p, weights[n]) for n, p in policy.model.named_parameters())


def test_empty_completions_give_no_nan(fresh_policy, prompts):
    features = Features(fresh_policy).of(prompts[:2])
    logp, mask = fresh_policy.completion_logps(prompts[:2], features, [[[], [5, 6]], [[]]])
    assert mask.sum(1).tolist() == [0, 2, 0] and torch.isfinite(logp).all()
    logp.sum().backward()
    assert all(
        torch.isfinite(p.grad).all() for p in fresh_policy.model.parameters() if p.grad is not None
    )
    logp, mask = fresh_policy.completion_logps(prompts[:1], features[:1], [[[], []]])
    assert logp.shape == mask.shape == (2, 0)


def test_ids_a_completion_may_not_hold_have_no_probability(policy, prompts):
    tok = policy.tokenizer
    with torch.no_grad():
        last = policy.prefill(prompts[:1], Features(policy).of(prompts[:1])).hidden
        p = policy.log_distribution(last).exp()[0]
    for token in (
        "<|AUDIO|>",
        "<|VIDEO|>",
        "<|IMAGE|>",
        "<|im_start|>",
        "<|vision_bos|>",
        "<|audio_eos|>",
    ):
        assert p[tok.convert_tokens_to_ids(token)] == 0
    assert (
        p[tok.convert_tokens_to_ids("<think>")] > 0
        and p[tok.eos_token_id] > 0
        and p.sum() == pytest.approx(1, abs=1e-5)
    )


def test_checkpoint_loads_in_transformers_with_equal_logits(fresh_policy, prompts, tmp_path):
    with torch.no_grad():
        for p in fresh_policy.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        fresh_policy.save(tmp_path / "m")
        theirs = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "m").eval()
        inputs = hf_inputs(fresh_policy, prompts[0])
        torch.testing.assert_close(
            theirs(**inputs).logits, fresh_policy.model(**inputs).logits, atol=0, rtol=0
        )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "left: red square 0101\n<think>a</think>"
    assert (
        tokenizer(text)["input_ids"] == fresh_policy.tokenizer(text)["input_ids"]
        and tokenizer.decode(tokenizer(text)["input_ids"]) == text
    )
    assert WhisperFeatureExtractor.from_pretrained(tmp_path / "m").feature_size == 64


def test_chat_form_is_qwens(policy):
    """The template by hand; every marker is one token, and none of them may be sampled except the one that ends a turn."""
    tok = policy.tokenizer
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}
    text = tok.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>Why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for marker in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *MEDIA_TOKENS.values()):
        ids = tok(marker)["input_ids"]
        assert len(ids) == 1 and bool(policy.banned[ids[0]]) == (ids[0] not in policy.eos_ids)
    assert tok.convert_ids_to_tokens(policy.eos_ids) in (
        ["<|im_end|>", "<|endoftext|>"],
        ["<|endoftext|>", "<|im_end|>"],
    )
    assert [
        len(tok(tag)["input_ids"]) for tag in ("<think>", "</think>", "<answer>", "</answer>")
    ] == [1] * 4


def test_bundled_model_is_small_and_documented():
    size = sum(f.stat().st_size for f in DEFAULT_MODEL.rglob("*") if f.is_file())
    assert size < 10_000_000
    facts = json.loads((DEFAULT_MODEL / "made_by.json").read_text())
    assert {"command", "seed", "heldout_accuracy", "minutes"} <= set(facts)


@pytest.fixture
def tower_passes(fresh_policy):
    """Patches in each pass of fresh_policy's vision tower, in order."""
    passes = []
    fresh_policy.visual.register_forward_hook(lambda m, args, out: passes.append(len(args[0])))
    return passes


def test_towers_run_once_per_clip_and_step_and_once_for_all_while_frozen(
    fresh_policy, prompts, tower_passes
):
    clips = {p.sample.media_key: len(p.patches) for p in prompts}
    assert len(clips) < len(prompts)  # two questions about each clip
    digests = {media_digest(p) for p in prompts}
    assert len(digests) == len(clips)

    # Trained towers: once per step.
    features = Features(fresh_policy)
    trained = features.of(prompts)
    assert tower_passes == [sum(clips.values())]
    assert set(features.outputs) == digests
    assert all(x is y for x, y in zip(trained, features.of(prompts), strict=True))
    assert len(tower_passes) == 1
    Features(fresh_policy).of(prompts)
    assert len(tower_passes) == 2

    # Frozen towers: once for all steps.
    fresh_policy.freeze_towers()
    frozen = Features(fresh_policy).of(prompts)
    cached = Features(fresh_policy).of(prompts)
    assert len(tower_passes) == 3
    assert set(fresh_policy.cache.outputs) == digests
    for x, y, z in zip(trained, frozen, cached, strict=True):
        for name in x:
            assert torch.equal(x[name], y[name])
            assert torch.equal(x[name], z[name])
    assert trained[0]["vision"].requires_grad
    assert not frozen[0]["vision"].requires_grad


def altered(prompt, change: str):
    """A copy of a prompt with other media under the same id and the same paths."""
    if change == "masked patches":
        return replace(prompt, patches=torch.zeros_like(prompt.patches))
    if change == "shuffled patches":
        return replace(prompt, patches=prompt.patches.flip(0))
    if change == "masked mel":
        return replace(prompt, mels=[torch.zeros_like(mel) for mel in prompt.mels])
    return replace(prompt, mels=[mel.flip(1) for mel in prompt.mels])


@pytest.mark.parametrize(
    "change", ["masked patches", "shuffled patches", "masked mel", "shuffled mel"]
)
@pytest.mark.parametrize("towers", ["trained", "frozen"])
@pytest.mark.parametrize("first", ["true", "altered"])
def test_altered_media_have_features_of_their_own(fresh_policy, prompts, change, towers, first):
    """Whichever comes first, within a step and in the cache across steps: each prompt gets what its own media make."""
    if towers == "frozen":
        fresh_policy.freeze_towers()
    true = prompts[0]
    other = altered(true, change)
    assert other.sample.media_key == true.sample.media_key
    pair = [true, other] if first == "true" else [other, true]
    kind = "vision" if "patches" in change else "audio"
    with torch.no_grad():
        direct = [fresh_policy.run_towers([prompt])[0] for prompt in pair]
    assert not torch.allclose(direct[0][kind], direct[1][kind], atol=1e-3)

    one_step = Features(fresh_policy)
    one_by_one = [one_step.of([prompt])[0] for prompt in pair]
    together = Features(fresh_policy).of(pair)
    next_step = [Features(fresh_policy).of([prompt])[0] for prompt in pair]
    for found in (one_by_one, together, next_step):
        for ours, expected in zip(found, direct, strict=True):
            assert ours.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(ours[name].detach(), expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("towers", ["trained", "frozen"])
def test_media_edited_in_place_have_new_features(fresh_policy, prompts, tower_passes, towers):
    if towers == "frozen":
        fresh_policy.freeze_towers()
    prompt = replace(prompts[0], patches=prompts[0].patches.clone())
    features = Features(fresh_policy)
    before = features.of([prompt])[0]["vision"].detach().clone()
    prompt.patches[: len(prompt.patches) // 2] = 0.0
    edited = features.of([prompt])[0]["vision"].detach()
    assert len(tower_passes) == 2
    assert not torch.allclose(before, edited, atol=1e-3)
    assert torch.equal(edited, Features(fresh_policy).of([prompt])[0]["vision"])


def test_the_same_media_under_two_paths_pass_the_towers_once(fresh_policy, prompts, tower_passes):
    sample = replace(prompts[0].sample, id="copy", videos=["a copy of the clip.mp4"])
    copy = replace(
        prompts[0],
        sample=sample,
        patches=prompts[0].patches.clone(),
        mels=[mel.clone() for mel in prompts[0].mels],
    )
    assert copy.sample.media_key != prompts[0].sample.media_key
    one, other = Features(fresh_policy).of([prompts[0], copy])
    assert tower_passes == [len(copy.patches)]
    assert one is other


def test_gradients_reach_the_towers_through_features_of_the_rollout(fresh_policy, prompts):
    """Features computed without gradients, gradients collected in them, towers run once more: the same as one graph through all."""
    completions = [random_completions(fresh_policy, [4, 2]) for _ in prompts]
    logp, _ = fresh_policy.completion_logps(prompts, fresh_policy.run_towers(prompts), completions)
    logp.sum().backward()
    direct = gradients(fresh_policy)
    features = Features(fresh_policy)
    with torch.no_grad():
        features.of(prompts)
    for i in range(4):  # in four micro-batches
        logp, _ = fresh_policy.completion_logps(
            [prompts[i]], features.of([prompts[i]]), [completions[i]]
        )
        logp.sum().backward()
    features.backward()
    ours = gradients(fresh_policy)
    assert ours.keys() == direct.keys()
    for name, grad in ours.items():
        assert (grad - direct[name]).norm() <= 1e-4 * direct[name].norm() + 1e-5, name


def test_features_are_made_anew_after_the_towers_have_changed(fresh_policy, prompts, tower_passes):
    """A second update of a step must not be computed from the outputs of the towers before the first one."""
    features = Features(fresh_policy)
    before = features.of(prompts[:1])[0]["vision"]
    before.sum().backward()
    features.backward()
    with torch.no_grad():
        fresh_policy.visual.merger.ln_q.weight.mul_(1.5)
    after = features.of(prompts[:1])[0]["vision"]
    assert len(tower_passes) == 3
    assert not torch.allclose(before, after, atol=1e-3)
    fresh_policy.model.zero_grad()
    features.backward()  # no gradient has come in since: nothing happens
    assert len(tower_passes) == 3
    assert all(p.grad is None for p in fresh_policy.tower_parameters())


def test_feature_cache_is_bounded():
    cache = FeatureCache(max_bytes=100)
    for i in range(10):
        cache.put(str(i), {"vision": torch.zeros(10)})  # 40 bytes each
    cache.put("large", {"vision": torch.zeros(30)})  # would push out all others and still not fit
    assert list(cache.outputs) == ["8", "9"] and cache.bytes == 80 and cache.get("0") is None


def test_reference_is_frozen_and_stays(fresh_policy, prompts):
    fresh_policy.freeze_towers()
    reference, completions = fresh_policy.reference(), [random_completions(fresh_policy, [5])]
    features = Features(fresh_policy).of(prompts[:1])
    before, _ = reference.completion_logps(prompts[:1], features, completions)
    assert not before.requires_grad
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.mul_(1.1)
    after, _ = reference.completion_logps(prompts[:1], features, completions)
    moved, _ = fresh_policy.completion_logps(prompts[:1], features, completions)
    assert torch.equal(before, after) and not torch.allclose(moved, after)


def test_parts_are_found_in_both_layouts(policy):
    """transformers 5.23 keeps the towers under thinker.model, 5.17 had them directly under the thinker."""

    class Old:
        pass

    old = Old()
    old.visual, old.audio_tower, old.model, old.lm_head = (
        policy.visual,
        policy.audio_tower,
        policy.text,
        policy.head,
    )
    assert (
        parts(old)
        == (policy.visual, policy.audio_tower, policy.text, policy.head)
        == parts(policy.model)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a model folder"),
        ('{"model_type": "bert"}', "model_type 'bert'"),
        (
            '{"model_type": "qwen2_5_omni_thinker", "text_config": {"attention_dropout": 0.1}}',
            "attention_dropout",
        ),
        (
            '{"model_type": "qwen2_5_omni_thinker", "text_config": {"use_sliding_window": true}}',
            "use_sliding_window",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path, content, message):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_policy(tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_without_weights_is_refused(policy, tmp_path):
    policy.config.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no weights could be loaded"):
        load_policy(tmp_path)


def test_tiny_model_is_made_alike_from_a_seed():
    a, b = (make_tiny_policy(["red square 0101"] * 3, seed=7) for _ in range(2))
    assert isinstance(a, Policy) and all(
        torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True)
    )
    assert (
        a.tokenizer.decode(a.tokenizer("übung 漢字 10")["input_ids"]) == "übung 漢字 10"
    )  # any text, byte by byte if need be
