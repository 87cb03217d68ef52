"""replay.py: the stratified buffer of past completions, the prompts' running rewards (VCRS), and the rule for hints.

    fresh group of prompt q --add--> VCRS  Rbar(q) = mean of the last 20 fresh, unhinted rewards
                                     tier  by the place of Rbar(q) among all prompts: bottom 40 % hard, next 35 % medium, top 25 % easy
                                     store 10,000 completions, room 40 / 35 / 25 % per tier
    replayed group <--draw--         tier at 40 / 35 / 25 %, then ONE prompt of it, then 4 of its completions, good and bad

An entry is tokens + behaviour log-probs + reward; no pixels, no sound: the media are decoded or cached elsewhere, once per clip.

How this differs from the paper and its released trainer:
 1. A prompt is its dataset id: question AND media. The trainer's key is the question's text, so clips share histories.
 2. Tiers are found anew from the current Rbar of all prompts, and a prompt carries its completions along; in the trainer an entry's
    tier is frozen when it is stored. Equal Rbar share one place (the middle of their ranks); the trainer sends ties to hard.
 3. A replayed group is several completions of ONE prompt, success and failure both present whenever the buffer has both.
 4. Visits count for the hint rule, not completions, and "without success" means accuracy 0, whatever the format reward gave.
    While a hint is on, every other visit is asked without it, since only an unhinted success may switch it off.
 5. Everything here is part of the checkpoint: entries, statistics, hint states, random state.

This module imports nothing of ours.
"""
import json
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch

TIERS = ("hard", "medium", "easy")
SHARES = {"hard": 0.40, "medium": 0.35, "easy": 0.25}  # of the capacity, of the draws, and of the prompts
SUCCESS = 0.5                                          # an accuracy reward from here on counts as a success


@dataclass
class Entry:
    """One stored completion. tokens (L,) int32, EOS included; logps (L,) float32 under the policy that wrote it; step: when."""
    tokens: np.ndarray
    logps: np.ndarray
    reward: float
    accuracy: float
    step: int
    hinted: bool = False
    order: int = 0  # insertion number, given by the buffer

    @property
    def success(self) -> bool:
        return self.accuracy >= SUCCESS


@dataclass
class PromptHistory:
    """What is known of one prompt: its stored completions (oldest first), its window of rewards, its hint state."""
    entries: list[Entry] = field(default_factory=list)
    rewards: deque = field(default_factory=deque)
    failed_visits: int = 0   # unhinted visits in a row without a success
    hint_on: bool = False
    hint_next: bool = False  # while the hint is on: is the next visit a hinted one?


