"""engine/families.py: every supported class and form of checkpoint, against transformers itself."""

import itertools
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import engine.families
from config import parse
from data import build_prompt, prompt_builder
from engine.families import (
    DEFAULT_MODEL,
    FAMILIES,
    VARLEN,
    attend_windows_at_once,
    parameter_counts,
    parts,
    save_processor_files,
    tower_attention,
)
from formats.sample import DataError, Sample
from media.decode import Media, MediaSettings
from media.features import vision_input
from media.frames import Resize
from model import Features, load_policy
from rollout import Sampling, generate
from tests.families import QWEN3_OMNI, tiny_family
from tests.random_media import media_of
from tests.reference import hf_inputs, hf_logps, random_completions
from train import run_stage

VISION = ("qwen2_5_vl", "qwen3_vl")
ALL = (*VISION, QWEN3_OMNI)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A tiny Qwen2.5-VL whose head is its embedding."""
    folder = tmp_path_factory.mktemp("tied")
    return load_policy(tiny_family("qwen2_5_vl", folder, tied=True))


@pytest.fixture(scope="module")
def all_families(families, tied):
    return families | {"tied": tied}


def prompts_of(policy) -> list:
    """A video, two pictures of different sizes around text, and text alone; of a model that hears,
    the video has sound, and a sound stands behind the pictures.

    The video is so wide that transformers, too, starts the text behind Qwen2.5-VL's video after its
    last position (see tests/media/test_tmrope.py).
    """
    rng = np.random.default_rng(0)
    side = 2 * policy.form.patch

    def pixels(n, h, w):
        return rng.integers(0, 256, (n, h * side, w * side, 3), dtype=np.uint8)

    video = Media("video", pixels(4, 2, 5), None, 1.0)
    pictures = [Media("image", pixels(1, 2, 2)), Media("image", pixels(1, 1, 4))]
    compare = Sample("i", "Is <image> like <image>?", "yes/no", "no", images=["a", "b"])
    if policy.form.audio is not None:
        video.mel = media_of("sound", seconds=2.5)[0].mel
        pictures += media_of("sound", seconds=1.3)
        compare = replace(compare, question=compare.question + "<audio>", audios=["s"])
    cases = [
        (Sample("v", "What moves?", "free-form", "a", videos=["v"]), [video]),
        (compare, pictures),
        (Sample("t", "What is 1 + 1?", "numeric", "2"), []),
    ]
    return [build_prompt(s, media, policy.tokenizer, policy.form) for s, media in cases]


# ------------------------------------------------------------------ every class
@pytest.mark.parametrize("name", [*ALL, "tied"])
def test_log_probs_and_gradients_equal_transformers(all_families, name):
    """Packed rows against repeated ones, decoder and towers, deepstack, the norms of queries and
    keys, experts and their router included."""
    policy = all_families[name]
    policy.model.zero_grad()
    prompts = prompts_of(policy)
    lengths = ([5, 1, 9], [7], [3, 4])
    completions = [random_completions(policy, some, i) for i, some in enumerate(lengths)]
    features = Features(policy)
    logp, mask = policy.completion_logps(prompts, features.of(prompts), completions)
    weights = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    (logp * weights)[mask].sum().backward()
    features.backward()
    ours = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()

    row = 0
    for prompt, group in zip(prompts, completions, strict=True):
        for completion in group:
            n = len(completion)
            expected = hf_logps(policy, prompt, completion)
            torch.testing.assert_close(logp[row, :n], expected, atol=1e-5, rtol=1e-5)
            (expected * weights[row, :n]).sum().backward()
            row += 1
    theirs = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert theirs.keys() == ours.keys()
    assert any("visual.blocks" in n for n in theirs)
    if name == QWEN3_OMNI:
        assert all(policy.text.layers[i].mlp.gate.weight.grad.norm() > 0 for i in range(4))
        assert any("audio_tower.conv2d1" in n for n in theirs)
    for n, grad in theirs.items():
        assert (ours[n] - grad).norm() <= 1e-4 * grad.norm() + 1e-5, n
    policy.model.zero_grad()


@pytest.mark.parametrize("name", ALL)
def test_greedy_rollout_equals_transformers_generate(families, name, monkeypatch):
    policy = families[name]
    monkeypatch.setattr(policy, "eos_ids", [])
    monkeypatch.setattr(policy, "banned", torch.zeros_like(policy.banned))
    prompts = prompts_of(policy)
    with torch.no_grad():
        features = Features(policy).of(prompts)
        completions = generate(policy, prompts, features, 1, Sampling(8, temperature=0))
        for prompt, (completion,) in zip(prompts, completions, strict=True):
            tokens = []
            for _ in range(8):
                logits = policy.model(**hf_inputs(policy, prompt, tokens)).logits
                tokens.append(int(logits[0, -1].argmax()))
            assert completion.tokens == tokens


@pytest.mark.parametrize("name", VISION)
def test_a_stage_runs_on_every_class(families, name, in_shared_folder, tmp_path):
    """Stage 1 on the toy world's videos by the real loop; what it leaves loads in transformers' own
    class, by the hub's names."""
    flags = "--method avatar --stage 1 --data toy:4,2 --prompts_per_step 2 --steps 2 "
    flags += "--replay_min 4 --max_completion_tokens 8 --media_cache= --use_audio true "
    flags += "--train_towers true --max_pixels 4096"
    paths = ["--model", str(families[name].source), "--out", str(tmp_path)]
    run_stage(parse([*flags.split(), *paths]))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["generated"] for row in rows if "loss" in row] == [8, 16]

    checkpoint = tmp_path / "checkpoint"
    model_class = getattr(transformers, FAMILIES[name].class_name)
    again, info = model_class.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(info.values())
    assert again.config.model_type == name
    names = set(safe_open(checkpoint / "model.safetensors", "pt").keys())
    visual = "model.visual" if name == "qwen3_vl" else "visual"
    text = "model.language_model" if name == "qwen3_vl" else "model"
    assert any(n.startswith(f"{visual}.blocks.0") for n in names)
    assert {"lm_head.weight", f"{text}.layers.1.mlp.up_proj.weight"} <= names


