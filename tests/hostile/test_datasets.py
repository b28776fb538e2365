"""Every file of the corpus goes through the real ingestion, confined and limited as the service has it."""

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from core.data.stored import StoredDataset
from core.ingest import parquet  # noqa: F401 - imported late by the code, once here for all cases
from core.ingest.sandboxed_main import Archive, Limits, answer
from core.system.sandbox import confine
from tests.hostile import pictures, tables, tars, zips  # noqa: F401 - they fill the corpus
from tests.hostile.corpus import CASES, LIMITS, tree
from worker.process.forked import ForkedProcess, limit_memory

MEMORY_BYTES = 700_000_000  # what one case may take beyond what this process has
PEAK_BYTES = 400_000_000  # what it may touch of that
SECONDS = 20.0  # most take some hundredths; a loaded machine is no fault


def peak_bytes():
    """The most memory that this process had since the mark was wiped."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def data_bytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


def in_a_limited_process(archive, report):
    """What the ingest worker's own process does, without the time to start it."""

    def work():
        limit_memory(data_bytes() + MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (archive.limits.max_unpacked_bytes,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with report.open("w") as out:
            before = peak_bytes_from_now()
            confine(readable=[archive.file], writable=[archive.out_folder.parent])
            started = time.monotonic()
            document = answer(archive)
            json.dump({**document, "peak": peak_bytes() - before, "seconds": time.monotonic() - started}, out)
        return 0

    process = ForkedProcess(work)
    status = process.wait(SECONDS)
    process.kill()
    assert status == 0, "it took too long" if status is None else f"the process ended with {status}"
    return json.loads(report.read_text())


def peak_bytes_from_now():
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


@pytest.fixture(scope="module")
def outcomes():
    """Counts the ends of all cases, and says them with what the worst of them took."""
    counted, worst = Counter(), {"bytes": 0, "seconds": 0.0}
    yield counted, worst
    lines = [f"{count:4}  {outcome}" for outcome, count in sorted(counted.items())]
    lines.append(f"at most {worst['bytes'] / 1e6:.0f} MB and {worst['seconds']:.1f} s for one")
    sys.stdout.write("\n".join(["", f"hostile files: {sum(counted.values())}", *lines, ""]))


@pytest.fixture
def taken_in(tmp_path):
    """Takes a case in from a folder some levels down, so that what climbs out is seen."""
    scratch = tmp_path / "a" / "b" / "scratch"
    scratch.mkdir(parents=True)

    def take_in(case):
        upload = tmp_path / "upload"
        upload.write_bytes(case.build())
        archive = Archive(
            file=upload, out_folder=scratch / "stored", name=case.name, limits=Limits(**{**LIMITS, **case.limits})
        )
        return in_a_limited_process(archive, tmp_path / "report"), scratch

    return take_in


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_ends_as_it_should(name, taken_in, outcomes, tmp_path):
    case = CASES[name]
    document, scratch = taken_in(case)
    error = document.get("error")

    assert (error or {}).get("code") == case.code, document
    if error is None:
        rejected = document["ok"]["rejected"]
        assert {each["path"]: each["code"] for each in rejected} == dict(case.rejected)
        if case.check:
            with StoredDataset.open(scratch / "stored") as stored:
                case.check(stored)
    else:
        assert len(error["detail"]) > 30, "a detail says what to do"
    assert document["peak"] < PEAK_BYTES
    assert left_behind(tmp_path, scratch) == ([] if error else ["stored"])
    count(document, case, *outcomes)


def count(document, case, counted, worst):
    worst["bytes"] = max(worst["bytes"], document["peak"])
    worst["seconds"] = max(worst["seconds"], document["seconds"])
    good = f"left out: {', '.join(case.rejected.values())}" if case.rejected else "taken"
    counted[f"failed: {case.code}" if case.code else good] += 1


def left_behind(tmp_path, scratch):
    """What lies in the scratch folder; that nothing lies outside is asserted."""
    outside = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if scratch not in path.parents}
    assert outside == {"upload", "report", "a", "a/b", "a/b/scratch"}
    assert not any(Path(folder, "outside.png").exists() for folder in (Path.cwd(), "/", "/tmp"))
    assert not Path("/tmp/potstill-hostile-outside.png").exists()
    return sorted(path.name for path in scratch.iterdir())


def test_the_corpus_is_large():
    assert len(CASES) >= 60


def test_what_is_good_is_not_refused(taken_in):
    """Else a service that refuses everything would pass."""
    from tests.hostile.corpus import Case, tarred, zipped

    for build in (lambda: zipped(tree()), lambda: tarred(tree(), "w:xz")):
        document, scratch = taken_in(Case("good", build, None))
        assert document["ok"]["rejected"] == []
        assert document["ok"]["splits"] == {"train": {"num_samples": 4}, "test": {"num_samples": 4}}
        for path in (scratch / "stored").iterdir():
            path.unlink()
        (scratch / "stored").rmdir()
