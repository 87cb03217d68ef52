"""Which frames of a video are taken, how they are resized, turned and timed: against transformers'
own processors, PyAV's time stamps, and by hand."""

import math
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as hf_smart_resize,
)

from data import build_prompt
from media.cache import load_media
from media.frames import frame_indices, read_frames, smart_resize
from tests.media_files import MATRIX, SETTINGS, sample_of_file, turned, write_clip, write_video
from tests.transformers_rules import hf_sample_frames

VARYING_TIMES = [
    *(0, 40, 80, 1000, 1500, 1520, 1540, 3000),
    *(3100, 3900, 4000, 4010, 4020, 6000, 6500, 7000),
]  # ms


# ------------------------------------------------------------------ size
@pytest.mark.parametrize(
    "size",
    [(56, 168), (480, 640), (97, 33), (28, 28), (1080, 1920), (5, 900), (30, 500), (97, 133)],
)
@pytest.mark.parametrize("factor", [28, 32])
def test_smart_resize_equals_transformers(size, factor):
    for low, high in ((784, 2352), (56 * 56, 50_176), (128 * 784, 768 * 784)):
        ours = smart_resize(*size, low, high, factor)
        assert ours == hf_smart_resize(*size, factor=factor, min_pixels=low, max_pixels=high)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "turned"])
def test_pictures_are_read_as_transformers_reads_them(tmp_path, mode):
    """Colour, grey, transparent, palette, and a photo that a camera marked as turned: the pixels of
    transformers' load_image."""
    pixels = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    path = str(tmp_path / "p.png")
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "turned" else 1  # orientation: a quarter turn
    picture = Image.fromarray(pixels).convert("RGB" if mode == "turned" else mode)
    picture.save(path, exif=exif)
    (media,) = load_media(sample_of_file(path, "image"), replace(SETTINGS, max_pixels=10**6))
    assert media.kind == "image"
    assert np.array_equal(media.frames, np.asarray(load_image(path))[None])
    assert media.frames.shape == ((1, 84, 56, 3) if mode == "turned" else (1, 56, 84, 3))


@pytest.mark.parametrize("degrees", MATRIX)
def test_turned_videos_are_seen_upright(tmp_path, degrees):
    """As PyAV's own frame, which it does not turn, turned by the angle that it reports."""
    lying = write_clip(tmp_path / "v.mp4", size=(56, 112), tone=False)
    path = turned(lying, tmp_path / "t.mp4", degrees)
    with av.open(str(path)) as box:
        frame = next(box.decode(video=0))
    expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    assert frame.rotation % 360 == -degrees % 360
    (media,) = load_media(sample_of_file(path), replace(SETTINGS, max_pixels=10**5))
    shape = (112, 56) if degrees % 180 else (56, 112)
    assert media.frames.shape[1:3] == expected.shape[:2] == shape
    assert np.abs(media.frames[0].astype(int) - expected).max() <= 3
    # the white corner: upper left, upper right, lower left, lower right
    corners = [expected[y, x].mean() > 200 for y in (3, -4) for x in (3, -4)]
    assert corners == [degrees == 0, degrees == 90, degrees == 270, degrees == 180]


# ------------------------------------------------------------------ which frames, and when
@pytest.mark.parametrize(
    ("total", "video_fps", "fps", "most", "n", "seconds"),
    [
        (32, 8.0, 2.0, 16, 8, 0.5),
        (1800, 30.0, 2.0, 16, 16, 3.75),
        (240, 24.0, 1.0, 16, 10, 1.0),
        (90, 30.0, 2.0, 16, 6, 0.5),
        (1, 25.0, 2.0, 16, 2, 0.5),
        (100, 25.0, 2.0, 16, 8, 0.5),
    ],
)
def test_frames_carry_their_true_seconds(total, video_fps, fps, most, n, seconds):
    index, step = frame_indices(total, video_fps, fps, most)
    assert len(index) == n
    assert step == pytest.approx(seconds)
    assert index.max() < total
    if total > 1:  # the frames really are `step` seconds apart, to within one frame of rounding
        assert np.abs(np.diff(index) / video_fps - step).max() < 1 / video_fps


@pytest.mark.parametrize("fps", [0.5, 1, 2, 4])
@pytest.mark.parametrize("most", [8, 16, 32])
def test_frames_are_those_that_transformers_samples(fps, most):
    """Clips of two frames or more. transformers' arange in floating point may give one frame more,
    past the clip's end: 61 of 61 at 8 per second."""
    for total in (8, 32, 61, 90, 100, 240, 301, 1800):
        for video_fps in (8.0, 24.0, 25.0, 30_000 / 1001):
            if total / video_fps * fps < 2:
                continue
            ours, _ = frame_indices(total, video_fps, fps, most)
            theirs = hf_sample_frames(total, video_fps, fps, most)
            assert ours.tolist() == [i for i in theirs if i < total]


