"""Jobs whose networks have different image sizes: each sees the images that it sees alone."""

import hashlib

import numpy as np
import pytest
import torch

from core import pipeline
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset, read_dataset_info
from core.evaluate import evaluate_accuracy
from core.models.preprocessing import Preprocessing
from core.models.weights import load_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_stripe_images
from tests.support.reporter import RecordingReporter

SMALL, LARGE = 8, 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """60 training and 20 test images of 32 pixels. Their stripes are visible at that size only."""
    return store_stripe_images(tmp_path_factory.mktemp("stripes"), num_train=30, num_test=10, size=LARGE)


def vit(size, **more):
    arguments = {"patch_size": size // 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": arguments, **more}


def trained(size=LARGE, *, epochs=25):
    """A teacher that is trained at ``size``."""
    training = {"epochs": epochs, "batch_size": 15, "learning_rate": 5e-3, "augmentation": "flip", "image_size": size}
    return vit(size, weights="train", training=training)


def random(size, architecture=None):
    teacher = vit(size, weights="random")
    teacher["arguments"]["img_size"] = size
    return teacher if architecture is None else {"architecture": architecture, "weights": "random"}


def document(**more):
    training = {"epochs": 2, "batch_size": 15, "learning_rate": 3e-3, "augmentation": "light", "image_size": SMALL}
    return {
        "dataset": "ds_stripes",
        "teachers": [trained()],
        "student": vit(SMALL),
        "method": {"name": "kd"},
        "export": ["safetensors"],
        "resources": {"threads": 1},
        **more,
        "training": training | more.get("training", {}),
    }


def resolution(dataset, **more):
    return resolver.resolve(parse_job_spec(document(**more)), read_dataset_info(dataset), {}, threads=1)


@pytest.fixture
def attempt(dataset, tmp_path):
    """Run a spec as one attempt of a job; attempts of one name share a folder."""

    def run(spec, name="job", **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root / "run", tmp_path / "cache", dataset)
        with RecordingReporter(root, teachers=tmp_path / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return run


def digest(result):
    return hashlib.sha256(result.artifacts["model.safetensors"].read_bytes()).hexdigest()


def top1_alone(folder, dataset, cache):
    """Accuracy of a saved model on the test split, decoded at the model's own size."""
    built = load_folder(folder)
    with StoredDataset.open(dataset) as stored:
        pixels = load_pixels(stored, "test", built.preprocessing.image_size, cache)
    return evaluate_accuracy(built, pixels).top1


def test_a_larger_teacher_has_the_accuracy_that_it_has_alone(attempt, dataset, tmp_path):
    result, reporter = attempt(resolution(dataset).spec)
    (folder,) = (path.parent for path in (tmp_path / "teachers").rglob("model.safetensors"))

    alone = top1_alone(folder, dataset, tmp_path / "other")

    assert alone > 0.9
    assert result.result["teachers"][0]["top1"] == alone
    assert reporter.series["teacher/0/top1"] == [(0, alone)]
    assert reporter.event_data("preflight.passed")["decode_size"] == LARGE
    student = result.artifacts["config.json"].parent
    assert result.result["student"]["top1"] == top1_alone(student, dataset, tmp_path / "other")


def test_a_smaller_teacher_has_the_accuracy_that_it_has_alone(attempt, dataset, tmp_path):
    spec = resolution(dataset, teachers=[trained(16)], student=vit(LARGE), training={"image_size": LARGE}).spec

    result, reporter = attempt(spec)
    (folder,) = (path.parent for path in (tmp_path / "teachers").rglob("model.safetensors"))

    assert result.result["teachers"][0]["top1"] == top1_alone(folder, dataset, tmp_path / "other")
    assert reporter.event_data("preflight.passed")["decode_size"] == LARGE


def test_a_job_whose_networks_have_one_size_decodes_at_that_size_only(attempt, dataset, tmp_path):
    _, reporter = attempt(resolution(dataset, teachers=[trained(SMALL)]).spec)

    assert reporter.event_data("preflight.passed")["decode_size"] == SMALL
    folders = sorted(path.name for path in (tmp_path / "cache" / "pixels").iterdir() if path.is_dir())
    assert [name.rsplit("-", 2)[1:] for name in folders] == [[str(SMALL), "test"], [str(SMALL), "train"]]


def test_an_interrupted_job_with_two_sizes_gives_the_same_bits(attempt, dataset):
    spec = resolution(dataset, teachers=[trained(epochs=1)], training={"augmentation": "strong", "mixup": 0.5}).spec
    uninterrupted, _ = attempt(spec, "uninterrupted")

    with pytest.raises(Interrupted):
        attempt(spec, "interrupted", control=Control.DRAIN, stage=Stage.DISTILL, after=6)
    resumed, reporter = attempt(spec, "interrupted")

    assert "training.resumed" in reporter.event_types
    assert digest(resumed) == digest(uninterrupted)


def test_teacher_outputs_are_shared_by_jobs_with_the_same_decode_size(attempt, dataset):
    def misses(name, **more):
        _, reporter = attempt(resolution(dataset, teachers=[random(16)], **more).spec, name)
        return reporter.event_data("teacher_cache.summary")["misses"]

    assert misses("first") == 2
    assert misses("other student", student=vit(12), training={"image_size": 12}) == 0
    assert misses("other size", student=vit(24), training={"image_size": 24}) == 2


@pytest.mark.parametrize(
    ("method", "teacher"),
    [
        ({"name": "fitnets"}, random(LARGE)),
        (
            {"name": "cumulative_spatial"},
            {
                "architecture": "resnet10t",
                "arguments": {"output_stride": 8},
                "weights": "train",
                "training": {"epochs": 1, "batch_size": 15, "image_size": LARGE},
            },
        ),
        ({"name": "masked_teacher"}, random(LARGE)),
        ({"name": "minivit", "repeats": 1}, random(LARGE)),
        ({"name": "review"}, random(LARGE, "resnet10t")),
    ],
    ids=lambda value: value.get("name", ""),
)
def test_methods_that_compare_features_accept_two_sizes(attempt, dataset, method, teacher):
    result, reporter = attempt(resolution(dataset, method=method, teachers=[teacher], training={"epochs": 1}).spec)

    assert len(reporter.series["train/loss"]) in {2, 4}
    assert 0 <= result.result["student"]["top1"] <= 1


def test_images_made_from_a_teacher_have_its_size(attempt, dataset, tmp_path):
    method = {"name": "dearkd", "data_free": True, "num_images": 30, "iterations": 2}
    teachers = [random(LARGE, "resnet10t")]
    teachers[0]["arguments"] = {}
    spec = resolution(dataset, method=method, teachers=teachers, training={"epochs": 1, "image_size": 16})

    attempt(spec.spec)

    (path,) = (tmp_path / "cache" / "prepared").rglob("inverted.npy")
    assert np.load(path).shape == (30, 1, 16, 16)


def test_the_estimate_counts_images_at_the_decode_size(dataset):
    def memory(size):
        return resolution(dataset, teachers=[random(size)], training={"batch_size": 60}).estimate["memory_bytes"]

    teacher_alone = resolution(dataset, teachers=[random(SMALL)], training={"batch_size": 60}).estimate

    assert memory(LARGE) > memory(16) > memory(SMALL) == teacher_alone["memory_bytes"]


def test_a_student_sees_nearly_the_images_of_its_exported_file(dataset, tmp_path):
    with StoredDataset.open(dataset) as stored:
        small, large = (load_pixels(stored, "train", size, tmp_path) for size in (SMALL, LARGE))
    direct = small.batch(torch.arange(20)).float() / 255
    plain = Preprocessing(image_size=SMALL, channels=1, mean=(0.0,), std=(1.0,))

    resized = plain(large.batch(torch.arange(20)).float() / 255)

    assert (resized - direct).abs().max() <= 1 / 255
