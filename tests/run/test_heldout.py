"""run/heldout.py: held-out accuracy, with questions that cannot be asked and with a judge."""

import math
from dataclasses import replace

import numpy as np
import pytest

from data import PromptBuilder, chat_text, question_text
from rewards import score_prompts
from rollout import Completion
from run import heldout
from run.heldout import evaluate, example
from tests.runs import small_config


@pytest.fixture
def cfg(tmp_path):
    return small_config(tmp_path, "--max_completion_tokens=40")


def test_an_unusable_question_counts_as_wrong(cfg, policy, builder, samples):
    gone = replace(samples[1], videos=["gone.mp4"])
    scores, examples = evaluate(cfg, policy, builder, [samples[0], gone])
    assert (scores["n"], scores["unusable"], len(examples)) == (2, 1, 1)
    assert scores["correct"] in (0.0, 0.5)
    assert scores["format"] <= 0.5
    assert scores["reward"] <= 0.5

    # the mean is half of that of the question that was asked
    alone, _ = evaluate(cfg, policy, builder, [samples[0]])
    assert alone["unusable"] == 0
    for name in ("correct", "format", "reward", "tokens"):
        assert scores[name] == pytest.approx(alone[name] / 2)

    nothing, examples = evaluate(cfg, policy, builder, [gone])
    assert (nothing["correct"], nothing["unusable"], examples) == (0.0, 1, [])


def test_questions_come_in_batches_and_four_are_shown(cfg, policy, builder, samples, monkeypatch):
    """The scores are the means over the completions, each scored by its own question."""
    asked = []

    def record(prompts, completions, stage, judge=None):
        scores = score_prompts(prompts, completions, stage, judge)
        for prompt, (completion,), (parts,) in zip(prompts, completions, scores, strict=True):
            asked.append((prompt, completion, parts))
        return scores

    monkeypatch.setattr(heldout, "score_prompts", record)
    monkeypatch.setattr(heldout, "BATCH", 3)
    scores, examples = evaluate(cfg, policy, builder, samples[:7])
    assert [prompt.sample.id for prompt, _, _ in asked] == [s.id for s in samples[:7]]
    assert scores["n"] == 7
    correct = [parts["accuracy"] == 1 for _, _, parts in asked]
    assert scores["correct"] == pytest.approx(np.mean(correct))
    assert scores["reward"] == pytest.approx(np.mean([parts["reward"] for _, _, parts in asked]))

    # the mean over the kinds, each weighed by its questions, is the mean over the questions
    kinds = [prompt.sample.kind for prompt, _, _ in asked]
    assert set(scores["correct_by_kind"]) == set(kinds)
    weighed = [scores["correct_by_kind"][kind] for kind in kinds]
    assert np.mean(weighed) == pytest.approx(scores["correct"])
    assert scores["tokens"] == pytest.approx(np.mean([len(c.tokens) for _, c, _ in asked]))
    assert examples == [example(*row) for row in asked[:4]]


def test_every_evaluation_has_the_same_random_stream(cfg, policy, builder, samples):
    first = evaluate(cfg, policy, builder, samples[:3])
    assert evaluate(cfg, policy, builder, samples[:3]) == first


def test_without_held_out_questions_there_is_no_accuracy(cfg, policy, builder):
    scores, examples = evaluate(cfg, policy, builder, [])
    assert (scores["n"], scores["unusable"], examples) == (0, 0, [])
    assert math.isnan(scores["correct"])


def test_scores_are_of_all_processes(cfg, policy, builder, samples, monkeypatch):
    """The other process has asked three questions, one of which could not be asked."""
    right = {"correct": 1.0, "format": 1.0, "reward": 1.0, "tokens": 10, "kind": "ours"}
    theirs = [right, right, dict.fromkeys(right, 0.0) | {"kind": "theirs"}]
    ours, _ = evaluate(cfg, policy, builder, samples[:1])
    monkeypatch.setattr(heldout, "gather_lists", lambda rows: [*rows, *theirs])
    monkeypatch.setattr(heldout, "gather", lambda n: [n, 1])
    scores, _ = evaluate(cfg, policy, builder, samples[:1])
    assert (scores["n"], scores["unusable"]) == (4, 1)
    assert scores["correct"] == pytest.approx((ours["correct"] + 2) / 4)
    assert scores["tokens"] == pytest.approx((ours["tokens"] + 20) / 4)
    mine = {samples[0].kind: ours["correct"]}
    assert scores["correct_by_kind"] == {"ours": 1.0, "theirs": 0.0, **mine}


def test_the_judge_of_stage_3_pays_half(cfg, policy, builder, samples):
    """Two verdicts of 0.5; the third is missing, and its completion is paid by the format alone."""
    cfg.stage = 3
    verdict = {"audio": 1.0, "visual": 1.0, "location": 0.0, "caption": 0.0}
    calls = []

    def judge(completions):
        calls.append([sample.id for sample, _, _ in completions])
        return [verdict, None, verdict]

    _, examples = evaluate(cfg, policy, builder, samples[:3], judge)
    assert calls == [[s.id for s in samples[:3]]]
    assert [e["judge"] for e in examples] == [0.5, None, 0.5]
    for e in examples:
        expected = e["format"] if e["judge"] is None else 0.5 * e["format"] + 0.25
        assert e["reward"] == pytest.approx(expected)


def test_an_example_says_what_was_asked_and_answered(builder, samples):
    prompt = builder(samples[0], True)
    completion = Completion([5, 6, 0], [-1.0] * 3, "<answer>3</answer>", True)
    parts = {"reward": 0.4, "format": 0.0, "accuracy": 1.0, "self": None, "judge": None}
    assert example(prompt, completion, parts, advantage=0.5) == {
        "id": samples[0].id,
        "hinted": True,
        "prompt": chat_text(samples[0], builder.tokenizer, True, False),
        "media": samples[0].videos,
        "gold": samples[0].answer,
        "completion": "<answer>3</answer>",
        "tokens": 3,
        "finished": True,
        **parts,
        "advantage": 0.5,
    }
    assert example(prompt, completion, parts)["advantage"] is None


def test_an_example_shows_the_whole_prompt(builder, samples):
    """The system turn and the caption of the sound, too."""
    sample = replace(samples[0], system="Answer in one word.", audio_caption="two low tones")
    captioned = PromptBuilder(builder.tokenizer, builder.form, builder.settings, audio_caption=True)
    shown = example(captioned(sample, False), Completion([0], [-1.0], "x", True), {})["prompt"]
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "text", "text": question_text(sample, audio_caption=True)},
            ],
        },
    ]
    assert "Sound: two low tones" in shown
    assert shown == builder.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
