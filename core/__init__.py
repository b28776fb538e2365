"""Potstill's engine, its job spec and its store."""
