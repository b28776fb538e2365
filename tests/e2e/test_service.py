"""Jobs over HTTP: from a request to a student that loads in timm and ONNX Runtime."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

from tests.support.api import artifacts_by_name, is_terminal, list_all, submit_job, weights_digest
from tests.support.archives import encode_image, make_zip
from tests.support.specs import kd_job, tiny_vit
from tests.support.waiting import until_resource

ROOT = Path(__file__).resolve().parents[2]
MAX_IDLE_BYTES = 1.75 * 1024**3  # two processes hold torch with its CUDA libraries, each 0.6 GiB


EPOCHS = 30  # long enough for a kill after the first checkpoint


def small_job(dataset_id, *, epochs=EPOCHS, **changes):
    return kd_job(dataset_id, epochs=epochs, teacher_epochs=3, name="e2e", **changes)


def run_job(http, spec, seconds=120):
    """Create a job and wait until it is terminal."""
    return until_resource(http, f"/v1/jobs/{submit_job(http, spec)}", is_terminal, seconds)


def is_distilling(job):
    return job["status"] == "running" and job["stage"] == "distill" and job["progress"]["step"] > 20


def download(http, job_id, folder):
    """Extract the zip of a job's artifacts; return the folder of its `config.json`."""
    bundle = http.get(f"/v1/jobs/{job_id}/download")
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        archive.extractall(folder)
    return next(folder.rglob("config.json")).parent


@pytest.fixture(scope="module")
def finished_job(http, digits):
    job = run_job(http, small_job(digits))

    assert job["status"] == "succeeded", job["error"]
    return job


def test_a_student_learns_and_its_teacher_is_evaluated(finished_job):
    result = finished_job["result"]

    assert result["student"]["top1"] > 0.3
    assert result["teachers"][0]["top1"] > 0.3
    assert result["model"].startswith("mdl_")
    assert 0 < result["agreement"] <= 1
    assert finished_job["progress"]["fraction"] == 1


