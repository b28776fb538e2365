"""Predictions for an image: the student and its teachers, as they classify it in this process."""

import io
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from core.broker import InspectorTimeout
from core.models.weights import load_folder
from core.store import teachers
from core.store.weights import weights_files
from tests.support.students import CLASSES, finish_with_student, noise_png


@pytest.fixture
def job_id(tenant, tmp_path):
    lease = tenant.running_job()
    finish_with_student(tenant, lease, tmp_path)
    return lease.job_id


def predict(http, job_id, content):
    return http.post(f"/v1/jobs/{job_id}/predictions", files={"file": ("image.png", content)})


def student_files(tenant, job_id):
    with tenant.database.read() as session:
        return weights_files(session, tenant.project_id, job_id)


def expected(folder):
    """The classes of the center square, most probable first."""
    image = Image.open(io.BytesIO(noise_png())).resize((8, 8), Image.Resampling.BICUBIC, box=(5, 0, 25, 20))
    network = load_folder(folder)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        probabilities = network(pixels)[0].softmax(dim=0)
    order = probabilities.argsort(descending=True).tolist()
    return [(CLASSES[index], pytest.approx(probabilities[index].item(), rel=1e-5)) for index in order]


def test_student_and_teacher_classify_an_image(tenant, job_id, tmp_path):
    response = predict(tenant.http, job_id, noise_png())

    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["width"], answer["height"]) == (30, 20)
    assert [(each["name"], each["probability"]) for each in answer["student"]] == expected(tmp_path / "student")
    (teacher,) = answer["teachers"]
    assert teacher["reason"] is None
    assert [(each["name"], each["probability"]) for each in teacher["classes"]] == expected(tmp_path / "teacher")


def test_a_photo_of_megabytes_is_read_and_a_larger_one_refused(tenant, job_id):
    padding = bytes(5_000_000)  # after the end of the image, where decoders ignore it

    assert predict(tenant.http, job_id, noise_png() + padding).status_code == 200
    response = predict(tenant.http, job_id, noise_png() + 2 * padding)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert "8,388,608 bytes" in response.json()["detail"]


@pytest.mark.parametrize("content", [b"no image", noise_png()[:200]])
def test_a_broken_image_is_refused(tenant, job_id, content):
    response = predict(tenant.http, job_id, content)

    assert (response.status_code, response.json()["code"]) == (422, "image_unreadable")
    assert response.json()["errors"][0]["pointer"] == "/file"


def test_a_job_without_a_student_and_a_teacher_that_is_gone_are_explained(tenant, job_id):
    assert predict(tenant.http, tenant.queued_job(), noise_png()).json()["code"] == "invalid_state"
    with tenant.database.write() as session:
        teachers.prune(session, -1)

    (teacher,) = predict(tenant.http, job_id, noise_png()).json()["teachers"]

    assert (teacher["classes"], teacher["reason"]) == (None, "its weights are not stored by this service")


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b"{"), ("config.json", b"{}"), ("model.safetensors", b"cut off"), ("config.json", None)],
)
def test_a_damaged_student_is_503(tenant, job_id, monkeypatch, name, content):
    monkeypatch.setattr("worker.predictions._loaded", OrderedDict())
    (path,) = (tenant.server.store.local_path(file.key) for file in student_files(tenant, job_id) if file.name == name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    response = predict(tenant.http, job_id, noise_png())

    assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")


def test_a_busy_inspector_is_503(tenant, job_id, monkeypatch):
    async def no_answer(*_, **__):
        raise InspectorTimeout("busy")

    monkeypatch.setattr(tenant.server.broker, "call_inspector", no_answer)

    response = predict(tenant.http, job_id, noise_png())

    assert (response.status_code, response.json()["code"]) == (503, "inspector_busy")
    assert int(response.headers["retry-after"]) > 0


def test_a_machine_that_is_too_busy_to_decode_is_503(tenant, job_id, monkeypatch):
    monkeypatch.setattr("worker.predictions._DECODE_WALL_SECONDS", 0.001)

    response = predict(tenant.http, job_id, noise_png())

    assert (response.status_code, response.json()["code"]) == (503, "inspector_busy")
    assert int(response.headers["retry-after"]) > 0
