"""The surroundings of a run: how often the test split is looked at, and when to leave."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.stored import StoredDataset
from core.ingest.dataset import ingest_folder
from core.reporting import Control, Interrupted
from core.spec import TrainingSpec
from core.train.context import RunContext
from core.train.precision import ComputeConfig


@pytest.fixture
def context(tmp_path, remembering):
    """40 training and 20 test pictures."""
    for split, count in (("train", 20), ("test", 10)):
        for label in range(2):
            folder = tmp_path / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((8, 8), 100 * label + index, np.uint8)).save(folder / f"{index:02d}.png")
    ingest_folder(tmp_path / "pictures", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        arithmetic = ComputeConfig(torch.device("cpu"), "fp32")
        yield RunContext(stored, arithmetic, 1, remembering(), tmp_path / "root", tmp_path / "cache")


@pytest.mark.parametrize(
    ("epochs", "every"),
    [(1, 1), (3, 3), (10, 2), (1000, 50)],
)
def test_looks_cost_at_most_a_tenth_of_the_training_and_are_at_most_twenty(context, epochs, every):
    watch = context.watch("eval/top1", TrainingSpec(epochs=epochs), image_size=8)

    assert watch.every_epochs == every


def test_a_look_measures_accuracy(context):
    watch = context.watch("eval/top1", TrainingSpec(), image_size=8)

    bright = watch.measure(
        lambda images: torch.stack([-images.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)) - 0.4], 1)
    )

    assert bright == 1.0


@pytest.mark.parametrize("control", [Control.PAUSE, Control.CANCEL, Control.DRAIN])
def test_a_poll_leaves_where_it_is_asked_to(context, control):
    context.reporter._wish, context.reporter._wish_at = control, 0

    with pytest.raises(Interrupted):
        context.poll()


def test_a_stop_is_left_to_the_training(context):
    context.reporter._wish, context.reporter._wish_at = Control.STOP, 0

    context.poll()


def test_a_feed_has_the_splits_size(context):
    feed = context.loader(TrainingSpec(batch_size=16), image_size=8)

    assert feed.steps_per_epoch == 3
    assert context.facts.num_classes == 2


def test_a_pool_has_the_pictures_of_another_training_split_and_no_labels(context, tmp_path):
    pool = context.pool(tmp_path / "stored", 8)

    assert np.array_equal(pool.images, context.pixels("train", 8).images)
    assert pool.labels.tolist() == [-1] * 40


def test_a_feed_of_unlabelled_pictures_mixes_them_and_leaves_the_labels(context, tmp_path):
    training = TrainingSpec(batch_size=16, mixup=0.8)

    feed = context.loader(training, image_size=8, pixels=context.pool(tmp_path / "stored", 8))

    assert set(feed.batch(0).labels.tolist()) == {-1}
    assert context.loader(training, image_size=8).batch(0).labels.shape[1] == 2
