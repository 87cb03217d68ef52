"""train.py: whole runs at toy size, what they leave behind, and step 6 against its definition."""

import json
import os
import re
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

import teacher
import train
from config import parse
from engine.optim import Optimizer, learning_rate
from formats.load import load_samples
from formats.sample import DataError
from groups import Group, micro_batches, replayed_groups
from model import Features, load_policy
from replay import Entry, ReplayBuffer
from rewards import accuracy_reward, split_completion
from rollout import Sampling, generate
from run.logs import without_clocks
from run.rollouts import read_steps
from run.stream import owner
from tests.runs import REPO, Recorder, rows_of, sampled, small, small_config

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
    "time_tail_max",
    "speed_generated",
    "speed_trained",
    "speed_mfu",
    "update_flops",
    "trained_tokens",
    "memory_gb",
    "entropy",
    "sampler_difference_max",
    "sampler_correlation",
}


def run(*args, **kwargs):
    train.run_stage(parse(small(*args, **kwargs)))


# ------------------------------------------------------------------ whole runs
@pytest.fixture(scope="module")
def avatar_run(tmp_path_factory, shared_folder):
    """A run of 4 steps with replay from the second on; (its folder, its steps, its evaluations)."""
    out = tmp_path_factory.mktemp("avatar")
    before = os.getcwd()
    os.chdir(shared_folder)
    try:
        run(out, "--replay_min=8", "--eval_every=2", "--steps=4")
    finally:
        os.chdir(before)
    return out, *rows_of(out)


def test_avatar_run_writes_a_line_per_step_and_evaluation(avatar_run):
    _, steps, evaluations = avatar_run
    assert [row["step"] for row in steps] == [0, 1, 2, 3]
    assert [row["step"] for row in evaluations] == [0, 2, 4]
    assert all(set(row) >= METRICS for row in steps)
    assert [row["generated"] for row in steps] == [8, 16, 24, 32]  # fresh completions alone
    assert [row["buffer_size"] for row in steps] == [8, 16, 24, 32]
    for row in steps:
        tiers = row["tier_easy"] + row["tier_medium"] + row["tier_hard"]
        assert row["buffer_size"] == tiers


def test_avatar_run_reports_its_replay(avatar_run):
    _, steps, _ = avatar_run
    assert steps[0]["ratio_mean"] == pytest.approx(1, abs=1e-4)
    last = steps[-1]
    assert last["replayed"] == 8
    assert last["replay_age"] > 0
    assert 0 < last["effective_sample_fraction"] <= 1
    assert last["log_ratio_squared"] >= 0
    assert last["kl_behaviour"] >= 0
    assert last["replayed_age_1_4"] == 8
    assert last["replayed_age_5_16"] == 0
    assert 0 <= last["clip_fraction_age_1_4"] <= 1
    assert last["clip_fraction_age_5_16"] is None
    assert last["hinted_prompts"] == []
    assert last["hints"] == 0


def test_avatar_run_leaves_its_files(avatar_run):
    out, _, _ = avatar_run
    lines = (out / "completions.jsonl").read_text().splitlines()
    examples = [json.loads(line) for line in lines]
    names = {"prompt", "completion", "gold", "reward", "format", "accuracy", "advantage"}
    assert names <= set(examples[0])
    assert any(example["advantage"] is not None for example in examples)
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    config = json.loads((out / "config.json").read_text())
    assert config["fresh"] == 4
    assert "replay_min" in config["given"]
    assert "fresh" not in config["given"]


def test_avatar_run_leaves_a_checkpoint(avatar_run):
    out, _, _ = avatar_run
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(out / "checkpoint")
    trainer = out / "checkpoint" / "trainer"
    shared = torch.load(trainer / "shared.pt", weights_only=True)
    assert shared["step"] == 4
    assert shared["generated"] == 32
    buffer = ReplayBuffer()
    buffer.load_state_dict(torch.load(trainer / "rank0.pt", weights_only=True)["buffer"])
    assert len(buffer) == 32
    for history in buffer.prompts.values():
        for entry in history.entries:
            assert set(entry.scores) >= {"format", "accuracy", "self", "judge"}


def test_same_seed_gives_the_same_run(avatar_run, tmp_path, in_shared_folder):
    run(tmp_path, "--replay_min=8", "--eval_every=2", "--steps=4")

    out, _, _ = avatar_run
    for first, second in zip(rows_of(out), rows_of(tmp_path), strict=True):
        assert [without_clocks(row) for row in first] == [without_clocks(row) for row in second]
    for file in (out, tmp_path):
        assert len(list(read_steps(file / "rollouts.jsonl.gz"))) == 4
    assert (out / "rollouts.jsonl.gz").read_bytes() == (tmp_path / "rollouts.jsonl.gz").read_bytes()


def test_a_run_goes_again_from_its_config_file(avatar_run, tmp_path, in_shared_folder):
    out, steps, _ = avatar_run
    cfg = parse([f"--config={out / 'config.json'}", f"--out={tmp_path}", "--steps=1"])
    assert (cfg.replay_min, cfg.fresh, cfg.steps) == (8, 4, 1)
    train.run_stage(cfg)
    assert rows_of(tmp_path)[0][0]["reward"] == steps[0]["reward"]


