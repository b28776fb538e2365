"""Memory usage of a process, and the machine info of a job's error."""

from worker.process.forked import ForkedProcess
from worker.process.usage import Usage, machine_info, own_usage


def test_usage_of_a_running_process():
    usage = own_usage()

    assert 10**6 < usage.resident_bytes <= usage.peak_bytes
    assert usage.data_bytes > 10**6


def test_a_process_that_has_ended_has_no_usage():
    process = ForkedProcess(lambda: 0)
    process.wait(10)

    assert Usage.read(process.pid) is None
    assert process.peak_bytes > 10**6


def test_machine_info_contains_free_memory_and_disk(tmp_path):
    info = machine_info(tmp_path, Usage(resident_bytes=1, peak_bytes=2, data_bytes=3), limit=0)

    assert (info["memory_bytes"], info["memory_peak_bytes"], info["memory_limit_bytes"]) == (1, 2, None)
    assert info["memory_free_bytes"] > 10**6
    assert info["disk_free_bytes"] > 0
    assert machine_info(tmp_path / "missing", None, limit=9)["disk_free_bytes"] is None
