"""train.py: AVATAR, top to bottom.

    python train.py                                       # the bundled tiny model on the toy world, stage 2: minutes on two CPU cores
    python train.py --method grpo                         # the baseline in the same loop: 8 fresh completions, no replay, no hints, uniform weights
    python train.py --method avatar_paper                 # AVATAR with the paper's own numbers
    python train.py --stage 0,1,2,3                       # the curriculum: each stage from the last one's checkpoint
    python train.py --stage 0                             # supervised cold start: makes the tiny model from random weights
    torchrun --nproc_per_node=8 train.py --stage 2 --model Qwen/Qwen2.5-Omni-7B --data DATA.jsonl
    python -m run.memory --model Qwen/Qwen2.5-Omni-7B            # memory per GPU of every --train_type; loads no weights

One step (--method avatar; in brackets the paper's numbers, --method avatar_paper):
    1 rollout      2 (4) fresh completions of each of B prompts, behaviour log-probs recorded while sampling        rollout.py
    2 reward       format, accuracy, self, judge by the stage's table                                               rewards.py
    3 insert       fresh groups into the stratified buffer; Rbar(q), tiers and hint states move                     replay.py
    4 draw         B replayed groups: one stored prompt each, up to 6 (4) completions of earlier steps              replay.py
    5 advantage    fresh: GRPO's; replayed: against Rbar(q); then TAS weights over the completion's tokens          tas.py
    6 update       clipped importance-sampled loss, J = J_on + alpha J_off, one optimiser step                      model.py, tas.py, optim.py

How this differs from the paper and its released trainer (the modules list their own points):
 1. Only the fresh half is generated. Until the buffer holds --replay_min completions a step trains on the fresh half alone; `generated` in
    the log counts every completion sampled for training.
 2. A replayed group is drawn from all stored prompts, so it is mostly another prompt than a fresh one; where it is the same, both share
    one packed row, and the replayed completions cost their own tokens only. Both halves are means over their own completions.
 3. top-k truncation (50 in the released run) is off: it changes the sampled distribution but not the trained one.
 4. The KL term acts on the fresh half only: k3 estimates the KL from the policy's own samples. Groups whose advantages are all zero and that
    have no KL term are left out of the forward pass: exact, they have no gradient. They are counted.
 5. One update per rollout, so a fresh completion's ratio is 1 up to rounding; clipping acts on the replayed half.
 6. A record that cannot be used (media missing or unreadable, prompt too long) is left out, counted and named in bad_media.jsonl or
    dropped.jsonl; nothing is cut.
 7. --method avatar is what the tries of bench/STUDY.md point to: 2 fresh and up to 6 replayed completions per group (all that are stored of a
    prompt in its first three visits) instead of 4 and 4, replay from 256 stored completions on, drawn uniformly instead of by tier, 0.2
    added to their advantages, truncated ratios instead of PPO's clip, the loss a mean over tokens, no KL term.
 8. After the warm-up the learning rate falls to 5 % of its peak along a cosine; the documents give the warm-up only.
"""

import hashlib
import itertools
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import toy
from config import Config
from data import Prompt, PromptBuilder, prompt_builder, question_text, share_prefixes
from engine.batching import split_by_tokens
from engine.distributed import (
    gather,
    gather_weights,
    rank_and_world,
    shard,
    start_processes,
    weight_dtype,
)
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer, learning_rate
from formats.sample import DataError, Sample
from groups import Group, pack_rows
from judge import DEFAULT_JUDGE, Endpoint, Judge, LocalModel, watch
from media.workers import Decoders
from model import Policy, bound_memory, load_policy
from replay import Entry, ReplayBuffer
from rewards import score_group, split_completion
from rollout import Completion, Sampling, generate, sample_answers
from run.checkpoint import (
    STOP,
    Saved,
    Signals,
    complete,
    random_states,
    resume,
    save,
    set_random_states,
)
from run.curriculum import curriculum
from run.logs import Logger, plot_curriculum
from run.session import ends_in_a_sentence, only_run
from run.stream import Cursor, load_data, next_prompts, owner
from tas import (
    clipped_is_loss,
    group_advantages,
    half_loss,
    importance_ratio,
    kl_to_behaviour,
    replay_advantages,
    temporal_weights,
    too_stale,
)
from tools.tiny_model import make_tiny_policy

MAX_GRAD_NORM = 1.0


