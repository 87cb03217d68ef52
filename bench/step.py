"""A whole training step with its phases: ours against the loop of the trainers built on transformers' generate, on the same model, prompts and
completions; EOS off.

    python bench/step.py                             # one CPU thread: the bundled model, 16 toy prompts, 8 completions of 64 tokens each
    python bench/step.py --size 7b --prompts 4 --frames 32 --tokens 512

Their loop (EchoInk, Video-R1, R1-V) takes one prompt at a time: generate with the prompt repeated G times, media included; log-probs of the
policy and of the reference from G repeated rows, media through both towers each time, full fp32 logits; backward; one optimiser step in the end.
Both sides learn from the completions that ours sampled (the learning rate is 0, so that every repeat starts alike), and their log-probs are compared.
A third column is the step of AVATAR as in the paper on our side: 4 fresh completions of each prompt and 4 replayed ones of as many others.
"""

import contextlib
import copy
import statistics
from unittest import mock

import numpy as np
import torch
from common import arguments, clock, device, make_policy, report

import train
from config import parse
from data import build_prompt, prompt_builder
from engine.families import DEFAULT_MODEL
from engine.feature_cache import FeatureCache
from engine.optim import Optimizer
from formats.sample import Sample
from media.decode import Media
from media.features import log_mel
from model import Features, load_policy
from replay import ReplayBuffer
from rollout import Completion
from run.stream import load_data
from tas import clipped_is_loss, half_loss, importance_ratio, temporal_weights

PHASES = (
    "media",
    "towers",
    "rollout",
    "reward, buffer",
    "reference",
    "policy forward, backward",
    "optimiser",
)


class Phases(dict):
    """Seconds by phase: `next` ends one and begins another; what `during` wraps counts as a phase of its own inside another."""

    def __init__(self):
        super().__init__(dict.fromkeys(PHASES, 0.0))
        self.name = None

    def next(self, name: str | None) -> None:
        now = clock()
        if self.name:
            self[self.name] += now - self.start
        self.name, self.start = name, now

    def during(self, name: str, call):
        def wrapped(*args, **kwargs):
            outer = self.name
            self.next(name)
            out = call(*args, **kwargs)
            self.next(outer)
            return out

        return wrapped


class Maker:
    """PromptMaker's two calls. Fresh prompts are made anew each time, as for clips never seen; replayed ones are kept, as in a run."""

    def __init__(self, make_many, kept: list[Sample]):
        self.make_many, self.kept = (
            make_many,
            dict(zip([s.id for s in kept], make_many(kept), strict=True)),
        )

    def many(self, samples):
        return self.make_many(samples)

    def each(self, samples, hinted):
        return [self.kept[s.id] for s in samples]


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompts=16, group=8, tokens=64, frames=32, seconds=60)
    cfg = parse(
        [
            "--method",
            "grpo",
            "--fresh",
            str(args.group),
            "--prompts_per_step",
            str(args.prompts),
            "--media_cache",
            "",
            "--stage",
            "2",
            "--max_completion_tokens",
            str(args.tokens),
            "--device",
            device().type,
        ]
    )
    policy = load_policy(DEFAULT_MODEL) if args.size == "tiny" else make_policy("7b")
    policy.eos_ids = []
    policy.max_tokens = cfg.max_tokens
    policy.model.train()
    policy.freeze_towers()
    reference = policy.reference()
    theirs = Theirs(policy, reference)
    samples, make_many = (
        toy_prompts(cfg, policy, args) if args.size == "tiny" else random_prompts(policy, args)
    )
    samples, others = samples[: args.prompts], samples[args.prompts :]
    maker, by_id = Maker(make_many, others), {s.id: s for s in others}
    optimizer = Optimizer(*policy.named_trained(), 0.0)
    avatar = copy.copy(cfg)
    avatar.fresh, avatar.replayed, avatar.tas_shape = (
        args.group // 2,
        args.group - args.group // 2,
        "u",
    )
    past = copy.copy(cfg)
    past.fresh, buffer = avatar.replayed, ReplayBuffer()
    train.rollout_step(
        past,
        policy,
        buffer,
        maker.build_or_raise(others),
        0,
        torch.Generator(policy.device).manual_seed(0),
    )
    for kept in (
        buffer.stored.values()
    ):  # a past step's completions of other prompts; rewards that differ, as replay looks for
        for i, entry in enumerate(kept.entries):
            entry.reward = entry.accuracy = float(i % 2)
    columns = {"ours": [], "theirs": [], "ours, avatar": []}
    difference = 0.0
    for i in range(args.repeats + 1):
        table = {name: Phases() for name in columns}
        forget(policy, maker)
        groups, logps = ours(
            cfg, policy, reference, optimizer, ReplayBuffer(), maker, samples, by_id, table["ours"]
        )
        difference = max(
            difference,
            theirs.step(cfg, optimizer, groups, samples, make_many, table["theirs"], logps),
        )
        forget(policy, maker)
        ours(
            avatar,
            policy,
            reference,
            optimizer,
            copy.deepcopy(buffer),
            maker,
            samples,
            by_id,
            table["ours, avatar"],
        )
        for name, phases in table.items():
            if i:  # the first round warms up
                columns[name].append(phases | {"whole step": sum(phases.values())})
    rows = []
    for phase in columns["ours"][0]:
        row = {"phase": phase} | {
            f"{name} s": statistics.median(p[phase] for p in runs) for name, runs in columns.items()
        }
        rows.append(
            row
            | {
                "theirs / ours": row["theirs s"] / row["ours s"]
                if min(row["ours s"], row["theirs s"]) > 1e-4
                else None
            }
        )
    count = args.prompts * args.group
    rows.append(
        {"phase": "completions trained per s"}
        | {k: count / v if k.endswith(" s") else v for k, v in rows[-1].items() if k != "phase"}
    )
    rows[-1]["theirs / ours"] = None
    report(
        args,
        f"step: {args.prompts} prompts, {args.group} completions of {args.tokens} tokens each, {args.size}",
        rows,
        {
            "prompt_tokens": round(float(np.mean([len(g.prompt.ids) for g in groups]))),
            "largest_difference_of_logps": f"{difference:.1e}",
        },
    )


