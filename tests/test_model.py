"""model.py against transformers' own forward on repeated rows; the features and their gradients."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from data import build_prompt
from engine import packed_rows
from engine.attention import attend_by_hand, attend_by_hand_backward
from engine.families import DEFAULT_MODEL
from engine.feature_cache import FeatureCache
from media.digest import media_digest
from model import Features, load_policy
from tests.random_media import media_of, sample_of
from tests.reference import hf_inputs, hf_logps, random_completions

# Random tokens have log-probs down to -40, where one fp32 step is 4e-6.
CLOSE = {"atol": 1e-5, "rtol": 1e-6}
GROUPS = [[5, 1, 12], [7], [1, 1], [3, 9, 2, 4]]  # completion lengths of four prompts


@pytest.fixture(scope="module")
def shared_policy():
    return load_policy(DEFAULT_MODEL)


@pytest.fixture
def trainable(shared_policy):
    """The bundled model with trained towers, for tests that leave nothing but gradients behind."""
    shared_policy.model.zero_grad()
    yield shared_policy
    shared_policy.model.zero_grad()
    shared_policy.checkpoint_layers = False


def take_gradients(policy):
    """The gradients by name; the policy has none afterwards."""
    parameters = policy.model.named_parameters()
    grads = {name: p.grad.clone() for name, p in parameters if p.grad is not None}
    policy.model.zero_grad()
    return grads


# ------------------------------------------------------------------ log-probs and gradients
def test_shared_prefix_logps_equal_transformers_on_repeated_rows(policy, prompts):
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(GROUPS)]
    with torch.no_grad():
        features = Features(policy).of(prompts)
        logp, mask = policy.completion_logps(prompts, features, completions, temperature=0.7)
        row = 0
        for prompt, group in zip(prompts, completions, strict=True):
            for completion in group:
                n = len(completion)
                expected = hf_logps(policy, prompt, completion, 0.7)
                torch.testing.assert_close(logp[row, :n], expected, **CLOSE)
                assert mask[row].sum() == n
                assert (logp[row, n:] == 0).all()
                row += 1
    assert row == len(logp)


KINDS = ("video", "image", "image+sound", "sound", "video+sound", "several")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_equals_transformers(policy, kind):
    prompt = build_prompt(sample_of(kind), media_of(kind), policy.tokenizer, policy.form)
    completion = random_completions(policy, [6])[0]
    with torch.no_grad():
        features = Features(policy).of([prompt])
        ours, _ = policy.completion_logps([prompt], features, [[completion]])
        torch.testing.assert_close(ours[0], hf_logps(policy, prompt, completion), **CLOSE)


MIXES = [
    GROUPS,
    [[1], [1], [1], [1]],
    [[], [6, 2], [], [3]],
    [[30, 1], [2, 2, 2, 2, 2], [17], [0, 8, 0]],
]


@pytest.fixture(scope="module", params=range(len(MIXES)))
def theirs(request, shared_policy, prompts):
    """Completions, weights of their tokens, and what transformers makes of them, as one row
    [prompt | completion] after the other: log-probs, and the gradients of their weighted sum."""
    mix = MIXES[request.param]
    policy = shared_policy
    policy.model.zero_grad()
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(mix)]
    longest = max(n for lengths in mix for n in lengths)
    shape = (sum(map(len, mix)), longest)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    logps = torch.zeros(shape)
    row = 0
    for prompt, group in zip(prompts, completions, strict=True):
        for completion in group:
            if completion:
                logp = hf_logps(policy, prompt, completion, 0.8)
                (logp * weights[row, : len(completion)]).sum().backward()
                logps[row, : len(completion)] = logp.detach()
            row += 1
    return completions, weights, logps, take_gradients(policy)


@pytest.mark.parametrize("layers", ["kept", "checkpointed", "by hand"])
def test_packed_rows_give_the_gradients_of_repeated_rows(
    trainable, prompts, theirs, layers, monkeypatch
):
    """Every parameter's gradient, towers included, within 1e-5 of transformers'."""
    completions, weights, their_logps, their_grads = theirs
    trainable.checkpoint_layers = layers == "checkpointed"
    if layers == "by hand":
        monkeypatch.setattr(packed_rows, "attend", attend_by_hand)
        monkeypatch.setattr(packed_rows, "attend_backward", attend_by_hand_backward)
    features = Features(trainable)
    logp, mask = trainable.completion_logps(
        prompts, features.of(prompts), completions, temperature=0.8
    )
    torch.testing.assert_close(logp.detach(), their_logps, **CLOSE)
    (logp * weights)[mask].sum().backward()
    features.backward()
    ours = take_gradients(trainable)

    assert set(ours) >= set(their_grads)
    assert any("visual" in name for name in their_grads)
    assert any("audio_tower" in name for name in their_grads)
    our_vector = torch.cat([ours[name].flatten() for name in their_grads])
    their_vector = torch.cat([grad.flatten() for grad in their_grads.values()])
    norm = their_vector.norm()
    assert (our_vector - their_vector).norm() <= 1e-5 * norm
    assert not any(ours[name].any() for name in set(ours) - set(their_grads))
    # A gradient that is nearly zero (a key bias: softmax ignores it) is all rounding.
    for name, grad in their_grads.items():
        assert (ours[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6 * norm, name


def test_the_prompt_is_computed_once_and_its_last_layer_hardly_at_all(policy, prompts):
    """Tokens that pass the first and the last layer's MLP: P + sum (R - 1) of each row; and
    1 + sum (R - 1). Repeated rows would take sum (P + R)."""
    passed = {0: [], -1: []}

    def count_tokens(layer):
        def hook(module, args, output):
            passed[layer].append(len(args[0]))

        return policy.text.layers[layer].mlp.register_forward_hook(hook)

    hooks = [count_tokens(layer) for layer in passed]
    completions = [random_completions(policy, lengths) for lengths in GROUPS]
    with torch.no_grad():
        policy.completion_logps(prompts, Features(policy).of(prompts), completions)
    for hook in hooks:
        hook.remove()
    suffix_tokens = sum(n - 1 for lengths in GROUPS for n in lengths)
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    assert passed == {0: [prompt_tokens + suffix_tokens], -1: [len(prompts) + suffix_tokens]}


def test_log_prob_passes_change_no_input(policy, prompts):
    def inputs():
        tensors = list(policy.model.parameters())
        for prompt in prompts:
            tensors += [prompt.ids, prompt.positions, prompt.patches, *prompt.mels]
        for output in features:
            tensors += output.values()
        return tensors

    features = Features(policy).of(prompts)
    before = [tensor.detach().clone() for tensor in inputs()]
    completions = [random_completions(policy, [4, 2]) for _ in prompts]
    copy = json.loads(json.dumps(completions))

    first, _ = policy.completion_logps(prompts, features, completions)
    second, _ = policy.completion_logps(prompts, features, completions)
    assert torch.equal(first, second)
    assert completions == copy
    assert all(torch.equal(a, b) for a, b in zip(inputs(), before, strict=True))


def test_empty_completions_give_no_nan(trainable, prompts):
    features = Features(trainable).of(prompts[:2])
    logp, mask = trainable.completion_logps(prompts[:2], features, [[[], [5, 6]], [[]]])
    assert mask.sum(1).tolist() == [0, 2, 0]
    assert torch.isfinite(logp).all()
    logp.sum().backward()
    assert all(torch.isfinite(grad).all() for grad in take_gradients(trainable).values())
    logp, mask = trainable.completion_logps(prompts[:1], features[:1], [[[], []]])
    assert logp.shape == mask.shape == (2, 0)


# ------------------------------------------------------------------ prefill
def test_long_batches_are_split_by_tokens(fresh_policy, prompts):
    """Towers and prefill in passes of at most max_tokens (or one prompt): the same prefixes."""
    fresh_policy.freeze_towers()
    passes = []
    fresh_policy.text.layers[0].mlp.register_forward_hook(
        lambda module, args, output: passes.append(len(args[0]))
    )
    together = fresh_policy.prefill(prompts, Features(fresh_policy).of(prompts))
    fresh_policy.max_tokens = 1
    fresh_policy.cache = FeatureCache(0)
    alone = fresh_policy.prefill(prompts, Features(fresh_policy).of(prompts))
    assert passes == [sum(together.lengths), *together.lengths]
    assert together.keys[0].shape == (4, max(together.lengths), 2, 32)
    for a, b in zip(
        (*together.keys, *together.values, together.hidden),
        (*alone.keys, *alone.values, alone.hidden),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_media_tokens_have_no_probability_after_a_prompt(policy, prompts):
    with torch.no_grad():
        hidden = policy.prefill(prompts[:1], Features(policy).of(prompts[:1])).hidden
        probs = policy.log_distribution(hidden).exp()[0]
    assert (probs[policy.banned] == 0).all()
    assert probs.sum() == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------ features
@pytest.fixture
def tower_passes(fresh_policy):
    """Patches in each pass of fresh_policy's vision tower, in order."""
    passes = []
    fresh_policy.visual.register_forward_hook(
        lambda module, args, output: passes.append(len(args[0]))
    )
    return passes