def make_judge(cfg: Config, samples: list[Sample], device: torch.device):
    """The judge of stage 3, a function of (sample, reasoning, answer) triples (judge.py); None in other stages."""
    if cfg.stage != 3:
        return None
    name = cfg.judge or ("oracle" if not cfg.data else DEFAULT_JUDGE)
    if name == "oracle":
        if unknown := [s for s in samples if s.scene is None]:
            raise DataError(
                f"{unknown[0].where}: field 'scene' of record '{unknown[0].id}' is empty, and the oracle judge reads it; pass --judge MODEL"
            )
        return oracle
    return Judge(
        Endpoint(cfg.judge_endpoint, name)
        if cfg.judge_endpoint
        else LocalModel(name, cfg.judge_device or device),
        Decoders(1, cfg.media_timeout, watch) if cfg.workers else None,
    )


def oracle(items: list[tuple[Sample, str, str]]) -> list[dict[str, float]]:
    """The toy's judge: knows the scene."""
    return [
        toy.oracle_judge(reasoning, answer, sample.scene) for sample, reasoning, answer in items
    ]


def score(
    cfg: Config, prompts: list[Prompt], groups: list[list[Completion]], judge=None
) -> list[list[dict]]:
    """Reward parts of every completion of every prompt; the judge sees all of them in one batch."""
    verdicts: list = [None] * sum(map(len, groups))
    if judge is not None:
        read = [
            (p.sample, *split_completion(c.text))
            for p, done in zip(prompts, groups, strict=True)
            for c in done
        ]
        verdicts = judge([(sample, reasoning, answer or "") for sample, reasoning, answer in read])
    left = iter(verdicts)
    return [
        score_group(
            [c.text for c in done],
            p.sample.answer,
            p.sample.problem_type,
            p.sample.options,
            cfg.stage or 2,
            list(itertools.islice(left, len(done))),
            [len(c.tokens) for c in done],
        )
        for p, done in zip(prompts, groups, strict=True)
    ]


@torch.no_grad()
def evaluate(
    cfg: Config,
    policy: Policy,
    builder: PromptBuilder,
    held: list[Sample],
    judge=None,
    batch: int = 160,
) -> tuple[dict[str, float], list[dict]]:
    """One completion per held-out question, always from the same random stream. Returns the mean scores over all processes and a
    few full examples. `correct` is the share of completely right answers (accuracy reward 1)."""
    generator = torch.Generator(policy.device).manual_seed(1234)
    rows, examples, unusable = [], [], 0
    for i in range(0, len(held), batch):
        builder.prefetch(held[i : i + 2 * batch])
        done = sample_answers(
            policy,
            builder,
            held[i : i + batch],
            Sampling(cfg.max_completion_tokens, cfg.eval_temperature, generator),
        )
        asked = [(prompt, completion) for prompt, completion in done if completion]
        rows += [[0.0, 0.0, 0.0, 0]] * (
            len(done) - len(asked)
        )  # a question that cannot be asked counts as wrong
        unusable += len(done) - len(asked)
        for (prompt, completion), (parts,) in zip(
            asked, score(cfg, [p for p, _ in asked], [[c] for _, c in asked], judge), strict=True
        ):
            rows.append(
                [
                    parts["accuracy"] >= 1 - 1e-6,
                    parts["format"],
                    parts["reward"],
                    len(completion.tokens),
                ]
            )
            if len(examples) < 4:
                examples.append(example(prompt, completion, parts, None))
    rows = [r for part in gather(rows) for r in part]
    names = ("correct", "format", "reward", "tokens")
    return {
        name: float(np.mean([r[i] for r in rows])) if rows else math.nan
        for i, name in enumerate(names)
    } | {"n": len(rows), "unusable": sum(gather(unusable))}, examples


def example(prompt: Prompt, completion: Completion, parts: dict, advantage: float | None) -> dict:
    """One line of completions.jsonl."""
    return {
        "id": prompt.sample.id,
        "hinted": prompt.hinted,
        "prompt": question_text(prompt.sample, prompt.hinted),
        "gold": prompt.sample.answer,
        "completion": completion.text,
        "tokens": len(completion.tokens),
        "finished": completion.finished,
        **parts,
        "advantage": advantage,
    }


