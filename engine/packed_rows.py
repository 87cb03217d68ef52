"""engine/packed_rows.py: where the tokens of packed rows stand, and attention over them.

A packed row is a prompt with all its suffixes: completions in training, questions in a prefill.
The rows of a batch stand one behind the other in a stream, without padding:

    [ prompt 1 | suffix 1 | suffix 2 | .. ][ prompt 2 | suffix 1 | .. ] ..

                  keys: prompt  s1      s2
    queries  prompt     causal
             s1         all     causal
             s2         all             causal

The prompt is causal. A suffix sees all of its prompt (part 1) and itself, causally (part 2), but no
other suffix. `join` puts the two parts together by their log-sum-exps. Backward, each part gets the
JOINED output and log-sum-exp, which makes its gradient exact (ring attention uses this identity,
arXiv 2310.01889).

Of the last layer's output, only one state of each prompt is needed: that of its last token, which
predicts the first token of every suffix. So the last layer computes keys and values of all tokens,
but queries, and what is computed from them, for this token and the suffixes alone. Hence two
layouts: of all layers but the last, and of the last one.

Worked example: a prompt of P = 3 tokens with suffixes of 2 and 1 tokens. The stream has T = 6:

    index in the stream          0  1  2 | 3  4 | 5
    token                        p  p  p | a  a | b
    query of the last layer            0 | 1  2 | 3

>>> layouts = packed_layouts([3], [[2, 1]], "cpu")
>>> body = layouts.all_but_last_layer      # keys and queries are both numbered as in the stream
>>> body.prompt_keys
[slice(0, 3, None)]
>>> body.causal_queries                    # the prompt: p p p
[slice(0, 3, None)]
>>> body.full_queries                      # what sees the whole prompt: a a b
[slice(3, 6, None)]
>>> body.block_k.tolist()                  # a suffix per line; 0 is padding
[[3, 4], [5, 0]]
>>> body.block_cells.tolist()              # the cells [a, a, b, padding] that hold tokens
[0, 1, 2]
>>> body.suffix_k.tolist()
[3, 4, 5]

>>> last = layouts.last_layer              # its keys are those of the stream, its queries are fewer
>>> last.asked.tolist()                    # the tokens with a query: the last p, a, a, b
[2, 3, 4, 5]
>>> last.causal_queries                    # no query of the prompt's other tokens
[slice(0, 0, None)]
>>> last.full_queries                      # the prompt's last token sees all of the prompt, too
[slice(0, 4, None)]
>>> last.block_q.tolist(), last.block_k.tolist()
([[1, 2], [3, 0]], [[3, 4], [5, 0]])
>>> last.suffix_q.tolist(), last.suffix_k.tolist()
([1, 2, 3], [3, 4, 5])

>>> layouts.prompt_end.tolist()            # the last p: its state predicts the first a and the b
[0, 0]
>>> layouts.suffix_end.tolist()            # the second a, and the b
[2, 3]

Dimensions: T tokens of the stream, n queries, N suffixes, S tokens of the longest one, H query
heads, K key-value heads, d head width.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attention import attend, attend_backward, join


class PromptPart(NamedTuple):
    """Queries of one row against the keys of its prompt, both as slices."""

    queries: slice
    keys: slice
    causal: bool


@dataclass
class Layout:
    """Which queries see which keys. Keys are numbered as in the stream, queries by `asked`."""

    asked: Tensor | None  # (n,) the tokens of the stream that have a query; None: all of them

    # Part 1, one entry per row: the prompt's keys, its own queries (causal), and those that see all
    # of it. Slices may be empty.
    prompt_keys: list[slice]
    causal_queries: list[slice]
    full_queries: list[slice]

    # Part 2: the suffixes as a block, one per line, padded on the right. block_q and block_k say
    # which query and key stands in a cell, block_cells (m,) which of the N * S cells hold tokens.
    # suffix_q and suffix_k are the same queries and keys without the padding.
    block_q: Tensor  # (N, S)
    block_k: Tensor  # (N, S)
    block_cells: Tensor  # (m,)
    suffix_q: Tensor  # (m,)
    suffix_k: Tensor  # (m,)

    def prompt_parts(self) -> Iterator[PromptPart]:
        """Part 1, call by call: first each prompt with itself, then what sees all of a prompt."""
        for query_slices, causal in ((self.causal_queries, True), (self.full_queries, False)):
            for queries, keys in zip(query_slices, self.prompt_keys, strict=True):
                if queries.stop > queries.start:
                    yield PromptPart(queries, keys, causal)


class PackedLayouts(NamedTuple):
    """The layouts of a stream, and where the last layer's output holds the states that matter."""

    all_but_last_layer: Layout
    last_layer: Layout
    prompt_end: Tensor  # (N,) of each suffix, its prompt's last token: predicts the suffix's first
    suffix_end: Tensor  # (N,) of each suffix, its own last token; of an empty one, prompt_end


