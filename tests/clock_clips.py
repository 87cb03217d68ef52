"""Clips on the source's clock: frame i has the grey 16 + 2 i, and the sound is noise of a known
time, so that frames and sound tell of which second of the source they are."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.sound_clips import LEAD, RATE, add_sound, copy_packets, noise

SECONDS = 3.0
SIDE = 64
STEP = 2  # of grey, from one frame to the next
DARKEST = 16


@dataclass(frozen=True)
class ClockClip:
    """How a clip is made: container by its name, codecs, frames per second, a key frame every `key`
    frames; picture_start, sound_start: their times in the file; cut: the second from which it is
    copied without encoding; times: of frames at a varying rate, in frames."""

    name: str
    codec: str = "libx264"
    sound_codec: str = "aac"
    fps: Fraction = Fraction(25)
    key: int = 25
    b_frames: int = 2
    picture_start: float = 0.0
    sound_start: float = 0.0
    cut: float = 0.0
    varying: bool = False
    container: dict = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        words = [self.name, self.codec, f"{float(self.fps):.4g}fps", f"key{self.key}"]
        words += [f"b{self.b_frames}"]
        for what in ("picture_start", "sound_start", "cut"):
            if getattr(self, what):
                words.append(f"{what}{getattr(self, what)}")
        return "-".join([*words, *(["varying"] if self.varying else [])])


NTSC = Fraction(30_000, 1001)

CLIPS = [
    # containers and codecs
    ClockClip("a.mp4"),
    ClockClip("a.mp4", b_frames=0),
    ClockClip("a.mov"),
    ClockClip("a.mkv"),
    ClockClip("a.mp4", codec="libx265", b_frames=2),
    ClockClip("a.mp4", codec="mpeg4"),
    ClockClip("a.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    ClockClip("a.mp4", container={"movflags": "faststart"}),
    ClockClip("a.webm", codec="libvpx", sound_codec="libopus", b_frames=0),
    ClockClip("a.webm", codec="libvpx-vp9", sound_codec="libopus", b_frames=0),
    ClockClip("a.mkv", codec="libsvtav1", sound_codec="libopus", b_frames=0),
    ClockClip("a.mkv", codec="mpeg2video", sound_codec="mp2"),
    ClockClip("a.avi", codec="mpeg4", sound_codec="libmp3lame", b_frames=0),
    ClockClip("a.avi", codec="mpeg4", sound_codec="libmp3lame"),
    ClockClip("a.avi", codec="libx264", sound_codec="libmp3lame", b_frames=0),
    ClockClip("a.avi", codec="mjpeg", sound_codec="pcm_s16le", b_frames=0),
    ClockClip("a.mpg", codec="mpeg1video", sound_codec="mp2"),
    ClockClip("a.mpg", codec="mpeg2video", sound_codec="mp2"),
    ClockClip("a.ts"),
    ClockClip("a.ts", codec="mpeg2video", sound_codec="mp2"),
    ClockClip("a.wmv", codec="wmv2", sound_codec="libmp3lame", b_frames=0),
    ClockClip("a.flv", codec="libx264", sound_codec="aac", b_frames=0),
    ClockClip("a.flv", codec="flv", sound_codec="libmp3lame", b_frames=0),
    # rates and key frames
    ClockClip("a.mp4", fps=Fraction(10), key=5),
    ClockClip("a.mp4", fps=NTSC),
    ClockClip("a.mkv", fps=NTSC, key=12),
    ClockClip("a.mkv", fps=Fraction(24_000, 1001)),
    ClockClip("a.mp4", key=250),
    ClockClip("a.mkv", key=1),
    ClockClip("a.mp4", varying=True),
    ClockClip("a.mkv", varying=True, b_frames=0),
    # starts
    ClockClip("a.mp4", sound_start=0.4),
    ClockClip("a.mp4", sound_start=1.5),
    ClockClip("a.mkv", sound_start=1.5),
    ClockClip("a.mov", picture_start=0.8),
    ClockClip("a.mkv", picture_start=0.8),
    ClockClip("a.ts", sound_start=0.4),
    ClockClip("a.webm", codec="libvpx", sound_codec="libopus", b_frames=0, picture_start=0.4),
    # cuts without encoding
    ClockClip("a.mp4", cut=0.5),
    ClockClip("a.mp4", cut=1.2),
    ClockClip("a.mp4", cut=1.9, key=250),
    ClockClip("a.mp4", cut=1.2, b_frames=0),
    ClockClip("a.mov", cut=1.48),
    ClockClip("a.mp4", cut=0.72, fps=NTSC, key=30),
    ClockClip("a.mkv", cut=1.2),
    ClockClip("a.mkv", cut=1.48, key=12),
    ClockClip("a.ts", cut=1.2),
    ClockClip("a.flv", cut=1.2, b_frames=0),
]


def frame_times(clip: ClockClip) -> list[int]:
    """The time of each frame, in frames; at a varying rate every fourth pair is pulled apart."""
    n = int(SECONDS * clip.fps)
    if not clip.varying:
        return list(range(n))
    return [i for i in range(n) if i % 8 < 5]


def second_of(frames: np.ndarray, clip: ClockClip) -> np.ndarray:
    """(T,) the second of the source of which each frame (T, H, W, 3) tells."""
    greys = frames[:, 8:-8, 8:-8].mean(axis=(1, 2, 3))  # (T,)
    return (greys - DARKEST) / STEP / float(clip.fps)


def write_clock_clip(folder: Path, clip: ClockClip) -> Path:
    """Write a clip; its path."""
    path = folder / clip.name
    if not clip.cut:
        encode(path, clip)
        return path
    whole = folder / f"whole-{clip.name}"
    encode(whole, clip)

    # from the last key frame before the cut on, as ffmpeg -ss -c copy does
    first = float(int(clip.cut * clip.fps / clip.key) * clip.key / clip.fps)
    copy_packets(whole, path, clip.cut, lambda packet, time: time >= first - 1e-3)
    return path


def encode(path: Path, clip: ClockClip) -> None:
    wave = noise(SECONDS)
    options = {"g": str(clip.key), "bf": str(clip.b_frames)}
    if clip.codec in ("libx264", "libx265"):
        options |= {"preset": "veryfast", "crf": "4"}
        options |= {"x265-params": f"log-level=none:keyint={clip.key}:min-keyint={clip.key}"}
    elif clip.codec.startswith("libvpx"):
        options |= {"cpu-used": "8", "deadline": "realtime", "b": "2M", "crf": "10"}
    elif clip.codec == "libsvtav1":
        options = {"preset": "12", "crf": "15", "g": str(clip.key)}
    else:
        options |= {"qscale": "2"}
    if clip.codec == "libx264":
        del options["x265-params"]

    with av.open(str(path), "w", options=clip.container) as box:
        video = box.add_stream(clip.codec, rate=clip.fps, options=options)
        video.width = video.height = SIDE
        video.pix_fmt = "yuvj420p" if clip.codec == "mjpeg" else "yuv420p"
        if clip.codec in ("mpeg4", "mpeg2video", "mpeg1video", "wmv2", "flv", "mjpeg"):
            video.codec_context.flags |= 2  # a quality instead of a bit rate
            video.codec_context.global_quality = 2 * 118
        audio = box.add_stream(clip.sound_codec, rate=RATE, layout="mono")

        first = round(clip.picture_start * clip.fps)
        for i in frame_times(clip):
            pixels = np.full((SIDE, SIDE, 3), DARKEST + STEP * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = first + i
            frame.time_base = 1 / clip.fps
            box.mux(video.encode(frame))
        box.mux(video.encode())

        # sample k of the wave is heard k / RATE - LEAD seconds after the first frame
        shift = first / float(clip.fps)
        start = round((clip.sound_start - shift + LEAD) * RATE)
        add_sound(box, audio, wave[start:], round(clip.sound_start * RATE))