def test_our_preset_samples_two_completions_and_replays_as_many_groups(tmp_path, in_shared_folder):
    """And draws replay anew for each of its 2 updates."""
    run(tmp_path, "--method=avatar_fast", "--replay_min=4", "--eval_every=0", "--steps=4")
    steps, _ = rows_of(tmp_path)
    assert [row["generated"] for row in steps] == [4, 8, 12, 16]
    # two prompts seen before, 2 completions each, in each update
    assert [row["replayed"] for row in steps] == [0, 8, 8, 8]
    assert [row["groups"] for row in steps] == [4, 8, 8, 8]
    assert [row["updates_per_prompt"] for row in steps] == [2, 4, 4, 4]
    assert all(row["kl"] is None for row in steps)
    assert all(0 < abs(row["hint_term"]) < 0.3 for row in steps)
    assert all(row["hint_taught_groups"] == 2 for row in steps)


def test_two_updates_of_one_rollout_equal_ppo_written_out(
    tmp_path, fresh_policy, in_shared_folder, monkeypatch
):
    """A run of one rollout and two updates against two steps of torch's AdamW on PPO's loss, the
    second with the log-probs of the first's policy: the weights are equal."""
    groups = []
    honest = train.accumulate_gradients

    def recorded(cfg, learner, reference, given, *args):
        groups[:] = spread_advantages(given) or given
        return honest(cfg, learner, reference, given, *args)

    monkeypatch.setattr(train, "accumulate_gradients", recorded)
    more = ["--method=grpo", "--updates=2", "--steps=1", "--beta=0", "--lr=1e-2", "--eval_every=0"]
    run(tmp_path, *more)
    steps, _ = rows_of(tmp_path)
    assert len(steps) == 1
    assert steps[0]["lr"] == pytest.approx(learning_rate(1e-2, 1, 2))
    assert steps[0]["clip_fraction"] > 0  # of the second update: the first has ratios of 1

    fresh_policy.freeze_towers()
    start = flat_weights(fresh_policy)
    features = Features(fresh_policy)
    params = [p for p in fresh_policy.model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(params, weight_decay=0.0)
    for update in range(2):
        losses = []
        for group in groups:
            (prompt,) = group.prompts.values()
            for entry, advantage in zip(group.entries, group.advantages, strict=True):
                tokens = [[entry.tokens.tolist()]]
                logp, _ = fresh_policy.completion_logps([prompt], features.of([prompt]), tokens)
                ratio = torch.exp(logp[0] - torch.from_numpy(entry.logps))
                bounded = torch.clamp(ratio, 0.8, 1.2)
                losses.append(-torch.minimum(ratio * advantage, bounded * advantage).mean())
        adamw.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adamw.param_groups[0]["lr"] = learning_rate(1e-2, update, 2)
        adamw.step()

    trained = load_policy(tmp_path / "checkpoint", fresh_policy.device, torch.float32)
    ours, theirs = flat_weights(trained), flat_weights(fresh_policy)
    assert (ours - theirs).norm() < 1e-3 * (theirs - start).norm()


def flat_weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def test_grpo_is_the_same_loop_without_replay(tmp_path, in_shared_folder):
    run(tmp_path, "--method=grpo", "--steps=2")
    steps, _ = rows_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["fresh"], config["replayed"], config["tas_shape"]) == (8, 0, "uniform")
    assert [row["generated"] for row in steps] == [16, 32]
    assert all(row["replayed"] == 0 for row in steps)


@pytest.mark.parametrize(
    "flags",
    [
        ["--is_level=sequence", "--tas_shape=inverse"],
        ["--clip=cispo", "--clip_eps_high=0.28"],
        ["--loss_norm=token", "--beta=0"],
    ],
)
def test_options_of_the_loss_and_the_buffer_run(tmp_path, in_shared_folder, flags):
    run(tmp_path, "--replay_min=8", "--eval_every=0", *flags)
    steps, _ = rows_of(tmp_path)
    assert len(steps) == 3
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"]) for row in steps)
    assert steps[-1]["replayed"] > 0


