"""replay.py: tiers, rooms, draws, histories, hints, saving. Expected values are worked by hand."""

import io
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from replay import Entry, ReplayBuffer


def entry(reward, step=0, hinted=False, accuracy=None, length=3):
    return Entry(
        np.arange(length, dtype=np.int32),
        np.full(length, -0.5, np.float32),
        reward,
        reward if accuracy is None else accuracy,
        step,
        hinted,
    )


def filled(rewards_by_prompt, **kwargs):
    buffer = ReplayBuffer(**kwargs)
    for prompt_id, rewards in rewards_by_prompt.items():
        buffer.add(prompt_id, [entry(r) for r in rewards])
    buffer.refresh()
    return buffer


def test_vcrs_is_the_mean_of_the_last_20_fresh_unhinted_rewards():
    buffer = ReplayBuffer()
    assert buffer.vcrs("q") is None
    buffer.add("q", [entry(0.0)] * 5)
    buffer.add("q", [entry(1.0, hinted=True)] * 4)  # does not enter
    assert buffer.vcrs("q") == 0.0
    for i in range(5):
        buffer.add("q", [entry(i / 4)] * 4)  # 20 rewards: 0, 0.25, 0.5, 0.75, 1 four times each
    assert buffer.vcrs("q") == pytest.approx(0.5)


def test_tiers_are_the_bottom_40_next_35_top_25_percent():
    buffer = filled({f"q{i:02d}": [i / 20] * 2 for i in range(20)})
    assert Counter(buffer.tier(f"q{i:02d}") for i in range(20)) == {
        "hard": 8,
        "medium": 7,
        "easy": 5,
    }
    assert [buffer.tier(f"q{i:02d}") for i in (0, 7, 8, 14, 15, 19)] == [
        "hard",
        "hard",
        "medium",
        "medium",
        "easy",
        "easy",
    ]


def test_unseen_and_tied_prompts_are_medium():
    buffer = filled({f"q{i}": [0.5] for i in range(10)})
    assert {buffer.tier(f"q{i}") for i in range(10)} == {"medium"} == {buffer.tier("never seen")}


def test_a_prompt_moves_tier_and_carries_its_completions():
    buffer = filled({f"q{i}": [i / 10] * 4 for i in range(10)})
    assert (
        buffer.tier("q0") == "hard" and buffer.stats()["tier_easy"] == 12
    )  # q7..q9 (places 0.75 and up)
    for _ in range(5):
        buffer.add("q0", [entry(1.0)] * 4)
    buffer.refresh()
    assert buffer.tier("q0") == "easy" and buffer.vcrs("q0") == 1.0
    assert buffer.stats()["tier_easy"] == 24 + 8  # its 24 completions came along; q8, q9 stayed


def test_thresholds_may_come_from_all_ranks():
    buffer = filled({"q": [0.5]})
    assert buffer.tier("q") == "medium"
    buffer.refresh([0.5, 0.1, 0.2, 0.3])
    assert buffer.tier("q") == "easy"


def test_each_tier_has_its_own_room_and_the_oldest_go_first():
    buffer = ReplayBuffer(capacity=20)  # room: hard 8, medium 7, easy 5
    for step in range(10):
        buffer.add("only", [entry(0.0, step), entry(1.0, step)])
        buffer.refresh()
    held = buffer.prompts["only"].entries
    assert len(buffer) == 7 and [e.step for e in held] == [6, 7, 7, 8, 8, 9, 9]


def test_the_last_success_and_the_last_failure_are_kept_while_others_can_go():
    buffer = ReplayBuffer(capacity=20)
    buffer.add("q", [entry(1.0, step=0)])
    for step in range(1, 12):
        buffer.add("q", [entry(0.0, step)])
        buffer.refresh()
    held = buffer.prompts["q"].entries
    assert len(held) == 7 and held[0].success and [e.step for e in held[1:]] == [6, 7, 8, 9, 10, 11]


