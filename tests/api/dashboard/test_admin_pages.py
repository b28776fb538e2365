"""Navigation, keys, webhooks, usage and the audit log, as a browser without JavaScript gets them."""

import csv
import io
import re

import httpx
import pytest

from api.dashboard import key_pages, project_pages, webhook_pages
from core.store import audit, webhooks
from core.store.db import utc_now
from core.store.keys import Caller

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
HOOK = "https://example.com/hook?token=secret"
PAGES = {
    "/keys": "admin",
    "/audit": "admin",
    "/webhooks": "read",
    "/usage": "read",
    "/jobs": "read",
    "/datasets": "read",
    "/methods": "read",
    "/workers": "read",
}


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


def form_of(page):
    """Return the token of the first form of a page."""
    return re.search(r'name="form" value="([0-9a-f]{32})"', page)[1]


def create_webhook(tenant):
    return tenant.http.post("/v1/webhooks", json={"url": HOOK, "name": "hook"}).json()["id"]


def deliveries(tenant, webhook_id):
    return tenant.http.get(f"/v1/webhooks/{webhook_id}/deliveries").json()["data"]


# --- navigation -----------------------------------------------------------------------------------


def test_every_page_of_the_navigation_opens_and_is_marked(browser):
    links = set(re.findall(r'class="nav-item" href="([^"]+)"', browser.get("/usage").text))
    assert set(PAGES) <= links

    for path in links - {"/docs", "/guide/"}:
        page = browser.get(path)

        assert page.status_code == 200
        assert set(re.findall(r'href="([^"]+)" aria-current="page"', page.text.split("<main")[0])) == {path}
        assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page.text)


def test_the_navigation_offers_only_what_the_key_may_open(sign_in_as, make_tenant):
    browser = sign_in_as(make_tenant("read"))
    navigation = browser.get("/jobs").text.split("<main")[0]

    for path, scope in PAGES.items():
        assert (f'href="{path}"' in navigation) == (scope == "read")
        assert browser.get(path).status_code == (200 if scope == "read" else 403)


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_created_and_its_secret_is_shown_once(browser, tenant, server):
    form = {"form": form_of(browser.get("/keys").text), "name": "laptop", "scope": "write", "expires_on": "2099-01-31"}
    created = browser.post("/keys", data=form)
    token = re.search(r'value="(ps_[^"]+)"', created.text)[1]
    again = browser.post("/keys", data=form)

    assert created.headers["cache-control"] == "no-store"
    assert httpx.get(f"{server.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert "already sent" in again.text
    assert token not in again.text + browser.get("/keys").text
    key, own = tenant.http.get("/v1/api-keys").json()["data"]
    assert (key["name"], key["scopes"], key["expires_at"]) == ("laptop", ["read", "write"], "2099-01-31T00:00:00.000Z")
    assert own["id"] == tenant.key_id


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"name": "", "scope": "read"}, "at least 1 character"),
        ({"name": "n", "scope": "root"}, "choose what the key allows"),
        ({"name": "<b>", "scope": "admin", "expires_on": "2020-01-01"}, "in the past"),
        ({"name": "n", "scope": "read", "expires_on": "soon"}, "expires_at"),
    ],
)
def test_an_invalid_form_is_explained_and_keeps_its_values(browser, tenant, form, words):
    response = browser.post("/keys", data={"form": "0" * 32, **form})

    assert response.status_code == 422
    assert words in response.text
    assert (
        f'name="name" type="text" required maxlength="200" autocomplete="off" value="{form["name"]}"'.replace(
            "<b>", "&lt;b&gt;"
        )
        in response.text
    )
    assert len(tenant.http.get("/v1/api-keys").json()["data"]) == 1


def test_a_form_without_its_token_is_refused(browser, tenant):
    assert browser.post("/keys", data={"name": "n", "scope": "read"}).status_code == 422
    assert len(tenant.http.get("/v1/api-keys").json()["data"]) == 1


def test_revoking_twice_is_harmless_and_the_last_admin_key_stays(browser, tenant):
    other = tenant.http.post("/v1/api-keys", json={"name": "other"}).json()["id"]
    for _ in range(2):
        assert browser.post(f"/keys/{other}/revoke").headers["location"] == "/keys"
    refused = browser.post(f"/keys/{tenant.key_id}/revoke")

    assert refused.status_code == 409
    assert "last active admin key" in refused.text
    text = browser.get("/keys").text
    assert ("Revoked" in text, f"/keys/{other}/revoke" in text, "this session" in text) == (True, False, True)


