"""Teachers run once per view; hits, misses, interruptions and full disks do not change the outputs."""

import multiprocessing
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from core.data.mixing import Mixing
from core.data.pixels import Pixels
from core.methods import Outputs
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import FeatureRequest
from core.reporting import Control, Interrupted
from core.spec import parse_job_spec
from core.teacher import output_cache
from core.teacher.output_cache import cached_outputs_for, num_cached_views
from core.teacher.shard_store import ShardStore
from core.train.loader import BatchLoader
from core.train.precision import ComputeConfig
from tests.support.reporter import RecordingReporter

CPU = ComputeConfig(torch.device("cpu"), "fp32")
N, C, SIZE = 150, 5, 4  # three blocks
PLENTY = 10**9


class Teacher:
    """A small network that records its batch sizes."""

    def __init__(self, seed=0, scale=1.0):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, C))
        self.built = BuiltModel(module, "linear", {"num_classes": C}, plain_preprocessing(image_size=SIZE, channels=1))
        self.batch_sizes = []
        self._scale = scale

    @torch.no_grad()
    def __call__(self, images):
        self.batch_sizes.append(len(images))
        return Outputs(self._scale * self.built(images))


@dataclass
class Attempt:
    """One attempt of one job."""

    cached: object
    teachers: list
    loader: BatchLoader
    reporter: RecordingReporter

    def logits(self, steps):
        """The teacher logits that the student reads in these steps."""
        logits = []
        for step in steps:
            self.cached.load_step(step)
            logits += [outputs.logits for outputs in self.cached.for_batch(self.loader.batch(step))]
        return torch.cat(logits)

    @property
    def num_computed(self):
        """Images that the teachers ran on."""
        return sum(sum(teacher.batch_sizes) for teacher in self.teachers)


@pytest.fixture
def attempt(tmp_path):
    reporters = []

    def make(name="job", *, teachers=None, views=2, epochs=4, batch_size=40, max_bytes=PLENTY,
 control=Control.GO, after=0, cacheable=True, top_k=None, teacher_fraction=1.0, mixing=None, cache=None,
 offers_views=False):  # fmt: skip
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, size=(N, 1, SIZE, SIZE), dtype=np.uint8)
        loader = BatchLoader(
            Pixels(images, torch.arange(N) % C), batch_size=batch_size, augmentation="light", views=views, seed=1,
            device=CPU.device, mixing=mixing, num_classes=C,
        )  # fmt: skip
        teachers = [Teacher()] if teachers is None else teachers
        reporter = RecordingReporter(tmp_path / name, control=control, after=after)
        reporters.append(reporter)
        setup = SimpleNamespace(
            teachers=teachers, loader=loader, compute=CPU, training=SimpleNamespace(num_epochs=epochs),
            method=SimpleNamespace(
                cacheable=cacheable, teacher_request=FeatureRequest(), top_k=top_k, teacher_fraction=teacher_fraction
            ),
        )  # fmt: skip
        context = SimpleNamespace(cache=cache or tmp_path / "cache", threads=1, reporter=reporter)
        document = {"dataset": "d", "student": {"architecture": "a"}, "method": {"name": "scratch"}}
        spec = parse_job_spec({**document, "training": {"views": views}})
        cached = cached_outputs_for(
            setup, context, spec=spec, split_id="p", max_bytes=max_bytes, offers_views=offers_views
        )
        return Attempt(cached, teachers, loader, reporter)

    yield make
    for reporter in reporters:
        reporter.close()


def test_the_student_reads_the_outputs_for_its_images_in_half_precision(attempt):
    job = attempt(mixing=Mixing(0.8, 1.0))
    for step in (0, 3, 5, 9):
        job.cached.load_step(step)
        batch = job.loader.batch(step)
        (outputs,) = job.cached.for_batch(batch)

        assert outputs.logits.dtype == torch.float32
        assert outputs.logits.equal(outputs.logits.half().float())
        assert outputs.logits.allclose(Teacher()(batch.images).logits, atol=2e-3)


def test_outputs_of_several_teachers_keep_the_order_of_the_teachers(attempt):
    job = attempt(teachers=[Teacher(0), Teacher(1)])
    job.cached.load_step(0)

    first, second = job.cached.for_batch(job.loader.batch(0))

    batch = job.loader.batch(0)
    assert first.logits.allclose(Teacher(0)(batch.images).logits, atol=2e-3)
    assert second.logits.allclose(Teacher(1)(batch.images).logits, atol=2e-3)


