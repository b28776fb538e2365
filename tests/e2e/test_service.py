"""From a request to a student that opens in timm and in ONNX Runtime, over real HTTP."""

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

ROOT = Path(__file__).resolve().parents[2]
IDLE_BYTES = 1.5 * 1024**3
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}


def small_job(dataset, *, epochs=6, seed=0, **changes):
    return {
        "name": "e2e",
        "dataset": dataset,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": VIT},
        "teachers": [
            {
                "architecture": "vit_tiny_patch16_224",
                "weights": "train",
                "arguments": {**VIT, "embed_dim": 64},
                "training": {"epochs": 6, "batch_size": 64, "learning_rate": 3e-3, "augmentation": "none"},
            }
        ],
        "method": {"name": "kd"},
        "training": {
            "epochs": epochs,
            "batch_size": 64,
            "learning_rate": 3e-3,
            "augmentation": "none",
            "image_size": 8,
            "seed": seed,
        },
        **changes,
    }


def submit(http, spec):
    answer = http.post("/v1/jobs", json=spec)

    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def finished(job):
    return job["terminal"]


def distilling(job):
    return job["status"] == "running" and job["stage"] == "distill" and job["progress"]["step"] > 20


def download(http, job, folder):
    bundle = http.get(f"/v1/jobs/{job}/download")
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        archive.extractall(folder)
    return next(folder.rglob("config.json")).parent


def weights_digest(http, job):
    artifacts = {a["name"]: a for a in http.get(f"/v1/jobs/{job}/artifacts").json()["data"]}
    return artifacts["model.safetensors"]["sha256"]


@pytest.fixture(scope="module")
def finished_job(http, digits, wait_until):
    job = wait_until(f"/v1/jobs/{submit(http, small_job(digits))}", finished)

    assert job["status"] == "succeeded", job["error"]
    return job


def test_a_student_learns_and_its_teacher_is_measured(finished_job):
    result = finished_job["result"]

    assert result["student"]["top1"] > 0.3
    assert result["teachers"][0]["top1"] > 0.3
    assert result["model"].startswith("mdl_")
    assert 0 < result["agreement"] <= 1
    assert finished_job["progress"]["fraction"] == 1


