import hashlib
import zipfile

import pytest

from potstill.archives import packed_archive
from potstill.errors import DownloadDamaged, InvalidArgument, ServiceUnreachable
from tests.client.conftest import page
from tests.support.openapi_documents import make_document

CONTENT = bytes(range(256)) * 40
PATH = "/v1/jobs/job_1/artifacts/model.safetensors"


def listing(respond, *, content=CONTENT, name="model.safetensors", sha256=None):
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    return respond(page(make_document("ArtifactOut", name=name, size_bytes=len(content), sha256=sha256)))


pytestmark = pytest.mark.usefixtures("slept")


def test_a_download_is_complete_and_verified(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    service.on("GET", PATH, respond(body=CONTENT))
    reports = []

    (path,) = potstill.jobs.download("job_1", tmp_path / "out", progress=lambda *counts: reports.append(counts))

    assert path.read_bytes() == CONTENT
    assert reports[0] == (0, len(CONTENT))
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_broken_download_resumes(service, potstill, respond, tmp_path):
    def send_rest(received):
        start = int(received.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return respond(body=CONTENT[start:], status=206)

    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    service.on("GET", PATH, respond(body=CONTENT, cut_after=1000), send_rest)

    (path,) = potstill.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == CONTENT
    second = service.received[-1].headers
    assert second["range"] == "bytes=1000-"
    assert second["if-range"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'


def test_a_later_download_resumes_an_interrupted_one(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    service.on("GET", PATH, respond(body=CONTENT, cut_after=1000), respond({"code": "unavailable"}, 503))
    with pytest.raises(ServiceUnreachable):
        potstill.jobs.download("job_1", tmp_path)
    service.responses.pop(("GET", PATH))
    service.on("GET", PATH, respond(body=CONTENT[1000:], status=206))

    (path,) = potstill.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == CONTENT
    assert service.received[-1].headers["range"] == "bytes=1000-"


def test_a_file_that_is_there_is_not_downloaded_again(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    (tmp_path / "model.safetensors").write_bytes(CONTENT)

    assert potstill.jobs.download("job_1", tmp_path) == [tmp_path / "model.safetensors"]
    assert service.paths() == [("GET", "/v1/jobs/job_1/artifacts")]


def test_a_zip_is_downloaded_whole_or_not_at_all(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/download", respond(body=CONTENT, cut_after=1000), respond(body=CONTENT))

    path = potstill.jobs.download_zip("job_1", tmp_path / "all.zip")

    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_downloaded_and_verified(service, potstill, respond, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    stored = make_document("CheckpointOut", id="ckpt_1", size_bytes=len(CONTENT), sha256=digest)
    service.on("GET", "/v1/jobs/job_1/checkpoints", respond(page(stored)))
    service.on("GET", "/v1/jobs/job_1/checkpoints/ckpt_1/model.safetensors", respond(body=CONTENT))

    assert potstill.jobs.download_checkpoint("job_1", "ckpt_1", tmp_path).read_bytes() == CONTENT
    with pytest.raises(InvalidArgument, match="no checkpoint ckpt_2"):
        potstill.jobs.download_checkpoint("job_1", "ckpt_2", tmp_path)


def test_a_changed_file_is_downloaded_again(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    service.on("GET", PATH, respond(body=b"other" * 4000, cut_after=1000), respond(body=CONTENT, status=200))

    (path,) = potstill.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == CONTENT


def test_a_damaged_download_is_deleted(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond, sha256="0" * 64))
    service.on("GET", PATH, respond(body=CONTENT))

    with pytest.raises(DownloadDamaged, match=r"model\.safetensors"):
        potstill.jobs.download("job_1", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_download_that_keeps_breaking_fails(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond))
    service.on("GET", PATH, respond(body=CONTENT, cut_after=0))

    with pytest.raises(ServiceUnreachable, match="keeps breaking"):
        potstill.jobs.download("job_1", tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/../b", "a/b/c", "/a", "a/", "..", "", "c:\\x"])
def test_an_artifact_name_outside_the_folder_is_rejected(service, potstill, respond, tmp_path, name):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(respond, name=name))

    with pytest.raises(DownloadDamaged, match="invalid name"):
        potstill.jobs.download("job_1", tmp_path)


def test_a_folder_is_packed_without_links(tmp_path):
    folder = tmp_path / "pets"
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "train" / "cat" / "1.png").write_bytes(b"png")
    (folder / "train" / "cat" / "link.png").symlink_to(folder / "train" / "cat" / "1.png")

    with packed_archive(folder) as archive, zipfile.ZipFile(archive) as file:
        names = file.namelist()

    assert archive.name == "pets.zip"
    assert names == ["train/cat/1.png"]
    assert not archive.exists()


def test_a_file_is_not_packed(tmp_path):
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"x")

    with packed_archive(archive) as path:
        assert path == archive


def test_a_missing_path_is_reported(tmp_path):
    with pytest.raises(InvalidArgument, match="no file or folder"), packed_archive(tmp_path / "nothing"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [({"format": "coreml"}, "load opens timm and onnx"), ({"name": "model.int8.onnx"}, "set format='onnx'")],
)
def test_a_format_that_load_does_not_open_is_refused_before_the_download(service, potstill, tmp_path, options, message):
    with pytest.raises(InvalidArgument, match=message):
        potstill.jobs.load("job_1", folder=tmp_path, **options)
    assert service.received == []