def forget(policy, maker) -> None:
    """The feature cache as before the step: it holds the clips of earlier steps, not those of fresh prompts."""
    policy.cache = FeatureCache(policy.cache.max_bytes)
    Features(policy).of(list(maker.kept.values()))


def ours(cfg, policy, reference, optimizer, buffer, maker, samples, by_id, phases):
    """One step by train.py's own functions. Returns its fresh groups and their log-probs (not timed)."""
    features = Features(policy)
    with contextlib.ExitStack() as patches:
        for owner, name, phase in (
            (maker, "many", "media"),
            (features, "of", "towers"),
            (train, "generate", "rollout"),
            (reference, "completion_logps", "reference"),
        ):
            patches.enter_context(
                mock.patch.object(owner, name, phases.during(phase, getattr(owner, name)))
            )
        phases.next("reward, buffer")
        fresh, _ = train.rollout_step(
            cfg,
            policy,
            buffer,
            maker.build_or_raise(samples),
            1,
            torch.Generator(policy.device).manual_seed(1),
            features=features,
        )
        groups = fresh + (
            train.replay_step(cfg, maker, buffer, by_id, len(samples), 1) if cfg.replayed else []
        )
        for g in groups:  # random completions earn alike: keep every group in the update
            g.advantages = torch.linspace(-1, 1, len(g.tokens))
        phases.next("policy forward, backward")
        train.update_step(cfg, policy, reference, groups, 1, features)
        phases.next("optimiser")
        optimizer.step(0.0, 1.0)
        phases.next(None)
    with torch.no_grad():
        prompts = [g.prompt for g in fresh]
        logps, _ = policy.completion_logps(prompts, features.of(prompts), [g.tokens for g in fresh])
    return fresh, logps


