import hashlib
import zipfile

import pytest

from client.errors import ClientError, DownloadDamaged, ServiceUnreachable
from client.files import packed

CONTENT = bytes(range(256)) * 40
PATH = "/v1/jobs/job_1/artifacts/model.safetensors"


def listing(answer, *, content=CONTENT, name="model.safetensors", sha256=None):
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    document = {"name": name, "media_type": "x", "size_bytes": len(content), "sha256": sha256}
    return answer({"object": "list", "data": [document], "has_more": False})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("client.sdk.time.sleep", lambda _: None)


def test_a_download_is_verified_and_whole(service, potstill, answer, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer))
    service.on("GET", PATH, answer(body=CONTENT))
    blocks = []

    (path,) = potstill.jobs.download("job_1", tmp_path / "out", on_bytes=blocks.append)

    assert path.read_bytes() == CONTENT
    assert sum(blocks) == len(CONTENT)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_broken_download_goes_on_where_it_broke(service, potstill, answer, tmp_path):
    def rest(received):
        begin = int(received.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return answer(body=CONTENT[begin:], status=206)

    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer))
    service.on("GET", PATH, answer(body=CONTENT, cut_after=1000), rest)

    (path,) = potstill.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == CONTENT
    second = service.received[-1].headers
    assert second["range"] == "bytes=1000-"
    assert second["if-range"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'


def test_a_file_that_changed_meanwhile_is_fetched_anew(service, potstill, answer, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer))
    service.on("GET", PATH, answer(body=b"other" * 4000, cut_after=1000), answer(body=CONTENT, status=200))

    (path,) = potstill.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == CONTENT


def test_damaged_bytes_never_get_their_name(service, potstill, answer, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer, sha256="0" * 64))
    service.on("GET", PATH, answer(body=CONTENT))

    with pytest.raises(DownloadDamaged, match=r"model\.safetensors"):
        potstill.jobs.download("job_1", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_download_that_keeps_breaking_ends_with_an_error(service, potstill, answer, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer))
    service.on("GET", PATH, answer(body=CONTENT, cut_after=0))

    with pytest.raises(ServiceUnreachable, match="keeps breaking"):
        potstill.jobs.download("job_1", tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "", "c:\\x"])
def test_a_name_that_leaves_the_folder_is_refused(service, potstill, answer, tmp_path, name):
    service.on("GET", "/v1/jobs/job_1/artifacts", listing(answer, name=name))

    with pytest.raises(DownloadDamaged, match="unusable name"):
        potstill.jobs.download("job_1", tmp_path)


def test_a_folder_is_packed_with_its_layout_and_without_links(tmp_path):
    folder = tmp_path / "pets"
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "train" / "cat" / "1.png").write_bytes(b"png")
    (folder / "train" / "cat" / "link.png").symlink_to(folder / "train" / "cat" / "1.png")

    with packed(folder) as archive, zipfile.ZipFile(archive) as file:
        names = file.namelist()

    assert archive.name == "pets.zip"
    assert names == ["train/cat/1.png"]
    assert not archive.exists()


def test_a_file_is_sent_as_it_is(tmp_path):
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"x")

    with packed(archive) as path:
        assert path == archive


def test_nothing_cannot_be_packed(tmp_path):
    with pytest.raises(ClientError, match="no file or folder"), packed(tmp_path / "nothing"):
        pass
