"""docs/faults.md: every test that it names exists."""

import ast
import re

import pytest

from tests.runs import REPO

PAGE = (REPO / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| ([A0-9.]+) \|(.*)\|$", PAGE, flags=re.MULTILINE)
NUMBERS = [
    *(f"1.{i}" for i in range(1, 12)),
    *(f"2.{i}" for i in range(1, 22)),
    *(f"3.{i}" for i in range(1, 12)),
    *(f"4.{i}" for i in range(1, 37)),
    *(f"A{i}" for i in range(1, 15)),
    *(f"5.{i}" for i in range(1, 19)),
    *(f"6.{i}" for i in range(1, 22)),
]


def test_every_fault_has_one_row():
    assert [number for number, _ in ROWS] == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_the_tests_of_a_fault_exist(number):
    (text,) = [text for name, text in ROWS if name == number]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert named or "Left: " in text or "No fault: " in text
    for path, test in named:
        tree = ast.parse((REPO / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{path}::{test}"
