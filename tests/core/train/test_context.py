"""RunContext: validation, loaders and control requests."""

import numpy as np
import pytest
import torch

from core.data.stored import StoredDataset
from core.ingest.dataset import ingest_folder
from core.reporting import Control, Interrupted
from core.spec import TrainingSpec
from core.train.context import RunContext
from core.train.precision import ComputeConfig
from tests.support.images import write_gray_images


@pytest.fixture
def context(tmp_path, make_reporter):
    """Context of a dataset with 40 training and 20 test images."""
    for split, count in (("train", 20), ("test", 10)):
        for label in range(2):
            write_gray_images(tmp_path / "images" / split / f"class{label}", range(100 * label, 100 * label + count))
    ingest_folder(tmp_path / "images", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        compute = ComputeConfig(torch.device("cpu"), "fp32")
        yield RunContext(stored, compute, 1, make_reporter(), tmp_path / "root", tmp_path / "cache")


def test_validation_measures_accuracy(context):
    callback = context.validation_callback(image_size=8)

    top1 = callback.evaluate(
        lambda images: torch.stack([-images.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)) - 0.4], 1)
    )

    assert top1 == 1.0
    assert (callback.metric_name, callback.num_images) == ("eval/top1", 20)


@pytest.mark.parametrize("control", [Control.PAUSE, Control.CANCEL, Control.DRAIN])
def test_poll_raises_on_interrupting_requests(context, control):
    context.reporter.control_override = control

    with pytest.raises(Interrupted):
        context.poll()


def test_poll_ignores_a_stop_request(context):
    context.reporter.control_override = Control.STOP

    context.poll()


def test_the_loader_covers_the_training_split(context):
    loader = context.loader(TrainingSpec(batch_size=16), image_size=8)

    assert loader.steps_per_epoch == 3
    assert context.input_info.num_classes == 2


def test_an_unlabeled_pool_has_the_images_of_another_training_split_without_labels(context, tmp_path):
    pool = context.unlabeled_pool(tmp_path / "stored", 8)

    assert np.array_equal(pool.images, context.pixels("train", 8).images)
    assert pool.labels.tolist() == [-1] * 40


def test_a_loader_of_unlabeled_images_mixes_images_and_keeps_labels(context, tmp_path):
    training = TrainingSpec(batch_size=16, mixup=0.8)

    loader = context.loader(training, image_size=8, pixels=context.unlabeled_pool(tmp_path / "stored", 8))

    assert set(loader.batch(0).labels.tolist()) == {-1}
    assert context.loader(training, image_size=8).batch(0).labels.shape[1] == 2
