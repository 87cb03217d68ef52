"""Small media files, written on the spot, broken ones, and how tests ask about them."""

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