def sample_groups(
    cfg: Config,
    policy: Policy,
    buffer: ReplayBuffer,
    prompts: list[Prompt],
    step: int,
    generator: torch.Generator,
    judge=None,
    seen: dict | None = None,
) -> tuple[list[Group], list[dict]]:
    """Steps 1-3 for some prompts: sample, score, insert. Returns the groups with GRPO advantages, and every completion's example record.
    seen: the features of this step's media (Policy.features)."""
    groups, examples = [], []
    with torch.no_grad():
        features = policy.features(prompts, seen)
    sampled = generate(
        policy,
        prompts,
        features,
        cfg.fresh,
        Sampling(cfg.max_completion_tokens, cfg.temperature, generator),
    )
    for prompt, done, parts in zip(
        prompts, sampled, score(cfg, prompts, sampled, judge), strict=True
    ):
        rewards = [p["reward"] for p in parts]
        advantages = group_advantages(torch.tensor(rewards))  # (G,)
        groups.append(
            Group(
                prompt,
                [c.tokens for c in done],
                [c.logps for c in done],
                rewards,
                advantages,
                False,
                [step] * len(done),
            )
        )
        examples += [
            example(prompt, c, p, a)
            for c, p, a in zip(done, parts, advantages.tolist(), strict=True)
        ]
        buffer.add(
            prompt.sample.id,
            [
                Entry(
                    np.array(c.tokens, np.int32),
                    np.array(c.logps, np.float32),
                    p["reward"],
                    p["accuracy"],
                    step,
                    prompt.hinted,
                    p,
                )
                for c, p in zip(done, parts, strict=True)
            ],
        )
    return groups, examples


def rollout_step(
    cfg: Config,
    policy: Policy,
    buffer: ReplayBuffer,
    prompts: list[Prompt],
    step: int,
    generator: torch.Generator,
    more: Callable[[int], list[Prompt]] | None = None,
    judge=None,
    seen: dict | None = None,
) -> tuple[list[Group], list[dict]]:
    """Steps 1-3. With --dynamic_sampling groups whose rewards are all alike are replaced by those of new prompts (`more(n)`); what they cost
    is in the examples and in the buffer all the same."""
    groups, examples = sample_groups(cfg, policy, buffer, prompts, step, generator, judge, seen)
    for _ in range(cfg.dynamic_sampling):
        useful = [g for g in groups if bool(g.advantages.any())]
        if len(useful) == len(prompts):
            break
        again, more_examples = sample_groups(
            cfg, policy, buffer, more(len(prompts) - len(useful)), step, generator, judge, seen
        )
        groups, examples = useful + again, examples + more_examples
    buffer.refresh([v for part in gather(buffer.all_vcrs()) for v in part])  # tiers are global
    return groups, examples


def replay_step(
    cfg: Config,
    builder: PromptBuilder,
    buffer: ReplayBuffer,
    by_id: dict[str, Sample],
    n: int,
    step: int,
) -> list[Group]:
    """Steps 4-5: up to n replayed groups of different prompts, from the completions of earlier steps. Advantages stand against Rbar(q); hinted
    and plain completions of a prompt share them but are trained each under the prompt that it was written for."""
    groups: list[Group] = []
    drawn = buffer.draw_groups(n, cfg.replayed, before=step, by_tier=cfg.replay_draw == "tiers")
    for prompt_id, entries in drawn:
        rewards = torch.tensor([e.reward for e in entries])
        baseline = buffer.vcrs(prompt_id) if cfg.replay_baseline == "vcrs" else None
        advantages = replay_advantages(
            rewards, rewards.mean() if baseline is None else baseline, cfg.replay_shift
        )  # (G,)
        for hinted in (False, True):
            some = [i for i, e in enumerate(entries) if e.hinted == hinted]
            prompt = builder.build([by_id[prompt_id]], [hinted])[0] if some else None
            if isinstance(prompt, Prompt):  # its media may have gone since it was sampled
                groups.append(
                    Group(
                        prompt,
                        [entries[i].tokens.tolist() for i in some],
                        [entries[i].logps.tolist() for i in some],
                        rewards[some].tolist(),
                        advantages[some],
                        True,
                        [entries[i].step for i in some],
                    )
                )
    return groups


