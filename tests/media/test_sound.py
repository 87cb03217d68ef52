"""Sound: of tracks and of files, resampled, mixed, and refused where it cannot be one."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from media import sound as sound_module
from media.cache import load_media
from media.decode import MIN_SOUND
from media.errors import MediaError
from media.sound import read_sound
from tests.media_files import SETTINGS, patched, sample_of_file, write_video
from tests.sound_clips import (
    RATE,
    add_sound,
    copy_packets,
    lag,
    noise,
    write_noise,
    write_sound_file,
)


def test_sound_track_is_resampled_to_16_khz_mono(tmp_path):
    path = write_video(tmp_path / "v.mp4", rate=44_100)
    sound = load_media(sample_of_file(path), SETTINGS)[0].sound
    assert sound.ndim == 1
    assert 2.0 <= len(sound) / 16_000 < 2.2
    spectrum = np.abs(np.fft.rfft(sound[4000:20_000]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)  # 1 Hz bins


def test_a_sound_file_is_read_mixed_and_resampled(tmp_path):
    t = np.arange(48_000) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 300 * t), np.zeros_like(t)], axis=1)
    for name in ("s.wav", "s.flac"):
        soundfile.write(tmp_path / name, stereo, 48_000)
        (media,) = load_media(sample_of_file(tmp_path / name, "audio"), SETTINGS)
        assert len(media.sound) == 16_000
        assert media.frames is None
        assert media.kind == "audio"
        # the mean of the two channels
        assert np.abs(media.sound[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_a_soundtrack_takes_the_place_of_the_videos_own(tmp_path):
    """The own track has 440 Hz, the file 1000; a very short file is filled up with silence."""
    video = write_video(tmp_path / "v.mp4", rate=16_000)
    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    for samples in (16_000, 300):
        soundfile.write(tmp_path / "s.wav", wave[:samples], 16_000)
        sample = sample_of_file(video, soundtrack=str(tmp_path / "s.wav"))
        (media,) = load_media(sample, SETTINGS)
        assert media.kind == "video"
        assert len(media.sound) == max(samples, MIN_SOUND)
        assert media.sound[:samples] == pytest.approx(wave[:samples], abs=1e-4)
        assert not media.sound[samples:].any()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.opus", "libopus")]
)
def test_sound_files_that_soundfile_does_not_know(tmp_path, name, codec):
    """Half a second of 500 Hz at 48 kHz in files of other kinds: as long, and with its power at 500
    Hz."""
    wave = (0.5 * np.sin(2 * np.pi * 500 * np.arange(24_000) / 48_000)).astype(np.float32)
    with av.open(str(tmp_path / name), "w") as box:
        stream = box.add_stream(codec, rate=48_000, layout="mono")
        for start in range(0, 24_000, 960):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], "fltp", "mono")
            frame.sample_rate = 48_000
            frame.pts = start
            box.mux(stream.encode(frame))
        box.mux(stream.encode(None))
    sound = sound_of(tmp_path / name)
    assert 0.45 * 16_000 < len(sound) < 0.65 * 16_000
    assert sound.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert abs(spectrum.argmax() * 16_000 / len(sound) - 500) < 5


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1, "says that it has 1 samples per second"),
        (2**32 - 1, "samples per second|cannot be read as sound"),
    ],
)
def test_a_rate_that_no_sound_has(tmp_path, rate, message):
    """A second at a declared 1 Hz would become 16,000 seconds."""
    soundfile.write(tmp_path / "s.wav", np.zeros(16_000), 16_000)
    path = patched(tmp_path / "s.wav", tmp_path / "p.wav", b"fmt ", 8, "<I", rate)
    with pytest.raises(MediaError, match=message):
        load_media(sample_of_file(path, "audio"), SETTINGS)


# ------------------------------------------------------------------ the clock of the picture
CONTAINERS = [
    ("v.mp4", "libx264", "aac"),
    ("v.mp4", "libx264", "libopus"),
    ("v.mp4", "libx264", "ac3"),
    ("v.mov", "libx264", "pcm_s16le"),
    ("v.mov", "libx264", "aac"),
    ("v.mkv", "libx264", "aac"),
    ("v.mkv", "libx264", "flac"),
    ("v.mkv", "libx264", "libmp3lame"),
    ("v.webm", "libvpx", "libopus"),
    ("v.ts", "libx264", "aac"),
    ("v.ts", "mpeg2video", "mp2"),
    ("v.mpg", "mpeg2video", "mp2"),
    ("v.flv", "flv", "libmp3lame"),
    ("v.flv", "libx264", "aac"),
]


@pytest.mark.parametrize(("name", "codec", "sound_codec"), CONTAINERS)
@pytest.mark.parametrize(
    ("picture_start", "sound_start"), [(0.0, 0.0), (0.0, 1.5), (0.0, 0.4), (0.8, 0.0), (2.0, 2.4)]
)
def test_sound_is_heard_when_the_picture_shows_it(
    tmp_path, name, codec, sound_codec, picture_start, sound_start
):
    """Silence before a late track, the lead of an early one dropped: to 5 ms, by correlation with
    what was recorded."""
    path = tmp_path / name
    truth = write_noise(path, codec, sound_codec, picture_start, sound_start)
    heard, cut = read_sound(str(path), True, "here")
    assert not cut
    assert abs(lag(heard, truth)) < 0.005
    late = max(0.0, sound_start - picture_start)
    assert not np.abs(heard[: round(16_000 * max(0, late - 0.05))]).any()


@pytest.mark.parametrize("sound_codec", ["libmp3lame", "pcm_s16le"])
def test_sound_of_an_avi(tmp_path, sound_codec):
    """Its header has no place for an encoder's delay (23 ms of MP3), which every player plays."""
    truth = write_noise(tmp_path / "v.avi", "mpeg4", sound_codec)
    heard, _ = read_sound(str(tmp_path / "v.avi"), True, "here")
    assert 0 <= lag(heard, truth) < 0.03


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
@pytest.mark.parametrize("start", [0.4, 0.72, 1.16])
def test_sound_of_a_clip_that_was_cut_without_encoding(tmp_path, name, start):
    """The packets before the cut are in the file, and an edit list hides them."""
    truth = write_noise(tmp_path / "whole.mp4")
    copy_packets(tmp_path / "whole.mp4", tmp_path / name, start)
    heard, _ = read_sound(str(tmp_path / name), True, "here")
    assert abs(lag(heard, truth[round(16_000 * start) :])) < 0.005


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.flv"])
def test_a_gap_in_the_track_is_silent(tmp_path, name):
    """Between 1.0 and 1.9 s there are no packets: what follows stays at its time."""
    whole = tmp_path / f"whole{Path(name).suffix}"
    truth = write_noise(whole)

    def keep(packet, time: float) -> bool:
        return packet.stream.type == "video" or not 1.0 < time < 1.9

    copy_packets(whole, tmp_path / name, 0.0, keep)
    heard, _ = read_sound(str(tmp_path / name), True, "here")
    assert np.abs(heard[17_000:28_000]).max() < 1e-6
    assert abs(lag(heard[30_800:], truth[30_800:])) < 0.005


