"""Submit, clone, filter, select and compare in a real Chromium; axe-core finds nothing serious on any page."""

import json
from pathlib import Path

import pytest

from core.store import jobs, metrics
from tests.support.images import store_band_images
from tests.support.waiting import until

AXE = Path(__file__).parents[2] / "support" / "axe" / "axe.min.js"
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}

pytestmark = pytest.mark.browser


def spec_text(page):
    return page.get_by_role("textbox", name="The spec as")


def read_spec(page):
    return json.loads(spec_text(page).input_value())


def test_a_job_is_submitted_from_the_form(sign_in, tenant, errors):
    tenant.ready_dataset()
    more = tenant.ready_dataset(num_classes=None, classes=None)  # the newest one with classes is chosen
    page = sign_in(tenant, "/jobs/new")
    page.get_by_role("heading", name="Estimate").wait_for()

    page.get_by_label("Unlabeled dataset").select_option(more)
    assert read_spec(page)["unlabeled_dataset"] == more
    page.get_by_label("Unlabeled dataset").select_option("None")
    assert "unlabeled_dataset" not in read_spec(page)

    page.get_by_label("Name", exact=True).fill("from the form")
    page.locator("#field-method-name").select_option("dkd")
    page.get_by_label("Temperature", exact=True).fill("2.5")
    page.get_by_label("Epochs", exact=True).first.fill("2")
    spec = read_spec(page)
    assert (spec["name"], spec["method"]) == ("from the form", {"name": "dkd", "temperature": 2.5})

    page.get_by_label("Temperature", exact=True).fill("-1")
    page.locator("#field-method-temperature-problem").wait_for()
    assert page.get_by_label("Temperature", exact=True).get_attribute("aria-invalid") == "true"
    page.get_by_label("Temperature", exact=True).fill("")
    page.locator(".estimate dt", has_text="Memory").wait_for()
    assert "temperature" not in read_spec(page)["method"]
    page.get_by_role("button", name="Add a teacher").click()
    page.get_by_role("button", name="Remove teacher 1").press("Enter")
    # Not `wait_for_function`: the policy of the pages forbids the `eval` with which it polls.
    until(lambda: page.evaluate("document.activeElement.id") == "add-teacher", message="the focus is lost")
    assert page.get_by_role("button", name="Remove teacher", exact=True).count() == 1
    page.get_by_role("button", name="Create job").click()

    page.get_by_role("heading", name="from the form").wait_for()
    job = tenant.http.get(f"/v1/jobs/{page.url.rpartition('/')[2]}").json()
    assert (job["status"], job["spec"]["method"]["name"]) == ("queued", "dkd")
    assert [error for error in errors if "422" not in error] == []  # the browser reports the refused estimate


def test_a_sweep_is_submitted_from_the_form(sign_in, tenant, errors):
    tenant.ready_dataset()
    page = sign_in(tenant, "/sweeps")
    page.get_by_role("link", name="New sweep").click()
    page.get_by_label("Field").fill("training.epochs")
    page.get_by_label("Values", exact=True).fill("1, 0")
    page.locator(".estimate .problem-list", has_text="/grid/training.epochs/1").wait_for()
    page.get_by_label("Values", exact=True).fill("1, 2")
    page.get_by_role("button", name="Add a field").click()
    page.locator("#sweep-field-1").fill("method")
    page.locator("#sweep-values-1").fill('{"name": "kd"}, {"name": "dkd"}')
    page.locator(".estimate dd", has_text="one job after another").wait_for()
    page.get_by_role("button", name="CLI").click()
    assert "potstill sweeps create - --watch --grid 'training.epochs=[1,2]'" in spec_text(page).input_value()

    page.get_by_role("button", name="Create sweep of 4 jobs").click()

    page.wait_for_url("**/sweeps/swp_*")
    (sweep,) = tenant.http.get("/v1/sweeps").json()["data"]
    assert (sweep["num_jobs"], sweep["fields"]) == (4, ["training.epochs", "method.name"])
    assert [error for error in errors if "422" not in error] == []


