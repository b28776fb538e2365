"""What jobs read out of a bucket is fetched once and kept on their machine: whole, checked, and while it is used."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.data.stored import StoredDataset
from core.errors import StorageFailed, StoredFileDamaged
from core.reporting import Control, Interrupted
from core.spec import parse_job_spec
from core.store import ingest_leases, jobs, models
from core.store.s3 import S3ArtifactStore
from core.system.disk_cache import DiskCache
from core.system.fault_injection import VARIABLE, Fault, arm
from tests.core.store.test_quotas import FACTS
from worker.context import Context
from worker.input_cache import InputCache
from worker.jobs.inputs import Inputs
from worker.jobs.reporter import JobReporter
from worker.scheduler import housekeeping
from worker.stored_files import publish_folder

PREFIX = "potstill"
SIZE = 3_000  # of a set of files
VIT = {"architecture": "vit_tiny_patch16_224", "arguments": {"patch_size": 4}}


class Counting(S3ArtifactStore):
    """A bucket that knows what was asked of it."""

    def __init__(self, bucket):
        super().__init__(bucket, PREFIX, retry_seconds=0.1)
        self.requests = []
        self.num_bytes = 0

    def open(self, key, start=0, length=None):
        self.requests.append(key)
        for chunk in super().open(key, start, length):
            self.num_bytes += len(chunk)
            yield chunk

    def asked(self):
        """What was fetched since this was asked last."""
        requests, self.requests = self.requests, []
        return [key.rsplit("/", 1)[-1] for key in requests]


@pytest.fixture
def store(bucket):
    return Counting(bucket)


@pytest.fixture
def publish(store, tmp_path):
    """Makes three stored files with contents of their own."""

    def make(name):
        folder = tmp_path / f"source-{name}"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.bin").write_bytes(hashlib.sha256(f"{name}{number}".encode()).digest() * 40)
            os.truncate(folder / f"{number}.bin", SIZE // 3)
        return publish_folder(store, folder, f"datasets/{name}")

    def make_and_forget(name):
        files = make(name)
        store.asked()
        return files

    return make_and_forget


@pytest.fixture
def kept(store, tmp_path):
    """Makes what one process has of them."""
    return lambda max_bytes=10 * SIZE: InputCache(store, tmp_path / "inputs", max_bytes)


def nobody_asks():
    pass


def content(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def stored(files):
    return {file.name: file.sha256 for file in files}


def visible(tmp_path):
    """All files of all entries that a job could be given."""
    return [path.name for path in (tmp_path / "inputs").glob("*/files/*")]


def test_a_cached_entry_is_not_fetched_again(kept, publish, store, tmp_path):
    files = publish("a")
    for fetched in (["0.bin", "1.bin", "2.bin"], [], []):
        with kept() as inputs:
            folder = inputs.fetch(files, tmp_path / "scratch", nobody_asks)
            assert content(folder) == stored(files)
            assert store.asked() == fetched

    assert not (tmp_path / "scratch").exists()
    assert store.num_bytes == 2 * SIZE, "each was read back when it was published, and fetched once"


def test_a_concurrent_fetch_waits_for_the_first(kept, publish, store, tmp_path, monkeypatch):
    files, waits = publish("a"), threading.Event()
    fetch = store.fetch

    def fetch_when_the_other_waits(*args, **options):
        assert waits.wait(30)
        fetch(*args, **options)

    monkeypatch.setattr(store, "fetch", fetch_when_the_other_waits)
    with kept() as first, kept() as second, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(one.fetch, files, tmp_path / "scratch", waits.set) for one in (first, second)]
        one, other = (bringing.result() for bringing in both)

    assert one == other != tmp_path / "scratch"
    assert content(one) == stored(files)
    assert store.asked() == ["0.bin", "1.bin", "2.bin"]


def test_an_interrupted_wait_releases_its_locks(kept, publish, tmp_path):
    files = publish("a")

    def leave():
        raise Interrupted(Control.CANCEL)

    with pytest.raises(Interrupted):
        kept().fetch(files, tmp_path / "scratch", leave)

    assert visible(tmp_path) == []
    shared = DiskCache(tmp_path / "inputs", SIZE)
    assert all(shared.evict(key) for key in shared.sizes())


def test_the_least_recently_used_entry_is_evicted_unless_it_is_in_use(kept, publish, store, tmp_path):
    first, second, third = (publish(name) for name in "abc")
    with kept(2 * SIZE + 100) as mine:
        used = mine.fetch(first, tmp_path / "scratch", nobody_asks)
        with kept(2 * SIZE + 100) as others:
            idle = others.fetch(second, tmp_path / "scratch", nobody_asks)
        with kept(2 * SIZE + 100) as others:
            new = others.fetch(third, tmp_path / "scratch", nobody_asks)
            assert (used.exists(), idle.exists(), new.exists()) == (True, False, True)

            store.asked()
            with kept(2 * SIZE + 100) as more:
                assert more.fetch(second, tmp_path / "scratch", nobody_asks) == tmp_path / "scratch"
            assert len(store.asked()) == 3
    assert content(used) == stored(first)
    assert content(tmp_path / "scratch") == stored(second)


@pytest.mark.parametrize("max_bytes", [0, SIZE - 1])
def test_files_larger_than_the_cache_are_fetched_each_time(kept, publish, store, tmp_path, max_bytes):
    files = publish("a")
    for attempt in range(2):
        with kept(max_bytes) as inputs:
            folder = inputs.fetch(files, tmp_path / f"scratch-{attempt}", nobody_asks)
        assert folder == tmp_path / f"scratch-{attempt}"
        assert content(folder) == stored(files)
        assert len(store.asked()) == 3
    assert visible(tmp_path) == []


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_only_a_damaged_cached_file_is_fetched_again(kept, publish, store, tmp_path, damage):
    files = publish("a")
    with kept(SIZE) as inputs:
        folder = inputs.fetch(files, tmp_path / "scratch", nobody_asks)
        store.asked()
        damage(folder / "1.bin")

        with kept(SIZE) as others:  # also while another job uses it
            assert others.fetch(files, tmp_path / "scratch", nobody_asks) == folder

    assert content(folder) == stored(files)
    assert store.asked() == ["1.bin"]


def test_a_file_that_is_damaged_in_the_bucket_is_never_cached(kept, publish, store, tmp_path):
    files = publish("a")
    (tmp_path / "rot").write_bytes(b"bit rot")
    store.put(files[2].key, tmp_path / "rot")

    with pytest.raises(StoredFileDamaged, match="is damaged"):
        kept().fetch(files, tmp_path / "scratch", nobody_asks)
    assert visible(tmp_path) == []
    assert not (tmp_path / "scratch").exists()


def test_equal_files_share_one_entry(kept, publish, store, tmp_path):
    files = publish("a")
    again = publish_folder(store, tmp_path / "source-a", "datasets/the-same-again")
    store.asked()
    with kept() as inputs:
        folders = {inputs.fetch(one, tmp_path / "scratch", nobody_asks) for one in (files, again)}

    assert len(folders) == 1
    assert len(store.asked()) == 3


BRING = """
import json, sys
from pathlib import Path
from core.store.artifact_store import StoredFile
from core.store.s3 import S3ArtifactStore
from worker.input_cache import InputCache

