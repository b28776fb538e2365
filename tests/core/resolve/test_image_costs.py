"""Decode size, memory and time of a job's images, as an estimate knows them."""

import pytest

from core.ingest.dataset_writer import MAX_IMAGE_SIZE
from core.models.plan import ModelPlan
from core.resolve import image_costs
from core.resolve.image_costs import batch_bytes, estimated_decode_size, image_seconds
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo


def plan(image_size):
    return ModelPlan("vit_tiny_patch16_224", {"num_classes": 2, "in_chans": 3}, image_size)


def dataset(image_size):
    return DatasetInfo(num_classes=2, channels=3, image_size=image_size, num_train=10, num_test=5)


def spec(**training):
    vit = {"architecture": "vit_tiny_patch16_224"}
    document = {"dataset": "ds_a", "teachers": [vit], "student": vit, "method": {"name": "kd"}}
    return parse_job_spec({**document, "training": {"epochs": 20, **training}})


@pytest.mark.parametrize(
    ("teachers", "datasets", "expected"),
    [([32], [100], 32), ([224], [100], 100), ([384], [224], 384), ([384], [50, 224], 384), ([], [224], 32)],
)
def test_the_decode_size_follows_from_the_typical_image_of_the_datasets(teachers, datasets, expected):
    plans = [plan(size) for size in teachers]

    assert estimated_decode_size(plan(32), plans, [dataset(size) for size in datasets]) == expected


def test_a_dataset_of_large_images_is_known_by_its_largest_recorded_size():
    assert image_costs._MAX_RECORDED_SIZE == MAX_IMAGE_SIZE


def test_memory_and_time_grow_with_pixels_and_batch():
    training = spec(batch_size=8).training

    assert batch_bytes(training, 100, 3, 64) == 4 * batch_bytes(training, 100, 3, 32)
    assert batch_bytes(training, 4, 3, 32) == batch_bytes(training, 100, 3, 32) / 2
    assert image_seconds(spec(), 10, 3, 64, cached_views=0) == 4 * image_seconds(spec(), 10, 3, 32, cached_views=0)
    assert image_seconds(spec(), 10, 3, 64, cached_views=4) > image_seconds(spec(), 10, 3, 64, cached_views=0)
    strong, light = (image_seconds(spec(augmentation=a), 10, 3, 64, cached_views=0) for a in ("strong", "light"))
    assert strong > light
