"""train.py: the real loop and the real command at toy size, and what a run leaves behind."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

import train
from config import Config, parse
from data import share_prefixes
from engine.distributed import start_processes
from engine.optim import Optimizer
from formats.load import load_samples
from formats.sample import DataError
from groups import Group
from model import Features
from replay import VCRS_WINDOW, Entry, ReplayBuffer
from rewards import accuracy_reward, split_completion
from rollout import Sampling, generate
from run.curriculum import curriculum
from run.session import ends_in_a_sentence
from run.stream import Cursor, next_prompts, owner
from tas import group_advantages

REPO = Path(__file__).parent.parent
METRICS = {
    "step",
    "stage",
    "generated",
    "reward",
    "reward_format",
    "reward_accuracy",
    "reward_self",
    "accuracy",
    "loss",
    "kl",
    "ratio_mean",
    "ratio_max",
    "clip_fraction",
    "zero_advantage_groups",
    "buffer_size",
    "tier_easy",
    "tier_medium",
    "tier_hard",
    "replay_age",
    "hints",
    "grad_norm",
    "lr",
    "completion_tokens",
    "time_rollout",
    "time_update",
    "time_cpu",
}


def small(tmp_path, *extra, stage=2):
    """A run of 2 prompts per step, 4 fresh and 4 replayed completions each."""
    return [
        "--method",
        "avatar_paper",
        "--stage",
        str(stage),
        "--out",
        str(tmp_path / "run"),
        "--toy_dir",
        str(tmp_path / "toy"),
        "--media_cache",
        str(tmp_path / "media"),
        "--toy_clips",
        "6",
        "--toy_heldout",
        "3",
        "--prompts_per_step",
        "2",
        "--steps",
        "3",
        *extra,
    ]


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r for r in rows if "loss" in r], [r for r in rows if "eval_accuracy" in r]


# ------------------------------------------------------------------ whole runs
def test_avatar_run_leaves_its_outputs(tmp_path):
    train.run(parse(small(tmp_path, "--replay_min", "8", "--eval_every", "2", "--steps", "4")))
    out = tmp_path / "run"
    steps, evals = rows_of(out)
    assert [r["step"] for r in steps] == [0, 1, 2, 3] and [r["step"] for r in evals] == [0, 2, 4]
    assert all(set(r) >= METRICS for r in steps)
    assert [r["generated"] for r in steps] == [8, 16, 24, 32]  # only the fresh half is generated
    assert [r["buffer_size"] for r in steps] == [8, 16, 24, 32]
    assert steps[-1]["replayed"] == 8 and steps[-1]["replay_age"] > 0
    assert all(
        r["buffer_size"] == r["tier_easy"] + r["tier_medium"] + r["tier_hard"] for r in steps
    )
    assert steps[0]["ratio_mean"] == pytest.approx(1, abs=1e-4)
    last = steps[-1]
    assert (
        0 < last["effective_sample_share"] <= 1
        and last["log_ratio_squared"] >= 0
        and last["kl_behaviour"] >= 0
    )
    assert sum(n for n, _ in last["replayed_by_age"].values()) == 8 and set(
        last["replayed_by_age"]
    ) <= {"1-4", "5-16"}
    assert last["hinted_prompts"] == [] and last["hints"] == 0
    examples = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert examples and {
        "prompt",
        "completion",
        "gold",
        "reward",
        "format",
        "accuracy",
        "advantage",
    } <= set(examples[0])
    assert any(e["advantage"] is not None for e in examples)
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "config.json").read_text())["fresh"] == 4
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(out / "checkpoint")
    shared = torch.load(out / "checkpoint" / "trainer" / "shared.pt", weights_only=True)
    own = torch.load(out / "checkpoint" / "trainer" / "rank0.pt", weights_only=True)
    assert shared["step"] == 4 and shared["generated"] == 32
    buffer = ReplayBuffer()
    buffer.load_state_dict(own["buffer"])
    assert len(buffer) == 32
    assert all(
        set(e.scores) >= {"format", "accuracy", "self", "judge"}
        for h in buffer.prompts.values()
        for e in h.entries
    )


def test_our_preset_asks_for_two_completions_and_replays_as_many_groups(tmp_path):
    train.run(
        parse(
            small(
                tmp_path,
                "--method",
                "avatar",
                "--replay_min",
                "4",
                "--eval_every",
                "0",
                "--steps",
                "4",
            )
        )
    )
    steps, _ = rows_of(tmp_path / "run")
    assert [r["generated"] for r in steps] == [4, 8, 12, 16]
    assert [r["replayed"] for r in steps] == [0, 4, 4, 4] and all(
        r["kl"] is None for r in steps
    )  # two prompts seen before, 2 each


def test_grpo_is_the_same_loop_without_replay(tmp_path):
    train.run(parse(small(tmp_path, "--method", "grpo", "--steps", "2")))
    steps, _ = rows_of(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["fresh"], config["replayed"], config["tas_shape"]) == (8, 0, "uniform")
    assert [r["generated"] for r in steps] == [16, 32] and all(r["replayed"] == 0 for r in steps)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("avatar", (2, 6, "u")),
        ("avatar_paper", (4, 4, "u")),
        ("grpo", (8, 0, "uniform")),
        ("tas_only", (8, 0, "u")),
        ("replay_only", (2, 6, "uniform")),
    ],
)
def test_methods_are_the_rows_of_the_ablation(method, expected):
    cfg = parse(["--method", method])
    assert (cfg.fresh, cfg.replayed, cfg.tas_shape) == expected
    assert (
        parse(["--method", method, "--tas_shape", "decay"]).tas_shape == "decay"
    )  # a flag wins over the preset


@pytest.mark.parametrize(
    "flags",
    [
        ["--is_level", "sequence"],
        ["--clip", "cispo", "--clip_eps_high", "0.28"],
        ["--loss_norm", "token", "--beta", "0"],
        ["--stale_bound", "0.5"],
        ["--tas_normalize", "true", "--tas_shape", "inverse"],
        ["--replay_groups", "2", "--replay_draw", "uniform", "--replay_baseline", "group"],
    ],
)
def test_options_of_the_loss_and_the_buffer_run(tmp_path, flags):
    train.run(parse(small(tmp_path, "--replay_min", "8", "--eval_every", "0", *flags)))
    steps, _ = rows_of(tmp_path / "run")
    assert (
        len(steps) == 3
        and all(np.isfinite(r["loss"]) and np.isfinite(r["grad_norm"]) for r in steps)
        and steps[-1]["replayed"] > 0
    )
    if "--replay_groups" in flags:
        assert [r["replayed"] for r in steps] == [
            0,
            8,
            16,
        ]  # of the 2, then 4 prompts of earlier steps


@pytest.mark.parametrize(("baseline", "expected"), [("vcrs", [1.0, 0.5]), ("group", [0.25, -0.25])])
def test_replayed_rewards_stand_against_the_history_or_their_own_group(
    cfg, builder, samples, baseline, expected
):
    """Rewards 1.0 and 0.5 are replayed, of a prompt whose last 20 rewards are 0: Rbar(q) = 0; their own mean is 0.75. std: 0.35355."""
    s, buffer = samples[0], ReplayBuffer(seed=0)
    for step, rewards in enumerate([(1.0, 0.5), (0.0,) * VCRS_WINDOW]):
        buffer.add(
            s.id,
            [
                Entry(np.array([5, 6], np.int32), np.zeros(2, np.float32), r, r, step)
                for r in rewards
            ],
        )
    groups = train.replay_step(
        replace(cfg, replayed=2, replay_baseline=baseline), builder, buffer, {s.id: s}, 1, step=1
    )
    assert sorted(groups[0].advantages.tolist(), reverse=True) == pytest.approx(
        [e / (0.125**0.5 + 1e-4) for e in expected]
    )


def test_curriculum_runs_stages_in_a_row(tmp_path):
    """--stage 0,2: the second starts from the first one's checkpoint; one folder each, one summary."""
    flags = small(tmp_path, "--max_completion_tokens", "8", "--eval_every", "0", stage="0,2")
    plan = curriculum(flags)
    assert [(c.stage, c.out) for c in plan] == [
        (0, str(tmp_path / "run" / "stage0")),
        (2, str(tmp_path / "run" / "stage2")),
    ]
    assert (
        plan[0].model == ""
        and plan[1].model == f"{plan[0].out}/checkpoint"
        and (plan[0].lr, plan[1].lr) == (2e-3, parse([]).lr)
    )
    assert [(c.stage, c.out) for c in curriculum(["--stage=1,3", f"--out={tmp_path}"])] == [
        (1, f"{tmp_path}/stage1"),
        (3, f"{tmp_path}/stage3"),
    ]
    for cfg in plan:
        train.run(cfg)
    train.summarise(plan)
    table = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(table) == ["after stage 0", "after stage 2"] and all(
        0 <= row["stage 2"] <= 1 for row in table.values()
    )
    assert (tmp_path / "run" / "summary.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("stage", [1, 3])
def test_visual_and_localisation_stages_run(tmp_path, stage):
    train.run(parse(small(tmp_path, "--steps", "2", stage=stage)))
    steps, evals = rows_of(tmp_path / "run")
    assert (
        len(steps) == 2
        and (steps[0]["reward_judge"] is None) == (stage == 1)
        and 0 <= evals[-1]["eval_accuracy"] <= 1
    )


def test_cold_start_makes_a_model_from_random_weights(tmp_path):
    train.run(parse(small(tmp_path, "--max_completion_tokens", "8", stage=0)))
    steps, _ = rows_of(tmp_path / "run")
    assert len(steps) == 3 and steps[0]["loss"] > steps[-1]["loss"] > 0
    train.run(
        parse(
            small(
                tmp_path,
                "--model",
                str(tmp_path / "run" / "checkpoint"),
                "--steps",
                "1",
                "--max_completion_tokens",
                "8",
                "--out",
                str(tmp_path / "next"),
            )
        )
    )


def test_same_seed_gives_the_same_run(tmp_path):
    runs = []
    for name in "ab":
        train.run(parse([*small(tmp_path, "--replay_min", "8"), "--out", str(tmp_path / name)]))
        steps, evals = rows_of(tmp_path / name)
        runs.append(
            [
                {k: v for k, v in r.items() if "time" not in k and k != "seconds"}
                for r in steps + evals
            ]
        )
    assert runs[0] == runs[1]


def test_the_command_on_two_processes_leaves_one_set_of_outputs(tmp_path):
    """torchrun on gloo: prompts are split by id, every process's buffer is saved, rank 0 alone writes the log."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(REPO / "train.py"),
        *small(tmp_path, "--replay_min", "4", "--device", "cpu"),
    ]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("held-out accuracy") == 1 + 2  # two evaluations and the last line
    steps, evals = rows_of(tmp_path / "run")
    assert (
        [r["step"] for r in steps] == [0, 1, 2]
        and [r["generated"] for r in steps] == [8, 16, 24]
        and len(evals) == 2
    )
    states = [
        torch.load(tmp_path / "run" / "checkpoint" / "trainer" / f"rank{r}.pt", weights_only=True)[
            "buffer"
        ]
        for r in (0, 1)
    ]
    assert (
        all(owner(i, 2) == r for r, s in enumerate(states) for i in s["prompts"])
        and sum(len(s["entries"]) for s in states) == 24
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint")
    by_id = {
        s.id: s for s in load_samples(next((tmp_path / "toy").glob("*/stage2_train_6x2.jsonl")))
    }
    for state in states:  # every rank stored the rewards of its own completions
        buffer = ReplayBuffer()
        buffer.load_state_dict(state)
        for prompt_id, history in buffer.stored.items():
            s = by_id[prompt_id]
            for e in history.entries:
                answer = split_completion(tokenizer.decode(e.tokens, skip_special_tokens=True))[1]
                assert e.accuracy == accuracy_reward(answer, s.answer, s.problem_type, s.options)


# ------------------------------------------------------------------ the step
@pytest.fixture
def cfg(tmp_path):
    return parse(small(tmp_path))


def test_ratio_is_one_on_fresh_and_not_on_replayed_completions(cfg, fresh_policy, builder, samples):
    """A completion sampled by the policy has ratio 1; after the policy has moved, the same stored completion has not."""
    buffer = ReplayBuffer(seed=0)
    generator = torch.Generator().manual_seed(0)
    groups, _ = train.rollout_step(
        cfg, fresh_policy, buffer, builder.build_or_raise(samples[:4]), 0, generator
    )
    for g in groups:
        g.advantages = torch.linspace(-1, 1, len(g.tokens))
    log = train.update_step(cfg, fresh_policy, None, groups)
    assert (
        np.abs(np.array(log["ratio"]) - 1).max() < 1e-4
        and not any(log["clipped"])
        and log["stale_ratio"] == []
    )
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    by_id = {s.id: s for s in samples}
    old = train.replay_step(cfg, builder, buffer, by_id, 4, step=1)
    for g in old:
        g.advantages = torch.linspace(-1, 1, len(g.tokens))
    log = train.update_step(cfg, fresh_policy, None, old)
    assert (
        len(log["stale_ratio"]) == len(log["ratio"]) > 0
        and np.abs(np.array(log["ratio"]) - 1).mean() > 1e-2
    )


def test_each_prompt_stores_its_own_rewards(cfg, policy, builder, samples):
    """Entries, VCRS and groups of every prompt hold that prompt's completions, in order, EOS included."""
    buffer = ReplayBuffer(seed=0)
    groups, examples = train.rollout_step(
        cfg,
        policy,
        buffer,
        builder.build_or_raise(samples[:4]),
        7,
        torch.Generator().manual_seed(3),
    )
    assert [g.prompt.sample.id for g in groups] == [s.id for s in samples[:4]]
    for i, g in enumerate(groups):
        stored = buffer.prompts[g.prompt.sample.id].entries
        assert (
            [e.tokens.tolist() for e in stored] == g.tokens
            and [e.reward for e in stored] == g.rewards
            and {e.step for e in stored} == {7}
        )
        assert [x["reward"] for x in examples[4 * i : 4 * i + 4]] == g.rewards
        assert torch.equal(g.advantages, group_advantages(torch.tensor(g.rewards)))
        assert buffer.vcrs(g.prompt.sample.id) == pytest.approx(np.mean(g.rewards))


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_gradients_do_not_depend_on_micro_batches(cfg, fresh_policy, builder, samples, norm):
    cfg.loss_norm = norm
    fresh_policy.freeze_towers()
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:4]),
        0,
        torch.Generator().manual_seed(0),
    )
    grads = []
    for size in (10**6, 1, 400):
        cfg.max_tokens = size
        fresh_policy.model.zero_grad()
        train.update_step(cfg, fresh_policy, None, groups)
        grads.append(
            torch.cat(
                [p.grad.flatten() for p in fresh_policy.model.parameters() if p.grad is not None]
            )
        )
    for other in grads[1:]:
        assert (other - grads[0]).norm() <= 1e-5 * grads[0].norm()


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_gradients_do_not_depend_on_the_number_of_processes(
    cfg, fresh_policy, builder, samples, norm, monkeypatch
):
    """Two processes that each hold some of the groups: their gradients add up to those of one process that holds all."""
    cfg.loss_norm, cfg.beta = norm, 0.0
    fresh_policy.freeze_towers()
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:4]),
        0,
        torch.Generator().manual_seed(0),
    )
    for g in groups:
        g.advantages = torch.linspace(-1, 2, len(g.tokens))
    groups[1].replayed = groups[3].replayed = True
    train.update_step(cfg, fresh_policy, None, groups)
    whole = fresh_policy.head.weight.grad.clone()
    fresh_policy.model.zero_grad()
    for mine, others in ((groups[:1], groups[1:]), (groups[1:], groups[:1])):
        theirs = [
            (4 * len(half), sum(len(t) for g in half for t in g.tokens))
            for half in ([g for g in others if not g.replayed], [g for g in others if g.replayed])
        ]
        monkeypatch.setattr(train, "gather", lambda value, theirs=theirs: [value, theirs])
        train.update_step(cfg, fresh_policy, None, mine)
    assert (
        whole.norm() > 0 and (fresh_policy.head.weight.grad - whole).norm() <= 1e-5 * whole.norm()
    )


