"""tools/tiny_model.py: a tiny Qwen2.5-Omni thinker with random weights."""

from collections.abc import Iterable

import torch
import transformers

from model import Policy

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
