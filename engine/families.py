"""engine/families.py: the model families that run here, and every touch of transformers' internals.

    family          towers                decoder                  differs from the others in
    Qwen2.5-Omni    vision and audio      Qwen2.5                  a talker in its checkpoints
    Qwen2.5-VL      vision                Qwen2.5                  the rate of time positions
    Qwen3-VL        vision, deepstack     Qwen3: q and k norms     times in words (data.py)
    Qwen3-Omni      both, deepstack       Qwen3, with experts      sound and picture token by token

A talker speaks answers; here it is neither loaded nor saved. transformers moved its modules between
5.17 and 5.23, and both layouts work. A new family needs an entry in FAMILIES, a case in
`prompt_format`, and what it computes differently in `run_vision_tower` and `block`.

Experts: each layer of Qwen3-Omni's decoder has E MLPs, and a router that sends each token to some
of them. Router and experts are transformers' own, and are trained with --train_type full. LoRA does
not adapt them: they are no linear layers, but parameters with the weights of all E. The loss that
is to keep the load of experts even is left out.

Dimensions: T tokens, n tokens with a query, D width, H query heads, K key-value heads, d head
width, N patches, M mel bins, L mel frames.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import CONFIG_MAPPING, AutoTokenizer
from transformers.utils import cached_file, is_flash_attn_2_available

from engine.adapter_folder import root_of
from engine.attention import HALF, has_gpu_kernel
from engine.run_folder import check_no_run
from formats.sample import DataError, first_line
from media.decode import MediaSettings
from media.features import audio_tokens
from media.prompt_format import MERGE, SAMPLE_RATE, TEMPORAL_PATCH, PromptFormat

DEFAULT_MODEL = Path(__file__).parent.parent / "assets" / "tiny-omni"
OMNI = "qwen2_5_omni_thinker"
QWEN3_OMNI = "qwen3_omni_moe_thinker"

# trap: transformers passes the lengths of sequences to functions with "flash" in their name only
VARLEN = "torch_varlen_flash"


class ModelParts(NamedTuple):
    """The modules that a policy computes with."""

    visual: nn.Module  # its last module, the merger, is the paper's aligner
    audio_tower: nn.Module | None
    text: nn.Module  # the decoder with its embedding
    head: nn.Module


class Family(NamedTuple):
    """What transformers and the hub's checkpoints call a family and its parts."""

    class_name: str  # in transformers
    part_names: tuple[str, str, str, str]  # prefixes of weights, by ModelParts; "": no such part
    full_form: tuple[str, str] | None = None  # of a thinker: model_type and class of the whole Omni


# By the model_type of config.json. The prefixes are those of the hub's checkpoints, so that what is
# saved loads in transformers and vLLM. Where transformers' modules keep the parts: see `parts`.
FAMILIES = {
    OMNI: Family(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        ("thinker.visual", "thinker.audio_tower", "thinker.model", "thinker.lm_head"),
        ("qwen2_5_omni", "Qwen2_5OmniForConditionalGeneration"),
    ),
    QWEN3_OMNI: Family(
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        ("thinker.visual", "thinker.audio_tower", "thinker.model", "thinker.lm_head"),
        ("qwen3_omni_moe", "Qwen3OmniMoeForConditionalGeneration"),
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLForConditionalGeneration",
        ("visual", "", "model", "lm_head"),
    ),
    "qwen3_vl": Family(
        "Qwen3VLForConditionalGeneration",
        ("model.visual", "", "model.language_model", "lm_head"),
    ),
}


def model_class(config) -> type:
    """transformers' class for models of this config."""
    return getattr(transformers, FAMILIES[config.model_type].class_name)


def what_was_wrong(error: Exception) -> str:
    """An error of loading, in the words of one who cannot allow code of the folder's own."""
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return "it wants to run code of its own, which is never done here"
    line = first_line(error)
    name = type(error).__name__
    return line if line == name else f"{name}: {line}"