def update_step(
    cfg: Config,
    policy: Policy,
    reference: Policy | None,
    groups: list[Group],
    step: int = 0,
    seen: dict | None = None,
    learner: Policy | None = None,
) -> dict[str, list]:
    """Step 6 up to the gradients: accumulate those of J = J_on + alpha J_off over micro-batches. Each half is divided by its GLOBAL counts, so
    the sum over processes is the loss of the whole batch, whatever the split. seen: the features of this step's media (Policy.features).
    learner: the sharded twin of the policy that is trained in its place (FSDP).
    Returns diagnostics: lists over the trained tokens (ratio, clipped, kl), over micro-batches (loss), and over replayed completions (stale:
    prompt, age, tokens, clipped tokens, mean squared log-ratio, KL to the behaviour policy, left out?)."""
    sizes = [
        [len(t) for g in groups if g.replayed == half for t in g.tokens] for half in (False, True)
    ]
    counts = np.sum(
        gather([(len(n), sum(n)) for n in sizes]), axis=0
    )  # (2, 2): fresh and replayed; completions, tokens
    log: dict[str, list] = {
        "loss": [],
        "kl": [],
        "ratio": [],
        "clipped": [],
        "stale_ratio": [],
        "stale": [],
    }
    # k3 estimates KL(pi_theta || pi_ref) from samples of pi_theta, so only the fresh half has a KL term: on a replayed token that pi_theta has left,
    # exp(ref - logp) is no such estimate, and a single one of them outweighs all advantages of a step.
    useful = [
        g for g in groups if bool(g.advantages.any()) or (cfg.beta and not g.replayed)
    ]  # the others have no gradient: exact
    prompts, seen = [g.prompt for g in useful], {} if seen is None else seen
    with torch.no_grad():
        policy.features(prompts, seen)
    if policy.trains_towers:  # gradients of all micro-batches meet in the features, and go on into the towers once, at the end
        seen = {
            key: {name: t.detach().requires_grad_() for name, t in value.items()}
            for key, value in seen.items()
        }
    learner = learner or policy
    for batch in in_step(pack_rows(useful, cfg.max_tokens), learner):
        if not batch:
            idle_pass(learner, reference)
            continue
        flat = [g for row in batch for g in row]
        logp, mask = learner.completion_logps(
            [row[0].prompt for row in batch],
            policy.features([row[0].prompt for row in batch], seen),
            [[t for g in row for t in g.tokens] for row in batch],
            cfg.temperature,
        )  # (N, R)
        halves = torch.tensor(
            [g.replayed for g in flat for _ in g.tokens], device=logp.device
        )  # (N,)
        behaviour = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(b) for g in flat for b in g.behaviour], batch_first=True
        ).to(logp.device)  # (N, R)
        advantages = torch.cat([g.advantages for g in flat]).to(logp.device)  # (N,)
        total = logp.new_zeros(())
        ref = reference_logps(
            cfg, policy, reference, [g for g in flat if not g.replayed], seen
        )  # (n, r) or None
        for replayed in (False, True):
            half = [g for g in flat if g.replayed == replayed]
            if not half:
                continue
            mine = halves == replayed
            length = max(len(t) for g in half for t in g.tokens)
            lp, old, real, a = (
                logp[mine, :length],
                behaviour[mine, :length],
                mask[mine, :length],
                advantages[mine],
            )  # (n, r), (n,)
            weights = temporal_weights(
                real, cfg.tas_lambda, cfg.tas_shape, cfg.tas_normalize
            )  # (n, r)
            ratio = importance_ratio(lp, old, real, cfg.is_level)  # (n, r)
            per_token, found = clipped_is_loss(
                ratio,
                lp,
                a,
                weights,
                real,
                cfg.clip_eps,
                cfg.clip_eps_high or None,
                cfg.clip,
                cfg.beta,
                None if replayed else ref,
            )
            log_ratio = ((lp - old) * real).detach()  # (n, r)
            if replayed:
                stale = too_stale(log_ratio, real, a, cfg.stale_bound)  # (n,)
                per_token = per_token.masked_fill(stale[:, None], 0.0)  # (n, r)
            share = half_loss(per_token, real, *counts[int(replayed)].tolist(), cfg.loss_norm)
            total = total + (cfg.alpha * share if replayed else share)
            log["ratio"] += found["ratio"][real].tolist()
            log["clipped"] += found["clipped"][real].float().tolist()
            if replayed:
                log["stale_ratio"] += found["ratio"][real].tolist()
                names = [(g.prompt.sample.id, step - s) for g in half for s in g.steps]
                n = real.sum(dim=1).clamp(min=1)  # (n,)
                columns = (
                    n,
                    found["clipped"].sum(1),
                    (log_ratio**2).sum(1) / n,
                    kl_to_behaviour(log_ratio, real),
                    stale,
                )
                log["stale"] += [
                    (*name, *row)
                    for name, *row in zip(names, *(c.tolist() for c in columns), strict=True)
                ]
            elif ref is not None:
                log["kl"] += found["kl"][real].tolist()
        total.backward()
        log["loss"].append(total.item())
    if policy.trains_towers:
        policy.towers_backward(prompts, seen)
    return log


