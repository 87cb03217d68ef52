"""rollout.py: sample G completions of each prompt. One prefill per prompt, one decode step for all.

    prefill       every prompt once: keys, values, the state of its last token    Policy.prefill
    decode step   embed the last token of every running completion (N, D)
                  layer 1 .. : attend to prefix and suffix, join the two          engine/kv_*.py
                  sample the next token, record its log-prob                      sample_tokens
    compaction    every COMPACT_EVERY steps: take out what has ended

A layer runs once over all running completions. The keys of a prompt, the prefix, are stored and
read once for all of its completions; only the tokens sampled so far, the suffix, are each one's
own. engine/kv_cache.py draws this memory, which a GPU reads by engine/kv_pieces.py.

The step works on fixed buffers, counts in a tensor and reads no value back to the CPU, so on a GPU
it runs as a CUDA graph (engine/cuda_graph.py). The weights are the trainer's own tensors: there is
no second copy of the model to keep in step.

The log-prob of every sampled token is recorded while sampling, in fp32, over the same ids and at
the same temperature as in training. These are the behaviour log-probs of the importance ratio; no
second pass computes them. There is no top-k or top-p: either would change the distribution that is
sampled but not the one that is trained, and the ratio would compare two different things.

Several questions about one clip may share its prefill. Then the prefix is what their prompts begin
with, and each question's own tokens stand in front of its suffix. Otherwise a question is a prompt.

Dimensions: M questions, G completions of each, N running completions, B prefixes (B = M where none
is shared), P prefix tokens, Q question tokens behind a shared prefix, R = max_new_tokens, W suffix
slots in use, V vocabulary, D width, H query heads, K key-value heads, d head width.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Prompt, PromptBuilder, share_prefixes
from engine.attention import has_gpu_kernel, join
from engine.cuda_graph import CUDA_GRAPH, Replayed
from engine.families import block, has_experts, head_sizes, rms_norm
from engine.kv_cache import Prefill, PrefixKV, SuffixKV
from engine.kv_pieces import KVPieces
from formats.sample import DataError, Sample
from media.prompt_format import PromptFormat
from model import Features, Policy

MAX_CACHE_TOKENS = 2**18  # tokens whose keys and values are held at a time (7B: 57 kB each)
TAIL = 0.1  # of the completions: when so many or fewer are left, the tail has begun
DRAW_BLOCK = 512  # ids whose probabilities are cumulated one after the other
COMPACT_EVERY = 8  # decode steps between two looks at which completions have ended

# By the type of device, where keys are not read in pieces: a suffix is read up to a multiple of
# this. A long window makes few shapes, and so few CUDA graphs; a short one reads little in vain.
WINDOW = {"cpu": 32, "cuda": 256}


@dataclass
class Sampling:
    """How to sample.

    max_new_tokens: the longest completion, EOS included. temperature: 0 is greedy, and the recorded
    log-probs are then those at temperature 1. generator: the random stream; None is torch's own.
    tail_seconds: written by `generate`, for how long a tenth of the completions or fewer were left
    to wait for.
    """

    max_new_tokens: int
    temperature: float = 1.0
    generator: torch.Generator | None = None
    tail_seconds: float = 0.0


@dataclass
class Completion:
    """One sampled completion of L tokens.

    tokens: its ids, with the EOS when there is one. logps: (L,) fp32 log-probs under the policy
    that sampled them. text: without special tokens. finished: it ended by EOS, not by the limit.
    """

    tokens: list[int]
    logps: list[float]
    text: str
    finished: bool


# ------------------------------------------------------------------ what others call
@torch.inference_mode()
def generate(
    policy: Policy,
    prompts: list[Prompt],
    features: list[dict[str, Tensor]],
    n: int,
    sampling: Sampling,
    share_prefill: bool = False,
) -> list[list[Completion]]:
    """n completions of each prompt, a list per prompt, in the order of the prompts.

    features: what the towers made of each prompt's media. share_prefill: neighbouring prompts about
    the same media read them once (`data.share_prefixes`); log-probs then differ by rounding.

    As many prompts decode together as MAX_CACHE_TOKENS allows. Raises DataError when GPU memory
    runs out for a batch, and then also for a half of it.
    """
    rows = prefill_rows(prompts, features, policy.form, share_prefill)

    sampling.tail_seconds = 0.0
    completions: list[list[Completion]] = []
    for batch in split_rows(rows, n, sampling.max_new_tokens, MAX_CACHE_TOKENS):
        completions += decode_or_halve(policy, batch, n, sampling)
    return completions


@torch.inference_mode()
def answer_more(
    policy: Policy, prefix: Prefill, ids: list[int], n: int, sampling: Sampling
) -> list[Completion]:
    """n completions of a question that goes on, by these token ids, from a prompt that is
    prefilled."""
    return decode_prefill(policy, policy.prefill_more(prefix, ids), n, sampling)[0]


def sample_answers(
    policy: Policy, builder: PromptBuilder, samples: list[Sample], sampling: Sampling
) -> list[tuple[Prompt | DataError, Completion | None]]:
    """One completion of each sample, as (its prompt, the completion).

    A sample that cannot be asked gives (the error that says why, None). Neighbouring questions
    about one clip share its prefill.
    """
    built = builder.build(samples)  # a prompt or an error for each sample
    prompts = [prompt for prompt in built if isinstance(prompt, Prompt)]
    if not prompts:
        return [(error, None) for error in built]

    # `share_prefill` finds questions about one clip where they are neighbours
    with torch.no_grad():
        features = Features(policy).of(prompts)
    groups = iter(generate(policy, prompts, features, 1, sampling, share_prefill=True))

    # back into the order of the samples, with the errors between
    answers: list[tuple[Prompt | DataError, Completion | None]] = []
    for prompt in built:
        completion = next(groups)[0] if isinstance(prompt, Prompt) else None
        answers.append((prompt, completion))
    return answers


# ------------------------------------------------------------------ batches
@dataclass
class PrefillRow:
    """One row of the prefill: a prompt, or the common beginning of several, with its media's
    features. questions: the token ids that each of them goes on with, [[]] for a lone prompt."""

    prompt: Prompt
    features: dict[str, Tensor]
    questions: list[list[int]]


def prefill_rows(
    prompts: list[Prompt],
    features: list[dict[str, Tensor]],
    form: PromptFormat,
    share_prefill: bool,
) -> list[PrefillRow]:
    """The prompts as rows of the prefill, in order."""
    if not share_prefill:
        return [PrefillRow(p, f, [[]]) for p, f in zip(prompts, features, strict=True)]

    rows: list[PrefillRow] = []
    first = 0  # the first of the prompts that share a row; all of them have its features
    for prefix, questions in share_prefixes(prompts, form):
        rows.append(PrefillRow(prefix, features[first], questions))
        first += len(questions)
    return rows


def split_rows(rows: list[PrefillRow], n: int, r: int, limit: int) -> list[list[PrefillRow]]:
    """The rows, in order, in batches whose KV cache has at most `limit` tokens, or in a batch of
    one row. n completions of r tokens of each question."""
    batches: list[list[PrefillRow]] = []
    for row in rows:
        if batches and cache_tokens([*batches[-1], row], n, r) <= limit:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def cache_tokens(rows: list[PrefillRow], n: int, r: int) -> int:
    """Tokens of the KV cache of a batch, in which all prompts, and all questions, are padded to the
    longest (engine/kv_cache.py)."""
    longest_prompt = max(len(row.prompt.ids) for row in rows)
    question_lengths: list[int] = []
    for row in rows:
        question_lengths += [len(question) for question in row.questions]
    suffix = max(question_lengths) + r
    return len(rows) * longest_prompt + len(question_lengths) * n * suffix


def decode_or_halve(
    policy: Policy, rows: list[PrefillRow], n: int, sampling: Sampling
) -> list[list[Completion]]:
    """`decode_batch`; where GPU memory runs out, one half of the rows after the other.

    How much memory a batch needs is known only when it runs: it depends on the longest prompt and
    the longest completion in it. The second try starts from the random state of the first, so that
    what the failed try drew leaves no trace.
    """
    generator = sampling.generator
    random_state = generator.get_state() if generator else None
    middle = len(rows) // 2

    for batches in ([rows], [rows[:middle], rows[middle:]]):
        completions: list[list[Completion]] = []
        with contextlib.suppress(torch.OutOfMemoryError):
            for batch in batches:
                if batch:  # of one row, a half is empty
                    completions += decode_batch(policy, batch, n, sampling)
            return completions

        # Out of memory. Cleared here and not in an `except` block, where the traceback still holds
        # the failed tensors.
        torch.cuda.empty_cache()
        if generator:
            generator.set_state(random_state)

    raise DataError(
        f"out of GPU memory while completions of {len(rows):,} prompts were written, and of half "
        f"of them, too; lower MAX_CACHE_TOKENS in rollout.py ({MAX_CACHE_TOKENS:,}), "
        "--max_completion_tokens, --max_frames or --max_pixels"
    )


def decode_batch(
    policy: Policy, rows: list[PrefillRow], n: int, sampling: Sampling
) -> list[list[Completion]]:
    """n completions of each question of these rows: prefill, decode, cut."""
    prompts = [row.prompt for row in rows]
    features = [row.features for row in rows]
    questions = [row.questions for row in rows]
    # without a name here, so that keys of prompts that have ended can be freed
    return decode_prefill(policy, policy.prefill(prompts, features, questions), n, sampling)


def decode_prefill(
    policy: Policy, prefill: Prefill, n: int, sampling: Sampling
) -> list[list[Completion]]:
    """n completions of each question of a prefill: decode, cut."""
    run = Decoding(policy, prefill, n, sampling)
    del prefill  # or keys of prompts that have ended would stay
    decode(run)
    return pack(policy, run.tokens, run.logps, n)


def pack(policy: Policy, tokens: Tensor, logps: Tensor, n: int) -> list[list[Completion]]:
    """Tokens and log-probs (M * n, R) -> Completions, each cut after its EOS, n per question.

    Raises DataError where log-probs are no numbers: nothing can be sampled from them.
    """
    if logps.isnan().any():
        raise DataError(
            "the policy's log-probs are not numbers: its weights or activations have overflowed; "
            "lower --lr, or go on from an earlier checkpoint"
        )

    # argmax gives the first of several ones: what was sampled behind an EOS is cut off
    is_eos = torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))  # (M * n, R)
    finished = is_eos.any(1)  # (M * n,)
    first_eos = is_eos.int().argmax(1)  # (M * n,)
    lengths = torch.where(finished, first_eos + 1, tokens.shape[1]).tolist()

    # in order of prompts, n rows for each
    completions: list[Completion] = []
    rows = zip(tokens.tolist(), logps.tolist(), lengths, finished.tolist(), strict=True)
    for ids, ids_logps, length, ended in rows:
        text = policy.tokenizer.decode(ids[:length], skip_special_tokens=True)
        completions.append(Completion(ids[:length], ids_logps[:length], text, ended))
    return [completions[i : i + n] for i in range(0, len(completions), n)]


# ------------------------------------------------------------------ sampling
def sample_tokens(policy: Policy, hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Hidden states (N, D) -> the next tokens (N,), and their fp32 log-probs (N,).

    The log-prob is that of the distribution which the token was drawn from, at its temperature.
    """
    logp = policy.log_distribution(hidden, sampling.temperature or 1.0)  # (N, V)
    greedy = sampling.temperature == 0
    token = logp.argmax(-1) if greedy else draw(logp, sampling.generator)  # (N,)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)  # (N,) each


