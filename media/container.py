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

FRAME_HEAD = 6  # bytes that tell the length of a piece of MP3 or AAC
SEARCHED = 8192  # bytes, in whose first half a stream of MP3 or AAC may begin

# Of MPEG audio: kbit/s by version 1 or not, and by layer; samples per second by version.
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}

TS_PACKET = 188  # bytes, each packet beginning with b"G"; Blu-ray puts 4 bytes before each


class UnverifiedSeek(Exception):
    """A seek did not lead to what was asked for."""


def demuxer_of(path: str) -> str | None:
    """FFmpeg's name of the demuxer for a file, by its first bytes; None for all other files."""
    with open(path, "rb") as file:
        head = file.read(SEARCHED)

        # a tag of title and artist; its length has 4 times 7 bits
        if head.startswith(b"ID3") and len(head) > 10:
            length = 0
            for byte in head[6:10]:
                length = length << 7 | byte & 0x7F
            file.seek(10 + length)
            head = file.read(SEARCHED)
            return audio_stream(head) or ("flac" if head.startswith(b"fLaC") else "mp3")

        # the same at the beginning as APE writes it, behind a head of 32 bytes
        if head.startswith(b"APETAGEX"):
            file.seek(32 + int.from_bytes(head[12:16], "little"))
            return stream_inside(file.read(SEARCHED))

    for place, signature, demuxer in SIGNATURES:
        if head[place:].startswith(signature):
            return demuxer
    for first, step in ((0, TS_PACKET), (4, TS_PACKET + 4)):
        starts = head[first : first + 4 * step : step]
        if starts == b"GGGG":
            return "mpegts"
    return audio_stream(head)


def audio_stream(head: bytes) -> str | None:
    """The demuxer of sound without a container: by pieces that follow each other, or else by the 12
    ones with which one begins."""
    if head.startswith(b"\x0b\x77"):
        return "ac3"
    if inside := stream_inside(head):
        return inside
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = head[1] >> 1 & 3
    return "mp3" if layer else "aac"


def stream_inside(head: bytes) -> str | None:
    """The demuxer of MP3 or AAC that begins somewhere in the first half of some bytes: behind
    zeros, a newline or half a piece of a stream that was cut.

    trap: the ones with which a piece begins come anywhere. So another piece of the same kind must
    stand where it ends, and a third behind that one, as far as there are bytes.
    """
    for start in range(min(len(head), SEARCHED // 2)):
        if head[start] != 0xFF:
            continue
        first = frame_at(head, start)
        if first is None:
            continue
        kind, length = first
        second = frame_at(head, start + length)
        if second is None or second[0] != kind:
            continue
        behind = start + length + second[1]
        third = frame_at(head, behind)
        if behind + FRAME_HEAD > len(head) or (third and third[0] == kind):
            return kind[0]
    return None


def frame_at(head: bytes, start: int) -> tuple[tuple, int] | None:
    """The kind of the piece of MP3 or AAC that begins at a place, its demuxer first, and its length
    in bytes; None where none begins. All pieces of a stream are of one kind."""
    piece = head[start : start + FRAME_HEAD]
    if len(piece) < FRAME_HEAD or piece[0] != 0xFF or piece[1] & 0xE0 != 0xE0:
        return None
    layer = 4 - (piece[1] >> 1 & 3)  # 4: none of MPEG audio

    if layer == 4:
        rate = piece[2] >> 2 & 15
        length = (piece[3] & 3) << 11 | piece[4] << 3 | piece[5] >> 5
        if piece[1] & 0xF0 != 0xF0 or rate > 12 or length < 7:
            return None
        return ("aac", piece[1], piece[2] & 0xFD), length

    version = piece[1] >> 3 & 3  # 3: MPEG 1; 2: MPEG 2; 0: 2.5
    bitrate, rate = piece[2] >> 4, piece[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    bits = BITRATES[version == 3, layer][bitrate - 1] * 1000
    samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    slot = 4 if layer == 1 else 1  # bytes that are added to some pieces
    length = samples * bits // (8 * slot * SAMPLE_RATES[version][rate]) + (piece[2] >> 1 & 1)
    return ("mp3", version, layer, rate), length * slot


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
