import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import typer

from potstill import calls
from potstill._sync import follow as follow_module
from potstill.cli import app, console
from tests.client.conftest import page
from tests.support.openapi_documents import make_document


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(service, tmp_path, monkeypatch, capsys):
    """Run the command in this process against the service."""
    monkeypatch.setenv("POTSTILL_URL", service.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(calls, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(follow_module, "retry_delay_seconds", lambda attempt: 0.0)
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 160)

    def potstill(*arguments, stdin="", key="ps_key"):
        monkeypatch.setenv("POTSTILL_API_KEY", key)
        monkeypatch.setattr(sys, "argv", ["potstill", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as caught:
            app.main()
        captured = capsys.readouterr()
        return Result(caught.value.code or 0, captured.out, captured.err)

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
    event = make_document("EventOut", id="evt_1", message="The loss [is] NaN.", level="error")
    error = make_document("JobFailure", code="non_finite_loss", message="train/kd became NaN")
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error, result=None)))
    service.on("GET", "/v1/jobs/job_1/events", respond(page(event)))

    result = run("jobs", "watch", "job_1")

    assert result.returncode == 3, result.stderr
    assert "The loss [is] NaN." in result.stdout
    assert "train/kd became NaN" in result.stdout


def test_show_prints_student_and_teacher_metrics(service, respond, run, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    result = run("jobs", "show", "job_1")

    assert "91.0 %" in result.stdout
    assert "97.0 %" in result.stdout
    assert "834 kB" in result.stdout


def test_show_prints_each_compression_step(service, respond, run, make_job):
    job = make_job()
    applied = make_document("CompressedOut", name="quantize", artifact="model.int8.onnx", top1=0.905)
    rejected = {"name": "prune", "status": "rejected", "artifact": None, "reason": "it lost 3 points", "step": 1}
    job["result"]["compressed"] = [applied, applied | rejected]
    service.on("GET", "/v1/jobs/job_1", respond(job))

    output = run("jobs", "show", "job_1").stdout

    assert "model.int8.onnx  90.5 %" in output
    assert "compression step 1 (prune) rejected: it lost 3 points" in output


def test_an_action_prints_the_pending_action(service, respond, run, make_job):
    running = make_job(status="running", terminal=False, pending_action="pause")
    service.on("POST", "/v1/jobs/job_1/pause", respond(running))

    assert "pause requested" in run("jobs", "pause", "job_1").stdout


def test_jobs_and_datasets_are_listed(service, respond, run, make_job):
    splits = {"train": {"num_samples": 4000}, "test": {"num_samples": 1000}}
    service.on("GET", "/v1/jobs", respond(page(make_job())))
    service.on("GET", "/v1/datasets", respond(page(make_document("DatasetOut", id="ds_1", splits=splits))))

    assert "job_1" in run("jobs", "list").stdout
    assert "4,000" in run("datasets", "list").stdout


def test_a_sweep_and_a_key_are_filtered_by_name(service, respond, run):
    service.on("GET", "/v1/sweeps", respond(page(make_document("SweepSummaryOut", id="swp_1", name="lr"))))
    service.on("GET", "/v1/api-keys", respond(page(make_document("ApiKeyOut", id="key_1", name="laptop"))))
    for route in ("/v1/jobs", "/v1/audit-log"):
        service.on("GET", route, respond(page()))

    assert run("jobs", "list", "--sweep", "lr", "--metadata", "team=search=2").stdout == "No job matches.\n"
    assert run("audit-log", "--key", "laptop").returncode == 0
    assert service.received[1].query["sweep"] == ["swp_1"]
    assert service.received[1].query["metadata"] == ["team:search=2"]
    assert "expected KEY=VALUE" in run("jobs", "list", "--metadata", "team").stderr
    assert service.received[3].query["key"] == ["key_1"]
    assert "there is no sweep 'nix'" in run("jobs", "list", "--sweep", "nix").stderr


def test_a_dataset_is_added_from_a_url(service, respond, run):
    service.on("POST", "/v1/datasets", respond(make_document("DatasetOut", id="ds_1"), 202))

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


@pytest.mark.parametrize(
    ("text", "options", "source"),
    [
        ("builtin:digits", [], {"type": "builtin", "name": "digits"}),
        ("s3://data/pets/", ["--labels", "none"], {"type": "s3", "url": "s3://data/pets/", "labels": "none"}),
        ("upload:pets.zip", [], {"type": "upload", "upload": "up_1"}),
        ("hf:acme/pets", ["--split", "train"], {"type": "huggingface", "repo": "acme/pets", "split": "train"}),
        ("hf://datasets/acme/pets@v2", [], {"type": "huggingface", "repo": "acme/pets", "revision": "v2"}),
    ],
)
def test_a_dataset_is_added_from_every_source(service, respond, run, text, options, source):
    service.on("GET", "/v1/uploads", respond(page(make_document("UploadOut", id="up_1", filename="pets.zip"))))
    service.on("POST", "/v1/datasets", respond(make_document("DatasetOut", id="ds_1"), 202))

    result = run("datasets", "add", text, "--no-wait", "--license", "cc-by-4.0", *options)

    assert result.returncode == 0, result.stderr
    assert json.loads(service.received[-1].body) == {"source": source, "license": "cc-by-4.0"}


def test_a_choice_that_only_the_hub_has_is_refused(run):
    assert "only a dataset of the hub" in run("datasets", "add", "s3://data/pets/", "--split", "train").stderr


def test_login_checks_and_saves_the_key(service, respond, run, tmp_path):
    service.on("GET", "/v1/methods", respond(page()))

    result = run("login", "--url", service.url, "--key", "ps_new", "--json")

    assert result.returncode == 0, result.stderr
    assert service.received[0].headers["authorization"] == "Bearer ps_new"
    saved = json.loads((tmp_path / "config" / "potstill" / "config.json").read_text())
    assert saved == {"url": service.url, "api_key": "ps_new"}


def test_a_wrong_key_is_not_saved(service, respond, run, tmp_path):
    service.on("GET", "/v1/methods", respond({"title": "t", "detail": "no", "code": "not_authenticated"}, 401))

    result = run("login", "--url", service.url, "--key", "ps_wrong")

    assert result.returncode == 1
    assert "Run `potstill login`" in result.stderr
    assert not (tmp_path / "config").exists()


def test_a_spec_that_is_not_an_object_is_not_sent(run, service):
    result = run("jobs", "submit", "-", stdin="- 1\n- 2\n")

    assert result.returncode == 1
    assert "does not hold a job spec" in result.stderr
    assert service.received == []


KEY = make_document("NewApiKeyOut", id="key_2", name="laptop", scopes=["read", "write"])


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


def test_keys_are_named_rotated_listed_and_revoked(service, respond, run):
    other = {**KEY, "id": "key_1", "name": "server", "revoked_at": "2026-01-01T00:00:00.000Z"}
    service.on("GET", "/v1/api-keys", respond(page(KEY, other)))
    service.on("POST", "/v1/api-keys/key_1/rotate", respond({**KEY, "replaces": "key_1", "token": "ps_2_x"}, 201))
    service.on("DELETE", "/v1/api-keys/key_2", respond(status=204, body=b""))

    rotated = run("keys", "rotate", "server", "--overlap-seconds", "60", "--json")
    assert json.loads(rotated.stdout)["token"] == "ps_2_x"
    assert json.loads(service.received[1].body) == {"overlap_seconds": 60}
    assert "Revoked key_2" in run("keys", "revoke", "laptop").stdout
    assert json.loads(run("keys", "revoke", "laptop", "--json").stdout) == {"removed": "key_2"}
    table = run("keys", "list").stdout
    assert "active" in table
    assert "revoked" in table
    assert "'key_' matches 2 keys: key_2, key_1" in run("keys", "show", "key_").stderr
    assert "there is no key 'tablet'" in run("keys", "show", "tablet").stderr


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
    error = make_document("JobFailure", code="out_of_memory", message="too big", fault="capacity")
    error |= {"advice": "Halve the batch.", "fix": {"training": {"batch_size": 64}}, "log": ["[the last line]"]}
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error)))
    service.on("GET", "/v1/jobs/job_1/events", respond(page()))

    output = run("jobs", "show", "job_1").stdout

    assert "out_of_memory (capacity)  too big" in output
    assert "Halve the batch." in output
    assert '{"training": {"batch_size": 64}}' in output
    assert "[the last line]" in output


