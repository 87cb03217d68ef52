"""A whole training step with its phases: ours against the loop of the trainers built on
transformers' generate, on the same model, prompts and completions; EOS off.

    # one CPU thread: the bundled model, 16 toy prompts, 8 completions of 64 tokens, all weights
    python bench/step.py

    # one GPU, LoRA
    python bench/step.py --size 7b --prompts 4 --frames 32 --tokens 512

Their loop (EchoInk, Video-R1, R1-V) takes one prompt at a time: generate with the prompt repeated G
times, media included; log-probs of the policy and of the reference from G repeated rows, media
through both towers each time, full fp32 logits; backward; one optimiser step in the end. Both sides
learn from the completions that ours sampled (the learning rate is 0, so that every repeat starts in
the same way), and their log-probs are compared. A third column is the step of AVATAR as in the
paper on our side: G/2 fresh completions of each prompt and G/2 replayed ones of as many others.
With --ours_only there is the first column alone.

Dimensions: G completions of a prompt, P prompt tokens, R completion tokens, V vocabulary.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from common import arguments, clock, device, make_policy, report
from torch import Tensor

import train
from config import Config, parse
from data import Prompt, build_prompt, prompt_builder
from engine.distributed import weight_dtype
from engine.families import DEFAULT_MODEL
from engine.optim import Optimizer
from formats.sample import Sample
from groups import Group, fresh_groups, global_counts, replayed_groups
from media.decode import Media
from media.features import log_mel
from model import Features, Policy, load_policy
from replay import ReplayBuffer
from rewards import score_prompts
from rollout import Completion, Sampling, generate
from run.learner import MAX_GRAD_NORM, make_optimizer, prepare
from run.rollouts import RolloutLog
from run.stream import load_data
from tas import clipped_is_loss, importance_ratio, kl_k3, loss_weights, temporal_weights

PHASES = (
    "media",
    "towers",
    "rollout",
    "reward, buffer",
    "reference",
    "policy forward, backward",
    "optimiser",
)

Build = Callable[[list[Sample]], list[Prompt]]  # decodes anew at each call


class Phases(dict):
    """Seconds by phase. `next` ends a phase and begins another."""

    def __init__(self):
        super().__init__(dict.fromkeys(PHASES, 0.0))
        self.name: str | None = None
        self.start = 0.0

    def next(self, name: str | None) -> None:
        now = clock()
        if self.name:
            self[self.name] += now - self.start
        self.name = name
        self.start = now

    def during(self, name: str, function: Callable) -> Callable:
        """The function, as a phase of its own inside of whatever phase it is called in."""

        def timed(*args, **kwargs):
            outer = self.name
            self.next(name)
            result = function(*args, **kwargs)
            self.next(outer)
            return result

        return timed


class NoLog:
    """Takes what the update notes for the log, and drops it."""

    def __init__(self):
        self.rollouts = RolloutLog(Path(), every=0, is_main=True)

    def note(self, **values) -> None:
        pass


# ------------------------------------------------------------------------------ our step
@dataclass
class OurStep:
    """Steps 1-6 of train.py, made of its own functions."""

    cfg: Config
    policy: Policy
    reference: Policy
    optimizer: Optimizer
    samples: list[Sample]
    build: Build
    stored: dict[str, Prompt]  # prompts of stored completions, by id: kept, as in a run

    def forget(self) -> None:
        """The feature cache as before a step: it holds the clips of earlier steps, and not those of
        fresh prompts."""
        self.policy.cache = type(self.policy.cache)(self.policy.cache.max_bytes)
        Features(self.policy).of(list(self.stored.values()))

    def run(self, cfg: Config, buffer: ReplayBuffer, phases: Phases) -> list[Group]:
        """One step. Returns its fresh groups."""
        phases.next("media")
        prompts = self.build(self.samples)
        phases.next("towers")
        features = Features(self.policy)
        features.of(prompts)

        phases.next("rollout")
        generator = torch.Generator(self.policy.device).manual_seed(1)
        sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
        completions = generate(self.policy, prompts, features.of(prompts), cfg.fresh, sampling)

        phases.next("reward, buffer")
        groups = self.store(cfg, buffer, prompts, completions, step=1)
        if cfg.replayed:
            drawn = buffer.draw_groups(len(prompts), cfg.replayed, before=1)
            groups = groups + replayed_groups(drawn, self.stored_prompt)
        for group in groups:
            group.advantages = torch.linspace(-1, 1, len(group.entries))  # (G,)

        phases.next("policy forward, backward")
        timed_reference = phases.during("reference", train.reference_logps)
        with mock.patch.object(train, "reference_logps", timed_reference):
            train.accumulate_gradients(
                cfg, self.policy, self.reference, groups, features, NoLog(), step=1
            )
        phases.next("optimiser")
        self.optimizer.step(0.0, MAX_GRAD_NORM)
        phases.next(None)

        return [group for group in groups if not group.replayed]

    @torch.no_grad()
    def logps(self, groups: list[Group]) -> Tensor:
        """Log-probs (N, R) of the completions of fresh groups."""
        prompts = [prompt for group in groups for prompt in group.prompts.values()]
        ids = [token_ids(group) for group in groups]
        return self.policy.completion_logps(prompts, Features(self.policy).of(prompts), ids)[0]

    def stored_prompt(self, prompt_id: str, hinted: bool) -> Prompt:
        return self.stored[prompt_id]

    def store(
        self,
        cfg: Config,
        buffer: ReplayBuffer,
        prompts: list[Prompt],
        completions: list[list[Completion]],
        step: int,
    ) -> list[Group]:
        """Score the completions and store them. Returns their groups."""
        scores = score_prompts(prompts, completions, cfg.stage)
        groups = fresh_groups(prompts, completions, scores, step)
        for group in groups:
            # Random completions earn alike: rewards that differ keep every group in the update
            for i, entry in enumerate(group.entries):
                entry.reward = entry.accuracy = float(i % 2)
            buffer.add(group.prompt_id, group.entries)
        buffer.refresh()
        return groups

    def past_step(self, cfg: Config) -> ReplayBuffer:
        """A buffer with the completions that an earlier step wrote for the stored prompts."""
        buffer = ReplayBuffer(cfg.capacity, cfg.hint_patience, cfg.hint_kl, seed=0)
        prompts = list(self.stored.values())
        generator = torch.Generator(self.policy.device).manual_seed(0)
        sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
        features = Features(self.policy)
        completions = generate(self.policy, prompts, features.of(prompts), cfg.replayed, sampling)
        self.store(cfg, buffer, prompts, completions, step=0)
        return buffer


def token_ids(group: Group) -> list[list[int]]:
    return [entry.tokens.tolist() for entry in group.entries]


# ------------------------------------------------------------------------------ their step
class TheirStep:
    """transformers' model called as it is, one prompt at a time, everything repeated G times."""

    def __init__(self, ours: OurStep):
        self.ours = ours
        self.policy = ours.policy
        self.model = ours.policy.model
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        if device().type == "cuda":  # as those trainers do, or the activations do not fit
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def run(self, cfg: Config, groups: list[Group], our_logps: Tensor, phases: Phases) -> float:
        """One step on the completions of `groups`. Returns the largest difference of its log-probs
        from ours, (N, R)."""
        counts = global_counts(groups)
        largest = 0.0
        for i, (sample, group) in enumerate(zip(self.ours.samples, groups, strict=True)):
            phases.next("media")
            prompt = self.ours.build([sample])[0]
            phases.next("rollout")  # their towers run inside every forward pass
            self.sample(prompt, cfg)
            phases.next("reward, buffer")
            score_prompts([prompt], [group.sampled], cfg.stage)

            completions = token_ids(group)
            phases.next("reference")
            with torch.no_grad():
                ref_logp = self.logps(self.reference, prompt, completions)  # (G, R)
            phases.next("policy forward, backward")
            logp = self.logps(self.model, prompt, completions)  # (G, R)
            self.loss(cfg, logp, ref_logp, group.advantages, counts).backward()
            phases.next(None)

            ours = our_logps[i * cfg.fresh : (i + 1) * cfg.fresh]  # (G, R)
            largest = max(largest, (logp.detach() - ours).abs().max().item())
        phases.next("optimiser")
        self.ours.optimizer.step(0.0, MAX_GRAD_NORM)
        phases.next(None)
        return largest

    @torch.no_grad()
    def sample(self, prompt: Prompt, cfg: Config) -> None:
        self.model.eval()  # or transformers turns the cache off, where layers are checkpointed
        self.model.generate(
            **self.inputs(prompt, cfg.fresh),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=cfg.max_completion_tokens,
            min_new_tokens=cfg.max_completion_tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        self.model.train()

    def inputs(self, prompt: Prompt, g: int, completions: list[list[int]] | None = None) -> dict:
        """The thinker's arguments for G rows of the prompt, with or without its completions."""
        device = self.policy.device
        dtype = self.policy.head.weight.dtype
        ids = prompt.ids.to(device).expand(g, -1)  # (G, P)
        if completions is not None:
            ids = torch.cat([ids, torch.tensor(completions, device=device)], dim=1)  # (G, P + R)
        mel = prompt.mels[0].to(device, dtype)
        heard = torch.ones(g, mel.shape[1], dtype=torch.long, device=device)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": prompt.patches.to(device, dtype).repeat(g, 1),
            "video_grid_thw": torch.tensor(prompt.grids, device=device).repeat(g, 1),
            "input_features": mel.repeat(g, 1, 1),
            "feature_attention_mask": heard,
            "use_audio_in_video": True,
            "video_second_per_grid": torch.ones(g, device=device),
        }

    def logps(self, model, prompt: Prompt, completions: list[list[int]]) -> Tensor:
        """(G, R) log-probs from full logits of repeated rows."""
        inputs = self.inputs(prompt, len(completions), completions)
        logits = model(**inputs).logits.float()  # (G, P + R, V)
        logits = logits.masked_fill(self.policy.banned, float("-inf"))
        predicting = logits.log_softmax(-1)[:, len(prompt.ids) - 1 : -1]  # (G, R, V)
        ids = torch.tensor(completions, device=logits.device)  # (G, R)
        return predicting.gather(-1, ids[..., None]).squeeze(-1)

    def loss(
        self, cfg: Config, logp: Tensor, ref_logp: Tensor, advantages: Tensor, counts: Tensor
    ) -> Tensor:
        """GRPO's loss of one prompt's completions, its part of the whole step's."""
        mask = torch.ones_like(logp, dtype=torch.bool)  # (G, R)
        weights = temporal_weights(mask, 0.0, "uniform")  # (G, R)
        ratio = importance_ratio(logp, logp.detach(), mask)  # (G, R)
        loss, _ = clipped_is_loss(
            ratio, logp, advantages.to(logp.device)[:, None] * weights
        )  # (G, R)
        loss = loss + cfg.beta * kl_k3(logp, ref_logp)  # (G, R)
        is_replayed = torch.zeros(len(logp), dtype=torch.bool, device=logp.device)  # (G,)
        return (loss * loss_weights(mask, is_replayed, counts, 1.0, cfg.loss_norm)).sum()