def test_a_rotated_key_ends_after_the_overlap(browser, tenant):
    other = tenant.http.post("/v1/api-keys", json={"name": "other"}).json()["id"]
    response = browser.post(f"/keys/{other}/rotate", data={"form": "a" * 32, "overlap_seconds": "3600"})
    again = browser.post(f"/keys/{other}/rotate", data={"form": "b" * 32})

    assert "Copy the new key now" in response.text
    assert again.status_code == 409
    assert tenant.http.get("/v1/api-keys").json()["data"][0]["replaces"] == other
    assert "replaced" in browser.get("/keys").text


def test_the_list_of_keys_has_pages(browser, tenant, monkeypatch):
    monkeypatch.setattr(key_pages, "KEYS_PER_PAGE", 1)
    tenant.http.post("/v1/api-keys", json={"name": "newer"})
    first = browser.get("/keys").text
    second = browser.get(re.search(r'href="(/keys\?after=[^"]+)"', first)[1]).text

    assert (tenant.key_id in first.split("<tbody")[1], f"{tenant.key_id}/rotate" in second) == (False, True)


# --- webhooks -------------------------------------------------------------------------------------


def test_a_webhook_is_created_tested_and_changed(browser, tenant):
    form = {"form": form_of(browser.get("/webhooks").text), "url": HOOK, "events": ["job.failed", "dataset.ready"]}
    created = browser.post("/webhooks", data=form)
    assert "already sent" in browser.post("/webhooks", data=form).text
    assert re.search(r'value="whsec_[^"]+"', created.text)
    (webhook,) = tenant.http.get("/v1/webhooks").json()["data"]
    assert webhook["events"] == ["job.failed", "dataset.ready"]

    page = f"/webhooks/{webhook['id']}"
    test = {"form": form_of(browser.get(page).text)}
    sent = [browser.post(f"{page}/test", data=test).headers["location"] for _ in range(2)]
    (delivery,) = deliveries(tenant, webhook["id"])
    assert sent == [f"{page}/deliveries/{delivery['id']}"] * 2
    assert "webhook.test" in browser.get(sent[0]).text

    changed = browser.post(f"{page}/change", data={"name": "ops", "events": ["*"]})
    assert changed.headers["location"] == page
    webhook = tenant.http.get(f"/v1{page}").json()
    assert (webhook["name"], webhook["events"], webhook["url"]) == ("ops", ["*"], "https://example.com/hook?[hidden]")
    assert "token=secret" not in browser.get(page).text


def test_deliveries_are_shown_filtered_and_sent_again(browser, tenant):
    webhook_id = create_webhook(tenant)
    tenant.http.post(f"/v1/webhooks/{webhook_id}/test")
    with tenant.database.write() as session:
        while (claimed := webhooks.claim(session, utc_now(session), lease_seconds=60)).webhook.id != webhook_id:
            pass  # a delivery of another test
        failed = webhooks.AttemptResult(status=410, error="it answered <gone>", seconds=0.01)
        webhooks.record_attempt(session, claimed, failed, utc_now(session))
    page = f"/webhooks/{webhook_id}"
    text = browser.get(page).text

    assert "HTTP 410" in text
    assert "it answered &lt;gone&gt;" in text
    assert "answered 410 (gone)" in text  # why the webhook is disabled
    assert claimed.id in browser.get(f"{page}?status=failed").text
    assert claimed.id not in browser.get(f"{page}?status=succeeded").text
    assert browser.post(f"{page}/enable").headers["location"] == page
    for _ in range(2):
        browser.post(f"{page}/deliveries/{claimed.id}/redeliver")
    (delivery,) = deliveries(tenant, webhook_id)
    assert (delivery["status"], len(delivery["attempts"])) == ("pending", 1)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"url": "http://example.com/a", "events": ["*"]}, "https"),
        ({"url": HOOK}, "events"),
        ({"url": HOOK, "events": ["job.exploded"]}, "events/0"),
        ({"url": HOOK, "events": ["*"], "job": "nothing"}, "job"),
    ],
)
def test_an_invalid_webhook_is_explained(browser, tenant, form, words):
    response = browser.post("/webhooks", data={"form": "0" * 32, **form})

    assert response.status_code == 422
    assert words in re.search(r'role="alert">(.*?)</div>', response.text, re.DOTALL)[1]
    assert tenant.http.get("/v1/webhooks").json()["data"] == []


