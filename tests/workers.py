"""What the processes of tests/test_distributed.py run, under torchrun or started by hand. Not a test module itself.

workers.py equal OUT ..    loss and summed gradients of one global batch, and the weights after a step, for every --train_type
workers.py train OUT ..    the real command for every --train_type, with trouble on some ranks, and a sharded stage 0
workers.py die|hang OUT .. the real command, of which rank 1 dies or falls asleep in its second step
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import train
from config import parse
from data import PromptBuilder
from engine.distributed import start_processes
from engine.families import DEFAULT_MODEL
from engine.optim import Trained
from formats.load import load_samples
from groups import Group
from media.decode import MediaSettings
from media.prompt_format import MIN_PIXELS
from model import load_policy
from rollout import Sampling, generate
from run.session import ends_in_a_sentence
from run.stream import owner

KINDS = ("lora", "full", "fsdp")


def global_batch(policy, data: str) -> list[Group]:
    """Six groups on four prompts, fresh and replayed, of unequal sizes and lengths, the same on every process; one has no advantages."""
    g = torch.Generator().manual_seed(0)
    samples = load_samples(data)[:4]
    prompts = PromptBuilder(
        policy.tokenizer,
        policy.form,
        MediaSettings(fps=2.0, max_frames=8, max_pixels=MIN_PIXELS),
    ).build_or_raise(samples)
    written = generate(policy, prompts, policy.features(prompts), 4, Sampling(30, generator=g))
    groups = []
    for prompt, lengths, replayed in (
        (0, [5, 9], False),
        (1, [3, 3, 4], False),
        (2, [30], False),
        (3, [2, 6], False),
        (0, [7, 2], True),
        (3, [4, 8], True),
    ):
        some = written[prompt][-len(lengths) :] if replayed else written[prompt]
        tokens = [c.tokens[:n] for c, n in zip(some, lengths, strict=False)]
        behaviour = [
            [lp + 0.05 * torch.randn((), generator=g).item() for lp in c.logps[:n]]
            for c, n in zip(some, lengths, strict=False)
        ]
        advantages = (
            torch.zeros(len(lengths)) if prompt == 1 else torch.randn(len(lengths), generator=g)
        )
        groups.append(
            Group(
                prompts[prompt],
                tokens,
                behaviour,
                advantages.tolist(),
                advantages,
                replayed,
                [0] * len(lengths),
            )
        )
    return groups


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def one_step(kind: str, data: str, towers: bool) -> dict:
    """Loss, gradients and stepped weights of the global batch, of which this process has the prompts that it owns."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    cfg = parse(
        [
            "--train_type",
            kind,
            "--train_towers",
            str(towers).lower(),
            "--beta",
            "0.1",
            "--lr",
            "1e-3",
            "--max_tokens",
            "400",
            "--alpha",
            "0.7",
        ]
    )
    policy = load_policy(DEFAULT_MODEL)
    groups = global_batch(policy, data)
    learner, reference = train.prepare(cfg, policy)
    if kind == "lora":  # B of a new adapter is zero, and A's gradient with it
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.data.normal_(
                    std=0.02, generator=torch.Generator().manual_seed(sum(map(ord, name)))
                )
    trained = Trained(*learner.named_trained(), cfg.lr, weight_decay=0.0)
    mine = [g for g in groups if owner(g.prompt.sample.id, world) == rank]
    log = train.update_step(cfg, policy, reference, mine, 1, {}, learner)
    loss = torch.tensor(sum(log["loss"]), dtype=torch.float64)
    if world > 1:
        dist.all_reduce(loss)
    trained.sum_gradients()
    grads = {
        name: whole(p.grad).clone()
        for name, p in trained.named.items()
        if isinstance(p, DTensor) or p.grad is not None
    }
    norm, _ = train.take_step(
        cfg, policy, learner, trained, 5, 100
    )  # summed gradients have gone to their owners: summing again changes nothing
    return {
        "loss": loss.item(),
        "kl": log["kl"],
        "grads": grads,
        "norm": norm,
        "weights": policy.merged_weights(),
        "groups": len(mine),
        "learner": sum(
            p.to_local().numel() if isinstance(p, DTensor) else p.numel()
            for p in learner.text.parameters()
        ),
    }


