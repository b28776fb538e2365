"""Lineage of a model: the networks and jobs that it was made from, and those that were made from it.

Edges follow from rows: a job's spec names the models that it reads, a model names its job and its parent. Of a deleted
job or model, only the id is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.models import get as get_model
from core.store.tables import Checkpoint, Job, JobReference, Model

MAX_NODES = 200
_STORED = ("mdl_", "job_", "ckpt_")  # ids of stored weights in a spec

Kind = Literal["model", "job", "teacher", "artifact", "checkpoint"]
Role = Literal["teacher", "initial_weights", "student", "compressed", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Node:
    """A model, a job, a network that a job built as a teacher, a compressed file or a checkpoint of a job.

    Teachers and artifacts have no id of their own: theirs is that of the job and a suffix. ``details`` is empty for a
    deleted object.
    """

    id: str
    kind: Kind
    name: str | None = None
    exists: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """``target`` was made from ``source``, which was its teacher, its initial weights and so on."""

    source: str
    target: str
    role: Role


@dataclass(frozen=True, slots=True)
class Lineage:
    """Nodes, nearest first, and edges between them. ``is_truncated``: there are more than ``MAX_NODES``."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    is_truncated: bool


def lineage(session: Session, project_id: str, model_id: str) -> Lineage:
    """Return the lineage of a model of the project. Raises ``NotFound``."""
    get_model(session, project_id, model_id)
    return _Search(session, project_id).run(model_id)


def parent_of_student(session: Session, project_id: str, spec: Mapping[str, Any]) -> str | None:
    """Return the model that a job's student was made from: its initial weights, or else its first stored teacher."""
    references = [reference for reference, role in _references(spec) if role == "initial_weights"]
    references += [reference for reference, role in _references(spec) if role == "teacher"]
    search = _Search(session, project_id)
    return next((model for model in map(search.model_of, references) if model is not None), None)


