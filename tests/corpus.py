"""200 media files, most of them bad, for tests/media/test_workers.py."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from tests.media_files import (
    MATRIX,
    patched,
    turned,
    write_clip,
    write_socket,
    write_sound_only,
)

SIZE = 200

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

# the header of a .bmp of 65,535 x 65,535 pixels
BOMB = b"BM" + bytes(12) + b"\x28\0\0\0" + b"\xff\xff\0\0" * 2 + b"\1\0\x18\0" + bytes(24)


@dataclass
class CorpusFile:
    category: str
    path: str
    kind: str  # video, audio or image
    expectation: (
        str  # usable, bad, or either: what a decoder makes of half a file is its own affair
    )


class Corpus:
    """The files, written into a folder one after the other, and the good files they are made of."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[CorpusFile] = []
        base = folder / "base"
        base.mkdir(parents=True)

        # videos: an mp4 with its index at the end, one with it at the front, and an avi
        self.tail = write_clip(base / "tail.mp4", noisy=True)
        self.front = write_clip(base / "front.mp4", noisy=True, movflags="faststart")
        self.avi = write_clip(base / "a.avi", codec="mpeg4", tone=False)
        self.hevc = write_clip(base / "hevc.mp4", codec="libx265")

        # a sound and two pictures
        self.wave = 0.3 * np.sin(np.arange(8000) / 5)
        self.sound = base / "s.wav"
        soundfile.write(self.sound, self.wave, 16_000)
        pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        self.picture = Image.fromarray(pixels)
        self.png = base / "p.png"
        self.jpg = base / "p.jpg"
        self.picture.save(self.png)
        self.picture.save(self.jpg)

    def add(
        self,
        category: str,
        name: str,
        kind: str,
        expectation: str,
        content: bytes | Callable[[Path], object] | None = None,
    ) -> CorpusFile:
        """content: the bytes of the file, a function that writes it, or None: there is no file."""
        path = self.folder / f"{len(self.files):03d}-{name}"
        if callable(content):
            content(path)
        elif content is not None:
            path.write_bytes(content)
        file = CorpusFile(category, str(path), kind, expectation)
        self.files.append(file)
        return file


def make_corpus(folder: str | Path) -> list[CorpusFile]:
    """Write 200 files."""
    corpus = Corpus(Path(folder))
    add_good_files(corpus)
    add_odd_videos(corpus)
    add_few_pixels(corpus)
    add_truncated_files(corpus)
    add_random_bytes(corpus)
    add_patched_videos(corpus)
    add_patched_sounds(corpus)
    add_other_codecs(corpus)
    add_wrong_extensions(corpus)
    add_odd_sounds(corpus)
    add_no_files(corpus)
    add_changed_bytes(corpus)
    return corpus.files


def add_good_files(corpus: Corpus) -> None:
    videos = {
        "a.mp4": {},
        "a.mkv": {},
        "a.mov": {},
        "vp8.webm": {"codec": "libvpx", "tone": False},
        "hevc.mp4": {"codec": "libx265"},
        "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
        "silent.mp4": {"tone": False},
        "motion.avi": {"codec": "mjpeg", "pix": "yuvj420p", "tone": False},
        "one.mp4": {"frames": 1},
    }
    for name, options in videos.items():
        corpus.add("good", name, "video", "usable", partial(write_clip, **options))

    sounds = {
        "one.wav": (corpus.wave[:1], 16_000),
        "8k.wav": (corpus.wave, 8_000),
        "s.flac": (corpus.wave, 48_000),
    }
    for name, (wave, rate) in sounds.items():
        write = partial(soundfile.write, data=wave, samplerate=rate)
        corpus.add("good", name, "audio", "usable", write)

    grey16 = Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60))
    turning = {"save_all": True, "append_images": [corpus.picture.rotate(90)]}
    corpus.add("good", "cmyk.jpg", "image", "usable", corpus.picture.convert("CMYK").save)
    corpus.add("good", "16bit.png", "image", "usable", grey16.save)
    corpus.add("good", "moving.gif", "image", "usable", partial(corpus.picture.save, **turning))


