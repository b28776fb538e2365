"""The embedded stack without jobs; tests with jobs are in ``tests/e2e``."""

import os
import subprocess
import sys
import time

from tests.support.ports import free_port


def test_files_are_private_even_in_a_readable_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    port = free_port()
    command = [sys.executable, "-P", "-m", "server", "up", "--home", str(home), "--port", str(port)]
    old = os.umask(0o022)
    try:
        stack = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        os.umask(old)
    try:
        deadline = time.monotonic() + 120
        while not (home / "api-key").exists() and time.monotonic() < deadline:
            assert stack.poll() is None
            time.sleep(0.1)
        open_to_others = [path for path in home.rglob("*") if path.exists() and path.stat().st_mode & 0o077]
    finally:
        stack.terminate()
        stack.wait(60)

    assert (home / "potstill.db").exists()
    assert open_to_others == []
