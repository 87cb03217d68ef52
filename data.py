"""data.py: records -> media -> model inputs. One path for the toy world and for real files.

    python data.py toy_world/v3-seed0/stage2_train_8x2.jsonl      # print the first prompts, their token counts and their timing
    python data.py DATA --check                                   # walk a data set: what is there, what is broken, what would be dropped and why

A record (records.py) names its media. They become
    video   frames by decord, sampled uniformly at `fps` (at most `max_frames`), resized to at most `max_pixels` (Qwen's smart resize)
    sound   the video's own track by decord, or a .wav / .flac file by soundfile; resampled to 16 kHz mono
    image   a still picture by Pillow
and then patches of 14 x 14 x 2 pixels, log-mel features, and token ids in which a video's sound and picture are interleaved in chunks of two
seconds, each token with its 3-axis TMRoPE position. All of it is computed here, without torchvision and torchaudio, and tested
equal to transformers' own processors. One thing differs on purpose: time. transformers and the trainers built on it assume 2 frames
per second whatever the sampling was, so a long clip's picture slides away from its sound; here every frame group carries
its TRUE seconds (`Media.seconds_per_group`). And nothing is cut: Whisper's extractor drops sound after 30 s, Qwen2.5-Omni's after 300 s;
here a sound is as long as it is, and a prompt that gets too long by it is left out and counted (`--max_prompt_tokens`).

Media are found bad by decoding them: processes of their own do that, each record's within `--media_timeout` seconds (Decoders), and what is bad is a
MediaError with the file's path, not the end of a run. Only files are opened, and only inside of the data set's media folder (records.py).

Dimensions: T frames, N patches, M mel bins, L mel frames (10 ms each), P prompt tokens.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from records import DataError, Sample, file_of, load_samples, save_samples

SAMPLE_RATE = 16_000
MIN_SOUND = SAMPLE_RATE // 10  # shorter sound is padded with silence: the tower needs a few frames
SOUND_RATES = (
    1_000,
    1_000_000,
)  # Hz that a sound file may have: a broken header's 1 Hz would make hours of a second
LONGEST = 7 * 86_400  # seconds: what a header says beyond a week is a broken header
LOUDEST = 1e6  # full scale is 1; squares of more than this leave float32 in the mel features
N_FFT, HOP = 400, 160  # Whisper's STFT: 25 ms windows every 10 ms
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's pixel statistics, used by the towers of Qwen2.5
STD = (0.26862954, 0.26130258, 0.27577711)
PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2
TICKS = 1_000  # per second: to what the times of a clip of varying rate are rounded
MIN_PIXELS = (PATCH * MERGE) ** 2  # smallest frame: one token
INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."
TYPE_INSTRUCTION = {
    "multiple choice": "Answer with the letter.",
    "multi-label": "Answer with the letters, joined by commas.",
    "numeric": "Answer with a number.",
    "regression": "Answer with a number.",
    "counting": "Answer with a number.",
    "ocr": "Answer with the text as it is written.",
    "free-form": "Answer briefly.",
    "yes/no": "Answer yes or no.",
    "temporal": "Answer with time spans in seconds, [start, end], joined by ;.",
    "code": "Answer with the code.",
    "localisation": "Answer with place: shape, joined by |.",
}


class MediaError(DataError):
    """A file that is missing, cannot be read, or that the model has no sense for, or a text with a media token of the model's: (`place`, what is wrong,
    the file's path where it is about a file). The record can be left out, and the run goes on."""

    def __str__(self) -> str:
        return ": ".join(self.args[:2])

    @property
    def reason(self) -> str:
        return self.args[1]

    @property
    def path(self) -> str:
        """The file that is bad, or the record's files, joined by commas, where it is not known which; "" when it is not about a file."""
        return self.args[2] if len(self.args) > 2 else ""


class TooLong(DataError):
    """A prompt of more tokens than are allowed. The record can be left out, and the run goes on."""


@dataclass(frozen=True)
class PromptFormat:
    """How a model family reads media; model.py makes one of a config (`prompt_format`). image, video, audio, audio_start, audio_end: token ids.

    per_second: time positions per second. chunk: time positions of picture, then of sound, that are interleaved. n_mels: mel bins, None for a model
    that hears nothing. patch: pixels. timestamps: each frame group is a picture of its own behind its time in words, e.g. "<0.5 seconds>".
    """

    image: int
    video: int
    audio: int | None = None
    audio_start: int | None = None
    audio_end: int | None = None
    per_second: float = 25
    chunk: int = 50
    n_mels: int | None = None
    patch: int = PATCH
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    timestamps: bool = False


# ---------------------------------------------------------------------------------------------- decoding
@dataclass
class Media:
    """One decoded medium. kind: video, image or audio. frames: (T, H, W, 3) uint8, resized; sound: (n,) float32 at 16 kHz; either may be None.

    seconds_per_group: true time between two temporal patches (2 frames), in seconds; times: (T,) that of each frame, None: evenly spread.
    cut: the sound goes on after what is here (`max_sound`).
    """

    kind: str
    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    seconds_per_group: float = 1.0
    mel: np.ndarray | None = (
        None  # (M, L) float32, made of the sound by with_mel, which then drops the sound
    )
    times: np.ndarray | None = None
    cut: bool = False

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self.frames, self.mel) if a is not None)


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = PATCH * MERGE
) -> tuple[int, int]:
    """Qwen2-VL's resize rule: sides divisible by `factor`, area in [min_pixels, max_pixels], aspect kept as nearly as possible.

    >>> smart_resize(56, 168, 784, 2352)
    (28, 84)
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio of {height} x {width} pixels is above 200")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


def resize_frames(
    frames: np.ndarray, min_pixels: int, max_pixels: int, patch: int = PATCH
) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, h, w, 3) uint8 by bicubic resampling to the smart-resized size."""
    h, w = smart_resize(frames.shape[1], frames.shape[2], min_pixels, max_pixels, patch * MERGE)
    if (h, w) == frames.shape[1:3]:
        return frames
    return np.stack(
        [np.asarray(Image.fromarray(f).resize((w, h), Image.Resampling.BICUBIC)) for f in frames]
    )


