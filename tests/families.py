"""Tiny random models, as folders that load_policy reads: Qwen2.5-VL, Qwen3-VL and a Qwen3-Omni
thinker from config, with the bundled tokenizer."""

import json
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoTokenizer

from engine.families import DEFAULT_MODEL, model_class
from media.prompt_format import MEAN, STD

QWEN3_OMNI = "qwen3_omni_moe_thinker"
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
AUDIO_TOKENS = ["<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]

# Qwen3-Omni's tokenizer names them, and its processor looks there.
NAMED_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}

# Qwen3 has no system turn of its own.
SYSTEM = (
    "{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
)
TEMPLATE = (
    "{% for m in messages %}SYSTEM{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif c.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif c.type == 'audio' %}{{ '<|audio_start|><|audio_pad|><|audio_end|>' }}"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The decoder and the vision tower of each family; of Qwen3 the head width is not width / heads, and
# the features of two layers of the tower enter the decoder by deepstack. Two of Qwen3-Omni's four
# experts compute each token.
DECODERS = {
    "qwen2_5_vl": {
        "num_hidden_layers": 2,
        "rope_parameters": {"mrope_section": [4, 2, 2]},
    },
    "qwen3_vl": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "rope_parameters": {"mrope_section": [8, 4, 4], "mrope_interleaved": True},
    },
}
DECODERS[QWEN3_OMNI] = DECODERS["qwen3_vl"] | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
VISION_TOWERS = {
    "qwen2_5_vl": {"depth": 2, "fullatt_block_indexes": [1]},
    "qwen3_vl": {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
}
VISION_TOWERS[QWEN3_OMNI] = VISION_TOWERS["qwen3_vl"]
AUDIO_TOWER = {
    "num_mel_bins": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "d_model": 48,
    "output_dim": 64,
    "downsample_hidden_size": 8,
    "n_window_infer": 200,  # a window of attention holds two chunks of a second
    "initializer_range": 0.06,
}
PROCESSORS = {
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    QWEN3_OMNI: "Qwen3OmniMoeProcessor",
}
PIXELS = {
    "qwen2_5_vl": (MEAN, STD),
    "qwen3_vl": ((0.5,) * 3, (0.5,) * 3),
    QWEN3_OMNI: ((0.5,) * 3, (0.5,) * 3),
}


def tiny_family(model_type: str, folder: str | Path, tied: bool = False, seed: int = 0) -> Path:
    """Write config, weights, tokenizer and preprocessor config of a tiny random model.

    Norms and biases are random, too, so that none can be left out unseen. tied: the head is the
    embedding.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vision_tokenizer(model_type)
    config = tiny_config(model_type, tokenizer, tied)
    random_model(config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    mean, std = PIXELS[model_type]
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": PROCESSORS[model_type],
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": mean,
        "image_std": std,
        "size": {"shortest_edge": 784, "longest_edge": 50_176},
    }
    if model_type == QWEN3_OMNI:
        settings["feature_extractor_type"] = "WhisperFeatureExtractor"
        settings["feature_size"] = config.audio_config.num_mel_bins
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def vision_tokenizer(model_type: str):
    """The bundled tokenizer with the family's vision tokens and chat form."""
    names = {"extra_special_tokens": NAMED_TOKENS} if model_type == QWEN3_OMNI else {}
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL, **names)
    if not names:
        tokenizer.add_special_tokens({"additional_special_tokens": VISION_TOKENS})
    system = SYSTEM if model_type == "qwen2_5_vl" else ""
    tokenizer.chat_template = TEMPLATE.replace("SYSTEM", system)
    return tokenizer


def tiny_config(model_type: str, tokenizer, tied: bool):
    start, end, image, video = tokenizer.convert_tokens_to_ids(VISION_TOKENS)
    own = DECODERS[model_type]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, **own["rope_parameters"]}
    decoder = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer) + 7,
        "max_position_embeddings": 4096,
        "initializer_range": 0.06,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": tied,
        **own,
        "rope_parameters": rope,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": 64,
        "initializer_range": 0.06,
        **VISION_TOWERS[model_type],
    }
    sound = {}
    if model_type == QWEN3_OMNI:
        audio_start, audio_end, audio = tokenizer.convert_tokens_to_ids(AUDIO_TOKENS)
        sound = {
            "audio_config": AUDIO_TOWER,
            "audio_token_id": audio,
            "audio_start_token_id": audio_start,
            "audio_end_token_id": audio_end,
            "position_id_per_seconds": 13,
        }
    return CONFIG_MAPPING[model_type](
        text_config=decoder,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tied,
        **sound,
    )


def random_model(config, seed: int):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)(config)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 1:
                    p += 0.1 * torch.randn_like(p)
    return model
