"""engine/flops.py: floating-point operations of an update, and what a GPU could do at most.

Model FLOPs utilisation (MFU; Chowdhery et al., arXiv 2204.02311, appendix B) is the operations that
a model needs for its tokens over those that the GPU could have done in that time. Layers that are
computed again under checkpointing count once, and a shared prompt counts once.

A weight costs 2 operations per token in the forward pass, 2 for the gradient of its input and, if
it is trained, 2 for its own. Attention costs 4 per head width and visible key, and 8 backward.
"""

import re

from torch import nn

from engine.families import has_experts, head_sizes

# Dense bf16 operations per second by the makers' data sheets, by words of the device's name. The
# first that fits counts.
PEAKS = {
    "GB200": 2500e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A40": 150e12,
    "A6000": 155e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str) -> float | None:
    """Operations per second of a GPU of this name in bf16; None where it is not known, and for a
    part of a GPU (MIG).

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    words = set(re.split("[ -]", device_name))
    if "MIG" in words:
        return None
    for name, peak in PEAKS.items():
        if words.issuperset(name.split()):
            return peak
    return None


def update_flops(
    text: nn.Module, head: nn.Module, prompt_lengths: list[int], completion_lengths: list[list[int]]
) -> float:
    """Operations of one forward and backward pass over packed rows, about 2 % too many: the last
    layer, which skips most of a prompt, counts like the others.

    text, head: the decoder and its head. prompt_lengths, completion_lengths: tokens of each row's
    prompt, and of each of its completions.
    """
    tokens = 0
    asked = 0  # tokens that go through the head
    visible = 0.0  # (query, key) pairs
    for p, lengths in zip(prompt_lengths, completion_lengths, strict=True):
        tokens += p + sum(lengths)
        asked += sum(lengths)
        visible += p * p / 2
        for r in lengths:
            visible += p * r + r * r / 2

    config = text.config
    heads, _, width = head_sizes(config)
    attention = 12 * config.num_hidden_layers * heads * width * visible
    share = 1.0
    if has_experts(config):
        share = config.num_experts_per_tok / config.num_experts
    per_token = operations_per_token(text.layers, share)
    return per_token * tokens + operations_per_token(head) * asked + attention


def operations_per_token(module: nn.Module, experts_share: float = 1.0) -> float:
    """Of one forward and backward pass through its weights. experts_share: the fraction of a
    layer's experts that a token passes; the weights of all are one tensor with three dimensions."""
    operations = 0.0
    for weight in module.parameters():
        share = experts_share if weight.dim() == 3 else 1.0
        operations += share * (6 if weight.requires_grad else 4) * weight.numel()
    return operations
