"""The cache on disk: what is read back, what is kept apart, damage, and the limit of its size."""

import os
import resource
import shutil
import time
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import soundfile
from PIL import Image

from formats.sample import Sample
from media import cache as cache_module
from media.cache import MediaCache, load_media
from media.decode import Media, MediaSettings
from media.loader import MediaLoader
from tests.media_files import SETTINGS, sample_of_file, write_picture, write_video


@pytest.fixture
def clip(tmp_path):
    return sample_of_file(write_video(tmp_path / "a.mp4", rate=16_000))


@pytest.fixture
def cache(tmp_path):
    return MediaCache(tmp_path / "cache")


def equal(media: list[Media], others: list[Media]) -> bool:
    names = ("kind", "frames", "sound", "seconds_per_group", "times")
    for a, b in zip(media, others, strict=True):
        if not all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names):
            return False
    return True


def test_cached_media_are_what_was_decoded(tmp_path, clip, cache, monkeypatch):
    decoded = load_media(clip, SETTINGS)
    assert equal(load_media(clip, SETTINGS, cache), decoded)
    pixels = np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(4000) / 9), 16_000)
    several = Sample(
        "b",
        "?",
        "numeric",
        "1",
        videos=clip.videos,
        images=[str(tmp_path / "p.png")],
        audios=[str(tmp_path / "a.wav")],
    )
    first = load_media(several, SETTINGS, cache)
    monkeypatch.setattr(cache_module, "load_medium", lambda *args: pytest.fail("decoded again"))
    assert equal(load_media(clip, SETTINGS, cache), decoded)
    again = load_media(several, SETTINGS, cache)
    assert equal(again, first)
    assert [m.kind for m in again] == ["video", "image", "audio"]
    assert again[1].sound is None
    assert again[0].times is not None
    assert len(list(cache.folder.iterdir())) == 3  # the clip is shared by both records


def test_kinds_and_soundtracks_are_kept_apart(tmp_path, clip, cache):
    """The same file as a video, as a video with another sound, and as a sound, which is its track
    alone."""
    soundfile.write(tmp_path / "s.wav", np.zeros(16_000), 16_000)
    silenced = replace(clip, soundtrack=str(tmp_path / "s.wav"))
    track = Sample("w", "?", "numeric", "1", audios=clip.videos)
    assert load_media(clip, SETTINGS, cache)[0].sound.any()
    assert not load_media(silenced, SETTINGS, cache)[0].sound.any()
    (alone,) = load_media(track, SETTINGS, cache)
    assert alone.kind == "audio"
    assert alone.frames is None
    assert np.array_equal(alone.sound, load_media(clip, SETTINGS, cache)[0].sound)


def test_another_file_or_other_settings_are_decoded_anew(clip, cache):
    n_frames = len(load_media(clip, SETTINGS, cache)[0].frames)
    faster = replace(SETTINGS, fps=4.0)
    assert len(load_media(clip, faster, cache)[0].frames) == 2 * n_frames
    # the same name, another clip: 3 s instead of 2
    write_video(clip.videos[0], frames=24, rate=16_000, seconds=3.0)
    assert n_frames == 4
    assert len(load_media(clip, SETTINGS, cache)[0].frames) == 6


def test_every_setting_is_part_of_the_key(clip, cache):
    others = {
        "fps": 4.0,
        "max_frames": 8,
        "max_pixels": 10**5,
        "min_pixels": 10**3,
        "use_audio": False,
        "patch": 16,
        "max_sound": 1.0,
        "decoder": "decord",
    }
    assert set(others) == {field.name for field in fields(MediaSettings)}
    variants = [SETTINGS, *(replace(SETTINGS, **{name: others[name]}) for name in others)]
    (path,) = clip.videos
    assert len({cache.path("video", path, clip, variant) for variant in variants}) == 9


