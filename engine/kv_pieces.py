"""engine/kv_pieces.py: a decode step's attention on a GPU, in pieces of different lengths.

engine/kv_cache.py masks padding by a bias. A GPU's flash kernels take no bias, but one of them
takes many pieces at a time, each with queries and keys of its own, and reads no padding:

    prompt 0       piece 0 | piece 1 | piece 2      read by all of its completions
    prompt 1       piece 3 | piece 4
    completion 0   its suffix                       read by itself
    completion 1   its suffix

Prompts are cut into about PIECES pieces in all, since a GPU works on that many at a time, and one
long prompt in one piece would leave most of it idle (flash decoding). Each piece gives an output
and a log-sum-exp. One softmax over the log-sum-exps of a completion's pieces, its suffix included,
joins their outputs.

A reading is one piece read by one completion.

Dimensions: B prompts, N running completions, P prompt tokens, Q question tokens, R tokens to be
sampled, S pieces of the prompt that has most, m readings, H query heads, K key-value heads, g = H/K
query heads per key-value head, d head width.
"""

import itertools

import torch
from torch import Tensor

from engine.attention import Pieces, attend_pieces
from engine.kv_cache import PrefixKV, SuffixKV

PIECES = 64  # of all prompts: with 4 key-value heads 256 blocks of work, for 132 processors (H100)
MIN_PIECE = 256  # tokens: shorter pieces cost more to join than they save


