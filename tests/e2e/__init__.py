"""Tests of a running stack. As a package, so that the stack stops after its last test."""
