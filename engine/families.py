"""engine/families.py: every touch of transformers' internals."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoTokenizer
from transformers.utils import cached_file

from formats.sample import DataError
from media.prompt_format import PromptFormat

DEFAULT_MODEL = Path(__file__).parent.parent / "assets" / "tiny-omni"


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
