"""The dashboard of a running stack: sign in, watch a job, cancel a job, download a student."""

import hashlib
import re

import pytest

from tests.support.api import submit_job, weights_digest
from tests.support.specs import kd_job
from tests.support.waiting import until_resource

PAGE_TIMEOUT_MS = 30_000
JOB_TIMEOUT_MS = 120_000

pytestmark = pytest.mark.browser


@pytest.fixture
def submit(http, digits):
    """Create a job with a name and a number of epochs; return its ID."""
    return lambda **fields: submit_job(http, kd_job(digits, teacher_epochs=1, export=["safetensors"], **fields))


@pytest.fixture
def page(browser_page, stack):
    """A page of a signed-in browser."""
    browser_page.set_default_timeout(PAGE_TIMEOUT_MS)
    browser_page.goto(stack.url)
    browser_page.get_by_label("API key").fill(stack.key)
    browser_page.get_by_role("button", name="Sign in").click()
    browser_page.wait_for_url("**/jobs")
    return browser_page


def test_a_job_can_be_watched_and_its_student_downloaded(page, stack, submit, http, tmp_path):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    job_id = submit(name="watched", epochs=6)
    page.get_by_role("link", name="watched").click()

    page.get_by_role("img", name=re.compile("Student loss, at step")).wait_for(timeout=JOB_TIMEOUT_MS)
    page.get_by_role("heading", name="Teacher against student").wait_for(timeout=JOB_TIMEOUT_MS)
    page.locator(".badge", has_text="Succeeded").wait_for()
    with page.expect_download() as download:
        page.get_by_role("region", name="Files", exact=True).get_by_role("link", name="model.safetensors").click()
    download.value.save_as(tmp_path / "student")

    assert hashlib.sha256((tmp_path / "student").read_bytes()).hexdigest() == weights_digest(http, job_id)
    assert page.locator("[data-live=events] li").count() >= 5
    assert errors == []


@pytest.mark.slow  # tests/api/dashboard/test_browser.py cancels a job in the browser, test_service.py a running one
def test_a_running_job_can_be_cancelled(page, stack, submit, http):
    job_id = submit(name="cancelled in the browser", epochs=2000)
    until_resource(http, f"/v1/jobs/{job_id}", lambda job: job["status"] == "running")
    page.goto(f"{stack.url}/jobs/{job_id}")

    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()

    page.locator(".badge", has_text="Cancelled").wait_for()
    page.get_by_role("button", name="Retry").wait_for()
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
