"""Images that a method prepares in place of the training split."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.data.pixels import Pixels
from core.data.stored import UNLABELED, StoredDataset
from core.ingest.dataset import ingest_folder
from core.methods.scratch import Scratch
from core.spec import parse_job_spec
from core.spec.methods.kd import KdParams
from core.teacher.frozen import FrozenTeacher
from core.train.context import RunContext
from core.train.precision import ComputeConfig
from core.train.training_set import TrainingSet, planned_schedule
from tests.support.images import write_gray_images

FP32 = ComputeConfig(torch.device("cpu"), "fp32")


class PreparingMethod(Scratch):
    """Method that prepares six black images."""

    num_images = 6

    def prepare_images(self, sources):
        self.sources = sources
        sources.event("made", "six images", {"images": 6})
        return Pixels(np.zeros((6, 1, 8, 8), np.uint8), torch.zeros(6, dtype=torch.int64))


@pytest.fixture
def make_training_set(tmp_path, make_reporter):
    """Factory of a training set; its reporter records events."""
    for label in range(2):
        write_gray_images(tmp_path / "images" / f"class{label}", range(label, 20, 2))
    ingest_folder(tmp_path / "images", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        context = RunContext(stored, FP32, 1, make_reporter(), tmp_path / "root", tmp_path / "cache")

        def make(seed=0, **method):
            vit = {"architecture": "vit_tiny_patch16_224"}
            document = {
                "dataset": "ds_a",
                "teachers": [vit],
                "student": vit,
                "method": {"name": "kd", **method},
                "training": {"image_size": 8, "batch_size": 4, "epochs": 2, "seed": seed},
            }
            return TrainingSet(parse_job_spec(document), context, {"ds_pool": tmp_path / "stored"}, 8)

        yield make


@pytest.fixture
def make_preparing_setup(make_setup, training):
    """Factory of a setup whose method prepares its images."""

    def make(*teachers):
        setup = make_setup(training(batch_size=4))
        setup.method.__class__ = PreparingMethod
        setup.method.num_images = 6
        return replace(setup, teachers=teachers)

    return make


def test_a_fine_tuning_reads_labels_that_the_method_of_the_job_does_not(make_training_set):
    training_set = make_training_set(alpha=1.0)
    (own, _), (tuned, _) = training_set.training_split(), training_set.training_split(KdParams(name="kd", alpha=0.9))

    assert set(own.labels.tolist()) == {UNLABELED}
    assert tuned.labels.equal(training_set.known_labels())
    assert set(tuned.labels.tolist()) == {0, 1}


def test_a_setup_without_prepared_images_is_unchanged(make_training_set, make_setup, training):
    setup = make_setup(training())

    assert make_training_set().prepare_setup(setup, None) is setup
    assert make_training_set().unlabeled_pool() is None


def test_the_loader_reads_the_prepared_images(make_training_set, make_preparing_setup, vit):
    setup = make_preparing_setup(FrozenTeacher(vit(), FP32))
    training_set = make_training_set()

    prepared = training_set.prepare_setup(setup, None)

    assert len(prepared.loader.pixels) == 6
    assert not prepared.loader.batch(0).images.any()
    assert planned_schedule(setup) == planned_schedule(prepared)
    assert planned_schedule(prepared).steps_per_epoch == prepared.loader.steps_per_epoch
    assert training_set.context.reporter.event_types == ["made"]


def test_the_unlabeled_pool_is_the_dataset_of_the_method(make_training_set):
    training_set = make_training_set(name="attention_probe", pool="ds_pool")

    assert len(training_set.unlabeled_pool()) == len(training_set.context.stored.split("train"))


def test_the_decode_size_is_that_of_the_largest_network_and_of_the_images(make_training_set, vit):
    def size(student, *teachers):
        given = make_training_set()
        networks = [sized(vit(), image_size) for image_size in (student, *teachers)]
        return TrainingSet.for_networks(
            given.spec, given.context, given.datasets, student=networks[0], teachers=networks[1:]
        ).decode_size

    def sized(built, image_size):
        return replace(built, preprocessing=replace(built.preprocessing, image_size=image_size))

    assert (size(4), size(4, 6), size(6, 4), size(4, 6, 16)) == (4, 6, 6, 8)


def test_a_pool_of_larger_images_raises_the_decode_size(make_training_set, vit, tmp_path):
    write_gray_images(tmp_path / "large", range(0, 200, 20), size=12)
    ingest_folder(tmp_path / "large", tmp_path / "pool")
    given = make_training_set(name="attention_probe", pool="ds_pool")
    large = replace(vit(), preprocessing=replace(vit().preprocessing, image_size=32))

    training_set = TrainingSet.for_networks(
        given.spec, given.context, {"ds_pool": tmp_path / "pool"}, student=vit(), teachers=[large]
    )

    assert training_set.decode_size == 12
    assert training_set.unlabeled_pool().images.shape[-2:] == (12, 12)


def test_the_cache_folder_depends_on_method_teacher_and_seed(make_training_set, make_preparing_setup, vit):
    def cache_dir(teacher, training_set):
        setup = make_preparing_setup(FrozenTeacher(teacher, FP32))
        training_set.prepare_setup(setup, None)
        assert setup.method.sources.cache_dir.is_dir()
        return setup.method.sources.cache_dir

    first = cache_dir(vit(1), make_training_set())

    assert cache_dir(vit(1), make_training_set()) == first
    others = [
        cache_dir(vit(2), make_training_set()),
        cache_dir(vit(1), make_training_set(seed=1)),
        cache_dir(vit(1), make_training_set(temperature=2.0)),
    ]
    assert len({first, *others}) == 4
