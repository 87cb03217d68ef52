"""media/features.py: frames -> patches, sound -> mel features."""

import numpy as np
import torch

from media.decode import Media
from media.prompt_format import MEAN, MERGE, PATCH, SAMPLE_RATE, STD, TEMPORAL_PATCH

N_FFT, HOP = 400, 160  # Whisper's STFT: 25 ms windows every 10 ms


def patchify(
    frames: np.ndarray, patch: int = PATCH, mean: tuple = MEAN, std: tuple = STD
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """(T, H, W, 3) uint8 -> patches (N, 3 * 2 * patch * patch) float32 in Qwen2-VL's order and the grid (t, h, w) in patches.

    Neighbouring 2 x 2 patches stand together (the merger joins them). An odd T repeats the last frame, a still picture itself.
    """
    if len(frames) % TEMPORAL_PATCH:
        frames = np.concatenate([frames, frames[-1:]])
    x = (frames.astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std)  # (T, H, W, 3)
    t, h, w = len(x) // TEMPORAL_PATCH, x.shape[1] // patch, x.shape[2] // patch
    x = x.reshape(t, TEMPORAL_PATCH, h // MERGE, MERGE, patch, w // MERGE, MERGE, patch, 3)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # (t, h/2, w/2, 2, 2, 3, temporal, patch, patch)
    return torch.from_numpy(np.ascontiguousarray(x.reshape(t * h * w, -1))), (t, h, w)


_MEL_FILTERS: dict[int, torch.Tensor] = {}


def log_mel(sound: np.ndarray, n_mels: int) -> torch.Tensor:
    """Whisper's log-mel features, (n_mels, L) float32 with L = ceil(n / 160): the valid part of what WhisperFeatureExtractor gives.

    The extractor pads with silence before the STFT, so the last frames see zeros, never a reflection; so do ours.
    """
    if n_mels not in _MEL_FILTERS:
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            1 + N_FFT // 2, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        _MEL_FILTERS[n_mels] = torch.from_numpy(filters).float()
    length = -(-len(sound) // HOP)
    padded = torch.nn.functional.pad(
        torch.from_numpy(sound), (0, length * HOP - len(sound) + 2 * N_FFT)
    )
    spectrum = (
        torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True).abs()
        ** 2
    )
    mel = (_MEL_FILTERS[n_mels].T @ spectrum).clamp(min=1e-10).log10()  # (M, L + 6)
    mel = torch.maximum(mel, mel.max() - 8.0)
    return ((mel + 4.0) / 4.0)[:, :length].contiguous()


def audio_tokens(mel_frames: int) -> int:
    """Tokens the audio tower makes of L mel frames (two stride-2 steps, 25 tokens per second): audio_tokens(400) = 100."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def with_mel(media: list[Media], n_mels: int | None) -> list[Media]:
    """The sounds replaced by their mel features, arrays (M, L): from a worker process a tensor would travel as an open file. n_mels None: dropped."""
    for m in media:
        if m.sound is not None:
            m.mel, m.sound = None if n_mels is None else log_mel(m.sound, n_mels).numpy(), None
    return media
