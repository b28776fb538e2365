"""Warnings of teachers that teach little, before the student's first step."""

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from core import pipeline
from core.data.stored import read_dataset_info
from core.ingest.dataset import ingest_folder
from core.models.safetensors_header import read_model_info
from core.reporting import Control, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.reporter import RecordingReporter

VIT = "vit_tiny_patch16_224"
SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
GOOD = "mdl_good"


def store_bands(root, *, shift=0):
    """Store 90 training and 120 test images of three classes, each marked by a bright band.

    The training images of a class have the band of the class ``shift`` places further on.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 40)):
        for label in range(3):
            folder = root / "images" / split / f"band{label}"
            folder.mkdir(parents=True)
            band = (label + shift) % 3 if split == "train" else label
            for index in range(count):
                image = generator.integers(0, 120, (8, 8), dtype=np.uint8)
                image[2 * band : 2 * band + 2] += 120
                Image.fromarray(image).save(folder / f"{index:02d}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    return store_bands(tmp_path_factory.mktemp("bands"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a job on a stored dataset; return its result and reporter. ``after`` steps it is stopped."""

    def make(dataset, *, models=None, method=None, training=None, teachers=(), after=None):
        root = tmp_path_factory.mktemp("job")
        document = {
            "dataset": "ds_x",
            "student": {"architecture": VIT, "arguments": SMALL},
            "teachers": list(teachers),
            "method": method or {"name": "kd"},
            "training": {
                "epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "image_size": 8, "augmentation": "none",
                **(training or {}),
            },
            "export": ["safetensors"],
            "resources": {"threads": 1},
        }  # fmt: skip
        info = {name: read_model_info(folder) for name, folder in (models or {}).items()}
        spec = resolver.resolve(parse_job_spec(document), read_dataset_info(dataset), info, threads=1).spec
        workspace = Workspace(root=root / "run", cache=root / "cache", dataset=dataset, models=models or {})
        stop = {} if after is None else {"control": Control.STOP, "stage": Stage.DISTILL, "after": after}
        with RecordingReporter(root, **stop) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


@pytest.fixture(scope="module")
def teacher(run, bands):
    """Folder of a network that classifies the bands."""
    result, _ = run(bands, method={"name": "scratch"}, training={"epochs": 40})
    assert result.result["student"]["top1"] > 0.97
    return result.artifacts["model.safetensors"].parent


def codes(reporter):
    return {warning.code for warning in reporter.warnings() if warning.code.startswith("teacher")}


def with_teacher(folder):
    return {"models": {GOOD: folder}, "teachers": [{"architecture": VIT, "weights": GOOD}]}


@pytest.mark.parametrize("method", [{"name": "kd"}, {"name": "masked_teacher"}, {"name": "kd", "alpha": 1.0}], ids=str)
def test_a_good_teacher_gives_no_warning(run, bands, teacher, method):
    _, reporter = run(bands, **with_teacher(teacher), method=method)

    assert codes(reporter) == set()
    assert reporter.series["teacher/0/augmented_top1"][0][0] == 0
    assert reporter.series["teacher/0/augmented_top1"][0][1] > 0.9


@pytest.mark.parametrize("method", ["kd", "masked_teacher"])  # with and without the teacher cache
def test_a_teacher_that_is_wrong_on_the_images_it_is_shown_gives_a_warning(run, teacher, tmp_path, method):
    mislabeled = store_bands(tmp_path, shift=1)  # the test images are labeled correctly
    _, reporter = run(mislabeled, **with_teacher(teacher), method={"name": method})

    (warning,) = [each for each in reporter.warnings() if each.code == "teacher_wrong_on_augmented"]
    assert warning.field == "/teachers/0"
    assert reporter.series["teacher/0/augmented_top1"][0][1] < 0.1


def test_mixed_images_are_not_checked(run, teacher, tmp_path):
    _, reporter = run(store_bands(tmp_path, shift=1), **with_teacher(teacher), training={"mixup": 0.8})

    assert "teacher/0/augmented_top1" not in reporter.series


@pytest.fixture(scope="module")
def weak_teacher(teacher, tmp_path_factory):
    """Folder of the same network, which never predicts the third class."""
    folder = tmp_path_factory.mktemp("weak")
    (folder / "config.json").write_bytes((teacher / "config.json").read_bytes())
    weights = load_file(teacher / "model.safetensors")
    weights["head.bias"][2] = -100.0
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_teacher_below_a_classifier_of_pixels_gives_a_warning_before_the_training(run, bands, weak_teacher):
    _, reporter = run(bands, **with_teacher(weak_teacher), after=1)

    (warning,) = [each for each in reporter.warnings() if each.code == "teacher_below_baseline"]
    assert "of 120 test images" in warning.message
    assert reporter.event_types.index("job.warning") < reporter.event_types.index("training.stopped")


def test_the_report_lists_a_teacher_below_its_student(run, bands, weak_teacher):
    method = {"name": "kd", "alpha": 0.01}
    result, reporter = run(bands, **with_teacher(weak_teacher), method=method, training={"epochs": 40})

    assert result.result["student"]["top1"] > 0.9
    assert "teacher_below_student" in codes(reporter)
    assert "teacher_below_student" in result.artifacts["report.json"].read_text()
