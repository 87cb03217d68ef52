"""groups.py: what a group is, and how groups are packed into rows."""

from dataclasses import dataclass

import torch

from data import Prompt
from engine.batching import split_by_tokens


@dataclass
class Group:
    """Completions of one prompt that are trained together. advantages, rewards (G,); steps: when each was written."""

    prompt: Prompt
    tokens: list[list[int]]
    behaviour: list[list[float]]
    rewards: list[float]
    advantages: torch.Tensor
    replayed: bool
    steps: list[int]


def pack_rows(groups: list[Group], max_tokens: int) -> list[list[list[Group]]]:
    """Micro-batches of packed rows: a row is the groups, fresh and replayed, that were written for one and the same prompt (a hint makes another
    one of it), so that they share its prefix. A micro-batch holds rows of at most max_tokens tokens, or a single longer one."""
    rows: dict[tuple[str, bool], list[Group]] = {}
    for g in groups:
        rows.setdefault((g.prompt.sample.id, g.prompt.hinted), []).append(g)
    return split_by_tokens(
        list(rows.values()),
        [
            len(row[0].prompt.ids) + sum(len(t) for g in row for t in g.tokens)
            for row in rows.values()
        ],
        max_tokens,
    )