def test_a_runs_advantages_are_against_the_group_or_the_prompts_history(
    tmp_path, in_shared_folder, monkeypatch
):
    """Step 5 in NumPy: fresh rewards against their own mean, replayed ones against the mean of the
    prompt's last rewards, those of this step included."""
    buffers = []
    kinds = []

    class Buffer(ReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            buffers.append(self)

    def check(cfg, learner, reference, groups, features, log, step, update):
        for group in groups:
            rewards = np.array([entry.reward for entry in group.entries])
            history = buffers[0].prompts[group.prompt_id].rewards
            baseline = np.mean(history) if group.replayed else rewards.mean()
            std = rewards.std(ddof=1)
            expected = (rewards - baseline) / (std + 1e-4) if std > 1e-6 else 0 * rewards
            np.testing.assert_allclose(group.advantages.numpy(), expected, atol=1e-5)
            assert all((entry.step < step) == group.replayed for entry in group.entries)
            kinds.append((group.replayed, group.replayed and abs(baseline - rewards.mean()) > 0.01))
        return accumulate_gradients(cfg, learner, reference, groups, features, log, step, update)

    accumulate_gradients = train.accumulate_gradients
    monkeypatch.setattr(train, "ReplayBuffer", Buffer)
    monkeypatch.setattr(train, "accumulate_gradients", check)
    run(tmp_path, "--replay_min=8", "--replayed=2", "--eval_every=0")
    assert kinds.count((False, False)) == 6
    assert (True, True) in kinds  # a history that is not the group's own mean


def test_a_runs_advantages_may_be_against_a_shrunk_baseline(
    tmp_path, in_shared_folder, monkeypatch
):
    """The same with --baseline shrunk: fresh rewards against the prompt's earlier rewards, the
    others of its group, and twice the mean of the step."""
    seen = {}
    kinds = []

    def check(cfg, learner, reference, groups, *args):
        fresh = [group for group in groups if not group.replayed]
        of_step = np.array([entry.reward for group in fresh for entry in group.entries])
        for group in fresh:
            rewards = np.array([entry.reward for entry in group.entries])
            history = seen.setdefault(group.prompt_id, [])
            for i, reward in enumerate(rewards):
                known = [*history, *np.delete(rewards, i)]
                baseline = (2 * of_step.mean() + sum(known)) / (2 + len(known))
                expected = (reward - baseline) / (of_step.std(ddof=1) + 1e-4)
                assert group.advantages[i].item() == pytest.approx(expected, abs=1e-5)
            kinds.append(len(history))
            history += rewards.tolist()
        return accumulate_gradients(cfg, learner, reference, groups, *args)

    accumulate_gradients = train.accumulate_gradients
    monkeypatch.setattr(train, "accumulate_gradients", check)
    more = ["--baseline=shrunk", "--data=toy:2,2", "--steps=4", "--hint_patience=0", "--hint_kl=0"]
    run(tmp_path, "--replay_min=8", "--eval_every=0", *more)
    assert kinds == [0, 0, 0, 0, 4, 4, 4, 4]  # four prompts, asked twice each


def test_a_group_without_a_verdict_stands_against_itself(tmp_path, in_shared_folder, monkeypatch):
    """In stage 3 such a group is scored by its format alone: its rewards are compared with no
    other's."""
    kinds = []

    def judge_fails_for_one_prompt(prompts, *args):
        scores = score_prompts(prompts, *args)
        for parts in scores[0]:
            parts.update(judge=None, reward=parts["format"])
        return scores

    def check(cfg, learner, reference, groups, *args):
        first, second = [group for group in groups if not group.replayed]
        assert first.history is None
        rewards = np.array([entry.reward for entry in first.entries])
        assert not first.advantages.any() or rewards.std() > 0
        others = second.rewards.numpy()
        for i, advantage in enumerate(second.advantages.tolist()):
            known = [*second.history, *np.delete(others, i)]
            baseline = (2 * others.mean() + sum(known)) / (2 + len(known))
            expected = (others[i] - baseline) / (others.std(ddof=1) + 1e-4)
            if others.std() > 0:
                assert advantage == pytest.approx(expected, abs=1e-5)
                kinds.append(i)
        return accumulate_gradients(cfg, learner, reference, groups, *args)

    score_prompts = train.score_prompts
    accumulate_gradients = train.accumulate_gradients
    monkeypatch.setattr(train, "score_prompts", judge_fails_for_one_prompt)
    monkeypatch.setattr(train, "accumulate_gradients", check)
    run(tmp_path, "--baseline=shrunk", "--eval_every=0", "--steps=6", stage=3)
    assert kinds


@pytest.mark.parametrize("stage", [1, 3])
def test_visual_and_localisation_stages_run(tmp_path, in_shared_folder, stage):
    run(tmp_path, "--steps=2", stage=stage)
    steps, evaluations = rows_of(tmp_path)
    assert len(steps) == 2
    assert (steps[0]["reward_judge"] is None) == (stage == 1)
    assert 0 <= evaluations[-1]["eval_accuracy"] <= 1


def test_dynamic_sampling_replaces_groups_of_equal_rewards_and_counts_them(
    tmp_path, in_shared_folder, monkeypatch
):
    """Every second prompt is dull: its completions all get the same reward."""
    rounds = []
    dull = {}

    def scores(prompts, completions, stage, judge):
        rounds.append([])
        out = []
        for prompt, group in zip(prompts, completions, strict=True):
            prompt_id = prompt.sample.id
            dull.setdefault(prompt_id, len(dull) % 2 == 0)
            rounds[-1].append(prompt_id)
            rewards = [0.2 if dull[prompt_id] else float(i == 0) for i in range(len(group))]
            parts = {"format": 1.0, "accuracy": 0.0, "self": 0.0, "judge": None}
            out.append([parts | {"reward": reward} for reward in rewards])
        return out

    monkeypatch.setattr(train, "score_prompts", scores)
    run(tmp_path, "--dynamic_sampling=3", "--steps=1", "--eval_every=0", "--replayed=0")
    (row,), _ = rows_of(tmp_path)

    # replayed by hand: each round asks for as many prompts as were dull among those of before
    kept, spent = 0, 0
    for ids in rounds:
        assert len(ids) == 2 - kept
        kept += sum(not dull[prompt_id] for prompt_id in ids)
        spent += 4 * len(ids)
    assert 1 < len(rounds) <= 4
    assert row["generated"] == row["buffer_size"] == spent
    rewards = [0.2 if dull[i] else 0.25 for ids in rounds for i in ids]  # 1 of 4 gets 1
    assert row["reward"] == pytest.approx(np.mean(rewards))  # over all that was sampled
    assert row["groups"] == 2
    assert row["zero_advantage_groups"] == 2 - kept


def test_the_command_on_two_processes_leaves_one_set_of_outputs(tmp_path, in_shared_folder):
    """torchrun on gloo: prompts are split by id, every process's buffer is saved, rank 0 alone
    writes the log."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(REPO / "train.py"), *small(tmp_path, "--replay_min=4", "--updates=2")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("held-out accuracy") == 1 + 2  # two evaluations and the last line
    steps, evaluations = rows_of(tmp_path)
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert [row["generated"] for row in steps] == [8, 16, 24]
    assert len(evaluations) == 2

    # every rank stored its own prompts, with the rewards of its own completions
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    file = next(in_shared_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    by_id = {sample.id: sample for sample in load_samples(file)}
    stored = 0
    for rank in (0, 1):
        path = tmp_path / "checkpoint" / "trainer" / f"rank{rank}.pt"
        buffer = ReplayBuffer()
        buffer.load_state_dict(torch.load(path, weights_only=True)["buffer"])
        for prompt_id, history in buffer.stored.items():
            assert owner(prompt_id, 2) == rank
            sample = by_id[prompt_id]
            for entry in history.entries:
                text = tokenizer.decode(entry.tokens, skip_special_tokens=True)
                answer = split_completion(text)[1]
                accuracy = accuracy_reward(
                    answer, sample.answer, sample.problem_type, sample.options
                )
                assert entry.accuracy == accuracy
                stored += 1
    assert stored == 24


# ------------------------------------------------------------------ data of users
def test_downloaded_formats_train_as_they_are(tmp_path, samples, in_shared_folder):
    """A step on records of Video-R1 (a JSON list) and of AVATAR (JSONL with messages), media and
    hints from where they say."""
    video_r1, avatar = [], []
    for i, sample in enumerate(samples[:6]):
        clip = Path(sample.videos[0]).name
        video_r1.append(
            {
                "problem_id": i,
                "problem": sample.question,
                "data_type": "video",
                "problem_type": "free-form",
                "options": [],
                "data_source": "toy",
                "solution": f"<answer>{sample.answer}</answer>",
                "path": f"./{clip}",
            }
        )
        avatar.append(
            {
                "messages": [{"role": "user", "content": f"<video>{sample.question}"}],
                "videos": [clip],
                "solution": sample.answer,
                "problem_type": "free_form",
                "hint": [sample.hint],
            }
        )
    (tmp_path / "r1.json").write_text(json.dumps(video_r1))
    (tmp_path / "avatar.jsonl").write_text("".join(json.dumps(r) + "\n" for r in avatar))
    media_root = Path(samples[0].videos[0]).parent

    for name in ("r1.json", "avatar.jsonl"):
        out = tmp_path / name.split(".")[0]
        data = [f"--data={tmp_path / name}", f"--media_root={media_root}", "--workers=0"]
        run(out, "--steps=2", *data)
        steps, _ = rows_of(out)
        assert [row["generated"] for row in steps] == [8, 16]
        assert steps[-1]["bad_media"] == 0
        lines = (out / "completions.jsonl").read_text().splitlines()
        examples = [json.loads(line) for line in lines]
        assert examples
        assert {e["gold"] for e in examples} <= {s.answer for s in samples[:6]}


def test_a_record_that_no_reply_can_be_rewarded_for_is_left_out_and_named(
    tmp_path, in_shared_folder, capsys
):
    run(tmp_path / "first", "--steps=1", "--eval_every=0")
    file = next(in_shared_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    record = {"id": "never", "question": "How?", "problem_type": "numeric", "answer": "many"}
    data = file.with_name("with_one.jsonl")
    data.write_text(json.dumps(record) + "\n" + file.read_text())

    out = tmp_path / "out"
    run(out, "--steps=1", "--eval_every=0", f"--data={data}")
    said = "dropped 1 record(s) whose gold answer no reply can match, the first: "
    assert f"{said}{data}:1: field 'answer' of record 'never'" in capsys.readouterr().out
    [named] = (out / "dropped.jsonl").read_text().splitlines()
    assert json.loads(named)["id"] == "never"


def test_prompts_that_are_too_long_are_left_out_and_counted(tmp_path, builder, in_shared_folder):
    """A limit in the middle of the toy's prompt lengths: the run goes on with the shorter ones; a
    limit below all of them ends it."""
    run(tmp_path / "first", "--steps=1", "--eval_every=0")
    file = next(in_shared_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    records = load_samples(file)
    prompts = builder.build_or_raise(records)
    lengths = {s.id: len(p.ids) for s, p in zip(records, prompts, strict=True)}
    limit = sorted(lengths.values())[6]

    out = tmp_path / "limit"
    flags = ["--replay_min=8", "--steps=6", "--eval_every=0"]
    run(out, *flags, f"--max_prompt_tokens={limit}")
    steps, _ = rows_of(out)
    named = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    too_long = {i for i, n in lengths.items() if n > limit}
    assert [row["generated"] for row in steps] == [8 * i for i in range(1, 7)]
    assert 0 < steps[-1]["too_long"] == len(named) <= len(too_long)
    for row in named:
        reason = f"{lengths[row['id']]} tokens, more than --max_prompt_tokens {limit}"
        assert row["id"] in too_long
        assert reason in row["reason"]
    state = torch.load(out / "checkpoint" / "trainer" / "rank0.pt", weights_only=True)
    stored = state["buffer"]["prompts"]
    assert stored
    assert not set(stored) & too_long

    message = (
        r"none of the 12 records of this process can be used; the last one: "
        r".*more than --max_prompt_tokens 50"
    )
    with pytest.raises(DataError, match=message):
        run(tmp_path / "none", *flags, "--max_prompt_tokens=50")


def test_missing_media_end_the_run_with_one_sentence(tmp_path):
    record = {"id": "a", "question": "q", "problem_type": "numeric", "answer": "1"}
    (tmp_path / "d.jsonl").write_text(json.dumps(record | {"video": "gone.mp4"}))
    message = (
        r"d.jsonl: of 1 of its media files that were looked for none exists, e.g. .*gone.mp4; pass"
    )
    with pytest.raises(DataError, match=message):
        run(tmp_path / "run", f"--data={tmp_path / 'd.jsonl'}", "--steps=1")


def test_the_oracle_judge_needs_the_scene(tmp_path):
    record = {"id": "a", "question": "q", "problem_type": "localisation", "answer": "left: dog"}
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(record | {"id": i}) for i in "ab"))
    with pytest.raises(DataError, match="the oracle judge reads it; pass --judge MODEL"):
        flags = ["--judge=oracle", f"--data={tmp_path / 'd.jsonl'}", "--steps=1"]
        run(tmp_path / "run", *flags, stage=3)


def test_the_command_reports_errors_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPO / "train.py"), "--data=gone.jsonl", f"--out={tmp_path / 'run'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: gone.jsonl: no such data file")
    assert "Traceback" not in done.stderr


def test_the_docs_name_tests_that_exist():
    """The table of the released trainer's faults points at tests; each of them is there."""
    named = set(re.findall(r"`(test_\w+)`", (REPO / "docs" / "method.md").read_text()))
    defined = set()
    for file in (REPO / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    assert len(named) >= 18
    assert named <= defined, named - defined


# ------------------------------------------------------------------ step 6
@pytest.fixture
def cfg(tmp_path):
    return small_config(tmp_path)


def update(cfg, policy, reference, groups, step=1, learner=None, features=None):
    """Step 6 up to the gradients; what was noted."""
    log = Recorder()
    features = features or Features(policy)
    log.kl_by_prompt = train.accumulate_gradients(
        cfg, learner or policy, reference, groups, features, log, step
    )
    return log


def spread_advantages(groups):
    """Advantages of both signs, whatever the rewards were; the groups count as having a signal."""
    for group in groups:
        group.advantages = torch.linspace(-1, 1, len(group.entries))
        for i, entry in enumerate(group.entries):
            entry.reward = float(i)


def gradients(policy):
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def test_ratio_is_one_on_fresh_and_not_on_replayed_completions(cfg, fresh_policy, builder, samples):
    """A completion sampled by the policy has ratio 1; after the policy has moved, the same stored
    completion has not."""
    buffer = ReplayBuffer(seed=0)
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:4]), buffer)
    spread_advantages(groups)
    log = update(cfg, fresh_policy, None, groups)
    assert np.abs(np.array(log["ratio_mean"]) - 1).max() < 1e-4
    assert not any(log["clip_fraction"])
    assert log["ratio_mean_replayed"] == []

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in fresh_policy.text.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    by_id = {s.id: s for s in samples}
    drawn = buffer.draw_groups(4, cfg.replayed, before=1)
    replayed = replayed_groups(drawn, lambda i, hinted: builder(by_id[i], hinted))
    spread_advantages(replayed)
    log = update(cfg, fresh_policy, None, replayed)
    assert len(log["ratio_mean_replayed"]) == len(log["ratio_mean"]) > 0
    assert np.abs(np.array(log["ratio_mean"]) - 1).mean() > 1e-2
    assert set(log.kl_by_prompt) == {group.prompt_id for group in replayed}


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_gradients_do_not_depend_on_micro_batches(cfg, fresh_policy, builder, samples, norm):
    cfg.loss_norm = norm
    fresh_policy.freeze_towers()
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:4]))
    spread_advantages(groups)
    results = []
    for size in (10**6, 1, 400):
        cfg.max_tokens = size
        fresh_policy.model.zero_grad()
        update(cfg, fresh_policy, None, groups)
        results.append(gradients(fresh_policy))
    for other in results[1:]:
        assert (other - results[0]).norm() <= 1e-5 * results[0].norm()


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_gradients_do_not_depend_on_the_number_of_processes(
    cfg, fresh_policy, builder, samples, norm, monkeypatch
):
    """Two processes that each hold some of the groups: their gradients add up to those of one
    process that holds all."""
    cfg.loss_norm = norm
    cfg.beta = 0.0
    fresh_policy.freeze_towers()
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:4]))
    spread_advantages(groups)
    groups[1].replayed = groups[3].replayed = True
    update(cfg, fresh_policy, None, groups)
    of_one = fresh_policy.head.weight.grad.clone()

    def counts(groups):
        """Fresh, replayed x completions, tokens, worked out apart from groups.global_counts."""
        table = np.zeros((2, 2), dtype=int)
        for group in groups:
            lengths = [len(entry.tokens) for entry in group.entries]
            table[int(group.replayed)] += [len(lengths), sum(lengths)]
        return table.tolist()

    fresh_policy.model.zero_grad()
    for own, others in ((groups[:1], groups[1:]), (groups[1:], groups[:1])):
        theirs = counts(others)
        monkeypatch.setattr("groups.gather", lambda value, theirs=theirs: [value, theirs])
        update(cfg, fresh_policy, None, own)
    of_two = fresh_policy.head.weight.grad
    assert of_one.norm() > 0
    assert (of_two - of_one).norm() <= 1e-5 * of_one.norm()


