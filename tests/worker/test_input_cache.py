"""The cache of inputs from a bucket: fetched once, verified at each use, never evicted in use."""

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
from tests.core.store.test_quotas import MODEL_INFO
from worker.context import Context
from worker.input_cache import InputCache
from worker.jobs.inputs import Inputs
from worker.jobs.reporter import JobReporter
from worker.scheduler import housekeeping
from worker.stored_files import publish_folder

PREFIX = "potstill"
SIZE = 3_000  # of a set of files
VIT = {"architecture": "vit_tiny_patch16_224", "arguments": {"patch_size": 4}}


class RecordingStore(S3ArtifactStore):
    """A bucket that records its requests."""

    def __init__(self, bucket):
        super().__init__(bucket, PREFIX, retry_seconds=0.1)
        self.requests = []
        self.num_bytes = 0

    def open(self, key, start=0, length=None):
        self.requests.append(key)
        for chunk in super().open(key, start, length):
            self.num_bytes += len(chunk)
            yield chunk

    def take_requests(self):
        """Return the names of the files fetched since the last call."""
        requests, self.requests = self.requests, []
        return [key.rsplit("/", 1)[-1] for key in requests]


@pytest.fixture
def store(bucket):
    return RecordingStore(bucket)


@pytest.fixture
def publish(store, tmp_path):
    """Return a function that publishes three files with unique contents."""

    def make(name):
        folder = tmp_path / f"source-{name}"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.bin").write_bytes(hashlib.sha256(f"{name}{number}".encode()).digest() * 40)
            os.truncate(folder / f"{number}.bin", SIZE // 3)
        return publish_folder(store, folder, f"datasets/{name}")

    def publish_and_reset(name):
        files = make(name)
        store.take_requests()
        return files

    return publish_and_reset


@pytest.fixture
def open_cache(store, tmp_path):
    """Return a function that opens the cache as a new process does."""
    return lambda max_bytes=10 * SIZE: InputCache(store, tmp_path / "inputs", max_bytes)


def no_poll():
    pass


def content(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def stored(files):
    return {file.name: file.sha256 for file in files}


def visible_files(tmp_path):
    """Return the names of all files of all entries that a job can read."""
    return [path.name for path in (tmp_path / "inputs").glob("*/files/*")]


def test_a_cached_entry_is_not_fetched_again(open_cache, publish, store, tmp_path):
    files = publish("a")
    for fetched in (["0.bin", "1.bin", "2.bin"], [], []):
        with open_cache() as inputs:
            folder = inputs.fetch(files, tmp_path / "scratch", no_poll)
            assert content(folder) == stored(files)
            assert store.take_requests() == fetched

    assert not (tmp_path / "scratch").exists()
    assert store.num_bytes == 2 * SIZE, "each file is read back after its publication, and fetched once"


def test_a_concurrent_fetch_waits_for_the_first(open_cache, publish, store, tmp_path, monkeypatch):
    files, is_waiting = publish("a"), threading.Event()
    fetch = store.fetch

    def fetch_after_the_other_waits(*args, **options):
        assert is_waiting.wait(30)
        fetch(*args, **options)

    monkeypatch.setattr(store, "fetch", fetch_after_the_other_waits)
    with open_cache() as first, open_cache() as second, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(cache.fetch, files, tmp_path / "scratch", is_waiting.set) for cache in (first, second)]
        folder, other_folder = (future.result() for future in futures)

    assert folder == other_folder != tmp_path / "scratch"
    assert content(folder) == stored(files)
    assert store.take_requests() == ["0.bin", "1.bin", "2.bin"]


def test_an_interrupted_wait_releases_its_locks(open_cache, publish, tmp_path):
    files = publish("a")

    def leave():
        raise Interrupted(Control.CANCEL)

    with pytest.raises(Interrupted):
        open_cache().fetch(files, tmp_path / "scratch", leave)

    assert visible_files(tmp_path) == []
    shared = DiskCache(tmp_path / "inputs", SIZE)
    assert all(shared.evict(key) for key in shared.sizes())


def test_the_least_recently_used_entry_is_evicted_unless_it_is_in_use(open_cache, publish, store, tmp_path):
    first, second, third = (publish(name) for name in "abc")
    with open_cache(2 * SIZE + 100) as own_cache:
        used = own_cache.fetch(first, tmp_path / "scratch", no_poll)
        with open_cache(2 * SIZE + 100) as other_cache:
            idle = other_cache.fetch(second, tmp_path / "scratch", no_poll)
        with open_cache(2 * SIZE + 100) as other_cache:
            new = other_cache.fetch(third, tmp_path / "scratch", no_poll)
            assert (used.exists(), idle.exists(), new.exists()) == (True, False, True)

            store.take_requests()
            with open_cache(2 * SIZE + 100) as third_cache:
                assert third_cache.fetch(second, tmp_path / "scratch", no_poll) == tmp_path / "scratch"
            assert len(store.take_requests()) == 3
    assert content(used) == stored(first)
    assert content(tmp_path / "scratch") == stored(second)


@pytest.mark.parametrize("max_bytes", [0, SIZE - 1])
def test_files_larger_than_the_cache_are_fetched_each_time(open_cache, publish, store, tmp_path, max_bytes):
    files = publish("a")
    for attempt in range(2):
        with open_cache(max_bytes) as inputs:
            folder = inputs.fetch(files, tmp_path / f"scratch-{attempt}", no_poll)
        assert folder == tmp_path / f"scratch-{attempt}"
        assert content(folder) == stored(files)
        assert len(store.take_requests()) == 3
    assert visible_files(tmp_path) == []


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_only_a_damaged_cached_file_is_fetched_again(open_cache, publish, store, tmp_path, damage):
    files = publish("a")
    with open_cache(SIZE) as inputs:
        folder = inputs.fetch(files, tmp_path / "scratch", no_poll)
        store.take_requests()
        damage(folder / "1.bin")

        with open_cache(SIZE) as other_cache:  # while another job uses it
            assert other_cache.fetch(files, tmp_path / "scratch", no_poll) == folder

    assert content(folder) == stored(files)
    assert store.take_requests() == ["1.bin"]


def test_a_file_that_is_damaged_in_the_bucket_is_never_cached(open_cache, publish, store, tmp_path):
    files = publish("a")
    (tmp_path / "rot").write_bytes(b"bit rot")
    store.put(files[2].key, tmp_path / "rot")

    with pytest.raises(StoredFileDamaged, match="is damaged"):
        open_cache().fetch(files, tmp_path / "scratch", no_poll)
    assert visible_files(tmp_path) == []
    assert not (tmp_path / "scratch").exists()


def test_equal_files_share_one_entry(open_cache, publish, store, tmp_path):
    files = publish("a")
    again = publish_folder(store, tmp_path / "source-a", "datasets/the-same-again")
    store.take_requests()
    with open_cache() as inputs:
        folders = {inputs.fetch(one, tmp_path / "scratch", no_poll) for one in (files, again)}

    assert len(folders) == 1
    assert len(store.take_requests()) == 3


FETCH_SCRIPT = """
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
def test_a_kill_during_a_fetch_leaves_no_visible_file(open_cache, publish, store, bucket, tmp_path, nth):
    files = publish("a")
    arguments = [bucket, str(tmp_path / "inputs"), json.dumps([file.to_json() for file in files])]
    fault = {VARIABLE: f"store.fetched#{nth}=kill@{tmp_path / 'once'}"}
    ended = subprocess.run(
        [sys.executable, "-c", FETCH_SCRIPT, *arguments], env=os.environ | fault, check=False, timeout=60
    )

    assert ended.returncode == -9
    assert visible_files(tmp_path) == []
    with open_cache(SIZE) as inputs:
        folder = inputs.fetch(files, tmp_path / "scratch", no_poll)
        assert content(folder) == stored(files)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["files"], (
        "the partial folder is deleted"
    )


def test_a_disk_that_runs_full_during_a_fetch_falls_back_to_the_scratch_folder(open_cache, publish, store, tmp_path):
    files = publish("a")
    arm(Fault("store.fetched", "ENOSPC", tmp_path / "once", nth=2))
    try:
        folder = open_cache().fetch(files, tmp_path / "scratch", no_poll)
    finally:
        arm(None)

    assert folder == tmp_path / "scratch"
    assert content(folder) == stored(files)
    assert not list((tmp_path / "inputs").glob("*/partial")), "no partial folder remains"


class FullDiskStore(RecordingStore):
    """A bucket whose downloads fail because the local disk is full."""

    def open(self, key, start=0, length=None):
        yield next(super().open(key, start, length))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_in_the_error(publish, bucket, tmp_path):
    files = publish("a")
    inputs = InputCache(FullDiskStore(bucket), tmp_path / "inputs", 10 * SIZE)

    with pytest.raises(StorageFailed, match="the disk is full; make room, then retry the job"):
        inputs.fetch(files, tmp_path / "work" / "scratch", no_poll)
    assert visible_files(tmp_path) == []
    assert not list((tmp_path / "inputs").glob("*/partial"))
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unavailable_bucket_is_requested_once(open_cache, publish, store, tmp_path):
    files = publish("a")
    missing = [type(file)(f"{file.key}-missing", file.size_bytes, file.sha256) for file in files]

    with pytest.raises(StorageFailed):
        open_cache().fetch(missing, tmp_path / "scratch", no_poll)
    assert store.take_requests() == ["0.bin-missing"]


def test_the_limit_of_the_whole_cache_keeps_entries_in_use(open_cache, publish, store, tmp_path):
    used, idle = publish("a"), publish("b")
    inputs = open_cache()
    with inputs:
        for files in (used, idle):
            with open_cache() as other_cache:
                other_cache.fetch(files, tmp_path / "scratch", no_poll)
        folder = inputs.fetch(used, tmp_path / "scratch", no_poll)
        for lock in (tmp_path / "inputs").glob("*.lock"):
            os.utime(lock, (time.time() - 7_200,) * 2)

        assert housekeeping.prune_cache(tmp_path, 0) >= SIZE
        assert sorted(visible_files(tmp_path)) == ["0.bin", "1.bin", "2.bin"]
        assert content(folder) == stored(used)
    housekeeping.prune_cache(tmp_path, 0)
    assert visible_files(tmp_path) == []


# --- complete jobs -------------------------------------------------------------------------------------


@pytest.fixture
def context(service, store, bucket):
    """The context of a worker with a bucket as artifact store."""
    settings = service.settings.model_copy(update={"storage_url": f"s3://{bucket}/{PREFIX}"})
    made = Context(settings, service.context.queue, service.context.worker_id)
    made.store = store
    yield made
    made.database.dispose()
    made.broker.close()


@pytest.fixture
def spec(service, store, make_dataset, tmp_path):
    """The spec of a job with a dataset and a stored model, both in the bucket."""
    dataset = make_dataset("d", 20)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    (weights / "config.json").write_bytes(b"{}")
    more = {"name": "m", "architecture": "vit", "arguments": {}, "upload_key": "uploads/x"}
    model = service.write(models.create, service.project, **more).id
    lease = ingest_leases.IngestLeaseToken.from_row(service.write(models.claim, worker_id="wrk_test", lease_seconds=60))
    service.write(models.mark_ready, lease, files=publish_folder(store, weights, f"models/{model}"), info=MODEL_INFO)
    store.take_requests()
    teachers = [{**VIT, "weights": model}]
    return parse_job_spec({"dataset": dataset, "teachers": teachers, "student": VIT, "method": {"name": "kd"}})


def claim_job(service, spec):
    document = spec.model_dump(mode="json")
    options = {"resolved": False, "dataset_id": spec.dataset, "references": spec.references()}
    service.write(jobs.create, service.project, spec=document, **options)
    return service.write(jobs.claim, worker_id="wrk_test", accelerator="cpu", lease_seconds=20)


def fetch_inputs(context, job, spec, scratch):
    with context.input_cache:
        inputs = Inputs.fetch(context, job, spec, scratch, no_poll)
        with StoredDataset.open(inputs.dataset) as dataset:
            assert len(dataset.split("train")) > 0
        assert {(folder / "model.safetensors").read_bytes() for folder in inputs.models.values()} == {b"weights"}


def test_a_second_attempt_and_a_second_job_fetch_nothing(service, context, store, spec, tmp_path):
    for number in range(2):
        job = claim_job(service, spec)
        for attempt in range(2):
            fetch_inputs(context, job, spec, tmp_path / f"scratch-{number}-{attempt}")
            expected = 8 if (number, attempt) == (0, 0) else 0
            assert len(store.take_requests()) == expected, "six files of the dataset and two of the model, once"


def test_a_teacher_that_another_job_trained_is_fetched_once(service, context, store, tmp_path):
    weights = tmp_path / "teacher"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"teacher")
    for number in range(2):
        reporter = JobReporter(context, service.claim_job(), tmp_path / f"scratch-{number}", lambda: Control.GO)
        if number == 0:
            reporter.save_teacher("recipe", weights)
            store.take_requests()
        with context.input_cache:
            found = reporter.find_teacher("recipe")
            assert (found / "model.safetensors").read_bytes() == b"teacher"
        assert store.take_requests() == ["model.safetensors"][number:]
