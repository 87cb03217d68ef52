"""54 media files of kinds that tests/corpus.py does not hold: lists of other files, documents under
the name of media, pictures and sounds that grow when they are decoded, and videos of odd times.

"bad" files must be refused. What is "either" may be read, but must neither hang nor end a run.
"""

import gzip
import io
import json
import os
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from tests.corpus import Corpus, CorpusFile
from tests.media_files import patched


def make_odd_media(folder: str | Path) -> list[CorpusFile]:
    """Write 54 files."""
    corpus = Corpus(Path(folder))
    add_lists(corpus)
    add_documents(corpus)
    add_pictures(corpus)
    add_sounds(corpus)
    add_odd_boxes(corpus)
    add_odd_times(corpus)
    add_odd_names(corpus)
    return corpus.files


def add_lists(corpus: Corpus) -> None:
    """Texts that FFmpeg takes for lists of other files, all of which lie beside them."""
    target = corpus.tail.resolve()
    lists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3.0,\n{target}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
        "dash.mp4": f'<?xml version="1.0"?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>',
        "winamp.mp4": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
        "media.asx.mp4": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    }
    for name, text in lists.items():
        corpus.add("list of files", name, "video", "bad", text.encode())
    cue = f'FILE "{target}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n'
    corpus.add("list of files", "cue.wav", "audio", "bad", cue.encode())

    # a track whose samples are said to lie in another file
    write = partial(copy_with_outer_data, corpus.tail)
    corpus.add("list of files", "dref.mp4", "video", "either", write)


def copy_with_outer_data(source: Path, target: Path) -> None:
    patched(source, target, b"url ", 0, ">I", 0)  # the flag "the data is in this file" is gone


