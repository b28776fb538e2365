"""Parse server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``id`` is the last id of the stream, as in the standard."""

    id: str
    event: str
    data: str


def read_messages(lines: Iterable[str]) -> Iterator[Message]:
    """Parse messages from lines without line breaks. Comments (pings) are dropped."""
    last_id, event, data = "", "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Message(id=last_id, event=event, data="\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                last_id = value
            case "event":
                event = value
            case "data":
                data.append(value)
