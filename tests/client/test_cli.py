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


def test_a_spec_is_submitted_from_standard_input_as_yaml(service, respond, run, make_job):
    service.on("POST", "/v1/jobs", respond(make_job(status="queued", terminal=False), 201))

    result = run("jobs", "submit", "-", "--dataset", "ds_2", "--json", stdin="method: {name: scratch}\ndataset: ds_1\n")

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["id"] == "job_1"
    assert json.loads(service.received[0].body) == {"method": {"name": "scratch"}, "dataset": "ds_2"}


def test_a_rejected_spec_is_reported_by_field(service, respond, run):
    problem = {"title": "The job spec is not valid", "detail": "x", "code": "invalid_spec"}
    problem["errors"] = [{"pointer": "/student", "detail": "is missing"}]
    service.on("POST", "/v1/jobs", respond(problem, 422))

    result = run("jobs", "submit", "-", stdin="{}")

    assert result.returncode == 1
    assert "/student  is missing" in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_are_json_with_the_json_option(service, respond, run):
    service.on("GET", "/v1/jobs/job_1", respond({"title": "t", "detail": "d", "code": "not_found"}, 404))

    result = run("jobs", "show", "job_1", "--json")

    assert result.returncode == 1
    assert json.loads(result.stderr)["code"] == "not_found"


def test_watch_prints_events_and_sets_the_exit_status(service, respond, run, make_job):
    event = {
        "id": "evt_1",
        "seq": 1,
        "type": "job.failed",
        "message": "The loss [is] NaN.",
        "level": "error",
        "created_at": "2026-11-24T08:00:00.000Z",
    }
    error = {"code": "non_finite_loss", "message": "train/kd became NaN"}
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error, result=None)))
    service.on("GET", "/v1/jobs/job_1/events", respond({"data": [event], "has_more": False}))

    result = run("jobs", "watch", "job_1")

    assert result.returncode == 3, result.stderr
    assert "The loss [is] NaN." in result.stdout
    assert "train/kd became NaN" in result.stdout


