"""Which files are opened as video or sound: by first bytes, out of a fixed list."""

import pytest

from media.container import demuxer_of, open_container
from media.errors import MediaError
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
