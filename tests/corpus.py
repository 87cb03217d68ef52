"""200 media files, most of them bad, and decoders that misbehave, for tests/media/test_workers.py."""

import ctypes
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from formats.sample import Sample
from media.workers import load_media_and_mel

SIZE = 200
MATRIX = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}  # a, b, c, d of a track's display matrix
# by format: its first bytes, the kind of medium, and whether random bytes behind them are surely
# nothing that can be read
MAGIC = {
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video", True),
    "mkv": (b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\1\x42\xf7\x81\1", "video", True),
    "avi": (b"RIFF\xff\xff\0\0AVI LIST", "video", True),
    "ts": (b"\x47\x40\0\x10" * 4, "video", False),
    "flv": (b"FLV\1\5\0\0\0\x09\0\0\0\0", "video", False),
    "wav": (b"RIFF\xff\xff\0\0WAVEdata", "audio", True),
    "mp3": (b"ID3\4\0\0\0\0\0\0\xff\xfb\x90\0", "audio", False),
    "flac": (b"fLaC\0\0\0\x22", "audio", False),
    "ogg": (b"OggS\0\2" + bytes(8), "audio", False),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image", True),
    "jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "image", True),
    "gif": (b"GIF89a\1\0\1\0", "image", False),
    "webp": (b"RIFF\xff\xff\0\0WEBPVP8 ", "image", True),
    "bmp": (b"BM\xff\xff\0\0", "image", True),
}


# --------------------------------------------------------------------------- good files
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
    """Frame i is a grey of 10 i; its upper left quarter is white in the clip without noise. 8 per
    second, or shown at `times` (in ms); a tone of 440 Hz."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=container) as box:
        video = box.add_stream(
            codec, rate=8, options={"x265-params": "log-level=none"} if codec == "libx265" else {}
        )
        video.height, video.width, video.pix_fmt = *size, pix
        if times:
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        sound = box.add_stream("aac", rate=16_000, layout="mono") if tone else None
        for i in range(len(times) if times else frames):
            pixels = (
                rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                if noisy
                else np.full((*size, 3), 10 * i % 256, np.uint8)
            )
            if not noisy:
                pixels[: size[0] // 2, : size[1] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            box.mux(video.encode(frame))
        box.mux(video.encode())
        if tone:
            wave = np.sin(2 * np.pi * 440 * np.arange(2000 * frames) / 16_000).astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            block.sample_rate = 16_000
            box.mux(sound.encode(block))
            box.mux(sound.encode())
    return path


def patched(source: Path, target: Path, box: bytes, offset: int, form: str, *values: int) -> Path:
    """A copy of a file with numbers written `offset` bytes behind the first name of a box."""
    content = bytearray(source.read_bytes())
    struct.pack_into(form, content, content.index(box) + len(box) + offset, *values)
    target.write_bytes(content)
    return target


def turned(source: Path, target: Path, degrees: int) -> Path:
    """A copy of an mp4 whose display matrix turns it clockwise, as of a phone held upright."""
    a, b, c, d = MATRIX[degrees]
    return patched(
        source, target, b"tkhd", 40, ">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
    )


# --------------------------------------------------------------------------- the corpus
class Corpus(list):
    """[(path, kind of medium, "usable", "bad" or "either")]; `names` has each file's category."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.names = folder, []

    def add(
        self,
        category: str,
        name: str,
        kind: str,
        expectation: str,
        content: bytes | Callable[[Path], object] | None = None,
    ) -> Path:
        path = self.folder / f"{len(self):03d}-{name}"
        if callable(content):
            content(path)
        elif content is not None:
            path.write_bytes(content)
        self.append((str(path), kind, expectation))
        self.names.append(category)
        return path


def make_corpus(folder: str | Path) -> Corpus:
    """Writes 200 files. "usable" and "bad" where it is certain what a file is, else "either": what
    a decoder makes of half a file is its own affair."""
    folder = Path(folder)
    c, base, rng = Corpus(folder), folder / "base", np.random.default_rng(0)
    base.mkdir(parents=True)
    tail, front = (
        write_clip(base / "tail.mp4", noisy=True),
        write_clip(base / "front.mp4", noisy=True, movflags="faststart"),
    )
    avi = write_clip(base / "a.avi", codec="mpeg4", tone=False)
    wave = 0.3 * np.sin(np.arange(8000) / 5)
    sound, png, jpg = base / "s.wav", base / "p.png", base / "p.jpg"
    soundfile.write(sound, wave, 16_000)
    picture = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    picture.save(png)
    picture.save(jpg)
    good = {"video": tail, "audio": sound, "image": png}

    for name, kind, write in (
        ("a.mp4", "video", lambda p: write_clip(p)),
        ("a.mkv", "video", lambda p: write_clip(p)),
        ("a.mov", "video", lambda p: write_clip(p)),
        ("vp8.webm", "video", lambda p: write_clip(p, codec="libvpx", tone=False)),
        ("hevc.mp4", "video", lambda p: write_clip(p, codec="libx265")),
        ("fragments.mp4", "video", lambda p: write_clip(p, movflags="frag_keyframe+empty_moov")),
        ("silent.mp4", "video", lambda p: write_clip(p, tone=False)),
        ("motion.avi", "video", lambda p: write_clip(p, codec="mjpeg", pix="yuvj420p", tone=False)),
        ("one.mp4", "video", lambda p: write_clip(p, frames=1)),
        ("one.wav", "audio", lambda p: soundfile.write(p, wave[:1], 16_000)),
        ("8k.wav", "audio", lambda p: soundfile.write(p, wave, 8_000)),
        ("s.flac", "audio", lambda p: soundfile.write(p, wave, 48_000)),
        ("cmyk.jpg", "image", lambda p: picture.convert("CMYK").save(p)),
        (
            "16bit.png",
            "image",
            lambda p: Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60)).save(p),
        ),
        (
            "moving.gif",
            "image",
            lambda p: picture.save(p, save_all=True, append_images=[picture.rotate(90)]),
        ),
    ):
        c.add("good", name, kind, "usable", write)
    for name, at in (
        ("vfr.mp4", [0, 40, 80, 1000, 1500, 1540, 3000, 6000]),
        ("vfr.mkv", [0, 40, 80, 1000, 1500, 1540, 3000, 6000]),
        ("slides.mp4", [0, 9000]),
        ("slides.mkv", [0, 3000, 9000]),
    ):
        c.add(
            "variable rate", name, "video", "usable", lambda p, at=at: write_clip(p, at, tone=False)
        )
    for degrees in MATRIX:
        c.add(
            "rotated",
            f"turned{degrees}.mp4",
            "video",
            "usable",
            lambda p, d=degrees: turned(tail, p, d),
        )
    for name, size in (
        ("1x1.png", (1, 1)),
        ("2x1.png", (2, 1)),
        ("150x1.png", (150, 1)),
        ("1x150.png", (1, 150)),
    ):
        c.add("few pixels", name, "image", "usable", lambda p, s=size: picture.resize(s).save(p))
    for name, size in (("4000x1.png", (4000, 1)), ("1x4000.png", (1, 4000))):
        c.add("few pixels", name, "image", "bad", lambda p, s=size: picture.resize(s).save(p))
    c.add(
        "few pixels",
        "1x1.mkv",
        "video",
        "bad",
        lambda p: write_clip(p, size=(1, 1), codec="ffv1", pix="yuv444p", tone=False),
    )  # to decord 0.6.0
    c.add(
        "few pixels",
        "1x4000.mkv",
        "video",
        "bad",
        lambda p: write_clip(p, size=(1, 4000), frames=2, codec="ffv1", pix="yuv444p", tone=False),
    )

    # a stopped download: an mp4 with its index at the end (nothing opens), one with it at the front
    # (it opens, and frames are gone), and the rest
    for kind, source, expectation in (
        ("video", tail, "bad"),
        ("video", front, "either"),
        ("audio", sound, "either"),
        ("image", png, "bad"),
        ("image", jpg, "bad"),
    ):
        content = source.read_bytes()
        for i in range(10):
            c.add(
                "truncated",
                f"cut{i}{source.suffix}",
                kind,
                expectation,
                content[: len(content) * (i + 1) // 11],
            )
    for seed in range(20):
        suffix, (magic, kind, nothing) = list(MAGIC.items())[seed % len(MAGIC)]
        c.add(
            "random bytes",
            f"random{seed}.{suffix}",
            kind,
            "bad" if nothing else "either",
            magic + np.random.default_rng(seed).bytes(5000),
        )

    for box, offset, what, expectation in (
        (b"stsz", 4, "size", "either"),
        (b"stsz", 8, "count", "either"),
        (b"stts", 8, "run", "either"),
        (b"stts", 12, "delta", "either"),
        (b"mdhd", 12, "scale", "either"),
        (b"mdhd", 16, "duration", "usable"),
        (b"tkhd", 20, "duration", "usable"),
        (b"tkhd", 76, "width", "usable"),
    ):
        for value in (0, 1, 2**31 - 1, 2**32 - 1):  # the last is -1 where it is read with a sign
            if (
                what != "run" or value != 2**32 - 1
            ):  # one that makes decord abort is enough: each costs two processes
                c.add(
                    "patched header",
                    f"{box.decode()}-{what}-{value}.mp4",
                    "video",
                    "bad" if what == "run" and value > 2 else expectation,
                    lambda p, b=box, o=offset, v=value: patched(tail, p, b, o, ">I", v),
                )
    c.add(
        "patched header",
        "count.avi",
        "video",
        "bad",
        lambda p: patched(avi, p, b"strh", 36, "<I", 2**31 - 1),
    )  # decord aborts, too
    c.add(
        "patched header",
        "0fps.avi",
        "video",
        "either",
        lambda p: patched(avi, p, b"strh", 28, "<I", 0),
    )
    c.add(
        "patched header",
        "0fps.mp4",
        "video",
        "bad",
        lambda p: patched(tail, p, b"stts", 12, ">I", 0),
    )
    for value in (0, 2**32 - 1):
        c.add(
            "patched header",
            f"riff-{value}.wav",
            "audio",
            "either",
            lambda p, v=value: patched(sound, p, b"RIFF", 0, "<I", v),
        )
        c.add(
            "patched header",
            f"data-{value}.wav",
            "audio",
            "either",
            lambda p, v=value: patched(sound, p, b"data", 0, "<I", v),
        )
        c.add(
            "patched header",
            f"rate-{value}.wav",
            "audio",
            "bad",
            lambda p, v=value: patched(sound, p, b"fmt ", 8, "<I", v),
        )
        c.add(
            "patched header",
            f"channels-{value}.wav",
            "audio",
            "either",
            lambda p, v=value: patched(sound, p, b"fmt ", 6, "<H", v & 0xFFFF),
        )
    for fourcc in (b"hvc1", b"mp4v", b"zzzz", b"vp09", b"av01"):
        c.add(
            "codec",
            f"{fourcc.decode()}.mp4",
            "video",
            "bad",
            tail.read_bytes().replace(b"avc1", fourcc),
        )
    c.add(
        "codec",
        "hevc-as-avc1.mp4",
        "video",
        "either",
        write_clip(base / "hevc.mp4", codec="libx265").read_bytes().replace(b"hev1", b"avc1"),
    )
    c.add(
        "codec",
        "av1.mp4",
        "video",
        "bad",
        lambda p: write_clip(p, codec="libsvtav1", tone=False, size=(64, 64)),
    )  # decord 0.6.0 has no AV1

    for name, source, kind, expectation in (
        ("png.jpg", png, "image", "usable"),
        ("jpg.png", jpg, "image", "usable"),
        ("mp4.mkv", tail, "video", "usable"),
        ("wav.mp3", sound, "audio", "usable"),
        ("mp4.wav", tail, "audio", "usable"),
        ("mp4.png", tail, "image", "bad"),
        ("wav.png", sound, "image", "bad"),
        ("png.wav", png, "audio", "bad"),
        ("wav.mp4", sound, "video", "bad"),
        ("png.mp4", png, "video", "either"),
    ):
        c.add("wrong extension", name, kind, expectation, source.read_bytes())
    c.add("sound", "nothing.wav", "audio", "bad", lambda p: soundfile.write(p, wave[:0], 16_000))
    for value in (np.nan, np.inf, 1e30):
        c.add(
            "sound",
            f"{value}.wav",
            "audio",
            "bad",
            lambda p, v=value: soundfile.write(
                p, np.where(np.arange(8000) == 99, v, wave), 16_000, subtype="FLOAT"
            ),
        )
    c.add(
        "no picture", "no-frames.mp4", "video", "bad", lambda p: write_clip(p, frames=0, tone=False)
    )
    c.add("no picture", "sound-only.mp4", "video", "bad", lambda p: write_sound_only(p))
    for kind, suffix in (("video", "mp4"), ("audio", "wav"), ("image", "png")):
        c.add("empty", f"empty.{suffix}", kind, "bad", b"")
        c.add("not a file", f"none.{suffix}", kind, "bad")
        c.add("not a file", f"folder.{suffix}", kind, "bad", Path.mkdir)
        c.add(
            "not a file",
            f"dangling.{suffix}",
            kind,
            "bad",
            lambda p: p.symlink_to(folder / "nowhere"),
        )
        c.add("not a file", f"loop.{suffix}", kind, "bad", lambda p: p.symlink_to(p))
        c.add("not a file", f"pipe.{suffix}", kind, "bad", os.mkfifo)
        c.add("not a file", f"zero.{suffix}", kind, "bad", lambda p: p.symlink_to("/dev/zero"))
        locked = c.add(
            "no permission",
            f"locked.{suffix}",
            kind,
            "bad",
            lambda p, k=kind: (p.write_bytes(good[k].read_bytes()), p.chmod(0)),
        )
        if os.access(locked, os.R_OK):  # root may read anything
            c[-1] = (*c[-1][:2], "usable")
    c.add("not a file", "socket.mp4", "video", "bad", write_socket)
    c.add("not a file", "x" * 300, "image", "bad")
    c.add(
        "huge",
        "bomb.bmp",
        "image",
        "bad",
        b"BM" + bytes(12) + b"\x28\0\0\0" + b"\xff\xff\0\0" * 2 + b"\1\0\x18\0" + bytes(24),
    )
    sources = [(tail, "video"), (avi, "video"), (sound, "audio"), (png, "image"), (jpg, "image")]
    while len(c) < SIZE:  # the rest: a few bytes changed anywhere
        source, kind = sources[len(c) % len(sources)]
        content = bytearray(source.read_bytes())
        for at in rng.integers(0, len(content), 1 + len(content) // 500):
            content[at] = rng.integers(256)
        c.add("changed bytes", f"changed{source.suffix}", kind, "either", bytes(content))
    return c


def write_sound_only(path: Path) -> None:
    with av.open(str(path), "w") as box:
        stream = box.add_stream("aac", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        block.sample_rate = 16_000
        box.mux(stream.encode(block))
        box.mux(stream.encode())


def write_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)  # a socket's name must be short: it is made in its folder
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as item:
            item.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


# -------------------------------------------------------------------------- decoders that misbehave
def misbehave(sample: Sample, mark: str = "") -> object:
    """Does what the sample's id says; what is not known is given back, after a moment."""
    if mark:
        with Path(mark).open("a") as file:
            file.write(f"{os.getpid()} {sample.id}\n")
    if sample.id == "stuck":  # in native code, the GIL held, deaf to any exception
        ctypes.PyDLL(None).sleep(600)
    elif sample.id == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif sample.id == "eats memory":  # what the system does with such a process
        bytes(200_000_000)
        os.kill(os.getpid(), signal.SIGKILL)
    elif sample.id == "crashes once" and Path(mark).read_text().count("crashes once") == 1:
        os._exit(3)
    elif sample.id == "raises":
        raise KeyError("a bug")
    elif sample.id == "interrupted":  # Ctrl-C goes to every process of the terminal
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return sample.id, os.getpid()


def starve(sample: Sample, *rest) -> object:
    """A real decoding where no more memory can be had than there is now and 64 MB."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 64 * 2**20,) * 2)
    return load_media_and_mel(sample, *rest)
