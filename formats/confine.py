"""formats/confine.py: which files a data set, a YAML or a benchmark may name.

What was downloaded must not make a run open any other file of this machine, nor send it to a judge.
So everything that it names must lie inside one folder: its own, or the one that the user names by
--media_root, which is the permission. "Lie inside" is said of the file itself, behind all links: a
link that leads out is refused like a path with "..". The one exception is the cache of Hugging
Face, where every file of .../snapshots/REVISION is a link to .../blobs of the same repository.
"""

import functools
import os
from pathlib import Path


class Confinement:
    """The folders inside which files must lie."""

    def __init__(self, *folders: str | Path):
        self.realpath = functools.cache(os.path.realpath)  # few folders hold many files
        self.roots: list[str] = []
        for folder in folders:
            root = self.realpath(str(folder))
            self.roots.append(root)
            if blobs := blobs_of(root):
                self.roots.append(blobs)

    def holds(self, path: str | Path) -> bool:
        """Does the file behind this path lie inside one of the folders? (Or is it one of them.)"""
        try:
            real = self.real_file(str(path))
        except (OSError, ValueError):  # a name that no system takes
            return False
        return any(
            real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self.roots
        )

    def real_file(self, file: str) -> str:
        """os.path.realpath of a file, at the cost of one look at it where its folder is known."""
        folder, name = os.path.split(file)
        if name in ("", ".", "..") or os.path.islink(file):
            return os.path.realpath(file)
        return os.path.join(self.realpath(folder), name)


def with_slash(root: str) -> str:
    """with_slash("/data") = "/data/", and "/" stays."""
    return root.rstrip(os.sep) + os.sep


def blobs_of(root: str) -> str | None:
    """The folder with the contents of a snapshot of Hugging Face's cache, else None.

    >>> blobs_of("/c/hub/datasets--a--b/snapshots/0f3e/videos")
    '/c/hub/datasets--a--b/blobs'
    >>> blobs_of("/data/snapshots/0f3e")
    """
    parts = Path(root).parts
    for i, part in enumerate(parts):
        is_repository = i > 0 and parts[i - 1].startswith(("datasets--", "models--", "spaces--"))
        if part == "snapshots" and is_repository:
            return str(Path(*parts[:i]) / "blobs")
    return None
