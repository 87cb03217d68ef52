"""media/cache.py: decoded media on disk."""

import contextlib
import hashlib
import json
import os
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

from formats.sample import Sample, file_of
from media.decode import Media, first_line, load_medium, place


def load_media(sample: Sample, **settings) -> list[Media]:
    """Decode the media a sample names, in its order. settings: those of load_medium."""
    return decode(sample, settings)


class MediaCache:
    """Decoded media on disk, one file each, in `folder`, at most `max_bytes`: what was written first goes first. Frames and sound are kept as
    they were decoded, so that a hit and a miss give the same bits. The key holds path, size and time of change of each file, and the settings.
    What is being written is a .part; one that is older than an hour was left by a process that was killed, and is removed.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files()

    def files(self) -> list[tuple[int, int, Path]]:
        """(time of change in ns, bytes, path) of what the folder holds, the oldest first. Other processes may be writing and trimming it, too."""
        found = []
        for f in [*self.folder.glob("*.npz"), *self.folder.glob("*.part")]:
            with contextlib.suppress(FileNotFoundError):
                stat = f.stat()
                if f.suffix == ".part" and time.time() - stat.st_mtime > 3600:
                    f.unlink()
                else:
                    found.append((stat.st_mtime_ns, stat.st_size, f))
        return sorted(found)

    def path(self, files: list[str], settings: dict) -> Path:
        stats = [
            (str(Path(f).absolute()), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files
        ]
        return self.folder / (
            hashlib.sha256(json.dumps([stats, settings], sort_keys=True).encode()).hexdigest()[:32]
            + ".npz"
        )

    def load(self, path: Path) -> Media | None:
        try:
            with np.load(path, allow_pickle=False) as f:
                return Media(
                    str(f["kind"]),
                    f.get("frames"),
                    f.get("sound"),
                    float(f["seconds_per_group"]),
                    times=f.get("times"),
                    cut=bool(f["cut"]),
                )
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
        ) as error:
            warnings.warn(
                f"{path}: damaged cache file ({first_line(error)}); decoded again", stacklevel=2
            )
            return None

    def save(self, path: Path, media: Media) -> None:
        partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        with partial.open("wb") as file:
            np.savez(
                file,
                **{
                    k: v
                    for k in ("kind", "frames", "sound", "seconds_per_group", "times", "cut")
                    if (v := getattr(media, k)) is not None
                },
            )
        partial.rename(path)

    def trim(self) -> None:
        """Bring the folder down to its size. Files that are being written count, and stay."""
        files = self.files()
        total = sum(size for _, size, _ in files)
        for _, size, f in files:
            if total <= self.max_bytes:
                break
            if f.suffix == ".npz":
                f.unlink(missing_ok=True)
                total -= size


def decode(sample: Sample, settings: dict, store: MediaCache | None = None) -> list[Media]:
    """load_media by way of the store, if there is one."""
    out = []
    for kind, path in sample.media:
        soundtrack = sample.soundtrack if kind == "video" else None
        shown = settings | (
            {"span": sample.span, "frame_rate": sample.frame_rate} if kind == "video" else {}
        )
        files = [file_of(f) for f in (path, soundtrack) if f]
        known = store is not None and all(
            os.path.isfile(f) for f in files
        )  # load_medium says what is missing
        stored = (
            store.path(files, shown | {"kind": kind, "at": path[len(files[0]) :]})
            if known
            else None
        )  # an .mp4 may be a video here and an audio there
        media = store.load(stored) if known else None
        if media is None:
            media = load_medium(kind, path, soundtrack, place(sample), **shown)
            if known:
                store.save(stored, media)
        out.append(media)
    return out
