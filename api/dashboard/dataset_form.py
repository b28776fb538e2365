"""The form that adds a dataset: its fields, the request document that they make, and problems by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints

from api.dashboard.forms import OptionalFormToken, idempotency_key
from api.datasets.schemas import BuiltinName
from core.errors import PotstillError
from core.fetch.targets import MAX_URL_CHARACTERS

SourceType = Literal["upload", "builtin", "url", "huggingface", "s3"]

SOURCES: Final[tuple[tuple[SourceType, str], ...]] = (
    ("upload", "File"),
    ("url", "URL"),
    ("huggingface", "Hugging Face"),
    ("s3", "Bucket"),
    ("builtin", "Built-in"),
)
BUILTIN: Final[tuple[BuiltinName, ...]] = get_args(BuiltinName)
_OPTIONS = ("labels", "splits", "class_from")
# Fields of the form by source and by field of the source.
_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "upload": {"upload": "upload"},
    "builtin": {"name": "builtin"},
    "url": {"url": "url"},
    "huggingface": {"repo": "repo", "revision": "revision", "config": "config", "split": "split"},
    "s3": {"url": "s3_url"},
}

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)]


class DatasetForm(BaseModel):
    """Fields of the form as text. Only the fields of the chosen source count."""

    model_config = ConfigDict(frozen=True)

    form: OptionalFormToken = ""
    source: Annotated[str, StringConstraints(max_length=20)] = "upload"
    name: Text = ""
    license: Text = ""
    labels: Text = "auto"
    splits: Text = ""
    class_from: Text = "auto"
    upload: Text = ""
    builtin: Text = BUILTIN[0]
    url: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2 * MAX_URL_CHARACTERS)] = ""
    repo: Text = ""
    revision: Text = ""
    config: Text = ""
    split: Text = ""
    s3_url: Text = ""

    @property
    def key(self) -> str | None:
        """The ``Idempotency-Key`` of the submission; None for a form without a token."""
        return idempotency_key(self.form) if self.form else None

    def document(self) -> dict[str, Any]:
        """Return the body of ``POST /v1/datasets``; empty optional fields are left out."""
        source: dict[str, Any] = {"type": self.source}
        for name, field in _FIELDS.get(self.source, {}).items():
            value = getattr(self, field)
            if value or field in {"upload", "builtin", "url", "repo", "s3_url"}:
                source[name] = value
        if self.source != "builtin":
            source |= {"labels": self.labels, "splits": self.splits or "auto", "class_from": self.class_from}
        return {"name": self.name or None, "license": self.license or None, "source": source}

    def problems(self, error: PotstillError) -> dict[str, str]:
        """Return the problems of a refused request by field of the form; those of no field have the key ``""``."""
        found: dict[str, str] = {}
        for each in error.errors:
            found.setdefault(self._field(each.pointer), each.detail)
        return found or {"upload" if self.source == "upload" and error.status in {413, 415} else "": error.detail}

    def _field(self, pointer: str) -> str:
        name = pointer.removeprefix("/source/")
        if name == pointer:
            return name if (name := pointer.removeprefix("/")) in {"name", "license"} else ""
        fields = _FIELDS.get(self.source, {})
        first = name.partition("/")[0]
        return first if first in _OPTIONS else fields.get(first, "")
