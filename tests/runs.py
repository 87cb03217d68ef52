"""Small runs of train.py, and the groups of one step without a run. Not a test module itself."""

import json
from collections import defaultdict
from pathlib import Path

import torch

from config import parse
from groups import Group, fresh_groups
from model import Features
from replay import ReplayBuffer
from rewards import score_prompts
from rollout import Sampling, generate
from run.rollouts import RolloutLog
from tas import group_advantages

REPO = Path(__file__).parent.parent


def small(out: Path, *flags: str, stage: int | str = 2) -> list[str]:
    """Flags of a run of 3 steps: 2 prompts, 4 fresh and 4 replayed completions each."""
    return [
        "--method=avatar",
        f"--stage={stage}",
        f"--out={out}",
        "--data=toy:6,3",
        "--prompts_per_step=2",
        "--steps=3",
        *flags,
    ]


def rows_of(out: Path) -> tuple[list[dict], list[dict]]:
    """The lines of metrics.jsonl: of the steps, and of the evaluations."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "eval_accuracy" in row]
    return steps, evaluations


def small_config(tmp_path: Path, *flags: str, stage: int = 2):
    return parse(small(tmp_path / "run", *flags, stage=stage))


def sampled(cfg, policy, prompts, buffer=None, step=0, seed=0, judge=None) -> list[Group]:
    """Steps 1-3 and 5 for some prompts, as train_rl does them."""
    buffer = ReplayBuffer(seed=0) if buffer is None else buffer
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
    with torch.no_grad():
        features = Features(policy).of(prompts)
    completions = generate(policy, prompts, features, cfg.fresh, sampling)
    scores = score_prompts(prompts, completions, cfg.stage, judge)
    groups = fresh_groups(prompts, completions, scores, step)
    for group in groups:
        buffer.add(group.prompt_id, group.entries)
        group.advantages = group_advantages(group.rewards)
    buffer.refresh()
    return groups


class Recorder:
    """Keeps what is noted, in place of a Log."""

    def __init__(self):
        self.values: dict[str, list[float]] = defaultdict(list)
        self.rollouts = RolloutLog(Path(), every=0, is_main=True)

    def note(self, **values) -> None:
        for name, numbers in values.items():
            self.values[name] += torch.as_tensor(numbers).detach().flatten().tolist()

    def __getitem__(self, name: str) -> list[float]:
        return self.values[name]

    @property
    def loss(self) -> float:
        return sum(self.values["loss_sum"])
