"""Forms that create something: a token per form, so that a form that is sent twice creates one object."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import Form
from pydantic import StringConstraints

from core.errors import PotstillError

_TOKEN_BYTES: Final = 16

_TOKEN = rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}"

# The hidden field `form` of a page's form. A repeated value is a repeated submission.
FormToken = Annotated[str, Form(alias="form", pattern=rf"^{_TOKEN}$")]
OptionalFormToken = Annotated[str, StringConstraints(pattern=rf"^({_TOKEN})?$")]  # a field of a model


def new_form_token() -> str:
    """Return a token for one form of one rendered page."""
    return secrets.token_hex(_TOKEN_BYTES)


def idempotency_key(token: str) -> str:
    """Return the ``Idempotency-Key`` of a form's submission."""
    return f"form-{token}"


def problem_texts(error: PotstillError | None) -> list[str]:
    """Return a line for each invalid field, or else the error's detail; empty without an error."""
    if error is None:
        return []
    lines = [f"{field.pointer.strip('/')}: {field.detail}" if field.pointer else field.detail for field in error.errors]
    return lines or [error.detail]