def test_text_and_controls_edit_the_same_spec(sign_in, tenant, errors):
    tenant.ready_dataset()
    page = sign_in(tenant, "/jobs/new?method=scratch")
    spec = read_spec(page)
    spec["training"]["learning_rate"] = 0.01
    spec["metadata"] = {"team": "search"}
    spec_text(page).fill(json.dumps(spec))

    assert page.get_by_label("Learning rate", exact=True).first.input_value() == "0.01"
    assert page.get_by_label("Metadata").input_value() == '{\n "team": "search"\n}'
    page.get_by_role("button", name="YAML").click()
    assert "learning_rate: 0.01" in spec_text(page).input_value()
    spec_text(page).fill("training: [")
    page.locator("#spec-help.field-problem").wait_for()
    assert page.get_by_role("button", name="Create job").is_disabled()
    page.get_by_role("button", name="CLI").click()
    assert "potstill jobs submit - --watch" in spec_text(page).input_value()
    page.get_by_role("button", name="curl").click()
    assert '/v1/jobs \\\n  -H "Authorization: Bearer $POTSTILL_API_KEY"' in spec_text(page).input_value()
    options = page.locator("#field-student-weights-list option").evaluate_all("all => all.map(each => each.value)")
    assert options[:3] == ["random", "pretrained", "distill"]
    assert "distillation" not in options
    assert page.locator("#field-baseline-help").inner_text().endswith("default no")
    assert errors == []


def test_help_opens_a_new_tab_and_back_keeps_what_was_typed(sign_in, tenant, errors):
    tenant.ready_dataset()
    page = sign_in(tenant, "/jobs/new")
    page.get_by_label("Name", exact=True).fill("typed")
    for name in ("Help me choose", "About this method"):
        with page.context.expect_page() as opened:
            page.get_by_role("link", name=name).click()
        assert "/methods" in opened.value.url
        opened.value.close()

    page.get_by_role("link", name="Datasets", exact=True).click()
    page.wait_for_url("**/datasets")
    page.go_back()

    page.get_by_role("heading", name="Estimate").wait_for()
    assert read_spec(page)["name"] == "typed"
    assert errors == []


def test_architectures_are_searched_while_typing(sign_in, tenant, errors):
    tenant.ready_dataset()
    page = sign_in(tenant, "/jobs/new?method=scratch")
    field = page.get_by_role("combobox", name="Architecture")

    field.fill("")
    field.press_sequentially("resnet 10t")
    page.get_by_role("option", name="resnet10t").first.wait_for()
    assert field.input_value() == "resnet 10t"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")

    assert read_spec(page)["student"]["architecture"].startswith("resnet10t")
    assert page.get_by_role("listbox").is_hidden()
    assert [error for error in errors if "422" not in error] == []


def test_a_cloned_job_fills_the_form(sign_in, tenant, tmp_path):
    lease = tenant.running_job()
    tenant.succeed(lease, tmp_path)
    page = sign_in(tenant, f"/jobs/{lease.job_id}")

    page.get_by_role("link", name="Clone").click()

    page.get_by_role("heading", name="Estimate").wait_for()
    assert page.get_by_label("Name", exact=True).input_value() == "small (copy)"
    assert read_spec(page)["teachers"][0]["arguments"] == VIT


def test_jobs_are_filtered_selected_and_compared(sign_in, tenant, server, tmp_path, errors):
    leases = [tenant.running_job() for _ in range(2)]
    for lease in leases:
        with server.database.write() as session:
            metrics.insert(session, lease, [("train/loss", step, 2.0 / step) for step in range(1, 9)])
        tenant.succeed(lease, tmp_path)
    waiting = tenant.queued_job()
    page = sign_in(tenant)
    page.locator("summary", has_text="Filters").click()
    page.get_by_role("combobox", name="Method").select_option("kd")
    page.get_by_role("button", name="Apply filters").click()
    page.get_by_role("link", name="Remove the filter Method kd").wait_for()
    page.get_by_role("link", name="Succeeded").click()
    page.wait_for_url("**status=succeeded*")
    assert page.locator("tbody tr").count() == 2

    page.get_by_role("checkbox", name="Select all jobs shown").check()
    page.get_by_text("2 selected, all have ended").wait_for()
    assert page.get_by_role("button", name="Cancel…").is_disabled()
    assert page.get_by_role("button", name="Delete…").is_enabled()
    page.get_by_role("button", name="Compare").click()

    page.get_by_role("heading", name="Compare 2 jobs").wait_for()
    page.get_by_role("img", name="Loss of the student at the end: small 0.25, small 0.25").wait_for()
    note = page.get_by_text("The methods differ")
    assert note.count() == 0
    page.get_by_label("Metric").select_option("train/loss")
    assert "metric=train%2Floss" in page.url
    with tenant.server.database.write() as session:
        job = jobs.get(session, tenant.project_id, lease.job_id)
        job.spec = {**job.spec, "method": {"name": "dkd"}}
    page.reload()
    note.wait_for()

    page.goto("/jobs?status=queued")
    page.locator(f"#select-{waiting}").check()
    assert page.get_by_role("button", name="Delete…").is_disabled()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel 1 job").click()
    page.get_by_role("heading", name="1 job cancelled").wait_for()

    page.goto("/jobs")
    page.locator("summary", has_text="Columns").click()
    for column in page.locator(".column-panel input").all():
        column.check()
    page.get_by_role("button", name="Show columns").click()
    page.get_by_role("columnheader", name="Metadata").wait_for()
    heights = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert max(heights) < 130, "with all columns no cell is too narrow for its text"
    assert errors == []


