"""Attacks on a service that promises to lose nothing."""
