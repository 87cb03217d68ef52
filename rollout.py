"""rollout.py: sample G completions of each prompt, with one prefill per prompt.

    prompts (B) --prefill--> KV of B prompts --select--> KV of B*G rows --decode, token by token--> completions
                                                              ^ rows that have ended are dropped every few steps

The log-prob of every sampled token is recorded while sampling, in fp32 and over the same ids and at the same temperature as the
trainer's: these are the behaviour log-probs of the importance ratio, so no second pass is needed to get them.
top_k and top_p are off by default: they cut the distribution that is sampled but not the one that is trained, which breaks the ratio.
When they are on, the recorded log-prob is still the untruncated one.

Dimensions: B prompts, G completions of each, N = B * G rows still running, V vocabulary.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from data import Prompt
from model import Policy

COMPACT_EVERY = 8  # decode steps between two removals of finished rows


@dataclass
class Completion:
    """One sampled completion. tokens include the EOS when there is one; logps (L,) are fp32 log-probs under the policy that sampled
    them; text is without special tokens; finished: it ended by EOS, not by the length limit."""
    tokens: list[int]
    logps: list[float]
    text: str
    finished: bool


def truncate(logp: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(N, V) log-probs -> the same with everything outside the top k ids / the top-p nucleus at -inf. 0 and 1.0 switch them off."""
    if top_k:
        kth = logp.topk(min(top_k, logp.shape[-1]), dim=-1).values[:, -1:]                     # (N, 1)
        logp = logp.masked_fill(logp < kth, float("-inf"))
    if top_p < 1.0:
        ordered, index = logp.sort(dim=-1, descending=True)                                   # (N, V)
        before = ordered.exp().cumsum(-1) - ordered.exp()                                     # mass in front of each id
        logp = logp.masked_fill((before >= top_p).scatter(-1, index, before >= top_p), float("-inf"))
    return logp


def sample(logp: Tensor, generator: torch.Generator | None, greedy: bool = False) -> Tensor:
    """(N, V) log-probs -> (N,) ids: arg max, or a draw by the Gumbel trick (logp may be unnormalised)."""
    if greedy:
        return logp.argmax(-1)
    noise = torch.empty_like(logp).exponential_(generator=generator).clamp_(min=1e-30)
    return (logp - noise.log()).argmax(-1)                       # -log of an exponential is a Gumbel variable


@torch.no_grad()
def generate(policy: Policy, prompts: list[Prompt], n: int, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0,
             top_p: float = 1.0, generator: torch.Generator | None = None) -> list[list[Completion]]:
    """n completions of each prompt, at most max_new_tokens long. temperature 0 is greedy (log-probs are then those at temperature 1).

    All prompts decode together as one batch. Returns one list of n Completions per prompt.
    """
    greedy, temperature = temperature == 0, temperature or 1.0
    cache, last, mask, start = policy.prefill(prompts, policy.features(prompts))
    rows = torch.arange(len(prompts), device=policy.device).repeat_interleave(n)          # (N,) prompt of each running row
    running = torch.arange(len(rows), device=policy.device)                               # (N,) output row of each running row
    cache.batch_select_indices(rows)
    hidden, mask, position = last[rows], mask[rows], start[rows]                          # (N, D), (N, P), (N,)
    tokens = torch.zeros(len(rows), max_new_tokens, dtype=torch.long, device=policy.device)
    logps = torch.zeros(len(rows), max_new_tokens, device=policy.device)
    lengths = torch.zeros(len(rows), dtype=torch.long, device=policy.device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=policy.device)                # over all output rows
    eos = torch.tensor(policy.eos_ids, device=policy.device)
    for t in range(max_new_tokens):
        logp = policy.log_distribution(hidden, temperature)                               # (N, V)
        token = sample(truncate(logp, top_k, top_p), generator, greedy)                   # (N,)
        alive = ~ended[running]
        tokens[running, t] = torch.where(alive, token, 0)
        logps[running, t] = torch.where(alive, logp.gather(-1, token[:, None]).squeeze(-1), 0.0)
        lengths[running] += alive
        ended[running] |= torch.isin(token, eos)
        if t % COMPACT_EVERY == COMPACT_EVERY - 1:
            keep = torch.nonzero(~ended[running]).squeeze(-1)
            if not len(keep):
                break
            if len(keep) < len(running):
                cache.batch_select_indices(keep)
                running, mask, position, token = running[keep], mask[keep], position[keep], token[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)                      # (N, P + t + 1)
        hidden = policy.step(token[:, None], position[:, None], cache, mask)[:, -1]       # (N, D)
        position = position + 1
    return pack(policy, tokens, logps, lengths, ended, n)


def pack(policy: Policy, tokens: Tensor, logps: Tensor, lengths: Tensor, ended: Tensor, n: int) -> list[list[Completion]]:
    """Tensors of all rows -> lists of Completions, n per prompt."""
    out = []
    for ids, lps, length, end in zip(tokens.tolist(), logps.tolist(), lengths.tolist(), ended.tolist(), strict=True):
        out.append(Completion(ids[:length], lps[:length], policy.tokenizer.decode(ids[:length], skip_special_tokens=True), end))
    return [out[i: i + n] for i in range(0, len(out), n)]