def test_loss_is_on_policy_mean_plus_alpha_off_policy_mean(cfg, fresh_policy, builder, samples):
    """J = J_on + alpha J_off, each the mean over its own completions, checked on the losses of
    groups taken one by one."""
    cfg.beta = 0.1
    cfg.alpha = 0.5
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:4]))
    spread_advantages(groups)
    groups[2].replayed = groups[3].replayed = True
    reference = fresh_policy.reference()
    of_all = update(cfg, fresh_policy, reference, groups).loss

    cfg.alpha = 1.0  # each alone: the mean over its 4 completions
    alone = [update(cfg, fresh_policy, reference, [group]).loss for group in groups]
    expected = (alone[0] + alone[1]) / 2 + 0.5 * (alone[2] + alone[3]) / 2
    assert of_all == pytest.approx(expected, abs=1e-6)  # terms of order 1 cancel


def test_the_hint_teaches_tokens_by_what_it_makes_likelier(cfg, fresh_policy, builder, samples):
    """The bonus is 0.3 (log pi(y_t | q, hint) - log pi(y_t | q)), each completion alone in its row,
    for prompts that have a hint and did not show it; whose rewards are equal get their gradient
    from it: with advantages 0 and ratios 1 that of -mean(bonus_t log pi_t)."""
    fresh_policy.freeze_towers()
    chosen = samples[:3]
    prompts = builder.build_or_raise(chosen, [False, True, False])
    prompts[2].sample = replace(prompts[2].sample, hint="")
    groups = sampled(cfg, fresh_policy, prompts)
    features = Features(fresh_policy)
    teacher.set_hint_terms(groups, 0.3, fresh_policy, builder, features, cfg.temperature)
    assert groups[1].hint_terms == groups[2].hint_terms == []

    plain, hinted = builder.build_or_raise([chosen[0]] * 2, [False, True])
    losses = []
    largest = 0.0
    for entry, bonus in zip(groups[0].entries, groups[0].hint_terms, strict=True):
        tokens = [[entry.tokens.tolist()]]
        logp, _ = fresh_policy.completion_logps([plain], features.of([plain]), tokens)
        with_hint, _ = fresh_policy.completion_logps([hinted], features.of([hinted]), tokens)
        gain = (with_hint - logp).detach()[0].numpy()
        np.testing.assert_allclose(bonus.numpy(), 0.3 * np.clip(gain, -1, 1), atol=1e-5)
        losses.append(-(bonus * logp[0]).mean())
        largest = max(largest, np.abs(gain).max())
    assert largest > 0.01
    torch.stack(losses).mean().backward()
    expected = gradients(fresh_policy)

    fresh_policy.model.zero_grad()
    cfg.beta = 0.0
    groups[0].advantages = torch.zeros(len(groups[0].entries))
    update(cfg, fresh_policy, None, groups[:1])
    assert expected.norm() > 0
    assert (gradients(fresh_policy) - expected).norm() <= 1e-4 * expected.norm()

    # what the log says: one group, the mean over its tokens
    columns = teacher.hint_columns(groups)
    assert columns["hint_taught_groups_sum"] == [1]
    n_tokens = sum(len(entry.tokens) for entry in groups[0].entries)
    assert columns["hint_term"].shape == (n_tokens,)
    assert teacher.hint_columns(groups[1:])["hint_term"] == []


