"""Which files are opened as video or sound: by first bytes, out of a fixed list."""

import struct

import av
import numpy as np
import pytest

from media.container import SEARCHED, demuxer_of, frame_at, open_container, stream_inside
from media.errors import MediaError
from media.sound import read_sound
from tests.sound_clips import noise, write_noise, write_sound_file

CLIPS = {
    "v.mp4": ("libx264", "aac", "mov"),
    "v.mov": ("libx264", "aac", "mov"),
    "v.mkv": ("libx264", "aac", "matroska"),
    "v.webm": ("libvpx", "libopus", "matroska"),
    "v.avi": ("mpeg4", "libmp3lame", "avi"),
    "v.ts": ("libx264", "aac", "mpegts"),
    "v.m2ts": ("libx264", "ac3", "mpegts"),
    "v.mpg": ("mpeg2video", "mp2", "mpeg"),
    "v.flv": ("flv", "libmp3lame", "flv"),
}
SOUNDS = {
    "s.mp3": ("libmp3lame", "mp3"),
    "s.aac": ("aac", "aac"),
    "s.m4a": ("aac", "mov"),
    "s.opus": ("libopus", "ogg"),
    "s.flac": ("flac", "flac"),
    "s.wav": ("pcm_s16le", "wav"),
    "s.aiff": ("pcm_s16be", "aiff"),
    "s.au": ("pcm_s16be", "au"),
    "s.caf": ("pcm_s16le", "caf"),
    "s.w64": ("pcm_s16le", "w64"),
    "s.ac3": ("ac3", "ac3"),
}


@pytest.mark.parametrize("name", CLIPS)
def test_videos_by_their_first_bytes(tmp_path, name):
    codec, sound_codec, demuxer = CLIPS[name]
    write_noise(tmp_path / name, codec, sound_codec, seconds=0.5)
    path = (tmp_path / name).rename(tmp_path / "x.m3u8")
    assert demuxer_of(str(path)) == demuxer
    with open_container(str(path), "here") as box:
        assert sorted(stream.type for stream in box.streams) == ["audio", "video"]


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_by_their_first_bytes(tmp_path, name):
    codec, demuxer = SOUNDS[name]
    path = write_sound_file(tmp_path / name, codec, noise(0.0)).rename(tmp_path / "x.txt")
    assert demuxer_of(str(path)) == demuxer
    with open_container(str(path), "here") as box:
        assert len(box.streams.audio) == 1


def ape_tag(length: int) -> bytes:
    """A tag of one item, as it stands at the beginning of a file: head, item and foot."""
    item = struct.pack("<II", length, 0) + b"Title\0" + b"x" * length
    foot = [struct.pack("<IIII8x", 2000, len(item) + 32, 1, flags) for flags in (5 << 29, 1 << 31)]
    return b"APETAGEX" + foot[0] + item + b"APETAGEX" + foot[1]


@pytest.mark.parametrize(
    "junk",
    [bytes(600), b"\n", ape_tag(10), ape_tag(9000), b"\xff\xfb\x90" + bytes(40), bytes(4000)],
)
@pytest.mark.parametrize("name", ["s.mp3", "s.aac"])
def test_sound_behind_what_is_no_sound(tmp_path, name, junk):
    """As loud and as long as without it."""
    codec, demuxer = SOUNDS[name]
    path = write_sound_file(tmp_path / name, codec, noise(1.0))
    plain, _ = read_sound(str(path), False, "here", None, 0.0)
    path.write_bytes(junk + path.read_bytes())
    assert demuxer_of(str(path)) == demuxer
    heard, _ = read_sound(str(path), False, "here", None, 0.0)
    assert abs(len(heard) - len(plain)) < 0.1 * 16_000
    assert np.abs(heard).mean() == pytest.approx(np.abs(plain).mean(), rel=0.05)


@pytest.mark.parametrize("first", [1, 2, 77, 100, 333, 801])
@pytest.mark.parametrize("name", ["s.mp3", "s.aac"])
def test_a_cut_that_begins_inside_of_a_piece(tmp_path, name, first):
    codec, demuxer = SOUNDS[name]
    path = write_sound_file(tmp_path / name, codec, noise(1.0))
    plain, _ = read_sound(str(path), False, "here", None, 0.0)
    path.write_bytes(path.read_bytes()[2000 + first :])
    assert demuxer_of(str(path)) == demuxer
    heard, _ = read_sound(str(path), False, "here", None, 0.0)
    assert 0.6 * len(plain) < len(heard) < len(plain)


@pytest.mark.parametrize(
    ("codec", "rate", "bits"),
    [
        *[("libmp3lame", rate, bits) for rate in (44_100, 48_000) for bits in (32, 128, 320)],
        *[("libmp3lame", rate, 64) for rate in (8000, 11_025, 12_000, 16_000, 22_050, 24_000)],
        *[("mp2", rate, 128) for rate in (22_050, 32_000, 44_100)],
        *[("aac", rate, 64) for rate in (8000, 22_050, 44_100, 96_000)],
    ],
)
def test_the_lengths_of_pieces_are_those_of_ffmpeg(tmp_path, codec, rate, bits):
    """Of all rates: the next piece begins where FFmpeg's packet ends."""
    suffix = "aac" if codec == "aac" else codec.removeprefix("lib").removesuffix("lame")
    path = tmp_path / f"s.{suffix}"
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bits * 1000
        wave = np.random.default_rng(0).standard_normal((1, rate)).astype(np.float32) / 9
        block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        block.sample_rate = rate
        context = stream.codec_context
        context.open(strict=False)
        size = context.frame_size or 1024
        resampler = av.AudioResampler(context.format, "mono", rate, size)
        for frame in [*resampler.resample(block), *resampler.resample(None)]:
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    content = path.read_bytes()
    n_compared = 0
    with av.open(str(path)) as box:
        for packet in box.demux():
            if packet.size and packet.pos is not None and packet.pos + 6 < len(content):
                kind, length = frame_at(content, packet.pos)
                assert length == packet.size
                assert kind[0] == ("aac" if codec == "aac" else "mp3")
                n_compared += 1
    assert n_compared > 3


def test_noise_is_no_sound():
    """Half a million random bytes, ones alone, and text in UTF-16, whose mark is of ones."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        assert stream_inside(rng.bytes(SEARCHED)) is None
    assert stream_inside(b"\xff" * SEARCHED) is None
    assert stream_inside(("\ufeff" + "text " * 2000).encode("utf-16-le")) is None


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXTINF:12.0,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 5004 RTP/AVP 0\n",
        '<?xml version="1.0"?><MPD><Period><BaseURL>{}</BaseURL></Period></MPD>',
        "ID3 is no tag here",
        "",
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mp3", "%03d.png"])
def test_lists_of_other_files_are_refused(tmp_path, content, name):
    """Under any name."""
    write_noise(tmp_path / "secret.ts", seconds=0.5)
    (tmp_path / name).write_text(content.format(tmp_path / "secret.ts"))
    with pytest.raises(MediaError):
        open_container(str(tmp_path / name), "here")


def test_a_name_is_never_a_pattern_or_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "v.mp4", seconds=0.5)
    for name in ("concat:v.mp4", "file%03d.mp4", "v.mp4#t=1"):
        with pytest.raises(FileNotFoundError):
            open_container(name, "here")
        (tmp_path / "v.mp4").rename(tmp_path / name)
        with open_container(name, "here") as box:
            assert len(box.streams.video) == 1
        (tmp_path / name).rename(tmp_path / "v.mp4")