def test_towers_run_once_per_clip_and_step_and_once_for_all_while_frozen(
    fresh_policy, prompts, tower_passes
):
    clips = {prompt.sample.media_key: len(prompt.patches) for prompt in prompts}
    assert len(clips) < len(prompts)  # two questions about each clip
    digests = {media_digest(prompt) for prompt in prompts}
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


CHANGES = ("masked patches", "shuffled patches", "masked mel", "shuffled mel")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("towers", ["trained", "frozen"])
@pytest.mark.parametrize("first", ["original", "altered"])
def test_altered_media_have_features_of_their_own(fresh_policy, prompts, change, towers, first):
    """Whichever comes first, within a step and in the cache across steps."""
    if towers == "frozen":
        fresh_policy.freeze_towers()
    pair = [prompts[0], altered(prompts[0], change)]
    assert pair[0].sample.media_key == pair[1].sample.media_key
    if first == "altered":
        pair.reverse()
    kind = "vision" if "patches" in change else "audio"
    with torch.no_grad():
        direct = [fresh_policy.run_towers([prompt])[0] for prompt in pair]
    assert not torch.allclose(direct[0][kind], direct[1][kind], atol=1e-3)

    one_step = Features(fresh_policy)
    one_by_one = [one_step.of([prompt])[0] for prompt in pair]
    together = Features(fresh_policy).of(pair)
    next_steps = [Features(fresh_policy).of([prompt])[0] for prompt in pair]
    for outputs in (one_by_one, together, next_steps):
        for output, expected in zip(outputs, direct, strict=True):
            assert output.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(output[name].detach(), expected[name], atol=1e-5, rtol=0)


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


