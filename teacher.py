"""teacher.py: the hint as a teacher of single tokens (--hint_teacher), ours and not the paper's.

A prompt that was asked without its hint is read once more with it. Where the policy would sooner
have written a token had it seen the hint, the token's advantage is raised, else it is lowered:

    A_t = w_t A + c g_t,   g_t = log pi(y_t | q, hint, y_<t) - log pi(y_t | q, y_<t) within +-1

`hint_gains` and `token_advantages` in tas.py are the formulas; here is the forward pass that they
need. The idea is that of RLSD (arXiv 2604.03128) and OPSD (arXiv 2601.18734).
"""

import torch
from torch import Tensor

from data import Prompt, PromptBuilder
from engine.batching import split_by_tokens
from groups import Group
from model import Features, Policy
from tas import hint_gains


@torch.no_grad()
def set_hint_terms(
    groups: list[Group],
    weight: float,
    policy: Policy,
    builder: PromptBuilder,
    features: Features,
    temperature: float,
) -> None:
    """Set the hint_terms of fresh groups, weight x g_t, by a forward pass under the hinted prompts.

    Only a group whose prompt has a hint and was asked without it gets them; none where the hinted
    prompt cannot be built, most often because it is too long.

    policy: the one that sampled. So g_t is of it in all updates of the rollout, and log pi(y_t | q)
    is what it has recorded. trap: never pass a sharded learner, which would wait for processes that
    have no such group.
    """
    asked = [group for group in groups if False in group.prompts and group.sample.hint]
    built = builder.build([group.sample for group in asked], [True] * len(asked))
    taught = []
    tokens = []  # of each row
    for group, prompt in zip(asked, built, strict=True):
        if isinstance(prompt, Prompt):
            taught.append((group, prompt))
            tokens.append(len(prompt.ids) + sum(len(entry.tokens) for entry in group.entries))

    for chunk in split_by_tokens(taught, tokens, policy.max_tokens):
        prompts = [prompt for _, prompt in chunk]
        completions = [[e.tokens.tolist() for e in group.entries] for group, _ in chunk]
        logp, _ = policy.completion_logps(
            prompts, features.of(prompts), completions, temperature
        )  # (N, R)
        hinted_logps = iter(logp.cpu())
        for group, _ in chunk:
            group.hint_terms = []
            for entry in group.entries:
                hinted_logp = next(hinted_logps)[: len(entry.tokens)]  # (L,)
                gains = hint_gains(hinted_logp, torch.from_numpy(entry.logps))  # (L,)
                group.hint_terms.append(weight * gains)


def hint_columns(groups: list[Group]) -> dict[str, list | Tensor]:
    """For the log: the mean hint_term of the tokens that have one, and how many groups do.

    The mean of a gain over the policy's own tokens estimates -KL(pi || pi with the hint), so it is
    below 0, but for its bounds and for chance.
    """
    terms: list[Tensor] = []
    n_taught = 0
    for group in groups:
        terms += group.hint_terms
        n_taught += bool(group.hint_terms)
    return {
        "hint_term": torch.cat(terms) if terms else [],
        "hint_taught_groups_sum": [n_taught],
    }
