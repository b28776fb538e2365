"""Jobs that need more memory than their workers have."""

import pytest

from core.resolve.memory_check import fitting_batch_size, memory_warnings
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo

PHOTOS = DatasetInfo(num_classes=10, channels=3, image_size=224, num_train=100_000, num_test=1_000)
GIGABYTE = 10**9


def spec(batch_size=256, *, teacher_batch_size=None, **student):
    teacher = {"architecture": "resnet18", "weights": "train", "training": {"batch_size": teacher_batch_size or 1}}
    return parse_job_spec(
        {
            "dataset": "ds_x",
            "student": {"architecture": "vit_tiny_patch16_224", **student},
            "teachers": [teacher],
            "method": {"name": "kd"},
            "training": {"batch_size": batch_size, "image_size": 224},
        }
    )


def memory(changed):
    """One byte for each image of a batch, a hundred for the process."""
    teachers = [teacher.training.batch_size for teacher in changed.teachers]
    return 100 + max(changed.training.batch_size, *teachers)


@pytest.mark.parametrize("limit", [None, 356, 1000])
def test_a_job_that_fits_has_no_warning(limit):
    assert memory_warnings(spec(256), limit, memory) == []


def test_a_warning_names_the_batch_size_that_fits():
    (warning,) = memory_warnings(spec(256), 300, memory)

    assert (warning.code, warning.field) == ("exceeds_memory", "/training/batch_size")
    assert warning.fix == "lower batch_size to 200"
    assert fitting_batch_size(spec(256), 300, memory) == 200


def test_the_training_at_fault_is_named():
    (teacher,) = memory_warnings(spec(8, teacher_batch_size=512), 300, memory)
    both = memory_warnings(spec(201, teacher_batch_size=512), 300, memory)

    assert teacher.field == "/teachers/0/training/batch_size"
    assert [warning.field for warning in both] == ["/training/batch_size", "/teachers/0/training/batch_size"]


def test_a_job_that_fits_with_no_batch_size_is_reported():
    (warning,) = memory_warnings(spec(8), 100, memory)

    assert warning.field == "/training/image_size"
    assert "no batch size fits" in warning.fix
    assert fitting_batch_size(spec(8), 100, memory) == 0


def test_the_estimate_warns_and_its_fix_fits():
    limit = 18 * GIGABYTE
    first = resolve(spec(65_536), PHOTOS, {}, threads=2, memory_bytes=limit)
    (warning,) = [each for each in first.estimate["warnings"] if each["code"] == "exceeds_memory"]
    size = first.fitting_batch_size
    second = resolve(spec(size), PHOTOS, {}, threads=2, memory_bytes=limit)
    larger = resolve(spec(size + 1), PHOTOS, {}, threads=2, memory_bytes=limit)

    assert first.estimate["memory_bytes"] > limit
    assert warning["fix"] == f"lower batch_size to {size}"
    assert "its workers have 18.0 GB" in warning["message"]
    assert "exceeds_memory" not in {each["code"] for each in second.estimate["warnings"]}
    assert second.estimate["memory_bytes"] <= limit < larger.estimate["memory_bytes"]


def test_the_case_of_63_gigabytes_is_found():
    """A batch of 65,536 photographs on a machine with 23 GB."""
    resolution = resolve(spec(65_536), PHOTOS, {}, threads=2, memory_bytes=int(0.8 * 23 * GIGABYTE))

    assert resolution.fitting_batch_size < 10_000
