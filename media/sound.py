"""media/sound.py: a sound file or the sound track of a video -> mono sound at 16 kHz.

Sound is read block by block to its end, whatever a header says of its length, and put on a clock.
Time 0 is the first frame that the video shows, or, in a file of sound alone, the first sample:

    the track starts 1.5 s after the picture     1.5 s of silence, then the track
    it starts 0.2 s before the picture           the first 0.2 s are dropped
    its time stamps leave out 3 s                3 s of silence there

Channels are averaged, and soxr resamples. Only the seconds that are asked for are kept, and reading
stops behind them.
"""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from media.container import decoded_frames, open_container
from media.errors import MediaError, first_line
from media.prompt_format import SAMPLE_RATE
from media.video import video_stream

# Hz that a sound file may have. A broken header's 1 Hz would make hours of a second.
LOWEST_RATE = 1_000
HIGHEST_RATE = 1_000_000

LOUDEST = 1e6  # full scale is 1; the squares of more than this leave float32 in the mel features

LONGEST = 2 * 3600  # seconds of one sound; its mel features alone take 0.4 GB

# Seconds by which the stamp of a block may differ from where the last one ended: containers round
# them to milliseconds. More is a gap, or an overlap.
JITTER = 0.02

# Seconds that the stamps of a video's track may jump back, to blocks that overlap. More is another
# clock, and in a sound file any jump is: files that were joined are heard one after the other.
BACKWARDS = 1.0

BLOCK = 1 << 16  # samples that are handled at a time


class Block(NamedTuple):
    """Some samples of a sound, in the order of playing."""

    samples: np.ndarray  # (n,) float32: the mean of the channels; full scale is 1
    rate: int  # samples per second
    time: float | None  # seconds on the clock of the sound's file; None: where the last one ended