# ------------------------------------------------------------------ config and tokenizer
def load_config(path: str | Path):
    """The config of a model folder or hub name; of a full Omni, that of its thinker.

    Raises DataError where there is none, or none that can run here.
    """
    path = root_of(path)  # where it holds adapters alone, the model that they belong to
    check_no_run(Path(path))

    # Read as a dict first, so that a model of another type gets our sentence.
    try:
        settings, _ = transformers.PretrainedConfig.get_config_dict(path)
        if not settings:
            raise OSError("it has no config.json")
        if not isinstance(settings, dict):
            raise ValueError("config.json is no JSON object")
        settings = settings.get("thinker_config", settings)
        model_type = settings.get("model_type")
        config = None
        if isinstance(model_type, str) and model_type in FAMILIES:
            check_parts(settings)
            config = CONFIG_MAPPING[model_type].from_dict(settings)
            prompt_format(config)
    except MemoryError:
        raise
    # transformers raises almost anything on a broken config.json
    except Exception as error:
        raise DataError(
            f"{path}: not a model folder ({what_was_wrong(error)}); pass --model with a folder "
            "that holds config.json, or a hub name"
        ) from None
    if config is None:
        raise DataError(
            f"{path}: config.json says model_type '{model_type}'; this code runs "
            f"qwen2_5_omni, qwen3_omni_moe, {', '.join(FAMILIES)}"
        )

    # `block` computes neither, so log-probs would silently be those of another model.
    for name in ("use_sliding_window", "attention_dropout"):
        if getattr(config.text_config, name, None):
            raise DataError(
                f"{path}: config.json sets {name} of the text model, which packed rows do not "
                "have; set it to 0 if the weights allow it"
            )

    # trap: peft would put the adapters of a layer without experts on the experts of the others
    if getattr(config.text_config, "mlp_only_layers", None):
        raise DataError(
            f"{path}: config.json names layers without experts (mlp_only_layers), which cannot run "
            "here beside others with experts; use a model whose layers are all alike"
        )
    return config


def check_parts(settings: dict) -> None:
    """Raises ValueError for values with which transformers would build a model of default sizes,
    which are those of a 7B."""
    for name in ("text_config", "vision_config", "audio_config"):
        if not isinstance(settings.get(name, {}), dict):
            raise ValueError(f"{name} is no JSON object")
    for name, value in settings.items():
        if name.endswith("_token_id") and not isinstance(value, int | None):
            raise ValueError(f"{name} is no number")


def prompt_format(config) -> PromptFormat:
    """How the model of this config reads media."""
    # what all families have, and then what each has besides
    vision = config.vision_config
    shared = {
        "image": config.image_token_id,
        "video": config.video_token_id,
        "patch": vision.patch_size,
    }
    if config.model_type in (OMNI, QWEN3_OMNI):
        shared |= {
            "audio": config.audio_token_id,
            "audio_start": config.audio_start_token_id,
            "audio_end": config.audio_end_token_id,
            "per_second": config.position_id_per_seconds,
            "n_mels": config.audio_config.num_mel_bins,
        }
    if config.model_type == OMNI:
        chunk = int(config.position_id_per_seconds * config.seconds_per_chunk)
        return PromptFormat(**shared, chunk=chunk)
    if config.model_type == "qwen2_5_vl":
        return PromptFormat(**shared, per_second=vision.tokens_per_second)

    # Qwen3
    shared |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    if config.model_type == QWEN3_OMNI:
        mel_chunk = 2 * config.audio_config.n_window
        return PromptFormat(**shared, by_token=True, mel_chunk=mel_chunk)
    return PromptFormat(**shared, timestamps=True)


def load_tokenizer_and_config(path: str | Path):
    """(tokenizer, config) of a model folder or hub name.

    Raises DataError when the tokenizer or its chat template does not fit the config.
    """
    path = root_of(path)
    config = load_config(path)
    try:
        # With the config given, transformers does not read (and warn about) the talker's.
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, trust_remote_code=False)
    except MemoryError:
        raise
    # transformers and tokenizers raise almost anything on broken files
    except Exception as error:
        raise DataError(
            f"{path}: no tokenizer could be loaded ({what_was_wrong(error)}); use the model's own "
            "files"
        ) from None

    # the media tokens, of which a model that hears nothing has no audio
    form = prompt_format(config)
    media_tokens = {"image": form.image, "video": form.video}
    if form.audio is not None:
        media_tokens["audio"] = form.audio

    # tokenizers and configs of different models are easily mixed up in a folder
    for name, token in media_tokens.items():
        if token >= len(tokenizer):
            raise DataError(
                f"{path}: the config's {name}_token_id = {token} is not in the tokenizer "
                f"({len(tokenizer)} tokens); use the model's own files"
            )

    try:
        load_chat_template(path, tokenizer)
        check_chat_template(path, tokenizer, media_tokens)
    except (DataError, MemoryError):
        raise
    # a template is a program of its own, and may fail in any way
    except Exception as error:
        raise DataError(
            f"{path}: its chat template cannot be used ({what_was_wrong(error)}); use the model's "
            "own files"
        ) from None
    return tokenizer, config


