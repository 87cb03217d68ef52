"""groups.py: what a group is, and how groups become batches of tensors.

A group is several completions of one prompt whose advantages are computed together.

    fresh      sampled in this step; advantages against the group's own mean (GRPO)
    replayed   written in earlier steps and drawn from the buffer, with the log-probs of the policy
               that wrote them; advantages against the prompt's history Rbar(q)

Both hold the buffer's own record of a completion (replay.Entry), so a fresh group is stored as it
is.

    generate, score --> Group --> buffer.add                 (steps 1-3)
    buffer.draw_groups --> Group                             (step 4)
    Group.advantages                                         (step 5)
    micro_batches(groups) --> Batch --> completion_logps     (step 6)

Completions that were written for the same prompt, fresh or replayed, share one packed row, so that
the prompt is computed once (the drawing is in model.py):

    row of prompt q:   [ prompt q | fresh 1 | fresh 2 | replayed 1 | replayed 2 | ... ]

A hint makes another prompt of a question. Hinted and plain completions of a replayed group share
their advantages, but each is trained under the prompt that it was written for, so they stand in two
rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data import Prompt
from engine.batching import split_by_tokens
from engine.distributed import gather
from formats.sample import Sample
from media.digest import media_digest
from model import Policy
from replay import Entry, ReplayedGroup, are_diverse
from rollout import Completion


@dataclass
class Group:
    """Completions of one prompt, with what is needed to train on them.

    prompts: the prompt as the model reads it, by whether it shows the hint; a fresh group has one,
    a replayed one what its entries need. advantages: (G,), set in step 5. history: of a fresh
    group, the earlier unhinted rewards of its prompt ([] for a hinted visit); None where a verdict
    of the judge is missing.
    hint_terms: what the hint as a teacher adds to each token's advantage, (L,) per completion; []:
    nothing.
    """

    prompt_id: str  # the dataset id: question and media
    prompts: dict[bool, Prompt]
    entries: list[Entry]
    replayed: bool
    advantages: Tensor | None = None
    sampled: list[Completion] = field(default_factory=list)  # of a fresh group, for the log
    history: list[float] | None = None
    hint_terms: list[Tensor] = field(default_factory=list)

    @property
    def sample(self) -> Sample:
        return next(iter(self.prompts.values())).sample

    @property
    def rewards(self) -> Tensor:
        """(G,)"""
        return torch.tensor([entry.reward for entry in self.entries])

    @property
    def has_diverse_rewards(self) -> bool:
        """Do the rewards differ? Where they are equal, advantages against the group's mean are 0;
        those against a shrunk baseline, and hint terms, are not."""
        return are_diverse([entry.reward for entry in self.entries])


def fresh_groups(
    prompts: list[Prompt],
    completions: list[list[Completion]],
    scores: list[list[dict]],
    step: int,
) -> list[Group]:
    """Sampled and scored completions -> one group per prompt.

    scores: of each completion its reward parts and their weighted sum `reward`
    (rewards.score_prompts).
    """
    groups = []
    for prompt, sampled, group_scores in zip(prompts, completions, scores, strict=True):
        # each completion in the form in which the buffer stores it
        entries = []
        for completion, rewards in zip(sampled, group_scores, strict=True):
            entry = Entry(
                tokens=np.array(completion.tokens, np.int32),
                logps=np.array(completion.logps, np.float32),
                reward=rewards["reward"],
                accuracy=rewards["accuracy"],
                step=step,
                hinted=prompt.hinted,
                scores=rewards,
            )
            entries.append(entry)

        group = Group(prompt.sample.id, {prompt.hinted: prompt}, entries, replayed=False)
        group.sampled = sampled
        groups.append(group)
    return groups


def replayed_groups(
    drawn: list[ReplayedGroup], build_prompt: Callable[[str, bool], Prompt | None]
) -> list[Group]:
    """What the buffer has drawn -> groups with their prompts built anew.

    build_prompt(id, hinted): the prompt; None where its media have gone since it was sampled, and
    then there is no group (run.stream.PromptStream.prompt, which counts it as dropped).
    """
    groups = []
    for prompt_id, entries in drawn:
        # the prompt without its hint, with it, or both: as the entries were written
        variants = {}
        for hinted in sorted({entry.hinted for entry in entries}):
            variants[hinted] = build_prompt(prompt_id, hinted)
        if None not in variants.values():
            groups.append(Group(prompt_id, variants, entries, replayed=True))
    return groups


def global_counts(groups: list[Group]) -> Tensor:
    """How many completions and tokens the step has, over all processes: (2, 2).

    The rows are fresh and replayed, the columns completions and tokens.

    The loss is divided by these, so that its sum over micro-batches and processes is that of the
    whole step, however the step is split.
    """
    counts = [[0, 0], [0, 0]]
    for group in groups:
        for entry in group.entries:
            counts[group.replayed][0] += 1
            counts[group.replayed][1] += len(entry.tokens)
    return torch.tensor(gather(counts)).sum(dim=0)  # (2, 2)


# ------------------------------------------------------------------------------ batches
@dataclass
class Batch:
    """N completions in some packed rows, as tensors padded to R tokens.

    Completions stand in the order of the rows and, inside a row, of its groups: the order in which
    Policy.completion_logps returns them.
    """

    prompts: list[Prompt]  # one per row
    completions: list[list[list[int]]]  # token ids of each row's completions, EOS included
    behaviour_logps: Tensor  # (N, R) under the policy that wrote them
    advantages: Tensor  # (N,)
    hint_term: Tensor  # (N, R) is added to each token's advantage
    is_replayed: Tensor  # (N,) bool
    written: Tensor  # (N,) the step in which each was written
    is_counted: Tensor  # (N,) bool; False in a filler, which is computed for other processes' sake
    prompt_ids: list[str]  # N
    entries: list[Entry]  # N; none in a filler

    def select(self, chosen: list[bool]) -> tuple[list[Prompt], list[list[list[int]]]]:
        """Prompts and completions of the chosen ones; rows without any are left out."""
        flags = iter(chosen)
        prompts: list[Prompt] = []
        completions: list[list[list[int]]] = []
        for prompt, row in zip(self.prompts, self.completions, strict=True):
            kept = [tokens for tokens in row if next(flags)]
            if kept:
                prompts.append(prompt)
                completions.append(kept)
        return prompts, completions


@dataclass
class Row:
    """One packed row: the completions that were written for one prompt."""

    prompt: Prompt
    entries: list[Entry]
    advantages: list[float]
    hint_terms: list[Tensor]  # (L,) of each
    replayed: list[bool]

    @property
    def tokens(self) -> int:
        return len(self.prompt.ids) + sum(len(entry.tokens) for entry in self.entries)


def packed_rows(groups: list[Group]) -> list[Row]:
    """Groups -> packed rows in their order, one per prompt; with its hint it is another prompt."""
    rows: dict[tuple[str, bool, str], Row] = {}
    for group in groups:
        # the content counts, too: a copy with masked media has a row of its own
        keys = {}
        for hinted, prompt in group.prompts.items():
            keys[hinted] = (group.prompt_id, hinted, media_digest(prompt))

        terms = group.hint_terms or [torch.zeros(len(entry.tokens)) for entry in group.entries]
        advantages = group.advantages.tolist()
        for entry, advantage, term in zip(group.entries, advantages, terms, strict=True):
            key = keys[entry.hinted]
            if key not in rows:
                rows[key] = Row(group.prompts[entry.hinted], [], [], [], [])
            rows[key].entries.append(entry)
            rows[key].advantages.append(advantage)
            rows[key].hint_terms.append(term)
            rows[key].replayed.append(group.replayed)
    return list(rows.values())


def collate(rows: list[Row], device: torch.device) -> Batch:
    """Packed rows -> one Batch."""
    # the completions of all rows, one after the other
    completions: list[list[list[int]]] = []
    behaviour_logps: list[Tensor] = []
    advantages: list[float] = []
    hint_terms: list[Tensor] = []
    replayed: list[bool] = []
    written: list[int] = []
    ids: list[str] = []
    entries: list[Entry] = []
    for row in rows:
        completions.append([entry.tokens.tolist() for entry in row.entries])
        behaviour_logps += [torch.from_numpy(entry.logps) for entry in row.entries]
        advantages += row.advantages
        hint_terms += row.hint_terms
        replayed += row.replayed
        written += [entry.step for entry in row.entries]
        ids += [row.prompt.sample.id] * len(row.entries)
        entries += row.entries

    return Batch(
        prompts=[row.prompt for row in rows],
        completions=completions,
        behaviour_logps=pad_sequence(behaviour_logps, batch_first=True).to(device),  # (N, R)
        advantages=torch.tensor(advantages, device=device),  # (N,)
        hint_term=pad_sequence(hint_terms, batch_first=True).to(device),  # (N, R)
        is_replayed=torch.tensor(replayed, device=device),  # (N,)
        written=torch.tensor(written, device=device),  # (N,)
        is_counted=torch.ones(len(ids), dtype=torch.bool, device=device),  # (N,)
        prompt_ids=ids,
        entries=entries,
    )


def micro_batches(groups: list[Group], max_tokens: int, learner: Policy) -> list[Batch]:
    """Groups -> Batches of at most max_tokens tokens, or of a single row that is longer.

    Where the learner is sharded all processes get equally many, for every forward and backward pass
    is a message between them. Who has fewer gets fillers.
    """
    rows = packed_rows(groups)
    batches = []
    for chunk in split_by_tokens(rows, [row.tokens for row in rows], max_tokens):
        batches.append(collate(chunk, learner.device))

    if learner.is_sharded:
        batches += [filler(learner.device)] * missing_batches(len(batches))
    return batches


def missing_batches(n: int) -> int:
    """How many micro-batches this process, which has n, lacks to the process that has most."""
    return max(gather(n)) - n


def filler(device: torch.device) -> Batch:
    """A batch of one prompt token and two completion tokens, whose loss and gradient are 0.

    Two, so that every layer has a completion token to pass: the last one predicts nothing.
    """
    token = 0  # any id will do: its log-prob counts nowhere
    sample = Sample("", "", "numeric", "")
    prompt = Prompt(sample, False, torch.tensor([token]), torch.zeros(3, 1, dtype=torch.long))
    return Batch(
        prompts=[prompt],
        completions=[[[token, token]]],
        behaviour_logps=torch.zeros(1, 2, device=device),  # (1, 2)
        advantages=torch.zeros(1, device=device),  # (1,)
        hint_term=torch.zeros(1, 2, device=device),  # (1, 2)
        is_replayed=torch.zeros(1, dtype=torch.bool, device=device),  # (1,)
        written=torch.zeros(1, dtype=torch.long, device=device),  # (1,)
        is_counted=torch.zeros(1, dtype=torch.bool, device=device),  # (1,)
        prompt_ids=[""],
        entries=[],
    )
