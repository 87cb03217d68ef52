"""media/frames.py: a video, or a folder of numbered pictures -> sampled, resized frames.

Frames are sampled evenly in time, and each sampled frame keeps its true time:

    4 s at 8 frames per second, fps = 2      frames 0 4 8 12 16 20 24 28, one every 0.5 s
    60 s at 30 frames per second, 16 frames  frames 0 112 225 .., one every 3.75 s

Videos come in two kinds. At a constant rate the number of a frame tells its time. At a varying rate
(phones, screen recordings) it does not: a frame's number may lie minutes away from its time. Such a
clip is sampled at moments, and each moment shows the frame that was on the screen then.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from formats.sample import file_of, moment_of
from media.container import UnverifiedSeek, open_container
from media.errors import MediaError, first_line
from media.pictures import is_webp, read_moving_webp, read_picture
from media.prompt_format import MERGE, PATCH, TEMPORAL_PATCH
from media.video import (
    LONGEST,
    Timeline,
    decoded_timeline,
    displayed_size,
    in_square_pixels,
    make_timeline,
    open_timeline,
    read_numbers,
    stretched,
    video_stream,
)

TICKS = 1_000  # per second; the times of a clip of varying rate are looked up to a millisecond

PICTURES = (".jpg", ".jpeg", ".png")  # what counts as a frame in a folder of frames


@dataclass
class SampledFrames:
    """Frames of a video, sampled evenly in time."""

    pixels: np.ndarray  # (T, H, W, 3) uint8, resized where `convert` did so
    seconds_per_frame: float  # from one sample to the next
    times: np.ndarray | None  # (T,) seconds since the start of what is shown; None: a picture


# ------------------------------------------------------------------ size
class AspectRatioError(ValueError):
    """A picture far longer than wide, which Qwen's resize rule refuses."""


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = PATCH * MERGE
) -> tuple[int, int]:
    """Qwen2-VL's resize rule: both sides divisible by `factor`, the area between min_pixels and
    max_pixels, the aspect ratio kept as nearly as possible.

    >>> smart_resize(56, 168, 784, 2352)
    (28, 84)
    """
    if max(height, width) / min(height, width) > 200:
        raise AspectRatioError(f"aspect ratio of {height} x {width} pixels is above 200")
    # to the nearest multiples, and where the area is then out of bounds, scaled into them
    h = round(height / factor) * factor
    w = round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


class Resize:
    """Resizes the frames of one video, (H, W, 3) uint8 -> (h, w, 3) uint8, bicubic, all of them to
    the size that `smart_resize` gives the first one."""

    def __init__(self, min_pixels: int, max_pixels: int, patch: int = PATCH):
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.factor = patch * MERGE
        self.size: tuple[int, int] | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        if self.size is None:
            height, width = frame.shape[:2]
            self.size = smart_resize(height, width, self.min_pixels, self.max_pixels, self.factor)
        h, w = self.size
        if frame.shape[:2] == (h, w):
            return frame
        return np.asarray(Image.fromarray(frame).resize((w, h), Image.Resampling.BICUBIC))


