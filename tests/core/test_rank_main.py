"""Data-parallel training: losses equal those of one process, a pause changes no bits, no process is orphaned.

Parts of a batch are summed in another order than the complete batch, so losses agree within ``TOLERANCE``. The models
have no dropout, drop-path or batch norm: each rank draws its own masks and has the statistics of its own part.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core import pipeline, rank_main
from core.data.stored import StoredDataset
from core.errors import NonFiniteLoss, ProcessLost, restore_error
from core.rank_main import RankReporter
from core.reporting import Control, Interrupted, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo
from core.system.parent_death import EXIT_CRASHED
from core.train.rank_config import RankConfig
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter

SIZE = 8
TOLERANCE = 1e-5  # relative, of losses


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """66 training and 12 test images of three classes."""
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=22, num_test=4)


def vit(width=16, **more):
    return {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2},
        **more,
    }


def resolved(dataset, devices, *, method="kd", **training):
    with StoredDataset.open(dataset) as stored:
        info = DatasetInfo(
            num_classes=3, classes=stored.classes, channels=1, image_size=SIZE, num_train=66, num_test=12
        )
    teacher = vit(24, weights="train", training={"epochs": 1, "batch_size": 16})
    document = {
        "dataset": "ds_bands",
        "teachers": [] if method == "scratch" else [teacher],
        "student": vit(),
        "method": {"name": method},
        "training": {"epochs": 3, "batch_size": 14, "learning_rate": 3e-3, "image_size": SIZE, **training},
        "export": ["safetensors"],
        # One thread each: a thread pool in this process would hang processes that later tests fork from it.
        "resources": {"accelerator": "cpu", "devices": devices, "threads": 1},
    }
    return resolver.resolve(parse_job_spec(document), info, {}, threads=1).spec


def rank_processes(parent):
    """Processes of ranks 1 and above that a job's process has started."""
    children = psutil.Process(parent).children(recursive=True)
    return [process for process in children if "core.system.parent_death" in process.cmdline()]


