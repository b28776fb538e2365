"""A process that dies with its parent."""

import os
import subprocess
import sys
from pathlib import Path

from core.system.parent_death import EXIT_CRASHED


def command(*arguments):
    return [sys.executable, "-P", "-m", "core.system.parent_death", *map(str, arguments)]


def test_the_module_runs_with_its_arguments(tmp_path, monkeypatch):
    (tmp_path / "printing.py").write_text("import sys; print(__name__, sys.argv[1:])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    run = subprocess.run(command(os.getpid(), "printing", "a", "b"), capture_output=True, text=True)

    assert run.stdout == "__main__ ['a', 'b']\n"


def test_a_process_without_its_parent_exits_at_once():
    assert subprocess.run(command(1, "this"), capture_output=True).returncode == EXIT_CRASHED


def test_it_dies_with_its_parent(tmp_path, monkeypatch):
    (tmp_path / "sleeping.py").write_text("import time; print('asleep', flush=True); time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-P', '-m', 'core.system.parent_death', str(os.getpid()), 'sleeping']\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.wait()
    parent.stdout.close()

    ends = os.times().elapsed + 5
    while _alive(child) and os.times().elapsed < ends:
        pass
    assert not _alive(child)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
