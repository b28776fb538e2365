"""Start, restart and stop the processes of a stack.

One thread, one loop: signals, exited children, their output and scheduled restarts wake the same selector.
Every child dies with this process (see ``core.system.parent_death``).
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

STOP_SECONDS = 24.0  # from SIGTERM to SIGKILL; a worker saves a checkpoint meanwhile
LAST_STOP_SECONDS = 3.0  # for the processes that stop last (the broker)
_TICK_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Listener = Callable[[str, bytes], None]


class Supervisor:
    """Starts roles, restarts exited processes, stops all within ``STOP_SECONDS + LAST_STOP_SECONDS``.

    ``on_line(role, line)`` receives each output line, ``on_event(role, text)`` each restart and forced stop.
    """

    def __init__(self, logs: Path, *, on_line: Listener, on_event: Callable[[str, str], None]) -> None:
        self._logs = logs
        self._on_line = on_line
        self._on_event = on_event
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_sender, self._wake_receiver = socket.socketpair()
        self.stopping = False
        self._skip_grace_period = False

    def __enter__(self) -> Self:
        adopt_orphans()
        for end in (self._wake_sender, self._wake_receiver):
            end.setblocking(False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the selector
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_orphans()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_sender.close()
        self._wake_receiver.close()
        for child in self._children.values():
            child.log.close()

    def start(self, role: Role) -> None:
        """Start a role and restart it whenever it exits."""
        child = Child(role, RotatedLog(self._logs / f"{role.name}.log"))
        self._children[role.name] = child
        self._launch(child)

    def is_running(self, name: str) -> bool:
        """Whether the role's process is running."""
        return self._children[name].process is not None

    def run_once(self, role: Role, *, timeout: float) -> int | None:
        """Run a role once and return its exit status, or None if a stop signal came first."""
        child = Child(role, RotatedLog(self._logs / f"{role.name}.log"))
        self._children[role.name] = child
        self._launch(child)
        process, deadline = child.process, time.monotonic() + timeout
        while child.process is not None and not self.stopping:
            if time.monotonic() > deadline:
                child.signal(signal.SIGKILL)
            self.step()
        if process is None or child.process is not None:
            return None
        del self._children[role.name]
        child.log.close()
        return process.returncode

    def step(self, timeout: float = _TICK_SECONDS) -> None:
        """Wait up to ``timeout`` seconds for the next event and handle it."""
        for key, _ in self._selector.select(self._select_timeout(timeout)):
            if key.fileobj is self._wake_receiver:
                with contextlib.suppress(BlockingIOError):
                    self._wake_receiver.recv(4096)
            else:
                self._read(key.data)
        self._reap()
        self._restart_due()

    def run(self) -> None:
        """Run until a stop signal."""
        while not self.stopping:
            self.step()

    def stop(self, *, last: Sequence[str] = ()) -> None:
        """Stop all processes, the ``last`` ones after the others: SIGTERM, then SIGKILL."""
        self.stopping = True
        for child in self._children.values():
            child.restart_at = None
        self._stop_children([c for name, c in self._children.items() if name not in last], STOP_SECONDS)
        self._stop_children([self._children[name] for name in last if name in self._children], LAST_STOP_SECONDS)

    # --- private --------------------------------------------------------------------------------

    def _on_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._skip_grace_period = self.stopping  # a second signal skips the grace period
        self.stopping = True

    def _launch(self, child: Child) -> None:
        child.start()
        self._selector.register(child.output, selectors.EVENT_READ, child)

    def _select_timeout(self, timeout: float) -> float:
        due = [c.restart_at for c in self._children.values() if c.restart_at is not None]
        return max(0.0, min([timeout, *(at - time.monotonic() for at in due)]))

    def _read(self, child: Child) -> None:
        for line in child.read():
            self._on_line(child.role.name, line)

    def _reap(self) -> None:
        """Reap every exited child, including adopted ones."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = next((c for c in self._children.values() if c.pid == pid), None)
            if child is not None:
                self._on_exit(child, status)

    def _on_exit(self, child: Child, status: int) -> None:
        restart = child.role.restart and not self.stopping
        self._selector.unregister(child.output)
        self._read(child)
        child.record_exit(status, restart=restart)
        if restart:
            self._on_event(child.role.name, f"ended with {os.waitstatus_to_exitcode(status)}, restarting")

    def _restart_due(self) -> None:
        for child in self._children.values():
            if child.restart_at is None or time.monotonic() < child.restart_at:
                continue
            try:
                self._launch(child)
            except (OSError, subprocess.SubprocessError) as error:  # e.g. no memory for a fork
                child.schedule_restart()
                self._on_event(child.role.name, f"cannot be started now ({error}), trying again")

    def _stop_children(self, children: Iterable[Child], grace_seconds: float) -> None:
        targets = list(children)
        deadline = time.monotonic() + grace_seconds
        for child in targets:
            child.signal(signal.SIGTERM)
        while (
            any(c.process is not None for c in targets) and time.monotonic() < deadline and not self._skip_grace_period
        ):
            self.step()
        for child in targets:
            if child.process is not None:
                self._on_event(child.role.name, "did not stop in time, killed")
                child.signal(signal.SIGKILL)
        while any(c.process is not None for c in targets):
            self.step()

    def _kill_orphans(self) -> None:
        """Kill adopted descendants whose parents have exited."""
        while orphans := children_of(os.getpid()):
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children, without zombies."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:  # the process has exited meanwhile
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            children.append(int(folder.name))
    return children