class _Search:
    """Breadth-first search in both directions."""

    def __init__(self, session: Session, project_id: str) -> None:
        self._session = session
        self._project_id = project_id
        self._nodes: dict[str, Node] = {}
        self._edges: dict[Edge, None] = {}

    def run(self, start: str) -> Lineage:
        pending, is_truncated = deque([start]), False
        while pending:
            identifier = pending.popleft()
            if identifier in self._nodes:
                continue
            if len(self._nodes) >= MAX_NODES:
                is_truncated = True
                break
            edges = list(self._visit(identifier))
            self._edges.update(dict.fromkeys(edges))
            pending.extend(end for edge in edges for end in (edge.source, edge.target))
        edges = [edge for edge in self._edges if edge.source in self._nodes and edge.target in self._nodes]
        return Lineage(tuple(self._nodes.values()), tuple(edges), is_truncated)

    def model_of(self, reference: str) -> str | None:
        """Return the model that a reference of a spec names; None for a checkpoint, or if it is deleted."""
        if reference.startswith("mdl_"):
            return reference
        if reference.startswith("ckpt_"):
            return None
        job = self._job(reference)
        return None if job is None else job.model_id

    def _visit(self, identifier: str) -> Iterator[Edge]:
        """Add the node, and yield its edges."""
        if identifier.startswith("mdl_"):
            yield from self._visit_model(identifier)
        elif identifier.startswith("ckpt_"):
            yield from self._visit_checkpoint(identifier)
        elif identifier.startswith("job_") and "/" not in identifier:
            yield from self._visit_job(identifier)

    def _visit_model(self, model_id: str) -> Iterator[Edge]:
        statement = select(Model).where(Model.id == model_id, Model.project_id == self._project_id)
        model = self._session.scalars(statement).one_or_none()
        if model is None:
            self._nodes[model_id] = Node(model_id, "model", exists=False)
            return
        details = {"architecture": model.architecture, "parameters": model.parameters, "status": model.status}
        self._nodes[model_id] = Node(model_id, "model", model.name, details=details)
        names = [model_id]
        parent = None if model.parent_id is None else self._session.get(Model, model.parent_id)
        if parent is not None and model.job_id is not None and parent.job_id == model.job_id:
            yield Edge(parent.id, model_id, "compressed")
        elif model.job_id is not None:
            yield Edge(model.job_id, model_id, "student")
            names.append(model.job_id)
        children = select(Model).where(
            Model.parent_id == model_id, Model.project_id == self._project_id, Model.job_id == model.job_id
        )
        for child in self._session.scalars(children.order_by(Model.id).limit(MAX_NODES)):
            yield Edge(model_id, child.id, "compressed")
        yield from self._readers(model_id, names)

    def _readers(self, model_id: str, names: list[str]) -> Iterator[Edge]:
        """Yield an edge to each job that reads the model, by its own id or by that of its job."""
        statement = (
            select(Job)
            .join(JobReference, JobReference.job_id == Job.id)
            .where(JobReference.object_id.in_(names), JobReference.project_id == self._project_id)
            .order_by(Job.id)
            .limit(MAX_NODES)
        )
        for job in self._session.scalars(statement):
            for reference, role in _references(job.spec):
                if reference in names:
                    yield Edge(model_id, job.id, role)

    def _visit_checkpoint(self, checkpoint_id: str) -> Iterator[Edge]:
        statement = select(Checkpoint).where(Checkpoint.id == checkpoint_id, Checkpoint.project_id == self._project_id)
        checkpoint = self._session.scalars(statement).one_or_none()
        if checkpoint is None:
            self._nodes[checkpoint_id] = Node(checkpoint_id, "checkpoint", exists=False)
            return
        details = {"job": checkpoint.job_id, "step": checkpoint.step, "epoch": checkpoint.epoch}
        self._nodes[checkpoint_id] = Node(checkpoint_id, "checkpoint", f"step {checkpoint.step}", details=details)
        yield Edge(checkpoint.job_id, checkpoint_id, "checkpoint")
        yield from self._readers(checkpoint_id, [checkpoint_id])

    def _visit_job(self, job_id: str) -> Iterator[Edge]:
        job = self._job(job_id)
        if job is None:
            self._nodes[job_id] = Node(job_id, "job", exists=False)
            return
        details = {"method": job.spec.get("method", {}).get("name"), "dataset": job.dataset_id, "status": job.status}
        self._nodes[job_id] = Node(job_id, "job", job.name, details=details)
        for reference, role in _references(job.spec):
            yield Edge(self.model_of(reference) or reference, job_id, role)
        for index, teacher in enumerate(_own_teachers(job.spec)):
            node_id = f"{job_id}/teachers/{index}"
            details = {"architecture": teacher["architecture"], "weights": teacher["weights"]}
            self._nodes[node_id] = Node(node_id, "teacher", teacher["architecture"], details=details)
            yield Edge(node_id, job_id, "teacher")
        yield from self._read_checkpoints(job_id)
        if job.model_id is not None:
            yield Edge(job_id, job.model_id, "student")
            yield from self._compressed(job, job.model_id)

    def _read_checkpoints(self, job_id: str) -> Iterator[Edge]:
        """Yield an edge to each checkpoint of the job that another job starts from."""
        read = select(JobReference.object_id).where(JobReference.project_id == self._project_id)
        statement = select(Checkpoint.id).where(Checkpoint.job_id == job_id, Checkpoint.id.in_(read))
        for checkpoint_id in self._session.scalars(statement.order_by(Checkpoint.id).limit(MAX_NODES)):
            yield Edge(job_id, checkpoint_id, "checkpoint")

    def _compressed(self, job: Job, student: str) -> Iterator[Edge]:
        """Yield an edge to each compressed file of the job, in the order of its steps.

        A file with torch weights is a model, and the steps after it change that model.
        """
        network = student
        for entry in (job.result or {}).get("compressed", []):
            if entry.get("model") is not None:
                yield Edge(network, entry["model"], "compressed")
                network = entry["model"]
            elif entry.get("artifact") is not None:
                node_id = f"{job.id}/artifacts/{entry['artifact']}"
                details = {key: entry.get(key) for key in ("top1", "size_bytes", "latency_ms")}
                self._nodes[node_id] = Node(node_id, "artifact", entry["artifact"], details=details)
                yield Edge(network, node_id, "compressed")

    def _job(self, job_id: str) -> Job | None:
        statement = select(Job).where(Job.id == job_id, Job.project_id == self._project_id)
        return self._session.scalars(statement).one_or_none()


def _networks(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the teachers of a stored spec, and those of the distillations inside."""
    teachers = spec.get("teachers") or ()
    yield from teachers
    for model in (spec.get("student") or {}, *teachers):
        if model.get("distillation"):
            yield from _networks(model["distillation"])


def _references(spec: Mapping[str, Any]) -> list[tuple[str, Role]]:
    """Return the stored models, jobs and checkpoints that a spec reads weights from, each with its role."""
    found: list[tuple[str, Role]] = [(spec.get("student", {}).get("weights", "random"), "initial_weights")]
    found += [(teacher.get("weights", "pretrained"), "teacher") for teacher in _networks(spec)]
    return [(reference, role) for reference, role in found if reference.startswith(_STORED)]


def _own_teachers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the teachers that are no stored model: pretrained, or trained by the job."""
    return [
        {"architecture": teacher.get("architecture"), "weights": teacher.get("weights", "pretrained")}
        for teacher in _networks(spec)
        if not teacher.get("weights", "pretrained").startswith(_STORED)
    ]
