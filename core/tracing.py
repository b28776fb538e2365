"""OpenTelemetry traces: one trace per job, from its request through its attempts to their stages.

Off unless the standard variables name an OTLP endpoint (``OTEL_EXPORTER_OTLP_ENDPOINT``); then spans cost nothing and
the SDK is not imported. The SDK and its exporter are the extra ``otel``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

__all__ = ["Span", "SpanKind", "configure", "current_traceparent", "is_enabled", "span", "start_span"]

TRACEPARENT = "traceparent"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_EXPORT_SECONDS = 2.0  # a job or a request must not wait long for a collector that does not respond
_NANOSECONDS = 1_000_000_000

Attributes = Mapping[str, str | int | float | bool]

log = structlog.get_logger(__name__)
_propagator = TraceContextTextMapPropagator()


@dataclass(slots=True)
class _Process:
    """Configuration of this process and of those forked from it, and the provider of one of them."""

    role: str | None = None  # None: off
    in_background: bool = True
    make_processor: Callable[[], SpanProcessor] | None = None  # of tests
    provider: TracerProvider | None = None
    pid: int = 0


_process = _Process()


def is_enabled() -> bool:
    """Whether the environment requests traces."""
    return (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
        and any(os.environ.get(name) for name in _ENDPOINTS)
    )


def configure(
    role: str, *, in_background: bool = True, make_processor: Callable[[], SpanProcessor] | None = None
) -> None:
    """Enable traces of a process of this role, if the environment requests them. Call once at process start.

    ``in_background``: export in a thread. A process that forks exports a span when it ends, without a thread.
    ``make_processor`` replaces the exporter of the environment.
    """
    if make_processor is None:
        if not is_enabled():
            return
        if importlib.util.find_spec("opentelemetry.sdk") is None:
            log.warning("tracing.unavailable", fix="pip install 'potstill-server[otel]'")
            return
    shutdown()
    _process.role, _process.in_background, _process.make_processor = role, in_background, make_processor


def export_in_background() -> None:
    """Export in a thread from now on, in a forked process that forks no other."""
    _process.in_background = True


def provider() -> TracerProvider | None:
    """Return the provider of this process, created at first use; None if traces are off."""
    if _process.role is None:
        return None
    if _process.provider is None or _process.pid != os.getpid():
        _process.provider, _process.pid = _make_provider(_process.role), os.getpid()
    return _process.provider


def flush() -> None:
    """Export the ended spans of this process now."""
    if _process.provider is not None and _process.pid == os.getpid():
        _process.provider.force_flush(round(_EXPORT_SECONDS * 1000))


def shutdown() -> None:
    """Export the remaining spans of this process and disable its traces."""
    if _process.provider is not None and _process.pid == os.getpid():
        _process.provider.shutdown()
    _process.role = _process.provider = None


def start_span(
    name: str,
    attributes: Attributes | None = None,
    *,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    started_at: datetime | None = None,
) -> Span:
    """Start a span that the caller ends. ``parent``: a traceparent; None: the current span."""
    return _tracer().start_span(
        name,
        _context(parent),
        kind,
        attributes,
        start_time=None if started_at is None else nanoseconds(started_at),
    )


@contextmanager
def span(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL
) -> Iterator[Span]:
    """Open a span and make it current. An exception of the block ends it with an error."""
    if _process.role is None:
        yield trace.INVALID_SPAN
        return
    started = start_span(name, attributes, parent=parent, kind=kind)
    with trace.use_span(started, end_on_exit=True):
        yield started


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span, or None."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT)


def log_fields() -> dict[str, str]:
    """Return ``trace_id`` and ``span_id`` of the current span; nothing without one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def set_error(failed: Span, reason: str) -> None:
    """Mark a span as failed."""
    failed.set_status(StatusCode.ERROR, reason)


def nanoseconds(time: datetime) -> int:
    """Return a time as spans take it."""
    return int(time.timestamp() * _NANOSECONDS)


def _tracer() -> Tracer:
    current = provider()
    return trace.NoOpTracer() if current is None else current.get_tracer("potstill")


def _context(parent: str | None) -> Context | None:
    return None if parent is None else _propagator.extract({TRACEPARENT: parent})


def _make_provider(role: str) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource  # an extra
    from opentelemetry.sdk.trace import TracerProvider

    own = Resource({SERVICE_NAME: "potstill", "potstill.role": role, "process.pid": os.getpid()})
    created = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))  # of OTEL_SERVICE_NAME and others
    created.add_span_processor((_process.make_processor or _otlp_processor)())
    return created


def _otlp_processor() -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    has_timeout = any(name in os.environ for name in _TIMEOUTS)
    exporter = OTLPSpanExporter(timeout=None if has_timeout else _EXPORT_SECONDS)
    return BatchSpanProcessor(exporter) if _process.in_background else SimpleSpanProcessor(exporter)
