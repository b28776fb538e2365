"""The Python SDK and the `potstill` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.sdk import Potstill

__all__ = ["Potstill"]


def __getattr__(name: str) -> object:
    """Import the SDK at its first use, so that `client.cli` can report missing packages."""
    if name == "Potstill":
        from client.sdk import Potstill

        return Potstill
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
