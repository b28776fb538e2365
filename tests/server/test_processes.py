"""Log files."""

from server import processes
from server.processes import RotatedLog


def test_a_full_log_is_set_aside_and_only_so_many_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = RotatedLog(tmp_path / "a.log")
    for number in range(8):
        log.write(f"line {number}\n".encode())
    log.close()

    assert (tmp_path / "a.log").read_text() == "line 7\n"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert (tmp_path / "a.log.1").read_text() == "line 6\n"
