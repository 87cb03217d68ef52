"""Sound: of tracks and of files, resampled, mixed, and refused where it cannot be one."""

import av
import numpy as np
import pytest
import soundfile

from media.cache import load_media
from media.decode import MIN_SOUND
from media.errors import MediaError
from media.sound import read_sound
from tests.media_files import SETTINGS, patched, sample_of_file, write_video


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
    sound = read_sound(str(tmp_path / name), False, "here")
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
