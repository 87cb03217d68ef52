"""model.py: the policy. A Qwen2.5-Omni thinker (or a Qwen2.5-VL, Qwen3-VL) in Hugging Face form that gives token log-probabilities.

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

All contact with transformers' internals is in `FAMILIES`, `parts`, `prompt_format`, `block` and `_run_towers`: it moved them between 5.17 and
5.23, and both work. What another family needs beyond a line in FAMILIES: Qwen2.5-VL its rate of positions; Qwen3-VL the norms of queries and keys (`block`),
the tower features added after the first layers (`deepstack`), and times in words (data.py).
Dimensions: B prompts, P prompt tokens, N completions in all, R completion tokens, T tokens of a stream, V vocabulary, D width,
H query heads, K key-value heads, d head width.
"""

import contextlib
import copy
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, AutoTokenizer
from transformers.utils import cached_file

from data import (
    MEAN,
    MERGE,
    PATCH,
    SAMPLE_RATE,
    STD,
    TEMPORAL_PATCH,
    Prompt,
    PromptFormat,
    audio_tokens,
)
from records import DataError

DEFAULT_MODEL = Path(__file__).parent / "assets" / "tiny-omni"
# model_type: transformers' class, and what its vision tower, audio tower, decoder and head are called in checkpoints, on the hub and in ours
FAMILIES = {
    "qwen2_5_omni_thinker": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        ("thinker.visual", "thinker.audio_tower", "thinker.model", "thinker.lm_head"),
    ),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", ("visual", "", "model", "lm_head")),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        ("model.visual", "", "model.language_model", "lm_head"),
    ),
}
ATTENTIONS = ("auto", "flash_attention_2", "sdpa", "eager")
LOGIT_CHUNK = 1024  # completion tokens per fp32 logits block, so that no (tokens, V) tensor of a whole batch exists


# ---------------------------------------------------------------------------------------------- loading and saving
def load_config(path: str | Path):
    """The config of a model folder (or hub name); of a full Qwen2.5-Omni checkpoint, that of its thinker."""
    try:
        raw, _ = transformers.PretrainedConfig.get_config_dict(path)
        if not raw:
            raise OSError("it has no config.json")
        raw = raw.get("thinker_config", raw)
        config = (
            CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
            if raw.get("model_type") in FAMILIES
            else None
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a model folder ({str(error).splitlines()[0][:160]}); pass --model with a folder "
            "that holds config.json, or a hub name"
        ) from None
    if config is None:
        raise DataError(
            f"{path}: config.json says model_type '{raw.get('model_type')}'; this code runs qwen2_5_omni, {', '.join(FAMILIES)}"
        )
    for name in ("use_sliding_window", "attention_dropout"):
        if getattr(config.text_config, name, None):
            raise DataError(
                f"{path}: config.json sets {name} of the text model, which packed rows do not have; set it to 0 if the weights allow it"
            )
    return config


def prompt_format(config) -> PromptFormat:
    """How the model of this config reads media."""
    vision = config.vision_config
    form = {
        "image": config.image_token_id,
        "video": config.video_token_id,
        "patch": vision.patch_size,
    }
    if config.model_type == "qwen2_5_omni_thinker":
        return PromptFormat(
            **form,
            audio=config.audio_token_id,
            audio_start=config.audio_start_token_id,
            audio_end=config.audio_end_token_id,
            per_second=config.position_id_per_seconds,
            chunk=int(config.position_id_per_seconds * config.seconds_per_chunk),
            n_mels=config.audio_config.num_mel_bins,
        )
    if config.model_type == "qwen2_5_vl":
        return PromptFormat(**form, per_second=vision.tokens_per_second)
    return PromptFormat(**form, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), timestamps=True)


def load_tokenizer_and_config(path: str | Path):
    """(tokenizer, config) of a model folder. Raises DataError when the tokenizer does not know the media tokens."""
    config = load_config(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, config=config
        )  # else transformers reads, and warns about, the talker's config
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: no tokenizer could be loaded ({str(error).splitlines()[0][:160]})"
        ) from None
    form = prompt_format(config)
    wanted = {"image": form.image, "video": form.video, "audio": form.audio}
    for name, token in wanted.items():
        if token is not None and token >= len(tokenizer):
            raise DataError(
                f"{path}: the config's {name}_token_id = {token} is not in the tokenizer ({len(tokenizer)} tokens); use the model's own files"
            )
    if not tokenizer.chat_template and (
        file := cached_file(
            str(path), "chat_template.json", _raise_exceptions_for_missing_entries=False
        )
    ):
        tokenizer.chat_template = json.loads(Path(file).read_text(encoding="utf-8"))[
            "chat_template"
        ]  # where older checkpoints keep it
    if not tokenizer.chat_template:
        raise DataError(
            f"{path}: the tokenizer has no chat template; add the model's chat_template.json or .jinja"
        )
    turn = {
        "role": "user",
        "content": [{"type": name} for name, token in wanted.items() if token is not None],
    }
    ids = tokenizer(
        tokenizer.apply_chat_template([turn], tokenize=False), add_special_tokens=False
    )["input_ids"]
    for name, token in wanted.items():
        if token is not None and ids.count(token) != 1:
            raise DataError(
                f"{path}: the chat template writes {ids.count(token)} tokens {token} for one {name}, 1 is needed; tokenizer, chat template and "
                "config.json must be of one model"
            )
    return tokenizer, config