def test_the_cache_is_bounded_and_drops_the_oldest(tmp_path):
    cache = MediaCache(tmp_path / "cache", 3000)
    for i in range(5):
        path = cache.folder / f"{i}.npz"
        cache.save(path, Media("image", np.zeros((1, 10, 10, 3), np.uint8)))
        os.utime(path, (i, i))
    size = (cache.folder / "0.npz").stat().st_size
    assert 600 < size < 1500
    cache.trim()
    left = sorted(path.name for path in cache.folder.iterdir())
    assert left == [f"{i}.npz" for i in range(5 - 3000 // size, 5)]


def test_leftovers_of_killed_processes_are_removed_and_counted(tmp_path):
    """A .part of more than an hour ago goes when the cache is opened; a new one stays, and
    counts."""
    for name, age in (("old.1.2.part", 3700), ("new.1.2.part", 60)):
        (tmp_path / name).write_bytes(bytes(2000))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache = MediaCache(tmp_path, 3000)
    assert [path.name for path in tmp_path.iterdir()] == ["new.1.2.part"]
    for i in range(3):
        (tmp_path / f"{i}.npz").write_bytes(bytes(400))
        os.utime(tmp_path / f"{i}.npz", (i, i))
    cache.trim()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["1.npz", "2.npz", "new.1.2.part"]


def test_another_reader_is_another_key(clip, cache, monkeypatch):
    """What an older version made of a file is not served to a newer one."""
    (path,) = clip.videos
    before = cache.path("video", path, clip, SETTINGS)
    versions = dict(cache_module.reader_versions())
    keys = {before}
    for name in versions:
        changed = {**versions, name: "another"}
        monkeypatch.setattr(cache_module, "reader_versions", lambda changed=changed: changed)
        keys.add(cache.path("video", path, clip, SETTINGS))
    assert len(keys) == 1 + len(versions)
    assert {"reader", "av"} <= set(versions)


# ------------------------------------------------------------------ damage
@pytest.mark.parametrize("content", [None, b"", b"PK\3\4" + bytes(40), bytes(100)])
def test_a_damaged_file_is_named_and_decoded_again(tmp_path, cache, content):
    """None: the first 1000 bytes of the file."""
    sample = sample_of_file(write_picture(tmp_path / "p.png"), "image")
    decoded = load_media(sample, SETTINGS, cache)
    (stored,) = cache.folder.iterdir()
    stored.write_bytes(stored.read_bytes()[:1000] if content is None else content)
    with pytest.warns(UserWarning, match="damaged cache file"):
        assert equal(load_media(sample, SETTINGS, cache), decoded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(load_media(sample, SETTINGS, cache), decoded)


def test_every_flipped_bit_is_noticed(tmp_path, cache):
    """300 at random, and every bit of the header of the first array."""
    sample = sample_of_file(write_picture(tmp_path / "p.png"), "image")
    load_media(sample, SETTINGS, cache)
    (stored,) = cache.folder.iterdir()
    whole = stored.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, 8 * len(whole), 300), *range(8 * 32, 8 * 232)]
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << (place % 8)
        stored.write_bytes(content)
        with pytest.warns(UserWarning, match="checksum"):
            assert cache.load(stored) is None


def test_something_else_in_the_place_of_a_file(tmp_path, cache):
    """A folder cannot be read, and cannot be written over."""
    sample = sample_of_file(write_picture(tmp_path / "p.png"), "image")
    decoded = load_media(sample, SETTINGS, cache)
    (stored,) = cache.folder.iterdir()
    stored.unlink()
    stored.mkdir()
    with pytest.warns(UserWarning, match="cannot be kept there"):
        assert equal(load_media(sample, SETTINGS, cache), decoded)
    assert list(cache.folder.iterdir()) == [stored]  # and no .part


# ------------------------------------------------------------------ a folder that fails
def test_a_full_disk(tmp_path, clip, cache):
    """Here a limit on the size of files: the write ends half-way, as on a full disk."""
    decoded = load_media(clip, SETTINGS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.warns(UserWarning, match="cannot be kept there"):
            media = load_media(clip, SETTINGS, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert equal(media, decoded)
    assert not list(cache.folder.iterdir())

    # once there is room again, it goes on
    load_media(clip, SETTINGS, cache)
    assert len(list(cache.folder.iterdir())) == 1


def test_a_folder_that_cannot_be_made(tmp_path, clip):
    (tmp_path / "file").write_bytes(b"")
    cache = MediaCache(tmp_path / "file/cache")
    with pytest.warns(UserWarning, match=r"file/cache: .*cannot be kept there \(Not a directory\)"):
        assert equal(load_media(clip, SETTINGS, cache), load_media(clip, SETTINGS))
    cache.trim()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(clip, cache):
    """What is in it is still read."""
    decoded = load_media(clip, SETTINGS, cache)
    cache.folder.chmod(0o500)
    try:
        assert equal(load_media(clip, SETTINGS, cache), decoded)
        with pytest.warns(UserWarning, match="Permission denied"):
            load_media(clip, replace(SETTINGS, fps=4.0), cache)
        cache.trim()
    finally:
        cache.folder.chmod(0o700)


def test_a_folder_that_vanishes_is_made_again(clip, cache):
    load_media(clip, SETTINGS, cache)
    shutil.rmtree(cache.folder)
    cache.trim()
    load_media(clip, SETTINGS, cache)
    assert len(list(cache.folder.iterdir())) == 1


def test_a_cache_that_fails_is_said_once_by_the_program(tmp_path, recwarn):
    """Two processes and four clips, and one warning with the default filters."""
    (tmp_path / "file").write_bytes(b"")
    warnings.simplefilter("default")
    samples = []
    for i in range(4):
        path = write_picture(tmp_path / f"{i}.png")
        samples.append(sample_of_file(path, "image", str(i)))
    cache = MediaCache(tmp_path / "file/cache")
    loader = MediaLoader(SETTINGS, None, cache, workers=2)
    try:
        loaded = loader.load(samples)
    finally:
        loader.close()
    assert [media[0].kind for media in loaded] == ["image"] * 4
    said = [str(warning.message) for warning in recwarn if "cannot be kept" in str(warning.message)]
    assert len(said) == 1
