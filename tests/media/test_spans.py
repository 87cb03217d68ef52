"""Parts of media: spans of seconds, folders of frames, sound up to a limit, and pictures of a
moment. Frame i of a clip is one grey of 10 i."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from PIL import Image

from data import PromptBuilder
from formats.sample import DataError, Sample, file_of
from media.cache import MediaCache, load_media
from media.decode import MIN_SOUND, MediaSettings, check_media
from media.errors import MediaError
from media.loader import MediaLoader
from media.prompt_format import STD
from tests.layouts_video import write_frames, write_video

SETTINGS = MediaSettings(fps=8.0, max_frames=16, max_pixels=56 * 56)
RAMP = np.arange(32_000, dtype=np.float32) / 32_000  # 2 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clip.mp4: 16 frames in 2 s, no sound; loud.mp4: the same with a tone; ramp.wav: RAMP."""
    root = tmp_path_factory.mktemp("spans")
    write_video(root / "clip.mp4", 2.0)
    write_video(root / "loud.mp4", 2.0, tone=0.0)
    soundfile.write(root / "ramp.wav", RAMP, 16_000, subtype="FLOAT")
    return root


def video(folder, name="clip.mp4", **fields) -> Sample:
    return Sample(name, "q", "numeric", "1", videos=[str(folder / name)], **fields)


def audio(folder, name) -> Sample:
    return Sample("a", "q", "numeric", "1", audios=[str(folder / name)])


def picture(folder, *moments) -> Sample:
    images = [f"{folder}/clip.mp4#t={moment}" for moment in moments]
    return Sample("p", "q", "numeric", "1", images=images)


def frame_numbers(media, step=10) -> list[int]:
    """By the grey of each frame, `step` times its number."""
    return np.round(media.frames.mean((1, 2, 3)) / step).tolist()


# ------------------------------------------------------------------ frames
@pytest.mark.parametrize(
    ("span", "fps", "most", "expected"),
    [
        (None, 8.0, 16, list(range(16))),
        ((0.5, 1.5), 8.0, 16, [4, 5, 6, 7, 8, 9, 10, 11]),
        ((0.51, 1.49), 8.0, 16, [4, 5, 6, 7, 8, 9, 10, 11]),
        ((0.5, 1.5), 2.0, 16, [4, 8]),  # 1 s at 2 per second: of its 8 frames every fourth
        ((0.5, 1.5), 8.0, 4, [4, 6, 8, 10]),
        ((1.0, 2.0), 4.0, 16, [8, 10, 12, 14]),
        ((1.5, 9.0), 8.0, 16, [12, 13, 14, 15]),  # only 0.5 s of it is there
        ((5.0, 9.0), 8.0, 16, [15, 15]),  # behind the end: the last frame
        ((0.0, 0.1), 8.0, 16, [0, 0]),  # shorter than a frame: one
    ],
)
def test_frames_of_a_span(folder, span, fps, most, expected):
    settings = replace(SETTINGS, fps=fps, max_frames=most)
    (media,) = load_media(video(folder, span=span), settings)
    assert frame_numbers(media) == expected
    assert media.sound is None
    # time 0 is the span's start
    assert media.times == pytest.approx((np.array(expected) - expected[0]) / 8)


@pytest.mark.parametrize(
    ("suffix", "span", "expected"),
    [
        (None, None, [1, 2, 3, 4, 5, 6]),
        (None, (1.0, 1.7), [4, 5]),
        (None, (1.34, 60.0), [5, 6]),
        (None, (60.0, 61.0), [6, 6]),
        (".png", None, [1, 2, 3, 4]),
    ],
)
def test_a_folder_of_frames(tmp_path, suffix, span, expected):
    """Six pictures at 3 per second, picture i a grey of 20 i; as .png the last two are put away
    under a name that is no picture's."""
    pictures = sorted(write_frames(tmp_path / "f", 6).iterdir())
    if suffix:
        for i, path in enumerate(pictures):
            path.rename(path.with_suffix(suffix if i < 4 else ".txt"))
    sample = video(tmp_path, "f", span=span, frame_rate=3.0)
    (media,) = load_media(sample, SETTINGS)
    assert frame_numbers(media, 20) == expected
    assert media.sound is None
    assert media.times == pytest.approx((np.array(expected) - expected[0]) / 3)

    # folders are read each time
    cache = MediaCache(tmp_path / "cache")
    (again,) = load_media(sample, SETTINGS, cache)
    assert np.array_equal(again.frames, media.frames)
    assert not list(cache.folder.iterdir())


