"""The synchronous client. All modules but `runtime` are generated from `potstill._async` by `make docs`."""
