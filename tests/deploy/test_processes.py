"""The services of `docker-compose.yml` run a job on PostgreSQL and Valkey."""

import re

import httpx
import pytest

from tests.support.waiting import until_resource

PROCESSES = ("api", "worker", "ingest", "inspector", "scheduler")
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}

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
        source = {"type": "builtin", "name": "digits"}
        dataset = client.post("/v1/datasets", json={"name": "digits", "source": source}).json()
        until_resource(client, f"/v1/datasets/{dataset['id']}", lambda d: d["status"] == "ready")
        spec = {
            "dataset": dataset["id"],
            "student": {"architecture": "vit_tiny_patch16_224", "arguments": VIT},
            "method": {"name": "scratch"},
            "training": {"epochs": 1},
            "export": ["safetensors"],
        }
        created = client.post("/v1/jobs", json=spec)
        assert created.status_code == 201, created.text
        job = until_resource(client, f"/v1/jobs/{created.json()['id']}", lambda j: j["terminal"])
        weights = client.get(f"/v1/jobs/{job['id']}/artifacts/model.safetensors")

    assert job["status"] == "succeeded", (job["error"], composed.logs())
    assert weights.status_code == 200
    assert set(composed.stop().values()) <= {0, -15}, composed.logs()
