"""Server-sent events, read line by line (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One dispatched message; ``id`` is the last one that was seen, as the standard says."""

    id: str
    event: str
    data: str


def read_messages(lines: Iterable[str]) -> Iterator[Message]:
    """Messages of a stream of lines without their ends. Comments (pings) are dropped."""
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
