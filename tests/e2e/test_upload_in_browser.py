"""A file that is dropped on the page becomes a dataset, though its upload is interrupted and the page reloaded."""

import base64
import re

import pytest

from tests.support.archives import make_zip
from tests.support.images import write_gray_images
from tests.support.waiting import until

DROP = """async ([zone, content]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "shades.zip", { type: "application/zip", lastModified: 1 }));
  const drag = (type) => new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(drag("dragover")); // opens the form
  document.querySelector(zone).dispatchEvent(drag("drop"));
}"""
TUS = {"Tus-Resumable": "1.0.0"}

pytestmark = pytest.mark.browser


@pytest.fixture
def archive(tmp_path):
    """The content of a zip with two classes of gray images."""
    for split, count in (("train", 12), ("test", 4)):
        write_gray_images(tmp_path / "images" / split / "dark", range(10, 10 + count))
        write_gray_images(tmp_path / "images" / split / "light", range(200, 200 + count))
    images = tmp_path / "images"
    files = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.png")}
    return make_zip(files)


@pytest.mark.usefixtures("digits")  # the form is closed where there is a dataset
def test_an_interrupted_upload_continues_and_becomes_a_dataset(browser_page, stack, http, archive):
    page, offsets = browser_page, []
    page.set_default_timeout(60_000)
    page.goto(f"{stack.url}/datasets")
    page.get_by_label("API key").fill(stack.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/datasets")
    drop = [".drop-zone", base64.b64encode(archive).decode()]

    page.route("**/v1/uploads/up_*", lambda route: route.abort("connectionreset"))  # the connection breaks
    with page.expect_response(lambda response: response.request.method == "POST") as made:
        page.evaluate(DROP, drop)
    upload = made.value.headers["location"]
    page.get_by_text("The connection was interrupted.").wait_for()
    half = len(archive) // 2
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert http.patch(upload, content=archive[:half], headers=headers).status_code == 204  # it had received this much
    page.reload()
    page.unroute("**/v1/uploads/up_*")
    page.get_by_text(re.compile(r"shades\.zip.*% sent", re.DOTALL)).wait_for()

    page.on(
        "request", lambda request: offsets.append(request.headers["upload-offset"]) if request.method == "PATCH" else 0
    )
    page.evaluate(DROP, drop)
    page.get_by_text(re.compile("B, uploaded")).wait_for()
    page.get_by_label("Name", exact=True).fill("shades of gray")
    page.get_by_label("License of the images").fill("cc0-1.0")
    page.get_by_role("button", name="Add dataset").click()

    page.get_by_role("heading", name="shades of gray").wait_for()
    page.locator(".badge", has_text="Ready").wait_for()  # the page follows the ingestion
    assert offsets == [str(half)]
    dataset = http.get(f"/v1/datasets/{page.url.rsplit('/', 1)[1]}").json()
    assert (dataset["classes"], dataset["license"]) == (["dark", "light"], "cc0-1.0")
    assert dataset["source"]["type"] == "upload"
    page.get_by_role("img", name="dark, image").first.scroll_into_view_if_needed()
    thumbnail = page.locator(".thumbnails img").first
    until(lambda: thumbnail.evaluate("image => image.naturalWidth") == 8, message="the thumbnail is not loaded")
