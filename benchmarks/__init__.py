"""Measurements of the whole: one file a question. ``python -m benchmarks`` says which there are."""