class StepActionReporter(RecordingReporter):
    """Records the processes of the other ranks, and calls ``action`` at step ``at``."""

    def __init__(self, root, *, teachers, at=None, action=None):
        super().__init__(root, teachers=teachers)
        self.processes = []
        self._at, self._action = at, action

    @property
    def losses(self):
        return dict(self.series["train/loss"])

    def metrics(self, step, values):
        super().metrics(step, values)
        if "train/loss" in values:
            self.processes = self.processes or rank_processes(os.getpid())
            if step == self._at:
                self._action(self)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def attempt(dataset, tmp_path, shared):
    """Run a spec as one attempt of a job. Attempts of one name share a folder; all share teachers."""

    def make(spec, name="job", **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=shared / "cache", dataset=dataset)
        with StepActionReporter(root, teachers=shared / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def digest(result):
    return hashlib.sha256(result.artifacts["model.safetensors"].read_bytes()).hexdigest()


def pause(reporter):
    reporter.control_override = Control.PAUSE


def have_ended(processes, timeout_seconds=5.0):
    _, alive = psutil.wait_procs(processes, timeout=timeout_seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "method", ["kd", pytest.param("vid", marks=pytest.mark.slow)]
)  # vid measures the first batch of all ranks
def test_two_processes_have_the_losses_of_one(method, attempt, dataset):
    _, single = attempt(resolved(dataset, 1, method=method), "single")
    result, parallel = attempt(resolved(dataset, 2, method=method), "parallel")

    assert len(parallel.losses) == 15  # five steps per epoch, with batches of 13 and 14 images
    assert parallel.losses == pytest.approx(single.losses, rel=TOLERANCE)
    assert len(parallel.processes) == 1
    assert have_ended(parallel.processes)
    assert result.result["student"]["parameters"] > 0


@pytest.mark.slow
def test_two_processes_that_accumulate_gradients_have_the_losses_of_one(attempt, dataset):
    _, single = attempt(resolved(dataset, 1, method="kd"), "single")
    _, parallel = attempt(resolved(dataset, 2, method="kd", gradient_accumulation=3), "parallel")

    assert parallel.losses == pytest.approx(single.losses, rel=TOLERANCE)


@pytest.mark.slow  # tests/core/train/test_balance.py has the rules in one process
@pytest.mark.parametrize(("rule", "optimizer"), [("projected", "adamw"), ("dot", "sgd")])
def test_two_processes_that_balance_gradients_have_the_losses_of_one(rule, optimizer, attempt, dataset):
    training = {"method": "fitnets", "balance": {"rule": rule}, "optimizer": optimizer}
    _, single = attempt(resolved(dataset, 1, **training), "single")
    _, parallel = attempt(resolved(dataset, 2, gradient_accumulation=2, **training), "parallel")

    assert parallel.losses == pytest.approx(single.losses, rel=10 * TOLERANCE)
    cosines, expected = (dict(reporter.series["train/gradient_cosine"]) for reporter in (parallel, single))
    assert cosines == pytest.approx(expected, abs=1e-3)


def test_a_paused_training_of_two_processes_gives_the_same_bits(attempt, dataset):
    spec = resolved(dataset, 2, drop_path=0.2)
    uninterrupted, reporter = attempt(spec, "uninterrupted")
    with pytest.raises(Interrupted):
        attempt(spec, "paused", at=7, action=pause)
    resumed, resumed_reporter = attempt(spec, "paused")

    assert min(resumed_reporter.losses) == 8
    assert resumed_reporter.losses == {step: loss for step, loss in reporter.losses.items() if step > 7}
    assert digest(resumed) == digest(uninterrupted)


def test_a_killed_rank_ends_the_run_within_seconds(attempt, dataset):
    recorded = []

    def kill(reporter):
        recorded.extend([time.monotonic(), *reporter.processes])
        os.kill(reporter.processes[0].pid, signal.SIGKILL)

    with pytest.raises(ProcessLost, match="rank 1 of 3 was ended by signal 9"):
        attempt(resolved(dataset, 3, epochs=200), at=5, action=kill)
    killed_at, *processes = recorded

    assert time.monotonic() - killed_at < 10
    assert len(processes) == 2
    assert have_ended(processes)


def test_no_rank_outlives_rank_zero(dataset, tmp_path, shared):
    code = (
        "import json, sys; from pathlib import Path; from core import pipeline\n"
        "from core.local_reporter import FolderReporter; from core.reporting import Workspace\n"
        "from core.spec import parse_job_spec\n"
        "spec, dataset, root, cache = sys.argv[1:]\n"
        "class PrintingReporter(FolderReporter):\n"
        "    def metrics(self, step, values):\n"
        "        print(step, flush=True)\n"
        "with PrintingReporter(Path(root), teachers=Path(cache) / 'teachers') as reporter:\n"
        "    workspace = Workspace(root=Path(root) / 'run', cache=Path(cache), dataset=Path(dataset))\n"
        "    pipeline.run(parse_job_spec(json.loads(spec)), workspace, reporter)\n"
    )
    spec = resolved(dataset, 2, method="scratch", epochs=5000).model_dump_json()
    command = [sys.executable, "-c", code, spec, str(dataset), str(tmp_path), str(shared / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as rank_zero:
        for line in rank_zero.stdout:
            if int(line) > 3:
                break
        processes = rank_processes(rank_zero.pid)
        rank_zero.kill()

    assert len(processes) == 1
    assert have_ended(processes)


def test_other_ranks_report_nothing():
    reporter = RankReporter(config=None)

    assert reporter.control() is Control.GO
    assert reporter.event("preflight.passed", "it fits") is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("shapes do not fit"), "internal_error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (NonFiniteLoss("at step 3"), "non_finite_loss"),
    ],
)
def test_a_rank_reports_every_error(dataset, tmp_path, monkeypatch, error, code):
    """Otherwise an error of all ranks would be reported as a lost worker, and retried."""

    def fail(*_):
        raise error

    monkeypatch.setattr(rank_main, "train_rank", fail)
    workspace = Workspace(root=tmp_path / "run", cache=tmp_path / "cache", dataset=dataset)
    config = RankConfig.from_spec(resolved(dataset, 2), workspace, teachers={}, checkpoint=None)

    assert rank_main.main([str(config.write()), "1", "2"]) == EXIT_CRASHED
    reported = restore_error(json.loads(config.failure_path(1).read_text()))
    assert reported.code == code
    assert str(error) in reported.detail