def add_odd_videos(corpus: Corpus) -> None:
    """A varying frame rate, and turned frames."""
    varying = [0, 40, 80, 1000, 1500, 1540, 3000, 6000]  # ms
    for name, times in (
        ("vfr.mp4", varying),
        ("vfr.mkv", varying),
        ("slides.mp4", [0, 9000]),
        ("slides.mkv", [0, 3000, 9000]),
    ):
        write = partial(write_clip, times=times, tone=False)
        corpus.add("variable rate", name, "video", "usable", write)
    for degrees in MATRIX:
        write = partial(turned, corpus.tail, degrees=degrees)
        corpus.add("rotated", f"turned{degrees}.mp4", "video", "usable", write)


def add_few_pixels(corpus: Corpus) -> None:
    for width, height in ((1, 1), (2, 1), (150, 1), (1, 150), (4000, 1), (1, 4000)):
        expectation = "bad" if max(width, height) == 4000 else "usable"
        save = corpus.picture.resize((width, height)).save
        corpus.add("few pixels", f"{width}x{height}.png", "image", expectation, save)
    for name, size, frames in (("1x1.mkv", (1, 1), 24), ("1x4000.mkv", (1, 4000), 2)):
        expectation = "bad" if max(size) == 4000 else "usable"
        write = partial(
            write_clip, size=size, frames=frames, codec="ffv1", pix="yuv444p", tone=False
        )
        corpus.add("few pixels", name, "video", expectation, write)


