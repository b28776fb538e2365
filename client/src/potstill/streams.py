"""Parse server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``id`` is the last id of the stream, as in the standard."""

    id: str
    event: str
    data: str


class MessageParser:
    """Collects lines to messages. Comments (pings) are dropped."""

    def __init__(self) -> None:
        self._last_id, self._event, self._data = "", "message", list[str]()

    def feed(self, line: str) -> Message | None:
        """Take one line without its line break; return the message that it ends, or None."""
        if not line:
            message = Message(self._last_id, self._event, "\n".join(self._data)) if self._data else None
            self._event, self._data = "message", []
            return message
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                self._last_id = value
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
        return None
