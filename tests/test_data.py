"""data.py against transformers' own processors and position rules, and its errors. Media files are made on the spot."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.image_utils import load_image
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as hf_smart_resize,
)
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from data import (
    Prompt,
    PromptBuilder,
    TooLong,
    build_prompt,
    question_text,
)
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, Sample
from media import cache
from media.cache import MediaCache, load_media
from media.decode import MIN_SOUND, Media, MediaSettings
from media.errors import MediaError
from media.features import audio_tokens, log_mel, patchify, with_mel
from media.frames import frame_indices, resize_frames, smart_resize
from media.prompt_format import MEAN, STD
from media.tmrope import chunks_by_time
from model import load_policy
from tests.families import tiny_family
from tools.check_data import check, main

SETTINGS = MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28)


def write_video(path, frames=16, fps=8, size=(56, 84), rate=None, seconds=2.0, grey=0):
    """A small mp4: each frame one grey level (10 per frame, from `grey` on); with `rate`, a sine as its sound track."""
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=fps, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = box.add_stream("aac", rate=rate, layout="mono") if rate else None
        for i in range(frames):
            box.mux(
                video.encode(
                    av.VideoFrame.from_ndarray(
                        np.full((*size, 3), (grey + 10 * i) % 256, np.uint8), format="rgb24"
                    )
                )
            )
        box.mux(video.encode())
        if rate:
            wave = np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(
                np.float32
            )
            block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            block.sample_rate = rate
            box.mux(audio.encode(block))
            box.mux(audio.encode())
    return str(path)


# ------------------------------------------------------------------ pixels
@pytest.mark.parametrize(
    "size",
    [(56, 168), (480, 640), (97, 33), (28, 28), (1080, 1920), (5, 900), (30, 500), (97, 133)],
)
@pytest.mark.parametrize("factor", [28, 32])
def test_smart_resize_equals_transformers(size, factor):
    for low, high in ((784, 2352), (56 * 56, 50_176), (128 * 784, 768 * 784)):
        assert smart_resize(*size, low, high, factor) == hf_smart_resize(
            *size, factor=factor, min_pixels=low, max_pixels=high
        )


@pytest.mark.parametrize("size", [(56, 168), (97, 133), (30, 500), (1080, 1920)])
@pytest.mark.parametrize(("patch", "mean", "std"), [(14, MEAN, STD), (16, (0.5,) * 3, (0.5,) * 3)])
def test_resize_and_patches_equal_the_slow_image_processor(size, patch, mean, std):
    """Each frame alone through transformers' PIL processor (which repeats it in time) against its slot in our video patches: of Qwen2.5 and of Qwen3-VL."""
    frames = np.random.default_rng(0).integers(
        0, 256, (4 if size[0] < 1000 else 2, *size, 3), dtype=np.uint8
    )
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 784, "longest_edge": 50_176},
        patch_size=patch,
        **({} if patch == 14 else {"image_mean": mean, "image_std": std}),
    )
    patches, (t, h, w) = patchify(resize_frames(frames, 784, 50_176, patch), patch, mean, std)
    ours = patches.reshape(t, h * w, 3, 2, patch, patch)
    for i, frame in enumerate(frames):
        theirs = processor(Image.fromarray(frame), return_tensors="pt")
        assert theirs["image_grid_thw"].tolist() == [[1, h, w]]
        expected = theirs["pixel_values"].reshape(h * w, 3, 2, patch, patch)[:, :, 0]
        torch.testing.assert_close(ours[i // 2, :, :, i % 2], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "turned"])
def test_pictures_are_read_as_transformers_reads_them(tmp_path, mode):
    """Colour, grey, transparent, palette, and a photo that a camera marked as turned: the pixels of transformers' load_image."""
    picture, path = (
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)),
        str(tmp_path / "p.png"),
    )
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "turned" else 1  # orientation: a quarter turn
    picture.convert("RGB" if mode == "turned" else mode).save(path, exif=exif)
    (media,) = load_media(
        Sample("a", "q", "numeric", "1", images=[path]), replace(SETTINGS, max_pixels=10**6)
    )
    assert media.kind == "image" and np.array_equal(
        media.frames, np.asarray(load_image(path))[None]
    )
    assert media.frames.shape == ((1, 84, 56, 3) if mode == "turned" else (1, 56, 84, 3))


def test_an_odd_number_of_frames_repeats_the_last():
    frames = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    patches, grid = patchify(frames)
    assert grid == (2, 2, 2) and torch.equal(
        patches, patchify(np.concatenate([frames, frames[-1:]]))[0]
    )


# ------------------------------------------------------------------ sound
@pytest.mark.parametrize("samples", [64_000, 4_800, 4_801, 399, 160, 161, 1_000_003])
@pytest.mark.parametrize("n_mels", [64, 128])
def test_log_mel_equals_whisper_feature_extractor(samples, n_mels):
    rng = np.random.default_rng(samples)
    sound = (0.3 * rng.standard_normal(samples) * np.linspace(0, 1, samples)).astype(np.float32)
    extractor = WhisperFeatureExtractor(
        feature_size=n_mels, return_attention_mask=True, chunk_length=300
    )
    theirs = extractor(
        sound,
        sampling_rate=16_000,
        return_tensors="pt",
        padding="max_length",
        return_attention_mask=True,
    )
    valid = int(theirs["attention_mask"].sum())
    ours = log_mel(sound, n_mels)
    assert ours.shape == (n_mels, valid)
    torch.testing.assert_close(ours, theirs["input_features"][0, :, :valid], atol=1e-4, rtol=0)


def test_long_sound_is_not_cut():
    """20 minutes: all 120,000 mel frames, as the extractor gives them when it is told the length. By default it cuts at 30 s, Qwen2.5-Omni's at 300 s."""
    sound = np.tile(np.sin(np.arange(16_000) ** 2 / 30_000).astype(np.float32), 1200) * np.linspace(
        0.1, 1, 1200 * 16_000, dtype=np.float32
    )
    ours = log_mel(sound, 16)
    assert ours.shape == (16, 120_000)
    for seconds in (30, 300, 1201):
        theirs = WhisperFeatureExtractor(feature_size=16, chunk_length=seconds)(
            sound, sampling_rate=16_000, return_tensors="pt"
        )["input_features"][0]
        assert theirs.shape[1] == 100 * seconds
    torch.testing.assert_close(ours, theirs[:, :120_000], atol=1e-4, rtol=0)


def test_audio_token_count_equals_the_towers(policy):
    for length in (3, 40, 99, 100, 101, 199, 200, 201, 400, 1234):
        assert audio_tokens(length) == int(
            policy.audio_tower._get_feat_extract_output_lengths(torch.tensor(length))[1]
        )


