"""engine/adapters.py: LoRA against weights that were added by hand, peft, and the real loop."""

import json
import os
import re

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from config import parse
from engine.families import DEFAULT_MODEL, parameter_counts, parts
from formats.sample import DataError
from model import Features, load_policy
from run.flags import is_tiny
from tests.reference import hf_inputs, random_completions
from train import run_stage

# Sums of a few hundred products in another order
CLOSE = {"atol": 1e-4, "rtol": 1e-5}


def fill_adapters(policy, std=0.05):
    """Give new adapters, whose products are zero, something to say."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=std, generator=generator)


def count_linear(*modules):
    return sum(isinstance(m, nn.Linear) for module in modules for m in module.modules())


@pytest.mark.parametrize("towers", [False, True])
def test_adapters_sit_on_all_linear_layers_and_start_at_nothing(fresh_policy, prompts, towers):
    policy = fresh_policy
    completions = [random_completions(policy, [4])] * 4
    n_decoder = count_linear(policy.text)
    n_all = count_linear(*parts(policy.model)[:3])
    with torch.no_grad():
        before, _ = policy.completion_logps(prompts, Features(policy).of(prompts), completions)
        policy.add_adapters(8, towers)
        after, _ = policy.completion_logps(prompts, Features(policy).of(prompts), completions)
    assert torch.equal(before, after)
    assert n_decoder == 7 * 4

    decoder, tower = policy.named_trained()
    assert len(decoder) == 2 * n_decoder
    assert len(tower) == (2 * (n_all - n_decoder) if towers else 0)
    assert policy.trains_towers == towers
    assert all("lora_" in name for name in decoder | tower)
    assert not any("lm_head" in name for name in decoder)
    n_weights = sum(p.numel() for p in (decoder | tower).values())
    assert n_weights == parameter_counts(policy.config, 8, towers)["adapters"]


@pytest.fixture(scope="module")
def by_hand_case(prompts):
    """A policy with adapters of rank 4, and the log-probs without adapters, with them added by
    hand, and through them."""
    policy = load_policy(DEFAULT_MODEL)
    completions = [random_completions(policy, [6, 3], i) for i in range(4)]
    policy.freeze_towers()
    features = Features(policy).of(prompts)
    with torch.no_grad():
        plain, _ = policy.completion_logps(prompts, features, completions)
    policy.add_adapters(4, towers=False)
    fill_adapters(policy)

    by_hand = load_policy(DEFAULT_MODEL)
    adapted = dict(policy.text.named_modules())
    with torch.no_grad():
        for name, layer in by_hand.text.named_modules():
            if isinstance(layer, nn.Linear):
                a = adapted[name].lora_A["default"].weight  # (rank, in)
                b = adapted[name].lora_B["default"].weight  # (out, rank)
                layer.weight += 32 / 4 * b @ a
        expected, _ = by_hand.completion_logps(prompts, features, completions)
    return policy, features, completions, plain, expected


def test_adapters_add_their_scaled_product_and_the_reference_is_without(by_hand_case, prompts):
    """Log-probs with adapters are those of W + (alpha / r) B A; the reference's are those of W, in
    value and without touching gradients."""
    policy, features, completions, plain, expected = by_hand_case
    reference = policy.reference()
    adapted, mask = policy.completion_logps(prompts, features, completions)
    with torch.no_grad():
        without, _ = reference.completion_logps(prompts, features, completions)
    assert torch.equal(without, plain)
    torch.testing.assert_close(adapted, expected, **CLOSE)
    assert (expected - plain).abs().max() > 0.01

    # after the reference has switched adapters off and on again
    adapted[mask].sum().backward()
    for name, p in policy.model.named_parameters():
        if "lora_" in name:
            assert p.grad.norm() > 0
        else:
            assert p.grad is None


def test_a_checkpoint_holds_merged_weights_and_an_adapter_that_peft_reads(
    by_hand_case, prompts, tmp_path
):
    policy, features, completions, _, expected = by_hand_case
    policy.save(tmp_path)
    merged = load_policy(tmp_path)
    base = load_policy(DEFAULT_MODEL).model
    with torch.no_grad():
        logp, _ = merged.completion_logps(prompts, features, completions)
        torch.testing.assert_close(logp, expected, **CLOSE)
        with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
        inputs = hf_inputs(merged, prompts[0])
        theirs = with_adapter(**inputs).logits
        torch.testing.assert_close(theirs, merged.model(**inputs).logits, **CLOSE)


def test_an_adapter_bears_the_published_names_and_its_base(by_hand_case, tmp_path):
    """Those of the hub's checkpoints, which hold no language_model; the layers by a pattern that
    fits the module tree of either version of transformers."""
    policy = by_hand_case[0]
    policy.save(tmp_path)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert all(name.startswith("base_model.model.model.layers.") for name in names)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(policy.source)
    pattern = re.compile(settings["target_modules"])
    for tree in ("model.language_model.", "model.", "thinker.model.", "base_model.model.model."):
        assert pattern.fullmatch(f"{tree}layers.1.self_attn.q_proj")
        assert pattern.fullmatch(f"{tree}layers.0.mlp.down_proj")
    for other in ("model.audio_tower.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv"):
        assert not pattern.fullmatch(other)


def save_adapter_copy(folder, to, settings=None, rename=lambda name: name):
    """Write a copy of an adapter folder with other settings or names of weights."""
    to.mkdir()
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({rename(name): w for name, w in weights.items()}, to / "adapter_model.safetensors")
    content = json.loads((folder / "adapter_config.json").read_text()) | (settings or {})
    (to / "adapter_config.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("prefix", ["", "thinker."])
def test_a_folder_of_adapters_is_its_base_with_them_added_in(
    by_hand_case, prompts, tmp_path, prefix
):
    """Also with the names that adapters of a whole Qwen2.5-Omni have. What is loaded is a whole
    model, which can be saved, and on which new adapters can be put."""
    policy, features, completions, plain, expected = by_hand_case
    policy.save(tmp_path / "checkpoint")
    folder = save_adapter_copy(
        tmp_path / "checkpoint" / "adapter",
        tmp_path / "copy",
        rename=lambda name: name.replace("base_model.model.", f"base_model.model.{prefix}"),
    )
    loaded = load_policy(folder)
    with torch.no_grad():
        logp, _ = loaded.completion_logps(prompts, features, completions)
    torch.testing.assert_close(logp, expected, **CLOSE)
    assert (expected - plain).abs().max() > 0.01
    assert not loaded.has_adapters
    assert all(p.requires_grad for p in loaded.model.parameters())  # --train_type full trains them
    assert is_tiny(str(folder))

    loaded.save(tmp_path / "again")
    for name, weight in load_file(tmp_path / "checkpoint" / "model.safetensors").items():
        again = load_file(tmp_path / "again" / "model.safetensors")[name]
        torch.testing.assert_close(again, weight, **CLOSE)
    assert (tmp_path / "again" / "preprocessor_config.json").is_file()


def test_adapters_may_belong_to_adapters(by_hand_case, prompts, tmp_path):
    """A second stage that began with the adapters of the first."""
    policy, features, completions, _, expected = by_hand_case
    policy.save(tmp_path / "first")
    first = tmp_path / "first" / "adapter"
    second = load_policy(first)
    second.add_adapters(2, towers=False)
    fill_adapters(second)
    second.save(tmp_path / "second")
    with torch.no_grad():
        here, _ = second.completion_logps(prompts, features, completions)
        there, _ = load_policy(tmp_path / "second" / "adapter").completion_logps(
            prompts, features, completions
        )
    torch.testing.assert_close(there, here, **CLOSE)
    assert (here - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("settings", "rename", "sentence"),
    [
        ({"base_model_name_or_path": ""}, None, "field 'base_model_name_or_path' is missing"),
        ({"base_model_name_or_path": "no/such"}, None, "no/such: not a model folder"),
        ({"r": 8}, None, "do not fit their model"),
        ({"peft_type": "IA3"}, None, "its adapters are of the type 'IA3', and only LORA is read"),
        ({"no_such_field": 1}, None, "do not fit their model"),
        ({"target_modules": "no_such_layer"}, None, "do not fit their model"),
        ({"target_modules": r".*\.(up|down)_proj"}, None, "weights of its adapters do not fit"),
        ({}, "down_proj", "weights of its adapters do not fit"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(by_hand_case, tmp_path, settings, rename, sentence):
    by_hand_case[0].save(tmp_path / "checkpoint")
    folder = save_adapter_copy(
        tmp_path / "checkpoint" / "adapter",
        tmp_path / "copy",
        settings,
        rename=lambda name: name.replace(rename or " ", "q_proj"),
    )
    with pytest.raises(DataError, match=re.escape(sentence)):
        load_policy(folder)


def test_adapters_without_weights_or_of_themselves_are_refused(by_hand_case, tmp_path):
    by_hand_case[0].save(tmp_path)
    folder = tmp_path / "adapter"
    copy = save_adapter_copy(folder, tmp_path / "copy", {"base_model_name_or_path": str(folder)})
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(copy)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="its adapters belong to themselves"):
        load_policy(folder)

    (copy / "adapter_model.safetensors").unlink()
    settings["base_model_name_or_path"] = str(DEFAULT_MODEL)
    (copy / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is missing"):
        load_policy(copy)


def test_other_users_may_read_what_was_saved(by_hand_case, tmp_path):
    mask = os.umask(0o022)
    try:
        by_hand_case[0].save(tmp_path)
    finally:
        os.umask(mask)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_a_lora_run_moves_adapters_only_and_the_next_stage_starts_from_it(
    in_shared_folder, tmp_path
):
    flags = "--data toy:4,2 --prompts_per_step 2 --steps 2 --replay_min 4 --media_cache= "
    flags += "--max_completion_tokens 24 --train_type lora --lora_rank 4 --lr 1e-2"
    first, second = tmp_path / "first", tmp_path / "second"
    run_stage(parse([*flags.split(), "--out", str(first)]))
    before = load_policy(DEFAULT_MODEL)
    after = load_policy(first / "checkpoint")
    moved = []
    pairs = zip(before.model.named_parameters(), after.model.parameters(), strict=True)
    for (name, p), q in pairs:
        if not torch.equal(p, q):
            moved.append(name)
    assert moved
    for name in moved:
        assert name.endswith("proj.weight")
        assert "layers" in name
        assert "visual" not in name
        assert "audio" not in name

    trainer = first / "checkpoint" / "trainer"
    state = torch.load(trainer / "optimizer.pt", weights_only=True)
    for name, tensors in state.items():
        assert "lora_" in name
        assert set(tensors) >= {"exp_avg", "exp_avg_sq"}

    start = ["--stage", "3", "--model", str(first / "checkpoint"), "--out", str(second)]
    run_stage(parse([*flags.split(), *start]))
    assert (second / "checkpoint" / "adapter" / "adapter_config.json").is_file()
