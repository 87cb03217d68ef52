"""run/card.py: the model card of a checkpoint, read back by the hub's own parser."""

import pytest
from huggingface_hub import ModelCard

from config import parse
from run.card import is_hub_name, model_card, named
from run.logs import Evaluation
from tests.runs import small
from train import run_stage

MACHINE = {"torch": "2.13.0", "device": "x86_64"}
CLASS = "Qwen3OmniMoeThinkerForConditionalGeneration"


def test_a_checkpoint_has_its_card_which_may_be_edited(in_shared_folder, tmp_path):
    out = tmp_path / "run"
    run_stage(parse(small(out, "--max_completion_tokens=8")))
    file = out / "checkpoint" / "README.md"
    card = ModelCard(file.read_text())
    assert card.data.license == "other"
    assert card.data.library_name == "transformers"
    (result,) = card.data.eval_results
    assert result.metric_type == "accuracy"
    assert "--prompts_per_step 2" in card.text
    assert str(out) not in card.text
    assert "`Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(FOLDER)`" in card.text

    # the licence is the user's to set: the model still counts as whole
    file.write_text(file.read_text().replace("license: other", "license: apache-2.0"))
    from model import load_policy

    load_policy(out / "checkpoint")


def test_a_card_names_base_data_method_and_result_with_its_interval():
    cfg = parse(["--model=Qwen/Qwen2.5-Omni-7B", "--data=/home/me/sets/av/train.jsonl"])
    text = model_card(cfg, CLASS, 43, 11_008, Evaluation(43, 11_008, 0.59, 1197), MACHINE)
    card = ModelCard(text)
    assert card.data.base_model == "Qwen/Qwen2.5-Omni-7B"
    assert f"`{CLASS}.from_pretrained(FOLDER)`" in card.text
    # 1.96 sqrt(0.59 x 0.41 / 1197) = 0.0279
    assert "held-out accuracy 0.590 ± 0.028 (95 %, 1,197 questions, one sample each)" in card.text
    assert "`sets/av/train.jsonl`, stage 2" in card.text
    assert "/home/me" not in text
    assert "lora training, 43 steps, 11,008 completions generated" in card.text
    assert card.data.eval_results[0].metric_value == 0.59


def test_a_run_without_held_out_questions_has_no_result():
    card = ModelCard(model_card(parse([]), CLASS, 1, 8, None, MACHINE))
    assert card.data.eval_results is None
    assert "no held-out questions were asked" in card.text


@pytest.mark.parametrize("name", ["x: y", "---\nlicense: mit", "a`b"])
def test_hostile_names_stay_values(name):
    cfg = parse([])
    cfg.data = name
    cfg.given.add("data")
    card = ModelCard(model_card(cfg, CLASS, 1, 8, Evaluation(1, 8, 0.5, 10), MACHINE))
    assert card.data.license == "other"
    assert card.data.eval_results[0].dataset_name == name


def test_paths_lose_what_tells_of_the_machine(tmp_path, monkeypatch):
    assert named("/home/me/data/av/x.jsonl") == "data/av/x.jsonl"
    assert named("toy:4,2") == "toy:4,2"
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("Qwen/Qwen2.5-Omni-7B")
    (tmp_path / "Qwen" / "Qwen2.5-Omni-7B").mkdir(parents=True)
    assert not is_hub_name("Qwen/Qwen2.5-Omni-7B")
    assert not is_hub_name("runs/a/checkpoint")
    assert not is_hub_name("")
