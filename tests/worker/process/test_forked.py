"""Forked processes."""

import os
import signal
import threading
import time
from pathlib import Path

from worker.process.forked import EXIT_CRASHED, ForkedProcess, limit_memory
from worker.process.shared_flags import SharedByte


def test_its_status_is_the_return_value():
    assert ForkedProcess(lambda: 7).wait(10) == 7


def test_an_exception_has_its_own_status():
    assert ForkedProcess(lambda: 1 // 0).wait(10) == EXIT_CRASHED


def test_a_signal_is_a_negative_status():
    process = ForkedProcess(lambda: time.sleep(60) or 0)
    assert process.wait(0.05) is None
    process.kill()

    assert process.status == -signal.SIGKILL


def test_it_ignores_sigterm_and_sigint():
    survived = SharedByte()

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        survived.set(1)
        return 0

    assert ForkedProcess(work).wait(10) == 0
    assert survived.get() == 1


def test_the_memory_limit_applies_only_to_it():
    def work():
        limit_memory(1 << 30)
        try:
            bytearray(4 << 30)
        except MemoryError:
            return 3
        return 0

    assert ForkedProcess(work).wait(10) == 3


def test_it_starts_with_one_thread():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()

    assert ForkedProcess(lambda: len(list(Path("/proc/self/task").iterdir()))).wait(10) == 1
    stop.set()
    thread.join()
