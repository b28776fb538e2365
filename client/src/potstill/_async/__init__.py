"""The asynchronous client: the source of `potstill._sync`, which `make docs` generates from it."""
