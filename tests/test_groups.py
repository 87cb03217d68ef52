"""groups.py: fresh and replayed groups, packed rows, batches and the counts of a step."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import groups as groups_module
from data import Prompt, question_text
from formats.sample import Sample
from groups import (
    Group,
    collate,
    filler,
    fresh_groups,
    global_counts,
    micro_batches,
    packed_rows,
    replayed_groups,
)
from model import Features
from replay import Entry, ReplayBuffer
from rewards import score_prompts
from rollout import Completion
from run.stream import PromptStream
from tas import group_advantages
from tests.runs import sampled, small_config

CPU = torch.device("cpu")


@pytest.fixture
def cfg(tmp_path):
    return small_config(tmp_path)


def prompt_of(prompt_id: str, n_tokens: int = 3, hinted: bool = False) -> Prompt:
    """A prompt without media."""
    sample = Sample(prompt_id, "how many?", "numeric", "3", hint="count")
    positions = torch.arange(n_tokens).expand(3, -1)
    return Prompt(sample, hinted, torch.arange(n_tokens), positions)


def entry(tokens, reward=0.0, step=0, hinted=False) -> Entry:
    logps = -np.arange(1, len(tokens) + 1, dtype=np.float32)
    return Entry(np.array(tokens, np.int32), logps, reward, reward, step, hinted)


def group_of(prompt_id, entries, replayed=False, advantages=None, n_tokens=3) -> Group:
    prompts = {e.hinted: prompt_of(prompt_id, n_tokens + e.hinted, e.hinted) for e in entries}
    group = Group(prompt_id, prompts, entries, replayed)
    group.advantages = torch.tensor(advantages or [0.0] * len(entries))
    return group


@pytest.fixture
def three_groups() -> list[Group]:
    """Fresh completions of a and b, and replayed ones of a, of which one was hinted."""
    return [
        group_of("a", [entry([1, 2, 9], 1.0, step=5), entry([3, 9], 0.0, step=5)], False, [1, 2]),
        group_of("b", [entry([4, 9], 0.5, step=5)], False, [3.0]),
        group_of(
            "a",
            [entry([5, 9], 1.0, step=2), entry([6, 7, 8, 9], 0.0, step=1, hinted=True)],
            True,
            [4, 5],
        ),
    ]


# ------------------------------------------------------------------ fresh groups
def test_groups_store_their_own_rewards(cfg, policy, builder, samples):
    """Entries, VCRS and groups of every prompt hold that prompt's completions, in order, EOS
    included."""
    buffer = ReplayBuffer(seed=0)
    prompts = builder.build_or_raise(samples[:4])
    groups = sampled(cfg, policy, prompts, buffer, step=7, seed=3)
    assert [group.prompt_id for group in groups] == [s.id for s in samples[:4]]
    for sample, prompt, group in zip(samples, prompts, groups, strict=False):
        assert group.prompts == {False: prompt}
        assert not group.replayed
        assert {e.step for e in group.entries} == {7}
        assert not any(e.hinted for e in group.entries)

        # as sampled, token by token
        assert [e.tokens.tolist() for e in group.entries] == [c.tokens for c in group.sampled]
        for e, completion in zip(group.entries, group.sampled, strict=True):
            assert e.logps.tolist() == pytest.approx(completion.logps)
            ends = e.tokens[-1] == policy.tokenizer.eos_token_id
            assert ends == completion.finished

        # scored by that prompt's own answer
        (scores,) = score_prompts([prompt], [group.sampled], cfg.stage)
        assert [e.scores for e in group.entries] == scores
        assert [e.reward for e in group.entries] == [s["reward"] for s in scores]
        assert [e.accuracy for e in group.entries] == [s["accuracy"] for s in scores]

        # the buffer has the very same
        stored = buffer.prompts[sample.id].entries
        assert all(a is b for a, b in zip(stored, group.entries, strict=True))
        rewards = [e.reward for e in stored]
        assert group.rewards.tolist() == pytest.approx(rewards)
        assert torch.equal(group.advantages, group_advantages(torch.tensor(rewards)))
        assert buffer.vcrs(sample.id) == pytest.approx(np.mean(rewards))
    assert any(completion.finished for group in groups for completion in group.sampled)


def test_entries_hold_their_completions_in_32_bits():
    completion = Completion([5, 6, 0], [-0.5, -0.25, -1.0], "text", True)
    scores = {"reward": 0.4, "accuracy": 1.0, "format": 1.0}
    (group,) = fresh_groups([prompt_of("a", hinted=True)], [[completion]], [[scores]], step=3)
    (e,) = group.entries
    assert (e.tokens.dtype, e.logps.dtype) == (np.int32, np.float32)
    assert (e.tokens.tolist(), e.logps.tolist()) == ([5, 6, 0], [-0.5, -0.25, -1.0])
    assert (e.reward, e.accuracy, e.step, e.hinted) == (0.4, 1.0, 3, True)
    assert e.scores == scores
    assert list(group.prompts) == [True]


@pytest.mark.parametrize(
    ("rewards", "diverse"),
    [([0.2, 0.2, 0.2], False), ([0.1 + 0.2, 0.3], False), ([0.0], False), ([0.2, 0.2, 0.4], True)],
)
def test_a_group_of_equal_rewards_has_no_group_advantage(rewards, diverse):
    group = group_of("a", [entry([1], reward) for reward in rewards])
    assert group.has_diverse_rewards == diverse
    assert bool(group_advantages(group.rewards).any()) == diverse


# ------------------------------------------------------------------ replayed groups
def test_replayed_groups_build_the_prompts_that_their_entries_need():
    asked = []

    def build_prompt(prompt_id, hinted):
        asked.append((prompt_id, hinted))
        return prompt_of(prompt_id, hinted=hinted)

    plain = [entry([1]), entry([2])]
    mixed = [entry([3], hinted=True), entry([4]), entry([5], hinted=True)]
    first, second = replayed_groups([("a", plain), ("b", mixed)], build_prompt)
    assert asked == [("a", False), ("b", False), ("b", True)]
    assert (first.prompt_id, second.prompt_id) == ("a", "b")
    assert first.replayed and second.replayed
    assert first.entries == plain
    assert second.entries == mixed
    assert list(first.prompts) == [False]
    assert {hinted: p.hinted for hinted, p in second.prompts.items()} == {False: False, True: True}


def test_a_group_whose_media_are_gone_is_left_out(samples, builder):
    """Also where only one of its two prompts cannot be built; the record is dropped."""
    stream = PromptStream(samples[:3], builder, 0)
    gone = samples[0].id
    stream.samples[gone] = Sample(gone, "?", "numeric", "1", videos=["gone.mp4"])
    drawn = [(gone, [entry([1])]), (samples[1].id, [entry([2])])]
    (group,) = replayed_groups(drawn, stream.prompt)
    assert group.prompt_id == samples[1].id
    assert list(stream.dropped) == [gone]

    def only_plain(prompt_id, hinted):
        return None if hinted else prompt_of(prompt_id)

    assert replayed_groups([("a", [entry([1]), entry([2], hinted=True)])], only_plain) == []


def test_a_hinted_completion_is_replayed_under_its_hinted_prompt(cfg, policy, builder, samples):
    """A prompt that is stuck is asked with its hint; later its completions of both kinds make one
    group, each under the prompt that it was written for."""
    stuck = samples[0]
    buffer = ReplayBuffer(seed=0, patience=1)
    stream = PromptStream([stuck], builder, 0)
    alone = Entry(np.array([1], np.int32), np.array([-1.0], np.float32), 0.2, 0.0, 0)
    buffer.add(stuck.id, [alone])
    assert buffer.wants_hint(stuck.id)

    prompts = stream.take(1, hinted=buffer.wants_hint)
    (group,) = sampled(cfg, policy, prompts, buffer, step=1)
    assert prompts[0].hinted
    assert list(group.prompts) == [True]
    assert stuck.hint in question_text(stuck, prompts[0].hinted)
    assert stuck.hint in policy.tokenizer.decode(prompts[0].ids)
    assert all(e.hinted for e in buffer.prompts[stuck.id].entries[1:])
    assert buffer.vcrs(stuck.id) == pytest.approx(0.2)  # hinted rewards did not enter

    kinds = set()
    for _ in range(20):
        drawn = buffer.draw_groups(1, 2, before=10)
        (group,) = replayed_groups(drawn, stream.prompt)
        kinds |= set(group.prompts)
        group.advantages = torch.tensor([1.0, -1.0])
        for row in packed_rows([group]):
            for e in row.entries:
                assert e.hinted == row.prompt.hinted
                assert e.hinted == (e.tokens.tolist() != [1])
            text = policy.tokenizer.decode(row.prompt.ids)
            assert (stuck.hint in text) == row.prompt.hinted
    assert kinds == {False, True}


# ------------------------------------------------------------------ rows and batches
def test_completions_of_one_prompt_share_a_row_and_a_hint_makes_another(three_groups):
    rows = packed_rows(three_groups)
    prompts = [(row.prompt.sample.id, row.prompt.hinted) for row in rows]
    assert prompts == [("a", False), ("b", False), ("a", True)]
    tokens = [[e.tokens.tolist() for e in row.entries] for row in rows]
    assert tokens == [[[1, 2, 9], [3, 9], [5, 9]], [[4, 9]], [[6, 7, 8, 9]]]
    assert [row.advantages for row in rows] == [[1, 2, 4], [3], [5]]
    assert [row.replayed for row in rows] == [[False, False, True], [False], [True]]
    assert [row.tokens for row in rows] == [3 + 7, 3 + 2, 4 + 4]
    assert packed_rows([]) == []


def test_a_batch_is_the_rows_as_tensors(three_groups):
    batch = collate(packed_rows(three_groups), CPU)
    assert [p.sample.id for p in batch.prompts] == ["a", "b", "a"]
    assert [p.hinted for p in batch.prompts] == [False, False, True]
    assert batch.completions == [[[1, 2, 9], [3, 9], [5, 9]], [[4, 9]], [[6, 7, 8, 9]]]
    assert batch.behaviour_logps.tolist() == [
        [-1, -2, -3, 0],
        [-1, -2, 0, 0],
        [-1, -2, 0, 0],
        [-1, -2, 0, 0],
        [-1, -2, -3, -4],
    ]
    assert batch.advantages.tolist() == [1, 2, 4, 3, 5]
    assert batch.is_replayed.tolist() == [False, False, True, False, True]
    assert batch.written.tolist() == [5, 5, 2, 5, 1]
    assert batch.is_counted.tolist() == [True] * 5
    assert batch.prompt_ids == ["a", "a", "a", "b", "a"]


def test_some_completions_of_a_batch_are_selected_without_empty_rows(three_groups):
    batch = collate(packed_rows(three_groups), CPU)
    prompts, completions = batch.select((~batch.is_replayed).tolist())
    assert prompts == batch.prompts[:2]
    assert completions == [[[1, 2, 9], [3, 9]], [[4, 9]]]

    prompts, completions = batch.select([False, False, True, False, True])
    assert [(p.sample.id, p.hinted) for p in prompts] == [("a", False), ("a", True)]
    assert completions == [[[5, 9]], [[6, 7, 8, 9]]]
    assert batch.select([True] * 5) == (batch.prompts, batch.completions)
    assert batch.select([False] * 5) == ([], [])


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (1000, [["a", "b", "a"]]),
        (15, [["a", "b"], ["a"]]),  # rows of 10, 5 and 8 tokens
        (14, [["a"], ["b", "a"]]),
        (1, [["a"], ["b"], ["a"]]),
    ],
)
def test_rows_stay_whole_in_micro_batches(three_groups, max_tokens, expected):
    learner = SimpleNamespace(device=CPU, is_sharded=False)
    batches = micro_batches(three_groups, max_tokens, learner)
    assert [[p.sample.id for p in batch.prompts] for batch in batches] == expected
    assert micro_batches([], max_tokens, learner) == []


def test_a_sharded_learner_gets_as_many_batches_as_the_process_that_has_most(
    three_groups, monkeypatch
):
    monkeypatch.setattr(groups_module, "gather", lambda n: [n, 3])
    learner = SimpleNamespace(device=CPU, is_sharded=True)
    batches = micro_batches(three_groups[1:2], 1000, learner)
    assert [batch.prompt_ids for batch in batches] == [["b"], [""], [""]]
    assert [batch.is_counted.tolist() for batch in batches] == [[True], [False], [False]]
    assert len(micro_batches([], 1000, learner)) == 3  # nothing of its own

    learner.is_sharded = False  # no message between processes, no filler
    assert len(micro_batches(three_groups[1:2], 1000, learner)) == 1


def test_a_filler_passes_through_the_model(policy):
    batch = filler(policy.device)
    features = Features(policy).of(batch.prompts)
    with torch.no_grad():
        logp, mask = policy.completion_logps(batch.prompts, features, batch.completions)
    assert logp.shape == batch.behaviour_logps.shape == mask.shape
    assert torch.isfinite(logp).all()
    assert not (mask & batch.is_counted[:, None]).any()
    assert not batch.is_replayed.any()  # so that the reference computes it, too


# ------------------------------------------------------------------ counts
def test_counts_are_of_completions_and_tokens_over_all_processes(three_groups, monkeypatch):
    expected = torch.tensor([[3, 7], [2, 6]])  # fresh, replayed x completions, tokens
    assert torch.equal(global_counts(three_groups), expected)
    assert torch.equal(global_counts([]), torch.zeros(2, 2, dtype=torch.long))

    monkeypatch.setattr(groups_module, "gather", lambda counts: [counts, [[10, 100], [0, 0]]])
    assert torch.equal(global_counts(three_groups), torch.tensor([[13, 107], [2, 6]]))


def test_a_masked_copy_of_a_prompt_has_a_row_of_its_own(builder, samples):
    """Same id, same hint, other pixels: its completions are trained under what they were shown."""
    prompt = builder(samples[0])
    masked = replace(prompt, patches=torch.zeros_like(prompt.patches))
    entry = Entry(np.array([5, 6], np.int32), np.zeros(2, np.float32), 1.0, 1.0, 0)
    groups = []
    for seen in (prompt, masked, builder(samples[0])):
        group = Group(samples[0].id, {False: seen}, [entry], replayed=False)
        group.advantages = torch.ones(1)
        groups.append(group)
    rows = packed_rows(groups)
    assert [len(row.entries) for row in rows] == [2, 1]
    assert rows[1].prompt is masked
