"""What the processes of test_distributed.py run, under torchrun. Not a test module itself.

workers.py equal OUT ..     loss and summed gradients of one global batch, the weights after a step,
                            and the optimiser's state, for every --train_type, and of a model that
                            has experts
workers.py train OUT ..     the real command for every --train_type, with trouble on some ranks, and
                            a sharded stage 0
workers.py stop OUT N ..    the real command, of which rank 1 is asked to stop in its N-th step
workers.py die|hang OUT ..  the same, of which rank 1 dies or falls asleep in its second step
"""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import train
from config import parse
from data import PromptBuilder
from engine import distributed
from engine.distributed import rank_and_world, start_processes
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer, whole
from formats.load import load_samples
from groups import Group
from media.decode import MediaSettings
from media.prompt_format import MIN_PIXELS
from model import Features, load_policy
from replay import Entry
from rollout import Sampling, generate
from run.learner import make_optimizer, optimizer_step, prepare
from run.session import ends_in_a_sentence
from run.stream import owner
from tests.runs import Recorder

KINDS = ("lora", "full")

# prompt, lengths of the completions, replayed?
GROUPS = (
    (0, [5, 9], False),
    (1, [3, 3, 4], False),
    (2, [30], False),
    (3, [2, 6], False),
    (0, [7, 2], True),
    (3, [4, 8], True),
)


def global_batch(policy, data: str) -> list[Group]:
    """Six groups on four prompts, fresh and replayed, of unequal sizes and lengths, the same on
    every process; that of prompt 1 has no advantages."""
    g = torch.Generator().manual_seed(0)
    settings = MediaSettings(fps=2.0, max_frames=8, max_pixels=MIN_PIXELS)
    builder = PromptBuilder(policy.tokenizer, policy.form, settings)
    prompts = builder.build_or_raise(load_samples(data)[:4])
    with torch.no_grad():
        features = Features(policy).of(prompts)
    written = generate(policy, prompts, features, 4, Sampling(30, generator=g))

    groups = []
    for i, lengths, replayed in GROUPS:
        completions = written[i][-len(lengths) :] if replayed else written[i]
        rewards = torch.randn(len(lengths), generator=g)
        if i == 1:
            rewards = torch.zeros(len(lengths))
        entries = []
        for completion, length, reward in zip(completions, lengths, rewards.tolist(), strict=False):
            tokens = np.array(completion.tokens[:length], np.int32)
            noise = torch.randn(len(tokens), generator=g).numpy()
            logps = np.array(completion.logps[:length], np.float32) + np.float32(0.05) * noise
            entries.append(Entry(tokens, logps, reward, accuracy=0.0, step=0))
        group = Group(prompts[i].sample.id, {False: prompts[i]}, entries, replayed)
        group.advantages = rewards
        groups.append(group)
    return groups


def accumulate_gradients(cfg, policy, learner, reference, groups, step: int) -> Recorder:
    log = Recorder()
    train.accumulate_gradients(cfg, learner, reference, groups, Features(policy), log, step)
    return log


def local(x: torch.Tensor) -> torch.Tensor:
    """This process's rows of a DTensor; any other tensor itself."""
    return x.to_local() if isinstance(x, DTensor) else x


def config_of(kind: str, *more: str):
    return parse(["--train_type", kind, "--lr", "1e-3", *more])


def own_groups(groups: list[Group]) -> list[Group]:
    """Those of a global batch whose prompts this process has."""
    rank, world = rank_and_world()
    return [g for g in groups if owner(g.prompt_id, world) == rank]


