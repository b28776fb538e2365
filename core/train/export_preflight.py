"""Preflight of the export formats: write each once for the untrained student, before a long training.

Everything that depends on the network's structure is found here: what an exporter cannot express, a file that is too
large or that its runtime refuses. What depends on the trained weights is found when they are exported.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from core.data.pixels import Images
from core.errors import ExportFailed, ExportMismatch
from core.export.formats import ExportContext, failure_warning, installed_version, write_format
from core.methods import Method
from core.models.built import BuiltModel
from core.spec import JobSpec
from core.spec.export_options import ExportOptions
from core.spec.exports import EXPORT_FORMATS, REQUIRED_FORMAT
from core.train.context import RunContext
from core.train.environment import is_out_of_memory
from core.train.trainer import TrainingSetup

NUM_PARITY_IMAGES = 64  # with which exported files are compared with the student
_KIND = "export"
_MIN_TRAINING_SECONDS = 30.0  # a shorter training costs about as much as finding out


def preflight_formats(
    setup: TrainingSetup, spec: JobSpec, context: RunContext, *, training_seconds: float
) -> dict[ExportOptions, str]:
    """Return the reason of each format that cannot be written for the student, and warn about them.

    The result is cached by the network's structure, so it costs once per machine. Neither the setup nor torch's random
    state changes. A short training, or one that decides the structure of the exported network, has no preflight.
    """
    if training_seconds < _MIN_TRAINING_SECONDS or type(setup.method).finalize is not Method.finalize:
        return {}
    samples = context.sample_images(setup.student.preprocessing.image_size, NUM_PARITY_IMAGES)
    optional = [options for options in spec.export_options if options.format != REQUIRED_FORMAT]
    reasons = {options: _reason(options, setup.student, samples, context) for options in optional}
    failures = {options: reason for options, reason in reasons.items() if reason is not None}
    if failures:
        context.reporter.warning(failure_warning(failures))
    return failures


def _reason(options: ExportOptions, student: BuiltModel, samples_NCHW: Images, context: RunContext) -> str | None:
    packages = ("potstill-server", *EXPORT_FORMATS[options.format].packages)
    key_fields = {
        "options": options.model_dump(mode="json"),
        "architecture": student.architecture,
        "arguments": dict(student.arguments),
        "image_size": student.preprocessing.image_size,
        "versions": {package: installed_version(package) for package in packages},
    }
    cached = context.result_cache.get(_KIND, key_fields)
    if cached is not None:
        reason: str | None = cached["reason"]
        return reason
    context.poll()
    try:
        _write_once(options, student, samples_NCHW, context)
    except ExportFailed as error:
        if isinstance(error, ExportMismatch) or is_out_of_memory(error):
            return None  # says nothing about the trained weights, or about another moment
        reason = error.detail
    else:
        reason = None
    context.result_cache.put(_KIND, key_fields, {"reason": reason})
    return reason


def _write_once(options: ExportOptions, student: BuiltModel, samples_NCHW: Images, context: RunContext) -> None:
    untrained = replace(student, module=copy.deepcopy(student.module).cpu().eval())
    with TemporaryDirectory(dir=context.root, prefix="export-") as folder, torch.random.fork_rng(devices=[]):
        write_format(
            untrained,
            ExportContext(folder=Path(folder), options=options, samples=samples_NCHW, poll=context.poll),
        )
