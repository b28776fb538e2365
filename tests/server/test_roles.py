"""What a process of a role sets for itself."""

import subprocess
import sys

CODE = """
import resource
from server.roles import allow_many_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_many_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limits_after(soft, hard):
    code = CODE.format(soft=soft, hard=hard)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(int, run.stdout.split()))


def test_the_api_may_open_as_many_files_as_it_is_allowed():
    assert limits_after(256, 4096) == (4096, 4096)


def test_a_limit_that_is_high_enough_stays():
    assert limits_after(4096, 4096) == (4096, 4096)