def test_a_view_is_computed_once_and_reused_by_later_jobs(attempt):
    first, second = attempt("first"), attempt("second", batch_size=7)
    expected = first.logits(range(16))
    second_logits = second.logits(range(4 * 22))

    assert first.num_computed == 2 * N
    assert first.teachers[0].batch_sizes == [64, 64, 22] * 2
    assert second.num_computed == 0
    assert expected.shape == second_logits.shape == (4 * N, C)
    assert expected[:N].sort(0).values.equal(second_logits[:N].sort(0).values)
    summary = first.cached.finish().to_json()
    assert (summary["hits"], summary["misses"]) == (2, 2)  # views 0 and 1, each loaded twice
    assert second.cached.finish().to_json() | {"saved_seconds": 0} == {
        "hits": 4, "misses": 0, "seconds": 0.0, "saved_seconds": 0, "bytes": 4 * N * C * 2, "stopped": None,
        "views": 2, "cache_key": first.cached.stats.cache_key,
    }  # fmt: skip
    assert second.cached.stats.saved_seconds > 0


def test_with_new_views_every_epoch_the_next_job_hits(attempt):
    first, second = attempt("first", views=None, epochs=3), attempt("second", views=None, epochs=3)

    expected = first.logits(range(12))

    assert first.num_computed == 3 * N
    assert second.logits(range(12)).equal(expected)
    assert second.num_computed == 0


def test_the_missing_shards_are_offered_from_the_first_computed_one_on(attempt, monkeypatch):
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)  # three shards per view
    seldom = attempt("seldom", views=None, epochs=2, offers_views=True)
    seldom.logits(range(4))
    monkeypatch.setattr(output_cache, "_OFFER_SECONDS", 0.0)
    job = attempt("job", views=None, epochs=3, offers_views=True)
    job.logits(range(12))

    (first,) = seldom.reporter.offers
    assert (first.next_view, first.num_views, first.num_shards) == (0, 2, 5)
    offers = job.reporter.offers
    assert [(offer.next_view, offer.num_shards) for offer in offers] == [(1, 5), (1, 4), (1, 3), (2, 2), (2, 1)]
    assert {offer.views_key for offer in offers} == {attempt("second", views=None, epochs=3).cached.views_key()}
    assert offers[0].seconds == 5 * offers[0].shard_seconds > 0
    assert attempt("other", views=None, epochs=3, teachers=[Teacher(1)]).cached.views_key() != offers[0].views_key


def test_a_view_that_another_process_filled_is_a_hit_with_the_same_outputs(attempt, tmp_path):
    expected = attempt("calm", views=None, epochs=3, cache=tmp_path / "other").logits(range(12))
    job, filling = attempt(views=None, epochs=3, offers_views=True), attempt("filling", views=None, epochs=3)
    assert list(filling.cached.compute_missing(2)) == [2]

    assert job.logits(range(12)).equal(expected)
    assert (filling.num_computed, job.num_computed) == (N, 2 * N)


def test_two_processes_share_the_shards_of_one_view(attempt, tmp_path, monkeypatch):
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)
    expected = attempt("calm", views=1, cache=tmp_path / "other").logits(range(4))
    job, filling = attempt(views=1), attempt("filling", views=1)
    computed = filling.cached.compute_missing(0)
    next(computed)

    assert job.logits(range(4)).equal(expected)
    assert list(computed) == []
    assert (filling.num_computed, job.num_computed) == (64, N - 64)


def _hold_claim(root, key, is_claimed):
    with ShardStore(root, PLENTY).open_entry(key, lambda: None) as entry, entry.claim(0):
        is_claimed.set()
        signal.pause()


def test_while_another_process_computes_a_view_the_training_computes_later_ones(attempt, tmp_path):
    """The other process computes view 0 until it is killed. Then nothing else is left to compute."""
    expected = attempt("calm", views=None, epochs=3, cache=tmp_path / "other").logits(range(12))
    job, root = attempt(views=None, epochs=3), tmp_path / "cache" / "teacher_outputs"
    context = multiprocessing.get_context("fork")
    is_claimed = context.Event()
    keys = [job.cached._requests(view)[0].key for view in range(3)]
    other = context.Process(target=_hold_claim, args=(root, keys[0], is_claimed))
    other.start()
    assert is_claimed.wait(60)
    computed_before_the_kill = []

    def control():
        if job.num_computed == 2 * N and not computed_before_the_kill:
            computed_before_the_kill.extend(path.parent.name for path in root.rglob("*.shard"))
            other.kill()
            other.join()
        return Control.GO

    job.reporter.control = control

    assert job.logits(range(12)).equal(expected)
    assert sorted(computed_before_the_kill) == sorted(keys[1:])
    assert job.num_computed == 3 * N
    stats = job.cached.finish()
    assert (stats.hits, stats.misses, stats.saved_seconds) == (0, 3, 0)  # views that it computed in advance are misses
    assert not list(root.glob("*/*.lock"))


def test_nothing_is_offered_that_the_cache_cannot_store_or_has(attempt):
    poor = attempt("poor", views=None, epochs=3, offers_views=True, max_bytes=0)
    poor.logits(range(4))
    for name in ("first", "second"):
        attempt(name, views=None, epochs=3).logits(range(12))
    hit = attempt("hit", views=None, epochs=3, offers_views=True)
    hit.logits(range(12))

    assert (poor.reporter.offers, hit.reporter.offers) == ([], [])


