"""Accuracy of every method on CIFAR-10, with equal tuning, several seeds and tests of significance.

``docs/quality.md`` describes the protocol. Parts: ``protocol`` (settings), ``arms`` (rows), ``plan`` (order),
``schedule`` and ``worker`` (processes), ``peers`` (other packages), ``report`` and ``forest_plot`` (page).
"""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    from benchmarks.quality.command import main as command  # the parts can be imported without it

    return command(arguments)


__all__ = ["main"]
