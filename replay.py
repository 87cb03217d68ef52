"""replay.py: the stratified buffer of past completions, the prompts' running rewards (VCRS), and the rule for hints.

    fresh group of prompt q --add--> VCRS  Rbar(q) = mean of the last 20 fresh, unhinted rewards
                                     tier  by the place of Rbar(q) among all prompts: bottom 40 % hard, next 35 % medium, top 25 % easy
                                     store 10,000 completions, room 40 / 35 / 25 % per tier
    replayed group <--draw--         tier at 40 / 35 / 25 %, then ONE prompt of it, then 4 of its completions, good and bad

An entry is tokens + behaviour log-probs + rewards; no pixels, no sound: the media are decoded or cached elsewhere, once per clip.
Adding a group and drawing one look at each stored prompt at most once, so both stay far below a millisecond at 10,000 entries.

How this differs from the paper and its released trainer:
 1. A prompt is its dataset id: question AND media. The trainer's key is the question's text, so clips share histories.
 2. Tiers are found anew from the current Rbar of all prompts, and a prompt carries its completions along; in the trainer an entry's
    tier is frozen when it is stored. Equal Rbar share one place (the middle of their ranks); the trainer sends ties to hard.
 3. A replayed group is several completions of ONE prompt, success and failure both present whenever the buffer has both.
 4. A hint comes on by either of two rules: the trainer's (3 visits in a row without success) or the paper's (the prompt is in the hard
    tier, failed again, and the policy no longer moves on it: KL(pi_theta || pi_behaviour) of its replayed completions is small).
    Visits count, not completions, and "without success" means accuracy 0, whatever the format reward gave. While a hint is on,
    every other visit is asked without it, since only an unhinted success may switch it off.
 5. Everything here is part of the checkpoint: entries, statistics, hint states, random state.

This module imports nothing of ours.
"""

import heapq
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

TIERS = ("hard", "medium", "easy")

SHARES = {
    "hard": 0.40,
    "medium": 0.35,
    "easy": 0.25,
}  # of the capacity, of the draws, and of the prompts

SUCCESS = 0.5  # an accuracy reward from here on counts as a success


@dataclass
class Entry:
    """One stored completion. tokens (L,) int32, EOS included; logps (L,) float32 under the policy that wrote it; reward: the stage's
    weighted sum of `parts`; step: when it was written."""

    tokens: np.ndarray
    logps: np.ndarray
    reward: float
    accuracy: float
    step: int
    hinted: bool = False
    parts: dict[str, float | None] = field(default_factory=dict)
    order: int = 0  # insertion number, given by the buffer

    @property
    def success(self) -> bool:
        return self.accuracy >= SUCCESS


def differ(rewards: list[float]) -> bool:
    """Are these rewards not all alike?"""
    return max(rewards) - min(rewards) > 1e-6


@dataclass
class PromptHistory:
    """What is known of one prompt: its stored completions (oldest first), its window of rewards, its hint state."""

    rewards: deque
    entries: list[Entry] = field(default_factory=list)
    failed_visits: int = 0  # unhinted visits in a row without a success
    hint_on: bool = False
    hint_next: bool = False  # while the hint is on: is the next visit a hinted one?
    kl: float | None = None  # KL(pi_theta || pi_behaviour) per token on its last replay
    tier: str = "medium"  # as of the last visit or `refresh`
    rbar: float | None = None  # mean of `rewards`
    unlike: bool = False  # the stored rewards differ
    spare: Entry | None = None  # the oldest entry that is not the last success or the last failure

    def index(self) -> None:
        """Bring the derived fields up to date with `entries` and `rewards`."""
        self.rbar = float(np.mean(self.rewards)) if self.rewards else None
        values = [e.reward for e in self.entries]
        self.unlike = bool(values) and differ(values)
        wins = sum(e.success for e in self.entries)
        count = {True: wins, False: len(values) - wins}
        self.spare = next((e for e in self.entries if count[e.success] > 1), None)