def pick_attention(device: torch.device, attn: str = "auto") -> str:
    """auto: flash-attn when it is installed and a GPU is used, PyTorch's SDPA otherwise. Raises DataError when flash-attn is asked for and missing."""
    from transformers.utils import is_flash_attn_2_available

    flash = device.type == "cuda" and is_flash_attn_2_available()
    if attn == "flash_attention_2" and not flash:
        raise DataError(
            "--attn flash_attention_2 needs a GPU and the package flash-attn; pip install flash-attn --no-build-isolation, or pass --attn sdpa"
        )
    if attn != "auto":
        return attn
    return "flash_attention_2" if flash else "sdpa"


def load_policy(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attn: str = "auto",
) -> "Policy":
    """Load a model and its tokenizer onto `device`. Raises DataError with one sentence when the folder does not hold one.

    attn: what the towers' attention runs on (one of ATTENTIONS). The decoder's is PyTorch's own flash kernel (`attend`).
    """
    tokenizer, config = load_tokenizer_and_config(path)
    device = torch.device(device)
    whole = getattr(transformers, FAMILIES[config.model_type][0])
    try:
        model, found = whole.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=pick_attention(device, attn),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "ignore_mismatched_sizes" in str(error):
            raise DataError(
                f"{path}: shapes of its weights are not those of its config.json; the checkpoint is of another class or size"
            ) from None
        raise DataError(
            f"{path}: no weights could be loaded ({str(error).splitlines()[0][:160]})"
        ) from None
    if missing := sorted(found["missing_keys"]):
        raise DataError(
            f"{path}: {len(missing)} weights of a {config.model_type} are missing, e.g. {missing[0]}; the checkpoint is of another class, "
            "or a file of it is"
        )
    return Policy(model.to(device), tokenizer, path)


def parts(model: nn.Module) -> tuple[nn.Module, nn.Module | None, nn.Module, nn.Module]:
    """(vision tower, audio tower or None, text decoder, lm_head) of a model: the one place that knows where transformers keeps them."""
    inner = (
        model.model if hasattr(model.model, "language_model") else model
    )  # 5.23: thinker.model.*, 5.17: thinker.*
    text = inner.language_model if inner is model.model else model.model
    return inner.visual, getattr(inner, "audio_tower", None), text, model.lm_head


def parameter_counts(config, lora_rank: int, towers: bool) -> dict[str, int]:
    """Numbers of weights by part, without making any: decoder (with its embedding), head (0 when tied), towers, one decoder layer, and the adapters that
    LoRA of this rank would add to the linear layers of the decoder and, if asked, of the towers."""
    with torch.device("meta"):
        model = getattr(transformers, FAMILIES[config.model_type][0])(config)
    visual, audio, text, head = parts(model)

    def count(module) -> int:
        return sum(p.numel() for p in module.parameters()) if module is not None else 0

    adapted = [
        m
        for part in ((text, visual, audio) if towers else (text,))
        if part is not None
        for m in part.modules()
        if isinstance(m, nn.Linear)
    ]
    return {
        "decoder": count(text),
        "head": 0 if head.weight is text.embed_tokens.weight else count(head),
        "towers": count(visual) + count(audio),
        "layer": count(text.layers[0]),
        "adapters": sum(lora_rank * (m.in_features + m.out_features) for m in adapted),
    }


# ---------------------------------------------------------------------------------------------- attention
def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, and the log-sum-exp of its scores, which scaled_dot_product_attention keeps to itself.

    q (B, H, S, d), k and v (B, K, L, d) with H a multiple of K, bias broadcastable to (B, H, S, L). causal: query i sees the keys 0..i (S = L).
    Returns (B, H, S, d) and (B, H, S) fp32. PyTorch's own flash kernels where they run, `attend_by_hand` elsewhere.
    """
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias
        )
    if q.device.type == "cuda" and bias is None and q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)[:2]
    return attend_by_hand(q, k, v, causal, bias)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to q, k, v of `attend`, given its output and log-sum-exp, or those of a larger softmax that these keys are a part of."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal
        )
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        seed, offset = (
            torch.zeros(n, dtype=torch.uint64, device=q.device) for n in ((2,), ())
        )  # of dropout, which is off
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.contiguous(),
            None,
            None,
            q.shape[2],
            k.shape[2],
            0.0,
            causal,
            seed,
            offset,
        )
    return attend_by_hand_backward(grad, q, k, v, out, lse, causal)


def for_each_query_head(k: Tensor, q: Tensor) -> Tensor:
    """(B, K, L, d) -> (B, H, L, d): each key-value head repeated for the query heads that share it."""
    return k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _scores(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
    """(B, H, S, L) fp32."""
    scores = (q @ for_each_query_head(k, q).mT).float() * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(
            torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), float("-inf")
        )
    return scores if bias is None else scores + bias


def attend_by_hand(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`attend` by two matrix products: for devices and types without a kernel, and to read."""
    scores = _scores(q, k, causal, bias)
    lse = scores.logsumexp(-1)  # (B, H, S)
    p = (scores - lse[..., None]).exp().to(v.dtype)  # (B, H, S, L)
    return p @ for_each_query_head(v, q), lse


