"""Elements that scroll are reached by keyboard and have a name; links in text are underlined."""

import re
from html.parser import HTMLParser

import httpx
import pytest

from api.session_cookie import COOKIE_NAME, issue_cookie
from core.store import jobs


class Scrolling(HTMLParser):
    """Collects the elements that the style sheets let scroll, and all ids."""

    def __init__(self, html):
        super().__init__()
        self.found, self.ids = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        classes = (attributes.get("class") or "").split()
        if tag == "pre" or "scroll" in classes or "events" in classes:
            self.found.append((tag, attributes))


@pytest.fixture
def browser(server, tenant):
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    with httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False) as client:
        yield client


def fail_job(tenant):
    lease = tenant.running_job()
    error = {"code": "x", "message": "It failed.", "fault": "data", "advice": None, "fix": None, "log": ["a line"]}
    with tenant.database.write() as session:
        jobs.fail(session, lease, {**error, "machine": None})
    return lease.job_id


def test_every_scrolling_element_is_focusable_and_named(browser, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    webhook = f"/webhooks/{tenant.http.post('/v1/webhooks', json={'url': 'https://example.com/hook'}).json()['id']}"
    delivery = f"{webhook}/deliveries/{tenant.http.post(f'/v1{webhook}/test').json()['id']}"
    pages = {
        delivery: 1,
        f"/jobs/{lease.job_id}": 3,
        f"/jobs/{fail_job(tenant)}": 3,
        "/jobs?status=paused": 0,
        "/docs": 1,
    }
    for path, min_elements in pages.items():
        page = Scrolling(browser.get(path).text)

        assert len(page.found) >= min_elements, path
        for tag, attributes in page.found:
            message = f"{path}: <{tag} {attributes}>"
            assert attributes.get("tabindex") == "0", message
            assert attributes.get("role") in {"group", "list"}, message
            assert attributes.get("aria-label") or attributes.get("aria-labelledby") in page.ids, message


def test_the_commands_of_an_empty_job_list_are_reached_by_keyboard(make_tenant, server):
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, make_tenant().key_id)
    with httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False) as client:
        (element,) = Scrolling(client.get("/jobs").text).found

    assert element[1]["tabindex"] == "0"


def test_links_in_the_text_of_the_reference_are_underlined(browser):
    style = browser.get("/docs/reference.css").text

    assert re.search(r"^a \{[^}]*text-decoration: underline", style, re.MULTILINE)
    assert re.findall(r"^(.*) \{[^}]*text-decoration: none", style, re.MULTILINE) == ["nav a"]