def draw(logp: Tensor, generator: torch.Generator | None) -> Tensor:
    """(N, V) log-probs, maybe unnormalised -> (N,) ids, by inverse transform sampling: the id at
    which the cumulated probability passes a uniform number.

    In fp64, so that no id of a vocabulary of 150,000 is lost in rounding. An id of probability 0
    is never drawn. Unlike torch.multinomial this reads nothing back to the CPU, so that a CUDA
    graph can hold it.
    """
    # Cumulated within blocks of ids, and then over the blocks: a GPU runs the blocks side by side.
    probs = F.pad(logp.exp(), (0, -logp.shape[1] % DRAW_BLOCK))  # (N, V rounded up)
    mass = probs.unflatten(-1, (-1, DRAW_BLOCK)).cumsum(-1, dtype=torch.float64)
    before = F.pad(mass[..., -1].cumsum(-1), (1, -1))  # (N, blocks) the mass in front of each
    mass = (mass + before[..., None]).flatten(1)  # (N, V rounded up)

    uniform = torch.rand(
        len(logp), 1, dtype=torch.float64, device=logp.device, generator=generator
    )  # (N, 1)
    # right=True: the first id whose cumulated mass is above the number, not equal to it. Of
    # log-probs that are no numbers there is none: then the last id, and `pack` says what is wrong.
    token = torch.searchsorted(mass, uniform * mass[:, -1:], right=True).squeeze(-1)  # (N,)
    return token.clamp_(max=logp.shape[1] - 1)


