"""Paths of media that lead out of the media folder are refused."""

from types import SimpleNamespace

import pytest
from PIL import Image

from formats.load import load_samples
from formats.sample import DataError


@pytest.fixture
def tree(tmp_path):
    """data/d.jsonl, data/in.png, data/sub, secret.png beside data, and links: data/link.png and data/away lead out, data/near.png stays inside."""
    inside = tmp_path / "data"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "in.png", inside / "sub" / "in.png", tmp_path / "secret.png"):
        Image.new("RGB", (28, 28)).save(path)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "away").symlink_to(tmp_path)
    (inside / "near.png").symlink_to(inside / "in.png")
    (tmp_path / "data2").mkdir()
    return SimpleNamespace(root=inside, above=tmp_path, file=inside / "d.jsonl")


def records(tree, *paths, field="image"):
    lines = [
        f'{{"id": "{i}", "question": "q", "problem_type": "numeric", "answer": "1", "{field}": "{path}"}}\n'
        for i, path in enumerate(paths)
    ]
    tree.file.write_text("".join(lines))
    return tree.file


OUTSIDE = [
    "../secret.png",
    "sub/../../secret.png",
    "{above}/secret.png",
    "link.png",
    "away/secret.png",
    "away/data/../secret.png",
    "../none.png",
    "/etc/passwd",
    "{above}/data2/x.png",
    "..",
    "link.png#t=1.0",
    "{above}/data/../secret.png",
]
INSIDE = [
    "in.png",
    "./in.png",
    "sub/../in.png",
    "{above}/data/in.png",
    "near.png",
    "none.png",
    "sub/none/x.png",
    "../data/in.png",
    "away/data/in.png",
    "in.png#t=0.5",
    "..png",
    "sub/../..a.png",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("field", ["image", "video", "audio", "soundtrack"])
def test_paths_that_lead_out_of_the_folder_are_refused(tree, path, field):
    path = path.format(above=tree.above)
    file = records(tree, "in.png", path, field=field)
    with pytest.raises(DataError) as error:
        load_samples(file)
    text = str(error.value)
    assert (
        text.startswith(f"{file}:2: field '{field}' of record '1': ")
        and path in text
        and f"outside of the media folder {tree.root};" in text
    )
    assert "pass --media_root with the folder that holds all of them" in text and "\n" not in text
    problems = []
    assert [s.id for s in load_samples(file, problems=problems)] == ["0"] and problems == [text]
    assert len(load_samples(file, "/")) == 2


def test_paths_inside_are_left_as_they_are(tree, monkeypatch):
    """Absolute ones, too, and however the root is written: relative, by a link, or as the whole disk."""
    paths = [path.format(above=tree.above) for path in INSIDE]
    file = records(tree, *paths)
    assert [s.images[0] for s in load_samples(file)] == [str(tree.root / path) for path in paths]
    monkeypatch.chdir(tree.above)
    (tree.above / "same").symlink_to(tree.root)
    for root in ("data", "same", "same/../data"):
        assert len(load_samples(file, root)) == len(paths)
    for root in (tree.above, "/"):
        assert (
            len(
                load_samples(
                    records(tree, "x.png", f"{tree.root}/in.png", f"{tree.root}/link.png"), root
                )
            )
            == 3
        )
    records(tree, "x.png")
    assert len(load_samples("data/d.jsonl")) == 1
    monkeypatch.chdir(tree.root)
    assert [s.images for s in load_samples("d.jsonl")] == [["x.png"]]


def test_records_of_another_stage_may_name_anything(tree):
    """They are not read."""
    tree.file.write_text(
        '{"id": "a", "question": "q", "problem_type": "numeric", "answer": "1", "image": "/etc/passwd", "stage": 3}\n'
        '{"id": "b", "question": "q", "problem_type": "numeric", "answer": "1", "image": "in.png", "stage": 2}\n'
    )
    assert [s.id for s in load_samples(tree.file, stage=2)] == ["b"]
    with pytest.raises(DataError, match="outside of the media folder"):
        load_samples(tree.file, stage=3)
