"""Method pages match the code, and their example jobs are valid."""

import json
import re
from pathlib import Path

import pytest

from core.spec import METHODS, parse_job_spec
from server.docs_methods import method_pages

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods"
HAND_WRITTEN = {"recipes.md"}
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))


def examples(page):
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", (FOLDER / page).read_text(), re.DOTALL)]


def test_there_is_a_page_for_each_method_and_no_other():
    assert set(PAGES) - HAND_WRITTEN == {"README.md", *(f"{name}.md" for name in METHODS)}


@pytest.mark.parametrize("name", sorted(method_pages()))
def test_each_page_is_up_to_date(name):
    assert method_pages()[name] == (FOLDER / name).read_text(), "make docs"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_each_example_is_a_job_spec(page):
    found = [parse_job_spec(document).method.name for document in examples(page)]

    assert found
    assert page in HAND_WRITTEN or found == [page.removesuffix(".md")]


def test_the_recipes_cover_several_methods():
    assert {parse_job_spec(document).method.name for document in examples("recipes.md")} >= {"kd", "tinyvit", "fitnets"}


@pytest.mark.parametrize("name", METHODS)
def test_a_page_explains_each_parameter_and_what_the_method_needs(name):
    page = method_pages()[f"{name}.md"]
    params = METHODS[name].params

    assert params.info.summary in page
    assert params.info.when in page
    for field, described in params.model_fields.items():
        assert field == "name" or f"| `{field}` |" in page
        assert field == "name" or described.description.replace("|", "\\|") in page


def test_papers_are_links():
    assert "[arXiv:1503.02531](https://arxiv.org/abs/1503.02531)" in method_pages()["kd.md"]
