"""train.py: AVATAR, top to bottom.

    python train.py                        # the bundled model on the toy world: minutes on 2 cores
    python train.py --method grpo          # to compare with: no replay, 8 fresh completions
    python train.py --method avatar_fast   # ours: fewer completions, and the hint as a teacher
    python train.py --stage 0,1,2,3        # the curriculum: each stage from the last checkpoint
    torchrun --nproc_per_node=8 train.py --stage 2 --model Qwen/Qwen2.5-Omni-7B --data DATA.jsonl
    python -m run.memory --model Qwen/Qwen2.5-Omni-7B          # memory per GPU; loads no weights

One step of --method avatar, the paper's setting:
    1 rollout      4 fresh completions of each of B prompts, with their log-probs      rollout.py
    2 reward       format, accuracy, self, judge by the stage's table                  rewards.py
    3 insert       fresh groups into the buffer; Rbar(q), tiers, hint states move      replay.py
    4 draw         B stored prompts, up to 4 completions of earlier steps each         replay.py
    5 advantages   fresh: GRPO's; replayed: against Rbar(q)                            tas.py
    6 update       J = J_on + alpha J_off, clipped, importance-sampled, shaped by TAS  tas.py

How this differs from the paper and its released trainer: docs/method.md, in 18 points. With one
update per rollout (--updates 1) a fresh completion's ratio is 1 up to rounding, and clipping acts
on replayed ones alone.
"""

import sys

from config import TITLE, Config
from run.flags import check_names
from run.signals import SIGNALS

if __name__ == "__main__":  # before the seconds that torch takes to import
    SIGNALS.listen()
    check_names(Config, TITLE, sys.argv[1:])  # --help and mistyped flags are answered at once

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import PromptBuilder, prompt_builder, question_text
from engine.distributed import gather, gather_lists, start_processes, weight_dtype
from engine.families import DEFAULT_MODEL
from groups import Batch, Group, fresh_groups, global_counts, micro_batches, replayed_groups
from judge import make_judge
from model import Features, Policy, load_policy
from replay import ReplayBuffer
from rewards import has_all_parts, score_prompts
from rollout import Sampling, generate
from run.curriculum import stages_of, write_summary
from run.diagnostics import note_ratios, note_sampler_mismatch
from run.heldout import evaluate, example
from run.learner import make_optimizer, optimizer_step, prepare
from run.logs import Log
from run.session import Run, ends_in_a_sentence
from run.stream import PromptStream, load_data
from sft import train_sft
from tas import (
    clipped_is_loss,
    fresh_advantages,
    importance_ratio,
    kl_k3,
    kl_to_behaviour,
    loss_weights,
    replay_advantages,
    temporal_weights,
    token_advantages,
)
from teacher import hint_columns, set_hint_terms
from tools.tiny_model import make_tiny_policy
from view import write_page

LOG_EVERY = 10  # steps between two entries in completions.jsonl
EXAMPLES = 2  # completions in each


