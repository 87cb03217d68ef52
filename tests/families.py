"""Tiny random models of the vision families, saved as folders that load_policy reads: Qwen2.5-VL and Qwen3-VL from config, with the bundled tokenizer."""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from engine.families import DEFAULT_MODEL, model_class
from media.prompt_format import MEAN, STD

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SYSTEM = "{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
TEMPLATE = (
    "{% for m in messages %}SYSTEM{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif c.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_family(model_type: str, folder: str | Path, tied: bool = False, seed: int = 0) -> Path:
    """A tiny random qwen2_5_vl (2 decoder layers) or qwen3_vl (4, deepstack of 2 vision layers, head width apart from width / heads) in `folder`: config,
    weights, tokenizer and preprocessor config. Norms and biases are random, too, so that none can be left out unseen. tied: head = embedding."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    newer = model_type == "qwen3_vl"  # its template has no system turn of its own
    tokenizer.chat_template = TEMPLATE.replace("SYSTEM", "" if newer else SYSTEM)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [8, 4, 4] if newer else [4, 2, 2],
    }
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4 if newer else 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer) + 7,
        "max_position_embeddings": 4096,
        "initializer_range": 0.06,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": tied,
        "rope_parameters": rope | ({"mrope_interleaved": True} if newer else {}),
    } | ({"head_dim": 32} if newer else {})
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": 64,
        "initializer_range": 0.06,
    }
    vision |= (
        {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        if newer
        else {"depth": 2, "fullatt_block_indexes": [1]}
    )
    config = transformers.CONFIG_MAPPING[model_type](
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)(config)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 1:
                    p += 0.1 * torch.randn_like(p)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean, std = ((0.5,) * 3,) * 2 if newer else (MEAN, STD)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen3VLProcessor" if newer else "Qwen2_5_VLProcessor",
                "patch_size": config.vision_config.patch_size,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "image_mean": mean,
                "image_std": std,
                "size": {"shortest_edge": 784, "longest_edge": 50_176},
            }
        )
    )
    return folder