# ------------------------------------------------------------------------------ prompts
def toy_prompts(cfg: Config, policy: Policy, n: int) -> tuple[list[Sample], Build]:
    """Samples of the toy world, two about each of n / 2 clips, and a function that decodes them
    anew at each call, as a first visit does."""
    samples, _ = load_data(replace(cfg, data=f"toy:{(n + 1) // 2},1"), 0, 1)

    def build(some: list[Sample]) -> list[Prompt]:
        return prompt_builder(cfg, policy).build_or_raise(some)

    return samples[:n], build


def random_prompts(policy: Policy, args) -> tuple[list[Sample], Build]:
    """Prompts with random pictures of 448 x 448 and random sound: 32 frames and 60 s make about
    5,600 tokens. Samples are of two steps."""
    samples = []
    for i in range(2 * args.prompts):
        videos = [f"none{i}"]
        samples.append(Sample(f"bench{i}", "What happens?", "numeric", "1", videos=videos))

    def build(some: list[Sample]) -> list[Prompt]:
        prompts = []
        for sample in some:
            rng = np.random.default_rng(int(sample.id.removeprefix("bench")))
            sound = rng.standard_normal(args.seconds * 16_000).astype(np.float32)
            media = Media(
                "video",
                rng.integers(0, 256, (args.frames, 448, 448, 3), dtype=np.uint8),
                seconds_per_group=2 * args.seconds / args.frames,
                mel=log_mel(sound, policy.form.n_mels),
            )
            prompts.append(build_prompt(sample, [media], policy.tokenizer, policy.form))
        return prompts

    return samples, build