@pytest.mark.parametrize(
    ("fps", "index"),
    [
        (2.0, range(0, 24, 3)),
        (1.0, [0, 6, 12, 18]),
        (0.5, [0, 12]),
        (4.0, [int(1.5 * i) for i in range(16)]),
    ],
)
def test_frames_come_from_the_right_times(tmp_path, policy, fps, index):
    """24 frames at 6 per second, grey 10 i: which they are, when they stand in the clip, and the
    temporal positions (25 per second) of the frame groups."""
    sample = sample_of_file(write_video(tmp_path / "v.mp4", frames=24, fps=6))
    (media,) = load_media(sample, replace(SETTINGS, fps=fps, use_audio=False))
    assert media.kind == "video"
    assert media.sound is None
    assert media.seconds_per_group == 2 / fps
    assert media.frames.mean(axis=(1, 2, 3)) == pytest.approx([10 * i for i in index], abs=4)
    assert media.times == pytest.approx([i / 6 for i in index])
    prompt = build_prompt(sample, [media], policy.tokenizer, policy.form)
    temporal = prompt.positions[0, prompt.ids == policy.form.video]
    expected = [int(i * 25 * 2 / fps) for i in range(len(index) // 2)]
    assert (temporal - temporal[0]).unique().tolist() == expected


def test_a_clip_of_one_frame_repeats_it(tmp_path):
    """One frame, grey 100 in place of 0, and a sound of 0.3 s."""
    path = write_video(tmp_path / "v.mp4", frames=1, rate=16_000, seconds=0.3, grey=100)
    (media,) = load_media(sample_of_file(path), SETTINGS)
    assert len(media.frames) == 2
    assert np.array_equal(*media.frames)
    assert media.frames.mean() == pytest.approx(100, abs=4)
    assert media.seconds_per_group == 1.0
    assert media.times.tolist() == [0, 0]
    assert 4800 <= len(media.sound) < 4800 + 2 * 1024  # AAC's frames


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov", "v.avi"])
def test_a_constant_rate_is_sampled_by_number(tmp_path, name):
    """To the bit: frames, step and times as number / rate gives them."""
    codec = "mpeg4" if name == "v.avi" else "libx264"
    path = write_clip(tmp_path / name, codec=codec, tone=False, noisy=True)
    with av.open(str(path)) as box:
        every = [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]
    sampled = read_frames(str(path), 2.0, 16, "here")
    assert sampled.seconds_per_frame == 0.5
    assert sampled.times.tolist() == [0, 0.5, 1.0, 1.5, 2.0, 2.5]
    for ours, i in zip(sampled.pixels, range(0, 24, 4), strict=True):
        from_its_own = np.abs(ours.astype(int) - every[i]).mean()
        from_the_next = np.abs(ours.astype(int) - every[i + 1]).mean()
        assert from_its_own < 2 < from_the_next


@pytest.fixture(scope="module", params=["v.mp4", "v.mkv"])
def varying_clip(request, tmp_path_factory):
    """A clip whose frames appear at VARYING_TIMES."""
    path = tmp_path_factory.mktemp("varying") / request.param
    return write_clip(path, VARYING_TIMES, tone=False)


@pytest.mark.parametrize(
    ("span", "fps", "most"),
    [
        (None, 2.0, 16),
        (None, 4.0, 64),
        (None, 2.0, 6),
        ((1.2, 4.2), 2.0, 16),
        ((3.0, 3.0), math.inf, 2),
        ((6.9, 60.0), 2.0, 16),
    ],
)
def test_a_varying_rate_is_sampled_by_time(varying_clip, span, fps, most):
    """At each moment the frame that PyAV's time stamps say is on the screen, under the time at
    which it appeared, or the moment where it stays on."""
    with av.open(str(varying_clip)) as box:
        starts = np.array([float(frame.pts * frame.time_base) for frame in box.decode(video=0)])
    assert starts == pytest.approx(np.array(VARYING_TIMES) / 1000)
    sampled = read_frames(str(varying_clip), fps, most, "here", span)
    step = sampled.seconds_per_frame
    low = span[0] if span else 0.0

    # the grey of a frame, 10 i, tells its number; the upper left quarter is white
    greys = np.round(sampled.pixels[:, 40:, 40:].mean(axis=(1, 2, 3)), -1)
    numbers = [int(grey) // 10 for grey in greys]
    assert len(numbers) == len(sampled.times) <= most
    for i, (number, time) in enumerate(zip(numbers, sampled.times, strict=True)):
        moment = low + i * step if step != math.inf and math.isfinite(fps) else low
        on_screen = int(np.searchsorted(starts, moment + 1e-3, side="right")) - 1
        if span != (6.9, 60.0) or i == 0:
            assert number == on_screen, (i, moment)
        stays = i > 0 and numbers[i - 1] == number
        if math.isfinite(fps) and span != (6.9, 60.0):
            expected = moment - low if stays else max(starts[number] - low, 0.0)
            assert time == pytest.approx(expected, abs=2e-3)
    if span is None:  # evenly spread over the whole clip: 7 s and its last frame
        assert 7.0 < step * len(numbers) < 8.0
        assert step >= 1 / fps - 1e-6
