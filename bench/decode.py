"""Reading media: frames and sound of one clip by decord, by PyAV, and from the cache on disk.

    # a toy clip: 4 s of 84 x 28 at 8 frames per second
    python bench/decode.py
    # 32 frames of 60 s of 640 x 360 H.264, a key frame every 2 s
    python bench/decode.py --size 7b

media/ reads frames by decord and sound by PyAV.

Every reader gives the same frames and 16 kHz mono sound; the cache holds the resized frames and the
sound (`--media_cache` of train.py).
"""

import tempfile
from functools import partial
from pathlib import Path

import av
import numpy as np
from common import arguments, report, timed

from formats.sample import Sample
from media.cache import MediaCache, load_media
from media.decode import MediaSettings
from media.frames import frame_indices, read_frames
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


def pyav_pass(path: str, index: np.ndarray) -> np.ndarray:
    """The frames by one pass over the whole file."""
    sampled = set(index.tolist())
    frames = []
    with av.open(path) as box:
        for i, frame in enumerate(box.decode(video=0)):
            if i in sampled:
                frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)  # (T, H, W, 3)


def pyav_seek(path: str, index: np.ndarray) -> np.ndarray:
    """The frames by a seek to the key frame before each."""
    frames = []
    with av.open(path) as box:
        stream = box.streams.video[0]
        for i in index:
            time = int(i / stream.average_rate / stream.time_base)
            box.seek(time, stream=stream)
            frame = next(frame for frame in box.decode(stream) if frame.pts >= time)
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)  # (T, H, W, 3)


def decord_sound(path: str) -> np.ndarray:
    """16 kHz mono sound, (n,)."""
    import decord

    # trap: reader[:] indexes sample by sample, 20 times slower than the array it holds
    return decord.AudioReader(path, sample_rate=SAMPLE_RATE, mono=True)._array[0]


def readers(path: Path, settings: MediaSettings, index: np.ndarray, cache: MediaCache) -> dict:
    """What is read -> {reader: function}; the first reader is the one that the others are compared
    with."""
    sample = Sample("clip", "?", "numeric", "0", videos=[str(path)])

    def decord_frames() -> np.ndarray:
        return read_frames(str(path), settings.fps, settings.max_frames, "").pixels

    return {
        "frames": {
            "decord": decord_frames,
            "PyAV, one pass": partial(pyav_pass, str(path), index),
            "PyAV, seeks": partial(pyav_seek, str(path), index),
        },
        "sound": {
            "decord": partial(decord_sound, str(path)),
            "PyAV": partial(read_sound, str(path), True, ""),
        },
        "both, resized": {
            "decord": partial(load_media, sample, settings),
            "the cache": partial(load_media, sample, settings, cache),
        },
    }


def measure(sides: dict[str, dict], repeats: int) -> list[dict]:
    """One row per reader: CPU milliseconds, and how much faster it is than decord."""
    rows = []
    for what, functions in sides.items():
        decord_seconds = None
        for reader, read in functions.items():
            seconds = timed(read, repeats)
            decord_seconds = decord_seconds or seconds["median"]
            rows.append(
                {
                    "what": what,
                    "reader": reader,
                    "cpu_ms": 1e3 * seconds["median"],
                    "min_ms": 1e3 * seconds["min"],
                    "faster_than_decord_by": decord_seconds / seconds["median"],
                }
            )
    return rows


def main() -> None:
    args = arguments(__doc__.split("\n")[0])
    shape = SHAPES[args.size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, shape["seconds"], shape["fps"], shape["height"], shape["width"])

        # the frames that are sampled, which PyAV is asked for by number
        settings = MediaSettings(
            fps=shape["frames"] / shape["seconds"], max_frames=shape["frames"], max_pixels=50_176
        )
        total = shape["seconds"] * shape["fps"]
        index, _ = frame_indices(total, shape["fps"], settings.fps, settings.max_frames)
        cache = MediaCache(Path(folder) / "cache")
        sides = readers(path, settings, index, cache)
        rows = measure(sides, args.repeats)

        # all readers give the same: the frames nearly (other colour conversions), a cache hit to
        # the bit
        frames = sides["frames"]["decord"]()  # (T, H, W, 3)
        differences = []
        for reader in ("PyAV, one pass", "PyAV, seeks"):
            other = sides["frames"][reader]()  # (T, H, W, 3)
            differences.append(float(np.abs(other.astype(int) - frames).mean()))
        (decoded,) = sides["both, resized"]["decord"]()
        (cached,) = sides["both, resized"]["the cache"]()
        assert np.array_equal(cached.frames, decoded.frames)
        assert np.array_equal(cached.sound, decoded.sound)
        cache_bytes = sum(file.stat().st_size for file in cache.folder.iterdir())
        report(
            args,
            f"decode: {shape}",
            rows,
            {
                "mean_difference_of_frames": round(max(differences), 3),
                "cache_file_kB": round(cache_bytes / 1e3),
            },
        )


if __name__ == "__main__":
    main()
