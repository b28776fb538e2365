"""What the inspector answers: questions that need torch and timm, asked by a process that has neither.

Imported by the pool's process of an inspector alone (see ``worker.app.PRELOAD``).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog
import timm
import torch
from billiard.exceptions import SoftTimeLimitExceeded

from core.errors import InvalidRequest, InvalidSpec, PotstillError, error_document
from core.models import catalog
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.facts import DatasetInfo, ModelInfo
from worker.process.forked import limit_memory

Answer = dict[str, Any]

# A spec that wants all of the machine's memory gets a MemoryError of this process, and an answer.
MEMORY_BYTES = 6 * 1024**3
_REMEMBERED = 1024

log = structlog.get_logger(__name__)
_answers: OrderedDict[str, Answer] = OrderedDict()


def warm_up() -> None:
    """Make the first question as fast as the later ones, and a mad one harmless."""
    limit_memory(MEMORY_BYTES)
    torch.set_num_threads(1)  # jobs are training beside this
    catalog.search("", 1)


def answer(question: str, payload: dict[str, Any]) -> Answer:
    """``{"ok": …}`` or ``{"error": …}``; the same question is answered from memory the second time."""
    key = hashlib.sha256(json.dumps([question, payload], sort_keys=True).encode()).hexdigest()
    if key in _answers:
        _answers.move_to_end(key)
        return _answers[key]
    try:
        found: Answer = {"ok": _QUESTIONS[question](payload)}
    except PotstillError as error:
        found = {"error": error_document(error)}
        if not isinstance(error, InvalidRequest):  # the network may be back the next time
            return found
    except SoftTimeLimitExceeded:
        return {"error": error_document(_too_dear("takes too long to build"))}
    except MemoryError:
        return {"error": error_document(_too_dear("needs too much memory"))}
    _answers[key] = found
    if len(_answers) > _REMEMBERED:
        _answers.popitem(last=False)
    return found


def _too_dear(what: str) -> InvalidSpec:
    return InvalidSpec(f"A model of this spec {what}; make it smaller (depth, widths, image size).")


def _ping(_: dict[str, Any]) -> Answer:
    return {"torch": torch.__version__, "timm": timm.__version__}


def _resolve(payload: dict[str, Any]) -> Answer:
    resolution = resolve(
        parse_job_spec(payload["spec"]),
        DatasetInfo.model_validate(payload["dataset"]),
        {name: ModelInfo.model_validate(facts) for name, facts in payload["models"].items()},
        datasets={name: DatasetInfo.model_validate(facts) for name, facts in payload["datasets"].items()},
        threads=payload["threads"],
    )
    return {"spec": resolution.spec.model_dump(mode="json"), "estimate": resolution.estimate}


def _architectures(payload: dict[str, Any]) -> Answer:
    found = catalog.search(payload["search"] or "", payload["limit"])
    return {"data": [entry.to_json() for entry in found]}


_QUESTIONS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "ping": _ping,
    "resolve": _resolve,
    "architectures": _architectures,
}
