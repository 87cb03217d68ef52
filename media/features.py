"""media/features.py: frames -> patches for the vision tower, sound -> log-mel features for the
audio tower.

Both equal what transformers' own processors give (tests/media/test_features.py), without
torchvision and torchaudio. One thing differs on purpose: Whisper's extractor cuts sound after 30 s
and Qwen2.5-Omni's after 300 s; here a sound is as long as it is.

Dimensions: T frames of H x W pixels, N patches, n samples of sound, M mel bins, L mel frames (10 ms
each).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from media.decode import Media
from media.prompt_format import MEAN, MERGE, PATCH, SAMPLE_RATE, STD, TEMPORAL_PATCH, PromptFormat

# Whisper's STFT, in samples at 16 kHz: windows of 25 ms every 10 ms
N_FFT = 400
HOP = 160


class VisionInput(NamedTuple):
    """What the vision tower reads: the patches of all pictures and videos, one after the other."""

    patches: torch.Tensor | None  # (N, 3 * 2 * patch * patch) float32; None: no picture at all
    grids: list[tuple[int, int, int]]  # (t, h, w) of each picture and video, in patches


def vision_input(media: list[Media], form: PromptFormat) -> VisionInput:
    """The patches of all pictures and videos among media, and the grid of each."""
    patches = []
    grids = []
    for medium in media:
        if medium.frames is not None:
            pixels, grid = patchify(medium.frames, form.patch, form.mean, form.std)
            patches.append(pixels)
            grids.append(grid)
    return VisionInput(torch.cat(patches) if patches else None, grids)


def patchify(
    frames: np.ndarray, patch: int = PATCH, mean: tuple = MEAN, std: tuple = STD
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """(T, H, W, 3) uint8 -> patches (N, 3 * 2 * patch * patch) float32 in Qwen2-VL's order, and the
    grid (t, h, w) in patches, N = t * h * w.

    The 2 x 2 patches that the tower merges into one token stand together. An odd T repeats the last
    frame, and so does a still picture.
    """
    if len(frames) % TEMPORAL_PATCH:
        frames = np.concatenate([frames, frames[-1:]])
    x = (frames.astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std)  # (T, H, W, 3)
    t = len(x) // TEMPORAL_PATCH
    h = x.shape[1] // patch
    w = x.shape[2] // patch

    # split every axis: time, rows and columns into (merged patch, patch inside of it, pixel), then
    # colours
    x = x.reshape(t, TEMPORAL_PATCH, h // MERGE, MERGE, patch, w // MERGE, MERGE, patch, 3)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # (t, h/2, w/2, 2, 2, 3, temporal, patch, patch)
    x = x.reshape(t * h * w, -1)  # (N, 3 * 2 * patch * patch)
    return torch.from_numpy(np.ascontiguousarray(x)), (t, h, w)


@cache
def mel_filters(n_mels: int) -> torch.Tensor:
    """Whisper's triangular filters, (M, N_FFT / 2 + 1)."""
    from transformers.audio_utils import mel_filter_bank  # here: it takes seconds to import

    filters = mel_filter_bank(
        1 + N_FFT // 2, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )  # (N_FFT / 2 + 1, M)
    return torch.from_numpy(filters).float().T


def log_mel(sound: np.ndarray, n_mels: int) -> torch.Tensor:
    """Whisper's log-mel features of a sound (n,): (M, L) float32 with L = ceil(n / 160), which is
    the valid part of what WhisperFeatureExtractor gives."""
    # the extractor pads with silence before the STFT, so that the last frames see zeros, never a
    # reflection
    length = -(-len(sound) // HOP)
    silence = length * HOP - len(sound) + 2 * N_FFT
    padded = torch.nn.functional.pad(torch.from_numpy(sound), (0, silence))
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(padded, N_FFT, HOP, window=window, return_complex=True)  # (F, L + 6)
    power = spectrum.abs() ** 2  # (F, L + 6)

    # logarithm, nothing more than 8 powers of ten below the loudest, about [-1, 1]
    mel = (mel_filters(n_mels) @ power).clamp(min=1e-10).log10()  # (M, L + 6)
    mel = torch.maximum(mel, mel.max() - 8.0)  # (M, L + 6)
    return ((mel + 4.0) / 4.0)[:, :length].contiguous()  # (M, L)


def audio_tokens(mel_frames: int, chunk: int | None = None) -> int:
    """Tokens that the audio tower makes of L mel frames, by two steps of stride 2: 25 per second.

    chunk: mel frames that the tower takes at a time. Qwen3-Omni's makes one token of 8 of them, or
    of what is left at the end of a chunk: of 100 frames, which are a second, 13.

    >>> audio_tokens(400), audio_tokens(400, chunk=100), audio_tokens(401, chunk=100)
    (100, 52, 53)
    """
    if chunk is not None:
        chunks, rest = divmod(mel_frames, chunk)
        return chunks * -(-chunk // 8) + -(-rest // 8)
    after_convolution = (mel_frames - 1) // 2 + 1
    return (after_convolution - 2) // 2 + 1


def with_mel(media: list[Media], n_mels: int | None) -> list[Media]:
    """Replace the sounds by their mel features; n_mels None: drop them. Changes and returns media.

    The features are arrays, not tensors: from a decoder process a tensor would travel as an open
    file.
    """
    for medium in media:
        if medium.sound is not None:
            medium.mel = None if n_mels is None else log_mel(medium.sound, n_mels).numpy()
            medium.sound = None
    return media
