"""Schemas of uploads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from api.schemas import Out, Timestamp
from core.spec.document import StrictModel
from core.spec.patterns import SHA256


class DirectUploadOut(Out):
    """A URL of the service's bucket to which the whole file is sent with one PUT request, without an API key."""

    object: Literal["direct_upload"] = "direct_upload"
    method: Literal["PUT"] = "PUT"
    url: str
    expires_at: Timestamp


class DirectUploadDone(StrictModel):
    """The file that was sent to the bucket."""

    sha256: Annotated[str, StringConstraints(pattern=SHA256)] = Field(
        description="Of the file, in lower-case hex. It is verified when a dataset or model is made from the upload."
    )


class UploadOut(Out):
    """A file that is sent in parts."""

    id: str
    object: Literal["upload"] = "upload"
    filename: str = Field(description="From the metadata `filename`; empty if there is none.")
    status: Literal["receiving", "complete"]
    size_bytes: int
    received_bytes: int = Field(description="The next bytes are sent from this offset.")
    created_at: Timestamp
    expires_at: Timestamp = Field(description="Deleted after this time, unless a dataset or model is made from it.")
