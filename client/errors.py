"""Exceptions of the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """Base class of the client's exceptions."""


class NotConfigured(ClientError):
    """No service URL or API key in the environment or from ``potstill login``."""


class ServiceUnreachable(ClientError):
    """The service did not respond after all retries."""


class NotReady(ClientError):
    """A resource is not ready, or did not become ready in time."""


class DownloadDamaged(ClientError):
    """A downloaded file does not match its SHA-256."""


class IngestFailed(ClientError):
    """The service could not use an uploaded dataset or model; the message is the reason."""


class TokenLost(ClientError):
    """A key was created, but the response with its token was lost; the token is shown only once."""


class ApiError(ClientError):
    """An error response (RFC 9457 problem). ``code`` is stable; ``errors`` lists the fields."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", f"HTTP {status}"))
        self.detail = str(problem.get("detail") or self.title)
        self.request_id = problem.get("request_id")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()
        super().__init__(f"{self.detail} ({status} {self.code})")