def test_a_span_and_a_limit_are_slices_of_the_whole(tmp_path):
    """Whatever is kept, it is the same samples."""
    write_noise(tmp_path / "v.mp4", sound_start=0.4)
    path = str(tmp_path / "v.mp4")
    whole, _ = read_sound(path, True, "here")
    for span, limit, start, stop, cut in (
        ((0.5, 1.5), 0.0, 0.5, 1.5, False),
        ((0.2, 9.0), 1.0, 0.2, 1.2, True),
        (None, 0.75, 0.0, 0.75, True),
        ((1.0, 1.5), 0.5, 1.0, 1.5, False),
    ):
        kept, goes_on = read_sound(path, True, "here", span, limit)
        assert np.array_equal(kept, whole[round(16_000 * start) : round(16_000 * stop)])
        assert goes_on == cut
    assert len(read_sound(path, True, "here", (50.0, 60.0))[0]) == 0


# ------------------------------------------------------------------ to the end
def sound_of(path) -> np.ndarray:
    heard, cut = read_sound(str(path), False, "here")
    assert not cut
    return heard


def test_an_mp3_without_a_count(tmp_path):
    """As from a pipe: its first frame says nothing of its length."""
    wave = noise(4.0)
    path = write_sound_file(tmp_path / "a.mp3", "libmp3lame", wave, write_xing="0")
    assert len(sound_of(path)) / 16_000 == pytest.approx(len(wave) / RATE, abs=0.06)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp3", "libmp3lame"), ("a.opus", "libopus"), ("a.ogg", "libopus"), ("a.aac", "aac")],
)
def test_files_that_were_joined(tmp_path, name, codec):
    """By cat, one of 0.5 s (less than a jump of stamps) and one of 3 s."""
    wave = noise(1.0)
    short = write_sound_file(tmp_path / f"1{name}", codec, wave[: RATE // 2])
    long = write_sound_file(tmp_path / f"2{name}", codec, wave)
    (tmp_path / name).write_bytes(short.read_bytes() + long.read_bytes())
    heard = sound_of(tmp_path / name)
    assert len(heard) / 16_000 == pytest.approx(3.5, abs=0.15)
    alone = sound_of(long)
    assert abs(lag(heard[-len(alone) :], alone)) < 0.05


def test_joined_files_of_two_rates(tmp_path):
    wave = noise(1.0)
    paths = []
    for rate in (44_100, 24_000):
        wave_at_rate = soxr.resample(wave, RATE, rate)
        path = write_sound_file(tmp_path / f"{rate}.mp3", "libmp3lame", wave_at_rate, rate)
        paths.append(path)
    (tmp_path / "a.mp3").write_bytes(b"".join(path.read_bytes() for path in paths))
    heard = sound_of(tmp_path / "a.mp3")
    assert len(heard) / 16_000 == pytest.approx(6.0, abs=0.2)
    alone = sound_of(paths[1])
    assert abs(lag(heard[-len(alone) :], alone)) < 0.05


@pytest.mark.parametrize("count", [0, 24_000, 2**32])
def test_a_flac_whose_header_miscounts(tmp_path, count):
    """0 stands for "not known", as from a pipe. The 36 bits lie in bytes 21 to 25."""
    wave = noise(1.0)
    soundfile.write(tmp_path / "a.flac", wave, RATE)
    whole = sound_of(tmp_path / "a.flac")
    assert len(whole) == 48_000
    content = bytearray((tmp_path / "a.flac").read_bytes())
    fields = int.from_bytes(content[18:26], "big")
    content[18:26] = (fields >> 36 << 36 | count).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(content)
    assert np.array_equal(sound_of(tmp_path / "a.flac"), whole)


@pytest.mark.parametrize("length", [0, 2**30, 2**32 - 1])
def test_a_wav_whose_header_miscounts(tmp_path, length):
    """As from a pipe, or of a recorder that was switched off."""
    wave = np.linspace(-0.5, 0.5, 16_000).astype(np.float32)
    soundfile.write(tmp_path / "s.wav", wave, 16_000, subtype="FLOAT")
    path = patched(tmp_path / "s.wav", tmp_path / "p.wav", b"data", 0, "<I", length)
    assert np.array_equal(sound_of(path), wave)


@pytest.mark.parametrize("name", ["a.mp3", "a.mp4.mp3", "a.wav", "a.flac", "a.ogg", "a", "a.txt"])
@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_a_video_under_the_name_of_a_sound(tmp_path, name, seconds):
    """Its track is heard, whatever the name."""
    truth = write_noise(tmp_path / "v.mp4", seconds=seconds)
    (tmp_path / "v.mp4").rename(tmp_path / name)
    heard = sound_of(tmp_path / name)
    assert len(heard) / 16_000 == pytest.approx(seconds, abs=0.1)
    assert abs(lag(heard, truth)) < 0.005


@pytest.mark.parametrize(
    ("written", "codec", "name"),
    [
        ("s.mp3", "libmp3lame", "s.wav"),
        ("s.wav", "pcm_s16le", "s.mp3"),
        ("s.flac", "flac", "s.wav"),
        ("s.opus", "libopus", "s.flac"),
        ("s.m4a", "aac", "s.ogg"),
        ("s.aac", "aac", "s.mp3"),
    ],
)
def test_sounds_under_the_name_of_another(tmp_path, written, codec, name):
    wave = noise(1.0)
    path = write_sound_file(tmp_path / written, codec, wave)
    path.rename(tmp_path / name)
    assert abs(lag(sound_of(tmp_path / name), soxr.resample(wave, RATE, 16_000))) < 0.07


# ------------------------------------------------------------------ samples
@pytest.mark.parametrize(
    ("codec", "step"),
    [
        ("pcm_u8", 1 / 128),
        ("pcm_s16le", 1 / 2**15),
        ("pcm_s24le", 1 / 2**23),
        ("pcm_s32le", 1 / 2**31),
        ("pcm_f32le", 1e-7),
        ("pcm_f64le", 1e-7),
    ],
)
def test_samples_of_every_width(tmp_path, codec, step):
    """A ramp from -1/2 to 1/2 in a .mov, read by PyAV, to the step of its numbers."""
    ramp = np.linspace(-0.5, 0.5, 16_000).astype(np.float32)
    path = write_sound_file(tmp_path / "a.mov", codec, ramp, 16_000)
    heard = sound_of(path)
    assert len(heard) == 16_000
    assert np.abs(heard - ramp).max() <= step


def test_channels_are_averaged(tmp_path):
    """A file by soundfile, the same as the track of a .mkv by PyAV."""
    stereo = np.stack([np.full(16_000, 0.5), np.full(16_000, -0.125)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 16_000)
    with av.open(str(tmp_path / "s.mkv"), "w") as box:
        stream = box.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        samples = (stereo * 2**15).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = 16_000
        box.mux(stream.encode(frame))
        box.mux(stream.encode())
    for name in ("s.wav", "s.mkv"):
        assert sound_of(tmp_path / name) == pytest.approx(np.full(16_000, 0.1875), abs=1e-4)


# ------------------------------------------------------------------ no sound
def test_an_empty_track_is_no_sound(tmp_path):
    """A video is then asked without sound; a sound file is bad."""
    write_noise(tmp_path / "v.mkv", "mpeg4", "pcm_s16le")

    def keep(packet, time: float) -> bool:
        return packet.stream.type == "video"

    for name in ("empty.mkv", "empty.avi"):
        copy_packets(tmp_path / "v.mkv", tmp_path / name, 0.0, keep)
        with av.open(str(tmp_path / name)) as box:
            assert len(box.streams.audio) == 1
        assert read_sound(str(tmp_path / name), True, "here") == (None, False)
        with pytest.raises(MediaError, match="holds no sound samples"):
            load_media(sample_of_file(tmp_path / name, "audio"), SETTINGS)


def test_a_track_of_an_unknown_codec_is_no_sound(tmp_path):
    write_noise(tmp_path / "v.mkv", sound_codec="flac")
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "x.mkv").write_bytes(content.replace(b"A_FLAC", b"A_XLAC"))
    (media,) = load_media(sample_of_file(tmp_path / "x.mkv"), SETTINGS)
    assert media.frames is not None
    assert media.sound is None
    with pytest.raises(MediaError, match="no sound track of a known codec"):
        load_media(sample_of_file(tmp_path / "x.mkv", "audio"), SETTINGS)


def test_a_cut_behind_the_end_of_the_sound(tmp_path):
    write_noise(tmp_path / "v.mp4")

    def keep(packet, time: float) -> bool:
        return packet.stream.type == "video" or time < 0.5

    copy_packets(tmp_path / "v.mp4", tmp_path / "c.mp4", 1.0, keep)
    assert read_sound(str(tmp_path / "c.mp4"), True, "here") == (None, False)


# ------------------------------------------------------------------ which track, and how much
def test_the_default_track_is_heard(tmp_path):
    """Of two, the second is marked as the default."""
    with av.open(str(tmp_path / "v.mkv"), "w") as box:
        streams = [box.add_stream("flac", rate=16_000, layout="mono") for _ in range(2)]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for stream, value in zip(streams, (0.25, 0.5), strict=True):
            add_sound(box, stream, np.full(16_000, value, np.float32), 0)
    assert sound_of(tmp_path / "v.mkv") == pytest.approx(np.full(16_000, 0.5), abs=1e-3)


def test_broken_pieces_are_left_out_and_said(tmp_path):
    """What follows them stays at its time."""
    truth = write_noise(tmp_path / "whole.mkv")
    content = bytearray((tmp_path / "whole.mkv").read_bytes())
    with av.open(str(tmp_path / "whole.mkv")) as box:
        packets = list(box.demux(audio=0))[40:60]  # of 21 ms
    for packet in packets:
        place = content.index(bytes(packet))
        content[place : place + packet.size] = b"\xff" * packet.size
    (tmp_path / "v.mkv").write_bytes(content)
    with pytest.warns(UserWarning, match="broken pieces of its sound, which are left out: "):
        heard, _ = read_sound(str(tmp_path / "v.mkv"), True, "here")
    assert abs(lag(heard[24_000:], truth[24_000:])) < 0.005


@pytest.mark.parametrize("name", ["s.wav", "s.flac", "s.mkv"])
def test_reading_stops_where_enough_is_read(tmp_path, monkeypatch, name):
    """A minute of sound, of which 2 s are kept: no more than a few blocks are looked at."""
    wave = np.zeros(60 * 16_000, np.float32)
    if name == "s.mkv":
        write_sound_file(tmp_path / name, "flac", wave, 16_000)
    else:
        soundfile.write(tmp_path / name, wave, 16_000)
    read = []
    add = sound_module.Clock.add
    monkeypatch.setattr(
        sound_module.Clock,
        "add",
        lambda self, block: (read.append(len(block.samples)), add(self, block)),
    )
    kept, cut = read_sound(str(tmp_path / name), False, "here", None, 2.0)
    assert len(kept) == 32_000
    assert cut
    assert sum(read) < 8 * 16_000


def test_a_sound_of_days_is_refused(tmp_path, monkeypatch):
    """Here of 3 s, where 2 are the most. What a limit or a span keeps may lie anywhere in it."""
    monkeypatch.setattr(sound_module, "LONGEST", 2)
    soundfile.write(tmp_path / "s.flac", np.zeros(48_000), 16_000)
    with pytest.raises(MediaError, match="it is longer than"):
        read_sound(str(tmp_path / "s.flac"), False, "here")
    assert len(read_sound(str(tmp_path / "s.flac"), False, "here", (1.0, 9.0))[0]) == 32_000
    assert len(read_sound(str(tmp_path / "s.flac"), False, "here", None, 1.0)[0]) == 16_000


def test_a_stamp_of_days_makes_no_days_of_silence(tmp_path):
    """The stamps of a track jump by 20 hours."""
    write_noise(tmp_path / "v.mkv")
    with av.open(str(tmp_path / "v.mkv")) as box, av.open(str(tmp_path / "j.mkv"), "w") as copy:
        streams = {s.index: copy.add_stream_from_template(s) for s in box.streams}
        for packet in box.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and packet.pts * packet.time_base > 1:
                packet.pts += 72_000_000
                packet.dts += 72_000_000
            packet.stream = streams[packet.stream.index]
            copy.mux(packet)
    with pytest.raises(MediaError, match="longer than 2 hours"):
        read_sound(str(tmp_path / "j.mkv"), True, "here")
    heard, cut = read_sound(str(tmp_path / "j.mkv"), True, "here", None, 5.0)
    assert len(heard) == 80_000
    assert cut
