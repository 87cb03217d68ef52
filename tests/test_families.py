"""Real checkpoints in small: every supported class and form of checkpoint, LoRA, and what is saved."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import train
from config import parse
from data import build_prompt, prompt_builder
from engine.families import DEFAULT_MODEL, FAMILIES, parameter_counts, parts
from formats.sample import DataError, Sample
from media.decode import Media
from model import Features, load_policy
from rollout import Sampling, generate
from tests.families import tiny_family
from tests.reference import hf_inputs, random_completions

VISION = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny random model of each vision family, and one with a tied head."""
    root = tmp_path_factory.mktemp("families")
    return {name: tiny_family(name, root / name) for name in VISION} | {
        "tied": tiny_family("qwen2_5_vl", root / "tied", tied=True)
    }


def prompts_of(policy) -> list:
    """A video, two pictures of different sizes around text, and text alone. The video is so wide that transformers, too, starts the text behind
    Qwen2.5-VL's video after its last position (see tests/media/test_tmrope.py)."""
    rng, factor = np.random.default_rng(0), 2 * policy.form.patch

    def pixels(n, h, w):
        return rng.integers(0, 256, (n, h * factor, w * factor, 3), dtype=np.uint8)

    video, pictures = (
        Media("video", pixels(4, 2, 5), None, 1.0),
        [Media("image", pixels(1, 2, 2)), Media("image", pixels(1, 1, 4))],
    )
    samples = [
        Sample("v", "What moves?", "free-form", "a", videos=["v"]),
        Sample("i", "Is <image> like <image>?", "yes/no", "no", images=["a", "b"]),
        Sample("t", "What is 1 + 1?", "numeric", "2"),
    ]
    return [
        build_prompt(s, m, policy.tokenizer, policy.form)
        for s, m in zip(samples, ([video], pictures, []), strict=True)
    ]


def theirs(policy, prompt, completion):
    logits = (
        policy.model(**hf_inputs(policy, prompt, completion))
        .logits[0, len(prompt.ids) - 1 : -1]
        .float()
        .masked_fill(policy.banned, float("-inf"))
    )
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


# ------------------------------------------------------------------ every class
@pytest.mark.parametrize("name", [*VISION, "tied"])
def test_log_probs_and_gradients_equal_transformers(folders, name):
    """Packed rows against repeated ones, decoder and vision tower, deepstack and the norms of queries and keys included."""
    policy = load_policy(folders[name])
    prompts = prompts_of(policy)
    completions = [
        random_completions(policy, lengths, i) for i, lengths in enumerate(([5, 1, 9], [7], [3, 4]))
    ]
    features = Features(policy)
    logp, mask = policy.completion_logps(prompts, features.of(prompts), completions)
    weights = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    (logp * weights)[mask].sum().backward()
    features.backward()
    ours = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    rows = [(prompt, c) for prompt, group in zip(prompts, completions, strict=True) for c in group]
    for row, (prompt, c) in enumerate(rows):
        expected = theirs(policy, prompt, c)
        torch.testing.assert_close(logp[row, : len(c)], expected, atol=1e-5, rtol=1e-5)
        (expected * weights[row, : len(c)]).sum().backward()
    grads = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert grads.keys() == ours.keys() and any("visual.blocks" in n for n in grads)
    for n, g in grads.items():
        assert (ours[n] - g).norm() <= 1e-4 * g.norm() + 1e-5, n


@pytest.mark.parametrize("name", VISION)
def test_greedy_rollout_equals_transformers_generate(folders, name):
    policy = load_policy(folders[name])
    policy.eos_ids, policy.banned[:] = [], False
    prompts = prompts_of(policy)
    with torch.no_grad():
        done = generate(
            policy, prompts, Features(policy).of(prompts), 1, Sampling(8, temperature=0)
        )
        for prompt, (ours,) in zip(prompts, done, strict=True):
            tokens = []
            for _ in range(8):
                tokens.append(
                    int(policy.model(**hf_inputs(policy, prompt, tokens)).logits[0, -1].argmax())
                )
            assert ours.tokens == tokens


