"""The inspector's calls: they need torch and timm, and serve processes that import neither.

Only the pool's process of an inspector imports this module (see ``worker.app.PRELOAD``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog
import timm
import torch
from billiard.exceptions import SoftTimeLimitExceeded

from core.broker import InspectorTimeout
from core.errors import InvalidRequest, InvalidSpec, NotAvailable, PotstillError, error_document
from core.models import catalog
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo, ModelInfo
from core.system.processor_time import ProcessorTimeExceeded, limit_processor_time
from worker.predictions import predict
from worker.process.forked import limit_memory
from worker.process.usage import free_memory

Response = dict[str, Any]

# A spec that needs more memory raises a MemoryError in this process and gets a response.
MEMORY_BYTES = 6 * 1024**3
_CACHE_SIZE = 1024

log = structlog.get_logger(__name__)
_responses: OrderedDict[str, Response] = OrderedDict()


def warm_up() -> None:
    """Load the catalog, so that the first call is as fast as later ones; limit the memory of huge specs."""
    limit_memory(MEMORY_BYTES)
    torch.set_num_threads(1)  # jobs train on the same machine
    catalog.search("", 1)


def handle_call(
    call: str,
    payload: dict[str, Any],
    *,
    processor_seconds: float | None = None,
    start_seconds: float = math.inf,
) -> Response:
    """Return ``{"ok": …}`` or ``{"error": …}``; repeated calls are served from a cache.

    ``resolve_many`` has a response of ``resolve`` for each of its first requests: no other one starts after
    ``start_seconds``, and ``processor_seconds`` limit each of them.
    """
    if call == "resolve_many":
        deadline = time.monotonic() + start_seconds
        return {"ok": {"responses": list(_resolve_until(deadline, payload["requests"], processor_seconds))}}
    return _respond(call, payload, processor_seconds)


def _respond(call: str, payload: dict[str, Any], processor_seconds: float | None) -> Response:
    """Return the response to a call, from the cache if it is a repeated one.

    A spec is at fault only for what it costs itself: more than ``processor_seconds`` of computation, or more than the
    memory limit. What other processes of the machine take is an :class:`InspectorTimeout`.
    """
    key = hashlib.sha256(json.dumps([call, payload], sort_keys=True).encode()).hexdigest()
    if key in _responses:
        _responses.move_to_end(key)
        return _responses[key]
    try:
        with limit_processor_time(processor_seconds):
            response: Response = {"ok": _CALLS[call](payload)}
    except PotstillError as error:
        response = {"error": error_document(error)}
        if not isinstance(error, InvalidRequest):  # temporary: the next call may succeed
            return response
    except ProcessorTimeExceeded:
        response = {"error": error_document(_too_expensive(call, "takes too long to build"))}
    except SoftTimeLimitExceeded:
        return {"error": error_document(InspectorTimeout("The machine is busy; try again soon."))}
    except MemoryError:
        if (free := free_memory()) is not None and free < MEMORY_BYTES:
            return {"error": error_document(InspectorTimeout("The machine is short of memory; try again soon."))}
        return {"error": error_document(_too_expensive(call, "needs too much memory"))}
    _responses[key] = response
    if len(_responses) > _CACHE_SIZE:
        _responses.popitem(last=False)
    return response


def _resolve_until(
    deadline: float, requests: Iterable[dict[str, Any]], processor_seconds: float | None
) -> Iterator[Response]:
    """Yield the responses to the first requests: at least one, and those that start before ``deadline``."""
    for request in requests:
        yield _respond("resolve", request, processor_seconds)
        if time.monotonic() >= deadline:
            return


def _too_expensive(call: str, problem: str) -> InvalidRequest:
    if call == "predict":
        return NotAvailable(f"The student {problem} for a prediction here; download it and run it elsewhere.")
    return InvalidSpec(f"A model of this spec {problem}; make it smaller (depth, widths, image size).")


def _ping(_: dict[str, Any]) -> Response:
    return {"torch": torch.__version__, "timm": timm.__version__}


def _resolve(payload: dict[str, Any]) -> Response:
    resolution = resolve(
        parse_job_spec(payload["spec"]),
        DatasetInfo.model_validate(payload["dataset"]),
        {name: ModelInfo.model_validate(info) for name, info in payload["models"].items()},
        datasets={name: DatasetInfo.model_validate(info) for name, info in payload["datasets"].items()},
        threads=payload["threads"],
        memory_bytes=payload.get("memory_bytes"),
    )
    return {"spec": resolution.spec.model_dump(mode="json"), "estimate": resolution.estimate}


def _architectures(payload: dict[str, Any]) -> Response:
    entries = catalog.search(payload["search"] or "", payload["limit"])
    return {"data": [entry.to_json() for entry in entries]}


def _architecture(payload: dict[str, Any]) -> Response:
    return {"name": catalog.canonical_name(payload["name"])}


_CALLS: dict[str, Callable[[dict[str, Any]], Response]] = {
    "ping": _ping,
    "resolve": _resolve,
    "architectures": _architectures,
    "architecture": _architecture,
    "predict": predict,
}
