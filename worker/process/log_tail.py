"""The newest lines that a piece of work logged, and its traceback: readable by its guardian after any end."""

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
NUM_BYTES = 12_000  # of all lines together
_LINE_LENGTH = 400
_SLOT = NUM_BYTES + 4
TRACEBACK_SIGNAL = signal.SIGUSR1
_TRACEBACK_BYTES = 64_000
_TRACEBACK_LINES = 35
_FRAMES = 12  # of each thread, the most recent call first

_SAID_ANYWAY = ("role", "logger", "job_id", "attempt", "timestamp", "level", "event", "exception")
_HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(SECRET|TOKEN|PASSWORD|CREDENTIAL|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_SHORTEST_SECRET = 6  # a shorter one would be found in innocent words


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What no line may hold: passwords of addresses, keys, and whatever the environment calls a secret."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    found.add(settings.secret_key.get_secret_value())
    for address in (settings.database_url, settings.broker_url, settings.storage_url):
        with contextlib.suppress(ArgumentError, ValueError):
            found.add(str(make_url(address).password or ""))
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True))


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets, and without anything that has the shape of credentials."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return redact(text)


class LogTail:
    """Made before a fork: the child listens to its own log, the parent reads, whatever became of the child."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        # Two places for the text and a byte that says which one holds: a child that is killed while it writes
        # leaves the one before.
        self._memory = mmap.mmap(-1, 1 + 2 * _SLOT)
        self._traceback = os.memfd_create("traceback")

    def listen(self) -> None:
        """In the child: keep what is logged from here on. A fatal signal leaves a traceback, `TRACEBACK_SIGNAL` too."""
        faulthandler.enable(file=self._traceback, all_threads=True)
        faulthandler.register(TRACEBACK_SIGNAL, file=self._traceback, all_threads=True, chain=False)
        keeper = _Keeper(self)
        logging.getLogger().addHandler(keeper)
        # Our own lines do not pass through the library. Into the list itself, as loggers that were used hold it.
        structlog.get_config()["processors"].insert(-1, keeper.overhear)

    def keep(self, lines: Iterable[str]) -> None:
        """In the child: let these be the last words."""
        kept = _bounded([self._shown(line) for line in [*lines][-NUM_LINES:]])
        text = "".join(f"{line}\n" for line in kept).encode(errors="replace")
        other = 1 - self._memory[0]
        at = 1 + other * _SLOT
        self._memory[at : at + 4] = len(text).to_bytes(4, "big")
        self._memory[at + 4 : at + 4 + len(text)] = text
        self._memory[0] = other

    def lines(self) -> list[str]:
        """The last words, oldest first, the traceback behind them; as many as a job's error holds."""
        at = 1 + self._memory[0] * _SLOT
        text = self._memory[at + 4 : at + 4 + int.from_bytes(self._memory[at : at + 4], "big")]
        said = text.decode(errors="replace").splitlines()
        stood = [self._shown(line) for line in _shortened(self.traceback().splitlines())]
        stood = stood[-_TRACEBACK_LINES:]  # the main thread comes last
        return _bounded([*said[len(stood) - NUM_LINES :], *stood])

    def traceback(self) -> str:
        """What the child's threads were at when it was asked, or when a fatal signal came; empty else."""
        return os.pread(self._traceback, _TRACEBACK_BYTES, 0).decode(errors="replace")

    def close(self) -> None:
        """Forget the traceback. Lines can be read no more."""
        os.close(self._traceback)

    def _shown(self, line: str) -> str:
        return redacted(line, self._secrets)[:_LINE_LENGTH]


def _shortened(traceback: list[str]) -> list[str]:
    """Of each thread where it is, and whence, as far as it says something."""
    kept, frames = [], 0
    for line in traceback:
        frames = frames + 1 if line.startswith("  ") else 0
        if frames <= _FRAMES:
            kept.append(line)
    return kept


def _bounded(lines: list[str]) -> list[str]:
    """The last lines that together stay within `NUM_BYTES`."""
    room, kept = NUM_BYTES, deque[str]()
    for line in reversed(lines):
        if (room := room - len(line.encode(errors="replace")) - 1) < 0:
            break
        kept.appendleft(line)
    return list(kept)


class _Keeper(logging.Handler):
    """Renders each record as a line, or as several where it carries a traceback."""

    def __init__(self, words: LogTail) -> None:
        super().__init__()
        self._words = words
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
                    _as_text,
                ],
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record."""
        try:
            self._hear(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler of the library: a log line must not end the work
            self.handleError(record)

    def overhear(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """As structlog's last processor but the one that renders: keep what passes, and let it pass as it is."""
        self._hear(_as_text(logger, name, structlog.processors.format_exc_info(logger, name, dict(event))))
        return event

    def _hear(self, text: str) -> None:
        self._lines.extend(text.splitlines())
        self._words.keep(self._lines)


def _as_text(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in _SAID_ANYWAY)
    time, level = str(event.get("timestamp", ""))[11:19], event.get("level", "info")
    first = f"{time} {level} {event.get('event', '')} {fields}".strip()
    return f"{first}\n{event['exception']}" if "exception" in event else first
