"""All errors that Potstill reports to its users, as one class tree.

An error has a stable ``code``, an HTTP status and a detail that names the fix. The API returns it as an RFC 9457
problem, the worker stores it in ``job.error``, the command line prints it. Programming errors are assertions, outside
this tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

# Cause of a failed job, which has to change before it can succeed: the spec, its dataset or weights, the available
# memory, time or disk space, the infrastructure (disks, machines, networks), or the service's code.
_NUM_QUOTED = 3  # field errors in the detail of an error for several fields

Fault = Literal["spec", "data", "capacity", "infrastructure", "service"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field of a document: its JSON Pointer (RFC 6901), and a detail that names the fix."""

    pointer: str
    detail: str


class PotstillError(Exception):
    """An error that is reported to users. Without a code of its own it is a bug of the service: report it."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.extra = dict(extra or {})

    @classmethod
    def for_field(cls, pointer: str, detail: str) -> Self:
        """Return the error for one field, given its JSON Pointer."""
        return cls.for_fields([FieldError(pointer, detail)])

    @classmethod
    def for_fields(cls, errors: Sequence[FieldError], *, num_errors: int | None = None) -> Self:
        """Return the error for several fields; its detail quotes the first three.

        ``num_errors`` is the number of invalid fields if ``errors`` does not list all of them.
        """
        num_errors = len(errors) if num_errors is None else num_errors
        detail = "; ".join(f"{error.pointer or '/'}: {error.detail}" for error in errors[:_NUM_QUOTED])
        if num_errors > _NUM_QUOTED:
            detail += f"; and {num_errors - _NUM_QUOTED} more"
        return cls(detail, errors=errors)


# --- invalid requests ---------------------------------------------------------------------------


class InvalidRequest(PotstillError):
    """The request is well-formed, but its content is not valid."""

    code = "invalid_request"
    title = "The request is not valid"
    status = 422


class InvalidSpec(InvalidRequest):
    """The job spec cannot run: a field is invalid, or its parts do not fit together."""

    code = "invalid_spec"
    title = "The job spec is not valid"


class NotAvailable(InvalidRequest):
    """The API contract defines this, but this version does not offer it."""

    code = "not_available"
    title = "Not available in this version"


class IdempotencyKeyReused(InvalidRequest):
    """The Idempotency-Key was already used with another body."""

    code = "idempotency_key_reused"
    title = "This Idempotency-Key was used for another request"


class MalformedRequest(PotstillError):
    """The body cannot be parsed."""

    code = "malformed_request"
    title = "The request cannot be read"
    status = 400


class PayloadTooLarge(PotstillError):
    """The body is larger than the service accepts."""

    code = "payload_too_large"
    title = "The request is too large"
    status = 413


class UnsupportedMedia(PotstillError):
    """The file has a type that is never read, such as a pickle."""

    code = "unsupported_media_type"
    title = "This kind of file is not accepted"
    status = 415


class MethodNotAllowed(PotstillError):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"
    title = "This method is not allowed here"
    status = 405


class RangeNotSatisfiable(PotstillError):
    """The requested bytes are beyond the end of the file."""

    code = "range_not_satisfiable"
    title = "The range is beyond the end of the file"
    status = 416


class NotAuthenticated(PotstillError):
    """The API key is missing, unknown, expired or revoked."""

    code = "not_authenticated"
    title = "A valid API key is needed"
    status = 401


class Forbidden(PotstillError):
    """The API key is valid, but its scopes do not allow this."""

    code = "forbidden"
    title = "This key may not do that"
    status = 403


class QuotaExceeded(PotstillError):
    """The project has reached a quota; delete or cancel something, waiting does not help."""

    code = "quota_exceeded"
    title = "The project's quota is used up"
    status = 403


class RateLimited(PotstillError):
    """Too many requests of this kind with this key, or too many wrong keys from this address; retry later.

    ``extra`` holds ``retry_after_seconds``.
    """

    code = "rate_limited"
    title = "Too many requests"
    status = 429


class NotFound(PotstillError):
    """The caller's project has no such object."""

    code = "not_found"
    title = "Not found"
    status = 404


# --- conflicts with the current state -----------------------------------------------------------


class Conflict(PotstillError):
    """The request conflicts with the current state."""

    code = "conflict"
    title = "The request conflicts with the current state"
    status = 409


class InvalidState(Conflict):
    """The job's status does not allow this action."""

    code = "invalid_state"
    title = "The job's status does not allow this"


class InUse(Conflict):
    """The object cannot be deleted, because another one refers to it."""

    code = "in_use"
    title = "Still in use"


