"""Folders in the layouts of the benchmarks, written and read once for all tests of this folder."""

import pytest

from benchmarks.table import BENCHMARKS
from tests import layouts_sound, layouts_video

LAYOUTS = {
    **layouts_sound.LAYOUTS,
    **layouts_video.LAYOUTS,
    "avodyssey_parquet": layouts_sound.avodyssey_parquet,
    "omnibench_parquet": layouts_sound.omnibench_parquet,
    "worldsense_parquet": layouts_sound.worldsense_parquet,
}


@pytest.fixture(scope="session")
def read_layout(tmp_path_factory):
    """layout -> (folder, items); "omnibench_parquet" is another layout of omnibench."""
    known = {}

    def read(layout: str):
        if layout not in known:
            root = tmp_path_factory.mktemp(layout)
            count = LAYOUTS[layout](root)
            items = list(BENCHMARKS[layout.split("_")[0]].read(root, root / "scratch"))
            assert len(items) == count
            known[layout] = root, items
        return known[layout]

    return read
