"""Client of an MLflow server: the part of its REST API (2.0) that a job needs.

MLflow's own client opens connections of its own, follows redirects and reads the environment, so it cannot be confined
to the configured address; it also brings the packages of a server. Its REST API is documented and stable.
Source: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from core.fetch.service_client import ServiceClient, ServiceUnreachable
from core.outbound_errors import TrackingRejected, TrackingUnavailable

# Limits of one request of `runs/log-batch`.
MAX_METRICS = 1_000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_PARAM_CHARACTERS = 500
MAX_TAG_CHARACTERS = 5_000
MAX_KEY_CHARACTERS = 250

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_ARTIFACT_SCHEME = "mlflow-artifacts:"  # of a server that stores files on behalf of its clients
_PAGE = 1_000
_MIN_BYTES_PER_SECOND = 1_000_000  # slowest upload that is waited for
_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
# The operator can mend a token and an overload; everything else below 500 is final.
_TEMPORARY_STATUSES = frozenset({401, 403, 408, 421, 425, 429})


@dataclass(frozen=True, slots=True)
class MlflowRun:
    """A run: its id, its experiment, and where its artifacts are."""

    id: str
    experiment_id: str
    artifact_uri: str

    @property
    def stores_artifacts(self) -> bool:
        """Whether the server itself takes artifacts; else they are in a store to which only its clients have access."""
        return self.artifact_uri.startswith(_ARTIFACT_SCHEME)


@dataclass(frozen=True, slots=True)
class Metric:
    """One point of a series."""

    key: str
    value: float | None  # None: not finite
    step: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Mlflow:
    """Calls of the REST API. All raise :class:`TrackingUnavailable` and :class:`TrackingRejected`."""

    client: ServiceClient

    def experiment(self, name: str) -> str:
        """Return the id of the experiment with this name; create it if it does not exist."""
        found = self._get_experiment(name)
        if found is None:
            status, body = self._send("POST", "/experiments/create", {"name": name})
            if status == 200:
                return str(body["experiment_id"])
            if body.get("error_code") != _EXISTS:
                raise self._error(status, body)
            found = self._get_experiment(name)
            if found is None:
                raise TrackingRejected(f"The experiment {name} of {self.client.host} exists but cannot be read.")
        return found

    def find_run(self, experiment_id: str, tags: Mapping[str, str]) -> MlflowRun | None:
        """Return the newest run with these tags."""
        conditions = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        request = {"experiment_ids": [experiment_id], "filter": conditions, "max_results": 1}
        runs = self._post("/runs/search", request).get("runs") or []
        return _run(runs[0]) if runs else None

    def create_run(self, experiment_id: str, *, name: str, start_ms: int, tags: Mapping[str, str]) -> MlflowRun:
        """Create a run."""
        request = {"experiment_id": experiment_id, "run_name": name, "start_time": start_ms, "tags": _pairs(tags)}
        return _run(self._post("/runs/create", request)["run"])

    def update_run(self, run_id: str, *, status: str, end_ms: int | None) -> None:
        """Set the status of a run, and its end."""
        end = {} if end_ms is None else {"end_time": end_ms}
        self._post("/runs/update", {"run_id": run_id, "status": status, **end})

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters; the same values again change nothing."""
        for batch in _batches(_pairs(params), MAX_PARAMS):
            self._post("/runs/log-batch", {"run_id": run_id, "params": batch})

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Log up to ``MAX_METRICS`` points."""
        points = [
            {"key": m.key, "value": "NaN" if m.value is None else m.value, "timestamp": m.timestamp_ms, "step": m.step}
            for m in metrics
        ]
        self._post("/runs/log-batch", {"run_id": run_id, "metrics": points})

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        for batch in _batches(_pairs(tags), MAX_TAGS):
            self._post("/runs/log-batch", {"run_id": run_id, "tags": batch})

    def logged_steps(self, run_id: str, key: str) -> set[int]:
        """Return the steps of a series that the server has."""
        steps: set[int] = set()
        token = ""
        while True:
            query = {
                "run_id": run_id,
                "metric_key": key,
                "max_results": _PAGE,
                **({"page_token": token} if token else {}),
            }
            page = self._get("/metrics/get-history", query) or {}
            steps |= {int(point.get("step", 0)) for point in page.get("metrics", ())}
            token = page.get("next_page_token") or ""
            if not token:
                return steps

    def put_artifact(self, run: MlflowRun, path: str, content: Iterable[bytes], size_bytes: int) -> None:
        """Write a file below the artifacts of a run whose ``stores_artifacts`` is true; again is the same."""
        root = run.artifact_uri.removeprefix(_ARTIFACT_SCHEME).strip("/")
        seconds = max(self.client.timeout_seconds, size_bytes / _MIN_BYTES_PER_SECOND)
        target = f"{_ARTIFACTS}/{quote(f'{root}/{path}', safe='/')}"
        status, body = self._exchange(
            "PUT", target, content, size_bytes=size_bytes, content_type="application/octet-stream", seconds=seconds
        )
        if status != 200:
            raise self._error(status, body)

    def register_model(self, name: str, tags: Mapping[str, str]) -> None:
        """Create the registered model if it does not exist."""
        status, body = self._send("POST", "/registered-models/create", {"name": name, "tags": _pairs(tags)})
        if status != 200 and body.get("error_code") != _EXISTS:
            raise self._error(status, body)

    def find_version(self, name: str, run_id: str) -> str | None:
        """Return the newest version of a registered model that comes from a run."""
        query = {"filter": f"name = '{name}' and run_id = '{run_id}'", "max_results": 1}
        versions = (self._get("/model-versions/search", query) or {}).get("model_versions") or []
        return str(versions[0]["version"]) if versions else None

    def create_version(self, name: str, *, source: str, run_id: str, tags: Mapping[str, str], description: str) -> str:
        """Add a version to a registered model, and return its number."""
        request = {"name": name, "source": source, "run_id": run_id, "tags": _pairs(tags), "description": description}
        return str(self._post("/model-versions/create", request)["model_version"]["version"])

    def _get_experiment(self, name: str) -> str | None:
        found = self._get("/experiments/get-by-name", {"experiment_name": name})
        if found is None:
            return None
        if found["experiment"].get("lifecycle_stage", "active") != "active":
            raise TrackingRejected(f"The experiment {name} of {self.client.host} is deleted; restore or rename it.")
        return str(found["experiment"]["experiment_id"])

    def _post(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        status, body = self._send("POST", path, request)
        if status != 200:
            raise self._error(status, body)
        return body

    def _get(self, path: str, query: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the response; None if the object does not exist."""
        status, body = self._exchange("GET", f"{_API}{path}?{urlencode(query)}", b"")
        if status == 404 and body.get("error_code") == _NOT_FOUND:
            return None
        if status != 200:
            raise self._error(status, body)
        return body

    def _send(self, method: str, path: str, request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        return self._exchange(method, f"{_API}{path}", json.dumps(request).encode())

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes],
        *,
        size_bytes: int | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> tuple[int, dict[str, Any]]:
        try:
            response = self.client.request(
                method, path, body, size_bytes=size_bytes, content_type=content_type, timeout_seconds=seconds
            )
        except ServiceUnreachable as error:
            raise TrackingUnavailable(f"{error}.") from None
        try:
            document = json.loads(response.body or b"{}")
        except ValueError:
            document = None
        if not isinstance(document, dict):
            if response.status == 200:
                raise TrackingUnavailable(f"{self.client.host} did not answer like an MLflow server.")
            document = {}
        return response.status, document

    def _error(self, status: int, body: Mapping[str, Any]) -> TrackingRejected | TrackingUnavailable:
        message = " ".join(str(body.get("message") or "").split())[:300]
        detail = f"{self.client.host} answered {status}{f': {message}' if message else ''}"
        is_temporary = status >= 500 or status in _TEMPORARY_STATUSES or status in range(300, 400)
        return (TrackingUnavailable if is_temporary else TrackingRejected)(detail)


def authorization(token: str) -> dict[str, str]:
    """Return the header for a bearer token, or for ``user:password``; none for an empty token."""
    if not token:
        return {}
    if ":" in token:
        return {"Authorization": f"Basic {base64.b64encode(token.encode()).decode('ascii')}"}
    return {"Authorization": f"Bearer {token}"}


def _run(document: Mapping[str, Any]) -> MlflowRun:
    info = document["info"]
    return MlflowRun(str(info["run_id"]), str(info["experiment_id"]), str(info["artifact_uri"]))


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _batches(items: Sequence[dict[str, str]], size: int) -> Iterator[Sequence[dict[str, str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
