"""Method pages match the code, and their example jobs are valid."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from core.spec import METHODS, parse_job_spec
from server import docs_methods

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods"
HAND_WRITTEN = {"recipes.md"}
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))


@cache
def method_pages():
    return docs_methods.method_pages()


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


@pytest.mark.parametrize("name", METHODS)
def test_each_paper_is_a_link_to_its_own_number(name):
    pages, info = method_pages(), METHODS[name].params.info
    numbers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", info.paper)
    links = [f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in numbers]

    (row,) = [line for line in pages["README.md"].splitlines() if line.startswith(f"| [`{name}`]")]
    assert all(link in pages[f"{name}.md"] and link in row for link in links)
    assert all(text == target for text, target in re.findall(r"\[arXiv:(.+?)\]\(.+?/abs/(.+?)\)", pages[f"{name}.md"]))


def test_a_method_of_two_papers_has_a_link_for_each():
    page = method_pages()["self_distillation.md"]

    assert "Be Your Own Teacher, [arXiv:1905.08094](https://arxiv.org/abs/1905.08094); " in page
    assert "role models, [arXiv:1703.01780](https://arxiv.org/abs/1703.01780) (2019)" in page


@pytest.mark.parametrize(
    "name",
    [
        "attention_probe", "attention_transfer", "crd", "dearkd", "deit", "fitnets", "mgd", "minivit", "ofa", "review",
        "self_distillation", "vid", "vitkd",
    ],
)  # fmt: skip
def test_a_page_gives_the_loss_and_the_differences_from_the_paper(name):
    page, info = method_pages()[f"{name}.md"], METHODS[name].params.info

    assert f"## Loss\n{info.formula[:30]}" in page
    assert info.deviations
    assert page.count("\n- ", page.index("## Differences from the paper")) == len(info.deviations)
