"""A whole training step with its phases: ours against the loop of the trainers built on transformers' generate, on the same model, prompts and
completions; EOS off.

    python bench/step.py                             # one CPU thread: the bundled model, 16 toy prompts, 8 completions of 64 tokens each
    python bench/step.py --size 7b --prompts 4 --frames 32 --tokens 512

Their loop (EchoInk, Video-R1, R1-V) takes one prompt at a time: generate with the prompt repeated G times, media included; log-probs of the
policy and of the reference from G repeated rows, media through both towers each time, full fp32 logits; backward; one optimiser step in the end.
Both sides learn from the completions that ours sampled (the learning rate is 0, so that every repeat starts alike), and their log-probs are compared.
A third column is AVATAR's own step on our side: 4 fresh completions of each prompt and 4 replayed ones of as many others.
"""
import copy
import statistics

import numpy as np
import torch
from common import arguments, clock, device, make_policy, report

import train
from data import Media, Sample, build_prompt, log_mel
from model import DEFAULT_MODEL, FeatureCache, load_policy
from optim import make_optimizer, optimiser_step
from replay import Entry, ReplayBuffer
from rollout import generate
from tas import clipped_is_loss, half_loss, importance_ratio, temporal_weights


class Phases(dict):
    """Seconds by phase: `phases.next("rollout")` ends one and begins another."""

    def next(self, name: str | None) -> None:
        now = clock()
        if getattr(self, "name", None):
            self[self.name] = self.get(self.name, 0.0) + now - self.start
        self.name, self.start = name, now


def main() -> None:
    args = arguments(__doc__.split("\n")[0], prompts=16, group=8, tokens=64, frames=32, seconds=60)
    cfg = train.parse(["--method", "grpo", "--fresh", str(args.group), "--prompts_per_step", str(args.prompts), "--media_cache", "", "--stage", "2",
                       "--max_completion_tokens", str(args.tokens), "--device", device().type])
    policy = load_policy(DEFAULT_MODEL) if args.size == "tiny" else make_policy("7b")
    policy.eos_ids, policy.checkpoint_layers = [], cfg.checkpoint_layers
    policy.model.train()
    policy.freeze_towers()
    reference = policy.reference()
    theirs = Theirs(policy, reference)
    samples, prompts_of = toy_prompts(cfg, policy, args) if args.size == "tiny" else random_prompts(policy, args)
    optimizer = make_optimizer(*policy.trained(), 0.0, optim_dtype="bf16", weight_decay=0.0)
    avatar = copy.copy(cfg)
    avatar.fresh, avatar.replayed, avatar.tas_shape = args.group // 2, args.group - args.group // 2, "u"
    buffer = ReplayBuffer()
    ours(avatar, policy, reference, optimizer, buffer, samples, prompts_of, Phases(), 0)
    for kept in buffer.stored.values():      # its completions become a past step's, of other prompts, of unlike reward
        for i, entry in enumerate(kept.entries):
            entry.reward = entry.accuracy = float(i % 2)
        kept.index()
    columns = {"ours": [], "theirs": [], "ours, avatar": []}
    difference = 0.0
    for i in range(args.repeats + 1):
        table = {name: Phases() for name in columns}
        policy.cache = FeatureCache(policy.cache.max_bytes)             # features are made anew, as for prompts never seen
        groups, sampled, logps = ours(cfg, policy, reference, optimizer, ReplayBuffer(), samples, prompts_of, table["ours"], 1)
        difference = max(difference, theirs.step(cfg, optimizer, groups, sampled, samples, prompts_of, table["theirs"], logps))
        policy.cache = FeatureCache(policy.cache.max_bytes)
        ours(avatar, policy, reference, optimizer, copy.deepcopy(buffer), samples, prompts_of, table["ours, avatar"], 1)
        for name, phases in table.items():
            if i:                                                        # the first round warms up
                columns[name].append(phases | {"whole step": sum(phases.values())})
    rows = []
    for phase in columns["ours"][0]:
        row = {"phase": phase} | {f"{name} s": statistics.median(p[phase] for p in runs) for name, runs in columns.items()}
        rows.append(row | {"theirs / ours": row["theirs s"] / row["ours s"] if row["ours s"] > 1e-4 else None})
    trained = args.prompts * args.group
    rows.append({"phase": "completions trained per s"} | {k: trained / v if k.endswith(" s") else v for k, v in rows[-1].items() if k != "phase"})
    rows[-1]["theirs / ours"] = None
    report(args, f"step: {args.prompts} prompts, {args.group} completions of {args.tokens} tokens each, {args.size}", rows,
           {"prompt_tokens": round(float(np.mean([len(p.ids) for p in prompts_of(samples)]))), "largest_difference_of_logps": f"{difference:.1e}"})


