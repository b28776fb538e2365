"""Pictures that a method brings along: fed in place of the training split, made once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import Pixels
from core.data.stored import StoredDataset
from core.ingest.dataset import ingest_folder
from core.methods.scratch import Scratch
from core.spec import parse_job_spec
from core.teacher.frozen import FrozenTeacher
from core.train.context import RunContext
from core.train.precision import ComputeConfig
from core.train.training_set import TrainingSet, planned_schedule

FP32 = ComputeConfig(torch.device("cpu"), "fp32")


class Bringing(Scratch):
    """Brings six black pictures."""

    num_images = 6

    def gather(self, sources):
        self.sources = sources
        sources.event("made", "six pictures", {"images": 6})
        return Pixels(np.zeros((6, 1, 8, 8), np.uint8), torch.zeros(6, dtype=torch.int64))


@pytest.fixture
def gathering(tmp_path, remembering):
    """Makes a gathering for a spec; its context remembers events."""
    for index in range(20):
        folder = tmp_path / "pictures" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(folder / f"{index:02d}.png")
    ingest_folder(tmp_path / "pictures", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        context = RunContext(stored, FP32, 1, remembering(), tmp_path / "root", tmp_path / "cache")

        def make(seed=0, **method):
            vit = {"architecture": "vit_tiny_patch16_224"}
            document = {
                "dataset": "ds_a",
                "teachers": [vit],
                "student": vit,
                "method": {"name": "kd", **method},
                "training": {"image_size": 8, "batch_size": 4, "epochs": 2, "seed": seed},
            }
            return TrainingSet(parse_job_spec(document), context, {"ds_pool": tmp_path / "stored"})

        yield make


@pytest.fixture
def bringing(task, training):
    """Makes a task whose method brings its pictures."""

    def make(*teachers):
        made = task(training(batch_size=4))
        made.method.__class__ = Bringing
        made.method.num_images = 6
        return replace(made, teachers=teachers)

    return make


def test_a_task_without_gathering_stays_as_it_is(gathering, task, training):
    made = task(training())

    assert gathering().gathered(made, None) is made
    assert gathering().pool() is None


def test_what_is_gathered_is_what_is_fed(gathering, bringing, vit):
    made = bringing(FrozenTeacher(vit(), FP32))
    given = gathering()

    found = given.gathered(made, None)

    assert len(found.feed.pixels) == 6
    assert not found.feed.batch(0).images.any()
    assert planned_schedule(made) == planned_schedule(found)
    assert planned_schedule(found).steps_per_epoch == found.feed.steps_per_epoch
    assert given.context.reporter.events == ["made"]


def test_the_pool_is_the_dataset_that_the_method_names(gathering):
    given = gathering(name="attention_probe", pool="ds_pool")

    assert len(given.pool()) == len(given.context.stored.split("train"))


def test_what_is_kept_belongs_to_method_teacher_and_seed(gathering, bringing, vit):
    def kept(teacher, given):
        made = bringing(FrozenTeacher(teacher, FP32))
        given.gathered(made, None)
        assert made.method.sources.kept.is_dir()
        return made.method.sources.kept

    same = kept(vit(1), gathering())

    assert kept(vit(1), gathering()) == same
    others = [kept(vit(2), gathering()), kept(vit(1), gathering(seed=1)), kept(vit(1), gathering(temperature=2.0))]
    assert len({same, *others}) == 4
