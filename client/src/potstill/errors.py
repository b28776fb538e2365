"""Exceptions of the client: :class:`PotstillError`, and below it one class for each status and code of the API.

>>> try:
...     client.jobs.pause("my job")
... except InvalidState as error:
...     print(error.detail)
... except Conflict:  # any other 409
...     raise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class PotstillError(Exception):
    """Base class of the client's exceptions."""


class NotConfigured(PotstillError):
    """No service URL or API key in the arguments, in the environment or from ``potstill login``."""


class InvalidArgument(PotstillError, ValueError):
    """An argument cannot be used: a file is missing, a name is not in the list, or options contradict each other."""


class PackageMissing(PotstillError, ImportError):
    """A function needs a package that is not installed; the message names the command that installs it."""


class ServiceUnreachable(PotstillError):
    """The service did not respond after all retries."""


class UnexpectedResponse(PotstillError):
    """The response is not what the API promises, for example a proxy's page, or a much newer service's."""


class NotReady(PotstillError):
    """A resource is not ready, or did not become ready in time."""


class DownloadDamaged(PotstillError):
    """A downloaded file does not match its SHA-256."""


class IngestFailed(PotstillError):
    """The service could not use an uploaded dataset or model; the message is the reason, ``code`` its stable code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class JobFailed(PotstillError):
    """A job did not succeed. ``status`` is how it ended; ``code`` and ``advice`` are those of its error."""

    def __init__(self, message: str, *, status: str, code: str | None, advice: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.advice = advice


class TokenLost(PotstillError):
    """A key was created, but the response with its token was lost; the token is shown only once."""


class ApiError(PotstillError):
    """An error response (RFC 9457 problem). ``code`` is stable; ``errors`` lists the fields."""

    CODE: ClassVar[str | None] = None  # of this class; None: every code of the status
    STATUS: ClassVar[int | None] = None

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", f"HTTP {status}"))
        self.detail = str(problem.get("detail") or self.title)
        self.request_id: str | None = problem.get("request_id")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()
        super().__init__(f"{self.detail} ({status} {self.code})")


# --- one class per status -----------------------------------------------------------------------


class MalformedRequest(ApiError):
    """400: the body cannot be parsed."""

    STATUS = 400


class NotAuthenticated(ApiError):
    """401: the API key is missing, unknown, expired or revoked."""

    STATUS = 401


class Forbidden(ApiError):
    """403: the scopes of the key, or a quota of the project, do not allow this."""

    STATUS = 403


class NotFound(ApiError):
    """404: the project has no such object."""

    STATUS = 404


class MethodNotAllowed(ApiError):
    """405: this version of the service does not have the operation."""

    STATUS = 405


class Conflict(ApiError):
    """409: the request conflicts with the current state."""

    STATUS = 409


class PayloadTooLarge(ApiError):
    """413: the upload is larger than the service accepts."""

    STATUS = 413


class UnsupportedMedia(ApiError):
    """415: the file has a type that is never read, such as a pickle."""

    STATUS = 415


class RangeNotSatisfiable(ApiError):
    """416: the requested bytes are beyond the end of the file."""

    STATUS = 416


class InvalidRequest(ApiError):
    """422: the request is well-formed, but its content is not valid; ``errors`` lists the fields."""

    STATUS = 422


class TusVersionUnsupported(ApiError):
    """412: the service has another version of the protocol of uploads."""

    STATUS = 412


class ChecksumMismatch(ApiError):
    """460: the bytes of an upload were changed on their way."""

    STATUS = 460


class RateLimited(ApiError):
    """429: too many requests with this key, also after the retries."""

    STATUS = 429


class ServerError(ApiError):
    """500 and above: the service failed; its log has the ``request_id``."""

    STATUS = 500


class Unavailable(ServerError):
    """503: a part of the service cannot be reached; the same request may succeed later."""

    STATUS = 503


# --- one class per code that callers treat differently ------------------------------------------


class InvalidSpec(InvalidRequest):
    """The job spec cannot run: a field is invalid, or its parts do not fit together."""

    CODE = "invalid_spec"


class NotAvailable(InvalidRequest):
    """This version of the service does not offer this."""

    CODE = "not_available"


class UrlNotAllowed(InvalidRequest):
    """The service does not send requests to this URL."""

    CODE = "url_not_allowed"


class DirectTransferUnavailable(InvalidRequest):
    """The service has no bucket that clients can reach; its own routes serve the file."""

    CODE = "direct_transfer_unavailable"


class ImageUnreadable(InvalidRequest):
    """The image cannot be decoded, or has too many pixels."""

    CODE = "image_unreadable"


class IdempotencyKeyReused(InvalidRequest):
    """The idempotency key was already used with another body."""

    CODE = "idempotency_key_reused"


class TokenExpired(NotAuthenticated):
    """The OpenID Connect token has expired; get a new one from its issuer."""

    CODE = "token_expired"


class TokenInvalid(NotAuthenticated):
    """The OpenID Connect token is not accepted: its form, signature, algorithm or a claim."""

    CODE = "token_invalid"


class TokenWithoutProject(Forbidden):
    """The OpenID Connect token is valid, but names no project of this service, or several."""

    CODE = "token_without_project"


class QuotaExceeded(Forbidden):
    """The project has reached a quota; delete or cancel something, waiting does not help."""

    CODE = "quota_exceeded"


class InvalidState(Conflict):
    """The job's status does not allow this action."""

    CODE = "invalid_state"


