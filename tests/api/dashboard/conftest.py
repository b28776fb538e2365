"""A real Chromium, and documents of the public API."""

import os
import shutil

import pytest

from api.session_cookie import COOKIE_NAME, issue_cookie

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SOON = 60_000  # milliseconds


@pytest.fixture(scope="module")
def chromium():
    """A real browser. Without one, tests are skipped, or fail if CI=true.

    Playwright runs an event loop in this thread until it is closed. No test of another module may find that loop.
    """
    if CHROMIUM is None:
        message = "no Chromium found: install it (apt-get install chromium) to run the browser tests"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture
def errors():
    """Errors of the browser: script errors, blocked content, failed requests."""
    return []


@pytest.fixture
def page(chromium, server, errors):
    context = chromium.new_context(base_url=server.url, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SOON)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()


@pytest.fixture
def sign_in(page, server):
    """Open a page as a tenant, with the cookie that the sign-in form sets."""

    def sign_in_as(tenant, path="/jobs"):
        cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
        page.context.add_cookies([{"name": COOKIE_NAME, "value": cookie, "url": server.url, "httpOnly": True}])
        page.goto(path)
        return page

    return sign_in_as


@pytest.fixture
def make_job():
    """Build a job document of the public API."""

    def make(**changes):
        job = {
            "id": "job_01kb2m3n4p5q6r7s8t9vwxyz01",
            "name": "deit on digits",
            "status": "running",
            "terminal": False,
            "next_actions": ["cancel", "pause", "stop"],
            "pending_action": None,
            "stage": "distill",
            "stages": [
                {"name": "prepare", "started_at": "t", "finished_at": "t", "seconds": 1.5},
                {"name": "teacher", "started_at": "t", "finished_at": "t", "seconds": 30.0},
                {"name": "distill", "started_at": "t", "finished_at": None, "seconds": None},
            ],
            "progress": {"fraction": 0.5, "step": 10, "total_steps": 20, "epoch": 1, "eta_seconds": 3.0},
            "spec": {
                "dataset": "ds_1",
                "teachers": [{"architecture": "resnet18", "weights": "train"}],
                "student": {"architecture": "vit_tiny_patch16_224", "weights": "random"},
                "method": {"name": "deit", "distillation_type": "hard", "alpha": 0.5},
                "training": {"epochs": 2, "image_size": 28},
            },
            "attempt": 1,
            "created_at": "2026-11-24T08:00:00.000Z",
            "started_at": "2026-11-24T08:00:01.000Z",
            "finished_at": None,
            "error": None,
            "warnings": [],
            "metadata": {},
            "result": None,
        }
        return job | changes

    return make