class KVPieces:
    """The pieces of a prefix and a suffix, for as long as the running completions stay the same.

    group: g, how many query heads share a key-value head.
    """

    def __init__(self, prefix: PrefixKV, suffix: SuffixKV, group: int):
        self.prefix = prefix
        self.suffix = suffix
        self.group = group
        device = prefix.prompt_of.device
        self._cut_prompts(device)

        # one piece per suffix: its slots, behind the padding
        n, slots = suffix.keys[0].shape[:2]
        places = torch.arange(n + 1, dtype=torch.int32, device=device)  # (N + 1,)
        self.suffix_queries = places * group  # (N + 1,)
        self.suffix_keys = places * slots  # (N + 1,)
        self.suffix_keys[:-1] += suffix.question_start.int()

    def _cut_prompts(self, device: torch.device) -> None:
        """Set which pieces there are of the prompts, and who reads them."""
        lengths = self.prefix.lengths
        n_completions = torch.bincount(self.prefix.prompt_of, minlength=len(lengths)).tolist()
        padded = self.prefix.keys[0].shape[1]  # P
        size = max(MIN_PIECE, -(-sum(lengths) // PIECES))

        # a piece is read by all completions of its prompt, which are neighbours
        readers: list[int] = []  # the completion of each reading
        n_readers: list[int] = []  # of each piece
        starts: list[int] = []  # of each piece in the stream of all prompts' keys
        counts: list[int] = []  # its tokens
        readings_of: list[list[int]] = [[] for _ in self.prefix.prompt_of]
        first = 0  # the prompt's first completion
        for prompt, length in enumerate(lengths):
            completions = range(first, first + n_completions[prompt])
            first = completions.stop
            for start in range(0, length, size):
                for completion in completions:
                    readings_of[completion].append(len(readers))
                    readers.append(completion)
                n_readers.append(len(completions))
                starts.append(prompt * padded + start)
                counts.append(min(size, length - start))

        # what the kernel wants to know
        def int32(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.int32, device=device)

        ends = itertools.accumulate(n * self.group for n in n_readers)
        self.pieces = Pieces(
            query_starts=int32([0, *ends]),
            key_starts=int32([*starts, 0]),
            key_counts=int32(counts),
            max_queries=max(n_readers) * self.group,
            max_keys=max(counts),
        )
        self.readers = torch.tensor(readers, device=device)  # (m,)

        # Each completion's readings, (N, S). Of a short prompt there are fewer, and -inf makes what
        # stands in the other places count nothing.
        most = max(len(readings) for readings in readings_of)  # S
        table = []
        missing = []
        for readings in readings_of:
            empty = most - len(readings)
            table.append(readings + [0] * empty)
            missing.append([0.0] * len(readings) + [float("-inf")] * empty)
        self.table = torch.tensor(table, device=device)  # (N, S)
        self.missing = torch.tensor(missing, device=device)  # (N, S)

    def of_suffixes(self, slot: Tensor) -> Pieces:
        """The pieces of the suffixes, when the newest token stands in this slot, (1,)."""
        used = (slot + 1 - self.suffix.question_start).int()  # (N,)
        slots = self.suffix.keys[0].shape[1]
        return Pieces(self.suffix_queries, self.suffix_keys, used, self.group, slots)

    def attend(self, suffixes: Pieces, layer: int, q: Tensor) -> Tensor:
        """q (N, H, d) against prefix and suffix -> (N, H, d). suffixes: `of_suffixes`."""
        n, heads, d = q.shape
        kv_heads = heads // self.group
        q = q.view(n, kv_heads, self.group, d).transpose(1, 2)  # (N, g, K, d)

        # the prompts: one line for each reading
        asked = q.index_select(0, self.readers)  # (m, g, K, d)
        keys = self.prefix.keys[layer].flatten(0, 1)  # (B * P, K, d)
        values = self.prefix.values[layer].flatten(0, 1)  # (B * P, K, d)
        out, lse = attend_pieces(asked.flatten(0, 1), keys, values, self.pieces)
        out = out.view_as(asked)  # (m, g, K, d)
        lse = lse.view(kv_heads, len(asked), self.group)  # (K, m, g)

        # the suffixes
        keys = self.suffix.keys[layer].flatten(0, 1)  # (N * (Q + R), K, d)
        values = self.suffix.values[layer].flatten(0, 1)  # (N * (Q + R), K, d)
        own_out, own_lse = attend_pieces(q.reshape(-1, kv_heads, d), keys, values, suffixes)
        own_out = own_out.view(q.shape)  # (N, g, K, d)
        own_lse = own_lse.view(kv_heads, n, 1, self.group)  # (K, N, 1, g)

        joined = join_pieces(out, lse, self.table, self.missing, own_out, own_lse)  # (N, g, K, d)
        return joined.transpose(1, 2).reshape(n, heads, d)


def join_pieces(
    out: Tensor, lse: Tensor, table: Tensor, missing: Tensor, own_out: Tensor, own_lse: Tensor
) -> Tensor:
    """One softmax over a completion's pieces and its suffix, in fp32.

    Of the readings: out (m, g, K, d), lse (K, m, g); of each completion: table (N, S) its readings,
    missing (N, S) -inf where there is none; of the suffixes: own_out (N, g, K, d), own_lse
    (K, N, 1, g). Returns (N, g, K, d), in the type of own_out.
    """
    # the readings of each completion
    readings = table.flatten()  # (N * S,)
    out = out.index_select(0, readings).unflatten(0, table.shape)  # (N, S, g, K, d)
    lse = lse.index_select(1, readings).unflatten(1, table.shape)  # (K, N, S, g)
    lse = lse + missing[..., None]  # (K, N, S, g)

    # Over the last dimension, since a GPU's kernel for any other is several times slower.
    lse = torch.cat([lse, own_lse], 2).permute(1, 3, 0, 2)  # (N, g, K, S + 1)
    weights = lse.softmax(-1)[:, None]  # (N, 1, g, K, S + 1)
    of_prompt = weights[..., :-1].transpose(1, -1)  # (N, S, g, K, 1)
    of_suffix = weights[:, 0, ..., -1:]  # (N, g, K, 1)
    joined = (out * of_prompt).sum(1) + own_out * of_suffix  # (N, g, K, d)
    return joined.to(own_out.dtype)