# ------------------------------------------------------------------ time
@pytest.mark.parametrize(
    ("total", "video_fps", "fps", "most", "n", "seconds"),
    [
        (32, 8.0, 2.0, 16, 8, 0.5),
        (1800, 30.0, 2.0, 16, 16, 3.75),
        (240, 24.0, 1.0, 16, 10, 1.0),
        (90, 30.0, 2.0, 16, 6, 0.5),
        (1, 25.0, 2.0, 16, 2, 0.5),
        (100, 25.0, 2.0, 16, 8, 0.5),
    ],
)
def test_frames_carry_their_true_seconds(total, video_fps, fps, most, n, seconds):
    index, step = frame_indices(total, video_fps, fps, most)
    assert len(index) == n and step == pytest.approx(seconds) and index.max() < total
    if (
        total > 1
    ):  # the sampled frames really are `step` seconds apart, to within one frame of rounding
        assert np.abs(np.diff(index) / video_fps - step).max() < 1 / video_fps


def hf_sample_frames(total, video_fps, fps, most) -> list[int]:
    """The frames that transformers' Qwen2VLVideoProcessor takes. Its module wants torchvision, so its function is taken out of the source."""
    source = Path(
        find_spec("transformers.models.qwen2_vl.video_processing_qwen2_vl").origin
    ).read_text(encoding="utf-8")
    (function,) = (
        n
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.FunctionDef) and n.name == "sample_frames"
    )
    space = {"math": math, "torch": torch, "VideoMetadata": None}
    exec(compile(ast.Module([function], []), "sample_frames", "exec"), space)
    stub = SimpleNamespace(
        num_frames=None, fps=fps, temporal_patch_size=2, min_frames=2, max_frames=most
    )
    return space["sample_frames"](
        stub, SimpleNamespace(total_num_frames=total, fps=video_fps)
    ).tolist()


@pytest.mark.parametrize("fps", [0.5, 1, 2, 4])
@pytest.mark.parametrize("most", [8, 16, 32])
def test_frames_are_those_that_transformers_samples(fps, most):
    """Clips of two frames or more. (transformers' arange in floating point may give one frame more, past the clip's end: 61 of 61 at 8 per second.)"""
    for total in (8, 32, 61, 90, 100, 240, 301, 1800):
        for video_fps in (8.0, 24.0, 25.0, 30_000 / 1001):
            ours, theirs = (
                frame_indices(total, video_fps, fps, most)[0].tolist(),
                hf_sample_frames(total, video_fps, fps, most),
            )
            assert ours == [i for i in theirs if i < total] or total / video_fps * fps < 2


@pytest.mark.parametrize(
    ("fps", "index"),
    [
        (2.0, range(0, 24, 3)),
        (1.0, [0, 6, 12, 18]),
        (0.5, [0, 12]),
        (4.0, [int(1.5 * i) for i in range(16)]),
    ],
)
def test_frames_come_from_the_right_times(tmp_path, policy, fps, index):
    """24 frames at 6 per second, grey 10 i: which they are, when they stand in the clip, and the time positions (25 per second) of the frame groups."""
    sample = Sample(
        "a", "q", "numeric", "1", videos=[write_video(tmp_path / "v.mp4", frames=24, fps=6)]
    )
    (media,) = load_media(sample, replace(SETTINGS, fps=fps, use_audio=False))
    assert media.kind == "video" and media.sound is None and media.seconds_per_group == 2 / fps
    assert media.frames.mean(axis=(1, 2, 3)) == pytest.approx([10 * i for i in index], abs=4)
    assert media.times == pytest.approx([i / 6 for i in index])
    prompt = build_prompt(sample, [media], policy.tokenizer, policy.form)
    seen = prompt.positions[0, prompt.ids == policy.form.video]
    assert (seen - seen[0]).unique().tolist() == [
        int(i * 25 * 2 / fps) for i in range(len(index) // 2)
    ]


def test_a_clip_of_one_frame_repeats_it(tmp_path):
    """One frame, grey 100 in place of 0, and a sound of 0.3 s."""
    path = write_video(tmp_path / "v.mp4", frames=1, rate=16_000, seconds=0.3, grey=100)
    (media,) = load_media(Sample("a", "q", "numeric", "1", videos=[path]), SETTINGS)
    assert (
        len(media.frames) == 2
        and np.array_equal(*media.frames)
        and media.frames.mean() == pytest.approx(100, abs=4)
    )
    assert (
        media.seconds_per_group == 1.0
        and media.times.tolist() == [0, 0]
        and 4800 <= len(media.sound) < 4800 + 2 * 1024
    )  # AAC's frames


def test_sound_track_is_resampled_to_16_khz_mono(tmp_path):
    sample = Sample("a", "q", "numeric", "1", videos=[write_video(tmp_path / "v.mp4", rate=44_100)])
    sound = load_media(sample, SETTINGS)[0].sound
    assert sound.ndim == 1 and 2.0 <= len(sound) / 16_000 < 2.2
    spectrum = np.abs(np.fft.rfft(sound[4000:20_000]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)  # 1 Hz bins


def test_sidecar_sound_is_read_mixed_and_resampled(tmp_path):
    t = np.arange(48_000) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 300 * t), np.zeros_like(t)], axis=1)
    for name in ("s.wav", "s.flac"):
        soundfile.write(tmp_path / name, stereo, 48_000)
        (media,) = load_media(
            Sample("a", "q", "numeric", "1", audios=[str(tmp_path / name)]), SETTINGS
        )
        assert len(media.sound) == 16_000 and media.frames is None and media.kind == "audio"
        assert np.abs(media.sound[1000:-1000]).max() == pytest.approx(
            0.5, abs=0.01
        )  # the mean of the two channels


def test_a_soundtrack_takes_the_place_of_the_videos_own(tmp_path):
    """The own track has 440 Hz, the file 1000; a very short file is filled up with silence."""
    video, wave = (
        write_video(tmp_path / "v.mp4", rate=16_000),
        np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000),
    )
    for samples in (16_000, 300):
        soundfile.write(tmp_path / "s.wav", wave[:samples], 16_000)
        (media,) = load_media(
            Sample("a", "q", "numeric", "1", videos=[video], soundtrack=str(tmp_path / "s.wav")),
            SETTINGS,
        )
        assert (
            media.kind == "video"
            and len(media.sound) == max(samples, MIN_SOUND)
            and media.sound[:samples] == pytest.approx(wave[:samples], abs=1e-4)
        )
        assert not media.sound[samples:].any()


# ------------------------------------------------------------------ token ids and positions
SEVERAL = "Compare <image> and <video>, then <audio>: <image>?"


def medium(kind, rng, frames, seconds, seconds_per_group, size) -> Media:
    """A random medium: image, video, video+sound or audio."""
    pixels = rng.integers(0, 256, (1 if kind == "image" else frames, *size, 3), dtype=np.uint8)
    mel = log_mel((0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32), 64).numpy()
    return {
        "image": Media("image", pixels),
        "video": Media("video", pixels, None, seconds_per_group),
        "audio": Media("audio", mel=mel),
        "video+sound": Media("video", pixels, None, seconds_per_group, mel),
    }[kind]