def reference_logps(
    cfg: Config, policy: Policy, reference: Policy | None, groups: list[Group], seen: dict
) -> torch.Tensor | None:
    """(n, r) log-probs of the fresh completions under the stage's starting weights; None without a KL term or without fresh completions."""
    with torch.no_grad():
        if reference is not None and groups:
            prompts = [g.prompt for g in groups]
            return reference.completion_logps(
                prompts, policy.features(prompts, seen), [g.tokens for g in groups], cfg.temperature
            )[0]
        if reference is not None and reference.is_sharded:
            blank_logps(reference)
    return None


def in_step(batches: list[list], learner: Policy) -> list[list]:
    """The micro-batches of this process; of a sharded learner, with empty ones at the end.

    Under FSDP2 every process takes part in every forward and backward pass, so all need as many
    passes as the one with the most micro-batches.
    """
    if not learner.is_sharded:
        return batches
    most = max(gather(len(batches)))
    return batches + [[]] * (most - len(batches))


def blank_logps(policy: Policy) -> torch.Tensor:
    """A pass over two tokens: this process's part in a pass of the others."""
    end = policy.eos_ids[0]
    sample = Sample("", "", "numeric", "")
    positions = torch.zeros(3, 1, dtype=torch.long)
    prompt = Prompt(sample, False, torch.tensor([end]), positions)
    logps, _ = policy.completion_logps([prompt], [{}], [[[end, end]]])
    return logps


def idle_pass(learner: Policy, reference: Policy | None) -> None:
    """An empty micro-batch: passes in the order of a full one, and gradients of zero."""
    logp = blank_logps(learner)
    if reference is not None:
        with torch.no_grad():
            blank_logps(reference)
    (logp.sum() * 0).backward()


def prepare(cfg: Config, policy: Policy) -> tuple[Policy, Policy | None]:
    """(what is trained, the frozen reference or None) by --train_type and --beta; `policy` samples.

    With --train_type full on several processes what is trained is a sharded twin of the policy, and
    `take_step` copies its weights into the policy. Else it is the policy itself.
    """
    if cfg.train_type == "lora":
        policy.add_adapters(cfg.lora_rank, cfg.train_towers, cfg.seed)
    elif not cfg.train_towers:
        policy.freeze_towers()
    sharded = cfg.train_type == "full" and rank_and_world()[1] > 1

    reference = None
    if cfg.beta and cfg.stage:
        reference = shard(policy, train=False) if sharded else policy.reference()

    if not sharded:
        return policy, reference
    learner = shard(policy)
    for module in (policy.text, policy.head):
        module.requires_grad_(False)
    return learner, reference


def give_up(cfg: Config, groups: list[Group], step: int, rank: int) -> None:
    """The gradient was no number --max_nonfinite times in a row: leave the last batch to be looked at, and raise DataError."""
    file = Path(cfg.out) / f"nonfinite-rank{rank}.pt"
    torch.save(
        [
            {
                "id": g.prompt.sample.id,
                "hinted": g.prompt.hinted,
                "replayed": g.replayed,
                "tokens": g.tokens,
                "behaviour": g.behaviour,
                "rewards": g.rewards,
                "advantages": g.advantages,
            }
            for g in groups
        ],
        file,
    )
    raise DataError(
        f"the gradient of {cfg.max_nonfinite} steps in a row, up to step {step}, was infinite or no number; weights and optimiser are as they were "
        f"before them, and the last batch is in {file}; lower --lr, or look at that batch"
    )


def take_step(
    cfg: Config, policy: Policy, learner: Policy, optimizer: Optimizer, step: int, steps: int
) -> tuple[float, float]:
    """The optimiser's step; (gradient norm, learning rate). A norm that is no finite number has
    changed nothing."""
    lr = learning_rate(cfg.lr, step, steps)
    norm = optimizer.step(lr, MAX_GRAD_NORM)
    if learner is not policy:
        gather_weights(policy, learner)
    return norm, lr


def streams(cfg: Config, rank: int, saved: Saved | None) -> int:
    """The seed of a process's random streams: a run that goes on with other processes takes new ones, not those that are used up."""
    return cfg.seed * 1000 + rank + (1_000_003 * saved.step if saved and saved.own is None else 0)


