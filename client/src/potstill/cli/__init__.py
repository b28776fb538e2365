"""The ``potstill`` command."""
