"""Distribution of tests over the processes of pytest-xdist: by file, long files first."""

from xdist.scheduler import LoadFileScheduling

# Folders whose tests share a running service. One process runs them, so that the service starts once.
SHARED_SERVICES = ("tests/e2e", "tests/chaos")
# The files and folders that take longest, longest first. They start first, so that all processes end together.
LONGEST = (
    "tests/e2e",
    "tests/chaos",
    "tests/core/test_pipeline.py",
    "tests/core/test_rank_main.py",
    "tests/api/test_fuzz.py",
    "tests/core/methods/test_registry.py",
    "tests/worker/test_app.py",
    "tests/hostile/test_datasets.py",
    "tests/worker/jobs/test_child.py",
    "tests/core/export/test_onnx_file.py",
    "tests/api/dashboard/test_browser.py",
    "tests/api/dashboard/test_jobs_in_browser.py",
    "tests/deploy/test_processes.py",
    "tests/core/test_agglomeration.py",
    "tests/worker/ingest/test_parent.py",
    "tests/benchmarks/test_against_peers.py",
)


def work_unit(nodeid):
    """Name of the tests that one process runs together: a file, or a folder with a shared service."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in SHARED_SERVICES if file.startswith(f"{folder}/")), file)


def position(nodeid):
    """Sort key of a test: the rank of its work unit in `LONGEST`, and the same for all other tests."""
    unit = work_unit(nodeid)
    return LONGEST.index(unit) if unit in LONGEST else len(LONGEST)


class WorkUnitScheduling(LoadFileScheduling):
    """Give each process one work unit after another, in the order of the collection."""

    def _split_scope(self, nodeid):
        return work_unit(nodeid)
