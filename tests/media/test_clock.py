"""Frames and sound of clips of many kinds, on the clock of what they were made from."""

import warnings

import numpy as np
import pytest
import soxr

from media.frames import read_frames
from media.sound import read_sound
from tests.clock_clips import CLIPS, SECONDS, second_of, write_clock_clip
from tests.sound_clips import LEAD, RATE, lag, noise

# frames per second, most frames, the span of seconds
READINGS = [
    (2.0, 16, None),
    (8.0, 12, None),
    (50.0, 6, None),
    (4.0, 8, (0.5, 1.4)),
]


def test_there_are_at_least_40_clips():
    assert len({str(clip) for clip in CLIPS}) >= 40


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_frames_and_sound_are_those_that_a_player_shows(tmp_path, clip):
    """The picture is at most one frame off and never goes back; the sound is at most 30 ms off."""
    path = str(write_clock_clip(tmp_path, clip))
    one_frame = 1 / float(clip.fps) * (4 if clip.varying else 1)

    # the second of the source that is shown at time 0
    first = read_frames(path, 2.0, 16, "here")
    origin = float(second_of(first.pixels, clip)[0])
    if clip.name.endswith((".mp4", ".mov")):
        assert origin == pytest.approx(clip.cut, abs=one_frame)

    for fps, most, span in READINGS:
        start = span[0] if span else 0.0
        sampled = read_frames(path, fps, most, "here", span)
        seconds = second_of(sampled.pixels, clip)  # (T,)
        error = seconds - origin - start - sampled.times
        assert np.abs(error).max() < one_frame + 0.01, (fps, most, span, error)
        assert (np.diff(seconds) > -1e-3).all()
        assert (np.diff(sampled.times) >= 0).all()

    # the sound from that second on
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heard, _ = read_sound(path, True, "here")
    wave = noise(SECONDS)[round((LEAD + origin) * RATE) :]
    truth = soxr.resample(wave, RATE, 16_000)
    late = max(0, clip.sound_start - clip.picture_start)
    n = round(late * 16_000)
    assert abs(lag(heard[n:], truth[n:])) < 0.03
    assert np.abs(heard[: max(0, n - 1600)]).max(initial=0) < 0.02
