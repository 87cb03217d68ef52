"""Media paths that lead out of the media folder are refused; all others are left as they are."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from formats.load import load_samples
from formats.sample import DataError
from tests.formats.forms import R1

RECORD = {"question": "q", "problem_type": "numeric", "answer": "1"}

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


@pytest.fixture
def tree(tmp_path):
    """data/d.jsonl, data/in.png, data/sub, and secret.png beside data. data/link.png and data/away
    are links that lead out, data/near.png is one that stays inside."""
    inside = tmp_path / "data"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "in.png", inside / "sub" / "in.png", tmp_path / "secret.png"):
        Image.new("RGB", (28, 28)).save(path)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "away").symlink_to(tmp_path)
    (inside / "near.png").symlink_to(inside / "in.png")
    (tmp_path / "data2").mkdir()
    return SimpleNamespace(root=inside, above=tmp_path, file=inside / "d.jsonl")


def write_records(tree, *records):
    lines = [json.dumps(RECORD | record) for record in records]
    tree.file.write_text("\n".join(lines))
    return tree.file


def write_paths(tree, *paths, field="image"):
    others = {"video": "v.mp4"} if field == "soundtrack" else {}
    records = [{"id": str(i), field: path} | others for i, path in enumerate(paths)]
    return write_records(tree, *records)


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("field", ["image", "video", "audio", "soundtrack"])
def test_paths_that_lead_out_of_the_folder_are_refused(tree, path, field):
    path = path.format(above=tree.above)
    if "#t=" in path and field != "image":  # there it is part of a file's name, see below
        (tree.root / path).symlink_to(tree.above / "secret.png")
    file = write_paths(tree, "in.png", path, field=field)
    with pytest.raises(DataError) as error:
        load_samples(file)
    text = str(error.value)
    assert text.startswith(f"{file}:2: field '{field}' of record '1': ")
    assert path in text
    assert f"outside of the media folder {tree.root};" in text
    assert "pass --media_root with the folder that holds all of them" in text
    assert "\n" not in text
    problems = []
    assert [s.id for s in load_samples(file, problems=problems)] == ["0"]
    assert problems == [text]
    assert len(load_samples(file, "/")) == 2


def test_paths_inside_are_left_as_they_are(tree, monkeypatch):
    """Absolute ones, too, and however the root is written: relative, by a link, or as the whole
    disk."""
    paths = [path.format(above=tree.above) for path in INSIDE]
    file = write_paths(tree, *paths)
    assert [s.images[0] for s in load_samples(file)] == [str(tree.root / path) for path in paths]
    monkeypatch.chdir(tree.above)
    (tree.above / "same").symlink_to(tree.root)
    for root in ("data", "same", "same/../data"):
        assert len(load_samples(file, root)) == len(paths)
    for root in (tree.above, "/"):
        file = write_paths(tree, "x.png", f"{tree.root}/in.png", f"{tree.root}/link.png")
        assert len(load_samples(file, root)) == 3
    write_paths(tree, "x.png")
    assert len(load_samples("data/d.jsonl")) == 1
    monkeypatch.chdir(tree.root)
    assert [s.images for s in load_samples("d.jsonl")] == [["x.png"]]


def test_records_of_another_stage_may_name_anything(tree):
    """They are not read."""
    write_records(
        tree,
        {"id": "a", "image": "/etc/passwd", "stage": 3},
        {"id": "b", "image": "in.png", "stage": 2},
    )
    assert [s.id for s in load_samples(tree.file, stage=2)] == ["b"]
    with pytest.raises(DataError, match="outside of the media folder"):
        load_samples(tree.file, stage=3)


def test_what_is_looked_at_is_what_is_opened(tree):
    """A harmless x.mp4 beside a link of the name "x.mp4#t=1"."""
    (tree.root / "x.mp4").write_bytes(b"harmless")
    (tree.root / "x.mp4#t=1").symlink_to(tree.above / "secret.png")
    for field in ("video", "audio", "soundtrack"):
        file = write_records(tree, {"id": "a", "video": "x.mp4", field: "x.mp4#t=1"})
        with pytest.raises(
            DataError, match=r"field '(video|audio|soundtrack)' .*#t=1 lies outside"
        ):
            load_samples(file)
    assert len(load_samples(write_paths(tree, "x.mp4#t=1"))) == 1  # the picture of x.mp4 at 1 s


def yaml_of(tree, json_path="in.json", data_root="."):
    file = tree.root / "x.yaml"
    file.write_text(f"datasets:\n- {{json_path: {json_path}, data_root: {data_root}}}\n")
    return file


@pytest.mark.parametrize("data_root", ["/", "..", "away", "{above}", "{above}/data2", "sub/../.."])
def test_a_yaml_cannot_open_another_folder(tree, data_root):
    (tree.root / "in.json").write_text(json.dumps([R1 | {"path": "secret.png"}]))
    file = yaml_of(tree, data_root=data_root.format(above=tree.above))
    with pytest.raises(DataError, match=r"datasets\[0\]: field 'data_root': .* lies outside"):
        load_samples(file)
    # with the permission of the user
    assert len(load_samples(file, tree.above)) == 1


@pytest.mark.parametrize("json_path", ["../out.json", "{above}/out.json", "away/out.json"])
def test_a_yaml_cannot_read_records_from_elsewhere(tree, json_path):
    (tree.above / "out.json").write_text(json.dumps([R1 | {"path": "in.png"}]))
    file = yaml_of(tree, json_path.format(above=tree.above))
    with pytest.raises(DataError, match=r"field 'json_path': .* lies outside"):
        load_samples(file)
    assert len(load_samples(file, tree.above)) == 1


def test_the_cache_of_hugging_face(tree):
    """Files of a snapshot are links to the blobs of the same repository; to those of another one
    they are not."""
    hub = tree.above / "hub"
    snapshot = hub / "datasets--a--b" / "snapshots" / "0f3e"
    snapshot.mkdir(parents=True)
    for name in ("a--b", "c--d"):
        (hub / f"datasets--{name}" / "blobs").mkdir(parents=True, exist_ok=True)
        (hub / f"datasets--{name}" / "blobs" / "12ab").write_bytes(b"picture")
    (snapshot / "good.png").symlink_to("../../blobs/12ab")
    (snapshot / "bad.png").symlink_to("../../../datasets--c--d/blobs/12ab")
    tree.file = snapshot / "d.jsonl"
    assert len(load_samples(write_paths(tree, "good.png"))) == 1
    with pytest.raises(DataError, match="outside of the media folder"):
        load_samples(write_paths(tree, "bad.png"))
