"""The stage ``compress``: run the steps in order, judge each on held-out images, and resume from completed steps.

The gate: an output whose top-1 accuracy on the held-out images is lower by more than ``max_top1_drop`` than that of
the network before the step is rejected. Later steps then continue with the network before it. The test split is not
read here; the stage ``evaluate`` measures the outputs on it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from core.compress.base import StepInputs, StepOutput
from core.compress.fine_tuning import FineTuning
from core.compress.onnx_runtime import OnnxNetwork
from core.compress.outcome import HeldOutAccuracy, StepOutcome, rejection_fix
from core.compress.registry import build_step
from core.data.pixels import Pixels
from core.errors import ExportFailed, NonFiniteLoss
from core.evaluate.held_out import predicted_labels, top1
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.models.weights import load_folder, save_model
from core.reporting import Progress, SavedCheckpoint, compressed_track, compression_track, untuned_track
from core.spec import JobSpec
from core.spec.compression import StepParams, output_names
from core.system.fault_injection import fault_point
from core.teacher.cache_key import teacher_digest
from core.train.context import RunContext
from core.train.schedule import Schedule
from core.train.time_plan import ProgressRange
from core.train.training_set import TrainingSet

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """The compression steps of one job.

    Args:
        teachers: The job's teachers, in the order of the spec.
        progress_ranges: Parts of the job's progress by track.
        schedule: Schedule of the student's training, which took ``student_step`` steps.
        teacher_cache_bytes: Limit of the teacher cache.
    """

    spec: JobSpec
    context: RunContext
    training_set: TrainingSet
    teachers: Sequence[BuiltModel]
    progress_ranges: dict[str, ProgressRange]
    schedule: Schedule
    student_step: int
    teacher_cache_bytes: int

    def run(self, student: BuiltModel) -> tuple[StepOutcome, ...]:
        """Run all steps on the trained student, which does not change; return the outcome of each.

        Raises:
            Interrupted: On request; completed steps are saved.
            StorageFailed: The disk failed.
        """
        images = self._split(student)
        network, outcomes = student, []
        for index, output in enumerate(output_names(self.spec.compression)):
            self.context.poll()
            params = self.spec.compression[index]
            key = _step_key(params, output, network)
            outcome = self._find(compressed_track(index), key)
            if outcome is None:
                folder = self._new_folder(index)
                outcome = StepOutcome(
                    key=key, index=index, name=params.name, status="failed", output=output, folder=folder
                )
                outcome = self._run_step(outcome, network, *images)
                self._report(outcome, params)  # before it is saved: a kill in between repeats an event, and loses none
                self._save(outcome, compressed_track(index))
            if outcome.is_applied and not outcome.is_file:
                network = load_folder(outcome.folder)
            outcomes.append(outcome)
            self._progress(index)
        return tuple(outcomes)

    def _split(self, student: BuiltModel) -> tuple[Pixels, Pixels]:
        """Return training and held-out images at the student's image size."""
        training, held_out = self.training_set.labeled_split(student.preprocessing.image_size)
        assert held_out is not None, "a job with compression steps holds images out"
        if self.context.is_labeled:
            return training, held_out
        return training, replace(held_out, labels=self._on_device(student, held_out, predicted_labels))

    # --- one step ------------------------------------------------------------------------------------

    def _new_folder(self, index: int) -> Path:
        folder = self.context.root / "compressed" / str(index)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
        folder.mkdir(parents=True)
        return folder

    def _run_step(self, planned: StepOutcome, network: BuiltModel, training: Pixels, held_out: Pixels) -> StepOutcome:
        """Run one step and judge its output; ``planned`` is the outcome if the step fails, without a reason."""
        params, outcome = self.spec.compression[planned.index], planned
        inputs = self._inputs(planned, network, training, held_out)
        try:
            result = build_step(params).run(inputs)
            is_file = self._write_output(result, planned, network)
        except (ExportFailed, NonFiniteLoss) as error:
            outcome = replace(planned, reason=error.detail.rstrip("."))
        else:
            written = replace(planned, is_file=is_file, details=result.details)
            accuracy = HeldOutAccuracy(
                images=len(held_out),
                reference_top1=inputs.reference_top1,
                top1=self._output_top1(written, network, held_out),
                max_top1_drop=params.max_top1_drop,
            )
            is_accepted = accuracy.is_accepted
            outcome = replace(
                written,
                status="applied" if is_accepted else "rejected",
                reason=None if is_accepted else accuracy.reason,
                accuracy=accuracy,
            )
        shutil.rmtree(inputs.folder)
        outcome.write()
        fault_point("compression.written")
        return outcome

    def _inputs(self, planned: StepOutcome, network: BuiltModel, training: Pixels, held_out: Pixels) -> StepInputs:
        index, scratch = planned.index, planned.folder / "scratch"
        scratch.mkdir()
        fine_tuning = FineTuning(
            spec=self.spec,
            context=self.context,
            index=index,
            teachers=self.teachers,
            original=network,
            training_set=self.training_set,
            teacher_cache_bytes=self.teacher_cache_bytes,
            progress_range=self.progress_ranges[compression_track(index)],
            schedule=self.schedule,
            student_step=self.student_step,
        )
        return StepInputs(
            spec=self.spec,
            index=index,
            student=replace(network, module=copy.deepcopy(network.module)),
            folder=scratch,
            training=training,
            held_out=held_out,
            reference_top1=self._on_device(network, held_out, top1),
            top1=lambda other: self._on_device(other, held_out, top1),
            once=lambda build: self._once(planned, network, build),
            fine_tune=fine_tuning.run,
            report=lambda type_, message, data: self.context.reporter.event(type_, message, data=data),
            poll=self.context.poll,
        )

    def _write_output(self, result: StepOutput, planned: StepOutcome, network: BuiltModel) -> bool:
        """Move a file, or save a network, to the step's folder; return whether it is a file."""
        folder = planned.folder
        if result.file is not None:
            result.file.replace(folder / planned.output)
        else:
            assert result.network is not None, "a step returns a network or a file"
            save_model(replace(result.network, classes=network.classes), folder)
        return result.file is not None

    def _output_top1(self, written: StepOutcome, network: BuiltModel, held_out: Pixels) -> float:
        """Measure what the step wrote, loaded from disk."""
        if written.is_file:
            return top1(OnnxNetwork.open(written.path, network.preprocessing), held_out, poll=self.context.poll)
        return self._on_device(load_folder(written.folder), held_out, top1)

    def _on_device(self, built: BuiltModel, held_out: Pixels, measure: Callable[..., Value]) -> Value:
        """Call ``measure`` with a network on the job's device, and move it back to the CPU."""
        device = self.context.compute.device
        built.module.to(device).eval()
        try:
            return measure(built, held_out, device=device, poll=self.context.poll)
        finally:
            built.module.to("cpu")

    # --- saved outcomes -----------------------------------------------------------------------------

    def _once(self, planned: StepOutcome, network: BuiltModel, build: Callable[[], StepOutput]) -> StepOutput:
        """Return the network that ``build`` returns, or that an earlier attempt has saved for equal inputs."""
        track = untuned_track(planned.index)
        found = self._find(track, planned.key)
        if found is None:
            output = build()
            folder = planned.folder / "scratch" / "untuned"
            folder.mkdir()
            found = replace(planned, folder=folder, is_file=False, details=output.details)
            self._write_output(output, found, network)
            found.write()
            self._save(found, track)
        return StepOutput(network=load_folder(found.folder), details=found.details)

    def _find(self, track: str, key: str) -> StepOutcome | None:
        """Return the outcome that an earlier attempt saved in a track for equal inputs."""
        folder = self.context.reporter.newest_checkpoint(track)
        if folder is None:
            return None
        outcome = StepOutcome.read(folder)
        return outcome if outcome.key == key else None

    def _save(self, outcome: StepOutcome, track: str) -> None:
        """Save a copy of the outcome's folder for later attempts; the reporter may move it."""
        folder = self.context.root / "checkpoints" / track
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in outcome.folder.iterdir():
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        epoch = self.schedule.epoch(self.student_step)
        self.context.reporter.save_checkpoint(SavedCheckpoint(folder, track, self.student_step, epoch))
        shutil.rmtree(folder, ignore_errors=True)
        fault_point("compression.saved")

    def _report(self, outcome: StepOutcome, params: StepParams) -> None:
        reporter = self.context.reporter
        data = {"step": outcome.index, "name": outcome.name, "output": outcome.output, "reason": outcome.reason}
        level: Literal["info", "warning"] = "info" if outcome.is_applied else "warning"
        reporter.event(f"compression.{outcome.status}", outcome.message, level=level, data=data)
        if outcome.is_applied:
            return
        fix = rejection_fix(params) if outcome.status == "rejected" else f"leave {params.name} out of compression"
        assert outcome.reason is not None
        reporter.warning(
            JobWarning(
                code=f"compression_{outcome.status}",
                field=f"/compression/{outcome.index}",
                message=f"step {outcome.index} ({outcome.name}) is {outcome.status}: {outcome.reason}",
                fix=fix,
            )
        )

    def _progress(self, index: int) -> None:
        progress_range = self.progress_ranges[compression_track(index)]
        self.context.reporter.progress(
            Progress(
                fraction=progress_range.fraction(1.0),
                step=self.student_step,
                total_steps=self.schedule.total_steps,
                epoch=self.schedule.epoch(self.student_step),
            )
        )


def _step_key(params: StepParams, output: str, network: BuiltModel) -> str:
    """Return a SHA-256 over a step's parameters and the network that it starts from."""
    fields = {
        "params": params.model_dump(mode="json"),
        "output": output,
        "network": teacher_digest(network),
        "torch": str(torch.__version__),
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
