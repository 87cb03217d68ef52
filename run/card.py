"""run/card.py: the model card of a checkpoint, its README.md."""

import math
import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from config import Config

PAPER = "2508.03100"
NOT_SHOWN = {"out", "resume", "config", "media_cache", "workers"}  # flags that say nothing of it
Z95 = 1.96  # standard errors of a 95 % interval


def model_card(
    cfg: Config,
    class_name: str,
    step: int,
    generated: int,
    evaluation,
    machine: dict[str, str],
) -> str:
    """The card after `step` steps: metadata for the hub, then what was trained, how, the result.

    class_name: transformers' class of the model. evaluation: the last Evaluation of run/logs.py, or
    None. machine: versions and device. The licence is left to the user: it depends on the base
    model's.
    """
    name = f"{Path(cfg.model or 'tiny-omni').name}-stage{cfg.stage}-{cfg.method}"
    base = named(cfg.model) or "the bundled tiny Qwen2.5-Omni"
    data = named(cfg.data) or "the toy world"
    made_with = ", ".join(f"{what} {value}" for what, value in machine.items())
    flags = []
    for flag in sorted(cfg.given - NOT_SHOWN):
        flags.append(f"    --{flag} {named(str(getattr(cfg, flag)))}")

    lines = [
        f"# {name}",
        "",
        f"Trained with AVATAR in plain PyTorch ([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})).",
        "",
        f"- **From**: {as_code(base)}",
        f"- **Data**: {as_code(data)}, stage {cfg.stage}",
        f"- **Method**: {as_code(cfg.method)}, {cfg.train_type} training, {step:,} steps, "
        f"{generated:,} completions generated",
        f"- **Result**: {result_of(evaluation)}",
        f"- **Made with**: {made_with}",
        "- **Licence**: not chosen; it depends on those of the base model and of the data. Set "
        "`license` above.",
        "",
        "Flags that were given (all others are the defaults of the method and the model):",
        "",
        *(flags or ["    none"]),
        "",
        f"It loads in transformers as it is: `{class_name}.from_pretrained(FOLDER)`.",
        "",
    ]
    return f"---\n{metadata(cfg, name, data, evaluation)}\n---\n" + "\n".join(lines)


def metadata(cfg: Config, name: str, data: str, evaluation) -> str:
    """The card's YAML, in the hub's form."""
    results = None
    if evaluation:
        asked = named(cfg.eval_data) or data
        result = EvalResult(
            task_type="video-text-to-text",
            dataset_type=asked,
            dataset_name=asked,
            metric_type="accuracy",
            metric_value=round(evaluation.accuracy, 4),
            metric_name="held-out accuracy",
        )
        results = [result]
    card = ModelCardData(
        base_model=cfg.model if is_hub_name(cfg.model) else None,
        library_name="transformers",
        license="other",
        license_name="that-of-the-base-model",
        tags=["avatar", "reinforcement-learning", "audio-visual"],
        model_name=name,
        eval_results=results,
    )
    return card.to_yaml()


def result_of(evaluation) -> str:
    """Held-out accuracy with its 95 % interval."""
    if not evaluation or not evaluation.questions:
        return "no held-out questions were asked"
    p, n = evaluation.accuracy, evaluation.questions
    wing = Z95 * math.sqrt(p * (1 - p) / n)
    return f"held-out accuracy {p:.3f} ± {wing:.3f} (95 %, {n:,} questions, one sample each)"


def is_hub_name(model: str) -> bool:
    """Is this "user/name" of the hub, and no folder here?"""
    return model.count("/") == 1 and not model.startswith((".", "/")) and not os.path.exists(model)


def named(path: str) -> str:
    """A path without the folders that say more of a machine than of the model."""
    return "/".join(Path(path).parts[-3:]) if os.path.isabs(path) else path


def as_code(text: str) -> str:
    """Text as inline code, whatever is in it."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"
