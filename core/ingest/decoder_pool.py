"""Decoder processes that check image files in parallel, with results in the order of the files.

The caller reads files and sends their bytes; each process is confined to its pipes (:mod:`decoder_process`). The bytes
in memory are bounded: unfinished tasks have at most ``MAX_PENDING_BYTES``, or are a single larger file.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import NoReturn, Self

from core.data.images import PixelBuffer
from core.errors import OutOfMemory, ProcessLost
from core.ingest.decoder_process import parse_results, run_decoder, write_task
from core.ingest.image_check import CheckResult, check_image
from core.ingest.paths import printable_name
from core.ingest.source_files import SourceFile
from core.ingest_errors import IngestCrashed, IngestTimeout
from core.system.parent_death import EXIT_OUT_OF_MEMORY

MAX_PENDING_BYTES = 64 * 1024**2
_TASK_BYTES = 128 * 1024  # the file that reaches it is the last one of a task
_TASK_FILES = 64  # their results fit into a pipe, so that no decoder waits for the caller
_QUEUED_TASKS = 2  # per decoder: the current one and the next
_PIPE_BYTES = 1024**2  # the largest size that Linux grants without a privilege
_DEFAULT_PIPE_BYTES = 64 * 1024

Checked = tuple[SourceFile, CheckResult | None]  # None: the file was rejected before it was decoded


def check_files(files: Iterable[SourceFile], max_pixels: int) -> Iterator[Checked]:
    """Check files in this process."""
    buffer = PixelBuffer()
    for file in files:
        yield file, check_image(file.content, max_pixels, buffer) if file.reason is None else None


class DecoderPool:
    """Processes that check image files. Use as a context manager; enter a sandbox only after its start.

    Start it in the main thread: the kernel ends the processes with the *thread* that started them.
    """

    def __init__(self, num_processes: int, *, max_pixels: int) -> None:
        self._decoders: list[_Decoder] = []
        self._pending: deque[_Task] = deque()
        self._pending_bytes = 0
        self.peak_pending_bytes = 0
        self._poll = select.poll()
        for _ in range(num_processes):
            decoder = _Decoder(max_pixels, [fd for other in self._decoders for fd in other.descriptors()])
            self._decoders.append(decoder)
            self._poll.register(decoder.results_fd, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for decoder in self._decoders:
            decoder.close()
        self._decoders = []

    def check(self, files: Iterable[SourceFile]) -> Iterator[Checked]:
        """Check files; yield each with its result, in their order.

        An error of the iterable is raised after the results of the files before it.

        Raises:
            IngestCrashed: A file crashed its decoder.
            IngestTimeout: A decoder exceeded its limit on processor time.
            OutOfMemory: A file is larger than the memory of its decoder.
            ProcessLost: A decoder was killed, which is no fault of a file.
        """
        iterator = iter(files)
        failure: Exception | None = None
        is_complete = False
        while not is_complete:
            task = _Task()
            while not (is_complete or task.is_full):
                try:
                    file = next(iterator, None)
                except Exception as error:  # noqa: BLE001 - raised below
                    file, failure = None, error
                if file is None:
                    is_complete = True
                else:
                    task.add(file)
            yield from self._wait_for_space(task)
            self._submit(task)
            yield from self._take_finished()
        while self._pending:
            self._wait_for_results()
            yield from self._take_finished()
        if failure is not None:
            raise failure

    def _wait_for_space(self, task: _Task) -> Iterator[Checked]:
        while self._pending and self._pending_bytes + task.num_bytes > MAX_PENDING_BYTES:
            self._wait_for_results()
            yield from self._take_finished()

    def _submit(self, task: _Task) -> None:
        self._pending.append(task)
        self._pending_bytes += task.num_bytes
        self.peak_pending_bytes = max(self.peak_pending_bytes, self._pending_bytes)
        if not task.accepted:
            task.results = []
            return
        while True:
            decoder = min(self._decoders, key=lambda each: each.load)
            if decoder.accepts(task):
                decoder.send(task)
                return
            self._wait_for_results()

    def _wait_for_results(self) -> None:
        """Receive the results of one decoder or more. At least one of them has an unfinished task."""
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        for decoder in self._decoders:
            if decoder.results_fd in ready:
                decoder.receive()

    def _take_finished(self) -> Iterator[Checked]:
        while self._pending and self._pending[0].results is not None:
            task = self._pending.popleft()
            self._pending_bytes -= task.num_bytes
            yield from task.checked()


@dataclass(slots=True, eq=False)
class _Task:
    """Consecutive files. ``results`` are those of the accepted files, None until they are known."""

    files: list[SourceFile] = field(default_factory=list)
    accepted: list[SourceFile] = field(default_factory=list)
    num_bytes: int = 0
    results: list[CheckResult] | None = None

    @property
    def is_full(self) -> bool:
        return self.num_bytes >= _TASK_BYTES or len(self.files) >= _TASK_FILES

    def add(self, file: SourceFile) -> None:
        self.files.append(file)
        if file.reason is None:
            self.accepted.append(file)
            self.num_bytes += len(file.content)

    def checked(self) -> Iterator[Checked]:
        results = iter(self.results or ())
        for file in self.files:
            yield file, next(results) if file.reason is None else None


class _Decoder:
    """One decoder process and the tasks that it has not finished."""

    def __init__(self, max_pixels: int, other_descriptors: list[int]) -> None:
        position = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")  # shared with the process
        tasks_fd, task_fd = os.pipe()
        self.results_fd, result_fd = os.pipe()
        self._capacity = _enlarge_pipe(task_fd)
        self._position = position
        self._tasks: deque[_Task] = deque()
        self._received = b""
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            close = [task_fd, self.results_fd, *other_descriptors]
            run_decoder(tasks_fd, result_fd, position, parent=parent, max_pixels=max_pixels, close=close)
        os.close(tasks_fd)
        os.close(result_fd)
        self._pipe = os.fdopen(task_fd, "wb")

    def descriptors(self) -> list[int]:
        """The descriptors that processes started later must close."""
        return [self._pipe.fileno(), self.results_fd]

    @property
    def load(self) -> tuple[int, int]:
        """Number and bytes of the unfinished tasks."""
        return len(self._tasks), sum(task.num_bytes for task in self._tasks)

    def accepts(self, task: _Task) -> bool:
        """Whether the process reads this task now, or the pipe holds it, so that sending it does not block."""
        num_tasks, num_bytes = self.load
        return num_tasks == 0 or (num_tasks < _QUEUED_TASKS and num_bytes + task.num_bytes <= self._capacity)

    def send(self, task: _Task) -> None:
        """Send a task to the process."""
        self._tasks.append(task)
        try:
            write_task(self._pipe, [file.content for file in task.accepted])
        except BrokenPipeError:
            self._raise_exit()

    def receive(self) -> None:
        """Receive results; raise if the process has ended."""
        if not self._read_results():
            self._raise_exit()

    def _read_results(self) -> bool:
        """Read results; return False at the end of the pipe, when the process has ended."""
        data = os.read(self.results_fd, _DEFAULT_PIPE_BYTES)
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            task = self._tasks.popleft()
            task.results = parse_results(line, len(task.accepted))
        return bool(data)

    def close(self) -> None:
        """End the process. A sandboxed caller may not kill one that works, which ends with the caller."""
        with suppress(BrokenPipeError):
            self._pipe.close()
        os.close(self.results_fd)
        if self._pid == 0:
            return
        if self._tasks:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except PermissionError:
                return
        os.waitpid(self._pid, 0)

    def _raise_exit(self) -> NoReturn:
        """Raise the error for the exit of the process, with the file that it was reading."""
        while self._read_results():
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = 0
        files = self._tasks[0].accepted if self._tasks else []
        path = printable_name(files[min(self._position[0], len(files) - 1)].path) if files else "the first file"
        if status == -signal.SIGKILL:
            raise ProcessLost(f"The process that decoded {path} was killed; the machine may be short of memory.")
        if status == -signal.SIGXCPU:
            raise IngestTimeout(f"Decoding took too long, the last file was {path}; send fewer or smaller files.")
        if status == EXIT_OUT_OF_MEMORY:
            raise out_of_memory(path)
        reason = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        raise IngestCrashed(f"The process that decoded {path} ended {reason}; remove this file and upload the rest.")


def out_of_memory(path: str) -> OutOfMemory:
    """Return the error for an image that does not fit into memory."""
    return OutOfMemory(f"There was not enough memory to decode {path}; make the image smaller or leave it out.")


def _enlarge_pipe(descriptor: int) -> int:
    """Enlarge a pipe where the system allows it; return its size in bytes."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):  # not Linux
        return _DEFAULT_PIPE_BYTES
    with suppress(OSError):  # the user's pipes have reached their limit
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return int(fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ))
