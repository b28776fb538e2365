"""The Python SDK and the `potstill` command."""
