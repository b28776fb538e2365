"""Columns of the job list: label, value, and the order they sort by. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from api.dashboard import formats, views
from core.store.jobs import SortKey

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a user may show. ``sort`` is its order of the list, if it has one."""

    name: str
    label: str
    text: Callable[[Document], str]
    sort: SortKey | None = None
    is_number: bool = False


def _student(key: str, form: Callable[[float | None], str]) -> Callable[[Document], str]:
    def text(job: Document) -> str:
        return form(job["result"]["student"].get(key)) if job["result"] else formats.UNKNOWN

    return text


def _gain(job: Document) -> str:
    gain = ((job["result"] or {}).get("baseline") or {}).get("gain")
    return formats.points(gain)


def _agreement(job: Document) -> str:
    return formats.percent(job["result"]["agreement"]) if job["result"] else formats.UNKNOWN


def _teachers(job: Document) -> str:
    return ", ".join(teacher["architecture"] for teacher in job["spec"].get("teachers") or []) or formats.UNKNOWN


def _metadata(job: Document) -> str:
    return ", ".join(f"{key}: {value}" for key, value in job["metadata"].items()) or formats.UNKNOWN


def _epochs(job: Document) -> str:
    return str((job["spec"].get("training") or {}).get("epochs") or formats.UNKNOWN)


_ALL = (
    Column("top1", "Top-1", _student("top1", formats.percent), "top1", is_number=True),
    Column("gain", "Gain, points", _gain, "gain", is_number=True),
    Column("agreement", "Agreement", _agreement, is_number=True),
    Column("seconds", "Time", lambda job: formats.duration(views.elapsed_seconds(job)), "seconds", is_number=True),
    Column("parameters", "Parameters", _student("parameters", formats.short), "parameters", is_number=True),
    Column("flops", "FLOPs", _student("flops", formats.short), "flops", is_number=True),
    Column("size_bytes", "Size", _student("size_bytes", formats.size), "size_bytes", is_number=True),
    Column("latency_ms", "Latency", _student("latency_ms", formats.milliseconds), "latency_ms", is_number=True),
    Column("method", "Method", lambda job: str(job["spec"]["method"]["name"])),
    Column("student", "Student", lambda job: str(job["spec"]["student"]["architecture"])),
    Column("teachers", "Teachers", _teachers),
    Column("dataset", "Dataset", lambda job: str(job["dataset_name"])),
    Column("epochs", "Epochs", _epochs, is_number=True),
    Column(
        "seed",
        "Seed",
        lambda job: str((job["spec"].get("training") or {}).get("seed", formats.UNKNOWN)),
        is_number=True,
    ),
    Column("metadata", "Metadata", _metadata),
    Column("id", "Id", lambda job: str(job["id"])),
)
COLUMNS: Mapping[str, Column] = {column.name: column for column in _ALL}
DEFAULT_COLUMNS = ("top1",)


def chosen_columns(names: Iterable[str]) -> list[Column]:
    """Return the columns with these names, in their fixed order; unknown names are left out."""
    chosen = set(names)
    return [column for column in _ALL if column.name in chosen]