def record_gradients(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """A dict that each step fills with the summed gradients, before they are clipped."""
    gradients = {}
    norm_of = optimizer._gradient_norm

    def gradient_norm():
        for name, master in optimizer.masters.items():
            if master.grad is not None:
                gradients[name] = whole(master.grad).clone()
        return norm_of()

    optimizer._gradient_norm = gradient_norm
    return gradients


def one_step(
    kind: str, data: str, towers: bool, saved_state: dict | None = None, model=DEFAULT_MODEL
) -> dict:
    """Loss, gradients and stepped weights of the global batch, then a step that is spoilt, then the
    optimiser's state before and after it was restored.

    saved_state: what another number of processes had as "state" of this; it is restored, too.
    """
    towers_flag = str(towers).lower()
    flags = [
        "--train_towers",
        towers_flag,
        "--beta",
        "0.1",
        "--max_tokens",
        "400",
        "--alpha",
        "0.7",
    ]
    cfg = config_of(kind, *flags)
    policy = load_policy(model)
    groups = own_groups(global_batch(policy, data))
    learner, reference = prepare(cfg, policy)
    if kind == "lora":  # B of a new adapter is zero, and A's gradient with it
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                g = torch.Generator().manual_seed(sum(map(ord, name)))
                p.data.normal_(std=0.02, generator=g)

    optimizer = make_optimizer(cfg, learner, weight_decay=0.0)
    gradients = record_gradients(optimizer)
    log = accumulate_gradients(cfg, policy, learner, reference, groups, 1)
    loss = torch.tensor(sum(log.values.get("loss_sum", [])), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(loss)
    norm, _ = optimizer_step(cfg, policy, learner, optimizer, 5, 100)
    found = {
        "loss": loss.item(),
        "kl": log.values.get("kl", []),
        "grads": dict(gradients),
        "norm": norm,
        "weights": copied_weights(policy),
        "groups": len(groups),
        "learner": sum(local(p).numel() for p in learner.text.parameters()),
        "state": clone(optimizer.state_dict()),
    }

    # the last process alone finds a gradient that is no number
    accumulate_gradients(cfg, policy, learner, reference, groups, 2)
    rank, world = rank_and_world()
    if rank == world - 1:
        grads = [local(p.grad) for p in optimizer.params.values() if p.grad is not None]
        next(g for g in grads if g.numel()).view(-1)[0] = float("nan")
    found["spoilt_norm"], _ = optimizer_step(cfg, policy, learner, optimizer, 6, 100)
    found["spoilt_weights"] = copied_weights(policy)
    found["spoilt_state"] = clone(optimizer.state_dict())

    if saved_state is not None:
        optimizer.load_state_dict(saved_state if rank == 0 else {})
        found["restored_state"] = clone(optimizer.state_dict())
    return found


def copied_weights(policy) -> dict[str, torch.Tensor]:
    return {name: w.clone() for name, w in policy.merged_weights().items()}


def clone(state: dict) -> dict:
    return {name: {k: t.clone() for k, t in tensors.items()} for name, tensors in state.items()}


def half_precision(data: str) -> dict:
    """The decoder's bf16 weights before and after two steps, and the types of the state."""
    cfg = config_of("full", "--beta", "0")
    policy = load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    start = torch.cat([p.detach().flatten().float() for p in policy.text.parameters()])
    groups = own_groups(global_batch(policy, data))
    learner, reference = prepare(cfg, policy)
    optimizer = make_optimizer(cfg, learner, weight_decay=0.0)
    for step in (5, 6):
        accumulate_gradients(cfg, policy, learner, reference, groups, step)
        optimizer_step(cfg, policy, learner, optimizer, step, 100)
    state = optimizer.state_dict()
    return {
        "start": start,
        "end": torch.cat([p.detach().flatten().float() for p in policy.text.parameters()]),
        "types": sorted(
            {f"{k} {t.dtype}" for tensors in state.values() for k, t in tensors.items()}
        ),
        "weight": {name: tensors["weight"] for name, tensors in state.items()},
        "rounded": policy.weights(optimizer.params),
    }


def equal(out: str, data: str, towers: str, with_experts: str) -> None:
    """OUT/state-KIND.pt: the optimiser's state of one process. with_experts: a model's folder."""
    rank, world, _ = start_processes()
    for kind in KINDS:
        saved_state = torch.load(f"{out}/state-{kind}.pt", weights_only=True)
        found = one_step(kind, data, towers == "True", saved_state)
        torch.save(found, f"{out}/{kind}-{rank}of{world}.pt")
    found = one_step("full", data, False, model=with_experts)
    torch.save(found, f"{out}/experts-{rank}of{world}.pt")
    torch.save(half_precision(data), f"{out}/bf16-{rank}.pt")
    dist.destroy_process_group()


def trouble() -> None:
    """Rank 0 meets groups whose rewards are equal, rank 1 draws nothing from the buffer, rank 2
    writes longer completions than the others."""
    rank = int(os.environ["RANK"])
    if rank == 0:
        real_scores = train.score_prompts

        def equal_rewards(*args):
            return [[{**p, "reward": 0.5} for p in group] for group in real_scores(*args)]

        train.score_prompts = equal_rewards
    elif rank == 1:
        train.replayed_groups = lambda *args: []
    if rank != 2:
        real_generate = train.generate

        def short(policy, prompts, features, n, sampling):
            sampling = dataclasses.replace(sampling, max_new_tokens=6)
            return real_generate(policy, prompts, features, n, sampling)

        train.generate = short


def in_step(number: int, action: Callable[[], None]) -> None:
    """On rank 1, call `action` before the optimiser's step of this number, counted from 1."""
    if os.environ["RANK"] != "1":
        return
    real, calls = Optimizer.step, []

    def step(self, *args):
        calls.append(1)
        if len(calls) == number:
            action()
        return real(self, *args)

    Optimizer.step = step


def train_all(out: str, flags: list[str]) -> None:
    trouble()
    for kind in KINDS:
        train.run_stage(parse([*flags, "--train_type", kind, "--out", f"{out}/{kind}"]))
    cold = ["--stage", "0", "--train_type", "full", "--steps", "2", "--prompts_per_step", "8"]
    cold += ["--max_tokens", "300", "--data", "toy:8,2", "--max_completion_tokens", "4"]
    train.run_stage(parse([*cold, "--out", f"{out}/cold", "--media_cache", f"{out}/media"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    what, out, *rest = sys.argv[1:]
    if what == "equal":
        equal(out, *rest)
    elif what == "train":
        train_all(out, rest)
    else:
        if what == "stop":
            in_step(int(rest.pop(0)), lambda: os.kill(os.getpid(), signal.SIGTERM))
        elif what == "die":
            in_step(2, lambda: os._exit(7))
        else:
            in_step(2, lambda: time.sleep(100))
        if what != "stop":
            distributed.TIMEOUT_SECONDS = 6
        ends_in_a_sentence(train.main, [*rest, "--out", out])