def media_of(kind, frames=8, seconds=4.0, seconds_per_group=1.0, size=(28, 84)) -> list[Media]:
    """Random media for sample_of(kind), in the order of its `media`. several: the second picture is twice as high, the single sound half as long."""
    rng, args = np.random.default_rng(1), (frames, seconds, seconds_per_group)
    kinds = {
        "several": ["image", "video+sound", "audio", "image"],
        "image+sound": ["image", "audio"],
        "sound": ["audio"],
    }.get(kind, [kind])
    media = [medium(k, rng, *args, size) for k in kinds]
    if kind == "several":
        media[2:] = (
            medium("audio", rng, frames, seconds / 2, 1.0, size),
            medium("image", rng, *args, (2 * size[0], size[1])),
        )
    return media


def sample_of(kind) -> Sample:
    """A sample of this kind: video, image, image+sound, sound, video+sound (the video's own), several."""
    names = {
        "several": {"images": ["i", "j"], "videos": ["v"], "audios": ["a"]},
        "image+sound": {"images": ["i"], "audios": ["a"]},
        "sound": {"audios": ["a"]},
        "image": {"images": ["i"]},
    }.get(kind, {"videos": ["v"]})
    return Sample("a", SEVERAL if kind == "several" else "How many?", "numeric", "1", **names)


LAYOUTS = [
    ("video+sound", {}),
    ("video+sound", {"seconds_per_group": 0.37, "frames": 14}),
    ("video+sound", {"seconds_per_group": 7.5, "seconds": 60.0}),
    ("video+sound", {"seconds_per_group": 2.0, "seconds": 3.1}),
    ("video+sound", {"seconds_per_group": 0.25, "seconds": 9.0, "size": (56, 56)}),
    ("video", {}),
    ("video", {"seconds_per_group": 3.3}),
    ("image", {"size": (56, 84)}),
    ("image+sound", {}),
    ("sound", {"seconds": 0.3}),
    ("several", {}),
    ("several", {"seconds_per_group": 0.5, "seconds": 9.0, "frames": 4}),
    ("video+sound", {"frames": 2, "seconds": 0.3}),
    ("video", {"frames": 2, "seconds_per_group": 0.5, "size": (140, 28)}),
    ("video+sound", {"seconds_per_group": 1.97}),
]  # 49 of a chunk's 50
MIXTURES = [
    "i",
    "v",
    "s",
    "a",
    "aia",
    "sa",
    "as",
    "ssi",
    "iisa",
    "vvi",
    "avia",
    "i s a i",
    "a s a",
    "v i a v",
    "s i s a",
    "sv",
    "v s a",
    "i s v i",
]


def mixture(letters, factor=28) -> tuple[Sample, list[Media]]:
    """A sample and its media by letters: i image, v video, s video with sound, a audio; with blanks there is text between them. All differ in size."""
    rng, kinds = (
        np.random.default_rng(len(letters)),
        [
            {"i": "image", "v": "video", "s": "video+sound", "a": "audio"}[c]
            for c in letters.replace(" ", "")
        ],
    )
    media = [
        medium(
            k,
            rng,
            4 + 2 * (i % 2),
            1.3 + 2 * i,
            (0.4, 1.0, 2.2)[i % 3],
            (factor * (1 + i % 2), factor * (3 - i % 3)),
        )
        for i, k in enumerate(kinds)
    ]
    paths = {
        f"{name}s": [f"{name}{i}" for i, m in enumerate(media) if m.kind == name]
        for name in ("video", "image", "audio")
    }
    return Sample(
        "a",
        "Now " + (" then " if " " in letters else "").join(f"<{m.kind}>" for m in media) + "?",
        "free-form",
        "1",
        **paths,
    ), media


def grids_of(prompt, media, kind) -> list[tuple[int, int, int]]:
    return [
        grid
        for grid, m in zip(prompt.grids, (m for m in media if m.frames is not None), strict=True)
        if m.kind == kind
    ]


def hf_omni_positions(policy, ids, media, images, videos) -> torch.Tensor:
    """transformers' get_rope_index of Qwen2.5-Omni, (3, P). Grids and lengths in the order of the placeholders, of each kind."""
    positions, delta = policy.model.get_rope_index(
        ids[None],
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        attention_mask=torch.ones_like(ids[None]),
        use_audio_in_video=any(m.kind == "video" and m.mel is not None for m in media),
        audio_seqlens=torch.tensor([m.mel.shape[1] for m in media if m.mel is not None]),
        second_per_grids=torch.tensor([m.seconds_per_group for m in media if m.kind == "video"]),
    )
    assert int(positions.max()) + 1 == len(ids) + int(delta)
    return positions[:, 0]


def one_by_one(ids, ends) -> list[torch.Tensor]:
    """Token ids cut behind each medium, at the indices of their closing tokens; the last piece is text."""
    return list(ids.tensor_split([int(end) + 1 for end in ends]))


def omni_ends(policy, ids) -> torch.Tensor:
    """Indices of the tokens that close a medium: <|vision_eos|>, and <|audio_eos|> where no <|vision_eos|> follows."""
    vision = ids == policy.config.vision_end_token_id
    return (vision | ((ids == policy.form.audio_end) & ~vision.roll(-1))).nonzero()[:, 0]


@pytest.mark.parametrize(
    ("sample", "media"),
    [
        *((sample_of(kind), media_of(kind, **shape)) for kind, shape in LAYOUTS),
        *map(mixture, MIXTURES),
    ],
)
def test_positions_equal_transformers_rope_index(policy, sample, media):
    """TMRoPE positions of one medium and of several in mixed order, also a video with sound beside sounds of their own.

    get_rope_index has one flag use_audio_in_video for all videos of a prompt, so it cannot place one with sound beside a silent one (it takes the silent
    one's tokens for text, or fails). Such prompts are compared medium by medium, each from the text before it to its end, one after the other; where
    the whole prompt can be compared, both are.
    """
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    heard = {m.mel is not None for m in media if m.kind == "video"}
    if len(heard) < 2:
        theirs = hf_omni_positions(
            policy,
            prompt.ids,
            media,
            grids_of(prompt, media, "image"),
            grids_of(prompt, media, "video"),
        )
        assert (
            torch.equal(prompt.positions, theirs) and prompt.next_position == int(theirs.max()) + 1
        )
    start, theirs, grids = 0, [], iter(prompt.grids)
    *pieces, tail = one_by_one(prompt.ids, omni_ends(policy, prompt.ids))
    for piece, m in zip(pieces, media, strict=True):
        grid = [next(grids)] if m.frames is not None else []
        theirs.append(
            hf_omni_positions(
                policy, piece, [m], *((grid, []) if m.kind == "image" else ([], grid))
            )
            + start
        )
        start = int(theirs[-1].max()) + 1
    assert torch.equal(
        prompt.positions,
        torch.cat([*theirs, (torch.arange(len(tail)) + start).expand(3, -1)], dim=1),
    )