@pytest.mark.parametrize("name", VISION)
def test_a_stage_runs_on_every_class(folders, name, tmp_path):
    """Stage 1 on the toy world's videos by the real loop; what it leaves loads in transformers' own class, by the hub's names."""
    train.run(
        parse(
            [
                "--method",
                "avatar_paper",
                "--stage",
                "1",
                "--model",
                str(folders[name]),
                "--out",
                str(tmp_path / "run"),
                "--toy_dir",
                str(tmp_path / "toy"),
                "--toy_clips",
                "4",
                "--toy_heldout",
                "2",
                "--prompts_per_step",
                "2",
                "--steps",
                "2",
                "--replay_min",
                "4",
                "--max_completion_tokens",
                "8",
                "--media_cache",
                "",
                "--use_audio",
                "true",
                "--train_towers",
                "true",
                "--max_pixels",
                "4096",
            ]
        )
    )
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["generated"] for r in rows if "loss" in r] == [8, 16]
    again, found = getattr(transformers, FAMILIES[name].class_name).from_pretrained(
        tmp_path / "run" / "checkpoint", output_loading_info=True
    )
    assert not any(found.values()) and again.config.model_type == name
    names = set(safe_open(tmp_path / "run" / "checkpoint" / "model.safetensors", "pt").keys())
    prefix = "model.visual." if name == "qwen3_vl" else "visual."
    assert any(n.startswith(prefix + "blocks.0") for n in names) and "lm_head.weight" in names
    assert (
        "model.layers.1.mlp.up_proj.weight"
        if name == "qwen2_5_vl"
        else "model.language_model.layers.1.mlp.up_proj.weight"
    ) in names


def test_the_sound_of_a_video_is_left_out_for_a_model_that_hears_nothing(folders, samples):
    policy = load_policy(folders["qwen3_vl"])
    prompt = prompt_builder(parse(["--media_cache", ""]), policy)(samples[0])
    assert prompt.mels == [] and len(prompt.grids) == 1


# ------------------------------------------------------------------ every form of checkpoint
@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The bundled thinker as transformers writes it (thinker only), in shards, and in the full form with a talker's weights beside it."""
    root, policy = tmp_path_factory.mktemp("forms"), load_policy(DEFAULT_MODEL)
    for name, size in (("thinker", "5GB"), ("shards", "800KB")):
        policy.model.save_pretrained(root / name, max_shard_size=size)
        policy.tokenizer.save_pretrained(root / name)
    policy.save(root / "full")
    weights = load_file(root / "full" / "model.safetensors")
    save_file(
        weights | {"talker.model.layers.0.mlp.up_proj.weight": torch.ones(3, 3)},
        root / "full" / "model.safetensors",
        metadata={"format": "pt"},
    )
    return root


@pytest.mark.parametrize("form", ["thinker", "shards", "full"])
def test_both_forms_of_an_omni_checkpoint_load(forms, form, policy, prompts):
    assert (len(list((forms / form).glob("*.safetensors"))) > 3) == (form == "shards")
    again = load_policy(forms / form)
    assert all(
        torch.equal(a, b)
        for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True)
    )
    assert again.config.model_type == "qwen2_5_omni_thinker"


