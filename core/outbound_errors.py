"""Errors of work on other services: pushes to a hub, runs of a tracking server.

``retryable`` tells whether the same attempt can succeed later; the scheduler then repeats it.
"""

from __future__ import annotations

from typing import ClassVar

from core.errors import Fault, RunError


class OutboundFailed(RunError):
    """Work on another service failed."""

    code = "outbound_failed"
    title = "Work on another service failed"
    fault: ClassVar[Fault] = "infrastructure"


class TrackingUnavailable(OutboundFailed):
    """The tracking server cannot be reached, is overloaded, or refuses the configured token; it is tried again."""

    code = "tracking_unavailable"
    title = "The tracking server is unavailable"


class TrackingRejected(OutboundFailed):
    """The tracking server refuses a request for good, for example because its run was deleted."""

    code = "tracking_rejected"
    title = "The tracking server rejects the run"
    retryable = False


class PushUnavailable(OutboundFailed):
    """The hub cannot be reached or is overloaded. The push is repeated for a day before it fails."""

    code = "push_unavailable"
    title = "The hub is unavailable"


class PushUnauthorized(OutboundFailed):
    """The hub refuses the token, or the token may not write to this repository."""

    code = "push_unauthorized"
    title = "The hub refuses the token"
    fault = "spec"
    retryable = False


class PushRejected(OutboundFailed):
    """The hub rejects the repository, the revision or a file."""

    code = "push_rejected"
    title = "The hub rejects the push"
    fault = "spec"
    retryable = False


class PushTokenLost(OutboundFailed):
    """The token was encrypted with another ``POTSTILL_SECRET_KEY``; push again."""

    code = "push_token_lost"
    title = "The token of the push cannot be read"
    retryable = False