def train_rl(
    cfg: Config,
    policy: Policy,
    builder: PromptBuilder,
    mine: list[Sample],
    held: list[Sample],
    rank: int,
    world: int,
    steps: int,
    saved: Saved | None,
    keep: Callable[..., bool],
) -> dict:
    """Stages 1-3: the loop. saved: the checkpoint to go on from. keep(step, ..): saves when it is time to; is this the end? Returns what `run` reports."""
    learner, reference = prepare(cfg, policy)
    optimizer = Optimizer(*learner.named_trained(), cfg.lr, cfg.tower_lr)
    seed = streams(cfg, rank, saved)
    buffer = ReplayBuffer(cfg.capacity, cfg.hint_patience, cfg.hint_kl, seed=seed)
    cursor, by_id = Cursor(mine, seed), {s.id: s for s in mine}
    generator = torch.Generator(policy.device).manual_seed(seed)
    per_rank, judge = cfg.prompts_per_step // world, make_judge(cfg, mine + held, policy.device)
    logger = Logger(cfg, rank, steps, saved)
    generated, bad_steps, started = saved.generated if saved else 0, 0, time.perf_counter()
    if saved:
        go_on(saved, policy, learner, optimizer, cursor, logger)
        buffer.load_state_dict(
            saved.own["buffer"]
            if saved.own
            else ReplayBuffer.redistribute(
                [s["buffer"] for s in saved.states], lambda i: owner(i, world) == rank
            )
            | {"rng": json.dumps(buffer.rng.bit_generator.state)}
        )
        if saved.own:
            generator.set_state(saved.own["generator"])
    else:
        logger.evaluation(0, generated, *evaluate(cfg, policy, builder, held, judge), started)

    def more(n: int) -> list[Prompt]:
        return next_prompts(cursor, builder, n, lambda s: bool(s.hint) and buffer.wants_hint(s.id))

    for step in range(saved.step if saved else 0, steps):
        t0, cpu = time.perf_counter(), time.process_time()
        seen: dict[str, dict[str, torch.Tensor]] = {}  # tower outputs of this step, by media
        prompts = more(per_rank)
        builder.prefetch(cursor.peek(per_rank))  # decoded while this step computes
        groups, examples = rollout_step(
            cfg, policy, buffer, prompts, step, generator, more, judge, seen
        )
        generated += sum(gather(len(examples)))
        t1 = time.perf_counter()
        if cfg.replayed and sum(gather(len(buffer))) >= cfg.replay_min:
            groups += replay_step(cfg, builder, buffer, by_id, per_rank * cfg.replay_groups, step)
        log = update_step(cfg, policy, reference, groups, step, seen, learner)
        for prompt_id, rows in itertools.groupby(sorted(log["stale"]), key=lambda row: row[0]):
            buffer.note_kl(prompt_id, float(np.mean([row[5] for row in rows])))
        norm, lr = take_step(cfg, policy, learner, optimizer, step, steps)
        t2 = time.perf_counter()
        bad_steps = 0 if math.isfinite(norm) else bad_steps + 1  # the norm is that of all processes
        if bad_steps == cfg.max_nonfinite:
            give_up(cfg, groups, step, rank)
        if step % 10 == 0:
            logger.completions(step, examples[:2])
        logger.step(
            step,
            generated,
            groups,
            examples,
            log,
            buffer,
            norm,
            lr,
            t1 - t0,
            t2 - t1,
            time.process_time() - cpu,
            cursor.dropped,
        )
        if step + 1 == steps or (cfg.eval_every and (step + 1) % cfg.eval_every == 0):
            logger.evaluation(
                step + 1, generated, *evaluate(cfg, policy, builder, held, judge), started
            )
        if keep(
            step + 1,
            generated,
            optimizer,
            cursor,
            logger,
            lambda: {"buffer": buffer.state_dict(), "generator": generator.get_state()},
        ):
            break
    return logger.finish()


def go_on(
    saved: Saved,
    policy: Policy,
    learner: Policy,
    optimizer: Optimizer,
    cursor: Cursor,
    logger: Logger,
) -> None:
    """Bring what both kinds of stages have to where a checkpoint left them."""
    saved.load_optimizer(optimizer)
    if learner is not policy:
        gather_weights(policy, learner)
    if saved.own is None:
        cursor.deal([s["cursor"] for s in saved.states], saved.samples)
    else:
        cursor.load(saved.own["cursor"])
        set_random_states(saved.own["random"], policy.device)
    logger.reported = set(cursor.dropped)


