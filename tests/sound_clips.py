"""Clips whose sound tells its time: noise that comes and goes, made on the picture's clock."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr

RATE = 48_000
FPS = 25
LEAD = 2  # seconds of noise before the picture's time 0


def noise(seconds: float) -> np.ndarray:
    """(n,) float32 at RATE from LEAD seconds before time 0 on."""
    n = int((seconds + LEAD) * RATE)
    samples = np.random.default_rng(5).standard_normal(n)
    samples = np.convolve(samples, np.ones(8) / 8, mode="same")  # below 6 kHz
    swell = np.sin(2 * np.pi * 1.3 * np.arange(n) / RATE) > 0
    return (0.3 * samples * swell).astype(np.float32)


def write_noise(
    path: Path,
    codec: str = "libx264",
    sound_codec: str = "aac",
    picture_start: float = 0.0,
    sound_start: float = 0.0,
    seconds: float = 3.0,
    **container,
) -> np.ndarray:
    """A clip whose picture and sound start at these times of the file. Returns the sound that
    belongs to the picture's time 0 and after, at 16 kHz."""
    wave = noise(seconds)
    with av.open(str(path), "w", options=container) as box:
        video = box.add_stream(codec, rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = box.add_stream(sound_codec, rate=RATE, layout="mono")
        for i in range(int(seconds * FPS)):
            pixels = np.full((64, 64, 3), 3 * i % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(picture_start * FPS) + i
            frame.time_base = Fraction(1, FPS)
            box.mux(video.encode(frame))
        box.mux(video.encode())

        # sample k of the wave is heard k / RATE - LEAD seconds after the first frame
        first = round((sound_start - picture_start + LEAD) * RATE)
        add_sound(box, audio, wave[first:], round(sound_start * RATE))
    return soxr.resample(wave[LEAD * RATE :], RATE, 16_000)


def add_sound(box, stream, wave: np.ndarray, pts: int) -> None:
    """Encode mono sound (n,) at the stream's rate, its first sample at `pts` samples."""
    context = stream.codec_context
    context.open(strict=False)
    resampler = av.AudioResampler(context.format, "mono", context.rate, context.frame_size or 1024)
    block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    block.sample_rate = context.rate
    block.pts = pts
    block.time_base = Fraction(1, context.rate)
    for frame in resampler.resample(block) + resampler.resample(None):
        box.mux(stream.encode(frame))
    box.mux(stream.encode())


def write_sound_file(path: Path, codec: str, wave: np.ndarray, rate: int = RATE, **options) -> Path:
    """A file of mono sound (n,) alone. options: of its container."""
    with av.open(str(path), "w", options=options) as box:
        stream = box.add_stream(codec, rate=rate, layout="mono")
        add_sound(box, stream, wave, 0)
    return path


def copy_packets(
    source: Path, target: Path, seconds: float, keep=lambda packet, time: True
) -> None:
    """A copy without encoding that starts at `seconds`: what lies before has times below 0, and an
    mp4 hides it by an edit list. keep: which packets, by their time in the source."""
    with av.open(str(source)) as box, av.open(str(target), "w") as copy:
        streams = {s.index: copy.add_stream_from_template(s) for s in box.streams}
        for packet in box.demux():
            if packet.dts is None or not keep(packet, float(packet.pts * packet.time_base)):
                continue
            shift = round(seconds / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = streams[packet.stream.index]
            copy.mux(packet)


def lag(heard: np.ndarray, truth: np.ndarray) -> float:
    """Seconds by which a sound is later than it should be, where the two are most alike."""
    n = min(len(heard), len(truth))
    size = 1 << 18  # so that neither wraps into the other
    spectrum = np.fft.rfft(heard[:n], size) * np.conj(np.fft.rfft(truth[:n], size))
    alike = np.fft.irfft(spectrum, size)
    best = int(np.argmax(alike))
    norm = np.linalg.norm(heard[:n]) * np.linalg.norm(truth[:n])
    assert alike[best] > 0.6 * norm, "another sound"
    return (best - size if best > size // 2 else best) / 16_000
