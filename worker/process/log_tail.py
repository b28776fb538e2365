"""The last log lines of a forked process and its traceback, readable by its parent after any exit."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import mmap
import os
import re
import signal
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from core.redaction import redact, redact_event
from core.settings import Settings

NUM_LINES = 50
NUM_BYTES = 12_000  # total of all lines
_LINE_LENGTH = 400
_SLOT = NUM_BYTES + 4
TRACEBACK_SIGNAL = signal.SIGUSR1
_TRACEBACK_BYTES = 64_000
_TRACEBACK_LINES = 35
_MAX_FRAMES = 12  # of each thread, the most recent call first

_OMITTED_FIELDS = (
    "role", "logger", "job_id", "attempt", "timestamp", "level", "event", "exception",
    "request_id", "trace_id", "span_id",
)  # fmt: skip
_HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(SECRET|TOKEN|PASSWORD|CREDENTIAL|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_MIN_SECRET_LENGTH = 6  # a shorter secret would match ordinary words


def collect_secrets(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets that no line may show: passwords of URLs, the secret key, secrets of the environment."""
    secrets = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    secrets.add(settings.secret_key.get_secret_value())
    for url in (settings.database_url, settings.broker_url, settings.storage_url):
        with contextlib.suppress(ArgumentError, ValueError):
            secrets.add(str(make_url(url).password or ""))
    return tuple(sorted((secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH), key=len, reverse=True))


def redact_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without these secrets and without anything that looks like a credential."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return redact(text)


class LogTail:
    """Shared memory with the last log lines of a child; created before the fork, written there, read by the parent."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        # Two slots and a byte with the index of the valid one: a child that is killed during a write leaves the
        # previous slot valid.
        self._memory = mmap.mmap(-1, 1 + 2 * _SLOT)
        self._traceback = os.memfd_create("traceback")

    def attach(self) -> None:
        """In the child: save all later log lines. A fatal signal or `TRACEBACK_SIGNAL` writes a traceback."""
        faulthandler.enable(file=self._traceback, all_threads=True)
        faulthandler.register(TRACEBACK_SIGNAL, file=self._traceback, all_threads=True, chain=False)
        handler = _LogTailHandler(self)
        logging.getLogger().addHandler(handler)
        # Lines of structlog do not reach the handler. Insert into the list in place: used loggers hold a reference.
        structlog.get_config()["processors"].insert(-1, handler.process_event)

    def save(self, lines: Iterable[str]) -> None:
        """In the child: replace the saved lines."""
        saved = _truncate_lines([self._redact(line) for line in [*lines][-NUM_LINES:]])
        text = "".join(f"{line}\n" for line in saved).encode(errors="replace")
        slot = 1 - self._memory[0]
        at = 1 + slot * _SLOT
        self._memory[at : at + 4] = len(text).to_bytes(4, "big")
        self._memory[at + 4 : at + 4 + len(text)] = text
        self._memory[0] = slot

    def lines(self) -> list[str]:
        """Return the last lines, oldest first, then the traceback; as many as a job's error holds.

        The child may still run.
        """
        text = self._read()
        logged = text.decode(errors="replace").splitlines()
        traceback = [self._redact(line) for line in _limit_frames(self.traceback().splitlines())]
        traceback = traceback[-_TRACEBACK_LINES:]  # the main thread comes last
        return _truncate_lines([*logged[len(traceback) - NUM_LINES :], *traceback])

    def _read(self) -> bytes:
        """Return the valid slot. The child may write meanwhile: a slot stays as it is until the other one is valid."""
        while True:
            slot = self._memory[0]
            at = 1 + slot * _SLOT
            text = self._memory[at + 4 : at + 4 + int.from_bytes(self._memory[at : at + 4], "big")]
            if self._memory[0] == slot:
                return text

    def traceback(self) -> str:
        """Return the traceback of the child's threads, if a signal wrote one; otherwise an empty string."""
        return os.pread(self._traceback, _TRACEBACK_BYTES, 0).decode(errors="replace")

    def close(self) -> None:
        """Close the traceback file; afterwards no line can be read."""
        os.close(self._traceback)

    def _redact(self, line: str) -> str:
        return redact_secrets(line, self._secrets)[:_LINE_LENGTH]


def _limit_frames(traceback: list[str]) -> list[str]:
    """Return the traceback with at most `_MAX_FRAMES` frames of each thread."""
    lines, frames = [], 0
    for line in traceback:
        frames = frames + 1 if line.startswith("  ") else 0
        if frames <= _MAX_FRAMES:
            lines.append(line)
    return lines


def _truncate_lines(lines: list[str]) -> list[str]:
    """Return the last lines whose total size is at most `NUM_BYTES`."""
    available_bytes, last_lines = NUM_BYTES, deque[str]()
    for line in reversed(lines):
        available_bytes -= len(line.encode(errors="replace")) + 1
        if available_bytes < 0:
            break
        last_lines.appendleft(line)
    return list(last_lines)


class _LogTailHandler(logging.Handler):
    """Saves each record as a line, or as several lines if it has a traceback."""

    def __init__(self, log_tail: LogTail) -> None:
        super().__init__()
        self._log_tail = log_tail
        self._lines: deque[str] = deque(maxlen=NUM_LINES)
        self.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[
                    structlog.stdlib.add_log_level,
                    structlog.processors.TimeStamper(fmt="iso", utc=True),
                ],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    redact_event,
                    structlog.processors.format_exc_info,
                    _render_line,
                ],
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Save the record."""
        try:
            self._append(self.format(record))
        except Exception:  # noqa: BLE001 - as in every logging handler: a log line must not end the job
            self.handleError(record)

    def process_event(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Save an event as a structlog processor, before the renderer; return it unchanged."""
        self._append(_render_line(logger, name, structlog.processors.format_exc_info(logger, name, dict(event))))
        return event

    def _append(self, text: str) -> None:
        self._lines.extend(text.splitlines())
        self._log_tail.save(self._lines)


def _render_line(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in _OMITTED_FIELDS)
    time, level = str(event.get("timestamp", ""))[11:19], event.get("level", "info")
    first = f"{time} {level} {event.get('event', '')} {fields}".strip()
    return f"{first}\n{event['exception']}" if "exception" in event else first
