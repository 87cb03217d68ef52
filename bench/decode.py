"""Reading media: frames and sound of one clip by PyAV, by decord, and from the cache on disk.

    # a toy clip: 4 s of 84 x 28 at 8 frames per second
    python bench/decode.py
    # 32 frames of 60 s of 640 x 360 H.264, a key frame every 2 s
    python bench/decode.py --size 7b

Both readers give nearly the same frames of this clip, and 16 kHz mono sound (docs/data.md says of
which clips they do not). The cache holds resized frames and sound (`--media_cache` of train.py).
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from common import arguments, report, timed

from formats.sample import Sample
from media.cache import MediaCache, load_media
from media.decode import MediaSettings
from media.frames import Resize, read_frames
from media.prompt_format import SAMPLE_RATE
from media.sound import read_sound

SHAPES = {
    "tiny": {"seconds": 4, "fps": 8, "height": 28, "width": 84, "frames": 8},
    "7b": {"seconds": 60, "fps": 30, "height": 360, "width": 640, "frames": 32},
}


def write_clip(path: Path, seconds: int, fps: int, height: int, width: int) -> None:
    """A noisy moving pattern with a tone."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 80, (8, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 170, width, dtype=np.uint8)[None, :, None]
    with av.open(str(path), "w") as box:
        video = box.add_stream(
            "libx264", rate=fps, options={"g": str(2 * fps), "preset": "veryfast"}
        )
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        audio = box.add_stream("aac", rate=48_000, layout="mono")
        for i in range(seconds * fps):
            pixels = noise[i % 8] + np.roll(ramp, 3 * i, axis=1)  # (H, W, 3)
            box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        box.mux(video.encode())
        wave = np.sin(2 * np.pi * 440 * np.arange(seconds * 48_000) / 48_000).astype(np.float32)
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate = 48_000
        box.mux(audio.encode(block))
        box.mux(audio.encode())


def decord_sound(path: str) -> np.ndarray:
    """16 kHz mono sound, (n,)."""
    import decord

    # trap: reader[:] indexes sample by sample, 20 times slower than the array it holds
    return decord.AudioReader(path, sample_rate=SAMPLE_RATE, mono=True)._array[0]


def readers(path: Path, settings: MediaSettings, cache: MediaCache) -> dict:
    """What is read -> {reader: function}; the first reader is the one that the others are compared
    with."""
    sample = Sample("clip", "?", "numeric", "0", videos=[str(path)])
    by_decord = replace(settings, decoder="decord")
    return {
        "frames, resized": {
            "PyAV": partial(resized_frames, str(path), settings),
            "decord": partial(resized_frames, str(path), by_decord),
        },
        "sound": {
            "PyAV": partial(read_sound, str(path), True, ""),
            "decord": partial(decord_sound, str(path)),
        },
        "both": {
            "PyAV": partial(load_media, sample, settings),
            "frames by decord": partial(load_media, sample, by_decord),
            "the cache": partial(load_media, sample, settings, cache),
        },
    }


def resized_frames(path: str, settings: MediaSettings) -> np.ndarray:
    """(T, h, w, 3) uint8 of a clip."""
    resize = Resize(settings.min_pixels, settings.max_pixels, settings.patch)
    sampled = read_frames(
        path, settings.fps, settings.max_frames, "", convert=resize, decoder=settings.decoder
    )
    return sampled.pixels


def measure(sides: dict[str, dict], repeats: int) -> list[dict]:
    """One row per reader: CPU milliseconds, and how many times as long as PyAV it takes."""
    rows = []
    for what, functions in sides.items():
        pyav_seconds = None
        for reader, read in functions.items():
            seconds = timed(read, repeats)
            pyav_seconds = pyav_seconds or seconds["median"]
            rows.append(
                {
                    "what": what,
                    "reader": reader,
                    "cpu_ms": 1e3 * seconds["median"],
                    "min_ms": 1e3 * seconds["min"],
                    "of_pyavs_time": seconds["median"] / pyav_seconds,
                }
            )
    return rows


def main() -> None:
    args = arguments(__doc__.split("\n")[0])
    shape = SHAPES[args.size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, shape["seconds"], shape["fps"], shape["height"], shape["width"])

        settings = MediaSettings(
            fps=shape["frames"] / shape["seconds"], max_frames=shape["frames"], max_pixels=50_176
        )
        cache = MediaCache(Path(folder) / "cache")
        sides = readers(path, settings, cache)
        rows = measure(sides, args.repeats)

        # all readers give the same: the frames nearly, a cache hit to the bit
        frames = sides["frames, resized"]["PyAV"]()  # (T, h, w, 3)
        other = sides["frames, resized"]["decord"]()  # (T, h, w, 3)
        difference = float(np.abs(other.astype(int) - frames).mean())
        (decoded,) = sides["both"]["PyAV"]()
        (cached,) = sides["both"]["the cache"]()
        assert np.array_equal(cached.frames, decoded.frames)
        assert np.array_equal(cached.sound, decoded.sound)
        cache_bytes = sum(file.stat().st_size for file in cache.folder.iterdir())
        report(
            args,
            f"decode: {shape}",
            rows,
            {
                "mean_difference_of_frames": round(difference, 3),
                "cache_file_kB": round(cache_bytes / 1e3),
            },
        )


if __name__ == "__main__":
    main()
