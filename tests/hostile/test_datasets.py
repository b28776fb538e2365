"""Every corpus file goes through the real ingestion, with the sandbox and limits of the service."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from core.data.stored import StoredDataset
from core.ingest.sandboxed_main import IngestRequest, Limits
from tests.hostile import images, tables, tars, zips  # noqa: F401 - registers the cases
from tests.hostile.corpus import CASES, LIMITS, tree
from tests.hostile.forked_ingest import ForkedIngest

PEAK_BYTES = 400_000_000  # resident memory limit of one case


@pytest.fixture(scope="module")
def forked_ingest():
    process = ForkedIngest()
    yield process
    process.close()


@pytest.fixture(scope="module")
def outcomes():
    """Count the results of all cases; print them with the highest memory and time."""
    counted, worst = Counter(), {"bytes": 0, "seconds": 0.0}
    yield counted, worst
    lines = [f"{count:4}  {outcome}" for outcome, count in sorted(counted.items())]
    lines.append(f"at most {worst['bytes'] / 1e6:.0f} MB and {worst['seconds']:.1f} s per case")
    sys.stdout.write("\n".join(["", f"hostile files: {sum(counted.values())}", *lines, ""]))


@pytest.fixture
def ingest_case(tmp_path, forked_ingest):
    """Ingest a case in a nested folder, so that files written outside are detected."""
    scratch = tmp_path / "a" / "b" / "scratch"
    scratch.mkdir(parents=True)

    def run(case):
        upload = tmp_path / "upload"
        upload.write_bytes(case.build())
        request = IngestRequest(
            file=upload, out_folder=scratch / "stored", name=case.name, limits=Limits(**{**LIMITS, **case.limits})
        )
        return forked_ingest.run(request, tmp_path / "report"), scratch

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