# ------------------------------------------------------------------------------ the program
def settings(args) -> Config:
    flags = {
        "--method": "grpo",
        "--stage": 2,
        "--fresh": args.group,
        "--prompts_per_step": args.prompts,
        "--max_completion_tokens": args.tokens,
        "--media_cache": "",
        "--train_type": "full" if args.size == "tiny" else "lora",
        "--beta": 0.02,
    }
    words = []
    for name, value in flags.items():
        words += [name, str(value)]
    return parse(words)


def set_up(args) -> OurStep:
    """The model, its optimiser and the prompts of two steps: fresh ones and stored ones."""
    cfg = settings(args)
    if args.size == "tiny":
        policy = load_policy(DEFAULT_MODEL, device(), weight_dtype(device()))
    else:
        policy = make_policy(args.size)
    policy.eos_ids = []
    policy.max_tokens = cfg.max_tokens
    policy.model.train()
    learner, reference = prepare(cfg, policy)
    optimizer = make_optimizer(cfg, learner, weight_decay=0.0)
    if args.size == "tiny":
        samples, build = toy_prompts(cfg, policy, 2 * args.prompts)
    else:
        samples, build = random_prompts(policy, args)
    fresh = samples[: args.prompts]
    others = [] if args.ours_only else samples[args.prompts :]
    stored = {prompt.sample.id: prompt for prompt in build(others)}
    return OurStep(cfg, policy, reference, optimizer, fresh, build, stored)