def frame_indices(
    total: int, video_fps: float, fps: float, max_frames: int
) -> tuple[np.ndarray, float]:
    """Which frames to take, and the seconds from one to the next.

    `fps` per second, at most `max_frames`, an even number (a temporal patch holds 2), spread evenly from the first frame on as
    transformers' Qwen2VLVideoProcessor does. A clip too short for two frames repeats its first.

    >>> frame_indices(32, 8.0, 2.0, 16)      # 4 s at 8 frames per second, sampled twice a second
    (array([ 0,  4,  8, 12, 16, 20, 24, 28]), 0.5)
    """
    n = min(total / video_fps * fps, max_frames, total)
    n = int(n // TEMPORAL_PATCH) * TEMPORAL_PATCH
    if n < TEMPORAL_PATCH:
        return np.zeros(TEMPORAL_PATCH, dtype=int), 1.0 / fps
    return np.arange(0, total, total / n)[:n].astype(int), total / n / video_fps


def read_frames(
    path: str,
    fps: float,
    max_frames: int,
    where: str,
    span: tuple[float, float] | None = None,
    frame_rate: float = 0.0,
) -> tuple[np.ndarray, float, np.ndarray]:
    """Sampled frames (T, H, W, 3) uint8 of a video by decord, the seconds from one to the next, and the time of each (T,), to a whole frame.

    span: the seconds of the video that are shown, time 0 is its start. frame_rate: that of a folder of numbered pictures; 0: a video file.
    decord turns the frames as the file says (phones write them lying), but knows frames by number only: see `frame_times`.
    """
    if frame_rate:
        files = sorted(
            f for f in Path(path).iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        first, total = frames_of(span, len(files), frame_rate)
        index, step = frame_indices(total, frame_rate, fps, max_frames)
        if not files:
            raise MediaError(
                where,
                f"field 'video': the folder {path} holds no .jpg or .png; unpack its frames there, or remove the record",
                path,
            )
        pictures = [read_picture(str(files[first + i]), where) for i in index]
        if len({picture.shape for picture in pictures}) > 1:
            raise MediaError(
                where,
                f"field 'video': the frames in {path} are of different sizes; unpack them again, or remove the record",
                path,
            )
        return np.stack(pictures), step, index / frame_rate
    import decord  # here, not at the top: only video needs it, and it has no wheel for some systems

    try:
        reader = decord.VideoReader(path, num_threads=1)
        rate, times = float(reader.get_avg_fps()), frame_times(reader)
        if times is None:  # a constant rate: number / rate is the time
            if not (rate > 0 and len(reader) / rate < LONGEST):
                raise ValueError(
                    f"its header speaks of {len(reader):,} frames, {rate:g} per second"
                )
            first, total = frames_of(span, len(reader), rate)
            index, step = frame_indices(total, rate, fps, max_frames)
            return reader.get_batch((first + index).tolist()).asnumpy(), step, index / rate
        first, total = frames_of(
            span, round(times[-1] * TICKS), TICKS
        )  # any other rate: as if a tick were a frame
        tick, step = frame_indices(total, TICKS, fps, max_frames)
        shown = np.searchsorted(times[:-1], (first + tick + 0.5) / TICKS, side="right") - 1
        # the time of a frame is when it appears; where one stays on (a slide), each time after the first is the moment at which it was looked at
        appears = np.maximum(times[shown] - first / TICKS, 0.0)
        return (
            reader.get_batch(shown.tolist()).asnumpy(),
            step,
            np.where(np.diff(shown, prepend=-1) == 0, tick / TICKS, appears),
        )
    except (
        Exception
    ) as error:  # decord raises almost anything on a broken file, AssertionErrors, too
        raise MediaError(
            where,
            f"field 'video': cannot read {path} as a video ({first_line(error)}); replace the file or remove the record",
            path,
        ) from None


def frame_times(reader) -> np.ndarray | None:
    """When each frame of a decord reader appears, in seconds after the first, and the end of the last (n + 1,); None: frame i appears at i / average
    rate, to within one frame, which is so for most files, or the file holds no times.

    A varying rate (phones, screen recordings) puts a frame's number minutes away from its time, and the average is a guess in Matroska.
    """
    rate, n = reader.get_avg_fps(), len(reader)
    starts, ends = (
        reader.get_frame_timestamp(np.arange(n)).astype(np.float64).T
    )  # (n,) each; IndexError: the header counts frames that are not there
    times = np.append(starts, max(ends[-1], starts[-1])) - starts[0]
    constant = rate > 0 and np.abs(times[:-1] * rate - np.arange(n)).max() <= 1
    told = (
        np.isfinite(times).all() and (np.diff(times) >= 0).all() and 0 < times[-1] < LONGEST
    )  # MPEG program streams leave times out
    return times if told and not constant else None


def frames_of(span: tuple[float, float] | None, total: int, video_fps: float) -> tuple[int, int]:
    """(first frame, how many) of a span of seconds, at least one frame: frames_of((1.0, 2.5), 32, 8.0) = (8, 12); None: all."""
    if span is None:
        return 0, total
    first = min(round(span[0] * video_fps), total - 1)
    return first, max(1, min(round(span[1] * video_fps), total) - first)


def read_picture(path: str, where: str) -> np.ndarray:
    """(H, W, 3) uint8, turned as its EXIF says; of "clip.mp4#t=12.5" the frame at 12.5 s, or the last one."""
    file, moment, seconds = path.partition("#t=")
    if moment:
        frames, _, _ = read_frames(file, math.inf, 2, where, (float(seconds), float(seconds)))
        return frames[0]
    try:
        if not os.path.isfile(
            path
        ):  # a frame folder may hold a pipe, and opening that waits for ever
            raise OSError("it is not a file")
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise MediaError(
            where,
            f"field 'image': cannot read {path} as a picture ({first_line(error)}); replace the file",
            path,
        ) from None


def read_sound(path: str, is_video: bool, where: str) -> np.ndarray | None:
    """Mono sound at 16 kHz, (n,) float32: a video's own track by decord (None when it has none), a sound file by soundfile and soxr, or by decord where
    soundfile does not know its format (.m4a, some .mp3)."""
    import decord  # these here, not at the top: text and pictures need none of them
    import soundfile
    import soxr

    what, sound, error = f"field '{'video' if is_video else 'audio'}': {path}", None, None
    if not is_video:
        try:
            sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (
            RuntimeError,
            OSError,
            ValueError,
        ) as caught:  # soundfile's errors are RuntimeErrors
            error = caught
    if sound is None:
        try:
            # subtle: reader[:] indexes sample by sample, 20 times slower than the array it holds (decord 0.6.0, its last release)
            sound, rate = (
                decord.AudioReader(path, sample_rate=SAMPLE_RATE, mono=True)._array.T,
                SAMPLE_RATE,
            )
        except Exception as caught:  # as for pictures
            if is_video and "Can't find audio stream" in str(caught):
                return None
            raise MediaError(
                where,
                f"{what} {'has a sound track that cannot be read' if is_video else 'cannot be read as sound'} "
                f"({first_line(error or caught)}); replace the file or remove the record",
                path,
            ) from None
    sound = sound.mean(axis=1)
    if not SOUND_RATES[0] <= rate <= SOUND_RATES[1]:
        raise MediaError(
            where,
            f"{what} says that it has {rate} samples per second, which no sound has; replace the file or remove the record",
            path,
        )
    if rate != SAMPLE_RATE:
        sound = soxr.resample(sound, rate, SAMPLE_RATE)
    if (
        sound.size == 0 or not (np.abs(sound) < LOUDEST).all()
    ):  # subtle: a NaN is not below anything
        raise MediaError(
            where,
            f"{what} holds no sound samples, or some that are no numbers or far beyond full scale; replace the file or remove the "
            "record",
            path,
        )
    return np.asarray(sound, dtype=np.float32)


def first_line(error: BaseException) -> str:
    """The first informative line of an exception's message, without decord's C++ stack."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].split("] ")[-1][:160]


def place(sample: Sample) -> str:
    """How messages name a record: file, line and id."""
    return f"{sample.where or 'record'} ('{sample.id}')"


def load_medium(
    kind: str,
    path: str,
    soundtrack: str | None,
    where: str,
    fps: float,
    max_frames: int,
    min_pixels: int,
    max_pixels: int,
    use_audio: bool = True,
    patch: int = PATCH,
    max_sound: float = 0.0,
    span: tuple[float, float] | None = None,
    frame_rate: float = 0.0,
) -> Media:
    """Decode one file; soundtrack: a sound file in place of the video's own track. Raises MediaError (file, record, field) when it is missing
    or unreadable. A video without a sound track has no sound. max_sound: seconds of sound that are kept; 0: all. span, frame_rate: `read_frames`."""
    for name, file in ((kind, path), ("soundtrack", soundtrack)):
        # nothing but files is opened: a named pipe waits for ever, a device has no end
        if file and not (
            os.path.isdir(file) if name == "video" and frame_rate else os.path.isfile(file_of(file))
        ):
            raise MediaError(
                where,
                f"field '{name}': {file} does not exist or is not a {'folder of frames' if frame_rate else 'file'}; paths are relative "
                "to the data file, or to --media_root",
                file,
            )
    if kind == "audio":
        return keep_sound(Media("audio"), read_sound(path, False, where), None, max_sound)
    if kind == "image":
        frames, step, times = read_picture(path, where)[None], 0.5, None
    else:
        frames, step, times = read_frames(path, fps, max_frames, where, span, frame_rate)
    try:
        media = Media(
            kind,
            resize_frames(frames, min_pixels, max_pixels, patch),
            None,
            step * TEMPORAL_PATCH,
            times=times,
        )
    except ValueError as error:
        raise MediaError(
            where,
            f"field '{kind}': {path}: {first_line(error)}; replace the file or remove the record",
            path,
        ) from None
    if use_audio and kind == "video" and (soundtrack or not frame_rate):
        keep_sound(media, read_sound(soundtrack or path, not soundtrack, where), span, max_sound)
    return media


def keep_sound(
    media: Media, sound: np.ndarray | None, span: tuple[float, float] | None, max_sound: float
) -> Media:
    """Put the sound (n,) of a span of seconds into media, at most max_sound seconds of it (0: all). Where the span holds none it has no sound."""
    if sound is not None and span is not None:
        sound = sound[round(span[0] * SAMPLE_RATE) : round(span[1] * SAMPLE_RATE)]
    if sound is not None and len(sound):
        most = round(max_sound * SAMPLE_RATE) or len(sound)
        media.cut, sound = len(sound) > most, sound[:most]
        media.sound = np.pad(sound, (0, max(0, MIN_SOUND - len(sound))))
    return media


def load_media(sample: Sample, **settings) -> list[Media]:
    """Decode the media a sample names, in its order. settings: those of load_medium."""
    return decode(sample, settings)


# ---------------------------------------------------------------------------------------------- features
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


# ---------------------------------------------------------------------------------------------- prompts
@dataclass
class Prompt:
    """What the model reads. ids (P,) int64; positions (3, P) int64: time, height, width; patches (N, 1176) of all pictures and videos in their order,
    or None; grids: (t, h, w) of each; mels: (M, L) of each sound."""

    sample: Sample
    hinted: bool
    ids: torch.Tensor
    positions: torch.Tensor
    patches: torch.Tensor | None = None
    grids: list[tuple[int, int, int]] = field(default_factory=list)
    mels: list[torch.Tensor] = field(default_factory=list)
    sound: str = "off"  # heard; cut: heard up to `max_sound`; silent: a video that has none; off: none asked for

    @property
    def next_position(self) -> int:
        """The position of the first completion token (all three axes): one past the largest in the prompt."""
        return int(self.positions.max()) + 1


def instructions(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """What stands below the question and its options: the sample's own instruction, or the think / answer one. A hint is added here, and nowhere else."""
    if sample.instruction is not None:
        return sample.instruction
    lines = []
    if audio_caption and sample.audio_caption:
        lines.append(f"Sound: {sample.audio_caption}")
    if hinted and sample.hint:
        lines.append(f"Hint: {sample.hint}")
    return "\n".join([*lines, f"{INSTRUCTION} {TYPE_INSTRUCTION[sample.problem_type]}"])


def question_text(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """The text of the user turn, media placeholders included where the record has them."""
    return "\n".join(
        [
            sample.question,
            *sample.options,
            *filter(None, [instructions(sample, hinted, audio_caption)]),
        ]
    )


def chunks_by_time(times: np.ndarray, per_chunk: int) -> list[np.ndarray]:
    """Split token indices by their time position as transformers and vLLM do: times [0 0 25 50 75], 50 -> [[0 1 2], [3 4]].

    subtle: a token that lies k chunks ahead opens only ONE new chunk, so where frames are further apart than a chunk their tokens are
    spread over the chunks in between. The positions stay true; the order is kept so that prompts equal those of the serving engines.
    """
    chunks, start = [], 0
    for i, at in enumerate(times):
        if at >= (len(chunks) + 1) * per_chunk:
            chunks.append(np.arange(start, i))
            start = i
    return [*chunks, np.arange(start, len(times))]


def vision_positions(
    grid: tuple[int, int, int], seconds_per_group: float, per_second: int
) -> np.ndarray:
    """(3, t * h/2 * w/2) int: time = floor(group * seconds * per_second), then row, then column of each merged patch."""
    t, h, w = grid[0], grid[1] // MERGE, grid[2] // MERGE
    time = np.floor(
        np.arange(t, dtype=np.float32) * np.float32(seconds_per_group) * per_second
    ).astype(np.int64)
    return np.stack(
        [axis.reshape(-1) for axis in np.meshgrid(time, np.arange(h), np.arange(w), indexing="ij")]
    )


def lay_out(
    ids: list[int], form: PromptFormat, media: list[Media], grids: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Expand the media placeholders of a tokenised prompt and give every token its TMRoPE position (Qwen2.5-Omni, section 2).

    Sound inside a video is interleaved with it: [video 0-2 s][audio 0-2 s][video 2-4 s]... between <|audio_bos|> and <|audio_eos|>.
    Text counts on from the last token before it. media and grids (of the pictures and videos) in the order of the placeholders; with timestamps,
    a placeholder for each frame group. Returns ids (P,) and positions (3, P).
    """
    out: list[np.ndarray] = []
    pos: list[np.ndarray] = []
    shared: np.ndarray | None = None
    left, sizes = iter(media), iter(grids)

    def put(token_ids, positions: np.ndarray) -> None:
        out.append(np.atleast_1d(token_ids))
        pos.append(positions)

    def follow(n: int) -> np.ndarray:
        start = pos[-1].max() + 1 if pos else 0
        return np.tile(
            np.arange(n) + start, (3, 1)
        )  # (3, n): text and sound advance all three axes together

    for at, run in itertools.groupby(
        range(len(ids)), key=lambda i: i if ids[i] in (form.image, form.video, form.audio) else -1
    ):
        if at < 0:  # a run of text
            text = [ids[i] for i in run]
            if shared is not None:
                put(text.pop(0), shared)
                shared = None
            if text:
                put(text, follow(len(text)))
            continue
        token, one = ids[at], next(left)
        n_audio = 0 if one.mel is None else audio_tokens(one.mel.shape[1])
        if token == form.audio:
            put(np.full(n_audio, token), follow(n_audio))
        elif token == form.image or not n_audio:
            xyz = vision_positions(next(sizes), one.seconds_per_group, form.per_second)
            put(np.full(xyz.shape[1], token), xyz + follow(1)[0])
        else:
            start = pos[-1].max()
            put(
                form.audio_start, np.full((3, 1), start)
            )  # <|vision_bos|><|audio_bos|> share one position
            xyz, sound = (
                vision_positions(next(sizes), one.seconds_per_group, form.per_second) + start + 1,
                np.tile(np.arange(n_audio), (3, 1)) + start + 1,
            )
            seen, heard = (
                chunks_by_time(xyz[0] - start - 1, form.chunk),
                chunks_by_time(np.arange(n_audio), form.chunk),
            )
            for j in range(max(len(seen), len(heard))):
                if j < len(seen):
                    put(np.full(len(seen[j]), token), xyz[:, seen[j]])
                if j < len(heard):
                    put(np.full(len(heard[j]), form.audio), sound[:, heard[j]])
            put(form.audio_end, follow(1))
            shared = pos[-1]  # <|audio_eos|><|vision_eos|> share one, too
    return np.concatenate(out), np.concatenate(pos, axis=1)


def patches_of(
    media: list[Media], form: PromptFormat
) -> tuple[torch.Tensor | None, list[tuple[int, int, int]]]:
    """The patches of all pictures and videos, one after the other, and the grid of each."""
    made = [
        patchify(m.frames, form.patch, form.mean, form.std) for m in media if m.frames is not None
    ]
    return torch.cat([p for p, _ in made]) if made else None, [grid for _, grid in made]


def build_prompt(
    sample: Sample,
    media: list[Media],
    tokenizer,
    form: PromptFormat,
    hinted: bool = False,
    audio_caption: bool = False,
    seen: tuple | None = None,
) -> Prompt:
    """Media (in the order of sample.media) and text of a sample -> Prompt, through the tokenizer's chat template. seen: their `patches_of`, if known. Raises
    MediaError where the text holds a media token of its own, which the model would take for a picture or a sound, and for sound that the model cannot hear."""
    if form.n_mels is None and any(m.kind == "audio" for m in media):
        raise MediaError(
            place(sample),
            "field 'audio': this model hears nothing; use a Qwen2.5-Omni, or remove the record",
        )
    content = [
        {"type": "text", "text": text} if kind == "text" else {"type": kind}
        for kind, text in sample.segments()
    ]
    tail = instructions(sample, hinted, audio_caption)
    if tail and content[-1]["type"] == "text":  # one text, so that it is tokenised as a whole
        content[-1]["text"] += "\n" + tail
    elif tail:
        content.append({"type": "text", "text": tail})
    turns = (
        [{"role": "system", "content": [{"type": "text", "text": sample.system}]}]
        if sample.system
        else []
    )
    text = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    patches, sizes = seen or patches_of(media, form)
    spread, grids = media, sizes
    if form.timestamps:
        text, spread, grids = write_timestamps(
            text, tokenizer.convert_ids_to_tokens(form.video), media, iter(grids)
        )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = [
        {"image": form.image, "video": form.video, "audio": form.audio}[m.kind] for m in spread
    ]
    if [i for i in ids if i in (form.image, form.video, form.audio)] != wanted:
        raise MediaError(
            place(sample),
            f"its text holds a media token of the model's ({tokenizer.convert_ids_to_tokens(form.image)}, ..), or the chat "
            "template does not write one per medium; remove it from the question, or use the tokenizer of the model's own folder",
        )
    ids, positions = lay_out(ids, form, spread, grids)
    return Prompt(
        sample,
        hinted,
        torch.from_numpy(ids).long(),
        torch.from_numpy(positions).long(),
        patches,
        sizes,
        [torch.as_tensor(m.mel) for m in media if m.mel is not None],
    )


def write_timestamps(
    text: str, token: str, media: list[Media], grids
) -> tuple[str, list[Media], list[tuple[int, int, int]]]:
    """Qwen3-VL's form of videos: a placeholder per frame group, with the bounds around it, behind the mean time of the group's two frames in words.
    -> text, and the media and grids (t = 1) that its placeholders now stand for."""
    bounds = re.compile(
        r"<\|[^<>]*\|>" + re.escape(token) + r"<\|[^<>]*\|>"
    )  # <|vision_start|><|video_pad|><|vision_end|>
    pieces, spread, sizes = [text], [], []
    for one in media:
        if one.frames is None:
            spread.append(one)
            continue
        t, h, w = next(grids)
        spread += [one] * t
        sizes += [(1, h, w)] * t
        if one.kind == "video":
            found = bounds.search(pieces[-1])
            if found is None:
                break
            times = (
                np.arange(len(one.frames)) * (one.seconds_per_group / TEMPORAL_PATCH)
                if one.times is None
                else one.times
            )
            times = (
                times[np.minimum(np.arange(t * TEMPORAL_PATCH), len(times) - 1)]
                .reshape(t, TEMPORAL_PATCH)
                .mean(axis=1)
            )  # as patchify fills up
            pieces[-1:] = [
                pieces[-1][: found.start()]
                + "".join(f"<{time:.1f} seconds>{found[0]}" for time in times),
                pieces[-1][found.end() :],
            ]
    return "".join(pieces), spread, sizes


def share_prefixes(
    prompts: list[Prompt], form: PromptFormat
) -> list[tuple[Prompt, list[list[int]]]]:
    """Neighbouring prompts about the same media begin alike (system turn, media): in order, what some share as a Prompt, and the token ids that follow
    in each. A prompt without such a neighbour, or with media behind the first difference, stands alone: nothing follows it."""
    out: list[tuple[Prompt, list[list[int]]]] = []
    for _, members in itertools.groupby(prompts, key=lambda p: p.sample.media_key):
        some = list(members)
        ids = [p.ids.tolist() for p in some]
        k = next(
            (at for at, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1),
            min(map(len, ids)),
        )
        prefix = replace(some[0], ids=some[0].ids[:k], positions=some[0].positions[:, :k])
        only_text = not any(
            {form.image, form.video, form.audio}.intersection(row[k:]) for row in ids
        )
        counts_on = all(
            (p.positions[:, k:] == prefix.next_position + torch.arange(len(row) - k)).all()
            for p, row in zip(some, ids, strict=True)
        )
        if len(some) > 1 and only_text and counts_on:
            out.append((prefix, [row[k:] for row in ids]))
        else:
            out += [(p, [[]]) for p in some]
    return out


class MediaStore:
    """Decoded media on disk, one file each, in `folder`, at most `max_bytes`: what was written first goes first. Frames and sound are kept as
    they were decoded, so that a hit and a miss give the same bits. The key holds path, size and time of change of each file, and the settings.
    What is being written is a .part; one that is older than an hour was left by a process that was killed, and is removed.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files()

    def files(self) -> list[tuple[int, int, Path]]:
        """(time of change in ns, bytes, path) of what the folder holds, the oldest first. Other processes may be writing and trimming it, too."""
        found = []
        for f in [*self.folder.glob("*.npz"), *self.folder.glob("*.part")]:
            with contextlib.suppress(FileNotFoundError):
                stat = f.stat()
                if f.suffix == ".part" and time.time() - stat.st_mtime > 3600:
                    f.unlink()
                else:
                    found.append((stat.st_mtime_ns, stat.st_size, f))
        return sorted(found)

    def path(self, files: list[str], settings: dict) -> Path:
        stats = [
            (str(Path(f).absolute()), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files
        ]
        return self.folder / (
            hashlib.sha256(json.dumps([stats, settings], sort_keys=True).encode()).hexdigest()[:32]
            + ".npz"
        )

    def load(self, path: Path) -> Media | None:
        try:
            with np.load(path, allow_pickle=False) as f:
                return Media(
                    str(f["kind"]),
                    f.get("frames"),
                    f.get("sound"),
                    float(f["seconds_per_group"]),
                    times=f.get("times"),
                    cut=bool(f["cut"]),
                )
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
        ) as error:
            warnings.warn(
                f"{path}: damaged cache file ({first_line(error)}); decoded again", stacklevel=2
            )
            return None

    def save(self, path: Path, media: Media) -> None:
        partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        with partial.open("wb") as file:
            np.savez(
                file,
                **{
                    k: v
                    for k in ("kind", "frames", "sound", "seconds_per_group", "times", "cut")
                    if (v := getattr(media, k)) is not None
                },
            )
        partial.rename(path)

    def trim(self) -> None:
        """Bring the folder down to its size. Files that are being written count, and stay."""
        files = self.files()
        total = sum(size for _, size, _ in files)
        for _, size, f in files:
            if total <= self.max_bytes:
                break
            if f.suffix == ".npz":
                f.unlink(missing_ok=True)
                total -= size


def check_media(samples: list[Sample], source: str, mend: str, look: int = 256) -> None:
    """Raises DataError when of about `look` media files from all over the data none is there: then it is not the files that are wrong."""
    paths = [file_of(path) for s in samples[:: max(1, len(samples) // look)] for _, path in s.media]
    if paths and not any(os.path.exists(p) for p in paths):
        raise DataError(
            f"{source}: of {len(paths)} of its media files that were looked for none exists, e.g. {paths[0]}; {mend}"
        )


def decode(sample: Sample, settings: dict, store: MediaStore | None = None) -> list[Media]:
    """load_media by way of the store, if there is one."""
    out = []
    for kind, path in sample.media:
        soundtrack = sample.soundtrack if kind == "video" else None
        shown = settings | (
            {"span": sample.span, "frame_rate": sample.frame_rate} if kind == "video" else {}
        )
        files = [file_of(f) for f in (path, soundtrack) if f]
        known = store is not None and all(
            os.path.isfile(f) for f in files
        )  # load_medium says what is missing
        stored = (
            store.path(files, shown | {"kind": kind, "at": path[len(files[0]) :]})
            if known
            else None
        )  # an .mp4 may be a video here and an audio there
        media = store.load(stored) if known else None
        if media is None:
            media = load_medium(kind, path, soundtrack, place(sample), **shown)
            if known:
                store.save(stored, media)
        out.append(media)
    return out


def with_mel(media: list[Media], n_mels: int | None) -> list[Media]:
    """The sounds replaced by their mel features, arrays (M, L): from a worker process a tensor would travel as an open file. n_mels None: dropped."""
    for m in media:
        if m.sound is not None:
            m.mel, m.sound = None if n_mels is None else log_mel(m.sound, n_mels).numpy(), None
    return media


def attempt(sample: Sample, settings: dict, store: MediaStore | None) -> list[Media] | MediaError:
    """decode, with an error as its result: a broken file concerns its own record, not the batch."""
    try:
        return decode(sample, settings, store)
    except MediaError as error:
        return error
    except MemoryError:
        return about_files(sample, "needs more memory to decode than there is")


def about_files(sample: Sample, what: str) -> MediaError:
    """The error that something happened with a record's files, where it is not known with which one."""
    files = ", ".join(
        dict.fromkeys(
            [path for _, path in sample.media] + [sample.soundtrack] * bool(sample.soundtrack)
        )
    )
    return MediaError(
        place(sample), f"{files} {what}; replace the file or remove the record", files
    )


def attempt_with_mel(
    sample: Sample, settings: dict, store: MediaStore | None, n_mels: int | None
) -> list[Media] | MediaError:
    """What a worker process does."""
    media = attempt(sample, settings, store)
    return media if isinstance(media, MediaError) else with_mel(media, n_mels)


def serve(pipe, function: Callable, timeout: float) -> None:
    """What a decoding process does until its pipe closes, which happens when the program at the other end is gone, however that ended."""
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            "1000"
        )  # Linux, when memory runs out: end this process, not the run
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            task = pipe.recv()
            signal.setitimer(
                signal.ITIMER_REAL, timeout + 5
            )  # the system ends a decoder that never returns, should the program be gone by then
            try:
                reply = True, function(*task)
            except (
                Exception
            ) as error:  # whatever it is: raised again by whoever asks for the result
                error.add_note(traceback.format_exc())
                reply = False, error
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(reply)


class Lane(threading.Thread):
    """A decoding process, started when first needed, and the thread that hands it one task after the other and replaces it when it is stuck or dead."""

    def __init__(self, tasks: queue.SimpleQueue, timeout: float, function: Callable):
        super().__init__(daemon=True)
        self.tasks, self.timeout, self.function = tasks, timeout, function
        self.process = self.pipe = None
        self.ended, self.lock = False, threading.RLock()
        self.start()

    def run(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # inherited by the process, also while it starts: Ctrl-C is for the program
        while (task := self.tasks.get()) is not None:
            future, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self.do(*arguments))
                except Exception as error:  # raised again by whoever asks for the result
                    future.set_exception(error)
        if self.process:
            self.stop()

    def do(self, sample: Sample, *rest) -> object:
        """function(sample, *rest) of the process, or the MediaError that says what became of it."""
        for _ in range(2):  # a process may have been ended for want of memory that another one held
            if self.process is None:
                self.launch()
            try:
                self.pipe.send((sample, *rest))
                if not self.pipe.poll(self.timeout):
                    self.stop()
                    return about_files(
                        sample, f"took longer than {self.timeout:g} s to decode (--media_timeout)"
                    )
                done, value = self.pipe.recv()
            except (EOFError, OSError):
                code = self.stop(patience=1)
                if self.ended:
                    raise CancelledError from None
                continue
            if done:
                return value
            raise value
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return about_files(
            sample,
            f"made the decoder crash twice ({how}"
            + (", out of memory?)" if code == -signal.SIGKILL else ")"),
        )

    def launch(self) -> None:
        spawn = multiprocessing.get_context(
            "spawn"
        )  # not forked: a fork of a process with threads and a GPU may hang
        with self.lock:
            if self.ended:
                raise CancelledError
            self.pipe, theirs = spawn.Pipe()
            self.process = spawn.Process(
                target=serve, args=(theirs, self.function, self.timeout), daemon=True
            )
            self.process.start()
        theirs.close()  # or the process's death would not end the pipe
        try:
            if (
                self.pipe.poll(600) and self.pipe.recv() == "ready"
            ):  # it imports this file first, which may take long and is not the decoder's time
                return
        except (EOFError, OSError):
            pass
        raise DataError(
            f"a process that decodes media did not start (exit code {self.stop(patience=1)}); see its message above, or pass --workers 0"
        )

    def stop(self, patience: float = 0) -> int | None:
        """Kill the process, after so many seconds; its exit code, -n: ended by signal n, None: not yet gone (a file system that hangs)."""
        process = self.process
        process.join(patience)
        process.kill()
        process.join(5)
        self.pipe.close()
        self.process = None
        return process.exitcode


def end_lanes(tasks: queue.SimpleQueue, lanes: list[Lane]) -> None:
    """Kill the processes; what was not decoded by then is cancelled."""
    for lane in lanes:
        with lane.lock:
            lane.ended = True
            if lane.process:
                lane.process.kill()
    while not tasks.empty():
        if task := tasks.get():
            task[0].cancel()
    for _ in lanes:
        tasks.put(None)


class Decoders:
    """n processes that decode, with a deadline: submit(sample, *rest) -> the Future of function(sample, *rest).

    decord may spin for ever in native code that no exception ends (a header that counts more frames than there are), and a decoder's segmentation fault
    takes its process along. So a process that takes longer than `timeout` seconds is killed and replaced, and the result is a MediaError; one that
    dies is replaced and the task tried once more before it is one. function: what the processes do, of a module's top level.
    Processes and threads end by close(), with this object, and with the program, even when that is killed.
    """

    def __init__(self, n: int, timeout: float, function: Callable = attempt_with_mel):
        resource_tracker.ensure_running()  # multiprocessing's helper; here, because to start it unblocks Ctrl-C in the thread that does
        self.tasks: queue.SimpleQueue = queue.SimpleQueue()
        self.lanes = [Lane(self.tasks, timeout, function) for _ in range(n)]
        self.close = weakref.finalize(self, end_lanes, self.tasks, self.lanes)

    def submit(self, sample: Sample, *rest) -> Future:
        future: Future = Future()
        self.tasks.put((future, (sample, *rest)))
        return future


class PromptMaker:
    """Sample -> Prompt, keeping the decoded media of up to `memory_bytes` in memory (oldest out first), so that a clip is decoded once.

    form: the model's way of reading media. settings: load_medium's keyword arguments. store: decoded media on disk. workers: processes that decode
    what `ahead` announces while the model works, each record's within `timeout` seconds; 0: threads of this process decode when they are asked for,
    without a limit, so that one bad file may hang it: for tests and tools. max_prompt_tokens: longer prompts are refused; 0: none is.
    silent: paths of the videos met so far that have no sound track although `use_audio` asks for it; they are asked without sound.
    """

    def __init__(
        self,
        tokenizer,
        form: PromptFormat,
        memory_bytes: int = 2**32,
        audio_caption: bool = False,
        store: MediaStore | None = None,
        workers: int = 0,
        timeout: float = 120.0,
        max_prompt_tokens: int = 0,
        use_audio: bool = True,
        **settings,
    ):
        self.tokenizer, self.form, self.audio_caption, self.max_prompt_tokens = (
            tokenizer,
            form,
            audio_caption,
            max_prompt_tokens,
        )
        self.settings, self.store = (
            settings | {"use_audio": use_audio and form.n_mels is not None, "patch": form.patch},
            store,
        )
        self.threads = ThreadPoolExecutor(
            min(8, os.cpu_count() or 1)
        )  # the decoders release the GIL
        self.workers = Decoders(workers, timeout) if workers else None
        self.coming: dict[str, Future] = {}
        self.cache: dict[str, list[Media]] = {}
        self.bad: dict[
            str, MediaError
        ] = {}  # other records may name the same files: a deadline is waited for once
        self.silent: set[str] = set()
        self.free, self.since_trim = memory_bytes, 0

    def ahead(self, samples: list[Sample]) -> None:
        """Have workers decode the media of samples that will be asked for soon."""
        for s in samples if self.workers else []:
            if not any(s.media_key in known for known in (self.cache, self.coming, self.bad)):
                self.coming[s.media_key] = self.workers.submit(
                    s, self.settings, self.store, self.form.n_mels
                )

    def each(
        self, samples: list[Sample], hinted: list[bool] | None = None
    ) -> list[Prompt | MediaError | TooLong]:
        """For every sample its prompt, or the error that says why there is none. What is not yet decoded is decoded in the workers, or in threads."""
        self.ahead(samples)
        missing = {
            s.media_key: s
            for s in samples
            if s.media_key not in self.cache and s.media_key not in self.bad
        }
        if self.workers:
            decoded = {key: self.coming.pop(key).result() for key in missing}
        else:  # mel features here and not in the threads: each thread would start torch's own team of threads
            found = self.threads.map(
                lambda s: attempt(s, self.settings, self.store), missing.values()
            )
            decoded = {
                key: m if isinstance(m, MediaError) else with_mel(m, self.form.n_mels)
                for key, m in zip(missing, found, strict=True)
            }
        self.bad |= {key: media for key, media in decoded.items() if isinstance(media, MediaError)}
        patches: dict[str, tuple] = {}  # questions about one clip share its patches
        prompts = [
            self._prompt(
                s,
                next(
                    known[s.media_key]
                    for known in (decoded, self.bad, self.cache)
                    if s.media_key in known
                ),
                h,
                patches,
            )
            for s, h in zip(samples, hinted or [False] * len(samples), strict=True)
        ]
        for key, media in decoded.items():
            if isinstance(media, MediaError):
                continue
            self.free -= sum(m.nbytes for m in media)
            while self.free < 0 and self.cache:
                self.free += sum(m.nbytes for m in self.cache.pop(next(iter(self.cache))))
            self.cache[key] = media
        self.since_trim += len(decoded)
        if self.store and self.since_trim >= 64:
            self.store.trim()
            self.since_trim = 0
        return prompts

    def _prompt(
        self,
        sample: Sample,
        media: list[Media] | MediaError,
        hinted: bool,
        patches: dict[str, tuple],
    ) -> Prompt | MediaError | TooLong:
        if isinstance(media, MediaError):
            return MediaError(
                place(sample), *media.args[1:]
            )  # other records may name the same file
        if self.settings["use_audio"]:
            self.silent.update(
                path
                for (kind, path), m in zip(sample.media, media, strict=True)
                if kind == "video" and m.mel is None
            )
        try:
            if sample.media_key not in patches:
                patches[sample.media_key] = patches_of(media, self.form)
            prompt = build_prompt(
                sample,
                media,
                self.tokenizer,
                self.form,
                hinted,
                self.audio_caption,
                patches[sample.media_key],
            )
        except MediaError as error:
            return error
        silent = self.settings["use_audio"] and any(
            m.kind == "video" and m.mel is None for m in media
        )
        prompt.sound = (
            "cut"
            if any(m.cut for m in media)
            else "silent"
            if silent
            else "heard"
            if prompt.mels
            else "off"
        )
        if 0 < self.max_prompt_tokens < len(prompt.ids):
            return TooLong(
                f"{place(sample)}: its prompt has {len(prompt.ids):,} tokens, more than --max_prompt_tokens {self.max_prompt_tokens:,}; lower "
                "--max_frames or --max_pixels, raise the limit, or shorten the media"
            )
        return prompt

    def many(self, samples: list[Sample], hinted: list[bool] | None = None) -> list[Prompt]:
        """Prompts of a batch. Raises the first error."""
        prompts = self.each(samples, hinted)
        for p in prompts:
            if isinstance(p, DataError):
                raise p
        return prompts

    def __call__(self, sample: Sample, hinted: bool = False) -> Prompt:
        return self.many([sample], [hinted])[0]


# ---------------------------------------------------------------------------------------------- looking at a data set
def check(
    samples: list[Sample], make: PromptMaker, problems: list[str], batch: int = 64, show: int = 20
) -> str:
    """A report on a data set: records by type, media by kind, prompt lengths in tokens, and what would be dropped and why. problems: sentences on
    records that could not be read (load_samples). Every medium is decoded, as training would."""
    lengths, dropped = [], {"record cannot be read": list(problems)}
    for i in tqdm(range(0, len(samples), batch), desc="decoding", unit_scale=batch):
        make.ahead(samples[i : i + 2 * batch])
        for prompt in make.each(samples[i : i + batch]):
            if isinstance(prompt, Prompt):
                lengths.append(len(prompt.ids))
            else:
                dropped.setdefault(
                    "prompt too long"
                    if isinstance(prompt, TooLong)
                    else "media missing or unusable",
                    [],
                ).append(str(prompt))
    lines = [f"{len(samples) + len(problems):,} records, {len(lengths):,} of them usable"]
    for title, names in (
        ("by problem type", [s.problem_type for s in samples]),
        ("by media", [" + ".join(k for k, _ in s.media) or "text" for s in samples]),
        ("by stage", [str(s.stage) for s in samples if s.stage is not None]),
        ("with a hint", ["yes" for s in samples if s.hint]),
        ("with a trace for stage 0", ["yes" for s in samples if s.trace]),
    ):
        if names:
            lines.append(
                f"{title}: "
                + ", ".join(f"{name} {n:,}" for name, n in Counter(names).most_common())
            )
    if lengths:
        low, middle, high, top = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
        lines.append(
            f"tokens per prompt: least {low:,}, median {middle:,}, 95 % below {high:,}, most {top:,}; {sum(lengths):,} in all"
        )
    if make.silent:
        lines.append(
            f"videos without a sound track, asked without sound: {len(make.silent):,}, e.g. {min(make.silent)}"
        )
    for reason, sentences in dropped.items():
        if sentences:
            lines.append(f"dropped, {reason}: {len(sentences):,}")
            lines += [f"  {sentence}" for sentence in sentences[:show]] + (
                [f"  .. and {len(sentences) - show:,} more"] if len(sentences) > show else []
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    from model import DEFAULT_MODEL, load_tokenizer_and_config, prompt_format

    parser = argparse.ArgumentParser(
        description="Look at a data set as the model will.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help="records of any format of records.py")
    parser.add_argument(
        "--check",
        action="store_true",
        help="walk the whole data set and report; without: print the first prompts",
    )
    parser.add_argument(
        "--convert",
        default="",
        help="write the records to this file in this project's own JSONL, media paths in full",
    )
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="model folder or hub name; only its tokenizer and config are read",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to; empty: the data file's own folder",
    )
    parser.add_argument(
        "--allow_outside",
        action="store_true",
        help="trust the data set to name files outside of its media folder",
    )
    parser.add_argument("-n", type=int, default=2, help="how many prompts to print")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--max_frames", type=int, default=16)
    parser.add_argument("--max_pixels", type=int, default=50_176)
    parser.add_argument("--max_prompt_tokens", type=int, default=16_384)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--media_timeout",
        type=float,
        default=120.0,
        help="with --check: seconds to decode the media of a record, then they count as unusable",
    )
    args = parser.parse_args(argv)
    if args.convert:
        samples = load_samples(
            args.data,
            Path(args.media_root).absolute() if args.media_root else None,
            allow_outside=args.allow_outside,
        )
        for s in samples:
            for paths in (s.videos, s.images, s.audios):
                paths[:] = [os.path.abspath(p) for p in paths]
            s.soundtrack = s.soundtrack and os.path.abspath(s.soundtrack)
        save_samples(Path(args.convert), samples)
        print(f"{args.convert}: {len(samples):,} records")
        return
    tokenizer, config = load_tokenizer_and_config(args.model)
    make = PromptMaker(
        tokenizer,
        prompt_format(config),
        workers=args.workers if args.check else 0,
        timeout=args.media_timeout,
        max_prompt_tokens=args.max_prompt_tokens,
        fps=args.fps,
        max_frames=args.max_frames,
        min_pixels=MIN_PIXELS,
        max_pixels=args.max_pixels,
    )
    if args.check:
        problems: list[str] = []
        print(
            check(
                load_samples(
                    args.data, args.media_root, problems=problems, allow_outside=args.allow_outside
                ),
                make,
                problems,
            )
        )
        return
    for sample in load_samples(args.data, args.media_root, allow_outside=args.allow_outside)[
        : args.n
    ]:
        made = make(sample)
        print(
            f"--- {sample.id}: {len(made.ids)} tokens, grids {made.grids}, mel frames {[m.shape[1] for m in made.mels]}, "
            f"last position {made.next_position - 1}, gold {sample.answer!r}"
        )
        print(question_text(sample))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