def test_a_full_tier_of_single_outcomes_still_gives_way():
    buffer = ReplayBuffer(capacity=20)
    for i in range(12):
        buffer.add(f"q{i}", [entry(0.5)])
        buffer.refresh()
    assert len(buffer) == 7 and [p for p, h in buffer.prompts.items() if h.entries] == [
        f"q{i}" for i in range(5, 12)
    ]


def test_drawn_group_is_one_prompt_with_both_outcomes():
    buffer = filled({f"q{i}": [0.0] * 9 + [1.0] for i in range(5)})
    for _ in range(200):
        prompt_id, group = buffer.draw(4)
        held = buffer.prompts[prompt_id].entries
        assert (
            len(group) == 4
            and all(any(e is h for h in held) for e in group)
            and len({id(e) for e in group}) == 4
        )
        assert {e.success for e in group} == {True, False}


def test_draw_keeps_unlike_rewards_among_successes_only():
    buffer = filled({"q": [1.0] * 9 + [0.6]})
    assert all(len({e.reward for e in buffer.draw(4)[1]}) == 2 for _ in range(50))


def test_this_steps_completions_are_not_replayed_but_their_prompts_older_ones_are():
    """`before`: q has two old completions and two of step 1; new has only those of step 1; whether rewards are alike is asked of the old ones."""
    buffer = filled({"q": [0.0, 1.0]})
    buffer.add("q", [entry(0.5, step=1), entry(0.5, step=1)])
    buffer.add("new", [entry(0.0, step=1), entry(1.0, step=1)])
    for _ in range(20):
        prompt_id, group = buffer.draw(4, before=1)
        assert prompt_id == "q" and sorted(e.reward for e in group) == [0.0, 1.0]
    assert {buffer.draw(4, before=2)[0] for _ in range(50)} == {"q", "new"} and buffer.draw(
        4, before=0
    ) is None
    plain = filled({"q": [1.0, 1.0], "other": [0.0, 1.0]})
    plain.add("q", [entry(0.0, step=1)])  # unlike now, but not before this step
    assert {plain.draw(4, before=1)[0] for _ in range(50)} == {"other"}


def test_prompts_without_contrast_are_drawn_last():
    buffer = filled({"alike": [1.0] * 8, "diverse": [0.0, 1.0]})
    assert {buffer.draw(4)[0] for _ in range(50)} == {"diverse"}
    assert buffer.draw(4, exclude={"diverse"})[0] == "alike"
    assert buffer.draw(4, exclude={"diverse", "alike"}) is None
    assert ReplayBuffer().draw(4) is None


def test_tiers_are_drawn_at_40_35_25_percent():
    buffer = filled({f"q{i:02d}": [i / 20, i / 20 + 0.01] for i in range(20)})
    drawn = Counter(buffer.tier(buffer.draw(2)[0]) for _ in range(4000))
    for tier, share in (("hard", 0.40), ("medium", 0.35), ("easy", 0.25)):
        assert drawn[tier] / 4000 == pytest.approx(
            share, abs=4 * np.sqrt(share * (1 - share) / 4000)
        )  # four standard errors


def test_uniform_draws_look_at_no_tier():
    """20 prompts, 8 hard, 7 medium, 5 easy by rank; the two easy ones whose rewards are alike are no choice: 8, 7 and 3 of 18."""
    buffer = filled({f"q{i:02d}": [i / 20, i / 20 + (0.01 if i < 18 else 0.0)] for i in range(20)})
    drawn = Counter(buffer.draw(2, by_tier=False)[0] for _ in range(3600))
    assert set(drawn) == {f"q{i:02d}" for i in range(18)} and all(
        abs(n - 200) < 4 * np.sqrt(200) for n in drawn.values()
    )


def test_two_clips_with_the_same_question_do_not_share_statistics():
    buffer = filled({"clip1-q0": [1.0], "clip2-q0": [0.0]})
    assert buffer.vcrs("clip1-q0") == 1.0 and buffer.vcrs("clip2-q0") == 0.0


