"""Measure a job's student, teachers and baseline on the test split, each network at its own image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data.decoding import decode_on_demand
from core.data.holdout import hold_out
from core.data.pixels import Pixels
from core.evaluate import ModelMetrics, evaluate_exported, measure_model, predict
from core.evaluate.corruptions import corrupted_top1
from core.evaluate.evaluation_report import EvaluationReport, NetworkResult
from core.models.built import BuiltModel
from core.models.weights import load_folder
from core.spec import JobSpec
from core.teacher.cache_key import teacher_digest
from core.teacher.evaluation_cache import EvaluationCache
from core.teacher.job_evaluation import JobEvaluation
from core.train.baseline import Baseline
from core.train.context import RunContext

_CHUNK_SIZE = 256  # held-out images that are in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvaluator:
    """Evaluation of the networks of one job.

    ``decode_size``: the size of the training images in pixels, and of the corrupted test images. ``classes``: names of
    the student's classes.
    """

    spec: JobSpec
    context: RunContext
    cache: EvaluationCache
    decode_size: int
    classes: Sequence[str] | None

    @property
    def _headless(self) -> bool:
        return self.spec.method.info.needs.headless

    @property
    def _has_logits(self) -> bool:
        """Whether there are classifiers, and labels to compare their logits with."""
        return self.context.is_labeled and not self._headless

    def evaluate(self, folder: Path, teachers: Sequence[BuiltModel], baseline: Baseline) -> JobEvaluation:
        """Measure the exported student in ``folder``, the teachers (or read the cache), and the baseline, if any.

        Raises ``Interrupted`` on request.
        """
        student = self._network(folder)
        measured = tuple(self.cache.get_or_measure(teacher, self._measure) for teacher in teachers)
        own = None if baseline.folder is None else self._network(baseline.folder)
        split = self.context.stored.split("test")
        report = EvaluationReport(
            student=student,
            teachers=[
                NetworkResult(metrics=evaluation.metrics, corrupted=self._teacher_corrupted(teacher))
                for teacher, evaluation in zip(teachers, measured, strict=True)
            ],
            baseline=own,
            labels=torch.from_numpy(split.labels.copy()) if self.context.is_labeled else None,
            classes=self.classes,
            paths=split.paths,
            dataset=self.spec.dataset,
            baseline_note=baseline.note,
            seed=self.spec.training.seed,
        )
        return JobEvaluation(
            folder=folder,
            baseline=baseline,
            teachers=measured,
            report=report,
            teacher_digests=tuple(map(teacher_digest, teachers)),
            baseline_digest=None if baseline.folder is None else teacher_digest(load_folder(baseline.folder)),
        )

    def _network(self, folder: Path) -> NetworkResult:
        """Measure the network of a folder: the exported student, or the baseline."""
        metrics = evaluate_exported(folder, **self._inputs(self._image_size))
        network = load_folder(folder)
        return NetworkResult(metrics=metrics, held_out=self._held_out(network), corrupted=self._corrupted(network))

    @property
    def _image_size(self) -> int:
        assert self.spec.training.image_size is not None, "a resolved spec has an image size"
        return self.spec.training.image_size

    def _inputs(self, image_size: int) -> dict[str, Any]:
        return self.context.evaluation_inputs(image_size, headless=self._headless)

    def _measure(self, teacher: BuiltModel) -> ModelMetrics:
        return measure_model(teacher, **self._inputs(teacher.preprocessing.image_size))

    def _held_out(self, network: BuiltModel) -> tuple[Tensor, Tensor] | None:
        """Return a network's logits (M, K) of the held-out training images, and their labels; None if there are none.

        The student's method may have chosen between two networks on these images; nothing was trained on them.
        """
        if not self._has_logits:
            return None
        context, size = self.context, network.preprocessing.image_size
        images = decode_on_demand(context.stored.folder, "train", size, threads=context.threads)
        labels = torch.from_numpy(context.stored.split("train").labels.copy())
        _, held_out = hold_out(Pixels(images, labels), self.spec.held_out_fraction, self.spec.training.seed)
        if held_out is None:
            return None
        network.module.to(context.compute.device)
        parts = []
        for start in range(0, len(held_out), _CHUNK_SIZE):
            batch_BCHW = held_out.batch(torch.arange(start, min(start + _CHUNK_SIZE, len(held_out)))).numpy()
            parts.append(predict(network, batch_BCHW, device=context.compute.device, poll=context.poll))
        return torch.cat(parts), held_out.labels

    def _corrupted(self, network: BuiltModel) -> dict[str, float] | None:
        """Return the accuracies of a network on corrupted test images by corruption; None without labels or logits."""
        if not self._has_logits:
            return None
        context = self.context
        network.module.to(context.compute.device).eval()
        images = decode_on_demand(context.stored.folder, "test", self.decode_size, threads=context.threads)
        labels = torch.from_numpy(context.stored.split("test").labels.copy())
        return corrupted_top1(network, images, labels, device=context.compute.device, poll=context.poll)

    def _teacher_corrupted(self, teacher: BuiltModel) -> dict[str, float] | None:
        if not self._has_logits:
            return None

        def measure(network: BuiltModel) -> Mapping[str, float]:
            return self._corrupted(network) or {}

        return self.cache.get_or_measure_corrupted(teacher, self.decode_size, measure)