class ReplayBuffer:
    """The stratified buffer of one rank. Prompts belong to ranks by id, so a history never spans two.

    capacity: completions in all; window: rewards in Rbar(q); patience: unhinted visits without success before a hint (0: no hints).
    """

    def __init__(self, capacity: int = 10_000, window: int = 20, patience: int = 3, seed: int = 0):
        if capacity < 1 or window < 1 or patience < 0:
            raise ValueError(f"capacity {capacity} and window {window} must be positive, patience {patience} not negative")
        self.room = {tier: round(capacity * share) for tier, share in SHARES.items()}
        self.window, self.patience = window, patience
        self.prompts: dict[str, PromptHistory] = {}
        self.inserted = 0
        self.ranking = np.empty(0)  # sorted Rbar of all prompts seen, on all ranks
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return sum(len(h.entries) for h in self.prompts.values())

    # ------------------------------------------------------------------ statistics
    def vcrs(self, prompt_id: str) -> float | None:
        """Rbar(q): mean of the last `window` fresh unhinted rewards; None for a prompt never seen unhinted."""
        history = self.prompts.get(prompt_id)
        return float(np.mean(history.rewards)) if history and history.rewards else None

    def all_vcrs(self) -> list[float]:
        """This rank's Rbar values, in no particular order: what `refresh` wants from every rank."""
        return [float(np.mean(h.rewards)) for h in self.prompts.values() if h.rewards]

    def refresh(self, values: list[float] | None = None) -> None:
        """Recompute the tier thresholds from `values`, the Rbar of all prompts on all ranks (default: this rank's), and evict what a
        tier that prompts have moved into no longer holds."""
        self.ranking = np.sort(np.asarray(self.all_vcrs() if values is None else values))
        self._evict()

    def tier(self, prompt_id: str) -> str:
        """The prompt's tier by its place among all prompts; equal values share the middle of their ranks; unseen: medium."""
        rbar = self.vcrs(prompt_id)
        if rbar is None or not len(self.ranking):
            return "medium"
        below, upto = np.searchsorted(self.ranking, [rbar - 1e-9, rbar + 1e-9])
        place = (below + upto) / 2 / len(self.ranking)
        return "hard" if place < SHARES["hard"] else "medium" if place < SHARES["hard"] + SHARES["medium"] else "easy"

    # ------------------------------------------------------------------ storing
    def add(self, prompt_id: str, group: list[Entry]) -> None:
        """Store the fresh group of one visit and update the prompt's VCRS and hint state (hinted rewards never enter VCRS)."""
        history = self.prompts.setdefault(prompt_id, PromptHistory(rewards=deque(maxlen=self.window)))
        for entry in group:
            entry.order, self.inserted = self.inserted, self.inserted + 1
            history.entries.append(entry)
        plain = [e for e in group if not e.hinted]
        history.rewards.extend(e.reward for e in plain)
        if plain:
            solved = any(e.success for e in plain)
            history.failed_visits = 0 if solved else history.failed_visits + 1
            history.hint_on = not solved and (history.hint_on or 0 < self.patience <= history.failed_visits)
        history.hint_next = history.hint_on and bool(plain)   # hinted and plain visits take turns while it is on

    def wants_hint(self, prompt_id: str) -> bool:
        """Should the next visit of this prompt show its hint?"""
        history = self.prompts.get(prompt_id)
        return bool(history and history.hint_next)

    def _evict(self) -> None:
        """Bring every tier down to its room: oldest first, but a prompt's last success or last failure only when nothing else is left."""
        members: dict[str, list[tuple[int, str, Entry]]] = {tier: [] for tier in TIERS}
        for prompt_id, history in self.prompts.items():
            members[self.tier(prompt_id)] += [(e.order, prompt_id, e) for e in history.entries]
        for tier, entries in members.items():
            excess = len(entries) - self.room[tier]
            if excess <= 0:
                continue
            entries.sort(key=lambda item: item[0])
            kept: list[tuple[int, str, Entry]] = []
            for protect in (True, False):
                for item in entries:
                    _, prompt_id, entry = item
                    stored = self.prompts[prompt_id].entries
                    last_of_kind = sum(e.success == entry.success for e in stored) == 1
                    if excess > 0 and not (protect and last_of_kind):
                        self.prompts[prompt_id].entries = [e for e in stored if e is not entry]
                        excess -= 1
                    else:
                        kept.append(item)
                entries, kept = kept, []

    # ------------------------------------------------------------------ drawing
    def draw(self, n: int = 4, exclude: set[str] | frozenset[str] = frozenset()) -> tuple[str, list[Entry]] | None:
        """One stored prompt and up to n of its completions, or None when nothing (outside `exclude`) is stored.

        The tier is drawn at 40 / 35 / 25 % among those that hold a prompt with unlike rewards; a prompt whose rewards are all alike
        is drawn only when no other is left anywhere. Both a success and a failure are in the group when the prompt has both.
        """
        by_tier: dict[str, list[str]] = {tier: [] for tier in TIERS}
        alike: list[str] = []
        for prompt_id, history in self.prompts.items():
            if prompt_id in exclude or not history.entries:
                continue
            rewards = [e.reward for e in history.entries]
            if max(rewards) - min(rewards) > 1e-6:
                by_tier[self.tier(prompt_id)].append(prompt_id)
            else:
                alike.append(prompt_id)
        filled = [tier for tier in TIERS if by_tier[tier]]
        if filled:
            p = np.array([SHARES[tier] for tier in filled])
            choices = by_tier[filled[self.rng.choice(len(filled), p=p / p.sum())]]
        elif alike:
            choices = alike
        else:
            return None
        prompt_id = choices[self.rng.integers(len(choices))]
        return prompt_id, self._pick(self.prompts[prompt_id].entries, n)

    def _pick(self, entries: list[Entry], n: int) -> list[Entry]:
        """n of the entries at random; the best and the worst outcome are both among them when they differ (and n > 1)."""
        order = [entries[i] for i in self.rng.permutation(len(entries))]
        picked = order[:n]
        for kind in (True, False):
            if n > 1 and all(e.success != kind for e in picked) and (rest := [e for e in order[n:] if e.success == kind]):
                picked[-1] = rest[0]
        if n > 1 and len({round(e.reward, 6) for e in picked}) == 1 and (rest := [e for e in order[n:] if abs(e.reward - picked[0].reward) > 1e-6]):
            picked[-1] = rest[0]    # all successes (or all failures), but of unlike reward: keep the unlikeness
        return picked

    # ------------------------------------------------------------------ reporting and saving
    def stats(self) -> dict[str, float]:
        """buffer_size, entries per tier, and the number of prompts whose hint is on."""
        held = dict.fromkeys(TIERS, 0)
        for prompt_id, history in self.prompts.items():
            held[self.tier(prompt_id)] += len(history.entries)
        return {"buffer_size": len(self), **{f"tier_{t}": held[t] for t in reversed(TIERS)},
                "hints": sum(h.hint_on for h in self.prompts.values())}

    def state_dict(self) -> dict:
        """Everything, as tensors, strings and numbers only (torch.load(weights_only=True) reads it)."""
        rows = [(i, e) for i, h in enumerate(self.prompts.values()) for e in h.entries]
        return {"ids": list(self.prompts), "inserted": self.inserted, "rng": json.dumps(self.rng.bit_generator.state),
                "ranking": torch.from_numpy(self.ranking.copy()),
                "histories": [{"rewards": list(h.rewards), "failed_visits": h.failed_visits, "hint_on": h.hint_on, "hint_next": h.hint_next}
                              for h in self.prompts.values()],
                "entries": [{"prompt": i, "reward": e.reward, "accuracy": e.accuracy, "step": e.step, "hinted": e.hinted, "order": e.order,
                             "length": len(e.tokens)} for i, e in rows],
                "tokens": torch.from_numpy(np.concatenate([np.empty(0, np.int32), *(e.tokens for _, e in rows)]).astype(np.int32)),
                "logps": torch.from_numpy(np.concatenate([np.empty(0, np.float32), *(e.logps for _, e in rows)]).astype(np.float32))}

    def load_state_dict(self, state: dict) -> None:
        """Continue exactly where `state_dict` was taken: the same draws follow."""
        self.inserted, self.ranking = state["inserted"], state["ranking"].numpy().copy()
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.prompts = {prompt_id: PromptHistory([], deque(h["rewards"], maxlen=self.window), h["failed_visits"], h["hint_on"], h["hint_next"])
                        for prompt_id, h in zip(state["ids"], state["histories"], strict=True)}
        tokens, logps, at = state["tokens"].numpy(), state["logps"].numpy(), 0
        for row in state["entries"]:
            span = slice(at, at := at + row["length"])
            entry = Entry(tokens[span].copy(), logps[span].copy(), row["reward"], row["accuracy"], row["step"], row["hinted"], row["order"])
            self.prompts[state["ids"][row["prompt"]]].entries.append(entry)
