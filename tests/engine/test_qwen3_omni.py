"""A tiny Qwen3-Omni: times between whole positions, experts, its form of checkpoint, whole runs.

What it shares with the other families is tested beside them: token ids (tests/test_data.py),
positions (tests/media/test_tmrope.py), log-probs, gradients and greedy rollouts
(tests/engine/test_families.py), two processes (tests/engine/test_distributed.py).
"""

import json
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import ask
import train
from config import parse
from data import build_prompt, share_prefixes
from engine import cuda_graph, families
from engine.families import parameter_counts
from formats.sample import Sample
from model import Features, load_policy
from rollout import Sampling, generate
from run import memory
from tests.families import QWEN3_OMNI
from tests.random_media import media_of
from tests.reference import hf_inputs
from tests.runs import REPO

SECONDS = 0.37  # per frame group: 4.81 positions


@pytest.fixture(scope="module")
def policy(families):
    return families[QWEN3_OMNI]


@pytest.fixture(scope="module")
def clip_prompts(policy):
    """Two questions about one clip. Its picture ends after its sound, at 4.81 positions, and so the
    text behind it stands at fractions, too. It is so long that their last digits are rounded."""
    clip = media_of("video+sound", 4, 0.1, SECONDS, size=(32, 32))
    prompts = []
    for question in ("Which disc? " * 12, "What square? " * 12):
        sample = Sample("a", question, "free-form", "1", videos=["v"])
        prompts.append(build_prompt(sample, clip, policy.tokenizer, policy.form))
    return prompts