# ------------------------------------------------------------------------------ stages 1 to 3
def train_rl(cfg: Config, run: Run, policy: Policy, builder: PromptBuilder) -> None:
    """Stages 1-3, from the first step (or the checkpoint's) to the last."""
    # the policy samples; the learner is trained: the same object, unless it is sharded
    learner, reference = prepare(cfg, policy)
    optimizer = make_optimizer(cfg, learner, weight_decay=0.0)
    judge = make_judge(cfg, run.samples + run.heldout, policy.device)

    # what a checkpoint holds beside the weights
    capacity = run.share(cfg.capacity)  # --capacity is that of the whole run
    with_hint = {sample.id for sample in run.samples if sample.hint}
    buffer = ReplayBuffer(capacity, cfg.hint_patience, cfg.hint_kl, run.seed, with_hint)
    stream = PromptStream(run.samples, builder, run.seed)
    generator = torch.Generator(policy.device).manual_seed(run.seed)
    state = {"buffer": buffer, "stream": stream, "generator": generator}

    log = run.announce(policy.tokenizer)
    run.restore(policy, learner, optimizer, state)
    sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
    if not run.saved:
        means, examples = evaluate(cfg, policy, builder, run.heldout, judge)
        log.evaluation(0, 0, means, examples)

    for step in range(run.start, run.steps):
        log.start_step()
        run.begin_step(step, policy, optimizer, state)
        features = Features(policy)  # every clip passes the towers once a step

        # Steps 1 and 2 run once. With --dynamic_sampling they run again, for new prompts in place
        # of groups of equal rewards; the last round's groups all stay.
        fresh: list[Group] = []
        sampled: list[Group] = []  # of all rounds
        tail_seconds = 0.0
        for _ in range(1 + cfg.dynamic_sampling):
            fresh = [group for group in fresh if group.has_diverse_rewards]
            missing = run.per_rank - len(fresh)
            if missing == 0:
                break

            # 1 rollout: G completions of B prompts, with the log-probs of the policy that writes
            # them
            prompts = stream.take(missing, hinted=buffer.wants_hint)
            completions = generate(policy, prompts, features.of(prompts), cfg.fresh, sampling)
            tail_seconds += sampling.tail_seconds

            # 2 reward: format, accuracy, self and judge, by the stage's table
            scores = score_prompts(prompts, completions, cfg.stage, judge)
            new_groups = fresh_groups(prompts, completions, scores, step)
            log.note_rewards(new_groups)
            sampled += new_groups
            fresh += new_groups
        run.agree()  # else the judge or the media were away on some process: saved, and the end

        # the hint as a teacher: what it adds to the advantages of the tokens, less and less
        teacher_weight = cfg.hint_teacher * (1 - step / run.steps)
        if teacher_weight:
            set_hint_terms(fresh, teacher_weight, policy, builder, features, cfg.temperature)
            log.note(**hint_columns(fresh))

        # 3 insert: Rbar(q) and hint states move with every group. One that lacks a verdict was
        # scored without the judge: it is trained on, but its rewards compare with no other visit's
        for group in sampled:
            if has_all_parts([entry.scores for entry in group.entries], cfg.stage):
                group.history = buffer.add(group.prompt_id, group.entries)

        # tiers are global: places among the Rbar(q) of all prompts, on all processes
        buffer.refresh(gather_lists(buffer.moves()))
        run.generated += sum(gather(len(sampled) * cfg.fresh))
        stored = sum(gather(len(buffer)))
        step_rewards = torch.tensor(gather_lists(rewards_of(fresh)))  # (completions of the step,)
        log.lap("rollout")
        log.note(time_tail_max=[tail_seconds])

        # Steps 4-6 run --updates times. The completions and their recorded log-probs stay; so from
        # the second update on the ratio of fresh ones is not 1 either, and the clip acts on them.
        trained: list[list[Group]] = []  # of each update
        norms: list[float] = []
        for update in range(cfg.updates):
            # 4 draw: stored prompts, completions of earlier steps, successes and failures
            replayed: list[Group] = []
            if cfg.replayed and stored >= cfg.replay_min:
                drawn = buffer.draw_groups(run.per_rank, cfg.replayed, before=step)
                replayed = replayed_groups(drawn, stream.prompt)

            # 5 advantages: fresh against their group, replayed against the prompt's own history
            for group in fresh:
                group.advantages = fresh_advantages(
                    group.rewards, group.history, step_rewards, cfg.baseline
                )  # (G,)
            for group in replayed:  # a prompt's first visit is unhinted, so it has a VCRS
                group.advantages = replay_advantages(
                    group.rewards, buffer.vcrs(group.prompt_id)
                )  # (G,)

            # 6 update: J = J_on + alpha J_off, clipped, shaped by TAS
            groups = fresh + replayed
            kl_by_prompt = accumulate_gradients(
                cfg, learner, reference, groups, features, log, step, update
            )
            done, total = step * cfg.updates + update, run.steps * cfg.updates
            norm, lr = optimizer_step(cfg, policy, learner, optimizer, done, total)
            for prompt_id, kl in kl_by_prompt.items():
                buffer.note_kl(prompt_id, float(np.mean(kl)))  # the hint rule asks for it
            trained.append(groups)
            norms.append(norm)
        log.lap("update")

        if step % LOG_EVERY == 0:
            log.examples(step, first_examples(fresh[0]))
        log.step(step, run.generated, trained, buffer, norms, lr, stream.dropped)
        run.check(step, trained[-1], norms, stream.dropped)
        if run.evaluates(step + 1):
            means, examples = evaluate(cfg, policy, builder, run.heldout, judge)
            log.evaluation(step + 1, run.generated, means, examples)
        if run.save_or_stop(step + 1, policy, optimizer, state):
            break
    log.finish()


