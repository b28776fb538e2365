import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(service, tmp_path):
    def potstill(*arguments, stdin="", key="ps_key"):
        environment = {
            **os.environ,
            "POTSTILL_URL": service.url,
            "POTSTILL_API_KEY": key,
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "COLUMNS": "160",
            "NO_COLOR": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "client.cli", *arguments],
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return potstill


def test_a_spec_is_submitted_from_standard_input_as_yaml(service, answer, run, make_job):
    service.on("POST", "/v1/jobs", answer(make_job(status="queued", terminal=False), 201))

    done = run("jobs", "submit", "-", "--dataset", "ds_2", "--json", stdin="method: {name: scratch}\ndataset: ds_1\n")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "job_1"
    assert json.loads(service.received[0].body) == {"method": {"name": "scratch"}, "dataset": "ds_2"}


def test_a_refused_spec_is_told_field_by_field(service, answer, run):
    problem = {"title": "The job spec is not valid", "detail": "x", "code": "invalid_spec"}
    problem["errors"] = [{"pointer": "/student", "detail": "is missing"}]
    service.on("POST", "/v1/jobs", answer(problem, 422))

    done = run("jobs", "submit", "-", stdin="{}")

    assert done.returncode == 1
    assert "/student  is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_too_when_json_is_asked_for(service, answer, run):
    service.on("GET", "/v1/jobs/job_1", answer({"title": "t", "detail": "d", "code": "not_found"}, 404))

    done = run("jobs", "show", "job_1", "--json")

    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "not_found"


def test_watching_follows_the_events_and_tells_the_end_by_its_exit_status(service, answer, run, make_job):
    event = {
        "id": "evt_1",
        "seq": 1,
        "type": "job.failed",
        "message": "The loss [is] NaN.",
        "level": "error",
        "created_at": "2026-11-24T08:00:00.000Z",
    }
    error = {"code": "non_finite_loss", "message": "train/kd became NaN"}
    service.on("GET", "/v1/jobs/job_1", answer(make_job(status="failed", error=error, result=None)))
    service.on("GET", "/v1/jobs/job_1/events", answer({"data": [event], "has_more": False}))

    done = run("jobs", "watch", "job_1")

    assert done.returncode == 3, done.stderr
    assert "The loss [is] NaN." in done.stdout
    assert "train/kd became NaN" in done.stdout


def test_a_job_that_succeeded_shows_student_beside_teacher(service, answer, run, make_job):
    service.on("GET", "/v1/jobs/job_1", answer(make_job()))

    done = run("jobs", "show", "job_1")

    assert "91.0%" in done.stdout
    assert "97.0%" in done.stdout
    assert "834 kB" in done.stdout


def test_a_move_says_what_is_on_its_way(service, answer, run, make_job):
    running = make_job(status="running", terminal=False, pending_action="pause")
    service.on("POST", "/v1/jobs/job_1/pause", answer(running))

    assert "pause is on its way" in run("jobs", "pause", "job_1").stdout


def test_jobs_and_datasets_are_listed(service, answer, run, make_job):
    dataset = {
        "id": "ds_1",
        "name": "pets",
        "status": "ready",
        "splits": {"train": {"num_samples": 4000}, "test": {"num_samples": 1000}},
        "num_classes": 10,
        "created_at": "2026-11-24T08:00:00.000Z",
    }
    service.on("GET", "/v1/jobs", answer({"data": [make_job()], "has_more": False}))
    service.on("GET", "/v1/datasets", answer({"data": [dataset], "has_more": False}))

    assert "job_1" in run("jobs", "list").stdout
    assert "4,000" in run("datasets", "list").stdout


def test_a_dataset_is_added_from_an_address(service, answer, run):
    dataset = {"id": "ds_1", "name": "pets", "status": "processing", "splits": None, "num_classes": None, "error": None}
    service.on("POST", "/v1/datasets", answer({**dataset, "rejected": []}, 202))

    done = run("datasets", "add", "https://example.com/pets.zip", "--labels", "none", "--no-wait")

    assert done.returncode == 0, done.stderr
    assert "ds_1" in done.stdout
    assert json.loads(service.received[0].body)["source"] == {
        "type": "url",
        "url": "https://example.com/pets.zip",
        "labels": "none",
    }