def phase_rows(columns: dict[str, list[dict[str, float]]], completions: int) -> list[dict]:
    """Median seconds of each phase on each side, and how many completions that is per second."""
    rows = []
    for phase in [*PHASES, "whole step"]:
        row: dict = {"phase": phase}
        for name, repeats in columns.items():
            row[f"{name} s"] = statistics.median(seconds[phase] for seconds in repeats)
        row["theirs / ours"] = None
        if min(row["ours s"], row.get("theirs s", 0)) > 1e-4:
            row["theirs / ours"] = row["theirs s"] / row["ours s"]
        rows.append(row)

    rate: dict = {"phase": "completions trained per s"}
    for name in columns:
        rate[f"{name} s"] = completions / rows[-1][f"{name} s"]
    rate["theirs / ours"] = None
    return [*rows, rate]


def main() -> None:
    args = arguments(
        __doc__.split("\n\n")[0], prompts=16, group=8, tokens=64, frames=32, seconds=60
    )
    ours = set_up(args)
    theirs = None if args.ours_only else TheirStep(ours)
    cfg = ours.cfg
    half = args.group // 2
    avatar = replace(cfg, fresh=half, replayed=args.group - half, tas_shape="u")
    past = None if args.ours_only else ours.past_step(avatar)

    names = ["ours"] if args.ours_only else ["ours", "theirs", "ours, avatar"]
    columns: dict[str, list[dict]] = {name: [] for name in names}
    largest = 0.0
    for i in range(args.repeats + 1):
        phases = {name: Phases() for name in columns}
        ours.forget()
        empty = ReplayBuffer(cfg.capacity, 0, 0.0, seed=0)
        groups = ours.run(cfg, empty, phases["ours"])
        if theirs is not None:
            logps = ours.logps(groups)
            largest = max(largest, theirs.run(cfg, groups, logps, phases["theirs"]))
            ours.forget()
            ours.run(avatar, copy.deepcopy(past), phases["ours, avatar"])
        if not i:
            print(f"the first round, which warms up: {phases}", flush=True)
            continue
        for name in columns:
            whole = sum(phases[name].values())
            columns[name].append(phases[name] | {"whole step": whole})

    prompt_tokens = []
    for group in groups:
        prompt_tokens += [len(prompt.ids) for prompt in group.prompts.values()]
    facts: dict = {"prompt_tokens": round(float(np.mean(prompt_tokens)))}
    if theirs is not None:
        facts["largest_difference_of_logps"] = f"{largest:.1e}"
    if device().type == "cuda":
        facts["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    report(
        args,
        f"step: {args.prompts} prompts, {args.group} completions of {args.tokens} tokens each, "
        f"{args.size}",
        phase_rows(columns, args.prompts * args.group),
        facts,
    )


if __name__ == "__main__":
    main()
