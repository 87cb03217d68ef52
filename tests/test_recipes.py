"""recipes/*.patch: each applies to this tree, runs, and shows what its method must show.

All runs have the same seed, so that they sample the same completions in step 0. There, what a
recipe adds can be computed from the log of the run without it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.families import DEFAULT_MODEL
from model import load_policy
from run.logs import without_clocks
from tests.runs import REPO, rows_of

PATCHES = REPO / "recipes"
FOLDERS = ("benchmarks", "engine", "formats", "media", "reading", "run", "tools")
SMALL = (
    "--data=toy:6,3",
    "--prompts_per_step=2",
    "--fresh=8",
    "--loss_norm=token",
    "--replay_min=4",
    "--steps=2",
    "--eval_every=0",
)


@pytest.mark.parametrize("recipe", [path.stem for path in PATCHES.glob("*.patch")])
def test_every_recipe_applies_to_this_tree(recipe, tmp_path):
    """Those that are not run here, too."""
    apply(copy_tree(tmp_path / "tree"), recipe)


def copy_tree(folder: Path) -> Path:
    """The programs without the tests; the bundled model is a link."""
    folder.mkdir()
    for file in REPO.glob("*.py"):
        shutil.copy2(file, folder)
    for name in FOLDERS:
        shutil.copytree(REPO / name, folder / name)
    (folder / "assets").symlink_to(REPO / "assets")
    return folder


def apply(tree: Path, recipe: str, *options: str) -> None:
    done = subprocess.run(
        ["git", "apply", *options, str(PATCHES / f"{recipe}.patch")],
        cwd=tree,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{recipe}.patch must be made anew: {done.stderr}"


def train(tree: Path, out: Path, cwd: Path, *flags: str) -> list[dict]:
    """Run the tree's train.py for two steps. Returns their lines of the log."""
    done = subprocess.run(
        [sys.executable, str(tree / "train.py"), *SMALL, f"--out={out}", *flags],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return rows_of(out)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shared_folder) -> list[dict]:
    """The log of the tree as it is."""
    return train(REPO, tmp_path_factory.mktemp("plain") / "run", shared_folder)


# ------------------------------------------------------------------ what each method must show
def check_papo(rows: list[dict], plain: list[dict], out: Path) -> None:
    """L - gamma KL; with --loss_norm token both are means over the fresh tokens."""
    assert all(row["kl_masked"] > 0 for row in rows)
    expected = plain[0]["loss"] - 0.01 * rows[0]["kl_masked"]
    assert rows[0]["loss"] == pytest.approx(expected, abs=1e-6)


def check_care(rows: list[dict], plain: list[dict], out: Path) -> None:
    """R + w bonus, and a reference that has moved a little, in the checkpoint."""
    assert rows[0]["reward_consistency"] > 0
    assert all(0 < row["answer_likelihood"] <= 1 for row in rows)
    expected = plain[0]["reward"] + 0.5 * rows[0]["reward_consistency"]
    assert rows[0]["reward"] == pytest.approx(expected, abs=1e-5)

    start = load_policy(DEFAULT_MODEL)
    now = load_policy(out / "checkpoints" / "000001")
    state = torch.load(out / "checkpoints" / "000001" / "trainer" / "rank0.pt", weights_only=True)
    before = start.weights(state["slow"])
    after = now.weights(state["slow"])
    moved = 0
    for name, mean in state["slow"].items():
        torch.testing.assert_close(mean, torch.lerp(before[name], after[name], 0.005).detach())
        moved += not torch.equal(mean, before[name])
    assert moved == len(before) > 0


def check_length(rows: list[dict], plain: list[dict], out: Path) -> None:
    """R + w for right completions among several, here of any length."""
    assert rows[0]["reward_length"] > 0
    expected = plain[0]["reward"] + 0.2 * rows[0]["reward_length"]
    assert rows[0]["reward"] == pytest.approx(expected, abs=1e-5)