def test_the_sound_of_a_video_is_left_out_for_a_model_that_hears_nothing(families, samples):
    builder = prompt_builder(parse(["--media_cache", ""]), families["qwen3_vl"])
    prompt = builder(samples[0])
    assert prompt.mels == []
    assert len(prompt.grids) == 1


def test_parts_are_found_in_both_layouts(policy):
    """transformers 5.23 keeps the towers under thinker.model, 5.17 had them directly under the
    thinker."""
    expected = (policy.visual, policy.audio_tower, policy.text, policy.head)
    older = SimpleNamespace(
        visual=policy.visual,
        audio_tower=policy.audio_tower,
        model=policy.text,
        lm_head=policy.head,
    )
    assert parts(older) == expected
    assert parts(policy.model) == expected


def test_towers_run_on_sdpa_without_flash_attn(policy):
    assert policy.visual.config._attn_implementation == "sdpa"
    assert tower_attention(torch.device("cpu"), torch.bfloat16) == "sdpa"


def attend_one_after_the_other(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale):
    """torch's varlen_attn, which runs on a GPU only, by its definition: (T, H, d) each."""
    outs = []
    bounds = starts_q.tolist()
    assert starts_k.tolist() == bounds
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    assert max(lengths) == longest_q == longest_k
    for start, length in zip(bounds, lengths, strict=False):
        part = slice(start, start + length)
        scores = torch.einsum("qhd,khd->hqk", q[part], k[part]) * scale
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[part]))
    return torch.cat(outs)