def test_one_folder_at_two_rates_is_two_clips(tmp_path):
    """In one batch, and from the memory of the loader."""
    write_frames(tmp_path / "f", 6)
    slow, fast = (video(tmp_path, "f", frame_rate=rate) for rate in (1.0, 3.0))
    assert slow.media_key != fast.media_key
    loader = MediaLoader(SETTINGS, n_mels=None)
    for batch in ([slow, fast], [fast, slow]):
        for sample, (media,) in zip(batch, loader.load(batch), strict=True):
            assert media.times[1] == pytest.approx(1 / sample.frame_rate)


def test_folders_that_cannot_be_read_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    for name, size in (("00001.jpg", 28), ("00002.jpg", 56)):
        Image.new("RGB", (size, size)).save(tmp_path / "odd" / name)
    for sample, message in (
        (video(tmp_path, "odd", frame_rate=3.0), "of different sizes"),
        (video(tmp_path, "empty", frame_rate=3.0), "holds no .jpg or .png"),
        (video(tmp_path, "none", frame_rate=3.0), "folder of frames"),
        (video(folder, frame_rate=3.0), "folder of frames"),
        (video(tmp_path, "empty"), "is not a file"),
    ):
        with pytest.raises(MediaError, match=message):
            load_media(sample, SETTINGS)


# ------------------------------------------------------------------ sound
@pytest.mark.parametrize(
    ("span", "limit", "start", "stop", "cut"),
    [
        (None, 0.0, 0, 32_000, False),
        ((0.5, 1.5), 0.0, 8_000, 24_000, False),
        ((0.5, 1.5), 0.25, 8_000, 12_000, True),
        ((0.5, 1.5), 1.0, 8_000, 24_000, False),
        (None, 0.5, 0, 8_000, True),
        ((1.5, 9.0), 0.0, 24_000, 32_000, False),
        ((1.9, 9.0), 0.0, 30_400, 32_000, False),
        ((1.95, 9.0), 0.0, 31_200, 32_000, False),
    ],
)
def test_sound_of_a_span_up_to_a_limit(folder, span, limit, start, stop, cut):
    """Sample n of the sound is n / 32000; what is shorter than a tenth of a second is filled up
    with silence."""
    sample = video(folder, soundtrack=str(folder / "ramp.wav"), span=span)
    (media,) = load_media(sample, replace(SETTINGS, max_sound=limit))
    n = stop - start
    assert np.array_equal(media.sound[:n], RAMP[start:stop])
    assert media.cut == cut
    assert len(media.sound) == max(n, MIN_SOUND)
    assert not media.sound[n:].any()


def test_a_span_behind_the_sound_is_silent(folder):
    sample = video(folder, soundtrack=str(folder / "ramp.wav"), span=(2.5, 3.0))
    (media,) = load_media(sample, replace(SETTINGS, max_sound=1.0))
    assert media.sound is None
    assert not media.cut
    sample = video(folder, "loud.mp4", span=(0.5, 1.0))
    (media,) = load_media(sample, replace(SETTINGS, use_audio=False))
    assert media.sound is None
    assert frame_numbers(media) == [4, 5, 6, 7]


