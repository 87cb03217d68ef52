"""engine/kv_pieces.py against one softmax per completion, written out."""

import pytest
import torch

from engine import kv_pieces
from engine.kv_cache import Prefill, PrefixKV, SuffixKV
from engine.kv_pieces import KVPieces

LENGTHS = [13, 4, 9]  # tokens of the prompts
OWN = [2, 0, 3, 1]  # tokens of the questions, of which the first two are about prompt 0
PROMPT_OF = [0, 0, 1, 2]
NEW = 5  # slots for sampled tokens
KV_HEADS, GROUP, WIDTH = 2, 3, 8


def random_prefill() -> Prefill:
    """Padding holds large numbers, which nothing may read."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, KV_HEADS, WIDTH, generator=generator)

    keys, values = random(3, max(LENGTHS)), random(3, max(LENGTHS))
    question_keys, question_values = random(4, max(OWN)), random(4, max(OWN))
    for prompt, length in enumerate(LENGTHS):
        keys[prompt, length:] = 50
        values[prompt, length:] = 1e6
    for question, length in enumerate(OWN):
        question_keys[question, : max(OWN) - length] = 50
        question_values[question, : max(OWN) - length] = 1e6
    return Prefill(
        lengths=LENGTHS,
        keys=[keys],
        values=[values],
        prompt_of=torch.tensor(PROMPT_OF),
        question_lengths=torch.tensor(OWN),
        question_keys=[question_keys],
        question_values=[question_values],
        hidden=torch.zeros(4, 1),
        position=torch.zeros(4),
    )


def expected(prefill: Prefill, question: int, sampled, q: torch.Tensor) -> torch.Tensor:
    """(H, d): all keys and values of one completion in one row, and one softmax over them."""
    prompt = PROMPT_OF[question]
    start = max(OWN) - OWN[question]
    rows = []
    for of_prompt, of_question, new in zip(
        (prefill.keys[0], prefill.values[0]),
        (prefill.question_keys[0], prefill.question_values[0]),
        sampled,
        strict=True,
    ):
        rows.append(
            torch.cat([of_prompt[prompt, : LENGTHS[prompt]], of_question[question, start:], new])
        )
    keys, values = (row.repeat_interleave(GROUP, 1) for row in rows)  # (L, H, d)
    scores = torch.einsum("hd,lhd->hl", q, keys) / WIDTH**0.5
    return torch.einsum("hl,lhd->hd", scores.softmax(-1), values)


@pytest.mark.parametrize("size", [4, 256])  # 4: prompts are read in 4, 1 and 3 pieces
@pytest.mark.parametrize("kept", [range(8), [0, 3, 6, 7], [4]])
def test_pieces_of_a_completion_are_one_softmax(monkeypatch, size, kept):
    """Two completions of each question, with some taken out, after three sampled tokens."""
    monkeypatch.setattr(kv_pieces, "MIN_PIECE", size)
    prefill = random_prefill()
    question_of = torch.arange(4).repeat_interleave(2)
    prefix = PrefixKV(prefill, question_of)
    suffix = SuffixKV(prefill, question_of, NEW)
    generator = torch.Generator().manual_seed(1)
    new_keys, new_values = torch.randn(2, 8, 3, KV_HEADS, WIDTH, generator=generator)
    q = torch.randn(8, KV_HEADS * GROUP, WIDTH, generator=generator)
    for t in range(3):
        slot = torch.tensor([max(OWN) + t])
        suffix.append(0, slot, new_keys[:, t], new_values[:, t])

    index = torch.tensor(list(kept))
    prefix.keep(index)
    suffix.keep(index)
    pieces = KVPieces(prefix, suffix, GROUP)
    out = pieces.attend(pieces.of_suffixes(torch.tensor([max(OWN) + 2])), 0, q[index])
    for row, completion in zip(out, kept, strict=True):
        sampled = (new_keys[completion], new_values[completion])
        theirs = expected(prefill, completion // 2, sampled, q[completion])
        torch.testing.assert_close(row, theirs, atol=1e-5, rtol=1e-5)
