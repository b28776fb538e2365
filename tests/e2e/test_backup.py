"""A backup of a stack that works is a folder on which another stack goes on."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import until_resource

SERVER = Path(sys.executable).with_name("potstill-server")
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def spec(dataset, epochs):
    return {
        "dataset": dataset,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": VIT},
        "method": {"name": "scratch"},
        "training": {"epochs": epochs, "batch_size": 256, "image_size": 8, "checkpoint_every_epochs": 20},
        "export": ["safetensors"],
    }


def test_another_stack_goes_on_from_a_backup(stack, http, digits, wait_until, another_stack, tmp_path):
    done = wait_until(
        f"/v1/jobs/{http.post('/v1/jobs', json=spec(digits, 1)).json()['id']}", lambda job: job["terminal"]
    )
    assert done["status"] == "succeeded", done["error"]
    running = http.post("/v1/jobs", json=spec(digits, 10_000)).json()["id"]
    saved = wait_until(f"/v1/jobs/{running}/checkpoints", lambda page: page["data"])["data"][0]

    command = [str(SERVER), "backup", "--home", str(stack.home), "--to", str(tmp_path / "backup")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    http.post(f"/v1/jobs/{running}/cancel")
    other = another_stack(tmp_path / "backup")

    assert "files" in said
    with other.client() as there:
        there.headers["Authorization"] = f"Bearer {stack.key}"  # keys go on too; the folder has a new one besides
        for artifact in there.get(f"/v1/jobs/{done['id']}/artifacts").json()["data"]:
            content = there.get(f"/v1/jobs/{done['id']}/artifacts/{artifact['name']}").content
            assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        goes_on = until_resource(
            there, f"/v1/jobs/{running}", lambda job: job["attempt"] == 2 and job["stage"] == "distill"
        )
        assert goes_on["progress"]["step"] >= saved["step"]
        there.post(f"/v1/jobs/{running}/stop")
        ended = until_resource(there, f"/v1/jobs/{running}", lambda job: job["terminal"])
        assert ended["status"] == "succeeded", ended["error"]
        log = there.get(f"/v1/jobs/{running}/events?limit=100").json()["data"]
        resumed = [event for event in log if event["type"] == "training.resumed"]
        assert resumed
        assert resumed[0]["data"]["step"] >= saved["step"]
