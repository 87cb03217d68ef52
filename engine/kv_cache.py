"""engine/kv_cache.py: the keys and values that decoding reads, in two parts.

A prefix is stored once per prompt, a suffix once per completion (drawn here for two prompts, of
which the first has two completions):

    PrefixKV.keys[layer] (B, P, K, d)             SuffixKV.keys[layer] (N, Q + R, K, d)

    prompt 0 | p p p p p p p . . |  <---- c0 read | . . q | s s s s s s _ _ _ _ |
                                    <---- c1 read | . . q | s s s s s s _ _ _ _ |
    prompt 1 | p p p p p p p p p |  <---- c2 read | q q q | s s s s s s _ _ _ _ |

    p  prompt tokens, padded on the right        s  tokens sampled so far, written in place
    q  tokens of the question alone, padded      _  space for the tokens still to come
       on the left; Q = 0 unless questions       .  padding, masked
       about one clip share its prefill

One softmax runs over both sets of keys: each `attend` returns its log-sum-exps, and `join` of
engine/attention.py puts the two together. `attend` masks padding by a bias, which a GPU's kernels
for half precision do not take; there engine/kv_pieces.py reads these keys. A CUDA graph may hold
`bias`, `append` and `attend`, which write in place and read no value back; `keep` changes shapes
and stays outside.

"Prompt" here is what is prefilled once: a question's prompt, or the beginning that the prompts of
several questions about one clip share.

Dimensions: B prompts, M questions, N running completions, P prompt tokens, Q question tokens, R
tokens to be sampled, W suffix slots in use, D width, H query heads, K key-value heads, d head
width.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attention import attend


@dataclass
class Prefill:
    """What one pass over B prompts and M questions leaves behind for decoding. Lists of tensors
    have one per layer."""

    # Of each prompt
    lengths: list[int]  # tokens
    keys: list[Tensor]  # (B, P, K, d), right-padded
    values: list[Tensor]  # (B, P, K, d)

    # Of each question; its own tokens are those behind a shared prompt, none elsewhere
    prompt_of: Tensor  # (M,) its prompt
    question_lengths: Tensor  # (M,) its own tokens
    question_keys: list[Tensor]  # (M, Q, K, d), left-padded
    question_values: list[Tensor]  # (M, Q, K, d)
    hidden: Tensor  # (M, D) the state of its last token, which the first sampled token follows from
    position: Tensor  # (M,) where its completions start


class PrefillPieces:
    """What the passes of a prefill have computed so far: cut into prompts and questions, not yet
    padded. Keys and values are lists by layer of lists of tensors (tokens, K, d)."""

    def __init__(self, n_layers: int):
        self.prompt_keys: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.prompt_values: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.question_keys: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.question_values: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.hidden: list[Tensor] = []
        self.prompt_lengths: list[int] = []
        self.question_lengths: list[list[int]] = []

    def add(
        self,
        kv: list[tuple[Tensor, Tensor]],
        hidden: Tensor,
        prompt_lengths: list[int],
        question_lengths: list[list[int]],
    ) -> None:
        """Take in one pass over packed rows [prompt | question 1 | question 2 | .. ].

        kv: each layer's keys and values (T, K, d) of the stream. hidden: (questions, D), the state
        of each question's last token.
        """
        self.hidden.append(hidden)
        self.prompt_lengths += prompt_lengths
        self.question_lengths += question_lengths

        # where to cut the stream, and which of the pieces are prompts
        lengths: list[int] = []
        is_prompt: list[bool] = []
        for prompt_length, row_questions in zip(prompt_lengths, question_lengths, strict=True):
            lengths += [prompt_length, *row_questions]
            is_prompt += [True] + [False] * len(row_questions)

        for layer, (keys, values) in enumerate(kv):
            pieces = zip(keys.split(lengths), values.split(lengths), is_prompt, strict=True)
            for piece_keys, piece_values, piece_is_prompt in pieces:
                if piece_is_prompt:
                    self.prompt_keys[layer].append(piece_keys)
                    self.prompt_values[layer].append(piece_values)
                else:
                    self.question_keys[layer].append(piece_keys)
                    self.question_values[layer].append(piece_values)

    def pad(self, prompt_end: list[int]) -> Prefill:
        """All pieces, padded to one length. prompt_end: the position behind each prompt."""
        device = self.hidden[0].device
        question_lengths = list(itertools.chain.from_iterable(self.question_lengths))  # M

        # A question's completions start behind its own tokens, which start behind its prompt.
        prompt_of = []
        position = []
        for prompt, lengths in enumerate(self.question_lengths):
            prompt_of += [prompt] * len(lengths)
            position += [prompt_end[prompt] + length for length in lengths]

        # Questions end where sampled tokens begin, so they are padded on the left, and a sampled
        # token has one slot for all completions.
        return Prefill(
            lengths=self.prompt_lengths,
            keys=[pad_tokens(layer, "right") for layer in self.prompt_keys],
            values=[pad_tokens(layer, "right") for layer in self.prompt_values],
            prompt_of=torch.tensor(prompt_of, device=device),
            question_lengths=torch.tensor(question_lengths, device=device),
            question_keys=[pad_tokens(layer, "left") for layer in self.question_keys],
            question_values=[pad_tokens(layer, "left") for layer in self.question_values],
            hidden=torch.cat(self.hidden),
            position=torch.tensor(position, device=device),
        )


def pad_tokens(pieces: list[Tensor], side: str) -> Tensor:
    """Pieces (tokens, K, d) of different lengths -> (pieces, tokens of the longest, K, d)."""
    return nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_side=side)


class PrefixKV:
    """Keys and values of the prompts: stored once per prompt, read by all of its completions.

    lengths: tokens of each of the B prompts. keys, values: per layer (B, P, K, d), right-padded.
    prompt_of: (N,) the prompt of each completion, found by the question that it answers
    (question_of).

    To read a prompt's keys once, its queries must stand side by side: a table of B rows, one per
    prompt, and C columns, as many as completions are left of the prompt that has most. Here B = 2,
    C = 3, with c1 of prompt 0 gone:

        c0  c2  --        cell (N,)     0  1  3  4  5    where each completion stands
        c3  c4  c5        full          False            is every cell taken?
                          bias (B, 1, 1, P)              -inf on the padding of the prompts
    """

    def __init__(self, prefill: Prefill, question_of: Tensor):
        self.lengths = prefill.lengths
        self.keys = [by_head(k) for k in prefill.keys]
        self.values = [by_head(v) for v in prefill.values]
        self.prompt_of = prefill.prompt_of[question_of]  # (N,)
        self._lay_out()

    def _lay_out(self) -> None:
        """Set what follows from which completions and prompts are left: the table and the bias."""
        # trap: completions of one prompt must be neighbours, and prompt_of must not decrease. So it
        # is at the start, and `keep` passes over completions without changing their order.
        device = self.prompt_of.device
        counts = torch.bincount(self.prompt_of, minlength=len(self.lengths))  # (B,)
        self.per_prompt = int(counts.max())  # C
        first = (counts.cumsum(0) - counts)[self.prompt_of]  # (N,) its prompt's first completion
        column = torch.arange(len(self.prompt_of), device=device) - first  # (N,)
        self.cell = self.prompt_of * self.per_prompt + column  # (N,)
        self.full = len(self.prompt_of) == len(self.lengths) * self.per_prompt

        # the padding on the right of shorter prompts
        lengths = torch.tensor(self.lengths, device=device)  # (B,)
        padding = torch.arange(self.keys[0].shape[1], device=device) >= lengths[:, None]  # (B, P)
        self.bias = minus_inf_where(padding, self.keys[0].dtype)  # (B, 1, 1, P)

    def keep(self, index: Tensor) -> None:
        """Go on with these completions (n,), in ascending order, and with the prompts that have any
        of them."""
        # (b,) the prompts that are left, and (n,) their new numbers
        prompts, self.prompt_of = self.prompt_of[index].unique(return_inverse=True)
        if len(prompts) < len(self.lengths):
            self.lengths = [self.lengths[i] for i in prompts.tolist()]
            for layer in range(len(self.keys)):  # one by one, so that no second copy of all is held
                self.keys[layer] = by_head(self.keys[layer][prompts])
                self.values[layer] = by_head(self.values[layer][prompts])
        self._lay_out()

    def attend(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """q (N, H, d) against each completion's prompt -> output (N, H, d), log-sum-exp (N, H)."""
        keys = self.keys[layer].transpose(1, 2)  # (B, K, P, d)
        values = self.values[layer].transpose(1, 2)  # (B, K, P, d)
        heads = q.shape[1]

        # To the kernel, the query heads of all completions of a prompt are so many more queries.
        table = self._by_prompt(q, keys.shape[1])  # (B, K, C * H/K, d)
        out, lse = attend(table, keys, values, bias=self.bias)

        # back to one line per completion
        out = self._by_completion(out, heads)  # (N, H, d)
        lse = self._by_completion(lse[..., None], heads)  # (N, H, 1)
        return out, lse[..., 0]

    def _by_prompt(self, q: Tensor, kv_heads: int) -> Tensor:
        """(N, H, d) -> (B, K, C * H/K, d): what reads the same keys stands side by side."""
        _, heads, d = q.shape
        b = len(self.lengths)
        c = self.per_prompt

        # an empty cell holds a query of zeros, whose output nobody reads
        if not self.full:
            q = q.new_zeros(b * c, heads, d).index_copy(0, self.cell, q)  # (B * C, H, d)
        q = q.view(b, c, kv_heads, heads // kv_heads, d).transpose(1, 2)  # (B, K, C, H/K, d)
        return q.reshape(b, kv_heads, -1, d)

    def _by_completion(self, x: Tensor, heads: int) -> Tensor:
        """(B, K, C * H/K, e) -> (N, H, e): `_by_prompt` backwards."""
        b, kv_heads, _, e = x.shape
        c = self.per_prompt
        x = x.view(b, kv_heads, c, heads // kv_heads, e).transpose(1, 2)  # (B, C, K, H/K, e)
        x = x.reshape(b * c, heads, e)  # (B * C, H, e)
        return x if self.full else x[self.cell]


class SuffixKV:
    """Keys and values that a completion has for itself: of its question, and of what was sampled.

    keys, values: per layer (N, Q + R, K, d). The question takes the first Q slots, left-padded:
    from question_start (N,) on. Sampled token t is written to slot Q + t.
    question_of: (N,) the question that each completion answers.
    """

    def __init__(self, prefill: Prefill, question_of: Tensor, max_new_tokens: int):
        space = (0, 0, 0, 0, 0, max_new_tokens)  # none in d and heads, R slots behind the tokens
        self.keys = [by_head(F.pad(k[question_of], space)) for k in prefill.question_keys]
        self.values = [by_head(F.pad(v[question_of], space)) for v in prefill.question_values]
        self.question_tokens = prefill.question_keys[0].shape[1]  # Q
        question_lengths = prefill.question_lengths[question_of]  # (N,)
        self.question_start = self.question_tokens - question_lengths  # (N,)

    def keep(self, index: Tensor) -> None:
        """Go on with these completions (n,)."""
        for layer in range(len(self.keys)):
            self.keys[layer] = by_head(self.keys[layer][index])
            self.values[layer] = by_head(self.values[layer][index])
        self.question_start = self.question_start[index]

    def bias(self, slot: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """-inf on slots of no token yet, or of padding: (N, 1, 1, W), or (1, 1, 1, W) without
        questions. slot: (1,) where the newest token stands; a tensor, since it is counted up."""
        slots = torch.arange(width, device=slot.device)  # (W,)
        masked = (slots > slot)[None]  # (1, W)
        if self.question_tokens:
            masked = masked | (slots < self.question_start[:, None])  # (N, W)
        return minus_inf_where(masked, dtype)

    def append(self, layer: int, slot: Tensor, k: Tensor, v: Tensor) -> None:
        """Write the new tokens' keys and values (N, K, d), in place."""
        self.keys[layer].index_copy_(1, slot, k[:, None])
        self.values[layer].index_copy_(1, slot, v[:, None])

    def attend(self, layer: int, q: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """q (N, H, d) against its own suffix -> output (N, H, d), log-sum-exp (N, H)."""
        n, heads, d = q.shape
        keys = self.keys[layer][:, : bias.shape[-1]].transpose(1, 2)  # (N, K, W, d)
        values = self.values[layer][:, : bias.shape[-1]].transpose(1, 2)  # (N, K, W, d)
        q = q.view(n, keys.shape[1], -1, d)  # (N, K, H/K, d)
        out, lse = attend(q, keys, values, bias=bias)
        return out.reshape(n, heads, d), lse.reshape(n, heads)


def by_head(x: Tensor) -> Tensor:
    """(B, L, K, d) with the tokens of a head side by side in memory, on a CPU; else x as it is.

    A CPU's kernel reads one head after the other: so it takes about half of the time. A GPU's
    kernels want the heads of a token side by side (engine/kv_pieces.py).
    """
    if x.device.type != "cpu":
        return x
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def minus_inf_where(masked: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool (B, L) -> a bias (B, 1, 1, L) of attention scores: -inf where masked, 0 elsewhere."""
    bias = torch.zeros(masked.shape, dtype=dtype, device=masked.device)
    return bias.masked_fill_(masked, float("-inf"))[:, None, None]
