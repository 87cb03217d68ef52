"""replay.py: tiers, eviction, draws, hints, saving. Expected values are worked by hand."""

import io
import tracemalloc
from collections import Counter, deque
from dataclasses import fields

import numpy as np
import pytest
import torch

import replay
from replay import (
    TIER_FRACTIONS,
    Entry,
    PromptHistory,
    ReplayBuffer,
    digest_of,
    prompt_columns,
    prompts_of_columns,
)


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


def draw(buffer, completions=4, **kwargs):
    """One drawn group."""
    [group] = buffer.draw_groups(1, completions, **kwargs)
    return group


def drawn_ids(buffer, times, **kwargs):
    return {draw(buffer, **kwargs).prompt_id for _ in range(times)}


# ------------------------------------------------------------------ VCRS and tiers
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
    tiers = [buffer.tier(f"q{i:02d}") for i in range(20)]
    assert tiers == ["hard"] * 8 + ["medium"] * 7 + ["easy"] * 5


def test_a_prompt_that_is_alone_or_unseen_is_medium():
    buffer = filled({"q": [0.5]})
    assert buffer.tier("q") == "medium"
    assert buffer.tier("never seen") == "medium"


def test_tied_prompts_are_ordered_by_no_place_in_the_data_and_stay_where_they_are():
    """1,000 prompts that differ in nothing but their id: each tier gets its share, of every hundred
    too, and visits that change no Rbar move nobody."""
    buffer = filled({f"q{i}": [0.5] for i in range(1000)})
    tiers = [buffer.tier(f"q{i}") for i in range(1000)]
    assert Counter(tiers) == {"hard": 400, "medium": 350, "easy": 250}
    for first in range(0, 1000, 100):
        hard = tiers[first : first + 100].count("hard")
        assert abs(hard - 40) < 4 * np.sqrt(100 * 0.4 * 0.6)

    for i in range(0, 1000, 7):
        buffer.add(f"q{i}", [entry(0.5, step=1)] * 3)
    buffer.refresh()
    assert [buffer.tier(f"q{i}") for i in range(1000)] == tiers


