"""The job list, the form and the comparison as a browser without JavaScript gets them, and their parts."""

import json
import re

import httpx
import pytest

from api.dashboard import comparison, plots
from api.dashboard.comparison import COSTS, Point
from api.dashboard.job_columns import COLUMNS, chosen_columns
from api.session_cookie import COOKIE_NAME, issue_cookie
from core.spec import parse_job_spec
from core.spec.gains import gains_of
from core.store import jobs

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(server, tenant):
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    with httpx.Client(
        base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False, headers=SAME_ORIGIN, timeout=60
    ) as client:
        yield client


def ids_of(page):
    return re.findall(r'<tr role="row" data-job="(job_\w+)"', page)


class TestList:
    def test_filters_orders_and_columns_are_in_the_address(self, browser, tenant, tmp_path):
        done, waiting = tenant.running_job(), tenant.queued_job(metadata={"team": "search"})
        tenant.succeed(done, tmp_path)

        assert ids_of(browser.get("/jobs?sort=top1&order=asc").text) == [done.job_id, waiting]
        assert ids_of(browser.get("/jobs?metadata=team:search&method=kd&student=&search=").text) == [waiting]
        assert ids_of(browser.get("/jobs?created_before=2020-01-01").text) == []
        page = browser.get("/jobs?columns=size_bytes&columns=metadata").text
        assert ">40 B<" in page.replace("</span>", "").replace("Size ", "") or "40 B" in page
        assert "team: search" in page
        assert "team: search" in browser.get("/jobs").text, "the columns are remembered"

    def test_an_active_filter_can_be_removed(self, browser, tenant):
        tenant.queued_job()

        page = browser.get("/jobs?search=nothing+here&status=queued").text

        assert "No job passes all filters" in page
        assert 'href="/jobs?status=queued" aria-label="Remove the filter Search nothing here"' in page

    @pytest.mark.parametrize("query", ["method=nope", "metadata=team", "sort=size", "created_after=yesterday"])
    def test_an_invalid_filter_is_explained(self, browser, query):
        response = browser.get(f"/jobs?{query}")

        assert response.status_code == 422
        assert "All jobs" in response.text

    def test_every_column_has_a_text_for_every_job(self, make_job):
        job = {**make_job(), "dataset_name": "digits"}

        assert [column.name for column in chosen_columns([*COLUMNS, "no such column"])] == list(COLUMNS)
        assert all(isinstance(column.text(job), str) for column in COLUMNS.values())


class TestSeveralJobs:
    def test_cancel_is_confirmed_and_leaves_out_ended_jobs(self, browser, tenant, tmp_path):
        done, queued = tenant.running_job(), tenant.queued_job()
        tenant.succeed(done, tmp_path)
        form = {"action": "cancel", "jobs": [done.job_id, queued]}

        page = browser.post("/jobs/bulk", data=form).text
        assert "Cancel 1 job?" in page
        assert "Left out: It is succeeded." in page
        assert tenant.http.get(f"/v1/jobs/{queued}").json()["status"] == "queued"

        page = browser.post("/jobs/bulk", data={**form, "confirmed": "yes"}).text
        assert "1 job cancelled" in page
        assert tenant.http.get(f"/v1/jobs/{queued}").json()["status"] == "cancelled"

    def test_deleted_jobs_are_gone_and_a_second_click_changes_nothing(self, browser, tenant):
        job_ids = [tenant.queued_job() for _ in range(2)]
        tenant.http.post(f"/v1/jobs/{job_ids[0]}/cancel")
        form = {"action": "delete", "jobs": job_ids, "confirmed": "yes"}

        page = browser.post("/jobs/bulk", data=form).text
        assert "1 job deleted" in page
        assert "cancel it first" in page
        assert tenant.http.get(f"/v1/jobs/{job_ids[0]}").status_code == 404
        assert "0 jobs deleted" in browser.post("/jobs/bulk", data=form).text

    def test_nothing_selected_and_unknown_actions_change_nothing(self, browser):
        assert browser.post("/jobs/bulk", data={"action": "delete"}).headers["location"] == "/jobs"
        assert browser.post("/jobs/bulk", data={"action": "retry", "jobs": "job_1"}).status_code == 422

    def test_a_read_only_key_may_not_change_jobs(self, server, make_tenant):
        tenant = make_tenant("read")
        cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
        with httpx.Client(base_url=server.url, cookies={COOKIE_NAME: cookie}, trust_env=False) as client:
            form = {"action": "cancel", "jobs": tenant.queued_job()}

            assert client.post("/jobs/bulk", data=form, headers=SAME_ORIGIN).status_code == 403
            assert client.get("/jobs/new").status_code == 403
            assert "/jobs/new" not in client.get("/jobs").text


