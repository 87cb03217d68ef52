"""Small media files, written on the spot, broken ones, and how tests ask about them."""

import os
import socket
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from formats.sample import Sample
from media.decode import MediaSettings

SETTINGS = MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28)


def sample_of_file(path, kind="video", id="a", **fields) -> Sample:
    """A question about one video, image or audio."""
    paths = {f"{kind}s": [str(path)]}
    return Sample(id, "q", "numeric", "1", where="x.jsonl:1", **paths, **fields)


def write_video(path, frames=16, fps=8, size=(56, 84), rate=None, seconds=2.0, grey=0) -> str:
    """An .mp4 whose frame i is one grey of `grey` + 10 i; with `rate` (Hz), `seconds` of a sine of
    440 Hz as its sound track. Returns its path."""
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=fps, options={"crf": "10"})
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        audio = box.add_stream("aac", rate=rate, layout="mono") if rate else None
        for i in range(frames):
            pixels = np.full((*size, 3), (grey + 10 * i) % 256, np.uint8)
            box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        box.mux(video.encode())
        if audio:
            seconds_of = np.arange(int(rate * seconds)) / rate
            wave = np.sin(2 * np.pi * 440 * seconds_of).astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            block.sample_rate = rate
            box.mux(audio.encode(block))
            box.mux(audio.encode())
    return str(path)


def write_picture(path, size=(56, 56)) -> str:
    """A black picture of size (height, width). Returns its path."""
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    return str(path)


def write_sound(path, wave, rate=16_000) -> str:
    """A sound file of float32 samples. Returns its path."""
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return str(path)


def write_broken(path: Path, content: bytes = b"not a media file at all") -> str:
    """A file that is no media file, whatever its name says. Returns its path."""
    path.write_bytes(content)
    return str(path)


# ------------------------------------------------------------------ odd files
# the display matrix (a, b, c, d) of a track that is turned clockwise by so many degrees
MATRIX = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def write_clip(
    path: Path,
    times: list[int] | None = None,
    frames: int = 24,
    size: tuple[int, int] = (56, 56),
    codec: str = "libx264",
    tone: bool = True,
    pix: str = "yuv420p",
    noisy: bool = False,
    **container,
) -> Path:
    """A clip of any codec and container. Frame i is a grey of 10 i, its upper left quarter white,
    or noise; 8 per second, or shown at `times` (in ms). tone: with a sound of 440 Hz."""
    rng = np.random.default_rng(0)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(path), "w", options=container) as box:
        video = box.add_stream(codec, rate=8, options=options)
        video.height, video.width = size
        video.pix_fmt = pix
        if times:
            video.time_base = Fraction(1, 1000)
            video.codec_context.time_base = Fraction(1, 1000)
        audio = box.add_stream("aac", rate=16_000, layout="mono") if tone else None
        for i in range(len(times) if times else frames):
            if noisy:
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            else:
                pixels = np.full((*size, 3), 10 * i % 256, np.uint8)
                pixels[: size[0] // 2, : size[1] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts = times[i]
                frame.time_base = Fraction(1, 1000)
            box.mux(video.encode(frame))
        box.mux(video.encode())
        if tone:
            wave = np.sin(2 * np.pi * 440 * np.arange(2000 * frames) / 16_000).astype(np.float32)
            mux_sound(box, audio, wave)
    return path


def mux_sound(box, stream, wave: np.ndarray) -> None:
    """Write mono sound (n,) at 16 kHz as the last stream of a file."""
    block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    block.sample_rate = 16_000
    box.mux(stream.encode(block))
    box.mux(stream.encode())


def write_sound_only(path: Path) -> None:
    """A video file without a video stream."""
    with av.open(str(path), "w") as box:
        stream = box.add_stream("aac", rate=16_000, layout="mono")
        mux_sound(box, stream, np.zeros(8000, np.float32))


def patched(source: Path, target: Path, box: bytes, offset: int, form: str, *values: int) -> Path:
    """A copy of a file with numbers written `offset` bytes behind the first name of a box."""
    content = bytearray(source.read_bytes())
    struct.pack_into(form, content, content.index(box) + len(box) + offset, *values)
    target.write_bytes(content)
    return target


def turned(source: Path, target: Path, degrees: int) -> Path:
    """A copy of an mp4 whose display matrix turns it clockwise, as of a phone held upright."""
    a, b, c, d = (value << 16 for value in MATRIX[degrees])
    return patched(source, target, b"tkhd", 40, ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def write_socket(path: Path) -> None:
    folder = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # a socket's name must be short: it is made in its folder
        with socket.socket(socket.AF_UNIX) as endpoint:
            endpoint.bind(path.name)
    finally:
        os.fchdir(folder)
        os.close(folder)