def test_loss_is_on_policy_mean_plus_alpha_off_policy_mean(cfg, fresh_policy, builder, samples):
    """J = J_on + alpha J_off, each half the mean over its own completions, checked on group losses taken one by one."""
    cfg.beta, cfg.alpha = 0.1, 0.5
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:4]),
        0,
        torch.Generator().manual_seed(0),
    )
    reference = fresh_policy.reference()
    for g in groups:
        g.advantages = torch.linspace(-1, 1, len(g.tokens))
    groups[2].replayed = groups[3].replayed = True
    whole = sum(train.update_step(cfg, fresh_policy, reference, groups)["loss"])
    cfg.alpha = 1.0
    alone = [
        sum(train.update_step(cfg, fresh_policy, reference, [g])["loss"]) for g in groups
    ]  # each the mean over its 4 completions
    assert whole == pytest.approx(
        (alone[0] + alone[1]) / 2 + 0.5 * (alone[2] + alone[3]) / 2, abs=1e-6
    )  # terms of order 1 cancel


def test_fresh_and_replayed_completions_of_a_prompt_share_its_row(
    cfg, fresh_policy, builder, samples, monkeypatch
):
    """Replaying a stored completion costs its own tokens: its prompt is computed once, with the fresh ones. Log and gradients stay the same."""
    cfg.beta, cfg.alpha = 0.1, 0.5
    fresh_policy.freeze_towers()
    buffer = ReplayBuffer(seed=0)
    train.rollout_step(
        cfg,
        fresh_policy,
        buffer,
        builder.build_or_raise(samples[:2]),
        0,
        torch.Generator().manual_seed(0),
    )
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        buffer,
        builder.build_or_raise(samples[:2]),
        1,
        torch.Generator().manual_seed(1),
    )
    groups += train.replay_step(cfg, builder, buffer, {s.id: s for s in samples}, 2, step=1)
    assert sorted(g.prompt.sample.id for g in groups if g.replayed) == sorted(
        s.id for s in samples[:2]
    ) and {s for g in groups[2:] for s in g.steps} == {0}
    hinted = Group(
        builder(samples[0], True),
        groups[0].tokens,
        groups[0].behaviour,
        groups[0].rewards,
        groups[0].advantages,
        True,
        [0] * 4,
    )
    groups.append(hinted)  # another prompt: the hint is part of it
    for g in groups:
        g.advantages = torch.linspace(-1, 1, len(g.tokens))
    reference = fresh_policy.reference()
    passed = []
    hook = fresh_policy.text.layers[0].mlp.register_forward_hook(
        lambda m, args, out: passed.append(len(args[0]))
    )
    shared = train.update_step(cfg, fresh_policy, reference, groups, 1)
    hook.remove()
    prompts = [groups[0].prompt, groups[1].prompt, hinted.prompt]
    assert passed == [
        sum(len(p.ids) for p in prompts) + sum(len(t) - 1 for g in groups for t in g.tokens)
    ]
    ours = [p.grad.clone() for p in fresh_policy.text.parameters()]
    fresh_policy.model.zero_grad()
    monkeypatch.setattr(train, "pack_rows", lambda groups, max_tokens: [[[g]] for g in groups])
    apart = train.update_step(cfg, fresh_policy, reference, groups, 1)
    assert sum(shared["loss"]) == pytest.approx(sum(apart["loss"]), abs=1e-6)
    rows = [
        sorted(log["stale"], key=lambda r: (r[0], r[2], round(r[4], 3))) for log in (shared, apart)
    ]
    assert [r[0] for r in rows[0]] == [r[0] for r in rows[1]]
    np.testing.assert_allclose(
        [r[1:] for r in rows[0]], [r[1:] for r in rows[1]], atol=1e-5, rtol=1e-3
    )
    for p, g in zip(fresh_policy.text.parameters(), ours, strict=True):
        assert (p.grad - g).norm() <= 1e-4 * g.norm() + 1e-6


