"""What our log-probs and rollouts are compared with: transformers' own forward over whole rows."""

import torch
import torch.nn.functional as F


def hf_inputs(policy, prompt, completion=()):
    """The arguments that transformers' model takes for [prompt | completion]: everything at its own
    defaults, nothing of ours inside."""
    ids = torch.cat([prompt.ids, torch.tensor(list(completion), dtype=torch.long)])[None]  # (1, L)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = [kind for kind, _ in prompt.sample.media if kind != "audio"]
    inputs |= picture_inputs(prompt, kinds) | sound_inputs(prompt)

    if policy.form.audio is None:  # a family without sound
        is_image = ids == policy.form.image
        is_video = ids == policy.form.video
        inputs["mm_token_type_ids"] = is_image.int() + 2 * is_video.int()
        if "video" in kinds and not policy.form.timestamps:
            inputs["second_per_grid_ts"] = torch.ones(kinds.count("video"))
    elif "video" in kinds:
        inputs["video_second_per_grid"] = torch.ones(kinds.count("video"))
        inputs["use_audio_in_video"] = bool(prompt.mels)
    return inputs


def picture_inputs(prompt, kinds):
    """Patches and grids of images, and those of videos. kinds: of each picture, in order."""
    inputs = {}
    if not kinds:
        return inputs
    pieces = prompt.patches.split([t * h * w for t, h, w in prompt.grids])
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        chosen = [i for i, k in enumerate(kinds) if k == kind]
        if chosen:
            inputs[pixels] = torch.cat([pieces[i] for i in chosen])
            inputs[f"{kind}_grid_thw"] = torch.tensor([prompt.grids[i] for i in chosen])
    return inputs


def sound_inputs(prompt):
    """Mels padded to one length, with their mask."""
    if not prompt.mels:
        return {}
    longest = max(mel.shape[1] for mel in prompt.mels)
    mels = [F.pad(mel, (0, longest - mel.shape[1])) for mel in prompt.mels]
    masks = [(torch.arange(longest) < mel.shape[1]).long() for mel in prompt.mels]
    return {"input_features": torch.stack(mels), "feature_attention_mask": torch.stack(masks)}


def hf_logps(policy, prompt, completion, temperature=1.0):
    """Log-probs of the completion's tokens from transformers' full forward over the whole row."""
    logits = policy.model(**hf_inputs(policy, prompt, completion)).logits  # (1, P + R, V)
    logits = logits[0, len(prompt.ids) - 1 : -1].float()  # (R, V)
    logits = logits.masked_fill(policy.banned, float("-inf")) / temperature
    targets = torch.tensor(completion)[:, None]
    return F.log_softmax(logits, -1).gather(-1, targets)[:, 0]


def random_completions(policy, lengths, seed=0):
    """One completion of each length, of ids that a completion may hold."""
    allowed = torch.nonzero(~policy.banned).squeeze(-1)
    generator = torch.Generator().manual_seed(seed)
    completions = []
    for n in lengths:
        index = torch.randint(len(allowed), (n,), generator=generator)
        completions.append(allowed[index].tolist())
    return completions
