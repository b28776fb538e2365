"""Chains in a job: the distillations that give models of the job their weights, before the job's own.

Each link is a job spec by itself (:func:`core.spec.chain.inner_job`), which runs until its student is trained. The
student is saved by a fingerprint of its recipe, and found again by every later job with the same one. The rest of
the job reads it as a stored model. Until it is trained, a model with the same shape and random weights takes its place,
so that the whole chain passes its preflight before the first training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.data.stored import dataset_fingerprints
from core.distillation import Distillation, PreparedDistillation
from core.link_reporter import LinkReporter
from core.models.built import BuiltModel
from core.models.safetensors_header import read_model_info
from core.models.weights import save_model
from core.reporting import Workspace
from core.spec import JobSpec
from core.spec.chain import DistilledModel, distilled_models, inner_job, recipe_fields, reference_of, with_stored_models
from core.spec.teacher_names import model_name
from core.train.context import RunContext
from core.train.fingerprint import training_fingerprint
from core.train.precision import choose_compute
from core.train.progress import total_epochs
from core.train.time_plan import ProgressRange
from core.train.training_lock import training_lock

_FORMAT = 1  # incremented when a change of a distillation changes the weights of equal fields


class Chain:
    """The links of a job that precede its own distillation, in one attempt; empty for most jobs.

    Their trainings take the first part of ``progress_range``, and the job's own take :attr:`rest`.
    """

    def __init__(
        self, spec: JobSpec, workspace: Workspace, context: RunContext, *, progress_range: ProgressRange
    ) -> None:
        self._spec = spec
        self._workspace = workspace
        self.links: list[Link] = []
        start, per_epoch = progress_range.start, progress_range.width / max(1, total_epochs(spec))
        for distilled in distilled_models(spec):
            job = inner_job(spec, distilled, image_size=spec.training.image_size)
            width = per_epoch * total_epochs(job)
            name = model_name(distilled.pointer, len(spec.teachers))
            progress = ProgressRange(start, width)
            self.links.append(Link(distilled, job, workspace, context, progress_range=progress, name=name))
            start += width
        self.rest = ProgressRange(start, progress_range.start + progress_range.width - start)

    @property
    def is_pending(self) -> bool:
        """Whether a link has to be trained."""
        return any(link.folder is None for link in self.links)

    def prepare(self) -> None:
        """Find the links that earlier jobs trained; run the preflight of the others."""
        for link in self.links:
            link.prepare()

    def train(self, *, student_steps: int) -> None:
        """Train the pending links, and save them. ``student_steps``: those of the job's own student."""
        for link in self.links:
            link.train(student_steps=student_steps)

    def workspace(self) -> Workspace:
        """Return the workspace with the folders of all links, trained or not."""
        folders = {link.reference: link.folder or link.untrained_folder for link in self.links}
        return replace(self._workspace, models={**self._workspace.models, **folders})

    def spec(self) -> JobSpec:
        """Return the spec that names the links as stored models."""
        folders = self.workspace().models
        found = {
            link.distilled.pointer: (link.reference, read_model_info(folders[link.reference])) for link in self.links
        }
        return with_stored_models(self._spec, found)

    def lineage(self) -> list[dict[str, Any]]:
        """Return how each distilled model got its weights, for the report; inner ones after the model they teach."""
        return [entry for link in self.links for entry in link.lineage()]


class Link:
    """One model of a job whose weights are distilled first. ``folder`` is None until it is found or trained."""

    def __init__(
        self,
        distilled: DistilledModel,
        job: JobSpec,
        workspace: Workspace,
        context: RunContext,
        *,
        progress_range: ProgressRange,
        name: str,
    ) -> None:
        self.distilled = distilled
        self.reference = reference_of(job)
        self.folder: Path | None = None
        self.untrained_folder = context.root / "links" / distilled.track / "untrained"
        self._job = job
        self._reporter = LinkReporter(context.reporter, distilled.pointer, distilled.track, label=name)
        self._context = replace(
            context,
            reporter=self._reporter,
            root=context.root / "links" / distilled.track,
            compute=choose_compute(context.compute.device, job.training.precision),
        )
        self.fingerprint = _fingerprint(job, workspace, self._context)
        self._is_reused = False
        self._chain = Chain(job, workspace, self._context, progress_range=progress_range)

    def prepare(self) -> None:
        """Find the model that an earlier job saved; else build it, and run its preflight unless it has begun."""
        self._find()
        if self.folder is not None:
            return
        self._chain.prepare()
        distillation, prepared = self._build()
        self._save(prepared.setup.student, self.untrained_folder)
        if prepared.checkpoint is None:
            distillation.preflight(prepared)

    def _find(self) -> None:
        """Find the model that an earlier job saved, or one that runs at the same time on this machine."""
        self.folder = self._reporter.find_teacher(self.fingerprint)
        if self.folder is not None:
            self._is_reused = True
            self._reporter.event(
                "distillation.reused",
                f"{self._job.student.architecture_name} reused from an earlier job.",
                data={"recipe": self.fingerprint},
            )

    def train(self, *, student_steps: int) -> None:
        """Train the model after the links that it learns from, and save it for later jobs, unless it was found.

        A model whose training was stopped early is not saved: its fingerprint names the complete training.
        """
        if self.folder is not None:
            return
        self._reporter.student_steps = student_steps
        with training_lock(self._context, self.fingerprint, self._job.student.architecture_name):
            self._find()
            if self.folder is None:
                self._train(student_steps)

    def _train(self, student_steps: int) -> None:
        self._chain.train(student_steps=student_steps)
        distillation, prepared = self._build()
        student = distillation.run(prepared)
        self.folder = self._context.root / "model"
        self._save(student, self.folder)
        if distillation.is_complete:
            self._reporter.save_teacher(self.fingerprint, self.folder)
            self._reporter.event(
                "distillation.finished",
                f"{self._job.student.architecture_name} trained with {self._job.method.name}.",
                data={"recipe": self.fingerprint},
            )

    def lineage(self) -> list[dict[str, Any]]:
        """Return how this model got its weights, and those that it learned from."""
        own = {
            "model": self.distilled.pointer,
            "method": self._job.method.name,
            "recipe": self.fingerprint,
            "reused": self._is_reused,
        }
        inner = [
            {**entry, "model": f"{self.distilled.pointer}/distillation{entry['model']}"}
            for entry in self._chain.lineage()
        ]
        return [own, *inner]

    def _build(self) -> tuple[Distillation, PreparedDistillation]:
        chain = self._chain
        distillation = Distillation(chain.spec(), chain.workspace(), self._context, progress_range=chain.rest)
        return distillation, distillation.prepare()

    def _save(self, built: BuiltModel, folder: Path) -> None:
        headless = self._job.method.info.needs.headless
        save_model(replace(built, classes=None if headless else self._context.stored.classes), folder)


def _fingerprint(job: JobSpec, workspace: Workspace, context: RunContext) -> str:
    """Return a SHA-256 over everything that the weights of a distilled model depend on."""
    fields = recipe_fields(job) | {
        "format": _FORMAT,
        "dataset": context.stored.fingerprint,
        "datasets": dataset_fingerprints(job.further_datasets(), workspace.datasets),
    }
    return training_fingerprint(fields, threads=context.threads, compute=context.compute)
