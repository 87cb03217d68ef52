"""replay.py: the buffer of past completions, the prompts' running rewards (VCRS), and the hints.

    fresh group of prompt q --add-->   VCRS  Rbar(q) = mean of its last 20 fresh, unhinted rewards
                            --refresh  tier  place of Rbar(q) among all prompts: bottom 40 % hard,
                                             next 35 % medium, top 25 % easy
                                       store 10,000 completions, of them 40 / 35 / 25 % per tier
    replayed groups <--draw_groups--   a tier at 40 / 35 / 25 %, then ONE prompt of it, then 4 of
                                       its completions, successes and failures

A prompt is visited when a step samples a fresh group of it, with or without its hint. An entry is
one completion: tokens, behaviour log-probs and rewards. It holds no pixels and no sound (media are
decoded again or come from a cache): 10,000 entries of 512 tokens need about 50 MB.

The story of a hint, from a record to its removal:
 1. A record of the data set may carry a `hint` (Sample.hint): a strategy that a stronger model
    wrote beforehand (tools/annotate.py). At first it is not shown.
 2. A prompt is stuck by either of two rules: `patience` visits in a row without a success (the
    trainer's), or it is in the hard tier, has failed again, and the policy no longer moves on it
    (the paper's): KL(pi_theta || pi_behaviour) of its replayed completions, which train.py reports
    by `note_kl`, is below `hint_kl` times the median over prompts. `add` applies both after each
    visit and turns the hint on.
 3. At the next visit PromptStream.take (run/stream.py) asks `wants_hint`, and instructions
    (data.py) writes "Hint: ..." below the question. Such a Prompt has `hinted` set.
 4. Its completions are stored as entries with `hinted` set, and their rewards never enter Rbar(q).
    When replayed, they are trained under the hinted prompt, for which they were written.
 5. The visit after a hinted one is asked without the hint: the two kinds take turns, since only an
    unhinted success shows that the hint is no longer needed. The first one turns the hint off.
 6. With --hint_teacher (ours) a hint also teaches while it is not shown: teacher.py reads fresh
    unhinted completions once more with it in the prompt. Nothing here knows of that.

How this differs from the paper and its released trainer:
 1. A prompt is its dataset id: question AND media. The trainer's key is the question's text, so
    clips share histories.
 2. Tiers follow the current Rbar of all prompts, and a prompt carries its entries along; in the
    trainer an entry's tier is frozen when it is stored. Prompts with equal Rbar stand in the order
    of a hash of their ids (`Place`), so the tiers hold 40 / 35 / 25 % of the prompts whatever ties
    there are; the trainer sends ties to hard, and then one tier may hold nearly all of them.
 3. A replayed group is several completions of ONE prompt, with a success and a failure among them
    whenever the buffer has both.
 4. Either rule turns a hint on. The paper's KL is small below a threshold; any KL grows with the
    learning rate and the age of the completions, so ours is a fraction of the median over prompts.
    Visits count, not completions, and "without a success" means no accuracy of 0.5 or more,
    whatever the format reward gave.
 5. Everything here is part of the checkpoint: entries, statistics, hint states, random state.

This module imports nothing of ours.
"""

import hashlib
import itertools
import json
import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import torch

# Of the capacity, of the draws, and of the prompts. Hardest first; more or fewer tiers, or others,
# are a change of this line alone.
TIER_FRACTIONS = {"hard": 0.40, "medium": 0.35, "easy": 0.25}
TIERS = tuple(TIER_FRACTIONS)
MIDDLE = len(TIERS) // 2  # the tier of a prompt of which nothing is known

VCRS_WINDOW = 20  # rewards in Rbar(q)

SUCCESS = 0.5  # an accuracy reward from here on counts as a success


MIN_KLS = 10  # prompts whose KL is known, for the hint rule to ask for their median


@dataclass
class Entry:
    """One stored completion."""

    tokens: np.ndarray  # (L,) int32, EOS included
    logps: np.ndarray  # (L,) float32, under the policy that wrote it (the behaviour policy)
    reward: float  # the stage's weighted sum of `scores`
    accuracy: float
    step: int  # when it was written
    hinted: bool = False  # was the hint in the prompt that it answers?
    scores: dict[str, float | None] = field(default_factory=dict)  # the parts, and `reward`
    order: int = 0  # insertion number, given by the buffer: lower is older

    @property
    def success(self) -> bool:
        return self.accuracy >= SUCCESS


