"""The pages in a real Chromium with the real app. The tests act as the worker, so nothing depends on timing."""

import re
import time

import pytest

from core.reporting import Progress, Stage
from core.store import events, jobs, metrics
from tests.support.waiting import until

pytestmark = pytest.mark.browser


def test_sign_in_with_a_wrong_and_a_right_key_opens_the_requested_page(page, tenant, errors):
    job = tenant.queued_job()
    page.goto(f"/jobs/{job}")
    page.get_by_label("API key").fill("ps_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()

    page.get_by_label("API key").fill(tenant.token)
    page.keyboard.press("Enter")

    page.get_by_role("heading", name="small").wait_for()
    assert page.url.endswith(f"/jobs/{job}")
    assert [error for error in errors if "401" not in error] == []  # the browser reports the 401


def test_a_job_page_updates_live_until_the_result(sign_in, tenant, server, tmp_path, errors):
    lease = tenant.running_job()
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.locator(".badge", has_text="Running").wait_for()
    page.get_by_text("Curves appear with the first training step").wait_for()
    assert page.get_by_text("Student step").count() == 0

    with server.database.write() as session:
        jobs.start_stage(session, lease, Stage.TEACHER)
        progress = Progress(fraction=0.2, step=0, total_steps=10, epoch=0, stage_step=320, stage_total_steps=1_024)
        jobs.record_progress(session, lease, progress)
    page.get_by_text("Teacher step").wait_for()
    page.get_by_text("320 / 1,024").wait_for()
    assert page.get_by_text("Student step").count() == page.get_by_text("Epoch", exact=True).count() == 0

    with server.database.write() as session:
        jobs.start_stage(session, lease, Stage.DISTILL)
        jobs.record_progress(session, lease, Progress(fraction=0.4, step=4, total_steps=10, epoch=1, eta_seconds=9.0))
        metrics.insert(
            session, lease, [("train/loss", step, 2.0 / step) for step in range(1, 5)] + [("eval/top1", 4, 0.62)]
        )

    page.get_by_text("4 / 10").wait_for()
    page.locator("li[aria-current=step]", has_text="Distill").wait_for()
    page.get_by_role("img", name=re.compile(r"Student loss, at step 4: total 0\.5")).wait_for()
    page.get_by_role("img", name=re.compile(r"Accuracy on the test split, at step 4: student 62\.0\s%")).wait_for()
    assert page.locator(".chart canvas").count() == 2
    assert page.title().startswith("40\u00a0% · small")

    tenant.succeed(lease, tmp_path)

    page.get_by_role("heading", name="Teacher against student").wait_for()
    page.get_by_text("keeps 100.0 % of the teacher").wait_for()
    assert page.locator(".actions [data-action]:visible").count() == 0
    assert errors == []


def test_cancel_needs_confirmation(sign_in, tenant, errors):
    lease = tenant.running_job()
    page = sign_in(tenant, f"/jobs/{lease.job_id}")

    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Keep it running").click()
    assert page.locator("#confirm-cancel").is_hidden()
    assert tenant.http.get(f"/v1/jobs/{lease.job_id}").json()["pending_action"] is None

    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()

    page.get_by_text("cancel requested").first.wait_for()
    assert tenant.http.get(f"/v1/jobs/{lease.job_id}").json()["pending_action"] == "cancel"
    assert errors == []


def test_actions_update_without_leaving_the_page(sign_in, tenant):
    page = sign_in(tenant, f"/jobs/{tenant.queued_job()}")
    page.evaluate("window.stayed = true")

    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()

    assert page.evaluate("window.stayed")
    assert page.locator("[data-live=actions] button").all_inner_texts() == ["Pause", "Cancel…"]


def test_a_rejected_action_is_explained(sign_in, tenant, server):
    job = tenant.queued_job()
    page = sign_in(tenant, f"/jobs/{job}")
    page.get_by_role("button", name="Pause").wait_for()
    page.route("**/jobs/*/pause", lambda route: (_cancel(server, tenant, job), route.continue_()))

    page.get_by_role("button", name="Pause").click()

    page.get_by_text("A job that is cancelled cannot pause").wait_for()
    page.get_by_role("button", name="Retry").wait_for()


def _cancel(server, tenant, job):
    with server.database.write() as session:
        jobs.cancel(session, tenant.project_id, job)


def test_a_retried_job_updates_live_again(sign_in, tenant, server):
    lease = tenant.running_job()
    with server.database.write() as session:
        jobs.fail(session, lease, {"code": "non_finite_loss", "message": "train/kd became NaN"})
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.get_by_role("heading", name="What went wrong").wait_for()

    page.get_by_role("button", name="Retry").click()
    page.locator(".badge", has_text="Queued").wait_for()
    _cancel(server, tenant, lease.job_id)

    page.locator(".badge", has_text="Cancelled").wait_for()


def test_an_artifact_is_downloaded(sign_in, tenant, tmp_path):
    lease = tenant.running_job()
    contents = tenant.succeed(lease, tmp_path)
    page = sign_in(tenant, f"/jobs/{lease.job_id}")

    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors").click()

    assert download.value.suggested_filename == "model.safetensors"
    download.value.save_as(tmp_path / "student")
    assert (tmp_path / "student").read_bytes() == contents["model.safetensors"]


def test_the_list_updates_live(sign_in, tenant, errors):
    lease = tenant.running_job()
    page = sign_in(tenant)
    bar = page.get_by_role("progressbar", name="Progress of small")
    bar.wait_for()

    tenant.progress(lease, 7)

    page.get_by_text("70 %").wait_for()
    assert bar.get_attribute("value") == "0.7"
    assert errors == []


def test_open_dialogs_and_details_survive_updates(sign_in, tenant):
    lease = tenant.running_job()
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.get_by_text("Full spec").click()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Keep it running").focus()

    tenant.progress(lease, 3)
    page.get_by_text("3 / 10").wait_for()

    assert page.locator("#confirm-cancel").is_visible()
    assert page.get_by_text('"architecture": "vit_tiny_patch16_224"').first.is_visible()


def test_an_ended_session_redirects_to_sign_in(sign_in, tenant, page):
    lease = tenant.running_job()
    sign_in(tenant, f"/jobs/{lease.job_id}")

    page.context.clear_cookies()

    page.get_by_role("heading", name="Sign in to Potstill").wait_for()


def test_a_small_screen_has_no_horizontal_scrolling(sign_in, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    page = sign_in(tenant)
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/jobs", "/datasets", f"/jobs/{lease.job_id}"):
        page.goto(path)

        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_charts_resize_with_the_window(sign_in, tenant, server):
    lease = tenant.running_job()
    with server.database.write() as session:
        metrics.insert(session, lease, [("train/loss", step, 2.0 / step) for step in range(1, 5)])
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.locator(".chart canvas").first.wait_for()

    page.set_viewport_size({"width": 360, "height": 740})

    # Playwright's own waits evaluate text in the page, which the page's policy forbids.
    deadline = time.monotonic() + 10
    while page.evaluate("document.documentElement.scrollWidth") > 360:
        assert time.monotonic() < deadline


def test_all_controls_are_reachable_by_keyboard(sign_in, tenant):
    job = tenant.queued_job()
    page = sign_in(tenant, f"/jobs/{job}")
    page.get_by_role("button", name="Pause").wait_for()
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.innerText"))

    assert names[0] == "Skip to content"
    assert {"Jobs", "Datasets", "Menu", "Pause", "Cancel…"} <= set(names)


def test_elements_that_scroll_are_reached_by_keyboard(sign_in, tenant, errors):
    """As the rule `scrollable-region-focusable` of axe."""
    lease = tenant.running_job()
    with tenant.database.write() as session:
        for number in range(60):
            events.append(session, lease, "note", f"Event {number} " + "x" * 200)
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.locator("details.spec summary").click()
    unreachable = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((element) => {
          const style = getComputedStyle(element);
          const scrolls = (overflow, content, size) => ["auto", "scroll"].includes(overflow) && content > size + 1;
          if (!scrolls(style.overflowY, element.scrollHeight, element.clientHeight) &&
              !scrolls(style.overflowX, element.scrollWidth, element.clientWidth)) return false;
          return element.tabIndex < 0 && !element.querySelector("a[href], button, input, [tabindex='0']");
        }).map((element) => element.outerHTML.slice(0, 100))"""
    )

    assert unreachable == []
    page.locator("ol.events").focus()
    page.keyboard.press("End")
    until(lambda: page.evaluate("document.querySelector('ol.events').scrollTop > 0"), 10, "the list did not scroll")
    assert errors == []


def test_charts_that_grow_live_equal_new_ones(sign_in, tenant, server):
    lease = tenant.running_job()

    def add(*steps):
        with server.database.write() as session:
            values = [(name, step, 2.0 / step) for step in steps for name in ("train/loss", "train/label")]
            metrics.insert(session, lease, [*values, *[("teacher/0/loss", step, 1.0 / step) for step in steps]])

    def wait_for(step):
        page.get_by_role("img", name=re.compile(rf"Student loss, at step {step}:")).wait_for()
        return page.evaluate("[...document.querySelectorAll('.chart canvas')].map((canvas) => canvas.toDataURL())")

    add(1)
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    wait_for(1)
    add(*range(2, 20))
    wait_for(19)
    add(*range(20, 101))  # so long that each line gets a smoothed one, and no markers
    live = wait_for(100)
    page.reload()

    assert wait_for(100) == live


def test_a_reused_teacher_has_its_line_and_colors_before_the_student_is_evaluated(sign_in, tenant, server):
    lease = tenant.running_job()
    with server.database.write() as session:
        metrics.insert(session, lease, [("teacher/0/top1", 0, 0.5), ("teacher/0/loss", 1, 1.0), ("train/loss", 1, 2.0)])
        metrics.insert(session, lease, [("train/label", 1, 1.0), ("baseline/top1", 1, 0.4)])
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    page.locator(".chart canvas").nth(2).wait_for()

    colors = {
        item.inner_text().split("\n")[0]: item.locator(".swatch").get_attribute("class").split("-")[1]
        for item in page.locator(".legend li").all()
    }
    line = page.evaluate(
        """() => {
          const canvas = document.querySelector(".chart canvas");
          const swatch = document.querySelector(".legend .series-2");
          const color = getComputedStyle(swatch).color.match(/\\d+/g).map(Number);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 0; at < data.length; at += 4) {
            count += color.every((value, k) => Math.abs(data[at + k] - value) < 40);
          }
          return count / canvas.width;
        }"""
    )

    assert line > 0.3  # a dashed line over the width
    assert colors == {"baseline": "3", "teacher": "2", "total": "1", "label": "4", "loss": "2"}
