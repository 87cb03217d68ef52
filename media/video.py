"""media/video.py: a video file -> the times of its frames, and frames by their numbers.

A clip is what a player shows, at the player's times. So frames have the times that the file gives
them; samples that an edit list hides (before the start of a clip that was cut without encoding) are
no frames; and time 0 is the first frame that can be decoded. Pixels that are not square (DVDs,
broadcasts) are stretched: 320 x 180 of pixels twice as wide as high become 640 x 180.

    Timeline          when each frame appears
    open_timeline     by the time stamps in the file, or, where these cannot be trusted, by decoding
                      all of it
    read_numbers      some of the frames, in their order

A seek is believed only where the file stores time stamps (SEEKABLE), and only if it returns the
very time stamp that was asked for. Else the video is decoded in order from its beginning.
"""

import bisect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from media.container import UnverifiedSeek, decoded_frames, open_container
from media.errors import MediaError
from media.pictures import over_white

# Pixels of one frame: the largest picture of any level of H.264 and HEVC, 8,192 x 4,352.
MOST_PIXELS = 35_651_584

# Containers that store the time of every frame. AVI and MPEG program streams do not, and FFmpeg
# makes times up, which differ behind a seek.
SEEKABLE = ("mov", "matroska", "mpegts", "asf", "flv")

# How many times as wide as high a pixel may be, or as high as wide; a header that says more is
# broken.
OBLONGEST = 10

ONE_FRAME = 1.01  # frames by which a time may be off at a constant rate; FFmpeg's AVIs are by one

# Those in which a seek asks when a frame is shown. In the others it asks when it is decoded.
SEEK_BY_PTS = ("mov", "matroska")

LONGEST = 7 * 86_400  # seconds; a header that speaks of more than a week is a broken header

TO_H264 = "convert it to H.264 (ffmpeg -i FILE -c:v libx264 -c:a aac NEW.mp4)"


@dataclass
class Timeline:
    """When the frames of a video appear.

    times: (n,) seconds since the first frame, ascending. end: seconds at which the last one ends.
    rate: frames per second where the number of a frame tells its time (frame i appears at i / rate,
    to within one frame); None: the rate varies. stamps: (n,) the time stamp by which each decoded
    frame is recognised; None: frames must be counted. keys: ascending time stamps at which decoding
    can begin, each with the position to which to seek for it.
    """

    times: np.ndarray
    end: float
    rate: float | None
    stamps: list[int] | None = None
    keys: list[tuple[int, int]] | None = None


# ------------------------------------------------------------------ the stream
def video_stream(container, path: str, where: str):
    """The video that a player shows: the first one that is marked as the default, or else the
    first; cover pictures of sounds are none. Raises MediaError for a file without one."""
    import av

    marks = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & marks.attached_pic]
    if not streams:
        raise MediaError(
            where,
            "it holds no video; name a sound in the field 'audio', or replace the file",
            path,
        )
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise MediaError(where, f"its codec is unknown here; {TO_H264}", path)
    # beside the frames of a moving AVIF stands a still, marked as they are
    moving = [stream for stream in known if stream.frames != 1] or known
    stream = next((s for s in moving if s.disposition & marks.default), moving[0])

    # checked before anything is decoded: a few kB may hold frames of many GB
    context = stream.codec_context
    check_pixels(context.width, context.height, path, where)
    check_pixels(*in_square_pixels(context.width, context.height, stream), path, where)
    context.options = {"max_pixels": str(MOST_PIXELS)}
    context.thread_count = 1  # other processes decode on the other cores
    return stream


def check_pixels(width: int, height: int, path: str, where: str) -> None:
    """Raises MediaError for frames that are too large to decode."""
    if width * height > MOST_PIXELS:
        raise MediaError(
            where,
            f"its frames of {width:,} x {height:,} pixels are larger than {MOST_PIXELS:,} pixels; "
            "scale it down",
            path,
        )


def in_square_pixels(width: int, height: int, stream) -> tuple[int, int]:
    """(width, height) of a frame as it is shown, before it is turned: the width by as much as its
    pixels are wider than high, or narrower."""
    ratio = stream.sample_aspect_ratio
    if not ratio or not 1 / OBLONGEST <= ratio <= OBLONGEST:
        return width, height
    return max(1, round(width * ratio)), height


