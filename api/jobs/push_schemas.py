"""Schemas of pushes to a hub."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from api.schemas import Failure, Out, Timestamp
from core.spec.document import StrictModel
from core.spec.patterns import HUB_MODEL, HUB_REVISION, LICENSE_TAG, NOT_BLANK

PushStatus = Literal["pending", "succeeded", "failed"]
_VISIBLE = r"[\x21-\x7e]+"  # a token is sent in a header


def _visible(token: SecretStr) -> SecretStr:
    if re.fullmatch(_VISIBLE, token.get_secret_value()) is None:
        raise ValueError("a token has visible ASCII characters only, without spaces")
    return token


class PushCreate(StrictModel):
    """A push of a job's artifacts to a model repository of the Hugging Face hub."""

    repo: Annotated[str, StringConstraints(max_length=96, pattern=HUB_MODEL)] = Field(
        description="`owner/name` of the model repository; created if it does not exist.", examples=["acme/deit-pets"]
    )
    token: Annotated[SecretStr, Field(min_length=8, max_length=1000), AfterValidator(_visible)] = Field(
        description="Token of the hub that may write to the repository. It is stored encrypted until the push ends, "
        "and never returned.",
        examples=["hf_your_token"],
        json_schema_extra={"pattern": f"^{_VISIBLE}$"},
    )
    private: bool = Field(
        default=True, description="Visibility of a new repository; an existing one keeps its visibility."
    )
    revision: Annotated[str, StringConstraints(max_length=200, pattern=HUB_REVISION)] = Field(
        default="main", description="Branch; created from `main` if it does not exist."
    )
    files: (
        Annotated[list[Annotated[str, StringConstraints(max_length=200)]], Field(min_length=1, max_length=200)] | None
    ) = Field(default=None, description="Names of artifacts. Null: all, without the predictions on test images.")
    license: Annotated[str, StringConstraints(max_length=64, pattern=LICENSE_TAG)] | None = Field(
        default=None, description="License of the model, for the card's metadata. Null: what the card has."
    )
    message: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NOT_BLANK)] | None
    ) = Field(default=None, description="Message of the commit. Null: one that names the job.")


class PushOut(Out):
    """A push to a hub, without its token."""

    id: str
    object: Literal["push"] = "push"
    job: str
    repo: str
    revision: str
    private: bool
    files: list[str]
    status: PushStatus = Field(description="`pending` until the hub has the files, or has refused them.")
    error: Failure | None = Field(description="Of the last attempt; a pending push is attempted again.")
    attempts: int
    next_attempt_at: Timestamp | None = Field(description="Null when the push has ended.")
    commit: str | None = Field(description="The commit of the hub that has the files.")
    url: str | None = Field(description="Address of the commit.")
    created_at: Timestamp
    finished_at: Timestamp | None
