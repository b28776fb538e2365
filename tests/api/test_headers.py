"""Security and caching headers of pages and API responses."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import httpx
import pytest

from api.headers import HSTS, PAGE_HEADERS
from api.session_cookie import COOKIE_NAME, issue_cookie

PARAMETERS = {
    "job_id", "webhook_id", "delivery_id", "dataset_id", "model_id", "action", "version", "name", "split", "index",
    "sweep_id",
}  # fmt: skip
HANDLERS = re.compile(r"on[a-z]+$")


class InlineCodeParser(HTMLParser):
    """Parser that collects inline code and styles, which the pages' policy forbids."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.inside = None

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.found += [f"{tag} {name}" for name in attributes if name == "style" or HANDLERS.match(name)]
        self.found += [f"{tag} {value}" for value in attributes.values() if (value or "").startswith("javascript:")]
        if tag == "style" or (tag == "script" and "src" not in attributes):
            self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside:
            self.found.append(f"{self.inside}: {data[:40]}")


@pytest.fixture
def browser(server, tenant):
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    with httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False) as client:
        yield client


def pages(app_routes, tenant, tmp_path):
    """Yield the URL of every page: routes outside OpenAPI, and error pages."""
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    webhook = tenant.http.post("/v1/webhooks", json={"url": "https://example.com/hook"}).json()["id"]
    delivery = tenant.http.post(f"/v1/webhooks/{webhook}/test").json()["id"]
    ids = {
        "job_id": lease.job_id,
        "webhook_id": webhook,
        "delivery_id": delivery,
        "dataset_id": tenant.ready_dataset(),
        "model_id": tenant.ready_model(),
    }
    for route in app_routes:
        if route.method != "GET" or route.declared:
            continue
        assert set(re.findall(r"{(\w+)", route.path)) <= PARAMETERS, route.path
        yield re.sub(r"{(\w+)}", lambda match: ids.get(match[1], match[0]), route.path)
    yield from (f"/jobs/{tenant.queued_job()}", "/jobs/job_x", "/jobs?status=strange", "/jobs?after=x")


def test_every_page_has_a_content_security_policy_and_no_inline_code(browser, app_routes, tenant, tmp_path):
    num_pages = 0
    for address in pages(app_routes, tenant, tmp_path):
        response = browser.get(address)
        if not response.headers.get("content-type", "").startswith("text/html"):
            continue
        policy = response.headers["content-security-policy"]
        inline = InlineCodeParser()
        inline.feed(response.text)

        if address == "/docs/redoc":  # Redoc fills style elements that are empty in the page
            empty = base64.b64encode(hashlib.sha256(b"").digest()).decode()
            assert f"style-src 'self' 'sha256-{empty}';" in policy
            policy = response.headers["content-security-policy"] = policy.replace(f" 'sha256-{empty}'", "")
        assert {name: response.headers.get(name) for name in PAGE_HEADERS} == dict(PAGE_HEADERS), address
        assert "unsafe" not in policy
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert inline.found == [], address
        num_pages += 1

    assert num_pages >= 7


def test_the_parser_finds_inline_code():
    inline = InlineCodeParser()
    inline.feed(
        '<p style="x"><a onclick="x" href="javascript:x"><script>1</script><style>b</style><script src=x></script>'
    )

    assert len(inline.found) == 5


def test_authenticated_responses_are_not_cached(browser, tenant):
    job = tenant.queued_job()
    for address in ("/v1/jobs", f"/v1/jobs/{job}", "/v1/usage", f"/v1/jobs/{job}/metrics", "/v1/jobs/job_x", "/jobs"):
        assert browser.get(address).headers["cache-control"] == "no-store", address
    assert httpx.get(f"{tenant.server.url}/v1/jobs", trust_env=False).headers["cache-control"] == "no-store"


def test_downloads_are_cached_privately(browser, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    response = browser.get(f"/v1/jobs/{lease.job_id}/artifacts/model.safetensors")

    assert response.headers["cache-control"].startswith("private,")
    assert response.headers["vary"] == "Authorization, Cookie"


def test_hsts_is_sent_only_behind_tls(make_server, make_tenant, http):
    assert "strict-transport-security" not in http.get("/v1/jobs").headers

    tenant = make_tenant(on=make_server(behind_tls=True))
    for address in ("/v1/jobs", "/login", "/healthz", "/v1/nothing"):
        assert tenant.http.get(address).headers["strict-transport-security"] == HSTS
    signed_in = httpx.post(
        f"{tenant.server.url}/login",
        data={"key": tenant.token},
        headers={"Sec-Fetch-Site": "same-origin"},
        trust_env=False,
    )
    assert {"HttpOnly", "Secure", "SameSite=lax"} <= set(signed_in.headers["set-cookie"].split("; "))
