"""media/cache.py: decoded media on disk, so that a later run does not decode them again.

The cache is an extra. Whatever happens to its folder (full, read-only, gone) or to a file in it,
the medium is decoded and the run goes on, with a warning.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import threading
import time
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np

from formats.sample import Sample, file_of
from media.decode import READER_VERSION, Media, MediaSettings, load_medium
from media.errors import first_line

MAX_BYTES = 20 * 2**30  # that a cache folder holds, unless it is opened with another limit

ABANDONED = 3600  # seconds; an unfinished file of that age was left by a process that was killed

STORED_FIELDS = ("kind", "frames", "sound", "seconds_per_group", "times", "cut")  # of Media

DIGEST_BYTES = 32  # SHA-256 of what follows, at the beginning of each file

# trap: numpy reads an array's header by the module ast, which two threads must not use at the same
# time in Python 3.11 ("AST constructor recursion depth mismatch", python/cpython#106905). One file
# in thousands was then called damaged, and decoded again.
ONE_AT_A_TIME = threading.Lock()


@functools.cache
def reader_versions() -> dict[str, object]:
    """What reads media: our code and the packages below it. Part of each key, so that no run is
    served what an older reader made of a file."""
    packages = ("av", "pillow", "soundfile", "soxr")
    versions: dict[str, object] = {name: metadata.version(name) for name in packages}
    versions["reader"] = READER_VERSION
    return versions


class MediaCache:
    """A folder of decoded media, one file each, of at most `max_bytes`; old files go first.

    Frames and sound are kept as they were decoded, so that a hit and a miss give the same bits.
    Several processes may use one folder: a file is written under the name of a .part, and gets its
    own name when it is complete.
    """

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES):
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        with contextlib.suppress(OSError):  # the first file that cannot be kept there says so
            self.folder.mkdir(parents=True, exist_ok=True)
        self.files()  # removes what killed processes have left

    def files(self) -> list[tuple[int, int, Path]]:
        """(time of change in ns, bytes, path) of each file, the oldest first.

        Removes the .part files that killed processes have left.
        """
        files = []
        for path in [*self.folder.glob("*.npz"), *self.folder.glob("*.part")]:
            # other processes may be trimming the folder at the same time, or it is read-only
            with contextlib.suppress(OSError):
                stat = path.stat()
                if path.suffix == ".part" and time.time() - stat.st_mtime > ABANDONED:
                    path.unlink()
                else:
                    files.append((stat.st_mtime_ns, stat.st_size, path))
        return sorted(files)

    def path(self, kind: str, path: str, sample: Sample, settings: MediaSettings) -> Path | None:
        """Where one medium of a sample is kept; None when one of its files is not a file.

        The name is a digest of everything that decoding depends on: path, size and time of change
        of each file, the settings, the fields of the record that `load_medium` reads, and the
        versions of what reads the file.
        """
        file = file_of(path, kind)
        files = [file]
        key = asdict(settings)
        key["versions"] = reader_versions()
        key["kind"] = kind  # an .mp4 may be a video here and a sound there
        key["at"] = path[len(file) :]  # "#t=12.5" of the picture of a moment
        if kind == "video":
            key["span"] = sample.span
            key["frame_rate"] = sample.frame_rate
            if sample.soundtrack:
                files.append(sample.soundtrack)

        # the same name may hold another clip by now
        stats = []
        for file in files:
            if not os.path.isfile(file):
                return None
            stat = os.stat(file)
            stats.append((str(Path(file).absolute()), stat.st_size, stat.st_mtime_ns))
        digest = hashlib.sha256(json.dumps([stats, key], sort_keys=True).encode())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"

    def load(self, path: Path) -> Media | None:
        """The medium that was saved there; None when there is none, or, with a warning, a damaged
        one."""
        try:
            content = path.read_bytes()
            digest = content[:DIGEST_BYTES]
            content = content[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("its checksum does not fit")
            with ONE_AT_A_TIME, np.load(io.BytesIO(content), allow_pickle=False) as file:
                return Media(
                    kind=str(file["kind"]),
                    frames=file.get("frames"),
                    sound=file.get("sound"),
                    seconds_per_group=float(file["seconds_per_group"]),
                    times=file.get("times"),
                    cut=bool(file["cut"]),
                )
        except (FileNotFoundError, NotADirectoryError):
            return None
        # a file of any damage raises almost anything
        except Exception as error:
            warnings.warn(
                f"{path}: damaged cache file ({first_line(error)}); decoded again", stacklevel=2
            )
            return None

    def save(self, path: Path, media: Media) -> None:
        """Write a medium, whole or not at all; with a warning where it cannot be written."""
        # a field that is None is not in the file
        arrays = {}
        for name in STORED_FIELDS:
            value = getattr(media, name)
            if value is not None:
                arrays[name] = value
        content = io.BytesIO()
        np.savez(content, **arrays)

        # under a name of this thread's own first, so that nobody reads half a file
        partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
            with partial.open("wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
            partial.rename(path)
        except OSError as error:
            self._warn_of_folder(error)
        finally:
            # what did not fit; after a rename, and in a folder that is gone, there is nothing
            with contextlib.suppress(OSError):
                partial.unlink()

    def _warn_of_folder(self, error: OSError) -> None:
        """The same words for every file, so that Python says them once."""
        warnings.warn(
            f"{self.folder}: decoded media cannot be kept there ({error.strerror}); "
            "the run goes on and decodes them each time",
            stacklevel=3,
        )

    def trim(self) -> None:
        """Bring the folder down to its size. Files that are being written count, and stay."""
        files = self.files()
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.max_bytes:
                break
            if path.suffix == ".npz":
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size


def load_media(
    sample: Sample, settings: MediaSettings, cache: MediaCache | None = None
) -> list[Media]:
    """The media that a sample names, in its order: decoded, or read from the cache.

    Raises MediaError.
    """
    loaded = []
    for kind, path in sample.media:
        # no path: a folder of frames, which is read each time, or a missing file, which
        # load_medium reports
        stored = cache.path(kind, path, sample, settings) if cache else None
        media = cache.load(stored) if stored else None
        if media is None:
            media = load_medium(kind, path, sample, settings)
            if stored:
                cache.save(stored, media)
        loaded.append(media)
    return loaded
