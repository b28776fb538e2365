"""Teachers are asked once, and who asked, who stored and who was killed cannot be seen in an answer."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from core.data.mixing import Mixing
from core.data.pixels import Pixels
from core.local_reporter import FolderReporter
from core.methods import Outputs
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import FeatureRequest
from core.reporting import Control, Interrupted
from core.spec import parse_job_spec
from core.teacher import output_cache as answers_module
from core.teacher.output_cache import cached_outputs_for, num_cached_views
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig

CPU = ComputeConfig(torch.device("cpu"), "fp32")
N, C, SIZE = 150, 5, 4  # three blocks
PLENTY = 10**9


class Teacher:
    """A small network that counts the pictures it was asked about."""

    def __init__(self, seed=0, scale=1.0):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, C))
        self.built = BuiltModel(module, "linear", {"num_classes": C}, plain_preprocessing(image_size=SIZE, channels=1))
        self.sizes = []
        self._scale = scale

    @torch.no_grad()
    def __call__(self, images):
        self.sizes.append(len(images))
        return Outputs(self._scale * self.built(images))


class Telling(FolderReporter):
    """Remembers events, and wishes for something once it was asked so often."""

    def __init__(self, root, wish=Control.GO, after=0):
        super().__init__(root, teachers=root / "teachers")
        self.events = []
        self._then, self._after = wish, after

    def event(self, type, message, *, level="info", data=None):  # noqa: A002 - the wire's word
        self.events.append((type, dict(data)))

    def control(self):
        self._after -= 1
        return self._then if self._after < 0 else Control.GO


@dataclass
class Asking:
    """One attempt of one job."""

    answers: object
    teachers: list
    feed: BatchLoader
    reporter: Telling

    def walk(self, steps):
        """Everything that the student is told, and whether it is what it looks at."""
        said = []
        for step in steps:
            self.answers.load_step(step)
            said += [outputs.logits for outputs in self.answers.for_batch(self.feed.batch(step))]
        return torch.cat(said)

    @property
    def asked(self):
        return sum(sum(teacher.sizes) for teacher in self.teachers)


@pytest.fixture
def asking(tmp_path):
    made = []

    def make(name="job", *, teachers=None, views=2, epochs=4, batch_size=40, max_bytes=PLENTY, wish=Control.GO,
 after=0, reads=True, sparse=None, teacher_fraction=1.0, mixing=None, cache=None):  # fmt: skip
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, size=(N, 1, SIZE, SIZE), dtype=np.uint8)
        feed = BatchLoader(
            Pixels(images, torch.arange(N) % C), batch_size=batch_size, augmentation="light", views=views, seed=1,
            device=CPU.device, mixing=mixing, num_classes=C,
        )  # fmt: skip
        teachers = [Teacher()] if teachers is None else teachers
        reporter = Telling(tmp_path / name, wish, after)
        made.append(reporter)
        task = SimpleNamespace(
            teachers=teachers, feed=feed, arithmetic=CPU, training=SimpleNamespace(epochs=epochs),
            method=SimpleNamespace(
                cacheable=reads, asks=FeatureRequest(), sparse_answers=sparse, teacher_fraction=teacher_fraction
            ),
        )  # fmt: skip
        context = SimpleNamespace(cache=cache or tmp_path / "cache", threads=1, reporter=reporter)
        document = {"dataset": "d", "student": {"architecture": "a"}, "method": {"name": "scratch"}}
        spec = parse_job_spec({**document, "training": {"views": views}})
        found = cached_outputs_for(task, context, spec=spec, pictures="p", max_bytes=max_bytes)
        return Asking(found, teachers, feed, reporter)

    yield make
    for reporter in made:
        reporter.close()


def test_a_student_reads_what_its_teacher_says_of_the_very_pictures_rounded_to_half(asking):
    one = asking(mixing=Mixing(0.8, 1.0))
    for step in (0, 3, 5, 9):
        one.answers.load_step(step)
        batch = one.feed.batch(step)
        (said,) = one.answers.for_batch(batch)

        assert said.logits.dtype == torch.float32
        assert said.logits.equal(said.logits.half().float())
        assert said.logits.allclose(Teacher()(batch.images).logits, atol=2e-3)


def test_several_teachers_answer_in_their_order(asking):
    one = asking(teachers=[Teacher(0), Teacher(1)])
    one.answers.load_step(0)

    first, second = one.answers.for_batch(one.feed.batch(0))

    batch = one.feed.batch(0)
    assert first.logits.allclose(Teacher(0)(batch.images).logits, atol=2e-3)
    assert second.logits.allclose(Teacher(1)(batch.images).logits, atol=2e-3)


def test_a_teacher_is_asked_once_about_each_view_and_by_no_later_job(asking):
    first, second = asking("first"), asking("second", batch_size=7)
    told = first.walk(range(16))
    again = second.walk(range(4 * 22))

    assert first.asked == 2 * N
    assert first.teachers[0].sizes == [64, 64, 22] * 2
    assert second.asked == 0
    assert told.shape == again.shape == (4 * N, C)
    assert told[:N].sort(0).values.equal(again[:N].sort(0).values)
    summary = first.answers.finish().figures()
    assert (summary["hits"], summary["misses"]) == (2, 2)  # views 0 and 1, each shown twice
    assert second.answers.finish().figures() | {"saved_seconds": 0} == {
        "hits": 4, "misses": 0, "seconds": 0.0, "saved_seconds": 0, "bytes": 4 * N * C * 2, "stopped": None,
        "views": 2, "asked": first.answers.stats.asked,
    }  # fmt: skip
    assert second.answers.stats.saved_seconds > 0


def test_new_views_every_epoch_are_stored_for_the_next_job(asking):
    first, second = asking("first", views=None, epochs=3), asking("second", views=None, epochs=3)

    told = first.walk(range(12))

    assert first.asked == 3 * N
    assert second.walk(range(12)).equal(told)
    assert second.asked == 0


def test_another_teacher_is_asked_itself(asking):
    asking("first").walk(range(4))
    other = asking("second", teachers=[Teacher(1)])

    other.walk(range(4))

    assert other.asked == N


@pytest.mark.parametrize("max_bytes", [0, 2 * 2 * N * C - 1])
def test_without_room_for_all_views_the_bits_are_the_same_and_the_event_says_what_it_takes(asking, tmp_path, max_bytes):
    stored = asking("stored", cache=tmp_path / "other")
    poor = asking("poor", max_bytes=max_bytes)

    told = stored.walk(range(16))

    assert poor.walk(range(16)).equal(told)
    assert poor.asked == 4 * N
    ((type_, data),) = poor.reporter.events
    assert type_ == "teacher_cache.disabled"
    assert data["reason"] == f"it would need 3,000 bytes and may take {max_bytes:,}"
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_up_half_way_changes_no_bit(asking, tmp_path, monkeypatch):
    told = asking("calm", cache=tmp_path / "other").walk(range(16))
    monkeypatch.setattr(answers_module, "SHARD_ROWS", 64)
    full = asking("full")
    full.answers.load_step(0)
    full.answers._store.stop("the disk is full")

    assert full.walk(range(16)).equal(told)
    assert [type_ for type_, _ in full.reporter.events] == ["teacher_cache.disabled"]
    assert full.answers.finish().figures()["stopped"] == "the disk is full"


@pytest.mark.parametrize("wish", [Control.PAUSE, Control.CANCEL, Control.STOP, Control.DRAIN])
def test_filling_is_left_within_a_block_and_goes_on_where_it_was(asking, monkeypatch, tmp_path, wish):
    told = asking("calm", cache=tmp_path / "other").walk(range(8))
    monkeypatch.setattr(answers_module, "SHARD_ROWS", 64)
    left = asking(wish=wish, after=2)

    with pytest.raises(Interrupted) as leaving:
        left.walk(range(8))
    later = asking()

    assert leaving.value.control is wish
    assert left.asked == 128
    assert later.walk(range(8)).equal(told)
    assert later.asked == 2 * N - 128


def test_a_damaged_shard_is_asked_about_again(asking, tmp_path):
    told = asking("first").walk(range(8))
    damaged = min((tmp_path / "cache" / "answers").rglob("*.shard"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    second = asking("second")

    assert second.walk(range(8)).equal(told)
    assert second.asked == N
    third = asking("third")
    assert third.walk(range(8)).equal(told)
    assert third.asked == 0


def test_answers_beyond_half_precision_become_the_largest_number_and_stay_finite(asking):
    told = asking(teachers=[Teacher(scale=1e8)]).walk([0])

    assert told.abs().max().item() == 65504.0
    assert told.isfinite().all()


def test_a_method_that_shows_its_teachers_other_pictures_asks_batch_by_batch(asking):
    assert asking(reads=False).answers is None
    assert asking(teachers=[]).answers is None


def test_a_view_that_is_too_big_for_memory_is_asked_batch_by_batch(asking, monkeypatch):
    monkeypatch.setattr(answers_module, "MOST_VIEW_BYTES", 2 * 2 * N * C - 1)

    assert asking(teachers=[Teacher(), Teacher(1)]).answers is None
    assert asking(teachers=[Teacher()]).answers is not None


def test_views_of_a_stage_without_a_teacher_need_no_room(asking):
    assert num_cached_views(10, None, 0.83) == 9
    assert num_cached_views(10, 4, 0.5) == 4
    assert num_cached_views(3, None, 0.01) == 1
    assert asking(epochs=4, views=None, teacher_fraction=0.5, max_bytes=2 * N * C * 2).answers._store.stopped is None


def test_a_view_that_is_not_held_reads_the_same_from_disk(asking, monkeypatch, tmp_path):
    told = asking("held").walk(range(16))
    monkeypatch.setattr(answers_module, "MOST_HELD_BYTES", 0)
    reading, filling = asking("reading"), asking("filling", cache=tmp_path / "other")

    assert reading.walk(range(16)).equal(told)
    assert filling.walk(range(16)).equal(told)
    assert (reading.asked, filling.asked) == (0, 2 * N)


def test_a_gpu_is_asked_about_fewer_pictures_of_many_pixels():
    def task(size, device):
        preprocessing = plain_preprocessing(image_size=size, channels=1)
        built = BuiltModel(nn.Identity(), "none", {}, preprocessing)
        arithmetic = ComputeConfig(torch.device(device), "fp32")
        return SimpleNamespace(arithmetic=arithmetic, teachers=[SimpleNamespace(built=built)])

    blocks = [answers_module._block_rows(task(*one)) for one in ((32, "cpu"), (32, "cuda"), (224, "cuda"))]
    assert blocks == [64, 512, 128]
    assert all(answers_module.SHARD_ROWS % block == 0 for block in blocks)
