"""run/heldout.py: held-out accuracy during training."""

import math
import warnings

import numpy as np
import torch

from config import Config
from data import Prompt, PromptBuilder
from engine.distributed import gather, gather_lists
from formats.sample import Away, Sample
from model import Policy
from rewards import is_right, score_prompts
from rollout import Completion, Sampling, sample_answers

SEED = 1234  # the same random stream at every evaluation, so that their noise is shared
BATCH = 160  # questions that decode together
EXAMPLES = 4  # completions that are logged in full
SCORES = ("correct", "format", "reward", "tokens")


@torch.no_grad()
def evaluate(
    cfg: Config, policy: Policy, builder: PromptBuilder, heldout: list[Sample], judge=None
) -> tuple[dict[str, float], list[dict]]:
    """One completion per held-out question: (mean scores over all processes, a few examples).

    correct is the fraction of completely right answers (accuracy reward 1), and correct_by_kind
    that of each kind of question. A question that cannot be asked counts as wrong, and among the
    unusable.
    """
    generator = torch.Generator(policy.device).manual_seed(SEED)
    sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
    rows: list[dict[str, float | str]] = []
    examples: list[dict] = []
    unusable = 0
    for start in range(0, len(heldout), BATCH):
        builder.prefetch(heldout[start : start + 2 * BATCH])
        samples = heldout[start : start + BATCH]
        answers = sample_answers(policy, builder, samples, sampling)

        # what could not be asked is wrong
        asked = [(prompt, completion) for prompt, completion in answers if completion]
        unusable += len(answers) - len(asked)
        for sample, (_, completion) in zip(samples, answers, strict=True):
            if completion is None:
                rows.append({**dict.fromkeys(SCORES, 0.0), "kind": kind_of(sample)})

        # the rest is scored as in training
        prompts = [prompt for prompt, _ in asked]
        completions = [[completion] for _, completion in asked]
        try:
            scores = score_prompts(prompts, completions, cfg.stage or 2, judge)
        except Away as error:
            # accuracy needs no judge; the run saves and ends in its next step of training
            warnings.warn(f"this evaluation's rewards are without the judge: {error}", stacklevel=2)
            judge = None
            scores = score_prompts(prompts, completions, cfg.stage or 2)
        for (prompt, completion), (parts,) in zip(asked, scores, strict=True):
            rows.append(
                {
                    "correct": float(is_right(parts["accuracy"])),
                    "format": parts["format"],
                    "reward": parts["reward"],
                    "tokens": len(completion.tokens),
                    "kind": kind_of(prompt.sample),
                }
            )
            if len(examples) < EXAMPLES:
                examples.append(example(prompt, completion, parts))

    # means over the questions of all processes
    all_rows = gather_lists(rows)
    scores = {"n": len(all_rows), "unusable": sum(gather(unusable))}
    for name in SCORES:
        values = [row[name] for row in all_rows]
        scores[name] = float(np.mean(values)) if values else math.nan
    scores["correct_by_kind"] = correct_by_kind(all_rows)
    return scores, examples


def kind_of(sample: Sample) -> str:
    """The form of a question where its record names one, as the toy's do, else its problem type."""
    return sample.kind or sample.problem_type


def correct_by_kind(rows: list[dict]) -> dict[str, float]:
    """{kind of question: the fraction of it that was answered right}, in alphabetical order.

    >>> correct_by_kind([{"kind": "b", "correct": 1.0}, {"kind": "a", "correct": 0.0}])
    {'a': 0.0, 'b': 1.0}
    """
    correct: dict[str, list[float]] = {}
    for row in rows:
        correct.setdefault(row["kind"], []).append(row["correct"])
    return {kind: float(np.mean(correct[kind])) for kind in sorted(correct)}


def example(
    prompt: Prompt, completion: Completion, parts: dict, advantage: float | None = None
) -> dict:
    """One line of completions.jsonl."""
    return {
        "id": prompt.sample.id,
        "hinted": prompt.hinted,
        "prompt": prompt.text,
        "media": [path for _, path in prompt.sample.media],
        "gold": prompt.sample.answer,
        "completion": completion.text,
        "tokens": len(completion.tokens),
        "finished": completion.finished,
        **parts,
        "advantage": advantage,
    }
