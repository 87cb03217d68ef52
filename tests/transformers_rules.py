"""transformers' own rules for frames, placeholders, positions and timestamps.

Its processors need torchvision as a whole, and their methods that only write text or count frames
do not: those are called here on stand-ins.
"""

import ast
import math
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from data import question_text
from tests.random_media import grids_of


# ------------------------------------------------------------------ frames
@cache
def sample_frames_function():
    """sample_frames of Qwen2VLVideoProcessor, taken out of the source of its module."""
    module = find_spec("transformers.models.qwen2_vl.video_processing_qwen2_vl").origin
    tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (function,) = [node for node in functions if node.name == "sample_frames"]
    space = {"math": math, "torch": torch, "VideoMetadata": None}
    exec(compile(ast.Module([function], []), "sample_frames", "exec"), space)
    return space["sample_frames"]


def hf_sample_frames(total, video_fps, fps, most) -> list[int]:
    """The frames that transformers takes of a clip."""
    processor = SimpleNamespace(
        num_frames=None, fps=fps, temporal_patch_size=2, min_frames=2, max_frames=most
    )
    metadata = SimpleNamespace(total_num_frames=total, fps=video_fps)
    return sample_frames_function()(processor, metadata).tolist()


# ------------------------------------------------------------------ text
def template_text(sample, media, tokenizer) -> str:
    """The chat template's text of a sample: a placeholder for each medium, where the question has
    it, else in front."""
    question = question_text(sample)
    pieces = re.split(r"<(image|video|audio)>", question)  # text, kind, text, kind, .., text
    content = []
    if len(pieces) == 1:
        content = [{"type": m.kind} for m in media]
    for i, piece in enumerate(pieces):
        content.append({"type": piece} if i % 2 else {"type": "text", "text": piece})
    turns = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def hf_omni_text(omni, tokenizer, text, media, grids, lengths) -> str:
    """An Omni's own expansion of the placeholders. omni: its class of processors; lengths: audio
    tokens of each sound."""
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(merge_size=2),
        video_processor=SimpleNamespace(merge_size=2),
        audio_bos_token=tokenizer.audio_bos_token,
        audio_eos_token=tokenizer.audio_eos_token,
        vision_bos_token=tokenizer.vision_bos_token,
        vision_eos_token=tokenizer.vision_eos_token,
        image_token=tokenizer.image_token,
        video_token=tokenizer.video_token,
        audio_token=tokenizer.audio_token,
    )

    def get_chunked_index(indices, per_chunk):
        return omni.get_chunked_index(processor, indices, per_chunk)

    processor.get_chunked_index = get_chunked_index
    prompt = SimpleNamespace(grids=grids)
    image_grids = [np.array(grid) for grid in grids_of(prompt, media, "image")]
    video_grids = [np.array(grid) for grid in grids_of(prompt, media, "video")]
    if hasattr(omni, "replace_multimodal_special_tokens"):  # transformers 5.17
        return hf_omni_text_5_17(omni, processor, text, media, image_grids, video_grids, lengths)
    return hf_omni_text_5_23(omni, processor, text, media, image_grids, video_grids, lengths)


TIMING = {
    Qwen2_5OmniProcessor: {"position_id_per_seconds": 25, "seconds_per_chunk": 2.0},
    Qwen3OmniMoeProcessor: {"position_id_per_seconds": 13, "seconds_per_chunk": 2.0},
}


def hf_omni_text_5_17(omni, processor, text, media, image_grids, video_grids, lengths) -> str:
    videos = [m for m in media if m.kind == "video"]
    if len({m.mel is None for m in videos}) > 1:
        pytest.skip("transformers 5.17 has one flag for the sound of all videos")
    (expanded,) = omni.replace_multimodal_special_tokens(
        processor,
        [text],
        iter(lengths),
        iter(image_grids),
        iter(video_grids),
        video_second_per_grid=iter([m.seconds_per_group for m in videos]),
        use_audio_in_video=any(m.mel is not None for m in videos),
        **TIMING[omni],
    )
    return expanded


def hf_omni_text_5_23(omni, processor, text, media, image_grids, video_grids, lengths) -> str:
    sounds = {"num_audio_tokens": lengths}
    with_sound = [m for m in media if m.mel is not None]
    videos = [m for m in media if m.kind == "video"]

    def replace_video_with_audio_token(*args, **kwargs):
        return omni.replace_video_with_audio_token(processor, *args, **kwargs)

    processor.replace_video_with_audio_token = replace_video_with_audio_token
    images = {"image_grid_thw": image_grids}
    image_texts = [omni.replace_image_token(processor, images, i) for i in range(len(image_grids))]
    audio_texts = []
    for i, m in enumerate(with_sound):
        if m.kind == "audio":
            audio_texts.append(omni.replace_audio_token(processor, sounds, i))
    video_inputs = {
        "video_grid_thw": video_grids,
        "video_second_per_grid": [m.seconds_per_group for m in videos],
    }
    sound_of_video = []
    for video in videos:
        same = [j for j, m in enumerate(with_sound) if m is video]
        sound_of_video.append(same[0] if same else None)
    video_texts = []
    for i in range(len(videos)):
        video_texts.append(
            omni.replace_video_token(
                processor,
                video_inputs,
                i,
                processed_audio=sounds,
                load_audio_from_video=True,
                video_to_audio_indices=sound_of_video,
                **TIMING[omni],
            )
        )
    expansions = {
        processor.image_token: iter(image_texts),
        processor.audio_token: iter(audio_texts),
        processor.video_token: iter(video_texts),
    }
    pattern = "|".join(map(re.escape, expansions))
    return re.sub(pattern, lambda found: next(expansions[found[0]]), text)


def hf_qwen3_vl_video_text(video_fps, index) -> str:
    """Qwen3-VL's text of a video of 2 x 4 patches: the times of transformers' own frames `index`,
    each with two tokens."""
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )

    def calculate_timestamps(*args):
        return Qwen3VLProcessor._calculate_timestamps(processor, *args)

    processor._calculate_timestamps = calculate_timestamps
    video = {
        "video_grid_thw": torch.tensor([[len(index) // 2, 2, 4]]),
        "video_metadata": [SimpleNamespace(fps=video_fps, frames_indices=list(index))],
    }
    return Qwen3VLProcessor.replace_video_token(processor, video, 0)


# ------------------------------------------------------------------ positions
def hf_omni_positions(policy, ids, media, images, videos) -> torch.Tensor:
    """get_rope_index of an Omni, (3, P). images, videos: their grids, in the order of the
    placeholders of each kind."""
    positions, delta = policy.model.get_rope_index(
        ids[None],
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        attention_mask=torch.ones_like(ids[None]),
        use_audio_in_video=any(m.kind == "video" and m.mel is not None for m in media),
        audio_seqlens=torch.tensor([m.mel.shape[1] for m in media if m.mel is not None]),
        second_per_grids=torch.tensor([m.seconds_per_group for m in media if m.kind == "video"]),
    )
    assert positions.max().item() + 1 == pytest.approx(len(ids) + delta.item())
    return positions[:, 0]


def hf_vision_positions(policy, ids, media, images, videos) -> torch.Tensor:
    """get_rope_index of Qwen2.5-VL or Qwen3-VL, (3, P)."""
    kinds = (ids == policy.form.image).int() + 2 * (ids == policy.form.video).int()
    positions, _ = policy.model.model.get_rope_index(
        ids[None],
        kinds[None],
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        second_per_grid_ts=torch.tensor([m.seconds_per_group for m in media if m.kind == "video"]),
        attention_mask=torch.ones_like(ids[None]),
    )
    return positions[:, 0]
