"""The dataset page as a browser without JavaScript gets it."""

import re

import httpx
import pytest

from api.dashboard import dataset_pages
from api.headers import PAGE_HEADERS
from core.store import datasets

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
    response = browser.post("/datasets", data={"url": f" {URL} ", **choice})

    assert (response.status_code, response.headers["location"]) == (303, "/datasets")
    (dataset,) = list_all(tenant)
    assert (dataset.name, dataset.status) == ("my pets", "processing")
    assert dataset.source == {"type": "url", "url": URL, **choice, "splits": {"train": "part1", "test": None}}
    assert server.broker.was_sent("datasets")
    assert "my pets" in browser.get("/datasets").text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"url": "http://example.com/a"}, "only https"),
        ({"url": "https://169.254.169.254/"}, "not a public address"),
        ({"url": ""}, "at least 1 character"),
        ({"url": URL, "labels": "some"}, "auto"),
        ({"url": URL, "splits": "part1"}, "train=seg_train,test=seg_test"),
        ({}, "at least 1 character"),
    ],
)
def test_an_invalid_url_is_explained_on_the_page(browser, tenant, form, words):
    response = browser.post("/datasets", data=form)

    assert response.status_code == 422
    assert words in response.text
    assert list_all(tenant) == []


def test_the_entered_url_is_escaped(browser):
    response = browser.post("/datasets", data={"url": '"><script>alert(1)</script>'})

    assert response.status_code == 422
    assert "<script>alert" not in response.text


def test_the_list_shows_status_size_and_rejected_files(browser, tenant):
    tenant.ready_dataset(rejected=[{"path": "train/<b>.png", "reason": "broken", "code": "image_unreadable"}])
    text = browser.get("/datasets").text

    assert "Ready" in text
    assert "100" in text
    assert "train/&lt;b&gt;.png: broken" in text


def test_the_list_links_to_older_datasets(browser, tenant, monkeypatch):
    monkeypatch.setattr(dataset_pages, "DATASETS_PER_PAGE", 1)
    older, newer = tenant.ready_dataset(), tenant.ready_dataset()
    first = browser.get("/datasets").text
    second = browser.get(re.search(r'href="(/datasets\?after=[^"]+)"', first)[1]).text

    assert (newer in first, older in first) == (True, False)
    assert older in second


def test_a_cross_site_request_is_403(browser, tenant):
    response = browser.post("/datasets", data={"url": URL}, headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status_code == 403
    assert list_all(tenant) == []


def test_a_read_only_key_sees_no_form(sign_in_as, make_tenant):
    reader = make_tenant("read")
    browser = sign_in_as(reader)

    assert "<form" not in browser.get("/datasets").text.split("<main")[1]
    assert browser.post("/datasets", data={"url": URL}).status_code == 403


def test_datasets_of_other_projects_are_hidden(browser, make_tenant):
    assert make_tenant().ready_dataset() not in browser.get("/datasets").text