def accumulate_gradients(
    cfg: Config,
    learner: Policy,
    reference: Policy | None,
    groups: list[Group],
    features: Features,
    log: Log,
    step: int,
    update: int = 0,
) -> dict[str, list[float]]:
    """Step 6 up to the gradients of J, fresh and replayed completions in one pass.

    Returns KL(pi_theta || pi_behaviour) per token of the replayed completions, by prompt.
    """
    counts = global_counts(groups)  # (2, 2)
    kl_by_prompt: dict[str, list[float]] = defaultdict(list)

    # A group without advantage, hint term and KL has no gradient: leaving it out is exact. A new
    # term that is not multiplied by the advantage must keep its groups.
    useful = []
    for group in groups:
        has_kl = cfg.beta and not group.replayed
        if group.advantages.any() or group.hint_terms or has_kl:
            useful.append(group)
    batches = micro_batches(useful, cfg.max_tokens, learner)

    # clips that are new to this step pass the towers together
    features.of(list(itertools.chain.from_iterable(batch.prompts for batch in batches)))

    for batch in batches:
        # trap: entropy has no gradient; a bonus on it would train nothing
        logp, mask, entropy = learner.completion_logps(
            batch.prompts,
            features.of(batch.prompts),
            batch.completions,
            cfg.temperature,
            with_entropy=True,
        )  # (N, R) each
        mask = mask & batch.is_counted[:, None]  # (N, R)
        fresh_tokens = mask & ~batch.is_replayed[:, None]  # (N, R)

        # the clipped loss of --clip, with A_t = w_t A + c g_t and the ratio pi_theta / pi_behaviour
        weights = temporal_weights(mask, cfg.tas_lambda, cfg.tas_shape)  # (N, R)
        advantages = token_advantages(batch.advantages, weights, batch.hint_term)  # (N, R)
        ratio = importance_ratio(logp, batch.behaviour_logps, mask, cfg.is_level)  # (N, R)
        loss, clipped = clipped_is_loss(
            ratio, logp, advantages, cfg.clip, cfg.clip_eps, cfg.clip_eps_high
        )  # (N, R), (N, R)

        # + beta KL_k3, on fresh completions only: k3 needs the policy's own samples
        if reference is not None:
            ref_logp = reference_logps(reference, batch, features, cfg.temperature)  # (N, R)
            ref_logp = torch.where(fresh_tokens, ref_logp, logp.detach())  # (N, R): KL 0 elsewhere
            kl = kl_k3(logp, ref_logp) * fresh_tokens  # (N, R)
            loss = loss + cfg.beta * kl  # (N, R)
            log.note(kl=kl[fresh_tokens])

        # J_on and J_off are means over their completions of all micro-batches and processes
        loss = loss * loss_weights(
            mask, batch.is_replayed, counts, cfg.alpha, cfg.loss_norm
        )  # (N, R)
        loss.sum().backward()

        # diagnostics; a new one is one more name
        log.note(loss_sum=loss / cfg.updates)  # the step's loss is the mean over its updates
        log.note(update_flops_sum=[learner.update_flops(batch.prompts, batch.completions)])
        log.note(entropy=entropy[mask])
        log_ratio = ((logp - batch.behaviour_logps) * mask).detach()  # (N, R)
        kl_behaviour = kl_to_behaviour(log_ratio, mask)  # (N,)
        note_ratios(log, batch, mask, ratio, clipped, log_ratio, kl_behaviour, step)
        if update == 0:  # the policy is still the one that sampled
            note_sampler_mismatch(log, logp.detach(), batch.behaviour_logps, fresh_tokens)
        log.rollouts.note(
            step,
            update,
            batch,
            logps_now=logp,
            entropy=entropy,
            weights=weights,
            hint_term=batch.hint_term,
        )
        for i in batch.is_replayed.nonzero().flatten().tolist():
            kl_by_prompt[batch.prompt_ids[i]].append(kl_behaviour[i].item())
    features.backward()  # into trained towers, once for all micro-batches
    return kl_by_prompt


