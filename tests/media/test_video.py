"""Videos of every kind that players show, what is no video, and what a large one costs."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from formats.sample import Sample
from media.cache import load_media
from media.decode import load_medium
from media.errors import MediaError
from media.frames import read_frames
from media.video import decoded_timeline, displayed_size, open_timeline
from tests.media_files import (
    MATRIX,
    SETTINGS,
    patched,
    sample_of_file,
    turned,
    write_clip,
    write_sound_only,
)

GREYS = [20, 60, 100, 140, 180, 220]


def pictures(size=(84, 56)) -> list[Image.Image]:
    """A picture of each of GREYS."""
    return [Image.new("RGB", size, (grey,) * 3) for grey in GREYS]


# ------------------------------------------------------------------ kinds of video
@pytest.mark.parametrize("name", ["m.gif", "m.webp", "m.png", "gif-as.mp4"])
def test_moving_pictures_are_videos(tmp_path, name):
    """Six pictures of half a second each."""
    path = tmp_path / name
    form = {"m.gif": "GIF", "m.webp": "WEBP", "m.png": "PNG", "gif-as.mp4": "GIF"}[name]
    first, *others = pictures()
    lossless = {"lossless": True} if form == "WEBP" else {}
    first.save(path, form, save_all=True, append_images=others, duration=500, loop=0, **lossless)
    sampled = read_frames(str(path), 2.0, 16, "here")
    assert sampled.times == pytest.approx([0, 0.5, 1.0, 1.5, 2.0, 2.5])
    assert sampled.pixels.mean(axis=(1, 2, 3)) == pytest.approx(GREYS, abs=3)


@pytest.mark.parametrize("name", ["m.gif", "m.webp", "m.png", "m.mov"])
def test_transparent_frames_lie_over_white(tmp_path, name):
    """A black square that stands still on a clear ground, which is black below."""
    pixels = np.zeros((56, 56, 4), np.uint8)
    pixels[20:40, 20:40, 3] = 255
    path = tmp_path / name
    if name == "m.mov":
        write_raw(path, "qtrle", "argb", pixels)
    else:
        other = pixels.copy()
        other[0, 0] = (200, 0, 0, 128)  # else it is one frame of twice the length
        frames = [Image.fromarray(array, "RGBA") for array in (pixels, other)]
        if name == "m.gif":
            frames = [with_two_blacks(array) for array in (pixels, other)]
        options = {"transparency": 0} if name == "m.gif" else {"lossless": True}
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=500, **options)
    sampled = read_frames(str(path), 2.0, 16, "here")
    assert len(sampled.pixels) == 2
    for frame in sampled.pixels:
        assert frame[10, 10].tolist() == [255, 255, 255]
        assert frame[30, 30].tolist() == [0, 0, 0]


def test_the_fourth_byte_of_uncompressed_video_is_no_transparency(tmp_path):
    pixels = np.full((56, 56, 4), (90, 90, 90, 0), np.uint8)
    write_raw(tmp_path / "r.avi", "rawvideo", "bgra", pixels)
    assert set(read_frames(str(tmp_path / "r.avi"), 2.0, 16, "here").pixels.flat) == {90}


def with_two_blacks(rgba: np.ndarray) -> Image.Image:
    """Black as colour 1 of a palette, and as colour 0, which is to be transparent."""
    indexed = Image.fromarray((rgba[..., 3] > 0).astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 0, 0, 0])
    return indexed


def write_raw(path, codec: str, pix: str, rgba: np.ndarray) -> None:
    """A second of one picture with transparency, two frames."""
    with av.open(str(path), "w") as box:
        video = box.add_stream(codec, rate=2)
        video.height, video.width = rgba.shape[:2]
        video.pix_fmt = pix
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix)
            box.mux(video.encode(frame))
        box.mux(video.encode())


def test_pictures_that_stay_for_different_times(tmp_path):
    first, *others = pictures()
    path = tmp_path / "m.webp"
    stays = [1000, 100, 100, 2300, 100, 400]  # ms
    first.save(path, save_all=True, append_images=others, duration=stays, lossless=True)
    sampled = read_frames(str(path), 2.0, 16, "here")
    on_screen = [0, 0, 1, 3, 3, 3, 3, 4]  # at 0, 0.5, .. 3.5 s
    expected = [GREYS[i] for i in on_screen]
    assert sampled.pixels.mean(axis=(1, 2, 3)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("name", ["m.webp", "m.gif", "m.png", "m.avif"])
def test_moving_pictures_are_read_where_videos_have_sound(tmp_path, name):
    """They have no sound track; the parts of FFmpeg that look for one do not know WebP."""
    first, *others = pictures()
    path = tmp_path / name
    first.save(path, save_all=True, append_images=others, duration=1000)
    sample = Sample("a", "?", "yes/no", "yes", videos=[str(path)])
    media = load_medium("video", str(path), sample, replace(SETTINGS, use_audio=True))
    assert media.sound is None
    assert len({frame.mean().round() for frame in media.frames}) > 2  # several pictures, not one


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libsvtav1"), ("a.webm", "libsvtav1"), ("a.mkv", "libx264"), ("a.mkv", "ffv1")],
)
def test_codecs_that_players_know(tmp_path, name, codec):
    path = write_clip(tmp_path / name, codec=codec, tone=False, size=(64, 64))
    sampled = read_frames(str(path), 2.0, 16, "here")
    greys = sampled.pixels[:, 40:, 40:].mean(axis=(1, 2, 3))
    assert greys == pytest.approx([0, 40, 80, 120, 160, 200], abs=4)


@pytest.mark.parametrize(("name", "form"), [("a.webm", "webm"), ("a.mkv", "matroska")])
def test_a_recording_without_a_length(tmp_path, name, form):
    """As a browser streams it: neither a duration nor an index."""
    path = tmp_path / name
    with path.open("wb") as file:  # not seekable: no header can be mended afterwards
        pipe = Unseekable(file)
        with av.open(pipe, "w", format=form, options={"live": "1"}) as box:
            video = box.add_stream("libvpx", rate=8)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1  # on busy cores its threads spin for a minute
            for i in range(24):
                pixels = np.full((64, 64, 3), 10 * i, np.uint8)
                box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            box.mux(video.encode())
    sampled = read_frames(str(path), 2.0, 16, "here")
    greys = sampled.pixels.mean(axis=(1, 2, 3))
    assert greys == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)


class Unseekable:
    """A file that can only be written onto its end."""

    def __init__(self, file):
        self.write = file.write


def test_the_picture_of_a_moment_in_an_avi(tmp_path):
    """A seek in an AVI is not believed: frame 16 of 24 at 2 s, by counting."""
    path = write_clip(tmp_path / "a.avi", codec="mpeg4", tone=False)
    sampled = read_frames(str(path), 8.0, 2, "here", (2.0, 2.0))
    assert sampled.pixels[0, 40:, 40:].mean() == pytest.approx(160, abs=4)


@pytest.mark.parametrize("degrees", MATRIX)
def test_the_size_as_it_is_shown(tmp_path, degrees):
    lying = write_clip(tmp_path / "v.mp4", size=(56, 112), tone=False)
    path = turned(lying, tmp_path / "t.mp4", degrees)
    expected = (56, 112) if degrees % 180 else (112, 56)  # width, height
    assert displayed_size(str(path), "here") == expected


def write_oblong(path, ratio: Fraction, codec: str = "libx264") -> None:
    """320 x 180 pixels, `ratio` times as wide as high: a white square of 90 on dark grey, as a
    player shows it from the left edge on."""
    with av.open(str(path), "w") as box:
        video = box.add_stream(codec, rate=8, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        video.codec_context.sample_aspect_ratio = ratio
        pixels = np.full((180, 320, 3), 40, np.uint8)
        pixels[:90, : round(90 / ratio)] = 255
        for _ in range(8):
            box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        box.mux(video.encode())


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("name", "codec", "ratio", "width"),
    [
        ("v.mp4", "libx264", Fraction(2), 640),
        ("v.mp4", "libx264", Fraction(1, 2), 160),
        ("v.mp4", "libx264", Fraction(64, 45), 455),  # a DVD of 16:9
        ("v.mp4", "libx264", Fraction(20), 320),  # a broken header
        ("v.mkv", "libx264", Fraction(4, 3), 427),
        ("v.avi", "mpeg4", Fraction(2), 640),
    ],
)
def test_pixels_that_are_not_square_are_stretched(tmp_path, name, codec, ratio, width, decoder):
    """What was drawn as a square is one: its sides, measured in the frame, are 90 pixels."""
    if decoder == "decord":
        pytest.importorskip("decord")
    path = tmp_path / name
    write_oblong(path, ratio, codec)
    frame = read_frames(str(path), 2.0, 16, "here", decoder=decoder).pixels[0]
    assert frame.shape == (180, width, 3)
    assert displayed_size(str(path), "here") == (width, 180)
    if ratio <= 10:
        bright = frame.mean(axis=2) > 150
        assert abs(bright[20].sum() - 90) <= 2
        assert abs(bright[:, 20].sum() - 90) <= 2


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_oblong_pixels_of_a_turned_video(tmp_path, decoder):
    """The width as it is stored is the height as it is shown."""
    if decoder == "decord":
        pytest.importorskip("decord")
    write_oblong(tmp_path / "v.mp4", Fraction(2))
    path = str(turned(tmp_path / "v.mp4", tmp_path / "t.mp4", 90))
    frame = read_frames(path, 2.0, 16, "here", decoder=decoder).pixels[0]
    assert frame.shape == (640, 180, 3)
    assert displayed_size(path, "here") == (180, 640)
    bright = frame.mean(axis=2) > 150
    assert abs(bright[20].sum() - 90) <= 2
    assert abs(bright[:, -20].sum() - 90) <= 2


def test_frames_that_are_stretched_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    write_oblong(tmp_path / "v.mp4", Fraction(10))
    monkeypatch.setattr("media.video.MOST_PIXELS", 3200 * 180 - 1)
    with pytest.raises(MediaError, match="its frames of 3,200 x 180 pixels are larger than"):
        read_frames(str(tmp_path / "v.mp4"), 2.0, 16, "here")


def test_a_mirrored_video(tmp_path):
    """The matrix of a front camera: x points to the left. The white corner goes right."""
    lying = write_clip(tmp_path / "v.mp4", size=(56, 112), tone=False)
    numbers = [value << 16 for value in (-1, 0)] + [0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    path = patched(lying, tmp_path / "m.mp4", b"tkhd", 40, ">9i", *numbers)
    pixels = read_frames(str(path), 2.0, 16, "here").pixels[0]
    corners = [pixels[y, x].mean() > 200 for y in (3, -4) for x in (3, -4)]
    assert corners == [False, True, False, False]


# ------------------------------------------------------------------ which track
def test_a_cover_picture_is_no_video(tmp_path):
    """The picture of a song, in an MP4 that holds no other."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as box:
        video = box.add_stream("mjpeg", rate=1)
        video.width = video.height = 64
        video.pix_fmt = "yuvj420p"
        video.disposition = av.stream.Disposition.attached_pic
        box.mux(video.encode(av.VideoFrame(64, 64, "yuvj420p")))
        box.mux(video.encode())
    with av.open(str(path)) as box:
        if not box.streams.video[0].disposition & av.stream.Disposition.attached_pic:
            pytest.skip("this writer forgets the mark")
    with pytest.raises(MediaError, match="it holds no video"):
        read_frames(str(path), 2.0, 16, "here")


