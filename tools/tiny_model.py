"""tools/tiny_model.py: a tiny Qwen2.5-Omni thinker with random weights, and its tokenizer.

What stage 0 starts from when no --model is given; the bundled model in assets/ began so.
Everything is small, but nothing is left out: byte-level BPE, Qwen2.5-Omni's media tokens and chat
form, a vision tower with window attention, an audio tower, and a decoder with grouped queries and
three-axis rotary positions.
"""

from collections.abc import Iterable

import torch
import transformers

from model import Policy

# the name of each media token in the tokenizer's settings, and how it is written
MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

# Qwen2.5-Omni's form. Newlines are written inside of quotes, because templates swallow those that
# stand beside a block.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif -%}"
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

# About 1 / sqrt(width). With the 0.02 of large models all logits of so small a one would be nearly
# equal.
INITIAL_STD = {"initializer_range": 0.06}

VISION_TOWER = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 4,
    "out_hidden_size": 128,
    "fullatt_block_indexes": [1],
    **INITIAL_STD,
}

AUDIO_TOWER = {
    "num_mel_bins": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 192,
    "d_model": 96,
    "output_dim": 128,
    "n_window": 200,  # one window holds a clip of the toy world, so that a sound knows its time
    **INITIAL_STD,
}

DECODER = {
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
        "mrope_section": [8, 4, 4],  # pairs of dimensions for time, height, width
    },
    **INITIAL_STD,
}


def make_tiny_policy(
    corpus: Iterable[str], seed: int = 0, device: torch.device | str = "cpu"
) -> Policy:
    """A Qwen2.5-Omni thinker of 1.6 M random weights, with a tokenizer learned from `corpus`."""
    # the tokenizer first: its size is that of the embedding, and its ids are in the config
    tokenizer = make_tiny_tokenizer(corpus)
    decoder = DECODER | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=decoder,
        vision_config=VISION_TOWER,
        audio_config=AUDIO_TOWER,
        **INITIAL_STD,
        **token_fields(tokenizer),
    )

    # weights are drawn from torch's global generator
    torch.manual_seed(seed)
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    return Policy(model.to(device), tokenizer)


def make_tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640):
    """A byte-level BPE tokenizer of Qwen's kind, learned from `corpus`, with Qwen2.5-Omni's special
    tokens and chat form. Digits are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    # bytes of words, in which every digit stands alone: numbers are read digit by digit
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    core.decoder = decoders.ByteLevel()

    # The words of the chat form are in every prompt, so they are made frequent in the corpus.
    chat = ["user", "assistant", "system\nYou are a helpful assistant."] * 100
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([*chat, *corpus], trainer)

    # Qwen's special tokens are `special`, and policies ban them (families.banned_ids). The tags of
    # answers are single tokens, too, but a completion must be able to hold them.
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens={"im_start_token": "<|im_start|>", **MEDIA_TOKENS},
    )
    tokenizer.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    return tokenizer


def token_fields(tokenizer) -> dict[str, int]:
    """The fields of a thinker's config that name the tokenizer's special tokens."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    return {
        "image_token_index": ids["image_token"],
        "video_token_index": ids["video_token"],
        "audio_token_index": ids["audio_token"],
        "audio_start_token_id": ids["audio_bos_token"],
        "audio_end_token_id": ids["audio_eos_token"],
        "vision_start_token_id": ids["vision_bos_token"],
        "vision_end_token_id": ids["vision_eos_token"],
        "user_token_id": tokenizer.convert_tokens_to_ids("user"),
    }
