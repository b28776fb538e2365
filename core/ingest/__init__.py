"""Ingestion: what users send becomes a stored dataset."""
