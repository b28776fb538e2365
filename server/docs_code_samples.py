"""Write the examples in Python of the API reference: calls of the client, from its signatures and the OpenAPI document.

The method of an operation follows from its path (``POST /v1/jobs/{job_id}/cancel``: ``jobs.cancel``); :data:`METHODS`
names the others. Tests run every example against a service that records its requests.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from api.code_samples import example_value, operations
from potstill import Potstill
from server.docs_client import format_source

# Methods of the client by operation id, where the path does not name them.
METHODS = {
    "healthz": "service.health",
    "readyz": "service.ready",
    "metrics": "service.prometheus_metrics",
    "revoke_key": "keys.revoke",
    "list_audit_log": "service.audit_log",
    "get_usage": "service.usage",
    "get_usage_history": "service.usage_history",
    "list_workers": "service.workers",
    "get_image": "datasets.image",
    "get_push": "jobs.get_push",
    "estimate_job": "jobs.estimate",
    "estimate_sweep_jobs": "sweeps.estimate",
    "predict_image": "jobs.predict",
    "list_events": "jobs.past_events",
    "download_artifact": "jobs.download",
    "download_all": "jobs.download_zip",
    "download_checkpoint": "jobs.download_checkpoint",
    "get_artifact_url": "jobs.artifact_url",
    "recommend_methods": "methods.recommend",
    "create_model": "models.upload",
    "get_upload_options": "uploads.limits",
    "append_to_upload": "uploads.append",
    "get_direct_url": "uploads.direct_url",
    "get_delivery": "webhooks.get_delivery",
    "redeliver": "webhooks.redeliver",
}
_COLLECTIONS = {"api-keys": "keys"}
_COLLECTION_METHODS = {"get": "list", "post": "create"}
_OBJECT_METHODS = {"get": "get", "delete": "delete", "patch": "change"}
# Arguments of the client that are no parameters of the API.
_ARGUMENTS: Mapping[str, Any] = {
    "folder": "student",
    "path": "weights.safetensors",
    "image": "image.png",
    "size_bytes": 1_048_576,
    "offset": 0,
    "content": b"...",
}
_SEPARATOR = "# operation: "


def python_samples(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the examples by operation id. Raises ``ValueError`` for an operation whose method is not found."""
    with Potstill("http://localhost:8000", "ps_key") as client:
        samples = {
            operation["operationId"]: _sample(client, path, method, operation)
            for path, method, operation in operations(document)
        }
    text = format_source("".join(f"{_SEPARATOR}{name}\n{sample}\n" for name, sample in samples.items()))
    parts = re.split(rf"^{_SEPARATOR}(\w+)$", text, flags=re.MULTILINE)
    return {name: sample.strip() for name, sample in zip(parts[1::2], parts[2::2], strict=True)}


def _sample(client: Potstill, path: str, method: str, operation: Mapping[str, Any]) -> str:
    name = METHODS.get(operation["operationId"]) or _method_by_path(path, method)
    resource, _, attribute = name.partition(".")
    function = getattr(getattr(client, resource, None), attribute, None)
    if function is None:
        raise ValueError(
            f"{operation['operationId']}: the client has no {name}; add the method to METHODS in {__name__}"
        )
    call = f"client.{name}({', '.join(_arguments(function, path, operation))})"
    returned = str(inspect.signature(function).return_annotation)
    if returned.startswith("Iterator"):
        call = f"for item in {call}:\n    print(item)"
    elif returned != "None":
        call = f"result = {call}\nprint(result)"
    body = call.replace("\n", "\n    ")
    return (
        f"from potstill import Potstill\n\nwith Potstill() as client:  # POTSTILL_URL and POTSTILL_API_KEY\n    {body}"
    )


def _method_by_path(path: str, method: str) -> str:
    collection, *rest = path.removeprefix("/v1/").split("/")
    resource = _COLLECTIONS.get(collection, collection)
    match rest:
        case []:
            attribute = _COLLECTION_METHODS.get(method, method)
        case [_]:
            attribute = _OBJECT_METHODS.get(method, method)
        case _:
            attribute = rest[-1].replace("-", "_")
    return f"{resource}.{attribute}"


def _arguments(function: Callable[..., Any], path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the arguments: required ones, and optional ones that the example of the body has."""
    parameters: Sequence[Mapping[str, Any]] = operation.get("parameters", ())
    values = {**_ARGUMENTS, **{each["name"]: example_value(path, each) for each in parameters}}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example") or {}
    for name, parameter in inspect.signature(function).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_KEYWORD or not (is_required or name in body):
            continue
        value = body if name == "spec" else body.get(name, values.get(name, name.upper()))
        is_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY or not is_required
        yield f"{name}={value!r}" if is_keyword else repr(value)
