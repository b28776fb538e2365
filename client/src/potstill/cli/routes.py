"""The command for each route of the API. Errors of the service name routes; the command line names the commands."""

from __future__ import annotations

import re

COMMANDS = {
    "GET /healthz": "status",
    "GET /readyz": "status",
    "GET /metrics": "status --metrics",
    "GET /v1/api-keys": "keys list",
    "POST /v1/api-keys": "keys create",
    "GET /v1/api-keys/{key_id}": "keys show",
    "DELETE /v1/api-keys/{key_id}": "keys revoke",
    "POST /v1/api-keys/{key_id}/rotate": "keys rotate",
    "GET /v1/architectures": "architectures",
    "GET /v1/audit-log": "audit-log",
    "GET /v1/datasets": "datasets list",
    "POST /v1/datasets": "datasets add",
    "GET /v1/datasets/{dataset_id}": "datasets show",
    "DELETE /v1/datasets/{dataset_id}": "datasets delete",
    "GET /v1/datasets/{dataset_id}/images/{split}/{index}": "datasets image",
    "POST /v1/estimates": "estimate",
    "GET /v1/jobs": "jobs list",
    "POST /v1/jobs": "jobs submit",
    "GET /v1/jobs/{job_id}": "jobs show",
    "DELETE /v1/jobs/{job_id}": "jobs delete",
    "GET /v1/jobs/{job_id}/artifacts": "jobs artifacts",
    "GET /v1/jobs/{job_id}/artifacts/{name}": "jobs download",
    "GET /v1/jobs/{job_id}/artifact-urls/{name}": "jobs url",
    "POST /v1/jobs/{job_id}/cancel": "jobs cancel",
    "GET /v1/jobs/{job_id}/checkpoints": "jobs checkpoints",
    "GET /v1/jobs/{job_id}/checkpoints/{checkpoint_id}/model.safetensors": "jobs download --checkpoint",
    "GET /v1/jobs/{job_id}/download": "jobs download --zip",
    "GET /v1/jobs/{job_id}/events": "jobs events",
    "GET /v1/jobs/{job_id}/logs": "jobs logs",
    "GET /v1/jobs/{job_id}/metrics": "jobs metrics",
    "POST /v1/jobs/{job_id}/pause": "jobs pause",
    "POST /v1/jobs/{job_id}/predictions": "jobs predict",
    "POST /v1/jobs/{job_id}/push": "jobs push",
    "GET /v1/jobs/{job_id}/pushes": "jobs pushes",
    "GET /v1/jobs/{job_id}/pushes/{push_id}": "jobs push",
    "POST /v1/jobs/{job_id}/resume": "jobs resume",
    "POST /v1/jobs/{job_id}/retry": "jobs retry",
    "POST /v1/jobs/{job_id}/stop": "jobs stop",
    "GET /v1/methods": "methods list",
    "GET /v1/methods/recommend": "methods recommend",
    "GET /v1/methods/{name}": "methods show",
    "GET /v1/models": "models list",
    "POST /v1/models": "models add",
    "GET /v1/models/{model_id}": "models show",
    "DELETE /v1/models/{model_id}": "models delete",
    "GET /v1/models/{model_id}/lineage": "models lineage",
    "GET /v1/sweeps": "sweeps list",
    "POST /v1/sweeps": "sweeps create",
    "POST /v1/sweeps/estimate": "sweeps estimate",
    "GET /v1/sweeps/{sweep_id}": "sweeps show",
    "DELETE /v1/sweeps/{sweep_id}": "sweeps delete",
    "POST /v1/sweeps/{sweep_id}/cancel": "sweeps cancel",
    "GET /v1/uploads": "uploads list",
    "OPTIONS /v1/uploads": "uploads limits",
    "POST /v1/uploads": "uploads send",
    "GET /v1/uploads/{upload_id}": "uploads show",
    "PATCH /v1/uploads/{upload_id}": "uploads send",
    "DELETE /v1/uploads/{upload_id}": "uploads delete",
    "POST /v1/uploads/{upload_id}/direct": "uploads send --direct",
    "POST /v1/uploads/{upload_id}/complete": "uploads send --direct",
    "GET /v1/usage": "usage",
    "GET /v1/usage/history": "usage --history",
    "GET /v1/webhooks": "webhooks list",
    "POST /v1/webhooks": "webhooks add",
    "GET /v1/webhooks/{webhook_id}": "webhooks show",
    "PATCH /v1/webhooks/{webhook_id}": "webhooks change",
    "DELETE /v1/webhooks/{webhook_id}": "webhooks delete",
    "GET /v1/webhooks/{webhook_id}/deliveries": "webhooks deliveries",
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": "webhooks delivery",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": "webhooks redeliver",
    "POST /v1/webhooks/{webhook_id}/rotate": "webhooks rotate",
    "POST /v1/webhooks/{webhook_id}/test": "webhooks test",
    "GET /v1/workers": "workers",
}

_ROUTE = re.compile(r"`?(?:\b(GET|POST|PUT|PATCH|DELETE|OPTIONS) )?(/v1/[\w/{}…-]+|/healthz|/readyz|/metrics)`?")
_QUERY = "query parameter: "
_PARAMETER = re.compile(r"\{\w+\}|\b[a-z]+_[0-9a-z]{26}\b")  # also an id in its place


def name_commands(text: str) -> str:
    """Replace the routes that a text names by commands: ``GET /v1/methods`` becomes ``potstill methods list``."""
    method = "GET"

    def command(match: re.Match[str]) -> str:
        nonlocal method
        method = match[1] or method  # `DELETE /v1/jobs/…, /v1/models/…` names the method once
        found = _BY_SHAPE.get(f"{method} {_PARAMETER.sub('…', match[2])}")
        return f"`potstill {found}`" if found else match[0]

    return _ROUTE.sub(command, text)


def name_option(pointer: str, detail: str) -> tuple[str, str]:
    """Replace the pointer of a query parameter by the option that sets it: ``/status/0`` becomes ``--status``."""
    if not detail.startswith(_QUERY):
        return pointer, detail
    return f"--{pointer.split('/')[1].replace('_', '-')}", detail.removeprefix(_QUERY)


_BY_SHAPE = {_PARAMETER.sub("…", route): command for route, command in COMMANDS.items()}