store = S3ArtifactStore(sys.argv[1], "potstill")
files = [StoredFile.from_json(one) for one in json.loads(sys.argv[3])]
InputCache(store, Path(sys.argv[2]), 30_000).fetch(files, Path("nowhere"), lambda: None)
"""


@pytest.mark.parametrize("nth", [1, 3])
def test_a_kill_during_a_fetch_leaves_no_visible_file(kept, publish, store, bucket, tmp_path, nth):
    files = publish("a")
    arguments = [bucket, str(tmp_path / "inputs"), json.dumps([file.to_json() for file in files])]
    fault = {VARIABLE: f"store.fetched#{nth}=kill@{tmp_path / 'once'}"}
    ended = subprocess.run([sys.executable, "-c", BRING, *arguments], env=os.environ | fault, check=False, timeout=60)

    assert ended.returncode == -9
    assert visible(tmp_path) == []
    with kept(SIZE) as inputs:
        folder = inputs.fetch(files, tmp_path / "scratch", nobody_asks)
        assert content(folder) == stored(files)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["files"], "the leftover is gone"


def test_a_disk_that_runs_full_during_a_fetch_falls_back_to_the_scratch_folder(kept, publish, store, tmp_path):
    files = publish("a")
    arm(Fault("store.fetched", "ENOSPC", tmp_path / "once", nth=2))
    try:
        folder = kept().fetch(files, tmp_path / "scratch", nobody_asks)
    finally:
        arm(None)

    assert folder == tmp_path / "scratch"
    assert content(folder) == stored(files)
    assert not list((tmp_path / "inputs").glob("*/partial")), "room is made for the copy"


class OntoAFullDisk(Counting):
    """Its copies are refused by the disk that they go to."""

    def open(self, key, start=0, length=None):
        yield next(super().open(key, start, length))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_in_the_error(publish, bucket, tmp_path):
    files = publish("a")
    inputs = InputCache(OntoAFullDisk(bucket), tmp_path / "inputs", 10 * SIZE)

    with pytest.raises(StorageFailed, match="the disk is full; make room, then retry the job"):
        inputs.fetch(files, tmp_path / "work" / "scratch", nobody_asks)
    assert visible(tmp_path) == []
    assert not list((tmp_path / "inputs").glob("*/partial"))
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unavailable_bucket_is_requested_once(kept, publish, store, tmp_path):
    files = publish("a")
    gone = [type(file)(f"{file.key}-gone", file.size_bytes, file.sha256) for file in files]

    with pytest.raises(StorageFailed):
        kept().fetch(gone, tmp_path / "scratch", nobody_asks)
    assert store.asked() == ["0.bin-gone"]


def test_the_limit_of_the_whole_cache_keeps_entries_in_use(kept, publish, store, tmp_path):
    used, idle = publish("a"), publish("b")
    inputs = kept()
    with inputs:
        for files in (used, idle):
            with kept() as others:
                others.fetch(files, tmp_path / "scratch", nobody_asks)
        folder = inputs.fetch(used, tmp_path / "scratch", nobody_asks)
        for lock in (tmp_path / "inputs").glob("*.lock"):
            os.utime(lock, (time.time() - 7_200,) * 2)

        assert housekeeping.prune_cache(tmp_path, 0) >= SIZE
        assert sorted(visible(tmp_path)) == ["0.bin", "1.bin", "2.bin"]
        assert content(folder) == stored(used)
    housekeeping.prune_cache(tmp_path, 0)
    assert visible(tmp_path) == []


# --- whole jobs -------------------------------------------------------------------------------------


@pytest.fixture
def context(service, store, bucket):
    """A worker whose artefacts are in a bucket."""
    settings = service.settings.model_copy(update={"storage_url": f"s3://{bucket}/{PREFIX}"})
    made = Context(settings, service.context.queue, service.context.worker_id)
    made.store = store
    yield made
    made.database.dispose()
    made.broker.close()


@pytest.fixture
def spec(service, store, make_dataset, tmp_path):
    """That of a job with a dataset and a model of its own, both in the bucket."""
    dataset = make_dataset("d", 20)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    (weights / "config.json").write_bytes(b"{}")
    more = {"name": "m", "architecture": "vit", "arguments": {}, "upload_key": "uploads/x"}
    model = service.write(models.create, service.project, **more).id
    holding = ingest_leases.IngestLeaseToken.from_row(
        service.write(models.claim, worker_id="wrk_test", lease_seconds=60)
    )
    service.write(models.mark_ready, holding, files=publish_folder(store, weights, f"models/{model}"), info=FACTS)
    store.asked()
    teachers = [{**VIT, "weights": model}]
    return parse_job_spec({"dataset": dataset, "teachers": teachers, "student": VIT, "method": {"name": "kd"}})


def claimed(service, spec):
    document = spec.model_dump(mode="json")
    options = {"resolved": False, "dataset_id": spec.dataset, "references": spec.references()}
    service.write(jobs.create, service.project, spec=document, **options)
    return service.write(jobs.claim, worker_id="wrk_test", accelerator="cpu", lease_seconds=20)


def gathered(context, job, spec, scratch):
    with context.input_cache:
        inputs = Inputs.fetch(context, job, spec, scratch, nobody_asks)
        with StoredDataset.open(inputs.dataset) as dataset:
            assert len(dataset.split("train")) > 0
        assert {(folder / "model.safetensors").read_bytes() for folder in inputs.models.values()} == {b"weights"}


def test_a_second_attempt_and_a_second_job_fetch_nothing(service, context, store, spec, tmp_path):
    for number in range(2):
        job = claimed(service, spec)
        for attempt in range(2):
            gathered(context, job, spec, tmp_path / f"scratch-{number}-{attempt}")
            expected = 8 if (number, attempt) == (0, 0) else 0
            assert len(store.asked()) == expected, "six files of the dataset and two of the model, once"


def test_a_teacher_that_another_job_trained_is_fetched_once(service, context, store, tmp_path):
    weights = tmp_path / "teacher"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"teacher")
    for number in range(2):
        reporter = JobReporter(context, service.claim_job(), tmp_path / f"scratch-{number}", lambda: Control.GO)
        if number == 0:
            reporter.save_teacher("recipe", weights)
            store.asked()
        with context.input_cache:
            found = reporter.find_teacher("recipe")
            assert (found / "model.safetensors").read_bytes() == b"teacher"
        assert store.asked() == ["model.safetensors"][number:]