def test_logs_prints_events_and_the_lines_of_the_process(service, respond, run):
    lines = ["09:30:01 info stage.started [bold]stage=distill"]
    service.on("GET", "/v1/jobs/job_1/events", respond(page()))
    service.on("GET", "/v1/jobs/job_1/logs", respond(make_document("JobLogOut", job="job_1", attempt=1, lines=lines)))

    assert lines[0] in run("jobs", "logs", "job_1").stdout


def test_a_download_of_a_failed_job_exits_with_a_sentence(service, respond, run, make_job):
    error = make_document("JobFailure", code="non_finite_loss", message="train/kd became NaN")
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error, result=None)))
    service.on("GET", "/v1/jobs/job_1/artifacts", respond(page()))

    result = run("jobs", "download", "job_1")

    assert result.returncode == 1
    assert "job job_1 failed and has no files to download: train/kd became NaN" in result.stderr


def test_a_file_that_cannot_be_written_is_an_error_without_a_traceback(service, respond, run, tmp_path):
    service.on("GET", "/v1/datasets/digits/images/train/3", respond(body=b"GIF89a"))
    path = tmp_path / "missing" / "3.gif"

    result = run("datasets", "image", "digits", "train", "3", "--out", str(path))

    assert (result.returncode, result.stderr) == (1, f"error  {path}: No such file or directory\n")