class ReplayBuffer:
    """The stratified buffer of one rank. Prompts belong to ranks by id, so a history never spans two.

    capacity: completions in all; window: rewards in Rbar(q); patience: unhinted visits without success before a hint (0: this rule off);
    hint_kl: the KL below which a failing prompt of the hard tier gets its hint (0: this rule off).
    """

    def __init__(
        self,
        capacity: int = 10_000,
        window: int = 20,
        patience: int = 3,
        hint_kl: float = 0.0,
        seed: int = 0,
    ):
        if capacity < 1 or window < 1 or patience < 0 or hint_kl < 0:
            raise ValueError(
                f"capacity {capacity} and window {window} must be positive, patience {patience} and hint_kl {hint_kl} not negative"
            )
        self.room = {tier: round(capacity * share) for tier, share in SHARES.items()}
        self.window, self.patience, self.hint_kl = window, patience, hint_kl
        self.prompts: dict[str, PromptHistory] = {}  # every prompt seen
        self.stored: dict[str, PromptHistory] = {}  # those with entries
        self.inserted = 0
        self.ranking = np.empty(0)  # sorted Rbar of all prompts seen, on all ranks
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return sum(len(h.entries) for h in self.stored.values())

    # ------------------------------------------------------------------ statistics
    def vcrs(self, prompt_id: str) -> float | None:
        """Rbar(q): mean of the last `window` fresh unhinted rewards; None for a prompt never seen unhinted."""
        return self.prompts[prompt_id].rbar if prompt_id in self.prompts else None

    def all_vcrs(self) -> list[float]:
        """This rank's Rbar values, in no particular order: what `refresh` wants from every rank."""
        return [h.rbar for h in self.prompts.values() if h.rbar is not None]

    def refresh(self, values: list[float] | None = None) -> None:
        """Recompute the tier thresholds from `values`, the Rbar of all prompts on all ranks (default: this rank's), move the prompts, and
        evict what a tier no longer holds."""
        self.ranking = np.sort(
            np.asarray(self.all_vcrs() if values is None else values, dtype=np.float64)
        )
        for history, tier in zip(
            self.prompts.values(), self._tiers([h.rbar for h in self.prompts.values()]), strict=True
        ):
            history.tier = tier
        self._evict()

    def _tiers(self, rbar: list[float | None]) -> list[str]:
        """Tiers by the place among all prompts; equal values share the middle of their ranks; unseen: medium."""
        if not len(self.ranking):
            return ["medium"] * len(rbar)
        values = np.array([np.nan if r is None else r for r in rbar])
        below, upto = np.searchsorted(self.ranking, [values - 1e-9, values + 1e-9])
        place = (below + upto) / 2 / len(self.ranking)
        hard, medium = SHARES["hard"], SHARES["hard"] + SHARES["medium"]
        return [
            "medium" if np.isnan(v) else "hard" if p < hard else "medium" if p < medium else "easy"
            for v, p in zip(values, place, strict=True)
        ]

    def tier(self, prompt_id: str) -> str:
        """The prompt's tier as of its last visit or the last `refresh`; unseen: medium."""
        return self.prompts[prompt_id].tier if prompt_id in self.prompts else "medium"

    # ------------------------------------------------------------------ storing
    def add(self, prompt_id: str, group: list[Entry]) -> None:
        """Store the fresh group of one visit and update the prompt's VCRS and hint state (hinted rewards never enter VCRS)."""
        history = self.prompts.setdefault(prompt_id, PromptHistory(deque(maxlen=self.window)))
        for entry in group:
            entry.order, self.inserted = self.inserted, self.inserted + 1
            history.entries.append(entry)
        plain = [e for e in group if not e.hinted]
        history.rewards.extend(e.reward for e in plain)
        history.index()
        history.tier = self._tiers([history.rbar])[0]
        if history.entries:
            self.stored[prompt_id] = history
        if plain:
            solved = any(e.success for e in plain)
            history.failed_visits = 0 if solved else history.failed_visits + 1
            stuck = 0 < self.patience <= history.failed_visits
            stopped = (
                history.tier == "hard" and history.kl is not None and history.kl < self.hint_kl
            )
            history.hint_on = not solved and (history.hint_on or stuck or stopped)
        history.hint_next = history.hint_on and bool(
            plain
        )  # hinted and plain visits take turns while it is on

    def note_kl(self, prompt_id: str, kl: float) -> None:
        """Remember how far the policy has moved on a prompt's replayed completions (mean KL(pi_theta || pi_behaviour) per token)."""
        self.prompts[prompt_id].kl = kl

    def wants_hint(self, prompt_id: str) -> bool:
        """Should the next visit of this prompt show its hint?"""
        history = self.prompts.get(prompt_id)
        return bool(history and history.hint_next)

    def hinted_prompts(self) -> list[str]:
        """The ids of the prompts whose hint is on."""
        return [prompt_id for prompt_id, h in self.prompts.items() if h.hint_on]

    def expire(self, before: int) -> None:
        """Drop the entries that were written before step `before`."""
        for prompt_id, history in list(self.stored.items()):
            if history.entries[0].step < before:  # oldest first
                self._keep(prompt_id, [e for e in history.entries if e.step >= before])

    def _keep(self, prompt_id: str, entries: list[Entry]) -> None:
        history = self.stored[prompt_id]
        history.entries = entries
        history.index()
        if not entries:
            del self.stored[prompt_id]

    def _evict(self) -> None:
        """Bring every tier down to its room: oldest first, but a prompt's last success or last failure only when nothing else is left."""
        excess = {tier: held - self.room[tier] for tier, held in self.occupancy().items()}
        for tier in TIERS:
            for victim in (lambda h: h.spare, lambda h: h.entries[0]):
                if excess[tier] <= 0:
                    break
                heap = [
                    (v.order, prompt_id)
                    for prompt_id, h in self.stored.items()
                    if h.tier == tier and (v := victim(h))
                ]
                heapq.heapify(heap)
                while excess[tier] > 0 and heap:
                    prompt_id = heapq.heappop(heap)[1]
                    history = self.stored[prompt_id]
                    gone = victim(history)
                    self._keep(prompt_id, [e for e in history.entries if e is not gone])
                    excess[tier] -= 1
                    if history.entries and (v := victim(history)):
                        heapq.heappush(heap, (v.order, prompt_id))

    # ------------------------------------------------------------------ drawing
    def draw(
        self,
        n: int = 4,
        exclude: set[str] | frozenset[str] = frozenset(),
        before: int | None = None,
        by_tier: bool = True,
    ) -> tuple[str, list[Entry]] | None:
        """One stored prompt and up to n of its completions, or None when nothing (outside `exclude`) is stored. before: look only at completions
        written before that step.

        The tier is drawn at 40 / 35 / 25 % among those that hold a prompt with unlike rewards; a prompt whose rewards are all alike
        is drawn only when no other is left anywhere. Both a success and a failure are in the group when the prompt has both. by_tier False: all prompts
        with unlike rewards are equally likely.
        """
        unlikes: dict[str, list[str]] = {tier: [] for tier in TIERS}
        alike: list[str] = []
        for prompt_id, history in self.stored.items():
            if prompt_id in exclude:
                continue
            unlike = history.unlike
            if before is not None and history.entries[-1].step >= before:  # oldest first
                rewards = [e.reward for e in history.entries if e.step < before]
                if not rewards:
                    continue
                unlike = differ(rewards)
            (unlikes[history.tier] if unlike else alike).append(prompt_id)
        filled = [tier for tier in TIERS if unlikes[tier]]
        if filled:
            p = np.array([SHARES[tier] if by_tier else len(unlikes[tier]) for tier in filled])
            choices = unlikes[filled[self.rng.choice(len(filled), p=p / p.sum())]]
        elif alike:
            choices = alike
        else:
            return None
        prompt_id = choices[self.rng.integers(len(choices))]
        return prompt_id, self._pick(
            [e for e in self.stored[prompt_id].entries if before is None or e.step < before], n
        )

    def _pick(self, entries: list[Entry], n: int) -> list[Entry]:
        """n of the entries at random; the best and the worst outcome are both among them when they differ (and n > 1)."""
        order = [entries[i] for i in self.rng.permutation(len(entries))]
        picked = order[:n]
        for kind in (True, False):
            if (
                n > 1
                and all(e.success != kind for e in picked)
                and (rest := [e for e in order[n:] if e.success == kind])
            ):
                picked[-1] = rest[0]
        if (
            n > 1
            and len({round(e.reward, 6) for e in picked}) == 1
            and (rest := [e for e in order[n:] if abs(e.reward - picked[0].reward) > 1e-6])
        ):
            picked[-1] = rest[
                0
            ]  # all successes (or all failures), but of unlike reward: keep the unlikeness
        return picked

    # ------------------------------------------------------------------ reporting and saving
    def occupancy(self) -> dict[str, int]:
        """Completions held per tier."""
        held = dict.fromkeys(TIERS, 0)
        for history in self.stored.values():
            held[history.tier] += len(history.entries)
        return held

    def stats(self) -> dict[str, float]:
        """buffer_size, entries per tier, and the number of prompts whose hint is on."""
        held = self.occupancy()
        return {
            "buffer_size": sum(held.values()),
            **{f"tier_{t}": held[t] for t in reversed(TIERS)},
            "hints": len(self.hinted_prompts()),
        }

    def state_dict(self) -> dict:
        """Everything, as tensors, strings and numbers only (torch.load(weights_only=True) reads it)."""
        number = {prompt_id: i for i, prompt_id in enumerate(self.prompts)}
        rows = [
            (number[prompt_id], e) for prompt_id, h in self.stored.items() for e in h.entries
        ]  # the order of `stored` is part of the state
        return {
            "ids": list(self.prompts),
            "inserted": self.inserted,
            "rng": json.dumps(self.rng.bit_generator.state),
            "ranking": torch.from_numpy(self.ranking.copy()),
            "histories": [
                {
                    "rewards": list(h.rewards),
                    "failed_visits": h.failed_visits,
                    "hint_on": h.hint_on,
                    "hint_next": h.hint_next,
                    "kl": h.kl,
                    "tier": h.tier,
                }
                for h in self.prompts.values()
            ],
            "entries": [
                {
                    "prompt": i,
                    "reward": e.reward,
                    "accuracy": e.accuracy,
                    "step": e.step,
                    "hinted": e.hinted,
                    "parts": e.parts,
                    "order": e.order,
                    "length": len(e.tokens),
                }
                for i, e in rows
            ],
            "tokens": torch.from_numpy(
                np.concatenate([np.empty(0, np.int32), *(e.tokens for _, e in rows)]).astype(
                    np.int32
                )
            ),
            "logps": torch.from_numpy(
                np.concatenate([np.empty(0, np.float32), *(e.logps for _, e in rows)]).astype(
                    np.float32
                )
            ),
        }

    @staticmethod
    def deal(states: list[dict], mine: Callable[[str], bool]) -> dict:
        """One state dict of those of all ranks that there were, holding the prompts that are `mine` with all that is known and stored of them."""
        out = states[0] | {
            "ids": [],
            "histories": [],
            "entries": [],
            "inserted": max(s["inserted"] for s in states),
        }
        tokens, logps = [torch.empty(0, dtype=torch.int32)], [torch.empty(0)]
        for s in states:
            place, at = {}, 0
            for i, (prompt_id, history) in enumerate(zip(s["ids"], s["histories"], strict=True)):
                if mine(prompt_id):
                    place[i] = len(out["ids"])
                    out["ids"].append(prompt_id)
                    out["histories"].append(history)
            for row in s["entries"]:
                span = slice(at, at := at + row["length"])
                if row["prompt"] in place:
                    out["entries"].append(row | {"prompt": place[row["prompt"]]})
                    tokens.append(s["tokens"][span])
                    logps.append(s["logps"][span])
        return out | {"tokens": torch.cat(tokens), "logps": torch.cat(logps)}

    def load_state_dict(self, state: dict) -> None:
        """Continue exactly where `state_dict` was taken: the same draws follow."""
        self.inserted, self.ranking = state["inserted"], state["ranking"].numpy().copy()
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.prompts = {
            prompt_id: PromptHistory(
                deque(h["rewards"], maxlen=self.window),
                [],
                h["failed_visits"],
                h["hint_on"],
                h["hint_next"],
                h["kl"],
                h["tier"],
            )
            for prompt_id, h in zip(state["ids"], state["histories"], strict=True)
        }
        self.stored = {}
        tokens, logps, at = state["tokens"].numpy(), state["logps"].numpy(), 0
        for row in state["entries"]:
            span, prompt_id = slice(at, at := at + row["length"]), state["ids"][row["prompt"]]
            entry = Entry(
                tokens[span].copy(),
                logps[span].copy(),
                row["reward"],
                row["accuracy"],
                row["step"],
                row["hinted"],
                row["parts"],
                row["order"],
            )
            self.stored.setdefault(prompt_id, self.prompts[prompt_id]).entries.append(entry)
        for history in self.prompts.values():
            history.index()