def add_documents(corpus: Corpus) -> None:
    """Files of other programs under the name of a medium."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(corpus.tail, "a.mp4")
    taped = io.BytesIO()
    with tarfile.open(fileobj=taped, mode="w") as archive:
        archive.add(corpus.sound, "s.wav")
    photoshop = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(400)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    for name, kind, content in (
        ("archive.mp4", "video", packed.getvalue()),
        ("tape.wav", "audio", taped.getvalue()),
        ("video.mp4.gz.mp4", "video", gzip.compress(corpus.tail.read_bytes())),
        ("program.mp4", "video", b"\x7fELF\2\1\1" + bytes(2000)),
        ("page.mp4", "video", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        ("error.png", "image", json.dumps({"error": "expired"}).encode()),
        ("drawing.png", "image", drawing),
        ("paper.png", "image", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n%%EOF"),
        ("vector.png", "image", postscript),
        ("layers.png", "image", photoshop),
        ("notes.mp3", "audio", b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0"),
        ("pointer.mp4", "video", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ):
        corpus.add("document", name, kind, "bad", content)
    corpus.add("document", "database.mp4", "video", "bad", write_database)


def write_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A .png of one bit a pixel, all black, with other chunks between its header and its pixels."""
    rows = bytes((1 + (width + 7) // 8) * height)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pieces = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in pieces:
        checksum = zlib.crc32(name + body)
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
    return content


def add_pictures(corpus: Corpus) -> None:
    """Pictures that are far larger once they are decoded, and pictures of rare modes."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    corpus.add("bomb", "30000x30000.png", "image", "bad", png(30_000, 30_000))
    text = png(56, 56, (b"zTXt", b"Comment\0\0" + bomb))
    corpus.add("bomb", "text.png", "image", "either", text)
    profile = png(56, 56, (b"iCCP", b"name\0\0" + bomb))
    corpus.add("bomb", "profile.png", "image", "either", profile)
    screen = bytearray(gif_of(corpus.picture, 2))
    screen[6:10] = b"\xff\xff\xff\xff"  # the size of its screen
    corpus.add("bomb", "65535x65535.gif", "image", "bad", bytes(screen))

    # modes and containers
    moving = {"save_all": True, "append_images": [corpus.picture.rotate(90)]}
    for name, picture, options in (
        ("upright.jpg", corpus.picture, {"exif": exif_of(6)}),
        ("exif.jpg", corpus.picture, {"exif": b"Exif\0\0" + b"MM\0*" + b"\xff" * 40}),
        ("one-bit.png", corpus.picture.convert("1"), {}),
        ("grey-alpha.png", corpus.picture.convert("LA"), {}),
        ("moving.png", corpus.picture, moving),
        ("moving.webp", corpus.picture, moving),
    ):
        save = partial(picture.save, **options)
        expectation = "either" if name == "exif.jpg" else "usable"
        corpus.add("picture", name, "image", expectation, save)


def gif_of(picture: Image.Image, frames: int) -> bytes:
    content = io.BytesIO()
    others = [picture.rotate(i) for i in range(1, frames)]
    picture.save(content, "GIF", save_all=True, append_images=others)
    return content.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def add_sounds(corpus: Corpus) -> None:
    """Sounds with impossible headers, and one of three hours."""
    rate = 8_000
    wave = corpus.wave[:800]
    many = np.repeat(wave[:, None], 64, axis=1)
    corpus.add(
        "sound",
        "64channels.wav",
        "audio",
        "usable",
        partial(soundfile.write, data=many, samplerate=rate),
    )
    doubles = partial(soundfile.write, data=wave, samplerate=rate, subtype="DOUBLE")
    corpus.add("sound", "doubles.wav", "audio", "usable", doubles)
    big = partial(soundfile.write, data=wave, samplerate=rate, format="RF64")
    corpus.add("sound", "rf64.wav", "audio", "either", big)
    law = partial(soundfile.write, data=wave, samplerate=rate, subtype="ULAW")
    corpus.add("sound", "telephone.wav", "audio", "usable", law)
    endless = b".snd" + struct.pack(">IIIII", 24, 2**32 - 1, 3, rate, 1) + bytes(16_000)
    corpus.add("sound", "endless.au", "audio", "either", endless)
    tag = b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(3000)
    corpus.add("sound", "tag-of-256-MB.mp3", "audio", "bad", tag)
    corpus.add("sound", "three-hours.flac", "audio", "bad", write_three_hours)


def write_three_hours(path: Path) -> None:
    with soundfile.SoundFile(path, "w", samplerate=8_000, channels=1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(480_000, np.int16))


def add_odd_boxes(corpus: Corpus) -> None:
    """Videos whose boxes lead nowhere, or into one another."""
    content = corpus.tail.read_bytes()
    ftyp = content[:32]
    nested = b""
    for _ in range(2000):
        nested = struct.pack(">I", len(nested) + 8) + b"moov" + nested
    loops = ftyp + struct.pack(">I", 8) + b"moov" + struct.pack(">I", 0) + b"trak"
    index = corpus.avi.read_bytes()
    lost = index[: index.index(b"idx1") + 8] + b"\xff" * 400
    for name, body, expectation in (
        ("nested.mp4", ftyp + nested, "bad"),
        ("size-0.mp4", loops, "bad"),
        ("size-64.mp4", ftyp + b"\0\0\0\1moov" + b"\x7f" * 8, "bad"),
        ("index.avi", lost, "either"),
        ("twice.mp4", content + content, "either"),
        ("zeros-inside.mp4", content[:3000] + bytes(2000) + content[5000:], "either"),
    ):
        corpus.add("boxes", name, "video", expectation, body)


def write_times(path: Path, times: list[int], size=(56, 56)) -> None:
    """A video whose frames have these times, in ms."""
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        pixels = np.zeros((*size, 3), np.uint8)
        for time in times:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time
            frame.time_base = Fraction(1, 1000)
            box.mux(video.encode(frame))
        box.mux(video.encode())


def add_odd_times(corpus: Corpus) -> None:
    """Long, large, leaping and empty videos."""
    minutes = [60_000 * i for i in range(180)]
    corpus.add("times", "3-hours.mkv", "video", "usable", partial(write_times, times=minutes))
    leap = [0, 125, 250, 2**31, 2**31 + 125]
    corpus.add("times", "leap.mkv", "video", "either", partial(write_times, times=leap))
    late = [5_000_000 + 125 * i for i in range(8)]
    corpus.add("times", "late.mkv", "video", "usable", partial(write_times, times=late))
    large = partial(write_times, times=[0, 500], size=(6144, 6144))
    corpus.add("times", "6144x6144.mp4", "video", "either", large)
    corpus.add("times", "600-frames.gif", "video", "either", gif_of(corpus.picture, 600))


def add_odd_names(corpus: Corpus) -> None:
    """Good videos whose names mean something to a shell, to FFmpeg or to a media fragment."""
    content = corpus.tail.read_bytes()
    for name in ("%03d.mp4", "a;rm -rf ~.mp4", "pipe:0.mp4", "a\nb.mp4"):
        corpus.add("name", name, "video", "usable", content)
    # 4 GB that are not there
    corpus.add("name", "sparse.mp4", "video", "bad", partial(write_sparse, head=content[:32]))


def write_sparse(path: Path, head: bytes) -> None:
    path.write_bytes(head)
    os.truncate(path, 2**32)