@torch.no_grad()
@pytest.mark.parametrize("name", ["omni", *VISION])
def test_towers_attend_to_all_windows_in_one_call(all_families, policy, prompts, name, monkeypatch):
    """As on a GPU without flash-attn: the features are those of SDPA, a call for each window."""
    model = policy if name == "omni" else all_families[name]
    asked = prompts if name == "omni" else prompts_of(model)
    expected = model.run_towers(asked)
    calls = []

    def varlen_attn(q, *others, **options):
        calls.append(len(q))
        return attend_one_after_the_other(q, *others, **options)

    monkeypatch.setattr(engine.families, "varlen_attn", varlen_attn)
    monkeypatch.setattr(engine.families, "has_gpu_kernel", lambda x: True)
    towers = [tower for tower in (model.visual, model.audio_tower) if tower is not None]
    for tower in towers:
        monkeypatch.setattr(tower.config, "_attn_implementation", "sdpa")  # put back at the end
    attend_windows_at_once(towers)
    features = model.run_towers(asked)
    layers = [m for tower in towers for m in tower.modules() if hasattr(m, "num_heads")]
    assert len(calls) == len(layers)
    for ours, theirs in zip(features, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for medium, vectors in ours.items():
            torch.testing.assert_close(vectors, theirs[medium], atol=1e-5, rtol=1e-5)


def test_weights_are_counted_where_towers_attend_by_a_kernel_of_ours(policy, monkeypatch):
    """Such a config names an attention with which transformers builds no model."""
    expected = parameter_counts(policy.config, 8, True)
    monkeypatch.setattr(engine.families, "has_gpu_kernel", lambda x: True)
    monkeypatch.setattr(policy.visual.config, "_attn_implementation", "sdpa")
    attend_windows_at_once([policy.visual])
    assert policy.config.vision_config._attn_implementation == VARLEN
    assert parameter_counts(policy.config, 8, True) == expected
    assert policy.config.vision_config._attn_implementation == VARLEN


# ------------------------------------------------------------------ every form of checkpoint
@pytest.fixture(scope="module")
def forms(tmp_path_factory, policy):
    """The bundled thinker as transformers writes it (thinker only), in shards, and in the full form
    with a talker's weights beside it."""
    root = tmp_path_factory.mktemp("forms")
    for name, size in (("thinker", "5GB"), ("shards", "800KB")):
        policy.model.save_pretrained(root / name, max_shard_size=size)
        policy.tokenizer.save_pretrained(root / name)
    policy.save(root / "full")
    file = root / "full" / "model.safetensors"
    talker = {"talker.model.layers.0.mlp.up_proj.weight": torch.ones(3, 3)}
    save_file(load_file(file) | talker, file, metadata={"format": "pt"})
    return root


@pytest.mark.parametrize("form", ["thinker", "shards", "full"])
def test_both_forms_of_an_omni_checkpoint_load(forms, form, policy):
    files = list((forms / form).glob("*.safetensors"))
    assert (len(files) > 3) == (form == "shards")
    again = load_policy(forms / form)
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.config.model_type == "qwen2_5_omni_thinker"


def test_what_is_saved_has_the_hubs_names_and_config(forms):
    """The full form of Qwen2.5-Omni: what vLLM's loader maps from (`thinker.model.`,
    `thinker.lm_head.`, `thinker.`) and its config reads."""
    names = set(load_file(forms / "full" / "model.safetensors"))
    assert names >= {
        "thinker.model.embed_tokens.weight",
        "thinker.model.layers.0.self_attn.q_proj.bias",
        "thinker.model.norm.weight",
        "thinker.lm_head.weight",
        "thinker.audio_tower.conv1.weight",
        "thinker.visual.merger.mlp.0.weight",
    }
    assert {n.split(".")[0] for n in names} == {"thinker", "talker"}
    thinker_parts = {n.split(".")[1] for n in names if n.startswith("thinker")}
    assert thinker_parts == {"model", "lm_head", "audio_tower", "visual"}

    config = json.loads((forms / "full" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    assert config["architectures"] == ["Qwen2_5OmniForConditionalGeneration"]
    assert config["thinker_config"]["text_config"]["hidden_size"] == 128
    assert config["enable_audio_output"] is False
    theirs = transformers.AutoConfig.from_pretrained(forms / "full")
    assert type(theirs).__name__ == "Qwen2_5OmniConfig"


def test_a_tied_head_is_saved_once_and_trained_once(tied, tmp_path):
    assert tied.head.weight is tied.text.embed_tokens.weight
    decoder, _ = tied.named_trained()
    assert "model.embed_tokens.weight" in decoder
    assert "lm_head.weight" not in decoder
    tied.save(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_policy(tmp_path)
    assert torch.equal(again.head.weight, tied.head.weight)
    assert again.head.weight is again.text.embed_tokens.weight
    assert parameter_counts(tied.config, 8, False)["head"] == 0
    twin = tied.reference()
    assert twin.head.weight is twin.text.embed_tokens.weight
    assert twin.head.weight is not tied.head.weight


# ------------------------------------------------------------------ what is refused
CONFIGS = [
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
    (
        '{"model_type": "qwen3_omni_moe_thinker", "audio_end_token_id": 1, '
        '"text_config": {"mlp_only_layers": [0]}}',
        "mlp_only_layers",
    ),
]


@pytest.mark.parametrize(("content", "message"), CONFIGS)
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


def test_an_error_without_words_is_still_a_sentence(monkeypatch):
    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr("engine.families.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(DataError, match=r"no tokenizer could be loaded \(OSError\)"):
        load_policy(DEFAULT_MODEL)


@pytest.mark.parametrize("name", ALL)
def test_settings_of_a_folder_without_preprocessor_config(all_families, name, tmp_path):
    """They are written anew, and transformers then reads pictures as the model here does."""
    policy = all_families[name]
    save_processor_files(tmp_path, None, policy.form)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    assert processor.patch_size == policy.form.patch
    assert tuple(processor.image_mean) == policy.form.mean
    assert tuple(processor.image_std) == policy.form.std


@pytest.mark.parametrize("name", [*ALL, "omni"])
@pytest.mark.parametrize("size", [(180, 320), (56, 168), (1080, 1920), (97, 133)])
def test_a_checkpoint_says_how_the_model_saw(all_families, policy, name, size, tmp_path):
    """transformers' own processor, with what is saved, cuts pictures of any size into as many
    patches as the run did, and the same ones. Its processor of videos, which wants torchvision, has
    the same sizes, and the run's rate and number of frames."""
    policy = (all_families | {"omni": policy})[name]
    policy.shown = MediaSettings(3.0, 12, 84 * 28, (2 * policy.form.patch) ** 2)
    policy.shown = replace(policy.shown, patch=policy.form.patch)
    policy.save(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    shown = policy.shown
    resize = Resize(shown.min_pixels, shown.max_pixels, shown.patch)
    ours = vision_input([Media("image", resize(pixels)[None])], policy.form)

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [list(grid) for grid in ours.grids]
    torch.testing.assert_close(theirs["pixel_values"], ours.patches, atol=1e-5, rtol=0)

    video = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert (video["fps"], video["min_frames"], video["max_frames"]) == (3.0, 2, 12)
    assert video["size"] == {
        "shortest_edge": shown.min_pixels,
        "longest_edge": shown.max_pixels,
    }
    policy.shown = None


@pytest.fixture(scope="module")
def other_model(families, tmp_path_factory):
    """A folder with the weights of another class, and a tokenizer without the media tokens."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(families["qwen2_5_vl"].source, folder)
    tokenizer = (DEFAULT_MODEL / "tokenizer.json").read_text()
    tokenizer = tokenizer.replace("<|VIDEO|>", "<|FILM|>").replace("<|IMAGE|>", "<|STILL|>")
    (folder / "tokenizer.json").write_text(tokenizer)
    eos_token = transformers.AutoTokenizer.from_pretrained(DEFAULT_MODEL).eos_token
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def take_weights(folder, other):
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")


def drop_audio(folder, other):
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if "audio" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def tear_weights(folder, other):
    (folder / "model.safetensors").write_bytes(b"torn")


def take_tokenizer(folder, other):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(other / name, folder / name)


def drop_template(folder, other):
    (folder / "chat_template.jinja").unlink()


def spoil_template(folder, other):
    template = "{{ messages[0]['content'] | length }}"
    (folder / "chat_template.jinja").write_text(template)


FAULTS = [
    (take_weights, "not those of its config.json; the checkpoint is of another"),
    (drop_audio, "weights of a qwen2_5_omni_thinker are missing, e.g. .*audio_tower"),
    (tear_weights, "no weights could be loaded"),
    (take_tokenizer, "the chat template writes 0 tokens"),
    (drop_template, "the tokenizer has no chat template"),
    (spoil_template, "1 is needed; tokenizer, chat template and config.json"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_checkpoints_that_do_not_fit_are_refused_in_one_sentence(
    other_model, tmp_path, spoil, message
):
    folder = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, folder)
    spoil(folder, other_model)
    with pytest.raises(DataError, match=message) as error:
        load_policy(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