# ------------------------------------------------------------------ which frames
def frame_indices(
    total: int, video_fps: float, fps: float, max_frames: int
) -> tuple[np.ndarray, float]:
    """Which frames to take of a clip of `total` frames, and the seconds from one to the next.

    `fps` per second, at most `max_frames`, an even number (a temporal patch holds 2), spread evenly
    from the first frame on as transformers' Qwen2VLVideoProcessor does. A clip too short for two
    frames repeats its first.

    >>> frame_indices(32, 8.0, 2.0, 16)      # 4 s at 8 frames per second, sampled twice a second
    (array([ 0,  4,  8, 12, 16, 20, 24, 28]), 0.5)
    """
    n = min(total / video_fps * fps, max_frames, total)
    n = int(n // TEMPORAL_PATCH) * TEMPORAL_PATCH  # rounded down to an even number
    if n < TEMPORAL_PATCH:
        return np.zeros(TEMPORAL_PATCH, dtype=int), 1.0 / fps
    index = np.arange(0, total, total / n)[:n].astype(int)  # (T,)
    return index, total / n / video_fps


def frames_in_span(
    span: tuple[float, float] | None, total: int, video_fps: float
) -> tuple[int, int]:
    """(first frame, number of frames) of a span of seconds, at least one frame; None: all of them.

    >>> frames_in_span((1.0, 2.5), 32, 8.0)
    (8, 12)
    """
    if span is None:
        return 0, total
    first = min(round(span[0] * video_fps), total - 1)
    end = min(round(span[1] * video_fps), total)
    return first, max(1, end - first)


# ------------------------------------------------------------------ reading
def read_frames(
    path: str,
    fps: float,
    max_frames: int,
    where: str,
    span: tuple[float, float] | None = None,
    frame_rate: float = 0.0,
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
    decoder: str = "pyav",
) -> SampledFrames:
    """The sampled frames of a video.

    where: the record's name, for messages. span: the seconds of the video that are shown; time 0 is
    its first frame. frame_rate: that of a folder of numbered pictures; 0: the video is a file.
    convert: makes each frame (H, W, 3) smaller as soon as it is decoded (`Resize`).
    decoder: "pyav" or "decord". Raises MediaError.
    """
    if frame_rate:
        return read_frame_folder(path, fps, max_frames, where, span, frame_rate, convert)
    try:
        if decoder == "decord":
            return read_by_decord(path, fps, max_frames, where, span, convert)
        if is_webp(path):
            return read_by_pillow(path, fps, max_frames, span, convert)
        return read_by_pyav(path, fps, max_frames, where, span, convert)
    except (AspectRatioError, MemoryError):
        raise
    # PyAV, Pillow and decord raise almost anything on a broken file
    except Exception as error:
        reason = error.reason if isinstance(error, MediaError) else first_line(error)
        raise MediaError(
            where,
            f"field 'video': cannot read {path} as a video ({reason}); "
            "replace the file or remove the record",
            path,
        ) from None


def read_by_pyav(path, fps, max_frames, where, span, convert) -> SampledFrames:
    """Frames by PyAV, from the times in the file, or else by decoding it from its beginning."""
    timeline = open_timeline(path, where)
    choice = choose(timeline, fps, max_frames, span)
    try:
        frames = read_numbers(path, where, timeline, choice.numbers, convert)
    except UnverifiedSeek:
        timeline = decoded_timeline(path, where)
        choice = choose(timeline, fps, max_frames, span)
        frames = read_numbers(path, where, timeline, choice.numbers, convert)
    return SampledFrames(np.stack(frames), choice.seconds_per_frame, choice.times)


def read_by_decord(path, fps, max_frames, where, span, convert) -> SampledFrames:
    """Frames by decord, for comparison: it shows other frames than a player does in some files
    (docs/data.md)."""
    try:
        import decord
    except ImportError:
        raise MediaError(
            where,
            "decord is not installed; pip install decord (Linux on x86-64 only), or use "
            "--decoder pyav",
            path,
        ) from None

    reader = decord.VideoReader(path, num_threads=1)
    stamps = reader.get_frame_timestamp(np.arange(len(reader))).astype(float)  # (n, 2): start, end
    rate = float(reader.get_avg_fps())
    last = stamps[-1, 1] - stamps[-1, 0]
    timeline = make_timeline(stamps[:, 0].tolist(), last, [rate])
    choice = choose(timeline, fps, max_frames, span)
    size = size_of_oblong(path, where)
    frames = []
    for number in choice.numbers:
        pixels = reader[number].asnumpy()
        frames.append(convert(stretched(pixels, size) if size else pixels))
    return SampledFrames(np.stack(frames), choice.seconds_per_frame, choice.times)


def size_of_oblong(path: str, where: str) -> tuple[int, int] | None:
    """(width, height) of a video as it is shown, where its pixels are not square: decord turns
    frames, but does not stretch them. None where they are, or where only decord reads the file."""
    try:
        with open_container(path, where) as container:
            stream = video_stream(container, path, where)
            context = stream.codec_context
            stored = (context.width, context.height)
            if in_square_pixels(*stored, stream) == stored:
                return None
        return displayed_size(path, where)
    except MediaError:
        return None


def read_by_pillow(path, fps, max_frames, span, convert) -> SampledFrames:
    """Frames of an animated WebP, which PyAV does not read."""
    seconds, frames = read_moving_webp(path)
    starts = [0.0, *np.cumsum(seconds)[:-1].tolist()]
    choice = choose(make_timeline(starts, seconds[-1], []), fps, max_frames, span)
    kept = {}
    for number, frame in enumerate(frames):
        if number in choice.numbers:
            kept[number] = convert(frame)
    pixels = np.stack([kept[number] for number in choice.numbers])
    return SampledFrames(pixels, choice.seconds_per_frame, choice.times)


class Choice(NamedTuple):
    """Which frames of a video are sampled."""

    numbers: list[int]  # T of them, ascending
    seconds_per_frame: float
    times: np.ndarray  # (T,) seconds since the start of what is shown


def choose(
    timeline: Timeline, fps: float, max_frames: int, span: tuple[float, float] | None
) -> Choice:
    """Frames by number at a constant rate, where number / rate is the time, and else by moments.
    Raises ValueError for times that cannot be."""
    if not timeline.end < LONGEST:
        raise ValueError(f"its frames lie {timeline.end / 86_400:,.0f} days apart")

    if timeline.rate is not None:
        rate = timeline.rate
        first, total = frames_in_span(span, len(timeline.times), rate)
        index, seconds_per_frame = frame_indices(total, rate, fps, max_frames)  # (T,)
        return Choice((first + index).tolist(), seconds_per_frame, index / rate)

    # moments are sampled as if every millisecond were a frame
    ticks_shown = max(1, round(timeline.end * TICKS))
    first, total = frames_in_span(span, ticks_shown, TICKS)
    ticks, seconds_per_frame = frame_indices(total, TICKS, fps, max_frames)  # (T,)

    # each moment shows the last frame that has appeared by then (half a tick: against rounding)
    moments = (first + ticks + 0.5) / TICKS  # (T,) seconds
    shown = np.searchsorted(timeline.times, moments, side="right") - 1  # (T,) frame numbers

    # The time of a frame is when it appears. Where it stays on (a slide) and is sampled again, it
    # is the moment of the sample: else all samples of a slide would stand at one time.
    appears = np.maximum(timeline.times[shown] - first / TICKS, 0.0)  # (T,)
    stays = np.diff(shown, prepend=-1) == 0  # (T,)
    times = np.where(stays, ticks / TICKS, appears)
    return Choice(shown.tolist(), seconds_per_frame, times)


def read_frame_folder(
    path: str,
    fps: float,
    max_frames: int,
    where: str,
    span: tuple[float, float] | None,
    frame_rate: float,
    convert: Callable[[np.ndarray], np.ndarray],
) -> SampledFrames:
    """Frames of a folder of pictures in the order of their names, `frame_rate` of them a second."""
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise MediaError(
            where,
            f"field 'video': the folder {path} holds no .jpg or .png; unpack its frames there, "
            "or remove the record",
            path,
        )

    # At a constant rate, the number of a file tells its time.
    first, total = frames_in_span(span, len(files), frame_rate)
    index, seconds_per_frame = frame_indices(total, frame_rate, fps, max_frames)  # (T,)
    pictures = []
    sizes = set()
    for i in index:
        picture = read_picture(str(files[first + i]), where)  # (H, W, 3)
        sizes.add(picture.shape)
        pictures.append(convert(picture))
    if len(sizes) > 1:
        raise MediaError(
            where,
            f"field 'video': the frames in {path} are of different sizes; unpack them again, "
            "or remove the record",
            path,
        )
    return SampledFrames(np.stack(pictures), seconds_per_frame, index / frame_rate)


def read_moment(path: str, where: str, decoder: str = "pyav") -> np.ndarray:
    """(H, W, 3) uint8: the picture of "clip.mp4#t=12.5", which is the frame of a video at 12.5 s,
    or its last one. Raises MediaError."""
    seconds = moment_of(path)
    if seconds is None:
        raise MediaError(where, f"field 'image': {path} names no time in seconds behind #t=", path)
    span = (seconds, seconds)
    file = file_of(path, "image")
    frames = read_frames(file, math.inf, TEMPORAL_PATCH, where, span, decoder=decoder)
    return frames.pixels[0]
