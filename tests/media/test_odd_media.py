"""Files of odd kinds under the decoder processes: each is read, or refused in one sentence."""

import pytest

from media.errors import MediaError
from media.workers import Decoders, load_media_and_mel
from tests.media_files import SETTINGS, sample_of_file
from tests.odd_media import make_odd_media


@pytest.fixture
def pool():
    decoders = Decoders(2, 20.0, load_media_and_mel)
    yield decoders
    decoders.close()


def test_files_of_odd_kinds(tmp_path, pool):
    files = make_odd_media(tmp_path)
    assert len(files) == 54
    waiting = []
    for file in files:
        sample = sample_of_file(file.path, file.kind)
        waiting.append(pool.submit(sample, SETTINGS, None, 64))

    outcomes = {"usable": 0, "bad": 0}
    for file, future in zip(files, waiting, strict=True):
        media = future.result()
        outcome = "bad" if isinstance(media, MediaError) else "usable"
        assert file.expectation in (outcome, "either"), (file, str(media)[:500])
        outcomes[outcome] += 1
        if isinstance(media, MediaError):
            # a sentence with the file, and no process that had to be killed
            assert file.path in str(media)
            assert "crash" not in str(media)
            assert "took longer" not in str(media)
    assert outcomes["bad"] >= 30
    assert outcomes["usable"] >= 14
