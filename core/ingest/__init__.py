"""Ingestion: convert uploads to stored datasets."""
