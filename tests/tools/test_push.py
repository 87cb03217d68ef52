"""tools/push.py against a stub of the hub."""

import fnmatch
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from engine.checksums import write_checksums
from engine.families import DEFAULT_MODEL
from formats.sample import DataError
from model import load_policy
from tools.push import push


class Hub:
    """Takes what HfApi would send."""

    def __init__(self):
        self.repos = {}
        self.files = set()

    def create_repo(self, name, private, exist_ok):
        assert exist_ok
        self.repos[name] = private

    def upload_folder(self, repo_id, folder_path, ignore_patterns, commit_message):
        assert repo_id in self.repos
        for path in Path(folder_path).rglob("*"):
            name = path.relative_to(folder_path).as_posix()
            if path.is_file() and not any(fnmatch.fnmatch(name, p) for p in ignore_patterns):
                self.files.add(name)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A run's folder, whose `checkpoint` is a link."""
    policy = load_policy(DEFAULT_MODEL)
    policy.add_adapters(2, towers=False)
    folder = tmp_path / "checkpoints" / "000003"
    policy.save(folder)
    (folder / "README.md").write_text("# card\n")
    (folder / "trainer").mkdir()
    (folder / "trainer" / "optimizer.pt").write_bytes(b"0")
    write_checksums(folder)
    (tmp_path / "checkpoint").symlink_to(folder)
    return tmp_path / "checkpoint"


def test_nothing_is_sent_unless_it_is_asked_for(checkpoint):
    hub = Hub()
    said = push(checkpoint, "me/model", private=False, upload=False, api=hub)
    assert hub.repos == {}
    assert "model.safetensors" in said
    assert "trainer" not in said
    assert said.endswith("would go to me/model; pass --upload to do it")


def test_the_model_its_card_and_its_adapter_are_sent(checkpoint):
    hub = Hub()
    said = push(checkpoint, "me/model", private=True, upload=True, api=hub)
    assert hub.repos == {"me/model": True}
    assert hub.files >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert "adapter/adapter_model.safetensors" in hub.files
    assert not any("trainer" in name for name in hub.files)
    for line in said.splitlines()[:-1]:
        assert line.split("  ")[0] in hub.files


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/../x y", ""])
def test_a_name_that_is_none_is_refused(checkpoint, name):
    with pytest.raises(DataError, match="not a name of the hub"):
        push(checkpoint, name, private=False, upload=True, api=Hub())


def test_a_folder_without_a_model_and_a_damaged_one_are_refused(checkpoint, tmp_path):
    with pytest.raises(DataError, match="holds no model"):
        push(tmp_path, "me/model", private=False, upload=False)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="it is damaged"):
        push(checkpoint, "me/model", private=False, upload=True, api=Hub())


def test_the_folder_of_a_run_is_refused(checkpoint, monkeypatch):
    """Its own config.json would pass for that of a model."""
    run = checkpoint.parent
    (run / "config.json").write_text('{"stage": 2, "method": "avatar"}')
    (run / "completions.jsonl").write_text('{"completion": "a text"}\n')
    hub = Hub()
    monkeypatch.chdir(run.parent)
    for folder in (run, run / "checkpoints", Path(run.name)):
        for upload in (False, True):
            message = rf"{run.name} is the folder of a run; pass its checkpoint, .*/checkpoint$"
            with pytest.raises(DataError, match=message):
                push(folder, "me/model", private=False, upload=upload, api=hub)
    assert hub.repos == {}
    assert hub.files == set()
    (run / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="loop: holds no model"):
        push(run / "loop", "me/model", private=False, upload=True, api=hub)
    for folder in (checkpoint, run / "checkpoints" / "000003", checkpoint / "adapter"):
        assert "would go to" in push(folder, "me/model", private=False, upload=False, api=hub)


def test_what_the_hub_says_is_one_sentence(checkpoint):
    class Refusing(Hub):
        def create_repo(self, name, private, exist_ok):
            raise HfHubHTTPError("401 Client Error: Unauthorized\nfor url", response=FakeResponse())

    class FakeResponse:
        headers = {}  # noqa: RUF012
        request = None
        status_code = 401

    with pytest.raises(DataError, match=r"the hub refused the upload \(401 Client Error: Unauth"):
        push(checkpoint, "me/model", private=False, upload=True, api=Refusing())
