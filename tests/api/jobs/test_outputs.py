"""What belongs to one job: log, series, checkpoints, downloads."""

import hashlib
import io
import zipfile

import pytest

from core.errors import StorageFailed, StoredFileDamaged
from core.store import metrics


@pytest.fixture
def done(tenant, tmp_path):
    """A succeeded job: its path and its files' contents."""
    attempt = tenant.running_job()
    contents = tenant.succeed(attempt, tmp_path)
    return f"/v1/jobs/{attempt.job_id}", contents


class TestEvents:
    def test_they_ascend_without_a_gap_and_in_pages(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        for move in ("pause", "resume", "pause", "resume", "cancel"):
            http.post(f"{job}/{move}")
        first = http.get(f"{job}/events?limit=4").json()
        rest = http.get(f"{job}/events?limit=4&after={first['data'][-1]['id']}").json()
        found = first["data"] + rest["data"]

        assert [event["seq"] for event in found] == [1, 2, 3, 4, 5, 6]
        assert (first["has_more"], rest["has_more"]) == (True, False)
        assert (found[0]["type"], found[-1]["type"]) == ("job.created", "job.cancelled")
        assert found[0]["id"].startswith("evt_")

    @pytest.mark.parametrize("after", ["evt_" + "0" * 26, "7", "%00"])
    def test_after_an_event_that_is_not_there_is_422(self, http, tenant, after):
        assert http.get(f"/v1/jobs/{tenant.queued_job()}/events?after={after}").status_code == 422


class TestMetrics:
    @pytest.fixture
    def job(self, tenant):
        attempt = tenant.running_job()
        values = [("train/loss", step, 1.0 / (step + 1)) for step in range(1000)] + [("eval/top1", 10, 0.5)]
        with tenant.database.write() as session:
            metrics.insert(session, attempt, values)
        return f"/v1/jobs/{attempt.job_id}/metrics"

    def test_every_point_of_every_series(self, http, job):
        series = {s["name"]: s["points"] for s in http.get(job).json()["series"]}

        assert set(series) == {"train/loss", "eval/top1"}
        assert len(series["train/loss"]) == 1000
        assert series["train/loss"][0] == [0, 1.0]

    def test_one_series_thinned_out(self, http, job):
        (series,) = http.get(job, params={"name": "train/loss", "max_points": 50}).json()["series"]

        assert len(series["points"]) <= 50
        assert series["points"][0] == [0, 1.0]

    @pytest.mark.parametrize("query", ["max_points=0", "max_points=-1", "max_points=x", "max_points=999999999"])
    def test_a_count_that_cannot_be_is_422(self, http, job, query):
        assert http.get(f"{job}?{query}").status_code == 422

    def test_a_series_that_is_not_there_is_empty(self, http, job):
        assert http.get(job, params={"name": "a\0b"}).json() == {"object": "metrics", "series": []}


class TestCheckpoints:
    def test_newest_first_with_their_weights(self, http, tenant, tmp_path):
        attempt = tenant.running_job()
        for step in (10, 20, 30):
            tenant.checkpoint(attempt, tmp_path, step)
        path = f"/v1/jobs/{attempt.job_id}/checkpoints"
        found = http.get(path).json()["data"]
        weights = http.get(f"{path}/{found[0]['id']}/model.safetensors")

        assert [each["step"] for each in found] == [30, 20]
        assert weights.content == b"model.safetensors at 30"
        assert hashlib.sha256(weights.content).hexdigest() == found[0]["sha256"]
        assert found[0]["metrics"] == {"loss": 1.0}

    def test_one_that_is_not_there_is_404(self, http, tenant):
        path = f"/v1/jobs/{tenant.queued_job()}/checkpoints"

        assert http.get(f"{path}/ckpt_{'0' * 26}/model.safetensors").status_code == 404
        assert http.get(f"{path}/x/model.safetensors").status_code == 404
        assert http.get(f"{path}/x/state.pt").status_code == 404


class TestArtifacts:
    def test_the_list_is_true_of_the_bytes(self, http, done):
        path, contents = done
        listed = {a["name"]: a for a in http.get(f"{path}/artifacts").json()["data"]}

        assert set(listed) == set(contents)
        for name, artifact in listed.items():
            answer = http.get(f"{path}/artifacts/{name}")
            assert answer.content == contents[name]
            assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
            assert answer.headers["ETag"] == f'"{artifact["sha256"]}"'
            assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
            assert int(answer.headers["Content-Length"]) == artifact["size_bytes"]

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [("bytes=0-7", 0, 8), ("bytes=100-", 100, None), ("bytes=-5", -5, None), ("bytes=5-99999999", 5, None)],
    )
    def test_a_range_is_that_part(self, http, done, asked, start, end):
        path, contents = done
        whole = contents["model.safetensors"]
        answer = http.get(f"{path}/artifacts/model.safetensors", headers={"Range": asked})
        first = start % len(whole)

        assert answer.status_code == 206
        assert answer.content == whole[start:end]
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(whole)}"

    @pytest.mark.parametrize(
        "asked", ["bytes=9-3", "bytes=", "lines=1-2", "bytes=a-b", "bytes=0-1,4-5", "x", "bytes=--1"]
    )
    def test_what_is_no_single_range_is_ignored(self, http, done, asked):
        path, contents = done
        answer = http.get(f"{path}/artifacts/config.json", headers={"Range": asked})

        assert (answer.status_code, answer.content) == (200, contents["config.json"])

    @pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
    def test_a_range_behind_the_end_is_416(self, http, done, asked):
        path, contents = done
        answer = http.get(f"{path}/artifacts/config.json", headers={"Range": asked})

        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{len(contents['config.json'])}"

    def test_a_range_of_another_version_gets_the_whole_file(self, http, done):
        path, contents = done
        url = f"{path}/artifacts/config.json"
        etag = http.head(url).headers["ETag"]
        same = http.get(url, headers={"Range": "bytes=0-3", "If-Range": etag})
        other = http.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})

        assert (same.status_code, other.status_code) == (206, 200)
        assert other.content == contents["config.json"]

    @pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*"])
    def test_what_the_client_has_is_not_sent_again(self, http, done, form):
        url = f"{done[0]}/artifacts/config.json"
        etag = http.head(url).headers["ETag"]
        answer = http.get(url, headers={"If-None-Match": form.format(etag)})

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag

    def test_head_says_what_get_would(self, http, done):
        path, contents = done
        answer = http.head(f"{path}/artifacts/model.safetensors")

        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["Content-Length"]) == len(contents["model.safetensors"])
        assert answer.headers["Accept-Ranges"] == "bytes"

    def test_one_that_is_deleted_while_it_is_asked_for_is_404(self, server, http, done, monkeypatch):
        job, _ = done

        def gone(key, *_):
            raise StoredFileDamaged(f"The stored file {key} is not there.")

        monkeypatch.setattr(server.store, "open", gone)

        assert http.get(f"{job}/artifacts/model.safetensors").status_code == 404

    @pytest.mark.parametrize("name", ["nothing.bin", "..%2f..%2fpotstill.db", "%00", "a" * 3000, "state.pt"])
    def test_another_name_is_404(self, http, done, name):
        assert http.get(f"{done[0]}/artifacts/{name}").status_code == 404

    def test_a_job_without_files_lists_none(self, http, tenant):
        path = f"/v1/jobs/{tenant.queued_job()}"

        assert http.get(f"{path}/artifacts").json()["data"] == []
        assert (http.get(f"{path}/download").status_code, http.get(f"{path}/download").json()["code"]) == (
            409,
            "no_artifacts",
        )


def test_a_store_that_is_away_is_a_reason_to_come_again(server, http, done, monkeypatch):
    job, _ = done

    def away(key, *_):
        raise StorageFailed(f"The artefact store failed at {key}: it is away.")

    monkeypatch.setattr(server.store, "open", away)
    answer = http.get(f"{job}/artifacts/model.safetensors")

    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert answer.headers["Retry-After"]


class TestDownload:
    def test_one_zip_holds_one_folder_with_every_file(self, http, done):
        path, contents = done
        answer = http.get(f"{path}/download")
        job = path.rsplit("/", 1)[-1]
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            found = {name: archive.read(name) for name in archive.namelist()}

        assert found == {f"{job}/{name}": content for name, content in contents.items()}
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{job}.zip"'
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        assert http.head(f"{path}/download").headers["Content-Length"] == answer.headers["Content-Length"]