class TestForm:
    def spec_of(self, page):
        text = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)[1]
        return json.loads(text.replace("&#34;", '"').replace("&#39;", "'").replace("&lt;", "<").replace("&amp;", "&"))

    def test_the_first_spec_creates_a_job_on_the_newest_dataset(self, browser, tenant):
        dataset = tenant.ready_dataset(image_size=28)
        spec = self.spec_of(browser.get("/jobs/new").text)

        assert (spec["dataset"], spec["method"], spec["training"]["image_size"]) == (dataset, {"name": "kd"}, 32)
        assert spec["baseline"]  # the report tells whether the teacher helped
        assert [teacher["architecture"] for teacher in spec["teachers"]] == ["resnet18"]
        assert "epochs" not in {
            **spec["training"],
            **spec["teachers"][0]["training"],
        }  # the default budget
        response = browser.post("/jobs/new", data={"spec": json.dumps(spec)})
        assert response.status_code == 303
        assert tenant.http.get(f"/v1{response.headers['location']}").json()["spec"]["dataset"] == dataset

    @pytest.mark.parametrize(("method", "teacher"), [("scratch", None), ("manifold", "vit_tiny_patch16_224")])
    def test_the_first_spec_follows_the_method(self, browser, tenant, method, teacher):
        spec = self.spec_of(browser.get(f"/jobs/new?method={method}&dataset={tenant.ready_dataset()}").text)

        assert [each["architecture"] for each in spec.get("teachers", ())] == ([teacher] if teacher else [])
        assert spec.get("baseline", False) == (teacher is not None)

    def test_a_dataset_without_classes_is_the_second_one_of_the_first_spec(self, browser, tenant):
        unlabeled = tenant.ready_dataset(num_classes=None, classes=None)
        labeled = tenant.ready_dataset()
        spec = self.spec_of(browser.get(f"/jobs/new?dataset={unlabeled}").text)

        assert (spec["dataset"], spec["unlabeled_dataset"]) == (labeled, unlabeled)
        assert self.spec_of(browser.get(f"/jobs/new?method=proteus&dataset={unlabeled}").text)["dataset"] == unlabeled

    def test_problems_are_shown_with_the_text(self, browser, tenant):
        spec = self.spec_of(browser.get(f"/jobs/new?method=deit&dataset={tenant.ready_dataset()}").text)
        spec["training"]["epochs"] = -1

        response = browser.post("/jobs/new", data={"spec": json.dumps(spec)})

        assert response.status_code == 422
        assert "<code>/training/epochs</code>" in response.text
        assert self.spec_of(response.text)["training"]["epochs"] == -1
        assert browser.post("/jobs/new", data={"spec": "{"}).status_code == 400

    def test_a_job_fills_the_form(self, browser, tenant, tmp_path):
        lease = tenant.running_job()
        tenant.succeed(lease, tmp_path)

        spec = self.spec_of(browser.get(f"/jobs/new?from={lease.job_id}").text)
        assert (spec["name"], spec["method"]["name"]) == ("small (copy)", "kd")
        spec = self.spec_of(browser.get(f"/jobs/new?from={lease.job_id}&start=student").text)
        assert spec["student"] == {"weights": lease.job_id}
        spec = self.spec_of(browser.get(f"/jobs/new?from={lease.job_id}&start=compress").text)
        assert (spec["student"], spec["training"]["epochs"]) == ({"weights": lease.job_id}, 0)
        assert parse_job_spec(spec).compression[0].name == "quantize"
        assert f'href="/jobs/new?from={lease.job_id}"' in browser.get(f"/jobs/{lease.job_id}").text

    def test_the_data_of_the_form_is_cached_and_compressed(self, browser):
        address = re.search(r'data-data-url="([^"]+)"', browser.get("/jobs/new").text)[1]
        response = browser.get(address)
        methods = {method["name"]: method for method in response.json()["methods"]}

        assert response.headers["content-encoding"] == "gzip"
        assert "immutable" in response.headers["cache-control"]
        mapping = response.json()["schema"]["properties"]["method"]["discriminator"]["mapping"]
        assert {*methods, "auto"} == set(mapping)
        assert methods["kd"]["needs"]["max_teachers"] is None
        assert browser.get(address, headers={"Accept-Encoding": "identity"}).json() == response.json()

    @pytest.mark.parametrize("query", ["from=job_nothing", "method=nope"])
    def test_an_unknown_job_or_method_is_404(self, browser, query):
        assert browser.get(f"/jobs/new?{query}").status_code == 404