class Clock:
    """Puts blocks of sound on a clock and keeps the samples [first, stop) of it, at 16 kHz.

    `made` counts all samples at 16 kHz since time 0, kept or not, so it is a time, too.
    """

    def __init__(self, first: int, stop: float, backwards: float):
        import soxr  # here, not at the top: text and pictures do not need it

        self.soxr = soxr
        self.first = first
        self.stop = stop
        self.backwards = backwards  # seconds that stamps may jump back on one clock
        self.made = 0
        self.pieces: list[np.ndarray] = []

        # of the blocks' own rate
        self.rate = 0
        self.resampler = None
        self.position = 0  # samples since time 0
        self.shift = 0.0  # seconds that are added to stamps, once they have jumped back

    def add(self, block: Block) -> None:
        """The next block. What is late leaves silence before it; of what overlaps, or lies before
        time 0, the beginning is dropped."""
        samples = block.samples
        if block.rate != self.rate:
            self._change_rate(block.rate)

        if block.time is not None:
            gap = round((block.time + self.shift) * self.rate) - self.position
            started = self.made > 0 or self.position > 0
            if started and gap < -self.backwards * self.rate:
                self.shift -= gap / self.rate
            elif not started or abs(gap) > JITTER * self.rate:
                self._feed_silence(gap)
                samples = samples[max(0, -gap) :]
        self._feed(samples)

    def end(self) -> np.ndarray:
        """The kept samples, (n,) float32."""
        self._change_rate(0)
        return np.concatenate([np.zeros(0, np.float32), *self.pieces])

    def _change_rate(self, rate: int) -> None:
        """Take what the resampler still holds, and go on with another one (0: with none)."""
        if self.resampler is not None:
            self._keep(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.resampler = None
        if rate not in (0, SAMPLE_RATE):
            self.resampler = self.soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        self.rate = rate
        self.position = round(self.made / SAMPLE_RATE * rate)

    def _feed_silence(self, n: int) -> None:
        """n samples of silence, none where n is below 0."""
        while n > 0 and self.made <= self.stop:
            self._feed(np.zeros(min(n, BLOCK), np.float32))
            n -= BLOCK

    def _feed(self, samples: np.ndarray) -> None:
        self.position += len(samples)
        if self.resampler is not None:
            samples = self.resampler.resample_chunk(samples)
        self._keep(samples)

    def _keep(self, samples: np.ndarray) -> None:
        """Keep what lies in [first, stop) of samples at 16 kHz."""
        start = max(0, self.first - self.made)
        stop = max(0.0, min(self.stop - self.made, len(samples)))
        if start < stop:
            self.pieces.append(samples[start : int(stop)])
        self.made += len(samples)


# ------------------------------------------------------------------ reading
def read_sound(
    path: str,
    is_video: bool,
    where: str,
    span: tuple[float, float] | None = None,
    max_sound: float = 0.0,
    field: str = "",
) -> tuple[np.ndarray | None, bool]:
    """(n,) float32, mono, 16 kHz: the sound track of a video, or a sound file; and whether it goes
    on after what was kept of it.

    The sound is None for a video that has no track, or an empty one, or one of an unknown codec.
    span: the seconds that are kept; None: all. max_sound: how many of these at most; 0: all.
    where: the record's name, for messages; field: the record's that names the file, "video" or
    "audio" where it is left out. Raises MediaError for a sound that cannot be read or cannot be
    one.
    """
    subject = f"field '{field or ('video' if is_video else 'audio')}': {path}"
    mend = "replace the file or remove the record"
    start, stop = span or (0.0, math.inf)
    first = round(start * SAMPLE_RATE)
    last = stop if math.isinf(stop) else round(stop * SAMPLE_RATE)  # the sample after the span
    limit = min(last, first + round(max_sound * SAMPLE_RATE)) if max_sound else last

    longest = first + LONGEST * SAMPLE_RATE
    clock = Clock(first, min(limit, longest), BACKWARDS if is_video else JITTER)
    try:
        for block in blocks_of(path, is_video, where):
            if not LOWEST_RATE <= block.rate <= HIGHEST_RATE:
                raise ValueError(f"it says that it has {block.rate} samples per second")
            clock.add(block)
            if clock.made > clock.stop:
                break
        sound = clock.end()
        if clock.made > longest and longest < limit:
            raise ValueError(f"it is longer than {LONGEST // 3600} hours")
    except (ImportError, MemoryError):
        raise
    # PyAV and soundfile raise almost anything on a broken file
    except Exception as error:
        reason = error.reason if isinstance(error, MediaError) else first_line(error)
        fault = "has a sound track that cannot be read" if is_video else "cannot be read as sound"
        raise MediaError(where, f"{subject} {fault} ({reason}); {mend}", path) from None

    if clock.made == 0 and is_video:
        return None, False
    # trap: written as "all are below", since a NaN is not above anything either
    if clock.made == 0 or not (np.abs(sound) < LOUDEST).all():
        raise MediaError(
            where,
            f"{subject} holds no sound samples, or some that are no numbers or far beyond full "
            f"scale; {mend}",
            path,
        )
    return sound, limit < last and clock.made > limit


def blocks_of(path: str, is_video: bool, where: str) -> Iterator[Block]:
    """The blocks of a sound: by soundfile of a .wav, by PyAV of everything else.

    Only first bytes tell what a file is. Not even of a .flac is soundfile asked: it stops where the
    header says, or fails where that leaves the length open.
    """
    if not is_video and is_wav(path):
        return wav_blocks(path)
    return track_blocks(path, is_video, where)


def is_wav(path: str) -> bool:
    """Whether a file is a .wav with a length. One from a pipe, whose header says 0, is for PyAV."""
    import soundfile

    with open(path, "rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return False
    try:
        return soundfile.info(path).frames > 0
    except soundfile.LibsndfileError:
        return False


def wav_blocks(path: str) -> Iterator[Block]:
    """The blocks of a .wav."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        while len(samples := file.read(BLOCK, dtype="float32", always_2d=True)):  # (n, channels)
            yield Block(samples.mean(axis=1), file.samplerate, None)


def track_blocks(path: str, is_video: bool, where: str) -> Iterator[Block]:
    """The blocks of a sound track, on the clock of the video's picture or of the sound itself.

    None where a video has no track, or none that a decoder of ours knows. Raises ValueError for a
    sound file without one, and where nothing of the track can be decoded.
    """
    with open_container(path, where) as container:
        stream = default_track(container)
        if stream is None:
            if is_video:
                return
            raise ValueError("it has no sound track of a known codec")

        origin = start_of_picture(path, where) if is_video else None
        n_blocks = 0
        errors = []
        for frame in decoded_frames(container, stream, errors):
            n_blocks += 1
            if origin is None:
                origin = frame.time or 0.0
            time = None if frame.time is None else frame.time - origin
            yield Block(mono_samples(frame), frame.sample_rate, time)

    # a player goes on behind what is broken; where stamps tell of it, there is silence
    if errors and n_blocks == 0:
        raise ValueError(f"nothing of its {stream.codec_context.name} sound can be decoded")
    if errors:
        warnings.warn(
            f"{path}: broken pieces of its sound, which are left out: {len(errors)}",
            stacklevel=2,
        )


def default_track(container):
    """The sound track that a player plays: the first one that is marked as the default, or else the
    first. None where there is none of a known codec."""
    import av

    tracks = [track for track in container.streams.audio if track.codec_context is not None]
    for track in tracks:
        if track.disposition & av.stream.Disposition.default:
            return track
    return tracks[0] if tracks else None


def start_of_picture(path: str, where: str) -> float:
    """The time of the first frame that a video shows, on the clock of its file."""
    with open_container(path, where) as container:
        # an AVI stores no times: its tracks begin together, and what FFmpeg makes up for the first
        # frame counts a delay that no player has
        if container.format.name == "avi":
            return 0.0
        stream = video_stream(container, path, where)
        for frame in decoded_frames(container, stream, []):
            return frame.time or 0.0
    return 0.0


def mono_samples(frame) -> np.ndarray:
    """(n,) float32, full scale 1: the mean of the channels of a PyAV frame."""
    samples = frame.to_ndarray()  # (channels, n), or (1, n * channels) with channels side by side
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T  # (channels, n)

    # whole numbers of b bits are +-2^(b - 1); those of 8 bits stand around 128
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) - 128.0
        return samples.mean(axis=0) / 128.0
    scale = 1.0
    if samples.dtype.kind == "i":
        scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return (samples.mean(axis=0, dtype=np.float64) / scale).astype(np.float32)