def test_the_default_video_is_shown(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as box:
        streams = []
        for mark in (av.stream.Disposition(0), av.stream.Disposition.default):
            video = box.add_stream("libx264", rate=8)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            video.disposition = mark
            streams.append(video)
        for video, grey in zip(streams, (50, 200), strict=True):
            for _ in range(8):
                pixels = np.full((64, 64, 3), grey, np.uint8)
                box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            box.mux(video.encode())
    assert read_frames(str(path), 2.0, 16, "here").pixels.mean() == pytest.approx(200, abs=3)


# ------------------------------------------------------------------ what cannot be shown
def test_a_file_of_sound_alone_names_the_remedy(tmp_path):
    write_sound_only(tmp_path / "s.mp4")
    with pytest.raises(MediaError, match="it holds no video; name a sound in the field 'audio'"):
        read_frames(str(tmp_path / "s.mp4"), 2.0, 16, "here")


def test_a_codec_that_is_unknown_names_the_remedy(tmp_path):
    path = write_clip(tmp_path / "v.mp4", tone=False)
    strange = tmp_path / "strange.mp4"
    strange.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"codec is unknown here; convert it to H\.264"):
        read_frames(str(strange), 2.0, 16, "here")


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "v.mp4", size=(64, 128), tone=False)
    monkeypatch.setattr("media.video.MOST_PIXELS", 64 * 127)
    monkeypatch.setattr("media.frames.read_numbers", lambda *_: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="its frames of 128 x 64 pixels are larger than 8,128"):
        read_frames(str(path), 2.0, 16, "here")