def add_truncated_files(corpus: Corpus) -> None:
    """Stopped downloads. With its index at the end an mp4 does not open; with it at the front it
    opens, and frames are gone."""
    for kind, source, expectation in (
        ("video", corpus.tail, "bad"),
        ("video", corpus.front, "either"),
        ("audio", corpus.sound, "either"),
        ("image", corpus.png, "bad"),
        ("image", corpus.jpg, "bad"),
    ):
        content = source.read_bytes()
        for i in range(10):
            cut = content[: len(content) * (i + 1) // 11]
            corpus.add("truncated", f"cut{i}{source.suffix}", kind, expectation, cut)


def add_random_bytes(corpus: Corpus) -> None:
    for seed in range(20):
        suffix, (magic, kind, surely_bad) = list(MAGIC.items())[seed % len(MAGIC)]
        content = magic + np.random.default_rng(seed).bytes(5000)
        expectation = "bad" if surely_bad else "either"
        corpus.add("random bytes", f"random{seed}.{suffix}", kind, expectation, content)


def add_patched_videos(corpus: Corpus) -> None:
    """Headers with other numbers in them."""

    def add(name, expectation, source, *patch):
        write = partial(copy_patched, source, patch=patch)
        corpus.add("patched header", name, "video", expectation, write)

    for box, offset, field, expectation in (
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
            name = f"{box.decode()}-{field}-{value}.mp4"
            add(name, expectation, corpus.tail, box, offset, ">I", value)
    add("count.avi", "usable", corpus.avi, b"strh", 36, "<I", 2**31 - 1)
    add("0fps.avi", "either", corpus.avi, b"strh", 28, "<I", 0)
    add("0fps.mp4", "either", corpus.tail, b"stts", 12, ">I", 0)


def copy_patched(source: Path, target: Path, patch: tuple) -> None:
    patched(source, target, *patch)


def add_patched_sounds(corpus: Corpus) -> None:
    for value in (0, 2**32 - 1):
        for field, expectation, patch in (
            ("riff", "either", (b"RIFF", 0, "<I", value)),
            ("data", "either", (b"data", 0, "<I", value)),
            ("rate", "bad", (b"fmt ", 8, "<I", value)),
            ("channels", "either", (b"fmt ", 6, "<H", value & 0xFFFF)),
        ):
            write = partial(copy_patched, corpus.sound, patch=patch)
            corpus.add("patched header", f"{field}-{value}.wav", "audio", expectation, write)


def add_other_codecs(corpus: Corpus) -> None:
    """Files that say that they hold another codec, and one of AV1."""
    for fourcc in (b"hvc1", b"mp4v", b"zzzz", b"vp09", b"av01"):
        content = corpus.tail.read_bytes().replace(b"avc1", fourcc)
        corpus.add("codec", f"{fourcc.decode()}.mp4", "video", "bad", content)
    content = corpus.hevc.read_bytes().replace(b"hev1", b"avc1")
    corpus.add("codec", "hevc-as-avc1.mp4", "video", "either", content)
    write = partial(write_clip, codec="libsvtav1", tone=False, size=(64, 64))
    corpus.add("codec", "av1.mp4", "video", "usable", write)


def add_wrong_extensions(corpus: Corpus) -> None:
    for name, source, kind, expectation in (
        ("png.jpg", corpus.png, "image", "usable"),
        ("jpg.png", corpus.jpg, "image", "usable"),
        ("mp4.mkv", corpus.tail, "video", "usable"),
        ("wav.mp3", corpus.sound, "audio", "usable"),
        ("mp4.wav", corpus.tail, "audio", "usable"),
        ("mp4.png", corpus.tail, "image", "bad"),
        ("wav.png", corpus.sound, "image", "bad"),
        ("png.wav", corpus.png, "audio", "bad"),
        ("wav.mp4", corpus.sound, "video", "bad"),
        ("png.mp4", corpus.png, "video", "either"),
    ):
        corpus.add("wrong extension", name, kind, expectation, source.read_bytes())


def add_odd_sounds(corpus: Corpus) -> None:
    """Sounds that are none, and videos without a picture."""
    waves = {"nothing": corpus.wave[:0]}
    for value in (np.nan, np.inf, 1e30):
        waves[str(value)] = np.where(np.arange(8000) == 99, value, corpus.wave)
    for name, wave in waves.items():
        write = partial(soundfile.write, data=wave, samplerate=16_000, subtype="FLOAT")
        corpus.add("sound", f"{name}.wav", "audio", "bad", write)
    write = partial(write_clip, frames=0, tone=False)
    corpus.add("no picture", "no-frames.mp4", "video", "bad", write)
    corpus.add("no picture", "sound-only.mp4", "video", "bad", write_sound_only)


def add_no_files(corpus: Corpus) -> None:
    """Paths with nothing, or with something that is no file, and files that may not be read."""
    good = {"video": corpus.tail, "audio": corpus.sound, "image": corpus.png}
    for kind, suffix in (("video", "mp4"), ("audio", "wav"), ("image", "png")):
        corpus.add("empty", f"empty.{suffix}", kind, "bad", b"")
        for name, content in (
            ("none", None),
            ("folder", Path.mkdir),
            ("dangling", partial(link, target=corpus.folder / "nowhere")),
            ("loop", link_to_itself),
            ("pipe", os.mkfifo),
            ("zero", partial(link, target="/dev/zero")),
        ):
            corpus.add("not a file", f"{name}.{suffix}", kind, "bad", content)
        content = good[kind].read_bytes()
        locked = corpus.add("no permission", f"locked.{suffix}", kind, "bad", content)
        Path(locked.path).chmod(0)
        if os.access(locked.path, os.R_OK):  # root may read anything
            locked.expectation = "usable"
    corpus.add("not a file", "socket.mp4", "video", "bad", write_socket)
    corpus.add("not a file", "x" * 300, "image", "bad")
    corpus.add("huge", "bomb.bmp", "image", "bad", BOMB)


def link(path: Path, target) -> None:
    path.symlink_to(target)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def add_changed_bytes(corpus: Corpus) -> None:
    """The rest: good files in which a few bytes are changed anywhere."""
    rng = np.random.default_rng(1)
    sources = (
        (corpus.tail, "video"),
        (corpus.avi, "video"),
        (corpus.sound, "audio"),
        (corpus.png, "image"),
        (corpus.jpg, "image"),
    )
    while len(corpus.files) < SIZE:
        source, kind = sources[len(corpus.files) % len(sources)]
        content = bytearray(source.read_bytes())
        for position in rng.integers(0, len(content), 1 + len(content) // 500):
            content[position] = rng.integers(256)
        name = f"changed{source.suffix}"
        corpus.add("changed bytes", name, kind, "either", bytes(content))