@pytest.mark.parametrize("name", ["clip.mp4", "loud.mp4", "ramp.wav"])
@pytest.mark.parametrize(
    ("limit", "seconds", "cut"),
    [(0.0, 2.0, False), (0.5, 0.5, True), (1.0, 1.0, True), (3.0, 2.0, False)],
)
def test_the_limit_by_way_of_the_cache(folder, tmp_path, name, limit, seconds, cut):
    """Decoded, written and read back: the same sound and the same mark, whatever other limit is
    cached beside it."""
    sample = audio(folder, name) if name == "ramp.wav" else video(folder, name)
    cache = MediaCache(tmp_path)
    load_media(sample, replace(SETTINGS, max_sound=0.25), cache)
    settings = replace(SETTINGS, max_sound=limit)
    decoded, cached = (load_media(sample, settings, cache)[0] for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 2
    for media in (decoded, cached):
        if name == "clip.mp4":
            assert media.sound is None
            assert not media.cut
            continue
        # AAC adds up to two frames of its own at the end
        tolerance = 0 if cut or name == "ramp.wav" else 2_048
        assert len(media.sound) == pytest.approx(16_000 * seconds, abs=tolerance)
        assert media.cut == cut
        assert np.array_equal(media.sound, decoded.sound)


@pytest.mark.parametrize("cached", [False, True])
def test_prompts_name_what_was_cut(policy, folder, tmp_path, cached):
    """At most 1 s of sound, 100 mel frames; prompts say so where the sound goes on, once more from
    the cache."""
    asked = [
        video(folder),
        video(folder, "loud.mp4"),
        audio(folder, "ramp.wav"),
        video(folder, "loud.mp4", soundtrack=str(folder / "ramp.wav"), span=(0.5, 1.5)),
    ]
    for _ in range(2 if cached else 1):
        builder = PromptBuilder(
            policy.tokenizer,
            policy.form,
            replace(SETTINGS, max_sound=1.0),
            cache=MediaCache(tmp_path) if cached else None,
        )
        prompts = builder.build_or_raise(asked)
        mel_frames = [[mel.shape[1] for mel in prompt.mels] for prompt in prompts]
        assert mel_frames == [[], [100], [100], [100]]
        assert [prompt.sound for prompt in prompts] == ["silent", "cut", "cut", "heard"]
        assert builder.silent == {str(folder / "clip.mp4")}


def test_two_spans_of_one_clip_are_two_sets_of_media(policy, folder):
    """In one batch, out of one memory: the patches of black and of lighter frames."""
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    dark = video(folder, span=(0.0, 0.25))
    light = video(folder, span=(1.0, 1.25))
    # frames 0, 1 and 8, 9: a mean of 5 and of 85; a step of 255 is 1 / std in patches, averaged
    # over the colours
    expected = 80 / 255 * np.mean(1 / np.array(STD))
    for _ in range(2):
        a, b = builder.build_or_raise([dark, light])
        assert float((b.patches - a.patches).mean()) == pytest.approx(expected, abs=0.03)


# ------------------------------------------------------------------ pictures of a moment
@pytest.mark.parametrize(
    ("moment", "expected"),
    [("0", 0), ("0.5", 4), ("0.55", 4), ("0.6", 5), ("1.875", 15), ("2.0", 15), ("99.5", 15)],
)
def test_the_picture_of_a_moment(folder, moment, expected):
    (media,) = load_media(picture(folder, moment), SETTINGS)
    assert media.kind == "image"
    assert frame_numbers(media) == [expected]
    assert media.frames.shape == (1, 56, 56, 3)


def test_moments_are_cached_apart(folder, tmp_path):
    cache = MediaCache(tmp_path)
    moments = picture(folder, 0.5, 1.0, 0.5)
    for _ in range(2):
        media = load_media(moments, SETTINGS, cache)
        assert [frame_numbers(m) for m in media] == [[4], [8], [4]]
        (clip,) = load_media(video(folder), SETTINGS, cache)
        assert frame_numbers(clip) == list(range(16))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_file_of_a_moment(folder):
    assert file_of("a/b.mp4#t=1.5", "image") == "a/b.mp4"
    assert file_of("a#1.png", "image") == "a#1.png"
    assert file_of("a/b.mp4#t=1.5", "video") == "a/b.mp4#t=1.5"
    check_media([picture(folder, 1.0)], "here", "mend it")
    absent = Sample("p", "q", "numeric", "1", images=[f"{folder}/none.mp4#t=1"])
    with pytest.raises(DataError, match=r"none exists, e.g. .*none.mp4; mend it"):
        check_media([absent], "here", "mend it")
    with pytest.raises(MediaError, match=r"none[.]mp4#t=1 does not exist"):
        load_media(absent, SETTINGS)
