"""model.py: the policy. A Qwen2.5-Omni thinker that is loaded and saved in Hugging Face form and gives token log-probabilities.

    media --towers, once--> features --+                one packed row per prompt, no padding between or inside rows:
    text  --embedding-----> vectors   -+-->  stream     [prompt 1 | c1 | c2 | .. | cG][prompt 2 | c1 | .. ] ...

                 keys  prompt  c1  c2        All that works token by token (projections, MLPs, norms) runs once over the whole
    queries                                  stream. Attention alone knows the rows: the prompt is causal; a completion sees all
    prompt             causal                of its prompt (`part 1`) and itself, causally (`part 2`). The two parts are joined by
    c1                 all    causal         their log-sum-exps. Backward, each part gets the JOINED output and log-sum-exp, which
    c2                 all         causal    makes its gradient exact (the identity that ring attention uses, arXiv 2310.01889).

A completion's positions restart after the prompt, so log-probs and gradients are those of G repeated rows, while the prompt is computed
once: G (P + R) tokens become P + G R. Nothing carries on from a prompt but its keys and values and its last token's state, which
predicts every first completion token; so the last layer runs its queries and its MLP for that token and the completions only.

All contact with transformers' internals is in `parts`, `block` and `_run_towers`: it moved them between 5.17 and 5.23, and both work.
Dimensions: B prompts, P prompt tokens, N completions in all, R completion tokens, T tokens of a stream, V vocabulary, D width,
H query heads, K key-value heads, d head width.
"""
import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

from data import MEAN, MERGE, PATCH, SAMPLE_RATE, STD, TEMPORAL_PATCH, DataError, Prompt, audio_tokens

DEFAULT_MODEL = Path(__file__).parent / "assets" / "tiny-omni"
THINKER_TYPES = ("qwen2_5_omni_thinker", "qwen2_5_omni")
LOGIT_CHUNK = 1024  # completion tokens per fp32 logits block, so that no (tokens, V) tensor of a whole batch exists


# ---------------------------------------------------------------------------------------------- loading and saving
def load_config(path: str | Path):
    """The thinker's config of a model folder (or hub name); of a full omni checkpoint, its thinker part."""
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a model folder ({str(error).splitlines()[0][:160]}); pass --model with a folder "
                        "that holds config.json, or a hub name") from None
    if config.model_type not in THINKER_TYPES:
        raise DataError(f"{path}: config.json says model_type '{config.model_type}'; this code runs Qwen2.5-Omni ({', '.join(THINKER_TYPES)})")
    thinker = getattr(config, "thinker_config", config)
    for name in ("use_sliding_window", "attention_dropout"):
        if getattr(thinker.text_config, name, None):
            raise DataError(f"{path}: config.json sets {name} of the text model, which packed rows do not have; set it to 0 if the weights allow it")
    return thinker


