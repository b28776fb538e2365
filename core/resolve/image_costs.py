"""Cost of the images of a training: decoding them, augmenting them, and the memory of a batch.

All networks of a training read the same augmented images, at the decode size of :func:`core.models.plan.decode_size`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.models.plan import ModelPlan, decode_size
from core.spec import JobSpec, TrainingBase
from core.spec.info import DatasetInfo

READ_AHEAD_BYTES = 3 * 1  # of a value: the batches that are read ahead as uint8
VIEW_BYTES = 4 * 4  # of a value: the copies that an augmentation makes in float32
_DECODE_SECONDS_PER_VALUE = 20e-9  # 3 ms for a photograph at 224 pixels, on one thread
_VIEW_SECONDS_PER_VALUE = {"none": 3e-9, "flip": 7e-9, "light": 12e-9, "strong": 60e-9}  # on one thread
_MAX_RECORDED_SIZE = 224  # larger images have this size in their dataset's info


def estimated_decode_size(student: ModelPlan, teachers: Iterable[ModelPlan], datasets: Sequence[DatasetInfo]) -> int:
    """Return the decode size of a job, from the typical image size of its datasets, in pixels a side.

    The job itself looks at each image. It may therefore choose another size where images of a dataset vary.
    """
    teacher_sizes = [teacher.image_size for teacher in teachers]
    typical = max(dataset.image_size for dataset in datasets)
    largest = max(typical, *teacher_sizes, 0) if typical >= _MAX_RECORDED_SIZE else typical
    return decode_size(student.image_size, teacher_sizes, largest_image=largest)


def pass_size(training: TrainingBase, num_images: int) -> tuple[int, int]:
    """Return the number of images of one forward pass, and the number of passes of a step."""
    batch_size = min(training.batch_size, num_images)
    parts = min(training.gradient_accumulation, batch_size)
    return -(-batch_size // parts), parts


def batch_bytes(training: TrainingBase, num_images: int, channels: int, image_size: int) -> int:
    """Return the bytes of the images of one batch and of those that are read ahead."""
    augmented, _ = pass_size(training, num_images)
    values_per_image = channels * image_size**2
    return values_per_image * (READ_AHEAD_BYTES * min(training.batch_size, num_images) + VIEW_BYTES * augmented)


def image_seconds(spec: JobSpec, num_images: int, channels: int, image_size: int, *, cached_views: int) -> float:
    """Return the seconds that the student's images take: decoded once, augmented in every epoch and cached view.

    A GPU augments them in negligible time.
    """
    values = num_images * channels * image_size**2
    on_cpu = spec.resources.accelerator != "cuda"
    views = (spec.training.num_epochs + cached_views) * _VIEW_SECONDS_PER_VALUE[spec.training.augmentation] * on_cpu
    return values * (_DECODE_SECONDS_PER_VALUE + views) / (spec.resources.threads or 1)
