"""Fuzzing of the complete API with Schemathesis: every response matches the OpenAPI document.

`make test` runs a short round with a fixed seed; `make fuzz CASES=10000` a long one with a random seed (`SEED=` sets
it). `schemathesis.toml` in this directory lists the checks of every operation.
"""

import io
import itertools
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, StopReason, events, from_schema
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.openapi.checks import EnsureResourceAvailability

from core import ids
from core.reporting import Progress
from core.settings import Settings
from core.spec.info import ModelInfo
from core.store import checkpoints, datasets, jobs, models, pushes, sweeps, webhooks
from core.store import metrics as series
from core.store.artifact_store import StoredFile
from core.store.db import migrate
from core.store.ingest_leases import IngestLeaseToken
from core.store.jobs import LeaseToken, NewArtifact
from core.store.pushes import PushTarget
from tests.support.students import CLASSES, save_network

SEED = 20261125
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLE_DATASET = "ds_01jd3v5n8e6f7g8h9jkmnpqrst"  # from the examples of the OpenAPI document
MAX_WAIT_SECONDS = 0.05
MAX_ARCHITECTURES = 3
# Placeholders that are drawn as job ids; a job id with this status replaces them.
JOBS = {f"a_{status}_job": status for status in ("running", "succeeded", "failed", "paused", "cancelled", "queued")}
FRAMING = {"content-length", "transfer-encoding", "connection", "upgrade", "expect", "host"}
# The store of these tests is a folder; `tests/api/uploads` has a bucket.
NEED_A_BUCKET = {
    "POST /v1/uploads/{upload_id}/direct",
    "POST /v1/uploads/{upload_id}/complete",
    "GET /v1/jobs/{job_id}/artifact-urls/{name}",
}
# The datasets of these tests have no images; `tests/api/datasets` has some.
NEED_AN_IMAGE = {"GET /v1/datasets/{dataset_id}/images/{split}/{index}"}
RANDOM_PHASES = ("fuzzing", "stateful")  # their cases depend on the seed
# The coverage phase of these operations has a hundred requests to thousands. Only long runs have it.
LONG_COVERAGE = ("create_job", "create_dataset", "create_model", "list_jobs", "recommend_methods")


