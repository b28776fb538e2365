"""Generated reference pages match the code; `make docs` regenerates them."""

from pathlib import Path

from server.docs_reference import openapi_reference, settings_reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_settings_reference_is_up_to_date():
    assert settings_reference() == (DOCS / "settings.md").read_text()


def test_the_openapi_document_is_up_to_date():
    assert openapi_reference() == (DOCS / "openapi.json").read_text()
