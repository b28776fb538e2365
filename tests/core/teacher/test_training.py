"""A teacher that a job trains depends on its recipe alone."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.ingest.dataset import ingest_folder
from core.data.stored import StoredDataset
from core.local import FolderReporter
from core.spec import TeacherSpec
from core.teacher.training import TrainedTeacher
from core.train.context import RunContext
from core.train.environment import reproducible
from core.train.precision import Arithmetic
from core.train.record import Span

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
        context = RunContext(stored, Arithmetic(CPU, precision), 1, reporter, tmp_path / name, tmp_path / "cache")
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
    return learner.train(learner.task(), span=Span(0.0, 0.5), student_steps=10)


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
