"""model.py against transformers' own forward on repeated rows, and the checkpoint in Hugging Face form."""
import json

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from data import DataError, Sample, build_prompt
from model import DEFAULT_MODEL, MEDIA_TOKENS, FeatureCache, Policy, load_policy, make_tiny_policy, parts
from tests.test_data import media_of


def hf_inputs(policy, prompt, completion=()):
    """The arguments transformers' thinker takes for [prompt | completion], everything at its own defaults, nothing of ours inside."""
    ids = torch.cat([prompt.ids, torch.tensor(list(completion), dtype=torch.long)])[None]
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    name = "image" if prompt.is_image else "video"
    if prompt.patches is not None:
        out |= {"pixel_values" if prompt.is_image else "pixel_values_videos": prompt.patches, f"{name}_grid_thw": torch.tensor([prompt.grid])}
    if prompt.mel is not None:
        out |= {"input_features": prompt.mel[None], "feature_attention_mask": torch.ones(1, prompt.mel.shape[1], dtype=torch.long)}
    if prompt.patches is not None and not prompt.is_image:
        out |= {"video_second_per_grid": torch.tensor([1.0]), "use_audio_in_video": prompt.mel is not None}
    return out


def hf_logps(policy, prompt, completion, temperature=1.0):
    """Log-probs of the completion's tokens from transformers' full forward over the whole row."""
    logits = policy.model(**hf_inputs(policy, prompt, completion)).logits[0, len(prompt.ids) - 1: -1].float()
    logits = logits.masked_fill(policy.banned, float("-inf")) / temperature
    return F.log_softmax(logits, -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


def random_completions(policy, lengths, seed=0):
    allowed = torch.nonzero(~policy.banned).squeeze(-1)
    g = torch.Generator().manual_seed(seed)
    return [allowed[torch.randint(len(allowed), (n,), generator=g)].tolist() for n in lengths]


# Random tokens have log-probs down to -40, where one fp32 step is 4e-6: hence rtol = 1e-6 beside atol = 1e-5.
GROUPS = [[5, 1, 12], [7], [1, 1], [3, 9, 2, 4]]  # completion lengths of four prompts


def test_shared_prefix_logps_equal_transformers_on_repeated_rows(policy, prompts):
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(GROUPS)]
    with torch.no_grad():
        logp, mask = policy.completion_logps(prompts, policy.features(prompts), completions, temperature=0.7)
        row = 0
        for prompt, group in zip(prompts, completions, strict=True):
            for completion in group:
                assert mask[row].sum() == len(completion) and (logp[row, len(completion):] == 0).all()
                torch.testing.assert_close(logp[row, : len(completion)], hf_logps(policy, prompt, completion, 0.7), atol=1e-5, rtol=1e-6)
                row += 1
    assert row == len(logp)


@pytest.mark.parametrize("kind", ["video", "image", "image+sound", "sound", "video+sound"])
def test_every_kind_of_prompt_equals_transformers(policy, kind):
    prompt = build_prompt(Sample("a", "How many?", "numeric", "1"), media_of(kind), policy.tokenizer, policy.config)
    completion = random_completions(policy, [6])[0]
    with torch.no_grad():
        ours, _ = policy.completion_logps([prompt], policy.features([prompt]), [[completion]])
        torch.testing.assert_close(ours[0], hf_logps(policy, prompt, completion), atol=1e-5, rtol=1e-6)


