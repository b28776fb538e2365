"""Menu, keys, webhooks and usage in a real Chromium. The tests act as the sender of webhooks."""

import re

import httpx
import pytest

from api.dashboard.navigation import PAGES
from core.store import webhooks
from core.store.db import utc_now

pytestmark = pytest.mark.browser


def status_of(server, token):
    return httpx.get(f"{server.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code


def send_next(server, webhook_id, status):
    """Record a response of the receiver for the next delivery of the webhook."""
    with server.database.write() as session:
        while (claimed := webhooks.claim(session, utc_now(session), lease_seconds=60)).webhook.id != webhook_id:
            pass  # a delivery of another test
        error = None if status < 300 else f"HTTP {status}"
        result = webhooks.AttemptResult(status=status, error=error, seconds=0.02)
        webhooks.record_attempt(session, claimed, result, utc_now(session))


def test_a_key_is_created_used_and_revoked(sign_in, tenant, server, errors):
    page = sign_in(tenant)
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Purpose").fill("laptop")
    page.get_by_role("button", name="Create key").dblclick()
    token = page.get_by_label("Key of “laptop”").input_value()
    assert len(tenant.http.get("/v1/api-keys").json()["data"]) == 2
    assert status_of(server, token) == 200

    page.get_by_role("link", name="I have copied it").click()
    row = page.get_by_role("row", name=re.compile("laptop"))
    row.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke key").click()

    row.get_by_text("Revoked").wait_for()
    assert status_of(server, token) == 401
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert errors == []


def test_a_webhook_is_created_and_its_test_delivery_is_shown(sign_in, tenant, server, errors):
    page = sign_in(tenant, "/webhooks")
    page.get_by_label("URL (https, public)").fill("https://example.com/hook")
    page.get_by_label("job.started").check()
    page.get_by_role("button", name="Create webhook").click()
    assert page.get_by_label("Secret", exact=True).input_value().startswith("whsec_")
    page.get_by_role("link", name="I have copied it").click()
    (webhook,) = tenant.http.get("/v1/webhooks").json()["data"]
    assert "job.started" in webhook["events"]

    page.get_by_role("button", name="Send a test").click()
    page.locator(".badge", has_text="Pending").wait_for()
    send_next(server, webhook["id"], 500)
    page.get_by_role("cell", name="HTTP 500").wait_for()
    page.get_by_role("link", name="https://example.com/hook").click()
    page.get_by_role("link", name="webhook.test").wait_for()
    page.get_by_role("button", name="Disable…").click()
    page.get_by_role("button", name="Disable webhook").click()
    page.get_by_role("button", name="Send again").click()
    page.locator(".badge", has_text="Pending").wait_for()
    send_next(server, webhook["id"], 204)

    page.locator(".badge", has_text="Succeeded").wait_for()
    assert errors == []


def test_the_menu_is_used_by_keyboard(sign_in, tenant):
    page = sign_in(tenant)
    expected = ["Skip to content", "Potstill", *(entry.label for entry in PAGES), "Menu"]
    names = []
    for _ in expected:
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.innerText"))
    assert names == expected

    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "API keys"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.innerText") == "Menu"
    assert page.get_by_role("link", name="API keys").is_hidden()


def test_usage_is_plotted(sign_in, tenant, errors):
    tenant.queued_job()
    page = sign_in(tenant, "/usage")

    page.get_by_role("img", name=re.compile("Jobs of 30 days: created 1, ended 0")).wait_for()
    assert page.locator(".chart canvas").count() == 3
    page.get_by_text("Figures by day").click()
    assert page.locator("[data-usage-rows] tr").count() == 30
    assert errors == []


def test_redoc_renders_the_reference_under_the_policy(page, errors):
    page.goto("/docs/redoc")

    page.get_by_role("heading", name=re.compile("Create job|POST", re.IGNORECASE)).first.wait_for()
    page.get_by_text("JavaScript").first.wait_for()
    # The policy blocks the logo, which is on another origin, and the styles of scroll bars that are not used.
    assert [error for error in errors if "Content Security Policy" not in error] == []
    assert page.evaluate("getComputedStyle(document.querySelector('.menu-content')).position") == "sticky"
