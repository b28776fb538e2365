"""Errors and warnings for a batch that is divided: among several devices, or by gradient accumulation."""

from __future__ import annotations

from torch import nn

from core.data.views import steps_per_epoch
from core.errors import FieldError
from core.job_warnings import JobWarning
from core.methods import Method
from core.models.built import BuiltModel
from core.spec import JobSpec

_MIN_IMAGES_PER_DEVICE = 2  # batch norm needs at least two
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def device_errors(spec: JobSpec, method: Method, num_images: int) -> list[FieldError]:
    """Return why a method cannot train on several devices with ``num_images`` training images."""
    devices = spec.resources.devices
    if devices == 1:
        return []
    if not method.per_sample:
        detail = (
            f"{spec.method.name} with these parameters compares the samples of a batch, and each of {devices} devices "
            "sees only a part of it; set devices to 1"
        )
        return [FieldError("/resources/devices", detail)]
    smallest = num_images // steps_per_epoch(num_images, spec.training.batch_size)
    if smallest < _MIN_IMAGES_PER_DEVICE * devices:
        detail = (
            f"a batch has only {smallest} images, and each of {devices} devices needs {_MIN_IMAGES_PER_DEVICE}; "
            "lower devices, or raise training.batch_size"
        )
        return [FieldError("/resources/devices", detail)]
    return []


def accumulation_errors(spec: JobSpec, method: Method) -> list[FieldError]:
    """Return why a method cannot train on one part of a batch at a time."""
    parts = spec.training.gradient_accumulation
    if parts == 1 or method.per_sample:
        return []
    detail = (
        f"{spec.method.name} with these parameters compares the samples of a batch, and sees only one of {parts} parts "
        "at a time; set gradient_accumulation to 1 and lower batch_size"
    )
    return [FieldError("/training/gradient_accumulation", detail)]


def device_warnings(spec: JobSpec, student: BuiltModel, method: Method) -> list[JobWarning]:
    """Return warnings for behavior that differs between several devices and one."""
    devices = spec.resources.devices
    if devices == 1:
        return []
    on_cpu = spec.resources.accelerator != "cuda"
    prefix = "" if spec.resources.accelerator == "cpu" else "on a CPU "
    warnings = []
    if on_cpu:
        message = f"{prefix}{devices} devices are processes that share the job's threads; one is hardly slower"
        warnings.append(_warning("devices_share_threads", message, fix="set devices to 1"))
    if on_cpu and any(isinstance(part, _NORMS) for module in (student.module, method) for part in module.modules()):
        message = f"{prefix}batch norms see only the part of a batch on their own device, one of {devices}"
        warnings.append(_warning("batch_norm_per_device", message, fix="on CUDA they see the full batch"))
    if any(teacher.is_trained for teacher in spec.teachers):
        message = "teachers are trained on one device; the student is trained on all"
        warnings.append(_warning("teacher_on_one_device", message))
    return warnings


def _warning(code: str, message: str, *, fix: str | None = None) -> JobWarning:
    return JobWarning(code=code, field="/resources/devices", message=message, fix=fix)
