"""Process limits of a role."""

import subprocess
import sys

CODE = """
import resource
from server.roles import raise_open_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_open_file_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limits_after(soft, hard):
    code = CODE.format(soft=soft, hard=hard)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(int, run.stdout.split()))


def test_the_open_file_limit_is_raised_to_the_hard_limit():
    assert limits_after(256, 4096) == (4096, 4096)


def test_a_sufficient_limit_is_unchanged():
    assert limits_after(4096, 4096) == (4096, 4096)
