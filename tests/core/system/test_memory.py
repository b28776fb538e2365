"""Memory of the machine or of the control group."""

import pytest

from core.system.memory import total_memory

GIBIBYTE = 1024**3


@pytest.fixture
def system(tmp_path):
    """Make folders like /proc and /sys/fs/cgroup with these files."""

    def make(cgroup, **limits):
        for name, text in {
            "proc/meminfo": "MemTotal:       16777216 kB\n",
            "proc/self/cgroup": cgroup,
            **limits,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return total_memory(tmp_path / "proc", tmp_path / "groups")

    return make


@pytest.mark.parametrize(
    ("cgroup", "limits", "gibibytes"),
    [
        ("0::/a/b\n", {}, 16),
        ("0::/a/b\n", {"groups/a/b/memory.max": "max\n"}, 16),
        ("0::/a/b\n", {"groups/a/b/memory.max": f"{4 * GIBIBYTE}\n"}, 4),
        ("0::/a/b\n", {"groups/a/b/memory.max": "max\n", "groups/a/memory.max": f"{2 * GIBIBYTE}\n"}, 2),
        ("0::/on/the/host\n", {"groups/memory.max": f"{3 * GIBIBYTE}\n"}, 3),
        ("5:cpu,memory:/x\n0::/\n", {"groups/memory/x/memory.limit_in_bytes": f"{GIBIBYTE}\n"}, 1),
        ("5:memory:/x\n", {"groups/memory/x/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 16),
        ("5:cpu:/x\n", {"groups/memory/x/memory.limit_in_bytes": f"{GIBIBYTE}\n"}, 16),
    ],
)
def test_the_smallest_limit_counts(system, cgroup, limits, gibibytes):
    assert system(cgroup, **limits) == gibibytes * GIBIBYTE


def test_an_unknown_system_has_no_total(tmp_path):
    assert total_memory(tmp_path, tmp_path) is None