def test_show_prints_student_and_teacher_metrics(service, respond, run, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    result = run("jobs", "show", "job_1")

    assert "91.0%" in result.stdout
    assert "97.0%" in result.stdout
    assert "834 kB" in result.stdout


def test_an_action_prints_the_pending_action(service, respond, run, make_job):
    running = make_job(status="running", terminal=False, pending_action="pause")
    service.on("POST", "/v1/jobs/job_1/pause", respond(running))

    assert "pause requested" in run("jobs", "pause", "job_1").stdout


def test_jobs_and_datasets_are_listed(service, respond, run, make_job):
    dataset = {
        "id": "ds_1",
        "name": "pets",
        "status": "ready",
        "splits": {"train": {"num_samples": 4000}, "test": {"num_samples": 1000}},
        "num_classes": 10,
        "created_at": "2026-11-24T08:00:00.000Z",
    }
    service.on("GET", "/v1/jobs", respond({"data": [make_job()], "has_more": False}))
    service.on("GET", "/v1/datasets", respond({"data": [dataset], "has_more": False}))

    assert "job_1" in run("jobs", "list").stdout
    assert "4,000" in run("datasets", "list").stdout


def test_a_dataset_is_added_from_a_url(service, respond, run):
    dataset = {"id": "ds_1", "name": "pets", "status": "processing", "splits": None, "num_classes": None, "error": None}
    service.on("POST", "/v1/datasets", respond({**dataset, "rejected": []}, 202))

    result = run(
        *("datasets", "add", "https://example.com/pets.zip", "--labels", "none", "--no-wait"),
        *("--splits", "train=seg_train,test=seg_test", "--class-from", "parent"),
    )

    assert result.returncode == 0, result.stderr
    assert "ds_1" in result.stdout
    assert json.loads(service.received[0].body)["source"] == {
        "type": "url",
        "url": "https://example.com/pets.zip",
        "labels": "none",
        "splits": "train=seg_train,test=seg_test",
        "class_from": "parent",
    }


def test_login_checks_and_saves_the_key(service, respond, run, tmp_path):
    service.on("GET", "/v1/methods", respond({"data": []}))

    result = run("login", "--url", service.url, "--key", "ps_new", "--json")

    assert result.returncode == 0, result.stderr
    assert service.received[0].headers["authorization"] == "Bearer ps_new"
    saved = json.loads((tmp_path / "config" / "potstill" / "config.json").read_text())
    assert saved == {"url": service.url, "api_key": "ps_new"}


def test_a_wrong_key_is_not_saved(service, respond, run, tmp_path):
    service.on("GET", "/v1/methods", respond({"title": "t", "detail": "no", "code": "not_authenticated"}, 401))

    result = run("login", "--url", service.url, "--key", "ps_wrong")

    assert result.returncode == 1
    assert not (tmp_path / "config").exists()


def test_a_spec_that_is_not_an_object_is_not_sent(run, service):
    result = run("jobs", "submit", "-", stdin="- 1\n- 2\n")

    assert result.returncode == 1
    assert "does not hold a job spec" in result.stderr
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


def test_create_prints_the_token_on_its_own_line(service, respond, run):
    service.on("POST", "/v1/api-keys", respond({**KEY, "token": "ps_2_x"}, 201))

    result = run("keys", "create", "laptop", "--scopes", "read, write", "--days", "30")

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "ps_2_x"
    assert json.loads(service.received[0].body) == {
        "name": "laptop",
        "scopes": ["read", "write"],
        "expires_in_days": 30,
    }


def test_keys_are_rotated_listed_and_revoked(service, respond, run):
    service.on("POST", "/v1/api-keys/key_1/rotate", respond({**KEY, "replaces": "key_1", "token": "ps_2_x"}, 201))
    service.on("DELETE", "/v1/api-keys/key_1", respond(status=204, body=b""))
    listed = [KEY, {**KEY, "id": "key_1", "revoked_at": "2026-01-01T00:00:00.000Z"}]
    service.on("GET", "/v1/api-keys", respond({"data": listed, "has_more": False}))

    rotated = run("keys", "rotate", "key_1", "--overlap-seconds", "60", "--json")
    assert json.loads(rotated.stdout)["token"] == "ps_2_x"
    assert json.loads(service.received[0].body) == {"overlap_seconds": 60}
    assert "Revoked key_1" in run("keys", "revoke", "key_1").stdout
    table = run("keys", "list").stdout
    assert "active" in table
    assert "revoked" in table


def test_retry_sends_changes_and_the_fix(service, respond, run, make_job):
    service.on("POST", "/v1/jobs/job_1/retry", respond(make_job(status="queued", terminal=False)))

    settings = ["--set", "training.batch_size=64", "--set", "training.learning_rate=1e-4", "--set", "name=second try"]
    result = run("jobs", "retry", "job_1", "--apply-fix", *settings)

    assert result.returncode == 0, result.stderr
    changes = {"training": {"batch_size": 64, "learning_rate": 1e-4}, "name": "second try"}
    assert json.loads(service.received[0].body) == {"apply_fix": True, "changes": changes}


def test_a_set_option_without_a_value_is_not_sent(service, run):
    result = run("jobs", "retry", "job_1", "--set", "training.batch_size")

    assert result.returncode == 1
    assert "expected FIELD=VALUE" in result.stderr
    assert service.received == []


def test_show_prints_error_advice_and_fix(service, respond, run, make_job):
    error = {"code": "out_of_memory", "message": "too big", "fault": "capacity", "advice": "Halve the batch."}
    error |= {"fix": {"training": {"batch_size": 64}}, "log": ["[the last line]"], "machine": None}
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error)))

    output = run("jobs", "show", "job_1").stdout

    assert "out_of_memory (capacity)  too big" in output
    assert "Halve the batch." in output
    assert '{"training": {"batch_size": 64}}' in output
    assert "[the last line]" in output


def test_a_download_of_a_failed_job_exits_with_a_sentence(service, respond, run, make_job):
    error = {"code": "non_finite_loss", "message": "train/kd became NaN"}
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error, result=None)))
    service.on("GET", "/v1/jobs/job_1/artifacts", respond({"data": [], "has_more": False}))

    result = run("jobs", "download", "job_1")

    assert result.returncode == 1
    assert "job job_1 failed and has no files to download: train/kd became NaN" in result.stderr


def test_warnings_are_printed_with_their_code_field_and_fix(service, respond, run, make_job):
    warning = {"code": "slow", "field": "/training/views", "message": "the cache [is] off", "fix": "set views to 4"}
    job = make_job(status="queued", terminal=False, warnings=[warning])
    service.on("POST", "/v1/jobs", respond(job, 201))
    service.on("GET", "/v1/jobs/job_1", respond(job))

    for arguments in (("submit", "-"), ("show", "job_1")):
        output = run("jobs", *arguments, stdin="dataset: ds_1\n").stdout
        assert "warning slow /training/views: The cache [is] off. Set views to 4." in output


def test_missing_packages_are_named(tmp_path):
    """A command that was installed without the extra `client`."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for module, extra in (("client.cli", "potstill[client]"), ("server", "potstill[embedded]")):
        result = subprocess.run(
            [sys.executable, "-m", module, "--help"], env=environment, capture_output=True, text=True, timeout=60
        )

        assert result.returncode == 1
        assert f'the package typer is not installed; run pip install "{extra}"' in result.stderr
        assert "Traceback" not in result.stderr
