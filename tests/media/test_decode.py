"""Media that cannot be used: one sentence with the record, the field and the file."""

import os

import numpy as np
import pytest
from PIL import Image

from media.cache import load_media
from media.errors import MediaError
from tests.corpus import BOMB
from tests.media_files import (
    SETTINGS,
    sample_of_file,
    write_broken,
    write_picture,
    write_sound,
    write_video,
)

WITH_NAN = np.array([0.0, np.nan, 0.0] * 9)


@pytest.mark.parametrize(
    ("field", "make_file", "message"),
    [
        ("video", lambda p: str(p / "none.mp4"), "does not exist"),
        ("video", lambda p: str(p), "does not exist or is not a file"),
        ("video", lambda p: write_broken(p / "b.mp4"), "as a video"),
        ("video", lambda p: write_broken(p / "e.mp4", b""), "as a video"),
        ("audio", lambda p: write_broken(p / "b.wav"), "cannot be read as sound"),
        ("audio", lambda p: write_sound(p / "e.wav", np.zeros(0)), "no sound samples"),
        ("audio", lambda p: write_sound(p / "n.wav", WITH_NAN), "no numbers"),
        ("image", lambda p: write_broken(p / "b.png"), "as a picture"),
        ("image", lambda p: write_picture(p / "long.png", (2, 500)), "aspect ratio"),
        ("image", lambda p: write_broken(p / "bomb.bmp", BOMB), "as a picture"),
    ],
)
def test_bad_media_are_named(tmp_path, field, make_file, message):
    """One sentence with the record's place, its id, the field and the file."""
    path = make_file(tmp_path)
    with pytest.raises(MediaError) as error:
        load_media(sample_of_file(path, field, "clip7-q1"), SETTINGS)
    text = str(error.value)
    assert text.startswith(f"x.jsonl:1 ('clip7-q1'): field '{field}': ")
    assert path in text
    assert message in text
    assert "\n" not in text


def test_a_missing_soundtrack_is_named(tmp_path):
    video = write_video(tmp_path / "v.mp4", rate=16_000)
    sample = sample_of_file(video, soundtrack=str(tmp_path / "none.wav"))
    message = r"x.jsonl:1 \('a'\): field 'soundtrack': .*none.wav does not exist"
    with pytest.raises(MediaError, match=message):
        load_media(sample, SETTINGS)


def test_a_soundtrack_that_is_no_sound_is_named(tmp_path):
    video = write_video(tmp_path / "v.mp4", rate=16_000)
    (tmp_path / "s.wav").write_text("no sound")
    sample = sample_of_file(video, soundtrack=str(tmp_path / "s.wav"))
    with pytest.raises(MediaError, match=r"field 'soundtrack': .*s.wav cannot be read as sound"):
        load_media(sample, SETTINGS)


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
def test_pipes_and_devices_are_not_opened(tmp_path, kind):
    """Also in this process, where nothing could end the wait."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(MediaError, match=r"does not exist or is not a file") as error:
            load_media(sample_of_file(tmp_path / name, kind), SETTINGS)
        assert error.value.path == str(tmp_path / name)


def test_a_pipe_among_the_frames_of_a_folder(tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    message = r"cannot read .*2\.png as a picture \(it is not a file\)"
    with pytest.raises(MediaError, match=message) as error:
        load_media(sample_of_file(tmp_path, frame_rate=2.0), SETTINGS)
    assert error.value.path == str(tmp_path / "2.png")