def test_another_teacher_is_a_miss(attempt):
    attempt("first").logits(range(4))
    other = attempt("second", teachers=[Teacher(1)])

    other.logits(range(4))

    assert other.num_computed == N


@pytest.mark.parametrize("max_bytes", [0, 2 * 2 * N * C - 1])
def test_without_space_for_all_views_outputs_are_the_same_and_the_event_has_the_size(attempt, tmp_path, max_bytes):
    stored = attempt("stored", cache=tmp_path / "other")
    poor = attempt("poor", max_bytes=max_bytes)

    expected = stored.logits(range(16))

    assert poor.logits(range(16)).equal(expected)
    assert poor.num_computed == 4 * N
    ((type_, data),) = poor.reporter.events
    assert type_ == "teacher_cache.disabled"
    assert data["reason"] == f"it needs 3,000 bytes, and its limit is {max_bytes:,} bytes"
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_up_changes_no_output(attempt, tmp_path, monkeypatch):
    expected = attempt("calm", cache=tmp_path / "other").logits(range(16))
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)
    full = attempt("full")
    full.cached.load_step(0)
    full.cached._store.disable("the disk is full")

    assert full.logits(range(16)).equal(expected)
    assert full.reporter.event_types == ["teacher_cache.disabled"]
    assert full.cached.finish().to_json()["stopped"] == "the disk is full"


@pytest.mark.parametrize("control", [Control.PAUSE, Control.CANCEL, Control.STOP, Control.DRAIN])
def test_a_control_request_interrupts_within_a_block_and_the_next_attempt_continues(
    attempt, monkeypatch, tmp_path, control
):
    expected = attempt("calm", cache=tmp_path / "other").logits(range(8))
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)
    interrupted = attempt(control=control, after=2)

    with pytest.raises(Interrupted) as interruption:
        interrupted.logits(range(8))
    later = attempt()

    assert interruption.value.control is control
    assert interrupted.num_computed == 128
    assert later.logits(range(8)).equal(expected)
    assert later.num_computed == 2 * N - 128


def test_a_damaged_shard_is_computed_again(attempt, tmp_path):
    expected = attempt("first").logits(range(8))
    damaged = min((tmp_path / "cache" / "teacher_outputs").rglob("*.shard"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    second = attempt("second")

    assert second.logits(range(8)).equal(expected)
    assert second.num_computed == N
    third = attempt("third")
    assert third.logits(range(8)).equal(expected)
    assert third.num_computed == 0


def test_outputs_beyond_half_precision_are_clamped(attempt):
    expected = attempt(teachers=[Teacher(scale=1e8)]).logits([0])

    assert expected.abs().max().item() == 65504.0
    assert expected.isfinite().all()


def test_without_teachers_or_a_cacheable_method_nothing_is_cached(attempt):
    assert attempt(cacheable=False).cached is None
    assert attempt(teachers=[]).cached is None


def test_a_view_larger_than_memory_is_not_cached(attempt, monkeypatch):
    monkeypatch.setattr(output_cache, "MAX_VIEW_BYTES", 2 * 2 * N * C - 1)

    assert attempt(teachers=[Teacher(), Teacher(1)]).cached is None
    assert attempt(teachers=[Teacher()]).cached is not None


def test_epochs_without_teachers_need_no_space(attempt):
    assert num_cached_views(10, None, 0.83) == 9
    assert num_cached_views(10, 4, 0.5) == 4
    assert num_cached_views(3, None, 0.01) == 1
    assert (
        attempt(epochs=4, views=None, teacher_fraction=0.5, max_bytes=2 * N * C * 2).cached._store.disabled_reason
        is None
    )


def test_memory_mapped_rows_are_the_same(attempt, monkeypatch, tmp_path):
    expected = attempt("memory").logits(range(16))
    monkeypatch.setattr(output_cache, "MAX_IN_MEMORY_BYTES", 0)
    hit, miss = attempt("hit"), attempt("miss", cache=tmp_path / "other")

    assert hit.logits(range(16)).equal(expected)
    assert miss.logits(range(16)).equal(expected)
    assert (hit.num_computed, miss.num_computed) == (0, 2 * N)


def test_block_size_follows_device_and_image_size():
    def setup(size, device):
        preprocessing = plain_preprocessing(image_size=size, channels=1)
        built = BuiltModel(nn.Identity(), "none", {}, preprocessing)
        compute = ComputeConfig(torch.device(device), "fp32")
        return SimpleNamespace(compute=compute, teachers=[SimpleNamespace(built=built)])

    blocks = [output_cache._block_size(setup(*case)) for case in ((32, "cpu"), (32, "cuda"), (224, "cuda"))]
    assert blocks == [64, 512, 128]
    assert output_cache.CPU_SHARD_ROWS % blocks[0] == 0
    assert all(output_cache.GPU_SHARD_ROWS % block == 0 for block in blocks[1:])