@schemathesis.serializer("application/offset+octet-stream")
def serialize_bytes(_context, value):
    """Send drawn values of any type as bytes."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


# --- service --------------------------------------------------------------------------------------


@dataclass
class Workers:
    """Simulates workers with the functions of the store, without training.

    Jobs end in turn with each possible status, so that requests meet jobs in every status. Their students have the
    content of the files ``student``, because predictions load it.
    """

    database: object
    store: object
    scratch: Path
    student: list[Path]
    num_jobs: int = 0

    def finish_dataset(self):
        with self.database.write() as session:
            found = datasets.claim(session, worker_id="wrk_fuzz", lease_seconds=600)
            if found is None:
                return
            datasets.mark_ready(
                session,
                IngestLeaseToken.from_row(found),
                files=[],
                splits={"train": {"num_samples": 80}, "test": {"num_samples": 20}},
                num_classes=3,
                classes=["a", "b", "c"],
                channels=3,
                image_size=8,
                fingerprint="0" * 64,
                size_bytes=1000,
                rejected=[{"path": "train/a/7.jpg", "reason": "not an image"}],
            )

    def finish_model(self):
        with self.database.write() as session:
            found = models.claim(session, worker_id="wrk_fuzz", lease_seconds=600)
            if found is None:
                return
            info = ModelInfo(
                architecture=found.architecture,
                arguments=found.arguments,
                num_classes=3,
                channels=3,
                parameters=10,
                size_bytes=40,
            )
            models.mark_ready(session, IngestLeaseToken.from_row(found), files=[], info=info)

    def run_job(self):
        with self.database.write() as session:
            job = jobs.claim(session, worker_id="wrk_fuzz", accelerator="cpu", lease_seconds=6000)
            if job is None:
                return
            lease = LeaseToken.from_job(job)
            jobs.start_stage(session, lease, "distill")
            series.insert(session, lease, [("train/loss", step, 1 / (step + 1)) for step in range(20)])
            files = [self.stored(lease, "checkpoints/s5", name) for name in ("model.safetensors", "state.pt")]
            checkpoints.save(session, lease, track="distill", step=5, epoch=1, files=files, metrics={"loss": 0.5})
            progress = Progress(fraction=0.5, step=6, total_steps=10, epoch=1, images_per_second=9.0, eta_seconds=2.5)
            jobs.record_progress(session, lease, progress)
            self.num_jobs += 1
            match self.num_jobs % 4:
                case 0:
                    pass  # stays running
                case 1:
                    self.succeed(session, lease)
                case 2:
                    jobs.fail(session, lease, {"code": "out_of_memory", "message": "Ask for a smaller batch."})
                case 3:
                    jobs.finish_stage(session, lease, "distill")
                    jobs.release(session, lease)

    def succeed(self, session, lease):
        files = [
            self.store.put(f"jobs/{lease.job_id}/a{lease.attempt}/artifacts/{path.name}", path) for path in self.student
        ]
        model_metrics = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
        result = {"student": model_metrics, "teachers": [model_metrics], "compressed": [], "agreement": 0.9}
        info = ModelInfo(architecture="vit", arguments={}, num_classes=3, channels=3, parameters=10, size_bytes=40)
        student = models.create_student(session, lease, name="student", info=info, files=files)
        artifacts = [NewArtifact(file.name, "application/octet-stream", file) for file in files]
        jobs.succeed(session, lease, result=result, artifacts=artifacts, model_id=student.id)

    def stored(self, lease, folder, name) -> StoredFile:
        key = f"jobs/{lease.job_id}/a{lease.attempt}/{folder}/{name}"
        path = self.scratch / name
        path.write_bytes(f"the content of {name}".encode() * 50)
        return self.store.put(key, path)


@pytest.fixture(scope="module")
def sequential_ids():
    """Make ids reproducible: drawn requests depend on earlier responses."""
    numbers = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids._clock, "next", lambda: next(numbers) << 64)
        yield


@pytest.fixture(scope="module")
def service(sequential_ids, make_server, tmp_path_factory, request):
    """A separate server with a project that has one of each object; `DATABASE=postgresql` selects the database."""
    settings = fuzzing_settings()
    if os.environ.get("DATABASE") == "postgresql":
        settings["database_url"] = request.getfixturevalue("pg_new")("fuzz")
        migrate(settings["database_url"])
    server = make_server(**settings)
    tenant = server.tenant()
    scratch = tmp_path_factory.mktemp("files")
    student = save_network(scratch / "student", 0, CLASSES)
    workers = Workers(server.database, server.store, scratch, student)
    tenant.extra = {"workers": workers, "dataset": tenant.ready_dataset(), **shared_webhook(tenant)}
    tenant.extra |= shared_sweep(tenant) | shared_push(tenant)
    assert tenant.http.get("/v1/architectures?limit=1").status_code == 200  # waits for the inspector's imports
    yield tenant
    tenant.http.close()


def shared_webhook(tenant):
    """Create a webhook with a delivery. No sender runs, so the delivery stays pending."""
    with tenant.database.write() as session:
        options = {"url": "https://example.com/hook", "events": ["job.failed"], "secret_key": "k" * 32}
        webhook = webhooks.create(session, tenant.project_id, **options).webhook
        return {"webhook": webhook.id, "delivery": webhooks.add_test(session, webhook, webhook.created_at).id}


def shared_sweep(tenant):
    """Create a sweep without jobs: `find_or_create_job` needs to know which job is claimed next."""
    options = {"name": "s", "spec": {}, "grid": {}, "points": [], "fields": [], "num_jobs": 0}
    with tenant.database.write() as session:
        return {"sweep": sweeps.create(session, tenant.project_id, **options).id}


def shared_push(tenant):
    """Create a push of a job. No scheduler runs, so the push stays pending."""
    job_id = tenant.queued_job()
    target = PushTarget("acme/pets", "main", private=True, files=["config.json"], message="m", license=None)
    with tenant.database.write() as session:
        jobs.cancel(session, tenant.project_id, job_id)  # no worker claims it
        push = pushes.create(session, tenant.project_id, job_id, target, token="hf_0", secret_key="k" * 32)
        return {"pushed_job": job_id, "push": push.id}


def fuzzing_settings():
    """Disable rate limits and quotas: they have separate tests, and a fuzzer would only get 429."""
    return {name: 0 for name in Settings.model_fields if name.startswith(("rate_", "quota_"))}


def find_or_create_job(status, tenant, workers):
    """Return the id of a job with this status."""
    with tenant.database.read() as session:
        found = jobs.list_jobs(session, tenant.project_id, jobs.JobFilter(statuses=[status]), limit=1).items
    if found:
        return found[0].id
    job_id = tenant.queued_job(priority=100)
    if status in {"running", "succeeded", "failed"}:
        workers.num_jobs = {"running": 3, "succeeded": 0, "failed": 1}[status]
        workers.run_job()
    if status in {"paused", "cancelled"}:
        with tenant.database.write() as session:
            {"paused": jobs.pause, "cancelled": jobs.cancel}[status](session, tenant.project_id, job_id)
    return job_id


# --- requests -------------------------------------------------------------------------------------


@dataclass
class Sender:
    """Hooks that adapt every request before it is sent and record every response."""

    tenant: object
    spec: dict
    archive: str  # text, because values validated against a JSON Schema cannot be bytes
    weights: str
    cases: Counter = field(default_factory=Counter)  # (operation, status) -> number of responses
    phases: Counter = field(default_factory=Counter)  # phase -> number of responses
    replayed: set = field(default_factory=set)  # ids in replayed responses; their objects may be deleted
    replaced: set = field(default_factory=set)  # ids in place of those of shared objects; no object has them

    def before_call(self, case):
        for name, value in (case.path_parameters or {}).items():
            if value in JOBS:
                case.path_parameters[name] = find_or_create_job(JOBS[value], self.tenant, self.tenant.extra["workers"])
        self.remove_framing_headers(case)
        self.limit_cost(case)
        self.protect_shared_objects(case)
        if case.meta is not None and case.meta.generation.mode.is_positive:
            if isinstance(case.body, dict):
                self.make_valid(case)
            elif case.operation.definition.raw["operationId"] == "append_to_upload":
                self.make_appendable(case)

    def remove_framing_headers(self, case):
        """Remove framing headers: the HTTP server rejects invalid ones before any operation."""
        for name in [name for name in case.headers or {} if name.lower() in FRAMING]:
            del case.headers[name]

    def limit_cost(self, case):
        """Limit waiting time and number of architectures; their maximum is tested elsewhere."""
        for name, limit in (("wait", MAX_WAIT_SECONDS), ("limit", MAX_ARCHITECTURES)):
            value = (case.query or {}).get(name)
            if isinstance(value, str) and value.isdecimal():
                value = int(value)
            applies = name == "wait" or case.path == "/v1/architectures"
            if applies and isinstance(value, int | float) and not isinstance(value, bool) and limit < value <= 100:
                case.query[name] = min(value, limit) if value <= 60 or name == "limit" else value

    def protect_shared_objects(self, case):
        """Protect the key and the dataset from changes, and the webhook from deletion; later requests need them."""
        fixed = {self.tenant.key_id, self.tenant.extra["dataset"]} if case.method != "GET" else set()
        if case.method == "DELETE":
            fixed |= {self.tenant.extra[name] for name in ("webhook", "sweep", "pushed_job")}
        for name, value in (case.path_parameters or {}).items():
            if value in fixed:
                case.path_parameters[name] = value[:-1] + ("0" if value[-1] != "0" else "1")
                self.replaced.add(case.path_parameters[name])

    def make_valid(self, case):
        """Replace every second body, and all in sequences, by one that is valid beyond its JSON Schema."""
        if case.meta.phase.name != "stateful" and zlib.crc32(repr(case.body).encode("utf-8", "replace")) % 2:
            return
        match case.operation.definition.raw["operationId"]:
            case "create_job" | "estimate_job":
                fixed = {name: self.spec[name] for name in ("dataset", "student", "teachers", "method", "training")}
                drawn = {name: case.body[name] for name in ("name", "priority", "metadata") if name in case.body}
                case.body = {**fixed, **drawn}
            case "create_sweep" | "estimate_sweep_jobs":
                case.body = {"spec": self.spec, "grid": {"training.epochs": [1, 2]}}
            case "retry_job" if "changes" in case.body:
                case.body["changes"] = {"priority": 3, "training": {"batch_size": 4}}
            case "push_job":
                case.body.pop("files", None)
            case "predict_image":
                case.body["file"] = "P3 2 1 255  255 0 0  0 0 255"  # an image of two pixels
            case "create_dataset" if "file" in case.body:
                case.body["file"] = self.archive
            case "create_model" if "file" in case.body:
                case.body |= {"file": self.weights, "architecture": "resnet18", "arguments": '{"num_classes": 3}'}

    def make_appendable(self, case):
        """Send a byte to a new upload: a drawn offset is that of no upload."""
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "8"}
        case.path_parameters["upload_id"] = self.tenant.http.post("/v1/uploads", headers=headers).json()["id"]
        case.headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0"}
        case.body = "x"

    def after_call(self, case, response):
        self.cases[case.operation.label, response.status_code] += 1
        self.phases["check" if case.meta is None else str(case.meta.phase.name)] += 1
        if "idempotent-replayed" in response.headers:
            self.replayed.add(response.json()["id"])
        if case.method == "POST" and response.status_code in {200, 201, 202}:
            workers = self.tenant.extra["workers"]
            workers.finish_dataset()
            workers.finish_model()
            workers.run_job()

    def is_failure(self, failure, case):
        """Ignore missing objects that no request has created, or that were deleted; all other failures count."""
        ids = isinstance(failure, EnsureResourceAvailability) and set((case.path_parameters or {}).values())
        return not (ids and ids & (self.replayed | self.replaced))


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def sender(service, spec_of):
    sender_hooks = Sender(
        service,
        spec=spec_of(service.extra["dataset"]),
        archive=tar_of({"train/a/1.jpg": b"not an image", "test/b/2.jpg": b"neither"}).decode("ascii"),
        weights=safetensors.numpy.save({"fc.weight": np.zeros((3, 4), np.float32)}).decode("ascii"),
    )

    def before_call(context, case, kwargs):
        sender_hooks.before_call(case)

    def after_call(context, case, response):
        sender_hooks.after_call(case, response)

    def filter_failure(context, failure, case, response):
        return sender_hooks.is_failure(failure, case)

    hooks = (before_call, after_call, filter_failure)
    for hook in hooks:
        schemathesis.hook(hook)
    yield sender_hooks
    for hook in hooks:
        GLOBAL_HOOK_DISPATCHER.unregister(hook)


# --- rounds ---------------------------------------------------------------------------------------


def schema_of(service, seed, *, fuzzing, stateful, first, is_short=False):
    """Load the OpenAPI document with existing ids, and set the number of cases. ``fuzzing`` 0: only sequences.

    A short round leaves out the coverage phase of ``LONG_COVERAGE``, and sends one wrong method to each path.
    """
    config = f"""
