"""Every corpus file goes through the real ingestion, with the sandbox and limits of the service."""

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from core.data.stored import StoredDataset
from core.ingest import parquet  # noqa: F401 - imported lazily by the product; once here for all cases
from core.ingest.sandboxed_main import IngestRequest, Limits, ingest
from core.system.sandbox import enter_sandbox
from tests.hostile import images, tables, tars, zips  # noqa: F401 - registers the cases
from tests.hostile.corpus import CASES, LIMITS, tree
from worker.process.forked import ForkedProcess, limit_memory

MEMORY_BYTES = 700_000_000  # memory limit of one case, beyond this process
PEAK_BYTES = 400_000_000  # resident memory limit of one case
SECONDS = 20.0  # most cases take less than 0.1 s; allows for a loaded machine
Image.init()  # loads the modules of all formats once, not in the process of each case


def peak_bytes():
    """Peak resident memory of this process since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def data_bytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


def in_a_limited_process(request, report):
    """Ingest like the ingest worker's process, without its start-up time."""

    def work():
        limit_memory(data_bytes() + MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request.limits.max_unpacked_bytes,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with report.open("w") as out:
            before = reset_peak_bytes()
            enter_sandbox(readable=[request.file], writable=[request.out_folder.parent])
            started = time.monotonic()
            document = ingest(request)
            json.dump({**document, "peak": peak_bytes() - before, "seconds": time.monotonic() - started}, out)
        return 0

    process = ForkedProcess(work)
    status = process.wait(SECONDS)
    process.kill()
    assert status == 0, "it timed out" if status is None else f"the process ended with {status}"
    return json.loads(report.read_text())


def reset_peak_bytes():
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


@pytest.fixture(scope="module")
def outcomes():
    """Count the results of all cases; print them with the highest memory and time."""
    counted, worst = Counter(), {"bytes": 0, "seconds": 0.0}
    yield counted, worst
    lines = [f"{count:4}  {outcome}" for outcome, count in sorted(counted.items())]
    lines.append(f"at most {worst['bytes'] / 1e6:.0f} MB and {worst['seconds']:.1f} s per case")
    sys.stdout.write("\n".join(["", f"hostile files: {sum(counted.values())}", *lines, ""]))


@pytest.fixture
def ingest_case(tmp_path):
    """Ingest a case in a nested folder, so that files written outside are detected."""
    scratch = tmp_path / "a" / "b" / "scratch"
    scratch.mkdir(parents=True)

    def run(case):
        upload = tmp_path / "upload"
        upload.write_bytes(case.build())
        request = IngestRequest(
            file=upload, out_folder=scratch / "stored", name=case.name, limits=Limits(**{**LIMITS, **case.limits})
        )
        return in_a_limited_process(request, tmp_path / "report"), scratch

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_has_the_expected_result(name, ingest_case, outcomes, tmp_path):
    case = CASES[name]
    document, scratch = ingest_case(case)
    error = document.get("error")

    assert (error or {}).get("code") == case.code, document
    if error is None:
        rejected = document["ok"]["rejected"]
        assert {each["path"]: each["code"] for each in rejected} == dict(case.rejected)
        if case.check:
            with StoredDataset.open(scratch / "stored") as stored:
                case.check(stored)
    else:
        assert len(error["detail"]) > 30, "a detail names the fix"
    assert document["peak"] < PEAK_BYTES
    assert remaining_files(tmp_path, scratch) == ([] if error else ["stored"])
    count_result(document, case, *outcomes)


def count_result(document, case, counted, worst):
    worst["bytes"] = max(worst["bytes"], document["peak"])
    worst["seconds"] = max(worst["seconds"], document["seconds"])
    result = f"rejected: {', '.join(case.rejected.values())}" if case.rejected else "accepted"
    counted[f"failed: {case.code}" if case.code else result] += 1


def remaining_files(tmp_path, scratch):
    """Files in the scratch folder; asserts that none are outside."""
    outside = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if scratch not in path.parents}
    assert outside == {"upload", "report", "a", "a/b", "a/b/scratch"}
    assert not any(Path(folder, "outside.png").exists() for folder in (Path.cwd(), "/", "/tmp"))
    assert not Path("/tmp/potstill-hostile-outside.png").exists()
    return sorted(path.name for path in scratch.iterdir())


def test_the_corpus_is_large():
    assert len(CASES) >= 60


def test_valid_archives_are_accepted(ingest_case):
    """Guards against a service that rejects everything."""
    from tests.hostile.corpus import Case, tarred, zipped

    for build in (lambda: zipped(tree()), lambda: tarred(tree(), "w:xz")):
        document, scratch = ingest_case(Case("valid", build, None))
        assert document["ok"]["rejected"] == []
        assert document["ok"]["splits"] == {"train": {"num_samples": 4}, "test": {"num_samples": 4}}
        for path in (scratch / "stored").iterdir():
            path.unlink()
        (scratch / "stored").rmdir()