def test_what_is_saved_has_the_hubs_names_and_config(forms):
    """The full form of Qwen2.5-Omni: what vLLM's loader maps from (`thinker.model.`, `thinker.lm_head.`, `thinker.`) and its config reads."""
    names = set(load_file(forms / "full" / "model.safetensors"))
    assert {
        "thinker.model.embed_tokens.weight",
        "thinker.model.layers.0.self_attn.q_proj.bias",
        "thinker.model.norm.weight",
        "thinker.lm_head.weight",
        "thinker.audio_tower.conv1.weight",
        "thinker.visual.merger.mlp.0.weight",
    } <= names
    assert {n.split(".")[0] for n in names} == {"thinker", "talker"} and {
        n.split(".")[1] for n in names if n.startswith("thinker")
    } == {"model", "lm_head", "audio_tower", "visual"}
    config = json.loads((forms / "full" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni" and config["architectures"] == [
        "Qwen2_5OmniForConditionalGeneration"
    ]
    assert (
        config["thinker_config"]["text_config"]["hidden_size"] == 128
        and config["enable_audio_output"] is False
    )
    assert (
        type(transformers.AutoConfig.from_pretrained(forms / "full")).__name__
        == "Qwen2_5OmniConfig"
    )


def test_a_tied_head_is_saved_once_and_trained_once(folders, tmp_path):
    policy = load_policy(folders["tied"])
    assert policy.head.weight is policy.text.embed_tokens.weight
    names = [*policy.named_trained()[0]]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    policy.save(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_policy(tmp_path)
    assert (
        torch.equal(again.head.weight, policy.head.weight)
        and again.head.weight is again.text.embed_tokens.weight
    )
    assert parameter_counts(policy.config, 8, False)["head"] == 0
    twin = policy.reference()
    assert (
        twin.head.weight is twin.text.embed_tokens.weight
        and twin.head.weight is not policy.head.weight
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f, other: shutil.copyfile(other / "model.safetensors", f / "model.safetensors"),
            "not those of its config.json; the checkpoint is of another",
        ),
        (
            lambda f, other: save_file(
                {k: v for k, v in load_file(f / "model.safetensors").items() if "audio" not in k},
                f / "model.safetensors",
                metadata={"format": "pt"},
            ),
            "weights of a qwen2_5_omni_thinker are missing, e.g. .*audio_tower",
        ),
        (
            lambda f, other: (f / "model.safetensors").write_bytes(b"torn"),
            "no weights could be loaded",
        ),
        (
            lambda f, other: [
                shutil.copyfile(other / n, f / n)
                for n in ("tokenizer.json", "tokenizer_config.json")
            ],
            "the chat template writes 0 tokens",
        ),
        (
            lambda f, other: (f / "chat_template.jinja").unlink(),
            "the tokenizer has no chat template",
        ),
        (
            lambda f, other: (f / "chat_template.jinja").write_text(
                "{{ messages[0]['content'] | length }}"
            ),
            "1 is needed; tokenizer, chat template and config.json",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_one_sentence(forms, folders, tmp_path, spoil, message):
    """Weights of another class, a torn file, a tokenizer without the special tokens, no chat template or one that is not the model's."""
    folder = tmp_path / "m"
    shutil.copytree(DEFAULT_MODEL, folder)
    plain = transformers.AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    other = tmp_path / "other"
    tiny = json.loads((DEFAULT_MODEL / "tokenizer.json").read_text())
    shutil.copytree(folders["qwen2_5_vl"], other)
    renamed = json.loads(
        json.dumps(tiny).replace("<|VIDEO|>", "<|FILM|>").replace("<|IMAGE|>", "<|STILL|>")
    )
    (other / "tokenizer.json").write_text(json.dumps(renamed))
    (other / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": plain.eos_token})
    )
    spoil(folder, other)
    with pytest.raises(DataError, match=message) as error:
        load_policy(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_flash_attention_is_asked_for_only_where_it_is():
    assert load_policy(DEFAULT_MODEL).visual.config._attn_implementation == "sdpa"


# ------------------------------------------------------------------ LoRA
def spread(policy, std=0.05):
    """Give a fresh adapter, whose product is zero, something to say."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=std, generator=g)


@pytest.mark.parametrize("towers", [False, True])
def test_adapters_sit_on_all_linear_layers_and_start_at_nothing(fresh_policy, prompts, towers):
    completions = [random_completions(fresh_policy, [4])] * 4
    with torch.no_grad():
        before, _ = fresh_policy.completion_logps(
            prompts, Features(fresh_policy).of(prompts), completions
        )
        linear = sum(
            isinstance(m, torch.nn.Linear)
            for part in parts(fresh_policy.model)[:3]
            for m in part.modules()
        )
        inside = sum(isinstance(m, torch.nn.Linear) for m in fresh_policy.text.modules())
        fresh_policy.add_adapters(8, towers)
        after, _ = fresh_policy.completion_logps(
            prompts, Features(fresh_policy).of(prompts), completions
        )
    assert torch.equal(before, after) and inside == 7 * 4
    decoder, tower = fresh_policy.named_trained()
    assert (
        len(decoder) == 2 * inside
        and len(tower) == (2 * (linear - inside) if towers else 0)
        and fresh_policy.trains_towers == towers
    )
    assert all("lora_" in name for name in decoder | tower) and not any(
        "lm_head" in name for name in decoder
    )
    assert (
        sum(p.numel() for p in (decoder | tower).values())
        == parameter_counts(fresh_policy.config, 8, towers)["adapters"]
    )


def test_adapters_add_their_scaled_product_and_the_reference_is_without(
    fresh_policy, prompts, tmp_path
):
    """Log-probs with adapters are those of weights W + (alpha / r) B A; the reference's are those of W, in value and without touching gradients."""
    completions = [random_completions(fresh_policy, [6, 3], i) for i in range(4)]
    features = Features(fresh_policy).of(prompts)
    with torch.no_grad():
        plain, _ = fresh_policy.completion_logps(prompts, features, completions)
    fresh_policy.add_adapters(4, towers=False)
    spread(fresh_policy)
    reference = fresh_policy.reference()
    adapted, mask = fresh_policy.completion_logps(prompts, features, completions)
    with torch.no_grad():
        torch.testing.assert_close(
            reference.completion_logps(prompts, features, completions)[0], plain, atol=0, rtol=0
        )
    adapted[mask].sum().backward()  # after the reference has switched adapters off and on again
    assert all(
        p.grad is not None and p.grad.norm() > 0 for p in fresh_policy.named_trained()[0].values()
    )
    assert all(
        p.grad is None for name, p in fresh_policy.model.named_parameters() if "lora_" not in name
    )
    by_hand = load_policy(DEFAULT_MODEL)
    adapters = dict(fresh_policy.text.named_modules())
    with torch.no_grad():
        for name, layer in by_hand.text.named_modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight += (
                    8.0
                    * adapters[name].lora_B["default"].weight
                    @ adapters[name].lora_A["default"].weight
                )
        expected, _ = by_hand.completion_logps(prompts, features, completions)
        torch.testing.assert_close(adapted, expected, atol=1e-4, rtol=1e-5)
        assert (expected - plain).abs().max() > 0.01
        fresh_policy.save(tmp_path)
        merged = load_policy(tmp_path)
        torch.testing.assert_close(
            merged.completion_logps(prompts, features, completions)[0],
            expected,
            atol=1e-4,
            rtol=1e-5,
        )
        base = peft.PeftModel.from_pretrained(
            load_policy(DEFAULT_MODEL).model, tmp_path / "adapter"
        )  # peft itself reads the adapter
        torch.testing.assert_close(
            base(**hf_inputs(merged, prompts[0])).logits,
            merged.model(**hf_inputs(merged, prompts[0])).logits,
            atol=1e-4,
            rtol=1e-5,
        )


def test_a_lora_run_moves_adapters_only_and_the_next_stage_starts_from_it(tmp_path):
    flags = [
        "--toy_dir",
        str(tmp_path / "toy"),
        "--toy_clips",
        "4",
        "--toy_heldout",
        "2",
        "--prompts_per_step",
        "2",
        "--steps",
        "2",
        "--replay_min",
        "4",
        "--media_cache",
        "",
        "--max_completion_tokens",
        "24",
        "--train_type",
        "lora",
        "--lora_rank",
        "4",
        "--lr",
        "1e-2",
    ]
    train.run(parse([*flags, "--out", str(tmp_path / "a")]))
    before, after = load_policy(DEFAULT_MODEL), load_policy(tmp_path / "a" / "checkpoint")
    moved = {
        name
        for (name, p), q in zip(
            before.model.named_parameters(), after.model.parameters(), strict=True
        )
        if not torch.equal(p, q)
    }
    assert moved and all(
        name.endswith("proj.weight")
        and "layers" in name
        and "visual" not in name
        and "audio" not in name
        for name in moved
    )
    trainer = tmp_path / "a" / "checkpoint" / "trainer"
    state = torch.load(trainer / "optimizer.pt", weights_only=True)
    for name, tensors in state.items():
        assert "lora_" in name and set(tensors) >= {"exp_avg", "exp_avg_sq"}
    train.run(
        parse(
            [
                *flags,
                "--stage",
                "3",
                "--model",
                str(tmp_path / "a" / "checkpoint"),
                "--out",
                str(tmp_path / "b"),
            ]
        )
    )
    assert (tmp_path / "b" / "checkpoint" / "adapter" / "adapter_config.json").is_file()