def test_warnings_are_printed_with_their_code_field_and_fix(service, respond, run, make_job):
    warning = {"code": "slow", "field": "/training/views", "message": "the cache [is] off", "fix": "set views to 4"}
    job = make_job(status="queued", terminal=False, warnings=[warning])
    service.on("POST", "/v1/jobs", respond(job, 201))
    service.on("GET", "/v1/jobs/job_1", respond(job))

    for arguments in (("submit", "-"), ("show", "job_1")):
        output = run("jobs", *arguments, stdin="dataset: ds_1\n").stdout
        assert "warning slow /training/views: The cache [is] off. Set views to 4." in output


def test_a_sweep_prints_each_warning_of_its_jobs_once(service, respond, run, make_job):
    warnings = [{"code": "slow", "field": "/training/views", "message": "the cache is off", "fix": None}]
    service.on("POST", "/v1/sweeps", respond(make_document("SweepOut", id="swp_1", num_jobs=2), 201))
    service.on("GET", "/v1/jobs", respond(page(*[make_job(warnings=warnings)] * 2)))

    result = run("sweeps", "create", "-", "--grid", "training.epochs=1,2", stdin="{}")

    assert result.stdout.count("warning slow") == 1
    assert service.received[1].query["sweep"] == ["swp_1"]


def test_submit_sets_fields_and_waits(service, respond, run, make_job):
    service.on("POST", "/v1/jobs", respond(make_job(status="queued", terminal=False), 201))
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))
    service.on("GET", "/v1/jobs/job_1/events", respond(page()))
    spec = "dataset: ds_1\nteachers: [{architecture: resnet18}]\n"
    settings = ["--set", "training.epochs=50", "--set", "teachers.0.weights=train"]

    result = run("jobs", "submit", "-", *settings, "--wait", stdin=spec)

    assert result.returncode == 0, result.stderr
    assert "succeeded" in result.stdout
    assert json.loads(service.received[0].body) == {
        "dataset": "ds_1",
        "teachers": [{"architecture": "resnet18", "weights": "train"}],
        "training": {"epochs": 50},
    }
    assert "expected an index from 0 to 0" in run("jobs", "submit", "-", "--set", "teachers.1.x=1", stdin=spec).stderr


def test_an_unreachable_service_does_not_end_the_job(service, respond, run, make_job):
    spec = {"resources": {"max_seconds": 0.000001}}
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="running", terminal=False, spec=spec)))
    service.on("GET", "/v1/jobs/job_1/metrics", respond({"code": "unavailable"}, 503))

    result = run("jobs", "watch", "job_1")

    assert result.returncode == 1
    assert "The service does not respond; the job goes on." in result.stdout


def test_errors_name_commands_instead_of_routes(service, respond, run):
    problem = {"title": "t", "detail": "no such dataset. GET /v1/datasets lists them.", "code": "invalid_spec"}
    service.on("POST", "/v1/jobs", respond(problem, 422))

    assert "`potstill datasets list` lists them." in run("jobs", "submit", "-", stdin="{}").stderr


def test_metrics_are_shown_filtered_and_written_as_csv(service, respond, run):
    series = [{"name": name, "points": [[1, 2.5], [2, None]]} for name in ("train/loss", "train/kd", "eval/top1")]
    service.on("GET", "/v1/jobs/job_1/metrics", respond({"object": "metrics", "series": series}))

    assert "train/kd" in run("jobs", "metrics", "job_1").stdout
    chosen = run("jobs", "metrics", "job_1", "--name", "train/loss", "--name", "eval/top1", "--csv").stdout
    assert chosen.splitlines()[:2] == ["series,step,value", "train/loss,1,2.5"]
    assert "train/kd" not in chosen
    assert "there is no series val/x" in run("jobs", "metrics", "job_1", "--name", "val/x").stderr


def test_every_command_that_prints_has_json():
    commands = {
        f"{group} {name}": command
        for group, found in typer.main.get_command(app.app).commands.items()
        for name, command in getattr(found, "commands", {group: found}).items()
    }

    without = [name for name, each in commands.items() if not any("--json" in option.opts for option in each.params)]
    assert without == ["mcp mcp", "datasets image"]


def test_version_and_short_help(run):
    assert run("--version").stdout.startswith("potstill 0.")
    for arguments in (("-h",), ("jobs", "-h"), ("jobs", "submit", "-h")):
        assert "Usage: potstill" in run(*arguments).stdout
    assert "distill vision transformers" in run("-h").stdout


def test_the_command_runs_as_a_module_and_completes_its_subcommands():
    environment = {**os.environ, "_POTSTILL_COMPLETE": "complete_bash", "COMP_WORDS": "potstill jo", "COMP_CWORD": "1"}
    completed = subprocess.run(
        [sys.executable, "-m", "potstill"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert completed.stdout.split() == ["jobs"]
