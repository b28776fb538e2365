"""The services of `docker-compose.yml` run a job on PostgreSQL and Valkey."""

import re

import httpx
import pytest

from tests.support.api import create_digits, is_terminal, submit_job
from tests.support.specs import tiny_vit
from tests.support.waiting import until_resource

PROCESSES = ("api", "worker", "ingest", "inspector", "scheduler")

pytestmark = pytest.mark.stack


def test_a_job_runs_on_the_composed_services(composed):
    composed.run_command("migrate")
    key = re.search(r"\S{40,}", composed.run_command("keys", "create", "--name", "admin")).group()
    for name in PROCESSES:
        composed.start(name)
    composed.wait_until_ready()

    with httpx.Client(
        base_url=f"http://127.0.0.1:{composed.port}", headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        spec = {
            "dataset": create_digits(client),
            "student": tiny_vit(patch_size=4, embed_dim=16, depth=1),
            "method": {"name": "scratch"},
            "training": {"epochs": 1},
            "export": ["safetensors"],
        }
        job = until_resource(client, f"/v1/jobs/{submit_job(client, spec)}", is_terminal)
        weights = client.get(f"/v1/jobs/{job['id']}/artifacts/model.safetensors")

    assert job["status"] == "succeeded", (job["error"], composed.logs())
    assert weights.status_code == 200
    assert set(composed.stop().values()) <= {0, -15}, composed.logs()
