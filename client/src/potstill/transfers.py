"""Progress of uploads and downloads: a bar in a terminal, or a callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

# True: a bar on standard error, if that is a terminal. A function: it receives the transferred and all bytes.
ProgressOption = bool | Callable[[int, int], object]


class Transfer:
    """Bytes of one file that were transferred."""

    def __init__(self, total: int, on_change: Callable[[int, int], object]) -> None:
        self._total = total
        self._on_change = on_change
        self._done = 0

    def restart(self, done: int = 0) -> None:
        """Begin an attempt, of which ``done`` bytes need no transfer."""
        self._done = done
        self._on_change(done, self._total)

    def advance(self, num_bytes: int) -> None:
        """Count bytes that were transferred."""
        self._done += num_bytes
        self._on_change(self._done, self._total)


@contextmanager
def transfer(progress: ProgressOption, label: str, total: int) -> Iterator[Transfer]:
    """Yield the transfer of one file with ``total`` bytes."""
    if callable(progress):
        yield Transfer(total, progress)
        return
    console = Console(stderr=True)
    if not progress or not console.is_terminal:
        yield Transfer(total, lambda _done, _total: None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield Transfer(total, lambda done, _total: bars.update(task, completed=done))
