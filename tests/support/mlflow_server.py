"""A stand-in of an MLflow server that checks each request against the published REST API.

Required fields, their types and limits, and the error codes follow https://mlflow.org/docs/latest/rest-api.html.
``tests/worker/scheduler/test_mlflow_server.py`` runs the same reports against a real server.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts/"
KEY = re.compile(r"[\w./ :-]{1,250}")
STATUSES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}


class Refused(Exception):
    def __init__(self, code, message, status=400):
        super().__init__(message)
        self.code, self.status = code, status


def field(request, name, kind):
    value = request.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise Refused("INVALID_PARAMETER_VALUE", f"Missing or invalid value for {name}: {value!r}")
    return value


def pairs(request, name, max_value, max_items):
    found = request.get(name, [])
    if len(found) > max_items:
        raise Refused("INVALID_PARAMETER_VALUE", f"too many {name}")
    for item in found:
        if not KEY.fullmatch(field(item, "key", str)) or len(field(item, "value", str)) > max_value:
            raise Refused("INVALID_PARAMETER_VALUE", f"{name}: {item}")
    return {item["key"]: item["value"] for item in found}


class MlflowStandIn:
    """Holds experiments, runs, files and models. ``break_after`` closes the connection after so many requests."""

    def __init__(self, *, token="", artifact_scheme="mlflow-artifacts:"):
        self.token, self.artifact_scheme = token, artifact_scheme
        self.experiments, self.runs, self.files, self.models, self.versions = {}, {}, {}, {}, []
        self.aliases = {}
        self.calls, self.break_after, self.status = [], None, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._handle(self)

            do_POST = do_PUT = do_GET  # noqa: N815 - names of the base class

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def run_of(self, job_id):
        """The only run of a job."""
        (run,) = [run for run in self.runs.values() if run["tags"].get("potstill.job_id") == job_id]
        return run

    def _handle(self, handler):
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.calls.append(f"{handler.command} {url.path.removeprefix(API)}")
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(handler, 401, {"error_code": "UNAUTHENTICATED", "message": "token"})
        if self.status is not None:
            return self._send(handler, self.status, {})
        try:
            answer = self._route(handler.command, url, body)
        except Refused as refused:
            return self._send(handler, refused.status, {"error_code": refused.code, "message": str(refused)})
        if self.break_after is not None:
            self.break_after -= 1
            if self.break_after < 0:  # the change is done, and its response is lost
                handler.close_connection = True
                return handler.connection.close()
        return self._send(handler, 200, answer)

    def _send(self, handler, status, document):
        content = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _route(self, method, url, body):
        if method == "PUT" and url.path.startswith(FILES):
            self.files[unquote(url.path.removeprefix(FILES))] = body
            return {}
        request = {key: value[0] for key, value in parse_qs(url.query).items()} if method == "GET" else json.loads(body)
        name = url.path.removeprefix(f"{API}/").replace("/", "_").replace("-", "_")
        return getattr(self, f"_{method.lower()}_{name}")(request)

    def _get_experiments_get_by_name(self, request):
        name = field(request, "experiment_name", str)
        if name not in self.experiments:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"no experiment {name}", 404)
        return {"experiment": {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}}

    def _post_experiments_create(self, request):
        self.experiments[field(request, "name", str)] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[request["name"]]}

    def _post_runs_create(self, request):
        experiment = field(request, "experiment_id", str)
        run_id = f"{len(self.runs):032x}"
        info = {
            "run_id": run_id,
            "experiment_id": experiment,
            "run_name": field(request, "run_name", str),
            "start_time": field(request, "start_time", int),
            "status": "RUNNING",
            "artifact_uri": f"{self.artifact_scheme}/{experiment}/{run_id}/artifacts",
        }
        self.runs[run_id] = {"info": info, "tags": pairs(request, "tags", 8000, 100), "params": {}, "metrics": []}
        return {"run": {"info": info, "data": {}}}

    def _post_runs_search(self, request):
        conditions = dict(re.findall(r"tags\.`([^`]+)` = '([^']*)'", field(request, "filter", str)))
        found = [
            {"info": run["info"]}
            for run in self.runs.values()
            if run["info"]["experiment_id"] in field(request, "experiment_ids", list)
            and conditions.items() <= run["tags"].items()
        ]
        return {"runs": found[: field(request, "max_results", int)]} if found else {}

    def _post_runs_log_batch(self, request):
        run = self._run(request)
        metrics = request.get("metrics", [])
        if len(metrics) > 1000:
            raise Refused("INVALID_PARAMETER_VALUE", "too many metrics")
        for metric in metrics:
            if not KEY.fullmatch(field(metric, "key", str)) or metric["value"] != "NaN":
                field(metric, "value", int | float)
            run["metrics"].append((metric["key"], field(metric, "step", int), metric["value"]))
            field(metric, "timestamp", int)
        for key, value in pairs(request, "params", 6000, 100).items():
            if run["params"].setdefault(key, value) != value:
                raise Refused("INVALID_PARAMETER_VALUE", f"Changing param values is not allowed: {key}")
        run["tags"] |= pairs(request, "tags", 8000, 100)
        return {}

    def _get_metrics_get_history(self, request):
        key = field(request, "metric_key", str)
        points = [
            {"key": k, "step": str(step), "value": value}
            for k, step, value in self._run(request)["metrics"]
            if k == key
        ]
        start = int(request.get("page_token", 0))
        end = start + int(request["max_results"])
        return {"metrics": points[start:end], **({"next_page_token": str(end)} if end < len(points) else {})}

    def _post_runs_update(self, request):
        run = self._run(request)
        if field(request, "status", str) not in STATUSES:
            raise Refused("INVALID_PARAMETER_VALUE", request["status"])
        run["info"] |= {"status": request["status"]} | (
            {"end_time": request["end_time"]} if "end_time" in request else {}
        )
        return {"run_info": run["info"]}

    def _post_registered_models_create(self, request):
        name = field(request, "name", str)
        if re.search(r"[/:]", name):
            raise Refused("INVALID_PARAMETER_VALUE", f"Invalid model name: {name}")
        if name in self.models:
            raise Refused("RESOURCE_ALREADY_EXISTS", name)
        self.models[name] = pairs(request, "tags", 5000, 100)
        return {"registered_model": {"name": name}}

    def _post_registered_models_alias(self, request):
        name = field(request, "name", str)
        if name not in self.models:
            raise Refused("RESOURCE_DOES_NOT_EXIST", name, 404)
        self.aliases[name, field(request, "alias", str)] = field(request, "version", str)
        return {}

    def _get_model_versions_search(self, request):
        name, run_id = re.fullmatch(r"name = '([^']*)' and run_id = '([^']*)'", field(request, "filter", str)).groups()
        found = [each for each in self.versions if (each["name"], each["run_id"]) == (name, run_id)]
        return {"model_versions": found} if found else {}

    def _post_model_versions_create(self, request):
        if field(request, "name", str) not in self.models:
            raise Refused("RESOURCE_DOES_NOT_EXIST", request["name"], 404)
        number = 1 + sum(each["name"] == request["name"] for each in self.versions)
        version = {
            "name": request["name"],
            "version": str(number),
            "run_id": field(request, "run_id", str),
            "source": field(request, "source", str),
            "tags": pairs(request, "tags", 5000, 100),
        }
        self.versions.append(version)
        return {"model_version": version}

    def _run(self, request):
        run_id = field(request, "run_id", str)
        if run_id not in self.runs:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"Run {run_id} not found", 404)
        return self.runs[run_id]