def test_the_download_opens_in_timm_and_agrees_with_its_onnx_file(http, finished_job, tmp_path):
    folder = download(http, finished_job["id"], tmp_path)
    student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = np.random.default_rng(0).standard_normal((3, *student.pretrained_cfg["input_size"]), dtype=np.float32)
    with torch.inference_mode():
        expected = student(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (actual,) = session.run(None, {session.get_inputs()[0].name: images})

    assert sum(p.numel() for p in student.parameters()) == finished_job["result"]["student"]["parameters"]
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_every_artefact_is_what_its_digest_says(http, finished_job):
    artifacts = http.get(f"/v1/jobs/{finished_job['id']}/artifacts").json()["data"]

    assert {a["name"] for a in artifacts} >= {
        "model.safetensors",
        "config.json",
        "model.onnx",
        "README.md",
        "report.json",
    }
    for artifact in artifacts:
        content = http.get(f"/v1/jobs/{finished_job['id']}/artifacts/{artifact['name']}").content
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"], artifact["name"]


def test_the_library_gives_the_same_bits_as_the_service(http, finished_job, tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(finished_job["spec"]))
    out = tmp_path / "student"
    subprocess.run(
        [sys.executable, "-m", "core", "run", str(spec), "--dataset", "builtin:digits", "--out", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )

    library = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert library == weights_digest(http, finished_job["id"])


def test_a_finished_job_keeps_a_gapless_log_and_a_point_for_every_step(http, finished_job):
    events = http.get(f"/v1/jobs/{finished_job['id']}/events?limit=100").json()["data"]
    series = {s["name"]: s["points"] for s in http.get(f"/v1/jobs/{finished_job['id']}/metrics").json()["series"]}

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(series["train/loss"]) == finished_job["progress"]["total_steps"]


def test_the_student_of_a_job_can_start_and_teach_another(http, digits, finished_job, wait_until):
    spec = small_job(
        digits,
        epochs=1,
        teachers=[{"architecture": "vit_tiny_patch16_224", "arguments": VIT, "weights": finished_job["id"]}],
        student={"architecture": "vit_tiny_patch16_224", "arguments": VIT, "weights": finished_job["result"]["model"]},
        export=["safetensors"],
    )
    job = wait_until(f"/v1/jobs/{submit(http, spec)}", finished)

    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["teachers"][0]["top1"] == pytest.approx(finished_job["result"]["student"]["top1"])


def colours_zip():
    draw = np.random.default_rng(0)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for split, count in (("train", 24), ("test", 8)):
            for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 200))):
                for index in range(count):
                    pixels = np.clip(np.array(colour) + draw.integers(-25, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                    image = io.BytesIO()
                    Image.fromarray(pixels).save(image, "png")
                    archive.writestr(f"{split}/{name}/{index:03}.png", image.getvalue())
        archive.writestr("train/red/broken.png", b"\x89PNG\r\n\x1a\nnot an image")
    return out.getvalue()


def test_an_uploaded_zip_teaches_a_distilled_vit(http, wait_until, tmp_path):
    created = http.post("/v1/datasets", data={"name": "colours"}, files={"file": ("colours.zip", colours_zip())})
    dataset = wait_until(f"/v1/datasets/{created.json()['id']}", lambda d: d["status"] != "processing")
    arguments = {**VIT, "img_size": 16, "patch_size": 4}
    spec = small_job(
        dataset["id"],
        epochs=12,
        student={"architecture": "vit_tiny_patch16_224", "arguments": arguments},
        teachers=[{"architecture": "resnet10t", "weights": "train", "training": {"epochs": 2, "batch_size": 24}}],
        method={"name": "deit", "distillation_type": "hard"},
        export=["safetensors"],
    )
    spec["training"] |= {"image_size": 16, "batch_size": 24}
    job = wait_until(f"/v1/jobs/{submit(http, spec)}", finished)

    assert [r["path"] for r in dataset["rejected"]] == ["train/red/broken.png"]
    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["student"]["top1"] > 0.6
    student = timm.create_model(f"local-dir:{download(http, job['id'], tmp_path)}", pretrained=True)
    assert type(student).__name__ == "VisionTransformerDistilled"


@pytest.mark.timeout(900)
def test_a_killed_worker_loses_nothing(http, stack, digits, finished_job, wait_until):
    """The worker is killed while it trains; the job goes on from its checkpoint to the same bits."""
    spec = small_job(digits, epochs=80, export=["safetensors"])
    calm = wait_until(f"/v1/jobs/{submit(http, spec)}", finished, 300)
    job = submit(http, spec)
    path = f"/v1/jobs/{job}"
    wait_until(path, distilling)
    wait_until(f"{path}/checkpoints", lambda page: page["data"])
    assert http.get(path).json()["status"] == "running"
    for process in stack.processes():
        if "worker" in process.cmdline():
            os.kill(process.pid, signal.SIGKILL)
    hit = wait_until(path, finished, 400)

    assert hit["status"] == "succeeded", hit["error"]
    assert hit["attempt"] > 1
    assert weights_digest(http, job) == weights_digest(http, calm["id"])


def test_pause_stands_still_and_stop_still_exports(http, digits, wait_until):
    job = submit(http, small_job(digits, epochs=3000, export=["safetensors"]))
    path = f"/v1/jobs/{job}"
    wait_until(path, distilling)
    assert http.delete(f"/v1/datasets/{digits}").json()["code"] == "in_use"
    assert http.post(f"{path}/pause").status_code == 200
    paused = wait_until(path, lambda j: j["status"] == "paused", 30)
    assert http.post(f"{path}/resume").status_code == 200
    wait_until(path, lambda j: distilling(j) and j["progress"]["step"] > paused["progress"]["step"])
    assert http.post(f"{path}/stop").status_code == 200
    stopped = wait_until(path, finished, 60)

    assert stopped["status"] == "succeeded", stopped["error"]
    assert stopped["attempt"] == 2
    assert stopped["progress"]["step"] < stopped["progress"]["total_steps"]


def test_a_cancelled_job_leaves_within_ten_seconds_and_can_be_retried(http, digits, wait_until):
    job = submit(http, small_job(digits, epochs=3000))
    path = f"/v1/jobs/{job}"
    wait_until(path, distilling)
    http.post(f"{path}/cancel")
    wait_until(path, lambda j: j["status"] == "cancelled", 10)
    retried = http.post(f"{path}/retry").json()
    http.post(f"{path}/cancel")
    wait_until(path, lambda j: j["status"] == "cancelled", 10)

    assert retried["status"] == "queued"
    assert http.post(f"{path}/pause").json()["code"] == "invalid_state"


def test_a_job_is_accepted_while_the_broker_is_away(http, stack, digits, wait_until):
    broker = next(p for p in stack.processes() if any("valkey" in word for word in p.cmdline()[:1]))
    broker.suspend()
    try:
        answer = http.post("/v1/jobs", json=small_job(digits, epochs=1, export=["safetensors"]))
    finally:
        broker.resume()

    assert answer.status_code == 201, answer.text
    assert answer.elapsed.total_seconds() < 3
    assert wait_until(f"/v1/jobs/{answer.json()['id']}", finished)["status"] == "succeeded"


def test_idle_memory_stays_within_its_budget(stack):
    """Processes come and go for a moment after a job, so this looks until the stack is at rest."""
    deadline = time.monotonic() + 60
    while (used := stack.memory_bytes()) >= IDLE_BYTES and time.monotonic() < deadline:
        time.sleep(1)

    assert used < IDLE_BYTES
