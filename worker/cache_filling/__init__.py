"""Idle job workers compute teacher outputs for a job that another worker runs."""
