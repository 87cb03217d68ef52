"""media/decode.py: a media file -> frames and sound."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from formats.sample import DataError, Sample, file_of
from media.prompt_format import MERGE, PATCH, SAMPLE_RATE, TEMPORAL_PATCH

MIN_SOUND = SAMPLE_RATE // 10  # shorter sound is padded with silence: the tower needs a few frames

SOUND_RATES = (
    1_000,
    1_000_000,
)  # Hz that a sound file may have: a broken header's 1 Hz would make hours of a second

LONGEST = 7 * 86_400  # seconds: what a header says beyond a week is a broken header

LOUDEST = 1e6  # full scale is 1; squares of more than this leave float32 in the mel features

TICKS = 1_000  # per second: to what the times of a clip of varying rate are rounded


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


def check_media(samples: list[Sample], source: str, mend: str, look: int = 256) -> None:
    """Raises DataError when of about `look` media files from all over the data none is there: then it is not the files that are wrong."""
    paths = [file_of(path) for s in samples[:: max(1, len(samples) // look)] for _, path in s.media]
    if paths and not any(os.path.exists(p) for p in paths):
        raise DataError(
            f"{source}: of {len(paths)} of its media files that were looked for none exists, e.g. {paths[0]}; {mend}"
        )


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
