"""Documents that users copy from: the job of the README, and the page of warnings."""

import ast
import json
import re
from pathlib import Path

import pytest

from core.spec import parse_job_spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))


def warning_codes():
    """Codes of all warnings in product code."""
    for room in ("api", "core", "worker"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id == "JobWarning":
                    values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                elif node.func.id == "_warning" and node.args:
                    values = node.args[:1]
                else:
                    continue
                yield from (value.value for value in values if isinstance(value, ast.Constant))


def test_the_job_of_the_readme_is_the_example():
    (block,) = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)

    assert json.loads(block) == json.loads((ROOT / "examples" / "job.json").read_text())


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("foundation.md", ("foundation_backbone.json", "fine_tuned.json")),
        ("chains.md", ("assistant.json", "backbone_first.json")),
    ],
)
def test_a_page_shows_the_examples(page, names):
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)

    assert [json.loads(block) for block in blocks] == [json.loads((ROOT / "examples" / n).read_text()) for n in names]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_named_in_the_readme_and_runs_on_its_dataset(path):
    spec = parse_job_spec(json.loads(path.read_text()))

    assert f"examples/{path.name}" in README
    assert f"--name {spec.dataset} " in README


def test_every_warning_is_on_the_page_of_warnings():
    page = (ROOT / "docs" / "warnings.md").read_text()
    codes = set(warning_codes())

    assert len(codes) > 20
    assert {code for code in codes if f"`{code}`" not in page} == set()
