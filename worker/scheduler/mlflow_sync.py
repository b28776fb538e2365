"""Reports jobs to an MLflow server: one run per job and spec, whose metrics follow the training.

A run is found by its tags, a point by its step, a file by its path, and a model version by its run. So an attempt that
was interrupted anywhere is repeated without doubling anything.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.fetch.mlflow import (
    MAX_KEY_CHARACTERS,
    MAX_METRICS,
    MAX_PARAM_CHARACTERS,
    MAX_TAG_CHARACTERS,
    Metric,
    Mlflow,
    MlflowRun,
    authorization,
)
from core.fetch.service_client import ServiceClient
from core.settings import Settings
from core.store import events, jobs, metrics
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session
from core.store.tables import Artifact, Dataset, Job, Model
from worker.scheduler.outbound_runner import Attempt, Outcome

INTERVAL_SECONDS = 15.0  # between two reports of a running job
EXPERIMENT_KEY = "mlflow.experiment"  # of a job's metadata
MODEL_KEY = "mlflow.registered_model"
DEFAULT_MODEL = "potstill"
FOLDER = "student"  # of the run's artifacts

_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_WEIGHTS = "model.safetensors"
_NOT_IN_KEY = re.compile(r"[^\w./ -]")
_NOT_IN_NAME = re.compile(r"[^\w.\- ]")  # MLflow refuses slashes and colons in names of models
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A job with the rows that a run names, read in one transaction."""

    job: Job
    dataset: Dataset | None
    model: Model | None
    artifacts: Sequence[Artifact]
    series: Sequence[metrics.Series]
    state: dict[str, Any]


