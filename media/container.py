"""media/container.py: opening a video or a sound file.

FFmpeg guesses what a file is, and some of what it knows are lists of other files (playlists, SDP,
image sequences), so a data set could have it read any file of the machine. Here the first bytes
decide, out of a fixed list, and FFmpeg is held to that one demuxer and to the file itself.
"""

import os
from collections.abc import Iterator

from media.errors import MediaError

# (place, bytes there) of a file -> FFmpeg's name of its demuxer
SIGNATURES = [
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (4, b"skip", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"FLV", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"OggS", "ogg"),
    (0, b"fLaC", "flac"),
    (0, b"\0\0\1\xba", "mpeg"),
    (0, b"\0\0\1\xb3", "mpegvideo"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"#!AMR", "amr"),
    (0, b"wvpk", "wv"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"\x89PNG\r\n\x1a\n", "apng"),
    (0, b"DKIF", "ivf"),
]

TS_PACKET = 188  # bytes, each packet beginning with b"G"; Blu-ray puts 4 bytes before each


class UnverifiedSeek(Exception):
    """A seek did not lead to what was asked for."""


def demuxer_of(path: str) -> str | None:
    """FFmpeg's name of the demuxer for a file, by its first bytes; None for all other files."""
    with open(path, "rb") as file:
        head = file.read(4096)

        # a tag of title and artist; its length has 4 times 7 bits
        if head.startswith(b"ID3") and len(head) > 10:
            length = 0
            for byte in head[6:10]:
                length = length << 7 | byte & 0x7F
            file.seek(10 + length)
            head = file.read(4096)
            return audio_stream(head) or ("flac" if head.startswith(b"fLaC") else "mp3")

    for place, signature, demuxer in SIGNATURES:
        if head[place:].startswith(signature):
            return demuxer
    for first, step in ((0, TS_PACKET), (4, TS_PACKET + 4)):
        starts = head[first : first + 4 * step : step]
        if starts == b"GGGG":
            return "mpegts"
    return audio_stream(head)


def audio_stream(head: bytes) -> str | None:
    """The demuxer of sound without a container, by the 12 ones with which each piece begins."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return "ac3" if head.startswith(b"\x0b\x77") else None
    layer = head[1] >> 1 & 3
    return "mp3" if layer else "aac"


def open_container(path: str, where: str):
    """A PyAV InputContainer of a video or a sound file. where: the record's name.

    Raises MediaError, whose reason is to stand in the caller's sentence.
    """
    import av  # here, not at the top: text and pictures do not need it

    demuxer = demuxer_of(path)
    if demuxer is None:
        raise MediaError(where, "its first bytes are those of no video or sound that is read", path)
    try:
        return av.open(
            "file:" + os.path.abspath(path),
            format=demuxer,
            options={"protocol_whitelist": "file"},
        )
    except av.error.FFmpegError as error:
        raise MediaError(
            where, f"its header is damaged ({error.strerror or type(error).__name__})", path
        ) from None


def decoded_frames(
    container, stream, errors: list[Exception], starts: list[int] | None = None
) -> Iterator:
    """The frames of a PyAV stream; what cannot be decoded is left out and listed in errors.

    starts: after a seek, the time stamps of the key frames at which decoding may begin. Raises
    UnverifiedSeek where it would begin at another one.
    """
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:  # the rest of the file is missing
            errors.append(error)
            return

        # after a seek: what stands before the first key frame cannot be decoded
        if starts is not None and packet.size:
            if not packet.is_keyframe:
                continue
            if packet.pts not in starts:
                raise UnverifiedSeek(f"the seek led to {packet.pts}")
            starts = None
        try:
            yield from packet.decode()
        except av.error.FFmpegError as error:
            errors.append(error)