def load_chat_template(path: str | Path, tokenizer) -> None:
    """Give the tokenizer the chat template that older checkpoints keep in a file of its own."""
    if not tokenizer.chat_template:
        file = find_file(path, "chat_template.json")
        if file:
            settings = json.loads(Path(file).read_text(encoding="utf-8"))
            tokenizer.chat_template = settings["chat_template"]
    if not tokenizer.chat_template:
        raise DataError(
            f"{path}: the tokenizer has no chat template; add the model's chat_template.json or "
            ".jinja"
        )


def check_chat_template(path: str | Path, tokenizer, media_tokens: dict[str, int]) -> None:
    """Raises DataError unless the template writes one media token for each medium of a turn."""
    turn = {"role": "user", "content": [{"type": name} for name in media_tokens]}
    text = tokenizer.apply_chat_template([turn], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for name, token in media_tokens.items():
        if ids.count(token) != 1:
            raise DataError(
                f"{path}: the chat template writes {ids.count(token)} tokens {token} for one "
                f"{name}, 1 is needed; tokenizer, chat template and config.json must be of one "
                "model"
            )


def find_file(source: str | Path, name: str) -> str | None:
    """The path of a file of a model folder or hub name; None where it has no such file."""
    return cached_file(str(source), name, _raise_exceptions_for_missing_entries=False)


def eos_ids(tokenizer) -> list[int]:
    """The ids that end a completion.

    Both markers count, whichever of them the config calls EOS: instruct models end a turn with
    <|im_end|>, base models a text with <|endoftext|>.
    """
    ids = {tokenizer.eos_token_id}
    ids.update(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    return sorted(ids - {None})


def banned_ids(tokenizer, eos_ids: list[int], vocabulary: int) -> Tensor:
    """(V,) bool, the ids that a completion may not hold: media and chat markers, and ids past the
    tokenizer's. The ids that end a completion are allowed, though they are markers, too.
    """
    banned = torch.zeros(vocabulary, dtype=torch.bool)  # (V,)
    banned[len(tokenizer) :] = True  # Qwen's heads are padded to a round number of rows
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special and token_id < vocabulary:
            banned[token_id] = True
    banned[eos_ids] = False
    return banned


# ------------------------------------------------------------------ weights and modules
def load_model(path: str | Path, config, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """transformers' model of a folder or hub name, on `device`.

    Raises DataError when weights are missing, torn or of other shapes.
    """
    try:
        model, info = model_class(config).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=tower_attention(device, dtype),
            output_loading_info=True,
            trust_remote_code=False,  # no code of the folder's own is run
            use_safetensors=True,  # no pickle is opened
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # a torn file, weights of other shapes, sizes that no layer can have
    except Exception as error:
        if "ignore_mismatched_sizes" in str(error):
            raise DataError(
                f"{path}: shapes of its weights are not those of its config.json; the checkpoint "
                "is of another class or size"
            ) from None
        raise DataError(
            f"{path}: no weights could be loaded ({what_was_wrong(error)}); weights are "
            "*.safetensors, whole and of this config.json"
        ) from None

    # trap: of missing weights transformers only warns, and fills them with random numbers
    missing = sorted(info["missing_keys"])
    if missing:
        raise DataError(
            f"{path}: {len(missing)} weights of a {config.model_type} are missing, e.g. "
            f"{missing[0]}; the checkpoint is of another class, or a file of it is"
        )
    return model.to(device)


def tower_attention(device: torch.device, dtype: torch.dtype) -> str:
    """What the towers are loaded with: flash-attn where it is installed and the model in half
    precision on a GPU, else SDPA, which `attend_windows_at_once` may replace.

    (The decoder's attention is that of engine/attention.py.)
    """
    if device.type == "cuda" and dtype in HALF and is_flash_attn_2_available():
        return "flash_attention_2"
    return "sdpa"


def attend_windows_at_once(towers: list[nn.Module | None]) -> None:
    """On a GPU without flash-attn: let torch's own flash kernel for sequences of different lengths
    run the towers' attention.

    With SDPA transformers calls a kernel for each window of each frame, thousands of times for one
    step's clips.
    """
    for tower in towers:
        if tower is None or not has_gpu_kernel(next(tower.parameters())):
            continue
        if tower.config._attn_implementation == "sdpa":
            transformers.AttentionInterface.register(VARLEN, varlen_attention)
            tower.config._attn_implementation = VARLEN


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: query, key, value (1, H, T, d), and where the
    sequences begin, (sequences + 1,). Returns (1, T, H, d)."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H, d)
    starts = cu_seq_lens_q.int()
    longest = int(max_length_q)
    out = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling)  # (T, H, d)
    return out[None], None


def parts(model: nn.Module) -> ModelParts:
    """The parts of a model: the one place that knows where transformers keeps them."""
    # 5.23 keeps the towers and the decoder of a thinker in thinker.model; 5.17 keeps the towers in
    # thinker, and thinker.model is the decoder.
    if hasattr(model.model, "language_model"):
        towers_in = model.model
        text = model.model.language_model
    else:
        towers_in = model
        text = model.model
    audio_tower = getattr(towers_in, "audio_tower", None)
    return ModelParts(towers_in.visual, audio_tower, text, model.lm_head)


def named_parts(config, modules: ModelParts) -> list[tuple[str, nn.Module]]:
    """The parts that there are, with the prefix that their weights have in checkpoints."""
    names = FAMILIES[config.model_type].part_names
    pairs = zip(names, modules, strict=True)
    return [(name, module) for name, module in pairs if module is not None]


def head_sizes(text) -> tuple[int, int, int]:
    """(query heads, key-value heads, width of a head) of the decoder with this config."""
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads, text.num_key_value_heads, width


def has_experts(text) -> bool:
    """Is the decoder with this config a mixture of experts? Then its decode step is no CUDA graph:
    where a card has no kernel for experts, how many tokens each of them has is read back."""
    return hasattr(text, "num_experts")


def linear_layers(modules: list[nn.Module | None]) -> list[nn.Linear]:
    """All linear layers inside these modules: what LoRA adapts."""
    layers = []
    for module in modules:
        if module is not None:
            layers += [m for m in module.modules() if isinstance(m, nn.Linear)]
    return layers


def parameter_counts(config, lora_rank: int, towers: bool) -> dict[str, int]:
    """Numbers of weights by part, counted without allocating any.

    decoder (with its embedding), head (0 when tied), towers, layer (one of the decoder's), and
    adapters: those that LoRA of this rank adds to the decoder and, with `towers`, to the towers.
    """
    # trap: transformers builds no model of a config that names our own attention of the towers
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.device("meta"):  # shapes without memory
        modules = parts(model_class(config)(config))
    visual, audio_tower, text, head = modules

    def count(module: nn.Module | None) -> int:
        if module is None:
            return 0
        return sum(p.numel() for p in module.parameters())

    # an adapter is A (rank, in) and B (out, rank)
    adapted = linear_layers([text, visual, audio_tower] if towers else [text])
    tied = head.weight is text.embed_tokens.weight
    return {
        "decoder": count(text),
        "head": 0 if tied else count(head),
        "towers": count(visual) + count(audio_tower),
        "layer": count(text.layers[0]),
        "adapters": sum(lora_rank * (m.in_features + m.out_features) for m in adapted),
    }


# ------------------------------------------------------------------ towers
def run_towers(
    visual: nn.Module, audio_tower: nn.Module | None, prompts: list, form: PromptFormat
) -> list[dict[str, Tensor]]:
    """Features of each prompt (`data.Prompt`), by one call of each tower.

    vision (n, D): of its merged patches; audio (m, D): of its sounds; of Qwen3's families also
    deepstack0, deepstack1, .. (n, D). A prompt without a medium lacks its entry.
    """
    features: list[dict[str, Tensor]] = [{} for _ in prompts]
    shown = [i for i, prompt in enumerate(prompts) if prompt.grids]
    heard = [i for i, prompt in enumerate(prompts) if prompt.mels]
    if shown:
        outputs = run_vision_tower(visual, [prompts[i] for i in shown])
        for i, output in zip(shown, outputs, strict=True):
            features[i] |= output
    if heard:
        sounds = run_audio_tower(audio_tower, [prompts[i] for i in heard], form)
        for i, sound in zip(heard, sounds, strict=True):
            features[i]["audio"] = sound
    return features


def run_vision_tower(visual: nn.Module, prompts: list) -> list[dict[str, Tensor]]:
    """Features of each prompt's pictures and videos. All have some."""
    # All pictures and videos of all prompts in one pass. The tower attends within a frame group
    # only, and the grids tell it where each ends, so neighbours in the pass do not see each other.
    patches = torch.cat([prompt.patches for prompt in prompts])  # (N, pixels of a patch)
    grids: list[tuple[int, int, int]] = []
    for prompt in prompts:
        grids += prompt.grids
    grid_thw = torch.tensor(grids, device=visual.device)  # (pictures and videos, 3)
    output = visual(patches.to(visual.device, visual.dtype), grid_thw=grid_thw)

    # Qwen3's towers also return features of their lower layers.
    by_name = {"vision": output.pooler_output}  # (N / 4, D)
    for i, features in enumerate(getattr(output, "deepstack_features", [])):
        by_name[f"deepstack{i}"] = features  # (N / 4, D)

    # back to the prompts; 2 x 2 patches have become one token
    tokens = [len(prompt.patches) // MERGE**2 for prompt in prompts]
    features_of: list[dict[str, Tensor]] = [{} for _ in prompts]
    for name, features in by_name.items():
        chunks = features.split(tokens)  # (tokens of a prompt, D) each
        for prompt_features, chunk in zip(features_of, chunks, strict=True):
            prompt_features[name] = chunk
    return features_of


def run_audio_tower(audio_tower: nn.Module, prompts: list, form: PromptFormat) -> list[Tensor]:
    """Features (m, D) of each prompt's sounds. All have some."""
    # All sounds in one stream. The tower cuts it by feature_lens, so sounds do not hear each other.
    mels: list[Tensor] = []  # (M, L) each
    for prompt in prompts:
        mels += prompt.mels
    frames = torch.tensor([mel.shape[1] for mel in mels], device=audio_tower.device)  # (sounds,)
    stream = torch.cat(mels, dim=1).to(audio_tower.device, audio_tower.dtype)  # (M, sum of L)
    output = audio_tower(stream, feature_lens=frames).last_hidden_state  # (tokens, D)

    # back to the prompts
    tokens = []
    for prompt in prompts:
        tokens.append(sum(audio_tokens(mel.shape[1], form.mel_chunk) for mel in prompt.mels))
    return list(output.split(tokens))


def deepstack(features: list[dict[str, Tensor]]) -> list[Tensor]:
    """Qwen3: what is added to the states of all vision tokens after the first decoder layers.

    One tensor (n, D) for each of these layers; of other families, none.
    """
    # Either all prompts with pictures have these entries, or none has: they are of one model.
    with_vision = [prompt_features for prompt_features in features if "vision" in prompt_features]
    additions: list[Tensor] = []
    while with_vision and f"deepstack{len(additions)}" in with_vision[0]:
        name = f"deepstack{len(additions)}"
        additions.append(torch.cat([f[name] for f in with_vision]))  # (n, D)
    return additions


# ------------------------------------------------------------------ decoder
def rotary_table(text: nn.Module, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (T, 1, d) of positions (3, T), in the form that `rotate` takes."""
    # transformers takes type and device from a tensor, here an empty one; its batch is 1
    example = torch.empty(0, dtype=dtype, device=positions.device)
    cos, sin = text.rotary_emb(example, positions[:, None])  # (1, T, d) each

    # a dimension for the heads, and the sign that `rotate` expects
    cos = cos[0, :, None]  # (T, 1, d)
    sin = sin[0, :, None]  # (T, 1, d)
    half = sin.shape[-1] // 2
    signed_sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)  # (T, 1, d)
    return cos, signed_sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, d): halves (a, b) -> (a cos - b sin, b cos + a sin).

    cos, sin: (T, 1, d) of `rotary_table`. The first half of sin comes negated, so that one roll is
    enough.
    """
    swapped = x.roll(x.shape[-1] // 2, -1)  # (b, a) in place of (a, b)
    return torch.addcmul(x * cos, swapped, sin)  # x cos + swapped sin, (T, heads, d)


def block(
    layer: nn.Module,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    asked: Tensor | None = None,
) -> Tensor:
    """One decoder layer with attention of our own: x (T, D) -> (T, D), or (n, D) of `asked` alone.

    attention: (q (n, H, d), k (T, K, d), v (T, K, d)) -> (n, H, d). asked: (n,) the tokens that
    have a query; None: all, and n = T.

    transformers' own layers run attention over padded batches, which packed rows and the two-part
    KV cache do not have. So training, prefill and decoding come here, and only their `attention`
    differs. The weights are those of transformers' modules.
    """
    attn = layer.self_attn
    cos, sin = rotary  # (T, 1, d)

    # keys and values of all tokens; of Qwen3, queries and keys have norms
    h = rms_norm(layer.input_layernorm, x)  # (T, D)
    k = attn.k_proj(h).unflatten(-1, (-1, attn.head_dim))  # (T, K, d)
    v = attn.v_proj(h).unflatten(-1, (-1, attn.head_dim))  # (T, K, d)
    if hasattr(attn, "k_norm"):
        k = rms_norm(attn.k_norm, k)  # (T, K, d)
    k = rotate(k, cos, sin)  # (T, K, d)

    # From here on only the tokens with a query: in the last layer of packed rows they are fewer.
    if asked is not None:
        x = x[asked]  # (n, D)
        h = h[asked]  # (n, D)
        cos = cos[asked]  # (n, 1, d)
        sin = sin[asked]  # (n, 1, d)
    q = attn.q_proj(h).unflatten(-1, (-1, attn.head_dim))  # (n, H, d)
    if hasattr(attn, "q_norm"):
        q = rms_norm(attn.q_norm, q)  # (n, H, d)
    q = rotate(q, cos, sin)  # (n, H, d)

    # attention and MLP, each added to the residual stream
    x = x + attn.o_proj(attention(q, k, v).flatten(1))  # (n, D)
    h = rms_norm(layer.post_attention_layernorm, x)  # (n, D)
    if hasattr(layer.mlp, "experts"):  # they want a batch, here of one row
        return x + layer.mlp(h[None])[0]  # (n, D)
    return x + layer.mlp(h)  # (n, D)


def rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """x / sqrt(mean of x^2 + eps) * weight, over the last dimension: transformers' norm of x.

    By torch's own function, which on a GPU is one kernel where the module's forward is eight. In
    fp32 the two are equal; in bf16 this one rounds once, and the module twice.
    """
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


# ------------------------------------------------------------------ saving
# Files of a checkpoint that are copied from the folder that the model came from.
COPIED_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "spk_dict.pt",
)


def save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Write safetensors files of at most 5 GB."""
    by_expert = {}
    for name, weight in weights.items():
        by_expert |= split_experts(name, weight)
    save_torch_state_dict(by_expert, folder, max_shard_size="5GB", metadata={"format": "pt"})


def split_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The matrices of each expert, as checkpoints name them; of any other weight, itself.

    transformers keeps those of a layer's E experts, of width m, in two parameters: gate_up_proj
    (E, 2 m, D), the gate's rows first, and down_proj (E, D, m).
    """
    layer, is_expert, leaf = name.rpartition(".experts.")
    if not is_expert:
        return {name: weight}
    projections = {leaf: weight}
    if leaf == "gate_up_proj":
        gate, up = weight.chunk(2, dim=1)  # (E, m, D) each
        projections = {"gate_proj": gate, "up_proj": up}

    # Copies, since views of one tensor would count as one where files are cut to their size.
    matrices = {}
    for projection, of_experts in projections.items():
        for i, matrix in enumerate(of_experts):
            matrices[f"{layer}.experts.{i}.{projection}.weight"] = matrix.to("cpu", copy=True)
    return matrices


def make_readable(folder: Path) -> None:
    """Give the weights in a folder the permissions of other new files; safetensors writes them for
    this user alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def save_config(config, folder: Path) -> None:
    """Write config.json; of a thinker in the full form of its Omni, without the talker."""
    # Other programs expect a thinker's config inside of that of the full model. Where
    # enable_audio_output is off they build no talker.
    settings = config.to_dict()
    if full_form := FAMILIES[config.model_type].full_form:
        model_type, class_name = full_form
        settings = {
            "architectures": [class_name],
            "model_type": model_type,
            "enable_audio_output": False,
            "transformers_version": transformers.__version__,
            "thinker_config": settings,
        }
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_processor_files(
    folder: Path,
    source: str | Path | None,
    form: PromptFormat,
    shown: MediaSettings | None = None,
) -> None:
    """Copy the processors' settings from `source`, where the model came from.

    Where there is no preprocessor_config.json to copy, it is written from `form`. shown: how the
    model was shown its media; with it, the settings say so, and transformers' own processors show
    them alike.
    """
    for name in COPIED_FILES:
        file = find_file(root_of(source), name) if source else None
        if file:
            # saving into the folder that was loaded: the file is there already
            if Path(file).resolve() != (folder / name).resolve():
                shutil.copyfile(file, folder / name)
        elif name == "preprocessor_config.json":
            write_json(folder / name, preprocessor_settings(form))
    if shown is not None:
        save_shown(folder, form, shown)


def save_shown(folder: Path, form: PromptFormat, shown: MediaSettings) -> None:
    """Write the size, the rate and the number of frames into the settings of both processors."""
    size = {
        "min_pixels": shown.min_pixels,
        "max_pixels": shown.max_pixels,
        "size": {"shortest_edge": shown.min_pixels, "longest_edge": shown.max_pixels},
    }
    file = folder / "preprocessor_config.json"
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | size)

    # those of videos have a file of their own
    file = folder / "video_preprocessor_config.json"
    settings = image_settings(form) | {"video_processor_type": "Qwen2VLVideoProcessor"}
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
    frames = {
        "fps": shown.fps,
        "min_frames": TEMPORAL_PATCH,
        "max_frames": shown.max_frames,
        "do_sample_frames": True,
    }
    write_json(file, settings | size | frames)


def write_json(path: Path, settings: dict) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n")


def preprocessor_settings(form: PromptFormat) -> dict:
    """What transformers' processors need to know of how media were read: one dict for the
    extractor of sound, where the model hears, and the image processor."""
    audio = {}
    if form.n_mels:
        extractor = transformers.WhisperFeatureExtractor(
            feature_size=form.n_mels, sampling_rate=SAMPLE_RATE, return_attention_mask=True
        )
        audio = extractor.to_dict()
        audio.pop("mel_filters", None)  # a matrix that follows from the rest
    return audio | {"image_processor_type": "Qwen2VLImageProcessor", **image_settings(form)}


def image_settings(form: PromptFormat) -> dict:
    """How frames are cut into patches, in transformers' names."""
    return {
        "patch_size": form.patch,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "image_mean": list(form.mean),
        "image_std": list(form.std),
    }


def merged_weights(named: list[tuple[str, nn.Module]], tied: bool) -> dict[str, Tensor]:
    """All weights by their names in a checkpoint, with LoRA's adapters added in.

    named: of `named_parts`. tied: the head is the embedding, and is named once.
    """
    saved_parts = named[:-1] if tied else named  # the head is the last part
    weights = {}
    for prefix, part in saved_parts:
        layers = dict(part.named_modules())
        for name, value in part.state_dict().items():
            # A and B of an adapter are added to the weight they adapt, below.
            if "lora_" in name:
                continue

            # peft renames what it adapts: "q_proj.weight" is "q_proj.base_layer.weight"
            adapted, _, leaf = name.rpartition(".base_layer.")
            if adapted:
                name = f"{adapted}.{leaf}"
            if adapted and leaf == "weight":  # an adapted layer's bias stays as it is
                delta = layers[adapted].get_delta_weight("default")  # alpha / rank * B A
                value = (value.float() + delta.float()).to(value.dtype)
            weights[f"{prefix}.{name}"] = value.detach()
    return weights
