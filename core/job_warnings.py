"""Warnings: facts about a job or a dataset that does not fail, but probably does not do what its user intends.

A job's list starts with those of its estimate and grows while it runs. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

EXCEEDS_MEMORY = "exceeds_memory"  # a new job with this warning is refused while a worker is alive


class JobWarning(BaseModel):
    """One warning. Of two warnings with the same ``code`` and ``field``, the newer replaces the older."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)] = Field(
        description="A stable snake_case word."
    )
    field: str | None = Field(
        default=None, description="JSON Pointer to the field of the spec that it is about; null: none in particular."
    )
    message: str = Field(description="What was found, with its figures.")
    fix: str | None = Field(default=None, description="How to change it; null if the message says it.")

    @property
    def text(self) -> str:
        """Message and fix as one paragraph."""
        return " ".join(_sentence(part) for part in (self.message, self.fix) if part)


def merge_warnings(existing: Iterable[dict[str, Any]], new: Iterable[JobWarning]) -> list[dict[str, Any]]:
    """Return the list of JSON documents with ``new`` added, each in place of one with equal code and field."""
    merged = {(entry["code"], entry["field"]): entry for entry in existing}
    merged |= {(warning.code, warning.field): warning.model_dump(mode="json") for warning in new}
    return list(merged.values())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
