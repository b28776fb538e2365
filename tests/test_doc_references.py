"""The hand-written pages name tests, files and links that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUARANTEE_PAGES = ("docs/reliability.md", "docs/security.md")
CODE_PAGES = ("README.md", "docs/architecture.md", "docs/extending.md", "docs/operations.md")
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
FILE = re.compile(
    r"`((?:api|benchmarks|client|core|docs|migrations|server|supply|tests|worker)/[\w/]+\.\w+)`(?:: `(\w+)`)?"
)
LINK = re.compile(r"\]\(([^)#:]+\.md)\)")


@cache
def defined(path):
    """Names of all functions, classes and methods of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", GUARANTEE_PAGES)
def test_every_test_that_a_page_names_exists(page):
    named = TEST_ID.findall((ROOT / page).read_text())

    assert named
    assert [f"{path}::{name}" for path, name in named if not set(name.split("::")) <= defined(path)] == []


@pytest.mark.parametrize("page", GUARANTEE_PAGES)
def test_every_guarantee_names_a_test(page):
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    guarantees = [row for row in rows if row.count("|") == 3 and not row.startswith(("| guarantee", "| ---"))]

    assert [row for row in guarantees if not TEST_ID.search(row)] == []


@pytest.mark.parametrize("page", CODE_PAGES)
def test_every_file_and_function_that_a_page_names_exists(page):
    named = FILE.findall((ROOT / page).read_text())

    assert [path for path, _ in named if not (ROOT / path).exists() and "NAME" not in path] == []
    assert [f"{path}: {name}" for path, name in named if name and name not in defined(path)] == []


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    links = LINK.findall((ROOT / page).read_text())

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
