"""rollout.py: sample G completions of each prompt, with one prefill per prompt and one decode step for all prompts together.

    prompt 1  [ prefix keys, values ]  <-- read once for all of its completions     c1 [ suffix keys, values . . . . ]
                                                                                    c2 [ suffix keys, values . . . . ]
    prompt 2  [ prefix keys, values ]  <--                                          c3 [ suffix keys, values . . . . ]
                                                                                    ^ room for max_new_tokens, written in place

A step embeds the last token of every running completion, runs each layer once over all of them, attends to the prefix (the queries of one
prompt's completions stacked, so that its keys are read once) and to the suffix, joins the two by their log-sum-exps, and samples. Every
few steps completions that have ended are taken out, and prompts without any left. The step works on fixed buffers, counts in a tensor and
asks the host nothing, so that on a GPU it is captured as a CUDA graph and replayed. The weights are the trainer's own tensors.

The log-prob of every sampled token is recorded while sampling, in fp32 and over the same ids and at the same temperature as the
trainer's: these are the behaviour log-probs of the importance ratio, so no second pass is needed to get them.
top_k and top_p are off by default: they cut the distribution that is sampled but not the one that is trained, which breaks the ratio.
When they are on, the recorded log-prob is still the untruncated one.

Dimensions: B prompts, G completions of each, N running completions, P prompt tokens, W suffix tokens in use (a multiple of WINDOW), V
vocabulary, D width, H query heads, K key-value heads, d head width.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Prompt, PromptBuilder, share_prefixes
from engine.attention import attend, join
from engine.batching import split_by_tokens
from engine.families import block
from formats.sample import DataError
from model import Policy, Prefix

COMPACT_EVERY = 8  # decode steps between two looks at which completions have ended
WINDOW = {
    "cpu": 32,
    "cuda": 256,
}  # suffix lengths are rounded up to a multiple of this; each is one CUDA graph


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
        kth = logp.topk(min(top_k, logp.shape[-1]), dim=-1).values[:, -1:]  # (N, 1)
        logp = logp.masked_fill(logp < kth, float("-inf"))
    if top_p < 1.0:
        ordered, index = logp.sort(dim=-1, descending=True)  # (N, V)
        before = ordered.exp().cumsum(-1) - ordered.exp()  # mass in front of each id
        logp = logp.masked_fill(
            (before >= top_p).scatter(-1, index, before >= top_p), float("-inf")
        )
    return logp


def sample(logp: Tensor, generator: torch.Generator | None, greedy: bool = False) -> Tensor:
    """(N, V) log-probs -> (N,) ids: arg max, or a draw by one uniform number per row through the cumulated probabilities (logp may be
    unnormalised). fp64, so that no id of a vocabulary of 150,000 is lost in rounding; an id of probability 0 is never drawn."""
    if greedy:
        return logp.argmax(-1)
    mass = logp.exp().cumsum(-1, dtype=torch.float64)  # (N, V)
    point = (
        torch.rand(len(logp), 1, dtype=torch.float64, device=logp.device, generator=generator)
        * mass[:, -1:]
    )
    return torch.searchsorted(mass, point, right=True).squeeze(-1)


class Decoding:
    """The running completions: fixed buffers that `step` reads and writes in place.

    row (N,): which completion this is, in the order of the result; group (N,): its prompt; token, position (N,): the next input; state (N, D):
    what the next token is sampled from; alive (N,): has not ended; t (1,): the place of the last token; out_tokens, out_logps (N, R): what was sampled.
    keys, values: per layer the suffix (N, K, S + R, d), where the rests of the prompts (Prefix) take the first S = `rest` places, from start (N,) on.
    lengths, prefix_keys, prefix_values: of the prompts with completions left, as in Prefix.
    """

    def __init__(
        self,
        policy: Policy,
        prefix: Prefix,
        n: int,
        max_new_tokens: int,
        sampler: Callable[[Tensor], tuple[Tensor, Tensor]],
    ):
        self.policy, self.sampler, self.width = policy, sampler, max_new_tokens
        self.lengths, self.prefix_keys, self.prefix_values = (
            prefix.lengths,
            prefix.keys,
            prefix.values,
        )
        question = torch.arange(len(prefix.group), device=policy.device).repeat_interleave(n)
        self.row, self.group = (
            torch.arange(len(question), device=policy.device),
            prefix.group[question],
        )
        self.state, self.position = prefix.last[question], prefix.position[question]
        self.token, self.alive = (
            torch.zeros_like(self.row),
            torch.ones_like(self.row, dtype=torch.bool),
        )
        self.t = torch.zeros(1, dtype=torch.long, device=policy.device)
        self.out_tokens = self.row.new_zeros(len(self.row), max_new_tokens)
        self.out_logps = torch.zeros(len(self.row), max_new_tokens, device=policy.device)
        self.rest = prefix.rest_keys[0].shape[2]
        self.start = (self.rest - prefix.rest_lengths)[question]
        self.keys, self.values = (
            [F.pad(rest[question], (0, 0, 0, max_new_tokens)) for rest in side]
            for side in (prefix.rest_keys, prefix.rest_values)
        )
        self.eos = torch.tensor(policy.eos_ids, device=policy.device)
        self.one_by_one = policy.device.type != "cpu"
        positions = torch.arange(int(self.position.max()) + max_new_tokens, device=policy.device)
        self.cos, self.sin = policy.rotary(positions.expand(3, -1))
        self._stack()

    def _stack(self) -> None:
        """What follows from who is left. slot (N,): the place of each completion in a (B, S) table by prompt, S the most that one prompt has
        left; full: no place is empty; bias (B, 1, 1, P): -inf on the padding of the prefixes."""
        counts = torch.bincount(self.group, minlength=len(self.lengths))
        self.stack = int(counts.max())
        within = (
            torch.arange(len(self.group), device=self.group.device)
            - (counts.cumsum(0) - counts)[self.group]
        )
        self.slot = self.group * self.stack + within
        self.full = len(self.group) == len(counts) * self.stack
        keys, places = (
            self.prefix_keys[0],
            torch.arange(self.prefix_keys[0].shape[2], device=self.group.device),
        )
        padding = places >= torch.tensor(self.lengths, device=self.group.device)[:, None]  # (B, P)
        self.bias = torch.zeros(padding.shape, dtype=keys.dtype, device=keys.device).masked_fill_(
            padding, float("-inf")
        )[:, None, None]

    def keep(self, index: Tensor) -> None:
        """Go on with these completions alone, and with the prompts that have any."""
        for name in (
            "row",
            "group",
            "token",
            "position",
            "state",
            "alive",
            "start",
            "out_tokens",
            "out_logps",
        ):
            setattr(self, name, getattr(self, name)[index])
        self.keys, self.values = ([x[index] for x in side] for side in (self.keys, self.values))
        groups, self.group = self.group.unique(return_inverse=True)
        if len(groups) < len(self.lengths):
            self.lengths = [self.lengths[i] for i in groups.tolist()]
            self.prefix_keys, self.prefix_values = (
                [x[groups] for x in side] for side in (self.prefix_keys, self.prefix_values)
            )
        self._stack()

    def attention(
        self, i: int, window: int, place: Tensor, bias: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Layer i: q (N, H, d) of the new tokens against the prefix and the suffix, to which their k, v (N, K, d) are added at `place`. -> (N, H, d)"""
        n, heads, d = q.shape
        prefix_k, prefix_v = self.prefix_keys[i], self.prefix_values[i]
        b, kv = prefix_k.shape[:2]
        rep = heads // kv
        self.keys[i].index_copy_(2, place, k[:, :, None])
        self.values[i].index_copy_(2, place, v[:, :, None])
        table = (
            q if self.full else q.new_zeros(b * self.stack, heads, d).index_copy(0, self.slot, q)
        )
        table = (
            table.view(b, self.stack, kv, rep, d)
            .transpose(1, 2)
            .reshape(b, kv, self.stack * rep, d)
        )  # a prompt's queries side by side
        if (
            self.one_by_one
        ):  # GPU kernels take no bias, but split a long prefix over the whole device
            parts = [
                attend(table[j : j + 1], prefix_k[j : j + 1, :, :p], prefix_v[j : j + 1, :, :p])
                for j, p in enumerate(self.lengths)
            ]
            out, lse = (torch.cat(side) for side in zip(*parts, strict=True))
        else:
            out, lse = attend(table, prefix_k, prefix_v, bias=self.bias)
        out, lse = (
            x.view(b, kv, self.stack, rep, -1).transpose(1, 2).reshape(b * self.stack, heads, -1)
            for x in (out, lse[..., None])
        )
        if not self.full:
            out, lse = out[self.slot], lse[self.slot]
        more, more_lse = attend(
            q.view(n, kv, rep, d),
            self.keys[i][:, :, :window],
            self.values[i][:, :, :window],
            bias=bias,
        )
        return join(out, lse[..., 0], more.reshape(n, heads, d), more_lse.reshape(n, heads))[0]

    def sample(self) -> None:
        """Token t of every completion, from its state, with its fp32 log-prob. (What is drawn after an end is cut off in `pack`.)"""
        token, logp = self.sampler(self.state)
        self.out_tokens.index_copy_(1, self.t, token[:, None])
        self.out_logps.index_copy_(1, self.t, logp[:, None])
        self.token.copy_(token)
        self.alive &= (token[:, None] != self.eos).all(1)

    def step(self, window: int) -> None:
        """Run the decoder on token t, then sample token t + 1. window: how many suffix places to look at, more than t. Shapes are static and
        nothing here waits for a value, as a CUDA graph demands."""
        text, places, place = (
            self.policy.text,
            torch.arange(window, device=self.t.device),
            self.t + self.rest,
        )
        x, rotary = (
            text.embed_tokens(self.token),
            (self.cos[self.position], self.sin[self.position]),
        )
        hidden = (places > place)[None]  # (1, W)
        if self.rest:
            hidden = hidden | (places < self.start[:, None])  # (N, W)
        bias = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(
            hidden, float("-inf")
        )[:, None, None]
        for i, layer in enumerate(text.layers):
            x = block(layer, x, rotary, partial(self.attention, i, window, place, bias))
        self.state.copy_(text.norm(x))
        self.position += 1
        self.t += 1
        self.sample()