@dataclass
class PackedRows:
    """[prompt | suffix 1 | .. | suffix G] of each prompt, all rows in one stream.

    A suffix is a completion without its last token (in training), or a question (in a prefill).
    """

    prompt_lengths: list[int]
    suffix_lengths: list[list[int]]
    vectors: Tensor  # (T, D) what the decoder reads
    positions: Tensor  # (3, T) time, height, width
    layouts: PackedLayouts  # who attends to whom

    # Qwen3-VL: what is added to the states of the vision tokens after the first layers
    vision_tokens: Tensor | None  # (m,) their places in the stream
    deepstack: list[Tensor]  # (m, D) for each of these layers


def row_lengths(prompts: list, suffixes: list[list[list[int]]]) -> list[int]:
    """Tokens of each packed row. prompts: of `data.Prompt`; suffixes: token ids."""
    lengths = []
    for prompt, row_suffixes in zip(prompts, suffixes, strict=True):
        lengths.append(len(prompt.ids) + sum(len(suffix) for suffix in row_suffixes))
    return lengths


def packed_layouts(
    prompt_lengths: list[int], suffix_lengths: list[list[int]], device: torch.device | str
) -> PackedLayouts:
    """Lay out rows of prompts and of the suffixes that follow on each. (Example: see the top.)

    prompt_lengths, suffix_lengths: tokens of each row's prompt, and of each of its suffixes.
    """
    prompts: list[slice] = []
    suffixes: list[slice] = []  # all of a row's suffixes together
    suffix_starts: list[int] = []
    asked: list[int] = []  # what the last layer asks
    asked_of_row: list[slice] = []  # where a row's tokens stand among those asked
    prompt_end: list[int] = []
    suffix_end: list[int] = []

    row_start = 0
    for p, lengths in zip(prompt_lengths, suffix_lengths, strict=True):
        prompt_stop = row_start + p
        row_stop = prompt_stop + sum(lengths)
        prompts.append(slice(row_start, prompt_stop))
        suffixes.append(slice(prompt_stop, row_stop))

        # the last layer asks a row from its prompt's last token on
        first_asked = len(asked)
        asked += range(prompt_stop - 1, row_stop)
        asked_of_row.append(slice(first_asked, len(asked)))

        offset = 0  # tokens of the row's suffixes so far
        for length in lengths:
            suffix_starts.append(prompt_stop + offset)
            offset += length
            prompt_end.append(first_asked)
            suffix_end.append(first_asked + offset if length else first_asked)
        row_start = row_stop

    # all layers but the last: a token's query has the number of its key
    flat_lengths = list(itertools.chain.from_iterable(suffix_lengths))  # N
    block, cells = suffix_block(suffix_starts, flat_lengths, device)  # (N, S), (m,)
    suffix_tokens = block.flatten()[cells]  # (m,)
    body = Layout(
        asked=None,
        prompt_keys=prompts,
        causal_queries=prompts,
        full_queries=suffixes,
        block_q=block,
        block_k=block,
        block_cells=cells,
        suffix_q=suffix_tokens,
        suffix_k=suffix_tokens,
    )

    # prompt_end, suffix_end: numbered as the last layer's output, which has one state per query
    return PackedLayouts(
        all_but_last_layer=body,
        last_layer=last_layout(body, torch.tensor(asked, device=device), asked_of_row, row_start),
        prompt_end=torch.tensor(prompt_end, dtype=torch.long, device=device),  # (N,)
        suffix_end=torch.tensor(suffix_end, dtype=torch.long, device=device),  # (N,)
    )


def last_layout(body: Layout, asked: Tensor, asked_of_row: list[slice], n_tokens: int) -> Layout:
    """The layout of the last layer: the same keys, but a query has the number of its token among
    those asked.

    asked (n,): the stream's tokens with a query; asked_of_row: where each row's stand among them.
    """
    number = torch.zeros(n_tokens, dtype=torch.long, device=asked.device)  # (T,)
    number[asked] = torch.arange(len(asked), device=asked.device)  # (n,)
    return replace(
        body,
        asked=asked,
        causal_queries=[slice(0, 0)] * len(asked_of_row),
        full_queries=asked_of_row,
        block_q=number[body.block_q],
        suffix_q=number[body.suffix_q],
    )