class TestComparison:
    def test_figures_differences_and_plots_are_on_the_page(self, browser, tenant, server, tmp_path):
        leases = [tenant.running_job() for _ in range(2)]
        for factor, lease in enumerate(leases, start=1):
            tenant.succeed(lease, tmp_path)
            with server.database.write() as session:
                job = jobs.get(session, tenant.project_id, lease.job_id)
                job.spec = {**job.spec, "method": {"name": "kd", "temperature": float(factor)}}
                student = {**job.result["student"], "top1": 0.4 * factor, "size_bytes": 1000 * factor}
                job.result = {**job.result, "student": student}
        both = ",".join(lease.job_id for lease in leases)

        mixed = browser.get(f"/compare?jobs={both}").text
        with server.database.write() as session:
            job, other = (jobs.get(session, tenant.project_id, lease.job_id) for lease in leases)
            job.spec = {**job.spec, "dataset": other.spec["dataset"]}
        page = browser.get(f"/compare?jobs={both}").text

        assert "different datasets" in mixed
        assert "<svg" not in mixed
        assert re.search(r"Top-1 accuracy</th><td>[^<]+</td><td>[^<]+</td>", mixed)  # none is the best
        assert re.search(r"Top-1 accuracy</th>.*?<td class=\"best\">80", page)
        assert "80.0\u00a0% (58.4 to 91.9)" in page  # of 20 images
        assert "<code>method.temperature</code>" in page
        assert "method.name" not in page
        assert page.count("<svg") == 3  # size, FLOPs, latency
        assert f'href="/compare?jobs={both}&amp;x=time"' in page

    @pytest.mark.parametrize("query", ["", "jobs=job_1", "jobs=" + ",".join(f"job_{k}" for k in range(21))])
    def test_two_to_twenty_jobs_are_compared(self, browser, query):
        response = browser.get(f"/compare?{query}")

        assert response.status_code == 422
        assert "2 to 20 jobs" in response.text

    def test_nested_fields_differ_by_path(self, make_job):
        first, second = make_job(), make_job()
        teachers = [{"architecture": "resnet18", "weights": "train", "training": {"epochs": 3}}]
        second["spec"] = {**second["spec"], "teachers": teachers, "name": "other"}

        assert comparison.spec_differences([first, second]) == [("teachers.0.training.epochs", ["—", "3"])]

    @pytest.mark.parametrize(
        ("latencies", "parameters", "best"),
        [((1.0, 1.04), (5, 9), set()), ((1.0, 1.2), (5, 9), {0}), ((1.0, 1.2), (5, 5), set()),
         ((1.0, 1.04, 2.0), (5, 9, 9), {0, 1}), ((1.0, 1.2, 2.0), (5, 5, 9), {0, 1}), ((1.0,), (5,), set())],
    )  # fmt: skip
    def test_a_latency_is_the_best_only_where_networks_differ_by_more_than_noise(
        self, make_job, latencies, parameters, best
    ):
        pairs = zip(latencies, parameters, strict=True)
        students = [{"top1": 0.5, "latency_ms": latency, "parameters": count} for latency, count in pairs]
        found = [make_job(result={"student": student, "teachers": []}) for student in students]

        rows = {row.label: row for row in comparison.figures(found, [None] * len(found))}

        assert rows["Latency, one image"].best == best

    def test_a_time_is_the_best_only_of_jobs_that_trained_all_their_networks(self, make_job):
        def job(seconds, *stages, **changes):
            found = make_job(status="succeeded", terminal=True, **changes)
            times = [{"name": name, "started_at": "t", "finished_at": "t", "seconds": 1.0} for name in stages]
            ended = f"2026-11-24T08:00:{1 + seconds:02}.000Z"
            return {**found, "spec": {**found["spec"], "baseline": True}, "stages": times, "finished_at": ended}

        def row(*found):
            return next(row for row in comparison.figures(found, [None] * len(found)) if row.label == "Time")

        trained = job(30, "prepare", "teacher", "distill", "baseline", "evaluate")
        reusing = job(10, "prepare", "distill", "evaluate")
        cancelled = {**job(5, "prepare"), "status": "cancelled"}
        assert row(trained, reusing).best == set()
        assert row(trained, reusing).texts == ("30 s", "10 s (teacher and baseline reused)")
        assert row(trained, job(20, "prepare", "teacher", "distill", "baseline", "evaluate"), cancelled).best == {1}

    def test_a_plot_has_all_points_and_the_line_of_its_front(self):
        found = [
            Point(n, str(n), cost, top1, False)
            for n, (cost, top1) in enumerate([(3, 0.8), (1, 0.5), (2, 0.4), (3, 0.9)])
        ]

        plot = plots.pareto_plot(found, COSTS[0])
        assert len(plot.marks) == 4
        assert plot.front.count(",") == 2
        assert all(plots.LEFT <= tick.at <= plots.WIDTH for tick in plot.x_ticks)
        assert len(plot.y_ticks) >= 3

    @pytest.mark.parametrize("costs", [(5, 5), (1, 1e9), (0.001, 0.0011), (40, 41)])
    def test_axes_have_ticks_at_any_scale(self, costs):
        plot = plots.pareto_plot([Point(n, "", cost, 0.5, True) for n, cost in enumerate(costs, start=1)], COSTS[2])

        assert 1 <= len(plot.x_ticks) <= 8
        assert all(plots.LEFT <= mark.x <= plots.WIDTH and 0 <= mark.y <= plots.HEIGHT for mark in plot.marks)


class TestMethodsAndWorkers:
    def test_the_chooser_keeps_the_methods_that_fit(self, browser):
        def names(query):
            return re.findall(r'<article class="card method" id="(\w+)"', browser.get(f"/methods{query}").text)

        assert {"kd", "scratch", "deit"} <= set(names(""))
        assert "kd" not in names("?teachers=none")
        assert "scratch" in names("?teachers=none")
        assert "deit" not in names("?student=cnn")
        assert "kd" in names("?labels=no")
        assert "dkd" not in names("?labels=no")
        assert browser.get("/methods?student=tree").status_code == 422

    def test_methods_have_their_gains_with_the_setting(self, browser):
        page = browser.get("/methods").text

        for gain in gains_of("kd"):
            assert f"{gain.points:+.1f}" in page
            assert gain.setting in page
        assert "transformer to transformer, published: ImageNet-1k" in page

    def test_the_page_of_workers_names_what_is_missing_and_what_waits(self, browser, tenant):
        job = tenant.queued_job()

        page = browser.get("/workers").text

        assert f'href="/jobs/{job}"' in page
        assert "Not alive: worker" in page
