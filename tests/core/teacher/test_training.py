"""A teacher that a job trains depends on its recipe alone."""

import hashlib
import json
from contextlib import ExitStack

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from core.data.stored import StoredDataset
from core.ingest.dataset import ingest_folder
from core.local_reporter import FolderReporter
from core.spec import TeacherSpec, TeacherTrainingSpec
from core.teacher.training import TrainedTeacher, recipe_digest
from core.train.context import RunContext
from core.train.environment import reproducible
from core.train.precision import ComputeConfig
from core.train.progress import ProgressRange

CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path):
    for label in range(2):
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(20):
            Image.fromarray(np.full((8, 8), 100 * label + index, np.uint8)).save(folder / f"{index:02d}.png")
    ingest_folder(tmp_path / "pictures", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as opened:
        yield opened


@pytest.fixture
def learner(stored, tmp_path):
    """Makes the same teacher in surroundings of its own; jobs share the folder of kept teachers."""

    open_ones = ExitStack()

    def make(name, *, precision="fp32", **training):
        reporter = open_ones.enter_context(FolderReporter(tmp_path / name, teachers=tmp_path / "teachers"))
        context = RunContext(stored, ComputeConfig(CPU, precision), 1, reporter, tmp_path / name, tmp_path / "cache")
        spec = TeacherSpec(
            architecture="vit_tiny_patch16_224",
            arguments={"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
            weights="train",
            training={"epochs": 2, "batch_size": 16, "drop_path": 0.2, **training},
        )
        return TrainedTeacher(spec, 0, image_size=8, context=context)

    with open_ones, reproducible(threads=1, device=CPU):
        yield make


def train(learner):
    return learner.train(learner.task(), span=ProgressRange(0.0, 0.5), student_steps=10)


def weights(built):
    return torch.cat([parameter.detach().flatten() for parameter in built.module.parameters()])


def test_the_same_recipe_gives_the_same_bits_whatever_was_drawn_before(learner):
    first = train(learner("first"))
    torch.manual_seed(4711)
    torch.rand(7)
    second = train(learner("second"))

    assert weights(first).equal(weights(second))


def test_a_trained_teacher_is_found_by_the_next_job_as_it_was(learner):
    assert learner("first").find() is None

    trained = train(learner("first"))
    found = learner("second").find()

    assert weights(found).equal(weights(trained))
    assert found.classes == ("class0", "class1")
    assert not found.module.training


def test_another_seed_is_another_teacher(learner):
    train(learner("first"))

    assert learner("second", seed=1).find() is None


def test_drop_path_is_for_training_alone(learner):
    one = learner("first")

    assert one.task().student.arguments.get("drop_path_rate", 0.0) in {0.0, 0.2}
    assert one.task().student.module.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert isinstance(train(one).module.blocks[-1].drop_path1, torch.nn.Identity)


def test_the_students_precision_is_no_part_of_a_teachers_recipe(learner):
    one, other = learner("first"), learner("second", precision="bf16")

    assert other.recipe == one.recipe
    assert other.task().arithmetic.precision == "fp32"


CPU = ComputeConfig(torch.device("cpu"), "fp32")


def digest(*, image_size=8, fingerprint="f", threads=1, arithmetic=CPU, arguments=None, **training):
    spec = TeacherSpec(architecture="resnet18", weights="train", arguments=arguments or {}, training=training)
    return recipe_digest(spec, image_size=image_size, fingerprint=fingerprint, threads=threads, arithmetic=arithmetic)


def test_a_default_and_the_same_value_written_out_are_one_recipe():
    assert digest() == digest(epochs=20, seed=0)


def test_a_size_from_the_job_and_the_same_one_of_the_teachers_own_are_one_recipe():
    def of(**training):
        spec = TeacherSpec(architecture="resnet18", weights="train", training=training)
        return recipe_digest(spec, image_size=8, fingerprint="f", threads=1, arithmetic=CPU)

    assert of() == of(image_size=8) == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 16},
        {"fingerprint": "g"},
        {"threads": 2},
        {"arithmetic": ComputeConfig(torch.device("cpu"), "bf16")},
        {"arguments": {"stem_width": 32}},
        {"seed": 1},
        {"epochs": 21},
        {"augmentation": "none"},
        {"mixup": 0.2},
        {"cutmix": 1.0, "mix_probability": 0.5},
    ],
)
def test_whatever_changes_the_weights_changes_the_digest(change):
    assert digest(**change) != digest()


def test_where_nothing_is_mixed_the_recipe_does_not_speak_of_mixing():
    assert digest(mix_probability=0.5) == digest()
    assert digest(mixup=0.2, mix_probability=0.5) != digest(mixup=0.2)


def test_recipes_from_before_mixing_still_find_their_teachers():
    training = TeacherTrainingSpec(image_size=8).model_dump(mode="json")
    before = {key: value for key, value in training.items() if key not in {"mixup", "cutmix", "mix_probability"}}
    recipe = {
        "format": 1,
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

    assert digest() == hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
