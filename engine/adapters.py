"""engine/adapters.py: LoRA by peft (Hu et al., arXiv 2106.09685).

An adapted linear layer computes W x + (alpha / rank) B A x. W stays; A (rank, in) and B (out, rank)
are trained. B starts at zero, so a new adapter changes nothing.
"""

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from engine.adapter_folder import SETTINGS, WEIGHTS, read_settings
from engine.families import has_experts
from formats.sample import DataError, first_line

LORA_ALPHA = 32  # the product of two adapters is scaled by alpha / rank


def has_adapters(model: nn.Module) -> bool:
    """Has `add_adapters` been here? peft leaves its settings on the model."""
    return hasattr(model, "peft_config")


def add_adapters(model: nn.Module, layers: list[nn.Linear], rank: int, seed: int) -> None:
    """Put an adapter on each of these layers of a model, and freeze all else.

    Adapters have the type of the weights, since peft would compute in that of the adapters, and in
    fp32 they cost a GPU as much time as the layers they adapt. (The optimiser steps fp32 masters of
    bf16 adapters: optim.py.) All processes must pass the same seed.
    """
    import peft  # here: it takes seconds that only LoRA needs to wait

    for p in model.parameters():
        p.requires_grad_(False)

    # peft takes names of layers, not the layers, and draws A from torch's global generator
    adapted = set(layers)
    names = [name for name, module in model.named_modules() if module in adapted]
    config = peft.LoraConfig(r=rank, lora_alpha=LORA_ALPHA, target_modules=names)
    torch.manual_seed(seed)
    peft.inject_adapter_in_model(config, model)


def merge_adapters(model: nn.Module, folder: str | Path) -> None:
    """Add the adapters of a folder to the weights of the model that they belong to, in place.

    Raises DataError where they do not fit the model, or a part of them is missing.
    """
    import peft

    settings = read_settings(folder)
    if settings.get("peft_type") != "LORA":
        raise DataError(
            f"{folder}: its adapters are of the type {settings.get('peft_type')!r}, and only LORA "
            "is read; merge them into their base by peft's merge_and_unload"
        )
    if not (Path(folder) / WEIGHTS).is_file():
        raise DataError(f"{folder}: {WEIGHTS} is missing; save the adapter again as safetensors")

    # Names of weights in the file -> names in this model. Published adapters of the whole
    # Qwen2.5-Omni call its thinker by name; here the thinker is the model.
    names = {r"^thinker\.": "", **getattr(model, "_checkpoint_conversion_mapping", {})}
    try:
        config = peft.LoraConfig(**settings | {"init_lora_weights": False, "inference_mode": True})
        adapted = peft.PeftModel(model, config)
        loaded = adapted.load_adapter(str(folder), "default", key_mapping=names)
    except MemoryError:
        raise
    # peft raises almost anything on settings or weights that do not fit
    except Exception as error:
        raise DataError(
            f"{folder}: its adapters do not fit their model ({first_line(error)}); check "
            f"base_model_name_or_path in {SETTINGS}"
        ) from None

    # trap: of weights that have no place, and of layers that got none, peft only warns
    stray = [*loaded.missing_keys, *loaded.unexpected_keys]
    if stray:
        raise DataError(
            f"{folder}: {len(stray)} weights of its adapters do not fit their model, e.g. "
            f"{stray[0]}; check base_model_name_or_path in {SETTINGS}"
        )
    adapted.merge_and_unload()
    model.requires_grad_(True)  # peft has frozen them, and merging leaves them so


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within, the model computes as if it had no adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    # subtle: peft's switch also sets requires_grad, to False for adapters that it turns off. What
    # was trained before must be trained after, so that is put back by hand.
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trained = [p for p in model.parameters() if p.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for p in trained:
            p.requires_grad_(True)


def save_adapters(model: nn.Module, folder: Path, base: str) -> None:
    """Write the adapters alone, in the form that peft loads. base: what they belong to.

    transformers keeps the decoder of a thinker in thinker.model.language_model (5.23) or in
    thinker.model (5.17), and published checkpoints have the shorter names. So have the adapters,
    and their layers are named by a pattern that fits both.

    trap: of a model with experts peft takes a pattern for the last words of the names that it fits,
    and so for layers of the towers, too. There the layers are listed, by both names.
    """
    import peft

    folder.mkdir(exist_ok=True)
    weights = {}
    for name, weight in peft.get_peft_model_state_dict(model).items():
        name = name.replace("model.language_model.", "model.")
        weights[f"base_model.model.{name}"] = weight.detach().contiguous().cpu()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    # "default" is what peft calls the only set of adapters
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = base
    layers = adapted_layers(model)
    listed = has_experts(model.config.text_config)
    config.target_modules = both_names(layers) if listed else pattern_of(layers)
    config.save_pretrained(folder)


def adapted_layers(model: nn.Module) -> list[str]:
    """The names of the layers that have adapters."""
    return [name for name, layer in model.named_modules() if hasattr(layer, "lora_A")]


def both_names(names: list[str]) -> list[str]:
    """The names of these layers in both versions of transformers."""
    short = [name.replace("model.language_model.", "model.", 1) for name in names]
    long = [name.replace("model.layers.", "model.language_model.layers.", 1) for name in short]
    return sorted({*short, *long})


def pattern_of(names: list[str]) -> str:
    r"""A pattern that fits these layers in both versions of transformers.

    >>> pattern_of(["model.language_model.layers.0.mlp.up_proj"])
    '(.*\\.)?(model\\.(language_model\\.)?layers\\.\\d+\\.mlp\\.up_proj)'
    """
    patterns = set()
    for name in names:
        name = name.replace("model.language_model.", "model.", 1)
        pattern = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name))
        pattern = pattern.replace(r"model\.layers", r"model\.(language_model\.)?layers", 1)
        patterns.add(pattern)
    return rf"(.*\.)?({'|'.join(sorted(patterns))})"