class InUse(Conflict):
    """The object cannot be deleted, because another one refers to it."""

    CODE = "in_use"


class LastAdminKey(Conflict):
    """The project's last key with the admin scope cannot be revoked."""

    CODE = "last_admin_key"


class AmbiguousReference(Conflict):
    """A name or id prefix matches several objects: ``candidates``."""

    CODE = "ambiguous_reference"

    @property
    def candidates(self) -> Sequence[Any]:
        """The objects that match."""
        return self.problem.get("candidates") or ()


class RequestInFlight(Conflict):
    """The first request with this idempotency key is still running, also after the retries."""

    CODE = "idempotency_key_in_flight"


class UploadOffsetMismatch(Conflict):
    """The bytes of an upload do not start where it ends; another client sends them too."""

    CODE = "upload_offset_mismatch"


class NoArtifacts(Conflict):
    """The job has no files to download."""

    CODE = "no_artifacts"


class InspectorUnavailable(Unavailable):
    """No inspector is running, so the service cannot check specs and models."""

    CODE = "inspector_gone"


class InspectorTimeout(Unavailable):
    """The inspector did not answer in time."""

    CODE = "inspector_busy"


class DatabaseUnavailable(Unavailable):
    """The service cannot reach its database."""

    CODE = "database_unavailable"


class StorageUnavailable(Unavailable):
    """The artifact store is full, read-only or unreachable."""

    CODE = "storage_unavailable"


class IssuerUnavailable(Unavailable):
    """The service cannot fetch the keys of the token issuer; API keys still work."""

    CODE = "issuer_unavailable"


class ServiceNotReady(Unavailable):
    """The service has started, but cannot serve requests yet; ``problem["missing"]`` names the parts."""

    CODE = "not_ready"


def api_error(status: int, problem: Mapping[str, Any]) -> ApiError:
    """Return the error of the class for the problem's code, else of the class for its status."""
    return _error_class(status, problem.get("code"))(status, problem)


def _error_class(status: int, code: Any) -> type[ApiError]:
    by_status = _BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    by_code = _BY_CODE.get(str(code))
    return by_code if by_code is not None and issubclass(by_code, by_status) else by_status


def _subclasses(base: type[ApiError]) -> list[type[ApiError]]:
    return [each for direct in base.__subclasses__() for each in (direct, *_subclasses(direct))]


_BY_CODE = {each.CODE: each for each in _subclasses(ApiError) if each.CODE is not None}
_BY_STATUS = {each.STATUS: each for each in _subclasses(ApiError) if each.CODE is None and each.STATUS is not None}