class ReplayedGroup(NamedTuple):
    """What is drawn: completions of one stored prompt."""

    prompt_id: str
    entries: list[Entry]


class Place(NamedTuple):
    """Where a prompt stands in the ranking. Places are compared field by field.

    Many prompts share an Rbar, above all the solved and the hopeless ones. They stand in the order
    of a hash of their ids: no order of the data set decides, and a prompt moves only when its Rbar
    does. (With the longest unvisited first, prompts would wander through all tiers, and their
    entries would be evicted on the way: a buffer of 4,000 then stayed at 2,950.)
    """

    vcrs: float  # Rbar(q), rounded: means of the same rewards may differ in their last digit
    digest: int  # a hash of the id
    prompt_id: str


FIRST = Place(-math.inf, 0, "")  # before and after all places
LAST = Place(math.inf, 0, "")


def digest_of(prompt_id: str) -> int:
    """A number that is as good as random, and the same in every process and run."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")


def are_diverse(rewards: list[float]) -> bool:
    """Do these rewards differ? Where they are equal, advantages against a mean of them are 0."""
    return max(rewards) - min(rewards) > 1e-6


def apportion(total: int, fractions: dict[str, float]) -> dict[str, int]:
    """Whole numbers near total * fraction that add up to total: what rounding down leaves goes to
    the largest remainders, one each.

    >>> apportion(14, TIER_FRACTIONS), apportion(1, TIER_FRACTIONS)
    ({'hard': 6, 'medium': 5, 'easy': 3}, {'hard': 1, 'medium': 0, 'easy': 0})
    """
    exact = {name: total * fraction for name, fraction in fractions.items()}
    whole = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole


@dataclass
class PromptHistory:
    """What is known of one prompt. A new field is saved by itself (`json_column`)."""

    rewards: deque[float] = field(default_factory=lambda: deque(maxlen=VCRS_WINDOW))
    vcrs: float | None = None  # Rbar(q), the mean of `rewards`; None before the first of them
    entries: list[Entry] = field(default_factory=list)  # oldest first
    tier: str = TIERS[MIDDLE]  # as of the last visit or `refresh`
    failed_visits: int = 0  # unhinted visits in a row without a success
    hint_on: bool = False
    hint_next: bool = False  # while the hint is on: does the next visit show it?
    kl: float | None = None  # KL(pi_theta || pi_behaviour) per token when it was last replayed

    def entries_before(self, step: float) -> list[Entry]:
        """The entries that were written before a step."""
        return [e for e in self.entries if e.step < step]

    def protected(self) -> list[Entry]:
        """The last success and the last failure: the two entries that are evicted last."""
        newest = {e.success: e for e in self.entries}  # later entries overwrite earlier ones
        return list(newest.values())


# The fields that a checkpoint holds as they are; rewards and entries are packed into arrays.
PLAIN_FIELDS = [f.name for f in fields(PromptHistory) if f.name not in ("rewards", "entries")]


def contrasting_entries(entries: list[Entry]) -> list[Entry]:
    """A success and a failure of different rewards; where none differ, the first of each; without
    both kinds, the first two entries of different rewards, or one where all rewards are equal."""
    successes = [entry for entry in entries if entry.success]
    failures = [entry for entry in entries if not entry.success]

    # In stage 2 a right answer and a wrong one may earn the same: 0.2 + 0.4 = 0.2 + 0.4.
    for success, failure in itertools.product(successes, failures):
        if are_diverse([success.reward, failure.reward]):
            return [success, failure]
    if successes and failures:
        return [successes[0], failures[0]]

    first = entries[0]
    others = [entry for entry in entries if are_diverse([entry.reward, first.reward])]
    return [first, *others[:1]]


class ReplayBuffer:
    """The stratified buffer of one rank. A prompt belongs to one rank, and so does its history.

    capacity: completions that it holds. patience: unhinted visits without a success before a hint
    (0: this rule is off). hint_kl: a failing prompt of the hard tier gets its hint when its KL is
    below this fraction of the median over prompts (0: this rule is off). with_hint: the ids of the
    prompts that have one; None: all.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        patience: int = 3,
        hint_kl: float = 0.0,
        seed: int = 0,
        with_hint: set[str] | None = None,
    ):
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be positive")
        if patience < 0 or hint_kl < 0:
            raise ValueError(f"patience {patience} and hint_kl {hint_kl} must not be negative")

        self.tier_capacity = apportion(capacity, TIER_FRACTIONS)
        self.patience = patience
        self.hint_kl = hint_kl
        self.with_hint = with_hint

        # Every prompt that was visited, those of them that hold entries, and those whose hint is
        # on. The last two are for speed: a run may visit 100,000 prompts and store the completions
        # of 2,500.
        self.prompts: dict[str, PromptHistory] = {}
        self.stored: dict[str, PromptHistory] = {}
        self.hinted: set[str] = set()

        # The ranking of the last `refresh`: the places of all prompts on all ranks, sorted; the
        # same by id; and the places of the first medium and of the first easy prompt (`_borders`).
        self.ranking: list[Place] = []
        self.places: dict[str, Place] = {}
        self.borders = self._borders()
        self.moved: set[str] = set()  # prompts of this rank whose Rbar has moved since then

        self.inserted = 0  # entries so far, evicted ones included
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return sum(len(history.entries) for history in self.stored.values())

    # ------------------------------------------------------------------ storing
    def add(self, prompt_id: str, entries: list[Entry]) -> list[float]:
        """Store the fresh group of one visit and update the prompt's VCRS, tier and hint state.

        Returns the rewards that Rbar(q) was the mean of before; none for a hinted visit, whose
        rewards are not to be compared with them.
        """
        history = self.prompts.setdefault(prompt_id, PromptHistory())
        for entry in entries:
            entry.order = self.inserted
            self.inserted += 1
        history.entries += entries
        if history.entries:
            self.stored[prompt_id] = history

        # Rbar(q) says how well the policy does alone, so hinted rewards stay out of it.
        unhinted = [e for e in entries if not e.hinted]
        before = list(history.rewards) if unhinted else []
        if unhinted:
            history.rewards.extend(e.reward for e in unhinted)
            history.vcrs = float(np.mean(history.rewards))
            self.moved.add(prompt_id)

        # The hint rule asks for the tier after this visit, so the tier moves first.
        if history.vcrs is not None:
            history.tier = self._tier_at(self._place(prompt_id))
        if self.with_hint is None or prompt_id in self.with_hint:
            self._update_hint(history, unhinted)
            if history.hint_on:
                self.hinted.add(prompt_id)
            else:
                self.hinted.discard(prompt_id)
        return before

    def _update_hint(self, history: PromptHistory, unhinted: list[Entry]) -> None:
        """Steps 2 and 5 of the story of a hint: turn it on, take turns, turn it off."""
        # A hinted visit decides nothing; the next visit tries without the hint.
        if not unhinted:
            history.hint_next = False
            return

        if any(e.success for e in unhinted):
            history.failed_visits = 0
            history.hint_on = False
        else:
            history.failed_visits += 1
            out_of_patience = 0 < self.patience <= history.failed_visits
            stopped_exploring = history.tier == TIERS[0] and self._kl_is_small(history)
            history.hint_on = history.hint_on or out_of_patience or stopped_exploring
        history.hint_next = history.hint_on

    def _kl_is_small(self, history: PromptHistory) -> bool:
        """Is the KL of a prompt's replayed completions far below that of the other stored prompts?

        Never while fewer than MIN_KLS of them were replayed: then there is no median to speak of.
        """
        if history.kl is None or self.hint_kl == 0:
            return False
        kls = [h.kl for h in self.stored.values() if h.kl is not None]
        return len(kls) >= MIN_KLS and history.kl < self.hint_kl * float(np.median(kls))

    def note_kl(self, prompt_id: str, kl: float) -> None:
        """Remember how far the policy has moved on a prompt's replayed completions.

        kl: mean KL(pi_theta || pi_behaviour) per token.
        """
        self.prompts[prompt_id].kl = kl

    def wants_hint(self, prompt_id: str) -> bool:
        """Should the next visit of this prompt show its hint?"""
        return prompt_id in self.prompts and self.prompts[prompt_id].hint_next

    def hinted_prompts(self) -> list[str]:
        """The ids of the prompts whose hint is on, sorted."""
        return sorted(self.hinted)

    # ------------------------------------------------------------------ tiers
    def vcrs(self, prompt_id: str) -> float | None:
        """Rbar(q): mean of the last 20 fresh, unhinted rewards; None for a prompt without any."""
        return self.prompts[prompt_id].vcrs if prompt_id in self.prompts else None

    def tier(self, prompt_id: str) -> str:
        """The tier as of the last visit or the last `refresh`; medium without an Rbar."""
        return self.prompts[prompt_id].tier if prompt_id in self.prompts else TIERS[MIDDLE]

    def moves(self) -> list[Place]:
        """The places of this rank's prompts whose Rbar has moved since the last `refresh`: what
        `refresh` needs of every rank."""
        return [self._place(prompt_id) for prompt_id in sorted(self.moved)]

    def refresh(self, moves: list[Place] | None = None) -> None:
        """Rank the prompts that were visited anew, move prompts between tiers, and evict what a
        tier no longer holds.

        moves: those of all ranks, so that tiers are global; None: of this rank. The time grows with
        the moves and the stored entries, not with the prompts that were ever seen.
        """
        moves = self.moves() if moves is None else moves
        for place in moves:
            before = self.places.get(place.prompt_id)
            if before is not None:
                del self.ranking[bisect_left(self.ranking, before)]
            insort(self.ranking, place)
            self.places[place.prompt_id] = place

        self._move_borders()
        for prompt_id in self.moved:
            self.prompts[prompt_id].tier = self._tier_at(self.places[prompt_id])
        self.moved = set()
        self._evict()

    def _place(self, prompt_id: str) -> Place:
        """Where a prompt that has an Rbar belongs in the ranking."""
        vcrs = self.prompts[prompt_id].vcrs
        return Place(round(vcrs, 6), digest_of(prompt_id), prompt_id)

    def _tier_at(self, place: Place) -> str:
        """The tier of a place, by the borders of the last `refresh`."""
        return TIERS[bisect_right(self.borders, place)]

    def _borders(self) -> list[Place]:
        """The places of the first medium and of the first easy prompt, so that 40 and 75 % of the
        prompts stand before them. While there is no ranking every place is medium."""
        n = len(self.ranking)
        if n == 0:
            return [FIRST] * MIDDLE + [LAST] * (len(TIERS) - 1 - MIDDLE)
        borders = []
        for share in list(itertools.accumulate(TIER_FRACTIONS.values()))[:-1]:
            # the prompt at index i has the quantile (i + 1/2) / n; 1e-9: 0.2 + 0.2 + 0.2 > 0.6
            first = math.ceil(share * n - 0.5 - 1e-9)
            borders.append(self.ranking[first] if first < n else LAST)
        return borders

    def _move_borders(self) -> None:
        """Bring the borders up to date. Only prompts between an old border and its new one change
        their tier."""
        old, self.borders = self.borders, self._borders()
        for low, high in map(sorted, zip(old, self.borders, strict=True)):
            between = slice(bisect_left(self.ranking, low), bisect_left(self.ranking, high))
            for place in self.ranking[between]:
                if place.prompt_id in self.prompts:  # of this rank
                    self.prompts[place.prompt_id].tier = self._tier_at(place)

    def _evict(self) -> None:
        """Bring every tier down to its capacity, oldest entries first.

        The last success and the last failure of each prompt go only when a tier holds nothing else:
        a prompt with both kinds can be replayed with both, and that is what has advantages.
        """
        held = self.occupancy()
        for tier in TIERS:
            excess = held[tier] - self.tier_capacity[tier]
            if excess <= 0:
                continue

            # Redundant entries before protected ones (False < True), older before newer.
            queue: list[tuple[bool, int, str]] = []
            for prompt_id, history in self.stored.items():
                if history.tier == tier:
                    protected = {e.order for e in history.protected()}
                    queue += [(e.order in protected, e.order, prompt_id) for e in history.entries]
            queue.sort()

            for _, order, prompt_id in queue[:excess]:
                history = self.stored[prompt_id]
                history.entries = [e for e in history.entries if e.order != order]
                if not history.entries:
                    del self.stored[prompt_id]

    # ------------------------------------------------------------------ drawing
    def draw_groups(
        self, n_prompts: int, n_completions: int, before: float = math.inf
    ) -> list[ReplayedGroup]:
        """Replayed groups of n_prompts different stored prompts, or of as many as there are.

        n_completions: per group, at most. before: only entries written before that step are drawn,
        so that a step does not replay what it has just sampled.
        """
        diverse, equal = self._drawable_prompts(before)
        groups: list[ReplayedGroup] = []
        while len(groups) < n_prompts:
            # A prompt of equal rewards is drawn only when no other is left.
            candidates = self._draw_tier(diverse) or equal
            if not candidates:
                break
            prompt_id = candidates.pop(self.rng.integers(len(candidates)))
            entries = self.stored[prompt_id].entries_before(before)
            groups.append(ReplayedGroup(prompt_id, self._draw_entries(entries, n_completions)))
        return groups

    def _drawable_prompts(self, before: float) -> tuple[dict[str, list[str]], list[str]]:
        """What can be drawn: prompts of diverse rewards, by tier, and prompts of equal rewards."""
        diverse: dict[str, list[str]] = {tier: [] for tier in TIERS}
        equal: list[str] = []
        for prompt_id, history in self.stored.items():
            # The rewards of the entries that can be drawn decide, not those of this step.
            rewards = [e.reward for e in history.entries_before(before)]
            if not rewards:
                continue
            if are_diverse(rewards):
                diverse[history.tier].append(prompt_id)
            else:
                equal.append(prompt_id)
        return diverse, equal

    def _draw_tier(self, diverse: dict[str, list[str]]) -> list[str]:
        """The prompts of one tier, drawn at 40 / 35 / 25 % of those that hold any; else none."""
        filled = [tier for tier in TIERS if diverse[tier]]
        if not filled:
            return []

        weights = np.array([TIER_FRACTIONS[tier] for tier in filled])
        index = self.rng.choice(len(filled), p=weights / weights.sum())
        return diverse[filled[index]]

    def _draw_entries(self, entries: list[Entry], n: int) -> list[Entry]:
        """n of the entries at random. Where n > 1 and the entries allow it, a success, a failure
        and two different rewards are among them."""
        shuffled = [entries[i] for i in self.rng.permutation(len(entries))]
        if n == 1:
            return shuffled[:1]

        # these first, then the others at random
        chosen = contrasting_entries(shuffled)[:n]
        taken = {id(entry) for entry in chosen}
        others = [entry for entry in shuffled if id(entry) not in taken]
        return chosen + others[: n - len(chosen)]

    # ------------------------------------------------------------------ reporting
    def occupancy(self) -> dict[str, int]:
        """Completions held per tier."""
        held = dict.fromkeys(TIERS, 0)
        for history in self.stored.values():
            held[history.tier] += len(history.entries)
        return held

    def stats(self) -> dict[str, float]:
        """buffer_size, entries per tier, and the number of prompts whose hint is on."""
        held = self.occupancy()
        per_tier = {f"tier_{tier}": held[tier] for tier in reversed(TIERS)}
        return {
            "buffer_size": sum(held.values()),
            **per_tier,
            "hints": len(self.hinted),
        }

    # ------------------------------------------------------------------ saving
    def state_dict(self) -> dict:
        """Everything, as tensors, strings and numbers only: torch.load(weights_only=True) reads it.

        The arrays of all entries are joined, since thousands of small tensors are slow to save.
        """
        # The order of `stored` is part of the state: draws depend on it.
        entries = []
        tokens = [np.empty(0, np.int32)]  # so that there is something to join in an empty buffer
        logps = [np.empty(0, np.float32)]
        for prompt_id, history in self.stored.items():
            for entry in history.entries:
                row = dict(vars(entry))
                tokens.append(row.pop("tokens"))
                logps.append(row.pop("logps"))
                entries.append(row | {"prompt_id": prompt_id, "length": len(entry.tokens)})

        return {
            "prompts": prompt_columns(self.prompts),
            "ranking": ranking_columns(self.ranking),
            "entries": entries,
            "tokens": torch.from_numpy(np.concatenate(tokens)),
            "logps": torch.from_numpy(np.concatenate(logps)),
            "inserted": self.inserted,
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue exactly where `state_dict` was taken: the same draws follow."""
        self.inserted = state["inserted"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._set_prompts(prompts_of_columns(state["prompts"]))
        self._set_ranking(ranking_of_columns(state["ranking"]))

        # Copies, so that an evicted entry frees its memory.
        lengths = [row["length"] for row in state["entries"]]
        tokens = state["tokens"].split(lengths)
        logps = state["logps"].split(lengths)
        self.stored = {}
        for row, entry_tokens, entry_logps in zip(state["entries"], tokens, logps, strict=True):
            values = {name: row[name] for name in row if name not in ("prompt_id", "length")}
            entry = Entry(entry_tokens.numpy().copy(), entry_logps.numpy().copy(), **values)
            history = self.prompts[row["prompt_id"]]
            history.entries.append(entry)
            self.stored[row["prompt_id"]] = history

    def redistribute(self, states: list[dict], owns: Callable[[str], bool]) -> None:
        """Resume with another number of processes: take this rank's prompts out of all states.

        states: the state dicts of all ranks that there were. owns: does a prompt id belong to this
        rank now? The random stream stays this buffer's own.
        """
        prompts: dict[str, PromptHistory] = {}
        self.stored = {}
        self.inserted = 0
        for state in states:
            source = ReplayBuffer()
            source.load_state_dict(state)
            prompts |= {i: history for i, history in source.prompts.items() if owns(i)}
            self.stored |= {i: history for i, history in source.stored.items() if owns(i)}
            self.inserted = max(self.inserted, source.inserted)
        self._set_prompts(prompts)
        self._set_ranking(source.ranking)  # the same on all ranks

    def _set_prompts(self, prompts: dict[str, PromptHistory]) -> None:
        self.prompts = prompts
        self.hinted = {i for i, history in prompts.items() if history.hint_on}

    def _set_ranking(self, ranking: list[Place]) -> None:
        """The ranking of a checkpoint, and what follows from it and the prompts."""
        self.ranking = ranking
        self.places = {place.prompt_id: place for place in ranking}
        self.borders = self._borders()
        self.moved = set()
        for prompt_id, history in self.prompts.items():
            if history.vcrs is not None and self.places.get(prompt_id) != self._place(prompt_id):
                self.moved.add(prompt_id)


# ------------------------------------------------------------------------------ columns
def prompt_columns(prompts: dict[str, PromptHistory]) -> dict:
    """Histories without their entries, one column per field: a checkpoint of 260,000 small dicts
    takes seconds to read. Rewards are one array with their counts, other fields one JSON text."""
    histories = list(prompts.values())
    counts = [len(history.rewards) for history in histories]
    rewards = list(itertools.chain.from_iterable(history.rewards for history in histories))
    columns = {
        "ids": json.dumps(list(prompts)),
        "counts": torch.tensor(counts, dtype=torch.int64),  # (prompts,)
        "rewards": torch.tensor(rewards, dtype=torch.float64),  # (sum of the counts,)
    }
    for name in PLAIN_FIELDS:
        columns[name] = json_column(name, [getattr(history, name) for history in histories])
    return columns


def json_column(name: str, values: list) -> str:
    """One field of all histories as a JSON text. NumPy's numbers become Python's. Raises TypeError
    where JSON would give something else back: it has no tuples, and no keys but texts."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    for value in values:
        if not is_plain(value):
            raise TypeError(
                f"PromptHistory.{name} is {value!r}, which no checkpoint can hold; let it hold "
                "None, texts, numbers, and lists and dicts of them"
            )
    return json.dumps(values)


def is_plain(value: object) -> bool:
    """Does JSON give this value back as it is?

    >>> is_plain([1, {"a": None}]), is_plain((1, 2)), is_plain({3: 1.0}), is_plain({1, 2})
    (True, False, False, False)
    """
    if isinstance(value, list):
        return all(is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(entry) for key, entry in value.items())
    return value is None or isinstance(value, str | int | float)


def prompts_of_columns(columns: dict) -> dict[str, PromptHistory]:
    """The histories that `prompt_columns` has taken apart, without entries."""
    ids = json.loads(columns["ids"])
    counts = columns["counts"].tolist()
    rewards = iter(columns["rewards"].tolist())
    plain = [json.loads(columns[name]) for name in PLAIN_FIELDS]

    prompts = {}
    for prompt_id, count, *values in zip(ids, counts, *plain, strict=True):
        history = PromptHistory(**dict(zip(PLAIN_FIELDS, values, strict=True)))
        history.rewards.extend(itertools.islice(rewards, count))
        prompts[prompt_id] = history
    return prompts


def ranking_columns(ranking: list[Place]) -> dict:
    """A ranking as one array per field, the ids as one string; digests follow from the ids."""
    return {
        "ids": json.dumps([place.prompt_id for place in ranking]),
        "vcrs": torch.tensor([place.vcrs for place in ranking], dtype=torch.float64),  # (prompts,)
    }


def ranking_of_columns(columns: dict) -> list[Place]:
    """The ranking that `ranking_columns` has taken apart."""
    rows = zip(json.loads(columns["ids"]), columns["vcrs"].tolist(), strict=True)
    return [Place(vcrs, digest_of(prompt_id), prompt_id) for prompt_id, vcrs in rows]