def test_a_replayed_completion_in_a_taught_row_has_no_hint_term(
    cfg, fresh_policy, builder, samples
):
    """Fresh and replayed completions of a prompt share a row; the hint teaches the fresh ones. And
    a hint that makes the prompt too long teaches none."""
    prompts = builder.build_or_raise(samples[:1])
    (group,) = sampled(cfg, fresh_policy, prompts)
    features = Features(fresh_policy)
    teacher.set_hint_terms([group], 0.3, fresh_policy, builder, features, cfg.temperature)
    replayed = replace(group, replayed=True, hint_terms=[])
    (batch,) = micro_batches([group, replayed], 10**6, fresh_policy)
    assert len(batch.prompts) == 1
    fresh_rows = batch.hint_term[~batch.is_replayed]
    for row, term in zip(fresh_rows, group.hint_terms, strict=True):
        assert torch.equal(row[: len(term)], term)
        assert not row[len(term) :].any()
    assert not batch.hint_term[batch.is_replayed].any()

    group.hint_terms = []
    strict = copy(builder)
    strict.max_prompt_tokens = len(prompts[0].ids)
    teacher.set_hint_terms([group], 0.3, fresh_policy, strict, features, cfg.temperature)
    assert group.hint_terms == []


def test_the_hints_weight_falls_to_0_over_the_run(tmp_path, in_shared_folder):
    """0.5, 0.25 in the two steps of a run: no bonus is larger, and the log of completions has
    them."""
    flags = ["--hint_teacher=0.5", "--steps=2", "--eval_every=0", "--log_rollouts=1"]
    run(tmp_path, *flags)
    for step in read_steps(tmp_path / "rollouts.jsonl.gz"):
        bonuses = []
        for completion in step.completions:
            assert len(completion["hint_term"]) == len(completion["tokens"])
            if completion["replayed"]:
                assert not any(completion["hint_term"])
            bonuses += completion["hint_term"]
        assert 0 < max(map(abs, bonuses)) <= 0.5 * (1 - step.step / 2)