def test_hint_comes_after_three_failed_visits_and_goes_after_an_unhinted_success():
    buffer = ReplayBuffer(patience=3)
    for visit in range(3):
        assert not buffer.wants_hint("q")
        buffer.add(
            "q", [entry(0.2, visit, accuracy=0.0)] * 4
        )  # well formed but wrong: format reward does not reset the count
    assert buffer.wants_hint("q")
    buffer.add("q", [entry(1.0, 3, hinted=True)] * 4)  # a hinted success does not switch it off ...
    assert not buffer.wants_hint("q") and buffer.prompts["q"].hint_on
    buffer.add("q", [entry(0.2, 4, accuracy=0.0)] * 4)  # ... an unhinted failure keeps it on ...
    assert buffer.wants_hint("q")
    buffer.add("q", [entry(1.0, 5, hinted=True)] * 4)
    buffer.add(
        "q", [entry(0.2, 6, accuracy=0.0)] * 3 + [entry(1.0, 6)]
    )  # ... and one unhinted success ends it
    assert (
        not buffer.wants_hint("q")
        and not buffer.prompts["q"].hint_on
        and buffer.prompts["q"].failed_visits == 0
    )


def test_visits_are_counted_not_completions():
    buffer = ReplayBuffer(patience=3)
    buffer.add("q", [entry(0.0)] * 8)
    assert buffer.prompts["q"].failed_visits == 1 and not buffer.wants_hint("q")


def test_patience_zero_means_no_hints():
    buffer = ReplayBuffer(patience=0)
    for _ in range(10):
        buffer.add("q", [entry(0.0)] * 4)
    assert not buffer.wants_hint("q")


def test_saved_and_reloaded_buffer_goes_on_identically():
    buffer = filled({f"q{i}": [0.0, 1.0, i / 10, 0.3] for i in range(10)}, capacity=60, seed=5)
    for _ in range(7):
        buffer.draw(4)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    twin = ReplayBuffer(capacity=60, seed=99)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert twin.stats() == buffer.stats() and len(twin) == len(buffer)
    for _ in range(50):
        (a, group_a), (b, group_b) = buffer.draw(3), twin.draw(3)
        assert a == b and [e.order for e in group_a] == [e.order for e in group_b]
        assert all(
            np.array_equal(x.tokens, y.tokens) and np.array_equal(x.logps, y.logps)
            for x, y in zip(group_a, group_b, strict=True)
        )
    for each in (buffer, twin):
        each.add("q3", [entry(0.9)] * 4)
        each.refresh()
    assert [buffer.tier(f"q{i}") for i in range(10)] == [twin.tier(f"q{i}") for i in range(10)]


def test_hint_comes_when_a_hard_prompt_fails_and_the_policy_no_longer_moves_on_it():
    """The paper's rule: hard tier, failed again, small KL to the behaviour policy. Each of the three alone is not enough."""

    def buffer_with(rewards, kl, accuracy=0.0):
        buffer = filled({f"q{i}": [i / 10] for i in range(1, 10)}, patience=0, hint_kl=0.01)
        buffer.add("q", [entry(rewards, accuracy=0.0)])
        buffer.refresh()
        if kl is not None:
            buffer.note_kl("q", kl)
        buffer.add("q", [entry(rewards, accuracy=accuracy)])
        return buffer

    assert buffer_with(0.0, 0.001).wants_hint("q") and buffer_with(0.0, 0.001).hinted_prompts() == [
        "q"
    ]
    assert not buffer_with(0.0, 0.5).wants_hint("q")  # it still moves
    assert not buffer_with(0.0, None).wants_hint("q")  # never replayed: nothing is known
    assert not buffer_with(0.95, 0.001).wants_hint("q")  # not hard
    assert not buffer_with(0.0, 0.001, accuracy=1.0).wants_hint("q")  # solved


def test_expired_entries_go_and_statistics_stay():
    buffer = ReplayBuffer()
    for step in range(4):
        buffer.add("q", [entry(step / 4, step)])
    buffer.add("old", [entry(0.5, 0)])
    buffer.refresh()
    buffer.expire(before=2)
    assert (
        [e.step for e in buffer.prompts["q"].entries] == [2, 3]
        and len(buffer) == 2
        and buffer.vcrs("q") == pytest.approx(0.375)
    )
    assert all(buffer.draw(4)[0] == "q" for _ in range(20)) and buffer.vcrs("old") == 0.5