def record(step: Callable[[], None], generator: torch.Generator | None) -> Callable[[], None]:
    """A CUDA graph of step(), which is recorded here and not run. Returns what runs it."""
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Stepper:
    """Runs `Decoding.step`. With cuda_graph a shape's second step is recorded, and replayed from then on; its first loads every kernel."""

    def __init__(
        self, run: Decoding, generator: torch.Generator | None = None, cuda_graph: bool = False
    ):
        self.run, self.generator, self.cuda_graph = run, generator, cuda_graph
        self.shape, self.replay = None, None

    def __call__(self, window: int) -> None:
        shape = (len(self.run.row), window)
        if not self.cuda_graph or shape != self.shape:
            self.run.step(window)
            self.shape, self.replay = shape, None
            return
        if self.replay is None:
            self.replay = record(partial(self.run.step, window), self.generator)
        self.replay()


@torch.inference_mode()
def generate(
    policy: Policy,
    prompts: list[Prompt],
    features: list[dict[str, Tensor]],
    n: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cuda_graph: bool = True,
    share: bool = False,
) -> list[list[Completion]]:
    """n completions of each prompt, at most max_new_tokens long. features: Policy.features of the prompts. temperature 0 is greedy (log-probs
    are then those at temperature 1). share: neighbouring prompts about the same media read them once (`share_prefixes`).

    All prompts decode together, as far as `policy.max_cache_tokens` holds them; those that run out of GPU memory are tried once more in two halves. Returns
    one list of n Completions per prompt. Raises DataError when half is too much, too.
    """
    greedy, temperature = temperature == 0, temperature or 1.0

    def sampler(state: Tensor) -> tuple[Tensor, Tensor]:
        logp = policy.log_distribution(state, temperature)  # (N, V)
        token = sample(truncate(logp, top_k, top_p), generator, greedy)  # (N,)
        return token, logp.gather(-1, token[:, None]).squeeze(-1)

    def write(part: list[int]) -> list[list[Completion]]:
        prefix = policy.prefill(
            [shared[i][0] for i in part],
            [features[first[i]] for i in part],
            [shared[i][1] for i in part],
        )
        run = Decoding(policy, prefix, n, max_new_tokens, sampler)
        return pack(
            policy,
            *decode(run, Stepper(run, generator, cuda_graph and policy.device.type == "cuda")),
            n,
        )

    out: list[list[Completion]] = []
    shared = share_prefixes(prompts, policy.form) if share else [(p, [[]]) for p in prompts]
    first = [0, *itertools.accumulate(len(rests) for _, rests in shared)]
    tokens = [len(p.ids) + sum(len(r) + n * max_new_tokens for r in rests) for p, rests in shared]
    for part in split_by_tokens(list(range(len(shared))), tokens, policy.max_cache_tokens):
        before, done = generator.get_state() if generator else None, None
        for pieces in ([part], [part[: len(part) // 2], part[len(part) // 2 :]]):
            with contextlib.suppress(torch.OutOfMemoryError):
                done = [completions for piece in pieces if piece for completions in write(piece)]
                break
            torch.cuda.empty_cache()  # subtle: not in an except block, where the error still holds what lies in memory
            if generator:
                generator.set_state(before)
        if done is None:
            raise DataError(
                f"out of GPU memory while completions of {len(part):,} prompts were written, and of half of them, too; lower --max_cache_tokens "
                f"{policy.max_cache_tokens:,}, --max_completion_tokens, --max_frames or --max_pixels"
            )
        out += done
    return out


def decode(run: Decoding, advance: Stepper) -> tuple[Tensor, Tensor]:
    """Run to the end: tokens and log-probs (B * G, R) of all completions."""
    tokens, logps = torch.zeros_like(run.out_tokens), torch.zeros_like(run.out_logps)
    device = run.t.device.type
    run.sample()
    for t in range(1, run.width):
        if t % COMPACT_EVERY == 0:
            left = run.alive.nonzero().squeeze(-1)
            if not len(left):
                break
            if len(left) < len(run.row) and (
                device == "cpu" or len(left) <= len(run.row) // 2
            ):  # a new shape on a GPU is a new graph
                tokens[run.row], logps[run.row] = run.out_tokens, run.out_logps
                run.keep(left)
        advance(min(-(-(run.rest + t) // WINDOW[device]) * WINDOW[device], run.rest + run.width))
    tokens[run.row], logps[run.row] = run.out_tokens, run.out_logps
    return tokens, logps


def pack(policy: Policy, tokens: Tensor, logps: Tensor, n: int) -> list[list[Completion]]:
    """Tensors (B * G, R) of what was sampled -> lists of Completions, cut after their EOS, n per prompt."""
    out = []
    ended = torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1])
    for ids, lps, length, end in zip(
        tokens.tolist(), logps.tolist(), lengths.tolist(), ended.any(1).tolist(), strict=True
    ):
        out.append(
            Completion(
                ids[:length],
                lps[:length],
                policy.tokenizer.decode(ids[:length], skip_special_tokens=True),
                end,
            )
        )
    return [out[i : i + n] for i in range(0, len(out), n)]


def sample_answers(
    policy: Policy,
    builder: PromptBuilder,
    samples: list,
    max_new_tokens: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cuda_graph: bool = True,
) -> list[tuple[Prompt | DataError, Completion | None]]:
    """One completion of each sample: (its prompt, the completion), or (the error that says why it cannot be asked, None). Neighbours about the same media
    share their prefill."""
    made = builder.build(samples)
    prompts = [p for p in made if isinstance(p, Prompt)]
    with torch.no_grad():
        done = iter(
            generate(
                policy,
                prompts,
                policy.features(prompts),
                1,
                max_new_tokens,
                temperature,
                top_k,
                top_p,
                generator,
                cuda_graph,
                share=True,
            )
            if prompts
            else []
        )
    return [(p, next(done)[0] if isinstance(p, Prompt) else None) for p in made]