def test_fresh_and_replayed_completions_of_a_prompt_share_its_row(
    cfg, fresh_policy, builder, samples, monkeypatch
):
    """Replaying a stored completion costs its own tokens: its prompt is computed once, with the
    fresh ones. What is noted and the gradients stay the same."""
    cfg.beta = 0.1
    cfg.alpha = 0.5
    fresh_policy.freeze_towers()
    buffer = ReplayBuffer(seed=0)
    prompts = builder.build_or_raise(samples[:2])
    sampled(cfg, fresh_policy, prompts, buffer, step=0)
    groups = sampled(cfg, fresh_policy, prompts, buffer, step=1, seed=1)
    by_id = {s.id: s for s in samples}
    drawn = buffer.draw_groups(2, cfg.replayed, before=1)
    groups += replayed_groups(drawn, lambda i, hinted: builder(by_id[i], hinted))
    assert sorted(g.prompt_id for g in groups if g.replayed) == sorted(s.id for s in samples[:2])
    assert {entry.step for g in groups[2:] for entry in g.entries} == {0}

    hinted_entries = []  # another prompt: the hint is part of it
    for entry in groups[0].entries:
        hinted_entries.append(Entry(entry.tokens, entry.logps, 0.0, 0.0, 0, hinted=True))
    hinted_prompt = builder(samples[0], True)
    groups.append(Group(samples[0].id, {True: hinted_prompt}, hinted_entries, replayed=True))
    spread_advantages(groups)

    reference = fresh_policy.reference()
    passed = []
    hook = fresh_policy.text.layers[0].mlp.register_forward_hook(
        lambda module, args, out: passed.append(len(args[0]))
    )
    together = update(cfg, fresh_policy, reference, groups)
    hook.remove()
    prompt_tokens = sum(len(p.ids) for p in [*prompts, hinted_prompt])
    completion_tokens = sum(len(e.tokens) - 1 for g in groups for e in g.entries)
    assert passed == [prompt_tokens + completion_tokens]

    ours = [p.grad.clone() for p in fresh_policy.text.parameters()]
    fresh_policy.model.zero_grad()
    rows_apart = lambda groups: [row for g in groups for row in packed_rows([g])]  # noqa: E731
    from groups import packed_rows

    monkeypatch.setattr("groups.packed_rows", rows_apart)
    apart = update(cfg, fresh_policy, reference, groups)
    assert together.loss == pytest.approx(apart.loss, abs=1e-6)
    for name in ("ratio_mean", "kl_behaviour", "log_ratio_squared", "kl"):
        first, second = sorted(together[name]), sorted(apart[name])
        np.testing.assert_allclose(first, second, atol=1e-5, rtol=1e-3)
    for p, gradient in zip(fresh_policy.text.parameters(), ours, strict=True):
        assert (p.grad - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6


@pytest.mark.parametrize("trained", [False, True])
def test_media_pass_the_towers_once_per_step(cfg, fresh_policy, builder, samples, trained):
    """Rollout, policy, reference and replay share one pass. Trained towers run once more for their
    gradient, a clip at a time, as under checkpointing."""
    cfg.beta = 0.1
    if not trained:
        fresh_policy.freeze_towers()
    buffer = ReplayBuffer(seed=0)
    reference = fresh_policy.reference()
    sampled(cfg, fresh_policy, builder.build_or_raise(samples[:4]), buffer)

    calls = []
    fresh_policy.visual.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    features = Features(fresh_policy)
    prompts = builder.build_or_raise(samples[4:8])
    with torch.no_grad():
        features.of(prompts)
    groups = []
    for prompt in prompts:
        stored = buffer.prompts[samples[0].id].entries
        groups.append(Group(prompt.sample.id, {False: prompt}, list(stored), replayed=False))
    by_id = {s.id: s for s in samples}
    drawn = buffer.draw_groups(4, cfg.replayed, before=1)
    groups += replayed_groups(drawn, lambda i, hinted: builder(by_id[i], hinted))
    spread_advantages(groups)
    update(cfg, fresh_policy, reference, groups, features=features)

    clip = len(prompts[0].patches)
    assert len({g.prompts[False].sample.media_key for g in groups}) == 4
    if trained:  # 2 new clips, 2 replayed ones, then each of the 4 again for its gradient
        assert sum(calls) == 8 * clip
        assert calls[0] == 2 * clip
        assert calls[-4:] == [clip] * 4
        assert fresh_policy.visual.patch_embed.proj.weight.grad.norm() > 0
    else:
        assert calls == [2 * clip]  # the replayed clips are in the cache of earlier steps


def test_the_kl_term_acts_on_fresh_completions_only(cfg, fresh_policy, builder, samples):
    """The same group has the KL's loss when it is fresh and none when it is replayed; a replayed
    one of equal rewards is not run at all."""
    cfg.beta = 0.1
    (group,) = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:1]))
    reference = fresh_policy.reference()
    with torch.no_grad():
        for p in reference.text.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    spread_advantages([group])
    with_advantages = group.advantages
    losses = []
    for advantages, replayed in (
        (torch.zeros(4), False),
        (with_advantages, False),
        (with_advantages, True),
    ):
        group.advantages = advantages
        group.replayed = replayed
        losses.append(update(cfg, fresh_policy, reference, [group]).loss)
    assert losses[0] > 1e-3
    assert losses[1] - losses[2] == pytest.approx(losses[0], rel=1e-3)

    group.advantages = torch.zeros(4)
    assert update(cfg, fresh_policy, reference, [group])["ratio_mean"] == []