def train_sft(
    cfg: Config,
    policy: Policy,
    builder: PromptBuilder,
    mine: list[Sample],
    held: list[Sample],
    rank: int,
    world: int,
    steps: int,
    saved: Saved | None,
    keep: Callable[..., bool],
) -> dict:
    """Stage 0: cross-entropy on the traces; prompt tokens carry no loss. saved, keep: as in train_rl."""
    learner, _ = prepare(cfg, policy)
    optimizer = Optimizer(
        *learner.named_trained(), cfg.lr, cfg.tower_lr, betas=(0.9, 0.95), weight_decay=0.01
    )
    cursor, per_rank = (
        Cursor(mine, streams(cfg, rank, saved), by_clip=True),
        cfg.prompts_per_step // world,
    )
    logger, started = Logger(cfg, rank, steps, saved), time.perf_counter()
    if saved:
        go_on(saved, policy, learner, optimizer, cursor, logger)
    for step in range(saved.step if saved else 0, steps):
        t0 = time.perf_counter()
        prompts = next_prompts(cursor, builder, per_rank, lambda s: bool(s.hint))
        builder.prefetch(cursor.peek(per_rank))
        traces = [
            policy.tokenizer(p.sample.trace, add_special_tokens=False)["input_ids"]
            + [policy.tokenizer.eos_token_id]
            for p in prompts
        ]
        total, left = sum(gather(sum(len(t) for t in traces))), iter(traces)
        loss = 0.0
        groups = [
            (prefix, [(rest, next(left)) for rest in rests])
            for prefix, rests in share_prefixes(prompts, policy.form)
        ]  # a clip is read once
        for part in in_step(
            split_by_tokens(
                groups,
                [len(p.ids) + sum(len(r) + len(t) for r, t in rows) for p, rows in groups],
                cfg.max_tokens,
            ),
            learner,
        ):
            if not part:
                idle_pass(learner, None)
                continue
            prefixes, rows = (
                [p for p, _ in part],
                [[rest + trace for rest, trace in some] for _, some in part],
            )
            logp, mask = learner.completion_logps(
                prefixes, policy.features(prefixes), rows
            )  # (N, R)
            skip = torch.tensor(
                [len(rest) for _, some in part for rest, _ in some], device=logp.device
            )
            target = mask & (
                torch.arange(mask.shape[1], device=logp.device) >= skip[:, None]
            )  # (N, R): the traces only
            piece = -logp[target].sum() / total
            piece.backward()
            loss += piece.item()
        norm, lr = take_step(cfg, policy, learner, optimizer, step, steps)
        logger.sft_step(
            step, sum(gather(loss)), norm, lr, total, time.perf_counter() - t0, cursor.dropped
        )
        if step + 1 == steps or (cfg.eval_every and (step + 1) % cfg.eval_every == 0):
            logger.evaluation(step + 1, 0, *evaluate(cfg, policy, builder, held), started)
        if keep(step + 1, 0, optimizer, cursor, logger, dict):
            break
    return logger.finish()


def run(cfg: Config) -> None:
    """One stage, from its flags to its checkpoint. The process group stays up for a next one."""
    rank, world, device = start_processes()
    if cfg.prompts_per_step % world:
        raise DataError(
            f"--prompts_per_step {cfg.prompts_per_step} cannot be split evenly over {world} processes; use a multiple of {world}"
        )
    with only_run(Path(cfg.out), rank):
        run_stage(cfg, rank, world, device)