# ------------------------------------------------------------------ between whole positions
def test_a_rollout_behind_fractions_has_transformers_log_probs(policy, clip_prompts):
    """Sampled behind one shared prefill, recorded while sampling."""
    prompts = clip_prompts
    assert prompts[0].next_position % 1 != 0
    assert len(share_prefixes(prompts, policy.form)) == 1

    sampling = Sampling(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = Features(policy).of(prompts)
        completions = generate(policy, prompts, features, 2, sampling)
        for prompt, group in zip(prompts, completions, strict=True):
            for completion in group:
                inputs = hf_inputs(policy, prompt, completion.tokens)
                inputs["video_second_per_grid"] = torch.tensor([SECONDS])
                logits = policy.model(**inputs).logits[0, len(prompt.ids) - 1 : -1]  # (R, V)
                logits = logits.masked_fill(policy.banned, float("-inf"))
                tokens = torch.tensor(completion.tokens)[:, None]
                theirs = logits.log_softmax(-1).gather(-1, tokens)[:, 0]  # (R,)
                ours = torch.tensor(completion.logps)  # (R,)
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_decode_step_with_experts_is_no_cuda_graph(policy, clip_prompts, monkeypatch):
    monkeypatch.setitem(cuda_graph.CUDA_GRAPH, "cpu", True)
    monkeypatch.setattr(cuda_graph, "record", None)  # a call of it would fail
    features = Features(policy).of(clip_prompts)
    completions = generate(policy, clip_prompts, features, 1, Sampling(6, temperature=0))
    assert len(completions) == 2


# ------------------------------------------------------------------ checkpoints
@pytest.fixture(scope="module")
def saved(policy, tmp_path_factory):
    """A checkpoint in files of at most 300 kB, as if the model were large."""
    folder = tmp_path_factory.mktemp("saved")
    small = partial(families.save_torch_state_dict, max_shard_size="300KB")

    def save_torch_state_dict(weights, folder, max_shard_size, metadata):
        small(weights, folder, metadata=metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "save_torch_state_dict", save_torch_state_dict)
        policy.save(folder)
    return folder


def test_a_checkpoint_is_of_the_hubs_full_form(policy, saved):
    files = sorted(saved.glob("*.safetensors"))
    assert len(files) > 4
    assert all(file.stat().st_size < 400_000 for file in files)
    names = set()
    for file in files:
        names |= set(load_file(file))
    layer = "thinker.model.layers.3.mlp"
    assert f"{layer}.gate.weight" in names
    for projection in ("gate_proj", "up_proj", "down_proj"):
        assert {f"{layer}.experts.{i}.{projection}.weight" for i in range(4)} <= names
    assert {name.split(".")[0] for name in names} == {"thinker"}
    parts = {name.split(".")[1] for name in names}
    assert parts == {"model", "lm_head", "audio_tower", "visual"}

    config = json.loads((saved / "config.json").read_text())
    assert config["model_type"] == "qwen3_omni_moe"
    assert config["enable_audio_output"] is False
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(saved)
    assert extractor.feature_size == 64


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_loads_in_both_classes_of_transformers(policy, saved, whole):
    name = "Qwen3OmniMoe" + ("" if whole else "Thinker") + "ForConditionalGeneration"
    model, info = getattr(transformers, name).from_pretrained(saved, output_loading_info=True)
    assert not any(info.values())
    thinker = model.thinker if whole else model
    pairs = zip(policy.model.named_parameters(), thinker.named_parameters(), strict=True)
    for (name, ours), (_, theirs) in pairs:
        assert torch.equal(ours, theirs), name


def test_a_full_checkpoint_with_a_talker_loads(policy, saved, tmp_path):
    policy.save(tmp_path)
    file = tmp_path / "model.safetensors"
    others = {
        "talker.model.layers.0.mlp.experts.0.up_proj.weight": torch.ones(3, 3),
        "code2wav.decoder.0.weight": torch.ones(3),
    }
    save_file(load_file(file) | others, file, metadata={"format": "pt"})
    again = load_policy(tmp_path)
    assert again.config.model_type == QWEN3_OMNI
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# ------------------------------------------------------------------ training
def test_lora_adapts_attention_and_neither_experts_nor_router(policy, tmp_path):
    adapted = load_policy(policy.source)
    adapted.add_adapters(4, towers=False)
    decoder, towers = adapted.named_trained()
    layers = {name.split(".lora_")[0] for name in decoder}
    expected = set()
    for i in range(4):
        for projection in "qkvo":
            expected.add(f"thinker.model.layers.{i}.self_attn.{projection}_proj")
    assert layers == expected
    assert not towers
    n_weights = sum(p.numel() for p in decoder.values())
    assert n_weights == parameter_counts(policy.config, 4, False)["adapters"]

    # They are saved by their names in both layouts of transformers, and fit no tower. peft adds
    # them to the base alike.
    with torch.no_grad():
        for name, p in adapted.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
    adapted.save(tmp_path)
    merged = load_policy(tmp_path).model.state_dict()
    by_peft = load_policy(tmp_path / "adapter").model.state_dict()
    before = policy.model.state_dict()
    for name, weight in merged.items():
        torch.testing.assert_close(by_peft[name], weight, atol=1e-6, rtol=1e-6)
        is_attention = ".layers." in name and name.endswith("o_proj.weight")
        assert not is_attention or not torch.equal(before[name], weight)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    targets = {name.replace("thinker.", "", 1) for name in expected}
    targets |= {name.replace("model.", "model.language_model.", 1) for name in targets}
    assert set(settings["target_modules"]) == targets

    total = sum(p.numel() for p in policy.model.parameters())
    counts = parameter_counts(policy.config, 4, False)
    assert counts["decoder"] + counts["head"] + counts["towers"] == total


@pytest.fixture
def unequal_rewards(monkeypatch):
    """Every other completion is right. Those of random weights all have the reward 0."""
    real = train.score_prompts

    def score_prompts(*args):
        groups = []
        for group in real(*args):
            groups.append([{**parts, "reward": float(i % 2)} for i, parts in enumerate(group)])
        return groups

    monkeypatch.setattr(train, "score_prompts", score_prompts)


def test_stage_2_runs_and_its_checkpoint_is_a_model_for_everything(
    policy, unequal_rewards, in_shared_folder, tmp_path, capsys
):
    """All weights in stage 2, by the real loop; then LoRA in stage 3 from its checkpoint; then
    ask.py with the adapters of that."""
    flags = "--data toy:4,2 --prompts_per_step 2 --steps 2 --replay_min 4 --media_cache= "
    flags += "--max_completion_tokens 8 --max_pixels 4096 --use_audio true --lr 1e-3"
    first, second = tmp_path / "first", tmp_path / "second"
    full = ["--stage", "2", "--train_type", "full", "--train_towers", "true"]
    model = ["--model", str(policy.source)]
    train.run_stage(parse([*flags.split(), *full, *model, "--out", str(first)]))
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert [row["generated"] for row in rows if "loss" in row] == [8, 16]
    trained = load_policy(first / "checkpoint").model.state_dict()
    same = {name for name, p in policy.model.state_dict().items() if torch.equal(p, trained[name])}
    for leaf in ("mlp.gate.weight", "experts.down_proj", "audio_tower.conv2d1.weight"):
        found = [name for name in trained if name.endswith(leaf)]
        assert found and not same.intersection(found)

    lora = ["--stage", "3", "--train_type", "lora", "--lora_rank", "4"]
    model = ["--model", str(first / "checkpoint")]
    train.run_stage(parse([*flags.split(), *lora, *model, "--out", str(second)]))
    adapted = load_policy(second / "checkpoint").model.state_dict()
    moved = {name for name, p in trained.items() if not torch.equal(p, adapted[name])}
    assert moved
    for name in moved:
        assert ".self_attn." in name
        assert "audio_tower" not in name

    capsys.readouterr()
    adapter = str(second / "checkpoint" / "adapter")
    words = [str(REPO / "assets" / "clip.mp4"), "What moves?", "--model", adapter, "--json"]
    ask.answer_all(ask.parse([*words, "--max_completion_tokens", "8"]))
    (reply,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert reply["question"] == "What moves?"
    assert "sound" in reply["shown"][0]
    assert len(reply["answers"]) == 1


def test_activations_of_experts_by_hand():
    """Qwen3-Omni-30B-A3B's decoder: 8 of 128 experts of width 768 compute a token."""
    text = transformers.CONFIG_MAPPING[QWEN3_OMNI](
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "vocab_size": 152_064,
        }
    ).text_config
    inputs = 48 * 2 * 1000 * 2048
    logits = 2 * 4 * memory.LOGIT_CHUNK * 152_064
    of_experts = 8 * (3 * 768 + 4 * 2048)  # gate, up, product; a copy of the input, three outputs
    layer = 2 * 1000 * (4 * 2048 + 3 * 4096 + 4 * 512 + of_experts)
    cfg = parse(["--model", "some/30b", "--train_type", "full", "--max_tokens", "1000"])
    assert memory.update_bytes(cfg, text) == inputs + logits + 2 * layer
