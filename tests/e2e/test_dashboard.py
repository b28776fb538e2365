"""The dashboard in front of the whole stack: sign in, watch a job live, cancel one, download a student."""

import hashlib
import re

import pytest

SOON = 30_000  # milliseconds
LONG = 120_000
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}

pytestmark = pytest.mark.browser


def job(dataset, *, name, epochs):
    model = {"architecture": "vit_tiny_patch16_224", "arguments": VIT}
    lessons = {"epochs": 1, "batch_size": 64, "augmentation": "none"}
    return {
        "name": name,
        "dataset": dataset,
        "student": model,
        "teachers": [{**model, "weights": "train", "training": lessons}],
        "method": {"name": "kd"},
        "training": {"epochs": epochs, "batch_size": 64, "augmentation": "none", "image_size": 8},
        "export": ["safetensors"],
    }


@pytest.fixture
def submit(http, digits):
    def send(**changes):
        answer = http.post("/v1/jobs", json=job(digits, **changes))
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return send


@pytest.fixture
def page(browser_page, stack):
    """A browser that has signed in."""
    browser_page.set_default_timeout(SOON)
    browser_page.goto(stack.url)
    browser_page.get_by_label("API key").fill(stack.key)
    browser_page.get_by_role("button", name="Sign in").click()
    browser_page.wait_for_url("**/jobs")
    return browser_page


def test_a_job_is_watched_live_and_its_student_downloaded(page, stack, submit, http, tmp_path):
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    job_id = submit(name="watched", epochs=6)
    page.get_by_role("link", name="watched").click()

    page.get_by_role("img", name=re.compile("Student loss, at step")).wait_for(timeout=LONG)
    page.get_by_role("heading", name="Teacher against student").wait_for(timeout=LONG)
    page.locator(".badge", has_text="Succeeded").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors").click()
    download.value.save_as(tmp_path / "student")

    listed = {one["name"]: one for one in http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]}
    assert hashlib.sha256((tmp_path / "student").read_bytes()).hexdigest() == listed["model.safetensors"]["sha256"]
    assert page.locator("[data-live=events] li").count() >= 5
    assert complaints == []


def test_a_running_job_is_cancelled_with_its_button(page, stack, submit, http, wait_until):
    job_id = submit(name="cancelled in the browser", epochs=2000)
    wait_until(f"/v1/jobs/{job_id}", lambda job: job["status"] == "running")
    page.goto(f"{stack.url}/jobs/{job_id}")

    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()

    page.locator(".badge", has_text="Cancelled").wait_for()
    page.get_by_role("button", name="Retry").wait_for()
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