@pytest.mark.parametrize("trained", [False, True])
def test_media_pass_the_towers_once_per_step(cfg, fresh_policy, builder, samples, trained):
    """Rollout, policy, reference and replay share one run. Trained towers run once more for their gradient, a clip at a time, as under checkpointing."""
    cfg.beta = 0.1
    if not trained:
        fresh_policy.freeze_towers()
    buffer, reference = ReplayBuffer(seed=0), fresh_policy.reference()
    train.rollout_step(
        cfg,
        fresh_policy,
        buffer,
        builder.build_or_raise(samples[:4]),
        0,
        torch.Generator().manual_seed(0),
    )
    calls = []
    fresh_policy.visual.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    features = Features(fresh_policy)
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        buffer,
        builder.build_or_raise(samples[4:8]),
        1,
        torch.Generator().manual_seed(1),
        features=features,
    )
    groups += train.replay_step(cfg, builder, buffer, {s.id: s for s in samples}, 4, step=1)
    for g in groups:
        g.advantages = torch.linspace(-1, 1, len(g.tokens))
    train.update_step(cfg, fresh_policy, reference, groups, 1, features)
    clip = len(groups[0].prompt.patches)
    fresh_clips, all_clips = (
        len({g.prompt.sample.media_key for g in some}) for some in (groups[:4], groups)
    )
    assert fresh_clips == 2 < all_clips == 4
    if trained:
        assert (
            calls == [2 * clip, 2 * clip, *[clip] * 4]
            and fresh_policy.visual.patch_embed.proj.weight.grad.norm() > 0
        )
    else:
        assert calls == [2 * clip]  # the replayed clips are in the cache of earlier steps


