"""Whether a job can be trained on the devices that it asks for, and what its sender should know of it."""

from __future__ import annotations

from torch import nn

from core.data.views import steps_per_epoch
from core.errors import FieldError
from core.methods import Method
from core.models.built import BuiltModel
from core.spec import JobSpec

_LEAST_PART = 2  # pictures a device: a batch norm has nothing to compare in one
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def device_errors(spec: JobSpec, method: Method, num_pictures: int) -> list[FieldError]:
    """What keeps a method, trained on so many pictures, from several devices."""
    devices = spec.resources.devices
    if devices == 1:
        return []
    if not method.per_sample:
        detail = (
            f"{spec.method.name} with these parameters compares the samples of a batch, and each of {devices} devices "
            "would see a part of it alone; set devices to 1"
        )
        return [FieldError("/resources/devices", detail)]
    smallest = num_pictures // steps_per_epoch(num_pictures, spec.training.batch_size)
    if smallest < _LEAST_PART * devices:
        detail = (
            f"a batch has only {smallest} pictures, and each of {devices} devices needs {_LEAST_PART}; lower devices, "
            "or raise training.batch_size"
        )
        return [FieldError("/resources/devices", detail)]
    return []


def device_warnings(spec: JobSpec, student: BuiltModel, method: Method) -> list[str]:
    """What works on several devices otherwise than on one."""
    devices = spec.resources.devices
    if devices == 1:
        return []
    found = []
    on_cpu = spec.resources.accelerator != "cuda"
    where = "" if spec.resources.accelerator == "cpu" else "on a CPU "
    if on_cpu:
        found.append(f"{where}{devices} devices are processes that share the job's threads; one is hardly slower")
    if on_cpu and any(isinstance(part, _NORMS) for whole in (student.module, method) for part in whole.modules()):
        found.append(
            f"{where}batch norms see the part of a batch that is on their own device, {devices} of them a batch; on "
            "CUDA they see all of it"
        )
    if any(teacher.weights == "train" for teacher in spec.teachers):
        found.append("teachers with weights train are trained on one device; the student is trained on all")
    return found
