"""Generated reference pages match the code; `make docs` regenerates them."""

from pathlib import Path

import pytest

from api.code_samples import PYTHON_SAMPLES
from server.docs_api import api_page, problems_page
from server.docs_llms import llms_text
from server.docs_reference import code_samples, openapi_document, openapi_reference, settings_reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def document():
    return openapi_document()


def test_the_settings_reference_is_up_to_date():
    assert settings_reference() == (DOCS / "settings.md").read_text()


def test_the_list_of_pages_for_language_models_is_up_to_date():
    assert llms_text() == (DOCS / "llms.txt").read_text()


def test_the_lists_of_routes_and_error_codes_are_up_to_date(document):
    assert api_page(document) == (DOCS / "api.md").read_text()
    assert problems_page() == (DOCS / "problems.md").read_text()


def test_the_openapi_document_is_up_to_date(document):
    assert openapi_reference(document) == (DOCS / "openapi.json").read_text()


def test_the_examples_in_python_are_up_to_date(document):
    assert code_samples(document) == PYTHON_SAMPLES.read_text()
