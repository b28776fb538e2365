"""Logs: one JSON object a line on standard error, from our own code and from libraries alike."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import Any

import structlog

from core.redaction import redact_event

# What says more than anybody wants to read, and from which level on it matters.
_QUIET = {
    "celery": "WARNING",
    "kombu": "WARNING",
    "uvicorn.access": "WARNING",
    "uvicorn": "WARNING",
    "alembic": "WARNING",
    "httpcore": "WARNING",  # it would tell addresses whole, with the signatures in them
}


class _Lines:
    """Writes whole lines to standard error, and knows the name under which it was asked for."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line. Where that cannot be done (a full disk, nobody reads any more), nothing else is to end."""
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def configure(role: str, level: str) -> None:
    """Send everything that this process logs to standard error as JSON; call it once, before anything else.

    Our own lines are written at once: the way through the standard library takes four times as long, and every request
    writes one.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _name, event: {**event, "role": role},
    ]
    rendered: list[Any] = [
        structlog.processors.format_exc_info,
        redact_event,  # after that, so that a traceback is looked through too
        structlog.processors.JSONRenderer(default=str),
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        logger_factory=_Lines,
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
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(logging.getLevelName(quiet), root.level))
    logging.captureWarnings(capture=True)


def short(role: str, line: bytes) -> str | None:
    """One line for a person: time, role, event and its fields. None where it is nothing that they need to see."""
    try:
        event = json.loads(line)
    except ValueError:
        if role == "valkey":
            return None  # it has its own way to say things, and its log keeps them
        return _printable(f"{role:<10} {line.decode(errors='replace').rstrip()}") if line.strip() else None
    if not isinstance(event, dict) or not _worth_showing(event):
        return None
    time = str(event.pop("timestamp", ""))[11:19]
    name, level = event.pop("event", ""), event.pop("level", "info")
    for hidden in ("logger", "role", "exception"):
        event.pop(hidden, None)
    fields = " ".join(f"{key}={value}" for key, value in event.items())
    mark = "" if level == "info" else f"{level.upper()} "
    return _printable(f"{time} {role:<10} {mark}{name} {fields}".rstrip())


def _printable(text: str) -> str:
    """One line, and nothing that a terminal would obey: strangers' words are in it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _worth_showing(event: dict[str, Any]) -> bool:
    return event.get("level") not in {"debug", "info"} or str(event.get("event", "")).startswith(
        ("job.", "dataset.", "model.", "broker.")
    )
