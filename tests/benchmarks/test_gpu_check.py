"""Without a GPU the check is skipped without failing; its table names existing methods."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from core.spec import METHODS, parse_job_spec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(gpu_check, "cuda_name", lambda: None)


def test_without_a_gpu_the_check_is_skipped_and_succeeds(without_cuda, capsys):
    assert gpu_check.main([]) == 0
    assert capsys.readouterr().out == "skipped: no CUDA device\n"


def test_make_runs_the_check():
    run = subprocess.run(
        ["make", "-n", "gpu-check", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True
    )

    assert "benchmarks gpu_check" in run.stdout, run.stderr


def test_the_check_can_be_rehearsed_on_a_cpu(capsys):
    assert gpu_check.main(["--rehearse", "--only", "fork then start,all-reduce"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["passed", "passed"]


@pytest.mark.slow
def test_enqueueing_ahead_can_be_rehearsed():
    command = [sys.executable, "-m", "benchmarks", "gpu_check", "--rehearse", "--only", "enqueue ahead"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # keeps its threads out of this process

    assert run.stdout.startswith("passed"), run.stdout + run.stderr


def test_a_check_without_its_hardware_is_not_run_and_does_not_fail(monkeypatch, capsys):
    def missing(device):
        raise gpu_check.NotAvailableError("this machine has one device")

    monkeypatch.setattr(gpu_check, "several_devices", missing)

    assert gpu_check.main(["--rehearse", "--only", "several devices"]) == 0
    assert capsys.readouterr().out.startswith("not run")


def test_a_failed_check_is_reported_and_fails_the_run(monkeypatch, capsys):
    def broken(device):
        raise AssertionError("the device is on fire")

    monkeypatch.setattr(gpu_check, "all_reduce", broken)

    assert gpu_check.main(["--rehearse", "--only", "all-reduce"]) == 1
    assert "the device is on fire" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "parameters"), gpu_check.FAMILIES.values(), ids=str)
def test_each_kind_of_method_has_a_job_that_parses(name, parameters, tmp_path):
    if name not in METHODS:
        pytest.skip(f"{name} is not registered")
    device = gpu_check.DeviceUnderTest(gpu_check.JobInputs(tmp_path, {}), "cuda")

    assert parse_job_spec(device.document(name, **parameters)).resources.accelerator == "cuda"