def test_the_kl_term_acts_on_fresh_completions_only(cfg, fresh_policy, builder, samples):
    """The same group has the KL's loss when it is fresh and none when it is replayed; a replayed one without advantages is not run at all."""
    cfg.beta = 0.1
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:1]),
        0,
        torch.Generator().manual_seed(0),
    )
    reference, group = fresh_policy.reference(), groups[0]
    with torch.no_grad():
        for p in reference.text.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    losses = []
    for advantages, replayed in (
        (torch.zeros(4), False),
        (torch.tensor([1.0, -1.0, 0.5, 0.0]), False),
        (torch.tensor([1.0, -1.0, 0.5, 0.0]), True),
    ):
        group.advantages, group.replayed = advantages, replayed
        losses.append(sum(train.update_step(cfg, fresh_policy, reference, groups)["loss"]))
    assert losses[0] > 1e-3 and losses[1] - losses[2] == pytest.approx(losses[0], rel=1e-3)
    group.advantages = torch.zeros(4)
    assert train.update_step(cfg, fresh_policy, reference, groups)["ratio"] == []


def test_groups_without_advantage_are_left_out_exactly(cfg, fresh_policy, builder, samples):
    """With beta = 0 a group of zero advantages has no gradient: leaving it out changes nothing but the time."""
    cfg.beta = 0.0
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:2]),
        0,
        torch.Generator().manual_seed(0),
    )
    groups[0].advantages, groups[1].advantages = torch.zeros(4), torch.tensor([1.0, -1.0, 0.5, 0.0])
    log = train.update_step(cfg, fresh_policy, None, groups)
    assert len(log["ratio"]) == sum(len(t) for t in groups[1].tokens)
    ours = fresh_policy.head.weight.grad.clone()
    fresh_policy.model.zero_grad()
    groups[0].advantages = torch.full((4,), 1e-30)
    train.update_step(cfg, fresh_policy, None, groups)
    torch.testing.assert_close(fresh_policy.head.weight.grad, ours, atol=1e-7, rtol=1e-5)