def test_the_download_loads_in_timm_and_agrees_with_its_onnx_file(http, finished_job, tmp_path):
    folder = download(http, finished_job["id"], tmp_path)
    student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = np.random.default_rng(0).standard_normal((3, *student.pretrained_cfg["input_size"]), dtype=np.float32)
    with torch.inference_mode():
        expected = student(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (actual,) = session.run(None, {session.get_inputs()[0].name: images})

    assert sum(p.numel() for p in student.parameters()) == finished_job["result"]["student"]["parameters"]
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_every_artifact_has_its_listed_digest(http, finished_job):
    artifacts = artifacts_by_name(http, finished_job["id"])

    assert artifacts.keys() >= {
        "model.safetensors",
        "config.json",
        "model.onnx",
        "README.md",
        "report.json",
        "predictions.npz",
    }
    for name, artifact in artifacts.items():
        content = http.get(f"/v1/jobs/{finished_job['id']}/artifacts/{name}").content
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"], name


def test_a_finished_job_has_a_gapless_log_and_a_metric_point_per_step(http, finished_job):
    events = list_all(http, f"/v1/jobs/{finished_job['id']}/events")
    series = {s["name"]: s["points"] for s in http.get(f"/v1/jobs/{finished_job['id']}/metrics").json()["series"]}

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(series["train/loss"]) == finished_job["progress"]["total_steps"]


def test_a_student_can_initialize_and_teach_another_student(http, digits, finished_job):
    spec = small_job(
        digits,
        epochs=1,
        teachers=[{**tiny_vit(), "weights": finished_job["id"]}],
        student={**tiny_vit(), "weights": finished_job["result"]["model"]},
        export=["safetensors"],
    )
    job = run_job(http, spec)

    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["teachers"][0]["top1"] == pytest.approx(finished_job["result"]["student"]["top1"])


SMALL_CNN = {
    "architecture": "resnet10t",
    "arguments": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
}


def color_zip():
    """A zip of noisy red, green and blue images, one of them damaged."""
    generator = np.random.default_rng(0)
    files = {"train/red/broken.png": b"\x89PNG\r\n\x1a\nnot an image"}
    for split, count in (("train", 24), ("test", 8)):
        for name, color in (("red", (200, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 200))):
            for index in range(count):
                pixels = np.array(color) + generator.integers(-25, 25, (16, 16, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                files[f"{split}/{name}/{index:03}.png"] = encode_image(image)
    return make_zip(files)


def test_an_uploaded_zip_trains_a_distilled_vit(http, tmp_path):
    created = http.post("/v1/datasets", data={"name": "colors"}, files={"file": ("colors.zip", color_zip())})
    dataset = until_resource(http, f"/v1/datasets/{created.json()['id']}", lambda d: d["status"] != "processing")
    spec = small_job(
        dataset["id"],
        epochs=12,
        student=tiny_vit(img_size=16, patch_size=4),
        teachers=[{**SMALL_CNN, "weights": "train", "training": {"epochs": 2, "batch_size": 24}}],
        method={"name": "deit", "distillation_type": "hard"},
        export=["safetensors"],
    )
    spec["training"] |= {"image_size": 16, "batch_size": 24}
    job = run_job(http, spec)

    assert [file["path"] for file in dataset["rejected"]] == ["train/red/broken.png"]
    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["student"]["top1"] > 0.6
    student = timm.create_model(f"local-dir:{download(http, job['id'], tmp_path)}", pretrained=True)
    assert type(student).__name__ == "VisionTransformerDistilled"


@pytest.mark.timeout(900)
def test_a_killed_worker_loses_no_job(http, stack, digits, finished_job):
    """The worker is killed during training; the job resumes from its checkpoint to the same bits."""
    job_id = submit_job(http, small_job(digits, export=["safetensors"]))
    path = f"/v1/jobs/{job_id}"
    until_resource(http, path, is_distilling)
    until_resource(http, f"{path}/checkpoints", lambda page: page["data"])
    assert http.get(path).json()["status"] == "running"
    for process in stack.processes():
        if "worker" in process.cmdline():
            os.kill(process.pid, signal.SIGKILL)
    job = until_resource(http, path, is_terminal, 400)

    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] > 1
    assert weights_digest(http, job_id) == weights_digest(http, finished_job["id"])


def test_a_paused_job_resumes_and_a_stopped_job_exports(http, digits):
    job = submit_job(http, small_job(digits, epochs=3000, export=["safetensors"]))
    path = f"/v1/jobs/{job}"
    until_resource(http, path, is_distilling)
    assert http.delete(f"/v1/datasets/{digits}").json()["code"] == "in_use"
    assert http.post(f"{path}/pause").status_code == 200
    paused = until_resource(http, path, lambda j: j["status"] == "paused", 30)
    assert http.post(f"{path}/resume").status_code == 200
    until_resource(http, path, lambda j: is_distilling(j) and j["progress"]["step"] > paused["progress"]["step"])
    assert http.post(f"{path}/stop").status_code == 200
    stopped = until_resource(http, path, is_terminal, 60)

    assert stopped["status"] == "succeeded", stopped["error"]
    assert stopped["attempt"] == 2
    assert stopped["progress"]["step"] < stopped["progress"]["total_steps"]


def test_a_job_is_cancelled_within_ten_seconds_and_can_be_retried(http, digits):
    job = submit_job(http, small_job(digits, epochs=3000))
    path = f"/v1/jobs/{job}"
    until_resource(http, path, is_distilling)
    http.post(f"{path}/cancel")
    until_resource(http, path, lambda j: j["status"] == "cancelled", 10)
    retried = http.post(f"{path}/retry").json()
    http.post(f"{path}/cancel")
    until_resource(http, path, lambda j: j["status"] == "cancelled", 10)

    assert retried["status"] == "queued"
    assert http.post(f"{path}/pause").json()["code"] == "invalid_state"


@pytest.fixture(scope="module")
def accepted_during_an_outage(http, stack, digits):
    """The response to a request during a broker outage, and the job at its end."""
    broker = next(p for p in stack.processes() if any("valkey" in word for word in p.cmdline()[:1]))
    broker.suspend()
    try:
        response = http.post("/v1/jobs", json=small_job(digits, epochs=1, export=["safetensors"]))
    finally:
        broker.resume()
    assert response.status_code == 201, response.text
    return response, until_resource(http, f"/v1/jobs/{response.json()['id']}", is_terminal)


def test_a_job_is_accepted_during_a_broker_outage(accepted_during_an_outage):
    response, job = accepted_during_an_outage

    assert response.elapsed.total_seconds() < 3
    assert job["status"] == "succeeded", job["error"]


def test_a_local_run_gives_the_same_bits_as_the_service(http, accepted_during_an_outage, tmp_path):
    _, job = accepted_during_an_outage
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(job["spec"]))
    out = tmp_path / "student"
    subprocess.run(
        [sys.executable, "-m", "core", "run", str(spec), "--dataset", "builtin:digits", "--out", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )

    local_digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert local_digest == weights_digest(http, job["id"])


def test_idle_memory_stays_within_its_limit(stack):
    """Processes start and exit for some time after a job, so the test polls."""
    deadline = time.monotonic() + 60
    while (used := stack.memory_bytes()) >= MAX_IDLE_BYTES and time.monotonic() < deadline:
        time.sleep(1)

    assert used < MAX_IDLE_BYTES
