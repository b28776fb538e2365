"""Keeps the processes of a stack running, and ends all of them.

One thread, one loop: signals, ended children, their output and planned restarts all wake the same
selector. Every child dies with this process (see ``processes.die_with``).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from server.processes import Child, Role, RotatedLog, adopt_orphans

STOP_SECONDS = 24.0  # from SIGTERM to SIGKILL; a worker needs them to save what it trains
LAST_SECONDS = 3.0  # for what ends after the others, the broker
_TICK_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Listener = Callable[[str, bytes], None]


class Supervisor:
    """Starts roles, restarts what dies, stops everything within ``STOP_SECONDS + LAST_SECONDS``.

    ``on_line(role, line)`` gets every line that a child prints, ``on_news(role, text)`` what happens to it.
    """

    def __init__(self, logs: Path, *, on_line: Listener, on_news: Callable[[str, str], None]) -> None:
        self._logs = logs
        self._on_line = on_line
        self._on_news = on_news
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self.stopping = False
        self._hurried = False

    def __enter__(self) -> Self:
        adopt_orphans()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only to be woken up
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_orphans()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake.close()
        self._woken.close()
        for child in self._children.values():
            child.log.close()

    def start(self, role: Role) -> None:
        """Start a role; from now on it is restarted whenever it ends."""
        child = Child(role, RotatedLog(self._logs / f"{role.name}.log"))
        self._children[role.name] = child
        self._launch(child)

    def running(self, name: str) -> bool:
        """Whether the role's process is there at the moment."""
        return self._children[name].process is not None

    def finish(self, role: Role, *, timeout: float) -> int | None:
        """Run a role to its end, once; its exit status, or None where a signal to stop came first."""
        child = Child(role, RotatedLog(self._logs / f"{role.name}.log"))
        self._children[role.name] = child
        self._launch(child)
        process, ends = child.process, time.monotonic() + timeout
        while child.process is not None and not self.stopping:
            if time.monotonic() > ends:
                child.signal(signal.SIGKILL)
            self.step()
        if process is None or child.process is not None:
            return None
        del self._children[role.name]
        child.log.close()
        return process.returncode

    def step(self, timeout: float = _TICK_SECONDS) -> None:
        """Wait for the next thing to happen, at most for so long, and deal with it."""
        for key, _ in self._selector.select(self._patience(timeout)):
            if key.fileobj is self._woken:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            else:
                self._read(key.data)
        self._reap()
        self._restart_due()

    def run(self) -> None:
        """Go on until a signal to stop comes."""
        while not self.stopping:
            self.step()

    def stop(self, *, last: Sequence[str] = ()) -> None:
        """End every process: all but the ``last`` ones first, gently, then by force."""
        self.stopping = True
        for child in self._children.values():
            child.restart_at = None
        self._end([c for name, c in self._children.items() if name not in last], STOP_SECONDS)
        self._end([self._children[name] for name in last if name in self._children], LAST_SECONDS)

    # --- inside --------------------------------------------------------------------------------

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._hurried = self.stopping  # the second signal: no more patience
        self.stopping = True

    def _launch(self, child: Child) -> None:
        child.start()
        self._selector.register(child.output, selectors.EVENT_READ, child)

    def _patience(self, timeout: float) -> float:
        due = [c.restart_at for c in self._children.values() if c.restart_at is not None]
        return max(0.0, min([timeout, *(at - time.monotonic() for at in due)]))

    def _read(self, child: Child) -> None:
        for line in child.read():
            self._on_line(child.role.name, line)

    def _reap(self) -> None:
        """Take leave of every child that ended, adopted ones too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = next((c for c in self._children.values() if c.pid == pid), None)
            if child is not None:
                self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        restart = child.role.restart and not self.stopping
        self._selector.unregister(child.output)
        self._read(child)
        child.ended(status, restart=restart)
        if restart:
            self._on_news(child.role.name, f"ended with {os.waitstatus_to_exitcode(status)}, restarting")

    def _restart_due(self) -> None:
        for child in self._children.values():
            if child.restart_at is None or time.monotonic() < child.restart_at:
                continue
            try:
                self._launch(child)
            except (OSError, subprocess.SubprocessError) as error:  # no memory for a fork, say: the others go on
                child.postpone()
                self._on_news(child.role.name, f"cannot be started now ({error}), trying again")

    def _end(self, children: Iterable[Child], patience: float) -> None:
        here = list(children)
        ends = time.monotonic() + patience
        for child in here:
            child.signal(signal.SIGTERM)
        while any(c.process is not None for c in here) and time.monotonic() < ends and not self._hurried:
            self.step()
        for child in here:
            if child.process is not None:
                self._on_news(child.role.name, "did not stop in time, killed")
                child.signal(signal.SIGKILL)
        while any(c.process is not None for c in here):
            self.step()

    def _kill_orphans(self) -> None:
        """Kill what is still below this process: children of children whose parents are gone."""
        while orphans := children_of(os.getpid()):
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def children_of(pid: int) -> list[int]:
    """The processes that have this one as their parent (zombies are not counted)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:  # it ended while we looked
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found.append(int(folder.name))
    return found
