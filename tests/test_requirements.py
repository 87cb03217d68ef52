"""Every package that the code imports is named in the requirements, with an exact version."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "engine", "formats", "media", "reading", "run", "tools")
OPTIONAL = {"flash-attn", "trackio"}  # used where they are installed


def named(file: str) -> dict[str, str]:
    """{package: version} of a requirements file, in the spelling of the package index."""
    packages = {}
    for line in (REPO / file).read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            packages[match[1].lower().replace("_", "-")] = match[2]
    return packages


def imported() -> dict[str, str]:
    """{package: a file that imports it} of the programs, without the standard library and ours."""
    files = [*REPO.glob("*.py")]
    for folder in FOLDERS:
        files += (REPO / folder).glob("*.py")
    ours = {file.stem for file in files} | set(FOLDERS)
    packages_of = importlib.metadata.packages_distributions()

    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in ours and top not in sys.stdlib_module_names:
                    package = packages_of.get(top, [top])[0]
                    found[package.lower().replace("_", "-")] = f"{file.name} imports {top}"
    return found


def test_every_imported_package_is_required():
    required = {**named("requirements.txt"), **named("requirements-dev.txt")}
    missing = {name: why for name, why in imported().items() if name not in required}
    assert {name: why for name, why in missing.items() if name not in OPTIONAL} == {}


def test_tests_and_linters_are_no_burden_of_users():
    users = named("requirements.txt")
    assert not users.keys() & {"pytest", "ruff", "hypothesis", "pyarrow", "scipy", "nltk"}


def test_decord_is_asked_for_only_where_it_has_wheels():
    line = next(
        line
        for line in (REPO / "requirements.txt").read_text().splitlines()
        if line.startswith("decord")
    )
    requirement = pytest.importorskip("packaging.requirements").Requirement(line)
    apple = {"sys_platform": "darwin", "platform_machine": "arm64"}
    grace = {"sys_platform": "linux", "platform_machine": "aarch64"}
    amd = {"sys_platform": "linux", "platform_machine": "x86_64"}
    assert not requirement.marker.evaluate(apple)
    assert not requirement.marker.evaluate(grace)
    assert requirement.marker.evaluate(amd)
