"""Rotated log files."""

import errno
from pathlib import Path

from server import processes
from server.processes import RotatedLog


def test_a_full_log_is_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = RotatedLog(tmp_path / "a.log")
    for number in range(8):
        log.write(f"line {number}\n".encode())
    log.close()

    assert (tmp_path / "a.log").read_text() == "line 7\n"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert (tmp_path / "a.log.1").read_text() == "line 6\n"


def test_lines_lost_to_a_full_disk_are_reported_in_the_log(tmp_path):
    path = tmp_path / "a.log"
    path.symlink_to("/dev/full")
    log = RotatedLog(path)
    log.write(b"lost\n")
    log.close()
    path.unlink()
    log._file = path.open("ab", buffering=0)  # as if space had been freed
    log.write(b"saved\n")
    log.close()

    assert path.read_text() == "(5 bytes were lost: the disk could not be written)\nsaved\n"


def test_a_failed_rotation_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = RotatedLog(tmp_path / "a.log")
    log.write(b"line 0\n")
    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
        log.write(b"line 1\n")
    log.write(b"line 2\n")
    log.close()

    assert (tmp_path / "a.log.1").read_text() == "line 0\n"
    assert (tmp_path / "a.log").read_text() == "(7 bytes were lost: the disk could not be written)\nline 2\n"
