"""sft.py: the cold start, against transformers' own forward and torch's cross-entropy."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import train
from config import parse
from data import prompt_builder
from engine.families import DEFAULT_MODEL
from model import Features, load_policy
from run.stream import PromptStream, load_data
from sft import TraceRow, on_traces, trace_batches, trace_rows
from tests.reference import hf_inputs
from tests.runs import rows_of, small

SHORT = ("--max_completion_tokens=8", "--eval_every=0")


# ------------------------------------------------------------------ whole runs
def test_cold_start_makes_a_model_from_random_weights(tmp_path, in_shared_folder):
    """Its loss falls, and the next stage starts from its checkpoint."""
    first = tmp_path / "stage0"
    train.run_stage(parse(small(first, *SHORT, "--prompts_per_step=4", stage=0)))
    steps, evaluations = rows_of(first)
    assert len(steps) == 3
    assert steps[0]["loss"] > steps[-1]["loss"] > 0
    assert all(row["grad_norm"] > 0 and row["completion_tokens"] > 0 for row in steps)
    assert [row["step"] for row in evaluations] == [3]
    assert (first / "curves.png").read_bytes()[:4] == b"\x89PNG"

    model = f"--model={first / 'checkpoint'}"
    train.run_stage(parse(small(tmp_path / "stage2", *SHORT, model, "--steps=1")))
    assert len(rows_of(tmp_path / "stage2")[0]) == 1


def test_the_loss_is_the_cross_entropy_of_the_traces(tmp_path, in_shared_folder):
    """The loss of a run's first step, in several micro-batches, is the mean over all trace tokens
    (EOS included) of torch's cross-entropy on what transformers computes for each prompt alone."""
    flags = [f"--model={DEFAULT_MODEL}", "--steps=1", "--prompts_per_step=6", "--max_tokens=900"]
    cfg = parse(small(tmp_path / "run", *SHORT, *flags, stage=0))
    train.run_stage(cfg)
    ((row,), _) = rows_of(tmp_path / "run")

    policy = load_policy(DEFAULT_MODEL)
    builder = prompt_builder(cfg, policy)
    samples, _ = load_data(cfg, 0, 1)
    stream = PromptStream(samples, builder, cfg.seed * 1000, by_clip=True)
    prompts = stream.take(6, hinted=lambda prompt_id: True)
    assert any(prompt.hinted for prompt in prompts)

    loss, n_tokens = 0.0, 0
    for prompt in prompts:
        trace = policy.tokenizer(prompt.sample.trace, add_special_tokens=False)["input_ids"]
        trace = torch.tensor([*trace, policy.tokenizer.eos_token_id])
        with torch.no_grad():
            logits = policy.model(**hf_inputs(policy, prompt, trace.tolist())).logits[0]
        predicting = logits[len(prompt.ids) - 1 : -1].masked_fill(policy.banned, -torch.inf)
        loss += F.cross_entropy(predicting, trace, reduction="sum").item()
        n_tokens += len(trace)
    assert row["completion_tokens"] == n_tokens
    assert row["loss"] == pytest.approx(loss / n_tokens, rel=1e-4)


# ------------------------------------------------------------------ packed rows
@pytest.fixture(scope="module")
def traced(builder, samples):
    """Prompts of six questions about three clips, with a trace each."""
    with_traces = []
    for i, sample in enumerate(samples[:6]):
        trace = f"<think>look {i}</think><answer>{sample.answer}</answer>"
        with_traces.append(replace(sample, trace=trace))
    return builder.build_or_raise(with_traces)


def test_questions_about_one_clip_share_a_row(policy, traced):
    rows, n_tokens = trace_rows(traced, policy)
    assert [len(row.texts) for row in rows] == [2, 2, 2]
    in_order = iter(traced)
    for row in rows:
        assert row.tokens == len(row.prompt.ids) + sum(len(text) for text in row.texts)
        for text, skipped in zip(row.texts, row.skipped, strict=True):
            # the shared prefix and the question are the prompt; behind it stands the trace
            prompt = next(in_order)
            assert [*row.prompt.ids.tolist(), *text[:skipped]] == prompt.ids.tolist()
            assert skipped > 0
            assert text[-1] == policy.tokenizer.eos_token_id
            assert policy.tokenizer.decode(text[skipped:-1]) == prompt.sample.trace
    lengths = [len(t) - n for r in rows for t, n in zip(r.texts, r.skipped, strict=True)]
    assert n_tokens == sum(lengths)


def test_shared_prefixes_equal_separate_prompts(policy, traced):
    """The traces' log-probs are those of every prompt on its own."""
    rows, n_tokens = trace_rows(traced, policy)
    prefixes = [row.prompt for row in rows]
    texts = [row.texts for row in rows]
    traces = [[t[n:]] for r in rows for t, n in zip(r.texts, r.skipped, strict=True)]
    features = Features(policy)
    with torch.no_grad():
        logp, mask = policy.completion_logps(prefixes, features.of(prefixes), texts)
        alone, alone_mask = policy.completion_logps(traced, features.of(traced), traces)
    ours = logp[on_traces(rows, mask)]
    assert len(ours) == n_tokens
    torch.testing.assert_close(ours, alone[alone_mask], atol=1e-5, rtol=0)


def test_questions_have_no_loss():
    """By hand: texts of 4, 3 and 5 tokens, of which 2, 0 and 4 are the question's."""
    prompt = SimpleNamespace(ids=[0])
    batch = [TraceRow(prompt, [[1] * 4, [1] * 3], [2, 0]), TraceRow(prompt, [[1] * 5], [4])]
    mask = torch.arange(5) < torch.tensor([4, 3, 5])[:, None]
    assert on_traces(batch, mask).int().tolist() == [
        [0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1],
    ]


def test_micro_batches_hold_whole_rows_and_fillers_without_a_loss(policy, traced, monkeypatch):
    rows, _ = trace_rows(traced, policy)
    alone = SimpleNamespace(device=policy.device, is_sharded=False)
    assert trace_batches(rows, 10**6, alone) == [rows]
    assert trace_batches(rows, 1, alone) == [[row] for row in rows]

    sharded = SimpleNamespace(device=policy.device, is_sharded=True)
    monkeypatch.setattr("groups.gather", lambda n: [n, 3])
    batches = trace_batches(rows, 10**6, sharded)
    assert batches[0] == rows
    assert len(batches) == 3
    for (filler,) in batches[1:]:
        mask = torch.ones(1, len(filler.texts[0]), dtype=torch.bool)
        assert not on_traces([filler], mask).any()
