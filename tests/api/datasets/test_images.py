"""One image of a dataset, as it was uploaded."""

import pytest

from api.datasets.images import media_type
from core.store.tables import Dataset
from tests.support.images import store_band_images


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=3, num_test=2)


@pytest.fixture
def dataset(tenant, stored):
    """A ready dataset whose files are in the store; return its id."""
    files = [tenant.server.store.put(f"datasets/{tenant.project_id}/{path.name}", path) for path in stored.iterdir()]
    return tenant.ready_dataset(files=files)


def test_an_image_is_the_file_that_was_uploaded(http, dataset, stored):
    images = stored.parent / "images" / "test"
    paths = sorted(path.relative_to(images) for path in images.rglob("*.png"))

    for index in (0, 3, 5):
        response = http.get(f"/v1/datasets/{dataset}/images/test/{index}")
        assert response.content == (images / paths[index]).read_bytes()
        assert response.headers["content-type"] == "image/png"
        assert "sandbox" in response.headers["content-security-policy"]
    again = http.get(f"/v1/datasets/{dataset}/images/test/5", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status"), [("test/6", 404), ("test/-1", 422), ("test/x", 422), ("val/0", 422), ("train/9", 404)]
)
def test_an_image_that_does_not_exist_is_refused(http, dataset, path, status):
    response = http.get(f"/v1/datasets/{dataset}/images/{path}")

    assert response.status_code == status
    if status == 404:
        assert "numbered from 0" in response.json()["detail"]


def test_a_damaged_image_is_not_sent(tenant, http, dataset):
    with tenant.database.read() as session:
        blob = next(file for file in session.get(Dataset, dataset).files if file["key"].endswith("images.bin"))
    path = tenant.server.store.local_path(blob["key"])
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))

    assert http.get(f"/v1/datasets/{dataset}/images/test/0").status_code >= 500
    path.write_bytes(content)


def test_a_dataset_without_files_and_one_of_another_project_have_no_images(tenant, make_tenant, dataset):
    assert tenant.http.get(f"/v1/datasets/{tenant.ready_dataset()}/images/test/0").status_code == 404
    assert make_tenant().http.get(f"/v1/datasets/{dataset}/images/test/0").status_code == 404


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"II*\x00", "application/octet-stream"),
        (b"<svg onload='x'>", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_content(content, expected):
    assert media_type(content) == expected