def ours(cfg, policy, reference, optimizer, buffer, samples, prompts_of, phases, step):
    """One step of train.py's functions. Returns its fresh groups, their completions, and their log-probs (not timed)."""
    phases.next("media")
    prompts = prompts_of(samples)
    phases.next("towers")
    with torch.no_grad():
        features = policy.features(prompts, seen := {})
    phases.next("rollout")
    sampled = generate(policy, prompts, features, cfg.fresh, cfg.max_completion_tokens, generator=torch.Generator(policy.device).manual_seed(step))
    phases.next("reward, buffer")
    groups = []
    for prompt, done, parts in zip(prompts, sampled, train.score(cfg, prompts, sampled), strict=True):
        buffer.add(prompt.sample.id, [Entry(np.array(c.tokens, np.int32), np.array(c.logps, np.float32), p["reward"], p["accuracy"], step, False, p)
                                      for c, p in zip(done, parts, strict=True)])
        advantages = torch.linspace(-1, 1, len(done))                     # random completions earn alike: keep every group in the update
        groups.append(train.Group(prompt, [c.tokens for c in done], [c.logps for c in done], [0.0] * len(done), advantages, False, [step] * len(done)))
    buffer.refresh()
    fresh = list(groups)
    if cfg.replayed:
        groups += train.replay_step(cfg, lambda s, hinted: prompts_of([s])[0], buffer, {s.id: s for s in samples}, len(samples), step)
    phases.next("reference")
    timed = Timed(reference, phases)
    phases.next("policy forward, backward")
    train.update_step(cfg, policy, timed, groups, step, seen)
    phases.next("optimiser")
    optimiser_step(optimizer, 0.0, 1.0)
    phases.next(None)
    with torch.no_grad():
        logps, _ = policy.completion_logps(prompts, features, [g.tokens for g in fresh])
    return fresh, sampled, logps


class Timed:
    """A reference whose time is counted as a phase of its own."""

    def __init__(self, policy, phases):
        self.policy, self.phases = policy, phases

    def completion_logps(self, *args):
        self.phases.next("reference")
        out = self.policy.completion_logps(*args)
        self.phases.next("policy forward, backward")
        return out


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
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": prompt.patches.to(move, dtype).repeat(g, 1),
                "video_grid_thw": torch.tensor([prompt.grid], device=move).repeat(g, 1), "input_features": prompt.mel.to(move, dtype).repeat(g, 1, 1),
                "feature_attention_mask": torch.ones(g, prompt.mel.shape[1], dtype=torch.long, device=move), "use_audio_in_video": True,
                "video_second_per_grid": torch.ones(g, device=move)}

    def logps(self, model, prompt, completions, temperature):
        logits = model(**self.inputs(prompt, len(completions), completions)).logits.float() / temperature              # (G, P + R, V)
        logits = logits.masked_fill(self.policy.banned, float("-inf"))
        ids = torch.tensor(completions, device=logits.device)
        return logits.log_softmax(-1)[:, len(prompt.ids) - 1: -1].gather(-1, ids[..., None]).squeeze(-1)                # (G, R)

    def step(self, cfg, optimizer, groups, sampled, samples, prompts_of, phases, ours) -> float:
        """One step on the completions of `groups`. Returns the largest difference of its log-probs from ours."""
        g, worst = cfg.fresh, 0.0
        for at, (sample, group, done) in enumerate(zip(samples, groups, sampled, strict=True)):
            phases.next("media")
            prompt = prompts_of([sample])[0]
            phases.next("towers")                                                       # theirs run inside every forward pass
            phases.next("rollout")
            with torch.no_grad():
                self.model.generate(**self.inputs(prompt, g), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=cfg.max_completion_tokens,
                                    min_new_tokens=cfg.max_completion_tokens, eos_token_id=None, pad_token_id=0)
            phases.next("reward, buffer")
            train.score(cfg, [prompt], [done])
            phases.next("reference")
            with torch.no_grad():
                ref = self.logps(self.reference, prompt, group.tokens, cfg.temperature)
            phases.next("policy forward, backward")
            logp = self.logps(self.model, prompt, group.tokens, cfg.temperature)
            mask = torch.ones_like(logp, dtype=torch.bool)
            loss, _ = clipped_is_loss(importance_ratio(logp, logp.detach(), mask), logp, group.advantages.to(logp.device),
                                      temporal_weights(mask, 0.0, "uniform"), mask, beta=cfg.beta, ref_logp=ref)
            half_loss(loss, mask, g * len(groups), mask.numel() * len(groups)).backward()
            phases.next(None)
            worst = max(worst, (logp.detach() - ours[at * g: (at + 1) * g]).abs().max().item())
        phases.next("optimiser")
        optimiser_step(optimizer, 0.0, 1.0)
        phases.next(None)
        return worst


def toy_prompts(cfg, policy, args):
    """Samples of the toy world, and a function that decodes their clips anew at each call, as a first visit does."""
    cfg.toy_clips = max(cfg.toy_clips, args.prompts)
    mine, _ = train.load_data(cfg, 0, 1)
    return mine[: args.prompts], lambda some: train.prompt_maker(cfg, policy).many(some)


def random_prompts(policy, args):
    """Prompts with random pictures of 448 x 448 and random sound: 32 frames and 60 s make about 5,600 tokens."""
    samples = [Sample(f"bench{i}", "What happens, and when?", "numeric", "1", video=f"none{i}") for i in range(args.prompts)]

    def make(some):
        out = []
        for s in some:
            rng = np.random.default_rng(int(s.id[5:]))
            sound = rng.standard_normal(args.seconds * 16_000).astype(np.float32)
            media = Media(rng.integers(0, 256, (args.frames, 448, 448, 3), dtype=np.uint8), None, 2 * args.seconds / args.frames,
                          mel=log_mel(sound, policy.config.audio_config.num_mel_bins))
            out.append(build_prompt(s, media, policy.tokenizer, policy.config))
        return out

    return samples, make


if __name__ == "__main__":
    main()