# ------------------------------------------------------------------ decoding
class Decoding:
    """The running completions. `step` reads and writes these buffers in place.

    tokens, logps: (M * n, R) the result, of running and of ended completions.
    Of the N running ones: completion (N,) its row of the result; token (N,): the next input; angle
    (N,): its row of cos and sin; hidden (N, D): what the next token is sampled from; alive (N,):
    has not ended.
    t: (1,) which token was sampled last; a tensor, since a CUDA graph cannot count in Python.
    """

    def __init__(self, policy: Policy, prefill: Prefill, n: int, sampling: Sampling):
        self.policy = policy
        self.sampling = sampling
        device = policy.device
        r = sampling.max_new_tokens

        # Keys and values of both parts
        questions = torch.arange(len(prefill.prompt_of), device=device)  # (M,)
        question_of = questions.repeat_interleave(n)  # (M * n,)
        self.prefix = PrefixKV(prefill, question_of)
        self.suffix = SuffixKV(prefill, question_of, r)
        self.reads_pieces = has_gpu_kernel(prefill.hidden)
        self.lay_out()

        # State of the running completions: all of them, at first
        self.completion = torch.arange(len(question_of), device=device)  # (N,)
        self.token = torch.zeros_like(self.completion)  # (N,)
        self.angle = question_of * r  # (N,)
        self.hidden = prefill.hidden[question_of]  # (N, D)
        self.alive = torch.ones_like(self.completion, dtype=torch.bool)  # (N,)
        self.t = torch.zeros(1, dtype=torch.long, device=device)  # (1,)

        # The result
        self.tokens = self.completion.new_zeros(len(question_of), r)  # (M * n, R)
        self.logps = torch.zeros(len(question_of), r, device=device)  # (M * n, R)
        self.eos = torch.tensor(policy.eos_ids, device=device)  # (EOS ids,)

        # Rotary angles of each question's sampled tokens. These are text, whose three positions
        # (time, height, width) are equal.
        positions = prefill.position[:, None] + torch.arange(r, device=device)  # (M, R)
        self.cos, self.sin = policy.rotary(positions.flatten().expand(3, -1))  # (M * R, 1, d)

    def keep(self, index: Tensor) -> None:
        """Go on with these completions (n,) alone."""
        self.completion = self.completion[index]  # (n,)
        self.token = self.token[index]  # (n,)
        self.angle = self.angle[index]  # (n,)
        self.hidden = self.hidden[index]  # (n, D)
        self.alive = self.alive[index]  # (n,)
        self.prefix.keep(index)
        self.suffix.keep(index)
        self.lay_out()

    def lay_out(self) -> None:
        """Cut the keys into pieces anew, for the completions that are left."""
        self.pieces: KVPieces | None = None
        if self.reads_pieces:
            heads, kv_heads, _ = head_sizes(self.policy.text.config)
            self.pieces = KVPieces(self.prefix, self.suffix, heads // kv_heads)

    def sample(self) -> None:
        """Sample token t of every completion, ended ones included: `pack` cuts off what follows an
        EOS, and a step whose work does not depend on values can be a CUDA graph."""
        token, logp = sample_tokens(self.policy, self.hidden, self.sampling)  # (N,)
        self.tokens[self.completion, self.t] = token
        self.logps[self.completion, self.t] = logp
        self.token.copy_(token)
        self.alive &= (token[:, None] != self.eos).all(1)

    def step(self, width: int) -> None:
        """Run the decoder on token t, then sample token t + 1. width: W, how many slots of the
        suffix are read.

        CUDA graphs bind this method and all that it calls (engine/cuda_graph.py): no shape may
        depend on a value, nothing may be read back to the CPU, and what the next step reads must
        be written in place.
        """
        # Input: token t, and where it stands
        text = self.policy.text
        x = text.embed_tokens(self.token)  # (N, D)
        rotary = (self.cos[self.angle], self.sin[self.angle])  # (N, 1, d) each
        slot = self.t + self.suffix.question_tokens  # (1,)
        if self.pieces:
            attend = partial(self.pieces.attend, self.pieces.of_suffixes(slot))
        else:
            bias = self.suffix.bias(slot, width, x.dtype)  # (N or 1, 1, 1, W)
            attend = partial(self._attend, bias)

        # All layers, once over all running completions
        for i, layer in enumerate(text.layers):
            x = block(layer, x, rotary, partial(self._attention, i, slot, attend))  # (N, D)

        # Output: in place, and the next token
        self.hidden.copy_(rms_norm(text.norm, x))
        self.angle += 1
        self.t += 1
        self.sample()

    def _attention(
        self,
        layer: int,
        slot: Tensor,
        attend: Callable[[int, Tensor], Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Tensor:
        """q (N, H, d) of the new tokens against prefix and suffix, to which their own k, v
        (N, K, d) are added first -> (N, H, d)."""
        self.suffix.append(layer, slot, k, v)
        return attend(layer, q)

    def _attend(self, bias: Tensor, layer: int, q: Tensor) -> Tensor:
        """One softmax over prefix and suffix, (N, H, d)."""
        prefix_out, prefix_lse = self.prefix.attend(layer, q)  # (N, H, d), (N, H)
        suffix_out, suffix_lse = self.suffix.attend(layer, q, bias)  # (N, H, d), (N, H)
        return join(prefix_out, prefix_lse, suffix_out, suffix_lse)[0]


def decode(run: Decoding) -> None:
    """Run all completions to their end: fills run.tokens and run.logps."""
    graphs = CUDA_GRAPH[run.t.device.type] and not has_experts(run.policy.text.config)
    replayed = Replayed(run.step, run.sampling.generator)
    few = len(run.tokens) * TAIL
    tail_start = math.inf

    run.sample()  # token 0, from the states that the prefill left
    for t in range(1, run.sampling.max_new_tokens):
        # Compaction. With graphs a new number of completions costs a new recording, so it waits
        # until half of them have ended.
        if t % COMPACT_EVERY == 0:
            running = run.alive.nonzero().squeeze(-1)  # (n,); waits for the GPU
            n = len(run.completion)
            if len(running) <= few:
                tail_start = min(tail_start, time.perf_counter())
            if not len(running):
                break
            if len(running) <= (n // 2 if graphs else n - 1):
                run.keep(running)

        # Write token t - 1 into the suffix, sample token t
        width = suffix_width(run, t)
        if graphs:
            replayed(len(run.completion), width)
        else:
            run.step(width)
    run.sampling.tail_seconds += max(0.0, time.perf_counter() - tail_start)


def suffix_width(run: Decoding, t: int) -> int:
    """W: how many suffix slots a step reads that writes token t - 1. Rounded up to the window, so
    that few shapes occur and one CUDA graph serves many steps."""
    slots = run.suffix.question_tokens + run.sampling.max_new_tokens
    if run.pieces:
        return slots  # what is not used yet is not read, so one graph serves all steps
    used = run.suffix.question_tokens + t
    window = WINDOW[run.t.device.type]
    rounded = -(-used // window) * window
    return min(rounded, slots)
