"""tools/tiny_model.py: the tiny model, its tokenizer and its chat form."""

import json

import pytest
import torch

from engine.families import DEFAULT_MODEL
from model import Policy
from tools.tiny_model import MEDIA_TOKENS, make_tiny_policy


def test_chat_form_is_qwens(policy):
    """The template by hand; every marker is one token, and none of them may be sampled except the
    ones that end a turn."""
    tokenizer = policy.tokenizer
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}
    text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>Why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for marker in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *MEDIA_TOKENS.values()):
        (token,) = tokenizer(marker)["input_ids"]
        assert bool(policy.banned[token]) == (token not in policy.eos_ids)
    ends = set(tokenizer.convert_ids_to_tokens(policy.eos_ids))
    assert ends == {"<|im_end|>", "<|endoftext|>"}
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer(tag)["input_ids"]) == 1


def test_ids_that_a_completion_may_not_hold_have_no_probability(policy):
    with torch.no_grad():
        hidden = torch.randn(1, 128, generator=torch.Generator().manual_seed(0))
        probs = policy.log_distribution(hidden).exp()[0]
    token_id = policy.tokenizer.convert_tokens_to_ids
    for token in (*MEDIA_TOKENS.values(), "<|im_start|>"):
        assert probs[token_id(token)] == 0
    assert probs[token_id("<think>")] > 0
    assert probs[policy.tokenizer.eos_token_id] > 0
    assert probs.sum() == pytest.approx(1, abs=1e-5)


def test_bundled_model_is_small_and_documented():
    size = sum(f.stat().st_size for f in DEFAULT_MODEL.rglob("*") if f.is_file())
    assert size < 10_000_000
    facts = json.loads((DEFAULT_MODEL / "made_by.json").read_text())
    assert {"command", "seed", "heldout_accuracy", "minutes"} <= set(facts)


def test_a_seed_gives_one_tiny_model():
    first, second = (make_tiny_policy(["red square 0101"] * 3, seed=7) for _ in range(2))
    assert isinstance(first, Policy)
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

    # any text, byte by byte if need be
    text = "übung 漢字 10"
    assert first.tokenizer.decode(first.tokenizer(text)["input_ids"]) == text
