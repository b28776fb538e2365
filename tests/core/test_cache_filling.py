"""Another process computes teacher outputs of a job: the student has the same bits, and runs no teacher."""

import hashlib
import shutil

import pytest

from core import pipeline
from core.cache_filling import fill_views
from core.data.stored import read_dataset_info
from core.errors import SpecCannotRun
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter


def vit(width, **more):
    arguments = {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": arguments, **more}


class Job:
    """A job of three views, whose attempts share a cache and the trained teachers."""

    def __init__(self, root):
        self.root = root
        self.dataset = store_band_images(root, num_train=30, num_test=10)
        training = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3}
        document = {
            "dataset": "ds_bands",
            "teachers": [vit(24, weights="train", training=training)],
            "student": vit(16),
            "method": {"name": "kd"},
            "training": {**training, "image_size": 8},
            "export": ["safetensors"],
            "resources": {"threads": 1},
        }
        self.spec = resolver.resolve(parse_job_spec(document), read_dataset_info(self.dataset), {}, threads=1).spec

    def workspace(self, name):
        return Workspace(root=self.root / name / "run", cache=self.root / "cache", dataset=self.dataset)

    def reporter(self, name, **options):
        return RecordingReporter(self.root / name, teachers=self.root / "teachers", **options)

    def run(self, name):
        with self.reporter(name) as reporter:
            result = pipeline.run(self.spec, self.workspace(name), reporter)
        weights = result.artifacts["model.safetensors"].read_bytes()
        return hashlib.sha256(weights).hexdigest(), reporter

    def fill(self, name, next_view, *, views_key, control=Control.GO, teachers="teachers"):
        with RecordingReporter(self.root / name, teachers=self.root / teachers, control=control) as reporter:
            return fill_views(self.spec, self.workspace(name), reporter, views_key=views_key, next_view=next_view)

    def delete_outputs(self):
        shutil.rmtree(self.root / "cache" / "teacher_outputs")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("filling"))


@pytest.fixture(scope="module")
def undisturbed(job):
    """The bits of the student, and the key of the offered views."""
    digest, reporter = job.run("undisturbed")
    (offer,) = reporter.offers
    assert (offer.next_view, offer.num_views, offer.num_shards) == (0, 3, 2)
    return digest, offer.views_key


def test_the_student_has_the_same_bits_and_its_process_runs_no_teacher(job, undisturbed):
    digest, views_key = undisturbed
    job.delete_outputs()

    assert job.fill("filling", 0, views_key=views_key) == 3
    filled, reporter = job.run("filled")

    assert filled == digest
    summary = reporter.event_data("teacher_cache.summary")
    assert (summary["hits"], summary["misses"], reporter.offers) == (3, 0, [])


def test_an_attempt_that_is_paused_reports_its_cache_accesses(job, undisturbed):
    job.fill("complete", 0, views_key=undisturbed[1])
    paused = job.reporter("paused", control=Control.PAUSE, stage=Stage.DISTILL, after=4)
    with paused as reporter, pytest.raises(Interrupted):
        pipeline.run(job.spec, job.workspace("paused"), reporter)

    summary = reporter.event_data("teacher_cache.summary")
    assert summary["hits"] == summary["views"] > 0
    assert (summary["misses"], summary["saved_seconds"] > 0) == (0, True)


def test_a_request_ends_it_before_the_next_block(job, undisturbed):
    job.delete_outputs()

    with pytest.raises(Interrupted):
        job.fill("drained", 0, views_key=undisturbed[1], control=Control.DRAIN)


def test_a_process_with_other_bits_or_without_the_teacher_refuses(job, undisturbed):
    with pytest.raises(SpecCannotRun, match="other teacher outputs"):
        job.fill("other", 0, views_key="0" * 64)
    with pytest.raises(SpecCannotRun, match="not saved"):
        job.fill("missing", 0, views_key=undisturbed[1], teachers="none")