def test_a_key_that_only_reads_sees_webhooks_without_forms(sign_in_as, make_tenant, tenant):
    webhook_id = create_webhook(tenant)
    reader = tenant.http.post("/v1/api-keys", json={"name": "reader", "scopes": ["read"]}).json()["token"]
    browser = sign_in_as(make_tenant("read"))
    assert browser.get(f"/webhooks/{webhook_id}").status_code == 404

    browser.post("/login", data={"key": reader})
    for path in ("/webhooks", f"/webhooks/{webhook_id}"):
        assert "<form" not in browser.get(path).text.split("<main")[1]
    assert browser.post(f"/webhooks/{webhook_id}/disable").status_code == 403


def test_the_list_of_webhooks_has_pages(browser, tenant, monkeypatch):
    monkeypatch.setattr(webhook_pages, "WEBHOOKS_PER_PAGE", 1)
    older, newer = create_webhook(tenant), create_webhook(tenant)
    first = browser.get("/webhooks").text
    second = browser.get(re.search(r'href="(/webhooks\?after=[^"]+)"', first)[1]).text

    assert (newer in first, older in first.split("<tbody")[1].split("</tbody")[0], older in second) == (
        True,
        False,
        True,
    )


# --- usage and audit log --------------------------------------------------------------------------


def test_usage_shows_quotas_and_links_to_the_history(browser, tenant):
    tenant.queued_job()
    text = browser.get("/usage").text

    assert "Unfinished jobs" in text
    history = browser.get(re.search(r'data-url="([^"]+)"', text)[1]).json()["days"]
    assert len(history) == project_pages.HISTORY_DAYS
    assert history[-1]["jobs_created"] == 1


def test_the_audit_log_is_filtered_and_has_pages(browser, tenant, monkeypatch):
    monkeypatch.setattr(project_pages, "ENTRIES_PER_PAGE", 1)
    job = tenant.queued_job()
    for action in ("pause", "resume"):
        tenant.http.post(f"/v1/jobs/{job}/{action}")
    with tenant.database.write() as session:
        audit.record(session, Caller("key_other", tenant.project_id, frozenset()), "x.<b>", "job_x")
        today = utc_now(session).date().isoformat()

    def rows(path):
        page = browser.get(path)
        assert page.status_code == 200
        return page.text.partition("<tbody")[2].partition("</tbody")[0], page.text

    newest, _ = rows("/audit")
    assert "x.&lt;b&gt;" in newest
    filters = f"/audit?object={job}&key={tenant.key_id}&from={today}&to={today}"
    first, page = rows(filters)
    second, _ = rows(re.search(r'rel="next"|href="(/audit\?[^"]*after=[^"]+)"', page)[1].replace("&amp;", "&"))
    assert ("job.resume" in first, "job.pause" in second) == (True, True)
    assert "job.pause" in rows("/audit?action=job.pause")[0]
    assert rows("/audit?to=2020-01-01")[0] == ""
    assert "No change passes all filters" in browser.get("/audit?to=2020-01-01").text

    monkeypatch.setattr(project_pages, "ENTRIES_PER_READ", 1)
    link = re.search(r'href="(/audit\.csv[^"]*)" download', page)[1].replace("&amp;", "&")
    lines = list(csv.DictReader(io.StringIO(browser.get(link).text)))
    assert [line["action"] for line in lines][:2] == ["job.resume", "job.pause"]
    assert {line["object_id"] for line in lines} == {job}
    assert len(list(csv.reader(io.StringIO(browser.get("/audit.csv").text)))) > len(lines) + 1


def test_an_invalid_date_of_the_audit_log_is_explained(browser):
    response = browser.get("/audit?from=yesterday")

    assert response.status_code == 422
    assert "2026-01-31" in response.text


def test_the_pages_of_another_project_are_hidden(browser, make_tenant):
    other = make_tenant()
    webhook_id = create_webhook(other)
    form = {"form": "0" * 32}

    assert browser.get(f"/webhooks/{webhook_id}").status_code == 404
    for path in (f"/webhooks/{webhook_id}/test", f"/keys/{other.key_id}/rotate", f"/keys/{other.key_id}/revoke"):
        assert browser.post(path, data=form).status_code == 404
