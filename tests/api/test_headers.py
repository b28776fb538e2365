"""What pages and answers say to browsers and to what lies between."""

import re
from html.parser import HTMLParser

import httpx
import pytest

from api.headers import HSTS, PAGE_HEADERS
from api.session_cookie import COOKIE_NAME, issue_cookie

PARAMETERS = {"job_id", "move", "version", "name"}
HANDLERS = re.compile(r"on[a-z]+$")


class Inline(HTMLParser):
    """What a page has inline, which its policy forbids."""

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
    cookie = issue_cookie(server.app.state.parts.cookie_secret, tenant.key_id)
    with httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False) as client:
        yield client


def pages(app_routes, tenant, tmp_path):
    """The address of every page: what OpenAPI does not speak of, and pages that tell of an error."""
    attempt = tenant.running_job()
    tenant.succeed(attempt, tmp_path)
    for route in app_routes:
        if route.method != "GET" or route.declared:
            continue
        assert set(re.findall(r"{(\w+)", route.path)) <= PARAMETERS, route.path
        yield re.sub(r"{job_id}", attempt.job_id, route.path)
    yield from (f"/jobs/{tenant.queued_job()}", "/jobs/job_x", "/jobs?status=strange", "/jobs?after=x")


def test_every_page_has_a_policy_and_nothing_inline(browser, app_routes, tenant, tmp_path):
    looked_at = 0
    for address in pages(app_routes, tenant, tmp_path):
        answer = browser.get(address)
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        policy = answer.headers["content-security-policy"]
        inline = Inline()
        inline.feed(answer.text)

        assert {name: answer.headers.get(name) for name in PAGE_HEADERS} == dict(PAGE_HEADERS), address
        assert "unsafe" not in policy
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert inline.found == [], address
        looked_at += 1

    assert looked_at >= 7


def test_the_parser_sees_what_is_inline():
    inline = Inline()
    inline.feed(
        '<p style="x"><a onclick="x" href="javascript:x"><script>1</script><style>b</style><script src=x></script>'
    )

    assert len(inline.found) == 5


def test_what_a_key_opens_is_kept_by_nobody(browser, tenant):
    job = tenant.queued_job()
    for address in ("/v1/jobs", f"/v1/jobs/{job}", "/v1/usage", f"/v1/jobs/{job}/metrics", "/v1/jobs/job_x", "/jobs"):
        assert browser.get(address).headers["cache-control"] == "no-store", address
    assert httpx.get(f"{tenant.server.url}/v1/jobs", trust_env=False).headers["cache-control"] == "no-store"


def test_a_file_is_kept_by_its_reader_alone(browser, tenant, tmp_path):
    attempt = tenant.running_job()
    tenant.succeed(attempt, tmp_path)
    answer = browser.get(f"/v1/jobs/{attempt.job_id}/artifacts/model.safetensors")

    assert answer.headers["cache-control"].startswith("private,")
    assert answer.headers["vary"] == "Authorization, Cookie"


def test_browsers_are_told_to_come_over_https_only_where_the_operator_says_that_they_can(
    make_server, make_tenant, http
):
    assert "strict-transport-security" not in http.get("/v1/jobs").headers

    behind = make_tenant(of=make_server(behind_tls=True))
    for address in ("/v1/jobs", "/login", "/healthz", "/v1/nothing"):
        assert behind.http.get(address).headers["strict-transport-security"] == HSTS
    signed_in = httpx.post(
        f"{behind.server.url}/login",
        data={"key": behind.token},
        headers={"Sec-Fetch-Site": "same-origin"},
        trust_env=False,
    )
    assert {"HttpOnly", "Secure", "SameSite=lax"} <= set(signed_in.headers["set-cookie"].split("; "))
