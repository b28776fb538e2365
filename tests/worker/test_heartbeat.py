"""What a worker registers with its heartbeat."""

from types import SimpleNamespace

import pytest

from core.settings import Settings
from worker import heartbeat
from worker.device import CudaDevices
from worker.jobs.parent import settings_of_job


@pytest.mark.parametrize(
    ("queue", "accelerator", "limit", "expected"),
    [
        ("jobs.cpu", "cpu", 5, {"memory_bytes": 5, "devices": None}),
        ("jobs.cpu", "cpu", 0, {"memory_bytes": 100, "devices": None}),
        ("jobs.cuda", "cuda", 5, {"memory_bytes": 80, "devices": 2}),
        ("ingest", "cpu", 5, {}),
    ],
)
def test_a_worker_registers_the_memory_for_a_job(monkeypatch, tmp_path, queue, accelerator, limit, expected):
    monkeypatch.setattr(heartbeat, "total_memory", lambda: 100)
    monkeypatch.setattr(heartbeat, "cuda_devices", lambda: CudaDevices("GPU", 2, 80))
    settings = Settings(home=tmp_path, job_memory_bytes=limit)
    context = SimpleNamespace(queue=queue, accelerator=accelerator, settings=settings)

    assert heartbeat._capacity(context) == expected


def test_the_processes_of_a_job_share_its_memory_limit(tmp_path):
    settings = Settings(home=tmp_path, job_memory_bytes=1000)

    assert settings_of_job(settings, SimpleNamespace(spec={"resources": {"devices": 4}})).job_memory_bytes == 250
    assert settings_of_job(settings, SimpleNamespace(spec={})).job_memory_bytes == 1000
