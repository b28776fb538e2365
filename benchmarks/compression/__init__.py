"""Accuracy, bytes and latency of compressed students on CIFAR-10, and of peers on the same networks.

Parts: ``plan`` (runs and their specs), ``execution`` (a run), ``onnxruntime_peer`` and ``torch_pruning_peer`` (other
libraries), ``statistics`` (means and paired intervals), ``report`` and ``scatter_plot`` (the section of
``docs/compression.md``).
"""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    from benchmarks.compression.command import main as command  # the parts can be imported without it

    return command(arguments)


__all__ = ["main"]