PEAKS = """
import resource, sys
from media.frames import Resize, read_frames
for path in sys.argv[1:]:
    sampled = read_frames(path, 2.0, 64, "here", convert=Resize(784, 100_352))
    print(len(sampled.pixels), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_large_video_costs_what_is_kept_of_it(tmp_path):
    """32 frames of 3,072 x 3,072 in some kB: 28 MB each, of which 0.1 MP are kept."""
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        video.width = video.height = 3072
        video.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((3072, 3072, 3), np.uint8), format="rgb24")
        for i in range(32):
            frame.pts = i
            frame.time_base = Fraction(1, 2)
            box.mux(video.encode(frame))
        box.mux(video.encode())
    assert path.stat().st_size < 100_000
    small = write_clip(tmp_path / "small.mp4", tone=False)
    command = [sys.executable, "-c", PEAKS, str(small), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, before, frames, after = map(int, done.stdout.split())
    assert frames == 32
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    assert (after - before) * unit < 250e6  # all frames at once are 906 MB


# ------------------------------------------------------------------ seeks
def test_a_seek_that_leads_elsewhere_is_not_believed(tmp_path, monkeypatch):
    """Seeks that land at the end, and seeks that do nothing: the frames are the same."""
    path = str(write_clip(tmp_path / "v.mp4", frames=64, tone=False, noisy=True))
    expected = read_frames(path, 1.0, 8, "here", (4.0, 8.0))
    timeline = open_timeline(path, "here")
    assert timeline.stamps is not None
    assert decoded_timeline(path, "here").times == pytest.approx(timeline.times)
    for wrong in (0, timeline.stamps[-1]):
        moved = replace(timeline, keys=[(stamp, wrong) for stamp, _ in timeline.keys])
        # two key frames, so that there is a seek to be made
        moved.keys.insert(1, (timeline.stamps[20], wrong))
        monkeypatch.setattr("media.frames.open_timeline", lambda *_, moved=moved: moved)
        sampled = read_frames(path, 1.0, 8, "here", (4.0, 8.0))
        assert np.array_equal(sampled.pixels, expected.pixels)
        assert sampled.times == pytest.approx(expected.times)


def test_decord_reads_the_same_frames_of_a_plain_clip(tmp_path):
    pytest.importorskip("decord")
    path = write_clip(tmp_path / "v.mp4", noisy=True)
    sample = sample_of_file(path)
    (ours,) = load_media(sample, SETTINGS)
    theirs = load_medium("video", str(path), sample, replace(SETTINGS, decoder="decord"))
    assert ours.times == pytest.approx(theirs.times)
    assert np.abs(ours.frames.astype(int) - theirs.frames).mean() < 1


def test_without_decord_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    path = write_clip(tmp_path / "v.mp4", tone=False)
    with pytest.raises(MediaError, match="decord is not installed; pip install decord"):
        read_frames(str(path), 2.0, 16, "here", decoder="decord")