def check_entropy(rows: list[dict], plain: list[dict], out: Path) -> None:
    """Weights from 1 (sure) to 1.3 (the most uncertain token of each completion)."""
    assert all(row["entropy"] > 0 for row in rows)
    assert all(1.001 < row["tas_weight"] < 1.299 for row in rows)
    assert rows[0]["loss"] != plain[0]["loss"]
    assert rows[0]["reward"] == plain[0]["reward"]


def check_popo(rows: list[dict], plain: list[dict], out: Path) -> None:
    """A replayed group for each fresh one of equal rewards; two fresh groups a step."""
    assert [row["groups"] for row in plain] == [2, 4]
    assert rows[0]["groups"] == 2  # nothing is stored yet
    assert rows[1]["groups"] == 2 + rows[1]["dead_groups"]
    assert rows[1]["dead_groups"] < 2


def check_freshper(rows: list[dict], plain: list[dict], out: Path) -> None:
    """The draws are tested below; here that they are made."""
    assert rows[1]["replayed"] == plain[1]["replayed"] > 0


def check_uniform(rows: list[dict], plain: list[dict], out: Path) -> None:
    """As for freshper."""
    assert rows[1]["replayed"] == plain[1]["replayed"] > 0


RECIPES: dict[str, tuple[list[str], Callable]] = {
    "papo": (["--papo_gamma=0.01"], check_papo),
    "care": (["--care_bonus=0.5", "--save_every=1"], check_care),
    "length_reward": (
        ["--length_weight=0.2", "--length_low=1", "--length_high=112"],
        check_length,
    ),
    "entropy_tas": (["--tas_shape=entropy"], check_entropy),
    "popo": (["--replay_dead=true"], check_popo),
    "freshper": (["--replay_decay=8"], check_freshper),
    "uniform_draws": (["--uniform_draws=true"], check_uniform),
}


def test_every_recipe_is_tested():
    assert {file.stem for file in PATCHES.glob("*.patch")} == set(RECIPES)


def test_docs_show_lines_of_the_patches():
    """Every line that a diff in docs/change.md adds or removes is one of a patch."""
    lines = set()
    for file in PATCHES.glob("*.patch"):
        lines |= set(file.read_text().splitlines())
    shown = []
    for block in re.findall(r"```diff\n(.*?)```", (REPO / "docs/change.md").read_text(), re.DOTALL):
        shown += [line for line in textwrap.dedent(block).splitlines() if line[:1] in "+-"]
    assert len(shown) > 30
    assert [line for line in shown if line and line not in lines] == []


