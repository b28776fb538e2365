"""A process of its own for one piece of work."""

import os
import signal
import threading
import time
from pathlib import Path

from worker.process.forked import EXIT_CRASHED, ForkedProcess, limit_memory
from worker.process.shared_flags import SharedByte


def test_it_returns_what_the_work_returns():
    assert ForkedProcess(lambda: 7).wait(10) == 7


def test_an_exception_ends_it_with_a_status_of_its_own():
    assert ForkedProcess(lambda: 1 // 0).wait(10) == EXIT_CRASHED


def test_a_signal_is_told_apart_from_a_status():
    process = ForkedProcess(lambda: time.sleep(60) or 0)
    assert process.wait(0.05) is None
    process.kill()

    assert process.status == -signal.SIGKILL


def test_it_ignores_the_signal_that_ends_its_group():
    reached = SharedByte()

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        reached.set(1)
        return 0

    assert ForkedProcess(work).wait(10) == 0
    assert reached.get() == 1


def test_memory_beyond_the_limit_is_refused_to_it_alone():
    def work():
        limit_memory(1 << 30)
        try:
            bytearray(4 << 30)
        except MemoryError:
            return 3
        return 0

    assert ForkedProcess(work).wait(10) == 3


def test_it_has_one_thread_whatever_its_parent_has():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()

    assert ForkedProcess(lambda: len(list(Path("/proc/self/task").iterdir()))).wait(10) == 1
    stop.set()
    thread.join()
