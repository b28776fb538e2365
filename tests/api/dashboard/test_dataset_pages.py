"""The page of the datasets, as a browser without scripts gets it."""

import re

import httpx
import pytest

from api.dashboard.rendering import SECURITY_HEADERS
from core.store import datasets

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
URL = "https://example.com/my%20pets.zip"


@pytest.fixture
def enter(server):
    """A browser that has signed in for a tenant."""
    with httpx.Client(base_url=server.url, trust_env=False, headers=SAME_ORIGIN) as client:

        def sign_in(tenant):
            assert client.post("/login", data={"key": tenant.token}).status_code == 303
            return client

        yield sign_in


@pytest.fixture
def browser(enter, tenant):
    return enter(tenant)


def known(tenant):
    with tenant.database.read() as session:
        return datasets.list_datasets(session, tenant.project_id).items


def test_whoever_is_not_signed_in_is_asked_to(server):
    answer = httpx.get(f"{server.url}/datasets", trust_env=False)

    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/datasets")


def test_an_empty_list_says_how_to_begin(browser):
    page = browser.get("/datasets")

    assert "No datasets yet" in page.text
    assert {name: page.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page.text)


def test_an_address_is_fetched_as_by_the_api(browser, tenant, server):
    answer = browser.post("/datasets", data={"url": f" {URL} ", "labels": "none"})

    assert (answer.status_code, answer.headers["location"]) == (303, "/datasets")
    (dataset,) = known(tenant)
    assert (dataset.name, dataset.status) == ("my pets", "processing")
    assert dataset.source == {"type": "url", "url": URL, "labels": "none"}
    assert server.hints.was_told("datasets")
    assert "my pets" in browser.get("/datasets").text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"url": "http://example.com/a"}, "only https"),
        ({"url": "https://169.254.169.254/"}, "no public address"),
        ({"url": ""}, "at least 1 character"),
        ({"url": URL, "labels": "some"}, "auto"),
        ({}, "at least 1 character"),
    ],
)
def test_an_address_that_is_not_fetched_is_explained_on_the_page(browser, tenant, form, words):
    answer = browser.post("/datasets", data=form)

    assert answer.status_code == 422
    assert words in answer.text
    assert known(tenant) == []


def test_what_was_typed_comes_back_as_text(browser):
    answer = browser.post("/datasets", data={"url": '"><script>alert(1)</script>'})

    assert answer.status_code == 422
    assert "<script>alert" not in answer.text


def test_the_list_says_what_came_of_each(browser, tenant):
    tenant.ready_dataset(rejected=[{"path": "train/<b>.png", "reason": "broken", "code": "image_unreadable"}])
    text = browser.get("/datasets").text

    assert "Ready" in text
    assert "100" in text
    assert "train/&lt;b&gt;.png: broken" in text


def test_the_list_goes_on_to_older_ones(browser, tenant, monkeypatch):
    monkeypatch.setattr("api.dashboard.dataset_pages.DATASETS_PER_PAGE", 1)
    older, newer = tenant.ready_dataset(), tenant.ready_dataset()
    first = browser.get("/datasets").text
    second = browser.get(re.search(r'href="(/datasets\?after=[^"]+)"', first)[1]).text

    assert (newer in first, older in first) == (True, False)
    assert older in second


def test_another_site_cannot_add_one(browser, tenant):
    answer = browser.post("/datasets", data={"url": URL}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert known(tenant) == []


def test_a_key_that_may_only_read_sees_no_form(enter, make_tenant):
    reader = make_tenant("read")
    browser = enter(reader)

    assert "<form" not in browser.get("/datasets").text.split("<main")[1]
    assert browser.post("/datasets", data={"url": URL}).status_code == 403


def test_another_projects_datasets_are_not_there(browser, make_tenant):
    assert make_tenant().ready_dataset() not in browser.get("/datasets").text
