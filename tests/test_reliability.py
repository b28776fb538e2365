"""The reliability page names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("docs/reliability.md", "docs/security.md")
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def defined(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page):
    named = TEST_ID.findall((ROOT / page).read_text())

    assert named
    assert [f"{path}::{name}" for path, name in named if name not in defined(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_guarantee_names_a_test(page):
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    guarantees = [row for row in rows if row.count("|") == 3 and not row.startswith(("| guarantee", "| ---"))]

    assert [row for row in guarantees if not TEST_ID.search(row)] == []
