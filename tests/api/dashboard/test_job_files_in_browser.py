"""Try a student on an image, and fork a job from a checkpoint, in a real Chromium."""

import json
import re

import pytest

from tests.support.students import CLASSES, finish_with_student, noise_png

pytestmark = pytest.mark.browser


def test_an_image_is_tried_and_a_job_is_forked(sign_in, tenant, tmp_path, errors):
    lease = tenant.running_job()
    checkpoint = tenant.checkpoint(lease, tmp_path, 5).id
    finish_with_student(tenant, lease, tmp_path)
    page = sign_in(tenant, f"/jobs/{lease.job_id}")
    image = page.locator("[data-try] input[type=file]")

    image.set_input_files({"name": "noise.png", "mimeType": "image/png", "buffer": noise_png()})
    page.get_by_text("noise.png, 30 × 20 pixels").wait_for()
    assert page.locator("[data-try] canvas").count() == 1
    assert page.locator("[data-try] h3").all_inner_texts() == ["Student", "Teacher"]
    assert page.get_by_text("model.safetensors, in float", exact=True).count() == 1
    for name in ("Student", "Teacher"):
        classes = page.get_by_role("list", name=f"{name}: most probable classes")
        assert sorted(classes.locator(".try-class").all_inner_texts()) == sorted(CLASSES)
    assert errors == []

    image.set_input_files({"name": "text.png", "mimeType": "image/png", "buffer": b"no image"})
    page.locator("[data-try] .notice", has_text=re.compile("not an image")).wait_for()

    page.get_by_role("link", name="Fork from this checkpoint").click()
    page.get_by_role("heading", name="Estimate").wait_for()
    spec = json.loads(page.get_by_role("textbox", name="The spec as").input_value())
    assert (spec["student"], spec["name"]) == ({"weights": checkpoint}, "small (copy)")
