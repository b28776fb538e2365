"""Uploads in parts: what breaks is continued, in the same call or in a later one."""

import base64
import hashlib
import json

import pytest

from potstill import upload_parts
from potstill._sync import uploads
from potstill.errors import Unavailable
from tests.support.openapi_documents import make_document

CONTENT = bytes(range(256)) * 10
PART = 1000

pytestmark = pytest.mark.usefixtures("slept")


class TusRoutes:
    """The routes of one upload, which keep what arrives. `breaks` are the numbers of the parts that are refused."""

    def __init__(self, service, respond):
        self.respond, self.received, self.breaks, self.parts = respond, b"", set(), 0
        service.on("POST", "/v1/uploads", lambda request: respond(self.document(), 201))
        service.on("GET", "/v1/uploads/up_1", lambda request: respond(self.document()))
        service.on("PATCH", "/v1/uploads/up_1", self.append)

    def document(self):
        status = "complete" if len(self.received) == len(CONTENT) else "receiving"
        sizes = {"size_bytes": len(CONTENT), "received_bytes": len(self.received)}
        return make_document("UploadOut", id="up_1", status=status, **sizes)

    def append(self, request):
        self.parts += 1
        if self.parts in self.breaks:
            return self.respond({"code": "unavailable"}, 503)
        assert request.headers["upload-offset"] == str(len(self.received))
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        assert request.headers["upload-checksum"] == f"sha256 {digest}"
        self.received += request.body
        return self.respond(status=204, body=b"", headers={"Upload-Offset": str(len(self.received))})


@pytest.fixture
def tus(service, respond, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(upload_parts, "PART_BYTES", PART)
    monkeypatch.setattr(uploads, "_FORM_BYTES", PART)
    return TusRoutes(service, respond)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pets.zip"
    path.write_bytes(CONTENT)
    return path


def test_a_file_arrives_in_parts_in_spite_of_breaks(tus, potstill, file):
    tus.breaks = {2}
    reports = []

    upload = potstill.uploads.send(file, progress=lambda *counts: reports.append(counts))

    assert upload.status == "complete"
    assert tus.received == CONTENT
    assert reports == [(0, 2560), (1000, 2560), (2000, 2560), (2560, 2560)]


def test_a_later_call_resumes_an_interrupted_upload(tus, potstill, service, file):
    tus.breaks = set(range(2, 1000))
    with pytest.raises(Unavailable):
        potstill.uploads.send(file)
    assert tus.received == CONTENT[:PART]
    tus.breaks = set()

    potstill.uploads.send(file)

    assert tus.received == CONTENT
    assert service.paths().count(("POST", "/v1/uploads")) == 1


def test_a_larger_dataset_is_created_from_an_upload(tus, potstill, service, respond, file):
    service.on("POST", "/v1/datasets", respond(make_document("DatasetOut", id="ds_1"), 202))

    potstill.datasets.upload(file, labels="none")

    assert tus.received == CONTENT
    assert json.loads(service.received[-1].body) == {
        "name": "pets",
        "source": {"type": "upload", "upload": "up_1", "labels": "none"},
    }


def test_a_larger_model_is_created_from_an_upload(tus, potstill, service, respond, file):
    service.on("POST", "/v1/models", respond(make_document("ModelOut", id="mdl_1"), 202))

    potstill.models.upload(file, architecture="resnet18", arguments={"num_classes": 3})

    assert json.loads(service.received[-1].body) == {
        "name": "pets",
        "architecture": "resnet18",
        "arguments": {"num_classes": 3},
        "upload": "up_1",
    }
