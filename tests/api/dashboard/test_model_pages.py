"""The pages of models as a browser without JavaScript gets them."""

import re

import httpx
import pytest
import torch
from safetensors.torch import save

from api.dashboard import model_pages
from api.headers import PAGE_HEADERS
from core.store.tables import Model

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def browser(server, tenant):
    with httpx.Client(base_url=server.url, trust_env=False, headers=SAME_ORIGIN) as client:
        assert client.post("/login", data={"key": tenant.token}).status_code == 303
        yield client


@pytest.fixture
def upload(tenant):
    """Send a file as a resumable upload; return its id."""

    def send(content):
        made = tenant.http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(len(content))})
        headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        tenant.http.patch(made.headers["location"], content=content, headers=headers)
        return made.json()["id"]

    return send


@pytest.fixture
def model(tenant, tmp_path):
    """A ready model with files in the store; return its id."""
    model_id = tenant.ready_model(normalization_source="architecture")
    files = []
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_text(f"the content of {name}")
        files.append(tenant.server.store.put(f"models/{model_id}/{name}", tmp_path / name))
    with tenant.database.write() as session:
        session.get(Model, model_id).files = [file.to_json() for file in files]
    return model_id


def test_an_empty_list_is_explained(browser):
    page = browser.get("/models")

    assert "No models yet" in page.text
    assert {name: page.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page.text)


def test_an_upload_becomes_a_model(browser, tenant, server, upload):
    upload_id = upload(save({"weight": torch.zeros(2, 2)}))
    form = {"upload": upload_id, "architecture": "resnet18", "arguments": '{"num_classes": 2}', "name": "mine"}
    response = browser.post("/models", data={**form, "classes": "a\nb"})

    (model,) = tenant.http.get("/v1/models").json()["data"]
    assert (response.status_code, response.headers["location"]) == (303, f"/models/{model['id']}")
    assert (model["name"], model["classes"], model["status"]) == ("mine", ["a", "b"], "processing")
    assert server.broker.was_sent("models")
    page = browser.get(f"/models/{model['id']}").text
    assert 'data-refresh-seconds="2"' in page


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"architecture": "resnet18", "mean": "128", "std": "50"}, "mean", "divided by 255"),
        ({"architecture": "resnet18", "mean": "x", "std": "1"}, "mean", "a number is expected"),
        ({"architecture": "resnet18", "arguments": '{"pretrained": true}'}, "arguments", "not allowed"),
        ({"architecture": "resnet18", "arguments": "["}, "arguments", "JSON"),
        ({"architecture": "resnet_18"}, "architecture", "resnet18"),
        ({"architecture": ""}, "architecture", "at least 1 character"),
    ],
)
def test_a_problem_is_shown_at_its_field(browser, upload, form, field, words):
    response = browser.post("/models", data={"upload": upload(save({"weight": torch.zeros(2, 2)})), **form})

    assert response.status_code == 422
    assert words in re.search(rf'id="{field}-notes".*?</div>', response.text, re.DOTALL)[0]


def test_a_file_that_is_no_safetensors_is_explained_at_the_upload(browser, upload):
    response = browser.post("/models", data={"upload": upload(b"\x80\x02pickle"), "architecture": "resnet18"})

    assert response.status_code == 415
    assert "Only safetensors files" in re.search(r"data-upload-problem>(.*?)</p>", response.text)[1]


def test_a_model_is_shown_and_its_files_are_downloaded(browser, model):
    page = browser.get(f"/models/{model}").text

    assert "assumed, from timm" in page.lower()
    assert f'href="/jobs/new?teacher={model}"' in page
    for path, sha256 in re.findall(r'href="(/models/[^"]+/files/[^"]+)".*?sha256 ([0-9a-f]{64})', page):
        file = browser.get(path)
        assert file.text == f"the content of {path.rsplit('/', 1)[1]}"
        assert file.headers["etag"] == f'"{sha256}"'
    assert browser.get(f"/models/{model}/files/other").status_code == 404


def test_a_student_names_its_job_and_figures(browser, tenant, tmp_path, server):
    lease = tenant.running_job()
    model_id = tenant.ready_model()
    tenant.succeed(lease, tmp_path)
    with tenant.database.write() as session:
        session.get(Model, model_id).job_id = lease.job_id
    text = browser.get("/models").text

    assert "Student" in text
    assert "90.0\u00a0%" in text
    page = browser.get(f"/models/{model_id}").text
    assert f'<a href="/jobs/{lease.job_id}">' in page
    assert re.search(r'<a href="/datasets/ds_[^"]+">ready</a>', page)


def test_a_model_that_a_job_needs_is_not_deleted(browser, tenant, spec_of):
    model = tenant.ready_model()
    spec = spec_of(tenant.ready_dataset(), teachers=[{"weights": model}])
    job = tenant.http.post("/v1/jobs", json=spec).json()
    refused = browser.post(f"/models/{model}/delete")

    assert refused.status_code == 409
    assert f"in use by {job['id']}" in refused.text
    tenant.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert browser.post(f"/models/{model}/delete").headers["location"] == "/models"
    assert tenant.http.get(f"/v1/models/{model}").status_code == 404


def test_the_list_has_pages_and_hides_other_projects(browser, tenant, make_tenant, monkeypatch):
    monkeypatch.setattr(model_pages, "MODELS_PER_PAGE", 1)
    older, newer, foreign = tenant.ready_model(), tenant.ready_model(), make_tenant().ready_model()
    first = browser.get("/models").text
    second = browser.get(re.search(r'href="(/models\?after=[^"]+)"', first)[1]).text

    assert (newer in first, older in first) == (True, False)
    assert older in second
    assert foreign not in first + second
    found = browser.get(f"/models?search=PATCH16 {older[-8:]}").text
    assert (older in found, newer in found) == (True, False)
    assert [each["id"] for each in tenant.http.get("/v1/models?search=vit_tiny&limit=1").json()["data"]] == [newer]
    link = re.search(r'href="(/models\?search=[^"]+)"', browser.get("/models?search=vit_tiny").text)[1]
    assert older in browser.get(link.replace("&amp;", "&")).text
    assert "No models match" in browser.get("/models?search=dogs").text
    assert browser.get(f"/models/{foreign}").status_code == 404