def test_login_tries_the_key_and_keeps_it(service, answer, run, tmp_path):
    service.on("GET", "/v1/methods", answer({"data": []}))

    done = run("login", "--url", service.url, "--key", "ps_new", "--json")

    assert done.returncode == 0, done.stderr
    assert service.received[0].headers["authorization"] == "Bearer ps_new"
    kept = json.loads((tmp_path / "config" / "potstill" / "config.json").read_text())
    assert kept == {"url": service.url, "api_key": "ps_new"}


def test_a_wrong_key_is_not_kept(service, answer, run, tmp_path):
    service.on("GET", "/v1/methods", answer({"title": "t", "detail": "no", "code": "not_authenticated"}, 401))

    done = run("login", "--url", service.url, "--key", "ps_wrong")

    assert done.returncode == 1
    assert not (tmp_path / "config").exists()


def test_a_spec_that_is_no_object_is_refused_before_it_is_sent(run, service):
    done = run("jobs", "submit", "-", stdin="- 1\n- 2\n")

    assert done.returncode == 1
    assert "does not hold a job spec" in done.stderr
    assert service.received == []


KEY = {
    "id": "key_2",
    "name": "laptop",
    "scopes": ["read", "write"],
    "last_used_at": None,
    "expires_at": None,
    "revoked_at": None,
    "replaces": None,
}


def test_a_key_is_made_and_its_token_stands_alone_on_a_line(service, answer, run):
    service.on("POST", "/v1/api-keys", answer({**KEY, "token": "ps_2_x"}, 201))

    done = run("keys", "create", "laptop", "--scopes", "read, write", "--days", "30")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ps_2_x"
    assert json.loads(service.received[0].body) == {
        "name": "laptop",
        "scopes": ["read", "write"],
        "expires_in_days": 30,
    }


def test_keys_are_rotated_listed_and_revoked(service, answer, run):
    service.on("POST", "/v1/api-keys/key_1/rotate", answer({**KEY, "replaces": "key_1", "token": "ps_2_x"}, 201))
    service.on("DELETE", "/v1/api-keys/key_1", answer(status=204, body=b""))
    listed = [KEY, {**KEY, "id": "key_1", "revoked_at": "2026-01-01T00:00:00.000Z"}]
    service.on("GET", "/v1/api-keys", answer({"data": listed, "has_more": False}))

    rotated = run("keys", "rotate", "key_1", "--overlap-seconds", "60", "--json")
    assert json.loads(rotated.stdout)["token"] == "ps_2_x"
    assert json.loads(service.received[0].body) == {"overlap_seconds": 60}
    assert "key_1 is revoked" in run("keys", "revoke", "key_1").stdout
    table = run("keys", "list").stdout
    assert "good" in table
    assert "revoked" in table


def test_a_retry_takes_fields_and_the_fix(service, answer, run, make_job):
    service.on("POST", "/v1/jobs/job_1/retry", answer(make_job(status="queued", terminal=False)))

    settings = ["--set", "training.batch_size=64", "--set", "training.learning_rate=1e-4", "--set", "name=second try"]
    done = run("jobs", "retry", "job_1", "--apply-fix", *settings)

    assert done.returncode == 0, done.stderr
    changes = {"training": {"batch_size": 64, "learning_rate": 1e-4}, "name": "second try"}
    assert json.loads(service.received[0].body) == {"apply_fix": True, "changes": changes}


def test_a_field_without_a_value_is_refused_before_anything_is_sent(service, run):
    done = run("jobs", "retry", "job_1", "--set", "training.batch_size")

    assert done.returncode == 1
    assert "expected FIELD=VALUE" in done.stderr
    assert service.received == []


def test_a_failed_job_is_told_with_what_would_help(service, answer, run, make_job):
    error = {"code": "out_of_memory", "message": "too big", "fault": "capacity", "advice": "Halve the batch."}
    error |= {"fix": {"training": {"batch_size": 64}}, "log": ["[the last line]"], "machine": None}
    service.on("GET", "/v1/jobs/job_1", answer(make_job(status="failed", error=error)))

    shown = run("jobs", "show", "job_1").stdout

    assert "out_of_memory (capacity)  too big" in shown
    assert "Halve the batch." in shown
    assert '{"training": {"batch_size": 64}}' in shown
    assert "[the last line]" in shown