# ------------------------------------------------------------------ times
def open_timeline(path: str, where: str) -> Timeline:
    """The timeline of a video, by its time stamps where that is enough. Raises MediaError."""
    with open_container(path, where) as container:
        timeline = stored_timeline(container, video_stream(container, path, where))
    return timeline or decoded_timeline(path, where)


def stored_timeline(container, stream) -> Timeline | None:
    """The timeline by the packets alone, without decoding; None where it cannot be trusted."""
    form = container.format.name.split(",")[0]
    if form not in SEEKABLE:
        return None
    stamps: list[int] = []
    keys: list[tuple[int, int]] = []
    duration = 0
    for packet in packets_of(container, stream):
        if packet.pts is None or packet.dts is None:
            return None
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if form in SEEK_BY_PTS else packet.dts))
        if packet.is_discard:  # decoded for the frames behind it, but not shown
            continue
        if not stamps or packet.pts >= max(stamps[-1], 0):
            duration = packet.duration or 0  # of the last one, at the end
        stamps.append(packet.pts)

    # two frames at one time: some of these packets are no frames
    stamps.sort()
    if not stamps or len(set(stamps)) < len(stamps):
        return None
    seconds = [stamp * float(stream.time_base) for stamp in stamps]
    timeline = make_timeline(seconds, duration * float(stream.time_base), header_rates(stream))
    timeline.stamps = stamps
    timeline.keys = sorted(keys)
    return timeline


def packets_of(container, stream) -> Iterator:
    """The packets of a stream, up to the place where the file is broken."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        if packet.size:  # the last one only says that there are no more
            yield packet


def decoded_timeline(path: str, where: str) -> Timeline:
    """The timeline by decoding the whole video. Raises MediaError where nothing can be decoded."""
    with open_container(path, where) as container:
        stream = video_stream(container, path, where)
        codec = stream.codec_context.name
        rates = header_rates(stream)
        step = 1 / rates[0] if rates else 0.0
        seconds: list[float] = []
        errors: list[Exception] = []
        for frame in decoded_frames(container, stream, errors):
            time = frame.time
            # a frame without a time, or with one that was there before, comes one step later
            if seconds and (time is None or time <= seconds[-1]):
                time = seconds[-1] + step
            seconds.append(time or 0.0)
    if not seconds:
        reason = f"nothing of its {codec} video can be decoded"
        if errors:
            reason += f" ({errors[0].strerror})"
        raise MediaError(where, f"{reason}; {TO_H264}", path)
    return make_timeline(seconds, step, rates)


def header_rates(stream) -> list[float]:
    """The frames per second that the header speaks of, the likeliest first."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    return [float(rate) for rate in rates if rate]


def make_timeline(seconds: list[float], last: float, rates: list[float]) -> Timeline:
    """A Timeline. seconds: of each frame on the file's clock. last: how long the last one stays.
    rates: what may be the frames per second."""
    times = np.array(seconds) - seconds[0]  # (n,)
    n = len(times)

    # a constant rate, by far the most common: that of the header, or else the measured one
    candidates = list(rates)
    if n > 1 and times[-1] > 0:
        candidates.append((n - 1) / times[-1])
    rate = None
    for candidate in candidates:
        if candidate > 0 and np.abs(times * candidate - np.arange(n)).max() <= ONE_FRAME:
            rate = candidate
            break

    # trap: with frames stored out of order, what is stored as a duration is no time on the screen
    if rates:
        last = min(last or math.inf, 1 / rates[0])
    return Timeline(times, times[-1] + last, rate)


