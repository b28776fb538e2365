"""The form that adds a model: its fields, the request document that they make, and problems by field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from api.dashboard.forms import OptionalFormToken, idempotency_key
from api.request_body import parse_json
from core.errors import PotstillError

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)]
_FIELDS = frozenset({"upload", "name", "architecture", "arguments", "classes"})


class ModelForm(BaseModel):
    """Fields of the form as text."""

    model_config = ConfigDict(frozen=True)

    form: OptionalFormToken = ""
    upload: Text = ""
    name: Text = ""
    architecture: Text = ""
    arguments: Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000)] = ""
    mean: Text = ""
    std: Text = ""
    classes: Annotated[str, StringConstraints(max_length=2_000_000)] = ""

    @property
    def key(self) -> str | None:
        """The ``Idempotency-Key`` of the submission; None for a form without a token."""
        return idempotency_key(self.form) if self.form else None

    def document(self) -> dict[str, Any]:
        """Return the body of ``POST /v1/models``. Raises ``InvalidRequest`` if the arguments are not JSON."""
        names = [line.strip() for line in self.classes.splitlines() if line.strip()]
        normalization = {"mean": _numbers(self.mean), "std": _numbers(self.std)} if self.mean or self.std else None
        return {
            "upload": self.upload,
            "name": self.name or None,
            "architecture": self.architecture,
            "arguments": parse_json(self.arguments, at="/arguments") if self.arguments else {},
            "normalization": normalization,
            "classes": names or None,
        }

    def problems(self, error: PotstillError) -> dict[str, str]:
        """Return the problems of a refused request by field of the form; those of no field have the key ``""``."""
        found: dict[str, str] = {}
        for each in error.errors:
            found.setdefault(_field(each.pointer), each.detail)
        return found or {"upload" if error.status in {413, 415} else "": error.detail}


def _field(pointer: str) -> str:
    first, _, rest = pointer.removeprefix("/").partition("/")
    if first == "normalization":
        return "std" if rest.startswith("std") else "mean"
    return first if first in _FIELDS else ""


def _numbers(text: str) -> list[float | str]:
    """Parse numbers between commas; what is no number stays text, which the request's schema refuses."""
    return [_number(part.strip()) for part in text.split(",") if part.strip()]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
