"""The Python SDK and the `potstill` command."""

from client.sdk import Potstill

__all__ = ["Potstill"]