def test_a_hinted_completion_is_replayed_under_its_hinted_prompt(cfg, policy, builder, samples):
    buffer = ReplayBuffer(seed=0, patience=1)
    stuck = samples[0]
    buffer.add(
        stuck.id, [Entry(np.array([1], np.int32), np.array([-1.0], np.float32), 0.2, 0.0, 0)]
    )
    assert buffer.wants_hint(stuck.id)
    prompts = next_prompts(Cursor([stuck], 0), builder, 1, lambda s: buffer.wants_hint(s.id))
    groups, examples = train.rollout_step(
        cfg, policy, buffer, prompts, 1, torch.Generator().manual_seed(0)
    )
    assert (
        groups[0].prompt.hinted
        and stuck.hint in examples[0]["prompt"]
        and all(e.hinted for e in buffer.prompts[stuck.id].entries[1:])
    )
    assert buffer.vcrs(stuck.id) == pytest.approx(0.2)  # hinted rewards did not enter
    drawn = [
        train.replay_step(cfg, builder, buffer, {stuck.id: stuck}, 1, step=10) for _ in range(20)
    ]
    for g in [g for groups in drawn for g in groups]:
        assert g.prompt.hinted == (g.tokens != [[1]])


def test_dynamic_sampling_replaces_groups_without_contrast_and_counts_them(
    cfg, policy, builder, samples, monkeypatch
):
    """Groups whose rewards are all alike give way to new prompts; every completion spent is in the examples and in the buffer."""
    dull = {s.id for s in samples[:2]}
    monkeypatch.setattr(
        train,
        "score",
        lambda cfg, prompts, groups, judge: [
            [
                {
                    "reward": 0.2 if p.sample.id in dull else float(i == 0),
                    "format": 1.0,
                    "accuracy": 0.0,
                    "self": 0.0,
                    "judge": None,
                }
                for i in range(len(done))
            ]
            for p, done in zip(prompts, groups, strict=True)
        ],
    )
    asked = []

    def more(n):
        asked.append(n)
        return builder.build_or_raise(
            [samples[1], samples[4]][:n] if len(asked) == 1 else samples[5 : 5 + n]
        )

    for rounds, ids, spent in ((0, [0, 1, 2], 12), (1, [2, 1, 4], 20), (5, [2, 4, 5], 24)):
        asked.clear()
        cfg.dynamic_sampling, buffer = rounds, ReplayBuffer(seed=0)
        groups, examples = train.rollout_step(
            cfg,
            policy,
            buffer,
            builder.build_or_raise(samples[:3]),
            0,
            torch.Generator().manual_seed(0),
            more,
        )
        assert [g.prompt.sample.id for g in groups] == [samples[i].id for i in ids] and len(
            examples
        ) == len(buffer) == spent
    assert asked == [2, 1]


