"""Outputs of a job: events, metrics, checkpoints, artifacts."""

import hashlib
import io
import zipfile

import pytest

from core.errors import StorageFailed, StoredFileDamaged
from core.store import job_logs, metrics
from core.store.job_leases import LeaseToken


@pytest.fixture
def succeeded(tenant, tmp_path):
    """A succeeded job: its path and the contents of its artifacts."""
    lease = tenant.running_job()
    contents = tenant.succeed(lease, tmp_path)
    return f"/v1/jobs/{lease.job_id}", contents


class TestEvents:
    def test_events_ascend_without_gaps_across_pages(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        for action in ("pause", "resume", "pause", "resume", "cancel"):
            http.post(f"{job}/{action}")
        first = http.get(f"{job}/events?limit=4").json()
        rest = http.get(f"{job}/events?limit=4&after={first['data'][-1]['id']}").json()
        found = first["data"] + rest["data"]

        assert [event["seq"] for event in found] == [1, 2, 3, 4, 5, 6]
        assert (first["has_more"], rest["has_more"]) == (True, False)
        assert (found[0]["type"], found[-1]["type"]) == ("job.created", "job.cancelled")
        assert found[0]["id"].startswith("evt_")

    @pytest.mark.parametrize("after", ["evt_" + "0" * 26, "7", "%00"])
    def test_an_unknown_after_id_is_422(self, http, tenant, after):
        assert http.get(f"/v1/jobs/{tenant.queued_job()}/events?after={after}").status_code == 422


class TestMetrics:
    @pytest.fixture
    def job(self, tenant):
        lease = tenant.running_job()
        values = [("train/loss", step, 1.0 / (step + 1)) for step in range(1000)] + [("eval/top1", 10, 0.5)]
        with tenant.database.write() as session:
            metrics.insert(session, lease, values)
        return f"/v1/jobs/{lease.job_id}/metrics"

    def test_all_points_of_all_series(self, http, job):
        series = {s["name"]: s["points"] for s in http.get(job).json()["series"]}

        assert set(series) == {"train/loss", "eval/top1"}
        assert len(series["train/loss"]) == 1000
        assert series["train/loss"][0] == [0, 1.0]

    def test_a_series_is_downsampled(self, http, job):
        (series,) = http.get(job, params={"name": "train/loss", "max_points": 50}).json()["series"]

        assert len(series["points"]) <= 50
        assert series["points"][0] == [0, 1.0]

    @pytest.mark.parametrize("query", ["max_points=0", "max_points=-1", "max_points=x", "max_points=999999999"])
    def test_an_invalid_max_points_is_422(self, http, job, query):
        assert http.get(f"{job}?{query}").status_code == 422

    def test_an_unknown_series_is_empty(self, http, job):
        assert http.get(job, params={"name": "a\0b"}).json() == {"object": "metrics", "series": []}


class TestLog:
    def test_the_log_has_the_lines_of_the_newest_attempt(self, server, http, tenant):
        lease = tenant.running_job()
        path = f"/v1/jobs/{lease.job_id}/logs"
        nothing = {"object": "job_log", "job": lease.job_id, "attempt": None, "lines": [], "updated_at": None}
        assert http.get(path).json() == nothing

        for attempt, line in ((lease.attempt, "09:30:01 info a"), (lease.attempt - 1, "of a lost attempt")):
            with server.app.state.app_state.database.write() as session:
                job_logs.save(session, LeaseToken(lease.job_id, attempt), [line])

        log = http.get(path).json()
        assert (log["attempt"], log["lines"]) == (lease.attempt, ["09:30:01 info a"])
        assert log["updated_at"]

    def test_a_deleted_job_has_no_log(self, server, http, tenant, succeeded):
        path, _ = succeeded
        job_id = path.rpartition("/")[2]
        database = server.app.state.app_state.database
        with database.write() as session:
            job_logs.save(session, LeaseToken(job_id, 1), ["a line"])
        assert http.delete(path).status_code == 204
        with database.write() as session:
            job_logs.save(session, LeaseToken(job_id, 1), ["a late line"])

        with database.read() as session:
            assert job_logs.get(session, tenant.project_id, job_id) is None


class TestCheckpoints:
    def test_checkpoints_are_newest_first_with_their_weights(self, http, tenant, tmp_path):
        lease = tenant.running_job()
        for step in (10, 20, 30):
            tenant.checkpoint(lease, tmp_path, step)
        path = f"/v1/jobs/{lease.job_id}/checkpoints"
        found = http.get(path).json()["data"]
        weights = http.get(f"{path}/{found[0]['id']}/model.safetensors")

        assert [each["step"] for each in found] == [30, 20]
        assert weights.content == b"model.safetensors at 30"
        assert hashlib.sha256(weights.content).hexdigest() == found[0]["sha256"]
        assert found[0]["metrics"] == {"loss": 1.0}

    def test_an_unknown_checkpoint_is_404(self, http, tenant):
        path = f"/v1/jobs/{tenant.queued_job()}/checkpoints"

        assert http.get(f"{path}/ckpt_{'0' * 26}/model.safetensors").status_code == 404
        assert http.get(f"{path}/x/model.safetensors").status_code == 404
        assert http.get(f"{path}/x/state.pt").status_code == 404


class TestArtifacts:
    def test_the_list_matches_the_downloads(self, http, succeeded):
        path, contents = succeeded
        listed = {a["name"]: a for a in http.get(f"{path}/artifacts").json()["data"]}

        assert set(listed) == set(contents)
        for name, artifact in listed.items():
            response = http.get(f"{path}/artifacts/{name}")
            assert response.content == contents[name]
            assert hashlib.sha256(response.content).hexdigest() == artifact["sha256"]
            assert response.headers["ETag"] == f'"{artifact["sha256"]}"'
            assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
            assert int(response.headers["Content-Length"]) == artifact["size_bytes"]

    @pytest.mark.parametrize(
        ("range_header", "start", "end"),
        [("bytes=0-7", 0, 8), ("bytes=100-", 100, None), ("bytes=-5", -5, None), ("bytes=5-99999999", 5, None)],
    )
    def test_a_range_returns_its_bytes(self, http, succeeded, range_header, start, end):
        path, contents = succeeded
        content = contents["model.safetensors"]
        response = http.get(f"{path}/artifacts/model.safetensors", headers={"Range": range_header})
        first = start % len(content)

        assert response.status_code == 206
        assert response.content == content[start:end]
        assert response.headers["Content-Range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(content)}"

    @pytest.mark.parametrize(
        "range_header", ["bytes=9-3", "bytes=", "lines=1-2", "bytes=a-b", "bytes=0-1,4-5", "x", "bytes=--1"]
    )
    def test_an_invalid_or_multiple_range_is_ignored(self, http, succeeded, range_header):
        path, contents = succeeded
        response = http.get(f"{path}/artifacts/config.json", headers={"Range": range_header})

        assert (response.status_code, response.content) == (200, contents["config.json"])

    @pytest.mark.parametrize("range_header", ["bytes=99999999-", "bytes=-0"])
    def test_a_range_after_the_end_is_416(self, http, succeeded, range_header):
        path, contents = succeeded
        response = http.get(f"{path}/artifacts/config.json", headers={"Range": range_header})

        assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
        assert response.headers["Content-Range"] == f"bytes */{len(contents['config.json'])}"

    def test_if_range_with_another_etag_gets_the_complete_file(self, http, succeeded):
        path, contents = succeeded
        url = f"{path}/artifacts/config.json"
        etag = http.head(url).headers["ETag"]
        same = http.get(url, headers={"Range": "bytes=0-3", "If-Range": etag})
        other = http.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})

        assert (same.status_code, other.status_code) == (206, 200)
        assert other.content == contents["config.json"]

    @pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*"])
    def test_a_matching_etag_is_304(self, http, succeeded, form):
        url = f"{succeeded[0]}/artifacts/config.json"
        etag = http.head(url).headers["ETag"]
        response = http.get(url, headers={"If-None-Match": form.format(etag)})

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == etag

    def test_head_has_the_headers_of_get(self, http, succeeded):
        path, contents = succeeded
        response = http.head(f"{path}/artifacts/model.safetensors")

        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["Content-Length"]) == len(contents["model.safetensors"])
        assert response.headers["Accept-Ranges"] == "bytes"

    def test_an_artifact_deleted_during_the_request_is_404(self, server, http, succeeded, monkeypatch):
        job, _ = succeeded

        def fail(key, *_):
            raise StoredFileDamaged(f"The stored file {key} is not there.")

        monkeypatch.setattr(server.store, "open", fail)

        assert http.get(f"{job}/artifacts/model.safetensors").status_code == 404

    @pytest.mark.parametrize("name", ["nothing.bin", "..%2f..%2fpotstill.db", "%00", "a" * 3000, "state.pt"])
    def test_an_unknown_artifact_is_404(self, http, succeeded, name):
        assert http.get(f"{succeeded[0]}/artifacts/{name}").status_code == 404

    def test_a_job_without_artifacts_has_an_empty_list(self, http, tenant):
        path = f"/v1/jobs/{tenant.queued_job()}"

        assert http.get(f"{path}/artifacts").json()["data"] == []
        assert (http.get(f"{path}/download").status_code, http.get(f"{path}/download").json()["code"]) == (
            409,
            "no_artifacts",
        )


def test_an_unavailable_store_is_503_with_retry_after(server, http, succeeded, monkeypatch):
    job, _ = succeeded

    def fail(key, *_):
        raise StorageFailed(f"The artifact store failed at {key}: unreachable.")

    monkeypatch.setattr(server.store, "open", fail)
    response = http.get(f"{job}/artifacts/model.safetensors")

    assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
    assert response.headers["Retry-After"]


class TestDownload:
    def test_the_zip_has_one_folder_with_all_artifacts(self, http, succeeded):
        path, contents = succeeded
        response = http.get(f"{path}/download")
        job = path.rsplit("/", 1)[-1]
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            assert archive.testzip() is None
            found = {name: archive.read(name) for name in archive.namelist()}

        assert found == {f"{job}/{name}": content for name, content in contents.items()}
        assert response.headers["Content-Disposition"] == f'attachment; filename="{job}.zip"'
        assert int(response.headers["Content-Length"]) == len(response.content)
        assert http.head(f"{path}/download").headers["Content-Length"] == response.headers["Content-Length"]
