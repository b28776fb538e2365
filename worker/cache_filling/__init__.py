"""Idle job workers compute teacher outputs ahead of a job that another worker runs."""
