"""Runs of the quality benchmark start in order, stop on request, and are not lost or repeated after a kill."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.quality.plan import Plan
from benchmarks.quality.protocol import QUICK
from benchmarks.quality.results import CRASHED, Results
from benchmarks.quality.schedule import OtherWeights, Scheduler

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["scratch", "kd", "deit", "uvc", "manifold"]
ONLY = ["kd", "uvc", "manifold"]


def result_of(run, **more):
    return {
        "name": run.name, "digest": run.digest, **run.details, "status": "succeeded", "validation_top1": 0.4,
        "test_top1": 0.4, "parameters": 1, "seconds": 1.0, **more,
    }  # fmt: skip


class Bench:
    """A scheduler whose runs only record their names."""

    def __init__(self, folder, *, workers=2, fail=(), weights=True):
        self.plan = Plan(QUICK, Results(folder), methods=METHODS)
        self.stop = threading.Event()
        self.started, self.fail, self.stop_at = [], fail, None
        self.trained, self.discarded = set(), []
        self.scheduler = Scheduler(
            self.plan,
            self.execute,
            executor=lambda: ThreadPoolExecutor(workers),
            has_weights=lambda name: weights or name in self.trained,
            discard=self.discard,
            workers=workers,
            report=lambda _: None,
        )

    def execute(self, run):
        self.started.append(run.name)
        if len(self.started) == self.stop_at:
            self.stop.set()
        if self.stop.is_set():
            return None
        self.trained.add(run.name)
        return result_of(run, status=CRASHED, problem="no") if run.name in self.fail else result_of(run)

    def discard(self, name):
        """A run's files are only deleted when its result is safe."""
        assert (self.plan.results.folder / f"{name}.json").exists() or name in self.fail
        self.discarded.append(name)

    def run(self, only=ONLY):
        return self.scheduler.run(only, self.stop)


def test_all_runs_are_made_once_and_after_their_inputs(tmp_path):
    bench = Bench(tmp_path)

    assert bench.run()
    assert len(bench.started) == len(set(bench.started))
    assert not bench.plan.pending(ONLY)
    order = {name: index for index, name in enumerate(bench.started)}
    assert order["teacher-cnn"] < order["teacher-vit"] < order["vit-manifold-tune-0.001"]
    assert order["vit-scratch-seed-1"] < order["vit-uvc-seed-1"]
    assert {path.stem for path in tmp_path.glob("*.json")} == set(bench.started) == set(bench.discarded)


def test_a_stopped_benchmark_continues(tmp_path):
    first = Bench(tmp_path)
    first.stop_at = 7
    assert not first.run()
    done = {path.stem for path in tmp_path.glob("*.json")}

    second = Bench(tmp_path)

    assert second.run()
    assert not done & set(second.started)
    assert done | set(second.started) == {path.stem for path in tmp_path.glob("*.json")}


def test_a_crash_blocks_only_what_depends_on_it(tmp_path):
    bench = Bench(tmp_path, fail=("teacher-vit",))

    assert not bench.run()
    assert not [name for name in bench.started if name.startswith("vit-manifold")]
    assert "vit-uvc-seed-1" in bench.started
    assert not (tmp_path / "teacher-vit.json").exists()


def test_lost_weights_are_trained_again_without_a_second_result(tmp_path):
    Bench(tmp_path).run()
    for path in tmp_path.glob("vit-manifold-seed-*.json"):
        path.unlink()
    before = (tmp_path / "teacher-vit.json").read_bytes()

    bench = Bench(tmp_path, weights=False)

    assert bench.run()
    assert bench.started[:2] == ["teacher-cnn", "teacher-vit"]
    assert set(bench.started[2:]) == {"vit-manifold-seed-0", "vit-manifold-seed-1"}
    assert (tmp_path / "teacher-vit.json").read_bytes() == before


def test_a_teacher_with_other_bits_ends_the_benchmark(tmp_path):
    Bench(tmp_path).run()
    (tmp_path / "vit-manifold-seed-0.json").unlink()
    bench = Bench(tmp_path, weights=False)
    execute = bench.execute
    bench.scheduler._execute = lambda run: {**execute(run), "saved_weights": "0" * 64}

    with pytest.raises(OtherWeights, match=r"teacher-cnn.*--results"):
        bench.run()
    assert not (tmp_path / "vit-manifold-seed-0.json").exists()


def test_a_killed_worker_does_not_end_the_benchmark(tmp_path):
    bench = Bench(tmp_path)
    attempts = []

    class Executor(ThreadPoolExecutor):
        def submit(self, function, run):
            attempts.append(run.name)
            if len(attempts) == 4:
                raise BrokenExecutor
            return super().submit(function, run)

    bench.scheduler._new_executor = lambda: Executor(2)

    assert bench.run()
    assert not bench.plan.pending(ONLY)
    assert len(bench.started) - len(set(bench.started)) <= 1  # that of the other worker


def test_workers_that_always_die_end_the_benchmark(tmp_path):
    bench = Bench(tmp_path)

    class Executor(ThreadPoolExecutor):
        def submit(self, function, run):
            raise BrokenExecutor

    bench.scheduler._new_executor = lambda: Executor(2)

    with pytest.raises(BrokenExecutor):
        bench.run()


KILLED = """
import sys, time
from pathlib import Path
from tests.benchmarks.test_quality_schedule import Bench, ONLY
bench = Bench(Path(sys.argv[1]))
execute = bench.scheduler._execute
bench.scheduler._execute = lambda run: (time.sleep(0.05), execute(run))[1]
bench.run()
"""


def test_after_sigkill_only_unfinished_runs_are_made(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.json"))) < 6:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.stem for path in tmp_path.glob("*.json")}

    bench = Bench(tmp_path)

    assert bench.run()
    assert len(done) >= 6
    assert not done & set(bench.started)
    assert not bench.plan.pending(ONLY)
