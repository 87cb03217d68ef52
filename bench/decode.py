"""Reading media: frames and sound of one clip by decord (what data.py uses), by PyAV, and from the cache on disk.

    python bench/decode.py                 # a toy clip: 4 s of 84 x 28 at 8 frames per second
    python bench/decode.py --size 7b       # 60 s of 640 x 360 H.264, a key frame every 2 s, 32 frames

Every reader gives the same frames and 16 kHz mono sound; the cache holds the resized frames and the sound (`--media_cache` of train.py).
"""

import tempfile
from pathlib import Path

import av
import numpy as np
from common import arguments, report, timed

from formats.sample import Sample
from media.cache import MediaCache, decode, load_media
from media.decode import frame_indices, read_frames, read_sound
from media.prompt_format import MIN_PIXELS, SAMPLE_RATE

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
            box.mux(
                video.encode(
                    av.VideoFrame.from_ndarray(
                        noise[i % 8] + np.roll(ramp, 3 * i, axis=1), format="rgb24"
                    )
                )
            )
        box.mux(video.encode())
        wave = np.sin(2 * np.pi * 440 * np.arange(seconds * 48_000) / 48_000).astype(np.float32)
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate = 48_000
        box.mux(audio.encode(block))
        box.mux(audio.encode())


def pyav_pass(path: str, index: np.ndarray) -> np.ndarray:
    """The frames by one pass over the whole file."""
    wanted, out = set(index.tolist()), []
    with av.open(path) as box:
        for i, frame in enumerate(box.decode(video=0)):
            if i in wanted:
                out.append(frame.to_ndarray(format="rgb24"))
    return np.stack(out)


def pyav_seek(path: str, index: np.ndarray) -> np.ndarray:
    """The frames by a seek to the key frame before each."""
    out = []
    with av.open(path) as box:
        stream = box.streams.video[0]
        for i in index:
            at = int(i / stream.average_rate / stream.time_base)
            box.seek(at, stream=stream)
            out.append(
                next(f for f in box.decode(stream) if f.pts >= at).to_ndarray(format="rgb24")
            )
    return np.stack(out)


def pyav_sound(path: str) -> np.ndarray:
    with av.open(path) as box:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        return np.concatenate(
            [f.to_ndarray()[0] for block in box.decode(audio=0) for f in resampler.resample(block)]
        )


def main() -> None:
    args = arguments(__doc__.split("\n")[0])
    shape = SHAPES[args.size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, shape["seconds"], shape["fps"], shape["height"], shape["width"])
        index, _ = frame_indices(
            shape["seconds"] * shape["fps"],
            shape["fps"],
            shape["frames"] / shape["seconds"],
            shape["frames"],
        )
        sample = Sample("clip", "?", "numeric", "0", videos=[str(path)])
        settings = {
            "fps": shape["frames"] / shape["seconds"],
            "max_frames": shape["frames"],
            "min_pixels": MIN_PIXELS,
            "max_pixels": 50_176,
        }
        store = MediaCache(Path(folder) / "cache", 2**30)
        frames = read_frames(str(path), settings["fps"], settings["max_frames"], "")[0]
        worst = max(
            np.abs(f(str(path), index).astype(int) - frames).mean() for f in (pyav_pass, pyav_seek)
        )
        readers = {
            "frames": {
                "decord": lambda: read_frames(
                    str(path), settings["fps"], settings["max_frames"], ""
                ),
                "PyAV, one pass": lambda: pyav_pass(str(path), index),
                "PyAV, seeks": lambda: pyav_seek(str(path), index),
            },
            "sound": {
                "decord": lambda: read_sound(str(path), True, ""),
                "PyAV": lambda: pyav_sound(str(path)),
            },
            "both, resized": {
                "decord": lambda: load_media(sample, **settings),
                "the cache": lambda: decode(sample, settings, store),
            },
        }
        rows = []
        for what, sides in readers.items():
            base = None
            for name, read in sides.items():
                seconds = timed(read, args.repeats)
                base = base or seconds["median"]
                rows.append(
                    {
                        "what": what,
                        "reader": name,
                        "cpu_ms": 1e3 * seconds["median"],
                        "min_ms": 1e3 * seconds["min"],
                        "faster_than_decord_by": base / seconds["median"],
                    }
                )
        kept, again = decode(sample, settings, store)[0], load_media(sample, **settings)[0]
        assert np.array_equal(kept.frames, again.frames) and np.array_equal(kept.sound, again.sound)
        report(
            args,
            f"decode: {shape}",
            rows,
            {
                "mean_difference_of_frames": round(float(worst), 3),
                "cache_file_kB": round(sum(f.stat().st_size for f in store.folder.iterdir()) / 1e3),
            },
        )


if __name__ == "__main__":
    main()
