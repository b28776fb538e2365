"""The pages of datasets as a browser without JavaScript gets them."""

import base64
import re
from html import unescape

import httpx
import pytest

from api.dashboard import dataset_pages
from api.headers import PAGE_HEADERS
from core.store import datasets
from core.store.artifact_store import StoredFile
from tests.support.images import store_band_images

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
URL = "https://example.com/my%20pets.zip"


@pytest.fixture
def sign_in_as(server):
    """Sign in as a tenant."""
    with httpx.Client(base_url=server.url, trust_env=False, headers=SAME_ORIGIN) as client:

        def sign_in(tenant):
            assert client.post("/login", data={"key": tenant.token}).status_code == 303
            return client

        yield sign_in


@pytest.fixture
def browser(sign_in_as, tenant):
    return sign_in_as(tenant)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=8, num_test=2)


def list_all(tenant):
    with tenant.database.read() as session:
        return datasets.list_datasets(session, tenant.project_id).items


def test_a_visitor_is_redirected_to_sign_in(server):
    response = httpx.get(f"{server.url}/datasets", trust_env=False)

    assert (response.status_code, response.headers["location"]) == (303, "/login?next=/datasets")


def test_an_empty_list_is_explained(browser):
    page = browser.get("/datasets")

    assert "No datasets yet" in page.text
    assert {name: page.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page.text)


def test_a_url_is_added_as_by_the_api(browser, tenant, server):
    choice = {"labels": "none", "splits": " train=part1 ", "class_from": "parent"}
    response = browser.post("/datasets", data={"source": "url", "url": f" {URL} ", "license": "CC0-1.0", **choice})

    (dataset,) = list_all(tenant)
    assert (response.status_code, response.headers["location"]) == (303, f"/datasets/{dataset.id}")
    assert (dataset.name, dataset.status, dataset.license) == ("my pets", "processing", "cc0-1.0")
    assert dataset.source == {"type": "url", "url": URL, **choice, "splits": {"train": "part1", "test": None}}
    assert server.broker.was_sent("datasets")
    assert "my pets" in browser.get("/datasets").text


def test_a_second_click_adds_nothing_more(browser, tenant):
    token = re.search(r'name="form" value="(\w+)"', browser.get("/datasets").text)[1]
    form = {"form": token, "source": "builtin", "builtin": "digits"}
    places = {browser.post("/datasets", data=form).headers["location"] for _ in range(2)}

    assert places == {f"/datasets/{dataset.id}" for dataset in list_all(tenant)}
    assert len(places) == 1


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"source": "url", "url": "http://example.com/a"}, "url", "only https"),
        ({"source": "url", "url": "https://169.254.169.254/"}, "url", "not a public address"),
        ({"source": "url", "url": ""}, "url", "at least 1 character"),
        ({"source": "url", "url": URL, "labels": "some"}, "labels", "auto"),
        ({"source": "url", "url": URL, "splits": "part1"}, "splits", "train=seg_train,test=seg_test"),
        ({"source": "huggingface", "repo": "a b"}, "repo", "must be owner/name"),
        ({"source": "builtin", "builtin": "imagenet"}, "builtin", "mnist-5k"),
        ({"source": "builtin", "name": "ds_01jd3v5n8e6f7g8h9jkmnpqrst"}, "name", "form of an id"),
    ],
)
def test_a_problem_is_shown_at_its_field(browser, tenant, form, field, words):
    response = browser.post("/datasets", data=form)

    assert response.status_code == 422
    (notes,) = re.findall(rf'id="{field}-notes".*?</div>', response.text, re.DOTALL)
    assert words in unescape(notes)
    assert re.search(rf'id="{field}" name="{field}" aria-invalid="true"', response.text)
    assert list_all(tenant) == []


@pytest.mark.parametrize(("upload", "words"), [("", "at least 1 character"), ("up_x", "There is no upload")])
def test_an_upload_that_is_missing_is_explained(browser, upload, words):
    response = browser.post("/datasets", data={"upload": upload})

    assert response.status_code == 422
    assert words in re.search(r"data-upload-problem>(.*?)</p>", response.text)[1]


def test_uploads_that_can_be_continued_or_used_are_offered(browser, tenant):
    def upload(name, sent):
        metadata = f"filename {base64.b64encode(name.encode()).decode()}"
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": metadata}
        path = tenant.http.post("/v1/uploads", headers=headers).headers["location"]
        headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        if sent:
            assert tenant.http.patch(path, content=bytes(sent), headers=headers).status_code == 204

    upload("half.zip", 4)
    upload("whole.zip", 10)
    upload("weights.safetensors", 10)
    text = browser.get("/datasets").text

    assert "40\u00a0% sent" in text
    assert re.findall(r"Use<span[^>]*> ([^<]+)<", text) == ["whole.zip"]
    assert "weights.safetensors" not in text
    assert "weights.safetensors" in browser.get("/models").text


def test_the_entered_url_is_escaped(browser):
    response = browser.post("/datasets", data={"source": "url", "url": '"><script>alert(1)</script>'})

    assert response.status_code == 422
    assert "<script>alert" not in response.text


