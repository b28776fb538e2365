"""Every error that Potstill shows to somebody, as one tree.

A domain error carries a stable ``code``, the HTTP status that it maps to and a detail that names the
fix. The API renders it as an RFC 9457 problem, the worker stores it in ``job.error``, the command
line prints it. Programming mistakes are assertions and are not part of this tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

# What has to change before a failed job can go well: what was asked, what was sent to learn from, how much memory,
# time or room there is, what the service stands on (disks, machines, networks), or the service itself.
_NUM_QUOTED = 3  # field errors in the detail of an error for several fields

Fault = Literal["spec", "data", "capacity", "infrastructure", "service"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with a document: where (RFC 6901 pointer) and what to do about it."""

    pointer: str
    detail: str


class PotstillError(Exception):
    """Something went wrong that a caller can be told about."""

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


# --- what a caller sent -------------------------------------------------------------------------


class InvalidRequest(PotstillError):
    """The request is well-formed, but what it asks for is not valid."""

    code = "invalid_request"
    title = "The request is not valid"
    status = 422


class InvalidSpec(InvalidRequest):
    """A job spec that cannot run: a field is wrong, or the parts do not fit together."""

    code = "invalid_spec"
    title = "The job spec is not valid"


class NotAvailable(InvalidRequest):
    """The contract names this, but this version does not offer it."""

    code = "not_available"
    title = "Not available in this version"


class IdempotencyKeyReused(InvalidRequest):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_key_reused"
    title = "This Idempotency-Key was used for another request"


class MalformedRequest(PotstillError):
    """The body cannot be read at all."""

    code = "malformed_request"
    title = "The request cannot be read"
    status = 400


class PayloadTooLarge(PotstillError):
    """More bytes than the service takes."""

    code = "payload_too_large"
    title = "The request is too large"
    status = 413


class UnsupportedMedia(PotstillError):
    """A file of a kind that is never read here (a pickle, say)."""

    code = "unsupported_media_type"
    title = "This kind of file is not accepted"
    status = 415


class MethodNotAllowed(PotstillError):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"
    title = "This method is not allowed here"
    status = 405


class RangeNotSatisfiable(PotstillError):
    """The bytes that were asked for lie behind the end of the file."""

    code = "range_not_satisfiable"
    title = "The range lies behind the end of the file"
    status = 416


class NotAuthenticated(PotstillError):
    """No key, or one that is unknown, expired or revoked."""

    code = "not_authenticated"
    title = "A valid API key is needed"
    status = 401


class Forbidden(PotstillError):
    """The key is valid, but its scopes do not allow this."""

    code = "forbidden"
    title = "This key may not do that"
    status = 403


class QuotaExceeded(PotstillError):
    """The project has as much as it may have; waiting alone does not help, making room does."""

    code = "quota_exceeded"
    title = "The project's quota is used up"
    status = 403


class RateLimited(PotstillError):
    """Too many requests of this kind with this key, or too many wrong keys from this address; wait a little.

    ``extra`` holds ``retry_after_seconds``.
    """

    code = "rate_limited"
    title = "Too many requests"
    status = 429


class NotFound(PotstillError):
    """No such object in the caller's project."""

    code = "not_found"
    title = "Not found"
    status = 404


# --- what clashes with the state of things ------------------------------------------------------


class Conflict(PotstillError):
    """The request clashes with the present state."""

    code = "conflict"
    title = "The request clashes with the present state"
    status = 409


class InvalidState(Conflict):
    """A move that the job's status does not allow."""

    code = "invalid_state"
    title = "The job's status does not allow this"


class InUse(Conflict):
    """Something still needs the object that was to be deleted."""

    code = "in_use"
    title = "Still in use"


class LastAdminKey(Conflict):
    """Without this key nobody could manage the project's keys any more."""

    code = "last_admin_key"
    title = "The project's last admin key"


class RequestInFlight(Conflict):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency_key_in_flight"
    title = "The first request with this Idempotency-Key is still running"


class Unavailable(PotstillError):
    """A part that is needed cannot be reached; the same request may work later."""

    code = "unavailable"
    title = "Temporarily unavailable"
    status = 503


# --- what ends a job, a dataset or a model ------------------------------------------------------


class RunError(PotstillError):
    """A run cannot go on. ``fault`` says what has to change: see :data:`Fault`."""

    code = "run_failed"
    title = "The run failed"
    fault: ClassVar[Fault] = "service"


class SpecCannotRun(RunError):
    """The spec passed every check at submission, yet its parts do not work together."""

    code = "spec_cannot_run"
    fault = "spec"


class NonFiniteLoss(RunError):
    """A term of the loss became NaN or infinite; no step was taken with it."""

    code = "non_finite_loss"
    fault = "spec"


class WeightsUnavailable(RunError):
    """Weights that the spec asks for cannot be had (hub out of reach, no such weights)."""

    code = "weights_unavailable"
    fault = "spec"


class WeightsMismatch(RunError):
    """Weights do not fit the architecture that they are said to be for."""

    code = "weights_mismatch"
    fault = "data"


class DatasetRejected(RunError):
    """An archive or folder that cannot become a dataset."""

    code = "dataset_rejected"
    fault = "data"


class OutOfMemory(RunError):
    """The device or the process ran out of memory."""

    code = "out_of_memory"
    fault = "capacity"


class ExportMismatch(RunError):
    """An exported file does not give what the trained student gives, so it is not published."""

    code = "export_mismatch"
    fault = "service"


class StorageFailed(RunError):
    """The artefact store refused a write or lost a file."""

    code = "storage_failed"
    fault = "infrastructure"


class StoredFileDamaged(StorageFailed):
    """A stored file is not there, or not what was stored: another try gives the same, so do without it."""


class TimeLimitReached(RunError):
    """The job has run for as long as it may."""

    code = "time_limit"
    fault = "capacity"


class WorkStalled(RunError):
    """The job's process did nothing for too long, and was ended."""

    code = "stalled"
    fault = "service"


class WorkerLost(RunError):
    """The job's process, or its worker, ended without a word."""

    code = "worker_lost"
    fault = "infrastructure"


class ProcessLost(Unavailable):
    """One of the processes that train a student together ended before the others; another attempt may go well."""

    code = "process_lost"
    title = "A process of the job ended"


class KilledForMemory(ProcessLost):
    """The kernel ended one of them for want of memory, of which something else here may have taken too much."""


# --- over the wire between our own processes ------------------------------------------------------


def error_document(error: PotstillError) -> dict[str, Any]:
    """The JSON form in which one process hands an error to another."""
    return {
        "code": error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [{"pointer": e.pointer, "detail": e.detail} for e in error.errors],
        "extra": error.extra,
    }


def restore_error(document: dict[str, Any]) -> PotstillError:
    """The error that :func:`error_document` described; of an unknown code, the base class."""
    kinds: list[type[PotstillError]] = [PotstillError]
    for kind in kinds:  # grows while it is walked: every class of the tree, parents first
        kinds.extend(kind.__subclasses__())
    kind = next((k for k in kinds if k.code == document["code"]), PotstillError)
    return kind(
        document["detail"],
        errors=[FieldError(e["pointer"], e["detail"]) for e in document["errors"]],
        extra=document["extra"],
    )
