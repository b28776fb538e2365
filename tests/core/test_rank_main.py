"""Several processes train one student: the losses of one process, the same bits after a pause, and no orphans.

Parts of a batch are summed in another order than the whole, so losses agree within ``TOLERANCE``. Without
dropout, drop-path and batch norm: each process draws its own masks and has statistics of its own part.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from core import pipeline, rank_main
from core.data.stored import StoredDataset
from core.errors import NonFiniteLoss, ProcessLost, restore_error
from core.ingest.dataset import ingest_folder
from core.local_reporter import FolderReporter
from core.rank_main import NullReporter
from core.reporting import Control, Interrupted, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from core.spec.facts import DatasetInfo
from core.system.parent_death import CRASHED
from core.train.rank_launcher import RankConfig

SIZE = 8
TOLERANCE = 1e-5  # relative, of a loss


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """66 training and 12 test pictures of three classes."""
    root = tmp_path_factory.mktemp("bands")
    generator = np.random.default_rng(0)
    for split, count in (("train", 22), ("test", 4)):
        for label in range(3):
            folder = root / "images" / split / f"band{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                picture = generator.integers(0, 120, (SIZE, SIZE), dtype=np.uint8)
                picture[2 * label : 2 * label + 2] += 120
                Image.fromarray(picture).save(folder / f"{index:02d}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


def vit(width=16, **more):
    return {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2},
        **more,
    }


def resolved(dataset, devices, *, method="kd", **training):
    with StoredDataset.open(dataset) as stored:
        facts = DatasetInfo(
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
        # One thread each: a pool of them in this process would hang what later tests fork from it.
        "resources": {"accelerator": "cpu", "devices": devices, "threads": 1},
    }
    return resolver.resolve(parse_job_spec(document), facts, {}, threads=1).spec


def followers(parent):
    """The other processes of a job's process."""
    found = psutil.Process(parent).children(recursive=True)
    return [process for process in found if "core.system.parent_death" in process.cmdline()]


class Telling(FolderReporter):
    """Remembers the losses, and does something when so many of them are known."""

    def __init__(self, root, *, teachers, at=None, then=None):
        super().__init__(root, teachers=teachers)
        self.losses, self.processes = {}, []
        self._at, self._then = at, then

    def metrics(self, step, values):
        super().metrics(step, values)
        if "train/loss" in values:
            self.losses[step] = values["train/loss"]
            self.processes = self.processes or followers(os.getpid())
            if step == self._at:
                self._then(self)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def attempt(dataset, tmp_path, shared):
    """Runs a spec as one attempt of a job; attempts of one name share their folder, all share teachers."""

    def make(spec, name="job", **wishes):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=shared / "cache", dataset=dataset)
        with Telling(root, teachers=shared / "teachers", **wishes) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def digest(result):
    return hashlib.sha256(result.artifacts["model.safetensors"].read_bytes()).hexdigest()


def pause(reporter):
    reporter.wish = Control.PAUSE


def gone(processes, seconds=5.0):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("method", ["scratch", "kd"])
def test_two_processes_have_the_losses_of_one(method, attempt, dataset):
    _, alone = attempt(resolved(dataset, 1, method=method), "alone")
    result, together = attempt(resolved(dataset, 2, method=method), "together")

    assert len(together.losses) == 15  # five steps an epoch, whose batches of 13 and 14 are cut in two
    assert together.losses == pytest.approx(alone.losses, rel=TOLERANCE)
    assert len(together.processes) == 1
    assert gone(together.processes)
    assert result.result["student"]["parameters"] > 0


def test_a_training_of_two_processes_that_is_paused_gives_the_same_bits(attempt, dataset):
    spec = resolved(dataset, 2, drop_path=0.2)
    calm, told = attempt(spec, "calm")
    with pytest.raises(Interrupted):
        attempt(spec, "paused", at=7, then=pause)
    resumed, again = attempt(spec, "paused")

    assert min(again.losses) == 8
    assert again.losses == {step: loss for step, loss in told.losses.items() if step > 7}
    assert digest(resumed) == digest(calm)


def test_another_process_that_is_killed_ends_the_run_within_seconds(attempt, dataset):
    seen = []

    def kill(reporter):
        seen.extend([time.monotonic(), *reporter.processes])
        os.kill(reporter.processes[0].pid, signal.SIGKILL)

    with pytest.raises(ProcessLost, match="process 1 of the 3 that train together was ended by signal 9"):
        attempt(resolved(dataset, 3, epochs=200), at=5, then=kill)
    began, *processes = seen

    assert time.monotonic() - began < 10
    assert len(processes) == 2
    assert gone(processes)


def test_no_process_outlives_the_first(dataset, tmp_path, shared):
    code = (
        "import sys; from pathlib import Path; from core import pipeline; from core.local_reporter import FolderReporter\n"
        "from core.reporting import Workspace; from core.spec import parse_job_spec; import json\n"
        "spec, dataset, root, cache = sys.argv[1:]\n"
        "class Told(FolderReporter):\n"
        "    def metrics(self, step, values):\n"
        "        print(step, flush=True)\n"
        "with Told(Path(root), teachers=Path(cache) / 'teachers') as reporter:\n"
        "    workspace = Workspace(root=Path(root) / 'run', cache=Path(cache), dataset=Path(dataset))\n"
        "    pipeline.run(parse_job_spec(json.loads(spec)), workspace, reporter)\n"
    )
    spec = resolved(dataset, 2, method="scratch", epochs=5000).model_dump_json()
    command = [sys.executable, "-c", code, spec, str(dataset), str(tmp_path), str(shared / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        for line in first.stdout:
            if int(line) > 3:
                break
        others = followers(first.pid)
        first.kill()

    assert len(others) == 1
    assert gone(others)


def test_a_follower_has_nothing_to_say():
    silent = NullReporter(orders=None)

    assert silent.control() is Control.GO
    assert silent.event("preflight.passed", "it fits") is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("shapes do not fit"), "internal_error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (NonFiniteLoss("at step 3"), "non_finite_loss"),
    ],
)
def test_it_says_why_it_fails_whatever_the_error(dataset, tmp_path, monkeypatch, error, code):
    """Else a mistake that every process makes would be told as a lost worker, and tried again."""

    def fail(*_):
        raise error

    monkeypatch.setattr(rank_main, "follow", fail)
    workspace = Workspace(root=tmp_path / "run", cache=tmp_path / "cache", dataset=dataset)
    orders = RankConfig.of(resolved(dataset, 2), workspace, teachers={}, checkpoint=None)

    assert rank_main.main([str(orders.write()), "1", "2"]) == CRASHED
    told = restore_error(json.loads(orders.failure(1).read_text()))
    assert told.code == code
    assert str(error) in told.detail