def load_tokenizer_and_config(path: str | Path):
    """(tokenizer, thinker config) of a model folder. Raises DataError when the tokenizer lacks the media tokens."""
    config = load_config(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no tokenizer could be loaded ({str(error).splitlines()[0][:160]})") from None
    for name in ("image_token_id", "video_token_id", "audio_token_id", "audio_start_token_id", "audio_end_token_id"):
        if getattr(config, name) >= len(tokenizer):
            raise DataError(f"{path}: the config's {name} = {getattr(config, name)} is not in the tokenizer ({len(tokenizer)} tokens)")
    return tokenizer, config


def pick_attention(device: torch.device) -> str:
    """flash-attn when it is installed and a GPU is used, PyTorch's SDPA otherwise."""
    from transformers.utils import is_flash_attn_2_available
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def load_policy(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> "Policy":
    """Load a thinker and its tokenizer onto `device`. Raises DataError with one sentence when the folder does not hold one."""
    tokenizer, config = load_tokenizer_and_config(path)
    device = torch.device(device)
    try:
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(path, config=config, dtype=dtype,
                                                                           attn_implementation=pick_attention(device))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no weights could be loaded ({str(error).splitlines()[0][:160]})") from None
    return Policy(model.to(device), tokenizer)


def parts(model: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """(vision tower, audio tower, text decoder, lm_head) of a thinker: the one place that knows where transformers keeps them."""
    inner = model.model if hasattr(model.model, "language_model") else model     # 5.23: thinker.model.*, 5.17: thinker.*
    text = inner.language_model if inner is model.model else model.model
    return inner.visual, inner.audio_tower, text, model.lm_head


# ---------------------------------------------------------------------------------------------- attention
def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, and the log-sum-exp of its scores, which scaled_dot_product_attention keeps to itself.

    q (B, H, S, d), k and v (B, K, L, d) with H a multiple of K, bias broadcastable to (B, H, S, L). causal: query i sees the keys 0..i (S = L).
    Returns (B, H, S, d) and (B, H, S) fp32. PyTorch's own flash kernels where they run, `attend_by_hand` elsewhere.
    """
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=bias)
    if q.device.type == "cuda" and bias is None and q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)[:2]
    return attend_by_hand(q, k, v, causal, bias)


def attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to q, k, v of `attend`, given its output and log-sum-exp, or those of a larger softmax that these keys are a part of."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, 0.0, causal)
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        seed, offset = (torch.zeros(n, dtype=torch.uint64, device=q.device) for n in ((2,), ()))       # of dropout, which is off
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(grad, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2],
                                                                           0.0, causal, seed, offset)
    return attend_by_hand_backward(grad, q, k, v, out, lse, causal)


def for_each_query_head(k: Tensor, q: Tensor) -> Tensor:
    """(B, K, L, d) -> (B, H, L, d): each key-value head repeated for the query heads that share it."""
    return k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _scores(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
    """(B, H, S, L) fp32."""
    scores = (q @ for_each_query_head(k, q).mT).float() * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), float("-inf"))
    return scores if bias is None else scores + bias


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`attend` by two matrix products: for devices and types without a kernel, and to read."""
    scores = _scores(q, k, causal, bias)
    lse = scores.logsumexp(-1)                                                                        # (B, H, S)
    p = (scores - lse[..., None]).exp().to(v.dtype)                                                   # (B, H, S, L)
    return p @ for_each_query_head(v, q), lse


def attend_by_hand_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    p = (_scores(q, k, causal, None) - lse[..., None]).exp()                                          # (B, H, S, L) shares of the whole softmax
    dp = (grad @ for_each_query_head(v, q).mT).float()
    ds = (p * (dp - (grad.float() * out.float()).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5).to(q.dtype)      # (B, H, S, L)
    dk, dv = (x.unflatten(1, (k.shape[1], -1)).sum(2) for x in (ds.mT @ q, p.to(q.dtype).mT @ grad))            # (B, K, L, d)
    return ds @ for_each_query_head(k, q), dk, dv


def join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two sets of keys, from that over each: outputs (..., d) and log-sum-exps (...) -> one of each."""
    share = torch.sigmoid(lse - more_lse)[..., None]               # e^a / (e^a + e^b)
    return torch.lerp(more.float(), out.float(), share).to(out.dtype), torch.logaddexp(lse, more_lse)


@dataclass
class Layout:
    """Where the tokens of a stream stand. Keys are those of the whole stream; `rows` names the tokens whose queries are asked (None: all).

    prompts: the keys of each prompt, as slices of the stream. causal: the queries of each prompt's own tokens. after: the queries of each group
    that see the whole prompt. Both are slices of the queries asked, maybe empty. pad_q, pad_k: (N, R) indices of the completion tokens among
    queries and keys, 0 on padding; real: (n,) which of the N * R are tokens; own, own_k: (n,) the completion tokens among queries and keys.
    """
    prompts: list[slice]
    causal: list[slice]
    after: list[slice]
    pad_q: Tensor
    pad_k: Tensor
    real: Tensor
    own: Tensor
    own_k: Tensor
    rows: Tensor | None = None


def lay_out_groups(prompt_lengths: list[int], completion_lengths: list[list[int]], device) -> tuple[Layout, Layout, Tensor]:
    """Layouts of a stream of packed rows [prompt | c1 | .. | cG]: for all layers but the last, and for the last one, which asks only each
    prompt's last token and the completions. Also the index in the latter's output of the state that predicts each completion's first token (N,)."""
    prompts, after, last, tail, first = [], [], [], [], []
    at = 0
    starts: list[int] = []
    for p, lengths in zip(prompt_lengths, completion_lengths, strict=True):
        n = sum(lengths)
        prompts.append(slice(at, at + p))
        after.append(slice(at + p, at + p + n))
        tail.append(slice(len(last), len(last) + 1 + n))
        first += [len(last)] * len(lengths)
        starts += (at + p + np.cumsum([0, *lengths[:-1]])).tolist() if lengths else []
        last += range(at + p - 1, at + p + n)
        at += p + n
    rows = torch.tensor(last, device=device)
    flat = [n for lengths in completion_lengths for n in lengths]
    inside = torch.arange(max(flat, default=0), device=device) < torch.tensor(flat, device=device, dtype=torch.long)[:, None]      # (N, R)
    pad = torch.where(inside, torch.tensor(starts, device=device, dtype=torch.long)[:, None] + torch.arange(inside.shape[1], device=device), 0)
    real = inside.flatten().nonzero().squeeze(-1)
    place = torch.zeros(at, dtype=torch.long, device=device).index_copy(0, rows, torch.arange(len(rows), device=device))           # stream -> tail
    own = pad.flatten()[real]
    body = Layout(prompts, prompts, after, pad, pad, real, own, own)
    end = Layout(prompts, [slice(0, 0)] * len(prompts), tail, place[pad], pad, real, place[own], own, rows)
    return body, end, torch.tensor(first, device=device, dtype=torch.long)


def _rows(x: Tensor) -> Tensor:
    """(n, H, d) tokens of one row, or (N, R, H, d) of several -> (B, H, S, d) as the kernels want them."""
    return (x[None] if x.ndim == 3 else x).transpose(1, 2)


class PackedAttention(torch.autograd.Function):
    """Attention over a stream: q (n, H, d) of the tokens asked, k and v (T, K, d) of all -> (n, H, d). See the drawing at the top."""

    @staticmethod
    def forward(ctx, q, k, v, lay: Layout):
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], device=q.device)                     # (n, H, d), (n, H)
        for queries, causal in ((lay.causal, True), (lay.after, False)):
            for some, prompt in zip(queries, lay.prompts, strict=True):
                if some.stop > some.start:
                    o, s = attend(_rows(q[some]), _rows(k[prompt]), _rows(v[prompt]), causal)
                    out[some], lse[some] = o[0].transpose(0, 1), s[0].transpose(0, 1)
        if len(lay.own):
            o, s = attend(_rows(q[lay.pad_q]), _rows(k[lay.pad_k]), _rows(v[lay.pad_k]), True)        # right padding: no token sees it
            o, s = o.transpose(1, 2).flatten(0, 1)[lay.real], s.transpose(1, 2).flatten(0, 1)[lay.real]
            out[lay.own], lse[lay.own] = join(out[lay.own], lse[lay.own], o, s)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.lay = lay
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        lay, dq, dk, dv = ctx.lay, torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for queries, causal in ((lay.causal, True), (lay.after, False)):
            for some, prompt in zip(queries, lay.prompts, strict=True):
                if some.stop > some.start:
                    a, b, c = attend_backward(_rows(grad[some]), _rows(q[some]), _rows(k[prompt]), _rows(v[prompt]), _rows(out[some]),
                                              lse[some].transpose(0, 1)[None], causal)
                    for total, part, where in ((dq, a, some), (dk, b, prompt), (dv, c, prompt)):
                        total[where] += part[0].transpose(0, 1)
        if len(lay.own):
            padded = grad.new_zeros(*lay.pad_q.shape, *grad.shape[1:])                                # (N, R, H, d), 0 on padding
            padded.flatten(0, 1)[lay.real] = grad[lay.own]
            parts = attend_backward(_rows(padded), _rows(q[lay.pad_q]), _rows(k[lay.pad_k]), _rows(v[lay.pad_k]), _rows(out[lay.pad_q]),
                                    lse[lay.pad_q].transpose(1, 2), True)
            a, b, c = (x.transpose(1, 2).flatten(0, 1)[lay.real] for x in parts)                      # (n, heads, d)
            dq[lay.own] += a                  # each token stands once in the padded block, so that += loses nothing to repeated indices
            dk[lay.own_k] += b
            dv[lay.own_k] += c
        return dq, dk, dv, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, d); cos, sin (T, 1, d), the first half of sin negated: (a, b) -> (a cos - b sin, b cos + a sin)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def block(layer: nn.Module, x: Tensor, rotary: tuple[Tensor, Tensor], attention: Callable[[Tensor, Tensor, Tensor], Tensor],
          rows: Tensor | None = None) -> Tensor:
    """One decoder layer: x (T, D) -> (T, D), or of `rows` alone. attention: (q (n, H, d), k (T, K, d), v) -> (n, H, d)."""
    a, (cos, sin) = layer.self_attn, rotary
    h = layer.input_layernorm(x)
    k, v = rotate(a.k_proj(h).unflatten(-1, (-1, a.head_dim)), cos, sin), a.v_proj(h).unflatten(-1, (-1, a.head_dim))
    if rows is not None:
        x, h, cos, sin = x[rows], h[rows], cos[rows], sin[rows]
    q = rotate(a.q_proj(h).unflatten(-1, (-1, a.head_dim)), cos, sin)
    x = x + a.o_proj(attention(q, k, v).flatten(1))
    return x + layer.mlp(layer.post_attention_layernorm(x))


class TokenLogprobs(torch.autograd.Function):
    """log softmax(h W^T / temperature)[target] with a chunk of fp32 logits at a time, which the backward pass makes again.

    h (n, D), weight (V, D), targets (n,), banned (V,) bool: ids without probability. -> (n,) fp32.
    """

    @staticmethod
    def forward(ctx, h, weight, targets, banned, temperature):
        lse, picked = (torch.empty(len(h), device=h.device) for _ in range(2))
        for at in range(0, len(h), LOGIT_CHUNK):
            part = slice(at, at + LOGIT_CHUNK)
            logits = fp32_logits(h[part], weight, banned, temperature)                                # (c, V)
            lse[part] = logits.logsumexp(-1)
            picked[part] = logits.gather(-1, targets[part, None])[:, 0]
        ctx.save_for_backward(h, weight, targets, banned, lse)
        ctx.temperature = temperature
        return picked - lse

    @staticmethod
    def backward(ctx, grad):
        h, weight, targets, banned, lse = ctx.saved_tensors
        dh = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        dw = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for at in range(0, len(h), LOGIT_CHUNK):
            part = slice(at, at + LOGIT_CHUNK)
            logits = fp32_logits(h[part], weight, banned, ctx.temperature)
            p = logits.sub_(lse[part, None]).exp_()                                                   # (c, V)
            g = grad[part, None] / ctx.temperature
            d = p.mul_(-g).scatter_add_(-1, targets[part, None], g).to(weight.dtype)                  # g (onehot - p)
            if dh is not None:
                dh[part] = d @ weight
            if dw is not None:
                dw.addmm_(d.mT, h[part])
        return dh, dw, None, None, None


def fp32_logits(h: Tensor, weight: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """(n, V) fp32 logits at `temperature`, -inf where banned. Products and sums are fp32 whatever the type of h and weight."""
    if h.device.type == "cuda" and weight.dtype != torch.float32:
        logits = torch.mm(h, weight.mT, out_dtype=torch.float32)          # tensor cores: bf16 products are exact in fp32
    else:
        logits = h.float() @ weight.float().mT
    return logits.masked_fill_(banned, float("-inf")) if temperature == 1 else logits.div_(temperature).masked_fill_(banned, float("-inf"))


def split_by_tokens(rows: list, tokens: list[int], max_tokens: int) -> list[list]:
    """Rows in order, cut into lists of at most max_tokens tokens; a single longer row stands alone.

    >>> split_by_tokens(["a", "b", "c", "d"], [3, 4, 9, 1], 8)
    [['a', 'b'], ['c'], ['d']]
    """
    batches: list[list] = []
    room = -1
    for row, n in zip(rows, tokens, strict=True):
        if n > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= n
    return batches


# ---------------------------------------------------------------------------------------------- the policy
@dataclass
class Prefix:
    """What prompts leave behind for their completions. lengths: tokens of each; keys, values: per layer (B, K, P, d), right-padded; last (B, D):
    the last token's state; position (B,): where completions start."""
    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor
    position: Tensor


class FeatureCache:
    """Tower outputs by media key in the host's memory, oldest out first, at most `max_bytes`. Only valid while the towers are frozen."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.store = max_bytes, 0, OrderedDict()

    def get(self, key: str) -> dict[str, Tensor] | None:
        if key in self.store:
            self.store.move_to_end(key)
        return self.store.get(key)

    def put(self, key: str, value: dict[str, Tensor]) -> None:
        size = sum(t.nbytes for t in value.values())
        if key in self.store or size > self.max_bytes:
            return
        self.store[key] = {name: t.detach().cpu() for name, t in value.items()}
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= sum(t.nbytes for t in self.store.popitem(last=False)[1].values())


class Policy:
    """A thinker with its tokenizer: features, prefix, log-probs. Parameters are the module's own, in `self.model`.

    banned: (V,) bool, the ids a completion may not hold: media and chat markers and the rows past the tokenizer. Sampler and
    training mask them alike, so both speak of one distribution. eos_ids: the ids that end a completion.
    """

    def __init__(self, model: nn.Module, tokenizer):
        self.model, self.tokenizer, self.config = model, tokenizer, model.config
        self.visual, self.audio_tower, self.text, self.head = parts(model)
        self.eos_ids = sorted({tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])} - {None})
        vocab = self.head.weight.shape[0]
        banned = torch.zeros(vocab, dtype=torch.bool)
        banned[len(tokenizer):] = True
        banned[[i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i < vocab]] = True
        banned[self.eos_ids] = False
        self.banned = banned.to(self.device)
        self.cache = FeatureCache(2**30)
        self.checkpoint_layers = False   # keep each layer's input instead of its activations: less memory, a third more arithmetic
        self.max_tokens, self.max_cache_tokens = 16_384, 2**18      # per pass of towers or prefill; of keys and values held while decoding

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def towers(self) -> Iterable[nn.Parameter]:
        """The parameters of the vision tower (its merger is the aligner) and of the audio tower."""
        yield from self.visual.parameters()
        yield from self.audio_tower.parameters()

    def trained(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that are trained: of the decoder and head, and of the towers."""
        towers = [p for p in self.towers() if p.requires_grad]
        own = {id(p) for p in towers}
        return [p for p in self.model.parameters() if p.requires_grad and id(p) not in own], towers

    def freeze_towers(self) -> None:
        """No gradient through the towers; their outputs are kept in the cache from now on."""
        for p in self.towers():
            p.requires_grad_(False)

    def reference(self) -> "Policy":
        """A frozen copy of the decoder as it is now. It has no towers of its own: give it the features of this policy."""
        twin = copy.copy(self)
        twin.text, twin.head = (copy.deepcopy(part).requires_grad_(False) for part in (self.text, self.head))
        return twin

    @property
    def trains_towers(self) -> bool:
        return any(p.requires_grad for p in self.towers())

    def features(self, prompts: list[Prompt], seen: dict[str, dict[str, Tensor]] | None = None) -> list[dict[str, Tensor]]:
        """Tower outputs of each prompt: {"vision": (n, D), "audio": (m, D)}, run once per distinct media.

        seen: what this step has already run, by media key; looked up, and added to. With frozen towers there is no gradient, and results are
        cached across steps, too.
        """
        frozen, seen = not self.trains_towers, {} if seen is None else seen
        fresh: dict[str, Prompt] = {}
        for p in prompts:
            key = p.sample.media_key
            if key not in seen and frozen and (hit := self.cache.get(key)) is not None:
                seen[key] = {name: t.to(self.device) for name, t in hit.items()}
            elif key not in seen:
                fresh[key] = p
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            for part in split_by_tokens(list(fresh), [len(p.ids) for p in fresh.values()], self.max_tokens):
                for key, value in zip(part, self._run_towers([fresh[key] for key in part]), strict=True):
                    seen[key] = value
                    if frozen:
                        self.cache.put(key, value)
        return [seen[p.sample.media_key] for p in prompts]

    def towers_backward(self, prompts: list[Prompt], leaves: dict[str, dict[str, Tensor]]) -> None:
        """Carry gradients on into trained towers: from `leaves`, by media key the features that a step was computed from, once they hold
        gradients. One prompt's towers run again at a time, as under checkpointing, so that a step keeps no activations of theirs."""
        for key, prompt in {p.sample.media_key: p for p in prompts}.items():
            some = {name: leaf.grad for name, leaf in leaves.get(key, {}).items() if leaf.grad is not None}
            if some:
                again = self._run_towers([prompt])[0]
                torch.autograd.backward([again[name] for name in some], list(some.values()))

    def _run_towers(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """One call of each tower for all prompts: patches and mel frames are concatenated, as the towers expect."""
        out: list[dict[str, Tensor]] = [{} for _ in prompts]
        seen, heard = [i for i, p in enumerate(prompts) if p.patches is not None], [i for i, p in enumerate(prompts) if p.mel is not None]
        if seen:
            grid = torch.tensor([prompts[i].grid for i in seen], device=self.device)             # (n, 3)
            merged = self.visual(torch.cat([prompts[i].patches for i in seen]).to(self.device), grid_thw=grid).pooler_output
            for i, part in zip(seen, merged.split((grid.prod(1) // MERGE**2).tolist()), strict=True):
                out[i]["vision"] = part
        if heard:
            lengths = [prompts[i].mel.shape[1] for i in heard]
            mel = torch.cat([prompts[i].mel for i in heard], dim=1).to(self.device)              # (M, sum L)
            states = self.audio_tower(mel, feature_lens=torch.tensor(lengths, device=self.device)).last_hidden_state
            for i, part in zip(heard, states.split([audio_tokens(n) for n in lengths]), strict=True):
                out[i]["audio"] = part
        return out

    def embed(self, prompt: Prompt, features: dict[str, Tensor]) -> Tensor:
        """(P, D): word embeddings with the media tokens replaced by the towers' features."""
        ids = prompt.ids.to(self.device)
        x = self.text.embed_tokens(ids)
        vision_id = self.config.image_token_id if prompt.is_image else self.config.video_token_id
        for name, token in (("vision", vision_id), ("audio", self.config.audio_token_id)):
            if name in features:
                x = x.masked_scatter((ids == token)[:, None], features[name].to(x.dtype))
        return x

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, 1, d) of positions (3, T), for `rotate`."""
        cos, sin = (x[0, :, None] for x in self.text.rotary_emb(self.head.weight, positions[:, None]))
        half = cos.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)

    def run(self, x: Tensor, positions: Tensor, body: Layout, end: Layout, keep: list | None = None) -> Tensor:
        """The decoder over a stream x (T, D) at positions (3, T). Returns the states (n, D) of the tokens that `end` asks. keep: a list that
        gets each layer's keys and values."""
        rotary = self.rotary(positions)

        def layer_of(layer, x, lay):
            def attention(q, k, v):
                if keep is not None:
                    keep.append((k, v))
                return PackedAttention.apply(q, k, v, lay)
            return block(layer, x, rotary, attention, lay.rows)

        for i, layer in enumerate(self.text.layers):
            lay = end if i + 1 == len(self.text.layers) else body
            if self.checkpoint_layers and torch.is_grad_enabled():
                x = checkpoint(layer_of, layer, x, lay, use_reentrant=False)
            else:
                x = layer_of(layer, x, lay)
        return self.text.norm(x)

    def prefill(self, prompts: list[Prompt], features: list[dict[str, Tensor]]) -> "Prefix":
        """Run the decoder over the prompts, once each, without gradients."""
        lengths = [len(p.ids) for p in prompts]
        keys, values = ([[] for _ in self.text.layers] for _ in range(2))
        last: list[Tensor] = []
        with torch.no_grad():
            for part in split_by_tokens(list(range(len(prompts))), lengths, self.max_tokens):
                x = torch.cat([self.embed(prompts[i], features[i]) for i in part])
                positions = torch.cat([prompts[i].positions for i in part], dim=1).to(self.device)
                some, kept = [lengths[i] for i in part], []
                body, end, _ = lay_out_groups(some, [[] for _ in part], self.device)
                last.append(self.run(x, positions, body, end, kept))
                for layer, pair in enumerate(kept):
                    for side, tokens in zip((keys, values), pair, strict=True):
                        side[layer] += tokens.split(some)                                             # (P, K, d) of each prompt
            pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
            return Prefix(lengths, *([pad(layer).transpose(1, 2).contiguous() for layer in side] for side in (keys, values)), torch.cat(last),
                          torch.tensor([p.next_position for p in prompts], device=self.device))

    def log_distribution(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """(n, D) -> fp32 log-probs (n, V) at `temperature`, over the ids a completion may hold."""
        return F.log_softmax(fp32_logits(hidden, self.head.weight, self.banned, temperature), dim=-1)

    def completion_logps(self, prompts: list[Prompt], features: list[dict[str, Tensor]], completions: list[list[list[int]]],
                         temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs of each prompt's completions (completions[b] = list of token-id lists, EOS included), by one packed row per prompt.

        Returns logp (N, R) fp32, 0 on padding, and mask (N, R) bool, rows in the order of the prompts and their completions.
        An empty completion gives an all-False row. Gradients flow to whatever requires them.
        """
        flat = [c for group in completions for c in group]
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(c, dtype=torch.long) for c in flat], batch_first=True).to(self.device)      # (N, R)
        lengths = torch.tensor([len(c) for c in flat], device=self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]                                                  # (N, R)
        if not mask.any():
            return torch.zeros(mask.shape, device=self.device), mask
        stream, positions = [], []
        for prompt, seen, group in zip(prompts, features, completions, strict=True):     # a completion's last token predicts nothing: left out
            ids = torch.tensor([t for c in group for t in c[:-1]], dtype=torch.long, device=self.device)
            stream += [self.embed(prompt, seen), self.text.embed_tokens(ids)]
            steps = torch.tensor([i for c in group for i in range(len(c) - 1)], dtype=torch.long) + prompt.next_position
            positions += [prompt.positions, steps.expand(3, -1)]
        body, end, first = lay_out_groups([len(p.ids) for p in prompts], [[max(0, len(c) - 1) for c in group] for group in completions], self.device)
        states = self.run(torch.cat(stream), torch.cat(positions, dim=1).to(self.device), body, end)                                 # (n, D)
        # the state that predicts each token: of the prompt's last token for a first one, of the token before for the others
        index = torch.zeros(mask.shape, dtype=torch.long, device=self.device)
        index[:, 0] = first
        index[:, 1:][mask[:, 1:]] = end.own
        picked = TokenLogprobs.apply(states[index[mask]], self.head.weight, tokens[mask], self.banned, temperature)
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, picked), mask

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), config, tokenizer and the preprocessors' settings: transformers loads the folder as it is."""
        from transformers import WhisperFeatureExtractor
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        audio = WhisperFeatureExtractor(feature_size=self.config.audio_config.num_mel_bins, sampling_rate=SAMPLE_RATE, return_attention_mask=True)
        settings = audio.to_dict() | {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "merge_size": MERGE,
                                      "temporal_patch_size": TEMPORAL_PATCH, "image_mean": list(MEAN), "image_std": list(STD)}
        settings.pop("mel_filters", None)
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------- the tiny model
MEDIA_TOKENS = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>",
                "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
CHAT_TEMPLATE = (  # Qwen2.5-Omni's form; newlines are written out because templates swallow those beside a block
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{%- elif part.type == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{%- elif part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{%- else %}{{ part.text }}{% endif -%}"
    "{%- endfor -%}{%- endif %}{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}")


def token_fields(tokenizer) -> dict[str, int]:
    """The fields of a thinker's config that name the tokenizer's special tokens."""
    media = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    return {"image_token_index": media["image_token"], "video_token_index": media["video_token"], "audio_token_index": media["audio_token"],
            "audio_start_token_id": media["audio_bos_token"], "audio_end_token_id": media["audio_eos_token"],
            "vision_start_token_id": media["vision_bos_token"], "vision_end_token_id": media["vision_eos_token"],
            "user_token_id": tokenizer.convert_tokens_to_ids("user")}


def make_tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640):
    """A byte-level BPE tokenizer of Qwen's kind, learned from `corpus`, with Qwen2.5-Omni's special tokens and chat form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False)])
    core.decoder = decoders.ByteLevel()
    chat = ["user", "assistant", "system\nYou are a helpful assistant."] * 100
    core.train_from_iterator([*chat, *corpus], trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                        clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
                                        extra_special_tokens={"im_start_token": "<|im_start|>", **MEDIA_TOKENS})
    tokenizer.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    return tokenizer


def make_tiny_policy(corpus: Iterable[str], seed: int = 0, device: torch.device | str = "cpu") -> Policy:
    """A 1.6 M-parameter Qwen2.5-Omni thinker with random weights: 4 decoder layers of width 128, two 2-layer towers of width 96."""
    from transformers import Qwen2_5OmniThinkerConfig
    tokenizer = make_tiny_tokenizer(corpus)
    wide = {"initializer_range": 0.06}  # about 1 / sqrt(width): with the 0.02 of large models so small a one starts out nearly mute
    text = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4]},
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, **wide}
    vision = {"depth": 2, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128, "fullatt_block_indexes": [1],
              **wide}
    audio = {"num_mel_bins": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192, "d_model": 96, "output_dim": 128,
             "n_window": 200, **wide}  # one window holds the clip, so a sound knows its time
    config = Qwen2_5OmniThinkerConfig(**wide, text_config=text, vision_config=vision, audio_config=audio, **token_fields(tokenizer))
    torch.manual_seed(seed)
    return Policy(Qwen2_5OmniThinkerForConditionalGeneration(config).to(device), tokenizer)