def test_eviction_equals_the_rule_applied_one_by_one():
    """A random history against the plainest form of the rule: while a tier is over its room, drop its oldest entry that is not the last
    of its kind in its prompt; when only such are left, its oldest."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity=40)
    for step in range(60):
        for prompt_id in rng.choice(8, 2, replace=False):
            buffer.add(
                f"q{prompt_id}",
                [entry(float(r), step) for r in rng.integers(0, 2, rng.integers(1, 5))],
            )
        before = {p: list(h.entries) for p, h in buffer.prompts.items()}
        buffer.refresh()
        for tier, room in (("hard", 16), ("medium", 14), ("easy", 10)):
            mine = {p: e for p, e in before.items() if buffer.tier(p) == tier}
            while sum(map(len, mine.values())) > room:
                everyone = sorted((e.order, p, e) for p, es in mine.items() for e in es)
                spare = [
                    x for x in everyone if sum(o.success == x[2].success for o in mine[x[1]]) > 1
                ]
                _, p, gone = (spare or everyone)[0]
                mine[p] = [e for e in mine[p] if e is not gone]
            for p, expected in mine.items():
                assert [e.order for e in buffer.prompts[p].entries] == [e.order for e in expected]


def test_ten_thousand_entries_fit_in_100_megabytes():
    tokens, logps = np.zeros(512, np.int32), np.zeros(512, np.float32)
    tracemalloc.start()
    buffer = ReplayBuffer()
    parts = {"format": 1.0, "accuracy": 0.0, "self": 0.5, "judge": None}
    for i in range(2_500):
        buffer.add(
            f"clip{i}-q0",
            [Entry(tokens.copy(), logps.copy(), 0.2, 0.0, i, parts=dict(parts)) for _ in range(4)],
        )
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(buffer) == 10_000 and used < 100e6


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="capacity 0"):
        ReplayBuffer(capacity=0)


def test_two_ranks_buffers_are_dealt_to_three_without_loss():
    """a, b on one rank and c on the other; a and c go to one new rank, b to another, nothing to the third: histories, hints and completions come along."""
    one, two = ReplayBuffer(patience=2), ReplayBuffer(patience=2)
    one.add("a", [entry(0.0, step=1, length=2), entry(0.25, step=1, length=4)])
    one.add("b", [entry(1.0, step=2)])
    one.add("a", [entry(0.5, step=3, length=1)])
    for step in (4, 5):
        two.add(
            "c", [entry(0.0, step=step, length=5)]
        )  # two visits without a success: its hint is on
    states = [one.state_dict(), two.state_dict()]
    dealt = [ReplayBuffer(patience=2) for _ in range(3)]
    for buffer, mine in zip(dealt, ({"a", "c"}, {"b"}, set()), strict=True):
        buffer.load_state_dict(ReplayBuffer.deal(states, mine.__contains__))
    assert [sorted(b.prompts) for b in dealt] == [["a", "c"], ["b"], []] and [
        len(b) for b in dealt
    ] == [5, 1, 0]
    assert [(e.reward, e.step, len(e.tokens)) for e in dealt[0].stored["a"].entries] == [
        (0.0, 1, 2),
        (0.25, 1, 4),
        (0.5, 3, 1),
    ]
    assert [
        (e.step, e.tokens.tolist(), e.logps.tolist()) for e in dealt[0].stored["c"].entries
    ] == [(s, [0, 1, 2, 3, 4], [-0.5] * 5) for s in (4, 5)]
    assert (
        dealt[0].vcrs("a") == pytest.approx(0.25)
        and dealt[0].hinted_prompts() == ["c"]
        and dealt[1].vcrs("b") == 1.0
    )
    assert dealt[0].inserted == max(one.inserted, two.inserted) == 4