def half_precision(kind: str, data: str) -> dict:
    """The decoder's bf16 weights before and after two steps, and the types of the optimiser's tensors, which are fp32."""
    cfg = parse(["--train_type", kind, "--beta", "0", "--lr", "1e-3"])
    policy = load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    start, groups = (
        torch.cat([p.detach().flatten().float() for p in policy.text.parameters()]),
        global_batch(policy, data),
    )
    learner, reference = train.prepare(cfg, policy)
    trained = Trained(*learner.named_trained(), cfg.lr, weight_decay=0.0)
    for step in (5, 6):
        mine = [
            g for g in groups if owner(g.prompt.sample.id, dist.get_world_size()) == dist.get_rank()
        ]
        train.update_step(cfg, policy, reference, mine, step, {}, learner)
        train.take_step(cfg, policy, learner, trained, step, 100)
    return {
        "start": start,
        "end": torch.cat([p.detach().flatten().float() for p in policy.text.parameters()]),
        "state": sorted(
            {f"{k} {v.dtype}" for state in trained.state().values() for k, v in state.items()}
        ),
    }


def equal(out: str, data: str, towers: str) -> None:
    start_processes(parse(["--device", "cpu"]))
    for kind in ("full", "fsdp"):
        torch.save(half_precision(kind, data), f"{out}/bf16-{kind}-{dist.get_rank()}.pt")
    for kind in KINDS:
        torch.save(
            one_step(kind, data, towers == "True"),
            f"{out}/{kind}-{dist.get_rank()}of{dist.get_world_size()}.pt",
        )
    dist.destroy_process_group()


def trouble() -> None:
    """Rank 0 meets groups whose rewards are all alike, rank 1 draws nothing from the buffer, rank 2 writes longer completions than the others."""
    rank = int(os.environ["RANK"])
    if rank == 0:
        honest = train.score

        def alike(*args):
            return [[{**p, "reward": 0.5} for p in group] for group in honest(*args)]

        train.score = alike
    elif rank == 1:
        train.replay_step = lambda *args: []
    else:
        write = train.generate
        train.generate = lambda policy, prompts, features, n, most, *rest: write(
            policy, prompts, features, n, most if rank == 2 else 6, *rest
        )


def fall_out(how: str) -> None:
    """Rank 1 leaves the run in its second step."""
    if int(os.environ["RANK"]) != 1:
        return
    real = train.take_step

    def last(cfg, policy, learner, trained, step, steps):
        if step == 1:
            if how == "die":
                os._exit(7)
            time.sleep(100)
        return real(cfg, policy, learner, trained, step, steps)

    train.take_step = last


def stop_after(steps: int) -> None:
    """Rank 1 alone is asked to stop in the last of so many steps; all stop."""
    real = train.take_step

    def last(cfg, policy, learner, trained, step, total):
        if step + 1 == steps < total and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return real(cfg, policy, learner, trained, step, total)

    train.take_step = last


if __name__ == "__main__":
    what, out, *rest = sys.argv[1:]
    if what == "equal":
        equal(out, *rest)
    elif what == "train":
        trouble()
        for kind in KINDS:
            train.run(parse([*rest, "--train_type", kind, "--out", f"{out}/{kind}"]))
        train.run(
            parse(
                [
                    "--stage",
                    "0",
                    "--train_type",
                    "fsdp",
                    "--steps",
                    "2",
                    "--prompts_per_step",
                    "8",
                    "--max_tokens",
                    "300",
                    "--toy_clips",
                    "8",
                    "--toy_heldout",
                    "2",
                    "--toy_dir",
                    f"{out}/toy",
                    "--max_completion_tokens",
                    "4",
                    "--device",
                    "cpu",
                    "--out",
                    f"{out}/cold",
                    "--media_cache",
                    f"{out}/media",
                ]
            )
        )
        dist.destroy_process_group()
    elif what == "stop":
        stop_after(int(rest[0]))
        ends_in_a_sentence(train.main, [*rest[1:], "--out", out])
    else:
        fall_out(what)
        ends_in_a_sentence(train.main, [*rest, "--out", out])
