"""Starting, monitoring and ending the processes of the other ranks, replaced by small modules."""

import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from core.errors import KilledForMemory, OutOfMemory, PotstillError, ProcessLost
from core.reporting import Control, Interrupted, Workspace
from core.spec import parse_job_spec
from core.system import oom_kills
from core.train import rank_launcher
from core.train.context import threads_per_rank
from core.train.process_group import SINGLE_PROCESS
from core.train.rank_config import RankConfig, write_failure
from core.train.rank_launcher import launch_ranks

CPU = torch.device("cpu")
SPEC = parse_job_spec(
    {
        "dataset": "ds_x",
        "student": {"architecture": "vit_tiny_patch16_224"},
        "method": {"name": "scratch"},
        "resources": {"accelerator": "cpu", "devices": 2, "threads": 5},
    }
)


@pytest.fixture
def config(tmp_path):
    workspace = Workspace(root=tmp_path / "run", cache=tmp_path / "cache", dataset=tmp_path / "data")
    return RankConfig.from_spec(
        SPEC, workspace, teachers={"r": tmp_path / "teacher"}, checkpoint=tmp_path / "checkpoint"
    )


@pytest.fixture
def replace_ranks(tmp_path, monkeypatch):
    """Run a module of the given code in the processes of the other ranks."""

    def install(code):
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "fake_rank.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        monkeypatch.setattr(rank_launcher, "MODULE", "fake_rank")

    return install


def context(poll=lambda: None):
    """The fields of a run's context that the launcher reads."""
    return SimpleNamespace(channel=None, compute=SimpleNamespace(device=CPU), poll=poll)


def launch(config, poll=lambda: None):
    with launch_ranks(config, context(poll), SPEC) as ranks:
        return ranks


def test_threads_are_divided_among_ranks():
    assert threads_per_rank(SPEC) == 2


def test_one_device_starts_no_process(config):
    spec = SPEC.model_copy(update={"resources": SPEC.resources.model_copy(update={"devices": 1})})
    with launch_ranks(config, context(), spec) as ranks:
        assert ranks is SINGLE_PROCESS

    assert threads_per_rank(spec) == 5


def test_a_rank_that_ends_at_startup_is_reported_with_the_end_of_its_log(config, replace_ranks):
    replace_ranks("raise SystemExit('there is no such student')")

    with pytest.raises(ProcessLost, match=r"rank 1 of 2 ended with status 1; end of its log: there is no such"):
        launch(config)


def test_the_reported_error_of_another_rank_is_raised(config, replace_ranks):
    replace_ranks("import sys, time; time.sleep(0.2); sys.exit(70)")

    def report():
        if not config.failure_path(1).exists():
            write_failure(config, 1, OutOfMemory("too large"))

    with pytest.raises(OutOfMemory, match="too large"):
        launch(config, report)


def test_the_first_failure_is_the_cause_unless_a_rank_was_killed(config, replace_ranks):
    replace_ranks(
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "outcome = Path(sys.argv[1]).parent / f'outcome-{sys.argv[2]}'\n"
        "while not outcome.exists(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if outcome.read_text() == 'killed' else sys.exit(70)\n"
    )
    four = SPEC.resources.model_copy(update={"devices": 4})
    spec = SPEC.model_copy(update={"resources": four})

    def error_of(outcome):
        def poll():
            for rank in (2, 1):
                if not config.failure_path(rank).exists():
                    write_failure(config, rank, PotstillError(f"of rank {rank}"))
            ranks_dir = config.failure_path(3).parent
            (ranks_dir / "outcome-new").write_text(outcome)
            (ranks_dir / "outcome-new").replace(ranks_dir / "outcome-3")

        with pytest.raises(PotstillError) as failed, launch_ranks(config, context(poll), spec):
            raise AssertionError("the process group cannot form")
        return failed.value.detail

    assert error_of("failed") == "of rank 2"
    assert error_of("killed").startswith("rank 3 of 4 was ended by signal 9")


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "import os; os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\"); os.abort()",
        "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')",
    ],
)
def test_an_out_of_memory_line_in_a_log_is_reported(config, replace_ranks, code):
    replace_ranks(code)

    with pytest.raises(OutOfMemory, match="rank 1 of 2 logged"):
        launch(config)


def test_an_oom_kill_is_distinguished_from_another_kill(config, replace_ranks, monkeypatch, tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr(oom_kills, "find_oom_counter", lambda _pid: counter)
    replace_ranks("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    with pytest.raises(ProcessLost, match="was ended by signal 9") as lost:
        launch(config)
    assert not isinstance(lost.value, KilledForMemory)
    with pytest.raises(KilledForMemory, match="the kernel killed rank 1 of 2"):
        launch(config, lambda: counter.write_text("oom_kill 4\n"))


def test_a_job_can_be_interrupted_while_ranks_start(config, replace_ranks):
    replace_ranks("import time; time.sleep(60)")

    def interrupt():
        raise Interrupted(Control.CANCEL)

    start = time.monotonic()
    with pytest.raises(Interrupted):
        launch(config, interrupt)

    assert time.monotonic() - start < 5


def test_the_number_of_threads_is_restored(config, replace_ranks):
    replace_ranks("raise SystemExit(1)")
    before = torch.get_num_threads()
    with pytest.raises(ProcessLost):
        launch(replace(config, checkpoint=None))

    assert torch.get_num_threads() == before


def test_rank_zero_exits_if_it_waits_for_a_rank_that_ended(config, replace_ranks, tmp_path):
    replace_ranks("raise SystemExit(1)")
    code = (
        "import sys, time; from pathlib import Path; from core.train import rank_launcher, rank_processes\n"
        "rank_launcher.MODULE, rank_processes._HANG_TIMEOUT_SECONDS = 'fake_rank', 0.2\n"
        "processes = rank_launcher.LocalRanks(rank_launcher.RankConfig.read(Path(sys.argv[1])), 2)\n"
        "with processes.watch():\n"
        "    time.sleep(60)  # as in a NCCL collective\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(config.write())], capture_output=True, timeout=50)

    assert run.returncode == 70
    assert b"ranks that have ended (rank: status): {1: 1}" in run.stderr