def attend_by_hand_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    p = (
        _scores(q, k, causal, None) - lse[..., None]
    ).exp()  # (B, H, S, L) shares of the whole softmax
    dp = (grad @ for_each_query_head(v, q).mT).float()
    ds = (p * (dp - (grad.float() * out.float()).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5).to(
        q.dtype
    )  # (B, H, S, L)
    dk, dv = (
        x.unflatten(1, (k.shape[1], -1)).sum(2) for x in (ds.mT @ q, p.to(q.dtype).mT @ grad)
    )  # (B, K, L, d)
    return ds @ for_each_query_head(k, q), dk, dv


def join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two sets of keys, from that over each: outputs (..., d) and log-sum-exps (...) -> one of each."""
    share = torch.sigmoid(lse - more_lse)[..., None]  # e^a / (e^a + e^b)
    return torch.lerp(more.float(), out.float(), share).to(out.dtype), torch.logaddexp(
        lse, more_lse
    )


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


def lay_out_groups(
    prompt_lengths: list[int], completion_lengths: list[list[int]], device
) -> tuple[Layout, Layout, Tensor]:
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
    inside = (
        torch.arange(max(flat, default=0), device=device)
        < torch.tensor(flat, device=device, dtype=torch.long)[:, None]
    )  # (N, R)
    pad = torch.where(
        inside,
        torch.tensor(starts, device=device, dtype=torch.long)[:, None]
        + torch.arange(inside.shape[1], device=device),
        0,
    )
    real = inside.flatten().nonzero().squeeze(-1)
    place = torch.zeros(at, dtype=torch.long, device=device).index_copy(
        0, rows, torch.arange(len(rows), device=device)
    )  # stream -> tail
    own = pad.flatten()[real]
    body = Layout(prompts, prompts, after, pad, pad, real, own, own)
    end = Layout(
        prompts, [slice(0, 0)] * len(prompts), tail, place[pad], pad, real, place[own], own, rows
    )
    return body, end, torch.tensor(first, device=device, dtype=torch.long)


def _rows(x: Tensor) -> Tensor:
    """(n, H, d) tokens of one row, or (N, R, H, d) of several -> (B, H, S, d) as the kernels want them."""
    return (x[None] if x.ndim == 3 else x).transpose(1, 2)


class PackedAttention(torch.autograd.Function):
    """Attention over a stream: q (n, H, d) of the tokens asked, k and v (T, K, d) of all -> (n, H, d). See the drawing at the top."""

    @staticmethod
    def forward(ctx, q, k, v, lay: Layout):
        out, lse = (
            torch.empty_like(q),
            torch.empty(q.shape[:2], device=q.device),
        )  # (n, H, d), (n, H)
        for queries, causal in ((lay.causal, True), (lay.after, False)):
            for some, prompt in zip(queries, lay.prompts, strict=True):
                if some.stop > some.start:
                    o, s = attend(_rows(q[some]), _rows(k[prompt]), _rows(v[prompt]), causal)
                    out[some], lse[some] = o[0].transpose(0, 1), s[0].transpose(0, 1)
        if len(lay.own):
            o, s = attend(
                _rows(q[lay.pad_q]), _rows(k[lay.pad_k]), _rows(v[lay.pad_k]), True
            )  # right padding: no token sees it
            o, s = (
                o.transpose(1, 2).flatten(0, 1)[lay.real],
                s.transpose(1, 2).flatten(0, 1)[lay.real],
            )
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
                    a, b, c = attend_backward(
                        _rows(grad[some]),
                        _rows(q[some]),
                        _rows(k[prompt]),
                        _rows(v[prompt]),
                        _rows(out[some]),
                        lse[some].transpose(0, 1)[None],
                        causal,
                    )
                    for total, part, where in ((dq, a, some), (dk, b, prompt), (dv, c, prompt)):
                        total[where] += part[0].transpose(0, 1)
        if len(lay.own):
            padded = grad.new_zeros(*lay.pad_q.shape, *grad.shape[1:])  # (N, R, H, d), 0 on padding
            padded.flatten(0, 1)[lay.real] = grad[lay.own]
            parts = attend_backward(
                _rows(padded),
                _rows(q[lay.pad_q]),
                _rows(k[lay.pad_k]),
                _rows(v[lay.pad_k]),
                _rows(out[lay.pad_q]),
                lse[lay.pad_q].transpose(1, 2),
                True,
            )
            a, b, c = (x.transpose(1, 2).flatten(0, 1)[lay.real] for x in parts)  # (n, heads, d)
            dq[lay.own] += (
                a  # each token stands once in the padded block, so that += loses nothing to repeated indices
            )
            dk[lay.own_k] += b
            dv[lay.own_k] += c
        return dq, dk, dv, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, d); cos, sin (T, 1, d), the first half of sin negated: (a, b) -> (a cos - b sin, b cos + a sin)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def block(
    layer: nn.Module,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """One decoder layer: x (T, D) -> (T, D), or of `rows` alone. attention: (q (n, H, d), k (T, K, d), v) -> (n, H, d)."""
    a, (cos, sin) = layer.self_attn, rotary
    q_norm, k_norm = (
        getattr(a, "q_norm", nn.Identity()),
        getattr(a, "k_norm", nn.Identity()),
    )  # Qwen3's
    h = layer.input_layernorm(x)
    k, v = (
        rotate(k_norm(a.k_proj(h).unflatten(-1, (-1, a.head_dim))), cos, sin),
        a.v_proj(h).unflatten(-1, (-1, a.head_dim)),
    )
    if rows is not None:
        x, h, cos, sin = x[rows], h[rows], cos[rows], sin[rows]
    q = rotate(q_norm(a.q_proj(h).unflatten(-1, (-1, a.head_dim))), cos, sin)
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
            logits = fp32_logits(h[part], weight, banned, temperature)  # (c, V)
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
            p = logits.sub_(lse[part, None]).exp_()  # (c, V)
            g = grad[part, None] / ctx.temperature
            d = (
                p.mul_(-g).scatter_add_(-1, targets[part, None], g).to(weight.dtype)
            )  # g (onehot - p)
            if dh is not None:
                dh[part] = d @ weight
            if dw is not None:
                dw.addmm_(d.mT, h[part])
        return dh, dw, None, None, None


def fp32_logits(h: Tensor, weight: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """(n, V) fp32 logits at `temperature`, -inf where banned. Products and sums are fp32 whatever the type of h and weight."""
    if h.device.type == "cuda" and weight.dtype != torch.float32:
        logits = torch.mm(
            h, weight.mT, out_dtype=torch.float32
        )  # tensor cores: bf16 products are exact in fp32
    else:
        logits = h.float() @ weight.float().mT
    return (
        logits.masked_fill_(banned, float("-inf"))
        if temperature == 1
        else logits.div_(temperature).masked_fill_(banned, float("-inf"))
    )


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
    """What prompts leave behind for their completions. lengths: tokens of each; keys, values: per layer (B, K, P, d), right-padded.

    Each of the M questions is a prompt and a rest, the tokens that it alone has, maybe none: group (M,) its prompt; rest_lengths (M,); rest_keys,
    rest_values: per layer (M, K, S, d), left-padded; last (M, D): the last token's state; position (M,): where its completions start."""

    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    group: Tensor
    rest_lengths: Tensor
    rest_keys: list[Tensor]
    rest_values: list[Tensor]
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


class Call(nn.Module):
    """A module that runs what it is given: the handle by which FSDP gathers the weights of `below` before and scatters their gradients after."""

    def __init__(self, *below: nn.Module):
        super().__init__()
        self.below = nn.ModuleList(below)

    def forward(self, function: Callable, *args):
        return function(*args)


class Policy:
    """A model with its tokenizer: features, prefix, log-probs. Parameters are the module's own, in `self.model`.

    banned: (V,) bool, the ids a completion may not hold: media and chat markers and the rows past the tokenizer. Sampler and
    training mask them alike, so both speak of one distribution. eos_ids: the ids that end a completion. source: the folder it came from.
    """

    def __init__(self, model: nn.Module, tokenizer, source: str | Path | None = None):
        self.model, self.tokenizer, self.config, self.source = (
            model,
            tokenizer,
            model.config,
            source,
        )
        self.visual, self.audio_tower, self.text, self.head = parts(model)
        self.form = prompt_format(model.config)
        self.eos_ids = sorted(
            {
                tokenizer.eos_token_id,
                *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]),
            }
            - {None}
        )
        vocab = self.head.weight.shape[0]
        banned = torch.zeros(vocab, dtype=torch.bool)
        banned[len(tokenizer) :] = True
        banned[
            [
                i
                for i, token in tokenizer.added_tokens_decoder.items()
                if token.special and i < vocab
            ]
        ] = True
        banned[self.eos_ids] = False
        self.device = self.head.weight.device
        self.banned = banned.to(self.device)
        self.cache = FeatureCache(2**30)
        self.checkpoint_layers = False  # keep each layer's input instead of its activations: less memory, a third more arithmetic
        self.max_tokens, self.max_cache_tokens = (
            16_384,
            2**18,
        )  # per pass of towers or prefill; of keys and values held while decoding
        self.adapters_off = False  # run as if there were no LoRA
        self.root: Call | None = (
            None  # FSDP's handle on the decoder, and self.calls those on its layers
        )

    def towers(self) -> Iterable[nn.Parameter]:
        """The parameters of the vision tower (its merger is the aligner) and of the audio tower."""
        for tower in (self.visual, self.audio_tower):
            yield from tower.parameters() if tower is not None else ()

    def _named_parts(self) -> list[tuple[str, nn.Module]]:
        """The towers, decoder and head that there are, with what checkpoints call them."""
        modules = zip(
            FAMILIES[self.config.model_type][1],
            (self.visual, self.audio_tower, self.text, self.head),
            strict=True,
        )
        return [(name, module) for name, module in modules if module is not None]

    def named_trained(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The parameters that are trained, by their names in a checkpoint: of the decoder and head, and of the towers. A tied head is named once."""
        towers, sides, seen = {id(p) for p in self.towers()}, ({}, {}), set()
        for prefix, module in self._named_parts():
            for name, p in module.named_parameters():
                if p.requires_grad and id(p) not in seen:
                    sides[id(p) in towers][f"{prefix}.{name}"] = p
                    seen.add(id(p))
        return sides

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of the weights by their names in a checkpoint (`named_trained`)."""
        wanted = set(names)
        return {
            name: p
            for prefix, module in self._named_parts()
            for leaf, p in module.named_parameters()
            if (name := f"{prefix}.{leaf}") in wanted
        }

    def freeze_towers(self) -> None:
        """No gradient through the towers; their outputs are kept in the cache from now on."""
        for p in self.towers():
            p.requires_grad_(False)

    def reference(self) -> "Policy":
        """The policy as it is now, frozen: of LoRA the same weights without adapters, else a copy of the decoder. It has no towers of its own:
        give it the features of this policy."""
        if self.has_adapters:
            twin = copy.copy(self)
            twin.adapters_off = True
            return twin
        twin, memo = copy.copy(self), {}  # one memo: a head tied to the embedding stays so
        twin.text, twin.head = (
            copy.deepcopy(part, memo).requires_grad_(False) for part in (self.text, self.head)
        )
        return twin

    # ------------------------------------------------------------------ LoRA
    @property
    def has_adapters(self) -> bool:
        return hasattr(self.model, "peft_config")

    def add_adapters(self, rank: int, alpha: float, towers: bool, seed: int = 0) -> None:
        """LoRA (Hu et al., arXiv 2106.09685) on all linear layers of the decoder, and with `towers` on those of the towers; all else is frozen.
        Adapters have the weights' type: their optimiser keeps fp32 masters (optim.py)."""
        import peft

        for p in self.model.parameters():
            p.requires_grad_(False)
        within = [
            m
            for m in ((self.text, self.visual, self.audio_tower) if towers else (self.text,))
            if m is not None
        ]
        linear = {id(m) for part in within for m in part.modules() if isinstance(m, nn.Linear)}
        names = [name for name, m in self.model.named_modules() if id(m) in linear]
        torch.manual_seed(seed)  # alike on all processes
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), self.model
        )
        self.visual, self.audio_tower, self.text, self.head = parts(self.model)

    @contextlib.contextmanager
    def _adapters(self):
        """Within, adapters are off if this is a reference. subtle: peft's own switch also sets requires_grad, so it is put back by hand."""
        if not self.adapters_off:
            yield
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for m in layers:
            m.enable_adapters(False)
        try:
            yield
        finally:
            for m in layers:
                m.enable_adapters(True)
            for p in trained:
                p.requires_grad_(True)

    # ------------------------------------------------------------------ FSDP2
    def shard(self, train: bool = True) -> "Policy":
        """A twin whose decoder and head are spread over all processes by FSDP2 (`fully_shard`), layer by layer: what is trained, or with train=False a
        frozen reference. This policy stays whole: it samples, and has the towers. Every process must call completion_logps (and backward) equally often."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        twin, memo = copy.copy(self), {}
        mesh = init_device_mesh(self.device.type, (torch.distributed.get_world_size(),))

        def split(*below: nn.Module) -> Call:
            call = Call(*below)
            fully_shard(
                call.requires_grad_(train),
                mesh=mesh,
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
            )
            call.set_gradient_divide_factor(
                1.0
            )  # sums: each process has divided its loss by global counts
            call.set_force_sum_reduction_for_comms(True)  # gloo knows no sum of multiples
            return call

        twin.text = copy.copy(
            self.text
        )  # the same module with parts of its own, of which one at a time is whole
        twin.text._modules = dict(self.text._modules)
        twin.text.layers, twin.calls = nn.ModuleList(), []
        for layer in self.text.layers:
            twin.text.layers.append(copy.deepcopy(layer))
            twin.calls.append(split(twin.text.layers[-1]))
        twin.text.embed_tokens, twin.text.norm, twin.head = (
            copy.deepcopy(part, memo)
            for part in (self.text.embed_tokens, self.text.norm, self.head)
        )
        twin.root = split(twin.text.embed_tokens, twin.text.norm, twin.head, *twin.calls)
        return twin

    def copy_from(self, sharded: "Policy") -> None:
        """Gather the weights of a sharded twin into this policy."""
        with torch.no_grad():
            for mine, theirs in ((self.text, sharded.text), (self.head, sharded.head)):
                for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                    p.copy_(q.full_tensor())

    # ------------------------------------------------------------------ towers
    @property
    def trains_towers(self) -> bool:
        return any(p.requires_grad for p in self.towers())

    def features(
        self, prompts: list[Prompt], seen: dict[str, dict[str, Tensor]] | None = None
    ) -> list[dict[str, Tensor]]:
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
            for part in split_by_tokens(
                list(fresh), [len(p.ids) for p in fresh.values()], self.max_tokens
            ):
                for key, value in zip(
                    part, self._run_towers([fresh[key] for key in part]), strict=True
                ):
                    seen[key] = value
                    if frozen:
                        self.cache.put(key, value)
        return [seen[p.sample.media_key] for p in prompts]

    def towers_backward(self, prompts: list[Prompt], leaves: dict[str, dict[str, Tensor]]) -> None:
        """Carry gradients on into trained towers: from `leaves`, by media key the features that a step was computed from, once they hold
        gradients. One prompt's towers run again at a time, as under checkpointing, so that a step keeps no activations of theirs."""
        for key, prompt in {p.sample.media_key: p for p in prompts}.items():
            some = {
                name: leaf.grad
                for name, leaf in leaves.get(key, {}).items()
                if leaf.grad is not None
            }
            if some:
                again = self._run_towers([prompt])[0]
                torch.autograd.backward([again[name] for name in some], list(some.values()))

    def _run_towers(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """One call of each tower for all prompts: patches and mel frames are concatenated, as the towers expect."""
        out: list[dict[str, Tensor]] = [{} for _ in prompts]
        seen, heard = (
            [i for i, p in enumerate(prompts) if p.grids],
            [i for i, p in enumerate(prompts) if p.mels],
        )
        if seen:
            grids = torch.tensor(
                [grid for i in seen for grid in prompts[i].grids], device=self.device
            )  # (n, 3)
            made = self.visual(
                torch.cat([prompts[i].patches for i in seen]).to(self.device, self.visual.dtype),
                grid_thw=grids,
            )
            layers = {"vision": made.pooler_output} | {
                f"deepstack{i}": x for i, x in enumerate(getattr(made, "deepstack_features", []))
            }
            for name, merged in layers.items():
                for i, part in zip(
                    seen,
                    merged.split([len(prompts[i].patches) // MERGE**2 for i in seen]),
                    strict=True,
                ):
                    out[i][name] = part
        if heard:
            lengths = [[mel.shape[1] for mel in prompts[i].mels] for i in heard]
            mel = torch.cat([mel for i in heard for mel in prompts[i].mels], dim=1).to(
                self.device, self.audio_tower.dtype
            )  # (M, sum L)
            states = self.audio_tower(
                mel,
                feature_lens=torch.tensor(
                    [n for some in lengths for n in some], device=self.device
                ),
            ).last_hidden_state
            for i, part in zip(
                heard, states.split([sum(map(audio_tokens, some)) for some in lengths]), strict=True
            ):
                out[i]["audio"] = part
        return out

    def embed(self, prompt: Prompt, features: dict[str, Tensor]) -> Tensor:
        """(P, D): word embeddings with the media tokens replaced by the towers' features."""
        ids = prompt.ids.to(self.device)
        x = self.text.embed_tokens(ids)
        for name, where in (("vision", self._is_vision(ids)), ("audio", ids == self.form.audio)):
            if name in features:
                x = x.masked_scatter(where[:, None], features[name].to(x.dtype))
        return x

    def _is_vision(self, ids: Tensor) -> Tensor:
        return (ids == self.form.image) | (ids == self.form.video)

    def deepstack(
        self, prompts: list[Prompt], features: list[dict[str, Tensor]], lengths: list[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Qwen3-VL: what is added to a stream after each of its first layers, as (tokens, values (n, D)). lengths: tokens of each prompt's row."""
        count = max((sum(name.startswith("deepstack") for name in f) for f in features), default=0)
        if not count:
            return []
        with_vision = [
            (p, f, at)
            for p, f, at in zip(
                prompts, features, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True
            )
            if "vision" in f
        ]
        where = torch.cat(
            [
                self._is_vision(p.ids.to(self.device)).nonzero().squeeze(-1) + at
                for p, _, at in with_vision
            ]
        )
        return [
            (where, torch.cat([f[f"deepstack{i}"] for _, f, _ in with_vision]))
            for i in range(count)
        ]

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, 1, d) of positions (3, T), for `rotate`."""
        cos, sin = (
            x[0, :, None]
            for x in self.text.rotary_emb(
                self.banned.new_empty(0, dtype=self.head.weight.dtype), positions[:, None]
            )
        )
        half = cos.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        body: Layout,
        end: Layout,
        deepstack: list[tuple[Tensor, Tensor]] = (),
        keep: list | None = None,
    ) -> Tensor:
        """The decoder over a stream x (T, D) at positions (3, T). Returns the states (n, D) of the tokens that `end` asks. deepstack: see there.
        keep: a list that gets each layer's keys and values."""
        rotary = self.rotary(positions)

        def layer_of(layer, x, lay):
            def attention(q, k, v):
                if keep is not None:
                    keep.append((k, v))
                return PackedAttention.apply(q, k, v, lay)

            return block(layer, x, rotary, attention, lay.rows)

        for i, layer in enumerate(self.text.layers):
            lay = end if i + 1 == len(self.text.layers) else body
            work = (
                partial(checkpoint, layer_of, use_reentrant=False)
                if self.checkpoint_layers and torch.is_grad_enabled()
                else layer_of
            )
            x = work(layer, x, lay) if self.root is None else self.calls[i](work, layer, x, lay)
            if i < len(deepstack):
                x = x.index_add(0, deepstack[i][0], deepstack[i][1].to(x.dtype))
        return self.text.norm(x)

    @torch.no_grad()
    def prefill(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        rests: list[list[list[int]]] | None = None,
    ) -> "Prefix":
        """Run the decoder over the prompts, once each, without gradients. rests: what follows on each prompt, as token ids (`data.share_prefixes`):
        several questions about one clip read it once. None: every prompt is one question."""
        rests = rests or [[[]] for _ in prompts]
        lengths, rest_lengths = (
            [len(p.ids) for p in prompts],
            [[len(r) for r in some] for some in rests],
        )
        tokens = [n + sum(some) for n, some in zip(lengths, rest_lengths, strict=True)]
        keys, values, rest_keys, rest_values = ([[] for _ in self.text.layers] for _ in range(4))
        last: list[Tensor] = []
        for part in split_by_tokens(list(range(len(prompts))), tokens, self.max_tokens):
            stream, positions = [], []
            for i in part:
                ids = torch.tensor(
                    [t for r in rests[i] for t in r], dtype=torch.long, device=self.device
                )
                stream += [self.embed(prompts[i], features[i]), self.text.embed_tokens(ids)]
                steps = (
                    torch.tensor([at for n in rest_lengths[i] for at in range(n)], dtype=torch.long)
                    + prompts[i].next_position
                )
                positions += [prompts[i].positions, steps.expand(3, -1)]
            some, after, kept = [lengths[i] for i in part], [rest_lengths[i] for i in part], []
            body, end, first = lay_out_groups(some, after, self.device)
            deepstack = self.deepstack(
                [prompts[i] for i in part], [features[i] for i in part], [tokens[i] for i in part]
            )
            states = self.run(
                torch.cat(stream),
                torch.cat(positions, dim=1).to(self.device),
                body,
                end,
                deepstack,
                kept,
            )
            flat = [n for one in after for n in one]
            ends = np.cumsum(flat) - 1  # the last token of each rest among all of theirs
            last.append(
                states[
                    torch.stack(
                        [
                            end.own[at] if n else first[row]
                            for row, (n, at) in enumerate(zip(flat, ends, strict=True))
                        ]
                    )
                ]
            )
            cuts = [n for p, one in zip(some, after, strict=True) for n in (p, *one)]
            of_prompt = [kind for one in after for kind in (True, *[False] * len(one))]
            for layer, pair in enumerate(kept):
                for whole, mine, stream in zip(
                    (keys, values), (rest_keys, rest_values), pair, strict=True
                ):
                    for piece, prompt in zip(stream.split(cuts), of_prompt, strict=True):
                        (whole if prompt else mine)[layer].append(
                            piece
                        )  # (P, K, d) of a prompt, (S, K, d) of a rest
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return Prefix(
            lengths,
            *(
                [pad(layer).transpose(1, 2).contiguous() for layer in side]
                for side in (keys, values)
            ),
            torch.arange(len(prompts), device=self.device).repeat_interleave(
                torch.tensor([len(some) for some in rests], device=self.device)
            ),
            torch.tensor([n for some in rest_lengths for n in some], device=self.device),
            *(
                [pad(layer, padding_side="left").transpose(1, 2) for layer in side]
                for side in (rest_keys, rest_values)
            ),
            torch.cat(last),
            torch.tensor(
                [
                    p.next_position + n
                    for p, some in zip(prompts, rest_lengths, strict=True)
                    for n in some
                ],
                device=self.device,
            ),
        )

    def log_distribution(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """(n, D) -> fp32 log-probs (n, V) at `temperature`, over the ids a completion may hold."""
        return F.log_softmax(
            fp32_logits(hidden, self.head.weight, self.banned, temperature), dim=-1
        )

    def completion_logps(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """`_completion_logps`, with FSDP's and LoRA's preparations."""
        with self._adapters():
            work = partial(self._completion_logps, *args, **kwargs)
            return work() if self.root is None else self.root(work)

    def _completion_logps(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        completions: list[list[list[int]]],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Log-probs of each prompt's completions (completions[b] = list of token-id lists, EOS included), by one packed row per prompt.

        Returns logp (N, R) fp32, 0 on padding, and mask (N, R) bool, rows in the order of the prompts and their completions.
        An empty completion gives an all-False row. Gradients flow to whatever requires them.
        """
        flat = [c for group in completions for c in group]
        tokens = nn.utils.rnn.pad_sequence(
            [torch.tensor(c, dtype=torch.long) for c in flat], batch_first=True
        ).to(self.device)  # (N, R)
        lengths = torch.tensor([len(c) for c in flat], device=self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]  # (N, R)
        if not mask.any():
            return torch.zeros(mask.shape, device=self.device), mask
        stream, positions = [], []
        for prompt, seen, group in zip(
            prompts, features, completions, strict=True
        ):  # a completion's last token predicts nothing: left out
            ids = torch.tensor(
                [t for c in group for t in c[:-1]], dtype=torch.long, device=self.device
            )
            stream += [self.embed(prompt, seen), self.text.embed_tokens(ids)]
            steps = (
                torch.tensor([i for c in group for i in range(len(c) - 1)], dtype=torch.long)
                + prompt.next_position
            )
            positions += [prompt.positions, steps.expand(3, -1)]
        body, end, first = lay_out_groups(
            [len(p.ids) for p in prompts],
            [[max(0, len(c) - 1) for c in group] for group in completions],
            self.device,
        )
        rows = [
            len(p.ids) + sum(max(0, len(c) - 1) for c in group)
            for p, group in zip(prompts, completions, strict=True)
        ]
        deepstack = self.deepstack(prompts, features, rows)
        states = self.run(
            torch.cat(stream), torch.cat(positions, dim=1).to(self.device), body, end, deepstack
        )  # (n, D)
        # the state that predicts each token: of the prompt's last token for a first one, of the token before for the others
        index = torch.zeros(mask.shape, dtype=torch.long, device=self.device)
        index[:, 0] = first
        index[:, 1:][mask[:, 1:]] = end.own
        picked = TokenLogprobs.apply(
            states[index[mask]], self.head.weight, tokens[mask], self.banned, temperature
        )
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, picked), mask

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors, 5 GB a file), config, tokenizer and preprocessor settings in the form of the hub's checkpoints, which
        transformers and vLLM load as it is. Of a Qwen2.5-Omni that is the full form, `thinker.` keys and config, without the talker. LoRA adapters
        are merged into the weights, and written on their own to folder/adapter in peft's form, too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(
            self.merged_weights(), folder, max_shard_size="5GB", metadata={"format": "pt"}
        )
        config = self.config.to_dict()
        if self.config.model_type == "qwen2_5_omni_thinker":
            config = {
                "architectures": ["Qwen2_5OmniForConditionalGeneration"],
                "model_type": "qwen2_5_omni",
                "enable_audio_output": False,
                "transformers_version": transformers.__version__,
                "thinker_config": config,
            }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save_pretrained(folder)
        for name in (
            "preprocessor_config.json",
            "video_preprocessor_config.json",
            "processor_config.json",
            "generation_config.json",
            "spk_dict.pt",
        ):
            if self.source and (
                found := cached_file(
                    str(self.source), name, _raise_exceptions_for_missing_entries=False
                )
            ):
                if Path(found).resolve() != (folder / name).resolve():
                    shutil.copyfile(found, folder / name)
            elif name == "preprocessor_config.json":
                (folder / name).write_text(
                    json.dumps(self.preprocessor_settings(), indent=2) + "\n"
                )
        if self.has_adapters:
            import peft

            (folder / "adapter").mkdir(exist_ok=True)
            save_file(
                {
                    f"base_model.model.{k}": v.detach().contiguous().cpu()
                    for k, v in peft.get_peft_model_state_dict(self.model).items()
                },
                folder / "adapter" / "adapter_model.safetensors",
                metadata={"format": "pt"},
            )
            self.model.peft_config["default"].save_pretrained(folder / "adapter")

    def merged_weights(self) -> dict[str, Tensor]:
        """All weights by their names in a checkpoint, adapters added in."""
        out = {}
        for prefix, module in self._named_parts():
            if (
                module is self.head and self.head.weight is self.text.embed_tokens.weight
            ):  # tied: named with the embedding
                continue
            layers = dict(module.named_modules())
            for name, value in module.state_dict().items():
                owner, _, leaf = name.rpartition(".base_layer.")
                if "lora_" in name:
                    continue
                if owner:
                    name = f"{owner}.{leaf}"
                    if leaf == "weight":
                        value = (
                            value.float() + layers[owner].get_delta_weight("default").float()
                        ).to(value.dtype)
                out[f"{prefix}.{name}"] = value.detach()
        return out

    def preprocessor_settings(self) -> dict:
        """What transformers' processors need to know, for a model that was not loaded from a folder that says it."""
        from transformers import WhisperFeatureExtractor

        audio = {}
        if self.form.n_mels:
            audio = WhisperFeatureExtractor(
                feature_size=self.form.n_mels, sampling_rate=SAMPLE_RATE, return_attention_mask=True
            ).to_dict()
            audio.pop("mel_filters", None)
        return audio | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": PATCH,
            "merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        }


# ---------------------------------------------------------------------------------------------- the tiny model
MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
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
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"
)


def token_fields(tokenizer) -> dict[str, int]:
    """The fields of a thinker's config that name the tokenizer's special tokens."""
    media = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    return {
        "image_token_index": media["image_token"],
        "video_token_index": media["video_token"],
        "audio_token_index": media["audio_token"],
        "audio_start_token_id": media["audio_bos_token"],
        "audio_end_token_id": media["audio_eos_token"],
        "vision_start_token_id": media["vision_bos_token"],
        "vision_end_token_id": media["vision_eos_token"],
        "user_token_id": tokenizer.convert_tokens_to_ids("user"),
    }


def make_tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640):
    """A byte-level BPE tokenizer of Qwen's kind, learned from `corpus`, with Qwen2.5-Omni's special tokens and chat form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    chat = ["user", "assistant", "system\nYou are a helpful assistant."] * 100
    core.train_from_iterator(
        [*chat, *corpus],
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens={"im_start_token": "<|im_start|>", **MEDIA_TOKENS},
    )
    tokenizer.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    return tokenizer


def make_tiny_policy(
    corpus: Iterable[str], seed: int = 0, device: torch.device | str = "cpu"
) -> Policy:
    """A 1.6 M-parameter Qwen2.5-Omni thinker with random weights: 4 decoder layers of width 128, two 2-layer towers of width 96."""
    from transformers import Qwen2_5OmniThinkerConfig

    tokenizer = make_tiny_tokenizer(corpus)
    wide = {
        "initializer_range": 0.06
    }  # about 1 / sqrt(width): with the 0.02 of large models so small a one starts out nearly mute
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [8, 4, 4],
        },
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **wide,
    }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [1],
        **wide,
    }
    audio = {
        "num_mel_bins": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 192,
        "d_model": 96,
        "output_dim": 128,
        "n_window": 200,
        **wide,
    }  # one window holds the clip, so a sound knows its time
    config = Qwen2_5OmniThinkerConfig(
        **wide,
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        **token_fields(tokenizer),
    )
    torch.manual_seed(seed)
    return Policy(
        transformers.Qwen2_5OmniThinkerForConditionalGeneration(config).to(device), tokenizer
    )