@pytest.mark.some(2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_applies_runs_and_shows_its_method(recipe, plain, tmp_path, shared_folder):
    flags, check = RECIPES[recipe]
    tree = copy_tree(tmp_path / "tree")
    apply(tree, recipe)
    rows = train(tree, tmp_path / "run", shared_folder, *flags)
    check(rows, plain, tmp_path / "run")

    if recipe == "care":  # its reference is a part of what --resume goes on from
        again = tmp_path / "again"
        shutil.copytree(tmp_path / "run", again, symlinks=True)
        shutil.rmtree(again / "checkpoints" / "000002")
        (again / "checkpoint").unlink()
        (again / "checkpoint").symlink_to("checkpoints/000001")
        resumed = train(tree, again, shared_folder, "--resume", *flags)
        assert without_times(resumed) == without_times(rows)


# two that do not touch the same line can be applied together; -C1 allows for each other's lines
TOGETHER = (
    (("papo", "care", "entropy_tas"), ("care.py", "tas.py")),
    (("length_reward",), ("problems.py", "rewards.py")),
    (("popo",), ("tas.py",)),
    (("freshper",), ("replay.py",)),
    (("uniform_draws",), ("replay.py",)),
)


@pytest.mark.some(1)
@pytest.mark.parametrize(("recipes", "documented"), TOGETHER)
def test_recipes_that_are_off_change_nothing(recipes, documented, plain, tmp_path, shared_folder):
    """Every column of the log is the same; the doctests of what was patched pass."""
    tree = copy_tree(tmp_path / "tree")
    for recipe in recipes:
        apply(tree, recipe, "-C1")
    rows = without_times(train(tree, tmp_path / "run", shared_folder))
    for row, expected in zip(rows, without_times(plain), strict=True):
        assert {name: row[name] for name in expected} == expected

    done = subprocess.run(
        [sys.executable, "-m", "doctest", *documented], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_an_ordering_is_known_asked_for_and_scored(tmp_path):
    """Of the six pairs of a, b, c, d, the completion has (b, c) the wrong way round."""
    tree = copy_tree(tmp_path / "tree")
    apply(tree, "length_reward")
    code = """
import json
from formats.sample import Sample
from data import question_text
from rewards import score_group
sample = Sample("1", "In which order?", "ordering", "a, b, c, d")
texts = [f"<think>.</think><answer>{answer}</answer>" for answer in ("A > c, b > d", "a, b, c")]
scores = score_group(texts, sample.answer, sample.problem_type, [], 2)
print(json.dumps([question_text(sample), [part["accuracy"] for part in scores]]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    prompt, accuracies = json.loads(done.stdout)
    assert "Answer with the items in order, joined by commas." in prompt
    assert accuracies == pytest.approx([5 / 6, 0.0])


def test_prompts_are_drawn_by_age(tmp_path):
    """Four prompts of one tier, written 0, 1, 2 and 3 decays ago: drawn as 1 to 1/e to 1/e^2 to
    1/e^3."""
    tree = copy_tree(tmp_path / "tree")
    apply(tree, "freshper")
    code = """
import json
import numpy as np
from collections import Counter
from replay import Entry, ReplayBuffer
buffer = ReplayBuffer()
for step in (0, 5, 10, 15):
    tokens, logps = np.zeros(1, np.int32), np.zeros(1, np.float32)
    buffer.add(f"q{step}", [Entry(tokens, logps, right, right, step) for right in (0.0, 1.0)])
drawn = Counter(buffer.draw_groups(1, 2, 16, 5.0)[0].prompt_id for _ in range(4000))
print(json.dumps([drawn[f"q{step}"] for step in (15, 10, 5, 0)]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = np.exp(-np.arange(4)) / np.exp(-np.arange(4)).sum() * 4000
    errors = np.sqrt(expected * (1 - expected / 4000))
    assert (np.abs(json.loads(done.stdout) - expected) < 4 * errors).all()


def test_prompts_are_drawn_without_tiers(tmp_path):
    """Of ten prompts 4 are hard, 3 medium and 3 easy: by tier a medium one is drawn at 0.35 / 3, an
    easy one at 0.25 / 3; without tiers each at 1 / 10."""
    tree = copy_tree(tmp_path / "tree")
    apply(tree, "uniform_draws")
    code = """
import json
import numpy as np
from collections import Counter
from replay import Entry, ReplayBuffer
buffer = ReplayBuffer()
for i in range(10):
    tokens, logps = np.zeros(1, np.int32), np.zeros(1, np.float32)
    buffer.add(f"q{i}", [Entry(tokens, logps, right, right, 0) for right in (0.0, 0.1 + i / 20)])
buffer.refresh(buffer.moves())
counts = []
for uniform in (False, True):
    drawn = Counter(buffer.draw_groups(1, 2, 1, uniform)[0].prompt_id for _ in range(4000))
    counts.append([drawn[f"q{i}"] for i in range(10)])
print(json.dumps(counts))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_tier, uniform = np.array(json.loads(done.stdout))
    for drawn, shares in (
        (by_tier, [0.4 / 4] * 4 + [0.35 / 3] * 3 + [0.25 / 3] * 3),
        (uniform, [0.1] * 10),
    ):
        expected = 4000 * np.array(shares)
        assert (np.abs(drawn - expected) < 4 * np.sqrt(expected)).all()


def without_times(rows: list[dict]) -> list[dict]:
    """The lines of a log without what differs from run to run."""
    kept = []
    for row in rows:
        kept.append(without_clocks(row))
    return kept