def run_stage(cfg: Config, rank: int, world: int, device: torch.device) -> None:
    """What `run` does in its folder, from the seeds to the last checkpoint."""
    out = Path(cfg.out)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(cfg.seed)
    started = time.perf_counter()
    samples, held = load_data(cfg, rank, world)
    mine = [s for s in samples if owner(s.id, world) == rank]
    data = hashlib.sha256(json.dumps([s.id for s in samples]).encode()).hexdigest()
    saved = resume(out, asdict(cfg), data, rank, world) if cfg.resume else None
    if saved:
        saved.samples = samples
    elif complete(out):
        raise DataError(
            f"{out}: holds a run already; go on with it by --resume, remove the folder, or pass "
            "another --out"
        )
    elif rank == 0:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    gather(None)
    if cfg.stage == 0 and not cfg.model:
        corpus = [question_text(s, hinted=True) + s.trace for s in samples[:4000]]
        policy = make_tiny_policy(
            corpus, cfg.seed, device
        )  # its tokenizer is learned from the questions and traces
    else:
        policy = load_policy(cfg.model or DEFAULT_MODEL, device, weight_dtype(device), cfg.attn)
    policy.model.train()
    bound_memory(cfg, policy)
    policy.checkpoint_layers = cfg.checkpoint_layers
    builder = prompt_builder(cfg, policy, cfg.audio_caption)
    steps = cfg.steps or max(1, sum(gather(len(mine))) // cfg.prompts_per_step)
    if rank == 0:
        (Path(cfg.out) / "config.json").write_text(json.dumps(asdict(cfg), indent=2) + "\n")
        print(f"config {json.dumps({k: v for k, v in asdict(cfg).items() if v not in ('', None)})}")
        print(
            f"{cfg.train_type} training on {device}, {world} process(es); {len(mine):,} prompts on rank 0, {len(held):,} held-out; "
            f"{steps} steps of {cfg.prompts_per_step} prompts"
            + (f" x ({cfg.fresh} fresh + {cfg.replayed} replayed)" if cfg.stage else " with traces")
        )
    shared = {"config": json.dumps(asdict(cfg)), "data": data, "world": world}
    with Signals().heard() as signals:

        def keep(
            step: int,
            generated: int,
            optimizer: Optimizer,
            cursor: Cursor,
            logger: Logger,
            more: Callable[[], dict],
        ) -> bool:
            """Save when it is time to, or asked for. Is the run to stop?"""
            if logger.rows[-1]["bad_media"] > cfg.max_bad_fraction * len(samples):
                raise DataError(
                    f"{logger.rows[-1]['bad_media']:,} of {len(samples):,} records have media that cannot be used, more than --max_bad_fraction "
                    f"{cfg.max_bad_fraction:g}; they are listed in {out}/bad_media.jsonl: mend them, or raise the flag"
                )
            asked = signals.agreed()
            if asked or step == steps or (cfg.save_every and step % cfg.save_every == 0):
                own = {"cursor": cursor.state(), "random": random_states(device), **more()}
                now = {"step": step, "generated": generated, "logs": logger.state()}
                save(out, step, policy, optimizer, shared | now, own)
            return asked == STOP

        result = (train_sft if cfg.stage == 0 else train_rl)(
            cfg, policy, builder, mine, held, rank, world, steps, saved, keep
        )
    if signals.stopped:
        if rank == 0:
            print(
                f"asked to stop, and stopped; go on by the same command with --resume ({out}/checkpoint)"
            )
        sys.exit(128 + max(gather(signals.number)))
    if rank == 0:
        evals, generated = result["evals"], result["rows"][-1]["generated"]
        gained = (
            f"held-out accuracy {evals[0][2]:.2f} -> {evals[-1][2]:.2f} after {generated:,} completions"
            if evals
            else f"{generated:,} completions"
        )
        if builder.silent:
            print(
                f"{len(builder.silent):,} videos of rank 0 have no sound track and were shown without sound, e.g. {min(builder.silent)}"
            )
        print(
            f"{gained} ({(time.perf_counter() - started) / 60:.1f} minutes); see {cfg.out}/curves.png, metrics.jsonl, completions.jsonl, checkpoint/"
        )


def summarise(configs: list[Config]) -> None:
    """After a curriculum: each stage's checkpoint on the held-out questions of every stage run (stage 0's excepted), as summary.json and
    summary.png beside the stages' folders: the paper's Table 4."""
    rank, world, device = start_processes()
    asked = sorted({cfg.stage for cfg in configs} - {0}) or [0]
    questions = [(cfg, load_data(cfg, rank, world)[1]) for cfg in configs if cfg.stage in asked]
    table, makers = {}, []
    for cfg in configs:
        policy = load_policy(f"{cfg.out}/checkpoint", device, weight_dtype(device), cfg.attn)
        bound_memory(cfg, policy)
        policy.freeze_towers()
        # one tokenizer for all: each stage began with the last one's
        makers = makers or [
            prompt_builder(other, policy, other.audio_caption) for other, _ in questions
        ]
        for (other, held), builder in zip(questions, makers, strict=True):
            scores, _ = evaluate(other, policy, builder, held)  # accuracy needs no judge
            table.setdefault(f"after stage {cfg.stage}", {})[f"stage {other.stage}"] = scores[
                "correct"
            ]
    if rank == 0:
        folder = Path(configs[0].out).parent
        (folder / "summary.json").write_text(json.dumps(table, indent=2) + "\n")
        plot_curriculum(table, folder / "summary.png")
        print(
            "\n".join(
                f"{name}: "
                + ", ".join(f"{kind} questions {value:.3f}" for kind, value in row.items())
                for name, row in table.items()
            )
        )


def main(argv: list[str]) -> None:
    plan = curriculum(argv)
    for stage in plan:
        run(stage)
    if len(plan) > 1:
        summarise(plan)


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