def test_groups_of_equal_rewards_are_left_out_exactly(cfg, fresh_policy, builder, samples):
    """Without a KL term a group of zero advantages has no gradient: leaving it out changes nothing
    but the time."""
    cfg.beta = 0.0
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:2]))
    spread_advantages(groups)
    groups[0].advantages = torch.zeros(4)
    log = update(cfg, fresh_policy, None, groups)
    assert len(log["ratio_mean"]) == sum(len(entry.tokens) for entry in groups[1].entries)
    left_out = fresh_policy.head.weight.grad.clone()

    fresh_policy.model.zero_grad()
    groups[0].advantages = torch.full((4,), 1e-30)  # now it runs, with next to no advantages
    update(cfg, fresh_policy, None, groups)
    torch.testing.assert_close(fresh_policy.head.weight.grad, left_out, atol=1e-7, rtol=1e-5)


def test_a_few_steps_on_one_prompt_raise_its_reward(cfg, fresh_policy, builder, samples):
    """The update points the right way: rewarding one of two sampled answers makes it likelier."""
    cfg.beta = 0.0
    fresh_policy.freeze_towers()
    prompt = builder(samples[0])
    features = Features(fresh_policy)
    sampling = Sampling(60, generator=torch.Generator().manual_seed(0))
    (completions,) = generate(fresh_policy, [prompt], features.of([prompt]), 8, sampling)
    good = completions[0]
    bad = next(c for c in completions if c.tokens != good.tokens)
    entries = []
    for completion, reward in ((good, 1.0), (bad, 0.0)):
        tokens = np.array(completion.tokens, np.int32)
        entries.append(Entry(tokens, np.array(completion.logps, np.float32), reward, reward, 0))
    group = Group(prompt.sample.id, {False: prompt}, entries, replayed=False)
    group.advantages = torch.tensor([1.0, -1.0])

    optimizer = Optimizer(*fresh_policy.named_trained(), lr=1e-4)
    for _ in range(3):
        update(cfg, fresh_policy, None, [group])
        optimizer.step(1e-4, max_grad_norm=1.0)
    with torch.no_grad():
        tokens = [[good.tokens, bad.tokens]]
        logp, _ = fresh_policy.completion_logps([prompt], features.of([prompt]), tokens)
    assert logp[0].sum() > sum(good.logps)
    assert logp[1].sum() < sum(bad.logps)


def test_the_kl_term_is_finite_on_replayed_tokens_that_the_policy_has_left(
    cfg, fresh_policy, builder, samples, monkeypatch
):
    """A log-prob of -100 on a replayed token, where exp(ref - logp) is no number in fp32."""
    cfg.beta = 0.1
    groups = sampled(cfg, fresh_policy, builder.build_or_raise(samples[:2]))
    spread_advantages(groups)
    groups[1].replayed = True
    reference = fresh_policy.reference()
    honest = fresh_policy.completion_logps

    def far_away(*args, **kwargs):
        logp, *others = honest(*args, **kwargs)
        is_replayed = torch.tensor([False] * 4 + [True] * 4)
        return torch.where(is_replayed[:, None], logp - 100, logp), *others

    monkeypatch.setattr(fresh_policy, "completion_logps", far_away)
    log = update(cfg, fresh_policy, reference, groups)
    assert np.isfinite(log.loss)
    assert torch.isfinite(gradients(fresh_policy)).all()