base-url = "{service.server.url}"
seed = {seed}
{CONFIG.read_text()}
[auth.openapi.api_key]
bearer = "{service.token}"
[phases]
examples.enabled = {str(first).lower()}
coverage.enabled = {str(first).lower()}
{'coverage.unexpected-methods = ["PUT"]' if is_short else ""}
fuzzing.enabled = {str(fuzzing > 0).lower()}
fuzzing.generation.max-examples = {max(fuzzing, 1)}
stateful.generation.max-examples = {stateful}
stateful.max-steps = 10
[dictionaries]
jobs.values = {json.dumps(list(JOBS))}
succeeded.values = ["a_succeeded_job"]
ended.values = ["a_failed_job", "a_cancelled_job"]
datasets.values = ["{service.extra["dataset"]}"]
webhooks.values = ["{service.extra["webhook"]}"]
sweeps.values = ["{service.extra["sweep"]}"]
deliveries.values = ["{service.extra["delivery"]}"]
artifacts.values = ["model.safetensors", "config.json"]
pushed.values = ["{service.extra["pushed_job"]}"]
pushes.values = ["{service.extra["push"]}"]
[parameters]
"path.job_id" = {{ dictionary = "jobs", probability = 0.6 }}
"path.dataset_id" = {{ dictionary = "datasets", probability = 0.3 }}
"path.webhook_id" = {{ dictionary = "webhooks", probability = 0.6 }}
"path.sweep_id" = {{ dictionary = "sweeps", probability = 0.6 }}
"path.delivery_id" = {{ dictionary = "deliveries", probability = 0.6 }}
[[operations]]
include-operation-id = {json.dumps(LONG_COVERAGE)}
phases.coverage.enabled = {str(not is_short).lower()}
[[operations]]
include-path-regex = "/(download|artifacts.*)$"
parameters."path.job_id" = {{ dictionary = "succeeded", probability = 0.6 }}
parameters."path.name" = {{ dictionary = "artifacts", probability = 0.8 }}
[[operations]]
include-operation-id = ["delete_job", "retry_job"]
parameters."path.job_id" = {{ dictionary = "ended", probability = 0.6 }}
[[operations]]
include-path-regex = "/(push|predictions)$"
parameters."path.job_id" = {{ dictionary = "succeeded", probability = 0.6 }}
[[operations]]
include-path-regex = "/pushes/"
parameters."path.job_id" = {{ dictionary = "pushed", probability = 0.7 }}
parameters."path.push_id" = {{ dictionary = "pushes", probability = 0.8 }}
"""
    document = json.dumps(service.server.app.openapi()).replace(EXAMPLE_DATASET, service.extra["dataset"])
    return schemathesis.openapi.from_dict(json.loads(document), config=SchemathesisConfig.from_str(config))


def run(schema):
    """Run a schema; return its distinct failures as text."""
    failures = {}
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                for label, name, info in failed_checks(event.recorder):
                    key = (label, name, info.failure.title)
                    failures.setdefault(key, f"{label}: {name}\n{info.failure.message}\n{info.code_sample}")
            case events.NonFatalError():
                failures.setdefault(event.label, f"{event.label}: {event.info.format()}")
            case events.FatalError():
                raise event.exception
            case events.EngineFinished():
                assert event.stop_reason == StopReason.COMPLETED
                failures |= {failure.title: failure.message for failure in event.failures}
    return list(failures.values())


def failed_checks(recorder):
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.status == Status.FAILURE:
                yield recorder.cases[case_id].value.operation.label, check.name, check.failure_info


@pytest.mark.timeout(600)
def test_responses_match_the_openapi_document():
    """Runs in a subprocess with a fixed hash seed, so that other tests do not change the generated requests."""
    command = [sys.executable, "-m", "pytest", "-n0", "-m", "slow", f"{__file__}::test_a_short_round"]
    run = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=580)

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(570)
@pytest.mark.skipif(os.environ.get("PYTHONHASHSEED") != "0", reason="run by the test above")
def test_a_short_round(service, sender):
    schema = schema_of(service, SEED, fuzzing=6, stateful=20, first=True, is_short=True)

    failures = run(schema)
    # Sequences depend on responses, and Hypothesis drops those that it cannot repeat, so run several times.
    for number in range(1, 3):
        failures += run(schema_of(service, SEED + number, fuzzing=0, stateful=20, first=False))
    print(dict(sender.phases), hash(str(sorted(sender.cases.items()))))  # noqa: T201 - for comparison between runs

    assert not failures, "\n\n".join(failures)
    assert sender.phases["stateful"] > 300
    answered = {label for label, status in sender.cases if status < 300}
    operations = {operation.ok().label for operation in schema.get_all_operations()}
    assert operations - answered == NEED_A_BUCKET | NEED_AN_IMAGE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_fuzzing(service, sender, capsys):
    num_cases = int(os.environ.get("CASES") or 2000)
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    database = os.environ.get("DATABASE") or "sqlite"
    print_progress(
        capsys, f"seed {seed}: `make fuzz CASES={num_cases} SEED={seed} DATABASE={database}` repeats this run"
    )
    failures, started_at, number = [], time.monotonic(), 0
    while sum(sender.phases[phase] for phase in RANDOM_PHASES) < num_cases:
        failures += run(schema_of(service, seed + number, fuzzing=40, stateful=150, first=number == 0))
        number += 1
        seconds = time.monotonic() - started_at
        print_progress(
            capsys, f"{sender.cases.total()} cases in {seconds:.0f} s: {dict(sender.phases)}, {len(failures)} failures"
        )
    for label in sorted({label for label, _ in sender.cases}):
        responses = {status: count for (operation, status), count in sorted(sender.cases.items()) if operation == label}
        print_progress(capsys, f"{label}: {responses}")

    assert not failures, f"seed {seed}\n" + "\n\n".join(failures)


def print_progress(capsys, text):
    with capsys.disabled():
        print(text, flush=True)  # noqa: T201 - progress of the long run