def test_media_edited_before_the_backward_pass_are_refused(trainable, prompts):
    prompt = replace(prompts[0], patches=prompts[0].patches.clone())
    features = Features(trainable)
    features.of([prompt])[0]["vision"].sum().backward()
    prompt.patches.zero_()
    with pytest.raises(ValueError, match="edited in place between the forward and the backward"):
        features.backward()


def test_the_same_media_under_two_paths_pass_the_towers_once(fresh_policy, prompts, tower_passes):
    original = prompts[0]
    copy = replace(
        original,
        sample=replace(original.sample, id="copy", videos=["a copy of the clip.mp4"]),
        patches=original.patches.clone(),
        mels=[mel.clone() for mel in original.mels],
    )
    assert copy.sample.media_key != original.sample.media_key
    first, second = Features(fresh_policy).of([original, copy])
    assert tower_passes == [len(copy.patches)]
    assert first is second


def test_gradients_reach_the_towers_through_features_of_the_rollout(trainable, prompts):
    """Features computed without gradients, gradients collected in them, towers run once more: the
    same as one graph through all."""
    completions = [random_completions(trainable, [4, 2]) for _ in prompts]
    logp, _ = trainable.completion_logps(prompts, trainable.run_towers(prompts), completions)
    logp.sum().backward()
    direct = take_gradients(trainable)

    features = Features(trainable)
    with torch.no_grad():
        features.of(prompts)
    for prompt, group in zip(prompts, completions, strict=True):  # in four micro-batches
        logp, _ = trainable.completion_logps([prompt], features.of([prompt]), [group])
        logp.sum().backward()
    features.backward()
    ours = take_gradients(trainable)
    assert ours.keys() == direct.keys()
    for name, grad in ours.items():
        assert (grad - direct[name]).norm() <= 1e-4 * direct[name].norm() + 1e-5, name


def test_features_are_computed_anew_after_the_towers_have_changed(
    fresh_policy, prompts, tower_passes
):
    """A second update of a step must not read the outputs of the towers before the first one."""
    features = Features(fresh_policy)
    before = features.of(prompts[:1])[0]["vision"]
    before.sum().backward()
    features.backward()
    with torch.no_grad():
        fresh_policy.visual.merger.ln_q.weight.mul_(1.5)
    after = features.of(prompts[:1])[0]["vision"]
    assert len(tower_passes) == 3
    assert not torch.allclose(before, after, atol=1e-3)

    # no gradient has come in since: nothing happens
    fresh_policy.model.zero_grad()
    features.backward()
    assert len(tower_passes) == 3
    assert all(p.grad is None for p in fresh_policy.tower_parameters())


# ------------------------------------------------------------------ reference and checkpoint
def test_reference_is_frozen_and_stays(fresh_policy, prompts):
    fresh_policy.freeze_towers()
    reference = fresh_policy.reference()
    completions = [random_completions(fresh_policy, [5])]
    features = Features(fresh_policy).of(prompts[:1])
    before, _ = reference.completion_logps(prompts[:1], features, completions)
    assert not before.requires_grad
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.mul_(1.1)
    after, _ = reference.completion_logps(prompts[:1], features, completions)
    moved, _ = fresh_policy.completion_logps(prompts[:1], features, completions)
    assert torch.equal(before, after)
    assert not torch.allclose(moved, after)


def test_checkpoint_loads_in_transformers_with_equal_logits(fresh_policy, prompts, tmp_path):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in fresh_policy.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
        fresh_policy.save(tmp_path)
        theirs = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path).eval()
        inputs = hf_inputs(fresh_policy, prompts[0])
        our_logits = fresh_policy.model(**inputs).logits
        assert torch.equal(theirs(**inputs).logits, our_logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "left: red square 0101\n<think>a</think>"
    ids = tokenizer(text)["input_ids"]
    assert ids == fresh_policy.tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert WhisperFeatureExtractor.from_pretrained(tmp_path).feature_size == 64
