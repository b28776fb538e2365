"""Starting, watching and ending the other processes, with small ones in their place."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from core.errors import KilledForMemory, OutOfMemory, PotstillError, ProcessLost
from core.reporting import Control, Interrupted, Workspace
from core.spec import parse_job_spec
from core.train import rank_launcher
from core.train.context import threads_each
from core.train.process_group import SINGLE_PROCESS
from core.train.rank_launcher import RankConfig, launch_ranks, tell_failure

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
def orders(tmp_path):
    workspace = Workspace(root=tmp_path / "run", cache=tmp_path / "cache", dataset=tmp_path / "data")
    return RankConfig.of(SPEC, workspace, teachers={"r": tmp_path / "teacher"}, checkpoint=tmp_path / "checkpoint")


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Put a module of these lines in the other processes' place."""

    def install(code):
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "other.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        monkeypatch.setattr(rank_launcher, "MODULE", "other")

    return install


def lead(orders, poll=lambda: None):
    with launch_ranks(orders, spec=SPEC, device=CPU, poll=poll) as ranks:
        return ranks


def test_orders_survive_their_file(orders):
    assert RankConfig.read(orders.write()) == orders
    assert orders.job() == SPEC
    assert orders.workspace(1).root.name == "rank-1"


def test_an_earlier_attempts_files_are_gone(orders):
    orders.write()
    orders.ready(1).touch()
    orders.write()

    assert not orders.ready(1).exists()


def test_threads_are_shared():
    assert threads_each(SPEC) == 2


def test_one_device_starts_nobody(orders):
    alone = SPEC.model_copy(update={"resources": SPEC.resources.model_copy(update={"devices": 1})})
    with launch_ranks(orders, spec=alone, device=CPU, poll=lambda: None) as ranks:
        assert ranks is SINGLE_PROCESS

    assert threads_each(alone) == 5


def test_one_that_ends_while_it_starts_is_told_with_its_last_words(orders, other):
    other("raise SystemExit('there is no such student')")

    with pytest.raises(
        ProcessLost, match=r"process 1 of the 2 .* ended with status 1; its last words: there is no such"
    ):
        lead(orders)


def test_what_another_process_says_of_itself_is_raised(orders, other):
    other("import sys, time; time.sleep(0.2); sys.exit(70)")

    def told():
        if not orders.failure(1).exists():
            tell_failure(orders, 1, OutOfMemory("too large"))

    with pytest.raises(OutOfMemory, match="too large"):
        lead(orders, told)


def test_whoever_failed_first_is_the_cause_and_whoever_was_killed_before_all(orders, other):
    other(
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "fate = Path(sys.argv[1]).parent / f'fate-{sys.argv[2]}'\n"
        "while not fate.exists(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if fate.read_text() == 'killed' else sys.exit(70)\n"
    )
    four = SPEC.resources.model_copy(update={"devices": 4})
    spec = SPEC.model_copy(update={"resources": four})

    def ended(fate):
        def poll():
            for rank in (2, 1):
                if not orders.failure(rank).exists():
                    tell_failure(orders, rank, PotstillError(f"of rank {rank}"))
            (orders.failure(3).parent / "fate-new").write_text(fate)
            (orders.failure(3).parent / "fate-new").replace(orders.failure(3).parent / "fate-3")

        with pytest.raises(PotstillError) as failed, launch_ranks(orders, spec=spec, device=CPU, poll=poll):
            raise AssertionError("they cannot have met")
        return failed.value.detail

    assert ended("failed") == "of rank 2"
    assert ended("killed").startswith("process 3 of the 4 that train together was ended by signal 9")


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "import os; os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\"); os.abort()",
        "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')",
    ],
)
def test_one_that_found_no_memory_says_so_with_its_last_words(orders, other, code):
    other(code)

    with pytest.raises(OutOfMemory, match="process 1 of the 2 that train together said"):
        lead(orders)


def test_one_that_the_kernel_ends_for_want_of_memory_is_told_from_one_that_somebody_killed(
    orders, other, monkeypatch, tmp_path
):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr("core.system.oom_kills.oom_counter", lambda _pid: counter)
    other("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    with pytest.raises(ProcessLost, match="was ended by signal 9") as lost:
        lead(orders)
    assert not isinstance(lost.value, KilledForMemory)
    with pytest.raises(KilledForMemory, match="the kernel ended process 1 of the 2"):
        lead(orders, lambda: counter.write_text("oom_kill 4\n"))


def test_a_job_can_be_interrupted_while_the_others_start(orders, other):
    other("import time; time.sleep(60)")

    def leave():
        raise Interrupted(Control.CANCEL)

    began = time.monotonic()
    with pytest.raises(Interrupted):
        lead(orders, leave)

    assert time.monotonic() - began < 5


def test_threads_are_as_before_afterwards(orders, other):
    other("raise SystemExit(1)")
    before = torch.get_num_threads()
    with pytest.raises(ProcessLost):
        lead(replace(orders, checkpoint=None))

    assert torch.get_num_threads() == before


def test_a_process_that_waits_for_ever_for_one_that_ended_is_ended_itself(orders, other, tmp_path):
    other("raise SystemExit(1)")
    code = (
        "import sys, time; from pathlib import Path; from core.train import followers\n"
        "followers.MODULE, rank_launcher._STUCK_SECONDS = 'other', 0.2\n"
        "others = rank_launcher._Followers(rank_launcher.Orders.read(Path(sys.argv[1])), 2)\n"
        "with others.watched():\n"
        "    time.sleep(60)  # as in a collective of NCCL\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(orders.write())], capture_output=True, timeout=50)

    assert run.returncode == 70
    assert b"processes that have ended (rank: status): {1: 1}" in run.stderr
