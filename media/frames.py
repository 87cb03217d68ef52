"""media/frames.py: a video, or a folder of numbered pictures -> sampled, resized frames.

Frames are sampled evenly in time, and each sampled frame keeps its true time:

    4 s at 8 frames per second, fps = 2      frames 0 4 8 12 16 20 24 28, one every 0.5 s
    60 s at 30 frames per second, 16 frames  frames 0 112 225 .., one every 3.75 s

Videos come in two kinds. At a constant rate the number of a frame tells its time. At a varying rate
(phones, screen recordings) it does not: a frame's number may lie minutes away from its time. Such a
clip is sampled at moments, and each moment shows the frame that was on the screen then.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from media.errors import MediaError, first_line
from media.pictures import read_picture
from media.prompt_format import MERGE, PATCH, TEMPORAL_PATCH

LONGEST = 7 * 86_400  # seconds; a header that speaks of more than a week is a broken header

TICKS = 1_000  # per second; the times of a clip of varying rate are looked up to a millisecond

PICTURES = (".jpg", ".jpeg", ".png")  # what counts as a frame in a folder of frames


@dataclass
class SampledFrames:
    """Frames of a video, sampled evenly in time."""

    pixels: np.ndarray  # (T, H, W, 3) uint8
    seconds_per_frame: float  # from one sample to the next
    times: np.ndarray | None  # (T,) seconds since the start of what is shown; None: a picture


# ------------------------------------------------------------------ size
def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = PATCH * MERGE
) -> tuple[int, int]:
    """Qwen2-VL's resize rule: both sides divisible by `factor`, the area between min_pixels and
    max_pixels, the aspect ratio kept as nearly as possible.

    >>> smart_resize(56, 168, 784, 2352)
    (28, 84)
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio of {height} x {width} pixels is above 200")
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


def resize_frames(
    frames: np.ndarray, min_pixels: int, max_pixels: int, patch: int = PATCH
) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, h, w, 3) uint8, bicubic, to the size of `smart_resize`."""
    h, w = smart_resize(frames.shape[1], frames.shape[2], min_pixels, max_pixels, patch * MERGE)
    if (h, w) == frames.shape[1:3]:
        return frames
    resized = []
    for frame in frames:
        picture = Image.fromarray(frame).resize((w, h), Image.Resampling.BICUBIC)
        resized.append(np.asarray(picture))  # (h, w, 3)
    return np.stack(resized)


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


def frame_times(reader) -> np.ndarray | None:
    """(n + 1,) seconds at which the n frames of a decord reader appear, and at which the last ends.

    Counted from the first frame. None where a frame's number tells its time: frame i appears at i /
    average rate, to within one frame, which is so for most files. None also where the file holds no
    times that can be believed.
    """
    rate = reader.get_avg_fps()  # of a Matroska file of varying rate, this is a guess
    n = len(reader)

    # trap: decord raises IndexError where the header counts frames that are not there; the caller
    # reports it
    stamps = reader.get_frame_timestamp(np.arange(n)).astype(np.float64)  # (n, 2): start, end
    starts = stamps[:, 0]
    end = max(stamps[-1, 1], starts[-1])
    times = np.append(starts, end) - starts[0]  # (n + 1,)

    # a constant rate, by far the most common
    if rate > 0 and np.abs(times[:-1] * rate - np.arange(n)).max() <= 1:
        return None

    # MPEG program streams, for one, leave times out
    in_order = np.isfinite(times).all() and (np.diff(times) >= 0).all()
    return times if in_order and 0 < times[-1] < LONGEST else None


# ------------------------------------------------------------------ reading
def read_frames(
    path: str,
    fps: float,
    max_frames: int,
    where: str,
    span: tuple[float, float] | None = None,
    frame_rate: float = 0.0,
) -> SampledFrames:
    """The sampled frames of a video.

    where: the record's name, for messages. span: the seconds of the video that are shown; time 0 is
    its start. frame_rate: that of a folder of numbered pictures; 0: the video is a file. Raises
    MediaError.
    """
    if frame_rate:
        return read_frame_folder(path, fps, max_frames, where, span, frame_rate)
    import decord  # here, not at the top: only video needs it, and some systems have no wheel of it

    try:
        # decord turns the frames as the file says: phones write them lying on a side
        reader = decord.VideoReader(path, num_threads=1)
        rate = float(reader.get_avg_fps())
        times = frame_times(reader)
        if times is None:
            return sample_constant_rate(reader, rate, fps, max_frames, span)
        return sample_varying_rate(reader, times, fps, max_frames, span)
    # decord raises almost anything on a broken file, AssertionErrors, too
    except Exception as error:
        raise MediaError(
            where,
            f"field 'video': cannot read {path} as a video ({first_line(error)}); "
            "replace the file or remove the record",
            path,
        ) from None


def sample_constant_rate(
    reader, rate: float, fps: float, max_frames: int, span: tuple[float, float] | None
) -> SampledFrames:
    """Frames of a decord reader by number: at a constant rate, number / rate is the time."""
    n = len(reader)
    if not (rate > 0 and n / rate < LONGEST):
        raise ValueError(f"its header speaks of {n:,} frames, {rate:g} per second")
    first, total = frames_in_span(span, n, rate)
    index, seconds_per_frame = frame_indices(total, rate, fps, max_frames)  # (T,)
    pixels = reader.get_batch((first + index).tolist()).asnumpy()  # (T, H, W, 3)
    return SampledFrames(pixels, seconds_per_frame, index / rate)


def sample_varying_rate(
    reader, times: np.ndarray, fps: float, max_frames: int, span: tuple[float, float] | None
) -> SampledFrames:
    """Frames of a decord reader by time. times: (n + 1,) of `frame_times`."""
    # moments are sampled as if every millisecond were a frame
    first, total = frames_in_span(span, round(times[-1] * TICKS), TICKS)
    ticks, seconds_per_frame = frame_indices(total, TICKS, fps, max_frames)  # (T,)

    # each moment shows the last frame that has appeared by then (half a tick: against rounding)
    moments = (first + ticks + 0.5) / TICKS  # (T,) seconds
    shown = np.searchsorted(times[:-1], moments, side="right") - 1  # (T,) frame numbers
    pixels = reader.get_batch(shown.tolist()).asnumpy()  # (T, H, W, 3)

    # The time of a frame is when it appears. Where it stays on (a slide) and is sampled again, it
    # is the moment of the sample: else all samples of a slide would stand at one time.
    appears = np.maximum(times[shown] - first / TICKS, 0.0)  # (T,)
    stays = np.diff(shown, prepend=-1) == 0  # (T,)
    return SampledFrames(pixels, seconds_per_frame, np.where(stays, ticks / TICKS, appears))


def read_frame_folder(
    path: str,
    fps: float,
    max_frames: int,
    where: str,
    span: tuple[float, float] | None,
    frame_rate: float,
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
    pictures = [read_picture(str(files[first + i]), where) for i in index]
    if len({picture.shape for picture in pictures}) > 1:
        raise MediaError(
            where,
            f"field 'video': the frames in {path} are of different sizes; unpack them again, "
            "or remove the record",
            path,
        )
    return SampledFrames(np.stack(pictures), seconds_per_frame, index / frame_rate)


def read_moment(path: str, where: str) -> np.ndarray:
    """(H, W, 3) uint8: the picture of "clip.mp4#t=12.5", which is the frame of a video at 12.5 s,
    or its last one. Raises MediaError."""
    file, _, seconds = path.partition("#t=")
    span = (float(seconds), float(seconds))
    return read_frames(file, math.inf, TEMPORAL_PATCH, where, span).pixels[0]
