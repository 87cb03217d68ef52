"""engine/checksums.py: every change of a file is noticed, and named."""

import hashlib

import pytest

from engine.checksums import NAME, check_checksums, check_model_files, checksum, write_checksums
from formats.sample import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "model.bin").write_bytes(b"weights" * 1000)
    (tmp_path / "trainer" / "rank0.pt").write_bytes(b"state")
    (tmp_path / "empty").write_bytes(b"")
    write_checksums(tmp_path)
    return tmp_path


def test_the_digest_is_sha_256(folder):
    expected = hashlib.sha256(b"weights" * 1000).hexdigest()
    assert checksum(folder / "model.bin") == (7000, expected)


def test_whole_files_pass(folder):
    check_checksums(folder, "mend it")
    check_model_files(folder)
    (folder / "notes.txt").write_text("a file of the user's own")
    (folder / "._model.bin").write_text("of a file manager")
    check_checksums(folder, "mend it")


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "trainer/rank1.pt", "adapter/adapter_config.json"]
)
def test_a_file_more_that_would_be_read_is_named(folder, name):
    """transformers would read shards, or an adapter, in the place of what was written."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(DataError, match=rf"{name}: is none of the files that were written; move"):
        check_checksums(folder, "mend it")
    if not name.startswith("trainer/"):
        with pytest.raises(DataError, match=name):
            check_model_files(folder)


@pytest.mark.parametrize("name", ["model.bin", "trainer/rank0.pt", "empty"])
@pytest.mark.parametrize("damage", ["gone", "longer", "changed", "folder"])
def test_each_damage_is_named(folder, name, damage):
    file = folder / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "longer" or not content:
        file.write_bytes(content + b"x")
    else:
        file.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError) as raised:
        check_checksums(folder, "mend it")
    assert str(raised.value).startswith(f"{file}: it ")
    assert str(raised.value).endswith("; mend it")


def test_a_model_is_read_without_the_trainers_files(folder):
    (folder / "trainer" / "rank0.pt").unlink()
    check_model_files(folder)
    (folder / "model.bin").write_bytes(b"weighty" * 1000)
    with pytest.raises(DataError, match=r"model\.bin: it is damaged"):
        check_model_files(folder)


def test_a_folder_from_elsewhere_has_no_checksums(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    check_model_files(tmp_path)
    with pytest.raises(DataError, match=rf"{NAME}: it is gone"):
        check_checksums(tmp_path, "mend it")


def test_checksums_that_are_nested_deeply_are_damage(folder):
    (folder / NAME).write_text("[" * 100_000)
    with pytest.raises(DataError, match=rf"{NAME}: it cannot be read \(RecursionError\); mend it"):
        check_checksums(folder, "mend it")


def test_a_line_that_stands_twice_is_damage(folder):
    """JSON takes the second one, so that the content would be the same."""
    lines = (folder / NAME).read_text().splitlines(keepends=True)
    (folder / NAME).write_text("".join([*lines[:5], *lines[1:5], *lines[5:]]))
    with pytest.raises(DataError, match=rf"{NAME}: it "):
        check_checksums(folder, "mend it")