# ------------------------------------------------------------------ frames
def read_numbers(
    path: str,
    where: str,
    timeline: Timeline,
    numbers: list[int],
    convert: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """The frames of these numbers (counted from 0, in any order), each (H, W, 3) uint8 and
    upright, as `convert` makes them smaller at once: a large video costs what is kept of it.

    Raises UnverifiedSeek where they are not at the times of the timeline, then call it with
    `decoded_timeline`; and MediaError for a frame that is too large.
    """
    kept: dict[int, np.ndarray] = {}
    with open_container(path, where) as container:
        stream = video_stream(container, path, where)
        find = by_count if timeline.stamps is None else by_stamp
        matrix = None
        for number, frame in find(container, stream, timeline, sorted(set(numbers))):
            check_pixels(frame.width, frame.height, path, where)
            check_pixels(*in_square_pixels(frame.width, frame.height, stream), path, where)
            if not kept:
                matrix = display_matrix(frame)
            kept[number] = convert(upright(rgb_of(frame, stream), matrix))
    return [kept[number] for number in numbers]


def by_count(container, stream, timeline: Timeline, numbers: list[int]) -> Iterator:
    """(number, frame) of ascending numbers, by decoding from the beginning and counting."""
    wanted = set(numbers)
    for i, frame in enumerate(decoded_frames(container, stream, [])):
        if i in wanted:
            yield i, frame
        if i == numbers[-1]:
            return
    raise UnverifiedSeek("it has fewer frames than before")


def by_stamp(container, stream, timeline: Timeline, numbers: list[int]) -> Iterator:
    """(number, frame) of ascending numbers, by seeking to the key frame before each."""
    frames = decoded_frames(container, stream, [])
    key_stamps = [stamp for stamp, _ in timeline.keys]

    # time 0 is the first frame that can be decoded: without a key frame before it, none can
    frame = next(frames, None)
    if frame is None or frame.pts != timeline.stamps[0]:
        raise UnverifiedSeek("its first frame is not the one that its time stamps tell of")
    for number in numbers:
        stamp = timeline.stamps[number]

        # trap: only a key frame that is not later helps, though frames shown before it may be
        # stored behind it
        i = bisect.bisect_right(key_stamps, stamp) - 1
        if i > 0 and key_stamps[i] > frame.pts:
            container.seek(timeline.keys[i][1], stream=stream)
            frames = decoded_frames(container, stream, [], key_stamps[: i + 1])
            frame = next(frames, None)
        while frame is not None and frame.pts is not None and frame.pts < stamp:
            frame = next(frames, None)
        if frame is None or frame.pts != stamp:
            raise UnverifiedSeek(f"asked for {stamp}, got {frame and frame.pts}")
        yield number, frame


def rgb_of(frame, stream) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded frame, its pixels made square, a transparent one (GIF, animated
    PNG) over white.

    trap: uncompressed video of 32 bits has four bytes per pixel, and most programs that write it
    leave the fourth at 0.
    """
    has_alpha = any(component.is_alpha for component in frame.format.components)
    if has_alpha and stream.codec_context.name != "rawvideo":
        pixels = over_white(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"))
    else:
        pixels = frame.to_ndarray(format="rgb24")
    return stretched(pixels, in_square_pixels(frame.width, frame.height, stream))


def stretched(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 resized to size (width, height)."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def display_matrix(frame) -> np.ndarray | None:
    """(3, 3) of how a player turns the frames of a video; None: not at all.

    trap: ask one frame only. PyAV's frame and its side data name each other, so that one that was
    asked stays in memory until Python looks for such circles.
    """
    content = frame.side_data.get("DISPLAYMATRIX")
    return None if content is None else np.frombuffer(bytes(content), np.int32).reshape(3, 3)


def upright(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) turned and mirrored as a player shows it."""
    if matrix is None:
        return pixels

    # (a, b) is where the picture's x axis points, (c, d) where its y axis does
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) < abs(b):  # x goes down or up: rows and columns change places
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def displayed_size(path: str, where: str) -> tuple[int, int]:
    """(width, height) in pixels of a video as it is shown, by its first frame. Raises MediaError.

    It opens the file, so that it belongs into a decoder process (media/workers.py).
    """
    with open_container(path, where) as container:
        stream = video_stream(container, path, where)
        for frame in decoded_frames(container, stream, []):
            pixels = upright(rgb_of(frame, stream), display_matrix(frame))
            height, width = pixels.shape[:2]
            return width, height
    raise MediaError(where, f"nothing of its video can be decoded; {TO_H264}", path)
