"""Further formats of the networks that compression steps return, such as ONNX, in the folder of each step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.compress.measure import MeasuredStep
from core.data.pixels import Images
from core.errors import ExportFailed
from core.export.formats import ExportContext, write_format
from core.job_warnings import JobWarning
from core.models.weights import load_folder
from core.spec import JobSpec
from core.spec.exports import REQUIRED_FORMAT
from core.train.context import RunContext


def export_steps(
    steps: Iterable[MeasuredStep], spec: JobSpec, context: RunContext, samples_NCHW: Images
) -> dict[str, Path]:
    """Write the formats of ``spec.export`` for each network of an applied step; return all files by artifact name.

    A format that fails is left out with a warning.
    """
    artifacts: dict[str, Path] = {}
    for outcome in (step.outcome for step in steps):
        artifacts |= outcome.artifacts()
        if not outcome.is_applied or outcome.is_file:
            continue
        network = load_folder(outcome.folder)
        for options in spec.export_options:
            context.poll()
            if options.format == REQUIRED_FORMAT:
                continue
            export = ExportContext(folder=outcome.folder, options=options, samples=samples_NCHW, poll=context.poll)
            try:
                write_format(network, export)
            except ExportFailed as error:
                context.reporter.warning(_warning(outcome.index, f"{outcome.output}/{export.path.name}", error))
            else:
                artifacts |= {f"{outcome.output}/{path.name}": path for path in export.paths}
    return artifacts


def _warning(index: int, artifact: str, error: ExportFailed) -> JobWarning:
    return JobWarning(
        code=ExportFailed.code,
        field=f"/compression/{index}",
        message=f"{artifact} is left out: {error.detail}",
        fix="leave this format out of export; the other files are complete",
    )