def test_stale_bad_news_has_no_gradient(cfg, fresh_policy, builder, samples):
    """With --stale_bound a replayed group of negative advantages whose behaviour the policy has left is counted and not trained."""
    cfg.beta, cfg.stale_bound = 0.0, 0.5
    groups, _ = train.rollout_step(
        cfg,
        fresh_policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:1]),
        0,
        torch.Generator().manual_seed(0),
    )
    group = groups[0]
    group.replayed, group.advantages, group.behaviour = (
        True,
        -torch.ones(4),
        [[b + 1.0 for b in row] for row in group.behaviour],
    )
    log = train.update_step(cfg, fresh_policy, None, groups, step=3)
    assert log["loss"] == [0.0] and all(
        p.grad is None or not p.grad.any() for p in fresh_policy.model.parameters()
    )
    assert [(row[1], row[6]) for row in log["stale"]] == [(3, True)] * 4 and log["stale"][0][
        4
    ] == pytest.approx(1.0, abs=1e-3)
    group.advantages = torch.ones(4)  # good news stays, however old
    assert train.update_step(cfg, fresh_policy, None, groups, step=3)["loss"][0] < 0


def test_a_few_steps_on_one_prompt_raise_its_reward(cfg, fresh_policy, builder, samples):
    """The update points the right way: rewarding one of two sampled answers makes it likelier."""
    fresh_policy.freeze_towers()
    prompt = builder(samples[0])
    done = generate(
        fresh_policy,
        [prompt],
        Features(fresh_policy).of([prompt]),
        8,
        Sampling(60, generator=torch.Generator().manual_seed(0)),
    )[0]
    good, bad = done[0], next(c for c in done if c.tokens != done[0].tokens)
    group = Group(
        prompt,
        [good.tokens, bad.tokens],
        [good.logps, bad.logps],
        [1.0, 0.0],
        torch.tensor([1.0, -1.0]),
        False,
        [0, 0],
    )
    cfg.beta = 0.0
    optimizer = Optimizer(*fresh_policy.named_trained(), lr=1e-4)
    for _ in range(3):
        train.update_step(cfg, fresh_policy, None, [group])
        optimizer.step(1e-4, max_grad_norm=1.0)
    with torch.no_grad():
        logp, _ = fresh_policy.completion_logps(
            [prompt], Features(fresh_policy).of([prompt]), [group.tokens]
        )
    assert logp[0].sum() > sum(good.logps) and logp[1].sum() < sum(bad.logps)


def test_cold_start_on_shared_prefixes_equals_separate_prompts(policy, builder, samples):
    """Questions about one clip share its prefix; the traces' log-probs are those of every prompt on its own."""
    prompts = builder.build_or_raise(samples[:6])
    traces = [
        policy.tokenizer(f"<think>look {i}</think><answer>{s.answer}</answer>")["input_ids"]
        for i, s in enumerate(samples[:6])
    ]
    shared = share_prefixes(prompts, policy.form)
    assert [len(rests) for _, rests in shared] == [2, 2, 2] and all(
        len(r) > 0 for _, rests in shared for r in rests
    )
    skips = [len(r) for _, rests in shared for r in rests]
    left = iter(traces)
    with torch.no_grad():
        prefixes = [p for p, _ in shared]
        logps, _ = policy.completion_logps(
            prefixes,
            Features(policy).of(prefixes),
            [[r + next(left) for r in rests] for _, rests in shared],
        )
        alone, _ = policy.completion_logps(
            prompts, Features(policy).of(prompts), [[t] for t in traces]
        )
    for row, skip, expected, trace in zip(logps, skips, alone, traces, strict=True):
        torch.testing.assert_close(
            row[skip : skip + len(trace)], expected[: len(trace)], atol=1e-5, rtol=0
        )


