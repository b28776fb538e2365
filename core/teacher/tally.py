"""What came of asking teachers ahead of a training, as it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Tally:
    """What asking and looking up came to: views found whole and views asked about, each once a teacher."""

    hits: int = 0
    misses: int = 0
    seconds: float = 0.0  # that teachers took in this attempt
    saved_seconds: float = 0.0  # that they took in other attempts or jobs for what was found
    bytes: int = 0  # read or made
    stopped: str | None = None  # why nothing more is stored
    views: int = 0  # of the training, up to the last one that was shown
    asked: str | None = None  # the name of what was asked, see core.teacher.asked

    def figures(self) -> dict[str, Any]:
        """As it is reported."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "seconds": round(self.seconds, 3),
            "saved_seconds": round(self.saved_seconds, 3),
            "bytes": self.bytes,
            "stopped": self.stopped,
            "views": self.views,
            "asked": self.asked,
        }
