"""Logging: one JSON object per line on standard error, for the product and for libraries."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal

import structlog

from core import tracing
from core.redaction import redact_event

# Minimum levels of verbose loggers.
_MIN_LEVELS = {
    "celery": "WARNING",
    "kombu": "WARNING",
    "uvicorn.access": "WARNING",
    "uvicorn": "WARNING",
    "alembic": "WARNING",
    "timm": "WARNING",  # its info lines contain paths of the machine
    "httpcore": "WARNING",  # its info lines contain full URLs with signatures
}


class _StderrLogger:
    """Named logger that writes lines to standard error."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line; ignore errors such as a full disk or a closed pipe."""
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def configure_logging(role: str, level: str, line_format: Literal["json", "text"] = "json") -> None:
    """Log to standard error. Call once at process start.

    structlog events bypass the standard library, which takes four times as long; every request logs one event.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _name, event: {**event, "role": role},
        *([_add_trace] if tracing.is_enabled() else []),
    ]
    rendered: list[Any] = [
        structlog.processors.format_exc_info,
        redact_event,  # after format_exc_info, so that tracebacks are redacted too
        structlog.processors.JSONRenderer(default=str) if line_format == "json" else _render_text,
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        logger_factory=_StderrLogger,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, min_level in _MIN_LEVELS.items():
        logging.getLogger(name).setLevel(max(logging.getLevelName(min_level), root.level))
    logging.captureWarnings(capture=True)


def _add_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids of the current trace and span, as a structlog processor."""
    return {**event, **tracing.log_fields()}


def _render_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Render an event as text, as a structlog processor; a traceback follows on lines of its own."""
    exception = event.pop("exception", None)
    line = _format_event(str(event.pop("role", "")), event)
    return line if exception is None else f"{line}\n{exception}"


def format_line(role: str, line: bytes) -> str | None:
    """Format a log line for the terminal: time, role, event and fields. None for lines that are not shown."""
    try:
        event = json.loads(line)
    except ValueError:
        if role == "valkey":
            return None  # Valkey's lines stay in its log file
        return _printable(f"{role:<10} {line.decode(errors='replace').rstrip()}") if line.strip() else None
    if not isinstance(event, dict) or not _is_shown(event):
        return None
    event.pop("exception", None)
    return _format_event(role, event)


def _format_event(role: str, event: MutableMapping[str, Any]) -> str:
    time = str(event.pop("timestamp", ""))[11:19]
    name, level = event.pop("event", ""), event.pop("level", "info")
    for hidden in ("logger", "role"):
        event.pop(hidden, None)
    fields = " ".join(f"{key}={value}" for key, value in event.items())
    prefix = "" if level == "info" else f"{level.upper()} "
    return _printable(f"{time} {role:<10} {prefix}{name} {fields}".rstrip())


def _printable(text: str) -> str:
    """Escape line breaks and terminal control characters, because log lines may contain untrusted text."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _is_shown(event: dict[str, Any]) -> bool:
    return event.get("level") not in {"debug", "info"} or str(event.get("event", "")).startswith(
        ("job.", "dataset.", "model.", "broker.")
    )