class LastAdminKey(Conflict):
    """The project's last key with the admin scope cannot be revoked."""

    code = "last_admin_key"
    title = "The project's last admin key"


class AmbiguousReference(Conflict):
    """A name or id prefix matches several objects; send the id of one of them. ``extra`` holds ``candidates``."""

    code = "ambiguous_reference"
    title = "The name or id prefix is not unique"


class RequestInFlight(Conflict):
    """The first request with this Idempotency-Key is still running."""

    code = "idempotency_key_in_flight"
    title = "The first request with this Idempotency-Key is still running"


class Unavailable(PotstillError):
    """A required service cannot be reached; the same request may succeed later."""

    code = "unavailable"
    title = "Temporarily unavailable"
    status = 503


# --- failures of a job, a dataset or a model ----------------------------------------------------


class RunError(PotstillError):
    """The run failed. ``fault`` is its cause, ``retryable`` whether a retry of the unchanged spec can succeed."""

    code = "run_failed"
    title = "The run failed"
    fault: ClassVar[Fault] = "service"
    retryable: ClassVar[bool] = True


class SpecCannotRun(RunError):
    """The spec passed all checks at submission, but its parts do not work together."""

    code = "spec_cannot_run"
    fault = "spec"
    retryable = False


class NonFiniteLoss(RunError):
    """A loss term is NaN or infinite; the weights were not updated with it."""

    code = "non_finite_loss"
    fault = "spec"
    retryable = False


class WeightsUnavailable(RunError):
    """The requested weights do not exist, or only as a pickle. ``extra`` may hold their ``architecture``."""

    code = "weights_unavailable"
    fault: ClassVar[Fault] = "spec"
    retryable = False


class HubUnreachable(WeightsUnavailable):
    """The hub, which has the weights, cannot be reached from this machine."""

    fault = "infrastructure"
    retryable = True


class WeightsMismatch(RunError):
    """The weights do not fit their architecture. ``extra`` may hold the ``architecture``."""

    code = "weights_mismatch"
    fault = "data"
    retryable = False


class DatasetRejected(RunError):
    """The archive or folder does not hold a valid dataset."""

    code = "dataset_rejected"
    fault = "data"
    retryable = False


class OutOfMemory(RunError):
    """The device or the process ran out of memory.

    ``extra`` may hold ``batch_size``, that of a student's training which is estimated to fit.
    """

    code = "out_of_memory"
    fault = "capacity"


class ExportFailed(RunError):
    """An export format cannot be written for this network; the job's other files do not depend on it."""

    code = "export_failed"
    fault = "service"
    retryable = False


class ExportMismatch(ExportFailed):
    """The outputs of an exported file differ from those of the trained student; it is not published."""

    code = "export_mismatch"


class StorageFailed(RunError):
    """The artifact store rejected a write or lost a file."""

    code = "storage_failed"
    fault = "infrastructure"


class StoredFileDamaged(StorageFailed):
    """A stored file is missing or corrupt."""

    retryable = False


class TimeLimitReached(RunError):
    """The job has reached its time limit."""

    code = "time_limit"
    fault = "capacity"
    retryable = False


class WorkStalled(RunError):
    """The job's process made no progress within the stall timeout and was killed."""

    code = "stalled"
    fault = "service"


class WorkerLost(RunError):
    """The job's process or its worker ended without reporting an error."""

    code = "worker_lost"
    fault = "infrastructure"


class ProcessLost(Unavailable):
    """One rank of the job ended before the others; another attempt may succeed."""

    code = "process_lost"
    title = "A process of the job ended"


class KilledForMemory(ProcessLost):
    """The kernel's OOM killer ended a rank; another process of the machine may have used the memory."""


# --- serialization between processes --------------------------------------------------------------


def error_document(error: PotstillError) -> dict[str, Any]:
    """Serialize an error for another process."""
    return {
        "code": error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [{"pointer": e.pointer, "detail": e.detail} for e in error.errors],
        "extra": error.extra,
    }


def restore_error(document: dict[str, Any]) -> PotstillError:
    """Restore an error from :func:`error_document`; an unknown code gives the base class."""
    kinds: list[type[PotstillError]] = [PotstillError]
    for kind in kinds:  # grows during iteration: all classes of the tree, parents first
        kinds.extend(kind.__subclasses__())
    kind = next((k for k in kinds if k.code == document["code"]), PotstillError)
    return kind(
        document["detail"],
        errors=[FieldError(e["pointer"], e["detail"]) for e in document["errors"]],
        extra=document["extra"],
    )