def suffix_block(
    starts: list[int], lengths: list[int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """The tokens of the suffixes that begin at `starts`, as a block (N, S), and which of its N * S
    cells hold tokens, (m,).

    Padding is 0, a token like any other, so that the block can be an index; what is computed for it
    is thrown away (`unpad`).

    >>> block, cells = suffix_block([3, 5], [2, 1], "cpu")
    >>> block.tolist(), cells.tolist()
    ([[3, 4], [5, 0]], [0, 1, 2])
    """
    first = torch.tensor(starts, dtype=torch.long, device=device)[:, None]  # (N, 1)
    length = torch.tensor(lengths, dtype=torch.long, device=device)[:, None]  # (N, 1)
    column = torch.arange(max(lengths, default=0), device=device)  # (S,)
    is_token = column < length  # (N, S)
    block = torch.where(is_token, first + column, 0)  # (N, S)
    return block, is_token.flatten().nonzero().squeeze(-1)


class PackedAttention(torch.autograd.Function):
    """Attention over a stream: q (n, H, d) of the queries, k and v (T, K, d) -> (n, H, d)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        out = torch.empty_like(q)  # (n, H, d)
        lse = torch.empty(q.shape[:2], device=q.device)  # (n, H)

        # part 1: the prompts' keys, row by row
        for queries, keys, causal in layout.prompt_parts():
            prompt_out, prompt_lse = attend(
                one_row(q[queries]), one_row(k[keys]), one_row(v[keys]), causal
            )  # (1, H, queries, d), (1, H, queries)
            out[queries] = prompt_out[0].transpose(0, 1)
            lse[queries] = prompt_lse[0].transpose(0, 1)

        # Part 2: each suffix against itself, all in one call. Padding is on the right, so that no
        # token sees it. What part 1 wrote for these queries is joined with it.
        if len(layout.suffix_q):
            q_block = as_batch(q[layout.block_q])  # (N, H, S, d)
            k_block = as_batch(k[layout.block_k])  # (N, K, S, d)
            v_block = as_batch(v[layout.block_k])  # (N, K, S, d)
            block_out, block_lse = attend(q_block, k_block, v_block, causal=True)
            suffix_out = unpad(block_out, layout)  # (m, H, d)
            suffix_lse = unpad(block_lse[..., None], layout)[..., 0]  # (m, H)
            suffix = layout.suffix_q  # (m,)
            out[suffix], lse[suffix] = join(out[suffix], lse[suffix], suffix_out, suffix_lse)

        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        layout = ctx.layout
        dq = torch.zeros_like(q)  # (n, H, d)
        dk = torch.zeros_like(k)  # (T, K, d)
        dv = torch.zeros_like(v)  # (T, K, d)

        # Part 1, given the joined output and log-sum-exp. trap: a prompt's keys get gradients from
        # its own queries and from the suffixes, so both calls are added.
        for queries, keys, causal in layout.prompt_parts():
            dq_part, dk_part, dv_part = attend_backward(
                one_row(grad[queries]),
                one_row(q[queries]),
                one_row(k[keys]),
                one_row(v[keys]),
                one_row(out[queries]),
                lse[queries].transpose(0, 1)[None],  # (1, H, n)
                causal,
            )
            dq[queries] += dq_part[0].transpose(0, 1)
            dk[keys] += dk_part[0].transpose(0, 1)
            dv[keys] += dv_part[0].transpose(0, 1)

        # Part 2, likewise. trap: a cell of padding holds query 0. Its scores of a suffix's keys may
        # be anything, and it must add nothing to their gradients. So its gradient is 0 and its
        # log-sum-exp infinite, which makes exp(score - lse) 0. (With query 0's own log-sum-exp that
        # may overflow, and 0 times infinity is NaN.)
        if len(layout.suffix_q):
            grad_block = pad(grad[layout.suffix_q], layout, 0.0)  # (N, S, H, d)
            lse_block = pad(lse[layout.suffix_q], layout, float("inf"))  # (N, S, H)
            dq_block, dk_block, dv_block = attend_backward(
                as_batch(grad_block),
                as_batch(q[layout.block_q]),
                as_batch(k[layout.block_k]),
                as_batch(v[layout.block_k]),
                as_batch(out[layout.block_q]),
                lse_block.transpose(1, 2),  # (N, H, S)
                causal=True,
            )
            # Each token stands in one cell, so that += on indices adds everything.
            dq[layout.suffix_q] += unpad(dq_block, layout)
            dk[layout.suffix_k] += unpad(dk_block, layout)
            dv[layout.suffix_k] += unpad(dv_block, layout)
        return dq, dk, dv, None


def one_row(x: Tensor) -> Tensor:
    """Tokens (n, H, d) -> (1, H, n, d), as the kernels want them."""
    return as_batch(x[None])


def as_batch(x: Tensor) -> Tensor:
    """A block (N, S, H, d) -> (N, H, S, d), as the kernels want it."""
    return x.transpose(1, 2)


def pad(x: Tensor, layout: Layout, value: float) -> Tensor:
    """Of the suffix tokens (m, ..) -> a block (N, S, ..), with `value` in the cells of padding."""
    block = x.new_full((*layout.block_q.shape, *x.shape[1:]), value)  # (N, S, ..)
    block.flatten(0, 1)[layout.block_cells] = x
    return block


def unpad(block: Tensor, layout: Layout) -> Tensor:
    """What the kernels return, (N, H, S, d) -> (m, H, d): the cells that hold tokens."""
    return block.transpose(1, 2).flatten(0, 1)[layout.block_cells]