def template_text(sample, media, tokenizer) -> str:
    """The chat template's text for a sample: a placeholder for each medium, where the question has it, else in front."""
    question = question_text(sample)
    content = (
        []
        if "<image>" in question or "<video>" in question or "<audio>" in question
        else [{"type": m.kind} for m in media]
    )
    for i, piece in enumerate(re.split(r"<(image|video|audio)>", question)):
        content.append({"type": piece} if i % 2 else {"type": "text", "text": piece})
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


def hf_omni_text(tok, text, media, grids, lengths) -> str:
    """transformers' own expansion of the placeholders. The whole processor needs torchvision; its methods that write text do not."""
    stub = SimpleNamespace(
        image_processor=SimpleNamespace(merge_size=2),
        video_processor=SimpleNamespace(merge_size=2),
        audio_bos_token=tok.audio_bos_token,
        audio_eos_token=tok.audio_eos_token,
        vision_bos_token=tok.vision_bos_token,
        vision_eos_token=tok.vision_eos_token,
        image_token=tok.image_token,
        video_token=tok.video_token,
        audio_token=tok.audio_token,
    )
    stub.get_chunked_index = lambda indices, per_chunk: Qwen2_5OmniProcessor.get_chunked_index(
        stub, indices, per_chunk
    )
    kinds = {
        kind: [np.array(g) for g in grids_of(SimpleNamespace(grids=grids), media, kind)]
        for kind in ("image", "video")
    }
    seconds, videos = (
        [m.seconds_per_group for m in media if m.kind == "video"],
        [m for m in media if m.kind == "video"],
    )
    timing = {"position_id_per_seconds": 25, "seconds_per_chunk": 2.0}
    if hasattr(Qwen2_5OmniProcessor, "replace_multimodal_special_tokens"):  # transformers 5.17
        if len({m.mel is None for m in videos}) > 1:
            pytest.skip("transformers 5.17 has one flag for the sound of all videos")
        return Qwen2_5OmniProcessor.replace_multimodal_special_tokens(
            stub,
            [text],
            iter(lengths),
            iter(kinds["image"]),
            iter(kinds["video"]),
            video_second_per_grid=iter(seconds),
            use_audio_in_video=any(m.mel is not None for m in videos),
            **timing,
        )[0]
    heard = [m for m in media if m.mel is not None]
    sounds = {"num_audio_tokens": lengths}
    stub.replace_video_with_audio_token = lambda *a, **k: (
        Qwen2_5OmniProcessor.replace_video_with_audio_token(stub, *a, **k)
    )
    made = {
        "image": iter(
            [
                Qwen2_5OmniProcessor.replace_image_token(
                    stub, {"image_grid_thw": kinds["image"]}, i
                )
                for i in range(len(kinds["image"]))
            ]
        ),
        "audio": iter(
            [
                Qwen2_5OmniProcessor.replace_audio_token(stub, sounds, i)
                for i, m in enumerate(heard)
                if m.kind == "audio"
            ]
        ),
        "video": iter(
            [
                Qwen2_5OmniProcessor.replace_video_token(
                    stub,
                    {"video_grid_thw": kinds["video"], "video_second_per_grid": seconds},
                    i,
                    processed_audio=sounds,
                    load_audio_from_video=True,
                    video_to_audio_indices=[
                        next((j for j, n in enumerate(heard) if n is m), None) for m in videos
                    ],
                    **timing,
                )
                for i in range(len(videos))
            ]
        ),
    }
    names = {tok.image_token: "image", tok.video_token: "video", tok.audio_token: "audio"}
    return re.sub("|".join(map(re.escape, names)), lambda found: next(made[names[found[0]]]), text)