def test_scrolling_loads_further_pages_and_updates_keep_them(sign_in, tenant, server, monkeypatch):
    monkeypatch.setattr("api.dashboard.job_list.JOBS_PER_PAGE", 20)
    oldest, *_ = ids = [tenant.queued_job() for _ in range(50)]
    page = sign_in(tenant)
    rows = page.locator("tbody tr")

    def has_all_rows():
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        return rows.count() == 50

    until(has_all_rows, 30, "rows are missing")
    page.locator(f"#select-{oldest}").check()

    with server.database.write() as session:
        jobs.cancel(session, tenant.project_id, ids[-1])
    newest = tenant.queued_job()
    page.locator(f'tr[data-job="{ids[-1]}"] .badge', has_text="Cancelled").wait_for()

    page.locator(f'tr[data-job="{newest}"]').wait_for()
    assert rows.count() == 51
    assert rows.evaluate_all("rows => rows.map(row => row.dataset.job)") == [newest, *reversed(ids)]
    assert page.locator(f"#select-{oldest}").is_checked()


def test_axe_finds_nothing_serious(chromium, server, tenant, spec_of, tmp_path):
    leases = [tenant.running_job() for _ in range(2)]
    for lease in leases:
        tenant.succeed(lease, tmp_path)
    # Without motion: a color in transition may have too little contrast for a moment.
    context = chromium.new_context(base_url=server.url, bypass_csp=True, color_scheme="dark", reduced_motion="reduce")
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("API key").fill(tenant.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs")
    script, problems = AXE.read_text(), {}
    both = ",".join(lease.job_id for lease in leases)
    folder = store_band_images(tmp_path / "bands", num_train=2, num_test=1)
    files = [server.store.put(f"datasets/{tenant.project_id}/{path.name}", path) for path in folder.iterdir()]
    dataset = tenant.ready_dataset(files=files, rejected=[{"path": "a.png", "reason": "broken", "code": "c"}])
    paths = ["/jobs", "/jobs/new", f"/compare?jobs={both}", "/methods?labels=no", "/workers", "/datasets", "/models"]
    paths += [f"/jobs/{leases[0].job_id}", f"/datasets/{dataset}", f"/models/{tenant.ready_model()}"]
    webhook = f"/webhooks/{tenant.http.post('/v1/webhooks', json={'url': 'https://example.com/hook'}).json()['id']}"
    delivery = f"{webhook}/deliveries/{tenant.http.post(f'/v1{webhook}/test').json()['id']}"
    body = {"spec": spec_of(tenant.ready_dataset()), "grid": {"method.temperature": [1.0, 4.0]}}
    paths += ["/sweeps", f"/sweeps/{tenant.http.post('/v1/sweeps', json=body).json()['id']}"]
    paths += ["/keys", "/webhooks", webhook, delivery, "/usage", "/audit", "/docs"]
    for path in paths:
        page.goto(path)
        if path in {"/datasets", "/models"}:
            page.locator("details summary").first.click()
        if path == "/jobs/new":
            page.get_by_role("heading", name="Estimate").wait_for()
        page.evaluate(script)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        problems[path] = [
            (each["id"], each["nodes"][0]["html"][:120]) for each in found if each["impact"] in {"serious", "critical"}
        ]
    context.close()

    assert {path: found for path, found in problems.items() if found} == {}