def test_the_list_shows_status_size_and_the_number_of_rejected_files(browser, tenant):
    tenant.ready_dataset(rejected=[{"path": "train/b.png", "reason": "broken", "code": "image_unreadable"}])
    text = browser.get("/datasets").text

    assert "Ready" in text
    assert "100" in text
    assert "1 left out" in text


class TestDatasetPage:
    @pytest.fixture
    def dataset(self, tenant, folder):
        """A ready dataset whose files are in the store; return its id."""
        files = [
            tenant.server.store.put(f"datasets/{tenant.project_id}/{path.name}", path) for path in folder.iterdir()
        ]
        rejected = [{"path": "train/<b>.png", "reason": "broken", "code": "image_unreadable"}]
        return tenant.ready_dataset(files=files, rejected=rejected)

    def test_classes_and_images_are_shown(self, browser, dataset):
        page = browser.get(f"/datasets/{dataset}")
        images = re.findall(r'<img src="([^"]+)"', page.text)[1:]  # the first is the mark

        assert {name: page.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
        assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page.text)
        assert len(images) == 18
        assert browser.get(images[0]).headers["content-type"] == "image/png"
        assert "All images have 8 × 8 pixels." in page.text
        assert "All classes have the same number of training images." in page.text

    def test_one_class_of_a_split_is_shown(self, browser, dataset):
        text = browser.get(f"/datasets/{dataset}?split=test&label=2").text

        images = re.findall(r'<img src="([^"]+)"', text)[1:]
        assert sorted(images) == [f"/datasets/{dataset}/thumbnails/test/{index}" for index in (4, 5)]
        assert "There is no such class" in browser.get(f"/datasets/{dataset}?label=9").text

    def test_it_is_found_by_its_name(self, browser, dataset):
        assert dataset in browser.get("/datasets/ready").text

    def test_rejected_files_are_listed_and_downloaded(self, browser, dataset):
        page, file = browser.get(f"/datasets/{dataset}").text, browser.get(f"/datasets/{dataset}/rejected.csv")

        assert "train/&lt;b&gt;.png" in page
        assert file.text == "path,reason,code\r\ntrain/<b>.png,broken,image_unreadable\r\n"
        assert file.headers["content-disposition"] == 'attachment; filename="ready rejected.csv"'

    def test_files_that_are_missing_are_reported(self, browser, tenant):
        files = [StoredFile("datasets/x/train.npy", 1, "0")]

        assert "cannot be read now" in browser.get(f"/datasets/{tenant.ready_dataset(files=files)}").text

    def test_a_dataset_that_a_job_needs_is_not_deleted(self, browser, tenant, spec_of):
        dataset = tenant.ready_dataset()
        job = tenant.http.post("/v1/jobs", json=spec_of(dataset)).json()
        refused = browser.post(f"/datasets/{dataset}/delete")

        assert refused.status_code == 409
        assert f"in use by {job['id']}" in refused.text
        assert f'href="/jobs/{job["id"]}"' in refused.text
        tenant.http.post(f"/v1/jobs/{job['id']}/cancel")
        deleted = browser.post(f"/datasets/{dataset}/delete")
        assert (deleted.status_code, deleted.headers["location"]) == (303, "/datasets")
        assert list_all(tenant) == []

    def test_progress_is_followed_while_it_is_processing(self, browser, tenant):
        dataset = tenant.http.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}}).json()
        text = browser.get(f"/datasets/{dataset['id']}").text

        assert 'data-refresh-seconds="2"' in text
        assert "Progress of the ingestion" in text

    def test_a_reader_sees_no_buttons_and_a_stranger_nothing(self, sign_in_as, make_tenant, tenant):
        reader = make_tenant("read")
        browser = sign_in_as(reader)

        assert "<form" not in browser.get(f"/datasets/{reader.ready_dataset()}").text.split("<main")[1]
        assert browser.get(f"/datasets/{tenant.ready_dataset()}").status_code == 404


def test_the_list_links_to_older_datasets(browser, tenant, monkeypatch):
    monkeypatch.setattr(dataset_pages, "DATASETS_PER_PAGE", 1)
    older, newer = tenant.ready_dataset(), tenant.ready_dataset()
    first = browser.get("/datasets").text
    second = browser.get(re.search(r'href="(/datasets\?after=[^"]+)"', first)[1]).text

    assert (newer in first, older in first) == (True, False)
    assert older in second


def test_a_cross_site_request_is_403(browser, tenant):
    response = browser.post("/datasets", data={"source": "url", "url": URL}, headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status_code == 403
    assert list_all(tenant) == []


def test_a_read_only_key_sees_no_form(sign_in_as, make_tenant):
    reader = make_tenant("read")
    browser = sign_in_as(reader)

    assert "<form" not in browser.get("/datasets").text.split("<main")[1]
    assert browser.post("/datasets", data={"url": URL}).status_code == 403


def test_datasets_of_other_projects_are_hidden(browser, make_tenant):
    assert make_tenant().ready_dataset() not in browser.get("/datasets").text