@pytest.mark.parametrize(
    ("sample", "media"),
    [
        *((sample_of(kind), media_of(kind, **shape)) for kind, shape in LAYOUTS),
        *map(mixture, MIXTURES),
    ],
)
def test_token_ids_equal_transformers_processor(policy, sample, media):
    """The whole prompt, with sound and picture of videos interleaved."""
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    lengths = [
        int(policy.audio_tower._get_feat_extract_output_lengths(torch.tensor(m.mel.shape[1]))[1])
        for m in media
        if m.mel is not None
    ]
    text = hf_omni_text(
        policy.tokenizer,
        template_text(sample, media, policy.tokenizer),
        media,
        prompt.grids,
        lengths,
    )
    assert prompt.ids.tolist() == policy.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_several_files_become_the_right_pixels_and_sounds(tmp_path, policy):
    """Two pictures, a video with its sound and a sound of its own from files: each stands at its place, with the features that transformers gives it."""
    rng, paths = (
        np.random.default_rng(0),
        [str(tmp_path / name) for name in ("i.png", "j.png", "a.wav")],
    )
    pictures = [
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        for size in ((97, 133), (60, 41))
    ]
    for picture, path in zip(pictures, paths, strict=False):
        picture.save(path)
    soundfile.write(
        paths[2],
        wave := (0.3 * rng.standard_normal(4800)).astype(np.float32),
        16_000,
        subtype="FLOAT",
    )
    video = write_video(tmp_path / "v.mp4", rate=16_000, grey=100)
    sample = Sample(
        "a", SEVERAL, "numeric", "1", images=paths[:2], videos=[video], audios=paths[2:]
    )
    prompt = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)(sample)
    first, clip, second = prompt.patches.split([math.prod(grid) for grid in prompt.grids])
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": SETTINGS.min_pixels, "longest_edge": SETTINGS.max_pixels}
    )
    for ours, grid, picture in (
        (first, prompt.grids[0], pictures[0]),
        (second, prompt.grids[2], pictures[1]),
    ):
        theirs = processor(picture, return_tensors="pt")
        assert theirs["image_grid_thw"].tolist() == [list(grid)]
        torch.testing.assert_close(ours, theirs["pixel_values"], atol=2e-6, rtol=0)
    pixels = (
        clip.reshape(2, -1, 3, 2, 14 * 14) * torch.tensor(STD)[:, None, None]
        + torch.tensor(MEAN)[:, None, None]
    )  # frames 0, 4, 8, 12 of 16
    assert (255 * pixels).mean(dim=(1, 2, 4)).flatten().tolist() == pytest.approx(
        [100, 140, 180, 220], abs=4
    )
    extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=300)
    for ours, sound in zip(prompt.mels, (load_media(sample, SETTINGS)[1].sound, wave), strict=True):
        theirs = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_features"][
            0, :, : ours.shape[1]
        ]
        assert ours.shape == (64, -(-len(sound) // 160))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_sound_and_picture_stand_at_the_same_time(policy):
    """16 frames over 60 s: the last frame group lies at 52.5 s, next to the sound of that moment, not at 7 s."""
    prompt = build_prompt(
        sample_of("video+sound"),
        media_of("video+sound", 16, 60.0, 7.5),
        policy.tokenizer,
        policy.form,
    )
    start = int(prompt.positions[0, prompt.ids == policy.form.audio].min())
    video = prompt.positions[0, prompt.ids == policy.form.video] - start
    assert video.unique().tolist() == [int(7.5 * 25 * i) for i in range(8)]


def test_chunks_by_time_by_hand():
    assert [c.tolist() for c in chunks_by_time(np.array([0, 0, 25, 50, 75]), 50)] == [
        [0, 1, 2],
        [3, 4],
    ]
    assert [c.tolist() for c in chunks_by_time(np.array([0, 0, 187, 187, 375, 375]), 50)] == [
        [0, 1],
        [2],
        [3],
        [4],
        [5],
    ]


def test_hint_goes_into_the_user_turn_and_keeps_the_system_prompt(policy, samples, builder):
    plain, hinted = builder(samples[0]), builder(samples[0], hinted=True)
    a, b = policy.tokenizer.decode(plain.ids), policy.tokenizer.decode(hinted.ids)
    assert samples[0].hint not in a and samples[0].hint in b
    assert (
        a.split("<|im_start|>user")[0] == b.split("<|im_start|>user")[0]
        and "system" in a.split("<|im_start|>user")[0]
    )
    assert plain.sample.id == hinted.sample.id and plain.sample.media_key == hinted.sample.media_key
    assert "Sound:" not in question_text(samples[0]) and samples[0].audio_caption in question_text(
        samples[0], audio_caption=True
    )


# ------------------------------------------------------------------ the vision families
@pytest.fixture(scope="module")
def families(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {
        name: load_policy(tiny_family(name, root / name)) for name in ("qwen2_5_vl", "qwen3_vl")
    }


def hf_vision_positions(policy, ids, media, images, videos) -> torch.Tensor:
    """transformers' get_rope_index of Qwen2.5-VL or Qwen3-VL, (3, P)."""
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


@pytest.mark.parametrize("letters", ["i", "v", "ii", "iv", "i v i", "vv", "v i i v"])
def test_qwen3_vl_positions_equal_transformers_rope_index(families, letters):
    """Pictures, and videos whose frame groups are pictures of their own between their times in words."""
    policy = families["qwen3_vl"]
    sample, media = mixture(letters, 32)
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    theirs = hf_vision_positions(
        policy,
        prompt.ids,
        media,
        grids_of(prompt, media, "image"),
        grids_of(prompt, media, "video"),
    )
    assert torch.equal(prompt.positions, theirs) and len(prompt.grids) == len(media)


@pytest.mark.parametrize("letters", ["i", "v", "ii", "iv", "i v i", "vv", "v i i v"])
def test_qwen2_5_vl_positions_equal_transformers_rope_index(families, letters):
    """Each medium with the text before it, one after the other; the token behind a medium is expected one past its last position.

    That is what the docstring of transformers' get_rope_index says, what its code did when the model was trained, and what vLLM does. transformers 5.17 to
    5.23 let the text behind a VIDEO start at max(h, w) of its frames instead, which may lie before the video's last time position; so there only
    the positions up to the video's end are compared with its code. 5.17 also cuts the seconds per frame group to a whole number.
    """
    policy = families["qwen2_5_vl"]
    sample, media = mixture(letters)
    if Version(transformers.__version__) < Version("5.23"):
        for m in media:
            m.seconds_per_group = float(math.ceil(m.seconds_per_group))
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    start, theirs = 0, []
    *pieces, tail = one_by_one(
        prompt.ids, (prompt.ids == policy.config.vision_end_token_id).nonzero()[:, 0]
    )
    for piece, m, grid in zip(pieces, media, prompt.grids, strict=True):
        found = hf_vision_positions(
            policy, piece, [m], *(([grid], []) if m.kind == "image" else ([], [grid]))
        )
        after = found[:, :-1].max() + 1
        assert m.kind == "video" or torch.equal(found[:, -1], after.expand(3))
        theirs.append(torch.cat([found[:, :-1], after.expand(3, 1)], dim=1) + start)
        start = int(theirs[-1].max()) + 1
    assert torch.equal(
        prompt.positions,
        torch.cat([*theirs, (torch.arange(len(tail)) + start).expand(3, -1)], dim=1),
    )
    if "v" not in letters:
        assert torch.equal(
            prompt.positions, hf_vision_positions(policy, prompt.ids, media, prompt.grids, [])
        )


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    ("frames", "video_fps", "fps"),
    [
        (24, 6, 2.0),
        (24, 6, 4.0),
        (24, 6, 1.0),
        (61, 30, 2.0),
        (45, 24, 2.0),
        (100, 25, 0.5),
        (1, 8, 2.0),
    ],
)
def test_vision_token_ids_and_timestamps_equal_transformers(
    families, tmp_path, name, frames, video_fps, fps
):
    """A picture, a video from a file, and a picture behind it. Qwen3-VL's times are those of transformers' own frames, written by Qwen3VLProcessor's own
    method. They replace <|vision_start|><|video_pad|><|vision_end|> as the processor did when the model came out, and as vLLM does; the processor of
    transformers 5.17 to 5.23 leaves a second pair of bounds around the video."""
    policy, size = families[name], families[name].form.patch * 2
    path = write_video(tmp_path / "v.mp4", frames, video_fps, (size, 2 * size))
    sample = Sample(
        "a",
        "Is <image> in <video>, or is <image>?",
        "yes/no",
        "no",
        images=["i", "j"],
        videos=[path],
    )
    pictures = [media_of("image", size=(size, n * size))[0] for n in (1, 3)]
    (video,) = load_media(
        Sample("a", "", "yes/no", "no", videos=[path]),
        MediaSettings(
            fps=fps, max_frames=16, max_pixels=10**5, use_audio=False, patch=policy.form.patch
        ),
    )
    media = [pictures[0], video, pictures[1]]
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    index = hf_sample_frames(frames, video_fps, fps, 16) if frames > 1 else [0, 0]
    stub = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    stub._calculate_timestamps = lambda *a: Qwen3VLProcessor._calculate_timestamps(stub, *a)
    clip = "<|vision_start|>" + "<|video_pad|>" * (2 * len(index) // 2) + "<|vision_end|>"
    if name == "qwen3_vl":
        clip = Qwen3VLProcessor.replace_video_token(
            stub,
            {
                "video_grid_thw": torch.tensor([[len(index) // 2, 2, 4]]),
                "video_metadata": [SimpleNamespace(fps=video_fps, frames_indices=list(index))],
            },
            0,
        )
    text = (
        template_text(sample, media, policy.tokenizer)
        .replace("<|image_pad|>", "<|image_pad|>" * 3)
        .replace("<|image_pad|>" * 3, "<|image_pad|>", 1)
    )
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", clip)
    assert prompt.ids.tolist() == policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt.grids == [(1, 2, 2), (len(index) // 2, 2, 4), (1, 2, 6)] and len(
        prompt.patches
    ) == sum(map(math.prod, prompt.grids))
    if name == "qwen3_vl" and (frames, fps) == (24, 2.0):
        assert re.findall(r"<([\d.]+) seconds>", text) == ["0.2", "1.2", "2.2", "3.2"]


def test_a_model_that_hears_nothing_leaves_sound_out(families, tmp_path):
    """A video's track is not asked for; a sound of its own makes the record unusable."""
    policy, video = families["qwen2_5_vl"], write_video(tmp_path / "v.mp4", rate=16_000)
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    seen, heard = builder.build(
        [
            Sample("v", "q", "numeric", "1", videos=[video]),
            Sample(
                "a", "q", "numeric", "1", images=[], audios=[str(tmp_path / "a.wav")], where="x:1"
            ),
        ]
    )
    assert not seen.mels and seen.grids == [(2, 2, 4)] and not builder.silent
    assert isinstance(heard, MediaError) and str(heard).startswith(
        "x:1 ('a'): field 'audio': this model hears nothing"
    )


# ------------------------------------------------------------------ bad input
def write_lines(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


GOOD = {"id": "a", "question": "q", "problem_type": "numeric", "answer": "1"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({k: v for k, v in GOOD.items() if k != "answer"}, "d.jsonl:2: field 'answer' is missing"),
        (
            GOOD | {"problem_type": "essay"},
            "d.jsonl:2: field 'problem_type' of record 'a': unknown",
        ),
        (GOOD | {"vidoe": "x.mp4"}, "d.jsonl:2: unknown field 'vidoe'"),
        ("{", "d.jsonl:2: not a JSON object"),
        ("[1]", "d.jsonl:2: expected a JSON object"),
        (GOOD | {"id": "first"}, "id 'first' was used at"),
        (
            GOOD | {"question": "Is <image> like <image>?", "image": "x.png"},
            "holds 2 <image> for 1 file(s)",
        ),
    ],
)
def test_bad_records_are_named(tmp_path, record, message):
    with pytest.raises(DataError) as error:
        load_samples(write_lines(tmp_path / "d.jsonl", GOOD | {"id": "first"}, record))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_data_file_and_empty_stage(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        load_samples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no record of stage 3"):
        load_samples(write_lines(tmp_path / "d.jsonl", GOOD | {"stage": 2}), stage=3)


def broken(tmp_path, name, content=b"not a media file at all"):
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def picture(path, size=(56, 56)):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    return str(path)


def sound(path, wave):
    soundfile.write(path, wave, 16_000, subtype="FLOAT")
    return str(path)


@pytest.mark.parametrize(
    ("field", "make_file", "message"),
    [
        ("video", lambda p: str(p / "none.mp4"), "does not exist"),
        ("video", lambda p: str(p), "does not exist or is not a file"),
        ("video", lambda p: broken(p, "b.mp4"), "as a video"),
        ("video", lambda p: broken(p, "e.mp4", b""), "as a video"),
        ("audio", lambda p: broken(p, "b.wav"), "cannot be read as sound"),
        ("audio", lambda p: sound(p / "e.wav", np.zeros(0)), "no sound samples"),
        ("audio", lambda p: sound(p / "n.wav", np.array([0.0, np.nan, 0.0] * 9)), "no numbers"),
        ("image", lambda p: broken(p, "b.png"), "as a picture"),
        ("image", lambda p: picture(p / "long.png", (2, 500)), "aspect ratio"),
        (
            "image",
            lambda p: broken(
                p,
                "bomb.bmp",
                b"BM" + bytes(12) + b"\x28\0\0\0" + b"\xff\xff\0\0" * 2 + b"\1\0\x18\0" + bytes(24),
            ),
            "as a picture",
        ),
    ],
)
def test_bad_media_are_named(tmp_path, field, make_file, message):
    """One sentence with the record's place, its id, the field and the file."""
    path = make_file(tmp_path)
    with pytest.raises(MediaError) as error:
        load_media(
            Sample("clip7-q1", "q", "numeric", "1", where="d.jsonl:3", **{f"{field}s": [path]}),
            SETTINGS,
        )
    text = str(error.value)
    assert (
        text.startswith(f"d.jsonl:3 ('clip7-q1'): field '{field}': ")
        and path in text
        and message in text
        and "\n" not in text
    )


def test_a_missing_soundtrack_is_named(tmp_path):
    sample = Sample(
        "a",
        "q",
        "numeric",
        "1",
        videos=[write_video(tmp_path / "v.mp4", rate=16_000)],
        soundtrack=str(tmp_path / "none.wav"),
        where="d.jsonl:3",
    )
    with pytest.raises(
        MediaError, match=r"d.jsonl:3 \('a'\): field 'soundtrack': .*none.wav does not exist"
    ):
        load_media(sample, SETTINGS)


def test_a_silent_video_is_asked_without_sound_and_noted(tmp_path, policy):
    """The prompt is that of a maker that wants no sound, and unlike that of the same clip with sound."""
    silent, loud = (
        Sample(name, "q", "numeric", "1", videos=[write_video(tmp_path / f"{name}.mp4", rate=rate)])
        for name, rate in (("s", None), ("l", 16_000))
    )
    (media,) = load_media(silent, SETTINGS)
    assert media.sound is None and len(media.frames) == 4
    builder, deaf = (
        PromptBuilder(policy.tokenizer, policy.form, replace(SETTINGS, use_audio=use_audio))
        for use_audio in (True, False)
    )
    (a, b), (c, d) = builder.build_or_raise([silent, loud]), deaf.build_or_raise([silent, loud])
    assert builder.silent == set(silent.videos) and not deaf.silent
    assert (
        torch.equal(a.ids, c.ids)
        and torch.equal(a.positions, c.positions)
        and torch.equal(a.patches, c.patches)
        and not a.mels
    )
    assert len(b.mels) == 1 and len(b.ids) > len(d.ids) == len(c.ids)


@pytest.mark.parametrize(
    "question",
    [
        "Is <|VIDEO|> here?",
        "Is this <image> an <|IMAGE|>?",
        "<|AUDIO|>",
        "<|vision_bos|><|VIDEO|><|vision_eos|>?",
    ],
)
def test_a_media_token_in_the_text_is_named_and_the_others_go_on(tmp_path, policy, question):
    """Also as a hint; `each` gives the error in its place and the right prompt beside it, `many` raises it."""
    path, builder = (
        picture(tmp_path / "p.png"),
        PromptBuilder(policy.tokenizer, policy.form, SETTINGS),
    )
    good = Sample("a", "Is <image> here?", "yes/no", "no", images=[path], where="x.jsonl:1")
    bad, sly = (
        Sample(**vars(good) | {"question": question, "id": "b"}),
        Sample(**vars(good) | {"hint": question, "id": "c"}),
    )
    one, two, three = builder.build([good, bad, sly], [False, False, True])
    for error, name in ((two, "b"), (three, "c")):
        assert (
            isinstance(error, MediaError)
            and f"x.jsonl:1 ('{name}'): its text holds a media token of the model's (<|IMAGE|>, ..)"
            in str(error)
        )
    assert torch.equal(
        one.ids, build_prompt(good, load_media(good, SETTINGS), policy.tokenizer, policy.form).ids
    )
    with pytest.raises(MediaError, match="holds a media token"):
        builder.build_or_raise([good, bad])


def test_a_prompt_that_is_too_long_is_refused_never_cut(tmp_path, policy):
    """With the number of its tokens. One of just the limit is whole."""
    sample = Sample(
        "a",
        "Is <image> here?",
        "yes/no",
        "no",
        images=[picture(tmp_path / "p.png")],
        where="x.jsonl:1",
    )
    whole = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)(sample)
    n = len(whole.ids)
    fits, short = (
        PromptBuilder(policy.tokenizer, policy.form, SETTINGS, max_prompt_tokens=most).build(
            [sample]
        )[0]
        for most in (n, n - 1)
    )
    assert torch.equal(fits.ids, whole.ids) and isinstance(short, TooLong)
    assert str(short).startswith(
        f"x.jsonl:1 ('a'): its prompt has {n:,} tokens, more than --max_prompt_tokens {n - 1:,}; "
    )


@pytest.fixture
def mess(tmp_path):
    """A data set with one of everything, two records about the same broken file."""
    write_video(tmp_path / "good.mp4", rate=16_000)
    write_video(tmp_path / "silent.mp4")
    picture(tmp_path / "p.png")
    picture(tmp_path / "long.png", (28, 84))
    broken(tmp_path, "broken.mp4")
    return write_lines(
        tmp_path / "d.jsonl",
        GOOD | {"id": "good", "video": "good.mp4", "stage": 2, "hint": "Look."},
        GOOD | {"id": "silent", "video": "silent.mp4"},
        GOOD | {"id": "broken", "video": "broken.mp4"},
        GOOD | {"id": "again", "video": "broken.mp4"},
        GOOD | {"id": "gone", "image": "none.png"},
        GOOD
        | {
            "id": "long",
            "question": "so long " * 200,
            "image": "long.png",
            "problem_type": "free-form",
        },
        "{ no record",
        GOOD | {"id": "token", "question": "<|IMAGE|>?", "image": "p.png"},
        GOOD | {"id": "both", "image": ["p.png", "long.png"], "trace": "<think>"},
    )


def test_check_counts_and_names_what_is_wrong(mess, policy):
    """Every sentence is there once, under its reason; lengths are those of the three prompts that can be used."""
    builder, problems = (
        PromptBuilder(policy.tokenizer, policy.form, SETTINGS, max_prompt_tokens=400),
        [],
    )
    samples = load_samples(mess, problems=problems)
    lines = check(samples, builder, problems, batch=2).split("\n")
    lengths = [
        len(
            build_prompt(
                s, with_mel(load_media(s, SETTINGS), 64), policy.tokenizer, policy.form
            ).ids
        )
        for s in samples
        if s.id in ("good", "silent", "both")
    ]
    assert lines[:4] == [
        "9 records, 3 of them usable",
        "by problem type: numeric 7, free-form 1",
        "by media: video 4, image 3, image + image 1",
        "by stage: 2 1",
    ]
    assert lines[4:7] == [
        "with a hint: yes 1",
        "with a trace for stage 0: yes 1",
        f"tokens per prompt: least {min(lengths):,}, median {sorted(lengths)[1]:,}, 95 % below {int(np.percentile(lengths, 95)):,}, "
        f"most {max(lengths):,}; {sum(lengths):,} in all",
    ]
    assert (
        lines[7]
        == f"videos without a sound track, asked without sound: 1, e.g. {mess.parent / 'silent.mp4'}"
    )
    said = {
        lines[i]: lines[i + 1 : i + 1 + int(lines[i].split(": ")[1])]
        for i in range(8, len(lines))
        if not lines[i].startswith(" ")
    }
    assert list(said) == [
        "dropped, record cannot be read: 1",
        "dropped, media missing or unusable: 4",
        "dropped, prompt too long: 1",
    ]
    assert sum(map(len, said.values())) + len(said) + 8 == len(lines)
    starts = [
        f"  {mess}:7: not a JSON object",
        f"  {mess}:3 ('broken'): field 'video': cannot read",
        f"  {mess}:4 ('again'): field 'video': cannot read",
        f"  {mess}:5 ('gone'): field 'image': {mess.parent / 'none.png'} does not exist",
        f"  {mess}:8 ('token'): its text holds a media token",
        f"  {mess}:6 ('long'): its prompt has ",
    ]
    for line, start in zip((line for part in said.values() for line in part), starts, strict=True):
        assert line.startswith(start)
    assert (
        lines[-1]
        .split(" tokens, more than --max_prompt_tokens 400")[0]
        .rsplit(" ", 1)[1]
        .replace(",", "")
        .isdigit()
    )


def test_check_lists_at_most_so_many(mess, policy):
    builder, problems = PromptBuilder(policy.tokenizer, policy.form, SETTINGS), []
    text = check(load_samples(mess, problems=problems), builder, problems, show=1)
    assert (
        "dropped, media missing or unusable: 4\n" in text
        and "\n  .. and 3 more" in text
        and "prompt too long" not in text
    )


def test_the_command_checks_and_shows(mess):
    """python data.py as its user calls it: --check reports and ends well; without it the first prompts are shown; an error is one sentence."""

    def command(*args):
        return subprocess.run(
            [sys.executable, "-m", "tools.check_data", *args],
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = command(
        str(mess), "--check", "--workers", "0", "--max_prompt_tokens", "400", "--max_pixels", "2352"
    )
    assert (
        done.returncode == 0
        and done.stdout.startswith("9 records, 3 of them usable\n")
        and "\ndropped, prompt too long: 1\n" in done.stdout
    )


def test_the_command_prints_prompts_and_errors(mess, capsys):
    first = write_lines(mess.parent / "first.jsonl", mess.read_text().split("\n")[0])
    main([str(first), "-n", "1", "--model", str(DEFAULT_MODEL)])
    out = capsys.readouterr().out
    assert out.startswith("--- good: ") and "mel frames [" in out and "gold '1'" in out
    with pytest.raises(DataError, match="no such data file"):
        main([str(mess.parent / "none.jsonl"), "--check", "--workers", "0"])


def test_converting_writes_our_own_records_with_full_paths(tmp_path, monkeypatch, capsys):
    """A dialogue of AVATAR's form, read from another folder: the same question, media and answer afterwards."""
    (tmp_path / "d").mkdir()
    turn = {"role": "user", "content": "<video>\nIs it louder than <audio>?"}
    write_lines(
        tmp_path / "d" / "d.jsonl",
        {
            "messages": [turn],
            "videos": ["v.mp4"],
            "audios": ["a.wav"],
            "problem_type": "numeric",
            "solution": "<answer>1</answer>",
            "hint": "Listen.",
        },
    )
    monkeypatch.chdir(tmp_path)
    main(["d/d.jsonl", "--convert", "ours.jsonl"])
    (before,), (after,) = load_samples("d/d.jsonl"), load_samples("ours.jsonl")
    assert (
        capsys.readouterr().out == "ours.jsonl: 1 records\n"
        and json.loads(Path("ours.jsonl").read_text())["id"] == before.id
    )
    assert (after.id, after.question, after.answer, after.hint) == (
        before.id,
        before.question,
        "1",
        "Listen.",
    )
    assert after.media == [
        ("video", str(tmp_path / "d" / "v.mp4")),
        ("audio", str(tmp_path / "d" / "a.wav")),
    ]


def test_records_survive_a_round_trip(tmp_path, samples):
    save_samples(tmp_path / "copy.jsonl", samples)
    again = load_samples(tmp_path / "copy.jsonl", allow_outside=True)
    assert [(s.id, s.question, s.answer, s.videos, s.scene) for s in again] == [
        (s.id, s.question, s.answer, s.videos, s.scene) for s in samples
    ]


# ------------------------------------------------------------------ the store on disk, and the workers
@pytest.fixture
def clip(tmp_path):
    return Sample(
        "a",
        "?",
        "numeric",
        "1",
        videos=[write_video(tmp_path / "a.mp4", rate=16_000)],
        where="x.jsonl:1",
    )


def same(some: list[Media], others: list[Media]) -> bool:
    return len(some) == len(others) and all(
        np.array_equal(getattr(a, k), getattr(b, k))
        for a, b in zip(some, others, strict=True)
        for k in ("kind", "frames", "sound", "seconds_per_group", "times")
    )


def test_stored_media_are_what_was_decoded(tmp_path, clip, monkeypatch):
    store, fresh = MediaCache(tmp_path / "cache", 2**30), load_media(clip, SETTINGS)
    assert same(load_media(clip, SETTINGS, store), fresh)
    Image.fromarray(np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3)).save(
        tmp_path / "p.png"
    )
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(4000) / 9), 16_000)
    still = Sample(
        "b",
        "?",
        "numeric",
        "1",
        videos=clip.videos,
        images=[str(tmp_path / "p.png")],
        audios=[str(tmp_path / "a.wav")],
    )
    first = load_media(still, SETTINGS, store)
    monkeypatch.setattr(cache, "load_medium", lambda *a, **k: pytest.fail("decoded again"))
    assert same(load_media(clip, SETTINGS, store), fresh)
    again = load_media(still, SETTINGS, store)
    assert (
        same(again, first)
        and [m.kind for m in again] == ["video", "image", "audio"]
        and again[1].sound is None
        and again[0].times is not None
    )
    assert (
        len(list(store.folder.iterdir())) == 3
    )  # one file per medium: the clip is shared by both records


def test_stored_media_are_kept_apart_by_kind_and_soundtrack(tmp_path, clip):
    """The same file as a video, as a video with another sound, and as a sound, which is its track alone."""
    store = MediaCache(tmp_path / "cache", 2**30)
    soundfile.write(tmp_path / "s.wav", np.zeros(16_000), 16_000)
    other, track = (
        Sample(**vars(clip) | {"soundtrack": str(tmp_path / "s.wav")}),
        Sample("w", "?", "numeric", "1", audios=clip.videos),
    )
    assert (
        load_media(clip, SETTINGS, store)[0].sound.any()
        and not load_media(other, SETTINGS, store)[0].sound.any()
    )
    [alone] = load_media(track, SETTINGS, store)
    assert (
        alone.kind == "audio"
        and alone.frames is None
        and np.array_equal(alone.sound, load_media(clip, SETTINGS, store)[0].sound)
    )


def test_stored_media_are_not_used_for_another_file_or_other_settings(tmp_path, clip):
    store = MediaCache(tmp_path / "cache", 2**30)
    few = len(load_media(clip, SETTINGS, store)[0].frames)
    assert len(load_media(clip, replace(SETTINGS, fps=4.0), store)[0].frames) == 2 * few
    write_video(
        clip.videos[0], frames=24, rate=16_000, seconds=3.0
    )  # the same name, another clip: 3 s instead of 2
    assert few == 4 and len(load_media(clip, SETTINGS, store)[0].frames) == 6


def test_a_damaged_cache_file_is_said_and_made_anew(tmp_path, clip):
    store = MediaCache(tmp_path / "cache", 2**30)
    fresh, (path,) = load_media(clip, SETTINGS, store), store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="damaged cache file"):
        assert same(load_media(clip, SETTINGS, store), fresh)
    assert same(load_media(clip, SETTINGS, store), fresh)


def test_the_store_is_bounded_and_drops_the_oldest(tmp_path):
    store = MediaCache(tmp_path / "cache", 3000)
    for i in range(5):
        store.save(store.folder / f"{i}.npz", Media("image", np.zeros((1, 10, 10, 3), np.uint8)))
        os.utime(store.folder / f"{i}.npz", (i, i))
    size = (store.folder / "0.npz").stat().st_size
    store.trim()
    assert (
        sorted(f.name for f in store.folder.iterdir())
        == [f"{i}.npz" for i in range(5 - 3000 // size, 5)]
        and 600 < size < 1500
    )


def test_workers_give_the_same_prompts_and_the_same_errors(tmp_path, policy, clip):
    """A batch with a broken and a missing file and a text with a media token in it: the prompts beside them are right, and `ahead` changes nothing."""
    bad = Sample("b", "?", "numeric", "1", videos=[broken(tmp_path, "b.mp4")], where="x.jsonl:2")
    missing = Sample(
        "c", "?", "numeric", "1", images=[str(tmp_path / "none.png")], where="x.jsonl:3"
    )
    token = Sample("d", "<|VIDEO|>?", "numeric", "1", videos=clip.videos, where="x.jsonl:4")
    several = Sample(
        "e",
        "<image>?",
        "numeric",
        "1",
        images=[picture(tmp_path / "p.png")],
        videos=clip.videos,
        where="x.jsonl:5",
    )
    one, other = (
        PromptBuilder(
            policy.tokenizer,
            policy.form,
            SETTINGS,
            workers=n,
            cache=MediaCache(tmp_path / str(n), 2**30),
        )
        for n in (0, 1)
    )
    batch = [clip, bad, several, missing, token, Sample(**vars(bad) | {"id": "f"})]
    other.prefetch(batch)
    assert set(other.loader.pending) == {s.media_key for s in (clip, bad, several, missing)}
    for _ in range(2):
        for s, a, b in zip(batch, one.build(batch), other.build(batch), strict=True):
            assert type(a) is type(b) is (Prompt if s in (clip, several) else MediaError)
            if isinstance(a, Prompt):
                expected = build_prompt(
                    s, with_mel(load_media(s, SETTINGS), 64), policy.tokenizer, policy.form
                )
                for p in (a, b):
                    assert (
                        torch.equal(p.ids, expected.ids)
                        and torch.equal(p.patches, expected.patches)
                        and p.grids == expected.grids
                    )
                    assert len(p.mels) == 1 and torch.equal(p.mels[0], expected.mels[0])
            else:
                assert str(a) == str(b) and str(a).startswith(f"{s.where} ('{s.id}'): ")
    assert not other.loader.pending
    for builder in (one, other):
        with pytest.raises(DataError, match=r"x.jsonl:2 \('b'\): field 'video': cannot read"):
            builder(bad)
    other.loader.close()
