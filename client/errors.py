"""What can go wrong between a caller and the service, as one tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """Base of everything that this package raises."""


class NotConfigured(ClientError):
    """Neither the call, the environment nor ``potstill login`` says where the service is or which key to use."""


class ServiceUnreachable(ClientError):
    """No answer came, however often it was tried."""


class NotReady(ClientError):
    """What was waited for did not come in time."""


class DownloadDamaged(ClientError):
    """The bytes that arrived are not those that the service lists."""


class IngestFailed(ClientError):
    """A dataset or model was uploaded, but the service could not use it; the message is its reason."""


class TokenLost(ClientError):
    """A key was made, but the answer that showed its token was lost on the way, and it is shown once."""


class ApiError(ClientError):
    """The service refused: an RFC 9457 problem. ``code`` is stable, ``errors`` names fields."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", f"HTTP {status}"))
        self.detail = str(problem.get("detail") or self.title)
        self.request_id = problem.get("request_id")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()
        super().__init__(f"{self.detail} ({status} {self.code})")
