"""What our log-probs and rollouts are compared with: transformers' own forward over whole rows."""

import torch
import torch.nn.functional as F


def hf_inputs(policy, prompt, completion=()):
    """The arguments transformers' model takes for [prompt | completion], everything at its own defaults, nothing of ours inside."""
    ids = torch.cat([prompt.ids, torch.tensor(list(completion), dtype=torch.long)])[None]
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = [kind for kind, _ in prompt.sample.media if kind != "audio"]
    pieces = prompt.patches.split([t * h * w for t, h, w in prompt.grids]) if kinds else []
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if kind in kinds:
            out[pixels] = torch.cat(
                [piece for piece, k in zip(pieces, kinds, strict=True) if k == kind]
            )
            out[f"{kind}_grid_thw"] = torch.tensor(
                [grid for grid, k in zip(prompt.grids, kinds, strict=True) if k == kind]
            )
    if prompt.mels:
        longest = max(m.shape[1] for m in prompt.mels)
        out["input_features"] = torch.stack(
            [F.pad(m, (0, longest - m.shape[1])) for m in prompt.mels]
        )
        out["feature_attention_mask"] = torch.stack(
            [(torch.arange(longest) < m.shape[1]).long() for m in prompt.mels]
        )
    if policy.form.audio is None:
        out["mm_token_type_ids"] = (ids == policy.form.image).int() + 2 * (
            ids == policy.form.video
        ).int()
        if "video" in kinds and not policy.form.timestamps:
            out["second_per_grid_ts"] = torch.ones(kinds.count("video"))
    elif "video" in kinds:
        out |= {
            "video_second_per_grid": torch.ones(kinds.count("video")),
            "use_audio_in_video": bool(prompt.mels),
        }
    return out


def hf_logps(policy, prompt, completion, temperature=1.0):
    """Log-probs of the completion's tokens from transformers' full forward over the whole row."""
    logits = (
        policy.model(**hf_inputs(policy, prompt, completion))
        .logits[0, len(prompt.ids) - 1 : -1]
        .float()
    )
    logits = logits.masked_fill(policy.banned, float("-inf")) / temperature
    return F.log_softmax(logits, -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


def random_completions(policy, lengths, seed=0):
    allowed = torch.nonzero(~policy.banned).squeeze(-1)
    g = torch.Generator().manual_seed(seed)
    return [allowed[torch.randint(len(allowed), (n,), generator=g)].tolist() for n in lengths]