# ------------------------------------------------------------------ flags and schedule
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lambda", "1"], "unrecognized arguments"),
        (["--method", "ppo"], "known are avatar, avatar_paper, grpo"),
        (["--stage", "4"], "known are 0, 1, 2, 3"),
        (["--tas_shape", "w"], "known are u, uniform"),
        (["--is_level", "word"], "known are token, sequence"),
        (["--lr", "-1"], "at least 0"),
        (["--top_p", "1.5"], "between 1e-06 and 1"),
        (["--fresh", "0"], "at least 1"),
        (["--steps", "two"], "invalid int value"),
        (["--tas_normalize", "maybe"], "neither true nor false"),
        (["--max_frames", "1"], "at least 2"),
    ],
)
def test_bad_flags_end_with_one_sentence(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse(flags)
    assert message in capsys.readouterr().err


def test_a_switch_needs_no_value():
    assert (
        parse(["--tas_normalize"]).tas_normalize
        and parse(["--tas_normalize", "--lr", "1"]).tas_normalize
    )
    assert not parse(["--cuda_graph", "false"]).cuda_graph and not parse([]).tas_normalize


def test_every_flag_is_explained(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{f.name} " in text and f.metadata["help"][:10] for f in fields(Config))


def test_the_papers_preset_has_the_methods_numbers():
    cfg = parse(["--model", "some/7b", "--method", "avatar_paper"])
    assert (cfg.replay_groups, cfg.replay_draw, cfg.replay_baseline) == (1, "tiers", "vcrs")
    assert (
        cfg.fresh,
        cfg.replayed,
        cfg.alpha,
        cfg.clip_eps,
        cfg.beta,
        cfg.tas_lambda,
        cfg.tas_shape,
    ) == (4, 4, 1.0, 0.2, 0.1, 0.3, "u")
    assert (
        cfg.capacity,
        cfg.replay_min,
        cfg.vcrs_window,
        cfg.hint_patience,
        cfg.lr,
        cfg.warmup,
    ) == (10_000, 64, 20, 3, 5e-7, 0.05)
    assert (
        cfg.is_level,
        cfg.clip,
        cfg.clip_eps_high,
        cfg.loss_norm,
        cfg.stale_bound,
        cfg.replay_max_age,
    ) == ("token", "ppo", 0.0, "sequence", 0.0, 0)
    assert (cfg.temperature, cfg.max_completion_tokens, cfg.max_frames, cfg.max_pixels) == (
        1.0,
        2048,
        16,
        50_176,
    )


@pytest.mark.parametrize("method", ["grpo", "tas_only"])
def test_a_baseline_has_neither_replay_nor_hints(method):
    cfg = parse(["--method", method])
    assert (cfg.fresh, cfg.replayed, cfg.hint_patience, cfg.hint_kl, cfg.loss_norm, cfg.beta) == (
        8,
        0,
        0,
        0,
        "sequence",
        0.02,
    )
    assert parse(["--method", method, "--hint_patience", "2"]).hint_patience == 2


def test_prompts_are_split_over_ranks_for_good():
    owners = [owner(f"q{i}", 4) for i in range(4000)]
    assert owners == [owner(f"q{i}", 4) for i in range(4000)] and all(
        900 < owners.count(r) < 1100 for r in range(4)
    )


def test_cursor_visits_every_sample_once_per_pass(samples):
    for by_clip in (False, True):
        cursor = Cursor(samples, 0, by_clip)
        taken = [s.id for _ in range(2 * len(samples) // 4) for s in cursor.take(4)]
        half = len(samples)
        assert (
            sorted(taken[:half]) == sorted(taken[half:]) == sorted(s.id for s in samples)
            and taken[:half] != taken[half:]
        )
    clips = [s.media_key for s in Cursor(samples, 0, by_clip=True).take(len(samples))]
    assert all(clips[i] == clips[i + 1] for i in range(0, len(clips), 2))


def test_missing_media_end_the_run_with_one_sentence(tmp_path):
    (tmp_path / "d.jsonl").write_text(
        json.dumps(
            {
                "id": "a",
                "question": "q",
                "problem_type": "numeric",
                "answer": "1",
                "video": "gone.mp4",
            }
        )
    )
    with pytest.raises(
        DataError,
        match=r"d.jsonl: of 1 of its media files that were looked for none exists, e.g. .*gone.mp4; pass",
    ):
        train.run(
            parse(
                [
                    "--data",
                    str(tmp_path / "d.jsonl"),
                    "--out",
                    str(tmp_path / "run"),
                    "--steps",
                    "1",
                ]
            )
        )


def test_downloaded_formats_train_as_they_are(tmp_path, world, samples):
    """A step on records of Video-R1 (a JSON list) and of AVATAR (JSONL with messages), media and hints from where they say."""
    some = samples[:6]
    video_r1 = [
        {
            "problem_id": i,
            "problem": s.question,
            "data_type": "video",
            "problem_type": "free-form",
            "options": [],
            "data_source": "toy",
            "solution": f"<answer>{s.answer}</answer>",
            "path": f"./{Path(s.videos[0]).name}",
        }
        for i, s in enumerate(some)
    ]
    avatar = [
        {
            "messages": [{"role": "user", "content": f"<video>{s.question}"}],
            "videos": [Path(s.videos[0]).name],
            "solution": s.answer,
            "problem_type": "free_form",
            "hint": [s.hint],
        }
        for s in some
    ]
    (tmp_path / "r1.json").write_text(json.dumps(video_r1))
    (tmp_path / "avatar.jsonl").write_text("".join(json.dumps(r) + "\n" for r in avatar))
    for name in ("r1.json", "avatar.jsonl"):
        train.run(
            parse(
                [
                    *small(tmp_path, "--steps", "2", "--workers", "0"),
                    "--data",
                    str(tmp_path / name),
                    "--media_root",
                    str(Path(some[0].videos[0]).parent),
                    "--out",
                    str(tmp_path / name.split(".")[0]),
                ]
            )
        )
        steps, _ = rows_of(tmp_path / name.split(".")[0])
        assert [r["generated"] for r in steps] == [8, 16] and steps[-1]["bad_media"] == 0
        asked = [
            json.loads(line)
            for line in (tmp_path / name.split(".")[0] / "completions.jsonl")
            .read_text()
            .splitlines()
        ]
        assert {e["gold"] for e in asked} <= {s.answer for s in some} and len(
            {e["id"] for e in asked}
        ) >= 1


def test_prompts_that_are_too_long_are_left_out_and_counted(tmp_path, builder, samples):
    """A limit in the middle of the toy's prompt lengths: the run goes on with the shorter ones; a limit below all of them ends it."""
    flags = small(tmp_path, "--replay_min", "8", "--steps", "6", "--eval_every", "0")
    train.run(parse([*flags, "--steps", "1"]))
    mine = load_samples(next((tmp_path / "toy").glob("*/stage2_train_6x2.jsonl")))
    lengths = {s.id: len(p.ids) for s, p in zip(mine, builder.build_or_raise(mine), strict=True)}
    limit = sorted(lengths.values())[6]
    train.run(parse([*flags, "--max_prompt_tokens", str(limit), "--out", str(tmp_path / "limit")]))
    steps, _ = rows_of(tmp_path / "limit")
    long = {i for i, n in lengths.items() if n > limit}
    named = [
        json.loads(line) for line in (tmp_path / "limit" / "dropped.jsonl").read_text().splitlines()
    ]
    assert (
        len(steps) == 6
        and [r["generated"] for r in steps] == [8 * i for i in range(1, 7)]
        and 0 < steps[-1]["too_long"] == len(named) <= len(long)
    )
    assert {r["id"] for r in named} <= long and all(
        f"{lengths[r['id']]} tokens, more than --max_prompt_tokens {limit}" in r["reason"]
        for r in named
    )
    stored = torch.load(
        tmp_path / "limit" / "checkpoint" / "trainer" / "rank0.pt", weights_only=True
    )["buffer"]["prompts"]
    assert stored and not set(stored) & long
    with pytest.raises(
        DataError,
        match=r"none of the 12 records of this process can be used; the last one: .*more than --max_prompt_tokens 50",
    ):
        train.run(parse([*flags, "--max_prompt_tokens", "50", "--out", str(tmp_path / "none")]))


def test_an_unusable_question_counts_as_wrong_in_an_evaluation(cfg, policy, builder, samples):
    gone = replace(samples[1], videos=["gone.mp4"])
    scores, examples = train.evaluate(cfg, policy, builder, [samples[0], gone])
    assert (
        (scores["n"], scores["unusable"], len(examples)) == (2, 1, 1)
        and scores["correct"] in (0.0, 0.5)
        and scores["format"] <= 0.5
    )


def test_the_oracle_judge_needs_the_scene(tmp_path):
    (tmp_path / "d.jsonl").write_text(
        json.dumps(
            {"id": "a", "question": "q", "problem_type": "localisation", "answer": "left: dog"}
        )
    )
    with pytest.raises(DataError, match="the oracle judge reads it; pass --judge MODEL"):
        train.run(
            parse(
                [
                    "--stage",
                    "3",
                    "--judge",
                    "oracle",
                    "--data",
                    str(tmp_path / "d.jsonl"),
                    "--out",
                    str(tmp_path / "run"),
                    "--steps",
                    "1",
                ]
            )
        )


def test_a_missing_verdict_is_counted_and_falls_back_to_the_format(
    policy, builder, samples, tmp_path
):
    """The judge sees all completions of a step in one batch; a group with a missing verdict is paid by the format alone."""
    cfg, asked = parse(small(tmp_path, stage=3)), []

    def judge(items):
        asked.append(items)
        return [
            None if i == 5 else {"audio": 1.0, "visual": 1.0, "location": 0.0, "caption": 0.0}
            for i in range(len(items))
        ]

    _, examples = train.rollout_step(
        cfg,
        policy,
        ReplayBuffer(seed=0),
        builder.build_or_raise(samples[:2]),
        0,
        torch.Generator().manual_seed(0),
        judge=judge,
    )
    assert (
        len(asked) == 1
        and [item[0].id for item in asked[0]] == [samples[0].id] * 4 + [samples[1].id] * 4
    )
    for i, e in enumerate(examples):
        assert e["judge"] == (None if i == 5 else 0.5) and e["reward"] == pytest.approx(
            e["format"] if i >= 4 else 0.5 * e["format"] + 0.25
        )


def test_a_checkpoint_of_the_tiny_model_keeps_its_defaults(policy, tmp_path):
    policy.save(tmp_path / "checkpoint")
    assert (
        parse(["--model", str(tmp_path / "checkpoint")]).lr
        == parse([]).lr
        != parse(["--model", "some/7b"]).lr
    )


def test_the_command_reports_errors_without_a_traceback(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(REPO / "train.py"),
            "--data",
            "gone.jsonl",
            "--out",
            str(tmp_path / "run"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (
        done.returncode == 1
        and done.stderr.strip().splitlines()[-1].startswith("error: gone.jsonl: no such data file")
        and "Traceback" not in done.stderr
    )


def test_the_docs_name_tests_that_exist():
    """The table of the released trainer's faults points at tests; each of them is there."""
    named = set(re.findall(r"`(test_\w+)`", (REPO / "docs" / "method.md").read_text()))
    defined = {
        name
        for file in (REPO / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) >= 18 and named <= defined, named - defined


def test_a_run_uses_the_cores_it_may_use_or_as_many_threads_as_asked(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        start_processes()
        assert torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5})
        start_processes()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_full_gpu_ends_the_program_with_a_sentence():
    def main(argv):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..")

    with pytest.raises(
        SystemExit,
        match=r"error: out of GPU memory: CUDA out of memory; lower --max_tokens, --max_cache_tokens, --max_frames",
    ):
        ends_in_a_sentence(main, [])