@torch.no_grad()
def reference_logps(
    reference: Policy, batch: Batch, features: Features, temperature: float
) -> Tensor:
    """Log-probs (N, R) of the fresh completions under the reference; 0 for the replayed ones.

    Under FSDP every process must take part in every pass, so a batch without fresh completions is
    computed as a whole there.
    """
    out = torch.zeros_like(batch.behaviour_logps)  # (N, R)
    chosen = ~batch.is_replayed  # (N,)
    if not chosen.any():
        if not reference.is_sharded:
            return out
        chosen = torch.ones_like(chosen)  # (N,)

    # rows without a chosen completion are left out, so their prompts are not computed
    prompts, completions = batch.select(chosen.tolist())
    logp, _ = reference.completion_logps(
        prompts, features.of(prompts), completions, temperature
    )  # (n, r)
    out[chosen, : logp.shape[1]] = logp
    return out


def rewards_of(groups: list[Group]) -> list[float]:
    """The rewards of all completions of these groups, but for groups that lack a verdict."""
    rewards: list[float] = []
    for group in groups:
        if group.history is not None:
            rewards += group.rewards.tolist()
    return rewards


def first_examples(group: Group) -> list[dict]:
    """The first completions of a fresh group in full, for completions.jsonl."""
    prompt = next(iter(group.prompts.values()))
    rows = zip(group.sampled, group.entries, group.advantages.tolist(), strict=True)
    examples = []
    for completion, entry, advantage in list(rows)[:EXAMPLES]:
        examples.append(example(prompt, completion, entry.scores, advantage))
    return examples


# ------------------------------------------------------------------------------ the program
def load_start(cfg: Config, run: Run) -> Policy:
    """The policy that the stage starts from."""
    if cfg.stage == 0 and not cfg.model:  # a new tiny model, its tokenizer learned from the traces
        corpus = [question_text(s, hinted=True) + s.trace for s in run.all_samples[:4000]]
        policy = make_tiny_policy(corpus, cfg.seed, run.device)
    else:
        policy = load_policy(cfg.model or DEFAULT_MODEL, run.device, weight_dtype(run.device))
    policy.model.train()
    policy.max_tokens = cfg.max_tokens
    return policy


def run_stage(cfg: Config) -> None:
    """One stage, from its flags to its last checkpoint."""
    with Run(cfg) as run:
        policy = load_start(cfg, run)
        builder = prompt_builder(cfg, policy, cfg.audio_caption)
        policy.shown = builder.settings  # a checkpoint says how the model saw
        train = train_sft if cfg.stage == 0 else train_rl
        train(cfg, run, policy, builder)
        run.finish(builder)
        if run.rank == 0:
            write_page([run.out], run.out / "run.html")


def summarise(stages: list[Config]) -> None:
    """After a curriculum: each stage's checkpoint on the held-out questions of every stage run."""
    rank, world, device = start_processes()
    asked = sorted({cfg.stage for cfg in stages} - {0}) or [0]
    questions = [(cfg, load_data(cfg, rank, world)[1]) for cfg in stages if cfg.stage in asked]
    table = {}
    for cfg in stages:
        policy = load_policy(f"{cfg.out}/checkpoint", device, weight_dtype(device))
        policy.max_tokens = cfg.max_tokens
        policy.freeze_towers()
        table[f"after stage {cfg.stage}"] = row = {}
        for asked_cfg, heldout in questions:
            builder = prompt_builder(asked_cfg, policy, asked_cfg.audio_caption)
            scores, _ = evaluate(asked_cfg, policy, builder, heldout)  # accuracy needs no judge
            row[f"stage {asked_cfg.stage}"] = scores["correct"]
    if rank == 0:
        write_summary(table, Path(stages[0].out).parent)


def main(argv: list[str]) -> None:
    stages = stages_of(argv)
    for cfg in stages:
        run_stage(cfg)
    if len(stages) > 1:
        summarise(stages)


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