def test_tiers_hold_their_shares_and_the_buffer_fills_though_most_prompts_tie():
    """1,000 prompts, 800 of which always earn the same; 300 steps of 16 visits in random order.
    After each step every tier holds its share of the prompts to within one, the tiers are those of
    all prompts sorted anew, and no prompt has moved that lies more than the step's visits away from
    a border. Once it has filled, the buffer is full or nearly so."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity=4000)
    before = {}
    fills = []
    for step in range(300):
        visited = [f"q{i}" for i in rng.choice(1000, 16, replace=False)]
        for prompt_id in visited:
            ties = int(prompt_id[1:]) < 800
            rewards = [0.6] * 4 if ties else rng.random(4).tolist()
            buffer.add(prompt_id, [entry(reward, step) for reward in rewards])
        buffer.refresh()

        ordered = sorted(buffer.prompts, key=lambda i: (round(buffer.vcrs(i), 6), digest_of(i)))
        n = len(ordered)
        counts = Counter(buffer.tier(i) for i in ordered)
        for tier, fraction in TIER_FRACTIONS.items():
            assert abs(counts[tier] - fraction * n) <= 1
        rank = {"hard": 0, "medium": 1, "easy": 2}
        ranks = [rank[buffer.tier(i)] for i in ordered]
        assert ranks == sorted(ranks)

        # who has moved, and was not visited, stands next to a border
        borders = [counts["hard"], counts["hard"] + counts["medium"]]
        for index, prompt_id in enumerate(ordered):
            if prompt_id in visited or before.get(prompt_id) in (None, buffer.tier(prompt_id)):
                continue
            assert min(abs(index - border) for border in borders) <= 17
        before = {i: buffer.tier(i) for i in ordered}
        fills.append(len(buffer))
    assert min(fills[-150:]) >= 4000 - 16  # a prompt that has just moved leaves a gap
    assert np.mean(fills[-150:]) > 3999


def test_a_prompt_moves_tier_and_carries_its_completions():
    buffer = filled({f"q{i}": [i / 10] * 4 for i in range(10)})
    assert buffer.tier("q0") == "hard"
    assert buffer.stats()["tier_easy"] == 12  # q7..q9 (quantiles 0.75 and up)
    for _ in range(5):
        buffer.add("q0", [entry(1.0)] * 4)
    buffer.refresh()
    assert buffer.tier("q0") == "easy"
    assert buffer.vcrs("q0") == 1.0
    assert buffer.stats()["tier_easy"] == 24 + 8  # its 24 completions came along; q8, q9 stayed


def test_tiers_are_those_of_the_prompts_of_all_ranks():
    """Ten prompts on each of two ranks: what both are told is the same, and each has the tiers that
    one buffer of all prompts has."""
    whole = ReplayBuffer()
    ranks = [ReplayBuffer(), ReplayBuffer()]
    rng = np.random.default_rng(0)
    for step in range(30):
        for i in rng.choice(20, 4, replace=False):
            group = [entry(float(rng.integers(0, 3)) / 2, step)]
            whole.add(f"q{i}", group)
            ranks[i % 2].add(f"q{i}", group)
        whole.refresh()
        moves = ranks[0].moves() + ranks[1].moves()
        for buffer in ranks:
            buffer.refresh(moves)
        for prompt_id in whole.prompts:
            assert ranks[int(prompt_id[1:]) % 2].tier(prompt_id) == whole.tier(prompt_id)


def test_two_clips_with_the_same_question_do_not_share_statistics():
    buffer = filled({"clip1-q0": [1.0], "clip2-q0": [0.0]})
    assert buffer.vcrs("clip1-q0") == 1.0
    assert buffer.vcrs("clip2-q0") == 0.0


# ------------------------------------------------------------------ eviction
def test_each_tier_has_its_own_capacity_and_the_oldest_go_first():
    buffer = ReplayBuffer(capacity=20)  # hard 8, medium 7, easy 5
    for step in range(10):
        buffer.add("only", [entry(0.0, step), entry(1.0, step)])
        buffer.refresh()
    held = buffer.prompts["only"].entries
    assert len(buffer) == 7
    assert [e.step for e in held] == [6, 7, 7, 8, 8, 9, 9]


def test_the_last_success_and_the_last_failure_are_kept_while_others_can_go():
    buffer = ReplayBuffer(capacity=20)
    buffer.add("q", [entry(1.0, step=0)])
    for step in range(1, 12):
        buffer.add("q", [entry(0.0, step)])
        buffer.refresh()
    held = buffer.prompts["q"].entries
    assert len(held) == 7
    assert held[0].success
    assert [e.step for e in held[1:]] == [6, 7, 8, 9, 10, 11]


def test_a_full_tier_of_single_outcomes_still_gives_way():
    """40 prompts of one completion each, the first the best: none moves, and of each tier the
    oldest go."""
    buffer = ReplayBuffer(capacity=20)  # hard 8, medium 7, easy 5
    for i in range(40):
        buffer.add(f"q{i:02d}", [entry(1 - i / 40, i)])
    buffer.refresh()
    kept = [*range(5, 10), *range(17, 24), *range(32, 40)]  # of 10 easy, 14 medium, 16 hard
    holding = [p for p, h in buffer.prompts.items() if h.entries]
    assert holding == list(buffer.stored) == [f"q{i:02d}" for i in kept]


def evict_one_by_one(entries_by_prompt, capacity):
    """The plainest form of the rule: while a tier is over its capacity, drop its oldest entry that
    is not the last of its kind in its prompt; when only such are left, its oldest."""
    held = {p: list(entries) for p, entries in entries_by_prompt.items()}
    while sum(map(len, held.values())) > capacity:
        by_age = sorted((e.order, p) for p, entries in held.items() for e in entries)
        redundant = []
        for order, p in by_age:
            [this] = [e for e in held[p] if e.order == order]
            if sum(e.success == this.success for e in held[p]) > 1:
                redundant.append((order, p))
        order, p = (redundant or by_age)[0]
        held[p] = [e for e in held[p] if e.order != order]
    return held


def test_eviction_equals_the_rule_applied_one_by_one():
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity=40)
    for step in range(60):
        for q in rng.choice(8, 2, replace=False):
            rewards = rng.integers(0, 2, rng.integers(1, 5))
            buffer.add(f"q{q}", [entry(float(r), step) for r in rewards])
        before = {p: list(h.entries) for p, h in buffer.prompts.items()}
        buffer.refresh()
        for tier, capacity in (("hard", 16), ("medium", 14), ("easy", 10)):
            in_tier = {p: entries for p, entries in before.items() if buffer.tier(p) == tier}
            for p, expected in evict_one_by_one(in_tier, capacity).items():
                held = buffer.prompts[p].entries
                assert [e.order for e in held] == [e.order for e in expected]


# ------------------------------------------------------------------ drawing
def test_drawn_group_is_one_prompt_with_both_outcomes():
    buffer = filled({f"q{i}": [0.0] * 9 + [1.0] for i in range(5)})
    for _ in range(200):
        prompt_id, group = draw(buffer)
        held = {id(e) for e in buffer.prompts[prompt_id].entries}
        assert len({id(e) for e in group} & held) == len(group) == 4
        assert {e.success for e in group} == {True, False}


def test_draw_keeps_diverse_rewards_among_successes_only():
    buffer = filled({"q": [1.0] * 9 + [0.6]})
    assert all(len({e.reward for e in draw(buffer).entries}) == 2 for _ in range(50))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_success_and_a_failure_of_equal_reward_are_no_pair_of_equals(n):
    """Five times (success, 0.6), once (failure, 0.6), once (success, 1.0): with three or more, each
    draw has a success, a failure and two different rewards; with two, a success and a failure that
    differ."""
    stored = [entry(0.6, accuracy=1.0) for _ in range(5)]
    stored += [entry(0.6, accuracy=0.0), entry(1.0, accuracy=1.0)]
    for order, one in enumerate(stored):
        one.order = order
    buffer = ReplayBuffer(seed=0)
    counts = Counter()
    for _ in range(600):
        drawn = buffer._draw_entries(stored, n)
        assert len({e.order for e in drawn}) == n
        assert {e.success for e in drawn} == {True, False}
        assert {e.reward for e in drawn} == {0.6, 1.0}
        counts.update(e.order for e in drawn)
    # the others fill up at random
    others = [counts[i] for i in range(5)]
    expected = 600 * (n - 2) / 5
    assert all(abs(count - expected) <= 4 * np.sqrt(expected) for count in others)


def test_the_rooms_of_the_tiers_add_up_to_every_capacity():
    """And each is less than one off its share."""
    for capacity in range(1, 2001):
        rooms = ReplayBuffer(capacity).tier_capacity
        assert sum(rooms.values()) == capacity
        for tier, fraction in TIER_FRACTIONS.items():
            assert abs(rooms[tier] - capacity * fraction) < 1


def test_a_group_holds_no_more_than_is_stored_and_one_completion_may_be_asked_for():
    buffer = filled({"q": [0.0, 1.0]})
    assert len(draw(buffer, 4).entries) == 2
    assert len(draw(buffer, 1).entries) == 1


def test_this_steps_completions_are_not_replayed_but_their_prompts_older_ones_are():
    """`before`: q has two old completions and two of step 1; new has only those of step 1."""
    buffer = filled({"q": [0.0, 1.0]})
    buffer.add("q", [entry(0.5, step=1), entry(0.5, step=1)])
    buffer.add("new", [entry(0.0, step=1), entry(1.0, step=1)])
    for _ in range(20):
        prompt_id, group = draw(buffer, before=1)
        assert prompt_id == "q"
        assert sorted(e.reward for e in group) == [0.0, 1.0]
    assert drawn_ids(buffer, 50, before=2) == {"q", "new"}
    assert buffer.draw_groups(1, 4, before=0) == []


def test_whether_rewards_are_equal_is_asked_of_the_older_completions():
    buffer = filled({"q": [1.0, 1.0], "other": [0.0, 1.0]})
    buffer.add("q", [entry(0.0, step=1)])  # diverse now, but not before this step
    assert drawn_ids(buffer, 50, before=1) == {"other"}


def test_prompts_of_equal_rewards_are_drawn_last_and_no_prompt_twice():
    buffer = filled({"equal": [1.0] * 8, "diverse": [0.0, 1.0]})
    assert drawn_ids(buffer, 50) == {"diverse"}
    assert [g.prompt_id for g in buffer.draw_groups(3, 4)] == ["diverse", "equal"]
    assert ReplayBuffer().draw_groups(1, 4) == []


def test_tiers_are_drawn_at_40_35_25_percent():
    buffer = filled({f"q{i:02d}": [i / 20, i / 20 + 0.01] for i in range(20)})
    drawn = Counter(buffer.tier(draw(buffer, 2).prompt_id) for _ in range(4000))
    for tier, fraction in (("hard", 0.40), ("medium", 0.35), ("easy", 0.25)):
        standard_error = np.sqrt(fraction * (1 - fraction) / 4000)
        assert drawn[tier] / 4000 == pytest.approx(fraction, abs=4 * standard_error)


def test_the_stream_of_draws_is_pinned():
    """The draws of seed 3 as they were recorded: a change of the order of random calls shows here,
    and would make every run differ from the same run of an older tree."""
    buffer = filled({f"q{i}": [i / 6, i / 10, i / 5, 0.0] for i in range(6)}, seed=3)
    drawn = []
    for _ in range(2):
        groups = buffer.draw_groups(6, 2, before=1)
        drawn.append([(g.prompt_id, [e.order for e in g.entries]) for g in groups])
    assert drawn == [
        [
            ("q1", [6, 4]),
            ("q3", [12, 15]),
            ("q2", [10, 8]),
            ("q4", [18, 19]),
            ("q5", [22, 23]),
            ("q0", [3, 0]),
        ],
        [
            ("q5", [21, 23]),
            ("q3", [12, 13]),
            ("q4", [18, 19]),
            ("q2", [8, 11]),
            ("q1", [5, 6]),
            ("q0", [0, 2]),
        ],
    ]


# ------------------------------------------------------------------ hints
def test_hint_comes_after_three_failed_visits_and_goes_after_an_unhinted_success():
    # Well formed but wrong: the format reward does not reset the count.
    buffer = ReplayBuffer(patience=3)
    for visit in range(3):
        assert not buffer.wants_hint("q")
        buffer.add("q", [entry(0.2, visit, accuracy=0.0)] * 4)
    assert buffer.wants_hint("q")

    # A hinted success does not switch it off, and an unhinted failure keeps it on ...
    buffer.add("q", [entry(1.0, 3, hinted=True)] * 4)
    assert not buffer.wants_hint("q")
    assert buffer.hinted_prompts() == ["q"]
    buffer.add("q", [entry(0.2, 4, accuracy=0.0)] * 4)
    assert buffer.wants_hint("q")

    # ... and one unhinted success ends it.
    buffer.add("q", [entry(1.0, 5, hinted=True)] * 4)
    buffer.add("q", [entry(0.2, 6, accuracy=0.0)] * 3 + [entry(1.0, 6)])
    assert not buffer.wants_hint("q")
    assert buffer.hinted_prompts() == []
    assert buffer.prompts["q"].failed_visits == 0


def test_a_prompt_whose_record_has_no_hint_is_never_hinted():
    buffer = ReplayBuffer(with_hint={"q"})
    for _ in range(3):
        buffer.add("q", [entry(0.0)])
        buffer.add("p", [entry(0.0)])
    assert buffer.hinted_prompts() == ["q"]
    assert buffer.stats()["hints"] == 1
    assert buffer.wants_hint("q") and not buffer.wants_hint("p")


def test_visits_are_counted_not_completions():
    buffer = ReplayBuffer(patience=3)
    buffer.add("q", [entry(0.0)] * 8)
    assert buffer.prompts["q"].failed_visits == 1
    assert not buffer.wants_hint("q")


def test_patience_zero_means_no_hints():
    buffer = ReplayBuffer(patience=0)
    for _ in range(10):
        buffer.add("q", [entry(0.0)] * 4)
    assert not buffer.wants_hint("q")


@pytest.mark.parametrize(
    ("reward", "kl", "accuracy", "hint"),
    [
        (0.0, 0.4, 0.0, True),
        (0.0, 0.6, 0.0, False),  # it still moves
        (0.0, None, 0.0, False),  # never replayed: nothing is known
        (0.95, 0.4, 0.0, False),  # not hard
        (0.0, 0.4, 1.0, False),  # solved
    ],
)
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_hint_comes_when_a_hard_prompt_fails_and_the_policy_no_longer_moves_on_it(
    reward, kl, accuracy, hint, scale
):
    """The paper's rule: hard tier, failed again, small KL; each of the three is needed. Small is
    less than a tenth of the median, here of 1 to 11 and kl: below 0.5 or 0.55, at any learning rate
    (scale)."""
    buffer = filled({f"q{i}": [i / 12] for i in range(1, 12)}, patience=0, hint_kl=0.1)
    for i in range(1, 12):
        buffer.note_kl(f"q{i}", i * scale)
    buffer.add("q", [entry(reward, accuracy=0.0)])
    buffer.refresh()
    if kl is not None:
        buffer.note_kl("q", kl * scale)
    buffer.add("q", [entry(reward, accuracy=accuracy)])
    assert buffer.wants_hint("q") == hint
    assert buffer.hinted_prompts() == (["q"] if hint else [])


def test_the_kl_of_a_few_prompts_gives_no_hint():
    buffer = filled({f"q{i}": [i / 10] for i in range(1, 9)}, patience=0, hint_kl=0.1)
    for i in range(1, 9):
        buffer.note_kl(f"q{i}", float(i))
    buffer.add("q", [entry(0.0)])
    buffer.note_kl("q", 1e-9)
    buffer.add("q", [entry(0.0)])
    assert not buffer.wants_hint("q")


# ------------------------------------------------------------------ settings, size, saving
def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="capacity 0"):
        ReplayBuffer(capacity=0)
    with pytest.raises(ValueError, match="patience -1"):
        ReplayBuffer(patience=-1)


def test_ten_thousand_entries_fit_in_100_megabytes():
    tokens = np.zeros(512, np.int32)
    logps = np.zeros(512, np.float32)
    scores = {"format": 1.0, "accuracy": 0.0, "self": 0.5, "judge": None}
    tracemalloc.start()
    buffer = ReplayBuffer()
    for i in range(2_500):
        group = [
            Entry(tokens.copy(), logps.copy(), 0.2, 0.0, i, scores=dict(scores)) for _ in range(4)
        ]
        buffer.add(f"clip{i}-q0", group)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(buffer) == 10_000
    assert used < 100e6


def test_saved_and_reloaded_buffer_goes_on_identically():
    buffer = filled({f"q{i}": [0.0, 1.0, i / 10, 0.3] for i in range(10)}, capacity=60, seed=5)
    for _ in range(7):
        draw(buffer)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    twin = ReplayBuffer(capacity=60, seed=99)
    twin.load_state_dict(torch.load(file, weights_only=True))

    assert twin.stats() == buffer.stats()
    for _ in range(50):
        (a, group_a), (b, group_b) = draw(buffer, 3), draw(twin, 3)
        assert a == b
        assert [e.order for e in group_a] == [e.order for e in group_b]
        for x, y in zip(group_a, group_b, strict=True):
            assert np.array_equal(x.tokens, y.tokens)
            assert np.array_equal(x.logps, y.logps)
    for each in (buffer, twin):
        each.add("q3", [entry(0.9)] * 4)
        each.refresh()
    assert [buffer.tier(f"q{i}") for i in range(10)] == [twin.tier(f"q{i}") for i in range(10)]


def test_every_field_of_a_history_is_saved():
    history = PromptHistory(
        rewards=deque([0.25, 0.5], maxlen=20),
        vcrs=0.375,
        tier="hard",
        failed_visits=2,
        hint_on=True,
        hint_next=True,
        kl=np.float32(0.125),  # NumPy's numbers, too
    )
    again = prompts_of_columns(prompt_columns({"a": history}))["a"]
    for saved in fields(PromptHistory):
        if saved.name == "entries":  # these are saved apart
            continue
        value = getattr(history, saved.name)
        assert value != getattr(PromptHistory(), saved.name), f"give {saved.name} a value above"
        assert getattr(again, saved.name) == value, f"prompt_columns must save {saved.name}"


def test_an_empty_buffer_is_saved_and_reloaded():
    twin = ReplayBuffer()
    twin.load_state_dict(ReplayBuffer().state_dict())
    assert len(twin) == 0


def test_two_ranks_buffers_are_redistributed_to_three_without_loss():
    """a, b on one rank and c on the other; a and c go to one new rank, b to another, nothing to the
    third: histories, hints and completions come along."""
    one = ReplayBuffer(patience=2)
    one.add("a", [entry(0.0, step=1, length=2), entry(0.25, step=1, length=4)])
    one.add("b", [entry(1.0, step=2)])
    one.add("a", [entry(0.5, step=3, length=1)])
    two = ReplayBuffer(patience=2)
    for step in (4, 5):  # two visits without a success: its hint is on
        two.add("c", [entry(0.0, step=step, length=5)])

    states = [one.state_dict(), two.state_dict()]
    ranks = []
    for owned in ({"a", "c"}, {"b"}, set()):
        buffer = ReplayBuffer(patience=2, seed=7)
        buffer.redistribute(states, owned.__contains__)
        ranks.append(buffer)

    assert [sorted(b.prompts) for b in ranks] == [["a", "c"], ["b"], []]
    assert [len(b) for b in ranks] == [5, 1, 0]
    held_a = [(e.reward, e.step, len(e.tokens)) for e in ranks[0].stored["a"].entries]
    assert held_a == [(0.0, 1, 2), (0.25, 1, 4), (0.5, 3, 1)]
    for e, step in zip(ranks[0].stored["c"].entries, (4, 5), strict=True):
        assert e.step == step
        assert e.tokens.tolist() == [0, 1, 2, 3, 4]
        assert e.logps.tolist() == [-0.5] * 5
    assert ranks[0].vcrs("a") == pytest.approx(0.25)
    assert ranks[0].hinted_prompts() == ["c"]
    assert ranks[1].vcrs("b") == 1.0
    assert ranks[0].inserted == max(one.inserted, two.inserted) == 4
    assert ranks[0].rng.random() == np.random.default_rng(7).random()  # its own random stream


@pytest.mark.parametrize("n_tiers", [2, 5])
def test_other_tiers_are_a_change_of_one_line(monkeypatch, n_tiers):
    """All of them hold prompts and completions, and the hardest come first."""
    fractions = {f"t{i}": 1 / n_tiers for i in range(n_tiers)}
    monkeypatch.setattr(replay, "TIER_FRACTIONS", fractions)
    monkeypatch.setattr(replay, "TIERS", tuple(fractions))
    monkeypatch.setattr(replay, "MIDDLE", n_tiers // 2)
    buffer = filled({f"q{i}": [i / 60, i / 60 + 0.1] for i in range(60)}, capacity=60)
    per_tier = 60 // n_tiers
    assert buffer.occupancy() == dict.fromkeys(fractions, per_tier)
    assert [buffer.tier(f"q{i}") for i in range(60)] == [f"t{i // per_tier}" for i in range(60)]


@pytest.mark.parametrize("value", [(1, 2), {3: 1.0}, {1, 2}, np.zeros(2)])
def test_a_field_that_no_checkpoint_can_hold_is_named(value):
    """JSON would give a list for the tuple, and texts for the keys."""
    with pytest.raises(TypeError, match=r"PromptHistory\.kl is .*, which no checkpoint can hold"):
        prompt_columns({"a": PromptHistory(kl=value)})
