"""A second stack continues from a backup of a running one."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api import is_terminal, submit_job
from tests.support.specs import tiny_vit
from tests.support.waiting import until_resource

SERVER = Path(sys.executable).with_name("potstill-server")


def scratch_job(dataset, epochs):
    return {
        "dataset": dataset,
        "student": tiny_vit(patch_size=4, embed_dim=16, depth=1),
        "method": {"name": "scratch"},
        "training": {"epochs": epochs, "batch_size": 256, "image_size": 8, "checkpoint_every_epochs": 20},
        "export": ["safetensors"],
    }


@pytest.mark.slow  # tests/server/test_backup.py does the same without a stack
def test_a_second_stack_continues_from_a_backup(stack, http, digits, start_second_stack, tmp_path):
    finished = until_resource(http, f"/v1/jobs/{submit_job(http, scratch_job(digits, 1))}", is_terminal)
    assert finished["status"] == "succeeded", finished["error"]
    running = submit_job(http, scratch_job(digits, 10_000))
    checkpoint = until_resource(http, f"/v1/jobs/{running}/checkpoints", lambda page: page["data"])["data"][0]

    command = [str(SERVER), "backup", "--home", str(stack.home), "--to", str(tmp_path / "backup")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    http.post(f"/v1/jobs/{running}/cancel")
    second = start_second_stack(tmp_path / "backup")

    assert "files" in output
    with second.client() as restored_http:
        restored_http.headers["Authorization"] = f"Bearer {stack.key}"  # keys are part of the backup
        for artifact in restored_http.get(f"/v1/jobs/{finished['id']}/artifacts").json()["data"]:
            content = restored_http.get(f"/v1/jobs/{finished['id']}/artifacts/{artifact['name']}").content
            assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        resumed = until_resource(
            restored_http, f"/v1/jobs/{running}", lambda job: job["attempt"] == 2 and job["stage"] == "distill"
        )
        assert resumed["progress"]["step"] >= checkpoint["step"]
        restored_http.post(f"/v1/jobs/{running}/stop")
        stopped = until_resource(restored_http, f"/v1/jobs/{running}", is_terminal)
        assert stopped["status"] == "succeeded", stopped["error"]
        events = restored_http.get(f"/v1/jobs/{running}/events?limit=100").json()["data"]
        resumptions = [event for event in events if event["type"] == "training.resumed"]
        assert resumptions
        assert resumptions[0]["data"]["step"] >= checkpoint["step"]
