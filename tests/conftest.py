"""Shared fixtures: a few clips of the toy world, and small models of all families."""

import os
import sys
from collections import Counter
from pathlib import Path

# a test that reaches for the hub is a test that fails
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# the models are small: threads of several processes that wait for each other's cores cost half of
# the time
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch

import toy
from data import PromptBuilder
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from media.decode import MediaSettings
from model import load_policy
from tests.families import QWEN3_OMNI, tiny_family

torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too (half an hour)")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow only")
    config.addinivalue_line("markers", "some(n): of its many cases n run, and all with --slow")


def pytest_collection_modifyitems(config, items):
    cases = Counter()
    for item in items if not config.getoption("--slow") else []:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="pass --slow"))
        if some := item.get_closest_marker("some"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > some.args[0]:
                item.add_marker(pytest.mark.skip(reason="one case of many: pass --slow"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder of a small toy world; stage2 train has 8 clips x 2 questions."""
    root = tmp_path_factory.mktemp("toy")
    toy.build(root, 2, "train", 8, progress=False)
    return root


@pytest.fixture
def no_clips(monkeypatch):
    """Records without their clips, for tests that look at records only."""
    monkeypatch.setattr(toy, "write_clip", lambda path, scene, rng: None)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """Where the small runs render the toy world and keep decoded media, once for all of them."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def in_shared_folder(shared_folder, monkeypatch) -> Path:
    """The working folder is the shared one: runs find ./toy_world and ./media_cache there."""
    monkeypatch.chdir(shared_folder)
    return shared_folder


@pytest.fixture(scope="session")
def samples(world):
    """The 16 training questions of the small world."""
    return load_samples(next(world.glob("*/stage2_train_8x2.jsonl")))


@pytest.fixture(scope="session")
def policy():
    """The bundled model, on the CPU in fp32. Tests must not change it; those that do take
    `fresh_policy`."""
    return load_policy(DEFAULT_MODEL)


@pytest.fixture
def fresh_policy():
    """The bundled model for one test, which may change it."""
    return load_policy(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """Tiny models of all families but the bundled one's, by name. Tests must not change them."""
    root = tmp_path_factory.mktemp("families")
    names = ("qwen2_5_vl", "qwen3_vl", QWEN3_OMNI)
    return {name: load_policy(tiny_family(name, root / name)) for name in names}


@pytest.fixture(scope="session")
def builder(policy):
    """Turns samples into prompts of the bundled model."""
    return PromptBuilder(
        policy.tokenizer,
        policy.form,
        MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28),
    )


@pytest.fixture(scope="session")
def prompts(builder, samples):
    """Prompts of the first four questions, about two clips."""
    return builder.build_or_raise(samples[:4])


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory, policy) -> Path:
    """Folder of an InternVL with random weights, as a judge."""
    from tests.chat_fakes import save_tiny_internvl  # imports much that few tests need

    folder = tmp_path_factory.mktemp("internvl")
    save_tiny_internvl(folder, policy.tokenizer)
    return folder
