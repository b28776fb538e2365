"""A teacher that a job trains depends only on what its fingerprint covers."""

import hashlib
import json
from contextlib import ExitStack

import pytest
import timm
import torch

from core.data.stored import StoredDataset
from core.ingest.dataset import ingest_folder
from core.local_reporter import FolderReporter
from core.spec import TeacherSpec, TeacherTrainingSpec
from core.teacher.training import TrainedTeacher, teacher_fingerprint
from core.train.context import RunContext
from core.train.environment import reproducible
from core.train.precision import ComputeConfig
from core.train.time_plan import ProgressRange
from tests.support.images import write_gray_images

CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path):
    for label in range(2):
        write_gray_images(tmp_path / "images" / f"class{label}", range(100 * label, 100 * label + 20))
    ingest_folder(tmp_path / "images", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as opened:
        yield opened


@pytest.fixture
def make_teacher(stored, tmp_path):
    """Factory of the same teacher in separate jobs, which share the folder of saved teachers."""
    reporters = ExitStack()

    def make(name, *, precision="fp32", **training):
        reporter = reporters.enter_context(FolderReporter(tmp_path / name, teachers=tmp_path / "teachers"))
        context = RunContext(stored, ComputeConfig(CPU, precision), 1, reporter, tmp_path / name, tmp_path / "cache")
        spec = TeacherSpec(
            architecture="vit_tiny_patch16_224",
            arguments={"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
            weights="train",
            training={"epochs": 2, "batch_size": 16, "drop_path": 0.2, **training},
        )
        return TrainedTeacher(spec, 0, name="teacher", image_size=8, context=context, folders={})

    with reporters, reproducible(threads=1, device=CPU):
        yield make


def train(teacher):
    return teacher.train(teacher.build_setup(), progress_range=ProgressRange(0.0, 0.5), student_steps=10)


def weights(built):
    return torch.cat([parameter.detach().flatten() for parameter in built.module.parameters()])


def test_equal_fingerprints_give_equal_bits_in_any_random_state(make_teacher):
    first = train(make_teacher("first"))
    torch.manual_seed(4711)
    torch.rand(7)
    second = train(make_teacher("second"))

    assert weights(first).equal(weights(second))


def test_the_next_job_loads_the_trained_teacher(make_teacher):
    assert make_teacher("first").find() is None

    trained = train(make_teacher("first"))
    loaded = make_teacher("second").find()

    assert weights(loaded).equal(weights(trained))
    assert loaded.classes == ("class0", "class1")
    assert not loaded.module.training


def test_another_seed_is_a_miss(make_teacher):
    train(make_teacher("first"))

    assert make_teacher("second", seed=1).find() is None


def test_drop_path_applies_to_training_only(make_teacher):
    teacher = make_teacher("first")

    assert teacher.build_setup().student.arguments.get("drop_path_rate", 0.0) in {0.0, 0.2}
    assert teacher.build_setup().student.module.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert isinstance(train(teacher).module.blocks[-1].drop_path1, torch.nn.Identity)


def test_the_students_precision_does_not_change_the_fingerprint(make_teacher):
    first, second = make_teacher("first"), make_teacher("second", precision="bf16")

    assert second.fingerprint == first.fingerprint
    assert second.build_setup().compute.precision == "fp32"


CPU_FP32 = ComputeConfig(CPU, "fp32")


def fingerprint(*, image_size=8, dataset_fingerprint="f", threads=1, compute=CPU_FP32, arguments=None, **training):
    spec = TeacherSpec(architecture="resnet18", weights="train", arguments=arguments or {}, training=training)
    return teacher_fingerprint(
        spec, image_size=image_size, dataset_fingerprint=dataset_fingerprint, threads=threads, compute=compute
    )


def test_explicit_defaults_do_not_change_the_fingerprint():
    assert fingerprint() == fingerprint(batch_size=128, seed=0)


def test_the_image_size_of_job_or_teacher_gives_the_same_fingerprint():
    def with_training(**training):
        spec = TeacherSpec(architecture="resnet18", weights="train", training=training)
        return teacher_fingerprint(spec, image_size=8, dataset_fingerprint="f", threads=1, compute=CPU_FP32)

    assert with_training() == with_training(image_size=8) == fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 16},
        {"dataset_fingerprint": "g"},
        {"threads": 2},
        {"compute": ComputeConfig(torch.device("cpu"), "bf16")},
        {"arguments": {"stem_width": 32}},
        {"seed": 1},
        {"epochs": 21},
        {"augmentation": "none"},
        {"mixup": 0.2},
        {"cutmix": 1.0, "mix_probability": 0.5},
    ],
)
def test_everything_that_changes_the_weights_changes_the_fingerprint(change):
    assert fingerprint(**change) != fingerprint()


def test_mixing_fields_count_only_where_images_are_mixed():
    assert fingerprint(mix_probability=0.5) == fingerprint()
    assert fingerprint(mixup=0.2, mix_probability=0.5) != fingerprint(mixup=0.2)


def test_fingerprints_without_mixing_have_no_fields_of_it():
    training = TeacherTrainingSpec(image_size=8).model_dump(mode="json")
    before = {key: value for key, value in training.items() if key not in {"mixup", "cutmix", "mix_probability"}}
    fields = {
        "format": 2,
        "architecture": "resnet18",
        "arguments": {},
        "training": before,
        "dataset": "f",
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }

    assert (
        fingerprint() == hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    )