class MlflowSync:
    """Handler of the kind ``tracking``. It is repeated for ever: a server that is down loses nothing."""

    max_seconds: float | None = None

    def __init__(self, database: Database, store: ArtifactStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._experiment = settings.mlflow_experiment
        self._model_name = settings.mlflow_registered_model
        self._mlflow = Mlflow(
            ServiceClient(
                base_url=settings.mlflow_tracking_uri,
                timeout_seconds=settings.mlflow_timeout_seconds,
                headers=authorization(settings.mlflow_token.get_secret_value()),
            )
        )

    def run(self, attempt: Attempt) -> Outcome:
        """Report what is new of a job; a job that has not ended is reported again."""
        snapshot = self._read(attempt)
        job = snapshot.job
        if not job.resolved and not job.is_terminal:
            return Outcome(again_seconds=INTERVAL_SECONDS)  # its worker fills in the parameters
        state = snapshot.state
        run = self._ensure_run(attempt, snapshot)
        if not state.get("params"):
            self._mlflow.log_params(run.id, flatten(job.spec))
            attempt.save(state | {"params": True})
            state["params"] = True
        self._send_series(attempt, run, state, snapshot.series)
        self._set_status(attempt, run, snapshot)
        if not job.is_terminal:
            return Outcome(again_seconds=INTERVAL_SECONDS)
        return Outcome(result=_registration(run, state))

    def _read(self, attempt: Attempt) -> _Snapshot:
        task = attempt.task
        with self._database.read() as session:
            job = jobs.get(session, task.project_id, task.job_id)
            digest = _digest(job.spec)
            # A retry with another spec is another run: parameters of a run cannot change.
            state: dict[str, Any] = dict(task.state) if task.state.get("spec") == digest else {"spec": digest}
            last_steps: dict[str, int] = state.setdefault("last_steps", {})
            return _Snapshot(
                job,
                session.get(Dataset, job.dataset_id),
                None if job.model_id is None else session.get(Model, job.model_id),
                jobs.list_artifacts(session, task.project_id, task.job_id),
                metrics.read_after(session, task.project_id, task.job_id, last_steps),
                state,
            )

    def _ensure_run(self, attempt: Attempt, snapshot: _Snapshot) -> MlflowRun:
        """Return the job's run; find or create it if its id is not saved."""
        job, state = snapshot.job, snapshot.state
        if "run" in state:
            return MlflowRun(**state["run"])
        name = job.metadata_.get(EXPERIMENT_KEY) or self._experiment
        experiment = self._mlflow.experiment(name)
        identity = {"potstill.job_id": job.id, "potstill.spec": state["spec"]}
        run = self._mlflow.find_run(experiment, identity)
        if run is None:
            started = job.started_at or job.created_at
            run = self._mlflow.create_run(
                experiment,
                name=job.name or job.id,
                start_ms=int(1000 * started.timestamp()),
                tags=identity | _run_tags(snapshot),
            )
        state["run"] = {"id": run.id, "experiment_id": run.experiment_id, "artifact_uri": run.artifact_uri}
        data = {"run_id": run.id, "experiment_id": run.experiment_id, "experiment": name}
        attempt.save(
            state,
            lambda session: events.record(
                session, job.id, "tracking.run_created", f"MLflow run {run.id} in the experiment {name}.", data=data
            ),
        )
        return run

    def _send_series(
        self, attempt: Attempt, run: MlflowRun, state: dict[str, Any], series: Sequence[metrics.Series]
    ) -> None:
        """Send the new points in batches; save the last step of each series after each batch."""
        now_ms = int(1000 * time.time())
        names = {}
        points = []
        for each in series:
            key = _metric_key(each.name)
            names[key] = each.name
            logged = self._mlflow.logged_steps(run.id, key) if attempt.task.is_repeated else set()
            points += [Metric(key, value, step, now_ms) for step, value in each.points if step not in logged]
        for batch in _batches(points, MAX_METRICS):
            self._mlflow.log_metrics(run.id, batch)
            state["last_steps"].update({names[point.key]: point.step for point in batch})
            attempt.save(state)
        if series:  # also those points that an interrupted attempt has sent
            state["last_steps"].update({each.name: each.points[-1][0] for each in series})
            attempt.save(state)

    def _set_status(self, attempt: Attempt, run: MlflowRun, snapshot: _Snapshot) -> None:
        """Set the run's status. A run ends after its results, files and model version are there."""
        job, state = snapshot.job, snapshot.state
        status = _STATUS.get(job.status, "RUNNING")
        if state.get("status") == status:
            return
        if job.status == "succeeded":
            self._send_result(attempt, run, snapshot)
        if job.error is not None:
            error = {"potstill.error": job.error["code"], "potstill.error_message": job.error["message"]}
            self._mlflow.set_tags(run.id, _shortened(error))
        ended = job.finished_at if job.is_terminal else None
        end_ms = None if ended is None else int(1000 * ended.timestamp())
        self._mlflow.update_run(run.id, status=status, end_ms=end_ms)
        state["status"] = status
        attempt.save(state, (lambda session: _record_end(session, job, run, state)) if job.is_terminal else None)

    def _send_result(self, attempt: Attempt, run: MlflowRun, snapshot: _Snapshot) -> None:
        state = snapshot.state
        if not state.get("result"):
            measures = list(_result_metrics(snapshot.job.result or {}))
            if attempt.task.is_repeated:
                measures = [m for m in measures if not self._mlflow.logged_steps(run.id, m.key)]
            for batch in _batches(measures, MAX_METRICS):
                self._mlflow.log_metrics(run.id, batch)
            state["result"] = True
            attempt.save(state)
        self._send_files(attempt, run, snapshot)
        if snapshot.model is not None and "version" not in state:
            state["model"] = self._registered_name(snapshot.job)
            state["version"] = self._register(state["model"], run, snapshot, snapshot.model)
            attempt.save(state)

    def _send_files(self, attempt: Attempt, run: MlflowRun, snapshot: _Snapshot) -> None:
        """Upload the artifacts, or name them in tags where the server takes no files."""
        state = snapshot.state
        if not run.stores_artifacts:
            links = {
                f"potstill.artifact.{artifact.name}": f"sha256:{artifact.sha256} "
                f"/v1/jobs/{artifact.job_id}/artifacts/{artifact.name}"
                for artifact in snapshot.artifacts
            }
            self._mlflow.set_tags(run.id, _shortened(links))
            return
        sent = state.setdefault("files", [])
        for artifact in snapshot.artifacts:
            if artifact.name not in sent:
                content = self._store.open(artifact.key)
                self._mlflow.put_artifact(run, f"{FOLDER}/{artifact.name}", content, artifact.size_bytes)
                sent.append(artifact.name)
                attempt.save(state)

    def _registered_name(self, job: Job) -> str:
        name = job.metadata_.get(MODEL_KEY) or self._model_name or job.name or DEFAULT_MODEL
        return _NOT_IN_NAME.sub("-", name).strip()[:MAX_KEY_CHARACTERS] or DEFAULT_MODEL

    def _register(self, name: str, run: MlflowRun, snapshot: _Snapshot, model: Model) -> str:
        """Add the student to its registered model; return the version."""
        job = snapshot.job
        if (version := self._mlflow.find_version(name, run.id)) is not None:
            return version
        self._mlflow.register_model(name, {"potstill": "student"})
        weights = next((artifact.sha256 for artifact in snapshot.artifacts if artifact.name == _WEIGHTS), None)
        tags = {
            "potstill.job_id": job.id,
            "potstill.model": model.id,
            "potstill.parent": model.parent_id,
            "potstill.sha256": weights,
            "potstill.architecture": model.architecture,
            "potstill.dataset_fingerprint": None if snapshot.dataset is None else snapshot.dataset.fingerprint,
        }
        return self._mlflow.create_version(
            name,
            source=f"{run.artifact_uri}/{FOLDER}",
            run_id=run.id,
            tags=_shortened(tags),
            description=f"Student of the Potstill job {job.id}.",
        )


def _record_end(session: Session, job: Job, run: MlflowRun, state: Mapping[str, Any]) -> None:
    """Add the job's event that its run is complete; with it, receivers of webhooks need not wait for MLflow."""
    data = _registration(run, state) | {"status": state["status"]}
    version = data["model_version"]
    registered = "" if version is None else f" Its student is version {version} of {data['registered_model']}."
    events.record(
        session, job.id, "tracking.finished", f"MLflow run {run.id} is {state['status']}.{registered}", data=data
    )


def _registration(run: MlflowRun, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of a run, and the registered model with its version; None without a student."""
    return {
        "run_id": run.id,
        "experiment_id": run.experiment_id,
        "registered_model": state.get("model"),
        "model_version": state.get("version"),
    }


def flatten(document: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, str]:
    """Return the leaves of a JSON document by dotted path, as parameters of a run: ``teachers.0.architecture``.

    Long values are shortened; ``report.json`` has the complete spec.
    """
    entries = document.items() if isinstance(document, Mapping) else enumerate(document)
    params: dict[str, str] = {}
    for key, value in entries:
        path = f"{prefix}{key}"
        if isinstance(value, Mapping | list) and value:
            params |= flatten(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            params[_NOT_IN_KEY.sub("_", path)[:MAX_KEY_CHARACTERS]] = text[:MAX_PARAM_CHARACTERS]
    return params


def _result_metrics(result: Mapping[str, Any]) -> Iterator[Metric]:
    """Return the measures of the result as series of one point: ``result/student/top1``."""
    now_ms = int(1000 * time.time())
    named = {"student": result.get("student"), "baseline": result.get("baseline")}
    named |= {f"teacher_{index}": measures for index, measures in enumerate(result.get("teachers") or ())}
    named |= {
        f"compressed_{index}_{measures.get('name')}": measures
        for index, measures in enumerate(result.get("compressed") or ())
    }
    for name, measures in {"": result, **named}.items():
        for key, value in (measures or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                path = "/".join(part for part in ("result", name, key) if part)
                yield Metric(_metric_key(path), float(value), 0, now_ms)


def _run_tags(snapshot: _Snapshot) -> dict[str, str]:
    job, dataset = snapshot.job, snapshot.dataset
    tags = {
        "mlflow.source.name": "potstill",
        "mlflow.source.type": "JOB",
        "potstill.project": job.project_id,
        "potstill.dataset": job.dataset_id,
        "potstill.dataset_fingerprint": None if dataset is None else dataset.fingerprint,
    }
    return _shortened(tags | {f"metadata.{key}": value for key, value in job.metadata_.items()})


def _shortened(tags: Mapping[str, str | None]) -> dict[str, str]:
    """Return the tags that have a value, within the server's limits."""
    return {
        _NOT_IN_KEY.sub("_", key)[:MAX_KEY_CHARACTERS]: value[:MAX_TAG_CHARACTERS]
        for key, value in tags.items()
        if value
    }


def _metric_key(name: str) -> str:
    return _NOT_IN_KEY.sub("_", name)[:MAX_KEY_CHARACTERS]


def _digest(spec: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _batches(items: Sequence[Metric], size: int) -> Iterator[Sequence[Metric]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