def test_shared_prefix_gradients_equal_repeated_rows(fresh_policy, prompts):
    policy = fresh_policy
    completions = [random_completions(policy, lengths, i) for i, lengths in enumerate(GROUPS)]
    logp, mask = policy.completion_logps(prompts, policy.features(prompts), completions)
    weights = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    (logp * weights)[mask].sum().backward()
    ours = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    row = 0
    for prompt, group in zip(prompts, completions, strict=True):
        for completion in group:
            (hf_logps(policy, prompt, completion) * weights[row, : len(completion)]).sum().backward()
            row += 1
    theirs = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert set(ours) == set(theirs) and any("visual" in n for n in ours) and any("audio_tower" in n for n in ours)
    for name, grad in theirs.items():
        assert (ours[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6, name


def test_log_prob_passes_change_no_input(policy, prompts):
    before = [(p.ids.clone(), p.positions.clone(), p.patches.clone(), p.mel.clone()) for p in prompts]
    weights = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    completions = [random_completions(policy, [4, 2]) for _ in prompts]
    copy = json.loads(json.dumps(completions))
    features = policy.features(prompts)
    kept = [{k: v.clone() for k, v in f.items()} for f in features]
    first, _ = policy.completion_logps(prompts, features, completions)
    second, _ = policy.completion_logps(prompts, features, completions)
    assert torch.equal(first, second) and completions == copy
    for prompt, old in zip(prompts, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip((prompt.ids, prompt.positions, prompt.patches, prompt.mel), old, strict=True))
    assert all(torch.equal(f[k], old[k]) for f, old in zip(features, kept, strict=True) for k in f)
    assert all(torch.equal(p, weights[n]) for n, p in policy.model.named_parameters())


def test_empty_completions_give_no_nan(fresh_policy, prompts):
    features = fresh_policy.features(prompts[:2])
    logp, mask = fresh_policy.completion_logps(prompts[:2], features, [[[], [5, 6]], [[]]])
    assert mask.sum(1).tolist() == [0, 2, 0] and torch.isfinite(logp).all()
    logp.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fresh_policy.model.parameters() if p.grad is not None)
    logp, mask = fresh_policy.completion_logps(prompts[:1], features[:1], [[[], []]])
    assert logp.shape == mask.shape == (2, 0)


def test_ids_a_completion_may_not_hold_have_no_probability(policy, prompts):
    tok = policy.tokenizer
    with torch.no_grad():
        last = policy.prefill(prompts[:1], policy.features(prompts[:1])).last
        p = policy.log_distribution(last).exp()[0]
    for token in ("<|AUDIO|>", "<|VIDEO|>", "<|IMAGE|>", "<|im_start|>", "<|vision_bos|>", "<|audio_eos|>"):
        assert p[tok.convert_tokens_to_ids(token)] == 0
    assert p[tok.convert_tokens_to_ids("<think>")] > 0 and p[tok.eos_token_id] > 0 and p.sum() == pytest.approx(1, abs=1e-5)


def test_checkpoint_loads_in_transformers_with_equal_logits(fresh_policy, prompts, tmp_path):
    with torch.no_grad():
        for p in fresh_policy.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        fresh_policy.save(tmp_path / "m")
        theirs = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "m").eval()
        inputs = hf_inputs(fresh_policy, prompts[0])
        torch.testing.assert_close(theirs(**inputs).logits, fresh_policy.model(**inputs).logits, atol=0, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "left: red square 0101\n<think>a</think>"
    assert tokenizer(text)["input_ids"] == fresh_policy.tokenizer(text)["input_ids"] and tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert WhisperFeatureExtractor.from_pretrained(tmp_path / "m").feature_size == 64


def test_chat_form_is_qwens(policy):
    """The template by hand; every marker is one token, and none of them may be sampled except the one that ends a turn."""
    tok = policy.tokenizer
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}
    text = tok.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>Why?<|im_end|>\n"
                    "<|im_start|>assistant\n")
    for marker in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *MEDIA_TOKENS.values()):
        ids = tok(marker)["input_ids"]
        assert len(ids) == 1 and bool(policy.banned[ids[0]]) == (ids[0] not in policy.eos_ids)
    assert tok.convert_ids_to_tokens(policy.eos_ids) in (["<|im_end|>", "<|endoftext|>"], ["<|endoftext|>", "<|im_end|>"])
    assert [len(tok(tag)["input_ids"]) for tag in ("<think>", "</think>", "<answer>", "</answer>")] == [1] * 4


def test_bundled_model_is_small_and_documented():
    size = sum(f.stat().st_size for f in DEFAULT_MODEL.rglob("*") if f.is_file())
    assert size < 10_000_000
    facts = json.loads((DEFAULT_MODEL / "made_by.json").read_text())
    assert {"command", "seed", "heldout_accuracy", "minutes"} <= set(facts)


def test_features_are_cached_only_while_frozen_and_run_once_per_clip(fresh_policy, prompts):
    calls = []
    fresh_policy.visual.register_forward_hook(lambda *a: calls.append(1))
    fresh_policy.features(prompts)
    fresh_policy.features(prompts)
    assert len(calls) == 2                                  # trained towers: every time
    fresh_policy.freeze_towers()
    a = fresh_policy.features(prompts)
    b = fresh_policy.features(prompts)
    assert len(calls) == 3 and all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)
    same_clip = [p for p in prompts if p.sample.media_key == prompts[0].sample.media_key]
    assert len(same_clip) == 2 and len(fresh_policy.cache.store) == len({p.sample.media_key for p in prompts})


def test_feature_cache_is_bounded():
    cache = FeatureCache(max_bytes=100)
    for i in range(10):
        cache.put(str(i), {"vision": torch.zeros(10)})      # 40 bytes each
    assert list(cache.store) == ["8", "9"] and cache.bytes == 80 and cache.get("0") is None


def test_reference_is_frozen_and_stays(fresh_policy, prompts):
    fresh_policy.freeze_towers()
    reference, completions = fresh_policy.reference(), [random_completions(fresh_policy, [5])]
    features = fresh_policy.features(prompts[:1])
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
    old.visual, old.audio_tower, old.model, old.lm_head = policy.visual, policy.audio_tower, policy.text, policy.head
    assert parts(old) == (policy.visual, policy.audio_tower, policy.text, policy.head) == parts(policy.model)


@pytest.mark.parametrize(("content", "message"), [(None, "not a model folder"), ('{"model_type": "bert"}', "model_type 'bert'")])
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
    assert isinstance(a, Policy) and all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert a.tokenizer.decode(a.tokenizer("übung 漢字 10")["input_ids"]) == "übung 漢字 10"     # any text, byte by byte if need be