class Theirs:
    """The peers' step: transformers' model called as it is, one prompt at a time, everything repeated G times."""

    def __init__(self, policy, reference):
        self.policy, self.model = policy, policy.model
        self.reference = copy.deepcopy(policy.model).requires_grad_(False)

    def inputs(self, prompt, g, completions=None):
        """The thinker's arguments for G rows of the prompt, with or without its completions."""
        move = self.policy.device
        ids = prompt.ids.to(move).expand(g, -1)
        if completions is not None:
            ids = torch.cat([ids, torch.tensor(completions, device=move)], dim=1)
        dtype = self.policy.head.weight.dtype
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": prompt.patches.to(move, dtype).repeat(g, 1),
            "video_grid_thw": torch.tensor(prompt.grids, device=move).repeat(g, 1),
            "input_features": prompt.mels[0].to(move, dtype).repeat(g, 1, 1),
            "feature_attention_mask": torch.ones(
                g, prompt.mels[0].shape[1], dtype=torch.long, device=move
            ),
            "use_audio_in_video": True,
            "video_second_per_grid": torch.ones(g, device=move),
        }

    def logps(self, model, prompt, completions, temperature):
        logits = (
            model(**self.inputs(prompt, len(completions), completions)).logits.float() / temperature
        )  # (G, P + R, V)
        logits = logits.masked_fill(self.policy.banned, float("-inf"))
        ids = torch.tensor(completions, device=logits.device)
        return (
            logits.log_softmax(-1)[:, len(prompt.ids) - 1 : -1]
            .gather(-1, ids[..., None])
            .squeeze(-1)
        )  # (G, R)

    def step(self, cfg, optimizer, groups, samples, make_many, phases, ours) -> float:
        """One step on the completions of `groups`. Returns the largest difference of its log-probs from ours."""
        g, worst = cfg.fresh, 0.0
        for at, (sample, group) in enumerate(zip(samples, groups, strict=True)):
            phases.next("media")
            prompt = make_many([sample])[0]
            phases.next("rollout")  # their towers run inside every forward pass
            with torch.no_grad():
                self.model.generate(
                    **self.inputs(prompt, g),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=cfg.max_completion_tokens,
                    min_new_tokens=cfg.max_completion_tokens,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            phases.next("reward, buffer")
            train.score(
                cfg,
                [prompt],
                [
                    [
                        Completion(t, b, self.policy.tokenizer.decode(t), False)
                        for t, b in zip(group.tokens, group.behaviour, strict=True)
                    ]
                ],
            )
            phases.next("reference")
            with torch.no_grad():
                ref = self.logps(self.reference, prompt, group.tokens, cfg.temperature)
            phases.next("policy forward, backward")
            logp = self.logps(self.model, prompt, group.tokens, cfg.temperature)
            mask = torch.ones_like(logp, dtype=torch.bool)
            loss, _ = clipped_is_loss(
                importance_ratio(logp, logp.detach(), mask),
                logp,
                group.advantages.to(logp.device),
                temporal_weights(mask, 0.0, "uniform"),
                mask,
                beta=cfg.beta,
                ref_logp=ref,
            )
            half_loss(loss, mask, g * len(groups), mask.numel() * len(groups)).backward()
            phases.next(None)
            worst = max(worst, (logp.detach() - ours[at * g : (at + 1) * g]).abs().max().item())
        phases.next("optimiser")
        optimizer.step(0.0, 1.0)
        phases.next(None)
        return worst


def toy_prompts(cfg, policy, args):
    """Two steps' samples of the toy world, and a function that decodes their clips anew at each call, as a first visit does."""
    cfg.toy_clips = max(cfg.toy_clips, args.prompts)  # two questions about each
    mine, _ = load_data(cfg, 0, 1)
    return mine[: 2 * args.prompts], lambda some: prompt_builder(cfg, policy).build_or_raise(some)


def random_prompts(policy, args):
    """Prompts with random pictures of 448 x 448 and random sound: 32 frames and 60 s make about 5,600 tokens."""
    samples = [
        Sample(f"bench{i}", "What happens, and when?", "numeric", "1", videos=[f"none{i}"])
        for i in range(2 * args.prompts)
    ]

    def builder(some):
        out = []
        for s in some:
            rng = np.random.default_rng(int(s.id[5:]))
            sound = rng.standard_normal(args.seconds * 16_000).astype(np.float32)
            media = Media(
                "video",
                rng.integers(0, 256, (args.frames, 448, 448, 3), dtype=np.uint8),
                None,
                2 * args.seconds / args.frames,
                mel=log_mel(sound, policy.form.n_mels),
            )
            out.append(build_prompt(s, [media], policy.tokenizer, policy.form))
        return out

    return samples, builder


if __name__ == "__main__":
    main()
